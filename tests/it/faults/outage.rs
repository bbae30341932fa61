//! Redis goes away, stands still, comes back empty or is full.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Crew, FAST, Listener, ROOMS, Random, gateway, gateways, in_order, instances, is_ready, member, stats, trouble,
};
use crate::support::{
    PATIENCE, TestClient, eventually, instance::Instance, proxy::FaultProxy, redis::RedisServer, until,
};

fn rooms(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("live:{n}")).collect()
}

/// Publishes numbers to a room where the sender is, beside the test.
struct Ticker {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(u64, Vec<u64>)>,
}

impl Ticker {
    fn start(mut client: TestClient, room: &str, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ends, room) = (Arc::clone(&stop), room.to_owned());
        let task = tokio::spawn(async move {
            let (mut n, mut refused) = (0, Vec::new());
            while !ends.load(Ordering::Relaxed) {
                let reply = client.try_ask("publish", json!({ "channel": room, "data": n }), PATIENCE).await.unwrap();
                if reply.get("publish").is_none() {
                    refused.push(reply["error"]["code"].as_u64().unwrap());
                }
                n += 1;
                tokio::time::sleep(pause).await;
            }
            client.leave().await;
            (n, refused)
        });
        Self { stop, task }
    }

    /// How many it sent, and the codes of those that were not taken.
    async fn end(self) -> (u64, Vec<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

#[tokio::test]
async fn f4_a_redis_that_comes_back_empty_is_filled_from_memory() {
    let mut redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let rooms = rooms(10);
    let (mut asks_a, mut asks_b) = (member(&a.url(), "", &rooms).await, member(&b.url(), "", &rooms).await);
    let mut members = Vec::new();
    for n in 0..20 {
        let on = if n % 2 == 0 { &a } else { &b };
        members.push(Listener::of(member(&on.url(), &format!("u{n}"), &rooms[n % 10..=n % 10]).await));
    }
    let watchers = [member(&a.url(), "", &rooms).await, member(&b.url(), "", &rooms).await].map(Listener::of);
    let local = Listener::of(member(&a.url(), "", &["plain:1".to_owned()]).await);
    let ticker = Ticker::start(a.client().await, "plain:1", Duration::from_millis(10));
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    let mut whole = async |word: &str| {
        for (n, room) in rooms.iter().enumerate() {
            let (from_a, from_b) = (json!(format!("{word} from a")), json!(format!("{word} from b")));
            until("the room is whole", async || {
                on_a.publish(room, from_a.clone()).await;
                on_b.publish(room, from_b.clone()).await;
                let all = [&watchers[0], &watchers[1], &members[n], &members[n + 10]];
                all.iter().all(|it| it.has(room, &from_a) && it.has(room, &from_b))
            })
            .await;
        }
    };
    whole("before").await;
    let told = || watchers.iter().chain(&members).map(Listener::comings).collect::<Vec<_>>();
    let before = told();

    redis.kill();
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.restart_empty().await;
    let back = Instant::now();
    eventually("both are ready", || trouble(&a).is_none() && trouble(&b).is_none()).await;
    let ready = back.elapsed();
    for room in &rooms {
        for client in [&mut asks_a, &mut asks_b] {
            // Two members, two who watch and two who ask.
            until("the room is as it was", async || stats(client, room).await == Some((6, 3))).await;
        }
    }
    let filled = back.elapsed();
    println!("f4: ready {ready:?} and filled {filled:?} after Redis came back");
    assert!(ready < Duration::from_secs(4) && filled < Duration::from_secs(6), "{ready:?} {filled:?}");
    // Messages go to and fro, and nobody was told of anything else.
    whole("after").await;
    assert_eq!(told(), before);
    let (n, refused) = ticker.end().await;
    assert_eq!(refused, Vec::<u64>::new());
    eventually("local traffic never stopped", || local.numbers("plain:1").len() as u64 == n).await;
    assert_eq!(in_order(&local.numbers("plain:1"), n), 0);
}

#[tokio::test]
async fn f7_while_redis_is_gone_sockets_stay_and_local_rooms_work() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let proxy = FaultProxy::start(redis.address()).await;
    let a = gateway(&format!("url = \"{}\"", proxy.url()), "a", FAST).await;
    let [b] = gateways::<1>(&redis).await;
    let all = ["live:1".to_owned(), "plain:1".to_owned(), "kept:1".to_owned()];
    let (on_a, on_b) = (member(&a.url(), "ann", &all).await, member(&b.url(), "bob", &all).await);
    let (on_a, on_b) = (Listener::of(on_a), Listener::of(on_b));
    let mut client = member(&a.url(), "", &all[..1]).await;
    let before = proxy.n_accepted();

    redis.kill();
    let gone = Instant::now();
    eventually("it is not ready", || trouble(&a).is_some()).await;
    let local = Ticker::start(a.client().await, "plain:1", Duration::from_millis(10));
    let kept = Ticker::start(a.client().await, "kept:1", Duration::from_millis(50));
    let code = client.refused("subscribe", json!({ "channel": "live:2" })).await;
    assert!(code == 108 || code == 100, "retryable: {code}");
    let code = client.refused("presence", json!({ "channel": "live:1" })).await;
    assert!(code == 108 || code == 100, "retryable: {code}");
    tokio::time::sleep(Duration::from_secs(5).saturating_sub(gone.elapsed())).await;
    let attempts = proxy.n_accepted() - before;
    let (n_kept, refused) = kept.end().await;
    assert_eq!(refused.len() as u64, n_kept, "none was taken while there was nowhere to keep it");
    redis.restart().await;
    let back = Instant::now();
    eventually("both are ready", || trouble(&a).is_none() && trouble(&b).is_none()).await;
    println!("f7: ready {:?} after Redis came back, after {attempts} attempts in 5 s", back.elapsed());
    assert!(back.elapsed() < Duration::from_secs(4), "{:?}", back.elapsed());
    let (n, refused) = local.end().await;
    assert_eq!(refused, Vec::<u64>::new());
    eventually("the local member has all", || on_a.numbers("plain:1").len() as u64 == n).await;
    in_order(&on_a.numbers("plain:1"), n);
    in_order(&on_b.numbers("plain:1"), n);
    client.join("live:2").await;
    client.publish("kept:1", json!(1_000_000)).await;
    for listener in [&on_a, &on_b] {
        eventually("the room with history goes on", || listener.has("kept:1", &json!(1_000_000))).await;
        assert_eq!(listener.closed(), None);
        assert_eq!(listener.numbers("kept:1"), [1_000_000], "what was refused was not delivered");
    }
    // A9: three connections, each 50 ms to 2 s apart with full jitter.
    assert!((3..100).contains(&attempts), "{attempts}");
}

