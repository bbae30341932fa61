//! Clients whose networks come and go, and those who all come at once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::{FAST, ROOMS, member, stats};
use crate::support::{
    PATIENCE, TestGateway, fixture, instance::Instance, proxy::FaultProxy, redis::RedisServer, until,
};

/// Row M9: a client that does not answer any more is let go after a ping and the
/// time for its answer, and all instances tell of it once.
#[tokio::test]
async fn m9_a_client_that_stands_still_leaves_once_and_in_time() {
    let redis = RedisServer::start().await;
    let config = format!(
        "[server]\nping_interval = \"2s\"\npong_timeout = \"1s\"\n{ROOMS}[[rooms]]\nmatch = \"seen:*\"\npresence = true\n\
         join_leave = true\n"
    );
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        let instance = Instance::start(&config, Some(&redis.url()), name).await;
        instance.ready().await;
        all.push(instance);
    }
    // Those who watch answer their pings; nobody looks after the one that stands
    // still.
    let watching: Vec<_> = all
        .iter()
        .map(|instance| {
            let url = instance.url();
            tokio::spawn(async move {
                let mut watcher = member(&url, "watcher", &["seen:1".to_owned()]).await;
                let mut leaves = Vec::new();
                let until = Instant::now() + Duration::from_secs(7);
                while let Some(left) = until.checked_duration_since(Instant::now()) {
                    let frame = watcher.try_frame(left).await.unwrap_or_default();
                    if frame["push"]["leave"]["info"]["user"] == "still" {
                        leaves.push(Instant::now());
                    }
                }
                leaves
            })
        })
        .collect();
    let stands_still = member(&all[0].url(), "still", &["seen:1".to_owned()]).await;
    let since = Instant::now();
    for leaves in join_all(watching).await {
        let leaves = leaves.unwrap();
        assert_eq!(leaves.len(), 1);
        let took = (leaves[0] - since).as_secs_f64();
        // The first ping comes by lot within the interval.
        assert!((1.0..=4.2).contains(&took), "{took}");
    }
    assert_eq!(all[0].metric("wayleave_closes_total{code=\"3012\"}").await, 1.0);
    drop(stands_still);
}

/// Fault F15, in short: the network cuts off everybody again and again. Counts come
/// back to the truth, nobody seems to have gone within the grace, nothing grows.
#[tokio::test(flavor = "multi_thread")]
async fn f15_a_network_that_flaps_leaves_nothing_behind() {
    const N: usize = 100;
    let redis = RedisServer::start().await;
    let config = "[limits]\ncommands_per_second = 100000\ncommands_burst = 100000\n[[rooms]]\nmatch = \"r\"\npresence = true\n\
                  join_leave = \"users\"\npresence_grace = \"10s\"\n";
    let mut gateway = Instance::start(config, Some(&redis.url()), "a").await;
    gateway.ready().await;
    let proxy = FaultProxy::start(gateway.addr()).await;
    let url = format!("ws://{}/connection/websocket", proxy.addr());
    let mut watcher = gateway.client().await;
    watcher.join("r").await;
    let mut clients = Vec::new();
    for n in 0..N {
        clients.push(member(&url, &format!("u{n}"), &["r".to_owned()]).await);
    }
    until("all are there", async || stats(&mut watcher, "r").await.is_some_and(|(_, users)| users == N as u64 + 1))
        .await;
    let open = gateway.open_files();
    let mut memory = 0;
    for round in 0..8 {
        proxy.reset_all();
        clients = join_all(clients.into_iter().map(|mut client| {
            let url = url.clone();
            async move {
                let back = async || client.try_reconnect_to(&url, PATIENCE).await.is_ok();
                until("it is back", back).await;
                client.join("r").await;
                client
            }
        }))
        .await;
        if round == 1 {
            memory = gateway.resident_bytes();
        }
    }
    // The allocator gives back after a second, when it is asked for more.
    until("memory is as it was", async || {
        gateway.get("/metrics").await.unwrap();
        gateway.resident_bytes().saturating_sub(memory) < 4 << 20
    })
    .await;
    until("sockets are gone", async || gateway.metric("wayleave_sockets").await == N as f64 + 1.0).await;
    assert!(gateway.open_files() <= open + 5, "{} files, {open} before", gateway.open_files());
    // Joins of the beginning are all that the watcher was told.
    let mut told = 0;
    while let Some(frame) = watcher.try_frame(Duration::from_millis(200)).await {
        assert!(frame["push"].get("leave").is_none(), "{frame}");
        told += usize::from(frame["push"].get("join").is_some());
    }
    assert_eq!(told, N);
    // Those of before count until their grace is over.
    until("counts are the truth", async || stats(&mut watcher, "r").await == Some((N as u64 + 1, N as u64 + 1))).await;
    drop(clients);
}

