#include "globals.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "imports.h"

// console: lines into the gateway's log, where the plugin may write there.

typedef struct {
    char *at;
    size_t length, room;
} line;

static void add(line *line, const char *text, size_t length) {
    if (line->length + length > line->room) {
        line->room = (line->length + length) * 2;
        line->at = realloc(line->at, line->room);
        if (!line->at) __builtin_trap();
    }
    memcpy(line->at + line->length, text, length);
    line->length += length;
}

// Texts as they are, errors with their place, the rest as JSON.
static void add_value(JSContext *ctx, line *line, JSValueConst value) {
    if (JS_IsError(value)) {
        char *text = engine_describe(JS_DupValue(ctx, value));
        add(line, text, strlen(text));
        free(text);
        return;
    }
    JSValue json = JS_UNDEFINED;
    if (JS_IsObject(value)) json = JS_JSONStringify(ctx, value, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(json)) JS_FreeValue(ctx, JS_GetException(ctx));
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, JS_IsString(json) ? json : value);
    if (text) {
        add(line, text, length);
        JS_FreeCString(ctx, text);
    } else {
        JS_FreeValue(ctx, JS_GetException(ctx));
    }
    JS_FreeValue(ctx, json);
}

// Half surrogate pairs have no UTF-8: their three bytes become one `?`.
static void mend(line *line) {
    size_t to = 0;
    for (size_t from = 0; from < line->length; from++) {
        bool is_half = (unsigned char)line->at[from] == 0xed && from + 1 < line->length &&
                       (unsigned char)line->at[from + 1] >= 0xa0;
        line->at[to++] = is_half ? '?' : line->at[from];
        if (is_half) from += 2;
    }
    line->length = to;
}

static JSValue console_log(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv, int level) {
    (void)this;
    // Left in by mistake, it must not cost messages; the grant decides who hears it.
    if (!engine_grants("log")) return JS_UNDEFINED;
    line line = {0};
    for (int i = 0; i < argc; i++) {
        if (i > 0) add(&line, " ", 1);
        add_value(ctx, &line, argv[i]);
    }
    mend(&line);
    import_log((uint32_t)level, line.at, line.length);
    free(line.at);
    return JS_UNDEFINED;
}

static const JSCFunctionListEntry CONSOLE[] = {
    JS_CFUNC_MAGIC_DEF("debug", 0, console_log, 0), JS_CFUNC_MAGIC_DEF("log", 0, console_log, 1),
    JS_CFUNC_MAGIC_DEF("info", 0, console_log, 1),  JS_CFUNC_MAGIC_DEF("warn", 0, console_log, 2),
    JS_CFUNC_MAGIC_DEF("error", 0, console_log, 3),
};

// TextEncoder and TextDecoder: UTF-8 only.

static JSValue encoder_new(JSContext *ctx, JSValueConst target, int argc, JSValueConst *argv) {
    (void)argc, (void)argv;
    JSValue prototype = JS_GetPropertyStr(ctx, target, "prototype");
    JSValue made = JS_NewObjectProto(ctx, prototype);
    JS_FreeValue(ctx, prototype);
    return made;
}

static JSValue encoder_encode(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    (void)this;
    if (argc == 0 || JS_IsUndefined(argv[0])) return JS_NewUint8ArrayCopy(ctx, NULL, 0);
    JSValue whole = JS_ToString(ctx, argv[0]);
    if (JS_IsException(whole)) return whole;
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, whole);
    JS_FreeValue(ctx, whole);
    if (!text) return JS_EXCEPTION;
    // As elsewhere, half a surrogate pair becomes U+FFFD, which has three bytes too.
    uint8_t *bytes = js_malloc(ctx, length ? length : 1);
    if (!bytes) return JS_FreeCString(ctx, text), JS_EXCEPTION;
    memcpy(bytes, text, length);
    JS_FreeCString(ctx, text);
    for (size_t i = 0; i + 2 < length; i++) {
        if (bytes[i] == 0xed && bytes[i + 1] >= 0xa0) memcpy(bytes + i, "\xef\xbf\xbd", 3);
    }
    JSValue made = JS_NewUint8ArrayCopy(ctx, bytes, length);
    js_free(ctx, bytes);
    return made;
}