#[tokio::test]
async fn f6_a_frozen_redis_kills_nobody_and_fills_no_memory() {
    let mut redis = RedisServer::start().await;
    let config = format!("[cluster]\n{FAST}\n[bus]\nqueue = \"1MiB\"\n{ROOMS}");
    let mut a = Instance::start(&config, Some(&redis.url()), "a").await;
    a.ready().await;
    let [b] = gateways::<1>(&redis).await;
    let all = ["live:1".to_owned(), "plain:1".to_owned(), "plain:big".to_owned()];
    let mut on_b = member(&b.url(), "cat", &all[..1]).await;
    let local = Listener::of(member(&a.url(), "ann", &all[..2]).await);
    let remote = Listener::of(member(&b.url(), "bob", &all).await);
    let ticker = Ticker::start(a.client().await, "plain:1", Duration::from_millis(5));
    let mut loud = a.client().await;
    eventually("it flows", || remote.numbers("plain:1").len() > 20).await;
    let before = a.resident_bytes();

    redis.stop();
    let stopped = Instant::now();
    let big = "x".repeat(16 << 10);
    for _ in 0..2_000 {
        loud.publish("plain:big", json!(big)).await;
    }
    let grown = a.resident_bytes().saturating_sub(before);
    tokio::time::sleep(Duration::from_secs(4).saturating_sub(stopped.elapsed())).await;
    let so_far = local.numbers("plain:1").len();
    assert!(so_far > 100, "local messages go on: {so_far}");
    redis.cont();
    let back = Instant::now();
    eventually("b is ready", || trouble(&b).is_none()).await;
    a.ready().await;
    println!("f6: 32 MB against a frozen Redis grew it by {} KiB; ready {:?} after", grown >> 10, back.elapsed());
    assert!(grown < 16 << 20, "{grown}");
    let n_before = remote.numbers("plain:1").len();
    eventually("it flows again", || remote.numbers("plain:1").len() > n_before + 20).await;
    let (n, refused) = ticker.end().await;
    assert_eq!(refused, Vec::<u64>::new());
    eventually("the local member has all", || local.numbers("plain:1").len() as u64 == n).await;
    eventually("the remote one has the last", || remote.has("plain:1", &json!(n - 1))).await;
    let missing = in_order(&remote.numbers("plain:1"), n);
    assert_eq!(in_order(&local.numbers("plain:1"), n), 0);
    let big = remote.data("plain:big").len();
    println!("f6: {missing} of {n} did not reach the other instance; {big} of 2000 big ones did");
    assert!(a.metric("wayleave_bus_dropped_total{reason=\"queue full\"}").await > 0.0);
    let counted = b.metric("wayleave_bus_missed_total");
    assert!(counted >= missing as f64, "{counted} are counted, {missing} are missing");
    // Nobody was taken for dead for Redis's pause.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(a.metric("wayleave_deposed_total").await + b.metric("wayleave_deposed_total"), 0.0);
    assert_eq!(remote.comings(), Vec::<String>::new());
    assert_eq!(local.comings(), ["+bob live:1"]);
    assert_eq!(stats(&mut on_b, "live:1").await, Some((3, 3)));
}

