//! A token bucket that may go into debt: first the client is told, then it
//! is closed.

use tokio::time::Instant;

/// How many things may still be done.
#[derive(Debug)]
pub(super) struct Bucket {
    level: f64,
    at: Instant,
}

/// Whether one more thing may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// Not now; it is in debt.
    No,
    /// It went on and is as deep in debt as it could have saved.
    Flood,
}

impl Bucket {
    pub(super) fn new(now: Instant, burst: u64) -> Self {
        Self { level: burst as f64, at: now }
    }

    pub(super) fn take(&mut self, now: Instant, per_second: u64, burst: u64) -> Taken {
        let burst = burst as f64;
        let refill = now.duration_since(self.at).as_secs_f64() * per_second as f64;
        self.level = (self.level + refill).min(burst) - 1.0;
        self.at = now;
        if self.level >= 0.0 {
            Taken::Yes
        } else if self.level > -burst {
            Taken::No
        } else {
            Taken::Flood
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_is_let_through_then_told_then_closed() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now, 3);
        let mut take = |ms| bucket.take(now + Duration::from_millis(ms), 10, 3);
        assert_eq!([take(0), take(0), take(0)], [Taken::Yes; 3]);
        assert_eq!([take(0), take(0)], [Taken::No; 2]);
        assert_eq!(take(300), Taken::Yes);
        assert_eq!([take(300), take(300), take(300)], [Taken::No, Taken::No, Taken::Flood]);
    }
}
