//! Single connections to Redis that are cut, killed or too slow.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{FAST, Listener, gateway, gateways, in_order, instances, is_ready, member, stats, trouble};
use crate::{
    api::{API, address, result},
    support::{
        TestClient, TestGateway, eventually,
        proxy::{Direction, FaultProxy, Which},
        redis::RedisServer,
        until,
    },
};

/// Publishes `from..to` to a room with history and one without.
async fn send(client: &mut TestClient, numbers: std::ops::Range<u64>, pause: Duration) {
    for n in numbers {
        client.publish("kept:1", json!(n)).await;
        client.publish("plain:1", json!(n)).await;
        tokio::time::sleep(pause).await;
    }
}

/// Waits for the last of `n` messages in both rooms. The room with history has
/// all of them, and what the other lacks is counted.
async fn check(listener: &Listener, n: u64, on: &TestGateway) -> u64 {
    let last = json!(n - 1);
    eventually("the last has come", || listener.has("plain:1", &last) && listener.has("kept:1", &last)).await;
    assert_eq!(in_order(&listener.numbers("kept:1"), n), 0, "of the room with history");
    let missing = in_order(&listener.numbers("plain:1"), n);
    assert_eq!(on.metric("wayleave_bus_missed_total"), missing as f64);
    assert_eq!(listener.closed(), None);
    missing
}

#[tokio::test]
async fn f8_a_link_that_is_cut_loses_nothing_in_a_room_with_history() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let b = gateway(&format!("url = \"{}\"", proxy.url()), "b", FAST).await;
    let [a] = gateways::<1>(&redis).await;
    let listener = Listener::of(member(&b.url(), "", &["kept:1".to_owned(), "plain:1".to_owned()]).await);
    let mut client = a.client().await;
    let pause = Duration::from_millis(10);
    send(&mut client, 0..50, pause).await;
    proxy.cut();
    let cut = Instant::now();
    send(&mut client, 50..230, pause).await;
    tokio::time::sleep(Duration::from_secs(2).saturating_sub(cut.elapsed())).await;
    proxy.heal();
    let healed = Instant::now();
    is_ready(&b).await;
    let ready = healed.elapsed();
    send(&mut client, 230..300, pause).await;
    let missing = check(&listener, 300, &b).await;
    println!("f8: cut for 2 s: {missing} of 300 missing in the live room, 0 in the other; ready {ready:?} after");
    // What was sent while it was cut or it had not come back.
    assert!((150..=250).contains(&missing), "{missing}");
}

#[tokio::test]
async fn r13_a_subscriber_that_is_killed_again_and_again_loses_nothing_that_is_kept() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let listener = Listener::of(member(&b.url(), "", &["kept:1".to_owned(), "plain:1".to_owned()]).await);
    let mut client = a.client().await;
    let mut worst = Duration::ZERO;
    // What is lost before anything was heard of a sender is not known to be.
    send(&mut client, 0..1, Duration::ZERO).await;
    eventually("it is heard", || listener.has("plain:1", &json!(0))).await;
    let mut n = 1;
    for _ in 0..8 {
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        // The next message may be lost to the live room, and is not waited for.
        client.publish("kept:1", json!(n)).await;
        client.publish("plain:1", json!(n)).await;
        let sent = Instant::now();
        eventually("it is repaired", || listener.has("kept:1", &json!(n))).await;
        worst = worst.max(sent.elapsed());
        send(&mut client, n + 1..n + 40, Duration::from_millis(5)).await;
        n += 40;
    }
    is_ready(&b).await;
    until("it is heard again", async || {
        send(&mut client, n..n + 1, Duration::from_millis(5)).await;
        n += 1;
        listener.has("plain:1", &json!(n - 1))
    })
    .await;
    let missing = check(&listener, n, &b).await;
    println!("r13: 8 kills: {missing} of {n} missing in the live room, 0 in the other; repaired within {worst:?}");
    assert!(worst < Duration::from_secs(3), "{worst:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_publish_at_once_lose_nothing_on_the_way() {
    const SENDERS: u64 = 8;
    const N: u64 = 400;
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let listener = Listener::of(member(&b.url(), "", &["plain:1".to_owned()]).await);
    let send = |sender: u64| {
        let url = a.url();
        async move {
            let mut client = TestClient::connect(&url, json!({})).await;
            for n in 0..N {
                client.publish("plain:1", json!(sender * N + n)).await;
            }
        }
    };
    let senders: Vec<_> = (0..SENDERS).map(|sender| tokio::spawn(send(sender))).collect();
    for sender in senders {
        sender.await.unwrap();
    }
    eventually("all have come", || listener.numbers("plain:1").len() as u64 == SENDERS * N).await;
    let came = listener.numbers("plain:1");
    for sender in 0..SENDERS {
        let of_one: Vec<u64> = came.iter().copied().filter(|n| n / N == sender).collect();
        assert!(of_one.is_sorted(), "each sender's order is kept");
    }
    assert_eq!(b.metric("wayleave_bus_missed_total"), 0.0);
}

