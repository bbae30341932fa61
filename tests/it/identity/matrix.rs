//! Row M15: every way into a room asks its plugins, whatever they answer.

use serde_json::{Value, json};

use crate::{
    api::result,
    cluster::gateway,
    support::{PATIENCE, TestClient, TestGateway, eventually, fixture, redis::RedisServer, token},
};

/// One way into the room `guarded:1`; true if it led in.
async fn try_way(gateway: &TestGateway, way: &str) -> (bool, Option<TestClient>) {
    let seen = json!({ "recover": true, "epoch": "e", "offset": 1 });
    let claims = json!({ "sub": "ada" });
    let is_in = |reply: &Value| reply.get("subscribe").is_some();
    match way {
        "join" => {
            let mut client = gateway.client_with(json!({ "token": token(&claims) })).await;
            let reply = client.ask("subscribe", json!({ "channel": "guarded:1" })).await;
            (is_in(&reply), Some(client))
        }
        "reconnect with recovery" => {
            let mut client = gateway.client_with(json!({ "token": token(&claims) })).await;
            client.reconnect().await;
            let mut ask = seen;
            ask["channel"] = json!("guarded:1");
            let reply = client.ask("subscribe", ask).await;
            (is_in(&reply), Some(client))
        }
        "resume" => {
            let hello = json!({ "token": token(&json!({ "sub": "ada", "channels": ["guarded:1"] })), "subs": { "guarded:1": seen } });
            let connected = TestClient::try_connect(&gateway.url(), hello, PATIENCE).await;
            (connected.is_ok(), connected.ok())
        }
        "by the server" => {
            let client = gateway.client_with(json!({ "token": token(&claims) })).await;
            let asked = json!({ "client": client.id, "channel": "guarded:1" });
            let reply = crate::api::call(gateway.gateway.address(), "subscribe", asked).await;
            (reply["result"]["connections"] == 1, Some(client))
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m15_no_way_into_a_room_leads_past_its_plugins() {
    const WAYS: [&str; 4] = ["join", "reconnect with recovery", "resume", "by the server"];
    for (plugin, kind, may) in [
        ("allow", "", true),
        ("deny", "", false),
        ("authorize-traps", "trap", false),
        ("authorize-loops", "timeout", false),
    ] {
        let redis = RedisServer::start().await;
        let path = fixture(plugin).display().to_string();
        let config = format!(
            "[api]\nkeys = [{{ name = \"backend\", key = \"a-key-of-the-tests\" }}]\n\
             [[rooms]]\nmatch = \"guarded:*\"\npresence = true\nhistory = {{ size = 10, ttl = \"5m\" }}\nrecovery = true\n\
             plugins = [\"p\"]\n[[plugins]]\nname = \"p\"\npath = {path:?}\ntimeout = \"10ms\"\n"
        );
        let gateway = gateway(&redis.url(), "g", &config).await;
        let registered = async || redis.command(&["HLEN", "wayleave:1:{r:guarded:1}:members"]).await;
        for (n, way) in WAYS.iter().enumerate() {
            let (is_in, client) = try_way(&gateway, way).await;
            assert_eq!(is_in, may, "{plugin}, {way}");
            let expected = usize::from(may);
            assert_eq!(gateway.hub().count("guarded:1"), (expected, expected), "{plugin}, {way}");
            assert_eq!(registered().await, redis::Value::Int(expected.try_into().unwrap()), "{plugin}, {way}");
            if !kind.is_empty() {
                let metric = format!(r#"wayleave_plugin_failures_total{{plugin="p",hook="authorize",kind="{kind}"}}"#);
                assert_eq!(gateway.metric(&metric), (n + 1) as f64, "{plugin}, {way}");
            }
            if may {
                result(gateway.gateway.address(), "disconnect", json!({ "user": "ada" })).await;
            }
            drop(client);
            eventually("nobody is there", || gateway.hub().n_connections() == 0).await;
            crate::support::until("nobody is registered", async || registered().await == redis::Value::Int(0)).await;
        }
    }
}
