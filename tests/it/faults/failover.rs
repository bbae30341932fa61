//! Another Redis takes over: a replica that lacks something, by hand and by
//! Sentinels.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Crew, FAST, finish, follow, gateway, is_ready, member, publish, stats, trouble};
use crate::support::{
    NoAnswer, PATIENCE, TestClient, TestGateway,
    checker::Log,
    eventually,
    proxy::RoundRobin,
    redis::{RedisServer, Sentinels},
    until,
};

/// Joins a room as one that has seen up to `offset` of `epoch`.
async fn resume(client: &mut TestClient, room: &str, epoch: &str, offset: u64) -> Value {
    let body = json!({ "channel": room, "recover": true, "epoch": epoch, "offset": offset });
    let reply = client.ask("subscribe", body).await;
    assert!(reply.get("subscribe").is_some(), "{reply}");
    reply["subscribe"].clone()
}

/// A Redis that is replaced by its replica once: returns how many clients were
/// told what is true.
async fn lagging(run: u64) -> usize {
    const ROOMS: u64 = 10;
    let mut master = RedisServer::start().await;
    let replica = RedisServer::replica_of(&master).await;
    let address = RoundRobin::start(vec![master.address()]).await;
    let a = gateway(&format!("url = \"redis://{}\"", address.addr()), "a", FAST).await;
    let mut client = a.client().await;
    let rooms: Vec<_> = (0..ROOMS).map(|n| format!("kept:{n}")).collect();
    let mut epochs = Vec::new();
    let common = |n: u64| 3 + (n + run) % 8;
    for (room, n) in rooms.iter().zip(0..) {
        let mut reader = a.client().await;
        epochs.push(reader.ask("subscribe", json!({ "channel": room })).await["subscribe"]["epoch"].clone());
        for n in 1..=common(n) {
            client.publish(room, json!(format!("both {n}"))).await;
        }
    }
    let offset = async |server: &RedisServer| server.info("replication").await["master_repl_offset"].clone();
    until("the replica has caught up", async || offset(&master).await == offset(&replica).await).await;
    // From here on it lags for ever: that it is promoted now is not seen yet.
    replica.promote().await;
    for (room, n) in rooms.iter().zip(0..) {
        for n in common(n) + 1..=common(n) + 3 {
            client.publish(room, json!(format!("lost {n}"))).await;
        }
    }
    address.set(vec![replica.address()]);
    master.kill();
    // It may be well again between two looks at its trouble.
    eventually("it notices", || a.metric("wayleave_bus_links_lost_total{reason=\"subscribe\"}") > 0.0).await;
    is_ready(&a).await;
    let mut n_right = 0;
    for ((room, epoch), n) in rooms.iter().zip(&epochs).zip(0..) {
        let top = common(n) + 5;
        for n in common(n) + 1..=top {
            until("it is taken", async || {
                let body = json!({ "channel": room, "data": format!("new {n}") });
                client.ask("publish", body).await.get("publish").is_some()
            })
            .await;
        }
        let epoch = epoch.as_str().unwrap();
        let mut knows_lost = a.client().await;
        let told = resume(&mut knows_lost, room, epoch, common(n) + 3).await;
        assert_eq!(told["recovered"], json!(false), "it knows three that are lost: {told}");
        let mut knows_common = a.client().await;
        let told = resume(&mut knows_common, room, epoch, common(n)).await;
        assert_eq!(told["recovered"], json!(true), "{told}");
        let missed: Vec<_> = told["publications"].as_array().unwrap().iter().map(|it| it["data"].clone()).collect();
        let expected: Vec<_> = (common(n) + 1..=top).map(|n| json!(format!("new {n}"))).collect();
        assert_eq!(missed, expected);
        n_right += 2;
    }
    n_right
}

#[tokio::test]
async fn r9_a_failover_that_loses_messages_is_told_to_those_who_had_them() {
    let mut n_right = 0;
    for run in 0..4 {
        n_right += Box::pin(lagging(run)).await;
    }
    println!("r9: {n_right} of {} clients were told what is true, over 4 failovers", 4 * 20);
}

#[tokio::test]
#[ignore = "the long form of r9"]
async fn r9_twenty_failovers() {
    let mut n_right = 0;
    for run in 0..20 {
        n_right += Box::pin(lagging(run)).await;
    }
    println!("r9: {n_right} of {} clients were told what is true, over 20 failovers", 20 * 20);
}

