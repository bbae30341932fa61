//! An instance that is cut off from Redis while all sockets stay open.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{FAST, Listener, VANISH, gateway, gateways, is_ready, member, stats, trouble};
use crate::support::{
    TestGateway, eventually,
    proxy::{Direction, FaultProxy, Which},
    redis::RedisServer,
    until,
};

/// Cuts an instance off until the others have let it go, and lets it come back.
/// Its own notice takes at most three seconds, and everybody else is told once
/// that its members left, and once that they are back.
async fn check(freeze: impl Fn(&FaultProxy), name: &str) {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let a = gateway(&format!("url = \"{}\"", proxy.url()), "a", FAST).await;
    let [b] = gateways::<1>(&redis).await;
    let rooms: Vec<_> = (0..4).map(|n| format!("live:{n}")).collect();
    let kept = ["kept:1".to_owned()];
    let mut asker = member(&b.url(), "", &rooms).await;
    asker.join(&kept[0]).await;
    let watcher = Listener::of(member(&b.url(), "", &rooms).await);
    let mut members = Vec::new();
    for n in 0..8 {
        let mut client = member(&a.url(), &format!("u{n}"), &rooms[n % 4..=n % 4]).await;
        client.join(&kept[0]).await;
        members.push(Listener::of(client));
    }
    eventually("all are told", || watcher.comings().len() == 8).await;

    freeze(&proxy);
    let frozen = Instant::now();
    eventually("it notices", || trouble(&a).is_some()).await;
    let noticed = frozen.elapsed();
    eventually("the others let it go", || watcher.comings().len() == 16).await;
    let gone = frozen.elapsed();
    // What is sent meanwhile must not be lost to the room with history.
    for n in 0..20 {
        asker.publish("kept:1", json!(n)).await;
    }
    // Members here go on hearing each other.
    local(&a, &rooms[0], &members[0], name).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.heal();
    let healed = Instant::now();
    is_ready(&a).await;
    for room in &rooms {
        until("they are registered again", async || stats(&mut asker, room).await == Some((4, 3))).await;
    }
    let mut round = 0;
    until("all hear their rooms again", async || {
        round += 1;
        for room in &rooms {
            asker.publish(room, json!(format!("back {round}"))).await;
        }
        let heard = |(n, member): (usize, &Listener)| {
            (0..round).any(|round| member.has(&rooms[n % 4], &json!(format!("back {round}"))))
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        members.iter().enumerate().all(heard)
    })
    .await;
    let back = healed.elapsed();
    for member in &members {
        let all: Vec<u64> = (0..20).collect();
        eventually("what was kept is caught up", || member.numbers("kept:1") == all).await;
    }
    eventually("all are told to be back", || watcher.comings().len() >= 24).await;
    println!("{name}: noticed after {noticed:?}, let go after {gone:?}, back {back:?} after it healed");
    let expected = |sign: char| (0..8).map(move |n| format!("{sign}u{n} live:{}", n % 4));
    let mut all: Vec<_> = expected('+').chain(expected('-')).chain(expected('+')).collect();
    all.sort();
    assert_eq!(watcher.comings(), all);
    assert!(noticed < Duration::from_secs(5), "{noticed:?}");
    // It stops beating once it has noticed.
    assert!(gone < Duration::from_secs(5) + VANISH, "{gone:?}");
    assert!(back < Duration::from_secs(5), "{back:?}");
}

/// A room's members on an instance that is cut off hear each other.
async fn local(a: &TestGateway, room: &str, listener: &Listener, name: &str) {
    let mut client = a.client().await;
    client.publish(room, json!("local")).await;
    eventually("local messages go on", || listener.has(room, &json!("local"))).await;
    assert_eq!(listener.closed(), None, "{name}");
}

#[tokio::test]
async fn f13_an_instance_that_is_cut_off_leaves_once_and_comes_back_once() {
    check(|proxy| proxy.freeze(Direction::Both), "f13").await;
}

#[tokio::test]
async fn f14_an_instance_that_only_does_not_hear_is_cut_off_too() {
    check(|proxy| proxy.freeze_only(Which::Subscribers, Direction::Both), "f14, deaf").await;
}

#[tokio::test]
async fn f14_an_instance_that_only_hears_is_cut_off_too() {
    check(|proxy| proxy.freeze_only(Which::Others, Direction::Both), "f14, dumb").await;
}

/// R20: only the answers are lost.
#[tokio::test]
async fn r20_without_answers_nothing_is_done_twice() {
    check(|proxy| proxy.freeze(Direction::ToClient), "r20").await;
}