/// Fault F16: all clients of an instance that was killed come to another one. It
/// takes them in no faster than it says, and those who were there go on.
#[tokio::test(flavor = "multi_thread")]
async fn f16_a_thundering_herd_is_let_in_at_a_pace_and_stops_nobody() {
    const N: usize = 400;
    let redis = RedisServer::start().await;
    let config = format!(
        "[cluster]\n{FAST}[limits]\nconnect_rate = \"100/1s\"\ncommands_per_second = 100000\ncommands_burst = 100000\n\
         [[rooms]]\nmatch = \"plain:*\"\npublish = \"anyone\"\n"
    );
    let mut dies = Instance::start(&config.replace("connect_rate", "# connect_rate"), Some(&redis.url()), "a").await;
    let stays = Instance::start(&config, Some(&redis.url()), "b").await;
    for instance in [&dies, &stays] {
        instance.ready().await;
    }
    let (mut from, mut to) = (stays.client().await, stays.client().await);
    to.join("plain:p").await;
    let mut herd = Vec::new();
    for _ in 0..N / 50 {
        herd.extend(join_all((0..50).map(|_| dies.client())).await);
    }
    dies.kill();
    let killed = Instant::now();
    let url = stays.url();
    let coming = join_all(herd.into_iter().map(|mut client| {
        let url = url.clone();
        tokio::spawn(async move {
            // As the libraries do, with a pause that grows and is drawn by lot.
            let mut pause = Duration::from_millis(50);
            while client.try_reconnect_to(&url, PATIENCE).await.is_err() {
                tokio::time::sleep(pause.mul_f64(0.5 + f64::from(client.lot()) / 255.0)).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            client
        })
    }));
    let mut worst = Duration::ZERO;
    let going_on = async {
        loop {
            let sent = Instant::now();
            from.publish("plain:p", json!(0)).await;
            to.heard("plain:p").await;
            worst = worst.max(sent.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let back = tokio::select! {
        back = coming => back,
        () = going_on => unreachable!(),
    };
    let took = killed.elapsed();
    println!("f16: {N} are back after {took:?}; the slowest message of the others took {worst:?}");
    assert_eq!(back.len(), N);
    // A hundred at once, a hundred more each second.
    assert!(took > Duration::from_millis(2_500) && took < Duration::from_secs(30), "{took:?}");
    assert!(worst < Duration::from_secs(3), "{worst:?}");
    assert!(stays.metric("wayleave_limited_total{limit=\"connect_rate\"}").await > 0.0);
}

/// Row W4: what a reload takes back is taken back from those who are in, on all
/// instances, and each leave is told once.
#[tokio::test(flavor = "multi_thread")]
async fn w4_who_would_not_be_let_in_any_more_is_taken_out() {
    let redis = RedisServer::start().await;
    let config = |plugin: &str, recheck: bool| {
        format!(
            "[bus]\nkind = \"redis\"\nurl = \"{}\"\n[[rooms]]\nmatch = \"room:*\"\npresence = true\njoin_leave = true\n\
             recheck = {recheck}\nplugins = [\"p\"]\n[[plugins]]\nname = \"p\"\npath = {:?}\n",
            redis.url(),
            fixture(plugin).display().to_string()
        )
    };
    let [a, b] = [TestGateway::start(&config("allow", true)).await, TestGateway::start(&config("allow", true)).await];
    let mut members = Vec::new();
    for gateway in [&a, &b] {
        until("it is ready", async || gateway.gateway.router().cluster.as_ref().unwrap().trouble().is_none()).await;
        for _ in 0..5 {
            let mut client = gateway.client().await;
            client.join("room:1").await;
            members.push(client);
        }
    }
    for gateway in [&a, &b] {
        let text = std::fs::read_to_string(gateway.file()).unwrap();
        let text = text.replace(&fixture("allow").display().to_string(), &fixture("deny").display().to_string());
        gateway.reload_with(&text).await;
    }
    let reloaded = Instant::now();
    for client in &mut members {
        loop {
            let push = client.push().await;
            if push.get("unsubscribe").is_some() {
                assert_eq!((&push["channel"], &push["unsubscribe"]["code"]), (&json!("room:1"), &json!(2000)));
                break;
            }
        }
    }
    assert!(reloaded.elapsed() < Duration::from_secs(5), "{:?}", reloaded.elapsed());
    until("nobody is in", async || a.hub().count("room:1").0 + b.hub().count("room:1").0 == 0).await;
    let cluster = a.gateway.router().cluster.clone().unwrap();
    until("nobody is registered", async || cluster.count("room:1").await.is_ok_and(|(all, _)| all == 0)).await;
    for client in &mut members {
        assert!(client.refused("subscribe", json!({ "channel": "room:1" })).await > 0);
    }
}
