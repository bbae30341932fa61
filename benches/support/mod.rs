//! What the benches share: stand-in servers to measure against, the load
//! client, and the reading of a server's CPU time and memory.
//!
//! Every server runs in a child process and every client in the bench itself,
//! so that the kernel's figures for the child are the server's alone.

#![allow(dead_code, reason = "each bench takes the parts that it needs")]
#![expect(clippy::disallowed_methods, reason = "no drain waits for the tasks of a stand-in")]

pub(crate) mod args;
pub(crate) mod centrifuge;
pub(crate) mod client;
pub(crate) mod cpu;
pub(crate) mod crowd;
pub(crate) mod floor;
pub(crate) mod gateway;
pub(crate) mod http_hook;
pub(crate) mod machine;
pub(crate) mod orders;
pub(crate) mod plugins;
pub(crate) mod process;
pub(crate) mod room;
pub(crate) mod stand_in;
pub(crate) mod stats;
pub(crate) mod table;
pub(crate) mod tally;
pub(crate) mod tokio_room;
pub(crate) mod wire;
