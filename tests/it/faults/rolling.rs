//! Instances are replaced one after the other, while their clients go on.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::json;

use super::{Crew, FAST, ROOMS, coming, finish, follow, instances, member, publish, stats};
use crate::support::{
    NoAnswer, PATIENCE, TestClient, checker::Log, eventually, instance::Instance, redis::RedisServer, token, until,
};

#[tokio::test]
async fn f12_a_rolling_restart_loses_and_repeats_nothing_in_rooms_with_history() {
    let redis = RedisServer::start().await;
    let mut fleet = instances(&redis, ["a", "b", "c"]).await;
    let urls: Vec<_> = fleet.iter().map(Instance::url).collect();
    let turned = |n: usize| [&urls[n % 3..], &urls[..n % 3]].concat();
    let log = Log::new();
    let rooms = ["kept:1", "kept:2"];
    let mut crew = Crew::default();
    let mut names = Vec::new();
    for (n, room) in (0..12).map(|n| (n, rooms[n % 2])) {
        log.recoverable(room);
        let name = format!("x{n}");
        crew.add(follow(turned(n), name.clone(), room.to_owned(), log.clone()));
        names.push((name, room));
    }
    let first_sender = crew.0.len();
    for (n, room) in rooms.into_iter().enumerate() {
        let (name, pause) = (format!("sender {n}"), Duration::from_millis(10));
        crew.add(publish(turned(n), name, room.to_owned(), log.clone(), pause));
    }
    eventually("it flows", || names.iter().all(|(name, _)| log.n_received(name) > 20)).await;
    for instance in &mut fleet {
        let status = instance.terminate().await;
        assert!(status.success(), "{status}");
        instance.restart().await;
        instance.ready().await;
        let n = log.n_received("x0");
        eventually("it flows", || log.n_received("x0") > n + 30).await;
    }
    crew.0[first_sender..].iter().for_each(tokio::task::JoinHandle::abort);
    for room in rooms {
        let there: Vec<_> = names.iter().filter(|(_, it)| *it == room).map(|(name, _)| name.as_str()).collect();
        finish(&log, &urls[0], room, &there).await;
    }
    log.check().assert_perfect();
}

/// A room whose members count as present for a while after they broke off.
const CALM: &str = r#"
[[rooms]]
match = "calm:*"
presence = true
join_leave = "users"
presence_grace = "8s"
"#;

