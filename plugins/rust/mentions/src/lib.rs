//! Tells mentioned users, and takes announcements to several rooms.
//!
//! This file speaks with the gateway; `text.rs` reads what people write and is
//! tested without one.

mod text;

use std::sync::OnceLock;

use exports::wayleave::plugin::lifecycle::{self, Readiness};
use exports::wayleave::plugin::route::{self, Client, Delivery, Message, Refusal, Routing};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wayleave::plugin::types::{Payload, Target};

wit_bindgen::generate!({ world: "plugin", path: "wit", generate_all });

struct Plugin;
export!(Plugin);

/// Set by `init`, which the gateway calls before anything else, and never
/// changed: new settings come with a new guest.
static SETTINGS: OnceLock<Settings> = OnceLock::new();

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Where in the payload people write.
    field: String,
    max_mentions: usize,
    announcers: Vec<String>,
    announce_rooms: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { field: "text".to_owned(), max_mentions: 10, announcers: Vec::new(), announce_rooms: Vec::new() }
    }
}

/// What a mentioned user receives.
#[derive(Serialize)]
struct Mention<'a> {
    kind: &'static str,
    room: &'a str,
    from: &'a str,
    /// The message as it came, byte for byte.
    data: &'a RawValue,
}

#[derive(Serialize)]
struct Announcement<'a> {
    kind: &'static str,
    from: &'a str,
    text: &'a str,
}

impl lifecycle::Guest for Plugin {
    fn init(settings: String) -> Readiness {
        match Settings::from_json(&settings) {
            Ok(settings) => {
                SETTINGS.get_or_init(|| settings);
                Readiness::Ready
            }
            Err(reason) => Readiness::Failed(reason),
        }
    }
}

impl route::Guest for Plugin {
    fn route(sender: Client, message: Message) -> Routing {
        let settings = SETTINGS.get().expect("init comes first");
        let Payload::Text(json) = &message.payload else {
            return Routing::Pass;
        };
        // Most messages mention nobody: they are not parsed.
        if !text::may_concern(json) {
            return Routing::Pass;
        }
        let Some(written) = text::field(json, &settings.field) else {
            return Routing::Pass;
        };
        if let Some(text) = text::announcement(&written) {
            return announce(settings, &sender.user, text);
        }
        let names = text::mentions(&written, &sender.user, settings.max_mentions);
        if names.is_empty() {
            return Routing::Pass;
        }
        let mention = Mention {
            kind: "mention",
            room: &message.room,
            from: &sender.user,
            data: serde_json::from_str(json).expect("a text payload is valid JSON"),
        };
        let users = names.into_iter().map(|name| Target::User(name.to_owned())).collect();
        Routing::Add(vec![delivery(users, &mention)])
    }
}

fn announce(settings: &Settings, user: &str, text: &str) -> Routing {
    if !settings.announcers.iter().any(|announcer| announcer == user) {
        return Routing::Refuse(Refusal {
            code: 403,
            reason: "you are not one of the announcers".to_owned(),
            temporary: false,
        });
    }
    let rooms = settings.announce_rooms.iter().cloned().map(Target::Room).collect();
    Routing::Replace(vec![delivery(rooms, &Announcement { kind: "announcement", from: user, text })])
}

/// One delivery for all: the payload is the same, and crosses over only once.
fn delivery(to: Vec<Target>, payload: &impl Serialize) -> Delivery {
    let json = serde_json::to_string(payload).expect("names and texts always serialize");
    Delivery { to, except: Vec::new(), payload: Some(Payload::Text(json)), attributes: Vec::new() }
}

impl Settings {
    fn from_json(json: &str) -> Result<Self, String> {
        let settings: Self = serde_json::from_str(json).map_err(|e| format!("settings: {e}"))?;
        if settings.announcers.iter().any(String::is_empty) {
            return Err("settings: an empty name in `announcers` would let anonymous users announce".to_owned());
        }
        if settings.announce_rooms.is_empty() && !settings.announcers.is_empty() {
            return Err("settings: `announcers` need `announce_rooms`".to_owned());
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_defaults() {
        let settings = Settings::from_json("{}").unwrap();
        assert_eq!((settings.field.as_str(), settings.max_mentions), ("text", 10));
    }

    #[test]
    fn mistakes_in_the_settings_are_named() {
        let error = |json| Settings::from_json(json).err().unwrap();
        assert!(error(r#"{"max_mention":1}"#).contains("max_mention"));
        assert!(error(r#"{"announcers":["ada"]}"#).contains("announce_rooms"));
        assert!(error(r#"{"announcers":[""],"announce_rooms":["all"]}"#).contains("anonymous"));
    }
}
