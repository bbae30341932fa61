#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "globals.h"
#include "imports.h"
#include "memory.h"

// What C's stack may take; the linker is told of somewhat more. Deep recursion
// mostly meets the end of the gateway's own stack for guests first: a trap.
#define STACK_SIZE (160 << 10)

// Lines of a stack that are told.
#define PLACES_MAX 5

JSContext *engine;

// A hook: its interface, and the names that it may have in the script: alone,
// and as a function of an object.
static const struct {
    const char *interface, *name, *object, *method;
} NAMES[HOOKS] = {
    [INIT] = {"lifecycle", "init", "lifecycle", "init"},
    [SELF_TEST] = {"self-test", "selfTest", "selfTest", "run"},
    [AUTHENTICATE] = {"authenticate", "authenticate", "authenticate", "authenticate"},
    [AUTHORIZE] = {"authorize", "authorize", "authorize", "join"},
    [AUTHORIZE_PUBLISH] = {"authorize-publish", "authorizePublish", "authorizePublish", "publish"},
    [TRANSFORM] = {"transform", "transform", "transform", "transform"},
    [ROUTE] = {"route", "route", "route", "route"},
    [OBSERVE] = {"observe", "observe", "observe", "observe"},
    [TICK] = {"tick", "tick", "tick", "tick"},
    [CALL] = {"call", "call", "call", "call"},
};

// The script's functions, and what they have as `this`.
static struct {
    JSValue function;
    JSValue object;
} hooks[HOOKS];

// Names of interfaces, as `load` was given them.
static char *grants;

IMPORT("wayleave:script/failure@1.0.0", "fail") void host_fail(uint32_t kind, const char *message, size_t length);

_Noreturn void engine_fail(failure kind, const char *message) {
    host_fail(kind, message, strlen(message));
    __builtin_trap();
}

_Noreturn void engine_fail_with_exception(void) { engine_fail(THROWN, engine_describe(JS_GetException(engine))); }

