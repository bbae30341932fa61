//! The orderly end.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{PATIENCE, TestClient, TestGateway, instance::Instance, redis::RedisServer, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_everybody_and_ends() {
    let gateway = TestGateway::start("[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n").await;
    let (mut ada, mut nobody) = (gateway.client().await, gateway.socket().await);
    ada.join("r").await;
    ada.publish("r", json!("last words")).await;
    let (url, how) = (gateway.url(), gateway.gateway.reloader().running().config.drain);
    let drained = tokio::task::spawn(gateway.gateway.drain(how));
    assert_eq!(ada.heard("r").await, "last words");
    assert_eq!(ada.closed().await, (3001, "shutdown".into()));
    assert_eq!(nobody.closed().await, (3001, "shutdown".into()));
    drop((ada, nobody));
    assert_eq!(drained.await.unwrap(), Ok(()));
    assert!(tokio_tungstenite::connect_async(url).await.is_err());
}

/// Row G8: an instance that is full says so to load balancers and to clients, and
/// those who are in stay.
#[tokio::test(flavor = "multi_thread")]
async fn g8_one_that_is_full_takes_nobody_in_and_says_so() {
    let config = "[limits]\nconnections = 3\n[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";
    let gateway = Instance::start(config, None, "g8").await;
    assert!(gateway.is_ready().await);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(gateway.client().await);
    }
    let (status, text) = gateway.get("/ready").await.unwrap();
    assert_eq!(status, 503);
    assert!(text.contains("limits.connections"), "{text}");
    let error = tokio_tungstenite::connect_async(gateway.url()).await.unwrap_err().to_string();
    assert!(error.contains("503"), "{error}");
    assert!(gateway.metric("wayleave_limited_total{limit=\"connections\"}").await >= 1.0);
    clients[0].join("r").await;
    clients[0].publish("r", json!(1)).await;
    assert_eq!(clients[0].heard("r").await, 1);
    clients.pop().unwrap().leave().await;
    until("there is room again", async || gateway.is_ready().await).await;
    gateway.client().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_drains_is_not_ready_first_and_closes_its_clients_one_after_the_other() {
    let config = "[drain]\ntimeout = \"30s\"\ndelay = \"4s\"\nspread = \"2s\"\n[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";
    let mut gateway = Instance::start(config, None, "paced").await;
    // As many as take a second at the slowest pace.
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(gateway.client().await);
    }
    gateway.terminate_soon();
    until("it is not ready", async || !gateway.is_ready().await).await;
    // It still takes clients in, for balancers that have not noticed.
    clients.push(gateway.client().await);
    let began = Instant::now();
    let mut waiting: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                let closed = client.closed().await;
                (closed, Instant::now())
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in waiting.drain(..) {
        let (closed, at) = client.await.unwrap();
        assert_eq!(closed, (3001, "shutdown".into()));
        times.push(at - began);
    }
    times.sort();
    let spread = times[times.len() - 1] - times[0];
    assert!(spread > Duration::from_millis(500), "all at once: {times:?}");
    // No tenth of a second has more than its share, within reason.
    let most =
        times.iter().map(|from| times.iter().filter(|at| **at >= *from && **at < *from + spread / 10).count()).max();
    assert!(most.unwrap() < 120, "{times:?}");
    assert!(gateway.ended(PATIENCE).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_cut_off_names_what_was_left() {
    let config = "[drain]\ntimeout = \"500ms\"\n[limits]\nclose_timeout = \"30s\"\nmessage_size = \"1KiB\"\n\
                  commands_per_second = 1000000\ncommands_burst = 1000000\n[[rooms]]\nmatch = \"r\"\npublish = \"anyone\"\n";
    let mut gateway = Instance::start(config, None, "cut").await;
    let mut stuck = TestClient::narrow(&gateway.url(), json!({})).await;
    stuck.join("r").await;
    let id = stuck.id.clone();
    // More than the kernel takes, so that its close cannot go out.
    let mut sender = gateway.client().await;
    let mut n = 0;
    while n < 1_000 {
        sender.publish("r", json!("x".repeat(900))).await;
        n += 1;
    }
    sender.leave().await;
    let status = gateway.terminate().await;
    assert!(!status.success());
    let log = gateway.log();
    assert!(log.contains("cut off at drain.timeout") && log.contains(&id), "{log}");
}

/// Row M19: whoever is elsewhere loses nothing when an instance ends in order, and
/// its members are gone at once.
#[tokio::test(flavor = "multi_thread")]
async fn m19_an_orderly_end_loses_nothing_for_those_elsewhere() {
    let redis = RedisServer::start().await;
    let config = "[limits]\ncommands_per_second = 100000\ncommands_burst = 100000\n\
                  [[rooms]]\nmatch = \"r\"\npublish = \"anyone\"\npresence = true\njoin_leave = true\n";
    let mut a = Instance::start(config, Some(&redis.url()), "a").await;
    let b = Instance::start(config, Some(&redis.url()), "b").await;
    let c = Instance::start(config, Some(&redis.url()), "c").await;
    for instance in [&a, &b, &c] {
        instance.ready().await;
    }
    let (mut watcher, mut sender) = (b.client().await, c.client().await);
    watcher.join("r").await;
    let mut leaving = Vec::new();
    for _ in 0..20 {
        let mut member = a.client().await;
        member.join("r").await;
        leaving.push(tokio::spawn(async move { member.closed().await }));
    }
    let sending = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(5));
        for n in 0..600 {
            ticks.tick().await;
            sender.publish("r", json!(n)).await;
        }
    });
    while watcher.heard("r").await.as_u64().unwrap() < 100 {}
    let status = a.terminate().await;
    assert!(status.success());
    let ended = Instant::now();
    until("its members are gone", async || {
        let stats = watcher.ask("presence_stats", json!({ "channel": "r" })).await;
        stats["presence_stats"]["num_clients"] == 1
    })
    .await;
    assert!(ended.elapsed() < Duration::from_secs(3), "{:?}", ended.elapsed());
    for member in leaving {
        assert_eq!(member.await.unwrap(), (3001, "shutdown".into()));
    }
    let mut expected = 101;
    while expected < 600 {
        assert_eq!(watcher.heard("r").await, expected);
        expected += 1;
    }
    sending.await.unwrap();
}

