#include "types.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"

#define COUNT(array) (int)(sizeof(array) / sizeof *(array))
#define RECORD_OF(called, list) {.kind = RECORD, .name = called, .parts = list, .count = COUNT(list)}
#define VARIANT_OF(called, list) {.kind = VARIANT, .name = called, .parts = list, .count = COUNT(list)}
#define ENUM_OF(called, list) {.kind = ENUM, .name = called, .parts = list, .count = COUNT(list)}
#define LIST_OF(called, element) {.kind = LIST, .name = called, .of = element}
#define OPTION_OF(called, value) {.kind = OPTION, .name = called, .of = value}

static type BOOLEAN = {.kind = BOOL, .name = "true or false"};
static type STATUS = {.kind = U16, .name = "a number from 0 to 65535"};
static type NUMBER = {.kind = U32, .name = "a whole number from 0 to 4294967295"};
static type LARGE = {.kind = U64, .name = "a whole number, not negative"};
static type WHOLE = {.kind = S64, .name = "a whole number"};
static type TEXT = {.kind = STRING, .name = "a string"};
static type BINARY = {.kind = BYTES, .name = "a Uint8Array"};

// types.wit

static type ATTRIBUTE = {.kind = PAIR, .name = "a list of two strings"};
static type ATTRIBUTES = LIST_OF("a list of pairs of strings", &ATTRIBUTE);

static part PAYLOAD_CASES[] = {{"text", &TEXT}, {"binary", &BINARY}};
type PAYLOAD = VARIANT_OF("a payload ({ tag: \"text\", val } or { tag: \"binary\", val })", PAYLOAD_CASES);
static type MAYBE_PAYLOAD = OPTION_OF("a payload or null", &PAYLOAD);

static part CLIENT_FIELDS[] = {
    {"connection", &TEXT}, {"user", &TEXT}, {"info", &TEXT}, {"attributes", &ATTRIBUTES}};
type CLIENT = RECORD_OF("a client", CLIENT_FIELDS);

static part MESSAGE_FIELDS[] = {{"id", &TEXT}, {"room", &TEXT}, {"payload", &PAYLOAD}, {"attributes", &ATTRIBUTES}};
type MESSAGE = RECORD_OF("a message", MESSAGE_FIELDS);

static part TARGET_CASES[] = {{"room", &TEXT}, {"user", &TEXT}, {"connection", &TEXT}, {"pattern", &TEXT}, {"everyone"}};
static type TARGET = VARIANT_OF("a target ({ tag, val })", TARGET_CASES);
static type TARGETS = LIST_OF("a list of targets", &TARGET);

static part DELIVERY_FIELDS[] = {{"to", &TARGETS},
                                 {"except", &TARGETS, .may_lack = true},
                                 {"payload", &MAYBE_PAYLOAD},
                                 {"attributes", &ATTRIBUTES, .may_lack = true}};
static type DELIVERY = RECORD_OF("a delivery", DELIVERY_FIELDS);
static type DELIVERIES = LIST_OF("a list of deliveries", &DELIVERY);

static part REFUSAL_FIELDS[] = {{"code", &NUMBER}, {"reason", &TEXT}, {"temporary", &BOOLEAN, .may_lack = true}};
static type REFUSAL = RECORD_OF("a refusal ({ code, reason })", REFUSAL_FIELDS);

static part MEMBERSHIP_FIELDS[] = {{"who", &TARGET}, {"room", &TEXT}};
static type MEMBERSHIP = RECORD_OF("a membership ({ who, room })", MEMBERSHIP_FIELDS);

static part DISCONNECTION_FIELDS[] = {{"who", &TARGET}, {"code", &NUMBER}, {"reason", &TEXT}};
static type DISCONNECTION = RECORD_OF("a disconnection ({ who, code, reason })", DISCONNECTION_FIELDS);

static part INFO_CHANGE_FIELDS[] = {{"connection", &TEXT}, {"info", &TEXT}};
static type INFO_CHANGE = RECORD_OF("a change of info ({ connection, info })", INFO_CHANGE_FIELDS);

static part COMMAND_FIELDS[] = {{"name", &TEXT}, {"arguments", &TEXT}};
static type COMMAND = RECORD_OF("a command ({ name, arguments })", COMMAND_FIELDS);

static part ACTION_CASES[] = {{"send", &DELIVERY},         {"join", &MEMBERSHIP},          {"leave", &MEMBERSHIP},
                              {"set-info", &INFO_CHANGE}, {"disconnect", &DISCONNECTION}, {"perform", &COMMAND}};
