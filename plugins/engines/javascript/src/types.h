// The types of wit/1.0.0 as tables, and the two ways through them: from the
// canonical ABI's memory to JavaScript (`lift`), and back (`lower`).
//
// In JavaScript a record is an object with its fields in camelCase, an enum is
// its case as a string, and a variant is `{ tag, val }`, or, to answer with a
// case that holds nothing, just the case's name. An option is its value or
// null; undefined counts as null. Whole numbers are numbers; what is given as
// u64 or s64 may be a bigint too.
#pragma once

#include "objects.h"

// As the canonical ABI has text and lists.
typedef struct {
    uint32_t at;
    uint32_t length;
} span;

typedef enum { BOOL, U16, U32, U64, S64, STRING, BYTES, LIST, PAIR, RECORD, VARIANT, ENUM, OPTION } type_kind;

typedef struct type type;

// A field of a record, or a case of a variant or an enum.
typedef struct {
    const char *name;
    // NULL for a case that holds nothing.
    type *of;
    // True for a field that need not be there: an empty list then, or false.
    bool may_lack;
    // Set by `types_begin`: the name, and its place in memory.
    JSAtom atom;
    uint32_t offset;
} part;

struct type {
    type_kind kind;
    // What a message calls it.
    const char *name;
    part *parts;
    int count;
    // The element of a list, the value of an option.
    type *of;
    // Set by `types_begin`. The last is of records, and of variants' `{tag, val}`.
    uint32_t size;
    uint32_t align;
    uint32_t payload;
    JSShape *shape;
};

// Arguments of hooks.
extern type HELLO, CLIENT, JOIN_REQUEST, MESSAGE, EVENT, MOMENT, PAYLOAD;
// Answers of hooks.
extern type READINESS, AUTHENTICATION, ADMISSION, PERMIT, VERDICT, ROUTING, ACTIONS, ANSWER;
// What goes to host functions and comes from them.
extern type KV_FOUND, KV_STORED, KV_DELETED, KV_COUNTER, TALLY, ROSTER, DEVICES, SECRET, REQUEST, OUTCOME, LEVEL;

// To be called once, before anything else here.
void types_begin(JSContext *ctx);

JSValue lift(JSContext *ctx, const type *type, const void *from);
JSValue lift_string(JSContext *ctx, span text);
JSValue lift_number(JSContext *ctx, uint64_t number);

// False if the value does not have the type: `lower_problem` then says where
// and why, beginning with `what`. The memory is the call's.
bool lower(JSContext *ctx, const type *type, JSValueConst value, void *to, const char *what);
const char *lower_problem(void);
bool lower_string(JSContext *ctx, JSValueConst value, span *to, const char *what);
bool lower_number(JSContext *ctx, JSValueConst value, uint64_t *to, bool is_signed, const char *what);
