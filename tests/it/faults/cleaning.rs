//! Who cleans up after whom, and what all see afterwards: rows of acceptance
//! that [`super::death`] does not show by themselves.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::{Crew, Listener, Pauses, ROOMS, gateway, ids, instances, member, only_id, stats};
use crate::support::{
    PATIENCE, TestClient, eventually,
    instance::Instance,
    proxy::{FaultProxy, Which},
    redis::RedisServer,
    until,
};

fn rooms(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("live:{n}")).collect()
}

/// The tokens of those who asked for the claim on a dead instance, as Redis
/// itself saw them.
async fn monitor_claims(redis: &RedisServer, crew: &mut Crew) -> Arc<Mutex<BTreeSet<String>>> {
    let mut stream = BufReader::new(TcpStream::connect(redis.address()).await.unwrap());
    stream.write_all(b"MONITOR\r\n").await.unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "+OK\r\n");
    let tokens = Arc::new(Mutex::new(BTreeSet::new()));
    let into = Arc::clone(&tokens);
    crew.add(async move {
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            // The keys of this script alone end with a lease, and only a call
            // of it ends with a token.
            let is_claim = line.contains(r#"claims" "wayleave:1:{i}:lease:"#) && !line.contains("epoch");
            let token = line.trim_end().rsplit('"').nth(1).filter(|_| is_claim);
            into.lock().extend(token.map(str::to_owned));
        }
    });
    tokens
}

/// M7: two survivors find the same dead instance at the same moment. Both ask
/// for the claim, one gets it, each leave is told once, and what Redis is asked
/// does not grow with what else it holds.
#[tokio::test]
async fn m7_two_cleaners_race_and_one_cleans() {
    const USERS: usize = 100;
    // Who waits with its claim for the other beats on the same connection: it must not
    // count as silent itself, nor take the connection for lost.
    const PATIENT: &str = "heartbeat = \"500ms\"\nttl = \"8s\"\nsweep = \"1s\"\n";
    let redis = RedisServer::start().await;
    redis.command(&["DEBUG", "POPULATE", "100000", "other"]).await;
    let mut crew = Crew::default();
    let claims = monitor_claims(&redis, &mut crew).await;
    let (mut proxies, mut cleaners) = (Vec::new(), Vec::new());
    for name in ["b", "c"] {
        let proxy = FaultProxy::start(redis.address()).await;
        let bus = format!("url = \"{}\"\ntimeout = \"20s\"", proxy.url());
        cleaners.push(gateway(&bus, name, PATIENT).await);
        proxies.push(proxy);
    }
    let rooms = rooms(40);
    let watchers = [member(&cleaners[0].url(), "", &rooms).await, member(&cleaners[1].url(), "", &rooms).await];
    let watchers = watchers.map(Listener::of);
    let mut speaker = cleaners[0].client().await;
    let before = ids(&redis).await;
    let mut a = Instance::start(&format!("[cluster]\n{PATIENT}\n{ROOMS}"), Some(&redis.url()), "a").await;
    a.ready().await;
    let id = ids(&redis).await.into_iter().find(|id| !before.contains(id)).unwrap();
    let (mut users, mut expected) = (Vec::new(), Vec::new());
    for n in 0..USERS {
        let mine: Vec<_> = (0..4).map(|k| rooms[(n + k * 7) % 40].clone()).collect();
        expected.extend(mine.iter().flat_map(|room| [format!("+u{n:03} {room}"), format!("-u{n:03} {room}")]));
        users.push(member(&a.url(), &format!("u{n:03}"), &mine).await);
    }
    expected.sort();
    redis.command(&["CONFIG", "RESETSTAT"]).await;
    // Of the others' calls only a claim names the lease of the dead one.
    let claim = format!("wayleave:1:{{i}}:lease:{id}\r\n");
    proxies.iter().for_each(|proxy| proxy.hold_from(claim.as_bytes()));
    a.kill();
    for proxy in &proxies {
        eventually("it asks for the claim", || proxy.n_open(Which::Caught) == 1).await;
    }
    assert_eq!(claims.lock().len(), 0, "neither has reached Redis");
    proxies.iter().for_each(FaultProxy::heal);
    let healed = Instant::now();
    let swept = || cleaners.iter().map(|it| it.metric("wayleave_sweeps_total{reason=\"done\"}")).sum::<f64>();
    eventually("somebody has cleaned up", || swept() >= 1.0).await;
    let took = healed.elapsed();
    for watcher in &watchers {
        eventually("all leaves are told", || watcher.comings().len() >= expected.len()).await;
    }
    eventually("both have asked", || claims.lock().len() == 2).await;
    assert!(redis.info("commandstats").await.keys().all(|key| !key.ends_with("scan") && !key.ends_with("keys")));
    assert!(redis.keys_containing(&id).await.iter().all(|key| key.contains("cleaned")), "no key names it");
    println!("m7: both asked for the claim; {} leaves told once; cleaned within {took:?}", expected.len() / 2);
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(cleaners.iter().map(|it| it.metric("wayleave_deposed_total")).sum::<f64>(), 0.0);
    // Nothing more is told: this comes behind all that was.
    speaker.publish("live:0", json!("end")).await;
    for watcher in &watchers {
        eventually("the end is heard", || watcher.has("live:0", &json!("end"))).await;
        assert_eq!(watcher.comings(), expected);
    }
    assert_eq!((swept(), claims.lock().len()), (1.0, 2), "one cleaned up");
    drop(users);
}