static type ACTION = VARIANT_OF("an action ({ tag, val })", ACTION_CASES);
type ACTIONS = LIST_OF("a list of actions", &ACTION);

// hooks.wit

static part READINESS_CASES[] = {{"ready"}, {"failed", &TEXT}};
type READINESS = VARIANT_OF("\"ready\" or { tag: \"failed\", val }", READINESS_CASES);

static part HELLO_FIELDS[] = {{"connection", &TEXT}, {"token", &TEXT},   {"data", &MAYBE_PAYLOAD},
                              {"name", &TEXT},       {"version", &TEXT}, {"attributes", &ATTRIBUTES}};
type HELLO = RECORD_OF("a hello", HELLO_FIELDS);

static type ROOMS = LIST_OF("a list of strings", &TEXT);
static part IDENTITY_FIELDS[] = {{"user", &TEXT},
                                 {"info", &TEXT},
                                 {"rooms", &ROOMS},
                                 {"expires-at", &LARGE},
                                 {"attributes", &ATTRIBUTES, .may_lack = true}};
static type IDENTITY = RECORD_OF("an identity", IDENTITY_FIELDS);
static part AUTHENTICATION_CASES[] = {{"accept", &IDENTITY}, {"refuse", &REFUSAL}, {"abstain"}};
type AUTHENTICATION = VARIANT_OF("\"abstain\" or { tag: \"accept\" or \"refuse\", val }", AUTHENTICATION_CASES);

static part JOIN_REQUEST_FIELDS[] = {
    {"room", &TEXT}, {"token", &TEXT}, {"data", &MAYBE_PAYLOAD}, {"attributes", &ATTRIBUTES}};
type JOIN_REQUEST = RECORD_OF("a request", JOIN_REQUEST_FIELDS);
static part PERMISSION_CASES[] = {{"configured"}, {"granted"}, {"denied"}};
static type PERMISSION = ENUM_OF("\"configured\", \"granted\" or \"denied\"", PERMISSION_CASES);
static part TERMS_FIELDS[] = {{"publish", &PERMISSION},
                              {"presence", &PERMISSION},
                              {"info", &TEXT},
                              {"data", &MAYBE_PAYLOAD},
                              {"attributes", &ATTRIBUTES, .may_lack = true}};
static type TERMS = RECORD_OF("the terms ({ publish, presence, info, data })", TERMS_FIELDS);
static part ADMISSION_CASES[] = {{"allow", &TERMS}, {"refuse", &REFUSAL}};
type ADMISSION = VARIANT_OF("{ tag: \"allow\" or \"refuse\", val }", ADMISSION_CASES);

static part PERMIT_CASES[] = {{"allow"}, {"refuse", &REFUSAL}};
type PERMIT = VARIANT_OF("\"allow\" or { tag: \"refuse\", val }", PERMIT_CASES);

static part VERDICT_CASES[] = {{"pass"}, {"replace", &PAYLOAD}, {"drop"}, {"refuse", &REFUSAL}};
type VERDICT = VARIANT_OF("\"pass\", \"drop\" or { tag: \"replace\" or \"refuse\", val }", VERDICT_CASES);

static part ROUTING_CASES[] = {{"pass"}, {"add", &DELIVERIES}, {"replace", &DELIVERIES}, {"refuse", &REFUSAL}};
type ROUTING = VARIANT_OF("\"pass\" or { tag: \"add\", \"replace\" or \"refuse\", val }", ROUTING_CASES);

static part EVENT_FIELDS[] = {{"kind", &TEXT}, {"who", &CLIENT}, {"room", &TEXT}, {"attributes", &ATTRIBUTES}};
type EVENT = RECORD_OF("an event", EVENT_FIELDS);

static part MOMENT_FIELDS[] = {{"now", &LARGE}, {"period", &LARGE}, {"attributes", &ATTRIBUTES}};
type MOMENT = RECORD_OF("a moment", MOMENT_FIELDS);

static part REPLY_FIELDS[] = {{"payload", &PAYLOAD}, {"actions", &ACTIONS, .may_lack = true}};
static type REPLY = RECORD_OF("a reply ({ payload })", REPLY_FIELDS);
static part ANSWER_CASES[] = {{"reply", &REPLY}, {"refuse", &REFUSAL}, {"unknown"}};
type ANSWER = VARIANT_OF("\"unknown\" or { tag: \"reply\" or \"refuse\", val }", ANSWER_CASES);

