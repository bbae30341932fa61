//! What the clients of a room have seen, all together.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::stats::Histogram;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Tally {
    pub(crate) clients: usize,
    deliveries: Cell<usize>,
    /// When each message left, as far as times are taken.
    sent: RefCell<Vec<Instant>>,
    pub(crate) times: RefCell<Histogram>,
    /// The count of deliveries that is waited for.
    goal: Cell<usize>,
    progress: Notify,
    trouble: RefCell<Option<String>>,
    /// Bytes on the wire of a frame with one message, where it is the server's
    /// to say.
    pub(crate) frame: Cell<usize>,
}

impl Tally {
    pub(crate) fn new(clients: usize) -> Self {
        Self {
            clients,
            deliveries: Cell::new(0),
            sent: RefCell::default(),
            times: RefCell::new(Histogram::new()),
            goal: Cell::new(usize::MAX),
            progress: Notify::new(),
            trouble: RefCell::default(),
            frame: Cell::new(0),
        }
    }

    /// The next message leaves now.
    pub(crate) fn sending(&self) {
        self.sent.borrow_mut().push(Instant::now());
    }

    /// One client has got these messages, counted from the first.
    pub(crate) fn delivered(&self, messages: Range<usize>) {
        self.deliveries.set(self.deliveries.get() + messages.len());
        let now = Instant::now();
        if let Some(sent) = self.sent.borrow().get(messages) {
            let mut times = self.times.borrow_mut();
            sent.iter().for_each(|at| times.add(now - *at));
        }
        if self.deliveries.get() >= self.goal.get() {
            self.progress.notify_one();
        }
    }

    pub(crate) fn fail(&self, why: &str) {
        self.trouble.borrow_mut().get_or_insert_with(|| why.to_owned());
        self.progress.notify_one();
    }

    /// Has anything gone wrong so far?
    pub(crate) fn check(&self) -> Result<()> {
        match &*self.trouble.borrow() {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }

    /// Until every client has got `messages`.
    pub(crate) async fn wait(&self, messages: usize) -> Result<()> {
        self.goal.set(messages * self.clients);
        while self.deliveries.get() < self.goal.get() {
            self.check()?;
            let progress = timeout(PATIENCE, self.progress.notified()).await;
            let (seen, goal) = (self.deliveries.get(), self.goal.get());
            progress.with_context(|| format!("{seen} deliveries of {goal}, then silence"))?;
        }
        Ok(())
    }
}
