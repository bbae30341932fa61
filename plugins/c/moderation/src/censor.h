// Finds listed words in text, without regard to case, and masks them.
//
// Two steps, since nearly all messages are clean. `censor_suspects` runs once
// over the raw JSON, takes a hash of each word and looks that up; it neither
// parses nor allocates, and its cost hardly depends on how many words are
// listed. Only what it suspects is looked at exactly, by `censor_mask_json`.
#pragma once

#include "lib/text.h"

// The listed texts. A text may be a phrase: it is found by its first word.
typedef struct {
    struct listed {
        // Of the folded first word.
        uint64_t hash;
        // All of it, folded.
        uint32_t *chars;
        size_t count;
    } *texts;
    size_t count;
} censor;

// Adds a text; false if it does not begin with a letter or a digit.
bool censor_add(censor *censor, text listed);
// To be called once after the last was added.
void censor_sort(censor *censor);
void censor_free(censor *censor);

// False only if no string of `json` can hold a listed text.
bool censor_suspects(const censor *censor, text json);

typedef enum { CENSOR_CLEAN, CENSOR_MASKED, CENSOR_NOT_UNICODE } censor_result;

// Writes `json` into `masked` with its string values masked; if there was
// nothing to mask, `masked` stays empty. Keys, numbers and white space stay as
// they are, byte for byte: that is why it does not go through a tree of values.
censor_result censor_mask_json(const censor *censor, text json, buffer *masked);
