//! axum's own WebSocket, as its user would write a room: one task a connection that
//! waits for the client and for the room.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::any;
use futures_util::SinkExt as _;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::broadcast::{Receiver, Sender, channel};

use crate::listen;

/// Messages that a member may be behind; then it is closed.
const BEHIND: usize = 1024;
/// The default of 128 KiB is touched on the first read, by each connection.
const READ_BUFFER: usize = 4096;

/// By name. Who has asked for no room is in the one without a name.
#[derive(Clone, Default)]
struct Rooms(Arc<Mutex<HashMap<String, Sender<Utf8Bytes>>>>);

impl Rooms {
    fn join(&self, name: String) -> Receiver<Utf8Bytes> {
        self.0.lock().entry(name).or_insert_with(|| channel(BEHIND).0).subscribe()
    }

    fn publish(&self, name: &str, data: &str) {
        let room = self.0.lock().get(name).cloned();
        if let Some(room) = room {
            // Fails when all have left.
            let _ = room.send(data.into());
        }
    }
}

pub(crate) async fn serve(listener: std::net::TcpListener) -> Result<()> {
    let app = Router::new().route("/", any(upgrade)).route("/{room}", any(upgrade)).with_state(Rooms::default());
    Ok(axum::serve(listen::for_axum(listener)?, app).await?)
}

async fn upgrade(ws: WebSocketUpgrade, room: Option<Path<String>>, State(rooms): State<Rooms>) -> Response {
    let messages = rooms.join(room.map(|Path(name)| name).unwrap_or_default());
    ws.read_buffer_size(READ_BUFFER).on_upgrade(async |socket| {
        // An error is the connection's end, which the client sees.
        let _ = connection(socket, messages, rooms).await;
    })
}

async fn connection(mut socket: WebSocket, mut messages: Receiver<Utf8Bytes>, rooms: Rooms) -> Result<()> {
    loop {
        tokio::select! {
            message = messages.recv() => {
                socket.feed(Message::Text(message?)).await?;
                // One write for all that wait.
                loop {
                    match messages.try_recv() {
                        Ok(message) => socket.feed(Message::Text(message)).await?,
                        Err(TryRecvError::Empty) => break,
                        Err(behind) => return Err(behind.into()),
                    }
                }
                socket.flush().await?;
            }
            said = socket.recv() => match said {
                Some(said) => {
                    if let Message::Text(text) = said? {
                        let (room, data) = text.split_once(' ').context("a message without a room")?;
                        rooms.publish(room, data);
                    }
                }
                None => return Ok(()),
            },
        }
    }
}
