//! Masks, refuses or drops messages that hold a listed word.
//!
//! This file speaks with the gateway; `censor.rs` knows words and JSON and is
//! tested without one.

mod censor;

use std::sync::OnceLock;

use censor::Censor;
use exports::wayleave::plugin::lifecycle::{self, Readiness};
use exports::wayleave::plugin::transform::{self, Client, Message, Payload, Refusal, Verdict};
use serde::Deserialize;
use wayleave::plugin::log::{Level, log};

wit_bindgen::generate!({ world: "plugin", path: "wit", generate_all });

struct Plugin;
export!(Plugin);

/// Set by `init`, which the gateway calls before anything else, and never
/// changed: new settings come with a new guest.
static MODERATION: OnceLock<Moderation> = OnceLock::new();

struct Moderation {
    censor: Censor,
    action: Action,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    words: Vec<String>,
    #[serde(default)]
    action: Action,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    #[default]
    Mask,
    Refuse,
    Drop,
}

impl lifecycle::Guest for Plugin {
    fn init(settings: String) -> Readiness {
        match Moderation::from_settings(&settings) {
            Ok(moderation) => {
                MODERATION.get_or_init(|| moderation);
                Readiness::Ready
            }
            Err(reason) => Readiness::Failed(reason),
        }
    }
}

impl transform::Guest for Plugin {
    fn transform(sender: Client, message: Message) -> Verdict {
        let Payload::Text(json) = &message.payload else {
            return Verdict::Pass;
        };
        let moderation = MODERATION.get().expect("init comes first");
        if !moderation.censor.suspects(json) {
            return Verdict::Pass;
        }
        let masked = match moderation.censor.mask_json(json) {
            Ok(Some(masked)) => masked,
            Ok(None) => return Verdict::Pass,
            // Half a surrogate pair: valid as JSON, but nobody can read or check it.
            Err(_) => return refuse(400, "the text is not valid Unicode"),
        };
        let (verdict, done) = match moderation.action {
            Action::Mask => (Verdict::Replace(Payload::Text(masked)), "masked"),
            Action::Refuse => (refuse(422, "the message holds a word that is not allowed here"), "refused"),
            Action::Drop => (Verdict::Drop, "dropped"),
        };
        log(Level::Info, &format!("{done} message {} of `{}` in `{}`", message.id, sender.user, message.room));
        verdict
    }
}

impl Moderation {
    fn from_settings(settings: &str) -> Result<Self, String> {
        let settings: Settings = serde_json::from_str(settings).map_err(|e| format!("settings: {e}"))?;
        Ok(Self { censor: Censor::new(&settings.words)?, action: settings.action })
    }
}

fn refuse(code: u32, reason: &str) -> Verdict {
    Verdict::Refuse(Refusal { code, reason: reason.to_owned(), temporary: false })
}
