//! What is lost where something can be lost, and how one learns of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{FAST, Listener, gateway, gateways, in_order, is_ready, member, trouble, url};
use crate::support::{
    TestClient, TestGateway, eventually,
    proxy::{Direction, FaultProxy, Which},
    redis::RedisServer,
    until,
};

/// Cuts the link of the instance where a member of this room is, for a while
/// in which messages are sent. Returns how many of how many are missing, and
/// how many were sent before it was well again.
async fn cut(room: &str) -> (u64, u64, u64, TestGateway) {
    const N: u64 = 150;
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let b = gateway(&format!("url = \"{}\"", proxy.url()), "b", FAST).await;
    let [a] = gateways::<1>(&redis).await;
    let listener = Listener::of(member(&b.url(), "", &[room.to_owned()]).await);
    let mut client = a.client().await;
    let (mut n, mut meanwhile) = (0, 0);
    let mut healed = None;
    // Ten milliseconds each, with the cut in the middle.
    while n < N || healed.is_some_and(|it: Instant| it.elapsed() < Duration::from_millis(500)) {
        if n == 50 {
            proxy.cut();
        }
        if n == 120 {
            proxy.heal();
            is_ready(&b).await;
            healed = Some(Instant::now());
        }
        client.publish(room, json!(n)).await;
        meanwhile += u64::from((50..120).contains(&n));
        n += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually("the last has come", || listener.has(room, &json!(n - 1))).await;
    let missing = in_order(&listener.numbers(room), n);
    assert_eq!(listener.closed(), None);
    (missing, n, meanwhile, b)
}

/// R5, the first mode of F8: a room without history.
#[tokio::test]
async fn r5_a_live_room_counts_what_a_cut_has_cost_it() {
    let (missing, n, meanwhile, b) = cut("plain:1").await;
    println!("r5: live: {missing} of {n} missing, {meanwhile} sent while it was cut");
    assert!(missing > 0 && missing <= meanwhile + 50, "{missing}");
    assert_eq!(b.metric("wayleave_bus_missed_total"), missing as f64, "each is counted");
    assert_eq!(b.metric("wayleave_history_repaired_total"), 0.0);
}

/// R5, the second mode: a room with history.
#[tokio::test]
async fn r5_a_room_with_history_has_what_was_sent_while_it_was_cut() {
    let (missing, n, meanwhile, b) = cut("kept:1").await;
    let repaired = b.metric("wayleave_history_repaired_total");
    println!("r5: with history: {missing} of {n} missing, {repaired} read instead, {meanwhile} sent while it was cut");
    assert_eq!((missing, b.metric("wayleave_bus_missed_total")), (0, 0.0));
    assert!(repaired >= 50.0, "the cut was of no consequence: {repaired}");
}

/// A7: what waits for a client and what waits for Redis has a bound each; over
/// it the one is closed and the other is dropped, and both are counted.
#[tokio::test(flavor = "multi_thread")]
async fn a7_buffers_toward_clients_and_toward_redis_are_bounded_and_counted() {
    const N: u64 = 1_500;
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let bus = format!("url = \"{}\"\nqueue = \"1MiB\"", proxy.url());
    let config = format!(
        "[bus]\nkind = \"redis\"\n{bus}\n[cluster]\nname = \"a\"\n{FAST}\n{}",
        super::ROOMS.replace("outbox = \"64MiB\"", "outbox = \"256KiB\"")
    );
    let a = TestGateway::start(&config).await;
    is_ready(&a).await;
    let [b] = gateways::<1>(&redis).await;
    let room = ["plain:1".to_owned()];
    let mut slow = member(&a.url(), "", &room).await;
    let (near, far) = (member(&a.url(), "", &room).await, member(&b.url(), "", &room).await);
    let (near, far) = (Listener::of(near), Listener::of(far));
    let mut client = a.client().await;
    client.publish("plain:1", json!({ "n": "first" })).await;
    eventually("it is heard", || far.data("plain:1").len() == 1).await;

    proxy.freeze_only(Which::Others, Direction::ToServer);
    let big = "x".repeat(16 << 10);
    for n in 0..N {
        client.publish("plain:1", json!({ "n": n, "big": big })).await;
    }
    eventually("the member beside has all", || near.data("plain:1").len() as u64 == N + 1).await;
    eventually("the slow one is closed", || a.metric("wayleave_closes_total{code=\"3008\"}") == 1.0).await;
    assert_eq!(slow.closed().await, (3008, "slow".to_owned()), "it finds what fitted, and why it was closed");
    let dropped = a.metric("wayleave_bus_dropped_total{reason=\"queue full\"}");
    proxy.heal();
    is_ready(&a).await;
    until("it goes on", async || {
        client.publish("plain:1", json!({ "n": "last" })).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        far.data("plain:1").iter().any(|data| data["n"] == "last")
    })
    .await;
    let came = far.data("plain:1").iter().filter(|data| data["n"].is_u64()).count() as u64;
    println!("a7: of {N} of 16 KiB, {came} reached the other instance, {dropped} did not fit the queue of 1 MiB");
    // The proxy, the kernel and the queue hold some.
    assert!(dropped > 0.0 && came + dropped as u64 <= N, "{came} {dropped}");
    assert!(b.metric("wayleave_bus_missed_total") >= dropped);
    assert_eq!((near.closed(), far.closed()), (None, None));
}

/// A17: without Redis, rooms go on among those who are here; what needs the
/// others is refused, and may be tried again.
#[tokio::test]
async fn a17_without_redis_local_rooms_go_on_and_joins_are_refused_for_now() {
    let mut redis = RedisServer::start().await;
    let a = gateway(&format!("{}\ntimeout = \"500ms\"", url(&redis)), "a", FAST).await;
    let rooms = ["plain:1".to_owned(), "live:1".to_owned()];
    let near = Listener::of(member(&a.url(), "ann", &rooms).await);
    let mut client = member(&a.url(), "bob", &rooms).await;
    redis.kill();
    eventually("it is noticed", || trouble(&a).is_some()).await;
    for n in 0..200 {
        client.publish("plain:1", json!(n)).await;
        client.publish("live:1", json!(n)).await;
    }
    for room in &rooms {
        eventually("all has come", || near.numbers(room).len() == 200).await;
        assert_eq!(in_order(&near.numbers(room), 200), 0);
    }
    for room in ["live:2", "plain:2", "kept:1"] {
        let reply = client.ask("subscribe", json!({ "channel": room })).await;
        let error = &reply["error"];
        assert!(matches!(error["code"].as_u64(), Some(100 | 108)) && error["temporary"] == json!(true), "{reply}");
    }
    let kept = client.ask("publish", json!({ "channel": "kept:1", "data": 1 })).await;
    assert_eq!((&kept["error"]["code"], &kept["error"]["temporary"]), (&json!(108), &json!(true)), "{kept}");
    // A stranger may still connect and speak where no other instance is needed.
    let mut newcomer = a.client().await;
    newcomer.publish("plain:1", json!(200)).await;
    eventually("it is heard", || near.has("plain:1", &json!(200))).await;
    redis.restart().await;
    is_ready(&a).await;
    for room in ["live:2", "plain:2", "kept:1"] {
        until("it may join", async || {
            newcomer.ask("subscribe", json!({ "channel": room })).await.get("subscribe").is_some()
        })
        .await;
    }
    assert_eq!(near.closed(), None);
}

/// The numbers that a device was sent, by its own user's messages.
fn sent_to(listener: &Listener) -> Vec<(Instant, u64)> {
    let heard = listener.heard.lock();
    let number = |(at, push): &(Instant, Value)| Some((*at, push["message"]["data"]["n"].as_u64()?));
    heard.pushes.iter().filter_map(number).collect()
}

/// U2: a user's device beside the sender has its message at once, whatever
/// Redis does; the one elsewhere has it when Redis goes on, or it is counted.
#[tokio::test(flavor = "multi_thread")]
async fn u2_while_redis_stands_still_the_device_beside_hears_at_once() {
    let mut redis = RedisServer::start().await;
    let routes = "[[routes]]\nroom = \"plain:orders\"\nto = [\"user:{data.to}\"]\n";
    let a = gateway(&url(&redis), "a", &format!("{FAST}\n{routes}")).await;
    let [b] = gateways::<1>(&redis).await;
    let (near, far) = (member(&a.url(), "ann", &[]).await, member(&b.url(), "ann", &[]).await);
    let (near, far) = (Listener::of(near), Listener::of(far));
    let mut client = a.client().await;
    let mut sent = Vec::new();
    let mut send = async |sent: &mut Vec<Instant>| {
        sent.push(Instant::now());
        client.publish("plain:orders", json!({ "to": "ann", "n": sent.len() - 1 })).await;
    };
    send(&mut sent).await;
    eventually("both hear", || sent_to(&near).len() == 1 && sent_to(&far).len() == 1).await;
    let dropped = |gateway: &TestGateway| -> f64 {
        ["queue full", "stale", "refused", "unknown", "late"]
            .map(|reason| gateway.metric(&format!("wayleave_bus_dropped_total{{reason=\"{reason}\"}}")))
            .iter()
            .sum()
    };
    let mut text = Vec::new();
    for freeze in [Duration::from_millis(800), Duration::from_millis(2_500)] {
        let first = sent.len();
        redis.stop();
        let stopped = Instant::now();
        while stopped.elapsed() < freeze {
            send(&mut sent).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let heard = sent_to(&near).len();
        assert!(heard + 20 > sent.len(), "the device beside waits: {heard} of {}", sent.len());
        redis.cont();
        is_ready(&a).await;
        is_ready(&b).await;
        until("it goes on", async || {
            send(&mut sent).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            sent_to(&far).last().is_some_and(|(_, n)| *n as usize + 5 > sent.len())
        })
        .await;
        eventually("the device beside has all", || sent_to(&near).len() == sent.len()).await;
        let last = sent.len() as u64 - 1;
        eventually("the other has the last", || sent_to(&far).last().is_some_and(|(_, n)| *n == last)).await;
        let numbers: Vec<_> = sent_to(&far).iter().map(|(_, n)| *n).collect();
        let missing = in_order(&numbers, sent.len() as u64);
        let mut delays: Vec<_> = sent_to(&near).iter().map(|(at, n)| at.duration_since(sent[*n as usize])).collect();
        delays.drain(..first);
        delays.sort_unstable();
        let p99 = delays[(delays.len() - 1) * 99 / 100];
        text.push(format!(
            "frozen {freeze:?}: beside p99 {p99:?}, elsewhere {missing} missing, {} counted",
            dropped(&a)
        ));
        assert!(p99 < Duration::from_millis(200), "{text:?}");
        // After a longer one the connection is given up, and with it what was
        // handed to it: of a user's messages that is not counted yet.
        let is_short = freeze < Duration::from_secs(1);
        assert!(missing as f64 <= dropped(&a) || !is_short, "{text:?}");
    }
    println!("u2: {}", text.join("; "));
}

/// G6: Redis gives up an instance that does not read what it is sent. The
/// instance finds the hole, counts what live rooms lost, reads what rooms with
/// history kept, and tells those whose room has not kept enough.
#[tokio::test]
async fn g6_an_instance_that_redis_gave_up_counts_resyncs_and_tells() {
    const N: u64 = 1_200;
    let redis = RedisServer::start_with(&["--client-output-buffer-limit", "pubsub 65536 0 0"]).await;
    let proxy = FaultProxy::start(redis.address()).await;
    let short = "[[rooms]]\nmatch = \"short:*\"\npublish = \"anyone\"\nhistory = { size = 5, ttl = \"5m\" }\n\
                 recovery = true\n";
    let a = gateway(&url(&redis), "a", &format!("{FAST}\n{short}")).await;
    let b = gateway(&format!("url = \"{}\"", proxy.url()), "b", &format!("{FAST}\n{short}")).await;
    let rooms = ["kept:1", "short:1", "plain:1"].map(str::to_owned);
    let listener = Listener::of(member(&b.url(), "", &rooms).await);
    let mut client: TestClient = a.client().await;
    for room in &rooms {
        client.publish(room, json!({ "n": 0 })).await;
    }
    let lines = async || -> String { redis::from_redis_value(redis.command(&["CLIENT", "LIST"]).await).unwrap() };
    let is_heard = async || lines().await.lines().any(|line| line.contains("name=wayleave-b-subscribe"));
    assert!(is_heard().await);
    proxy.freeze_only(Which::Subscribers, Direction::ToClient);
    let big = "x".repeat(16 << 10);
    let (mut sent, mut since) = (1, 0);
    // Some more than the short room keeps after Redis has given it up.
    while sent < N && since < 50 {
        since += u64::from(since > 0 || !is_heard().await);
        client.publish("kept:1", json!({ "n": sent })).await;
        client.publish("short:1", json!({ "n": sent })).await;
        client.publish("plain:1", json!({ "n": sent, "big": big })).await;
        sent += 1;
    }
    assert!(!is_heard().await, "the buffers were too large for this test");
    proxy.heal();
    let numbers =
        |room: &str| -> Vec<u64> { listener.data(room).iter().map(|data| data["n"].as_u64().unwrap()).collect() };
    eventually("the room with history has all", || numbers("kept:1").len() as u64 == sent).await;
    assert_eq!(in_order(&numbers("kept:1"), sent), 0);
    let told = || {
        let heard = listener.heard.lock();
        heard.pushes.iter().find(|(_, push)| push["channel"] == "short:1" && push.get("unsubscribe").is_some()).cloned()
    };
    eventually("who is in the short room is told", || told().is_some()).await;
    assert_eq!(told().unwrap().1["unsubscribe"]["code"], json!(2500));
    assert!(b.metric("wayleave_history_unrepaired_total") >= 1.0);
    is_ready(&b).await;
    // Those sent while it comes back may be lost too: each is heard or counted.
    until("each is heard or counted", async || {
        client.publish("plain:1", json!({ "n": sent })).await;
        sent += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
        numbers("plain:1").len() as f64 + b.metric("wayleave_bus_missed_total") >= sent as f64 - 1.0
            && numbers("plain:1").last().is_some_and(|last| *last + 5 > sent)
    })
    .await;
    eventually("each is heard or counted", || {
        numbers("plain:1").len() as f64 + b.metric("wayleave_bus_missed_total") == sent as f64
    })
    .await;
    let missing = in_order(&numbers("plain:1"), sent);
    println!(
        "g6: of {sent}, {missing} missing in the live room and counted, 0 in the room with history ({} read); \
         the short room was told",
        b.metric("wayleave_history_repaired_total")
    );
    assert!(missing > 0, "nothing was lost, so this shows nothing");
    assert_eq!(listener.closed(), None);
}
