//! A Redis that is reached and is not the right one: named at the start, and
//! while it is in use.

use serde_json::json;

use super::{FAST, ROOMS, gateway, instances, is_ready, member, trouble, url};
use crate::support::{eventually, instance::Instance, proxy::RoundRobin, redis::RedisServer, until};

fn config() -> String {
    format!("[cluster]\n{FAST}\n{ROOMS}")
}

/// What an instance is told that has this in its `[bus]`.
async fn refused(redis: &RedisServer, bus: &str) -> String {
    Instance::refused(&format!("[bus]\n{bus}\n{}", config()), Some(&redis.url()), "a").await
}

#[tokio::test]
async fn a_wrong_password_is_named_at_the_start() {
    let redis = RedisServer::start().await;
    redis.command(&["ACL", "SETUSER", "default", "resetpass", ">right"]).await;
    for bus in ["password = \"wrong\"", ""] {
        let said = refused(&redis, bus).await;
        assert!(said.contains("does not let us in") && said.contains("bus.password"), "{said}");
        assert!(!said.contains("wrong"), "the password itself is not logged: {said}");
    }
    let good = format!("[bus]\npassword = \"right\"\n{}", config());
    let a = Instance::start(&good, Some(&redis.url()), "a").await;
    a.ready().await;
}

/// The commands in docs/redis.md are enough, and without one of them it is
/// said which.
#[tokio::test]
async fn an_acl_that_allows_too_little_is_named_at_the_start() {
    let redis = RedisServer::start().await;
    let allowed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md")).unwrap();
    let line = allowed.lines().find_map(|line| line.strip_prefix("ACL SETUSER wayleave ")).unwrap();
    let words: Vec<_> = ["ACL", "SETUSER", "wayleave"].into_iter().chain(line.split(' ')).collect();
    redis.command(&words).await;
    let bus = "[bus]\nusername = \"wayleave\"\npassword = \"PASSWORD\"";
    let mut all = Vec::new();
    for name in ["a", "b"] {
        all.push(Instance::start(&format!("{bus}\n{}", config()), Some(&redis.url()), name).await);
        all.last().unwrap().ready().await;
    }
    let rooms = ["live:1".to_owned(), "kept:1".to_owned(), "plain:1".to_owned()];
    let mut ann = member(&all[0].url(), "ann", &rooms).await;
    let mut bob = member(&all[1].url(), "bob", &rooms).await;
    for room in &rooms {
        ann.publish(room, json!(1)).await;
        assert_eq!(bob.heard(room).await, json!(1));
    }
    drop(bob);
    all[1].kill();
    until("the other is gone", async || super::stats(&mut ann, "live:1").await == Some((1, 1))).await;
    assert_eq!(redis.command(&["ACL", "LOG"]).await, redis::Value::Array(Vec::new()));
    redis.command(&["ACL", "SETUSER", "wayleave", "-info"]).await;
    let said = refused(&redis, "username = \"wayleave\"\npassword = \"PASSWORD\"").await;
    assert!(said.contains("ACL") && said.contains("info"), "{said}");
}

#[tokio::test]
async fn another_layout_is_named_at_the_start_and_while_running() {
    let redis = RedisServer::start().await;
    // Thirty sweeps from one look at the server to the next.
    let a = gateway(&url(&redis), "a", &FAST.replace("250ms", "100ms")).await;
    redis.command(&["SET", "wayleave:layout", "0"]).await;
    let said = refused(&redis, "").await;
    assert!(said.contains("layout version 0") && said.contains("bus.prefix"), "{said}");
    eventually("it is said", || trouble(&a).is_some_and(|text| text.contains("layout version 0"))).await;
    redis.command(&["SET", "wayleave:layout", "1"]).await;
    is_ready(&a).await;
}

#[tokio::test]
async fn a_policy_that_evicts_is_named_at_the_start_and_while_running() {
    let redis = RedisServer::start().await;
    let [a] = instances(&redis, ["a"]).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1gb", "maxmemory-policy", "allkeys-lru"]).await;
    let [b] = instances(&redis, ["b"]).await;
    for instance in [&a, &b] {
        eventually("it is said", || instance.log().contains("maxmemory-policy allkeys-lru")).await;
    }
}

#[tokio::test]
async fn a_read_only_replica_is_named_at_the_start_and_while_running() {
    let master = RedisServer::start().await;
    let replica = RedisServer::replica_of(&master).await;
    let address = RoundRobin::start(vec![replica.address()]).await;
    let a = Instance::start(&config(), Some(&format!("redis://{}", address.addr())), "a").await;
    assert!(a.log().contains("is a read-only replica"), "{}", a.log());
    assert!(!a.is_ready().await);
    replica.promote().await;
    a.ready().await;
    let mut client = member(&a.url(), "ann", &["live:1".to_owned()]).await;
    let n = a.log().matches("is a read-only replica").count();
    // It is degraded while it is in use.
    let port = master.port().to_string();
    replica.command(&["REPLICAOF", "127.0.0.1", &port]).await;
    eventually("it is said", || a.log().matches("is a read-only replica").count() > n).await;
    until("it is not ready", async || !a.is_ready().await).await;
    let code = client.refused("subscribe", json!({ "channel": "live:2" })).await;
    assert!(code == 108 || code == 100, "retryable: {code}");
    replica.promote().await;
    a.ready().await;
    client.join("live:2").await;
}

#[tokio::test]
async fn a_password_that_changes_while_running_is_named() {
    let redis = RedisServer::start().await;
    let a = gateway(&url(&redis), "a", FAST).await;
    redis.command(&["CONFIG", "SET", "requirepass", "new"]).await;
    // Connections that are open stay; those that break do not come back.
    redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    eventually("it is said", || {
        trouble(&a)
            .is_some_and(|text| text.contains("NOAUTH") || text.contains("WRONGPASS") || text.contains("assword"))
    })
    .await;
}