/// A connected member that was there all the time is told too.
#[tokio::test]
async fn r9_a_member_that_stayed_is_told_of_what_is_lost() {
    let mut master = RedisServer::start().await;
    let replica = RedisServer::replica_of(&master).await;
    let address = RoundRobin::start(vec![master.address()]).await;
    let a = gateway(&format!("url = \"redis://{}\"", address.addr()), "a", FAST).await;
    let mut stays = member(&a.url(), "ann", &["kept:1".to_owned(), "live:1".to_owned()]).await;
    stays.publish("kept:1", json!(1)).await;
    assert_eq!(stays.heard("kept:1").await, json!(1));
    let offset = async |server: &RedisServer| server.info("replication").await["master_repl_offset"].clone();
    until("the replica has caught up", async || offset(&master).await == offset(&replica).await).await;
    replica.promote().await;
    stays.publish("kept:1", json!("lost")).await;
    assert_eq!(stays.heard("kept:1").await, "lost");
    address.set(vec![replica.address()]);
    master.kill();
    // It may be well again between two looks at its trouble.
    eventually("it notices", || a.metric("wayleave_bus_links_lost_total{reason=\"subscribe\"}") > 0.0).await;
    is_ready(&a).await;
    let told = loop {
        match stays.try_push(PATIENCE).await {
            Ok(push) if push.get("unsubscribe").is_some() => break push,
            Ok(_) => {}
            Err(error) => panic!("{error:?}"),
        }
    };
    assert_eq!((&told["channel"], &told["unsubscribe"]["code"]), (&json!("kept:1"), &json!(2500)), "{told}");
    // Its presence is whole: what the replica lacked is registered again.
    until("it is registered", async || stats(&mut stays, "live:1").await == Some((1, 1))).await;
}

async fn with_sentinels(sentinels: &Sentinels, name: &str) -> TestGateway {
    let bus = format!("mode = \"sentinel\"\nnodes = {:?}\nmaster = {:?}", sentinels.urls(), sentinels.master_name());
    gateway(&bus, name, FAST).await
}

#[tokio::test]
async fn r10_sentinels_fail_over_and_nothing_is_lost_silently() {
    let mut master = RedisServer::start().await;
    let _replica = RedisServer::replica_of(&master).await;
    let sentinels = Sentinels::start(&master, 3).await;
    let (a, b) = (with_sentinels(&sentinels, "a").await, with_sentinels(&sentinels, "b").await);
    let urls = [a.url(), b.url()];
    let log = Log::new();
    log.recoverable("kept:1");
    let mut crew = Crew::default();
    for (n, name) in ["x", "y"].into_iter().enumerate() {
        crew.add(follow(vec![urls[n].clone()], name.to_owned(), "kept:1".to_owned(), log.clone()));
        let pause = Duration::from_millis(10);
        crew.add(publish(vec![urls[n].clone()], format!("from {name}"), "kept:1".to_owned(), log.clone(), pause));
    }
    let mut asker = member(&b.url(), "ann", &["live:1".to_owned()]).await;
    let _other = member(&a.url(), "bob", &["live:1".to_owned()]).await;
    eventually("it flows", || log.n_received("x") > 50 && log.n_received("y") > 50).await;
    master.kill();
    let killed = Instant::now();
    eventually("it is noticed", || trouble(&a).is_some() && trouble(&b).is_some()).await;
    let mut probe = a.client().await;
    let code = match probe.try_ask("publish", json!({ "channel": "kept:2", "data": 1 }), PATIENCE).await {
        Ok(reply) if reply.get("publish").is_none() => reply["error"]["code"].as_u64().unwrap(),
        Err(NoAnswer::Late) => panic!("no answer"),
        other => panic!("accepted by nobody: {other:?}"),
    };
    assert!(code == 100 || code == 108, "{code}");
    is_ready(&a).await;
    is_ready(&b).await;
    println!("r10: without a master for {:?}", killed.elapsed());
    let n = (log.n_received("x"), log.n_received("y"));
    eventually("it flows again", || log.n_received("x") > n.0 + 50 && log.n_received("y") > n.1 + 50).await;
    until("all are there", async || stats(&mut asker, "live:1").await == Some((2, 2))).await;
    // No more from the senders; the receivers stay.
    crew.0[1].abort();
    crew.0[3].abort();
    finish(&log, &urls[0], "kept:1", &["x", "y"]).await;
    log.check().assert_honest();
}
