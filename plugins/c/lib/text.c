#include "text.h"

#include <stdlib.h>
#include <string.h>
#include <wctype.h>

bool text_equals(text a, text b) { return a.length == b.length && (a.length == 0 || memcmp(a.at, b.at, a.length) == 0); }

text text_slice(text whole, size_t start, size_t end) { return (text){whole.at + start, end - start}; }

bool text_starts_with(text whole, text start) {
    return whole.length >= start.length && text_equals(text_slice(whole, 0, start.length), start);
}

bool text_ends_with(text whole, text end) {
    return whole.length >= end.length && text_equals(text_slice(whole, whole.length - end.length, whole.length), end);
}

size_t text_find(text whole, text part, size_t from) {
    if (part.length == 0) return from;
    while (from + part.length <= whole.length) {
        const char *first = memchr(whole.at + from, part.at[0], whole.length - part.length - from + 1);
        if (!first) break;
        from = (size_t)(first - whole.at);
        if (memcmp(first, part.at, part.length) == 0) return from;
        from++;
    }
    return whole.length;
}

bool text_contains(text whole, text part) { return part.length == 0 || text_find(whole, part, 0) < whole.length; }

text text_trim(text whole) {
    size_t start = 0, end = whole.length, length;
    while (start < end && iswspace((wint_t)text_char_at(whole, start, &length))) start += length;
    while (end > start && iswspace((wint_t)text_char_before(whole, end))) {
        do end--;
        while (((unsigned char)whole.at[end] & 0xc0) == 0x80);
    }
    return text_slice(whole, start, end);
}

uint32_t text_char_at(text whole, size_t at, size_t *length) {
    const unsigned char *b = (const unsigned char *)whole.at + at;
    // What the gateway passes is checked UTF-8; a cut sequence, as a slice may
    // have one, counts as single bytes.
    size_t left = whole.length - at;
    if (b[0] < 0x80 || left < 2) return *length = 1, b[0];
    if (b[0] < 0xe0) return *length = 2, (b[0] & 0x1fu) << 6 | (b[1] & 0x3fu);
    if (left < 3) return *length = 1, b[0];
    if (b[0] < 0xf0) return *length = 3, (b[0] & 0x0fu) << 12 | (b[1] & 0x3fu) << 6 | (b[2] & 0x3fu);
    if (left < 4) return *length = 1, b[0];
    *length = 4;
    return (b[0] & 0x07u) << 18 | (b[1] & 0x3fu) << 12 | (b[2] & 0x3fu) << 6 | (b[3] & 0x3fu);
}

uint32_t text_char_before(text whole, size_t at) {
    size_t start = at - 1, length;
    while (start > 0 && ((unsigned char)whole.at[start] & 0xc0) == 0x80) start--;
    return text_char_at(whole, start, &length);
}

bool char_is_alphanumeric(uint32_t c) { return iswalnum((wint_t)c) != 0; }

uint32_t char_fold(uint32_t c) { return (uint32_t)towlower(towupper((wint_t)c)); }

void *allocate(size_t size) {
    void *memory = malloc(size ? size : 1);
    // The gateway takes a fresh guest and goes by the plugin's `on_failure`.
    if (!memory) abort();
    return memory;
}

static void make_room(buffer *buffer, size_t more) {
    if (buffer->length + more <= buffer->room) return;
    buffer->room = (buffer->length + more) * 2;
    buffer->at = realloc(buffer->at, buffer->room);
    if (!buffer->at) abort();
}

void buffer_add(buffer *buffer, text added) {
    if (added.length == 0) return;
    make_room(buffer, added.length);
    memcpy(buffer->at + buffer->length, added.at, added.length);
    buffer->length += added.length;
}

void buffer_add_byte(buffer *buffer, char byte) { buffer_add(buffer, (text){&byte, 1}); }

void buffer_add_char(buffer *buffer, uint32_t c) {
    char bytes[4];
    size_t length = 0;
    if (c < 0x80) {
        bytes[length++] = (char)c;
    } else if (c < 0x800) {
        bytes[length++] = (char)(0xc0 | c >> 6);
        bytes[length++] = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        bytes[length++] = (char)(0xe0 | c >> 12);
        bytes[length++] = (char)(0x80 | (c >> 6 & 0x3f));
        bytes[length++] = (char)(0x80 | (c & 0x3f));
    } else {
        bytes[length++] = (char)(0xf0 | c >> 18);
        bytes[length++] = (char)(0x80 | (c >> 12 & 0x3f));
        bytes[length++] = (char)(0x80 | (c >> 6 & 0x3f));
        bytes[length++] = (char)(0x80 | (c & 0x3f));
    }
    buffer_add(buffer, (text){bytes, length});
}

// The letter that stands for a byte behind a backslash; 0: there is none.
static char escape_letter(unsigned char byte) {
    switch (byte) {
    case '"':
    case '\\': return (char)byte;
    case '\b': return 'b';
    case '\f': return 'f';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    default: return 0;
    }
}

void buffer_add_json(buffer *buffer, text added) {
    static const char DIGITS[] = "0123456789abcdef";
    buffer_add_byte(buffer, '"');
    size_t copied = 0;
    for (size_t i = 0; i < added.length; i++) {
        unsigned char byte = (unsigned char)added.at[i];
        if (byte >= 0x20 && byte != '"' && byte != '\\') continue;
        buffer_add(buffer, text_slice(added, copied, i));
        copied = i + 1;
        char letter = escape_letter(byte);
        if (letter) {
            buffer_add(buffer, (text){(char[]){'\\', letter}, 2});
        } else {
            buffer_add(buffer, (text){(char[]){'\\', 'u', '0', '0', DIGITS[byte >> 4], DIGITS[byte & 15]}, 6});
        }
    }
    buffer_add(buffer, text_slice(added, copied, added.length));
    buffer_add_byte(buffer, '"');
}

text buffer_text(const buffer *buffer) { return (text){buffer->at, buffer->length}; }

void buffer_free(buffer *freed) {
    free(freed->at);
    *freed = (buffer){0};
}
