#include "imports.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "memory.h"

#define HOST(interface, function) IMPORT(PACKAGE interface "@" VERSION, function)

HOST("log", "log") void host_log(uint32_t level, const char *message, size_t length);
HOST("kv", "get") void host_kv_get(uint32_t key, uint32_t length, void *found);
HOST("kv", "set")
uint32_t host_kv_set(uint32_t key, uint32_t length, uint32_t tag, uint32_t bytes, uint32_t bytes_length, uint64_t ttl);
HOST("kv", "delete") uint32_t host_kv_delete(uint32_t key, uint32_t length);
HOST("kv", "increment") void host_kv_increment(uint32_t key, uint32_t length, uint64_t by, uint64_t ttl, void *counter);
HOST("lookup", "count") void host_lookup_count(uint32_t room, uint32_t length, void *tally);
HOST("lookup", "members") void host_lookup_members(uint32_t room, uint32_t length, uint32_t limit, void *roster);
HOST("lookup", "connections") void host_lookup_connections(uint32_t user, uint32_t length, void *devices);
HOST("clock", "now") uint64_t host_clock_now(void);
HOST("clock", "monotonic") uint64_t host_clock_monotonic(void);
HOST("random", "bytes") void host_random_bytes(uint32_t length, void *bytes);
HOST("random", "number") uint64_t host_random_number(void);
HOST("metrics", "count") void host_metrics_count(uint32_t name, uint32_t length, uint64_t by);
HOST("metrics", "gauge") void host_metrics_gauge(uint32_t name, uint32_t length, double value);
HOST("metrics", "observe") void host_metrics_observe(uint32_t name, uint32_t length, double seconds);
HOST("secrets", "get") void host_secrets_get(uint32_t name, uint32_t length, void *found);
HOST("http", "send")
void host_http_send(uint32_t method, uint32_t method_length, uint32_t url, uint32_t url_length, uint32_t headers,
                    uint32_t headers_length, uint32_t has_body, uint32_t body_tag, uint32_t body, uint32_t body_length,
                    uint32_t timeout, void *outcome);

uint64_t import_now(void) { return host_clock_now(); }

void import_log(uint32_t level, const char *message, size_t length) { host_log(level, message, length); }

// A wrong argument is thrown, since the script may be looking for it.
static JSValue thrown(JSContext *ctx) { return JS_ThrowTypeError(ctx, "%s", lower_problem()); }

// Where a host function is to put what it returns.
static void *room_for(const type *type) { return call_alloc(type->size, type->align); }

#define ARGUMENT(type, index, to, name)                                                                                \
    if (!lower(ctx, type, index < argc ? argv[index] : JS_UNDEFINED, to, name)) return thrown(ctx)
#define STRING_ARGUMENT(index, to, name)                                                                               \
    if (!lower_string(ctx, index < argc ? argv[index] : JS_UNDEFINED, to, name)) return thrown(ctx)
// A number that may be left out, for 0.
#define NUMBER_ARGUMENT(index, to, is_signed, name)                                                                    \
    if (index < argc && !JS_IsUndefined(argv[index]) && !lower_number(ctx, argv[index], to, is_signed, name))          \
    return thrown(ctx)
#define FUNCTION(name) static JSValue name(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv)

FUNCTION(log_log) {
    (void)this;
    uint8_t level;
    span message;
    ARGUMENT(&LEVEL, 0, &level, "log: level");
    STRING_ARGUMENT(1, &message, "log: message");
    host_log(level, (const char *)(uintptr_t)message.at, message.length);
    return JS_UNDEFINED;
}

FUNCTION(kv_get) {
    (void)this;
    span key;
    STRING_ARGUMENT(0, &key, "kv.get: key");
    void *found = room_for(&KV_FOUND);
    host_kv_get(key.at, key.length, found);
    return lift(ctx, &KV_FOUND, found);
}

FUNCTION(kv_set) {
    (void)this;
    span key;
    struct {
        uint32_t tag;
        span bytes;
    } value;
    uint64_t ttl = 0;
    STRING_ARGUMENT(0, &key, "kv.set: key");
    value.tag = 0;
    ARGUMENT(&PAYLOAD, 1, &value, "kv.set: value");
    NUMBER_ARGUMENT(2, &ttl, false, "kv.set: ttl");
    uint8_t stored = (uint8_t)host_kv_set(key.at, key.length, value.tag, value.bytes.at, value.bytes.length, ttl);
    return lift(ctx, &KV_STORED, &stored);
}

FUNCTION(kv_delete) {
    (void)this;
    span key;
    STRING_ARGUMENT(0, &key, "kv.delete: key");
    uint8_t deleted = (uint8_t)host_kv_delete(key.at, key.length);
    return lift(ctx, &KV_DELETED, &deleted);
}

