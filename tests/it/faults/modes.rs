//! The same on a Redis Cluster and behind Sentinels as on one server.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Crew, FAST, Listener, finish, follow, gateway, in_order, is_ready, member, publish, stats, trouble};
use crate::support::{
    TestGateway,
    checker::Log,
    eventually,
    process::ReservedPort,
    redis::{RedisCluster, RedisServer, Sentinels},
    until,
};

async fn on_cluster(cluster: &RedisCluster, name: &str) -> TestGateway {
    gateway(&format!("mode = \"cluster\"\nnodes = {:?}", cluster.urls()), name, FAST).await
}

/// What has to hold between two instances, whatever their Redis is.
async fn check(a: &TestGateway, b: &TestGateway) {
    // Messages, in rooms that lie on all nodes, to every member once and in
    // order.
    let rooms: Vec<_> = (0..12).map(|n| format!("plain:{n}")).collect();
    let listeners = [a, b, b].map(TestGateway::url);
    let mut heard = Vec::new();
    for url in &listeners {
        heard.push(Listener::of(member(url, "", &rooms).await));
    }
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    for n in 0..20 {
        for room in &rooms {
            on_a.publish(room, json!(n)).await;
        }
    }
    for (listener, room) in heard.iter().flat_map(|it| rooms.iter().map(move |room| (it, room))) {
        eventually("all has come", || listener.numbers(room).len() == 20).await;
        assert_eq!(in_order(&listener.numbers(room), 20), 0);
    }
    // R7: who has been let in hears all that is sent from then on.
    let mut joiner = b.client().await;
    for n in 0..200 {
        let room = format!("plain:new{n}");
        joiner.join(&room).await;
        on_a.publish(&room, json!(n)).await;
        assert_eq!(joiner.heard(&room).await, json!(n));
        joiner.ask("unsubscribe", json!({ "channel": room })).await;
    }
    // A room with history has one order, and is recovered anywhere.
    let joined = on_a.ask("subscribe", json!({ "channel": "kept:m" })).await["subscribe"].clone();
    on_b.join("kept:m").await;
    for n in 1..=20 {
        let from = if n % 2 == 0 { &mut on_a } else { &mut on_b };
        from.publish("kept:m", json!(n)).await;
    }
    for client in [&mut on_a, &mut on_b] {
        for n in 1..=20 {
            assert_eq!(client.heard("kept:m").await, json!(n));
        }
    }
    let body = json!({ "channel": "kept:m", "recover": true, "epoch": joined["epoch"], "offset": 15 });
    let back = b.client().await.ask("subscribe", body).await["subscribe"].clone();
    assert_eq!((&back["recovered"], back["publications"].as_array().unwrap().len()), (&json!(true), 5), "{back}");
    // Presence is of all, and a user comes and goes once.
    let mut watcher = member(&a.url(), "", &["live:m".to_owned()]).await;
    let phone = member(&a.url(), "ann", &["live:m".to_owned()]).await;
    let laptop = member(&b.url(), "ann", &["live:m".to_owned()]).await;
    until("both are there", async || stats(&mut watcher, "live:m").await == Some((3, 2))).await;
    phone.leave().await;
    until("one is gone", async || stats(&mut watcher, "live:m").await == Some((2, 2))).await;
    laptop.leave().await;
    until("both are gone", async || stats(&mut watcher, "live:m").await == Some((1, 1))).await;
    let watcher = Listener::of(watcher);
    eventually("it was told once", || watcher.comings() == ["+ann live:m", "-ann live:m"]).await;
}

#[tokio::test]
async fn a_redis_cluster_of_three_does_what_one_server_does() {
    let cluster = RedisCluster::start(3).await;
    let (a, b) = (on_cluster(&cluster, "a").await, on_cluster(&cluster, "b").await);
    check(&a, &b).await;
    let mut subscribed = 0;
    for node in cluster.nodes() {
        assert_eq!(node.channels().await, Vec::<String>::new(), "only sharded channels");
        subscribed += usize::from(!node.shard_channels().await.is_empty());
    }
    assert_eq!(subscribed, 3, "rooms lie on all nodes");
}

