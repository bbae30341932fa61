//! What it costs, in time, bytes and memory. The figures are printed; what is
//! asserted leaves room for a busy machine and a build that is not optimised.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{FAST, Listener, ROOMS, gateways, instances, member};
use crate::support::{TestClient, eventually, instance::Instance, redis::RedisServer};

/// The time at a share of all, of what is sorted.
fn at(sorted: &[Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}

fn shown(mut all: Vec<Duration>) -> (String, f64) {
    all.sort_unstable();
    let text = format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(&all, 0.5), at(&all, 0.99), at(&all, 1.0));
    (text, at(&all, 0.5))
}

/// Sends numbers and returns when each was sent.
async fn send(mut client: TestClient, room: String, n: u64, pause: Duration) -> Vec<Instant> {
    let mut sent = Vec::new();
    let mut turns = tokio::time::interval(pause);
    for n in 0..n {
        turns.tick().await;
        sent.push(Instant::now());
        client.publish(&room, json!(n)).await;
    }
    client.leave().await;
    sent
}

/// How long each message took to a listener, who has all of them in order.
fn delays(listener: &Listener, room: &str, sent: &[Instant]) -> Vec<Duration> {
    let heard = listener.heard.lock();
    let of_room: Vec<_> = heard.pushes.iter().filter(|(_, push)| push["channel"] == room).collect();
    assert_eq!(of_room.len(), sent.len());
    let delay = |(n, ((at, push), sent)): (usize, (&&(Instant, Value), &Instant))| {
        assert_eq!(push["pub"]["data"], json!(n));
        at.saturating_duration_since(*sent)
    };
    of_room.iter().zip(sent).enumerate().map(delay).collect()
}

/// G4: the same messages to a member beside the sender and to one on another
/// instance.
#[tokio::test(flavor = "multi_thread")]
async fn g4_what_the_bus_adds_is_measured_in_pairs() {
    const N: u64 = 2_000;
    let redis = RedisServer::start().await;
    let [a, b] = instances(&redis, ["a", "b"]).await;
    let room = ["plain:1".to_owned()];
    let (near, far) = (member(&a.url(), "", &room).await, member(&b.url(), "", &room).await);
    let (near, far) = (Listener::of(near), Listener::of(far));
    let sent = send(a.client().await, room[0].clone(), N, Duration::from_micros(1_500)).await;
    for listener in [&near, &far] {
        eventually("all has come", || listener.numbers(&room[0]).len() as u64 == N).await;
    }
    let (near, far) = (delays(&near, &room[0], &sent), delays(&far, &room[0], &sent));
    let added: Vec<_> = near.iter().zip(&far).map(|(near, far)| far.saturating_sub(*near)).collect();
    let ((near, _), (far, _), (added, p50)) = (shown(near), shown(far), shown(added));
    println!("g4: {N} pairs: same instance {near}; other instance {far}; added {added}");
    assert!(p50 < 50.0, "{added}");
}

/// U5: a thousand messages a second from one instance to the others.
#[tokio::test(flavor = "multi_thread")]
async fn u5_a_thousand_messages_a_second_between_instances() {
    const ROOMS_OF_IT: usize = 5;
    const EACH: u64 = 400;
    let redis = RedisServer::start().await;
    let [a, b] = instances(&redis, ["a", "b"]).await;
    let (mut listeners, mut sending) = (Vec::new(), JoinSet::new());
    for n in 0..ROOMS_OF_IT {
        let room = format!("plain:{n}");
        listeners.push(Listener::of(member(&b.url(), "", std::slice::from_ref(&room)).await));
        let client = a.client().await;
        sending.spawn(async move { (n, send(client, room, EACH, Duration::from_millis(5)).await) });
    }
    let started = Instant::now();
    let mut all = Vec::new();
    while let Some(sent) = sending.join_next().await {
        let (n, sent) = sent.unwrap();
        let room = format!("plain:{n}");
        eventually("all has come", || listeners[n].numbers(&room).len() as u64 == EACH).await;
        all.extend(delays(&listeners[n], &room, &sent));
    }
    let rate = all.len() as f64 / started.elapsed().as_secs_f64();
    let n = all.len();
    let (text, p50) = shown(all);
    println!("u5: {n} messages between instances, {rate:.0} a second: {text}; 0 lost");
    assert!(p50 < 100.0, "{text}");
}