// host.wit

static part LEVEL_CASES[] = {{"debug"}, {"info"}, {"warn"}, {"error"}};
type LEVEL = ENUM_OF("\"debug\", \"info\", \"warn\" or \"error\"", LEVEL_CASES);

static part KV_FOUND_CASES[] = {{"value", &PAYLOAD}, {"missing"}, {"unavailable"}};
type KV_FOUND = VARIANT_OF("found", KV_FOUND_CASES);
static part KV_STORED_CASES[] = {{"ok"}, {"quota"}, {"too-large"}, {"unavailable"}};
type KV_STORED = ENUM_OF("stored", KV_STORED_CASES);
static part KV_DELETED_CASES[] = {{"ok"}, {"missing"}, {"unavailable"}};
type KV_DELETED = ENUM_OF("deleted", KV_DELETED_CASES);
static part KV_COUNTER_CASES[] = {{"value", &WHOLE}, {"not-a-number"}, {"quota"}, {"too-large"}, {"unavailable"}};
type KV_COUNTER = VARIANT_OF("counter", KV_COUNTER_CASES);

static part COUNTS_FIELDS[] = {{"connections", &NUMBER}, {"users", &NUMBER}};
static type COUNTS = RECORD_OF("counts", COUNTS_FIELDS);
static part TALLY_CASES[] = {{"counts", &COUNTS}, {"unavailable"}};
type TALLY = VARIANT_OF("tally", TALLY_CASES);
static part MEMBER_FIELDS[] = {{"connection", &TEXT}, {"user", &TEXT}, {"info", &TEXT}};
static type MEMBER = RECORD_OF("member", MEMBER_FIELDS);
static type MEMBERS = LIST_OF("members", &MEMBER);
static part ROSTER_CASES[] = {{"members", &MEMBERS}, {"unavailable"}};
type ROSTER = VARIANT_OF("roster", ROSTER_CASES);
static part DEVICES_CASES[] = {{"connections", &ROOMS}, {"unavailable"}};
type DEVICES = VARIANT_OF("devices", DEVICES_CASES);

static part SECRET_CASES[] = {{"value", &TEXT}, {"missing"}};
type SECRET = VARIANT_OF("found", SECRET_CASES);

static part REQUEST_FIELDS[] = {{"method", &TEXT},
                                {"url", &TEXT},
                                {"headers", &ATTRIBUTES, .may_lack = true},
                                {"body", &MAYBE_PAYLOAD},
                                {"timeout", &NUMBER, .may_lack = true}};
type REQUEST = RECORD_OF("a request ({ method, url })", REQUEST_FIELDS);
static part RESPONSE_FIELDS[] = {{"status", &STATUS}, {"headers", &ATTRIBUTES}, {"body", &PAYLOAD}};
static type RESPONSE = RECORD_OF("a response", RESPONSE_FIELDS);
static part OUTCOME_CASES[] = {
    {"response", &RESPONSE}, {"forbidden", &TEXT}, {"too-large"}, {"timeout"}, {"failed", &TEXT}};
type OUTCOME = VARIANT_OF("outcome", OUTCOME_CASES);

static type *const ALL[] = {&HELLO,   &CLIENT,  &JOIN_REQUEST, &MESSAGE,    &EVENT,     &MOMENT,     &PAYLOAD,
                            &READINESS, &AUTHENTICATION, &ADMISSION, &PERMIT, &VERDICT, &ROUTING,   &ACTIONS,
                            &ANSWER,  &LEVEL,   &KV_FOUND,     &KV_STORED,  &KV_DELETED, &KV_COUNTER, &TALLY,
                            &ROSTER,  &DEVICES, &SECRET,       &REQUEST,    &OUTCOME};

static JSAtom tag_atom, val_atom;
// Of a case that holds nothing.
static JSShape *tag_shape;
static JSShape *variant_shape;

// `expires-at` is `expiresAt` there.
static JSAtom field_atom(JSContext *ctx, const char *name) {
    char camel[32];
    size_t length = 0;
    for (; *name; name++) {
        bool is_first = *name == '-';
        if (is_first) name++;
        camel[length++] = (char)(is_first ? *name - 'a' + 'A' : *name);
    }
    return JS_NewAtomLen(ctx, camel, length);
}

