//! What a plugin's hook costs on the way of a message: CPU of the calling
//! thread, guests warm, a 200-byte body. Beside it the emptiest guests there
//! are, and the same rule in native code.

#![allow(clippy::unwrap_used, reason = "a bench ends with its first trouble")]

mod support;

use std::hint::black_box;

use support::{
    cpu::{BATCHES, CALLS, measure},
    machine,
    plugins::{WORDS, body, host, join, load, route, transform},
    table,
};
use wayleave::protocol::Payload;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    println!("hooks: {}", machine::line());
    let host = host();
    let words = format!("grants = [\"log\"]\n[plugins.settings]\nwords = {WORDS:?}");
    let pass = load(&host, "plugins/fixtures/pass.wat", "");
    let script = load(&host, "plugins/fixtures/pass.js", "");
    let moderation = load(&host, "plugins/rust/moderation", &words);
    let mentions = load(&host, "plugins/rust/mentions", "");

    let (clean, dirty, mention) = (body(""), body("oh darn it "), body("ask @grace and @bob "));
    let mut rows = Vec::new();
    let mut row = |name: &str, call: &mut dyn FnMut()| {
        rows.push(vec![name.to_owned(), table::figure(measure(call), 2)]);
    };
    row("native, clean", &mut || _ = black_box(native(black_box(&clean))));
    if let Some(pass) = &pass {
        row("emptiest guest (component text)", &mut || transform(pass, &clean));
    }
    if let Some(script) = &script {
        row("emptiest script, transform", &mut || transform(script, &clean));
        row("emptiest script, route", &mut || route(script, &clean));
        row("emptiest script, authorize", &mut || join(script));
    }
    if let (Some(moderation), Some(mentions)) = (&moderation, &mentions) {
        row("moderation (Rust), clean", &mut || transform(moderation, &clean));
        row("moderation (Rust), masked", &mut || transform(moderation, &dirty));
        row("mentions (Rust), none", &mut || route(mentions, &clean));
        row("mentions (Rust), two", &mut || route(mentions, &mention));
        let mut three = || {
            transform(moderation, &clean);
            transform(moderation, &clean);
            route(mentions, &clean);
        };
        row("three hooks in a row (Rust), clean", &mut three);
    }
    println!("\nCPU a call, 200-byte body, medians of {BATCHES} batches of {CALLS}");
    table::print(&["hook", "us"], &rows);
}

/// The clean case of the rule in native code: is a listed word in there?
fn native(payload: &Payload) -> bool {
    let Payload::Text(text) = payload else { return false };
    let folded = text.to_lowercase();
    WORDS.iter().any(|word| folded.contains(word))
}
