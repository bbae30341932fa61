//! Version 1.0.0 of the interface: figures, secrets, requests, and actions by name.

use convert::{delivery, json_or_empty, mover};
use wasmtime::component::{HasSelf, Linker};

use self::bindings::wayleave::plugin::types as wit;
use super::{BadAnswer, Version};
use crate::{
    plugin::{
        host::HostState,
        types::{Action, Grant},
    },
    protocol::Close,
};

mod added;

#[path = "shared/convert.rs"]
mod convert;
#[path = "shared/hooks.rs"]
mod hooks;
#[path = "shared/imports.rs"]
mod imports;

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/1.0.0",
        world: "wayleave:plugin/all",
        ownership: Borrowing { duplicate_if_necessary: true },
        imports: { default: trappable },
    });
}

const VERSION: &str = "1.0.0";

pub(super) const MODULE: Version =
    Version { number: VERSION, link, indices: |pre, has| Ok(Box::new(hooks::Indices::new(pre, has)?)) };

/// Adds the granted interfaces to a linker, and no others.
fn link(linker: &mut Linker<HostState>, grants: &[Grant]) -> wasmtime::Result<()> {
    use bindings::wayleave::plugin as wit;
    type Own = HasSelf<HostState>;
    wit::types::add_to_linker::<_, Own>(linker, |state| state)?;
    for grant in grants {
        match grant {
            Grant::Log => wit::log::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Kv => wit::kv::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Lookup => wit::lookup::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Clock => wit::clock::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Random => wit::random::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Metrics => wit::metrics::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Secrets => wit::secrets::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Http => wit::http::add_to_linker::<_, Own>(linker, |state| state)?,
        }
    }
    Ok(())
}

fn action(action: wit::Action) -> Result<Action, BadAnswer> {
    Ok(match action {
        wit::Action::Send(send) => Action::Send(delivery(send)?),
        wit::Action::Join(join) => Action::Join { who: mover(join.who)?, room: join.room },
        wit::Action::Leave(leave) => Action::Leave { who: mover(leave.who)?, room: leave.room },
        wit::Action::SetInfo(change) => {
            Action::SetInfo { connection: change.connection, info: json_or_empty(change.info)? }
        }
        wit::Action::Disconnect(end) => {
            Action::Disconnect { who: end.who.into(), close: Close::from_plugin(end.code, &end.reason) }
        }
        wit::Action::Perform(command) => added::command(&command.name, &command.arguments)?,
    })
}
