//! Clients that come, go and come back on another instance.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{FAST, Listener, Random, gateway, gateways, in_order, instances, member, stats, url};
use crate::support::{
    NoAnswer, PATIENCE, TestClient, TestGateway, eventually, instance::Instance, proxy::RoundRobin, redis::RedisServer,
    token, until,
};

/// What a client knows of a room with history.
#[derive(Debug, Clone, Default)]
struct Place {
    epoch: String,
    offset: u64,
}

/// Joins where it left off; returns the reply.
async fn resume(client: &mut TestClient, room: &str, place: &Place) -> Value {
    let body = json!({ "channel": room, "recover": true, "epoch": place.epoch, "offset": place.offset });
    let mut reply = client.ask("subscribe", body).await;
    assert!(reply.get("subscribe").is_some(), "{reply}");
    reply["subscribe"].take()
}

fn place(joined: &Value) -> Place {
    Place { epoch: joined["epoch"].as_str().unwrap().to_owned(), offset: joined["offset"].as_u64().unwrap_or(0) }
}

/// Offsets and data of what a join brought.
fn missed(joined: &Value) -> Vec<(u64, u64)> {
    let all = joined["publications"].as_array().into_iter().flatten();
    all.map(|it| (it["offset"].as_u64().unwrap(), it["data"].as_u64().unwrap())).collect()
}

/// M10, G3: instances are interchangeable. A client comes back thirty times
/// through a balancer that knows no stickiness, breaking off each time; it is in
/// its rooms again each time and has each message once.
#[tokio::test]
async fn m10_g3_thirty_reconnects_land_anywhere_and_are_restored() {
    const TIMES: u64 = 30;
    let redis = RedisServer::start().await;
    let all = gateways::<3>(&redis).await;
    let balancer = RoundRobin::start(all.iter().map(|it| it.gateway.address()).collect()).await;
    let mut speaker = member(&all[0].url(), "bob", &["live:1".to_owned()]).await;
    let mut client = member(&balancer.url(), "ann", &["live:1".to_owned()]).await;
    let mut now = place(&client.ask("subscribe", json!({ "channel": "kept:1" })).await["subscribe"]);
    let (mut next, mut landed) = (1, [0; 3]);
    for n in 0..TIMES {
        // One that it hears, and some while it is away.
        speaker.publish("kept:1", json!(next)).await;
        assert_eq!(client.heard("kept:1").await, json!(next));
        now.offset += 1;
        let away = n % 4;
        client.reconnect().await;
        for _ in 0..away {
            next += 1;
            speaker.publish("kept:1", json!(next)).await;
        }
        let here = all.iter().position(|it| it.hub().connections_of("ann").iter().any(|it| *it.id_text == *client.id));
        landed[here.expect("it is somewhere")] += 1;
        let joined = resume(&mut client, "kept:1", &now).await;
        assert_eq!(joined["recovered"], json!(true), "{joined}");
        let expected: Vec<_> = (now.offset + 1..=now.offset + away).map(|offset| (offset, offset)).collect();
        assert_eq!(missed(&joined), expected, "{n}");
        now = place(&joined);
        assert_eq!(now.offset, next);
        client.join("live:1").await;
        next += 1;
        // Her user is in the room once, by the new connection.
        until("the old one is gone", async || stats(&mut speaker, "live:1").await == Some((2, 2))).await;
        speaker.publish("live:1", json!(n)).await;
        assert_eq!(client.heard("live:1").await, json!(n));
    }
    println!("m10: {TIMES} reconnects on {landed:?}, {} messages, none missing or doubled", next - 1);
    assert!(landed.iter().all(|n| *n > 0), "{landed:?}");
    client.heard_nothing().await;
}

