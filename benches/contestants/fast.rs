//! fastwebsockets over hyper's upgrade. It has no way to hold frames back, so
//! each message is one write; and its `read_frame` is not safe to cancel, which
//! does not show here only because these clients send nothing.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

use super::http;
use crate::support::tokio_room::{self, Room};
use crate::support::wire;

pub(crate) fn serve(payload: usize) -> Result<()> {
    let payload = Bytes::from(wire::payload(payload));
    tokio_room::serve(payload, |listener, room| {
        http::accept(listener, move |upgraded| connection(upgraded, Arc::clone(&room)))
    })
}

async fn connection(upgraded: Upgraded, room: Arc<Room<Bytes>>) -> Result<()> {
    let mut socket = WebSocket::after_handshake(TokioIo::new(upgraded), Role::Server);
    let mut messages = room.join();
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some(message) = message else { return Ok(()) };
                socket.write_frame(Frame::text(Payload::Borrowed(&message))).await?;
            }
            frame = socket.read_frame() => {
                if frame?.opcode == OpCode::Close {
                    return Ok(());
                }
            }
        }
    }
}
