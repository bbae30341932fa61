//! The same on a Redis Cluster and behind Sentinels as on one server.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Crew, FAST, Listener, finish, follow, gateway, in_order, is_ready, member, publish, stats, trouble};
use crate::support::{
    PATIENCE, TestGateway,
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

/// Moves the slot of a key from its node to another, as resharding does.
async fn move_slot(cluster: &RedisCluster, key: &str) {
    let words = |value| redis::from_redis_value::<String>(value).unwrap();
    let from = cluster.node_of(key).await;
    let to = cluster.nodes().iter().find(|node| node.port() != from.port()).unwrap();
    let slot: u64 = redis::from_redis_value(from.command(&["CLUSTER", "KEYSLOT", key]).await).unwrap();
    let (slot, port) = (slot.to_string(), to.port().to_string());
    let from_id = words(from.command(&["CLUSTER", "MYID"]).await);
    let to_id = words(to.command(&["CLUSTER", "MYID"]).await);
    to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    let found = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]).await;
    let keys: Vec<String> = redis::from_redis_value(found).unwrap();
    if !keys.is_empty() {
        let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
        migrate.extend(keys.iter().map(String::as_str));
        from.command(&migrate).await;
    }
    for node in [to, from].into_iter().chain(cluster.nodes()) {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
    }
}

/// A server unsubscribes everybody from the channels of a slot that moves.
#[tokio::test]
async fn a_slot_that_moves_is_heard_at_its_new_node() {
    let cluster = RedisCluster::start(3).await;
    let (a, b) = (on_cluster(&cluster, "a").await, on_cluster(&cluster, "b").await);
    let rooms: Vec<_> = ["plain:m", "kept:m"].map(str::to_owned).into();
    let heard = Listener::of(member(&b.url(), "", &rooms).await);
    let mut on_a = a.client().await;
    for room in &rooms {
        on_a.publish(room, json!("before")).await;
        eventually("it is heard", || heard.has(room, &json!("before"))).await;
        move_slot(&cluster, &format!("wayleave:1:{{r:{room}}}:c")).await;
        let moved = Instant::now();
        let mut n = 0;
        until("it is heard again", async || {
            let _moved = on_a.try_ask("publish", json!({ "channel": room, "data": n }), Duration::from_secs(5)).await;
            n += 1;
            heard.numbers(room).last().is_some()
        })
        .await;
        println!("a slot that moves, {room}: heard again {:?} after", moved.elapsed());
        assert!(moved.elapsed() < Duration::from_secs(6), "{:?}", moved.elapsed());
    }
    assert_eq!(heard.closed(), None);
    is_ready(&b).await;
    // Each connection learns where it is by being refused once.
    let mut on_b = b.client().await;
    for room in &rooms {
        until("it can be joined", async || {
            on_b.try_ask("subscribe", json!({ "channel": room }), PATIENCE).await.unwrap().get("subscribe").is_some()
        })
        .await;
        until("it can be written to", async || {
            on_b.try_ask("publish", json!({ "channel": room, "data": "b" }), PATIENCE).await.unwrap();
            heard.has(room, &json!("b"))
        })
        .await;
    }
}

/// While a slot moves, its node does what it has the keys for and refuses the
/// rest: one refusal says nothing of what was sent together with it.
#[tokio::test]
async fn what_was_sent_with_something_refused_is_not_called_undone() {
    let cluster = RedisCluster::start(3).await;
    let a = on_cluster(&cluster, "a").await;
    let mut client = a.client().await;
    client.publish("kept:m", json!("first")).await;
    let about = "wayleave:1:{r:kept:m}:about";
    let from = cluster.node_of(about).await;
    let to = cluster.nodes().iter().find(|node| node.port() != from.port()).unwrap();
    let slot: u64 = redis::from_redis_value(from.command(&["CLUSTER", "KEYSLOT", about]).await).unwrap();
    let slot = slot.to_string();
    let to_id: String = redis::from_redis_value(to.command(&["CLUSTER", "MYID"]).await).unwrap();
    from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    let mut crew = Crew::default();
    for _ in 0..8 {
        let mut joiner = a.client().await;
        crew.add(async move {
            loop {
                // Nobody is registered there: its node has none of those keys.
                let _refused = joiner.try_ask("subscribe", json!({ "channel": "kept:m" }), PATIENCE).await;
            }
        });
    }
    let (mut n_may_be, mut n_unknown, mut publishers) = (0, 0, Vec::new());
    for _ in 0..8 {
        publishers.push(a.client().await);
    }
    until("some were sent with something refused", async || {
        let asked =
            publishers.iter_mut().map(|it| it.try_ask("publish", json!({ "channel": "kept:m", "data": 1 }), PATIENCE));
        for reply in futures_util::future::join_all(asked).await {
            let code = reply.unwrap()["error"]["code"].as_u64();
            n_may_be += u64::from(code != Some(108));
            n_unknown += u64::from(code == Some(100));
        }
        n_unknown > 20
    })
    .await;
    drop(crew);
    let top = from.command(&["HGET", about, "top"]).await;
    let kept = redis::from_redis_value::<u64>(top).unwrap() - 1;
    println!("{kept} were kept, {n_may_be} may be, {n_unknown} of those unknown");
    assert!(kept <= n_may_be, "{kept} {n_may_be}");
}

