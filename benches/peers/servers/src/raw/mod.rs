//! One tokio task a connection with a bounded queue of shared frames; no
//! WebSocket library.

mod rooms;

use std::io::ErrorKind;
use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use self::rooms::Rooms;
use crate::wire::{self, Upgrade};

/// Frames that wait for one connection at most; then the publisher waits.
const QUEUE: usize = 256;
/// Of one read.
const READ: usize = 16 << 10;

pub(crate) async fn serve(listener: std::net::TcpListener) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let rooms = Arc::new(Rooms::default());
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(stream, Arc::clone(&rooms)));
    }
}

async fn connection(mut stream: TcpStream, rooms: Arc<Rooms>) -> Result<()> {
    stream.set_nodelay(true)?;
    // Boxed, that the request is not part of the task for good.
    let Upgrade { room, answer } = Box::pin(upgrade(&mut stream)).await?;
    let (own, frames) = mpsc::channel(QUEUE);
    // Before the first message.
    own.send(answer.into()).await?;
    let room = room.map(|name| rooms.join(&name, own.clone()));
    let (read, write) = stream.split();
    // Beside each other in the one task: who waits for a full queue, which may be its
    // own, still writes.
    let ended = tokio::select! {
        ended = follow(read, &own, &rooms) => ended,
        ended = deliver(write, frames) => ended,
    };
    if let Some(room) = room {
        room.leave(&own);
    }
    ended
}

async fn upgrade(stream: &mut TcpStream) -> Result<Upgrade> {
    let mut request = Vec::with_capacity(1024);
    loop {
        ensure!(stream.read_buf(&mut request).await? > 0, "closed during the handshake");
        if let Some(upgrade) = wire::upgrade(&request)? {
            return Ok(upgrade);
        }
    }
}

/// Does what the client says, to its end.
async fn follow(read: ReadHalf<'_>, own: &mpsc::Sender<Bytes>, rooms: &Rooms) -> Result<()> {
    let mut begun = Vec::new();
    loop {
        read.readable().await?;
        begun.reserve(READ);
        match read.try_read_buf(&mut begun) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
            _ => {}
        }
        let mut at = 0;
        while let Some(frame) = wire::frame(&mut begun[at..])? {
            at += frame.length;
            match frame.opcode {
                wire::TEXT => {
                    let (room, data) = wire::message(frame.payload)?;
                    rooms.publish(room, wire::server_frame(wire::TEXT, data).into()).await;
                }
                wire::PING => own.send(wire::server_frame(wire::PONG, frame.payload).into()).await?,
                wire::CLOSE => own.send(wire::server_frame(wire::CLOSE, frame.payload).into()).await?,
                _ => {}
            }
        }
        begun.drain(..at);
        if begun.is_empty() {
            // With its memory: the next frame may be long in coming.
            begun = Vec::new();
        }
    }
}

/// Writes what is put into the queue, all that waits at once, up to a close.
async fn deliver(mut write: WriteHalf<'_>, mut frames: mpsc::Receiver<Bytes>) -> Result<()> {
    while let Some(first) = frames.recv().await {
        let mut closes = wire::is_close(&first);
        match frames.try_recv() {
            Err(_) => write.write_all(&first).await?,
            Ok(second) => {
                closes |= wire::is_close(&second);
                let mut joined = [first, second].concat();
                while let Ok(frame) = frames.try_recv() {
                    closes |= wire::is_close(&frame);
                    joined.extend_from_slice(&frame);
                }
                write.write_all(&joined).await?;
            }
        }
        if closes {
            break;
        }
    }
    Ok(())
}
