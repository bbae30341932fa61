//! What plugins decide, and the gateway does.

use serde_json::json;

use crate::support::{TestGateway, fixture};

#[tokio::test(flavor = "multi_thread")]
async fn a_transform_passes_replaces_drops_or_refuses() {
    for (plugin, heard) in
        [("pass", json!(1)), ("replace", json!({ "replaced": true })), ("stamp-a", json!({ "stamp": "a" }))]
    {
        let gateway = TestGateway::with_plugin(plugin, "").await;
        let mut client = gateway.client().await;
        client.join("room:1").await;
        client.publish("room:1", json!(1)).await;
        let push = client.push().await;
        assert_eq!(push["pub"]["data"], heard, "{plugin}");
        assert_eq!(push["pub"]["tags"], json!({ "generation": "1", "plugins": "p@1" }));
    }
    let gateway = TestGateway::with_plugin("drop", "").await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    client.publish("room:1", json!(1)).await;
    client.heard_nothing().await;
    let gateway = TestGateway::with_plugin("refuse", "").await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    let reply = client.ask("publish", json!({ "channel": "room:1", "data": 1 })).await;
    assert_eq!(reply["error"], json!({ "code": 450, "message": "no" }));
    client.heard_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_admits_or_refuses() {
    let gateway = TestGateway::with_plugin("allow", "").await;
    gateway.client().await.join("room:1").await;
    let gateway = TestGateway::with_plugin("deny", "").await;
    let mut client = gateway.client().await;
    let code = client.refused("subscribe", json!({ "channel": "room:1" })).await;
    assert!((400..2000).contains(&code) || code == 103, "{code}");
    assert_eq!(gateway.hub().count("room:1"), (0, 0));
    client.join("free:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_reaches_a_user_on_all_devices() {
    let gateway = TestGateway::with_plugin("route-to-user", "").await;
    let (mut ada, mut phone, mut laptop) =
        (gateway.user("ada").await, gateway.user("bob").await, gateway.user("bob").await);
    ada.join("room:1").await;
    ada.publish("room:1", json!("hi bob")).await;
    assert_eq!(ada.heard("room:1").await, "hi bob");
    // Without personal rooms a user is sent a message that belongs to no room.
    for device in [&mut phone, &mut laptop] {
        assert_eq!(device.push().await, json!({ "message": { "data": "hi bob" } }));
        device.heard_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_answered_by_the_plugin_that_knows_it() {
    let gateway = TestGateway::with_callee("echo-call", "").await;
    let mut client = gateway.client().await;
    let reply = client.ask("rpc", json!({ "method": "echo", "data": { "a": [1, "ä"] } })).await;
    assert_eq!(reply["rpc"]["data"], json!({ "a": [1, "ä"] }));
    assert_eq!(client.refused("rpc", json!({ "method": "other" })).await, 104);
    client.say(r#"{"send":{"data":1}}"#).await;
    client.heard_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observers_actions_are_performed() {
    let gateway = TestGateway::with_plugin("observe-kick", "").await;
    let mut client = gateway.client().await;
    client.say(r#"{"id":9,"subscribe":{"channel":"room:1"}}"#).await;
    assert_eq!(client.closed().await, (4500, "kicked".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugins_store_is_shared_by_its_guests_and_kept_over_reloads() {
    let gateway = TestGateway::with_callee("counter-kv", "grants = [\"kv\"]").await;
    let mut client = gateway.client().await;
    for n in 1..=20 {
        assert_eq!(client.ask("rpc", json!({ "method": "count" })).await["rpc"]["data"], n);
    }
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    gateway.reload_with(&text.replace("grants", "timeout = \"50ms\"\ngrants")).await;
    assert_eq!(client.ask("rpc", json!({ "method": "count" })).await["rpc"]["data"], 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worn_guest_is_replaced() {
    let gateway = TestGateway::with_plugin("alloc-leak", "memory = \"1MiB\"\nrecycle_after = 1000").await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    let text = "x".repeat(10_000);
    for n in 0..150 {
        client.publish("room:1", json!([n, text])).await;
        assert_eq!(client.heard("room:1").await[0], n);
    }
    assert_eq!(gateway.metric(r#"wayleave_plugin_failures_total{plugin="p",hook="transform",kind="memory"}"#), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_of_a_room_run_in_its_order() {
    let plugins = |names: &str| {
        format!(
            "[[rooms]]\nmatch = \"r\"\npublish = \"members\"\nplugins = [{names}]\n\
             [[plugins]]\nname = \"a\"\npath = {:?}\n[[plugins]]\nname = \"b\"\npath = {:?}\n",
            fixture("stamp-a").display().to_string(),
            fixture("stamp-b").display().to_string()
        )
    };
    for (names, last) in [("\"a\", \"b\"", "b"), ("\"b\", \"a\"", "a")] {
        let gateway = TestGateway::start(&plugins(names)).await;
        let mut client = gateway.client().await;
        client.join("r").await;
        client.publish("r", json!(1)).await;
        assert_eq!(client.heard("r").await["stamp"], last);
    }
}
