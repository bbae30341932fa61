//! What a plugin's hook costs on the way of a message: CPU of the calling
//! thread, guests warm, a 200-byte body. Beside it the emptiest guest there
//! is, and the same rule in native code.

#![allow(clippy::unwrap_used, reason = "a bench ends with its first trouble")]

mod support;

use std::{fmt, hint::black_box, path::Path, sync::Arc};

use support::{machine, stats::median, table};
use wayleave::{
    config::Config,
    metrics::Metrics,
    plugin::{
        Admission, Caller, JoinView, Lookup, MemoryStore, MessageView, Plugin, PluginHost, Routing, Unavailable,
        Verdict,
    },
    protocol::{MemberInfo, Payload},
};

/// Calls in one measurement, and how many there are.
const CALLS: u32 = 2_000;
const BATCHES: usize = 31;

/// The words of the example's settings.
const WORDS: [&str; 3] = ["darn", "heck", "dang"];

#[derive(Debug)]
struct Nobody;

impl Lookup for Nobody {
    fn count(&self, _room: &str) -> Result<(usize, usize), Unavailable> {
        Ok((0, 0))
    }
    fn members(&self, _room: &str, _limit: usize) -> Result<Vec<MemberInfo>, Unavailable> {
        Ok(Vec::new())
    }
    fn connections(&self, _user: &str) -> Result<Vec<String>, Unavailable> {
        Ok(Vec::new())
    }
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("hooks: {}", machine::line());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let host = PluginHost::open(None, Arc::new(MemoryStore::default()), Arc::new(Nobody), Metrics::new()).unwrap();
    let load = |name: &str, path: &str, more: &str| -> Option<Arc<Plugin>> {
        let is_built = |file: &&str| root.join(path).join(file).is_file();
        if !root.join(path).is_file() && !["plugin.wasm", "plugin.js"].iter().any(is_built) {
            println!("left out: {path} is not built; `make plugins` builds it");
            return None;
        }
        let text = format!("[[plugins]]\nname = \"{name}\"\npath = \"{path}\"\n{more}");
        let config = Config::parse(&text, root, &Default::default()).unwrap();
        Some(host.load(&config.plugins, &[]).unwrap().remove(0))
    };
    let words = "grants = [\"log\"]\n[plugins.settings]\nwords = [\"darn\", \"heck\", \"dang\"]";
    let pass = load("pass", "plugins/fixtures/pass.wat", "");
    let moderation = load("moderation", "plugins/rust/moderation", words);
    let script = load("moderation-ts", "plugins/typescript/moderation", words);
    let mentions = load("mentions", "plugins/rust/mentions", "");
    let c = load("moderation-c", "plugins/c/moderation", words);
    let empty_script = load("pass-js", "plugins/fixtures/pass.js", "");
    let mentions_script = load("mentions-ts", "plugins/typescript/mentions", "");
    let rooms = "[plugins.settings.rooms]\n\"chat:*\" = [\"ada\"]";
    let members = load("members-only", "plugins/typescript/members-only", rooms);
    let members_c = load("members-only-c", "plugins/c/members-only", rooms);

