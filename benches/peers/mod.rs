//! The gateway and Socket.IO side by side: several servers of one kind that
//! share a Redis, and the clients that load them.

pub(crate) mod dialect;
pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod redis;
pub(crate) mod site;
pub(crate) mod watch;
