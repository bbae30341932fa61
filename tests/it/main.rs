//! The gateway as its users meet it: real sockets, real compiled plugins.
//!
//! Each test starts a gateway of its own on a free port and speaks to it. None
//! sleeps to synchronise: they wait for a condition under a deadline.

#![allow(clippy::unwrap_used, reason = "a test ends with its first trouble")]
#![allow(clippy::disallowed_methods, reason = "no drain waits for the tasks of a test")]
#![expect(unreachable_pub, reason = "one crate; `pub` marks what its modules share")]

mod api;
mod bad_clients;
mod bad_plugins;
mod bindings;
mod cli;
mod cluster;
mod connect;
mod cookbook;
mod dashboards;
mod deploy;
mod drain;
mod faults;
mod generated;
mod grants;
mod hostile;
mod identity;
mod infra;
mod metrics;
mod own_methods;
mod plugin_cli;
mod plugins;
mod raw_frames;
mod reference;
mod reload;
mod rollout;
mod rooms;
mod scripts;
mod secrecy;
mod secrets;
mod sites;
mod slow;
mod soak;
mod support;
mod tls;
mod traces;
mod tutorials;