/// M12: a hundred clients join a room midway, want the newest fifty and then
/// all that follows: one run without a hole or a repetition.
#[tokio::test(flavor = "multi_thread")]
async fn m12_a_hundred_who_join_midway_see_one_run() {
    const N: u64 = 1_000;
    const LAST: u64 = 50;
    let redis = RedisServer::start().await;
    let all = gateways::<3>(&redis).await;
    let mut speaker = all[0].client().await;
    for n in 1..=LAST {
        speaker.publish("kept:1", json!(n)).await;
    }
    let speaking = tokio::spawn(async move {
        for n in LAST + 1..=N {
            speaker.publish("kept:1", json!(n)).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    let mut joining = JoinSet::new();
    for n in 0..100 {
        let url = all[n % 3].url();
        joining.spawn(async move {
            tokio::time::sleep(Duration::from_millis(15 * n as u64)).await;
            let mut client = TestClient::connect(&url, json!({})).await;
            let top = client.ask("subscribe", json!({ "channel": "kept:1" })).await["subscribe"].take();
            client.leave().await;
            let mut client = TestClient::connect(&url, json!({})).await;
            let mut from = place(&top);
            from.offset -= LAST;
            let joined = resume(&mut client, "kept:1", &from).await;
            assert_eq!(joined["recovered"], json!(true), "{joined}");
            let mut run = missed(&joined);
            let n_missed = run.len() as u64;
            assert!(n_missed >= LAST, "{n_missed}");
            while run.last().is_none_or(|(offset, _)| *offset < N) {
                let push = client.push().await;
                if let Some(it) = push.get("pub") {
                    run.push((it["offset"].as_u64().unwrap(), it["data"].as_u64().unwrap()));
                }
            }
            let expected: Vec<_> = (from.offset + 1..=N).map(|offset| (offset, offset)).collect();
            assert_eq!(run, expected);
            client.heard_nothing().await;
            // Whether there was a seam, and whether messages came while it was made.
            (N > from.offset + n_missed, n_missed > LAST)
        });
    }
    let (mut seams, mut moved) = (0, 0);
    while let Some(joined) = joining.join_next().await {
        let (is_seam, has_moved) = joined.unwrap();
        seams += u32::from(is_seam);
        moved += u32::from(has_moved);
    }
    speaking.await.unwrap();
    println!("m12: {seams} of 100 seams between history and live messages; the room moved on in {moved} of the joins");
    assert!(seams >= 90, "{seams}");
}

/// M13: a watcher on a third instance takes in who is there while fifty users
/// come and go on the others; with what it is told afterwards it knows the truth.
#[tokio::test(flavor = "multi_thread")]
async fn m13_a_snapshot_and_what_follows_are_the_truth_while_users_churn() {
    const CHURN: Duration = Duration::from_secs(3);
    let redis = RedisServer::start().await;
    let seen = "[[rooms]]\nmatch = \"seen:*\"\npublish = \"anyone\"\npresence = true\njoin_leave = true\n";
    let mut all: Vec<TestGateway> = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(gateway(&url(&redis), name, &format!("{FAST}\n{seen}")).await);
    }
    let room = "seen:1";
    let start = Instant::now();
    let mut users = JoinSet::new();
    for n in 0..50_u64 {
        let (url, mut random) = (all[(n % 2) as usize].url(), Random(n + 1));
        users.spawn(async move {
            let (mut joined, mut left) = (Vec::new(), BTreeSet::new());
            let mut client = member(&url, &format!("u{n}"), &[]).await;
            let mut is_in = false;
            while start.elapsed() < CHURN {
                if !is_in {
                    client.join(room).await;
                    joined.push(client.id.clone());
                    is_in = true;
                } else {
                    // A connection is in the room once, so that each coming and
                    // going has a name of its own.
                    left.insert(client.id.clone());
                    let next = member(&url, &format!("u{n}"), &[]).await;
                    match random.next(3) {
                        0 => drop(client.ask("unsubscribe", json!({ "channel": room })).await),
                        1 => std::mem::replace(&mut client, next).abort(),
                        _ => std::mem::replace(&mut client, next).leave().await,
                    }
                    is_in = false;
                    if left.contains(&client.id) {
                        client = member(&url, &format!("u{n}"), &[]).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(random.next(60))).await;
            }
            (client, joined, left)
        });
    }
    // It looks in the midst of it.
    tokio::time::sleep(CHURN / 4).await;
    let mut watcher = all[2].client().await;
    watcher.join(room).await;
    let snapshot = watcher.ask("presence", json!({ "channel": room })).await;
    let snapshot: BTreeSet<_> = snapshot["presence"]["presence"].as_object().unwrap().keys().cloned().collect();
    let watcher_id = watcher.id.clone();
    let watching = Listener::of(watcher);
    let (mut there, mut ever, mut gone) = (BTreeSet::from([watcher_id.clone()]), 0, BTreeSet::new());
    let mut still = Vec::new();
    while let Some(user) = users.join_next().await {
        let (client, joined, left) = user.unwrap();
        ever += joined.len();
        there.extend(joined.into_iter().filter(|id| !left.contains(id)));
        gone.extend(left);
        still.push(client);
    }
    let told = |kind: &str| {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for (_, push) in &watching.heard.lock().pushes {
            if let Some(id) = push[kind]["info"]["client"].as_str() {
                *counts.entry(id.to_owned()).or_default() += 1;
            }
        }
        counts
    };
    let replayed = || {
        let mut now = snapshot.clone();
        now.extend(told("join").into_keys());
        let left = told("leave");
        now.retain(|id| !left.contains_key(id));
        now
    };
    eventually("the snapshot and what followed are the truth", || replayed() == there).await;
    let mut asker = member(&all[0].url(), "", &[]).await;
    asker.join(room).await;
    eventually("the watcher is told of it", || told("join").contains_key(&asker.id)).await;
    let (joins, leaves) = (told("join"), told("leave"));
    println!(
        "m13: {ever} joins, {} leaves; the watcher began with {} and was told of {} and {}",
        gone.len(),
        snapshot.len(),
        joins.len(),
        leaves.len()
    );
    assert!(joins.values().chain(leaves.values()).all(|n| *n == 1), "told more than once");
    assert!(snapshot.len() > 5 && joins.len() > 100 && leaves.len() > 100);
    // Whom it knew to be there and is not, it was told of.
    assert!(snapshot.iter().chain(joins.keys()).all(|id| !gone.contains(id) || leaves.contains_key(id)));
    let now = asker.ask("presence", json!({ "channel": room })).await;
    let now: BTreeSet<_> = now["presence"]["presence"].as_object().unwrap().keys().cloned().collect();
    there.insert(asker.id.clone());
    assert_eq!(now, there, "and so says who joins now");
}

/// M17: what an instance held comes back elsewhere at once. Those that are told
/// of an orderly end are told that they may come back; those of a crash just
/// do. The clients here wait at random for up to twice as long each time, as
/// the official ones do.
#[tokio::test(flavor = "multi_thread")]
async fn m17_all_clients_of_an_instance_that_ends_are_back_elsewhere() {
    const N: usize = 300;
    let redis = RedisServer::start().await;
    let [mut a, b] = instances(&redis, ["a", "b"]).await;
    let balancer = RoundRobin::start(vec![a.addr()]).await;
    let room = ["live:1".to_owned()];
    let mut watcher = member(&b.url(), "", &room).await;
    let resident = Listener::of(member(&b.url(), "", &room).await);
    for is_crash in [false, true] {
        let mut clients = Vec::new();
        for _ in 0..N {
            clients.push(member(&balancer.url(), "", &room).await);
        }
        until("all are there", async || stats(&mut watcher, "live:1").await.is_some_and(|(n, _)| n as usize == N + 2))
            .await;
        balancer.set(vec![b.addr()]);
        let ended = Instant::now();
        if is_crash {
            a.kill();
        } else {
            a.terminate_soon();
        }
        let mut coming = JoinSet::new();
        for (n, mut client) in clients.into_iter().enumerate() {
            let (mut random, url) = (Random(n as u64 + 1), balancer.url());
            coming.spawn(async move {
                let end = loop {
                    match client.try_push(PATIENCE).await {
                        Ok(_) => {}
                        Err(end) => break end,
                    }
                };
                let mut attempts = Vec::new();
                for bound in (0..).map(|n| 200_u64 << u32::min(n, 5)) {
                    tokio::time::sleep(Duration::from_millis(random.next(bound))).await;
                    attempts.push(ended.elapsed());
                    if client.try_reconnect_to(&url, Duration::from_secs(5)).await.is_ok() {
                        break;
                    }
                }
                client.join("live:1").await;
                (end, attempts, client, ended.elapsed())
            });
        }
        let (mut attempts, mut back, mut last) = (Vec::new(), Vec::new(), Duration::ZERO);
        while let Some(came) = coming.join_next().await {
            let (end, tried, client, at) = came.unwrap();
            let NoAnswer::Closed(code, _) = end else { panic!("{end:?}") };
            // 3000 to 3499 says that it may come back.
            assert!(if is_crash { code == 0 } else { code == 3001 }, "{code}");
            attempts.extend(tried);
            back.push(client);
            last = last.max(at);
        }
        attempts.sort();
        let most = attempts.iter().map(|from| {
            attempts.iter().filter(|at| **at >= *from && **at < *from + Duration::from_millis(100)).count()
        });
        let how = if is_crash { "killed" } else { "ended" };
        println!(
            "m17: {how}: {N} back after {last:?} in {} attempts, at most {} in 100 ms",
            attempts.len(),
            most.max().unwrap()
        );
        assert!(last < Duration::from_secs(30), "{last:?}");
        until("each is there once", async || {
            stats(&mut watcher, "live:1").await.is_some_and(|(n, _)| n as usize == N + 2)
        })
        .await;
        watcher.publish("live:1", json!(is_crash)).await;
        for client in &mut back {
            assert_eq!(client.heard("live:1").await, json!(is_crash));
        }
        assert_eq!(resident.closed(), None);
        drop(back);
        if !is_crash {
            assert!(a.ended(PATIENCE).await.success());
            a.restart().await;
            a.ready().await;
            balancer.set(vec![a.addr()]);
            until("they have left", async || stats(&mut watcher, "live:1").await.is_some_and(|(n, _)| n == 2)).await;
        }
    }
}

/// G7: who moves to another instance has all of a room that keeps enough, and
/// is told of the hole where it does not. The instance left behind has ended.
#[tokio::test]
async fn g7_who_moves_resumes_elsewhere_or_is_told_of_the_gap() {
    let redis = RedisServer::start().await;
    let short = "[[rooms]]\nmatch = \"short:*\"\npublish = \"anyone\"\nhistory = { size = 10, ttl = \"5m\" }\n\
                 recovery = true\n";
    let config = format!("[cluster]\n{FAST}\n{short}\n{}", super::ROOMS);
    let mut all = Vec::new();
    for name in ["a", "b"] {
        all.push(Instance::start(&config, Some(&redis.url()), name).await);
    }
    for instance in &all {
        instance.ready().await;
    }
    let hello = json!({ "token": token(&json!({ "sub": "ann" })) });
    let mut client = all[0].client_with(hello).await;
    let mut speaker = all[1].client().await;
    let mut places = Vec::new();
    for room in ["kept:1", "short:1", "short:2"] {
        places.push((room, place(&client.ask("subscribe", json!({ "channel": room })).await["subscribe"])));
        speaker.publish(room, json!(0)).await;
        assert_eq!(client.heard(room).await, json!(0));
    }
    let elsewhere = all[1].url();
    let moving = async {
        let code = client.closed().await.0;
        client.try_reconnect_to(&elsewhere, PATIENCE).await.unwrap();
        code
    };
    let (status, code) = tokio::join!(all[0].terminate(), moving);
    assert!(status.success(), "{status}");
    assert_eq!(code, 3001);
    for n in 1..=30 {
        speaker.publish("kept:1", json!(n)).await;
        speaker.publish("short:1", json!(n)).await;
    }
    for n in 1..=10 {
        speaker.publish("short:2", json!(n)).await;
    }
    let mut outcomes = Vec::new();
    for (room, mut seen) in places {
        seen.offset += 1;
        let joined = resume(&mut client, room, &seen).await;
        let numbers: Vec<u64> = missed(&joined).iter().map(|(_, data)| *data).collect();
        if joined["recovered"] == json!(true) {
            let n = numbers.len() as u64;
            assert_eq!(numbers, (1..=n).collect::<Vec<_>>());
        }
        in_order(&numbers, 31);
        outcomes.push((room, joined["recovered"] == json!(true), numbers.len()));
        speaker.publish(room, json!(99)).await;
        assert_eq!(client.heard(room).await, json!(99));
    }
    println!("g7: {outcomes:?}");
    assert_eq!(outcomes[0], ("kept:1", true, 30));
    assert!(!outcomes[1].1, "the hole is told");
    assert_eq!(outcomes[2], ("short:2", true, 10));
}
