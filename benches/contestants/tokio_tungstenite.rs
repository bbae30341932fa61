//! tokio-tungstenite over hyper's upgrade: what axum's WebSocket does inside.

use std::sync::Arc;

use anyhow::Result;
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::http;
use crate::support::tokio_room::{self, Room};
use crate::support::wire;

/// The default of 128 KiB is touched on the first read: 134 KiB a connection.
const READ_BUFFER: usize = 4096;

pub(crate) fn serve(payload: usize) -> Result<()> {
    let message = Message::Text(Utf8Bytes::from(wire::payload(payload)));
    tokio_room::serve(message, |listener, room| {
        http::accept(listener, move |upgraded| connection(upgraded, Arc::clone(&room)))
    })
}

async fn connection(upgraded: Upgraded, room: Arc<Room<Message>>) -> Result<()> {
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let stream = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
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
