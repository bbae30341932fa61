//! Wayleave: a realtime gateway whose rooms are decided by WebAssembly plugins.
//!
//! The way of a message goes through these modules in this order:
//!
//! - [`http`] takes sockets in and upgrades them;
//! - [`session`] is the life of one connection;
//! - [`protocol`] turns bytes into what a client says, and back;
//! - [`router`] decides what comes of it, asking the
//! - [`plugin`]s of the [`generation`] in force;
//! - [`hub`] knows who is here and fills their outboxes.
//!
//! [`gateway`] puts the parts together, [`reload`] replaces generations,
//! [`config`] says what is wanted.

pub mod auth;
pub mod cli;
pub mod cluster;
pub mod config;
mod dial;
pub mod gateway;
pub mod generation;
pub mod http;
pub mod hub;
pub mod id;
pub mod metrics;
pub mod net;
pub mod plugin;
mod prefetch;
pub mod protocol;
pub mod reload;
pub mod room;
pub mod router;
pub mod session;
pub mod traces;
