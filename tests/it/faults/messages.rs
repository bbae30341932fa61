//! Who gets a message, and what it costs Redis.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{FAST, Listener, gateway, gateways, in_order, member, stats, url};
use crate::support::{TestGateway, eventually, redis::RedisServer, until};

/// Bytes in and out of Redis for each of `n` messages, beats and all.
async fn bytes(redis: &RedisServer, n: u64, work: impl Future<Output = ()>) -> u64 {
    let before = redis.net_bytes().await;
    work.await;
    let after = redis.net_bytes().await;
    (after.0 - before.0 + after.1 - before.1) / n
}

#[tokio::test]
async fn m3_u3_r3_a_message_goes_only_where_it_is_heard_and_costs_the_same_in_any_room() {
    const N: u64 = 300;
    let redis = RedisServer::start().await;
    let [a, b, c] = gateways::<3>(&redis).await;
    let room = ["plain:1".to_owned()];
    let first = Listener::of(member(&b.url(), "", &room).await);
    let mut client = a.client().await;
    let mut costs = Vec::new();
    let mut sent = 0;
    let mut members = Vec::new();
    for n_members in [1, 400] {
        while members.len() + 1 < n_members {
            members.push(Listener::of(member(&b.url(), "", &room).await));
        }
        let heard = c.metric("wayleave_bus_received_total");
        let probes = c.metric("wayleave_bus_sent_total");
        let work = async {
            for n in sent..sent + N {
                client.publish("plain:1", json!(n)).await;
            }
            eventually("all has come", || first.numbers("plain:1").len() as u64 == sent + N).await;
        };
        costs.push(bytes(&redis, N, work).await);
        sent += N;
        let others = c.metric("wayleave_bus_received_total") - heard;
        let own = c.metric("wayleave_bus_sent_total") - probes;
        assert!(others <= own + 1.0, "one that has no member hears only itself: {others}, sent {own}");
        assert_eq!(redis.numsub("wayleave:1:{r:plain:1}:c").await, 1);
    }
    println!("m3: {} bytes a message with 1 member, {} with 400", costs[0], costs[1]);
    assert!(costs.iter().all(|bytes| *bytes < 2048), "{costs:?}");
    for member in &members {
        eventually("everybody has it", || member.numbers("plain:1").len() as u64 == N).await;
    }
    // 27 more instances that have nothing to do with it.
    let fakes: Vec<_> = (0..27).map(|n| format!("{n:016x}.1")).collect();
    for fake in &fakes {
        redis.command(&["HSET", "wayleave:1:{i}:beats", fake, "1"]).await;
    }
    let work = async {
        for n in sent..sent + N {
            client.publish("plain:1", json!(n)).await;
        }
        eventually("all has come", || first.numbers("plain:1").len() as u64 == sent + N).await;
    };
    let crowded = bytes(&redis, N, work).await;
    println!("u3: {crowded} bytes a message among 30 instances");
    assert!(crowded < 2048, "{crowded}");
}

#[tokio::test]
async fn r1_many_joins_at_once_are_one_subscription() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let mut joins = tokio::task::JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(a.client().await);
    }
    for mut client in clients {
        joins.spawn(async move {
            client.join("plain:new").await;
            client
        });
    }
    let mut listeners = vec![Listener::of(joins.join_next().await.unwrap().unwrap())];
    let mut client = b.client().await;
    let mut first = 0;
    for n in 0..100 {
        client.publish("plain:new", json!(n)).await;
        if listeners.len() < 100 {
            while let Some(joined) = joins.try_join_next() {
                listeners.push(Listener::of(joined.unwrap()));
            }
            first = n + 1;
        }
    }
    while let Some(joined) = joins.join_next().await {
        listeners.push(Listener::of(joined.unwrap()));
    }
    assert_eq!(redis.numsub("wayleave:1:{r:plain:new}:c").await, 1);
    eventually("the first has all", || listeners[0].numbers("plain:new").len() == 100).await;
    for listener in &listeners {
        eventually("the last has come", || listener.has("plain:new", &json!(99))).await;
        let numbers = listener.numbers("plain:new");
        in_order(&numbers, 100);
        assert!(numbers[0] <= first);
    }
}

#[tokio::test]
async fn r2_rooms_that_are_left_are_not_heard_any_more() {
    let redis = RedisServer::start().await;
    let [a] = gateways::<1>(&redis).await;
    let baseline = redis.channels().await;
    let rooms: Vec<_> = (0..100).map(|n| format!("live:{n}")).collect();
    let mut client = member(&a.url(), "ann", &rooms).await;
    for room in &rooms {
        client.ask("unsubscribe", json!({ "channel": room })).await;
    }
    let left = Instant::now();
    let with_user = baseline.len() + 1;
    until("the channels are let go", async || redis.channels().await.len() <= with_user).await;
    println!("r2: 100 channels let go {:?} after", left.elapsed());
    assert!(left.elapsed() < Duration::from_secs(6), "{:?}", left.elapsed());
    assert!(redis.keys_containing("{r:").await.is_empty(), "{:?}", redis.keys_containing("{r:").await);
    client.leave().await;
    until("nothing is left", async || redis.channels().await == baseline).await;
}