FUNCTION(kv_increment) {
    (void)this;
    span key;
    uint64_t by = 1, ttl = 0;
    STRING_ARGUMENT(0, &key, "kv.increment: key");
    NUMBER_ARGUMENT(1, &by, true, "kv.increment: by");
    NUMBER_ARGUMENT(2, &ttl, false, "kv.increment: ttl");
    void *counter = room_for(&KV_COUNTER);
    host_kv_increment(key.at, key.length, by, ttl, counter);
    return lift(ctx, &KV_COUNTER, counter);
}

FUNCTION(lookup_count) {
    (void)this;
    span room;
    STRING_ARGUMENT(0, &room, "lookup.count: room");
    void *tally = room_for(&TALLY);
    host_lookup_count(room.at, room.length, tally);
    return lift(ctx, &TALLY, tally);
}

FUNCTION(lookup_members) {
    (void)this;
    span room;
    uint64_t limit = UINT32_MAX;
    STRING_ARGUMENT(0, &room, "lookup.members: room");
    NUMBER_ARGUMENT(1, &limit, false, "lookup.members: limit");
    void *roster = room_for(&ROSTER);
    host_lookup_members(room.at, room.length, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit, roster);
    return lift(ctx, &ROSTER, roster);
}

FUNCTION(lookup_connections) {
    (void)this;
    span user;
    STRING_ARGUMENT(0, &user, "lookup.connections: user");
    void *devices = room_for(&DEVICES);
    host_lookup_connections(user.at, user.length, devices);
    return lift(ctx, &DEVICES, devices);
}

FUNCTION(clock_now) {
    (void)this, (void)argc, (void)argv;
    return lift_number(ctx, host_clock_now());
}

FUNCTION(clock_monotonic) {
    (void)this, (void)argc, (void)argv;
    return lift_number(ctx, host_clock_monotonic());
}

FUNCTION(random_bytes) {
    (void)this;
    uint64_t length = 0;
    NUMBER_ARGUMENT(0, &length, false, "random.bytes: length");
    if (length > UINT32_MAX) return JS_ThrowRangeError(ctx, "random.bytes: at most 4096 bytes a call");
    span bytes;
    host_random_bytes((uint32_t)length, &bytes);
    return JS_NewUint8ArrayCopy(ctx, (const uint8_t *)(uintptr_t)bytes.at, bytes.length);
}

FUNCTION(random_number) {
    (void)this, (void)argc, (void)argv;
    // As many bits as a number has.
    return lift_number(ctx, host_random_number() >> 11);
}

FUNCTION(metrics_count) {
    (void)this;
    span name;
    uint64_t by = 1;
    STRING_ARGUMENT(0, &name, "metrics.count: name");
    NUMBER_ARGUMENT(1, &by, false, "metrics.count: by");
    host_metrics_count(name.at, name.length, by);
    return JS_UNDEFINED;
}

static bool real(JSContext *ctx, int argc, JSValueConst *argv, double *to) {
    return argc > 1 && JS_IsNumber(argv[1]) && JS_ToFloat64(ctx, to, argv[1]) == 0;
}

FUNCTION(metrics_gauge) {
    (void)this;
    span name;
    double value;
    STRING_ARGUMENT(0, &name, "metrics.gauge: name");
    if (!real(ctx, argc, argv, &value)) return JS_ThrowTypeError(ctx, "metrics.gauge: value must be a number");
    host_metrics_gauge(name.at, name.length, value);
    return JS_UNDEFINED;
}

FUNCTION(metrics_observe) {
    (void)this;
    span name;
    double seconds;
    STRING_ARGUMENT(0, &name, "metrics.observe: name");
    if (!real(ctx, argc, argv, &seconds)) return JS_ThrowTypeError(ctx, "metrics.observe: seconds must be a number");
    host_metrics_observe(name.at, name.length, seconds);
    return JS_UNDEFINED;
}

FUNCTION(secrets_get) {
    (void)this;
    span name;
    STRING_ARGUMENT(0, &name, "secrets.get: name");
    void *found = room_for(&SECRET);
    host_secrets_get(name.at, name.length, found);
    return lift(ctx, &SECRET, found);
}

FUNCTION(http_send) {
    (void)this;
    struct {
        span method, url, headers;
        uint32_t has_body, body_tag;
        span body;
        uint32_t timeout;
    } request = {0};
    ARGUMENT(&REQUEST, 0, &request, "http.send: request");
    void *outcome = room_for(&OUTCOME);
    // Bytes that say which case it is have three beside them that say nothing.
    host_http_send(request.method.at, request.method.length, request.url.at, request.url.length, request.headers.at,
                   request.headers.length, request.has_body & 0xff, request.body_tag & 0xff, request.body.at,
                   request.body.length, request.timeout, outcome);
    return lift(ctx, &OUTCOME, outcome);
}

