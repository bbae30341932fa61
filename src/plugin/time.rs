//! What time it is, for whatever plugins see of it.

use std::{fmt, time::Instant};

/// A clock.
pub trait Time: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970-01-01 UTC.
    fn wall(&self) -> u64;
    /// Never goes back.
    fn monotonic(&self) -> Instant;
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemTime;

impl Time for SystemTime {
    fn wall(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}
