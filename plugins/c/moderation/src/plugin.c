// Masks, refuses or drops messages that hold a listed word.
//
// This file speaks with the gateway; censor.c knows words and JSON and is
// tested without one.

#include "censor.h"
#include "lib/wayleave.h"
#include "settings.h"

typedef exports_wayleave_plugin_transform_verdict_t verdict;

// Set by `init`, which the gateway calls before anything else, and never
// changed: new settings come with a new guest.
static settings moderation;

void exports_wayleave_plugin_lifecycle_init(plugin_string_t *given, exports_wayleave_plugin_lifecycle_readiness_t *ret) {
    buffer problem = {0};
    if (settings_read(text_of(*given), &moderation, &problem)) {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_READY;
    } else {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_FAILED;
        ret->val.failed = string_give(&problem);
    }
    plugin_string_free(given);
}

static void refuse(verdict *ret, uint32_t code, text reason) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_TRANSFORM_VERDICT_REFUSE;
    ret->val.refuse = (wayleave_plugin_types_refusal_t){code, string_copy(reason), false};
}

static void log_done(text done, text id, text user, text room) {
    buffer line = {0};
    buffer_add(&line, done);
    buffer_add(&line, TEXT(" message "));
    buffer_add(&line, id);
    buffer_add(&line, TEXT(" of `"));
    buffer_add(&line, user);
    buffer_add(&line, TEXT("` in `"));
    buffer_add(&line, room);
    buffer_add(&line, TEXT("`"));
    // A host function borrows what it is given.
    plugin_string_t string = {(uint8_t *)line.at, line.length};
    wayleave_plugin_log_log(WAYLEAVE_PLUGIN_LOG_LEVEL_INFO, &string);
    buffer_free(&line);
}

static void judge(const wayleave_plugin_types_client_t *sender, const wayleave_plugin_types_message_t *message,
                  verdict *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_TRANSFORM_VERDICT_PASS;
    if (message->payload.tag != WAYLEAVE_PLUGIN_TYPES_PAYLOAD_TEXT) return;
    text json = text_of(message->payload.val.text);
    if (!censor_suspects(&moderation.censor, json)) return;
    buffer masked = {0};
    switch (censor_mask_json(&moderation.censor, json, &masked)) {
    case CENSOR_CLEAN: return;
    case CENSOR_NOT_UNICODE:
        // Half a surrogate pair: valid as JSON, but nobody can read or check it.
        refuse(ret, 400, TEXT("the text is not valid Unicode"));
        return;
    case CENSOR_MASKED: break;
    }
    text done = TEXT("");
    switch (moderation.action) {
    case MASK:
        done = TEXT("masked");
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_TRANSFORM_VERDICT_REPLACE;
        ret->val.replace.tag = WAYLEAVE_PLUGIN_TYPES_PAYLOAD_TEXT;
        ret->val.replace.val.text = string_give(&masked);
        break;
    case REFUSE:
        done = TEXT("refused");
        refuse(ret, 422, TEXT("the message holds a word that is not allowed here"));
        break;
    case DROP:
        done = TEXT("dropped");
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_TRANSFORM_VERDICT_DROP;
        break;
    }
    buffer_free(&masked);
    log_done(done, text_of(message->id), text_of(sender->user), text_of(message->room));
}

void exports_wayleave_plugin_transform_transform(wayleave_plugin_types_client_t *sender,
                                                 wayleave_plugin_types_message_t *message, verdict *ret) {
    judge(sender, message, ret);
    // Arguments belong to the one who is called.
    wayleave_plugin_types_client_free(sender);
    wayleave_plugin_types_message_free(message);
}
