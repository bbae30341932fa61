//! Everything at once, by a seed: `make chaos SECONDS=60 SEED=1`.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Crew, FAST, ROOMS, Random, finish, follow, publish, stats};
use crate::support::{
    NoAnswer, PATIENCE, TestClient,
    checker::Log,
    instance::Instance,
    proxy::{Direction, FaultProxy, Which},
    redis::RedisServer,
    token, until,
};

const INSTANCES: usize = 3;

/// In which rooms it is looked for losses.
const KEPT: [&str; 3] = ["kept:1", "kept:2", "kept:3"];

/// Users that are in `live:1` as long as somebody lets them in.
const USERS: usize = 9;

/// The same in a live room: what it misses while it is away is lost to it.
async fn follow_live(urls: Vec<String>, name: String, room: String, log: Log) {
    for n in 0.. {
        if let Ok(mut client) = TestClient::try_connect(&urls[n % urls.len()], json!({}), PATIENCE).await {
            let reply = client.try_ask("subscribe", json!({ "channel": room }), PATIENCE).await;
            if reply.is_ok_and(|reply| reply.get("subscribe").is_some()) {
                log.joined(&name, &room);
                while let Ok(push) | Err(Some(push)) = next(&mut client).await {
                    log.received(&name, &push["pub"]["data"]);
                }
                log.left(&name, &room);
            }
            client.leave().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Err(None): it is over.
async fn next(client: &mut TestClient) -> Result<serde_json::Value, Option<serde_json::Value>> {
    match client.try_push(Duration::from_secs(3600)).await {
        Ok(push) => Ok(push),
        Err(NoAnswer::Late) => Err(Some(json!({}))),
        Err(NoAnswer::Closed(..)) => Err(None),
    }
}

/// A user that wants to be in a room.
async fn attend(urls: Vec<String>, user: String) {
    for n in 0.. {
        let hello = json!({ "token": token(&json!({ "sub": user })) });
        if let Ok(mut client) = TestClient::try_connect(&urls[n % urls.len()], hello, PATIENCE).await {
            let mut is_in = false;
            while !is_in {
                match client.try_ask("subscribe", json!({ "channel": "live:1" }), PATIENCE).await {
                    Ok(reply) => is_in = reply.get("subscribe").is_some(),
                    Err(_) => break,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            while let Ok(_) | Err(Some(_)) = next(&mut client).await {}
            client.leave().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is under test and can be harmed.
struct Rig {
    redis: RedisServer,
    proxies: Vec<FaultProxy>,
    instances: Vec<Instance>,
    random: Random,
}

impl Rig {
    async fn start(seed: u64) -> Self {
        let redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
        let (mut proxies, mut instances) = (Vec::new(), Vec::new());
        for n in 0..INSTANCES {
            proxies.push(FaultProxy::start(redis.address()).await);
            let config = format!("[cluster]\n{FAST}\n{ROOMS}");
            instances.push(Instance::start(&config, Some(&proxies[n].url()), &format!("i{n}")).await);
        }
        for instance in &instances {
            instance.ready().await;
        }
        // Neighbouring seeds begin alike.
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..16 {
            random.next(2);
        }
        Self { redis, proxies, instances, random }
    }

    /// Does one harm, and undoes what does not pass by itself. Returns its name.
    async fn harm(&mut self) -> String {
        let one = self.random.next(INSTANCES as u64) as usize;
        let for_ms = 200 + self.random.next(3_000);
        let pass = tokio::time::sleep(Duration::from_millis(for_ms));
        let (instance, proxy) = (&mut self.instances[one], &self.proxies[one]);
        let what = match self.random.next(12) {
            0 => {
                instance.kill();
                pass.await;
                instance.restart().await;
                "kill -9 of an instance"
            }
            1 => {
                instance.terminate().await;
                instance.restart().await;
                "SIGTERM of an instance"
            }
            2 => {
                instance.stop();
                pass.await;
                instance.cont();
                "SIGSTOP of an instance"
            }
            3 => {
                self.redis.stop();
                pass.await;
                self.redis.cont();
                "SIGSTOP of Redis"
            }
            4 => {
                self.redis.kill();
                pass.await;
                self.redis.restart().await;
                "kill -9 of Redis"
            }
            5 => {
                let _gone = self.redis.try_command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
                "all subscribers killed"
            }
            6 => {
                let _gone = self.redis.try_command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
                "all other connections killed"
            }
            7 => {
                proxy.cut();
                pass.await;
                proxy.heal();
                "a link cut"
            }
            8 => {
                proxy.freeze(Direction::Both);
                pass.await;
                proxy.heal();
                "a link frozen"
            }
            9 => {
                proxy.freeze_only(Which::Subscribers, Direction::ToClient);
                pass.await;
                proxy.heal();
                "a subscriber frozen"
            }
            10 => {
                proxy.freeze_only(Which::Others, Direction::ToClient);
                pass.await;
                proxy.heal();
                "answers frozen"
            }
            _ => {
                let _away = self.redis.try_command(&["SCRIPT", "FLUSH"]).await;
                "scripts flushed"
            }
        };
        format!("{what} ({for_ms} ms, i{one})")
    }
}

/// Runs for so long, and prints what came of it in one line.
async fn run(seconds: u64, seed: u64) {
    let mut rig = Rig::start(seed).await;
    let urls: Vec<_> = rig.instances.iter().map(Instance::url).collect();
    let turned = |n: usize| [&urls[n % INSTANCES..], &urls[..n % INSTANCES]].concat();
    let (log, live) = (Log::new(), Log::new());
    let (mut senders, mut others) = (Crew::default(), Crew::default());
    let mut names = Vec::new();
    for (n, room) in KEPT.into_iter().enumerate() {
        log.recoverable(room);
        let pause = Duration::from_millis(10);
        for s in 0..2 {
            senders.add(publish(turned(n + s), format!("s{n}{s}"), room.to_owned(), log.clone(), pause));
        }
        for r in 0..3 {
            let name = format!("r{n}{r}");
            others.add(follow(turned(n + r), name.clone(), room.to_owned(), log.clone()));
            names.push((room, name));
        }
    }
    let pause = Duration::from_millis(10);
    senders.add(publish(turned(0), "s".to_owned(), "plain:1".to_owned(), live.clone(), pause));
    for n in 0..3 {
        others.add(follow_live(turned(n), format!("r{n}"), "plain:1".to_owned(), live.clone()));
    }
    for n in 0..USERS {
        others.add(attend(turned(n), format!("u{n}")));
    }
    let start = Instant::now();
    let (mut n_harms, mut story) = (0, String::new());
    while start.elapsed() < Duration::from_secs(seconds) {
        let pause = rig.random.next(1_500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let began = start.elapsed();
        let what = rig.harm().await;
        n_harms += 1;
        let _infallible = writeln!(story, "{began:>8.1?} {what}");
    }
    println!("{story}");
    let healed = Instant::now();
    for instance in &rig.instances {
        instance.ready().await;
    }
    let mut asker = TestClient::connect(&urls[0], json!({})).await;
    until("the asker is let in", async || {
        asker.ask("subscribe", json!({ "channel": "live:1" })).await.get("subscribe").is_some()
    })
    .await;
    let expected = (USERS as u64 + 1, USERS as u64 + 1);
    until("all who want are in, and nobody else", async || stats(&mut asker, "live:1").await == Some(expected)).await;
    let converged = healed.elapsed();
    drop(senders);
    for room in KEPT {
        let there: Vec<_> = names.iter().filter(|(it, _)| *it == room).map(|(_, name)| name.as_str()).collect();
        finish(&log, &urls[0], room, &there).await;
    }
    let kept = log.check();
    let passed = live.check();
    println!(
        "chaos: seed {seed}, {n_harms} faults in {seconds} s: sent {}, acked {}, delivered {}, lost {}, doubled {}, \
         reordered {}, told of gaps {}; live rooms: lost {}, doubled {}, reordered {}; converged {:.1} s after the last",
        kept.sent,
        kept.acked,
        kept.received,
        kept.lost_silent,
        kept.duplicated,
        kept.reorder_sender + kept.reorder_room,
        kept.gap_reported,
        passed.lost_acked,
        passed.duplicated,
        passed.reorder_sender,
        converged.as_secs_f64(),
    );
    kept.assert_honest();
    assert_eq!((0, 0), (passed.duplicated, passed.reorder_sender), "{}", passed.examples.join("\n"));
}

#[tokio::test]
async fn a_short_chaos_loses_nothing_silently() {
    run(8, 1).await;
}

#[tokio::test]
#[ignore = "as long as one likes: make chaos SECONDS=60 SEED=1"]
async fn chaos() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    run(number("SECONDS").unwrap_or(60), seed).await;
}
