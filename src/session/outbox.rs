//! The bounded queue of frames toward one connection, and its socket's
//! writing half.
//!
//! Whoever delivers pushes shared frames and never waits. Writing is done in
//! batches by a [`Flusher`](super::flusher::Flusher), straight from the thread that
//! delivered when nobody else is at it; only a socket that takes no more is
//! left to its session, which waits until it is writable.

use std::{cell::RefCell, collections::VecDeque, io, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify};

use super::flusher::Batch;
use crate::protocol::{Close, frame};

/// Frames that wait are joined into one write of up to this many bytes. A
/// loopback socket takes about this much at once before it is full.
const WRITE_MAX: usize = 64 << 10;

/// The queue and the socket behind it.
#[derive(Debug)]
pub struct Outbox {
    /// Bytes that may wait.
    max: usize,
    /// Told when the session has to look: closing, or blocked.
    wake: Notify,
    /// Which flusher shard writes for it.
    shard: usize,
    /// Held for a push or one write; never across an await.
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// None: the session has ended. What is known of its connection may live on
    /// for longer, and must not keep the socket open.
    socket: Option<Arc<TcpStream>>,
    frames: VecDeque<Bytes>,
    /// Bytes of the first frame that are written already.
    written: usize,
    /// Bytes that wait.
    bytes: usize,
    /// Somebody has promised to flush.
    scheduled: bool,
    /// The socket is full; the session flushes when it is writable.
    blocked: bool,
    /// Nothing goes out before the greeting.
    held: bool,
    /// The session has to look at what its connection may.
    nudged: bool,
    /// Nothing is accepted any more; this goes out last.
    closing: Option<Close>,
    /// The socket failed, or everything is written and the close frame sent.
    finished: bool,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits, and the caller must see to it that the outbox is flushed.
    Schedule,
    /// It waits, and somebody flushes already.
    Queued,
    /// The queue is full: the connection is now being closed as slow.
    Overflow,
    /// The connection is ending; the frame is dropped.
    Closed,
}

thread_local! {
    static JOINED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(WRITE_MAX));
}

impl Outbox {
    /// `max`: bytes that may wait. `shard`: which flusher writes for it.
    #[must_use]
    pub fn new(socket: impl Into<Arc<TcpStream>>, max: usize, shard: usize) -> Self {
        let queue = Queue { socket: Some(socket.into()), ..Queue::default() };
        Self { max, wake: Notify::new(), shard, queue: Mutex::new(queue) }
    }

    /// Lets go of the socket; nothing is written any more.
    pub(super) fn hang_up(&self) {
        let mut queue = self.queue.lock();
        queue.fail();
        let socket = queue.socket.take();
        drop(queue);
        drop(socket);
    }

    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Bytes that may wait.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// Adds a frame; the batch sees to it that it is written.
    pub fn put(self: &Arc<Self>, frame: &Bytes, batch: &mut Batch<'_>) -> Pushed {
        let pushed = self.push(frame);
        if pushed == Pushed::Schedule {
            batch.add(self);
        }
        pushed
    }

    /// Ends a [`hold`](Self::hold): `frame` goes out before everything else.
    pub fn greet_in(self: &Arc<Self>, frame: Bytes, batch: &mut Batch<'_>) {
        if self.greet(frame) == Pushed::Schedule {
            batch.add(self);
        }
    }

    /// Adds a frame.
    #[must_use = "a scheduled outbox must be flushed"]
    pub fn push(&self, frame: &Bytes) -> Pushed {
        let mut queue = self.queue.lock();
        if queue.closing.is_some() || queue.finished {
            return Pushed::Closed;
        }
        if queue.bytes + frame.len() > self.max {
            queue.close(Close::SLOW);
            drop(queue);
            self.wake.notify_one();
            return Pushed::Overflow;
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame.clone());
        queue.schedule()
    }

    /// From here on nothing goes out before the greeting.
    pub fn hold(&self) {
        self.queue.lock().held = true;
    }

    /// Ends a [`hold`](Self::hold) without a greeting: what was held is
    /// forgotten.
    pub fn release(&self) {
        let mut queue = self.queue.lock();
        queue.held = false;
        queue.nudged = false;
        let keep = usize::from(queue.written > 0);
        queue.frames.truncate(keep);
        queue.bytes = queue.frames.front().map_or(0, |first| first.len() - queue.written);
    }