static uint32_t aligned(uint32_t offset, uint32_t align) { return (offset + align - 1) & ~(align - 1); }

// The canonical ABI's places, from the inside out.
static void lay_out(JSContext *ctx, type *type) {
    if (type->align) return;
    static const uint8_t SIZES[] = {[BOOL] = 1, [U16] = 2, [U32] = 4, [U64] = 8, [S64] = 8};
    uint32_t inner = 0, inner_align = 1;
    JSAtom atoms[16];
    for (int i = 0; i < type->count; i++) {
        part *part = &type->parts[i];
        part->atom = atoms[i] = type->kind == RECORD ? field_atom(ctx, part->name) : JS_NewAtom(ctx, part->name);
        if (!part->of) continue;
        lay_out(ctx, part->of);
        if (type->kind == RECORD) {
            part->offset = aligned(inner, part->of->align);
            inner = part->offset + part->of->size;
        } else if (part->of->size > inner) {
            inner = part->of->size;
        }
        if (part->of->align > inner_align) inner_align = part->of->align;
    }
    if (type->of) lay_out(ctx, type->of);
    switch (type->kind) {
    case STRING:
    case BYTES:
    case LIST:
        type->size = 8;
        type->align = 4;
        break;
    case PAIR:
        type->size = 16;
        type->align = 4;
        break;
    case OPTION:
        inner = type->of->size;
        inner_align = type->of->align;
        // fall through
    case VARIANT:
        type->payload = inner_align;
        type->size = aligned(inner_align + inner, inner_align);
        type->align = inner_align;
        break;
    case RECORD:
        type->size = aligned(inner, inner_align);
        type->align = inner_align;
        type->shape = shape_new(ctx, type->count, atoms);
        break;
    case ENUM:
        type->size = type->align = 1;
        break;
    default:
        type->size = type->align = SIZES[type->kind];
    }
}

void types_begin(JSContext *ctx) {
    tag_atom = JS_NewAtom(ctx, "tag");
    val_atom = JS_NewAtom(ctx, "val");
    tag_shape = shape_new(ctx, 1, &tag_atom);
    variant_shape = shape_new(ctx, 2, (JSAtom[]){tag_atom, val_atom});
    for (int i = 0; i < COUNT(ALL); i++) lay_out(ctx, ALL[i]);
}

// From memory to JavaScript.

static const void *bytes_at(uint32_t address) { return (const void *)(uintptr_t)address; }

JSValue lift_string(JSContext *ctx, span text) { return JS_NewStringLen(ctx, bytes_at(text.at), text.length); }

JSValue lift_number(JSContext *ctx, uint64_t number) {
    return number <= INT32_MAX ? JS_NewInt32(ctx, (int32_t)number) : JS_NewFloat64(ctx, (double)number);
}

static JSValue lift_list(JSContext *ctx, const type *element, span list) {
    JSValue array = JS_NewArray(ctx);
    const char *at = bytes_at(list.at);
    for (uint32_t i = 0; i < list.length; i++, at += element->size) {
        if (JS_SetPropertyUint32(ctx, array, i, lift(ctx, element, at)) < 0) break;
    }
    return array;
}

JSValue lift(JSContext *ctx, const type *type, const void *from) {
    switch (type->kind) {
    case BOOL: return JS_NewBool(ctx, *(const uint8_t *)from);
    case U16: return JS_NewInt32(ctx, *(const uint16_t *)from);
    case U32: return lift_number(ctx, *(const uint32_t *)from);
    case U64: return lift_number(ctx, *(const uint64_t *)from);
    case S64: return JS_NewInt64(ctx, *(const int64_t *)from);
    case STRING: return lift_string(ctx, *(const span *)from);
    case BYTES: {
        const span *bytes = from;
        return JS_NewUint8ArrayCopy(ctx, bytes_at(bytes->at), bytes->length);
    }
    case LIST: return lift_list(ctx, type->of, *(const span *)from);
    case PAIR: {
        const span *pair = from;
        return JS_NewArrayFrom(ctx, 2, (JSValue[]){lift_string(ctx, pair[0]), lift_string(ctx, pair[1])});
    }
    case RECORD: {
        JSValue values[16];
        for (int i = 0; i < type->count; i++) {
            values[i] = lift(ctx, type->parts[i].of, (const char *)from + type->parts[i].offset);
        }
        return shape_object(ctx, type->shape, type->count, values);
    }
    case VARIANT: {
        const part *found = &type->parts[*(const uint8_t *)from];
        JSValue values[2] = {JS_AtomToString(ctx, found->atom)};
        if (!found->of) return shape_object(ctx, tag_shape, 1, values);
        values[1] = lift(ctx, found->of, (const char *)from + type->payload);
        return shape_object(ctx, variant_shape, 2, values);
    }
    case ENUM: return JS_AtomToString(ctx, type->parts[*(const uint8_t *)from].atom);
    case OPTION:
        return *(const uint8_t *)from ? lift(ctx, type->of, (const char *)from + type->payload) : JS_NULL;
    }
    __builtin_unreachable();
}

