//! Those who do not: clients that do not read, that break the protocol, that
//! have no WebSocket.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

use super::Stage;
use crate::{
    api::exchange,
    faults::Random,
    support::{NoAnswer, PATIENCE, TestClient},
};

/// Does not read while much is said; then it looks at what became of it.
pub(super) async fn sluggards(stage: Arc<Stage>, first: usize, room: &'static str) {
    for n in first.. {
        let mut client = TestClient::narrow(stage.url(n), json!({})).await;
        match client.try_ask("subscribe", json!({ "channel": room }), PATIENCE).await {
            Ok(reply) if reply.get("subscribe").is_some() => {}
            Ok(reply) => stage.refused("a slow reader's join", &reply),
            Err(why) => stage.wrong(&format!("a slow reader's join: {why:?}")),
        }
        tokio::time::sleep(stage.nap()).await;
        let end = timeout(Duration::from_secs(2), async {
            loop {
                if let Err(NoAnswer::Closed(code, reason)) = client.try_push(PATIENCE).await {
                    return (code, reason);
                }
            }
        });
        match end.await {
            // 0: it was let go, since it did not read its close either.
            Ok((3008 | 0, _)) if room.starts_with("flood") => stage.count("closed as slow"),
            Ok(end) => stage.wrong(&format!("a slow reader in {room} was closed: {end:?}")),
            Err(_) if room.starts_with("flood") => stage.count("slow and not closed"),
            Err(_) => stage.count("slow and spared"),
        }
    }
}

/// Breaks the protocol, each time in another way.
pub(super) async fn rascals(stage: Arc<Stage>, first: usize) {
    let mut random = Random(0xBAD ^ (first as u64 + 1));
    for n in first.. {
        let bad = random.next(7);
        let expected = match bad {
            0 => Some((Message::text("what?"), 3501)),
            1 => Some((Message::text("x".repeat(40_000)), 1009)),
            2 => Some((Message::binary(vec![1, 2, 3]), 3506)),
            3 => Some((Message::text(r#"{"id":1,"connect":{"token":"not one"}}"#), 3500)),
            _ => None,
        };
        match expected {
            Some((message, code)) => {
                let url = stage.url(n);
                let mut client =
                    if code == 3500 { TestClient::open(url).await } else { TestClient::connect(url, json!({})).await };
                client.send(message).await;
                let closed = client.closed().await;
                if closed.0 != code {
                    stage.wrong(&format!("{code} expected: {closed:?}"));
                }
            }
            None => {
                let mut stream = TcpStream::connect(stage.address(n)).await.unwrap();
                let (said, hears) = match bad {
                    4 => ("GET nonsense\r\n\r\n", true),
                    5 => ("GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgra", false),
                    _ => ("", false),
                };
                stream.write_all(said.as_bytes()).await.unwrap();
                if hears {
                    let mut answer = Vec::new();
                    let _either_way = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
                } else {
                    tokio::time::sleep(stage.pause(random.next(1000))).await;
                }
            }
        }
        stage.count("bad clients");
        tokio::time::sleep(stage.pause(200 + random.next(400))).await;
    }
}

/// Hears by a long response, of one kind and the other by turns, and speaks by
/// requests to the other instance.
pub(super) async fn streams(stage: Arc<Stage>, first: usize) {
    for n in first.. {
        if let Err(why) = timeout(PATIENCE, stream(&stage, n)).await.unwrap_or_else(|_| Err("nothing came".to_owned()))
        {
            stage.wrong(&format!("a stream: {why}"));
        }
        stage.count("streams");
        tokio::time::sleep(stage.pause(500)).await;
    }
}

async fn stream(stage: &Stage, n: usize) -> Result<(), String> {
    let (room, word) = (format!("chat:stream {n}"), format!("word {}", stage.number()));
    let first =
        format!("{}\n{}", json!({ "id": 1, "connect": {} }), json!({ "id": 2, "subscribe": { "channel": room } }));
    let request = if n.is_multiple_of(2) {
        let length = first.len();
        format!("POST /connection/http_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{first}")
    } else {
        let first: String = form_urlencoded::byte_serialize(first.as_bytes()).collect();
        format!("GET /connection/sse?cf_connect={first} HTTP/1.1\r\nHost: x\r\n\r\n")
    };
    let mut body = TcpStream::connect(stage.address(n)).await.map_err(|error| error.to_string())?;
    body.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    hear(&mut body, &mut text, "\"subscribe\"").await?;
    let connect = text.lines().find_map(|line| line.get(line.find('{')?..line.rfind('}')? + 1)).unwrap_or_default();
    let reply: Value = serde_json::from_str(connect).map_err(|error| format!("{error}: {connect}"))?;
    let (session, node) = (&reply["connect"]["session"], &reply["connect"]["node"]);
    let publish = json!({ "id": 3, "publish": { "channel": room, "data": { "text": word } } });
    let said = json!({ "session": session, "node": node, "data": publish.to_string() });
    let (status, answer) = exchange(stage.address(n + 1), "POST /emulation HTTP/1.1", &said.to_string()).await;
    if status == 503 && !stage.is_calm() {
        // Lost with the connection by which the other instance would have heard it.
        stage.count("refused after a harm");
        return Ok(());
    }
    if status != 204 {
        return Err(format!("{status} {answer}"));
    }
    hear(&mut body, &mut text, &word).await
}

/// Reads on until something has come.
async fn hear(body: &mut TcpStream, text: &mut String, what: &str) -> Result<(), String> {
    let mut bytes = vec![0; 4096];
    while !text.contains(what) {
        match body.read(&mut bytes).await.map_err(|error| error.to_string())? {
            0 => return Err(format!("ended without {what}: {text}")),
            n => text.push_str(&String::from_utf8_lossy(&bytes[..n])),
        }
    }
    Ok(())
}
