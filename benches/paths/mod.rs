//! The paths whose instructions are counted.

mod decode;
mod hooks;
mod instance;
mod rooms;

use anyhow::Result;

/// Bytes of a message's data, where a path does not say otherwise.
const DATA: usize = 128;

/// Something that the gateway does often.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    /// How often it is done to be counted: enough that what is left of the start
    /// is nothing beside it.
    pub(crate) count: u32,
    /// Does it so often.
    pub(crate) run: fn(u32) -> Result<()>,
}

pub(crate) const ALL: [Path; 10] = [
    Path { name: "decode", count: 5_000, run: decode::json },
    Path { name: "decode-protobuf", count: 5_000, run: decode::protobuf },
    Path { name: "connect", count: 500, run: rooms::connect },
    Path { name: "join", count: 1_000, run: rooms::join },
    Path { name: "message", count: 1_000, run: rooms::message },
    Path { name: "publish-1", count: 2_000, run: rooms::publish_to_one },
    Path { name: "publish-100", count: 200, run: rooms::publish_to_hundred },
    Path { name: "kept", count: 2_000, run: rooms::keep },
    Path { name: "hook", count: 1_000, run: hooks::one },
    Path { name: "hooks-3", count: 500, run: hooks::three },
];

/// Does beforehand what is kept from run to run.
pub(crate) fn prepare() -> Result<()> {
    hooks::three(1)
}
