//! The ways to speak WebSocket that `codecs` compares.

#![expect(clippy::disallowed_methods, reason = "no drain waits for the tasks of a stand-in")]

mod direct;
mod fast;
mod http;
mod tokio_tungstenite;
mod tokio_websockets;

use anyhow::{Result, bail};

use crate::support::args::Serve;
use crate::support::floor;

/// In the order of the table. The floors of a burst come first, since each
/// round's ratios are to them.
pub(crate) const NAMES: [&str; 11] = [
    "bare write",
    "bare write of 10",
    "bare write of 64",
    "raw tokio",
    "tokio-tungstenite",
    "tokio-websockets",
    "fastwebsockets",
    "direct",
    "direct, joined",
    "direct, outbox",
    "direct, own buffer",
];

/// Becomes the server of that name.
pub(crate) fn serve(serve: &Serve) -> Result<()> {
    match serve.name.as_str() {
        "tokio-tungstenite" => tokio_tungstenite::serve(serve.payload),
        "tokio-websockets" => tokio_websockets::serve(serve.payload),
        "fastwebsockets" => fast::serve(serve.payload),
        "direct" => direct::serve(serve.payload, direct::Way::EachMessage),
        "direct, joined" => direct::serve(serve.payload, direct::Way::Joined),
        "direct, outbox" => direct::serve(serve.payload, direct::Way::Outbox),
        "direct, own buffer" => direct::serve(serve.payload, direct::Way::OwnBuffer),
        other if !floor::serve(serve)? => bail!("no contestant `{other}`"),
        _ => Ok(()),
    }
}