/// G10: a message for everybody in a room costs Redis once in, and once out for
/// each instance, whatever its size and however many are in the room.
#[tokio::test]
async fn g10_a_broadcast_costs_a_frame_for_each_instance() {
    const N: u64 = 200;
    /// Commands, the envelope, a share of beats and probes, and their answers.
    const OVERHEAD: u64 = 400;
    let redis = RedisServer::start().await;
    let all = gateways::<3>(&redis).await;
    let room = ["plain:1".to_owned()];
    let mut listeners = Vec::new();
    for n in 0..60 {
        listeners.push(Listener::of(member(&all[n % 3].url(), "", &room).await));
    }
    let mut client = all[0].client().await;
    let mut figures = Vec::new();
    let mut sent = 0;
    for size in [16, 1_000, 16_000] {
        let data = json!("x".repeat(size));
        let before = redis.net_bytes().await;
        for _ in 0..N {
            client.publish("plain:1", data.clone()).await;
        }
        sent += N as usize;
        for listener in &listeners {
            eventually("all has come", || listener.data("plain:1").len() == sent).await;
        }
        let after = redis.net_bytes().await;
        let (read, written) = ((after.0 - before.0) / N, (after.1 - before.1) / N);
        figures.push((size, read, written));
        let frame = size as u64 + OVERHEAD;
        assert!(read <= frame && written <= 3 * frame, "{figures:?}");
        assert!(read >= size as u64 && written >= 3 * size as u64, "it is heard by all: {figures:?}");
    }
    println!("g10: (size, bytes in, bytes out) a message for 60 members on 3 instances: {figures:?}");
}

/// A16, G5: memory by connection, over two instances.
#[tokio::test(flavor = "multi_thread")]
async fn a16_g5_a_ladder_of_idle_connections() {
    let redis = RedisServer::start().await;
    let mut all = Vec::new();
    for name in ["a", "b"] {
        all.push(Instance::start(&format!("[cluster]\n{FAST}\n{ROOMS}"), Some(&redis.url()), name).await);
    }
    for instance in &all {
        instance.ready().await;
    }
    // What is only made once.
    let mut clients = Vec::new();
    for instance in &all {
        for _ in 0..20 {
            clients.push(member(&instance.url(), "", &["plain:1".to_owned()]).await);
        }
    }
    let addresses: Vec<_> = all.iter().map(Instance::url).collect();
    let mut resident = || all.iter_mut().map(Instance::resident_bytes).sum::<u64>();
    let base = resident();
    let mut text = String::new();
    let mut per_connection = 0;
    for step in [250, 500, 1_000] {
        let started = Instant::now();
        let before = clients.len();
        let mut joining = JoinSet::new();
        for n in clients.len() - 40..step {
            let url = addresses[n % 2].clone();
            joining.spawn(async move { member(&url, "", &["plain:1".to_owned()]).await });
            if joining.len() >= 50 {
                clients.push(joining.join_next().await.unwrap().unwrap());
            }
        }
        while let Some(client) = joining.join_next().await {
            clients.push(client.unwrap());
        }
        let rate = (clients.len() - before) as f64 / started.elapsed().as_secs_f64();
        per_connection = resident().saturating_sub(base) / step as u64;
        text += &format!(" {step}: {:.1} KiB each, {rate:.0} connects a second;", per_connection as f64 / 1024.0);
    }
    let mut last = clients.pop().unwrap();
    let sent = Instant::now();
    clients[0].publish("plain:1", json!("all")).await;
    for client in clients.iter_mut().chain([&mut last]) {
        assert_eq!(client.heard("plain:1").await, "all");
    }
    println!("a16:{text} one message to all of them within {:?}", sent.elapsed());
    assert!(per_connection < 64 << 10, "{per_connection}");
}