/// TLS with a certificate of one's own, and what is said of one that nobody
/// vouches for.
#[tokio::test]
async fn redis_over_tls_does_what_it_does_without() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("redis.crt"), folder.path().join("redis.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = ReservedPort::new();
    let [certificate, key] = [certificate, key].map(|path| path.to_str().unwrap().to_owned());
    let _redis = RedisServer::start_with(&[
        "--tls-port",
        &port.port().to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let url = format!("url = \"rediss://127.0.0.1:{}\"", port.port());
    let known = format!("{url}\nca_file = {certificate:?}");
    let (a, b) = (gateway(&known, "a", FAST).await, gateway(&known, "b", FAST).await);
    check(&a, &b).await;

    let config = format!("[bus]\nkind = \"redis\"\n{url}\n");
    let stranger = TestGateway::start(&config).await;
    eventually("what is wrong is named", || {
        trouble(&stranger).is_some_and(|trouble| trouble.to_lowercase().contains("certificate"))
    })
    .await;
}

#[tokio::test]
async fn sentinels_do_what_one_server_does() {
    let master = RedisServer::start().await;
    let _replica = RedisServer::replica_of(&master).await;
    let sentinels = Sentinels::start(&master, 3).await;
    let bus = format!("mode = \"sentinel\"\nnodes = {:?}\nmaster = {:?}", sentinels.urls(), sentinels.master_name());
    let (a, b) = (gateway(&bus, "a", FAST).await, gateway(&bus, "b", FAST).await);
    check(&a, &b).await;
}

/// F4 and F8 in a cluster: one node of three is killed and comes back empty.
#[tokio::test]
async fn f4_a_node_of_a_redis_cluster_that_comes_back_empty_is_filled_again() {
    let mut cluster = RedisCluster::start(3).await;
    let (a, b) = (on_cluster(&cluster, "a").await, on_cluster(&cluster, "b").await);
    let rooms: Vec<_> = (0..12).map(|n| format!("live:{n}")).collect();
    let (mut on_a, _on_b) = (member(&a.url(), "ann", &rooms).await, member(&b.url(), "bob", &rooms).await);
    let slot = |node: &RedisServer| node.port();
    let instances = slot(cluster.node_of("{i}").await);
    // Not the one that knows the instances: they would notice by that.
    let victim = cluster.nodes().iter().position(|node| node.port() != instances).unwrap();
    let node = &mut cluster.nodes_mut()[victim];
    node.restart().await;
    let back = Instant::now();
    for room in &rooms {
        until("all rooms are whole", async || stats(&mut on_a, room).await == Some((2, 2))).await;
    }
    println!("f4, cluster: filled {:?} after the node came back", back.elapsed());
    is_ready(&a).await;
    is_ready(&b).await;
    check(&a, &b).await;
}

/// A node of a cluster that is frozen for longer than a command may take: the
/// library must not send again what may have been done.
#[tokio::test]
async fn r20_a_frozen_node_of_a_redis_cluster_repeats_nothing() {
    let mut cluster = RedisCluster::start(3).await;
    let bus = |urls: &[String]| format!("mode = \"cluster\"\nnodes = {urls:?}\ntimeout = \"500ms\"");
    let a = gateway(&bus(&cluster.urls()), "a", FAST).await;
    let b = gateway(&bus(&cluster.urls()), "b", FAST).await;
    let log = Log::new();
    let rooms: Vec<_> = (0..6).map(|n| format!("kept:{n}")).collect();
    let (mut senders, mut followers) = (Crew::default(), Crew::default());
    for (n, room) in rooms.iter().enumerate() {
        log.recoverable(room);
        followers.add(follow(vec![b.url()], format!("x{n}"), room.clone(), log.clone()));
        senders.add(publish(vec![a.url()], format!("s{n}"), room.clone(), log.clone(), Duration::from_millis(5)));
    }
    eventually("it flows", || (0..6).all(|n| log.n_received(&format!("x{n}")) > 20)).await;
    for victim in 0..3 {
        // Shorter than the cluster's own patience: nothing fails over.
        cluster.nodes_mut()[victim].stop();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        cluster.nodes_mut()[victim].cont();
        let n = (0..6).map(|n| log.n_received(&format!("x{n}"))).collect::<Vec<_>>();
        eventually("it flows again", || (0..6).all(|i| log.n_received(&format!("x{i}")) > n[i] + 10)).await;
    }
    drop(senders);
    for (n, room) in rooms.iter().enumerate() {
        finish(&log, &a.url(), room, &[&format!("x{n}")]).await;
    }
    log.check().assert_honest();
}