// How many bytes at `at` are a character; 0 if they are none, and then
// `*skipped` of them are one mistake.
static size_t character(const uint8_t *at, size_t left, size_t *skipped) {
    *skipped = 1;
    if (at[0] < 0x80) return 1;
    size_t length = at[0] >= 0xc2 && at[0] < 0xe0 ? 2 : at[0] >= 0xe0 && at[0] < 0xf0 ? 3 : at[0] >= 0xf0 && at[0] < 0xf5 ? 4 : 0;
    uint8_t low = at[0] == 0xe0 ? 0xa0 : at[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t high = at[0] == 0xed ? 0x9f : at[0] == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < length; i++) {
        if (i >= left || at[i] < low || at[i] > high) {
            *skipped = i;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

static JSValue decoder_decode(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    if (argc == 0 || JS_IsUndefined(argv[0])) return JS_NewStringLen(ctx, "", 0);
    size_t length;
    bool is_bytes = JS_GetTypedArrayType(argv[0]) == JS_TYPED_ARRAY_UINT8;
    const uint8_t *bytes = is_bytes ? JS_GetUint8Array(ctx, &length, argv[0]) : JS_GetArrayBuffer(ctx, &length, argv[0]);
    if (!bytes && JS_HasException(ctx)) return JS_EXCEPTION;
    JSValue fatal_value = JS_GetPropertyStr(ctx, this, "fatal");
    bool is_fatal = JS_ToBool(ctx, fatal_value) > 0;
    JS_FreeValue(ctx, fatal_value);
    size_t at = length >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    line text = {0};
    while (at < length) {
        size_t skipped, good = character(bytes + at, length - at, &skipped);
        if (good == 0 && is_fatal) {
            free(text.at);
            return JS_ThrowTypeError(ctx, "the bytes are no UTF-8");
        }
        add(&text, good ? (const char *)bytes + at : "\xef\xbf\xbd", good ? good : 3);
        at += good ? good : skipped;
    }
    JSValue made = JS_NewStringLen(ctx, text.at, text.length);
    free(text.at);
    return made;
}

static JSValue decoder_new(JSContext *ctx, JSValueConst target, int argc, JSValueConst *argv) {
    if (argc > 0 && !JS_IsUndefined(argv[0])) {
        const char *label = JS_ToCString(ctx, argv[0]);
        if (!label) return JS_EXCEPTION;
        bool is_known = strcmp(label, "utf-8") == 0 || strcmp(label, "utf8") == 0 || strcmp(label, "UTF-8") == 0;
        JS_FreeCString(ctx, label);
        if (!is_known) return JS_ThrowRangeError(ctx, "TextDecoder knows utf-8 only");
    }
    JSValue made = encoder_new(ctx, target, 0, NULL);
    JSValue fatal = argc > 1 && JS_IsObject(argv[1]) ? JS_GetPropertyStr(ctx, argv[1], "fatal") : JS_FALSE;
    JS_DefinePropertyValueStr(ctx, made, "fatal", JS_NewBool(ctx, JS_ToBool(ctx, fatal) > 0), 0);
    JS_FreeValue(ctx, fatal);
    return made;
}

static void add_class(JSContext *ctx, JSValueConst global, const char *name, JSCFunction *constructor,
                      const char *method, JSCFunction *function) {
    JSValue made = JS_NewCFunction2(ctx, constructor, name, 0, JS_CFUNC_constructor, 0);
    JSValue prototype = JS_NewObject(ctx);
    JS_DefinePropertyValueStr(ctx, prototype, method, JS_NewCFunction(ctx, function, method, 1),
                              JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
    JS_DefinePropertyValueStr(ctx, prototype, "encoding", JS_NewString(ctx, "utf-8"), 0);
    JS_SetConstructor(ctx, made, prototype);
    JS_FreeValue(ctx, prototype);
    JS_DefinePropertyValueStr(ctx, global, name, made, JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
}

void globals_begin(JSContext *ctx) {
    JSValue global = JS_GetGlobalObject(ctx);
    JSValue console = JS_NewObject(ctx);
    JS_SetPropertyFunctionList(ctx, console, CONSOLE, sizeof CONSOLE / sizeof *CONSOLE);
    JS_DefinePropertyValueStr(ctx, global, "console", console, JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
    add_class(ctx, global, "TextEncoder", encoder_new, "encode", encoder_encode);
    add_class(ctx, global, "TextDecoder", decoder_new, "decode", decoder_decode);
    JS_FreeValue(ctx, global);
}
