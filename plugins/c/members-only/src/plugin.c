// Lets the users and groups that its settings list into their rooms.
//
// This file speaks with the gateway; members.c decides and is tested without one.

#include "lib/wayleave.h"
#include "members.h"

// Set by `init`, which the gateway calls before anything else.
static members listed;

void exports_wayleave_plugin_lifecycle_init(plugin_string_t *settings, exports_wayleave_plugin_lifecycle_readiness_t *ret) {
    buffer problem = {0};
    if (members_read(text_of(*settings), &listed, &problem)) {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_READY;
    } else {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_FAILED;
        ret->val.failed = string_give(&problem);
    }
    plugin_string_free(settings);
}

void exports_wayleave_plugin_authorize_join(wayleave_plugin_types_client_t *who,
                                            exports_wayleave_plugin_authorize_join_request_t *request,
                                            exports_wayleave_plugin_authorize_admission_t *ret) {
    if (members_admits(&listed, text_of(request->room), text_of(who->user), text_of(who->info))) {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_AUTHORIZE_ADMISSION_ALLOW;
        // What a member may do is left to the room's entry in the config.
        ret->val.allow = (exports_wayleave_plugin_authorize_terms_t){
            .publish = EXPORTS_WAYLEAVE_PLUGIN_AUTHORIZE_PERMISSION_CONFIGURED,
            .presence = EXPORTS_WAYLEAVE_PLUGIN_AUTHORIZE_PERMISSION_CONFIGURED,
        };
    } else {
        // Code 0 stands for the protocol's own "permission denied". The reason is
        // the same for unknown rooms, so that it does not tell which ones there are.
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_AUTHORIZE_ADMISSION_REFUSE;
        ret->val.refuse = (wayleave_plugin_types_refusal_t){0, string_copy(TEXT("members only")), false};
    }
    // Arguments belong to the one who is called.
    wayleave_plugin_types_client_free(who);
    exports_wayleave_plugin_authorize_join_request_free(request);
}
