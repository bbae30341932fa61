//! Sends each message back. For suites that test what is told apart here:
//! frames, by the reader and the outbox that sessions have.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use super::{
    outbox::{Outbox, Pushed},
    reader::{Decoded, Reader, Takes},
};
use crate::{
    net::Socket,
    protocol::{Close, Incoming, frame},
};

/// How long the other side may take to close as well.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs one socket behind its handshake to its end. `early`: what came with
/// that; `message_size`: bytes of the largest message.
pub async fn run(socket: TcpStream, early: Bytes, message_size: usize) {
    let mut socket = Arc::new(Socket::from(socket));
    let outbox = Arc::new(Outbox::new(Arc::clone(&socket), 4 * message_size, 0));
    let mut reader = Reader::new(message_size, Takes::Both);
    let mut input = early.to_vec();
    let close = loop {
        if let Err(close) = take_in(&mut reader, &outbox, &input) {
            break close;
        }
        input.clear();
        if let Some(close) = outbox.closing() {
            break close;
        }
        tokio::select! {
            biased;
            () = outbox.woken() => {}
            _ = poll_fn(|context| socket.poll_write_ready(context)), if outbox.is_blocked() => outbox.flush(),
            _ = poll_fn(|context| socket.poll_read_ready(context)) => {
                input.resize(16 << 10, 0);
                match socket.try_read(&mut input) {
                    Ok(0) => break Close::LOST,
                    Ok(n) => input.truncate(n),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => input.clear(),
                    Err(_gone) => break Close::LOST,
                }
            }
        }
    };
    outbox.close(close);
    outbox.flush();
    let ended = async {
        while !outbox.is_finished() && socket.writable().await.is_ok() {
            outbox.flush();
        }
        outbox.hang_up();
        if let Some(socket) = Arc::get_mut(&mut socket) {
            // What is unread at the end would turn it into a reset.
            let _gone = tokio::io::AsyncWriteExt::shutdown(socket).await;
            while socket.read(&mut input).await.is_ok_and(|n| n > 0) {}
        }
    };
    let _in_time = timeout(CLOSE_TIMEOUT, ended).await;
}

fn take_in(reader: &mut Reader, outbox: &Outbox, input: &[u8]) -> Result<(), Close> {
    let mut decoded = Decoded::default();
    let fed = if input.is_empty() { Ok(()) } else { reader.feed(input, &mut decoded) };
    let messages = decoded.messages.iter().map(|message| match message {
        Incoming::Text(text) => frame::text(|buffer| buffer.extend_from_slice(text.as_bytes())),
        Incoming::Binary(bytes) => frame::binary(|buffer| buffer.extend_from_slice(bytes)),
    });
    let control = Some(Bytes::from(decoded.control)).filter(|control| !control.is_empty());
    // As sessions have it: pongs first, and a close behind what came before it.
    let frames: Vec<_> = match fed {
        Ok(()) => control.into_iter().chain(messages).collect(),
        Err(_) => messages.chain(control).collect(),
    };
    for frame in frames {
        if outbox.push(&frame) == Pushed::Schedule {
            outbox.flush();
        }
    }
    fed
}
