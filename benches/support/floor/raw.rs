//! One tokio task a connection with a bounded queue of shared frames; no
//! WebSocket library.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::tokio_room::{self, Room};
use crate::support::wire;

pub(crate) fn serve(payload: usize) -> Result<()> {
    let frame = wire::server_frame(wire::payload(payload).as_bytes());
    tokio_room::serve(frame, |listener, room| async move {
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(connection(stream, Arc::clone(&room)));
        }
    })
}

async fn connection(mut stream: TcpStream, room: Arc<Room<Bytes>>) -> Result<()> {
    stream.set_nodelay(true)?;
    // Boxed, that its buffer is not part of the task for good.
    Box::pin(upgrade(&mut stream)).await?;
    let mut frames = room.join();
    loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => write(&mut stream, frame, &mut frames).await?,
                None => return Ok(()),
            },
            ready = stream.readable() => {
                ready?;
                if matches!(stream.try_read(&mut [0; 512]), Ok(0)) {
                    return Ok(());
                }
            }
        }
    }
}

/// One write for all frames that are waiting.
async fn write(stream: &mut TcpStream, first: Bytes, frames: &mut mpsc::Receiver<Bytes>) -> Result<()> {
    let Ok(second) = frames.try_recv() else {
        return Ok(stream.write_all(&first).await?);
    };
    let mut joined = [first, second].concat();
    while let Ok(frame) = frames.try_recv() {
        joined.extend_from_slice(&frame);
    }
    Ok(stream.write_all(&joined).await?)
}

async fn upgrade(stream: &mut TcpStream) -> Result<()> {
    let mut request = Vec::with_capacity(1024);
    while !wire::ends_head(&request) {
        ensure!(stream.read_buf(&mut request).await? > 0, "closed during the handshake");
    }
    Ok(stream.write_all(wire::upgrade_response(&request).as_bytes()).await?)
}
