//! One socket with its two halves: what comes in, what goes out, and how it
//! ends. It knows nothing of commands.

use std::{cell::RefCell, future::poll_fn, io, pin::Pin, sync::Arc, time::Duration};

use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::{
    bucket::{Bucket, Taken},
    outbox::{Outbox, Pushed},
    reader::{Decoded, Reader, Takes},
};
use crate::{
    net::Socket,
    protocol::{Close, Incoming},
};

/// Bytes of one read. What one read brings is handled before anything is
/// written, so this also bounds how long others wait for it.
const READ_MAX: usize = 16 << 10;

/// How long a message may take from its first byte to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pings and pongs that a client may send a second, and at once. A client
/// needs one in some seconds.
const CONTROL_RATE: (u64, u64) = (10, 100);

/// Bytes that may come for one message, as a multiple of the largest one. A
/// fragment of a single byte has six of overhead; an empty one is nothing else,
/// and could go on for ever.
const FRAGMENTED: usize = 16;

/// A control frame with its head and mask, in bytes. It may come between the
/// fragments of a message and is none of them.
const CONTROL_FRAME_MAX: usize = 131;

/// Bytes that a client may still send after its close frame has gone out. One
/// that keeps on flooding is cut off.
const LAST_BYTES: usize = 1 << 20;

thread_local! {
    /// Idle connections have no buffer; all of a thread share this one.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_MAX].into_boxed_slice());
}

/// What happened on the wire.
#[derive(Debug)]
pub(super) enum Input {
    /// Whole messages came.
    Messages(Vec<Incoming>),
    /// The deadline came, or something has changed what holds of it.
    Tick,
    /// It is over.
    Ended(Close),
}

/// What a session hears its client by. What it says goes into the outbox.
pub(super) trait Line {
    /// Waits for the next thing.
    fn next(&mut self, deadline: Instant) -> impl Future<Output = Input> + Send;

    /// Ends it, within about `timeout`.
    fn finish(self, close: Close, timeout: Duration) -> impl Future<Output = ()> + Send;
}

/// A socket.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Arc<Socket>,
    outbox: Arc<Outbox>,
    reader: Reader,
    control: Bucket,
    /// Since when bytes come that make no message.
    unfinished_since: Option<Instant>,
    /// How many have come for it, and how many may.
    unfinished: usize,
    unfinished_max: usize,
    /// Kept, since arming a timer for each read costs more than the read.
    timer: Pin<Box<Sleep>>,
    /// How it ends, when the messages before it have been handed out.
    ending: Option<Close>,
    /// What goes out with that: the answer to a close frame stands behind all
    /// answers to what came before it.
    last: Box<[u8]>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.outbox.hang_up();
    }
}

impl Wire {
    /// `outbox` writes to the same `socket`, and no longer than this lives.
    pub(super) fn new(socket: Arc<Socket>, outbox: Arc<Outbox>, message_size: usize, takes: Takes) -> Self {
        let now = Instant::now();
        Self {
            socket,
            outbox,
            reader: Reader::new(message_size, takes),
            control: Bucket::new(now, CONTROL_RATE.1),
            unfinished_since: None,
            unfinished: 0,
            unfinished_max: FRAGMENTED * message_size,
            timer: Box::pin(sleep_until(now)),
            ending: None,
            last: Box::default(),
        }
    }

    /// Takes in bytes that came with the handshake.
    pub(super) fn early(&mut self, bytes: &[u8]) -> Vec<Incoming> {
        if bytes.is_empty() { Vec::new() } else { self.feed(bytes) }
    }

