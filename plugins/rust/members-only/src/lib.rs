//! Lets the users and groups that its settings list into their rooms.
//!
//! This file speaks with the gateway; `members.rs` decides and is tested without
//! one.

mod members;

use std::sync::OnceLock;

use exports::wayleave::plugin::authorize::{self, Admission, Client, JoinRequest, Permission, Refusal, Terms};
use exports::wayleave::plugin::lifecycle::{self, Readiness};
use members::Members;

wit_bindgen::generate!({ world: "plugin", path: "wit", generate_all });

struct Plugin;
export!(Plugin);

/// Set by `init`, which the gateway calls before anything else, and never
/// changed: new settings come with a new guest.
static MEMBERS: OnceLock<Members> = OnceLock::new();

impl lifecycle::Guest for Plugin {
    fn init(settings: String) -> Readiness {
        match Members::from_settings(&settings) {
            Ok(members) => {
                MEMBERS.get_or_init(|| members);
                Readiness::Ready
            }
            Err(reason) => Readiness::Failed(reason),
        }
    }
}

impl authorize::Guest for Plugin {
    fn join(who: Client, request: JoinRequest) -> Admission {
        let members = MEMBERS.get().expect("init comes first");
        if members.admits(&request.room, &who.user, &who.info) {
            return Admission::Allow(Terms {
                // What a member may do is left to the room's entry in the config.
                publish: Permission::Configured,
                presence: Permission::Configured,
                info: String::new(),
                data: None,
                attributes: Vec::new(),
            });
        }
        // Code 0 stands for the protocol's own "permission denied". The reason is
        // the same for unknown rooms, so that it does not tell which ones there are.
        Admission::Refuse(Refusal { code: 0, reason: "members only".to_owned(), temporary: false })
    }
}
