#include "censor.h"

#include <stdlib.h>
#include <string.h>

#include "lib/json.h"

// The word that begins at `at`: where it ends, and a hash of its folded
// letters. The end is `at` if there is none.
static size_t word(text whole, size_t at, uint64_t *hash) {
    // FNV-1a, for it is short and goes character by character. What it takes
    // for listed is compared afterwards, so nothing depends on its quality but
    // speed.
    uint64_t h = 0xcbf29ce484222325;
    while (at < whole.length) {
        unsigned char byte = (unsigned char)whole.at[at];
        uint32_t folded;
        size_t length = 1;
        if (byte < 0x80) {
            unsigned char lower = byte | 0x20;
            if (lower >= 'a' && lower <= 'z') folded = lower;
            else if (byte >= '0' && byte <= '9') folded = byte;
            else break;
        } else {
            uint32_t c = text_char_at(whole, at, &length);
            if (!char_is_alphanumeric(c)) break;
            folded = char_fold(c);
        }
        h = (h ^ folded) * 0x100000001b3;
        at += length;
    }
    *hash = h;
    return at;
}

bool censor_add(censor *censor, text listed) {
    struct listed added = {.chars = allocate(listed.length * sizeof(uint32_t))};
    if (word(listed, 0, &added.hash) == 0) {
        free(added.chars);
        return false;
    }
    size_t length;
    for (size_t at = 0; at < listed.length; at += length) {
        added.chars[added.count++] = char_fold(text_char_at(listed, at, &length));
    }
    censor->texts = realloc(censor->texts, (censor->count + 1) * sizeof added);
    if (!censor->texts) abort();
    censor->texts[censor->count++] = added;
    return true;
}

static int by_hash(const void *a, const void *b) {
    uint64_t one = ((const struct listed *)a)->hash, other = ((const struct listed *)b)->hash;
    return one < other ? -1 : one > other;
}

void censor_sort(censor *censor) {
    if (censor->count) qsort(censor->texts, censor->count, sizeof *censor->texts, by_hash);
}

void censor_free(censor *censor) {
    for (size_t i = 0; i < censor->count; i++) free(censor->texts[i].chars);
    free(censor->texts);
    censor->texts = NULL;
    censor->count = 0;
}

// The first text whose first word has this hash; the others follow it.
static size_t first_of(const censor *censor, uint64_t hash) {
    size_t low = 0, high = censor->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (censor->texts[middle].hash < hash) low = middle + 1;
        else high = middle;
    }
    return low;
}

static bool is_listed(const censor *censor, uint64_t hash) {
    size_t first = first_of(censor, hash);
    return first < censor->count && censor->texts[first].hash == hash;
}

bool censor_suspects(const censor *censor, text json) {
    size_t at = 0;
    while (at < json.length) {
        uint64_t hash;
        size_t end = word(json, at, &hash);
        if (end > at) {
            if (is_listed(censor, hash)) return true;
            at = end;
        } else if (json.at[at] == '\\') {
            // `\u` may stand for a letter, so that only decoding can tell. The
            // letter of other escapes, as in `\n`, is no part of a word.
            if (at + 1 < json.length && json.at[at + 1] == 'u') return true;
            at += 2;
        } else {
            size_t length;
            text_char_at(json, at, &length);
            at += length;
        }
    }
    return false;
}

// How many bytes at `at` are `listed`, which must end where a word may end; 0
// if it is not there.
static size_t length_there(text whole, size_t at, const struct listed *listed) {
    size_t start = at, length;
    for (size_t i = 0; i < listed->count; i++) {
        if (at >= whole.length || char_fold(text_char_at(whole, at, &length)) != listed->chars[i]) return 0;
        at += length;
    }
    bool goes_on = at < whole.length && char_is_alphanumeric(text_char_at(whole, at, &length));
    return goes_on ? 0 : at - start;
}

// Writes `whole` into `masked` with what is listed masked; writes nothing and
// is false if nothing is.
static bool mask(const censor *censor, text whole, buffer *masked) {
    size_t copied = 0, at = 0;
    while (at < whole.length) {
        uint64_t hash;
        size_t char_length, end = word(whole, at, &hash);
        if (end == at) {
            text_char_at(whole, at, &char_length);
            at += char_length;
            continue;
        }
        // The longest, so that of `bad` and `bad word` the phrase counts.
        size_t longest = 0;
        for (size_t i = first_of(censor, hash); i < censor->count && censor->texts[i].hash == hash; i++) {
            size_t length = length_there(whole, at, &censor->texts[i]);
            if (length > longest) longest = length;
        }
        if (longest == 0) {
            at = end;
            continue;
        }
        buffer_add(masked, text_slice(whole, copied, at));
        for (end = at + longest; at < end; at += char_length) {
            text_char_at(whole, at, &char_length);
            buffer_add_byte(masked, '*');
        }
        copied = at;
    }
    if (copied == 0) return false;
    buffer_add(masked, text_slice(whole, copied, whole.length));
    return true;
}

// The place behind the closing quote of the string literal at `open`.
static size_t end_of_string(text json, size_t open) {
    size_t at = open + 1;
    while (at < json.length && json.at[at] != '"') at += json.at[at] == '\\' ? 2 : 1;
    return at + 1 < json.length ? at + 1 : json.length;
}

censor_result censor_mask_json(const censor *censor, text json, buffer *masked) {
    size_t copied = 0, at = 0;
    for (;;) {
        size_t open = text_find(json, TEXT("\""), at);
        if (open >= json.length) break;
        size_t close = at = end_of_string(json, open);
        size_t next = close;
        while (next < json.length && strchr(" \t\r\n", json.at[next])) next++;
        bool is_key = next < json.length && json.at[next] == ':';
        if (is_key) continue;
        buffer decoded;
        if (!json_decode(text_slice(json, open, close), &decoded)) {
            buffer_free(masked);
            return CENSOR_NOT_UNICODE;
        }
        buffer clean = {0};
        if (mask(censor, buffer_text(&decoded), &clean)) {
            buffer_add(masked, text_slice(json, copied, open));
            buffer_add_json(masked, buffer_text(&clean));
            copied = close;
        }
        buffer_free(&clean);
        buffer_free(&decoded);
    }
    if (copied == 0) return CENSOR_CLEAN;
    buffer_add(masked, text_slice(json, copied, json.length));
    return CENSOR_MASKED;
}