/// A node that stands still for longer than everything else has patience, and
/// less than the cluster has.
#[tokio::test]
async fn r20_a_frozen_node_leaves_the_rooms_on_the_others_alone() {
    const FROZEN: Duration = Duration::from_secs(6);
    let mut cluster = RedisCluster::start(3).await;
    for node in cluster.nodes() {
        node.command(&["CONFIG", "SET", "cluster-node-timeout", "60000"]).await;
    }
    let bus = format!("mode = \"cluster\"\nnodes = {:?}\ntimeout = \"1s\"", cluster.urls());
    let (a, b) = (gateway(&bus, "a", FAST).await, gateway(&bus, "b", FAST).await);
    let instances = cluster.node_of("{i}").await.port();
    let mut rooms = Vec::new();
    for room in (0..12).flat_map(|n| [format!("plain:{n}"), format!("kept:{n}")]) {
        let port = cluster.node_of(&format!("wayleave:1:{{r:{room}}}:c")).await.port();
        rooms.push((room, port));
    }
    let mut new = Vec::new();
    for n in 0..800 {
        let room = format!("plain:new{n}");
        let port = cluster.node_of(&format!("wayleave:1:{{r:{room}}}:c")).await.port();
        new.push((room, port));
    }
    let mut new = new.into_iter();
    let all: Vec<_> = rooms.iter().map(|(room, _)| room.clone()).collect();
    let heard = Listener::of(member(&b.url(), "", &all).await);
    let mut on_a = a.client().await;
    let mut sent = std::collections::HashMap::<String, u64>::new();
    // What all instances have to do with is on the third.
    let victims: Vec<usize> = (0..3).filter(|n| cluster.nodes()[*n].port() != instances).collect();
    for victim in victims {
        let port = cluster.nodes()[victim].port();
        cluster.nodes_mut()[victim].stop();
        // Something is to be written there all the time.
        let mut crew = Crew::default();
        for (room, _) in rooms.iter().filter(|(room, on)| *on == port && room.starts_with("kept:")) {
            let (mut client, room) = (a.client().await, room.clone());
            crew.add(async move {
                loop {
                    let _unknown = client.try_ask("publish", json!({ "channel": room, "data": 0 }), PATIENCE).await;
                }
            });
        }
        let (frozen, mut slowest) = (Instant::now(), Duration::ZERO);
        while frozen.elapsed() < FROZEN {
            for (room, _) in rooms.iter().filter(|(_, on)| *on != port) {
                let n = sent.entry(room.clone()).or_default();
                let asked = Instant::now();
                on_a.publish(room, json!(*n)).await;
                slowest = slowest.max(asked.elapsed());
                *n += 1;
            }
            // Somebody wants what lies on the node that stands still, others do not.
            let (room, on) = new.next().unwrap();
            let mut joiner = b.client().await;
            if on == port {
                tokio::spawn(async move { joiner.try_ask("subscribe", json!({ "channel": room }), PATIENCE).await });
            } else {
                let asked = Instant::now();
                joiner.join(&room).await;
                slowest = slowest.max(asked.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let last = |room: &str| json!(sent[room] - 1);
        for (room, _) in rooms.iter().filter(|(_, on)| *on != port) {
            eventually("the last is heard", || heard.has(room, &last(room))).await;
        }
        println!(
            "r20: node {victim} frozen for {:?}, the slowest of the others' answers {slowest:?}",
            frozen.elapsed()
        );
        assert!(slowest < Duration::from_millis(800), "{slowest:?}");
        for gateway in [&a, &b] {
            assert_eq!(trouble(gateway), None);
            assert_eq!(gateway.metric("wayleave_deposed_total"), 0.0);
            for role in ["write", "publish", "subscribe"] {
                let lost = gateway.metric(&format!("wayleave_bus_links_lost_total{{reason=\"{role}\"}}"));
                assert_eq!(lost, 0.0, "{role}");
            }
        }
        drop(crew);
        cluster.nodes_mut()[victim].cont();
        for (room, _) in rooms.iter().filter(|(_, on)| *on == port) {
            let n = sent.entry(room.clone()).or_default();
            until("it goes on", async || {
                on_a.try_ask("publish", json!({ "channel": room, "data": *n }), PATIENCE).await.unwrap();
                *n += 1;
                heard.numbers(room).last().is_some()
            })
            .await;
        }
    }
    for (room, on) in &rooms {
        if *on == instances {
            assert_eq!(in_order(&heard.numbers(room), sent[room]), 0, "{room}");
        }
    }
    assert_eq!(heard.closed(), None);
}
