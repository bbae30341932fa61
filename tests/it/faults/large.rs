//! What is too large for every run; prints figures:
//! `cargo test --release --test it -- --ignored --nocapture faults::large`.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use wayleave::{config::JoinLeave, protocol::MemberInfo};

use super::{gateways, member, stats};
use crate::support::{TestClient, instance::Instance, redis::RedisServer};

const MANY: &str = "[limits]\ncommands_per_second = 1000000\ncommands_burst = 1000000\n\
                    [[rooms]]\nmatch = \"big:*\"\npresence = true\n[[rooms]]\nmatch = \"plain:*\"\npublish = \"anyone\"\n";

/// Half and 99 in a hundred of times, in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    (at(50), at(99))
}

/// How long messages take from one instance to another, until it is `over`.
async fn latencies(from: &mut TestClient, to: &mut TestClient, mut over: impl AsyncFnMut(usize) -> bool) -> (f64, f64) {
    let mut times = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while !over(times.len()).await {
        ticks.tick().await;
        let sent = Instant::now();
        from.publish("plain:p", json!(0)).await;
        to.heard("plain:p").await;
        times.push(sent.elapsed());
    }
    percentiles(times)
}

/// With the default timings: gone within 6 s, 1.2 sweeps and a second.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "ten thousand connections"]
async fn f1_ten_thousand_connections_die_at_once() {
    const N: u64 = 10_000;
    const ROOMS: u64 = 50;
    let redis = RedisServer::start().await;
    let mut a = Instance::start(MANY, Some(&redis.url()), "a").await;
    let b = Instance::start(MANY, Some(&redis.url()), "b").await;
    let c = Instance::start(MANY, Some(&redis.url()), "c").await;
    for instance in [&a, &b, &c] {
        instance.ready().await;
    }
    let url = a.url();
    let mut devices = Vec::new();
    for start in (0..N).step_by(100) {
        let some = (start..start + 100).map(|n| {
            let (url, user, room) = (&url, format!("u{n}"), [format!("big:{}", n % ROOMS)]);
            async move { member(url, &user, &room).await }
        });
        devices.extend(join_all(some).await);
    }
    let rooms: Vec<_> = (0..ROOMS).map(|n| format!("big:{n}")).collect();
    let mut watcher = member(&b.url(), "", &rooms).await;
    let (mut from, mut to) = (b.client().await, member(&c.url(), "", &["plain:p".to_owned()]).await);
    assert_eq!(stats(&mut watcher, "big:0").await, Some((N / ROOMS + 1, N / ROOMS + 1)));
    let before = latencies(&mut from, &mut to, async |n| n >= 600).await;

    a.kill();
    let killed = Instant::now();
    let mut left = rooms.len();
    let during = latencies(&mut from, &mut to, async |n| {
        // Looked at now and then, from the last room to the first.
        while n % 10 == 0 && left > 0 && stats(&mut watcher, &rooms[left - 1]).await.is_some_and(|(all, _)| all == 1) {
            left -= 1;
        }
        left == 0
    })
    .await;
    let gone = killed.elapsed();
    println!(
        "f1: {N} connections in {ROOMS} rooms gone after {gone:?}; from b to c p50 {:.2} ms, p99 {:.2} ms before, \
         {:.2} and {:.2} until then",
        before.0, before.1, during.0, during.1
    );
    assert!(gone < Duration::from_millis(8200), "{gone:?}");
    drop(devices);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a hundred thousand members"]
async fn a_room_of_a_hundred_thousand_is_counted_at_once_and_read_in_pages() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let cluster = a.gateway.router().cluster.clone().unwrap();
    let mut watcher = member(&b.url(), "", &["live:1".to_owned()]).await;
    let mut rows = Vec::new();
    let mut entered = 0;
    for size in [100_u64, 1_000, 10_000, 100_000] {
        let some = (entered..size).map(|n| MemberInfo {
            connection: format!("c{n:07}"),
            user: format!("u{n:07}").into(),
            info: "".into(),
            room_info: "".into(),
        });
        for members in some.collect::<Vec<_>>().chunks(500) {
            cluster.enter("live:1", members, JoinLeave::Off).await.unwrap();
        }
        entered = size;
        assert_eq!(stats(&mut watcher, "live:1").await, Some((size + 1, size + 1)));
        let (mut counts, mut pages) = (Vec::new(), Vec::new());
        let mut behind: Option<String> = None;
        for _ in 0..200 {
            let asked = Instant::now();
            stats(&mut watcher, "live:1").await;
            counts.push(asked.elapsed());
            let asked = Instant::now();
            let page = cluster.members("live:1", behind.as_deref(), 100).await.unwrap();
            pages.push(asked.elapsed());
            assert!(page.members.len() >= 100 || behind.is_some());
            behind = page.next;
        }
        let (count, page) = (percentiles(counts), percentiles(pages));
        rows.push(page.0);
        println!(
            "{size} members: counted in {:.2} ms, p99 {:.2}; a page of 100 in {:.2} ms, p99 {:.2}",
            count.0, count.1, page.0, page.1
        );
    }
    assert_eq!(rows.len(), 4);
}

/// What it costs when a thousand clients come back at once and each has missed a
/// hundred messages.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints a figure"]
async fn a_thousand_clients_recover_a_hundred_messages_each_at_once() {
    const CLIENTS: usize = 1_000;
    const MISSED: usize = 100;
    let config = "[limits]\ncommands_per_second = 1000000\ncommands_burst = 1000000\n\
                  [[rooms]]\nmatch = \"kept:*\"\npublish = \"anyone\"\nhistory = { size = 1000 }\nrecovery = true\n";
    for redis in [None, Some(RedisServer::start().await)] {
        let url = redis.as_ref().map(RedisServer::url);
        let mut instance = Instance::start(config, url.as_deref(), "a").await;
        instance.ready().await;
        let mut sender = instance.client().await;
        let joined = sender.ask("subscribe", json!({ "channel": "kept:1" })).await;
        let epoch = joined["subscribe"]["epoch"].clone();
        for n in 0..MISSED {
            sender.publish("kept:1", json!({ "n": n, "text": "x".repeat(100) })).await;
        }
        sender.leave().await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS / 50 {
            clients.extend(join_all((0..50).map(|_| instance.client())).await);
        }
        let before = instance.cpu();
        let began = Instant::now();
        let seen = json!({ "channel": "kept:1", "recover": true, "epoch": epoch, "offset": 0 });
        let recovered = join_all(clients.iter_mut().map(|client| client.ask("subscribe", seen.clone()))).await;
        let (took, cpu) = (began.elapsed(), instance.cpu() - before);
        for reply in recovered {
            assert_eq!(reply["subscribe"]["publications"].as_array().map(Vec::len), Some(MISSED), "{reply}");
        }
        let each = cpu.as_secs_f64() * 1e6 / (CLIENTS * MISSED) as f64;
        let kind = if redis.is_some() { "redis" } else { "memory" };
        println!("recovery, {kind}: {each:.2} us of CPU a message, all within {took:?}");
        assert!(each < 30.0, "{each}");
    }
}