#[tokio::test]
async fn f9_a_stopped_instance_that_redis_gives_up_finds_what_it_missed() {
    const N: u64 = 1_500;
    let redis = RedisServer::start_with(&["--client-output-buffer-limit", "pubsub 65536 0 0"]).await;
    let [mut a, mut b] = instances(&redis, ["a", "b"]).await;
    let rooms = ["kept:1".to_owned(), "plain:1".to_owned()];
    let listener = Listener::of(member(&b.url(), "", &rooms).await);
    let mut client = a.client().await;
    let (before, memory) = (a.resident_bytes(), redis.number("memory", "used_memory").await);
    let lines = async || -> String { redis::from_redis_value(redis.command(&["CLIENT", "LIST"]).await).unwrap() };
    let is_heard = async || lines().await.lines().any(|line| line.contains("name=wayleave-b-subscribe"));
    assert!(is_heard().await);

    b.stop();
    // Enough for what the kernel holds for both ends, and then some.
    let big = "x".repeat(16 << 10);
    for n in 0..N {
        client.publish("kept:1", json!(n)).await;
        client.publish("plain:1", json!({ "n": n, "big": big })).await;
    }
    until("Redis has given it up", async || !is_heard().await).await;
    let grown = a.resident_bytes().saturating_sub(before);
    let held = redis.number("memory", "used_memory").await.saturating_sub(memory);
    b.cont();
    let resumed = Instant::now();
    eventually("the room with history has all", || listener.numbers("kept:1").len() as u64 == N).await;
    let repaired = resumed.elapsed();
    assert_eq!(in_order(&listener.numbers("kept:1"), N), 0);
    let mut sent = N;
    until("the live room goes on", async || {
        client.publish("plain:1", json!({ "n": N })).await;
        sent += 1;
        listener.data("plain:1").iter().any(|data| data["n"] == json!(N))
    })
    .await;
    // Those that were sent while it came back are numbered N too, and the last of them may be on its way.
    until("each is heard or counted as missed", async || {
        let missed = b.metric("wayleave_bus_missed_total").await;
        missed + listener.data("plain:1").len() as f64 == sent as f64
    })
    .await;
    let mut came: Vec<u64> = listener.data("plain:1").iter().filter_map(|data| data["n"].as_u64()).collect();
    came.dedup();
    let missing = in_order(&came, N + 1);
    println!(
        "f9: {missing} of {N} missing in the live room, 0 in the other, {repaired:?} after it went on; \
         a grew by {} KiB, Redis by {} KiB",
        grown >> 10,
        held >> 10
    );
    assert!(missing > 0, "the buffer was too large for this test");
    assert!(grown < 64 << 20 && held < 64 << 20);
    assert_eq!(listener.closed(), None);
}

