//! Instances are replaced one after the other, while their clients go on.

use std::time::Duration;

use serde_json::json;

use super::{Crew, finish, follow, instances, member, publish, stats};
use crate::support::{TestClient, checker::Log, eventually, instance::Instance, redis::RedisServer, until};

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
