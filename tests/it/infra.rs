//! The real parts that tests of a cluster are made of do what they say.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{
    NoAnswer, PATIENCE, TestClient, eventually,
    instance::Instance,
    proxy::{Direction, FaultProxy, RoundRobin, Which},
    redis::{RedisCluster, RedisServer, Sentinels},
    until,
};

const ROOM: &str = "[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";

/// Long enough for what must not come, on loopback.
const SILENCE: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_redis_is_killed_restarted_and_frozen() {
    let mut redis = RedisServer::start().await;
    redis.command(&["SET", "some:key", "x"]).await;
    redis.command(&["SET", "other", "x"]).await;
    assert_eq!(redis.keys_containing("me:k").await, ["some:key"]);
    assert_eq!(redis.keys_containing("").await.len(), 2);
    let port = redis.port();
    redis.kill();
    assert!(redis.try_command(&["PING"]).await.is_err());
    redis.restart().await;
    assert_eq!((redis.port(), redis.keys_containing("").await.len()), (port, 0));
    redis.stop();
    let mut socket = TcpStream::connect(redis.address()).await.unwrap();
    socket.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 7];
    assert!(tokio::time::timeout(SILENCE, socket.read_exact(&mut answer)).await.is_err());
    redis.cont();
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, *b"+PONG\r\n");
}

#[tokio::test]
async fn a_redis_with_a_disk_keeps_it_unless_it_is_emptied() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    redis.command(&["SET", "key", "x"]).await;
    redis.restart().await;
    assert_eq!(redis.keys_containing("").await, ["key"]);
    redis.restart_empty().await;
    assert_eq!(redis.keys_containing("").await.len(), 0);
}

#[tokio::test]
async fn channels_and_traffic_are_counted() {
    let redis = RedisServer::start().await;
    let client = redis::Client::open(redis.url()).unwrap();
    let mut subscriber = client.get_async_pubsub().await.unwrap();
    subscriber.subscribe("news").await.unwrap();
    assert_eq!((redis.channels().await, redis.numsub("news").await), (vec!["news".to_owned()], 1));
    assert_eq!((redis.shard_channels().await.len(), redis.shard_numsub("news").await), (0, 0));
    let before = redis.net_bytes().await;
    redis.command(&["PUBLISH", "news", &"x".repeat(10_000)]).await;
    let after = redis.net_bytes().await;
    assert!(after.0 - before.0 > 10_000 && after.1 - before.1 > 10_000, "{before:?} {after:?}");
    assert_eq!(redis.number("stats", "pubsub_channels").await, 1);
}

#[tokio::test]
async fn a_replica_follows_until_it_is_promoted() {
    let master = RedisServer::start().await;
    master.command(&["SET", "key", "x"]).await;
    let replica = RedisServer::replica_of(&master).await;
    assert_eq!(replica.keys_containing("").await, ["key"]);
    assert!(replica.try_command(&["SET", "own", "x"]).await.is_err());
    replica.promote().await;
    replica.command(&["SET", "own", "x"]).await;
}

#[tokio::test]
async fn sentinels_promote_the_replica_of_a_dead_master() {
    let mut master = RedisServer::start().await;
    let replica = RedisServer::replica_of(&master).await;
    let sentinels = Sentinels::start(&master, 3).await;
    assert_eq!((sentinels.urls().len(), sentinels.master_name()), (3, "tests"));
    assert_eq!(sentinels.master_port().await, master.port());
    master.kill();
    until("the replica is the master", async || sentinels.master_port().await == replica.port()).await;
    until("it knows", async || replica.info("replication").await["role"] == "master").await;
}

#[tokio::test]
async fn a_cluster_shares_out_its_keys() {
    let cluster = RedisCluster::start(3).await;
    for key in ["a", "b", "c", "d", "e", "f"] {
        cluster.node_of(key).await.command(&["SET", key, "x"]).await;
    }
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    let value: String = redis::cmd("GET").arg("c").query_async(&mut connection).await.unwrap();
    assert_eq!(value, "x");
    assert!(!cluster.nodes()[0].keys_containing("").await.is_empty());
}

