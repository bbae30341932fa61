//! What clients and tenants must not learn of each other.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    api::{API, KEY, address, exchange, result},
    cluster::ROOMS,
    support::{
        TestClient, TestGateway, eventually, fixture, instance::Instance, plugin_config, redis::RedisServer, token,
        until,
    },
};

/// A reply without the number of its command.
async fn reply(client: &mut TestClient, method: &str, body: Value) -> String {
    let mut reply = client.ask(method, body).await;
    reply["id"] = json!(0);
    reply.to_string()
}

/// Row M14: who somebody is and where is for servers and plugins; clients see
/// it where the room's config or a plugin's admission says so.
#[tokio::test(flavor = "multi_thread")]
async fn m14_what_is_known_of_others_is_denied_unless_it_is_exposed() {
    // In zeros it allows with everything as configured; this grants presence.
    let text = std::fs::read_to_string(fixture("allow")).unwrap();
    let memory = "(memory (export \"memory\") 1)";
    assert!(text.contains(memory));
    let folder = tempfile::tempdir().unwrap();
    let granting = folder.path().join("grants-presence.wat");
    std::fs::write(&granting, text.replace(memory, &format!("{memory}\n    (data (i32.const 21) \"\\01\")"))).unwrap();
    let quiet =
        "[[rooms]]\nmatch = \"quiet:*\"\npublish = \"members\"\n[[rooms]]\nmatch = \"shown:*\"\nplugins = [\"p\"]\n";
    let gateway = TestGateway::start(&format!("{API}{quiet}{}", plugin_config(&granting, "", ""))).await;
    let claims = json!({ "sub": "ada", "info": { "email": "ada@example.com" } });
    let mut ada = gateway.client_with(json!({ "token": token(&claims) })).await;
    let mut bob = gateway.user("bob").await;
    for room in ["quiet:1", "shown:1"] {
        ada.join(room).await;
        bob.join(room).await;
    }
    for method in ["presence", "presence_stats", "history"] {
        let answer = reply(&mut bob, method, json!({ "channel": "quiet:1" })).await;
        assert!(answer.contains("\"code\":108") && !answer.contains("ada"), "{answer}");
    }
    for method in ["connections", "users", "members", "wayleave.connections"] {
        let answer = reply(&mut bob, "rpc", json!({ "method": method, "data": { "user": "ada" } })).await;
        assert!(answer.contains("\"code\":104"), "{answer}");
    }
    let shown = bob.ask("presence", json!({ "channel": "shown:1" })).await["presence"]["presence"].take();
    assert_eq!(shown[&ada.id]["conn_info"], json!({ "email": "ada@example.com" }), "{shown}");
    // The server sees it in either case.
    let known = result(address(&gateway), "connections", json!({ "user": "ada" })).await["connections"].take();
    assert_eq!(known[0]["info"], json!({ "email": "ada@example.com" }), "{known}");
    assert_eq!(known[0]["channels"], json!(["quiet:1", "shown:1"]));
}

/// Row T18: whoever has no right cannot tell rooms where somebody is from
/// empty ones and from such as never were.
#[tokio::test(flavor = "multi_thread")]
async fn t18_who_probes_without_right_learns_nothing() {
    let config = "[[rooms]]\nmatch = \"chat:*\"\npresence = true\njoin_leave = true\nhistory = { size = 9, ttl = \"1m\" }\n\
                  recovery = true\n[[rooms]]\nmatch = \"closed:*\"\njoin = \"nobody\"\npresence = true\n\
                  [limits]\ncommands_burst = 100000\ncommands_per_second = 100000\n";
    let gateway = TestGateway::start(&format!("{API}{config}")).await;
    let at = address(&gateway);
    let mut ada = gateway.user("ada").await;
    for n in (0..50).step_by(2) {
        ada.join(&format!("chat:{n}")).await;
        result(at, "publish", json!({ "channel": format!("chat:{n}"), "data": n })).await;
        result(at, "subscribe", json!({ "user": "ada", "channel": format!("closed:{n}") })).await;
    }
    let mut eve = gateway.user("eve").await;
    for method in ["presence", "presence_stats", "history", "publish", "subscribe", "unsubscribe"] {
        let mut answers = BTreeSet::new();
        for n in 0..50 {
            let kind = if method == "subscribe" { "closed" } else { "chat" };
            let body = json!({ "channel": format!("{kind}:{n}"), "data": 1, "limit": 9 });
            answers.insert(reply(&mut eve, method, body).await);
        }
        assert_eq!(answers.len(), 1, "{method}: {answers:?}");
        assert!(method == "unsubscribe" || answers.first().unwrap().contains("\"code\":103"), "{answers:?}");
    }
}

