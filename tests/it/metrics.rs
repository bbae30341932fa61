//! What is counted is what has happened. Rows A10 and M16.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    raw_frames::{TEXT, frame, next_frame, upgraded},
    support::{PATIENCE, TestClient, instance::Instance, proxy::FaultProxy, stream::StreamClient, until},
};

const ROOM: &str = "[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";

/// A client that counts its bytes.
struct Counting {
    socket: TcpStream,
    sent: usize,
    heard: usize,
}

impl Counting {
    async fn open(instance: &Instance) -> Self {
        Self { socket: upgraded(instance.addr()).await, sent: 0, heard: 0 }
    }

    async fn say(&mut self, text: &str) {
        let frame = frame(TEXT, text.as_bytes());
        self.sent += frame.len();
        self.socket.write_all(&frame).await.unwrap();
    }

    async fn hear(&mut self) -> String {
        let (_, payload) = next_frame(&mut self.socket).await.unwrap();
        self.heard += payload.len() + if payload.len() < 126 { 2 } else { 4 };
        String::from_utf8(payload).unwrap()
    }
}

/// Row A10: traffic of known size, and each counter equal to it.
#[tokio::test(flavor = "multi_thread")]
async fn counters_and_gauges_equal_the_truth() {
    const CLIENTS: usize = 5;
    const MESSAGES: usize = 200;
    let instance = Instance::start(ROOM, None, "a").await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Counting::open(&instance).await;
        client.say(r#"{"id":1,"connect":{}}"#).await;
        client.hear().await;
        client.say(r#"{"id":2,"subscribe":{"channel":"r"}}"#).await;
        client.hear().await;
        clients.push(client);
    }
    let data = "x".repeat(300);
    for n in 0..MESSAGES {
        let text = format!(r#"{{"id":{},"publish":{{"channel":"r","data":"{data}"}}}}"#, n + 3);
        clients[n % CLIENTS].say(&text).await;
        for (i, client) in clients.iter_mut().enumerate() {
            // The sender's answer and the push may come in one frame or in two.
            let mut lines = client.hear().await.lines().count();
            let expected = if i == n % CLIENTS { 2 } else { 1 };
            while lines < expected {
                lines += client.hear().await.lines().count();
            }
            assert_eq!(lines, expected);
        }
    }
    clients[0].say(r#"{"id":9999,"presence":{"channel":"r"}}"#).await;
    assert!(clients[0].hear().await.contains("error"));

    let (_, text) = instance.get("/metrics").await.unwrap();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in:\n{text}")).parse().unwrap()
    };
    let check = |name: &str, truth: usize| assert_eq!(value(name), truth as f64, "{name}");
    check("wayleave_connections", CLIENTS);
    check("wayleave_sockets", CLIENTS);
    check("wayleave_users", 0);
    check("wayleave_rooms", 1);
    check("wayleave_memberships", CLIENTS);
    check("wayleave_messages_total", MESSAGES);
    check("wayleave_deliveries_total", MESSAGES * CLIENTS);
    check(r#"wayleave_commands_total{kind="connect"}"#, CLIENTS);
    check(r#"wayleave_commands_total{kind="subscribe"}"#, CLIENTS);
    check(r#"wayleave_commands_total{kind="publish"}"#, MESSAGES);
    check(r#"wayleave_command_duration_seconds_count{kind="publish"}"#, MESSAGES);
    check(r#"wayleave_command_duration_seconds_bucket{le="+Inf",kind="publish"}"#, MESSAGES);
    check(r#"wayleave_refusals_total{code="108"}"#, 1);
    check(r#"wayleave_client_bytes_total{direction="in"}"#, clients.iter().map(|client| client.sent).sum());
    // A client may have heard what the writing thread is about to count.
    let heard: usize = clients.iter().map(|client| client.heard).sum();
    let out = r#"wayleave_client_bytes_total{direction="out"}"#;
    until("all that went out is counted", async || instance.metric(out).await >= heard as f64).await;
    assert_eq!(instance.metric(out).await, heard as f64);
    assert!(value("process_resident_memory_bytes") > (1 << 20) as f64);
    assert!(value("process_open_fds") >= CLIENTS as f64);
    // It is counted in hundredths of a second.
    until("it has used some", async || instance.metric("process_cpu_seconds_total").await > 0.0).await;
    check(&format!("wayleave_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1);

    drop(clients);
    until("all are gone", async || instance.metric("wayleave_connections").await == 0.0).await;
    until("they have left their rooms", async || instance.metric("wayleave_memberships").await == 0.0).await;
    let closes = r#"wayleave_closes_total{code="3000"}"#;
    until("their ends are counted", async || instance.metric(closes).await >= CLIENTS as f64).await;
    assert_eq!(instance.metric(closes).await, CLIENTS as f64);
}

/// Row A10 for clients without a WebSocket: the bodies that take the place of
/// frames are counted like them.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_streams_count_like_frames() {
    let instance = Instance::start(ROOM, None, "a").await;
    let mut all = [
        StreamClient::lines(instance.addr(), &json!({})).await,
        StreamClient::events(instance.addr(), &json!({})).await,
    ];
    let (data, here) = ("x".repeat(5000), instance.addr());
    for client in &mut all {
        let join = json!({ "id": 2, "subscribe": { "channel": "r" } });
        assert_eq!(client.say(here, &join, PATIENCE).await, Some(204));
        assert_eq!(client.hear().await["id"], 2);
    }
    let publish = json!({ "id": 3, "publish": { "channel": "r", "data": data } });
    assert_eq!(all[0].say(here, &publish, PATIENCE).await, Some(204));
    for (client, messages) in all.iter_mut().zip([2, 1]) {
        for _ in 0..messages {
            client.hear().await;
        }
    }
    let metric = async |direction: &str| {
        instance.metric(&format!("wayleave_client_bytes_total{{direction=\"{direction}\"}}")).await
    };
    assert_eq!(metric("in").await, all.iter().map(|client| client.sent).sum::<usize>() as f64);
    assert_eq!(metric("out").await, all.iter().map(|client| client.heard).sum::<usize>() as f64);
    assert!(all.iter().all(|client| client.heard > data.len()));
}

/// Row A10, labels: what a client chose is in none.
#[tokio::test(flavor = "multi_thread")]
async fn no_name_of_a_client_is_in_a_metric() {
    let config = "[server]\npersonal_rooms = true\n[[rooms]]\nmatch = \"*\"\npublish = \"members\"\n";
    let instance = Instance::start(config, None, "a").await;
    let mut client = instance.user("canary-user").await;
    client.join("canary-room").await;
    client.publish("canary-room", json!("canary-data")).await;
    client.refused("rpc", json!({ "method": "canary-method" })).await;
    client.refused("canary-command", json!({})).await;
    let _answer = instance.get("/api/canary-api").await.unwrap();
    let (_, text) = instance.get("/metrics").await.unwrap();
    assert!(text.contains("wayleave_messages_total 1") && !text.contains("canary"), "{text}");
}

/// Row M16: 80 ms of delay are reported as 80 ms of round trip, give or take 15;
/// of some pings one, since a machine that is busy adds its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_round_trip_is_measured() {
    let instance = Instance::start("[server]\nping_interval = \"2s\"\npong_timeout = \"1900ms\"\n", None, "a").await;
    let proxy = FaultProxy::start(instance.addr()).await;
    let url = format!("ws://{}/connection/websocket", proxy.addr());
    let mut client = TestClient::connect(&url, json!({})).await;
    proxy.delay(Duration::from_millis(40), Duration::ZERO);
    let metric = |what: &str| format!(r#"wayleave_client_rtt_seconds_{what}{{transport="websocket"}}"#);
    let (mut before, mut times) = ((0.0, 0.0), Vec::new());
    let answered = async {
        until("a ping took as long as the way", async || {
            let now = (instance.metric(&metric("count")).await, instance.metric(&metric("sum")).await);
            if now.0 > before.0 {
                times.push((now.1 - before.1) / (now.0 - before.0));
                before = now;
            }
            times.last().is_some_and(|time| (0.065..=0.095).contains(time))
        })
        .await;
    };
    // It answers pings while it waits for something else.
    tokio::select! {
        () = answered => {}
        pushed = client.try_push(Duration::from_secs(20)) => panic!("{pushed:?}"),
    }
    println!("{times:?} s");
}

/// Row G8 in part: what is turned away at a limit is counted by that limit.
#[tokio::test(flavor = "multi_thread")]
async fn limits_are_counted_by_their_name() {
    let config = "[limits]\nconnections = 10\nmessage_size = \"1KiB\"\nname_length = 8\n[[rooms]]\nmatch = \"*\"\n";
    let instance = Instance::start(config, None, "a").await;
    let limited = async |limit: &str| instance.metric(&format!("wayleave_limited_total{{limit=\"{limit}\"}}")).await;
    assert_eq!(limited("message_size").await, 0.0);
    let mut large = instance.client().await;
    large.say(&"x".repeat(2000)).await;
    assert_eq!(large.closed().await.0, 1009);
    until("it is counted", async || limited("message_size").await == 1.0).await;
    let mut named = instance.client().await;
    named.refused("subscribe", json!({ "channel": "much too long" })).await;
    assert_eq!(limited("sizes_and_numbers").await, 1.0);
    drop(large);
    let mut clients = vec![named];
    // The one that was closed counts until it is gone.
    until("there is room for ten", async || {
        clients.extend(TestClient::try_connect(&instance.url(), json!({}), PATIENCE).await);
        clients.len() == 10
    })
    .await;
    let before = limited("connections").await;
    for _ in 0..3 {
        let error = tokio_tungstenite::connect_async(instance.url()).await.unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
    }
    assert_eq!(limited("connections").await - before, 3.0);
    // More sockets than there may be; nobody says anything on them.
    let mut sockets = vec![];
    for _ in 0..300 {
        sockets.push(TcpStream::connect(instance.addr()).await.unwrap());
    }
    let mut rest = Vec::new();
    let turned_away = sockets.last_mut().unwrap().read_to_end(&mut rest).await;
    assert!(turned_away.is_err() || rest.is_empty());
    drop(sockets);
    until("there is room again", async || instance.get("/health").await.is_ok()).await;
    assert!(limited("connections").await > before + 3.0);
}
