//! my-plugin: what it decides.
//!
//! As it stands it lets everything be. What each hook is asked, what it may
//! answer and what holds if it fails: `wit/deps/wayleave/hooks.wit`.

use std::sync::OnceLock;

use exports::wayleave::plugin as hooks;
use serde::Deserialize;
use wayleave::plugin as host;

wit_bindgen::generate!({ world: "plugin", path: "wit", generate_all });

struct Plugin;
export!(Plugin);

/// Set by `init`, and never changed: new settings come with a new guest. Nothing
/// else belongs into a static: a guest's memory may be gone at the next call.
static SETTINGS: OnceLock<Settings> = OnceLock::new();

/// What `[plugins.settings]` of the config may hold. A key that is not here is a
/// mistake, which is told when the plugin is loaded.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {}

impl Settings {
    fn from_json(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| format!("settings: {error}"))
    }
}

impl hooks::lifecycle::Guest for Plugin {
    fn init(settings: String) -> hooks::lifecycle::Readiness {
        match Settings::from_json(&settings) {
            Ok(settings) => {
                host::log::log(host::log::Level::Debug, &format!("ready, with {settings:?}"));
                SETTINGS.get_or_init(|| settings);
                hooks::lifecycle::Readiness::Ready
            }
            Err(reason) => hooks::lifecycle::Readiness::Failed(reason),
        }
    }
}

// [authenticate]
/// A connection says hello: who is it?
impl hooks::authenticate::Guest for Plugin {
    fn authenticate(_hello: hooks::authenticate::Hello) -> hooks::authenticate::Authentication {
        // Tokens and the config's `auth.anonymous` decide.
        hooks::authenticate::Authentication::Abstain
    }
}

// [/authenticate]
// [authorize]
/// Somebody wants to join a room: may they, and on which terms?
impl hooks::authorize::Guest for Plugin {
    fn join(_who: host::types::Client, _request: hooks::authorize::JoinRequest) -> hooks::authorize::Admission {
        hooks::authorize::Admission::Allow(hooks::authorize::Terms {
            publish: hooks::authorize::Permission::Configured,
            presence: hooks::authorize::Permission::Configured,
            info: String::new(),
            data: None,
            attributes: Vec::new(),
        })
    }
}

// [/authorize]
// [authorize_publish]
/// Somebody wants to publish a message: may they?
impl hooks::authorize_publish::Guest for Plugin {
    fn publish(_sender: host::types::Client, _message: host::types::Message) -> hooks::authorize_publish::Permit {
        hooks::authorize_publish::Permit::Allow
    }
}

// [/authorize_publish]
// [transform]
/// A message is on its way: what becomes of it?
impl hooks::transform::Guest for Plugin {
    fn transform(_sender: host::types::Client, message: host::types::Message) -> hooks::transform::Verdict {
        match message.payload {
            // One JSON value, and it must stay one. To answer with another text:
            // `Verdict::Replace(host::types::Payload::Text(…))`.
            host::types::Payload::Text(_json) => hooks::transform::Verdict::Pass,
            host::types::Payload::Binary(_bytes) => hooks::transform::Verdict::Pass,
        }
    }
}

// [/transform]
// [route]
/// A message is on its way: who else gets it, or who instead?
impl hooks::route::Guest for Plugin {
    fn route(_sender: host::types::Client, _message: host::types::Message) -> hooks::route::Routing {
        hooks::route::Routing::Pass
    }
}

// [/route]
// [observe]
/// Somebody connected, disconnected, joined or left.
impl hooks::observe::Guest for Plugin {
    fn observe(_event: hooks::observe::Event) -> Vec<host::types::Action> {
        Vec::new()
    }
}

// [/observe]
// [tick]
/// A period is over: the config's `tick` says how long it is.
impl hooks::tick::Guest for Plugin {
    fn tick(_moment: hooks::tick::Moment) -> Vec<host::types::Action> {
        Vec::new()
    }
}

// [/tick]
// [call]
/// A client calls a method.
impl hooks::call::Guest for Plugin {
    fn call(_caller: host::types::Client, method: String, payload: host::types::Payload) -> hooks::call::Answer {
        match method.as_str() {
            "my-plugin.echo" => hooks::call::Answer::Reply(hooks::call::Reply { payload, actions: Vec::new() }),
            // The next plugin is asked.
            _ => hooks::call::Answer::Unknown,
        }
    }
}

// [/call]
/// Of what needs no gateway; `cases/` tests the plugin as it is called live.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_in_the_settings_are_named() {
        assert!(Settings::from_json("{}").is_ok());
        assert!(Settings::from_json(r#"{"nothing":1}"#).unwrap_err().contains("nothing"));
    }
}
