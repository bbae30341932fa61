//! tokio-websockets with its own handshake, on the bare socket.

use std::sync::Arc;

use anyhow::Result;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_websockets::{Message, ServerBuilder};

use crate::support::tokio_room::{self, Room};
use crate::support::wire;

pub(crate) fn serve(payload: usize) -> Result<()> {
    let message = Message::text(wire::payload(payload));
    tokio_room::serve(message, |listener, room| async move {
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(connection(stream, Arc::clone(&room)));
        }
    })
}

async fn connection(stream: TcpStream, room: Arc<Room<Message>>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (_, mut socket) = Box::pin(ServerBuilder::new().accept(stream)).await?;
    let mut messages = room.join();
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some(message) = message else { return Ok(()) };
                socket.feed(message).await?;
                while let Ok(message) = messages.try_recv() {
                    socket.feed(message).await?;
                }
                socket.flush().await?;
            }
            read = socket.next() => match read {
                Some(read) => drop(read?),
                None => return Ok(()),
            },
        }
    }
}
