//! The server API's methods for those who run the gateway.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
};

use crate::{
    api::{API, KEY, address, error, exchange, result},
    cluster::{ROOMS, gateways},
    support::{
        PATIENCE, TestGateway, eventually, fixture, instance::Instance, plugin_config, redis::RedisServer, until,
    },
};

/// Somebody who looks at what passes.
struct Tail(Lines<BufReader<TcpStream>>);

impl Tail {
    /// `of`: the query.
    async fn open(address: SocketAddr, of: &str) -> Self {
        Self::open_with(address, of, KEY).await
    }

    async fn open_with(address: SocketAddr, of: &str, key: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /api/tail{of} HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut tail = Self(BufReader::new(stream).lines());
        assert_eq!(tail.next().await["type"], "tailing");
        tail
    }

    /// The next line that says something. What chunks are made of is passed over.
    async fn next(&mut self) -> Value {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.0.next_line()).await.expect("no line came").unwrap();
            let line = line.expect("the tail ended");
            if line.starts_with('{') && !line.contains("\"alive\"") {
                return serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_shows_what_passes_and_nothing_else() {
    let gateway = TestGateway::start(&format!("{API}{ROOMS}")).await;
    let at = address(&gateway);
    let mut ada = gateway.user("ada").await;
    let (mut room, mut user, mut all) =
        (Tail::open(at, "?room=kept:1").await, Tail::open(at, "?user=ada").await, Tail::open(at, "").await);
    ada.join("kept:1").await;
    ada.join("plain:1").await;
    ada.publish("plain:1", json!({ "a": 1 })).await;
    ada.publish("kept:1", json!([2])).await;
    result(at, "send", json!({ "to": ["user:ada"], "data": 3 })).await;
    result(at, "publish", json!({ "channel": "plain:2", "data": "to nobody" })).await;

    for tail in [&mut user, &mut all] {
        assert_eq!(tail.next().await["channel"], "kept:1");
        let joined = tail.next().await;
        assert_eq!((&joined["type"], &joined["channel"]), (&json!("joined"), &json!("plain:1")), "{joined}");
        assert_eq!((&joined["user"], &joined["client"]), (&json!("ada"), &json!(ada.id)));
        let said = tail.next().await;
        assert_eq!(
            (&said["channel"], &said["data"], &said["size"]),
            (&json!("plain:1"), &json!({ "a": 1 }), &json!(7))
        );
        assert_eq!(said["from"], json!({ "client": ada.id, "user": "ada" }));
        assert!(said["at"].as_u64().unwrap() > 1_700_000_000_000, "{said}");
        assert_eq!(tail.next().await["data"], json!([2]));
        let sent = tail.next().await;
        assert_eq!((&sent["to"], &sent["data"], sent.get("from")), (&json!(["user:ada"]), &json!(3), None), "{sent}");
    }
    assert_eq!(all.next().await["data"], "to nobody");
    assert_eq!(room.next().await["type"], "joined");
    let said = room.next().await;
    assert_eq!((&said["data"], &said["offset"]), (&json!([2]), &json!(1)), "{said}");
    ada.hang_up().await;
    assert_eq!(
        (room.next().await["type"].take(), user.next().await["type"].take()),
        (json!("left"), json!("disconnected"))
    );

    // Whoever goes is forgotten, and there are only so many places.
    drop((room, user, all));
    let mut tails = Vec::new();
    until("places are given back", async || {
        result(at, "publish", json!({ "channel": "plain:2", "data": 1 })).await;
        let head = format!("GET /api/tail?room=plain:3 HTTP/1.1\r\nX-API-Key: {KEY}");
        while tails.len() < 32 {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(format!("{head}\r\nHost: {at}\r\n\r\n").as_bytes()).await.unwrap();
            let mut lines = BufReader::new(stream).lines();
            let mut opened = false;
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with('{') {
                    opened = line.contains("tailing");
                    break;
                }
            }
            if !opened {
                return false;
            }
            tails.push(lines);
        }
        true
    })
    .await;
    let (_, body) = exchange(at, &format!("GET /api/tail HTTP/1.1\r\nX-API-Key: {KEY}"), "").await;
    assert!(body.contains("\"code\":111"), "{body}");
}

#[tokio::test]
async fn a_tail_needs_a_key_and_a_sense() {
    let keys = "[api]\nkeys = [{ name = \"backend\", key = \"a-key-of-the-tests\" }, { name = \"tenant\", key = \"the key \
                of a tenant\", rooms = [\"plain:a*\"] }]\n";
    let gateway = TestGateway::start(&format!("{keys}{ROOMS}")).await;
    let at = address(&gateway);
    let ask = async |query: &str, key: &str| {
        exchange(at, &format!("GET /api/tail{query} HTTP/1.1\r\nX-API-Key: {key}"), "").await
    };
    assert_eq!(ask("", "wrong").await.0, 401);
    for (query, code) in [("?room=nowhere", 102), ("?room=plain:1&user=x", 107), ("?rooms=x", 107)] {
        let (_, body) = ask(query, KEY).await;
        assert!(body.contains(&format!("\"code\":{code}")), "{query}: {body}");
    }
    for query in ["", "?user=ada", "?room=plain:b"] {
        let (_, body) = ask(query, "the key of a tenant").await;
        assert!(body.contains("\"code\":103"), "{query}: {body}");
    }
}

/// A tail is as long as its key is good for it, and tells a key for rooms of
/// no others.
#[tokio::test(flavor = "multi_thread")]
async fn a_tail_ends_with_the_rights_of_its_key() {
    let tenant = "the key of a tenant";
    let keys = format!(
        "keys = [{{ name = \"backend\", key = \"{KEY}\" }}, {{ name = \"tenant\", key = \"{tenant}\", rooms = \
         [\"plain:a*\", \"user:*\"] }}]"
    );
    let gateway = TestGateway::start(&format!("[server]\npersonal_rooms = true\n[api]\n{keys}\n{ROOMS}")).await;
    let at = address(&gateway);
    let (_, body) = exchange(at, &format!("GET /api/tail?room=user:ada HTTP/1.1\r\nX-API-Key: {tenant}"), "").await;
    assert!(body.contains("\"code\":103"), "a user is in other rooms too: {body}");

    let mut theirs = Tail::open_with(at, "?room=plain:a1", tenant).await;
    let mut ours = Tail::open(at, "?room=plain:a1").await;
    let to = json!(["room:plain:b1", "room:plain:a1", "pattern:plain:a*", "user:eve"]);
    result(at, "send", json!({ "to": to, "data": 1 })).await;
    assert_eq!(ours.next().await["to"], to);
    assert_eq!(theirs.next().await["to"], json!(["room:plain:a1", "pattern:plain:a*"]));

    let text = std::fs::read_to_string(gateway.file()).unwrap();
    gateway.reload_with(&text.replace("plain:a*", "plain:b*")).await;
    result(at, "publish", json!({ "channel": "plain:a1", "data": "a secret" })).await;
    assert_eq!(ours.next().await["data"], "a secret", "another key goes on");
    let rest = async {
        let mut rest = String::new();
        while let Ok(Some(line)) = theirs.0.next_line().await {
            rest += &line;
        }
        rest
    };
    let rest = tokio::time::timeout(PATIENCE, rest).await.expect("the tail goes on");
    assert!(!rest.contains("secret"), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_of_a_room_or_a_user_shows_what_is_said_on_other_instances() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, API).await;
    let mut ada = b.user("ada").await;
    for room in ["plain:1", "kept:1"] {
        ada.join(room).await;
    }
    let (mut plain, mut kept, mut user) = (
        Tail::open(address(&a), "?room=plain:1").await,
        Tail::open(address(&a), "?room=kept:1").await,
        Tail::open(address(&a), "?user=ada").await,
    );
    ada.publish("plain:1", json!(1)).await;
    ada.publish("kept:1", json!(2)).await;
    assert_eq!(plain.next().await["data"], json!(1));
    let said = kept.next().await;
    assert_eq!((&said["data"], &said["offset"], &said["from"]["user"]), (&json!(2), &json!(1), &json!("ada")));
    result(address(&b), "send", json!({ "to": ["user:ada"], "data": 3 })).await;
    // What she says in those rooms passes here too by now.
    while user.next().await["data"] != json!(3) {}
    // And what is said here, once.
    result(address(&a), "publish", json!({ "channel": "kept:1", "data": 4 })).await;
    result(address(&a), "publish", json!({ "channel": "plain:1", "data": 5 })).await;
    assert_eq!((kept.next().await["data"].take(), plain.next().await["data"].take()), (json!(4), json!(5)));
    result(address(&a), "publish", json!({ "channel": "kept:1", "data": 6 })).await;
    assert_eq!(kept.next().await["data"], json!(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_shown_with_what_became_of_their_calls_and_a_bad_one_is_taken_back() {
    let config = format!("{API}{}", plugin_config(&fixture("stamp-a"), "", ""));
    let gateway = TestGateway::start(&config).await;
    let at = address(&gateway);
    let mut client = gateway.client().await;
    client.join("room:1").await;
    let heard = async |client: &mut crate::support::TestClient| {
        client.publish("room:1", json!(1)).await;
        client.heard("room:1").await["stamp"].take()
    };
    assert_eq!(heard(&mut client).await, "a");
    let before = result(at, "plugins", json!({})).await;
    let plugin = &before["plugins"][0];
    assert_eq!(
        (&plugin["name"], &plugin["generation"], &plugin["hooks"]),
        (&json!("p"), &json!(1), &json!(["transform"]))
    );
    assert_eq!(
        (&plugin["calls"]["transform"]["count"], &before["can_roll_back"]),
        (&json!(1), &json!(false)),
        "{before}"
    );
    assert!(plugin["calls"]["transform"]["p99_us"].is_number(), "{plugin}");
    assert_eq!(error(at, "rollback", json!({})).await, 100, "there is nothing to go back to");

    let text = std::fs::read_to_string(gateway.file()).unwrap();
    gateway.reload_with(&text.replace("stamp-a.wat", "trap.wat")).await;
    assert_eq!(client.refused("publish", json!({ "channel": "room:1", "data": 1 })).await, 100);
    let bad = result(at, "plugins", json!({})).await;
    assert_eq!(
        (&bad["generation"], &bad["can_roll_back"], &bad["plugins"][0]["generation"]),
        (&json!(2), &json!(true), &json!(2))
    );
    let failures = bad["plugins"][0]["calls"]["transform"]["failures"].as_object().unwrap();
    assert_eq!(failures.values().map(|n| n.as_u64().unwrap()).sum::<u64>(), 1, "{bad}");

    assert_eq!(result(at, "rollback", json!({})).await, json!({ "generation": 3 }));
    assert_eq!(heard(&mut client).await, "a");
    let after = result(at, "plugins", json!({})).await;
    assert_eq!((&after["plugins"][0]["generation"], &after["is_rolled_back"]), (&json!(1), &json!(true)), "{after}");
    assert_eq!(error(at, "rollback", json!({})).await, 100, "one step only");

    // What stands on disk comes back by a change of it, or by a reload.
    assert_eq!(result(at, "reload", json!({})).await, json!({ "generation": 4 }));
    assert_eq!(client.refused("publish", json!({ "channel": "room:1", "data": 1 })).await, 100);
    std::fs::write(gateway.file(), &text).unwrap();
    until("the file is taken over", async || result(at, "plugins", json!({})).await["is_rolled_back"] == false).await;
    eventually("its plugin is live", || gateway.gateway.reloader().running().number >= 5).await;
    assert_eq!(heard(&mut client).await, "a");
}

/// What has been taken out of the config does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_opens_nothing_to_a_key_that_was_taken_out() {
    let gateway = TestGateway::start(&format!("{API}{}", plugin_config(&fixture("stamp-a"), "", ""))).await;
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    gateway.reload_with(&text.replace(KEY, "another key of the tests").replace("stamp-a.wat", "pass.wat")).await;
    let at = address(&gateway);
    let ask = async |method: &str, key: &str| {
        exchange(at, &format!("POST /api/{method} HTTP/1.1\r\nX-API-Key: {key}"), "").await
    };
    assert_eq!(ask("plugins", KEY).await.0, 401);
    let (status, body) = ask("rollback", "another key of the tests").await;
    assert_eq!((status, body.as_str()), (200, r#"{"result":{"generation":3}}"#));
    assert_eq!(ask("plugins", KEY).await.0, 401, "it was taken out for a reason");
    let (_, body) = ask("plugins", "another key of the tests").await;
    assert!(body.contains("\"is_rolled_back\":true"), "{body}");
}

/// The watcher looks every two seconds; it must not undo what was meant.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_stays_until_a_file_changes() {
    let config = format!("{API}{}", plugin_config(&fixture("stamp-a"), "", ""));
    let gateway = TestGateway::start(&config).await;
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    let at = address(&gateway);
    // At the second time it has looked before, and the file is new to it.
    for (plugin, looks) in [("stamp-b.wat", 4_500), ("trap.wat", 1_000)] {
        gateway.reload_with(&text.replace("stamp-a.wat", plugin)).await;
        let rolled_back = result(at, "rollback", json!({})).await["generation"].as_u64().unwrap();
        let looked = tokio::time::Instant::now() + std::time::Duration::from_millis(looks);
        until("it has looked", async || tokio::time::Instant::now() > looked).await;
        assert_eq!(result(at, "plugins", json!({})).await["generation"], json!(rolled_back), "{plugin}");
    }
    std::fs::write(gateway.file(), text.replace("stamp-a.wat", "pass.wat")).unwrap();
    until("the next change counts", async || result(at, "plugins", json!({})).await["is_rolled_back"] == false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_drained_by_its_name() {
    let redis = RedisServer::start().await;
    let config = format!("{API}{ROOMS}");
    let a = Instance::start(&config, Some(&redis.url()), "a").await;
    let mut b = Instance::start(&config, Some(&redis.url()), "b").await;
    a.ready().await;
    b.ready().await;
    until("they know each other", async || {
        result(a.addr(), "instances", json!({})).await["instances"].as_array().unwrap().len() == 2
    })
    .await;
    let mut client = b.user("ada").await;
    assert_eq!(error(a.addr(), "drain", json!({ "instance": "c" })).await, 107);
    let answer = result(a.addr(), "drain", json!({ "instance": "b" })).await;
    assert_eq!(
        (&answer["answers"][0]["name"], &answer["answers"][0]["connections"]),
        (&json!("b"), &json!(1)),
        "{answer}"
    );
    assert_eq!(client.closed().await.0, 3001);
    drop(client);
    assert!(b.ended(PATIENCE).await.success());
    assert!(a.is_ready().await);
}