/// Who is in a room, by connection.
async fn present(client: &mut TestClient, room: &str) -> BTreeSet<String> {
    let Ok(reply) = client.try_ask("presence", json!({ "channel": room }), PATIENCE).await else {
        return BTreeSet::new();
    };
    reply["presence"]["presence"].as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default()
}

/// M8: after a false death all instances see the same again, under a new
/// generation of the one that was silent, and what it no longer holds is gone.
#[tokio::test]
async fn m8_after_a_false_death_all_see_the_same_under_a_new_generation() {
    let redis = RedisServer::start().await;
    let [mut a] = instances(&redis, ["a"]).await;
    let old = only_id(&redis).await;
    let [b, c] = instances(&redis, ["b", "c"]).await;
    let rooms = rooms(6);
    let mut askers = Vec::new();
    for instance in [&a, &b, &c] {
        askers.push(member(&instance.url(), "", &rooms).await);
    }
    let mut expected = vec![askers.iter().map(|asker| asker.id.clone()).collect::<BTreeSet<_>>(); rooms.len()];
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    for n in 0..18 {
        let client = member(&a.url(), &format!("u{n}"), &rooms[n % 6..=n % 6]).await;
        if n % 3 == 0 {
            go.push(client);
        } else {
            expected[n % 6].insert(client.id.clone());
            stay.push(Listener::of(client));
        }
    }
    a.stop();
    until("it is taken for dead", async || !ids(&redis).await.contains(&old)).await;
    for room in &rooms {
        until("its members are gone", async || stats(&mut askers[1], room).await == Some((2, 1))).await;
    }
    // These break off while it cannot see it.
    go.drain(..).for_each(TestClient::abort);
    a.cont();
    let resumed = Instant::now();
    for (room, expected) in rooms.iter().zip(&expected) {
        for asker in &mut askers {
            until("all see the same", async || present(asker, room).await == *expected).await;
        }
    }
    let took = resumed.elapsed();
    println!("m8: all see the same {took:?} after it went on");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let now = ids(&redis).await;
    let (instance, _) = old.split_once('.').unwrap();
    let new: Vec<_> = now.iter().filter(|id| id.starts_with(instance)).collect();
    assert!(new.len() == 1 && *new[0] != old && now.len() == 3, "{old} and then {now:?}");
    // Each room's message reaches exactly those who stayed, once.
    for (n, room) in rooms.iter().enumerate() {
        askers[1].publish(room, json!(n)).await;
    }
    for listener in &stay {
        let heard = || (0..6).map(|n| listener.numbers(&rooms[n]).len()).sum::<usize>();
        eventually("the message has come", || heard() >= 1).await;
        assert_eq!((heard(), listener.closed()), (1, None));
    }
    until("no room or user names the old one", async || {
        redis.keys_containing(&old).await.iter().all(|key| key.contains("cleaned"))
    })
    .await;
}

/// A6: with the timings that an operator gets who sets none.
#[tokio::test]
async fn a6_with_default_timings_a_killed_instance_is_gone_within_its_bound() {
    let redis = RedisServer::start().await;
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        let instance = Instance::start(ROOMS, Some(&redis.url()), name).await;
        instance.ready().await;
        all.push(instance);
    }
    let config = all[0].config();
    let has = |line: &str| config.lines().any(|it| it == line);
    assert!(has("heartbeat = \"2s\"") && has("ttl = \"6s\"") && has("sweep = \"1s\""), "{config}");
    let room = ["live:1".to_owned()];
    let _doomed = member(&all[0].url(), "ann", &room).await;
    let mut askers = [member(&all[1].url(), "bob", &room).await, member(&all[2].url(), "cat", &room).await];
    for asker in &mut askers {
        until("all are there", async || stats(asker, "live:1").await == Some((3, 3))).await;
    }
    let pauses = Pauses::watch();
    all[0].kill();
    let killed = Instant::now();
    for asker in &mut askers {
        until("the dead one is gone", async || stats(asker, "live:1").await == Some((2, 2))).await;
    }
    let took = killed.elapsed();
    println!("a6: gone everywhere after {took:?}");
    assert!(took < Duration::from_millis(8200) + pauses.grace(Duration::from_secs(6)), "{took:?}");
    assert!(took > Duration::from_secs(4), "it was not silent for long enough: {took:?}");
}
