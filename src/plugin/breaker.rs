//! Rests a plugin that fails again and again: each failure may cost its whole
//! timeout, and asking once more would most likely end the same.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long failures are remembered together.
const WITHIN: Duration = Duration::from_secs(10);

/// Fewer failures than this say little.
const FAILURES_MIN: u64 = 20;

/// How long a plugin rests before it is tried once.
pub(super) const REST: Duration = Duration::from_secs(5);

/// One plugin's breaker. It opens when half of the calls fail.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// False for nearly all of the time, and then nothing is locked.
    is_open: AtomicBool,
    /// Calls since the first failure that is remembered.
    calls: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    first_failure: Option<Instant>,
    failures: u64,
    /// When it may be tried again.
    rests_until: Option<Instant>,
}

impl Breaker {
    /// True if a call may go on. While it is open one call each rest may, to
    /// see how it ends.
    pub(super) fn allows(&self, now: Instant) -> bool {
        if !self.is_open.load(Ordering::Acquire) {
            return true;
        }
        let mut state = self.state.lock();
        match state.rests_until {
            Some(until) if now < until => false,
            Some(_) => {
                // This one tries; the others rest until it is known.
                state.rests_until = Some(now + REST);
                true
            }
            None => true,
        }
    }

    /// A call went well. True: it closes again.
    pub(super) fn succeeded(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if !self.is_open.load(Ordering::Acquire) {
            return false;
        }
        *self.state.lock() = State::default();
        self.is_open.swap(false, Ordering::AcqRel)
    }

    /// A call failed. True: it opens.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        if state.first_failure.is_none_or(|first| now.duration_since(first) > WITHIN) {
            (state.first_failure, state.failures) = (Some(now), 0);
            self.calls.store(0, Ordering::Relaxed);
        }
        state.failures += 1;
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if state.failures < FAILURES_MIN || state.failures * 2 < calls {
            return false;
        }
        state.rests_until = Some(now + REST);
        !self.is_open.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(breaker: &Breaker, n: u64, now: Instant) -> bool {
        (0..n).any(|_| breaker.failed(now))
    }

    #[test]
    fn it_opens_when_half_of_many_calls_fail_and_closes_when_one_goes_well() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        assert!(!fails(&breaker, FAILURES_MIN - 1, now) && breaker.allows(now));
        assert!(breaker.failed(now), "that was one too many");
        assert!(!breaker.allows(now) && !breaker.allows(now + REST / 2));
        let later = now + REST;
        assert!(breaker.allows(later), "one tries");
        assert!(!breaker.allows(later), "the others wait for how it ends");
        assert!(!breaker.failed(later), "it is open already");
        assert!(!breaker.allows(later + REST / 2));
        let again = later + REST;
        assert!(breaker.allows(again) && breaker.succeeded());
        assert!(breaker.allows(again) && breaker.allows(again));
        assert!(!fails(&breaker, FAILURES_MIN - 1, again), "nothing is left of before");
    }

    #[test]
    fn some_failures_among_many_calls_do_not_open_it() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..1_000 {
            assert!(!breaker.failed(now));
            assert!(!breaker.succeeded() && !breaker.succeeded());
        }
        assert!(breaker.allows(now));
    }

    #[test]
    fn failures_of_long_ago_do_not_count() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..100 {
            assert!(!fails(&breaker, FAILURES_MIN / 2, now));
            now += WITHIN + Duration::from_secs(1);
        }
    }
}