#[tokio::test]
async fn r4_one_that_breaks_off_hinders_nobody() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let room = ["plain:1".to_owned()];
    let mut doomed = Vec::new();
    for _ in 0..5 {
        doomed.push(member(&b.url(), "", &room).await);
    }
    let mut listeners = Vec::new();
    for _ in 0..50 {
        listeners.push(Listener::of(member(&b.url(), "", &room).await));
    }
    let mut client = a.client().await;
    for n in 0..100 {
        if n % 20 == 10 {
            doomed.pop().unwrap().abort();
        }
        client.publish("plain:1", json!(n)).await;
    }
    for listener in &listeners {
        eventually("all has come", || listener.numbers("plain:1").len() == 100).await;
        assert_eq!(in_order(&listener.numbers("plain:1"), 100), 0);
    }
}

#[tokio::test]
async fn u1_each_device_of_a_user_gets_it_once_wherever_it_is() {
    let redis = RedisServer::start().await;
    let routes = "[[routes]]\nroom = \"plain:orders\"\nto = [\"user:{data.to}\", \"room:plain:audit\"]\n";
    let mut all: Vec<TestGateway> = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(gateway(&url(&redis), name, &format!("{FAST}\n{routes}")).await);
    }
    let mut devices = Vec::new();
    for on in [0, 1, 2, 0, 0] {
        devices.push(Listener::of(member(&all[on].url(), "ann", &[]).await));
    }
    let stranger = Listener::of(member(&all[1].url(), "bob", &[]).await);
    let audit = Listener::of(member(&all[2].url(), "", &["plain:audit".to_owned()]).await);
    let mut client = all[0].client().await;
    for n in 0..200 {
        client.publish("plain:orders", json!({ "to": "ann", "n": n })).await;
    }
    let got = |it: &Listener| -> Vec<u64> {
        let heard = it.heard.lock();
        let data = |push: &serde_json::Value| {
            let message = push.get("message").or_else(|| push.get("pub"))?;
            message["data"]["n"].as_u64()
        };
        heard.pushes.iter().filter_map(|(_, push)| data(push)).collect()
    };
    for listener in devices.iter().chain([&audit]) {
        eventually("all has come", || got(listener).len() >= 200).await;
    }
    client.publish("plain:orders", json!({ "to": "bob", "n": 999 })).await;
    eventually("the stranger has its own", || got(&stranger) == [999]).await;
    for device in &devices {
        assert_eq!(in_order(&got(device), 200), 0);
    }
    // The one at the end is of another user.
    assert_eq!(in_order(&got(&audit)[..200], 200), 0);
}

/// A8: what others write into our channels is counted and hurts nobody.
#[tokio::test]
async fn a8_garbage_on_the_bus_is_counted_and_ignored() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis).await;
    let listener = Listener::of(member(&b.url(), "", &["plain:1".to_owned(), "kept:1".to_owned()]).await);
    let mut client = a.client().await;
    client.publish("kept:1", json!(0)).await;
    let channels = redis.channels().await;
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut random = super::Random(99);
    // Truncated and twisted ones of our own are the nastiest.
    let kept: Vec<redis::Value> =
        redis::from_redis_value(redis.command(&["XRANGE", "wayleave:1:{r:kept:1}:stream", "-", "+"]).await).unwrap();
    let redis::Value::Array(entry) = &kept[0] else { panic!("{kept:?}") };
    let fields: Vec<Vec<u8>> = redis::from_redis_value(entry[1].clone()).unwrap();
    let own = &fields[1];
    let mut n_sent = 0_u32;
    for _ in 0..100 {
        let mut pipeline = redis::pipe();
        for _ in 0..200 {
            let channel = &channels[random.next(channels.len() as u64) as usize];
            let mut bytes: Vec<u8> = if random.next(2) == 0 {
                (0..random.next(200)).map(|_| random.next(256) as u8).collect()
            } else {
                own[..random.next(own.len() as u64) as usize].to_vec()
            };
            if !bytes.is_empty() && random.next(2) == 0 {
                let at = random.next(bytes.len() as u64) as usize;
                bytes[at] = random.next(256) as u8;
            }
            pipeline.cmd("PUBLISH").arg(channel).arg(bytes).ignore();
            n_sent += 1;
        }
        let () = pipeline.query_async(&mut connection).await.unwrap();
    }
    client.publish("plain:1", json!("on")).await;
    client.publish("kept:1", json!("on")).await;
    eventually("it goes on", || listener.has("plain:1", &json!("on")) && listener.has("kept:1", &json!("on"))).await;
    let n: f64 = ["garbled", "version"]
        .map(|reason| b.metric(&format!("wayleave_bus_dropped_total{{reason=\"{reason}\"}}")))
        .iter()
        .sum();
    println!("a8: {n_sent} frames of garbage, {n} counted by one instance");
    assert!(n > 1_000.0, "{n}");
    assert_eq!(listener.closed(), None);
    assert_eq!(listener.data("kept:1"), [json!(0), json!("on")]);
    let mut asker = member(&a.url(), "", &["live:1".to_owned()]).await;
    assert_eq!(stats(&mut asker, "live:1").await, Some((1, 1)));
}
