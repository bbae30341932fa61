//! The bounded queue of frames toward one connection, and its socket's
//! writing half.
//!
//! Whoever delivers pushes shared frames and never waits. Writing is done in
//! batches by a [`Flusher`](super::flusher::Flusher), straight from the thread that
//! delivered when nobody else is at it; only a socket that takes no more is
//! left to its session, which waits until it is writable.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::flusher::Batch;
use crate::{
    metrics::TRAFFIC,
    net::Socket,
    prefetch::prefetch,
    protocol::{Close, Encoding},
};

/// Frames that wait are joined into one write of up to this many bytes. A
/// loopback socket takes about this much at once before it is full.
const WRITE_MAX: usize = 64 << 10;

/// The queue and the socket behind it.
#[derive(Debug)]
pub struct Outbox {
    /// What its close goes out as.
    encoding: Encoding,
    /// Bytes that may wait.
    max: usize,
    /// Told when the session has to look: closing, or blocked.
    wake: Notify,
    /// Which flusher shard writes for it.
    shard: usize,
    /// Held for a push or one write; never across an await.
    queue: Mutex<Queue>,
}

/// Where frames go.
#[derive(Debug, Default)]
enum Sink {
    /// The session has ended. What is known of its connection may live on for
    /// longer, and must not keep the socket open.
    #[default]
    Nowhere,
    Socket(Arc<Socket>),
    /// The body of a response takes them when it can; this waits for them.
    Body(Option<Waker>),
}

#[derive(Debug, Default)]
struct Queue {
    sink: Sink,
    frames: VecDeque<Waiting>,
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

/// A frame that waits.
#[derive(Debug)]
struct Waiting {
    frame: Bytes,
    /// Frames that are alike: one may be left out for a newer one. 0: must go.
    mark: u64,
}

/// What may be left out when a client reads too slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spare {
    /// Nothing: a full outbox closes the connection.
    Never,
    /// Frames of this mark that have waited longest, once more than `at` bytes
    /// wait.
    Oldest {
        /// Which frames are alike; not 0.
        mark: u64,
        /// Bytes.
        at: usize,
    },
    /// This frame, if more than `at` bytes would wait.
    Newest {
        /// Bytes.
        at: usize,
    },
    /// A frame of this mark that waits; if none does, this frame, if more than
    /// `at` bytes would wait.
    Latest {
        /// Which frames are alike; not 0.
        mark: u64,
        /// Bytes.
        at: usize,
    },
}