// From JavaScript to memory.

static char problem[512];
// Where in the value we are, from its outside: a field's name, or an index.
static struct step {
    const char *field;
    uint32_t index;
} path[16];
static int depth;

const char *lower_problem(void) { return problem; }

static void enter(const char *field, uint32_t index) { path[depth++] = (struct step){field, index}; }

// Says where it is. `so` is what is there instead, and may be NULL.
static bool wrong(const char *what, const char *must, const char *so) {
    size_t used = (size_t)snprintf(problem, sizeof problem, "%s", what);
    for (int i = 0; i < depth && used < sizeof problem; i++) {
        const struct step *step = &path[i];
        used += (size_t)(step->field ? snprintf(problem + used, sizeof problem - used, ".%s", step->field)
                                     : snprintf(problem + used, sizeof problem - used, "[%u]", step->index));
    }
    if (used < sizeof problem) {
        snprintf(problem + used, sizeof problem - used, so ? " must be %s, and is %s" : " %s", must, so);
    }
    return false;
}

static const char *kind_of(JSContext *ctx, JSValueConst value) {
    static char text[96];
    if (JS_IsUndefined(value)) return "undefined";
    if (JS_IsNull(value)) return "null";
    if (JS_IsPromise(value)) return "a promise (hooks are not async)";
    if (JS_IsFunction(ctx, value)) return "a function";
    if (JS_IsArray(value)) return "a list";
    if (JS_IsObject(value)) return "an object";
    bool is_string = JS_IsString(value);
    const char *shown = JS_ToCString(ctx, value);
    if (!shown) JS_FreeValue(ctx, JS_GetException(ctx));
    if (!shown) return "something else";
    snprintf(text, sizeof text, is_string ? "\"%.60s\"" : "%.60s", shown);
    JS_FreeCString(ctx, shown);
    return text;
}

static bool mismatch(JSContext *ctx, const char *what, const type *type, JSValueConst value) {
    return wrong(what, type->name, kind_of(ctx, value));
}

// The value of a property. It is held, since to read what is inside it may run a
// getter of the script's, which may let go of it.
static JSValue get(JSContext *ctx, JSValueConst object, JSAtom name) {
    JSValueConst value = object_peek(object, name);
    return JS_IsUninitialized(value) ? JS_GetProperty(ctx, object, name) : JS_DupValue(ctx, value);
}

// A getter of the script's has thrown.
static bool threw(JSContext *ctx, const char *what) {
    JSValue error = JS_GetException(ctx);
    const char *text = JS_ToCString(ctx, error);
    wrong(what, text ? text : "cannot be read", NULL);
    if (text) JS_FreeCString(ctx, text);
    JS_FreeValue(ctx, error);
    return false;
}

bool lower_string(JSContext *ctx, JSValueConst value, span *to, const char *what) {
    size_t length;
    const char *bytes = string_ascii(value, &length);
    if (bytes) {
        char *copy = call_alloc(length, 1);
        memcpy(copy, bytes, length);
        *to = (span){(uint32_t)(uintptr_t)copy, (uint32_t)length};
        return true;
    }
    if (!JS_IsString(value)) return mismatch(ctx, what, &TEXT, value);
    bytes = JS_ToCStringLen(ctx, &length, value);
    if (!bytes) return threw(ctx, what);
    char *copy = call_alloc(length, 1);
    memcpy(copy, bytes, length);
    JS_FreeCString(ctx, bytes);
    // JavaScript's strings may hold half a surrogate pair, which nobody else takes.
    for (const char *at = copy; (at = memchr(at, 0xed, length - (size_t)(at - copy))); at++) {
        bool is_half = (size_t)(at - copy) + 1 < length && (unsigned char)at[1] >= 0xa0;
        if (is_half) return wrong(what, "holds half a surrogate pair; see isWellFormed()", NULL);
    }
    *to = (span){(uint32_t)(uintptr_t)copy, (uint32_t)length};
    return true;
}

