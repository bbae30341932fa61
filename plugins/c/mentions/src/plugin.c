// Tells mentioned users, and takes announcements to several rooms.
//
// This file speaks with the gateway; find.c reads what people write and is
// tested without one.

#include <stdlib.h>

#include "find.h"
#include "lib/wayleave.h"
#include "settings.h"

typedef exports_wayleave_plugin_route_routing_t routing;
typedef wayleave_plugin_types_target_t target;

// Set by `init`, which the gateway calls before anything else, and never
// changed: new settings come with a new guest.
static settings known;

void exports_wayleave_plugin_lifecycle_init(plugin_string_t *given, exports_wayleave_plugin_lifecycle_readiness_t *ret) {
    buffer problem = {0};
    if (settings_read(text_of(*given), &known, &problem)) {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_READY;
    } else {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_FAILED;
        ret->val.failed = string_give(&problem);
    }
    plugin_string_free(given);
}

// One delivery for all: the payload is the same, and crosses over only once.
static wayleave_plugin_types_delivery_t *delivery(target *to, size_t count, buffer *payload) {
    wayleave_plugin_types_delivery_t *made = allocate(sizeof *made);
    *made = (wayleave_plugin_types_delivery_t){
        .to = {to, count},
        .payload = {.is_some = true,
                    .val = {.tag = WAYLEAVE_PLUGIN_TYPES_PAYLOAD_TEXT, .val.text = string_give(payload)}},
    };
    return made;
}

static void add_member(buffer *object, text key, text value) {
    buffer_add_byte(object, object->length > 1 ? ',' : '{');
    buffer_add_json(object, key);
    buffer_add_byte(object, ':');
    buffer_add(object, value);
}

static void add_text_member(buffer *object, text key, text value) {
    buffer quoted = {0};
    buffer_add_json(&quoted, value);
    add_member(object, key, buffer_text(&quoted));
    buffer_free(&quoted);
}

static bool is_announcer(text user) {
    for (const json *name = known.announcers ? known.announcers->first : NULL; name; name = name->next) {
        if (text_equals(name->string, user)) return true;
    }
    return false;
}

static void announce(text user, text announced, routing *ret) {
    if (!is_announcer(user)) {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_ROUTE_ROUTING_REFUSE;
        ret->val.refuse =
            (wayleave_plugin_types_refusal_t){403, string_copy(TEXT("you are not one of the announcers")), false};
        return;
    }
    size_t count = 0;
    for (const json *room = known.announce_rooms->first; room; room = room->next) count++;
    target *rooms = allocate(count * sizeof *rooms), *next = rooms;
    for (const json *room = known.announce_rooms->first; room; room = room->next) {
        *next++ = (target){.tag = WAYLEAVE_PLUGIN_TYPES_TARGET_ROOM, .val.room = string_copy(room->string)};
    }
    buffer payload = {0};
    add_text_member(&payload, TEXT("kind"), TEXT("announcement"));
    add_text_member(&payload, TEXT("from"), user);
    add_text_member(&payload, TEXT("text"), announced);
    buffer_add_byte(&payload, '}');
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_ROUTE_ROUTING_REPLACE;
    ret->val.replace.ptr = delivery(rooms, count, &payload);
    ret->val.replace.len = 1;
}

static void mention(const text *names, size_t count, text room, text from, text data, routing *ret) {
    target *users = allocate(count * sizeof *users);
    for (size_t i = 0; i < count; i++) {
        users[i] = (target){.tag = WAYLEAVE_PLUGIN_TYPES_TARGET_USER, .val.user = string_copy(names[i])};
    }
    buffer payload = {0};
    add_text_member(&payload, TEXT("kind"), TEXT("mention"));
    add_text_member(&payload, TEXT("room"), room);
    add_text_member(&payload, TEXT("from"), from);
    // The message as it came, byte for byte.
    add_member(&payload, TEXT("data"), data);
    buffer_add_byte(&payload, '}');
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_ROUTE_ROUTING_ADD;
    ret->val.add.ptr = delivery(users, count, &payload);
    ret->val.add.len = 1;
}

static void decide(text user, text room, text json_text, const json *written, routing *ret) {
    if (!written || written->kind != JSON_STRING) return;
    text announced = announcement(written->string);
    if (announced.length > 0) {
        announce(user, announced, ret);
        return;
    }
    text *names = allocate(known.max_mentions * sizeof *names);
    size_t count = mentions(written->string, user, names, known.max_mentions);
    if (count > 0) mention(names, count, room, user, json_text, ret);
    free(names);
}

void exports_wayleave_plugin_route_route(wayleave_plugin_types_client_t *sender,
                                         wayleave_plugin_types_message_t *message, routing *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_ROUTE_ROUTING_PASS;
    bool is_text = message->payload.tag == WAYLEAVE_PLUGIN_TYPES_PAYLOAD_TEXT;
    text given = is_text ? text_of(message->payload.val.text) : TEXT("");
    // Most messages mention nobody: they are not parsed.
    if (may_concern(given)) {
        json_document document = json_parse(given);
        const json *written = json_get(document.root, known.field);
        decide(text_of(sender->user), text_of(message->room), given, written, ret);
        json_free(&document);
    }
    // Arguments belong to the one who is called.
    wayleave_plugin_types_client_free(sender);
    wayleave_plugin_types_message_free(message);
}
