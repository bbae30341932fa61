// A plugin. Each hook below is ready to use and changes nothing yet; delete those
// that you do not want, here and in wit/world.wit.
//
// `target/bindings/plugin.h`, which the build makes, has all types and functions.
// Arguments belong to the hook, which frees them at its end; what it answers must be
// on the heap (`string_copy`, `string_give`), for the bindings free it.

#include "lib/wayleave.h"
#include "settings.h"

typedef wayleave_plugin_types_client_t client;
typedef wayleave_plugin_types_message_t message;

// Once for each guest, before anything else. A guest's memory is a cache: there are
// several guests, and each may be replaced at any call. `settings` is the plugin's
// table of the config, as JSON.
void exports_wayleave_plugin_lifecycle_init(plugin_string_t *settings,
                                            exports_wayleave_plugin_lifecycle_readiness_t *ret) {
    text problem = settings_problem(text_of(*settings));
    if (problem.length == 0) {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_READY;
    } else {
        ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_FAILED;
        ret->val.failed = string_copy(problem);
    }
    plugin_string_free(settings);
}

// Once for each new version of the plugin, before it goes live.
void exports_wayleave_plugin_self_test_run(exports_wayleave_plugin_self_test_readiness_t *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_LIFECYCLE_READINESS_READY;
}

// Who is it? Asked if the config's `auth.plugins` names the plugin.
void exports_wayleave_plugin_authenticate_authenticate(exports_wayleave_plugin_authenticate_hello_t *hello,
                                                       exports_wayleave_plugin_authenticate_authentication_t *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_AUTHENTICATE_AUTHENTICATION_ABSTAIN;
    exports_wayleave_plugin_authenticate_hello_free(hello);
}

// May it join, and what may it do there? For each join.
void exports_wayleave_plugin_authorize_join(client *who, exports_wayleave_plugin_authorize_join_request_t *request,
                                            exports_wayleave_plugin_authorize_admission_t *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_AUTHORIZE_ADMISSION_ALLOW;
    ret->val.allow = (exports_wayleave_plugin_authorize_terms_t){
        .publish = EXPORTS_WAYLEAVE_PLUGIN_AUTHORIZE_PERMISSION_CONFIGURED,
        .presence = EXPORTS_WAYLEAVE_PLUGIN_AUTHORIZE_PERMISSION_CONFIGURED,
    };
    wayleave_plugin_types_client_free(who);
    exports_wayleave_plugin_authorize_join_request_free(request);
}

// May it say this? For each message, first.
void exports_wayleave_plugin_authorize_publish_publish(client *sender, message *said,
                                                       exports_wayleave_plugin_authorize_publish_permit_t *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_AUTHORIZE_PUBLISH_PERMIT_ALLOW;
    wayleave_plugin_types_client_free(sender);
    wayleave_plugin_types_message_free(said);
}

// What becomes of it? For each message.
void exports_wayleave_plugin_transform_transform(client *sender, message *said,
                                                 exports_wayleave_plugin_transform_verdict_t *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_TRANSFORM_VERDICT_PASS;
    wayleave_plugin_types_client_free(sender);
    wayleave_plugin_types_message_free(said);
}

// Who gets it? For each message, last.
void exports_wayleave_plugin_route_route(client *sender, message *said,
                                         exports_wayleave_plugin_route_routing_t *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_ROUTE_ROUTING_PASS;
    wayleave_plugin_types_client_free(sender);
    wayleave_plugin_types_message_free(said);
}

// This happened: somebody connected, disconnected, joined or left.
void exports_wayleave_plugin_observe_observe(exports_wayleave_plugin_observe_event_t *event,
                                             exports_wayleave_plugin_observe_list_action_t *ret) {
    *ret = (exports_wayleave_plugin_observe_list_action_t){0};
    exports_wayleave_plugin_observe_event_free(event);
}

// Every period; the config must then have `tick = "10s"`, or so.
void exports_wayleave_plugin_tick_tick(exports_wayleave_plugin_tick_moment_t *moment,
                                       exports_wayleave_plugin_tick_list_action_t *ret) {
    *ret = (exports_wayleave_plugin_tick_list_action_t){0};
    exports_wayleave_plugin_tick_moment_free(moment);
}

// A client calls a method (rpc), or sends something (an empty method).
void exports_wayleave_plugin_call_call(client *caller, plugin_string_t *method,
                                       wayleave_plugin_types_payload_t *payload,
                                       exports_wayleave_plugin_call_answer_t *ret) {
    ret->tag = EXPORTS_WAYLEAVE_PLUGIN_CALL_ANSWER_UNKNOWN;
    wayleave_plugin_types_client_free(caller);
    plugin_string_free(method);
    wayleave_plugin_types_payload_free(payload);
}