#[tokio::test]
async fn g2_connections_are_named_and_any_may_be_killed() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let rooms = ["live:1".to_owned(), "kept:1".to_owned()];
    let (mut ann, mut bob) = (member(&a.url(), "ann", &rooms).await, member(&b.url(), "bob", &rooms).await);
    let roles = async || -> Vec<(String, String)> {
        let list: String = redis::from_redis_value(redis.command(&["CLIENT", "LIST"]).await).unwrap();
        let field = |line: &str, name: &str| {
            line.split(' ').find_map(|field| Some(field.strip_prefix(name)?.to_owned())).unwrap_or_default()
        };
        let all = list.lines().map(|line| (field(line, "name="), field(line, "id=")));
        let mut ours: Vec<_> = all.filter(|(name, _)| name.starts_with("wayleave-g0-")).collect();
        ours.sort();
        ours
    };
    until("all are there", async || roles().await.len() >= 4).await;
    let names: Vec<_> = roles().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["wayleave-g0-publish", "wayleave-g0-read", "wayleave-g0-subscribe", "wayleave-g0-write"]);
    let mut n = 0;
    for name in names {
        let id = roles().await.into_iter().find(|(it, _)| *it == name).unwrap().1;
        redis.command(&["CLIENT", "KILL", "ID", &id]).await;
        let killed = Instant::now();
        until("it is back", async || roles().await.iter().any(|(it, new)| *it == name && *new != id)).await;
        is_ready(&a).await;
        let back = killed.elapsed();
        // Both ways, for what is kept and what is not, and for who is where.
        n += 1;
        ann.publish("kept:1", json!(n)).await;
        assert_eq!(bob.heard("kept:1").await, json!(n));
        assert_eq!(ann.heard("kept:1").await, json!(n));
        bob.publish("live:1", json!(n)).await;
        assert_eq!(ann.heard("live:1").await, json!(n));
        assert_eq!(stats(&mut ann, "live:1").await, Some((2, 2)));
        println!("g2: {name} back after {back:?}");
        assert!(back < Duration::from_secs(3), "{back:?}");
    }
    assert_eq!(a.metric("wayleave_deposed_total"), 0.0);
    assert_eq!(trouble(&a), None);
}

/// R21: a Redis that comes and goes is not stormed.
#[tokio::test]
async fn r21_connections_that_flap_back_off() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let a = gateway(&format!("url = \"{}\"", proxy.url()), "a", FAST).await;
    let mut client = member(&a.url(), "ann", &["plain:1".to_owned()]).await;
    let before = proxy.n_accepted();
    for _ in 0..60 {
        proxy.reset_all();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let attempts = proxy.n_accepted() - before;
    println!("r21: {attempts} attempts of four connections in 3 s of resets");
    assert!(attempts < 240, "{attempts}");
    is_ready(&a).await;
    client.publish("plain:1", json!("on")).await;
    assert_eq!(client.heard("plain:1").await, "on");
    assert_eq!(proxy.n_open(Which::Subscribers), 1);
}

/// What a client gets of one that is far away, with delays in between: order.
#[tokio::test]
async fn r23_a_slow_path_keeps_the_order() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let b = gateway(&format!("url = \"{}\"", proxy.url()), "b", FAST).await;
    let [a] = gateways::<1>(&redis).await;
    let rooms = ["kept:1".to_owned(), "plain:1".to_owned()];
    let (on_a, on_b) = (member(&a.url(), "", &rooms).await, member(&b.url(), "", &rooms).await);
    let (on_a, on_b) = (Listener::of(on_a), Listener::of(on_b));
    proxy.delay(Duration::from_millis(100), Duration::from_millis(100));
    let mut client = b.client().await;
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        // Nobody waits for an answer: they are under way together.
        for _ in 0..10 {
            client
                .say(&json!({ "id": 1000 + sent, "publish": { "channel": "kept:1", "data": sent } }).to_string())
                .await;
            client
                .say(&json!({ "id": 9000 + sent, "publish": { "channel": "plain:1", "data": sent } }).to_string())
                .await;
            sent += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let last: Value = json!(sent - 1);
    for listener in [&on_a, &on_b] {
        eventually("all has come", || listener.has("kept:1", &last) && listener.has("plain:1", &last)).await;
        assert_eq!(in_order(&listener.numbers("kept:1"), sent), 0);
        assert_eq!(in_order(&listener.numbers("plain:1"), sent), 0);
    }
    assert_eq!(b.metric("wayleave_deposed_total"), 0.0);
}