/// Is a user in a room: when its connection ends, at the next address.
async fn dwell(urls: Vec<String>, user: String, room: &'static str) {
    let hello = json!({ "token": token(&json!({ "sub": user })) });
    for n in 0.. {
        let url = &urls[n % urls.len()];
        let client = TestClient::try_connect(url, hello.clone(), Duration::from_secs(5)).await;
        if let Ok(mut client) = client
            && client.try_ask("subscribe", json!({ "channel": room }), Duration::from_secs(5)).await.is_ok()
        {
            while !matches!(client.try_push(PATIENCE).await, Err(NoAnswer::Closed(..))) {}
            client.leave().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What somebody has seen who looks on.
#[derive(Debug, Default)]
struct Seen {
    /// Comings and goings that it was told.
    told: Vec<String>,
    /// How often it has looked who is there.
    looks: usize,
    /// Whom it did not find there.
    absent: Vec<String>,
}

/// Looks on in a room, at the next address when its connection ends: what it is
/// told, and whether these users are there whenever it looks.
async fn look_on(urls: Vec<String>, room: &'static str, users: Vec<String>, seen: Arc<Mutex<Seen>>) {
    for n in 0.. {
        let url = &urls[n % urls.len()];
        let Ok(mut client) = TestClient::try_connect(url, json!({}), Duration::from_secs(5)).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let joined = client.try_ask("subscribe", json!({ "channel": room }), Duration::from_secs(5)).await;
        let mut is_open = joined.is_ok_and(|reply| reply.get("subscribe").is_some());
        while is_open {
            match client.try_ask("presence", json!({ "channel": room }), Duration::from_secs(5)).await {
                Ok(reply) => {
                    // An error says that it is not known for the moment.
                    if let Some(there) = reply["presence"]["presence"].as_object() {
                        let is_there = |user: &&String| there.values().any(|it| it["user"] == **user);
                        let absent = users.iter().filter(|user| !is_there(user)).cloned();
                        let mut seen = seen.lock();
                        seen.absent.extend(absent);
                        seen.looks += 1;
                    }
                }
                Err(NoAnswer::Late) => {}
                Err(NoAnswer::Closed(..)) => is_open = false,
            }
            loop {
                match client.try_push(Duration::from_millis(10)).await {
                    Ok(push) => seen.lock().told.extend(coming(&push)),
                    Err(NoAnswer::Late) => break,
                    Err(NoAnswer::Closed(..)) => {
                        is_open = false;
                        break;
                    }
                }
            }
        }
        client.leave().await;
    }
}

/// The other half of F12: users who are back within the grace are there all the
/// time, whoever looks from wherever, and nobody is told that they have gone or
/// come. What they leave behind goes without a word.
#[tokio::test(flavor = "multi_thread")]
async fn f12_a_rolling_restart_is_no_coming_and_going() {
    const ROOM: &str = "calm:1";
    const USERS: u64 = 12;
    let redis = RedisServer::start().await;
    let mut fleet = Vec::new();
    for name in ["a", "b", "c"] {
        let config = format!("[cluster]\n{FAST}\n{ROOMS}{CALM}");
        fleet.push(Instance::start(&config, Some(&redis.url()), name).await);
    }
    for instance in &fleet {
        instance.ready().await;
    }
    let urls: Vec<_> = fleet.iter().map(Instance::url).collect();
    let turned = |n: usize| [&urls[n % 3..], &urls[..n % 3]].concat();
    let users: Vec<_> = (0..USERS).map(|n| format!("u{n}")).collect();
    let mut crew = Crew::default();
    for (n, user) in users.iter().enumerate() {
        crew.add(dwell(turned(n), user.clone(), ROOM));
    }
    {
        let mut first = member(&urls[0], "", &[ROOM.to_owned()]).await;
        until("all are there", async || stats(&mut first, ROOM).await == Some((USERS + 1, USERS + 1))).await;
    }
    let watchers: Vec<Arc<Mutex<Seen>>> = (0..3).map(|_| Arc::default()).collect();
    for (n, seen) in watchers.iter().enumerate() {
        crew.add(look_on(turned(n), ROOM, users.clone(), Arc::clone(seen)));
    }
    let all_look = async || {
        let before: Vec<_> = watchers.iter().map(|seen| seen.lock().looks).collect();
        let more = || watchers.iter().zip(&before).all(|(seen, n)| seen.lock().looks > n + 10);
        eventually("all look on", more).await;
    };
    all_look().await;
    for instance in &mut fleet {
        let status = instance.terminate().await;
        assert!(status.success(), "{status}");
        all_look().await;
        instance.restart().await;
        instance.ready().await;
        all_look().await;
    }
    // What was left behind is taken out once its grace is over: each user is
    // there once, and the three who look on, who count as one.
    let mut last = member(&urls[0], "", &[ROOM.to_owned()]).await;
    until("nothing is left behind", async || stats(&mut last, ROOM).await == Some((USERS + 4, USERS + 1))).await;
    all_look().await;
    // Whoever does come is told of, so they would have been told of others.
    let _newcomer = member(&urls[1], "newcomer", &[ROOM.to_owned()]).await;
    eventually("all are told", || watchers.iter().all(|seen| !seen.lock().told.is_empty())).await;
    for seen in &watchers {
        let seen = seen.lock();
        assert_eq!((&*seen.told, &*seen.absent), (&["+newcomer calm:1".to_owned()][..], &[][..]));
        println!("f12: {} looks, {USERS} users in each", seen.looks);
    }
}

/// M19: what an instance that ends in order held is gone at once, without
/// anybody's ttl.
#[tokio::test]
async fn m19_an_orderly_end_is_a_leave_at_once() {
    let redis = RedisServer::start().await;
    let [mut a, b] = instances(&redis, ["a", "b"]).await;
    let mut watcher = member(&b.url(), "ann", &["live:1".to_owned()]).await;
    let bob = member(&a.url(), "bob", &["live:1".to_owned()]).await;
    until("both are there", async || stats(&mut watcher, "live:1").await == Some((2, 2))).await;
    let leave = async |mut client: TestClient| {
        client.closed().await;
        client.leave().await;
    };
    let (status, ()) = tokio::join!(a.terminate(), leave(bob));
    assert!(status.success());
    assert_eq!(stats(&mut watcher, "live:1").await, Some((1, 1)));
    watcher.publish("live:1", json!("end")).await;
    assert_eq!(watcher.heard("live:1").await, "end");
    until("it is no instance any more", async || super::ids(&redis).await.len() == 1).await;
}
