//! Backends, which speak with the server API, and who looks on.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Stage, crowd::now};
use crate::{
    api::{KEY, call, exchange},
    support::TestClient,
};

/// How often a backend calls, in milliseconds.
const PACE: u64 = 100;

/// The next call. Each names new users, rooms and keys where it can.
fn next(stage: &Stage, n: usize, backend: usize) -> (&'static str, Value) {
    let latest = stage.latest.lock().clone();
    let data = json!({ "text": "of a server" });
    let key = format!("key {}", stage.number());
    match n % 24 {
        0 => ("publish", json!({ "channel": "kept:0", "data": data, "idempotency_key": key })),
        1 => ("broadcast", json!({ "channels": ["live:0", "kept:1", "chat:1"], "data": data })),
        2 => ("presence", json!({ "channel": "hall:0" })),
        3 => ("presence_stats", json!({ "channel": "hall:1" })),
        4 => ("history", json!({ "channel": "kept:0", "limit": 10 })),
        5 => ("channels", json!({ "pattern": "kept:*" })),
        6 => ("info", json!({})),
        7 => ("connections", json!({ "limit": 50 })),
        8 => ("members", json!({ "channel": "hall:2" })),
        9 => ("users", json!({ "users": [latest, key] })),
        10 => ("record", json!({ "channel": "board:all", "record": "s", "set": { "n": n } })),
        11 => ("record", json!({ "channel": format!("board:{key}"), "record": "s", "patch": { "n": n } })),
        12 => ("records", json!({ "channel": "board:all" })),
        13 => ("rpc", json!({ "method": "next", "params": null })),
        14 => ("rpc", json!({ "method": "next", "params": null, "all": true, "timeout_ms": 1000 })),
        15 => ("send", json!({ "to": [format!("user:{latest}"), "pattern:chat:*"], "data": data })),
        // Not of another backend's room: who takes a user out turns back whoever puts it in.
        16 => ("subscribe", json!({ "user": latest, "channel": format!("chat:server {backend}") })),
        17 => ("unsubscribe", json!({ "user": latest, "channel": format!("chat:server {backend}") })),
        18 => ("revoke_token", json!({ "uid": key, "expire_at": now() + 60 })),
        19 => ("invalidate_user_tokens", json!({ "user": key, "expire_at": now() + 60 })),
        20 => (
            "batch",
            json!({ "commands": [{ "publish": { "channel": format!("own:{key}"), "data": data } }, { "info": {} }] }),
        ),
        21 => ("requests", json!({ "to": [format!("user:{key}")], "data": data, "timeout_ms": 200 })),
        22 => ("instances", json!({})),
        _ => {
            let mut sent_away = stage.sent_away.lock();
            sent_away.push(latest.clone());
            // Some had gone before, and nobody takes them out.
            let too_many = sent_away.len().saturating_sub(100);
            sent_away.drain(..too_many);
            ("disconnect", json!({ "user": latest, "disconnect": { "code": 4100, "reason": "sent away" } }))
        }
    }
}

pub(super) async fn backend(stage: Arc<Stage>, first: usize) {
    let mut ticks = tokio::time::interval(stage.pause(PACE));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for n in first.. {
        ticks.tick().await;
        let (method, parameters) = next(&stage, n / 2, first);
        let reply = call(stage.address(n), method, parameters).await;
        if reply.get("error").is_some() {
            stage.refused(method, &reply);
        }
        stage.count("calls");
        if n.is_multiple_of(20) {
            let head = "POST /api/info HTTP/1.1\r\nX-API-Key: not one of the keys";
            let status = exchange(stage.address(n), head, "{}").await.0;
            if !matches!(status, 401 | 429) {
                stage.wrong(&format!("{status} for a wrong key"));
            }
        }
    }
}

/// Looks at what passes for some seconds, again and again.
pub(super) async fn onlooker(stage: Arc<Stage>, first: usize) {
    for n in first.. {
        let request = format!("GET /api/tail?room=live:{} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n", n % 2);
        let mut stream = TcpStream::connect(stage.address(n)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut bytes, mut n_bytes) = (vec![0; 1 << 16], 0);
        let read = async {
            while let Ok(n @ 1..) = stream.read(&mut bytes).await {
                n_bytes += n;
            }
        };
        if timeout(stage.pause(3000), read).await.is_ok() || n_bytes < 1000 {
            stage.wrong(&format!("a tail ended after {n_bytes} bytes"));
        }
        tokio::time::sleep(stage.pause(2000)).await;
    }
}

/// Has each instance open what it opens when it first needs it.
pub(super) async fn touch(stage: &Stage) {
    for (n, url) in stage.urls.iter().enumerate() {
        let mut client = TestClient::connect(url, json!({})).await;
        client.join("kept:touched").await;
        client.join("board:touched").await;
        client.leave().await;
        for call_of in 0..22 {
            let (method, parameters) = next(stage, call_of, 0);
            call(stage.address(n), method, parameters).await;
        }
    }
}
