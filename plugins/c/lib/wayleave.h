// From the gateway's strings to `text` and back. A world of another name than
// `plugin` has other names here.
#pragma once

#include "plugin.h"
#include "text.h"

// What an argument holds, for as long as the argument is not freed.
static inline text text_of(plugin_string_t string) { return (text){(const char *)string.ptr, string.len}; }

// A copy, for an answer: what is answered is freed.
static inline plugin_string_t string_copy(text copied) {
    plugin_string_t string;
    plugin_string_dup_n(&string, copied.at, copied.length);
    return string;
}

// The buffer's own memory, for an answer.
static inline plugin_string_t string_give(buffer *given) {
    plugin_string_t string = {(uint8_t *)given->at, given->length};
    *given = (buffer){0};
    return string;
}
