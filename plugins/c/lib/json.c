#include "json.h"

#include <stdlib.h>

// Deeper texts are refused: each level takes some of the stack.
#define DEPTH_MAX 128

// Memory that is given back all at once: a list of blocks.
typedef struct block {
    struct block *next;
    size_t used, size;
    _Alignas(max_align_t) char bytes[];
} block;

typedef struct {
    text source;
    size_t at;
    const char *problem;
    block *blocks;
} parser;

static void *take(parser *p, size_t size) {
    size = (size + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
    if (!p->blocks || p->blocks->size - p->blocks->used < size) {
        size_t room = size > 4000 ? size : 4000;
        block *added = allocate(sizeof(block) + room);
        *added = (block){.next = p->blocks, .size = room};
        p->blocks = added;
    }
    void *taken = p->blocks->bytes + p->blocks->used;
    p->blocks->used += size;
    return taken;
}

static bool fail(parser *p, const char *problem) {
    if (!p->problem) p->problem = problem;
    return false;
}

static int peek(const parser *p) { return p->at < p->source.length ? (unsigned char)p->source.at[p->at] : -1; }

static void skip_space(parser *p) {
    for (int c = peek(p); c == ' ' || c == '\n' || c == '\r' || c == '\t'; c = peek(p)) p->at++;
}

static bool is_digit(int c) { return c >= '0' && c <= '9'; }

static bool parse_number(parser *p) {
    if (peek(p) == '-') p->at++;
    if (peek(p) == '0') {
        p->at++;
    } else {
        if (!is_digit(peek(p))) return fail(p, "a value is expected");
        while (is_digit(peek(p))) p->at++;
    }
    if (peek(p) == '.') {
        p->at++;
        if (!is_digit(peek(p))) return fail(p, "a digit is expected");
        while (is_digit(peek(p))) p->at++;
    }
    if (peek(p) == 'e' || peek(p) == 'E') {
        p->at++;
        if (peek(p) == '+' || peek(p) == '-') p->at++;
        if (!is_digit(peek(p))) return fail(p, "a digit is expected");
        while (is_digit(peek(p))) p->at++;
    }
    return true;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// Four hexadecimal digits; false if there are none.
static bool hex(text source, size_t at, uint32_t *value) {
    if (source.length < at + 4) return false;
    *value = 0;
    for (size_t i = at; i < at + 4; i++) {
        int digit = hex_digit(source.at[i]);
        if (digit < 0) return false;
        *value = *value << 4 | (uint32_t)digit;
    }
    return true;
}

// What a backslash and this letter stand for; 0 for nothing.
static char unescaped(char letter) {
    switch (letter) {
    case '"':
    case '\\':
    case '/': return letter;
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return 0;
    }
}

// Decodes the string literal at `*at` into `decoded`, which is large enough if
// it has the literal's bytes. Returns the problem, or NULL.
static const char *decode(text source, size_t *at, char *decoded, size_t *length) {
    size_t i = *at + 1;
    buffer out = {decoded, 0, (size_t)-1 / 4};
    for (;;) {
        if (i >= source.length) return "a string has no end";
        unsigned char c = (unsigned char)source.at[i];
        if (c == '"') break;
        if (c < 0x20) return "a control character in a string must be escaped";
        if (c != '\\') {
            out.at[out.length++] = (char)c;
            i++;
            continue;
        }
        if (i + 1 >= source.length) return "a string has no end";
        char letter = source.at[i + 1];
        i += 2;
        if (letter == 'u') {
            uint32_t c1, c2;
            if (!hex(source, i, &c1)) return "\\u needs four hexadecimal digits";
            i += 4;
            if (c1 >= 0xdc00 && c1 < 0xe000) return "half a surrogate pair";
            if (c1 >= 0xd800 && c1 < 0xdc00) {
                bool is_pair = i + 1 < source.length && source.at[i] == '\\' && source.at[i + 1] == 'u' &&
                               hex(source, i + 2, &c2) && c2 >= 0xdc00 && c2 < 0xe000;
                if (!is_pair) return "half a surrogate pair";
                i += 6;
                c1 = 0x10000 + ((c1 - 0xd800) << 10) + (c2 - 0xdc00);
            }
            buffer_add_char(&out, c1);
        } else {
            char meant = unescaped(letter);
            if (meant == 0) return "an escape that is none";
            out.at[out.length++] = meant;
        }
    }
    *length = out.length;
    *at = i + 1;
    return NULL;
}

static bool parse_string(parser *p, text *string) {
    // The decoded text is never longer than the literal.
    size_t end = p->at + 1;
    while (end < p->source.length && p->source.at[end] != '"') end += p->source.at[end] == '\\' ? 2 : 1;
    char *decoded = take(p, end - p->at);
    size_t length = 0;
    const char *problem = decode(p->source, &p->at, decoded, &length);
    if (problem) return fail(p, problem);
    *string = (text){decoded, length};
    return true;
}

static bool parse_value(parser *p, json *value, int depth);

static bool parse_entries(parser *p, json *value, int depth) {
    bool is_object = value->kind == JSON_OBJECT;
    int close = is_object ? '}' : ']';
    json **end = &value->first;
    p->at++;
    skip_space(p);
    if (peek(p) == close) return p->at++, true;
    for (;;) {
        json *entry = take(p, sizeof *entry);
        *entry = (json){0};
        if (is_object) {
            skip_space(p);
            if (peek(p) != '"') return fail(p, "a key is expected");
            if (!parse_string(p, &entry->key)) return false;
            skip_space(p);
            if (peek(p) != ':') return fail(p, "`:` is expected");
            p->at++;
        }
        if (!parse_value(p, entry, depth)) return false;
        *end = entry;
        end = &entry->next;
        if (peek(p) == close) return p->at++, true;
        if (peek(p) != ',') return fail(p, "`,` or the end is expected");
        p->at++;
    }
}

static bool parse_word(parser *p, text word) {
    if (!text_starts_with(text_slice(p->source, p->at, p->source.length), word)) return fail(p, "a value is expected");
    p->at += word.length;
    return true;
}

// Leaves the place behind the value and the white space after it.
static bool parse_value(parser *p, json *value, int depth) {
    if (depth > DEPTH_MAX) return fail(p, "it is nested too deeply");
    skip_space(p);
    size_t start = p->at;
    bool ok;
    switch (peek(p)) {
    case '{':
        value->kind = JSON_OBJECT;
        ok = parse_entries(p, value, depth + 1);
        break;
    case '[':
        value->kind = JSON_LIST;
        ok = parse_entries(p, value, depth + 1);
        break;
    case '"':
        value->kind = JSON_STRING;
        ok = parse_string(p, &value->string);
        break;
    case 't':
        value->kind = JSON_TRUE;
        ok = parse_word(p, TEXT("true"));
        break;
    case 'f':
        value->kind = JSON_FALSE;
        ok = parse_word(p, TEXT("false"));
        break;
    case 'n':
        value->kind = JSON_NULL;
        ok = parse_word(p, TEXT("null"));
        break;
    default:
        value->kind = JSON_NUMBER;
        ok = parse_number(p);
    }
    value->source = text_slice(p->source, start, p->at);
    skip_space(p);
    return ok;
}

json_document json_parse(text source) {
    parser p = {.source = source};
    json *root = take(&p, sizeof *root);
    *root = (json){0};
    if (parse_value(&p, root, 0) && p.at < source.length) fail(&p, "something follows the value");
    return (json_document){.root = p.problem ? NULL : root, .problem = p.problem, .memory = p.blocks};
}

void json_free(json_document *document) {
    for (block *b = document->memory; b;) {
        block *next = b->next;
        free(b);
        b = next;
    }
    *document = (json_document){0};
}

const json *json_get(const json *object, text key) {
    const json *found = NULL;
    if (!object || object->kind != JSON_OBJECT) return NULL;
    for (const json *member = object->first; member; member = member->next) {
        if (text_equals(member->key, key)) found = member;
    }
    return found;
}

bool json_count(const json *number, uint64_t *count) {
    if (number->kind != JSON_NUMBER || number->source.length > 16) return false;
    *count = 0;
    for (size_t i = 0; i < number->source.length; i++) {
        char c = number->source.at[i];
        if (!is_digit(c)) return false;
        *count = *count * 10 + (uint64_t)(c - '0');
    }
    return *count <= (uint64_t)1 << 53;
}

bool json_decode(text literal, buffer *decoded) {
    size_t at = 0, length = 0;
    *decoded = (buffer){allocate(literal.length), 0, literal.length};
    bool ok = literal.length > 0 && literal.at[0] == '"' && !decode(literal, &at, decoded->at, &length);
    decoded->length = length;
    if (!ok) buffer_free(decoded);
    return ok;
}
