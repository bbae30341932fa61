//! Socket.IO in Rust, as its documentation sets one up. It speaks the events of
//! socketio/server.js. Each event is handled by a task of its own, so that messages
//! of one client may overtake each other.

use std::convert::Infallible;
use std::net::TcpListener;

use anyhow::Result;
use axum::Router;
use serde::Deserialize;
use serde_json::Value;
use socketioxide::adapter::Adapter;
use socketioxide::extract::{AckSender, Data, SocketRef, TryData};
use socketioxide::handler::ConnectHandler as _;
use socketioxide::layer::SocketIoLayer;
use socketioxide::{SocketIo, TransportType};
use socketioxide_redis::drivers::redis::redis_client::Client;
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr};

use crate::listen;

/// Messages that wait for one connection; what is over that is lost. The default of
/// 128 is less than two bursts of a bench.
const QUEUE: usize = 10_000;

#[derive(Deserialize)]
struct Auth {
    user: String,
}

pub(crate) async fn serve(listener: TcpListener, redis: Option<u16>) -> Result<()> {
    let builder = SocketIo::builder().transports([TransportType::Websocket]).max_buffer_size(QUEUE);
    match redis {
        Some(port) => {
            let client = Client::open(format!("redis://127.0.0.1:{port}?protocol=resp3"))?;
            let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
            let (layer, io) = builder.with_adapter::<RedisAdapter<_>>(adapter).build_layer();
            io.ns("/", connected.with(connecting)).await?;
            http(listener, layer).await
        }
        None => {
            let (layer, io) = builder.build_layer();
            io.ns("/", connected.with(connecting));
            http(listener, layer).await
        }
    }
}

async fn http<A: Adapter>(listener: TcpListener, layer: SocketIoLayer<A>) -> Result<()> {
    Ok(axum::serve(listen::for_axum(listener)?, Router::new().layer(layer)).await?)
}

/// A middleware, which is done before the client is told that it is connected. A handler
/// runs beside that, and loses the events of a client that is quick.
async fn connecting<A: Adapter>(socket: SocketRef<A>, TryData(auth): TryData<Auth>) -> Result<(), Infallible> {
    if let Ok(Auth { user }) = auth {
        socket.join(format!("user:{user}"));
    }
    socket.on("join", on_join);
    socket.on("pub", on_pub);
    socket.on("user", on_user);
    Ok(())
}

async fn connected() {}

async fn on_join<A: Adapter>(socket: SocketRef<A>, Data(room): Data<String>, ack: AckSender<A>) {
    socket.join(room);
    // Fails for one that has left.
    ack.send(&()).ok();
}

async fn on_pub<A: Adapter>(io: SocketIo<A>, Data((room, payload)): Data<(String, Value)>) {
    emit(&io, room, &payload).await;
}

async fn on_user<A: Adapter>(io: SocketIo<A>, Data((user, payload)): Data<(String, Value)>) {
    emit(&io, format!("user:{user}"), &payload).await;
}

async fn emit<A: Adapter>(io: &SocketIo<A>, room: String, payload: &Value) {
    if let Err(error) = io.to(room).emit("m", payload).await {
        // To the log that a bench shows when messages are missing.
        eprintln!("{error}");
    }
}