bool lower_number(JSContext *ctx, JSValueConst value, uint64_t *to, bool is_signed, const char *what) {
    const type *type = is_signed ? &WHOLE : &LARGE;
    if (JS_IsBigInt(value)) {
        // Wraps at 64 bits, so what comes back must be the same.
        int64_t number;
        if (JS_ToBigInt64(ctx, &number, value) < 0) return threw(ctx, what);
        JSValue again = is_signed ? JS_NewBigInt64(ctx, number) : JS_NewBigUint64(ctx, (uint64_t)number);
        bool is_same = JS_IsStrictEqual(ctx, again, value);
        JS_FreeValue(ctx, again);
        *to = (uint64_t)number;
        return is_same || mismatch(ctx, what, type, value);
    }
    double number;
    if (!JS_IsNumber(value) || JS_ToFloat64(ctx, &number, value) < 0) return mismatch(ctx, what, type, value);
    bool fits = number == trunc(number) && (is_signed ? fabs(number) < 0x1p63 : number >= 0 && number < 0x1p64);
    if (!fits) return mismatch(ctx, what, type, value);
    *to = is_signed ? (uint64_t)(int64_t)number : (uint64_t)number;
    return true;
}

static bool lower_any(JSContext *ctx, const type *type, JSValueConst value, char *to, const char *what);

static bool lower_bytes(JSContext *ctx, const type *type, JSValueConst value, span *to, const char *what) {
    size_t length;
    if (!JS_IsObject(value) || JS_GetTypedArrayType(value) != JS_TYPED_ARRAY_UINT8) return mismatch(ctx, what, type, value);
    const uint8_t *bytes = JS_GetUint8Array(ctx, &length, value);
    if (!bytes && length > 0) return threw(ctx, what);
    char *copy = call_alloc(length, 1);
    if (length > 0) memcpy(copy, bytes, length);
    *to = (span){(uint32_t)(uintptr_t)copy, (uint32_t)length};
    return true;
}

static bool list_length(JSContext *ctx, const type *type, JSValueConst value, uint32_t *length, const char *what) {
    int64_t found;
    if (!JS_IsArray(value)) return mismatch(ctx, what, type, value);
    if (JS_GetLength(ctx, value, &found) < 0) return threw(ctx, what);
    *length = (uint32_t)found;
    // The gateway bounds answers more tightly; this keeps the sum below 4 GiB.
    return found <= 1 << 24 || wrong(what, "is too long a list", NULL);
}

static bool lower_list(JSContext *ctx, const type *type, JSValueConst value, span *to, const char *what) {
    uint32_t length;
    if (!list_length(ctx, type, value, &length, what)) return false;
    char *at = call_alloc((size_t)length * type->of->size, type->of->align);
    *to = (span){(uint32_t)(uintptr_t)at, length};
    for (uint32_t i = 0; i < length; i++, at += type->of->size) {
        JSValue element = JS_GetPropertyUint32(ctx, value, i);
        if (JS_IsException(element)) return threw(ctx, what);
        enter(NULL, i);
        if (!lower_any(ctx, type->of, element, at, what)) return JS_FreeValue(ctx, element), false;
        depth--;
        JS_FreeValue(ctx, element);
    }
    return true;
}

static bool lower_pair(JSContext *ctx, const type *type, JSValueConst value, span *to, const char *what) {
    uint32_t length;
    if (!list_length(ctx, type, value, &length, what)) return false;
    if (length != 2) return mismatch(ctx, what, type, value);
    for (uint32_t i = 0; i < 2; i++) {
        JSValue element = JS_GetPropertyUint32(ctx, value, i);
        if (JS_IsException(element)) return threw(ctx, what);
        enter(NULL, i);
        bool ok = lower_string(ctx, element, &to[i], what);
        JS_FreeValue(ctx, element);
        if (!ok) return false;
        depth--;
    }
    return true;
}

static bool lower_record(JSContext *ctx, const type *type, JSValueConst value, char *to, const char *what) {
    if (!JS_IsObject(value)) return mismatch(ctx, what, type, value);
    for (int i = 0; i < type->count; i++) {
        const part *field = &type->parts[i];
        JSValue found = get(ctx, value, field->atom);
        if (JS_IsException(found)) return threw(ctx, what);
        if (field->may_lack && JS_IsUndefined(found)) {
            memset(to + field->offset, 0, field->of->size);
            continue;
        }
        enter(field->name, 0);
        bool ok = lower_any(ctx, field->of, found, to + field->offset, what);
        JS_FreeValue(ctx, found);
        if (!ok) return false;
        depth--;
    }
    return true;
}