#[tokio::test]
async fn f5_joins_while_redis_restarts_are_there_or_were_refused() {
    let mut redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let all = rooms(10);
    let mut asker = member(&b.url(), "", &all).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..20_u64 {
        let (url, stop) = (if n % 2 == 0 { a.url() } else { b.url() }, Arc::clone(&stop));
        tasks.spawn(async move {
            let mut random = Random(n + 1);
            let mut client = member(&url, &format!("u{n}"), &[]).await;
            let mut model = [false; 10];
            let mut n_refused = 0;
            while !stop.load(Ordering::Relaxed) {
                let room = random.next(10) as usize;
                let body = json!({ "channel": format!("live:{room}") });
                if model[room] {
                    client.ask("unsubscribe", body).await;
                    model[room] = false;
                } else {
                    model[room] = client.ask("subscribe", body).await.get("subscribe").is_some();
                    n_refused += u64::from(!model[room]);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (client, model, n_refused)
        });
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        redis.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        redis.restart_empty().await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut clients, mut counts, mut n_refused) = (Vec::new(), [0; 10], 0);
    while let Some(done) = tasks.join_next().await {
        let (client, model, n) = done.unwrap();
        counts.iter_mut().zip(model).for_each(|(count, is_in)| *count += u64::from(is_in));
        clients.push(client);
        n_refused += n;
    }
    println!("f5: {counts:?} members, {n_refused} joins were refused");
    is_ready(&a).await;
    is_ready(&b).await;
    let stopped = Instant::now();
    for (room, n) in counts.iter().enumerate() {
        until("the registry is as the model", async || stats(&mut asker, &all[room]).await == Some((n + 1, n + 1)))
            .await;
    }
    println!("f5: as the model {:?} later", stopped.elapsed());
}

#[tokio::test]
async fn r15_a_full_redis_refuses_what_it_would_keep_and_delivers_none_of_it() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let all = ["kept:1".to_owned(), "plain:1".to_owned()];
    let on_b = Listener::of(member(&b.url(), "", &all).await);
    let mut client = a.client().await;
    client.publish("kept:1", json!(1)).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for n in 2..20 {
        assert_eq!(client.refused("publish", json!({ "channel": "kept:1", "data": n })).await, 108);
        assert_eq!(client.refused("publish", json!({ "channel": format!("kept:new{n}"), "data": n })).await, 108);
    }
    assert_eq!(client.refused("subscribe", json!({ "channel": "live:1" })).await, 108);
    client.publish("plain:1", json!("live")).await;
    eventually("live rooms go on", || on_b.has("plain:1", &json!("live"))).await;
    assert_eq!(on_b.numbers("kept:1"), [1]);
    eventually("it is said", || trouble(&a).is_some_and(|text| text.contains("memory"))).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    client.publish("kept:1", json!(2)).await;
    eventually("it goes on", || on_b.numbers("kept:1") == [1, 2]).await;
    is_ready(&a).await;
    client.join("live:1").await;
    assert_eq!(a.metric("wayleave_deposed_total") + b.metric("wayleave_deposed_total"), 0.0);
}

#[tokio::test]
async fn r18_a_flush_of_scripts_loses_and_repeats_nothing() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let all = ["kept:1".to_owned(), "live:1".to_owned()];
    let on_b = Listener::of(member(&b.url(), "", &all).await);
    let kept = Ticker::start(a.client().await, "kept:1", Duration::ZERO);
    let mut crew = Crew::default();
    let url_a = a.url();
    crew.add(async move {
        let mut client = member(&url_a, "ann", &[]).await;
        loop {
            client.join("live:1").await;
            client.ask("unsubscribe", json!({ "channel": "live:1" })).await;
        }
    });
    let start = Instant::now();
    let mut n_flushes = 0;
    while start.elapsed() < Duration::from_secs(3) {
        redis.command(&["SCRIPT", "FLUSH"]).await;
        n_flushes += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (n, refused) = kept.end().await;
    drop(crew);
    assert_eq!(refused, Vec::<u64>::new());
    eventually("all has come", || on_b.numbers("kept:1").len() as u64 == n).await;
    assert_eq!(in_order(&on_b.numbers("kept:1"), n), 0);
    println!("r18: {n} messages over {n_flushes} flushes");
    let mut client = member(&b.url(), "", &all[1..]).await;
    until("nobody is left over", async || stats(&mut client, "live:1").await == Some((2, 1))).await;
}

/// R2 of the faults: a process whose Redis is gone ends in time.
#[tokio::test]
async fn f7_an_instance_ends_in_order_without_redis() {
    let mut redis = RedisServer::start().await;
    let [mut a] = instances(&redis, ["a"]).await;
    let mut client = a.client().await;
    client.join("live:1").await;
    redis.kill();
    let asked = Instant::now();
    let end = async {
        let code = client.closed().await.0;
        client.leave().await;
        code
    };
    let (status, code) = tokio::join!(a.terminate(), end);
    assert!(status.success() && code == 3001, "{status} {code}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

/// What a room with history is called must not be forgotten while somebody is
/// there, though nothing be published: all members would be sent away.
#[tokio::test]
async fn an_idle_room_keeps_its_epoch() {
    let redis = RedisServer::start().await;
    let [a] = gateways::<1>(&redis).await;
    let idle = Listener::of(member(&a.url(), "", &["kept:idle".to_owned()]).await);
    let about = "wayleave:1:{r:kept:idle}:about";
    let left = async || -> i64 { redis::from_redis_value(redis.command(&["PTTL", about]).await).unwrap() };
    assert!(left().await > 0);
    redis.command(&["PEXPIRE", about, "60000"]).await;
    until("it is kept for long again", async || left().await > 3_600_000).await;
    assert_eq!(idle.closed(), None);
}
