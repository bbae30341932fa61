//! The gateway and others under the same load.

#![allow(dead_code, reason = "no bench uses all of it")]

pub(crate) mod contestant;
pub(crate) mod dialect;
pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod redis;
pub(crate) mod scenario;
pub(crate) mod server;
pub(crate) mod site;
pub(crate) mod watch;