/// Joins that cannot be noted while nothing can be written are no reason to
/// give up what is heard.
#[tokio::test]
async fn f14_joins_while_writing_is_frozen_cost_nothing_that_is_heard() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let b = gateway(&format!("url = \"{}\"", proxy.url()), "b", FAST).await;
    let [a] = gateways::<1>(&redis).await;
    let listener = Listener::of(member(&b.url(), "", &["plain:1".to_owned()]).await);
    let mut client = a.client().await;
    client.publish("plain:1", json!(0)).await;
    eventually("it is heard", || listener.has("plain:1", &json!(0))).await;
    proxy.freeze_only(Which::Writers, Direction::Both);
    let frozen = Instant::now();
    let url = b.url();
    // Something is wanted all the time.
    let joining = (0..6).map(|joiner| {
        let url = url.clone();
        tokio::spawn(async move {
            let mut client = TestClient::connect(&url, json!({})).await;
            let mut n_refused = 0;
            while frozen.elapsed() < Duration::from_secs(8) {
                client.refused("subscribe", json!({ "channel": format!("plain:new{joiner}:{n_refused}") })).await;
                n_refused += 1;
            }
            n_refused
        })
    });
    let joining = futures_util::future::join_all(joining);
    let joining = tokio::spawn(joining);
    let mut n = 1;
    while frozen.elapsed() < Duration::from_secs(8) {
        client.publish("plain:1", json!(n)).await;
        n += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let n_refused: u64 = joining.await.unwrap().into_iter().map(Result::unwrap).sum();
    eventually("the last has come", || listener.has("plain:1", &json!(n - 1))).await;
    assert_eq!(in_order(&listener.numbers("plain:1"), n), 0, "of the room that is heard");
    assert_eq!(b.metric("wayleave_bus_links_lost_total{reason=\"subscribe\"}"), 0.0);
    println!("f14: {n_refused} joins refused, {n} messages heard");
    proxy.heal();
    is_ready(&b).await;
    let mut joiner = b.client().await;
    joiner.join("plain:new").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_a_server_wants_of_somebody_who_goes_meanwhile_is_no_failure() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let a = gateway(&format!("url = \"{}\"", proxy.url()), "a", &format!("{FAST}{API}")).await;
    let client = a.client().await;
    let (address, id) = (address(&a), client.id.clone());
    proxy.freeze_only(Which::Writers, Direction::Both);
    let joining = tokio::spawn(async move {
        result(address, "subscribe", json!({ "user": "", "client": id, "channel": "plain:1" })).await
    });
    // The room is heard before the join is written.
    until("the join is under way", async || redis.channels().await.iter().any(|name| name.contains("plain:1"))).await;
    client.leave().await;
    eventually("the client is gone", || a.metric("wayleave_connections") == 0.0).await;
    proxy.heal();
    assert_eq!(joining.await.unwrap(), json!({ "connections": 0 }));
}

/// A server behind an address that moves is made a replica, and its clients'
/// connections are left open: those that only publish or hear notice nothing.
#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left_by_all_connections() {
    let old = RedisServer::start().await;
    let new = RedisServer::replica_of(&old).await;
    let proxy = FaultProxy::start(old.address()).await;
    let bus = format!("url = \"{}\"", proxy.url());
    let a = gateway(&bus, "a", FAST).await;
    let on_a = Listener::of(member(&a.url(), "", &["plain:1".to_owned()]).await);
    let mut from_a = a.client().await;
    from_a.publish("plain:1", json!(0)).await;
    eventually("it is heard", || on_a.has("plain:1", &json!(0))).await;
    new.promote().await;
    proxy.lead_to(new.address());
    old.command(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]).await;
    let moved = Instant::now();
    // One that comes now knows only the new one.
    let b = gateway(&bus, "b", FAST).await;
    let on_b = Listener::of(member(&b.url(), "", &["plain:1".to_owned()]).await);
    let mut from_b = b.client().await;
    let mut n = 1;
    until("they hear each other", async || {
        from_a.publish("plain:1", json!(n)).await;
        from_b.publish("plain:1", json!(1_000_000 + n)).await;
        n += 1;
        on_a.numbers("plain:1").iter().any(|n| *n > 1_000_000) && on_b.numbers("plain:1").iter().any(|n| *n < 1_000_000)
    })
    .await;
    println!("a master that becomes a replica: all have left it after {:?}", moved.elapsed());
    assert!(moved.elapsed() < Duration::from_secs(8), "{:?}", moved.elapsed());
    is_ready(&a).await;
}
