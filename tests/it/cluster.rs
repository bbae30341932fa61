//! Several instances on one real Redis, in this process.

use serde_json::{Value, json};

use crate::support::{TestClient, TestGateway, eventually, redis::RedisServer};

/// Rooms of every kind.
pub const ROOMS: &str = r#"
[[rooms]]
match = "live:*"
publish = "members"
presence = true
join_leave = "users"
[[rooms]]
match = "plain:*"
publish = "anyone"
[[rooms]]
match = "kept:*"
publish = "anyone"
presence = true
history = { size = 100, ttl = "5m" }
recovery = true
"#;

/// Gateways on one Redis, with these rooms and more config.
pub async fn gateways<const N: usize>(redis: &RedisServer, more: &str) -> [TestGateway; N] {
    let mut all = Vec::new();
    for n in 0..N {
        all.push(gateway(&redis.url(), &format!("g{n}"), more).await);
    }
    all.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
}

/// One gateway that is ready.
pub async fn gateway(url: &str, name: &str, more: &str) -> TestGateway {
    let config = format!("{more}\n[bus]\nkind = \"redis\"\nurl = \"{url}\"\n[cluster]\nname = \"{name}\"\n{ROOMS}");
    let gateway = TestGateway::start(&config).await;
    let router = std::sync::Arc::clone(gateway.gateway.router());
    eventually("the instance is ready", || router.cluster.as_ref().unwrap().trouble().is_none()).await;
    gateway
}

/// The offset and data of the next publication.
async fn publication(client: &mut TestClient) -> (u64, Value) {
    loop {
        let push = client.push().await;
        if let Some(publication) = push.get("pub") {
            return (publication["offset"].as_u64().unwrap_or(0), publication["data"].clone());
        }
    }
}

#[tokio::test]
async fn a_message_reaches_members_on_every_instance_once() {
    let redis = RedisServer::start().await;
    let [a, b, c] = gateways::<3>(&redis, "").await;
    let (mut on_a, mut on_b, mut on_c) = (a.client().await, b.client().await, c.client().await);
    for client in [&mut on_a, &mut on_b, &mut on_c] {
        client.join("plain:1").await;
    }
    for n in 0..100 {
        on_a.publish("plain:1", json!(n)).await;
    }
    for client in [&mut on_a, &mut on_b, &mut on_c] {
        for n in 0..100 {
            assert_eq!(client.heard("plain:1").await, json!(n));
        }
        client.heard_nothing().await;
    }
}

/// R7.
#[tokio::test]
async fn r7_an_acknowledged_join_hears_every_later_publish() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, "[limits]\ncommands_burst = 100000\ncommands_per_second = 100000").await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    for n in 0..1000 {
        let room = format!("plain:{n}");
        on_a.join(&room).await;
        on_b.publish(&room, json!(n)).await;
        assert_eq!(on_a.heard(&room).await, json!(n));
        on_a.ask("unsubscribe", json!({ "channel": room })).await;
    }
}

#[tokio::test]
async fn a_room_with_history_has_one_order_and_recovers_anywhere() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, "").await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    let joined = on_a.ask("subscribe", json!({ "channel": "kept:1" })).await;
    let epoch = joined["subscribe"]["epoch"].as_str().unwrap().to_owned();
    assert_eq!(joined["subscribe"]["recoverable"], json!(true), "{joined}");
    on_b.join("kept:1").await;
    for n in 1..=20 {
        let from = if n % 2 == 0 { &mut on_a } else { &mut on_b };
        from.publish("kept:1", json!(n)).await;
    }
    for client in [&mut on_a, &mut on_b] {
        for n in 1..=20 {
            assert_eq!(publication(client).await, (n, json!(n)));
        }
    }
    let mut back = b.client().await;
    let recover = json!({ "channel": "kept:1", "recover": true, "epoch": epoch, "offset": 15 });
    let joined = &back.ask("subscribe", recover).await["subscribe"];
    assert_eq!((&joined["recovered"], &joined["offset"]), (&json!(true), &json!(20)), "{joined}");
    let missed: Vec<_> = joined["publications"].as_array().unwrap().iter().map(|p| p["data"].clone()).collect();
    assert_eq!(missed, [16, 17, 18, 19, 20].map(|n| json!(n)));
    on_a.publish("kept:1", json!(21)).await;
    assert_eq!(publication(&mut back).await, (21, json!(21)));
}

#[tokio::test]
async fn presence_is_of_all_instances_and_users_come_and_go_once() {
    let redis = RedisServer::start().await;
    let [a, b, c] = gateways::<3>(&redis, "").await;
    let mut watcher = c.client().await;
    watcher.join("live:1").await;
    let mut phone = a.user("ann").await;
    phone.join("live:1").await;
    let push = watcher.push().await;
    assert_eq!((&push["join"]["info"]["user"], &push["channel"]), (&json!("ann"), &json!("live:1")), "{push}");
    let mut laptop = b.user("ann").await;
    laptop.join("live:1").await;
    let stats = watcher.ask("presence_stats", json!({ "channel": "live:1" })).await;
    assert_eq!(stats["presence_stats"], json!({ "num_clients": 3, "num_users": 2 }));
    let members = watcher.ask("presence", json!({ "channel": "live:1" })).await;
    assert_eq!(members["presence"]["presence"].as_object().unwrap().len(), 3);
    phone.leave().await;
    eventually("the phone is gone", || redis_members(&a) == 0).await;
    watcher.heard_nothing().await;
    laptop.leave().await;
    let push = watcher.push().await;
    assert_eq!(push["leave"]["info"]["user"], json!("ann"), "{push}");
    watcher.heard_nothing().await;
}

fn redis_members(gateway: &TestGateway) -> usize {
    gateway.hub().n_connections()
}