static char *copied(const char *text, size_t length) {
    char *copy = malloc(length + 1);
    if (!copy) __builtin_trap();
    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

// Text of a value, or of what stands for it where it has none.
static char *text_of(JSValueConst value) {
    size_t length;
    const char *text = JS_ToCStringLen(engine, &length, value);
    if (!text) {
        JS_FreeValue(engine, JS_GetException(engine));
        return copied("something that has no text", 26);
    }
    char *copy = copied(text, length);
    JS_FreeCString(engine, text);
    return copy;
}

char *engine_describe(JSValue error) {
    char *text = text_of(error);
    if (!JS_IsError(error)) {
        char *told;
        size_t length = strlen(text) + 32;
        if (!(told = malloc(length))) __builtin_trap();
        snprintf(told, length, "it threw what is no Error: %s", text);
        free(text);
        JS_FreeValue(engine, error);
        return told;
    }
    JSValue stack_value = JS_GetPropertyStr(engine, error, "stack");
    char *stack = JS_IsString(stack_value) ? text_of(stack_value) : copied("", 0);
    JS_FreeValue(engine, stack_value);
    JS_FreeValue(engine, error);
    // `    at f (plugin.js:3:7)`, a line each: innermost first.
    char *told = malloc(strlen(text) + strlen(stack) + 4);
    if (!told) __builtin_trap();
    strcpy(told, text);
    int places = 0;
    for (char *line = strtok(stack, "\n"); line && places < PLACES_MAX; line = strtok(NULL, "\n")) {
        line += strspn(line, " ");
        // Places inside the engine say nothing to the script's author.
        if (*line == 0 || strstr(line, "(native)")) continue;
        strcat(told, places++ ? ", " : " ");
        strcat(told, line);
    }
    free(stack);
    free(text);
    return told;
}

// `Math.random()` takes its seed from the clock when a context is made; there
// it gets the host's.
static uint64_t seed;

uint64_t engine_microseconds(void) {
    if (!engine) return seed;
    if (engine_grants("clock")) return import_now() * 1000;
    JS_ThrowPlainError(engine, "the time (Date.now, new Date) needs the grant `clock`; add it to the plugin's `grants`");
    engine_fail_with_exception();
}

bool engine_grants(const char *interface) {
    size_t length = strlen(interface);
    for (const char *at = grants; (at = strstr(at, interface)); at += length) {
        if (at[-1] == ' ' && at[length] == ' ') return true;
    }
    return false;
}

static void run_jobs(void) {
    JSContext *ctx;
    while (JS_IsJobPending(JS_GetRuntime(engine))) {
        if (JS_ExecutePendingJob(JS_GetRuntime(engine), &ctx) < 0) engine_fail_with_exception();
    }
}

void *engine_answer(hook hook, const type *answer, int count, JSValue *arguments) {
    if (!engine || JS_IsUndefined(hooks[hook].function)) engine_fail(THROWN, "the script does not have this hook");
    // There was no memory for one of the arguments.
    if (JS_HasException(engine)) engine_fail_with_exception();
    JSValue value = JS_Call(engine, hooks[hook].function, hooks[hook].object, count, arguments);
    if (JS_IsException(value)) engine_fail_with_exception();
    for (int i = 0; i < count; i++) JS_FreeValue(engine, arguments[i]);
    run_jobs();
    void *made = call_alloc(answer->size, answer->align);
    if (!lower(engine, answer, value, made, NAMES[hook].name)) engine_fail(BAD_ANSWER, lower_problem());
    JS_FreeValue(engine, value);
    return made;
}

// Loading

typedef struct {
    uint32_t tag;
    span payload;
} loaded;

static loaded *failed(const char *why) {
    loaded *answer = call_alloc(sizeof *answer, 4);
    *answer = (loaded){1, {(uint32_t)(uintptr_t)why, strlen(why)}};
    return answer;
}

static loaded *failed_with_exception(void) { return failed(engine_describe(JS_GetException(engine))); }

static char *formatted(const char *format, const char *name) {
    size_t length = strlen(format) + strlen(name) + 1;
    char *made = call_alloc(length, 1);
    snprintf(made, length, format, name);
    return made;
}

// Finds one hook; false: it is there and no function.
static bool find_hook(JSValueConst exports, hook hook) {
    hooks[hook].function = hooks[hook].object = JS_UNDEFINED;
    JSValue found = JS_GetPropertyStr(engine, exports, NAMES[hook].name);
    if (JS_IsUndefined(found)) found = JS_GetPropertyStr(engine, exports, NAMES[hook].object);
    if (JS_IsUndefined(found)) return true;
    if (!JS_IsFunction(engine, found)) {
        hooks[hook].object = found;
        found = JS_IsObject(found) ? JS_GetPropertyStr(engine, found, NAMES[hook].method) : JS_UNDEFINED;
    }
    hooks[hook].function = found;
    return JS_IsFunction(engine, found);
}

static bool is_hook(const char *name) {
    for (int i = 0; i < HOOKS; i++) {
        if (strcmp(name, NAMES[i].name) == 0 || strcmp(name, NAMES[i].object) == 0) return true;
    }
    return false;
}

// A mistyped hook must not count as one that is not there.
static const char *unknown_export(JSValueConst exports) {
    JSPropertyEnum *names;
    uint32_t count;
    const char *unknown = NULL;
    if (JS_GetOwnPropertyNames(engine, &names, &count, exports, JS_GPN_STRING_MASK) < 0) engine_fail_with_exception();
    for (uint32_t i = 0; i < count && !unknown; i++) {
        const char *name = JS_AtomToCString(engine, names[i].atom);
        if (name && !is_hook(name)) unknown = formatted("it exports `%s`, which is no hook; the hooks are init, selfTest, authenticate, authorize, authorizePublish, transform, route, observe, tick and call", name);
        JS_FreeCString(engine, name);
    }
    JS_FreePropertyEnum(engine, names, count);
    return unknown;
}

// The interfaces of the hooks that the script has.
static loaded *found_hooks(JSValueConst exports) {
    const char *unknown = unknown_export(exports);
    if (unknown) return failed(unknown);
    span *names = call_alloc(HOOKS * sizeof *names, 4);
    uint32_t count = 0;
    for (int i = 0; i < HOOKS; i++) {
        if (!find_hook(exports, (hook)i)) return failed(formatted("`%s` must be a function", NAMES[i].name));
        if (JS_IsUndefined(hooks[i].function)) continue;
        if (JS_IsAsyncFunction(hooks[i].function)) {
            return failed(formatted("`%s` is async, and hooks cannot be: nothing here has to be waited for", NAMES[i].name));
        }
        names[count++] = (span){(uint32_t)(uintptr_t)NAMES[i].interface, strlen(NAMES[i].interface)};
    }
    loaded *answer = call_alloc(sizeof *answer, 4);
    *answer = (loaded){0, {(uint32_t)(uintptr_t)names, count}};
    return answer;
}

static void keep_grants(const span *list, uint32_t count) {
    size_t length = 2;
    for (uint32_t i = 0; i < count; i++) length += list[i].length + 1;
    char *end = grants = malloc(length);
    if (!grants) __builtin_trap();
    *end++ = ' ';
    for (uint32_t i = 0; i < count; i++) {
        memcpy(end, (const char *)(uintptr_t)list[i].at, list[i].length);
        end += list[i].length;
        *end++ = ' ';
    }
    *end = 0;
}

static void begin(uint64_t given_seed) {
    // Zero would be a sequence of zeros.
    seed = given_seed ? given_seed : 1;
    JSRuntime *runtime = JS_NewRuntime();
    if (!runtime) __builtin_trap();
    JS_SetMaxStackSize(runtime, STACK_SIZE);
    JSContext *ctx = JS_NewContext(runtime);
    if (!ctx) __builtin_trap();
    engine = ctx;
    types_begin(ctx);
    globals_begin(ctx);
    imports_begin(ctx);
}

EXPORT("wayleave:script/engine@1.0.0#load")
loaded *load(const char *source, size_t length, const char *name, size_t name_length, const span *granted,
             uint32_t granted_count, uint64_t given_seed) {
    keep_grants(granted, granted_count);
    begin(given_seed);
    char *file = copied(name, name_length);
    char *text = copied(source, length);
    JSValue module = JS_Eval(engine, text, length, file, JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
    free(text);
    const char *missing = imports_missing();
    if (missing) return failed(missing);
    if (JS_IsException(module)) return failed_with_exception();
    JSModuleDef *definition = JS_VALUE_GET_PTR(module);
    JSValue promise = JS_EvalFunction(engine, module);
    if (JS_IsException(promise)) return failed_with_exception();
    run_jobs();
    switch (JS_PromiseState(engine, promise)) {
    case JS_PROMISE_REJECTED: return failed(engine_describe(JS_PromiseResult(engine, promise)));
    case JS_PROMISE_PENDING: return failed("it awaits something that never comes");
    default: break;
    }
    JS_FreeValue(engine, promise);
    // By `import()`, while it ran.
    if ((missing = imports_missing())) return failed(missing);
    imports_seal();
    JSValue exports = JS_GetModuleNamespace(engine, definition);
    if (JS_IsException(exports)) return failed_with_exception();
    loaded *answer = found_hooks(exports);
    JS_FreeValue(engine, exports);
    return answer;
}

EXPORT("cabi_post_wayleave:script/engine@1.0.0#load") void load_post(loaded *answer) {
    (void)answer;
    call_end();
}
