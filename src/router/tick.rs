//! Asks plugins every period, on the instance whose turn it is.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Router;
use crate::{plugin::MomentView, session::flusher::Batch};

/// Whose turn it is to do what only one instance of a cluster does at a time.
pub trait Turn: Send + Sync + fmt::Debug {
    /// True if this instance is to do this job now; the name says which. It
    /// answers from memory, at once, and no when in doubt.
    fn is_mine(&self, job: &str) -> bool;
}

/// Without a cluster, every job is one's own.
#[derive(Debug, Clone, Copy)]
pub struct Alone;

impl Turn for Alone {
    fn is_mine(&self, _job: &str) -> bool {
        true
    }
}

/// Asks the plugins of the generation in force, each in its own period.
#[derive(Debug)]
pub struct Ticker {
    router: Arc<Router>,
    turn: Arc<dyn Turn>,
    tasks: TaskTracker,
}

impl Ticker {
    /// Its calls run on `tasks`.
    #[must_use]
    pub fn new(router: Arc<Router>, turn: Arc<dyn Turn>, tasks: TaskTracker) -> Self {
        Self { router, turn, tasks }
    }

    /// Runs until the token is cancelled; a call that is under way ends by
    /// itself.
    pub async fn run(self, stop: CancellationToken) {
        let mut replaced = self.router.replacements();
        let mut schedule = Schedule::default();
        let mut running = HashMap::new();
        loop {
            let periods = self.router.generation();
            schedule.adopt(periods.tickers().map(|(plugin, period)| (plugin.name(), period)), Instant::now());
            // It would keep the plugins of a generation that is gone.
            drop(periods);
            let next = async {
                match schedule.next() {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = replaced.changed() => {}
                () = next => self.ask(schedule.take_due(Instant::now()), &mut running),
            }
        }
    }

    /// Asks each in a task of its own: a slow one keeps no other waiting, and
    /// itself misses ticks.
    fn ask(&self, due: Vec<String>, running: &mut HashMap<String, JoinHandle<()>>) {
        running.retain(|_, call| !call.is_finished());
        for name in due {
            if let Entry::Vacant(slot) = running.entry(name) {
                let (router, turn, plugin) = (Arc::clone(&self.router), Arc::clone(&self.turn), slot.key().clone());
                slot.insert(self.tasks.spawn(async move { router.tick(&plugin, &*turn) }));
            }
        }
    }
}

impl Router {
    /// Asks a plugin, if it is this instance's turn, and performs what it wants
    /// done.
    fn tick(self: &Arc<Self>, plugin: &str, turn: &dyn Turn) {
        if !turn.is_mine(&format!("tick:{plugin}")) {
            return;
        }
        // A reload may have come between: what is in force now counts.
        let generation = self.generation();
        let Some((plugin, period)) = generation.tickers().find(|(ticker, _)| ticker.name() == plugin) else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let moment = MomentView { now: u64::try_from(now.as_millis()).unwrap_or(u64::MAX), period };
        // A failure is logged and counted by the plugin; there is nothing to
        // refuse.
        let Ok(actions) = plugin.tick(moment) else { return };
        self.perform(&generation, actions, 0, &mut Batch::new(&self.flusher));
    }
}

/// When each plugin is to be asked next, by name.
#[derive(Debug, Default)]
struct Schedule(BTreeMap<String, Job>);

#[derive(Debug)]
struct Job {
    period: Duration,
    due: Instant,
}

impl Schedule {
    /// Has these plugins from now on. One that was there counts its period, be
    /// it another one, from its last tick; a new one counts from now.
    fn adopt<'a>(&mut self, periods: impl Iterator<Item = (&'a str, Duration)>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for (name, period) in periods {
            let due = before.remove(name).map_or(now + period, |job| job.due - job.period + period);
            self.0.insert(name.to_owned(), Job { period, due });
        }
    }

    /// When the first of them is due.
    fn next(&self) -> Option<Instant> {
        self.0.values().map(|job| job.due).min()
    }

    /// Those whose time has come. What was missed besides is not caught up.
    fn take_due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        for (name, job) in self.0.iter_mut().filter(|(_, job)| job.due <= now) {
            let next = job.due + job.period;
            job.due = if next > now { next } else { now + job.period };
            due.push(name.clone());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn each_is_due_in_its_period_and_misses_what_it_slept_through() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.adopt([("a", secs(10)), ("b", secs(25))].into_iter(), start);
        assert_eq!(schedule.next(), Some(start + secs(10)));
        assert!(schedule.take_due(start + secs(9)).is_empty());
        assert_eq!(schedule.take_due(start + secs(11)), ["a"]);
        assert_eq!(schedule.next(), Some(start + secs(20)), "being late does not add up");
        assert_eq!(schedule.take_due(start + secs(103)), ["a", "b"]);
        assert_eq!(schedule.next(), Some(start + secs(113)));
        assert!(schedule.take_due(start + secs(112)).is_empty());
    }

    #[test]
    fn a_reload_neither_doubles_nor_delays_a_tick() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.adopt([("a", secs(10)), ("b", secs(10))].into_iter(), start);
        for at in 1..10 {
            schedule.adopt([("a", secs(10)), ("c", secs(10))].into_iter(), start + secs(at));
        }
        assert_eq!(schedule.take_due(start + secs(10)), ["a"]);
        assert_eq!(schedule.take_due(start + secs(11)), ["c"]);
        // Another period counts from the last tick, also if it is over then.
        schedule.adopt([("a", secs(60))].into_iter(), start + secs(15));
        assert_eq!(schedule.next(), Some(start + secs(70)));
        schedule.adopt([("a", secs(3))].into_iter(), start + secs(15));
        assert_eq!(schedule.take_due(start + secs(15)), ["a"]);
        assert_eq!(schedule.next(), Some(start + secs(16)));
        schedule.adopt(std::iter::empty(), start + secs(15));
        assert_eq!(schedule.next(), None);
    }
}
