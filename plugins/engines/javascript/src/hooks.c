// The hooks as the gateway calls them. Where a function has few arguments, the
// canonical ABI passes each part of them by itself, else all in memory.

#include "engine.h"
#include "memory.h"

#define HOOK(interface, function) EXPORT(PACKAGE interface "@" VERSION "#" function)

typedef struct {
    uint32_t tag;
    span bytes;
} payload;

typedef struct {
    uint32_t is_some;
    payload payload;
} maybe_payload;

typedef struct {
    span connection, user, info, attributes;
} client;

typedef struct {
    client client;
    span id, room;
    payload payload;
    span attributes;
} sender_and_message;

// What is the same in all of them: the answer was read.
#define POST(name, interface, function)                                                                                \
    EXPORT("cabi_post_" PACKAGE interface "@" VERSION "#" function) void name(void *answer) {                          \
        (void)answer;                                                                                                  \
        call_end();                                                                                                    \
    }

HOOK("lifecycle", "init") void *hook_init(uint32_t settings, uint32_t length) {
    return engine_answer(INIT, &READINESS, 1, (JSValue[]){lift_string(engine, (span){settings, length})});
}
POST(init_post, "lifecycle", "init")

HOOK("self-test", "run") void *hook_self_test(void) { return engine_answer(SELF_TEST, &READINESS, 0, NULL); }
POST(self_test_post, "self-test", "run")

HOOK("authenticate", "authenticate")
void *hook_authenticate(uint32_t connection, uint32_t connection_length, uint32_t token, uint32_t token_length,
                        uint32_t has_data, uint32_t data_tag, uint32_t data, uint32_t data_length, uint32_t name,
                        uint32_t name_length, uint32_t version, uint32_t version_length, uint32_t attributes,
                        uint32_t attributes_length) {
    struct {
        span connection, token;
        maybe_payload data;
        span name, version, attributes;
    } hello = {{connection, connection_length}, {token, token_length},     {has_data, {data_tag, {data, data_length}}},
               {name, name_length},             {version, version_length}, {attributes, attributes_length}};
    return engine_answer(AUTHENTICATE, &AUTHENTICATION, 1, (JSValue[]){lift(engine, &HELLO, &hello)});
}
POST(authenticate_post, "authenticate", "authenticate")

HOOK("authorize", "join") void *hook_authorize(const client *who) {
    JSValue arguments[] = {lift(engine, &CLIENT, who), lift(engine, &JOIN_REQUEST, who + 1)};
    return engine_answer(AUTHORIZE, &ADMISSION, 2, arguments);
}
POST(authorize_post, "authorize", "join")

static void *about_message(hook hook, const type *answer, const sender_and_message *given) {
    JSValue arguments[] = {lift(engine, &CLIENT, &given->client), lift(engine, &MESSAGE, &given->id)};
    return engine_answer(hook, answer, 2, arguments);
}

HOOK("authorize-publish", "publish") void *hook_publish(const sender_and_message *given) {
    return about_message(AUTHORIZE_PUBLISH, &PERMIT, given);
}
POST(publish_post, "authorize-publish", "publish")

HOOK("transform", "transform") void *hook_transform(const sender_and_message *given) {
    return about_message(TRANSFORM, &VERDICT, given);
}
POST(transform_post, "transform", "transform")

HOOK("route", "route") void *hook_route(const sender_and_message *given) {
    return about_message(ROUTE, &ROUTING, given);
}
POST(route_post, "route", "route")

HOOK("observe", "observe")
void *hook_observe(uint32_t kind, uint32_t kind_length, uint32_t connection, uint32_t connection_length, uint32_t user,
                   uint32_t user_length, uint32_t info, uint32_t info_length, uint32_t client_attributes,
                   uint32_t client_attributes_length, uint32_t room, uint32_t room_length, uint32_t attributes,
                   uint32_t attributes_length) {
    struct {
        span kind;
        client who;
        span room, attributes;
    } event = {{kind, kind_length},
               {{connection, connection_length},
                {user, user_length},
                {info, info_length},
                {client_attributes, client_attributes_length}},
               {room, room_length},
               {attributes, attributes_length}};
    return engine_answer(OBSERVE, &ACTIONS, 1, (JSValue[]){lift(engine, &EVENT, &event)});
}
POST(observe_post, "observe", "observe")

HOOK("tick", "tick")
void *hook_tick(uint64_t now, uint64_t period, uint32_t attributes, uint32_t attributes_length) {
    struct {
        uint64_t now, period;
        span attributes;
    } moment = {now, period, {attributes, attributes_length}};
    return engine_answer(TICK, &ACTIONS, 1, (JSValue[]){lift(engine, &MOMENT, &moment)});
}
POST(tick_post, "tick", "tick")

HOOK("call", "call")
void *hook_call(uint32_t connection, uint32_t connection_length, uint32_t user, uint32_t user_length, uint32_t info,
                uint32_t info_length, uint32_t attributes, uint32_t attributes_length, uint32_t method,
                uint32_t method_length, uint32_t tag, uint32_t bytes, uint32_t bytes_length) {
    client caller = {{connection, connection_length},
                     {user, user_length},
                     {info, info_length},
                     {attributes, attributes_length}};
    payload given = {tag, {bytes, bytes_length}};
    JSValue arguments[] = {lift(engine, &CLIENT, &caller), lift_string(engine, (span){method, method_length}),
                           lift(engine, &PAYLOAD, &given)};
    return engine_answer(CALL, &ANSWER, 3, arguments);
}
POST(call_post, "call", "call")
