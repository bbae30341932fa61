// Text as a place and a length, since what the gateway passes has no end mark,
// and a buffer that grows. All text is UTF-8.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *at;
    size_t length;
} text;

// Text of a literal.
#define TEXT(literal) ((text){(literal), sizeof(literal) - 1})

// For printf's `%.*s`.
#define TEXT_ARGUMENTS(t) (int)(t).length, (t).at

bool text_equals(text a, text b);
bool text_starts_with(text whole, text start);
bool text_ends_with(text whole, text end);
bool text_contains(text whole, text part);
// Where `part` begins, from `from` on; `whole.length` if nowhere.
size_t text_find(text whole, text part, size_t from);
// From byte `start` up to byte `end`.
text text_slice(text whole, size_t start, size_t end);
// Without white space at both ends.
text text_trim(text whole);

// The character at byte `at`, which must be inside; `length` receives its bytes.
uint32_t text_char_at(text whole, size_t at, size_t *length);
// The character that ends before byte `at`, which must not be the first.
uint32_t text_char_before(text whole, size_t at);

// Letters and digits of all scripts, as far as the C library knows them.
bool char_is_alphanumeric(uint32_t c);
// Makes upper and lower case one; by way of the upper case, as `ς` and `σ`
// share that one only.
uint32_t char_fold(uint32_t c);

// Text in the making. Begin with `{0}`; free `at` or give it away.
typedef struct {
    char *at;
    size_t length;
    size_t room;
} buffer;

void buffer_add(buffer *buffer, text added);
void buffer_add_byte(buffer *buffer, char byte);
void buffer_add_char(buffer *buffer, uint32_t c);
// As a JSON string with its quotes.
void buffer_add_json(buffer *buffer, text added);
text buffer_text(const buffer *buffer);
void buffer_free(buffer *buffer);

// malloc, or the end of the guest: it never returns NULL.
void *allocate(size_t size);
