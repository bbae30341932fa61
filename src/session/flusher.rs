//! Writes outboxes, in batches that grow with the load.
//!
//! A delivery to a thousand members only appends to a thousand queues; the
//! writes come after it, at the end of the [`Batch`]. One thread at a time
//! writes for a shard. While it is at it, others append to the same queues
//! and pass on, so that the busier the gateway is, the more frames go out in
//! one write. On an idle one, the thread that delivered writes at once and no
//! task is woken. A shard that has been writing most of the time lately is
//! left to its background task, which lets the readers that are ready run
//! between two rounds.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::outbox::Outbox;
use crate::id::ConnectionId;

/// Outboxes that one thread writes before it lets others run.
const CHUNK: usize = 512;

/// Who writes for which outboxes.
pub struct Flusher {
    shards: Box<[Shard]>,
    after: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flusher").field("shards", &self.shards).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shard {
    /// Outboxes that are promised to be flushed. Held for moments.
    waiting: Mutex<Vec<Arc<Outbox>>>,
    /// Somebody writes; whoever sets it from false does.
    busy: AtomicBool,
    /// Hands the writing to the background task.
    background: Notify,
    /// When the last inline round ended and how long it took.
    last: Mutex<(Instant, Duration)>,
}

impl Flusher {
    /// With one shard a worker thread, so that each can write; 65,535 at most.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        let shard = || Shard {
            waiting: Mutex::default(),
            busy: AtomicBool::new(false),
            background: Notify::new(),
            last: Mutex::new((Instant::now(), Duration::ZERO)),
        };
        let shards = shards.clamp(1, u16::MAX.into());
        Self { shards: (0..shards).map(|_| shard()).collect(), after: OnceLock::new() }
    }

    /// Does this after each batch, once those who are here have theirs. Only
    /// the first call counts.
    pub fn then(&self, after: impl Fn() + Send + Sync + 'static) {
        let _first = self.after.set(Box::new(after));
    }

    /// Which shard writes for a connection.
    #[must_use]
    pub fn shard(&self, id: ConnectionId) -> u16 {
        // There are no more than that.
        u16::try_from(id.shard(self.shards.len())).unwrap_or_default()
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The background task of one shard; ends with `stop`.
    pub async fn run(self: Arc<Self>, shard: usize, stop: CancellationToken) {
        let shard = &self.shards[shard];
        loop {
            tokio::select! {
                () = shard.background.notified() => {}
                () = stop.cancelled() => return,
            }
            loop {
                // Readers that are ready add to the queues first.
                tokio::task::yield_now().await;
                let mut round = std::mem::take(&mut *shard.waiting.lock());
                while !round.is_empty() {
                    let rest = round.split_off(round.len().min(CHUNK));
                    flush_all(&round);
                    round = rest;
                    if !round.is_empty() {
                        tokio::task::yield_now().await;
                    }
                }
                if shard.release() {
                    break;
                }
            }
        }
    }
}

/// One after the other, with an eye on the next: a write takes as long as its
/// memory does to arrive.
fn flush_all(outboxes: &[Arc<Outbox>]) {
    for (n, outbox) in outboxes.iter().enumerate() {
        if let Some(next) = outboxes.get(n + 1) {
            next.prefetch();
        }
        outbox.flush();
    }
}

impl Shard {
    /// Gives up writing; false if something came in between and it is ours.
    fn release(&self) -> bool {
        self.busy.store(false, Ordering::SeqCst);
        // Whoever appended while we were busy may have relied on us.
        self.waiting.lock().is_empty() || self.busy.swap(true, Ordering::SeqCst)
    }

    /// True if writing took up most of the time since the last round.
    fn was_busy(&self, now: Instant) -> bool {
        let (ended, took) = *self.last.lock();
        !took.is_zero() && now.duration_since(ended) < took
    }

    fn flush(&self, outboxes: &mut Vec<Arc<Outbox>>) {
        if self.busy.swap(true, Ordering::SeqCst) {
            self.waiting.lock().append(outboxes);
            if !self.busy.swap(true, Ordering::SeqCst) {
                self.background.notify_one();
            }
            return;
        }
        let started = Instant::now();
        if outboxes.len() > CHUNK * 4 || self.was_busy(started) {
            self.waiting.lock().append(outboxes);
            self.background.notify_one();
            return;
        }
        flush_all(outboxes);
        outboxes.clear();
        let ended = Instant::now();
        *self.last.lock() = (ended, ended - started);
        if !self.release() {
            self.background.notify_one();
        }
    }
}

/// The outboxes that one piece of work has put frames into; flushed when it
/// is dropped.
#[derive(Debug)]
pub struct Batch<'a> {
    flusher: &'a Flusher,
    /// One list a shard.
    outboxes: Vec<Vec<Arc<Outbox>>>,
}

impl<'a> Batch<'a> {
    /// An empty one.
    #[must_use]
    pub fn new(flusher: &'a Flusher) -> Self {
        Self { flusher, outboxes: vec![Vec::new(); flusher.shards()] }
    }

    /// Promises to flush an outbox that asked for it.
    pub fn add(&mut self, outbox: &Arc<Outbox>) {
        self.outboxes[outbox.shard()].push(Arc::clone(outbox));
    }

    /// Flushes what was added so far.
    pub fn flush(&mut self) {
        for (shard, outboxes) in self.flusher.shards.iter().zip(&mut self.outboxes) {
            if !outboxes.is_empty() {
                shard.flush(outboxes);
            }
        }
        if let Some(after) = self.flusher.after.get() {
            after();
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
