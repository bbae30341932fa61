//! The publisher writes the shared encoded frame to each member's socket
//! itself; a connection's task only reads, by tungstenite, and writes what a
//! full socket left over.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tungstenite::Error;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::http;
use crate::support::orders::{self, Order};
use crate::support::{tokio_room, wire};

/// How the messages of a burst reach the sockets.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Way {
    /// One write for each message and member.
    EachMessage,
    /// The room's messages that are there are joined once; one write a member.
    Joined,
    /// Into each member's outbox, message by message; then one write a member.
    /// Joins also what comes from different rooms.
    Outbox,
    /// As `EachMessage`, and tungstenite reads the socket itself, by a buffer
    /// of 4 KiB that each connection has.
    OwnBuffer,
}

/// Messages that are written in one go at most.
const JOINED: usize = 64;
/// Frames that wait for one full socket at most; then the publisher waits.
const OUTBOX: usize = 256;

pub(crate) fn serve(payload: usize, way: Way) -> Result<()> {
    let frame = wire::server_frame(wire::payload(payload).as_bytes());
    let listener = orders::listen()?;
    listener.set_nonblocking(true)?;
    tokio_room::runtime()?.block_on(async {
        let room = Arc::new(Room::default());
        let accepted = Arc::clone(&room);
        tokio::spawn(http::accept(TcpListener::from_std(listener)?, move |upgraded| {
            connection(upgraded, Arc::clone(&accepted), way)
        }));
        tokio::spawn(publish(room, frame, way)).await?
    })
}

type Room = Mutex<Vec<Arc<Member>>>;

async fn publish(room: Arc<Room>, frame: Bytes, way: Way) -> Result<()> {
    let mut orders = orders::channel();
    while let Some(order) = orders.recv().await {
        let members = room.lock().clone();
        match order {
            Order::Members => println!("{}", members.len()),
            Order::Send(messages) => burst(&members, &frame, messages, way).await,
        }
    }
    Ok(())
}

async fn burst(members: &[Arc<Member>], frame: &Bytes, mut messages: usize, way: Way) {
    while messages > 0 {
        let joined = if matches!(way, Way::EachMessage | Way::OwnBuffer) { 1 } else { messages.min(JOINED) };
        messages -= joined;
        match way {
            Way::Outbox => {
                for _ in 0..joined {
                    members.iter().for_each(|member| member.outbox.lock().push_back(frame.clone()));
                }
                flush(members).await;
            }
            _ if joined == 1 => deliver(members, frame).await,
            _ => deliver(members, &frame.repeat(joined).into()).await,
        }
    }
}

/// Writes the frame to each member, or keeps it for the member.
async fn deliver(members: &[Arc<Member>], frame: &Bytes) {
    for member in members {
        while !member.offer(frame) {
            yield_now().await;
        }
    }
}

/// Writes each member's outbox out, as far as its socket takes it.
async fn flush(members: &[Arc<Member>]) {
    for member in members {
        while !member.flush() && member.outbox.lock().len() > OUTBOX {
            yield_now().await;
        }
    }
}

/// A connection as its senders see it.
struct Member {
    stream: TcpStream,
    /// What the socket did not take; while there is some, order demands that
    /// everything goes behind it. Held over a nonblocking write, never longer.
    outbox: Mutex<VecDeque<Bytes>>,
    /// The socket was full: the connection's task has to write the rest.
    left_over: Notify,
}

impl Member {
    /// Writes the frame, or keeps what the socket does not take; false when
    /// there is no room to keep more.
    fn offer(&self, frame: &Bytes) -> bool {
        let mut outbox = self.outbox.lock();
        if !outbox.is_empty() {
            let has_room = outbox.len() < OUTBOX;
            if has_room {
                outbox.push_back(frame.clone());
            }
            return has_room;
        }
        if let Some(rest) = self.rest_of(frame) {
            outbox.push_back(rest);
            self.left_over.notify_one();
        }
        true
    }

    /// Writes the outbox out, as one write; true when nothing is left.
    fn flush(&self) -> bool {
        let mut outbox = self.outbox.lock();
        let joined = match outbox.len() {
            0 => return true,
            1 => outbox.pop_front().unwrap_or_default(),
            _ => outbox.drain(..).collect::<Vec<_>>().concat().into(),
        };
        let rest = self.rest_of(&joined);
        let done = rest.is_none();
        outbox.extend(rest);
        if !done {
            self.left_over.notify_one();
        }
        done
    }

    /// What the socket does not take of `bytes`. A broken socket takes all:
    /// its reader will see the end.
    fn rest_of(&self, bytes: &Bytes) -> Option<Bytes> {
        match self.stream.try_write(bytes) {
            Ok(written) if written < bytes.len() => Some(bytes.slice(written..)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(bytes.clone()),
            _ => None,
        }
    }
}

async fn connection(upgraded: Upgraded, room: Arc<Room>, way: Way) -> Result<()> {
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        return Err(anyhow!("not the socket that was accepted"));
    };
    // A copy, and the original dropped: an empty one still holds hyper's 8 KiB.
    let early = parts.read_buf.to_vec();
    drop(parts.read_buf);
    let stream = parts.io.into_inner();
    let member = Arc::new(Member { stream, outbox: Mutex::default(), left_over: Notify::new() });
    room.lock().push(Arc::clone(&member));
    let buffer = if way == Way::OwnBuffer { 4096 } else { 512 };
    let config = WebSocketConfig::default().read_buffer_size(buffer);
    let mut socket = WebSocketContext::from_partially_read(early, Role::Server, Some(config));
    drain(&mut socket, &mut Half { member: &member, input: Some(&[]) })?;
    loop {
        match way {
            Way::OwnBuffer => drain(&mut socket, &mut Half { member: &member, input: None })?,
            _ => read_by_scratch(&mut socket, &member)?,
        }
        tokio::select! {
            // Not `readable`: only this takes the place of the HTTP task's waker,
            // which would hold that task's memory as long as the socket lives.
            ready = poll_fn(|context| member.stream.poll_read_ready(context)) => ready?,
            () = member.left_over.notified() => {
                while !member.flush() {
                    member.stream.writable().await?;
                }
            }
        }
    }
}

thread_local! {
    /// What is read before tungstenite sees it: one read takes much, and a
    /// connection keeps no more than the frame that it has begun.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 16 * 1024]);
}

fn read_by_scratch(socket: &mut WebSocketContext, member: &Member) -> Result<()> {
    SCRATCH.with_borrow_mut(|scratch| {
        loop {
            let input = match member.stream.try_read(scratch) {
                Ok(0) => return Err(Error::ConnectionClosed.into()),
                Ok(length) => &scratch[..length],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            drain(socket, &mut Half { member, input: Some(input) })?;
        }
    })
}

/// Every message that is there.
fn drain(socket: &mut WebSocketContext, half: &mut Half<'_>) -> Result<()> {
    loop {
        match socket.read(half) {
            Ok(_message) => {}
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The socket as tungstenite sees it. Its own answers (pongs, closes) take the
/// way of all frames, else they would cut into one that is half written.
struct Half<'a> {
    member: &'a Member,
    /// What has been read for it; without, it reads itself.
    input: Option<&'a [u8]>,
}

impl Read for Half<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.input {
            None => self.member.stream.try_read(buffer),
            Some([]) => Err(ErrorKind::WouldBlock.into()),
            Some(input) => input.read(buffer),
        }
    }
}

impl Write for Half<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.member.offer(&Bytes::copy_from_slice(bytes)) {
            return Ok(bytes.len());
        }
        Err(ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
