//! Plugins and what they are asked.

#![allow(clippy::unwrap_used, reason = "a bench ends with its first trouble")]

use std::{fmt, path::Path, sync::Arc};

use wayleave::{
    config::Config,
    hub::Hub,
    metrics::Metrics,
    plugin::{Admission, Caller, JoinView, MemoryStore, MessageView, Plugin, PluginHost, Routing, Verdict},
    protocol::Payload,
    router::HubLookup,
};

/// Settings of the moderation example.
pub(crate) const WORDS: [&str; 3] = ["darn", "heck", "dang"];

pub(crate) const CALLER: Caller<'_> =
    Caller { connection: "00112233445566778899aabbccddeeff", user: "ada", info: "{\"name\":\"Ada\"}" };
pub(crate) const ID: &str = "0123456789abcdef-1f";
pub(crate) const ROOM: &str = "chat:lobby";

/// One that compiles each plugin anew.
pub(crate) fn host() -> PluginHost {
    PluginHost::open(None, Arc::new(MemoryStore::default()), Arc::new(HubLookup(Arc::new(Hub::new()))), Metrics::new())
        .unwrap()
}

/// A file, or a folder with a built plugin; `more` follows in its config. None,
/// and a line, if it is not built.
pub(crate) fn load(host: &PluginHost, path: &str, more: &str) -> Option<Arc<Plugin>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join(path).is_file() && built(path).is_none() {
        println!("left out: {path} is not built; `make plugins` builds it");
        return None;
    }
    let text = format!("[[plugins]]\nname = \"bench\"\npath = \"{path}\"\n{more}");
    let config = Config::parse(&text, root, &Default::default()).unwrap();
    Some(host.load(&config.plugins, &[]).unwrap().remove(0))
}

/// What a folder's plugin was built to.
pub(crate) fn built(folder: &str) -> Option<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    ["plugin.js", "plugin.wasm"].map(|file| folder.join(file)).into_iter().find(|file| file.is_file())
}

/// 200 bytes of JSON that begin with a text.
pub(crate) fn body(text: &str) -> Payload {
    let mut body = format!("{{\"text\":\"{text}");
    body += &"some words that say nothing ".repeat(10)[..198 - body.len()];
    Payload::Text(body + "\"}")
}

pub(crate) fn publish(plugin: &Plugin, payload: &Payload) {
    match plugin.publish(CALLER, message(payload)) {
        Ok(Ok(())) => {}
        other => stop(&other),
    }
}

pub(crate) fn transform(plugin: &Plugin, payload: &Payload) {
    match plugin.transform(CALLER, message(payload)) {
        Ok(Verdict::Pass | Verdict::Replace(_)) => {}
        other => stop(&other),
    }
}

pub(crate) fn route(plugin: &Plugin, payload: &Payload) {
    match plugin.route(CALLER, message(payload)) {
        Ok(Routing::Pass | Routing::Add(_)) => {}
        other => stop(&other),
    }
}

pub(crate) fn join(plugin: &Plugin) {
    match plugin.join(CALLER, JoinView { room: ROOM, token: "", data: None }) {
        Ok(Admission::Allow(_)) => {}
        other => stop(&other),
    }
}

fn message(payload: &Payload) -> MessageView<'_> {
    MessageView { id: ID, room: ROOM, payload }
}

fn stop(what: &dyn fmt::Debug) -> ! {
    panic!("not what was to be measured: {what:?}")
}
