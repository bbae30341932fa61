//! Instances that die, and one that only seemed to.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    FAST, Listener, Pauses, ROOMS, TTL, VANISH, coming, gateway, gateways, ids, instances, member, only_id, stats, url,
};
use crate::support::{TestClient, eventually, instance::Instance, proxy::FaultProxy, redis::RedisServer, until};

/// Waits until a member has heard of so many users who came, so that whoever
/// joins next behind the same instance is not told of them any more.
async fn all_came(client: &mut TestClient, n: usize) {
    let mut came = 0;
    while came < n {
        came += usize::from(coming(&client.push().await).is_some());
    }
}

fn rooms(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("live:{n}")).collect()
}

#[tokio::test]
async fn f1_a_killed_instance_is_gone_everywhere_and_each_leave_is_told_once() {
    const USERS: usize = 20;
    let redis = RedisServer::start().await;
    let [a] = instances(&redis, ["a"]).await;
    let id = only_id(&redis).await;
    let [b, c] = instances(&redis, ["b", "c"]).await;
    let rooms = rooms(10);
    let (mut on_b, mut on_c) = (member(&b.url(), "", &rooms).await, member(&c.url(), "", &rooms).await);
    let (mut devices, mut others) = (Vec::new(), Vec::new());
    for n in 0..USERS {
        let (user, mine) = (format!("u{n:02}"), [rooms[n % 10].clone(), rooms[(n + 3) % 10].clone()]);
        devices.push(member(&a.url(), &user, &mine).await);
        // Half of them have a second device, in one of the two rooms.
        if n < USERS / 2 {
            others.push(member(&b.url(), &user, &mine[..1]).await);
        }
    }
    for early in [&mut on_b, &mut on_c] {
        all_came(early, 2 * USERS).await;
    }
    let watch = [member(&b.url(), "", &rooms).await, member(&c.url(), "", &rooms).await];
    let watchers = watch.map(Listener::of);
    let mut expected = Vec::new();
    for n in 0..USERS {
        let gone = [n % 10, (n + 3) % 10];
        let gone = if n < USERS / 2 { &gone[1..] } else { &gone[..] };
        expected.extend(gone.iter().map(|room| format!("-u{n:02} live:{room}")));
    }
    expected.sort();

    let mut a = a;
    let pauses = Pauses::watch();
    a.kill();
    let killed = Instant::now();
    // Who watches, who asks and, in each room, a device that is left.
    for (room, client) in rooms.iter().flat_map(|room| [(room, true), (room, false)]) {
        let client = if client { &mut on_b } else { &mut on_c };
        until("the dead are gone", async || stats(client, room).await == Some((5, 2))).await;
    }
    for watcher in &watchers {
        eventually("all leaves are told", || watcher.comings().len() >= expected.len()).await;
    }
    let took = killed.elapsed();
    println!("f1: gone everywhere after {took:?}");
    assert!(took < VANISH + pauses.grace(TTL), "{took:?}");
    until("no key names it", async || redis.keys_containing(&id).await.is_empty()).await;
    assert!(killed.elapsed() < VANISH + pauses.grace(TTL) + Duration::from_secs(2));
    // Nothing more is told: this comes behind all that was.
    on_b.publish("live:0", json!("end")).await;
    for watcher in &watchers {
        eventually("the end is heard", || watcher.has("live:0", &json!("end"))).await;
        assert_eq!(watcher.comings(), expected);
    }
    assert!(!ids(&redis).await.contains(&id));
    drop(devices);
}

