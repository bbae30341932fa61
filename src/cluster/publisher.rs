//! Publishing: frames that nobody answers, on a connection of their own.
//!
//! Whoever publishes numbers its frame and puts it into the queue under one
//! lock, so that frames leave in the order of their numbers. Once those who are
//! here have theirs, it writes what waits to the socket itself: handing it to a
//! task would cost two wakes for each message. If somebody else is writing, or the
//! kernel takes no more, the frame waits for them: the busier it gets, the more
//! goes out in one write.
//!
//! Over TLS, over a Unix socket and to a cluster the task writes through the
//! library.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    io::{ErrorKind, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use redis::{RedisError, cluster_routing::Slot};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{link::Link, metrics::ClusterMetrics, socket::Socket};

/// Bytes that are put together for one write; the last frame may go beyond.
const CHUNK: usize = 64 << 10;

/// Frames in one go through the library.
const BATCH: usize = 1024;

/// How often what has waited too long is looked for.
const EXPIRY: Duration = Duration::from_millis(50);

/// How long the kernel may still take nothing when all ends.
const LAST: Duration = Duration::from_secs(1);

/// Rooms whose messages are counted; the idlest are forgotten beyond that.
const COUNTS: usize = 16_384;

/// How long a room must be idle for that.
const IDLE: Duration = Duration::from_secs(60);

/// The way out for frames.
pub(super) struct Publisher {
    queue: Mutex<Queue>,
    pen: Mutex<Pen>,
    /// The task has something to do.
    wake: Notify,
    /// The task writes, not those who publish.
    by_task: AtomicBool,
    /// Something waits that nobody has begun to write.
    is_due: AtomicBool,
    /// Bytes that may wait.
    max: usize,
    /// What has waited longer is not sent any more.
    fresh: Duration,
    metrics: ClusterMetrics,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    counts: HashMap<Box<str>, Count>,
    streams: u32,
}

struct Waiting {
    topic: String,
    frame: Vec<u8>,
    since: Instant,
}

impl Waiting {
    fn len(&self) -> usize {
        self.topic.len() + self.frame.len()
    }
}

/// Counts what is sent to one room.
struct Count {
    used: Instant,
    stream: u32,
    n: u64,
}

/// What writes to the socket.
#[derive(Default)]
struct Pen {
    socket: Option<Arc<Socket>>,
    /// Cancelled when the socket fails.
    lost: CancellationToken,
    /// What the kernel has not taken, from `written` on.
    buffer: Vec<u8>,
    written: usize,
    /// Frames that end in it.
    frames: usize,
    /// The task waits until the kernel takes more.
    is_blocked: bool,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// One that lets `max` bytes wait, for as long as they are `fresh`.
    pub(super) fn new(max: usize, fresh: Duration, metrics: ClusterMetrics) -> Self {
        // Another run must not seem to go on counting.
        let queue = Queue { streams: u32::from_le_bytes(crate::id::random_bytes()), ..Queue::default() };
        let (queue, pen) = (Mutex::new(queue), Mutex::default());
        Self {
            queue,
            pen,
            wake: Notify::new(),
            by_task: AtomicBool::new(false),
            is_due: AtomicBool::new(false),
            max,
            fresh,
            metrics,
        }
    }

    /// Puts a frame on its way; the next flush takes it.
    pub(super) fn publish(&self, topic: String, frame: Vec<u8>) {
        self.put(&mut self.queue.lock(), topic, frame);
    }

    /// Puts the next frame of a room on its way, which is made of the number of
    /// its series and its count in that.
    pub(super) fn publish_counted(&self, room: &str, topic: String, frame: impl FnOnce(u32, u64) -> Vec<u8>) {
        let mut queue = self.queue.lock();
        let (stream, n) = queue.next(room);
        self.put(&mut queue, topic, frame(stream, n));
    }

    fn put(&self, queue: &mut Queue, topic: String, frame: Vec<u8>) {
        let waiting = Waiting { topic, frame, since: Instant::now() };
        if queue.bytes + waiting.len() > self.max {
            return self.metrics.dropped("queue full");
        }
        self.metrics.sent.inc();
        queue.bytes += waiting.len();
        queue.waiting.push_back(waiting);
        self.is_due.store(true, Ordering::Release);
    }