/// A server that sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _over = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Sends a word; whether it comes back in this time.
async fn echoes(stream: &mut TcpStream, within: Duration) -> bool {
    stream.write_all(b"word").await.unwrap();
    hears(stream, within).await
}

async fn hears(stream: &mut TcpStream, within: Duration) -> bool {
    let mut word = [0; 4];
    tokio::time::timeout(within, stream.read_exact(&mut word)).await.is_ok_and(|read| read.is_ok() && word == *b"word")
}

#[tokio::test]
async fn a_cut_resets_and_refuses_until_it_heals() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(echoes(&mut stream, PATIENCE).await);
    assert_eq!((proxy.n_open(Which::All), proxy.n_accepted()), (1, 1));
    assert_eq!((proxy.n_bytes(Direction::ToServer), proxy.n_bytes(Direction::Both)), (4, 8));
    proxy.cut();
    let kind = |error: std::io::Error| error.kind();
    assert_eq!(stream.read_u8().await.map_err(kind), Err(std::io::ErrorKind::ConnectionReset));
    let refused = TcpStream::connect(proxy.addr()).await.map(drop).map_err(kind);
    assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(proxy.n_open(Which::All), 0);
    proxy.heal();
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(echoes(&mut stream, PATIENCE).await);
    proxy.reset_all();
    assert_eq!(stream.read_u8().await.map_err(kind), Err(std::io::ErrorKind::ConnectionReset));
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(echoes(&mut stream, PATIENCE).await);
}

#[tokio::test]
async fn what_is_frozen_arrives_when_it_thaws() {
    let proxy = FaultProxy::start(echo().await).await;
    for direction in [Direction::ToServer, Direction::ToClient, Direction::Both] {
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(echoes(&mut stream, PATIENCE).await);
        let before = proxy.n_bytes(Direction::ToServer);
        proxy.freeze(direction);
        assert!(!echoes(&mut stream, SILENCE).await, "{direction:?}");
        let n_passed = proxy.n_bytes(Direction::ToServer) - before;
        assert_eq!(n_passed, if direction == Direction::ToClient { 4 } else { 0 });
        proxy.heal();
        assert!(hears(&mut stream, PATIENCE).await, "{direction:?}");
    }
}

#[tokio::test]
async fn an_end_passes_through_and_a_frozen_one_waits() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(echoes(&mut stream, PATIENCE).await);
    proxy.freeze(Direction::ToServer);
    stream.shutdown().await.unwrap();
    assert!(tokio::time::timeout(SILENCE, stream.read_u8()).await.is_err());
    proxy.heal();
    let end = stream.read_u8().await.map_err(|error| error.kind());
    assert_eq!(end, Err(std::io::ErrorKind::UnexpectedEof));
    eventually("the connection is gone", || proxy.n_open(Which::All) == 0).await;
}

#[tokio::test]
async fn a_delay_holds_both_ways_and_keeps_the_order() {
    let proxy = FaultProxy::start(echo().await).await;
    let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
    assert!(echoes(&mut stream, PATIENCE).await);
    proxy.delay(Duration::from_millis(30), Duration::from_millis(20));
    let start = Instant::now();
    for i in 0..20 {
        stream.write_u8(i).await.unwrap();
        // Chunks of their own, each with its delay.
        tokio::task::yield_now().await;
    }
    for i in 0..20 {
        assert_eq!(stream.read_u8().await.unwrap(), i);
    }
    assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
}