    let body = |text: &str| {
        let mut body = format!("{{\"text\":\"{text}");
        body += &"some words that say nothing ".repeat(10)[..198 - body.len()];
        Payload::Text(body + "\"}")
    };
    let (clean, dirty, mention) = (body(""), body("oh darn it "), body("ask @grace and @bob "));
    let mut rows = Vec::new();
    let mut row = |name: &str, cost: Option<f64>| {
        rows.push(vec![name.to_owned(), table::figure(cost.unwrap_or(f64::NAN), 2)]);
    };
    row(
        "native, clean",
        Some(measure(|| {
            black_box(native(black_box(&clean)));
        })),
    );
    row("emptiest guest (component text)", pass.as_deref().map(|plugin| transform(plugin, &clean)));
    row("moderation (Rust), clean", moderation.as_deref().map(|plugin| transform(plugin, &clean)));
    row("moderation (Rust), masked", moderation.as_deref().map(|plugin| transform(plugin, &dirty)));
    row("moderation (C), clean", c.as_deref().map(|plugin| transform(plugin, &clean)));
    row("moderation (C), masked", c.as_deref().map(|plugin| transform(plugin, &dirty)));
    row("members-only (C)", members_c.as_deref().map(join));
    row("mentions (Rust), none", mentions.as_deref().map(|plugin| route(plugin, &clean)));
    row("mentions (Rust), two", mentions.as_deref().map(|plugin| route(plugin, &mention)));
    row("emptiest script, transform", empty_script.as_deref().map(|plugin| transform(plugin, &clean)));
    row("emptiest script, route", empty_script.as_deref().map(|plugin| route(plugin, &clean)));
    row("emptiest script, authorize", empty_script.as_deref().map(join));
    row("members-only (TypeScript)", members.as_deref().map(join));
    row("mentions (TypeScript), none", mentions_script.as_deref().map(|plugin| route(plugin, &clean)));
    row("mentions (TypeScript), two", mentions_script.as_deref().map(|plugin| route(plugin, &mention)));
    row("moderation (TypeScript), clean", script.as_deref().map(|plugin| transform(plugin, &clean)));
    row("moderation (TypeScript), masked", script.as_deref().map(|plugin| transform(plugin, &dirty)));
    if let (Some(moderation), Some(mentions)) = (&moderation, &mentions) {
        let three = measure(|| {
            transform_once(moderation, &clean);
            transform_once(moderation, &clean);
            route_once(mentions, &clean);
        });
        row("three hooks in a row (Rust), clean", Some(three));
    }
    println!("\nCPU a call, 200-byte body, medians of {BATCHES} batches of {CALLS}");
    table::print(&["hook", "us"], &rows);
}

const CALLER: Caller<'_> =
    Caller { connection: "00112233445566778899aabbccddeeff", user: "ada", info: "{\"name\":\"Ada\"}" };

fn message(payload: &Payload) -> MessageView<'_> {
    MessageView { id: "0123456789abcdef-1f", room: "chat:lobby", payload }
}

fn transform(plugin: &Plugin, payload: &Payload) -> f64 {
    measure(|| transform_once(plugin, payload))
}

fn transform_once(plugin: &Plugin, payload: &Payload) {
    match plugin.transform(CALLER, message(payload)) {
        Ok(Verdict::Pass | Verdict::Replace(_)) => {}
        other => stop(&other),
    }
}

fn route(plugin: &Plugin, payload: &Payload) -> f64 {
    measure(|| route_once(plugin, payload))
}

fn route_once(plugin: &Plugin, payload: &Payload) {
    match plugin.route(CALLER, message(payload)) {
        Ok(Routing::Pass | Routing::Add(_)) => {}
        other => stop(&other),
    }
}

fn join(plugin: &Plugin) -> f64 {
    let join = JoinView { room: "chat:lobby", token: "", data: None };
    measure(|| match plugin.join(CALLER, join) {
        Ok(Admission::Allow(_)) => {}
        other => stop(&other),
    })
}

fn stop(what: &dyn fmt::Debug) -> ! {
    panic!("not what was to be measured: {what:?}")
}

/// The clean case of the rule in native code: is a listed word in there?
fn native(payload: &Payload) -> bool {
    let Payload::Text(text) = payload else { return false };
    let folded = text.to_lowercase();
    WORDS.iter().any(|word| folded.contains(word))
}

/// CPU microseconds of this thread for one call, the median over batches.
fn measure(mut call: impl FnMut()) -> f64 {
    let mut batch = || {
        let before = on_cpu();
        (0..CALLS).for_each(|_| call());
        (on_cpu() - before) as f64 / 1e3 / f64::from(CALLS)
    };
    batch();
    median((0..BATCHES).map(|_| batch()))
}

/// Nanoseconds that this thread has been on a CPU.
fn on_cpu() -> u64 {
    // The kernel accounts at the next switch; to yield makes it do so.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
