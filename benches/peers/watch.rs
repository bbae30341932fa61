//! What has arrived where, and when. Each message carries its number, so that
//! the one parser reads it in every dialect.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::stats::Histogram;

const PATIENCE: Duration = Duration::from_secs(20);
const DIGITS: usize = 8;

/// How the message of that number begins.
pub(crate) fn mark(number: usize) -> String {
    format!("@{number:0DIGITS$}")
}

struct Sent {
    at: Instant,
    /// The instance that it was sent to.
    place: usize,
    /// Deliveries that are still to come.
    missing: isize,
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

impl Watch {
    /// The next message leaves now, for so many receivers: its number.
    pub(crate) fn sending(&self, place: usize, receivers: usize) -> usize {
        let mut sent = self.sent.borrow_mut();
        sent.push(Sent { at: Instant::now(), place, missing: receivers as isize });
        self.goal.set(self.goal.get() + receivers);
        sent.len() - 1
    }

    /// A client of the instance `place` has read this.
    pub(crate) fn look(&self, place: usize, text: &[u8]) -> bool {
        let mut rest = text;
        let mut found = false;
        while let Some(at) = rest.iter().position(|byte| *byte == b'@') {
            rest = &rest[at + 1..];
            let digits = rest.get(..DIGITS).and_then(|digits| str::from_utf8(digits).ok());
            match digits.and_then(|digits| digits.parse().ok()) {
                Some(number) => self.delivered(place, number),
                None => self.fail("a message without its number"),
            }
            found = true;
        }
        found
    }

    fn delivered(&self, place: usize, number: usize) {
        let mut sent = self.sent.borrow_mut();
        let Some(message) = sent.get_mut(number) else {
            return self.fail("a message that was never sent");
        };
        message.missing -= 1;
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

    /// Until each message has reached all its receivers, once.
    pub(crate) async fn wait(&self) -> Result<()> {
        while self.deliveries.get() < self.goal.get() {
            self.check()?;
            let progress = timeout(PATIENCE, self.progress.notified()).await;
            let (seen, goal) = (self.deliveries.get(), self.goal.get());
            progress.with_context(|| format!("{seen} deliveries of {goal}, then silence"))?;
        }
        self.check()?;
        let wrong = self.sent.borrow().iter().filter(|sent| sent.missing != 0).count();
        ensure!(wrong == 0, "{wrong} messages were lost for some and doubled for others");
        Ok(())
    }

    /// The times so far; the next begin anew.
    pub(crate) fn take_times(&self) -> Times {
        self.times.take()
    }
}
