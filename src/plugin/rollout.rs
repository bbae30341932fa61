//! From one content of a plugin to the next: a share of its rooms or users
//! first, then all, and back if it fails more than the one before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Plugin, types::Caller};
use crate::config::{RolloutBy, RolloutConfig};

/// Fewer failures than this say little.
const FAILURES_MIN: u64 = 5;

/// How much more often it may fail than the one before: twice, and this much
/// of all calls besides.
const SLACK: f64 = 0.02;

/// Calls and failures of one plugin, which is all that is compared.
#[derive(Debug, Default)]
pub(super) struct Record {
    calls: AtomicU64,
    failures: AtomicU64,
}

impl Record {
    pub(super) fn called(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// True if it fails so much more often than another that this is not chance.
    fn is_worse_than(&self, other: &Self) -> bool {
        let numbers = |record: &Self| {
            let failures = record.failures.load(Ordering::Relaxed);
            (failures, record.calls.load(Ordering::Relaxed).max(failures).max(1))
        };
        let ((failures, calls), (others, of)) = (numbers(self), numbers(other));
        let rate = failures as f64 / calls as f64;
        failures >= FAILURES_MIN && rate > 2.0 * (others as f64 / of as f64) + SLACK
    }
}

/// What decides about one call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Key<'a> {
    pub(super) room: &'a str,
    pub(super) user: &'a str,
    pub(super) connection: &'a str,
}

impl<'a> Key<'a> {
    /// `room` may be empty.
    pub(super) fn of(caller: Caller<'a>, room: &'a str) -> Self {
        Self { room, user: caller.user, connection: caller.connection }
    }
}

/// How far a plugin has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A share of the calls comes to it.
    Canary,
    /// All calls come to it, and the one before is kept.
    Watched,
    /// The one before is gone.
    Settled,
    /// It failed more than the one before, which has all calls again.
    Withdrawn,
}

impl Phase {
    /// Its name in the API and in metrics.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Watched => "watched",
            Self::Settled => "settled",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// The way of one plugin from its predecessor's place into its own.
#[derive(Debug)]
pub(super) struct Rollout {
    config: RolloutConfig,
    /// Nearly always: nothing is locked then.
    is_settled: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    before: Option<Arc<Plugin>>,
}

impl Rollout {
    /// `before`: who has its place now, if that may go on as it is.
    pub(super) fn new(config: RolloutConfig, before: Option<Arc<Plugin>>, now: Instant) -> Self {
        let phase = match before {
            None => Phase::Settled,
            Some(_) if config.share < 100 => Phase::Canary,
            Some(_) => Phase::Watched,
        };
        let state = State { phase, since: now, before };
        Self { config, is_settled: AtomicBool::new(phase == Phase::Settled), state: Mutex::new(state) }
    }

    pub(super) fn is_settled(&self) -> bool {
        self.is_settled.load(Ordering::Acquire)
    }

    pub(super) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// Who has most of its place, if that is another one.
    pub(super) fn holder(&self) -> Option<Arc<Plugin>> {
        let state = self.state.lock();
        state.before.clone().filter(|_| matches!(state.phase, Phase::Canary | Phase::Withdrawn))
    }

    /// It has become a predecessor itself. Nothing asks it for the time any more,
    /// so it must not keep its own: saves in quick succession would keep all that
    /// there ever were.
    pub(super) fn settle(&self) {
        let mut state = self.state.lock();
        (state.phase, state.before) = (Phase::Settled, None);
        self.is_settled.store(true, Ordering::Release);
    }

    /// Who answers instead of it.
    pub(super) fn instead(&self, key: Key<'_>) -> Option<Arc<Plugin>> {
        if self.is_settled() {
            return None;
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_over = now.duration_since(state.since) >= self.config.watch;
        match state.phase {
            Phase::Canary if is_over => (state.phase, state.since) = (Phase::Watched, now),
            Phase::Watched if is_over => {
                (state.phase, state.before) = (Phase::Settled, None);
                self.is_settled.store(true, Ordering::Release);
            }
            _ => {}
        }
        match state.phase {
            Phase::Canary if self.is_in_share(key) => None,
            Phase::Canary | Phase::Withdrawn => state.before.clone(),
            Phase::Watched | Phase::Settled => None,
        }
    }

    /// The same rooms or users on all instances, whatever the plugin.
    fn is_in_share(&self, key: Key<'_>) -> bool {
        let Key { room, user, connection } = key;
        let order = match self.config.by {
            RolloutBy::Room => [room, user, connection],
            RolloutBy::User => [user, connection, room],
        };
        let name = order.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        let hash = blake3::hash(name.as_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        u64::from(u32::from_le_bytes([a, b, c, d])) * 100 < self.config.share << 32
    }

    /// It has failed. True: it is withdrawn now.
    pub(super) fn failed(&self, record: &Record) -> bool {
        if !self.config.rollback || self.is_settled() {
            return false;
        }
        let mut state = self.state.lock();
        let is_worse = state.before.as_ref().is_some_and(|before| record.is_worse_than(&before.record));
        if !is_worse || !matches!(state.phase, Phase::Canary | Phase::Watched) {
            return false;
        }
        state.phase = Phase::Withdrawn;
        true
    }
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self { share: 100, by: RolloutBy::Room, watch: Duration::from_secs(60), rollback: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_worse_if_it_fails_clearly_more() {
        let record = |calls: u64, failures: u64| Record { calls: calls.into(), failures: failures.into() };
        for (mine, other, is_worse) in [
            ((100, 4), (100, 0), false),
            ((100, 5), (100, 0), true),
            ((1_000, 5), (0, 0), false),
            ((100, 50), (100, 25), false),
            ((100, 60), (100, 25), true),
            ((100, 100), (100, 100), false),
            ((5, 5), (0, 0), true),
        ] {
            let (mine, other) = (record(mine.0, mine.1), record(other.0, other.1));
            assert_eq!(mine.is_worse_than(&other), is_worse, "{mine:?} {other:?}");
        }
    }

    #[test]
    fn a_share_is_about_as_large_as_it_says_and_always_the_same() {
        let config = RolloutConfig { share: 10, ..Default::default() };
        let rollout = Rollout::new(config, None, Instant::now());
        let names: Vec<_> = (0..10_000).map(|n| format!("room:{n}")).collect();
        let is_in = |room: &String| rollout.is_in_share(Key { room, ..Key::default() });
        let n = names.iter().filter(|name| is_in(name)).count();
        assert!((800..1_200).contains(&n), "{n}");
        // What is in a small share is in a larger one too.
        let more = Rollout::new(RolloutConfig { share: 30, ..config }, None, Instant::now());
        assert!(names.iter().filter(|name| is_in(name)).all(|room| more.is_in_share(Key { room, ..Key::default() })));
        let all = Rollout::new(RolloutConfig { share: 100, ..config }, None, Instant::now());
        assert!(names.iter().all(|room| all.is_in_share(Key { room, ..Key::default() })));
    }
}