#[tokio::test]
async fn subscribers_are_frozen_without_the_others_and_the_reverse() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let client = redis::Client::open(proxy.url()).unwrap();
    let mut subscriber = client.get_async_pubsub().await.unwrap();
    subscriber.subscribe("news").await.unwrap();
    let mut publisher = client.get_multiplexed_async_connection().await.unwrap();
    assert_eq!((proxy.n_open(Which::Subscribers), proxy.n_open(Which::Others)), (1, 1));
    let mut messages = subscriber.into_on_message();

    proxy.freeze_only(Which::Subscribers, Direction::Both);
    let publish = redis::cmd("PUBLISH").arg("news").arg("subscribe").to_owned();
    let n: u64 = publish.query_async(&mut publisher).await.unwrap();
    assert_eq!(n, 1);
    assert!(tokio::time::timeout(SILENCE, messages.next()).await.is_err());
    proxy.heal();
    assert!(messages.next().await.is_some());

    proxy.freeze_only(Which::Others, Direction::Both);
    redis.command(&["PUBLISH", "news", "x"]).await;
    assert!(messages.next().await.is_some());
    assert!(tokio::time::timeout(SILENCE, publish.query_async::<u64>(&mut publisher)).await.is_err());
    assert_eq!((proxy.n_open(Which::Subscribers), proxy.n_open(Which::Others)), (1, 1));

    proxy.heal();
    proxy.reset_only(Which::Subscribers);
    eventually("the subscriber is gone", || proxy.n_open(Which::All) == 1).await;
}

#[tokio::test]
async fn an_instance_serves_freezes_ends_and_comes_back() {
    let mut instance = Instance::start(ROOM, None, "a").await;
    instance.ready().await;
    assert!(instance.http().starts_with("http://127.0.0.1:") && instance.name() == "a");
    assert!(instance.resident_bytes() > 1 << 20);
    let (mut client, mut ada) = (instance.client().await, instance.user("ada").await);
    client.join("r").await;
    ada.join("r").await;
    ada.publish("r", json!(1)).await;
    assert_eq!(client.heard("r").await, 1);
    assert_eq!(instance.metric("wayleave_connections").await, 2.0);

    instance.stop();
    assert_eq!(client.try_ask("ping", json!({}), SILENCE).await, Err(NoAnswer::Late));
    assert!(!instance.is_ready().await);
    instance.cont();
    // The reply that came too late is none to this.
    assert!(client.ask("ping", json!({})).await.get("ping").is_some());
    assert_eq!(client.try_push(SILENCE).await, Err(NoAnswer::Late));

    let end = async |mut client: TestClient| {
        let code = client.closed().await.0;
        client.leave().await;
        code
    };
    let (status, code, _) = tokio::join!(instance.terminate(), end(client), end(ada));
    assert!(status.success());
    assert_eq!(code, 3001);
    assert!(TestClient::try_connect(&instance.url(), json!({}), PATIENCE).await.is_err());
    instance.restart().await;
    let mut ada = instance.user("ada").await;
    ada.join("r").await;
    ada.reconnect().await;
    ada.join("r").await;
    eventually("it says so", || instance.log().matches("listening on").count() == 2).await;
    instance.kill();
    assert!(matches!(ada.try_push(PATIENCE).await, Err(NoAnswer::Closed(..))));
    assert!(matches!(ada.try_ask("ping", json!({}), PATIENCE).await, Err(NoAnswer::Closed(..))));
}

#[tokio::test]
async fn connections_are_shared_out_in_turn() {
    let (mut a, b) = (Instance::start(ROOM, None, "a").await, Instance::start(ROOM, None, "b").await);
    let proxy = RoundRobin::start(vec![a.addr(), b.addr()]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(TestClient::connect(&proxy.url(), json!({})).await);
    }
    let n = [a.metric("wayleave_connections").await, b.metric("wayleave_connections").await];
    assert_eq!(n, [2.0, 2.0]);
    a.kill();
    for client in &mut clients {
        client.reconnect().await;
    }
    until("all are on b", async || b.metric("wayleave_connections").await == 4.0).await;
    clients.pop().unwrap().abort();
    until("one is gone", async || b.metric("wayleave_connections").await == 3.0).await;
}