/// How often somebody may ask for what, by connection, user and address.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_command_may_have_a_rate_of_its_own() {
    let config = "[[limits.rates]]\nof = \"connection\"\ncommands = [\"publish\"]\nrate = \"3/1h\"\n\
                  [[limits.rates]]\nof = \"user\"\ncommands = [\"history\", \"presence\"]\nrate = \"5/1h\"\n\
                  [[limits.rates]]\nof = \"address\"\ncommands = [\"rpc\"]\nrate = \"4/1h\"\n\
                  [[rooms]]\nmatch = \"r\"\npublish = \"anyone\"\npresence = true\nhistory = { size = 1 }\n";
    let gateway = TestGateway::start(config).await;
    let (mut ada, mut also_ada, mut bob) =
        (gateway.user("ada").await, gateway.user("ada").await, gateway.user("bob").await);
    let publish = json!({ "channel": "r", "data": 1 });
    for client in [&mut ada, &mut bob] {
        for _ in 0..3 {
            client.publish("r", json!(1)).await;
        }
        assert_eq!(client.refused("publish", publish.clone()).await, 111);
    }
    // Of a user all devices count together, and others for themselves.
    for client in [&mut ada, &mut also_ada, &mut bob] {
        client.join("r").await;
    }
    let room = json!({ "channel": "r" });
    for client in [&mut ada, &mut also_ada] {
        client.ask("presence", room.clone()).await;
        client.ask("history", room.clone()).await;
    }
    assert!(ada.ask("presence", room.clone()).await.get("presence").is_some());
    assert_eq!(also_ada.refused("history", room.clone()).await, 111);
    assert!(bob.ask("history", room).await.get("history").is_some());
    // From one address all together: nobody answers, but that is asked.
    for client in [&mut ada, &mut also_ada, &mut bob] {
        assert_eq!(client.refused("rpc", json!({ "method": "x", "data": 1 })).await, 104);
    }
    assert_eq!(ada.refused("rpc", json!({ "method": "x", "data": 1 })).await, 104);
    assert_eq!(bob.refused("rpc", json!({ "method": "x", "data": 1 })).await, 111);
}

/// Caps on rooms and on the members of one.
#[tokio::test(flavor = "multi_thread")]
async fn rooms_and_members_have_their_caps() {
    let config = "[limits]\nrooms = 2\n[[rooms]]\nmatch = \"small:*\"\nmembers = 2\n[[rooms]]\nmatch = \"*\"\n";
    let gateway = TestGateway::start(config).await;
    let (mut ada, mut bob, mut eve) = (gateway.client().await, gateway.client().await, gateway.client().await);
    ada.join("small:1").await;
    bob.join("small:1").await;
    assert_eq!(eve.refused("subscribe", json!({ "channel": "small:1" })).await, 106);
    eve.join("two").await;
    assert_eq!(eve.refused("subscribe", json!({ "channel": "three" })).await, 106);
    ada.join("two").await;
    bob.ask("unsubscribe", json!({ "channel": "small:1" })).await;
    eve.join("small:1").await;
}
