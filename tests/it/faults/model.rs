//! Random doings against a model that is simple enough to be right.

use std::time::Duration;

use serde_json::json;

use super::{Listener, Random, gateway, gateways, member, stats, url};
use crate::support::{TestClient, eventually, instance::Instance, redis::RedisServer, until};

#[tokio::test]
async fn m2_members_are_as_a_model_says_on_every_instance() {
    const ROOMS: usize = 20;
    const CLIENTS: usize = 60;
    let redis = RedisServer::start().await;
    let all = gateways::<3>(&redis).await;
    let rooms: Vec<_> = (0..ROOMS).map(|n| format!("live:{n}")).collect();
    let mut askers = Vec::new();
    for instance in &all {
        askers.push(member(&instance.url(), "", &rooms).await);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        let url = all[n % 3].url();
        tasks.spawn(async move {
            let mut random = Random(n as u64 + 42);
            // Two devices of each user, on different instances.
            let mut client = member(&url, &format!("u{}", n / 2), &[]).await;
            let mut model = [false; ROOMS];
            for _ in 0..30 {
                let room = random.next(ROOMS as u64) as usize;
                let body = json!({ "channel": format!("live:{room}") });
                match random.next(20) {
                    // Its connection breaks.
                    0 => {
                        client.reconnect().await;
                        model = [false; ROOMS];
                    }
                    _ if model[room] => {
                        client.ask("unsubscribe", body).await;
                        model[room] = false;
                    }
                    _ => {
                        client.ask("subscribe", body).await;
                        model[room] = true;
                    }
                }
            }
            (n / 2, client, model)
        });
    }
    let mut clients: Vec<(usize, TestClient, [bool; ROOMS])> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        clients.push(done.unwrap());
    }
    for (n, room) in rooms.iter().enumerate() {
        let here: Vec<_> = clients.iter().filter(|(.., model)| model[n]).collect();
        let users: std::collections::BTreeSet<_> = here.iter().map(|(user, ..)| *user).collect();
        // Those who ask are there too, and count as one.
        let expected = (here.len() as u64 + 3, users.len() as u64 + 1);
        for asker in &mut askers {
            until("it is as the model says", async || stats(asker, room).await == Some(expected)).await;
            let reply = asker.ask("presence", json!({ "channel": room })).await;
            let present = reply["presence"]["presence"].as_object().unwrap();
            assert_eq!(present.len() as u64, expected.0);
            for (_, client, _) in &here {
                assert!(present.contains_key(&client.id), "{} is not in {room}", client.id);
            }
        }
    }
    drop(clients);
    for (asker, room) in askers.iter_mut().flat_map(|asker| [(asker, &rooms[3])]) {
        until("all are gone", async || stats(asker, room).await == Some((3, 1))).await;
    }
}

/// U8: however a user's devices come and go, others see it come and go in
/// turns.
#[tokio::test]
async fn u8_a_user_comes_and_goes_in_turns() {
    let redis = RedisServer::start().await;
    let all = gateways::<3>(&redis).await;
    let room = ["live:1".to_owned()];
    let watchers = [&all[0], &all[2]].map(crate::support::TestGateway::url);
    let watchers = [member(&watchers[0], "", &room).await, member(&watchers[1], "", &room).await].map(Listener::of);
    let mut random = Random(8);
    let mut devices = Vec::new();
    let mut edges = 0;
    for _ in 0..60 {
        if devices.len() < 4 && random.next(2) == 0 {
            edges += usize::from(devices.is_empty());
            devices.push(member(&all[random.next(3) as usize].url(), "ann", &room).await);
        } else if !devices.is_empty() {
            let device = devices.swap_remove(random.next(devices.len() as u64) as usize);
            device.leave().await;
            edges += usize::from(devices.is_empty());
            if devices.is_empty() {
                // An edge only if it has happened before the next device comes.
                eventually("it is told", || watchers.iter().all(|it| it.comings().len() == edges)).await;
            }
        }
    }
    for watcher in &watchers {
        eventually("every edge is told", || watcher.comings().len() == edges).await;
        let heard = watcher.heard.lock();
        let signs = heard.pushes.iter().filter_map(|(_, push)| super::coming(push));
        let signs: Vec<_> = signs.map(|coming| coming.starts_with('+')).collect();
        assert!(signs.chunks(2).all(|pair| pair[0] && !pair.get(1).copied().unwrap_or(false)), "{signs:?}");
    }
}

#[tokio::test]
async fn m4_a_lease_is_renewed_in_time() {
    let redis = RedisServer::start().await;
    let timings = "heartbeat = \"1s\"\nttl = \"4s\"\nsweep = \"500ms\"";
    let _a = gateway(&url(&redis), "a", timings).await;
    let lease = async || redis.keys_containing(":lease:").await;
    until("there is a lease", async || lease().await.len() == 1).await;
    let key = lease().await.remove(0);
    let (mut least, mut most) = (i64::MAX, 0);
    for _ in 0..600 {
        let left: i64 = redis::from_redis_value(redis.command(&["PTTL", &key]).await).unwrap();
        (least, most) = (least.min(left), most.max(left));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("m4: the lease of 4 s had between {least} and {most} ms left");
    assert!(least > 1_000 && most <= 4_000, "{least} {most}");
    let bad = format!("[cluster]\nheartbeat = \"2s\"\nttl = \"3s\"\n{}", super::ROOMS);
    let refused = Instance::refused(&bad, Some(&redis.url()), "b").await;
    assert!(refused.contains("must be at least twice `heartbeat`"), "{refused}");
}