// Which case a string names; -1 for none.
static int find_case(const type *type, JSValueConst name) {
    size_t length;
    const char *given = string_ascii(name, &length);
    if (!given) return -1;
    for (int i = 0; i < type->count; i++) {
        const char *known = type->parts[i].name;
        if (strlen(known) == length && memcmp(known, given, length) == 0) return i;
    }
    return -1;
}

static bool lower_variant(JSContext *ctx, const type *type, JSValueConst value, char *to, const char *what) {
    if (JS_IsString(value)) {
        int found = find_case(type, value);
        if (found < 0 || type->parts[found].of) return mismatch(ctx, what, type, value);
        to[0] = (char)found;
        return true;
    }
    if (!JS_IsObject(value) || JS_IsPromise(value)) return mismatch(ctx, what, type, value);
    JSValue tag = get(ctx, value, tag_atom);
    if (JS_IsException(tag)) return threw(ctx, what);
    int found = JS_IsString(tag) ? find_case(type, tag) : -1;
    if (found < 0) {
        // A list or another object has no tag at all: say so about the whole.
        if (JS_IsUndefined(tag)) return mismatch(ctx, what, type, value);
        const char *so = kind_of(ctx, tag);
        enter("tag", 0);
        wrong(what, "one of those it may have", so);
        JS_FreeValue(ctx, tag);
        return false;
    }
    JS_FreeValue(ctx, tag);
    to[0] = (char)found;
    if (!type->parts[found].of) return true;
    JSValue inner = get(ctx, value, val_atom);
    if (JS_IsException(inner)) return threw(ctx, what);
    enter("val", 0);
    bool ok = lower_any(ctx, type->parts[found].of, inner, to + type->payload, what);
    JS_FreeValue(ctx, inner);
    depth -= ok;
    return ok;
}

static bool lower_small(JSContext *ctx, const type *type, JSValueConst value, uint32_t max, uint32_t *to, const char *what) {
    double number;
    if (!JS_IsNumber(value) || JS_ToFloat64(ctx, &number, value) < 0) return mismatch(ctx, what, type, value);
    if (!(number == trunc(number) && number >= 0 && number <= max)) return mismatch(ctx, what, type, value);
    *to = (uint32_t)number;
    return true;
}

static bool lower_any(JSContext *ctx, const type *type, JSValueConst value, char *to, const char *what) {
    uint32_t small;
    switch (type->kind) {
    case BOOL:
        if (!JS_IsBool(value)) return mismatch(ctx, what, type, value);
        to[0] = (char)JS_ToBool(ctx, value);
        return true;
    case U16:
        if (!lower_small(ctx, type, value, UINT16_MAX, &small, what)) return false;
        *(uint16_t *)to = (uint16_t)small;
        return true;
    case U32: return lower_small(ctx, type, value, UINT32_MAX, (uint32_t *)to, what);
    case U64: return lower_number(ctx, value, (uint64_t *)to, false, what);
    case S64: return lower_number(ctx, value, (uint64_t *)to, true, what);
    case STRING: return lower_string(ctx, value, (span *)to, what);
    case BYTES: return lower_bytes(ctx, type, value, (span *)to, what);
    case LIST: return lower_list(ctx, type, value, (span *)to, what);
    case PAIR: return lower_pair(ctx, type, value, (span *)to, what);
    case RECORD: return lower_record(ctx, type, value, to, what);
    case VARIANT: return lower_variant(ctx, type, value, to, what);
    case ENUM: {
        int found = JS_IsString(value) ? find_case(type, value) : -1;
        if (found < 0) return mismatch(ctx, what, type, value);
        to[0] = (char)found;
        return true;
    }
    case OPTION:
        to[0] = !JS_IsUndefined(value) && !JS_IsNull(value);
        return !to[0] || lower_any(ctx, type->of, value, to + type->payload, what);
    }
    __builtin_unreachable();
}

bool lower(JSContext *ctx, const type *type, JSValueConst value, void *to, const char *what) {
    depth = 0;
    return lower_any(ctx, type, value, to, what);
}