impl Spare {
    /// The same for one member: what it heard before it left a room and came back
    /// is not like what it hears now.
    #[must_use]
    pub fn of(self, place: u64) -> Self {
        // 0 marks what must go.
        let own = |mark: u64| mark.wrapping_add(place.rotate_left(32)) | 1;
        match self {
            Self::Never | Self::Newest { .. } => self,
            Self::Oldest { mark, at } => Self::Oldest { mark: own(mark), at },
            Self::Latest { mark, at } => Self::Latest { mark: own(mark), at },
        }
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits, and the caller must see to it that the outbox is flushed.
    Schedule,
    /// It waits, and somebody flushes already.
    Queued,
    /// It waits in the place of so many others, and somebody flushes already.
    Instead(usize),
    /// It is left out.
    Dropped,
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
    pub fn new(socket: impl Into<Arc<Socket>>, max: usize, shard: usize) -> Self {
        Self::to(Sink::Socket(socket.into()), Encoding::CentrifugeJson, max, shard)
    }

    /// One whose frames are taken by [`poll_take`](Self::poll_take).
    #[must_use]
    pub fn taken(encoding: Encoding, max: usize, shard: usize) -> Self {
        Self::to(Sink::Body(None), encoding, max, shard)
    }

    fn to(sink: Sink, encoding: Encoding, max: usize, shard: usize) -> Self {
        let queue = Queue { sink, ..Queue::default() };
        Self { encoding, max, wake: Notify::new(), shard, queue: Mutex::new(queue) }
    }

    /// Lets go of the socket; nothing is written any more.
    pub(crate) fn hang_up(&self) {
        let mut queue = self.queue.lock();
        queue.fail();
        let sink = std::mem::take(&mut queue.sink);
        drop(queue);
        self.wake.notify_one();
        // A body that waits learns that nothing more comes.
        if let Sink::Body(Some(waker)) = sink {
            waker.wake();
        }
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
        self.put_spare(frame, Spare::Never, batch)
    }

    /// The same for a frame that, or in whose place others, may be left out.
    pub fn put_spare(self: &Arc<Self>, frame: &Bytes, spare: Spare, batch: &mut Batch<'_>) -> Pushed {
        let pushed = self.push_spare(frame, spare);
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
        self.push_spare(frame, Spare::Never)
    }

    fn push_spare(&self, frame: &Bytes, spare: Spare) -> Pushed {
        let mut queue = self.queue.lock();
        if queue.closing.is_some() || queue.finished {
            return Pushed::Closed;
        }
        let (mark, dropped) = match spare {
            Spare::Never => (0, 0),
            spare => match queue.make_room(frame, spare) {
                Room::Made(mark, dropped) => (mark, dropped),
                Room::Taken => return Pushed::Instead(1),
                Room::None => return Pushed::Dropped,
            },
        };
        if queue.bytes + frame.len() > self.max {
            queue.close(Close::SLOW, self.encoding);
            drop(queue);
            self.wake.notify_one();
            return Pushed::Overflow;
        }
        queue.bytes += frame.len();
        queue.frames.push_back(Waiting { frame: frame.clone(), mark });
        match queue.schedule() {
            Pushed::Queued if dropped > 0 => Pushed::Instead(dropped),
            pushed => pushed,
        }
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
        queue.bytes = queue.frames.front().map_or(0, |first| first.frame.len() - queue.written);
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
        queue.frames.insert(at, Waiting { frame, mark: 0 });
        queue.schedule()
    }

    /// Ends the connection with `close` after what waits; only the first
    /// reason counts. A slow client's queue is dropped instead.
    pub fn close(&self, close: Close) {
        let mut queue = self.queue.lock();
        if queue.closing.is_none() {
            queue.close(close, self.encoding);
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
        std::mem::take(&mut queue.frames).into_iter().map(|waiting| waiting.frame).collect()
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

    /// Takes out what waits, some at a time; None: nothing more comes.
    pub(crate) fn poll_take(&self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        let mut queue = self.queue.lock();
        if queue.finished {
            return Poll::Ready(None);
        }
        if !queue.frames.is_empty() && (!queue.held || queue.closing.is_some()) {
            let taken = queue.joined(Bytes::copy_from_slice);
            queue.advance(taken.len());
            TRAFFIC.sent(taken.len());
            return Poll::Ready(Some(taken));
        }
        if queue.closing.is_some() {
            queue.finished = true;
            drop(queue);
            self.wake.notify_one();
            return Poll::Ready(None);
        }
        queue.frames.shrink_to(FRAMES_KEPT);
        queue.sink = Sink::Body(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Asks for its memory, which is about to be needed.
    pub(crate) fn prefetch(&self) {
        prefetch(self);
    }

    /// The same for what a [`flush`](Self::flush) follows from there.
    pub(super) fn prefetch_sink(&self) {
        let Some(queue) = self.queue.try_lock() else { return };
        if let Sink::Socket(socket) = &queue.sink {
            prefetch(&**socket);
        }
        if let Some(first) = queue.frames.front() {
            prefetch(first);
        }
    }

    /// Writes what waits until the socket takes no more.
    pub(super) fn flush(&self) {
        let mut queue = self.queue.lock();
        queue.scheduled = false;
        queue.blocked = false;
        if queue.held && queue.closing.is_none() {
            return;
        }
        if let Sink::Body(waker) = &mut queue.sink {
            let waker = waker.take();
            drop(queue);
            if let Some(waker) = waker {
                waker.wake();
            }
            return;
        }
        while !queue.is_written() {
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

/// Whether there is room for a frame.
enum Room {
    /// It goes to the end, with this mark; so many others were left out.
    Made(u64, usize),
    /// It stands where another has stood.
    Taken,
    None,
}

impl Queue {
    /// Sees to it that there is room for a frame, by what may be left out.
    fn make_room(&mut self, frame: &Bytes, spare: Spare) -> Room {
        // What is half written must be finished.
        let first = usize::from(self.written > 0);
        let fits = |bytes: usize, at: usize| bytes == 0 || bytes + frame.len() <= at;
        match spare {
            Spare::Never => Room::Made(0, 0),
            Spare::Newest { at } => {
                if fits(self.bytes, at) {
                    Room::Made(0, 0)
                } else {
                    Room::None
                }
            }
            Spare::Oldest { mark, at } => {
                let mut dropped = 0;
                while !fits(self.bytes, at) {
                    let oldest = self.frames.iter().skip(first).position(|waiting| waiting.mark == mark);
                    // What else waits is not this room's, and the bound of all holds.
                    let Some(gone) = oldest.and_then(|oldest| self.frames.remove(first + oldest)) else { break };
                    self.bytes -= gone.frame.len();
                    dropped += 1;
                }
                Room::Made(mark, dropped)
            }
            Spare::Latest { mark, at } => {
                let like = self.frames.iter().skip(first).position(|waiting| waiting.mark == mark).map(|n| first + n);
                let Some(like) = like else {
                    return if fits(self.bytes, at) { Room::Made(mark, 0) } else { Room::None };
                };
                let without = self.bytes - self.frames[like].frame.len();
                if without + frame.len() <= at || frame.len() <= self.frames[like].frame.len() {
                    self.bytes = without + frame.len();
                    self.frames[like].frame = frame.clone();
                    return Room::Taken;
                }
                // It is old news, and the new is too large to wait.
                self.frames.remove(like);
                self.bytes = without;
                Room::None
            }
        }
    }

    fn schedule(&mut self) -> Pushed {
        if self.scheduled || self.blocked || self.held {
            return Pushed::Queued;
        }
        self.scheduled = true;
        Pushed::Schedule
    }

    fn close(&mut self, close: Close, encoding: Encoding) {
        if close == Close::SLOW {
            // The client has no use for old news; what is half written must
            // be finished, or the close frame would be read as its rest.
            self.frames.truncate(usize::from(self.written > 0));
            self.bytes = self.frames.front().map_or(0, |first| first.frame.len() - self.written);
        }
        // A client that has closed has been answered already, or is gone.
        if close.code != Close::BY_CLIENT.code {
            let last = encoding.close(&close);
            self.bytes += last.len();
            self.frames.push_back(Waiting { frame: last, mark: 0 });
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

    /// TLS may have taken what the kernel has not.
    fn is_written(&self) -> bool {
        self.frames.is_empty() && !matches!(&self.sink, Sink::Socket(socket) if socket.has_rest())
    }

    fn write(&self) -> io::Result<usize> {
        let Sink::Socket(socket) = &self.sink else { return Err(io::ErrorKind::NotConnected.into()) };
        if self.frames.is_empty() {
            return socket.try_flush().map(|()| 0);
        }
        self.joined(|bytes| socket.try_write(bytes))
    }

    /// What goes out at once. Copying small frames together costs less than a
    /// vectored write.
    fn joined<T>(&self, to: impl FnOnce(&[u8]) -> T) -> T {
        let first = &self.frames[0].frame[self.written..];
        if self.frames.len() == 1 {
            return to(first);
        }
        JOINED.with_borrow_mut(|joined| {
            joined.clear();
            joined.extend_from_slice(first);
            for Waiting { frame, .. } in self.frames.iter().skip(1) {
                if joined.len() + frame.len() > WRITE_MAX {
                    break;
                }
                joined.extend_from_slice(frame);
            }
            to(joined)
        })
    }

    fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(first) = self.frames.front() {
            let left = first.frame.len() - self.written;
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

#[cfg(test)]
mod tests {
    use super::*;

    const AT: usize = 100;

    fn outbox() -> Outbox {
        Outbox::taken(Encoding::CentrifugeJsonStream, 1000, 0)
    }

    fn frame(text: u8, length: usize) -> Bytes {
        vec![text; length].into()
    }

    fn waiting(outbox: &Outbox) -> Vec<(u8, usize)> {
        let queue = outbox.queue.lock();
        let all: Vec<_> = queue.frames.iter().map(|waiting| (waiting.frame[0], waiting.frame.len())).collect();
        assert_eq!(queue.bytes, all.iter().map(|(_, length)| length).sum::<usize>());
        all
    }

    #[test]
    fn the_oldest_of_a_room_make_room_for_the_newest() {
        let (outbox, spare) = (outbox(), Spare::Oldest { mark: 1, at: AT });
        assert_eq!(outbox.push_spare(&frame(b'a', 40), spare), Pushed::Schedule);
        outbox.push_spare(&frame(b'b', 40), spare);
        assert_eq!(outbox.push_spare(&frame(b'c', 60), spare), Pushed::Instead(1));
        assert_eq!(waiting(&outbox), [(b'b', 40), (b'c', 60)]);
        // What else waits is not touched, and the newest is there all the same.
        let _queued = outbox.push(&frame(b'x', 150));
        assert_eq!(outbox.push_spare(&frame(b'd', 10), spare), Pushed::Instead(2));
        assert_eq!(waiting(&outbox), [(b'x', 150), (b'd', 10)]);
    }

    #[test]
    fn the_newest_is_left_out_while_much_waits() {
        let (outbox, spare) = (outbox(), Spare::Newest { at: AT });
        outbox.push_spare(&frame(b'a', 200), spare);
        assert_eq!(outbox.push_spare(&frame(b'b', 1), spare), Pushed::Dropped);
        assert_eq!(waiting(&outbox), [(b'a', 200)], "one always fits");
    }

    #[test]
    fn only_the_latest_of_a_mark_waits_and_its_place_is_kept() {
        let latest = |mark: u64| Spare::Latest { mark, at: AT };
        let outbox = outbox();
        outbox.push_spare(&frame(b'a', 30), latest(1));
        outbox.push_spare(&frame(b'b', 30), latest(3));
        assert_eq!(outbox.push_spare(&frame(b'c', 40), latest(1)), Pushed::Instead(1));
        assert_eq!(waiting(&outbox), [(b'c', 40), (b'b', 30)]);
        assert_eq!(outbox.push_spare(&frame(b'd', 90), latest(1)), Pushed::Dropped, "it is too large");
        assert_eq!(waiting(&outbox), [(b'b', 30)], "and the old one is no news");
        // Who came back is another member than before.
        assert_ne!(latest(1).of(1), latest(1).of(2));
    }

    #[test]
    fn what_is_half_written_stays() {
        let outbox = outbox();
        outbox.push_spare(&frame(b'a', 90), Spare::Oldest { mark: 1, at: AT });
        {
            let mut queue = outbox.queue.lock();
            queue.written = 10;
            queue.bytes -= 10;
        }
        assert_eq!(outbox.push_spare(&frame(b'b', 90), Spare::Oldest { mark: 1, at: AT }), Pushed::Queued);
        let queue = outbox.queue.lock();
        assert_eq!((queue.frames.len(), queue.bytes), (2, 170));
    }
}