typedef struct {
    const char *name;
    JSCFunction *function;
    int length;
} function;

static const struct interface {
    const char *name;
    function functions[5];
} INTERFACES[] = {
    {"log", {{"log", log_log, 2}}},
    {"kv", {{"get", kv_get, 1}, {"set", kv_set, 3}, {"delete", kv_delete, 1}, {"increment", kv_increment, 3}}},
    {"lookup", {{"count", lookup_count, 1}, {"members", lookup_members, 2}, {"connections", lookup_connections, 1}}},
    {"clock", {{"now", clock_now, 0}, {"monotonic", clock_monotonic, 0}}},
    {"random", {{"bytes", random_bytes, 1}, {"number", random_number, 0}}},
    {"metrics", {{"count", metrics_count, 2}, {"gauge", metrics_gauge, 2}, {"observe", metrics_observe, 2}}},
    {"secrets", {{"get", secrets_get, 1}}},
    {"http", {{"send", http_send, 1}}},
};

// Names of what was imported and may not be.
static char missing[128];
static bool is_sealed;

static const struct interface *find_interface(const char *name) {
    if (strncmp(name, PACKAGE, strlen(PACKAGE)) != 0) return NULL;
    for (size_t i = 0; i < sizeof INTERFACES / sizeof *INTERFACES; i++) {
        if (strcmp(name + strlen(PACKAGE), INTERFACES[i].name) == 0) return &INTERFACES[i];
    }
    return NULL;
}

// Without its version, if it is one that this is.
static char *normalize(JSContext *ctx, const char *base, const char *name, void *opaque) {
    (void)base, (void)opaque;
    const char *at = strchr(name, '@');
    size_t length = at ? (size_t)(at - name) : strlen(name);
    if (strncmp(name, PACKAGE, strlen(PACKAGE)) != 0) {
        JS_ThrowReferenceError(ctx,
                               "`%s` cannot be imported: a script is one file, with the gateway's `" PACKAGE
                               "...` beside it; bundle others into it, as with esbuild --bundle --external:wayleave:*",
                               name);
        return NULL;
    }
    if (at && strncmp(VERSION, at + 1, strlen(at + 1)) != 0) {
        JS_ThrowReferenceError(ctx, "`%s` is of another version than the %s that scripts get", name, VERSION);
        return NULL;
    }
    char *bare = js_malloc(ctx, length + 1);
    if (!bare) return NULL;
    memcpy(bare, name, length);
    bare[length] = 0;
    return bare;
}

static int fill(JSContext *ctx, JSModuleDef *module) {
    JSAtom atom = JS_GetModuleName(ctx, module);
    const char *name = JS_AtomToCString(ctx, atom);
    const struct interface *interface = name ? find_interface(name) : NULL;
    JS_FreeCString(ctx, name);
    JS_FreeAtom(ctx, atom);
    for (const function *f = interface ? interface->functions : NULL; f && f->name; f++) {
        JS_SetModuleExport(ctx, module, f->name, JS_NewCFunction(ctx, f->function, f->name, f->length));
    }
    return 0;
}

static JSModuleDef *provide(JSContext *ctx, const char *name, void *opaque) {
    (void)opaque;
    const struct interface *interface = find_interface(name);
    if (!interface) {
        JS_ThrowReferenceError(ctx, "`%s` is no interface of the gateway", name);
        return NULL;
    }
    if (!engine_grants(interface->name)) {
        if (is_sealed) {
            JS_ThrowReferenceError(ctx, "`%s` was not granted; add it to the plugin's `grants`", interface->name);
            return NULL;
        }
        // It goes on, so that all of them are named at once.
        size_t used = strlen(missing);
        snprintf(missing + used, sizeof missing - used, "%s\"%s\"", used ? ", " : "", interface->name);
    }
    JSModuleDef *module = JS_NewCModule(ctx, name, fill);
    if (!module) return NULL;
    for (const function *f = interface->functions; f->name; f++) JS_AddModuleExport(ctx, module, f->name);
    return module;
}

void imports_begin(JSContext *ctx) { JS_SetModuleLoaderFunc(JS_GetRuntime(ctx), normalize, provide, NULL); }

void imports_seal(void) { is_sealed = true; }

const char *imports_missing(void) {
    static char text[256];
    if (!*missing) return NULL;
    snprintf(text, sizeof text, "it imports what it was not granted; add %s to its `grants`", missing);
    return text;
}