    /// Lets things out again, `frame` before everything else.
    fn greet(&self, frame: Bytes) -> Pushed {
        let mut queue = self.queue.lock();
        queue.held = false;
        if queue.finished {
            return Pushed::Closed;
        }
        queue.bytes += frame.len();
        // What is half written comes from before the hold.
        let at = usize::from(queue.written > 0);
        queue.frames.insert(at, frame);
        queue.schedule()
    }

    /// Ends the connection with `close` after what waits; only the first
    /// reason counts. A slow client's queue is dropped instead.
    pub fn close(&self, close: Close) {
        let mut queue = self.queue.lock();
        if queue.closing.is_none() {
            queue.close(close);
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Appends bytes that the protocol layer below us wants sent: pongs and
    /// the answer to a close.
    pub(super) fn push_control(&self, bytes: &[u8]) -> Pushed {
        self.push(&Bytes::copy_from_slice(bytes))
    }

    /// Makes the session look at what its connection may.
    pub fn nudge(&self) {
        self.queue.lock().nudged = true;
        self.wake.notify_one();
    }

    /// True once after that.
    pub(super) fn take_nudge(&self) -> bool {
        std::mem::take(&mut self.queue.lock().nudged)
    }

    /// Why the connection is ending, if it is.
    #[must_use]
    pub fn closing(&self) -> Option<Close> {
        self.queue.lock().closing.clone()
    }

    /// Takes out what waits, in place of its socket.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Vec<Bytes> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        std::mem::take(&mut queue.frames).into()
    }

    /// True when nothing more will be written.
    pub(super) fn is_finished(&self) -> bool {
        self.queue.lock().finished
    }

    /// True when the session has to wait for the socket to be writable.
    pub(super) fn is_blocked(&self) -> bool {
        self.queue.lock().blocked
    }

    /// Waits until the session has to look at it.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Writes what waits until the socket takes no more.
    pub(super) fn flush(&self) {
        let mut queue = self.queue.lock();
        queue.scheduled = false;
        queue.blocked = false;
        if queue.held && queue.closing.is_none() {
            return;
        }
        while !queue.frames.is_empty() {
            match queue.write() {
                Ok(n) => queue.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.blocked = true;
                    drop(queue);
                    self.wake.notify_one();
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_gone) => {
                    queue.fail();
                    drop(queue);
                    self.wake.notify_one();
                    return;
                }
            }
        }
        queue.frames.shrink_to(FRAMES_KEPT);
        if queue.closing.is_some() && !queue.finished {
            queue.finished = true;
            drop(queue);
            self.wake.notify_one();
        }
    }
}

/// Room for frames that an empty queue keeps; an idle connection is small.
const FRAMES_KEPT: usize = 4;

impl Queue {
    fn schedule(&mut self) -> Pushed {
        if self.scheduled || self.blocked || self.held {
            return Pushed::Queued;
        }
        self.scheduled = true;
        Pushed::Schedule
    }

    fn close(&mut self, close: Close) {
        if close == Close::SLOW {
            // The client has no use for old news; what is half written must
            // be finished, or the close frame would be read as its rest.
            self.frames.truncate(usize::from(self.written > 0));
            self.bytes = self.frames.front().map_or(0, |first| first.len() - self.written);
        }
        // A client that has closed has been answered already, or is gone.
        if close.code != Close::BY_CLIENT.code {
            let last = frame::close(&close);
            self.bytes += last.len();
            self.frames.push_back(last);
        }
        self.closing = Some(close);
    }

    fn fail(&mut self) {
        self.frames = VecDeque::new();
        self.bytes = 0;
        self.written = 0;
        self.finished = true;
        self.closing.get_or_insert(Close::LOST);
    }

    fn write(&self) -> io::Result<usize> {
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let first = &self.frames[0][self.written..];
        if self.frames.len() == 1 {
            return socket.try_write(first);
        }
        // Copying small frames together costs less than a vectored write.
        JOINED.with_borrow_mut(|joined| {
            joined.clear();
            joined.extend_from_slice(first);
            for frame in self.frames.iter().skip(1) {
                if joined.len() + frame.len() > WRITE_MAX {
                    break;
                }
                joined.extend_from_slice(frame);
            }
            socket.try_write(joined)
        })
    }

    fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(first) = self.frames.front() {
            let left = first.len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            self.frames.pop_front();
        }
    }
}
