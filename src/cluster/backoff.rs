//! How long to wait before the next attempt.

use std::time::Duration;

/// The first wait is at most this long.
const FIRST: Duration = Duration::from_millis(50);

/// No wait is longer.
pub(super) const LONGEST: Duration = Duration::from_secs(2);

/// Full jitter: each wait is anything up to a bound that doubles. Many
/// instances that lost the same Redis come back spread out.
#[derive(Debug)]
pub(super) struct Backoff {
    bound: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { bound: FIRST }
    }
}

impl Backoff {
    /// It went well: the next wait is short again.
    pub(super) fn reset(&mut self) {
        self.bound = FIRST;
    }

    /// Waits.
    pub(super) async fn wait(&mut self) {
        let wait = spread(Duration::ZERO, self.bound);
        self.bound = (self.bound * 2).min(LONGEST);
        tokio::time::sleep(wait).await;
    }
}

/// Anything from `from` to `to`.
pub(super) fn spread(from: Duration, to: Duration) -> Duration {
    let random = f64::from(u32::from_le_bytes(crate::id::random_bytes())) / f64::from(u32::MAX);
    from + to.saturating_sub(from).mul_f64(random)
}
