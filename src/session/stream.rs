//! A client without a socket of its own: what it says comes in requests beside,
//! what it hears is the body of one long response.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    outbox::Outbox,
    wire::{Input, Line},
};
use crate::protocol::{Close, Incoming};

/// What comes in.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) incoming: mpsc::Receiver<Incoming>,
    pub(super) outbox: Arc<Outbox>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.outbox.hang_up();
    }
}

impl Line for Stream {
    async fn next(&mut self, deadline: Instant) -> Input {
        loop {
            if let Some(close) = self.outbox.closing() {
                return Input::Ended(close);
            }
            tokio::select! {
                biased;
                () = self.outbox.woken() => if self.outbox.take_nudge() { return Input::Tick },
                () = sleep_until(deadline) => return Input::Tick,
                Some(message) = self.incoming.recv() => return Input::Messages(vec![message]),
            }
        }
    }

    async fn finish(self, close: Close, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        self.outbox.close(close);
        self.outbox.flush();
        let taken = async {
            while !self.outbox.is_finished() {
                self.outbox.woken().await;
            }
        };
        // Whether it was taken in time makes no difference now.
        let _in_time = timeout_at(deadline, taken).await;
    }
}

/// What goes out, as the body of a response. Who drops it hangs up.
#[derive(Debug)]
pub struct StreamBody(pub(super) Arc<Outbox>);

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.0.hang_up();
    }
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_take(context).map(|taken| taken.map(|bytes| Ok(Frame::data(bytes))))
    }
}
