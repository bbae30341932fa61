//! The bounded queue of frames toward one connection, and its socket's
//! writing half.
//!
//! Whoever delivers pushes shared frames and never waits. Writing is done in
//! batches by a [`Flusher`](super::flusher::Flusher), straight from the thread that
//! delivered when nobody else is at it; only a socket that takes no more is
//! left to its session, which waits until it is writable.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    flusher::Batch,
    frames::{Frames, Room},
};
use crate::{
    metrics::TRAFFIC,
    net::{Socket, Writer},
    prefetch::prefetch,
    protocol::{Close, Encoding},
};

/// The queue and the socket behind it: all that a delivery needs of a
/// connection. It fills three cache lines.
#[derive(Debug)]
pub struct Outbox {
    /// What its close goes out as.
    encoding: Encoding,
    /// Bytes that may wait.
    max: u32,
    /// Told when the session has to look: closing, or blocked.
    wake: Notify,
    /// Which flusher shard writes for it.
    shard: u16,
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
    Socket(Writer),
    /// The body of a response takes them when it can; this waits for them.
    Body(Option<Waker>),
}

#[derive(Debug, Default)]
struct Queue {
    sink: Sink,
    frames: Frames,
    /// Somebody has promised to flush.
    scheduled: bool,
    /// The socket is full; the session flushes when it is writable.
    blocked: bool,
    /// Nothing goes out before the greeting.
    held: bool,
    /// The session has to look at what its connection may.
    nudged: bool,
    /// Nothing is accepted any more; this goes out last.
    closing: Option<Box<Close>>,
    /// The socket failed, or everything is written and the close frame sent.
    finished: bool,
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

impl Outbox {
    /// `max`: bytes that may wait, 4 GiB at most. `shard`: which flusher writes
    /// for it.
    #[must_use]
    pub fn new(socket: impl Into<Arc<Socket>>, max: usize, shard: u16) -> Self {
        Self::to(Sink::Socket(Writer::new(socket.into())), Encoding::CentrifugeJson, max, shard)
    }

    /// One whose frames are taken by [`poll_take`](Self::poll_take).
    #[must_use]
    pub fn taken(encoding: Encoding, max: usize, shard: u16) -> Self {
        Self::to(Sink::Body(None), encoding, max, shard)
    }

    fn to(sink: Sink, encoding: Encoding, max: usize, shard: u16) -> Self {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
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
        self.shard.into()
    }

    /// Bytes that may wait.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max as usize
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
            spare => match queue.frames.make_room(frame, spare) {
                Room::Made(mark, dropped) => (mark, dropped),
                Room::Taken => return Pushed::Instead(1),
                Room::None => return Pushed::Dropped,
            },
        };
        if queue.frames.bytes() + frame.len() > self.max() {
            queue.close(Close::SLOW, self.encoding);
            drop(queue);
            self.wake.notify_one();
            return Pushed::Overflow;
        }
        queue.frames.push(frame.clone(), mark);
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
        queue.frames.forget();
    }

    /// Lets things out again, `frame` before everything else.
    fn greet(&self, frame: Bytes) -> Pushed {
        let mut queue = self.queue.lock();
        queue.held = false;
        if queue.finished {
            return Pushed::Closed;
        }
        queue.frames.push_first(frame);
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
        self.queue.lock().closing.as_deref().cloned()
    }

    /// Takes out what waits, in place of its socket.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Vec<Bytes> {
        self.queue.lock().frames.take()
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
            let taken = queue.frames.joined(Bytes::copy_from_slice);
            queue.frames.advance(taken.len());
            TRAFFIC.sent(taken.len());
            return Poll::Ready(Some(taken));
        }
        if queue.closing.is_some() {
            queue.finished = true;
            drop(queue);
            self.wake.notify_one();
            return Poll::Ready(None);
        }
        queue.frames.shrink();
        queue.sink = Sink::Body(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Asks for its memory, which is about to be needed.
    pub(crate) fn prefetch(&self) {
        prefetch(self);
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
                Ok(n) => queue.frames.advance(n),
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
        queue.frames.shrink();
        if queue.closing.is_some() && !queue.finished {
            queue.finished = true;
            drop(queue);
            self.wake.notify_one();
        }
    }
}

impl Queue {
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
            self.frames.forget();
        }
        // A client that has closed has been answered already, or is gone.
        if close.code != Close::BY_CLIENT.code {
            let last = encoding.close(&close);
            self.frames.push(last, 0);
        }
        self.closing = Some(Box::new(close));
    }

    fn fail(&mut self) {
        self.frames = Frames::default();
        self.finished = true;
        self.closing.get_or_insert_with(|| Box::new(Close::LOST));
    }

    /// TLS may have taken what the kernel has not.
    fn is_written(&self) -> bool {
        self.frames.is_empty() && !matches!(&self.sink, Sink::Socket(writer) if writer.has_rest())
    }

    fn write(&self) -> io::Result<usize> {
        let Sink::Socket(writer) = &self.sink else { return Err(io::ErrorKind::NotConnected.into()) };
        if self.frames.is_empty() {
            return writer.try_flush().map(|()| 0);
        }
        self.frames.joined(|bytes| writer.try_write(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: usize = 100;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn it_fills_three_cache_lines() {
        // With the two counts of its `Arc`.
        assert_eq!(size_of::<Outbox>() + 16, 192);
    }

    fn outbox() -> Outbox {
        Outbox::taken(Encoding::CentrifugeJsonStream, 1000, 0)
    }

    fn frame(text: u8, length: usize) -> Bytes {
        vec![text; length].into()
    }

    fn waiting(outbox: &Outbox) -> Vec<(u8, usize)> {
        outbox.queue.lock().frames.each().map(|frame| (frame[0], frame.len())).collect()
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
        outbox.queue.lock().frames.advance(10);
        assert_eq!(outbox.push_spare(&frame(b'b', 90), Spare::Oldest { mark: 1, at: AT }), Pushed::Queued);
        assert_eq!(waiting(&outbox), [(b'a', 80), (b'b', 90)]);
        // Also before a greeting, without one, and when the client is too slow.
        outbox.hold();
        assert_eq!(outbox.greet(frame(b'g', 5)), Pushed::Queued);
        assert_eq!(waiting(&outbox), [(b'a', 80), (b'g', 5), (b'b', 90)]);
        outbox.hold();
        outbox.release();
        assert_eq!(waiting(&outbox), [(b'a', 80)]);
        assert_eq!(outbox.push(&frame(b'b', 1000)), Pushed::Overflow);
        assert_eq!(waiting(&outbox)[0], (b'a', 80));
        // What is whole again may be left out.
        outbox.queue.lock().frames.advance(80);
        outbox.release();
        assert_eq!(waiting(&outbox), []);
    }
}
