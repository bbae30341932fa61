//! Calls of plugins that may wait for others: each holds a thread meanwhile, so
//! there are only so many of them, and who finds no place soon is turned away.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Threads that all lanes together may hold. The runtime has 512 to put in
/// place of those that wait; it must not run out of them.
const THREADS_MAX: usize = 256;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The lane of one plugin.
#[derive(Debug)]
pub(super) struct Lane {
    max: usize,
    running: Mutex<usize>,
    left: Condvar,
}

/// A place in a lane, and a thread.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Lane, Thread);

#[derive(Debug)]
struct Thread;

impl Thread {
    fn take() -> Option<Self> {
        let taken = THREADS.try_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < THREADS_MAX).then_some(n + 1));
        taken.ok().map(|_| Self)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Lane {
    /// `max`: calls at once.
    pub(super) fn new(max: usize) -> Self {
        Self { max, running: Mutex::new(0), left: Condvar::new() }
    }

    /// Waits for a place for at most so long. None: there is none.
    pub(super) fn enter(&self, patience: Duration) -> Option<Place<'_>> {
        let thread = Thread::take()?;
        let until = Instant::now() + patience;
        let mut running = self.running.lock();
        while *running >= self.max {
            if self.left.wait_until(&mut running, until).timed_out() && *running >= self.max {
                return None;
            }
        }
        *running += 1;
        Some(Place(self, thread))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.running.lock() -= 1;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_place_in_time_is_turned_away() {
        let lane = Lane::new(2);
        let places = [lane.enter(Duration::ZERO).unwrap(), lane.enter(Duration::ZERO).unwrap()];
        assert!(lane.enter(Duration::from_millis(1)).is_none());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| lane.enter(Duration::from_secs(20)).is_some());
            drop(places);
            assert!(waits.join().unwrap());
        });
        assert_eq!(*lane.running.lock(), 0);
    }
}
