// Reads JSON into a tree. Strict, as the gateway's own reader is.
#pragma once

#include "text.h"

typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_LIST, JSON_OBJECT } json_kind;

typedef struct json {
    json_kind kind;
    // Of a member of an object.
    text key;
    // Decoded, of a string.
    text string;
    // As it was written. It ends with the text that was parsed.
    text source;
    // Of a list or an object: the first entry; and the one after this.
    struct json *first;
    struct json *next;
} json;

// A tree and its memory.
typedef struct {
    // NULL if the text is not JSON, with the reason in `problem`.
    json *root;
    const char *problem;
    void *memory;
} json_document;

json_document json_parse(text source);
void json_free(json_document *document);

// The member of that name, the last if there are several; NULL if there is
// none, or if `object` is none.
const json *json_get(const json *object, text key);

// False if it is no whole number from 0 to 2^53.
bool json_count(const json *number, uint64_t *count);

// Decodes one string literal, quotes included. False if it holds half a
// surrogate pair (which is valid JSON, but no Unicode) or is no such literal.
bool json_decode(text literal, buffer *decoded);