    fn read(&mut self) -> Vec<Incoming> {
        SCRATCH.with_borrow_mut(|scratch| match self.socket.try_read(scratch) {
            Ok(0) => {
                self.ending = Some(Close::LOST);
                Vec::new()
            }
            Ok(n) => self.feed(&scratch[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Vec::new(),
            Err(_gone) => {
                self.ending = Some(Close::LOST);
                Vec::new()
            }
        })
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<Incoming> {
        let mut decoded = Decoded::default();
        if let Err(close) = self.reader.feed(bytes, &mut decoded) {
            self.ending = Some(close);
        }
        let Decoded { messages, control, n_control, .. } = decoded;
        if self.ending.is_some() {
            self.last = control.into();
        } else {
            self.answer(&control);
        }
        if n_control > 0 {
            let now = Instant::now();
            let flood = (0..n_control).any(|_| self.control.take(now, CONTROL_RATE.0, CONTROL_RATE.1) != Taken::Yes);
            if flood {
                self.ending = Some(Close::CONTROL_FLOOD);
            }
        }
        if messages.is_empty() {
            let control = usize::try_from(n_control).unwrap_or(usize::MAX).saturating_mul(CONTROL_FRAME_MAX);
            self.unfinished = (self.unfinished + bytes.len()).saturating_sub(control);
            if self.unfinished > self.unfinished_max {
                self.ending.get_or_insert(Close::FRAGMENT_FLOOD);
            }
        } else {
            self.unfinished = 0;
        }
        if !messages.is_empty() || n_control > 0 {
            self.unfinished_since = None;
        } else if self.unfinished_since.get_or_insert_with(Instant::now).elapsed() > MESSAGE_TIMEOUT {
            self.ending = Some(Close::BAD_REQUEST);
        }
        messages
    }

    fn answer(&self, control: &[u8]) {
        if !control.is_empty() && self.outbox.push_control(control) == Pushed::Schedule {
            self.outbox.flush();
        }
    }
}

impl Line for Wire {
    /// Waits for the next thing: its four inputs are a wish to close or write
    /// from elsewhere, room to write, bytes to read, and the deadline.
    ///
    /// The socket is polled and not awaited by `readable`: that takes the place
    /// of the HTTP task's waker, which would keep that task's memory for good.
    async fn next(&mut self, deadline: Instant) -> Input {
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        loop {
            if let Some(close) = self.ending.take().or_else(|| self.outbox.closing()) {
                let last = std::mem::take(&mut self.last);
                self.answer(&last);
                return Input::Ended(close);
            }
            let (socket, outbox) = (&self.socket, &self.outbox);
            tokio::select! {
                biased;
                () = outbox.woken() => if outbox.take_nudge() { return Input::Tick },
                // Before reading: whoever always has something to say must not
                // outlive a deadline.
                () = &mut self.timer => return Input::Tick,
                _ = poll_fn(|context| socket.poll_write_ready(context)), if outbox.is_blocked() => outbox.flush(),
                _ = poll_fn(|context| socket.poll_read_ready(context)) => {
                    let messages = self.read();
                    if !messages.is_empty() {
                        return Input::Messages(messages);
                    }
                }
            }
        }
    }

    /// Ends it: writes what waits and the close frame, then gives the client
    /// until `timeout` to answer it, so that nothing is lost to a reset. The
    /// server then closes first, as RFC 6455, section 7.1.1, has it.
    async fn finish(mut self, close: Close, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let Self { socket, outbox, reader, .. } = &mut self;
        outbox.close(close);
        outbox.flush();
        let written = async {
            while !outbox.is_finished() {
                if socket.writable().await.is_err() {
                    return;
                }
                outbox.flush();
            }
        };
        if timeout_at(deadline, written).await.is_err()
            || outbox.closing().is_some_and(|close| close.code == Close::BY_CLIENT.code)
        {
            return;
        }
        let mut left = LAST_BYTES;
        let mut reader = Some(reader);
        let read_out = async {
            while left > 0 && socket.readable().await.is_ok() {
                let read = SCRATCH.with_borrow_mut(|scratch| {
                    let n = socket.try_read(scratch)?;
                    let fed = reader.as_mut().map(|reader| reader.feed(&scratch[..n], &mut Decoded::default()));
                    let is_closed =
                        |fed: &Result<(), Close>| matches!(fed, Err(close) if close.code == Close::BY_CLIENT.code);
                    let is_over = n == 0 || fed.as_ref().is_some_and(is_closed);
                    // The rest of what made no sense makes none either; it is
                    // read all the same, for the sake of our close frame.
                    reader = reader.take().filter(|_| matches!(fed, Some(Ok(()))));
                    Ok::<_, io::Error>((n, is_over))
                });
                match read {
                    Ok((_, true)) => return,
                    Ok((n, false)) => left = left.saturating_sub(n),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_gone) => return,
                }
            }
        };
        // Whether it closed in time makes no difference now.
        let _in_time = timeout_at(deadline, read_out).await;
    }
}
