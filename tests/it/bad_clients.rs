//! Bad input from clients: each ends in a named error or close, is counted,
//! and no other connection notices.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{PATIENCE, TestClient, TestGateway, eventually};

const ROOMS: &str = "[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";

/// A gateway and a bystander who must not notice anything.
async fn start(config: &str) -> (TestGateway, TestClient) {
    let gateway = TestGateway::start(&format!("{config}\n{ROOMS}")).await;
    let mut bystander = gateway.client().await;
    bystander.join("r").await;
    (gateway, bystander)
}

async fn still_serves(gateway: &TestGateway, bystander: &mut TestClient) {
    bystander.publish("r", json!("still here")).await;
    assert_eq!(bystander.heard("r").await, "still here");
    assert_eq!(gateway.hub().count("r").0, 1);
}

/// Says something after a good hello and expects this close.
#[track_caller]
fn check_closed(message: Message, code: u16) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let (gateway, mut bystander) = start("[limits]\nmessage_size = \"1KiB\"\n").await;
        let mut client = gateway.client().await;
        client.send(message).await;
        assert_eq!(client.closed().await.0, code, "{caller}");
        let metric = format!("wayleave_closes_total{{code=\"{code}\"}}");
        eventually("it is counted", || gateway.metric(&metric) == 1.0).await;
        still_serves(&gateway, &mut bystander).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_protocol_closes_with_bad_request() {
    check_closed(Message::text("not json"), 3501).await;
    check_closed(Message::text(""), 3501).await;
    check_closed(Message::text("{\"id\":1"), 3501).await;
    check_closed(Message::text("{\"id\":99999999999,\"ping\":{}}"), 3501).await;
    check_closed(Message::text("{\"subscribe\":{\"channel\":\"r\"}}"), 3501).await;
    check_closed(Message::text("{\"id\":2,\"connect\":{}}"), 3501).await;
    check_closed(Message::text(format!("{{\"id\":1,\"rpc\":{{\"data\":{}}}}}", "[".repeat(500))), 3501).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_the_wrong_kind_or_size_close() {
    check_closed(Message::binary(vec![1, 2, 3]), 3506).await;
    check_closed(Message::text("x".repeat(1025)), 1009).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nests_too_deep_reaches_neither_members_nor_plugins() {
    let (gateway, mut bystander) = start("").await;
    let deep = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    let mut client = gateway.client().await;
    client.join("r").await;
    for method in ["publish", "rpc", "subscribe"] {
        let body = json!({ "channel": "r", "method": "m", "data": deep(101) });
        assert_eq!(client.refused(method, body).await, 107, "{method}");
    }
    client.publish("r", deep(100)).await;
    assert_eq!(bystander.heard("r").await, deep(100));
    let mut newcomer = gateway.socket().await;
    newcomer.say(&json!({ "id": 1, "connect": { "data": deep(101) } }).to_string()).await;
    assert_eq!(newcomer.closed().await.0, 3501);
    client.leave().await;
    eventually("it has left", || gateway.hub().count("r").0 == 1).await;
    still_serves(&gateway, &mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_before_the_hello_closes() {
    let (gateway, mut bystander) = start("").await;
    let mut client = gateway.socket().await;
    client.say(r#"{"id":1,"subscribe":{"channel":"r"}}"#).await;
    assert_eq!(client.closed().await, (3501, "bad request".into()));
    still_serves(&gateway, &mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_told_then_closed() {
    let (gateway, mut bystander) = start("[limits]\ncommands_per_second = 1\ncommands_burst = 10\n").await;
    let mut flooder = gateway.client().await;
    // One more comes in each second meanwhile.
    let mut reply = json!({});
    for n in 0.. {
        reply = flooder.ask("ping", json!({})).await;
        if reply.get("error").is_some() {
            assert!(n >= 10, "{n} were taken");
            break;
        }
        assert!(n < 60, "no limit");
    }
    assert_eq!(reply["error"], json!({ "code": 111, "message": "too many requests", "temporary": true }));
    let flood = "{\"id\":1000,\"ping\":{}}\n".repeat(30);
    flooder.say(&flood).await;
    assert_eq!(flooder.closed().await, (3013, "too many requests".into()));
    assert!(gateway.metric(r#"wayleave_refusals_total{code="111"}"#) >= 1.0);
    still_serves(&gateway, &mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_flood_without_reading_costs_no_memory() {
    let (gateway, mut bystander) = start("").await;
    let mut socket = raw_handshake(&gateway).await;
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    // A masked ping of 125 bytes, many at once, until we are thrown out.
    let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
    ping.extend([b'x'; 125]);
    let pings = ping.repeat(500);
    let mut sent = 0;
    while tokio::time::timeout(PATIENCE, socket.write_all(&pings)).await.expect("it never closed").is_ok() {
        sent += 500;
        assert!(sent < 5_000_000, "two million pings and nobody minds");
    }
    // Other tests run in this process, and the allocator gives back with a delay.
    eventually("little memory is taken", || resident().saturating_sub(before) < 8 << 20).await;
    eventually("it is counted", || gateway.metric(r#"wayleave_closes_total{code="1008"}"#) == 1.0).await;
    still_serves(&gateway, &mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_at_each_deadline() {
    let config = "[server]\nheader_timeout = \"1s\"\nconnect_timeout = \"1s\"\n";
    let (gateway, mut bystander) = start(config).await;
    // Not a byte; half a head; a head a byte at a time; an idle keep-alive.
    for start in ["", "GET /health HTTP/1.1\r\nHost: x\r\n", "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut socket = TcpStream::connect(gateway.gateway.address()).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "after {start:?} it is still open");
    }
    // A WebSocket that says no hello.
    let mut client = gateway.socket().await;
    assert_eq!(client.closed().await, (3502, "stale".into()));
    still_serves(&gateway, &mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let (gateway, mut bystander) = start("").await;
    let mut socket = TcpStream::connect(gateway.gateway.address()).await.unwrap();
    let head = format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(64 << 10));
    let _refused_early = socket.write_all(head.as_bytes()).await;
    let mut answer = String::new();
    let _reset = tokio::time::timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap();
    assert!(!answer.contains("200 OK"), "{answer}");
    still_serves(&gateway, &mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_lies_and_frames_that_break_the_rules_close() {
    let (gateway, mut bystander) = start("[limits]\nclose_timeout = \"100ms\"\n").await;
    for (bytes, code) in [
        // 15 MiB are announced and never sent.
        (&[0x81, 0xff, 0, 0, 0, 0, 0, 0xf0, 0, 0, 0, 0, 0, 0][..], 1009),
        // Not masked; a reserved bit; a fragment of nothing; bad UTF-8.
        (&[0x81, 0x02, b'{', b'}'], 1002),
        (&[0xc1, 0x82, 0, 0, 0, 0, b'{', b'}'], 1002),
        (&[0x80, 0x82, 0, 0, 0, 0, b'{', b'}'], 1002),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
    ] {
        let mut socket = raw_handshake(&gateway).await;
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer[0], 0x88, "no close frame: {answer:?}");
        assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), code);
    }
    still_serves(&gateway, &mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_of_connections_others_are_turned_away() {
    let (gateway, mut bystander) = start("[limits]\nconnections = 2\n").await;
    let second = gateway.client().await;
    assert!(tokio_tungstenite::connect_async(gateway.url()).await.is_err());
    assert_eq!(gateway.gateway.router().metrics.turned_away.get(), 1);
    second.leave().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio_tungstenite::connect_async(gateway.url()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "its place is never free");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    still_serves(&gateway, &mut bystander).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_break_in_the_handshake_leave_nothing() {
    let (gateway, mut bystander) = start("").await;
    for n in 0..200_u64 {
        let socket = raw_handshake(&gateway).await;
        let hello = b"\x81\x95\0\0\0\0{\"id\":1,\"connect\":{}}";
        // Some leave before the hello, some within it, some right behind it.
        let part = usize::try_from(n % (hello.len() as u64 + 1)).unwrap();
        let _sent = socket.try_write(&hello[..part]);
        socket.set_zero_linger().unwrap();
    }
    eventually("all are forgotten", || {
        gateway.hub().n_connections() == 1 && gateway.gateway.router().metrics.sockets.get() == 1
    })
    .await;
    still_serves(&gateway, &mut bystander).await;
}

/// A socket right after the handshake, without any library on it.
async fn raw_handshake(gateway: &TestGateway) -> TcpStream {
    let mut socket = TcpStream::connect(gateway.gateway.address()).await.unwrap();
    let head = "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    // RFC 6455, section 1.3, gives this answer to this key.
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    socket
}