    /// True if most of the room for what waits is free.
    pub(super) fn is_at_ease(&self) -> bool {
        self.queue.lock().bytes < self.max / 4
    }

    /// Writes what waits, if there is anything.
    pub(super) fn flush_due(&self) {
        if self.is_due.load(Ordering::Relaxed) && self.is_due.swap(false, Ordering::Acquire) {
            self.flush();
        }
    }

    /// Writes what waits, unless somebody is at it.
    pub(super) fn flush(&self) {
        if self.by_task.load(Ordering::Acquire) {
            return self.wake.notify_one();
        }
        // Who holds the pen looks once more after having let go of it.
        while let Some(mut pen) = self.pen.try_lock() {
            if pen.is_blocked || !self.write(&mut pen) {
                return;
            }
            drop(pen);
            if self.queue.lock().waiting.is_empty() {
                return;
            }
        }
    }

    /// Writes until nothing waits (true) or it cannot go on.
    fn write(&self, pen: &mut Pen) -> bool {
        let Some(socket) = pen.socket.clone() else { return false };
        loop {
            if pen.written == pen.buffer.len() {
                self.fill(pen);
                if pen.buffer.is_empty() {
                    return true;
                }
            }
            match socket.try_write(&pen.buffer[pen.written..]) {
                Ok(n) => pen.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    pen.is_blocked = true;
                    self.wake.notify_one();
                    return false;
                }
                Err(_) => {
                    pen.socket = None;
                    pen.lost.cancel();
                    return false;
                }
            }
        }
    }

    /// Takes from the queue what goes into the next write.
    fn fill(&self, pen: &mut Pen) {
        pen.buffer.clear();
        pen.buffer.shrink_to(2 * CHUNK);
        (pen.written, pen.frames) = (0, 0);
        let mut queue = self.queue.lock();
        while pen.buffer.len() < CHUNK
            && let Some(waiting) = queue.pop()
        {
            if waiting.since.elapsed() > self.fresh {
                self.metrics.dropped("stale");
                continue;
            }
            command(&mut pen.buffer, &waiting.topic, &waiting.frame);
            pen.frames += 1;
        }
    }

    /// Sends over this connection until it is lost or all is sent after `stop`.
    ///
    /// # Errors
    /// The connection's.
    pub(super) async fn run(
        &self,
        link: &mut Link,
        socket: Option<Arc<Socket>>,
        lost: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<(), RedisError> {
        let written = match socket {
            Some(socket) => {
                link.silence().await?;
                self.attend(&socket, lost, stop).await
            }
            None => self.send(link, lost, stop).await,
        };
        self.by_task.store(false, Ordering::Release);
        let mut pen = self.pen.lock();
        for _ in 0..pen.frames {
            self.metrics.dropped("unknown");
        }
        *pen = Pen::default();
        written
    }

    /// Lets others write, and helps when the kernel takes no more.
    async fn attend(
        &self,
        socket: &Arc<Socket>,
        lost: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<(), RedisError> {
        *self.pen.lock() = Pen { socket: Some(Arc::clone(socket)), lost: lost.clone(), ..Pen::default() };
        self.flush();
        loop {
            tokio::select! {
                () = lost.cancelled() => return Err(ended()),
                () = self.wake.notified() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let mut expiry = expiry();
            loop {
                tokio::select! {
                    () = lost.cancelled() => return Err(ended()),
                    taken = socket.writable() => { taken?; break }
                    _ = expiry.tick() => self.expire(),
                    () = async { stop.cancelled().await; tokio::time::sleep(LAST).await } => return Ok(()),
                }
            }
            self.pen.lock().is_blocked = false;
            self.flush();
        }
    }

    /// Sends through the library; in a cluster a node that stands still holds up
    /// only what lies on it.
    async fn send(&self, link: &Link, lost: &CancellationToken, stop: &CancellationToken) -> Result<(), RedisError> {
        self.by_task.store(true, Ordering::Release);
        let mut lanes: HashMap<Slot, VecDeque<Waiting>> = HashMap::new();
        let mut under_way = FuturesUnordered::new();
        let end = loop {
            let waiting = std::mem::take(&mut self.queue.lock().waiting);
            let mut idle = Vec::new();
            for waiting in waiting {
                let slot = Slot::for_key(if link.is_cluster() { &waiting.topic } else { "" });
                let lane = lanes.entry(slot).or_insert_with(|| {
                    idle.push(slot);
                    VecDeque::new()
                });
                lane.push_back(waiting);
            }
            under_way.extend(idle.into_iter().filter_map(|slot| self.next_of(link, &mut lanes, slot)));
            tokio::select! {
                biased;
                () = lost.cancelled() => break Err(ended()),
                Some((slot, sent)) = under_way.next() => match sent {
                    Ok(failed) => {
                        (0..failed).for_each(|_| self.metrics.dropped("refused"));
                        under_way.extend(self.next_of(link, &mut lanes, slot));
                    }
                    Err(error) => break Err(error),
                },
                () = self.wake.notified() => {}
                () = stop.cancelled(), if under_way.is_empty() => break Ok(()),
            }
        };
        // What is under way may have come.
        let mut queue = self.queue.lock();
        for waiting in lanes.into_values().flat_map(|lane| lane.into_iter().rev()) {
            queue.waiting.push_front(waiting);
        }
        end
    }

    /// Sends what waits for a slot, or forgets the slot.
    fn next_of(
        &self,
        link: &Link,
        lanes: &mut HashMap<Slot, VecDeque<Waiting>>,
        slot: Slot,
    ) -> Option<impl Future<Output = (Slot, Result<usize, RedisError>)> + use<>> {
        let lane = lanes.get_mut(&slot)?;
        let mut frames = Vec::new();
        {
            let mut queue = self.queue.lock();
            while frames.len() < BATCH
                && let Some(waiting) = lane.pop_front()
            {
                queue.bytes -= waiting.len();
                if waiting.since.elapsed() > self.fresh {
                    self.metrics.dropped("stale");
                } else {
                    frames.push((waiting.topic, waiting.frame));
                }
            }
        }
        if frames.is_empty() {
            lanes.remove(&slot);
            return None;
        }
        let mut link = link.clone();
        Some(async move { (slot, link.publish(frames).await) })
    }

    /// While there is no connection: what waits too long is dropped.
    pub(super) async fn starve(&self, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        let mut expiry = expiry();
        loop {
            tokio::select! {
                () = &mut until => return,
                _ = expiry.tick() => self.expire(),
            }
        }
    }

    fn expire(&self) {
        let mut queue = self.queue.lock();
        while queue.waiting.front().is_some_and(|oldest| oldest.since.elapsed() > self.fresh) {
            queue.pop();
            self.metrics.dropped("stale");
        }
    }
}

impl Queue {
    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.bytes -= waiting.len();
        Some(waiting)
    }

    /// The next count of a message to a live room, with the number of its
    /// series.
    fn next(&mut self, room: &str) -> (u32, u64) {
        let now = Instant::now();
        if let Some(count) = self.counts.get_mut(room) {
            count.used = now;
            count.n += 1;
            return (count.stream, count.n);
        }
        if self.counts.len() >= COUNTS {
            self.counts.retain(|_, count| now.duration_since(count.used) < IDLE);
            if self.counts.len() >= COUNTS {
                self.counts.clear();
            }
        }
        self.streams = self.streams.wrapping_add(1);
        self.counts.insert(room.into(), Count { used: now, stream: self.streams, n: 1 });
        (self.streams, 1)
    }
}

/// `PUBLISH` as Redis reads it: an array of three strings.
fn command(buffer: &mut Vec<u8>, topic: &str, frame: &[u8]) {
    buffer.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n");
    for part in [topic.as_bytes(), frame] {
        // Into memory: there is nothing to fail.
        let _done = write!(buffer, "${}\r\n", part.len());
        buffer.extend_from_slice(part);
        buffer.extend_from_slice(b"\r\n");
    }
}

fn expiry() -> tokio::time::Interval {
    let mut expiry = tokio::time::interval(EXPIRY);
    expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
    expiry
}

fn ended() -> RedisError {
    std::io::Error::from(ErrorKind::UnexpectedEof).into()
}