#[tokio::test]
async fn f3_an_instance_that_was_frozen_finds_itself_deposed_and_comes_back() {
    let redis = RedisServer::start().await;
    let [mut a, b] = instances(&redis, ["a", "b"]).await;
    let rooms = rooms(5);
    let mut speaker = member(&b.url(), "", &rooms).await;
    let mut members = Vec::new();
    for n in 0..20 {
        members.push(Listener::of(member(&a.url(), &format!("u{n:02}"), &rooms[n % 5..=n % 5]).await));
    }
    all_came(&mut speaker, 20).await;
    let watcher = Listener::of(member(&b.url(), "", &rooms).await);
    let leaves: Vec<_> = (0..20).map(|n| format!("-u{n:02} live:{}", n % 5)).collect();
    let mut expected: Vec<_> = (0..20).map(|n| format!("+u{n:02} live:{}", n % 5)).collect();
    expected.extend(leaves.clone());
    expected.sort();

    let pauses = Pauses::watch();
    let stopped = Instant::now();
    a.stop();
    eventually("it is taken for dead", || watcher.comings().len() >= leaves.len()).await;
    assert!(stopped.elapsed() < VANISH + pauses.grace(TTL), "{:?}", stopped.elapsed());
    // It is not only late, it is long gone.
    tokio::time::sleep(Duration::from_secs(3).saturating_sub(stopped.elapsed())).await;
    a.cont();
    let resumed = Instant::now();
    let mut round = 0;
    until("every socket hears its room, or is closed", async || {
        round += 1;
        for room in &rooms {
            speaker.publish(room, json!(round)).await;
        }
        let is_well = |(n, member): (usize, &Listener)| {
            member.closed().is_some() || member.numbers(&rooms[n % 5]).last().is_some_and(|last| *last + 5 > round)
        };
        let hear = members.iter().enumerate().all(is_well);
        let mut registered = true;
        for room in &rooms {
            registered &= stats(&mut speaker, room).await == Some((6, 5));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        hear && registered
    })
    .await;
    let took = resumed.elapsed();
    println!("f3: in its rooms again {took:?} after it went on");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(a.metric("wayleave_deposed_total").await, 1.0);
    eventually("all are told to be back", || watcher.comings().len() >= expected.len()).await;
    assert_eq!(watcher.comings(), expected);
    let open = members.iter().filter(|member| member.closed().is_none()).count();
    assert_eq!(open, 20, "none had to be closed");
    assert_eq!(ids(&redis).await.len(), 2);
}

#[tokio::test]
async fn m5_one_survivor_cleans_up_after_two() {
    let redis = RedisServer::start().await;
    let [mut a, mut b, c] = instances(&redis, ["a", "b", "c"]).await;
    let rooms = rooms(4);
    let _on_a = member(&a.url(), "ann", &rooms).await;
    let _on_b = member(&b.url(), "bob", &rooms).await;
    let mut on_c = member(&c.url(), "cat", &rooms).await;
    let dead: Vec<_> = ids(&redis).await;
    let pauses = Pauses::watch();
    a.kill();
    b.kill();
    let killed = Instant::now();
    for room in &rooms {
        until("both are gone", async || stats(&mut on_c, room).await == Some((1, 1))).await;
    }
    println!("m5: both gone after {:?}", killed.elapsed());
    assert!(killed.elapsed() < VANISH + pauses.grace(TTL), "{:?}", killed.elapsed());
    until("two leases are gone", async || ids(&redis).await.len() == 1).await;
    let alive = ids(&redis).await.remove(0);
    for id in dead.iter().filter(|id| **id != alive) {
        until("no key names it", async || redis.keys_containing(id).await.is_empty()).await;
    }
}

#[tokio::test]
async fn f2_a_cleaner_that_stops_midway_is_replaced_and_fenced() {
    const ROOMS_OF_A: usize = 640;
    let redis = RedisServer::start().await;
    // One that watches and takes nobody for dead.
    let calm = "heartbeat = \"500ms\"\nttl = \"60s\"\nsweep = \"250ms\"";
    let d = gateway(&url(&redis), "d", calm).await;
    let many = format!("[cluster]\n{FAST}\n{ROOMS}").replace("[limits]", "[limits]\nrooms_per_connection = 1000");
    let mut a = Instance::start(&many, Some(&redis.url()), "a").await;
    let mut cleaners = Vec::new();
    for name in ["b", "c"] {
        let proxy = FaultProxy::start(redis.address()).await;
        let instance = Instance::start(&format!("[cluster]\n{FAST}\n{ROOMS}"), Some(&proxy.url()), name).await;
        cleaners.push((instance, proxy));
    }
    a.ready().await;
    for (instance, _) in &cleaners {
        instance.ready().await;
    }
    let rooms: Vec<_> = (0..ROOMS_OF_A).map(|n| format!("live:{n}")).collect();
    let mut users = Vec::new();
    for n in 0..10 {
        users.push(member(&a.url(), &format!("u{n}"), &rooms[n * 64..(n + 1) * 64]).await);
    }
    let watched: Vec<_> = rooms.iter().step_by(8).cloned().collect();
    let watcher = Listener::of(member(&d.url(), "", &watched).await);
    let claims = async || -> Vec<String> {
        redis::from_redis_value(redis.command(&["HVALS", "wayleave:1:{i}:claims"]).await).unwrap()
    };
    for (_, proxy) in &cleaners {
        proxy.delay(Duration::from_millis(60), Duration::ZERO);
    }
    a.kill();
    let progress = |claims: &[String]| -> Option<u64> { claims.first()?.split_once(':')?.1.parse().ok() };
    until("somebody is at it", async || progress(&claims().await).is_some_and(|n| n >= 2)).await;
    let first = cleaners.iter().position(|(it, _)| it.log().contains("an instance is silent; cleaning up")).unwrap();
    cleaners[first].0.stop();
    let stopped = Instant::now();
    for (_, proxy) in &cleaners {
        proxy.heal();
    }
    let left = claims().await;
    assert!(!left.is_empty(), "it was done too soon for this test");
    // Somebody new comes while it is being cleaned up.
    let mut newcomer = member(&d.url(), "u0", &rooms[..1]).await;
    until("another has finished", async || claims().await.is_empty()).await;
    println!("f2: taken over and finished {:?} after the first stopped", stopped.elapsed());
    cleaners[first].0.cont();
    until("the first is fenced", async || {
        // It learns that it is too late, or gives up since it waited so long.
        let stopped = cleaners[first].0.metric("wayleave_sweeps_total{reason=\"stopped\"}").await;
        stopped + cleaners[first].0.metric("wayleave_sweeps_fenced_total").await >= 1.0
    })
    .await;
    // The stopped one was deposed too, and is back.
    cleaners[first].0.ready().await;
    assert_eq!(stats(&mut newcomer, &rooms[0]).await, Some((2, 2)));
    newcomer.publish(&watched[1], json!("end")).await;
    eventually("the end is heard", || watcher.has(&watched[1], &json!("end"))).await;
    let mut expected: Vec<_> = (0..ROOMS_OF_A).step_by(8).map(|n| format!("-u{} live:{n}", n / 64)).collect();
    // It came back before or after it was taken out: told accordingly.
    let comings = watcher.comings();
    let of_u0: Vec<_> = comings.iter().filter(|coming| coming.ends_with("u0 live:0")).collect();
    expected.retain(|coming| coming != "-u0 live:0");
    expected.sort();
    let others: Vec<_> = comings.iter().filter(|coming| !coming.ends_with("u0 live:0")).cloned().collect();
    assert_eq!(others, expected);
    assert!(of_u0.is_empty() || of_u0 == ["+u0 live:0", "-u0 live:0"], "{of_u0:?}");
}

#[tokio::test]
async fn a12_an_instance_that_dies_and_comes_back_leaves_no_ghost() {
    let redis = RedisServer::start().await;
    let [a, mut b] = instances(&redis, ["a", "b"]).await;
    let mut on_a = member(&a.url(), "ann", &["live:1".to_owned()]).await;
    for _ in 0..3 {
        let mut on_b = member(&b.url(), "bob", &["live:1".to_owned()]).await;
        on_b.publish("live:1", json!("hello")).await;
        assert_eq!(on_a.heard("live:1").await, "hello");
        b.kill();
        b.restart().await;
        b.ready().await;
    }
    until("only those who are there are there", async || stats(&mut on_a, "live:1").await == Some((1, 1))).await;
    until("and two instances", async || ids(&redis).await.len() == 2).await;
    until("as both see it", async || {
        a.metric("wayleave_instances").await == 2.0 && b.metric("wayleave_instances").await == 2.0
    })
    .await;
    let alive = ids(&redis).await;
    let keys = redis.keys_containing("{i}:").await;
    let strange =
        keys.iter().filter(|key| key.contains(":lease:") || key.contains(":rooms:") || key.contains(":users:"));
    let ghosts: Vec<_> = strange.filter(|key| !alive.iter().any(|id| key.ends_with(id.as_str()))).collect();
    assert_eq!(ghosts, Vec::<&String>::new());
}

/// M1: whoever breaks off while it connects leaves nothing.
#[tokio::test]
async fn m1_sockets_that_die_while_they_connect_leave_nothing() {
    let redis = RedisServer::start().await;
    let [a] = gateways::<1>(&redis).await;
    let mut random = super::Random(7);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..300_u64 {
        let (url, wait) = (a.url(), Duration::from_micros(random.next(8_000)));
        tasks.spawn(async move {
            let mut client = TestClient::open(&url).await;
            let token = crate::support::token(&json!({ "sub": format!("u{n}") }));
            client.say(&json!({ "id": 1, "connect": { "token": token } }).to_string()).await;
            client.say(&json!({ "id": 2, "subscribe": { "channel": format!("live:{}", n % 20) } }).to_string()).await;
            tokio::time::sleep(wait).await;
            client.abort();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    eventually("nobody is here", || a.hub().n_connections() == 0 && a.hub().n_rooms() == 0).await;
    until("nothing is left of them", async || {
        let left = redis.keys_containing("").await;
        left.iter().all(|key| !key.contains("{u:") && !key.contains("{r:"))
    })
    .await;
}