/// Row A14: two deployments on one Redis with prefixes of their own share
/// names of rooms and users, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a14_the_same_names_behind_two_prefixes_never_cross() {
    let redis = RedisServer::start().await;
    let start = async |prefix: &str| {
        let config = format!(
            "{API}[bus]\nkind = \"redis\"\nurl = \"{}\"\nprefix = \"{prefix}\"\n[cluster]\nname = \"{prefix}\"\n{ROOMS}",
            redis.url()
        );
        let gateway = TestGateway::start(&config).await;
        let router = std::sync::Arc::clone(gateway.gateway.router());
        eventually("it is ready", || router.cluster.as_ref().unwrap().trouble().is_none()).await;
        gateway
    };
    // One that begins like the other, and two instances of the first.
    let (a, a2, b) = (start("a").await, start("a").await, start("ab").await);
    let (mut on_a, mut on_a2, mut on_b) = (a.user("ada").await, a2.user("ada").await, b.user("ada").await);
    for client in [&mut on_a, &mut on_a2, &mut on_b] {
        for room in ["plain:1", "live:1", "kept:1"] {
            client.join(room).await;
        }
    }
    let (at, at_b) = (address(&a), address(&b));
    for room in ["plain:1", "kept:1"] {
        result(at, "publish", json!({ "channel": room, "data": "a", "idempotency_key": "k" })).await;
    }
    for to in ["everyone", "user:ada", "room:plain:1", "pattern:*"] {
        result(at, "send", json!({ "to": [to], "data": "a" })).await;
    }
    let moved = json!({ "user": "ada", "channel": "plain:2" });
    assert_eq!(result(at, "subscribe", moved).await, json!({ "connections": 2 }));
    let questions = result(at, "requests", json!({ "to": ["everyone"], "timeout_ms": 1_000 })).await;
    assert_eq!(questions["silent"].as_array().unwrap().len(), 2, "{questions}");
    // The second instance of `a` has it all.
    assert_eq!(on_a2.heard("plain:1").await, json!("a"));

    assert_eq!(result(at, "info", json!({})).await["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(result(at_b, "info", json!({})).await["nodes"].as_array().unwrap().len(), 1);
    let counts = async |at| {
        let stats = result(at, "presence_stats", json!({ "channel": "live:1" })).await["num_clients"].take();
        let users = result(at, "users", json!({ "users": ["ada"] })).await["users"]["ada"]["num_clients"].take();
        let history = result(at, "history", json!({ "channel": "kept:1", "limit": -1 })).await;
        let connections = result(at, "connections", json!({ "user": "ada" })).await;
        (
            stats,
            users,
            history["publications"].as_array().unwrap().len(),
            connections["connections"].as_array().unwrap().len(),
        )
    };
    // `kept:1` has got what was sent to the pattern as a message of the moment.
    assert_eq!(counts(at).await, (json!(2), json!(2), 1, 2));
    assert_eq!(counts(at_b).await, (json!(1), json!(1), 0, 1));
    // The same key in the same room of another tenant is another key.
    assert_eq!(on_b.ask("presence_stats", json!({ "channel": "live:1" })).await["presence_stats"]["num_clients"], 1);
    let first = json!({ "channel": "plain:1", "data": "b", "idempotency_key": "k" });
    result(at_b, "publish", first).await;
    assert_eq!(on_b.heard("plain:1").await, json!("b"), "the first that it hears is its own");
    assert_eq!(result(at, "disconnect", json!({ "user": "ada" })).await, json!({ "connections": 2 }));
    assert_eq!(on_a2.closed().await.0, 3503);
    on_b.heard_nothing().await;
}

/// Row T8, its HTTP half in short: names that come by HTTP leave nothing.
/// `T8_NAMES=1000000` is the whole row.
#[tokio::test(flavor = "multi_thread")]
async fn t8_names_by_http_leave_neither_memory_nor_series() {
    const BATCH: usize = 2_500;
    let names: usize = std::env::var("T8_NAMES").map_or(60_000, |n| n.parse().unwrap());
    let config = format!("{API}{ROOMS}\n[log]\nlevel = \"warn\"\n");
    let mut gateway = Instance::start(&config, None, "t8").await;
    let at = gateway.addr();
    let batch = async |from: usize| {
        let commands: Vec<Value> = (from..from + BATCH)
            .map(|n| match n % 6 {
                0 => json!({ "publish": { "channel": format!("plain:{n}"), "data": n } }),
                1 => json!({ "publish": { "channel": format!("nowhere:{n}"), "data": n } }),
                2 => json!({ "presence_stats": { "channel": format!("live:{n}") } }),
                3 => json!({ "send": { "to": [format!("user:u{n}"), format!("room:plain:{n}")], "data": n } }),
                4 => json!({ "users": { "users": [format!("u{n}")] } }),
                _ => json!({ format!("method{n}"): {} }),
            })
            .collect();
        let head = format!("POST /api/batch HTTP/1.1\r\nX-API-Key: {KEY}");
        let (status, body) = exchange(at, &head, &json!({ "commands": commands }).to_string()).await;
        assert_eq!(status, 200, "{body}");
        let head = format!("POST /api/m{from} HTTP/1.1\r\nX-API-Key: {KEY}");
        assert_eq!(exchange(at, &head, "").await.0, 404);
        let head = format!("POST /api/info HTTP/1.1\r\nX-API-Key: wrong{from}");
        assert!([401, 429].contains(&exchange(at, &head, "").await.0));
    };
    // What is kept for good is there after the first rounds.
    for n in 0..4 {
        batch(n * BATCH).await;
    }
    let series = async |gateway: &Instance| -> BTreeSet<String> {
        let text = gateway.get("/metrics").await.unwrap().1;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        samples.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    let (memory, before) = (gateway.resident_bytes(), series(&gateway).await);
    for n in 4..names.div_ceil(BATCH) {
        batch(n * BATCH).await;
    }
    // The allocator keeps what was needed last for a second, and looks when it is
    // asked for more.
    until("the memory of names is given back", async || {
        gateway.get("/metrics").await.unwrap();
        gateway.resident_bytes().saturating_sub(memory) < 8 << 20
    })
    .await;
    let new: Vec<String> = series(&gateway).await.difference(&before).cloned().collect();
    // The watcher's first look has one of its own, and guesses that are refused.
    assert!(new.len() <= 2, "names have become labels: {new:?}");
    let info = result(at, "info", json!({})).await["nodes"][0].take();
    assert_eq!((&info["num_channels"], &info["num_users"], &info["num_clients"]), (&json!(0), &json!(0), &json!(0)));
}

/// Row T9: names that mean something to Redis, to a terminal or to a page mean
/// nothing here: each room is itself, on all instances, or is refused.
#[tokio::test(flavor = "multi_thread")]
async fn t9_hostile_names_reach_themselves_and_nobody_else() {
    let redis = RedisServer::start().await;
    let config = format!(
        "[bus]\nkind = \"redis\"\nurl = \"{}\"\n[[rooms]]\nmatch = \"*\"\npublish = \"anyone\"\npresence = true\n\
         history = {{ size = 10 }}\n",
        redis.url()
    );
    let [a, b] = [TestGateway::start(&config).await, TestGateway::start(&config).await];
    for gateway in [&a, &b] {
        until("it is ready", async || gateway.gateway.router().cluster.as_ref().unwrap().trouble().is_none()).await;
    }
    let names = [
        "*",
        "?",
        "[a-z]",
        "{x}",
        "{x}:a",
        "x",
        "x:a",
        "a:b",
        "a",
        "b",
        "../a",
        "a/../b",
        "%2e%2e",
        "<script>alert(1)</script>",
        "\u{202e}abc",
        "abc",
        "\u{feff}a",
        "user:",
        "members:a",
        "wl:1:room",
        "'; FLUSHALL; --",
        "\\r\\nDEL x",
        "é",
        "e\u{301}",
        " ",
        "a ",
        " a",
        "__proto__",
        "constructor",
        "null",
        "0",
        "00",
        "a\u{200b}",
    ];
    let (mut sender, mut members) = (a.client().await, Vec::new());
    for name in names {
        let mut member = b.client().await;
        member.join(name).await;
        members.push(member);
    }
    for name in names {
        sender.publish(name, json!(name)).await;
    }
    for (name, member) in names.iter().zip(&mut members) {
        assert_eq!(member.heard(name).await, json!(name));
        member.heard_nothing().await;
        let stats = member.ask("presence_stats", json!({ "channel": name })).await;
        assert_eq!(stats["presence_stats"]["num_clients"], 1, "{name:?}");
        let past = member.ask("history", json!({ "channel": name, "limit": -1 })).await;
        assert_eq!(past["history"]["publications"].as_array().map(Vec::len), Some(1), "{name:?}");
    }
    // What could break a line of a log or a terminal is no name, nor what is too
    // long, nor nothing.
    for name in ["", "a\u{0}", "a\r\nb", "\u{1b}[2J", "\u{7f}", "a\tb", "\u{9b}31m"] {
        assert_eq!(sender.refused("subscribe", json!({ "channel": name })).await, 107, "{name:?}");
        assert_eq!(sender.refused("publish", json!({ "channel": name, "data": 1 })).await, 107, "{name:?}");
    }
    let long = "x".repeat(10 << 10);
    assert_eq!(sender.refused("subscribe", json!({ "channel": long })).await, 106);
    // Half a character is no text: the frame is none of the protocol.
    let mut half = a.client().await;
    half.say(r#"{"id":9,"subscribe":{"channel":"\ud800"}}"#).await;
    assert_eq!(half.closed().await.0, 3501);
}
