//! What has arrived where, and when. Each message carries its number, so that
//! the one parser reads it in every dialect.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::stats::Histogram;

/// Who has been silent for so long sends no more.
const SILENCE: Duration = Duration::from_secs(5);
const DIGITS: usize = 8;

/// How the message of that number begins.
pub(crate) fn mark(number: usize) -> String {
    format!("@{number:0DIGITS$}")
}

struct Sent {
    at: Instant,
    /// The instance that it was sent to.
    place: usize,
    /// Deliveries that are still to come; below zero: more came than should.
    missing: isize,
    /// The receivers' numbers that are still to come, added up: else one could
    /// hear it twice in another's place.
    whose: i64,
}

#[derive(Default)]
pub(crate) struct Watch {
    sent: RefCell<Vec<Sent>>,
    deliveries: Cell<usize>,
    /// The count of deliveries that is waited for.
    goal: Cell<usize>,
    progress: Notify,
    trouble: RefCell<Option<String>>,
    times: RefCell<Times>,
}

/// To receivers on the sender's instance, and on another.
pub(crate) struct Times {
    pub(crate) local: Histogram,
    pub(crate) remote: Histogram,
}

impl Default for Times {
    fn default() -> Self {
        Self { local: Histogram::new(), remote: Histogram::new() }
    }
}

/// Deliveries that never came, and those that came once too often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wrong {
    pub(crate) lost: usize,
    pub(crate) doubled: usize,
}

impl Watch {
    /// The next message leaves for so many receivers, whose numbers have this
    /// sum, or should have left at that time: its number.
    pub(crate) fn sending(&self, at: Instant, place: usize, receivers: usize, sum: usize) -> usize {
        let mut sent = self.sent.borrow_mut();
        sent.push(Sent { at, place, missing: receivers as isize, whose: sum as i64 });
        self.goal.set(self.deliveries.get().max(self.goal.get()) + receivers);
        sent.len() - 1
    }

    /// The receiver of that number, on the instance `place`, has read this; false
    /// if there is no message in it.
    pub(crate) fn look(&self, place: usize, receiver: usize, payload: &[u8]) -> bool {
        let mut rest = payload;
        let mut found = false;
        while let Some(at) = memchr::memchr(b'@', rest) {
            rest = &rest[at + 1..];
            let digits = rest.get(..DIGITS).and_then(|digits| str::from_utf8(digits).ok());
            match digits.and_then(|digits| digits.parse().ok()) {
                Some(number) => self.delivered(place, receiver, number),
                None => self.fail("a message without its number"),
            }
            found = true;
        }
        found
    }

    fn delivered(&self, place: usize, receiver: usize, number: usize) {
        let mut sent = self.sent.borrow_mut();
        let Some(message) = sent.get_mut(number) else {
            return self.fail("a message that was never sent");
        };
        message.missing -= 1;
        message.whose -= receiver as i64;
        let mut times = self.times.borrow_mut();
        let times = if message.place == place { &mut times.local } else { &mut times.remote };
        times.add(message.at.elapsed());
        self.deliveries.set(self.deliveries.get() + 1);
        if self.deliveries.get() >= self.goal.get() {
            self.progress.notify_one();
        }
    }

    pub(crate) fn fail(&self, why: &str) {
        self.trouble.borrow_mut().get_or_insert_with(|| why.to_owned());
        self.progress.notify_one();
    }

    pub(crate) fn check(&self) -> Result<()> {
        match &*self.trouble.borrow() {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }

    /// Until no more than so many deliveries are missing, or nothing comes any
    /// more: false.
    pub(crate) async fn wait(&self, missing: usize) -> Result<bool> {
        let goal = self.goal.get();
        self.goal.set(goal.saturating_sub(missing));
        let mut came = true;
        while came && self.deliveries.get() < self.goal.get() {
            self.check()?;
            let seen = self.deliveries.get();
            let progress = timeout(SILENCE, self.progress.notified()).await;
            came = progress.is_ok() || self.deliveries.get() > seen;
        }
        self.goal.set(goal);
        self.check()?;
        Ok(came)
    }

    /// What has gone wrong with the messages from this number on. Later ones
    /// are counted from what is there now.
    pub(crate) fn settle(&self, from: usize) -> Wrong {
        let mut wrong = Wrong::default();
        for message in &mut self.sent.borrow_mut()[from..] {
            match message.missing {
                missing @ 1.. => wrong.lost += missing.unsigned_abs(),
                // As many as should, and not the right ones.
                0 if message.whose != 0 => (wrong.lost, wrong.doubled) = (wrong.lost + 1, wrong.doubled + 1),
                extra => wrong.doubled += extra.unsigned_abs(),
            }
        }
        self.goal.set(self.deliveries.get());
        wrong
    }

    /// The number of the next message.
    pub(crate) fn next(&self) -> usize {
        self.sent.borrow().len()
    }

    /// The times so far; the next begin anew.
    pub(crate) fn take_times(&self) -> Times {
        self.times.take()
    }
}
