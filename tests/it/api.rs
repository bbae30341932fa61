//! The server API as backends meet it: on one instance, and on several.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    cluster::{ROOMS, gateways},
    support::{
        PATIENCE, TestClient, TestGateway, eventually, fixture,
        instance::Instance,
        plugin_config,
        proxy::{Direction, FaultProxy, Which},
        redis::RedisServer,
        until,
    },
};

pub const KEY: &str = "a-key-of-the-tests";

/// Two keys, as while one is being replaced.
pub const API: &str = "[api]\nkeys = [{ name = \"old\", key = \"another-key-of-tests\" }, { name = \"backend\", key = \
                   \"a-key-of-the-tests\" }]\n";

/// One request by hand on a connection of its own.
pub async fn exchange(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let request =
        format!("{head}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let text = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Calls a method with a good key.
pub async fn call(address: SocketAddr, method: &str, parameters: Value) -> Value {
    let head = format!("POST /api/{method} HTTP/1.1\r\nX-API-Key: {KEY}");
    let (status, body) = exchange(address, &head, &parameters.to_string()).await;
    assert_eq!(status, 200, "{method}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The result of a method that succeeds.
#[track_caller]
pub fn result(address: SocketAddr, method: &'static str, parameters: Value) -> impl Future<Output = Value> {
    let caller = std::panic::Location::caller();
    async move {
        let mut reply = call(address, method, parameters).await;
        assert!(reply.get("result").is_some(), "{caller}: {method}: {reply}");
        reply["result"].take()
    }
}

/// The code of the error of a method that fails.
pub async fn error(address: SocketAddr, method: &str, parameters: Value) -> u64 {
    let reply = call(address, method, parameters).await;
    reply["error"]["code"].as_u64().unwrap_or_else(|| panic!("{method}: {reply}"))
}

pub fn address(gateway: &TestGateway) -> SocketAddr {
    gateway.gateway.address()
}

async fn alone() -> TestGateway {
    TestGateway::start(&format!("{API}{ROOMS}")).await
}

/// Answers the next question that comes.
async fn answer(client: &mut TestClient, data: Value) {
    let request = request(client).await;
    let answer = json!({ "method": "wayleave.answer", "data": { "request": request, "data": data } });
    let reply = client.ask("rpc", answer).await;
    assert_eq!(reply["rpc"]["data"], json!({}), "{reply}");
}

/// The name of the next question that comes.
async fn request(client: &mut TestClient) -> Value {
    let push = client.push().await;
    assert_eq!(push["message"]["data"]["data"], json!({ "q": 1 }), "{push}");
    push["message"]["data"]["request"].clone()
}

#[tokio::test]
async fn keys_open_it_and_nothing_else_does() {
    let gateway = alone().await;
    let at = address(&gateway);
    let status = async |head: &str| exchange(at, head, r#"{"channel":"plain:1","data":1}"#).await.0;
    assert_eq!(status("POST /api/publish HTTP/1.1").await, 401);
    assert_eq!(status("POST /api/publish HTTP/1.1\r\nX-API-Key: a-key-of-the-testz").await, 401);
    assert_eq!(status("POST /api/publish HTTP/1.1\r\nX-API-Key:").await, 401);
    assert_eq!(status("POST /api/nothing HTTP/1.1").await, 401, "who has no key learns nothing");
    assert_eq!(status("POST /api/publish HTTP/1.1\r\nX-API-Key: a-key-of-the-tests").await, 200);
    assert_eq!(status("POST /api/publish HTTP/1.1\r\nX-API-Key: another-key-of-tests").await, 200);
    assert_eq!(status("POST /api/publish HTTP/1.1\r\nAuthorization: apikey a-key-of-the-tests").await, 200);
    assert_eq!(status("GET /api/publish HTTP/1.1\r\nX-API-Key: a-key-of-the-tests").await, 405);
    let (code, body) = exchange(at, "POST /api/publsh HTTP/1.1\r\nX-API-Key: a-key-of-the-tests", "").await;
    assert!(code == 404 && body.contains("history_remove") && body.contains("requests"), "{body}");
    assert!((gateway.metric("wayleave_api_calls_total{method=\"\",code=\"101\"}") - 4.0).abs() < 0.1);

    let off = TestGateway::start(ROOMS).await;
    let head = format!("POST /api/info HTTP/1.1\r\nX-API-Key: {KEY}");
    assert_eq!(exchange(address(&off), &head, "{}").await.0, 404);
}

#[tokio::test]
async fn a_key_may_be_for_some_methods_and_rooms_only() {
    let keys = "[api]\nkeys = [{ name = \"all\", key = \"a-key-of-the-tests\" }, { name = \"tenant\", key = \
                \"the key of a tenant\", rooms = [\"plain:a*\"] }, { name = \"news\", key = \"the key of the news\", methods \
                = [\"publish\", \"batch\"] }]\n";
    let gateway = TestGateway::start(&format!("{keys}{ROOMS}")).await;
    let at = address(&gateway);
    let code = async |key: &str, method: &str, parameters: Value| {
        let head = format!("POST /api/{method} HTTP/1.1\r\nX-API-Key: {key}");
        let (status, body) = exchange(at, &head, &parameters.to_string()).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let publish = |room: &str| json!({ "channel": room, "data": 1 });
    let (tenant, news) = ("the key of a tenant", "the key of the news");
    let mut client = gateway.client().await;
    for room in ["plain:a1", "plain:b1"] {
        client.join(room).await;
    }
    assert_eq!(code(tenant, "publish", publish("plain:a1")).await, json!({ "result": {} }));
    assert_eq!(client.heard("plain:a1").await, json!(1));
    assert_eq!(code(tenant, "publish", publish("plain:b1")).await["error"]["code"], 103);
    assert_eq!(code(tenant, "send", json!({ "to": ["everyone"], "data": 1 })).await["error"]["code"], 103);
    assert_eq!(code(tenant, "disconnect", json!({ "client": client.id })).await["error"]["code"], 103);
    let listed = code(tenant, "channels", json!({})).await["result"]["channels"].take();
    assert_eq!(listed, json!({ "plain:a1": { "num_clients": 1 } }), "others' rooms are left out");

    assert_eq!(code(news, "publish", publish("plain:b1")).await, json!({ "result": {} }));
    assert_eq!(client.heard("plain:b1").await, json!(1));
    let refused = code(news, "history", json!({ "channel": "kept:1" })).await;
    assert_eq!(refused["error"]["message"], "permission denied: the key `news` is not for the method `history`");
    let commands = json!([{ "publish": publish("plain:b1") }, { "info": {} }]);
    let replies = code(news, "batch", json!({ "commands": commands })).await["replies"].take();
    assert_eq!((&replies[0], &replies[1]["error"]["code"]), (&json!({ "publish": {} }), &json!(103)), "{replies}");
    assert_eq!(client.heard("plain:b1").await, json!(1));
    client.heard_nothing().await;
}

#[tokio::test]
async fn an_address_that_guesses_is_told_so_and_holds_up_no_good_key() {
    let config = format!("{API}failures = \"3/1h\"\n{ROOMS}");
    let gateway = TestGateway::start(&config).await;
    let at = address(&gateway);
    let status = async |key: &str| exchange(at, &format!("POST /api/info HTTP/1.1\r\nX-API-Key: {key}"), "").await.0;
    for _ in 0..3 {
        assert_eq!(status("wrong").await, 401);
    }
    assert_eq!(status("wrong").await, 429);
    assert_eq!(status(KEY).await, 200, "nobody locks a backend out that shares its address");

    // Behind a proxy that is trusted it is clients that guess, not the proxy.
    let config = format!("[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n{config}");
    let gateway = TestGateway::start(&config).await;
    let at = address(&gateway);
    let from = async |client: &str| {
        let head = format!("POST /api/info HTTP/1.1\r\nX-API-Key: wrong\r\nX-Forwarded-For: {client}");
        exchange(at, &head, "").await.0
    };
    for _ in 0..3 {
        assert_eq!(from("192.0.2.1").await, 401);
    }
    assert_eq!((from("192.0.2.1").await, from("192.0.2.2").await), (429, 401));
}

#[tokio::test]
async fn the_log_names_the_key_of_whoever_changes_something() {
    let gateway = Instance::start(&format!("{API}{ROOMS}"), None, "logs").await;
    let hostile = "plain:\u{1b}[31m\nred";
    assert_eq!(error(gateway.addr(), "publish", json!({ "channel": hostile, "data": "a canary" })).await, 107);
    result(gateway.addr(), "publish", json!({ "channel": "plain:\"1\"", "data": "a canary" })).await;
    result(gateway.addr(), "info", json!({})).await;
    assert_eq!(error(gateway.addr(), "disconnect", json!({ "user": "" })).await, 107);
    eventually("it stands in the log", || gateway.log().contains("method=\"disconnect\"")).await;
    let log = gateway.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("wayleave::audit")).collect();
    assert_eq!(lines.len(), 3, "one for each that writes: {log}");
    for part in ["key=\"backend\"", "method=\"publish\"", "about=\"plain:\\\"1\\\"\"", "code=0", "127.0.0.1"] {
        assert!(lines[1].contains(part), "{part} in {}", lines[1]);
    }
    assert!(lines[0].contains("code=107") && lines[2].contains("code=107"), "{log}");
    assert!(!log.contains("canary") && !log.contains("a-key-of") && !log.contains('\u{1b}'), "{log}");
}

#[tokio::test]
async fn what_makes_no_sense_says_why() {
    let gateway = alone().await;
    let at = address(&gateway);
    let head = format!("POST /api/publish HTTP/1.1\r\nX-API-Key: {KEY}");
    for body in ["", "{", "[]", "null", r#"{"channel":"plain:1"}"#, r#"{"data":1}"#, r#"{"channel":5,"data":1}"#] {
        let (status, reply) = exchange(at, &head, body).await;
        assert!(status == 200 && reply.contains(r#""code":107,"message":"bad request: "#), "{body}: {reply}");
    }
    assert_eq!(exchange(at, &head, &" ".repeat(5 << 20)).await.0, 413);
    assert_eq!(error(at, "publish", json!({ "channel": "nowhere", "data": 1 })).await, 102);
    assert_eq!(error(at, "refresh", json!({})).await, 107);
    assert_eq!(error(at, "history", json!({ "channel": "plain:1" })).await, 108);
    assert_eq!(error(at, "presence", json!({ "channel": "plain:1" })).await, 108);
    assert_eq!(error(at, "subscribe", json!({ "user": "ann", "channel": "nowhere" })).await, 102);
    assert_eq!(error(at, "subscribe", json!({ "channel": "live:1" })).await, 107);
    let join = |more: Value| {
        let mut join = json!({ "user": "a", "channel": "live:1" });
        join.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        join
    };
    assert_eq!(error(at, "subscribe", join(json!({ "expire_at": 9 }))).await, 110);
    for known in ["join_leave", "force_push_join_leave", "force_recovery", "force_positioning"] {
        // The room's entry says one of the two, and it alone.
        let say =
            async |value: bool| call(at, "subscribe", join(json!({ "override": { known: { "value": value } } }))).await;
        let codes = [&say(true).await["error"]["code"], &say(false).await["error"]["code"]].map(Value::as_u64);
        assert!(codes == [None, Some(108)] || codes == [Some(108), None], "{known}: {codes:?}");
    }
    for unknown in [json!({ "publish": { "value": true } }), json!({ "presence": true }), json!([])] {
        assert_eq!(error(at, "subscribe", join(json!({ "override": unknown }))).await, 107);
    }
    for none in [json!({}), json!({ "expire_at": 0, "override": {} }), json!({ "expire_at": null, "override": null })] {
        assert_eq!(result(at, "subscribe", join(none)).await["connections"], 0);
    }
    assert_eq!(error(at, "disconnect", json!({ "user": "a", "disconnect": { "code": 1000 } })).await, 107);
    assert_eq!(error(at, "send", json!({ "to": ["somebody"], "data": 1 })).await, 107);
    assert_eq!(error(at, "send", json!({ "to": ["everyone"], "data": 1, "lokal": true })).await, 107);
    assert_eq!(error(at, "rpc", json!({ "method": "nothing" })).await, 104);
    assert_eq!(error(at, "connections", json!({ "instance": "g7" })).await, 107);
    assert_eq!(error(at, "members", json!({ "channel": "plain:1" })).await, 108);
}

#[tokio::test]
async fn messages_of_the_server_come_as_they_were_sent() {
    let gateway = alone().await;
    let at = address(&gateway);
    let mut client = gateway.client().await;
    for room in ["plain:1", "live:1", "kept:1"] {
        client.join(room).await;
    }
    let tagged = json!({ "channel": "plain:1", "data": { "n": 1.50 }, "tags": { "k": "v" } });
    assert_eq!(result(at, "publish", tagged).await, json!({}));
    let push = client.push().await;
    assert_eq!(push["pub"], json!({ "data": { "n": 1.50 }, "tags": { "k": "v" } }));
    result(at, "publish", json!({ "channel": "plain:1", "b64data": "AAH/" })).await;
    assert_eq!(client.heard("plain:1").await, json!("AAH/"));
    result(at, "publish", json!({ "channel": "plain:1", "data": null })).await;
    assert_eq!(client.heard("plain:1").await, json!(null));

    let first = result(at, "publish", json!({ "channel": "kept:1", "data": 1 })).await;
    assert_eq!((&first["offset"], first["epoch"].is_string()), (&json!(1), true), "{first}");
    let skipped = json!({ "channel": "kept:1", "data": 2, "skip_history": true });
    assert_eq!(result(at, "publish", skipped).await, json!({}));
    let many = json!({ "channels": ["kept:1", "nowhere", "live:1"], "data": 3 });
    let responses = result(at, "broadcast", many).await["responses"].take();
    assert_eq!(responses[0]["result"]["offset"], json!(2), "{responses}");
    assert_eq!((&responses[1]["error"]["code"], &responses[2]["result"]), (&json!(102), &json!({})));
    for (room, data) in [("kept:1", 1), ("kept:1", 2), ("kept:1", 3), ("live:1", 3)] {
        assert_eq!(client.heard(room).await, json!(data));
    }

    let all = result(at, "history", json!({ "channel": "kept:1", "limit": 10 })).await;
    let data: Vec<_> = all["publications"].as_array().unwrap().iter().map(|p| (&p["offset"], &p["data"])).collect();
    assert_eq!(data, [(&json!(1), &json!(1)), (&json!(2), &json!(3))], "{all}");
    let since = json!({ "channel": "kept:1", "limit": 10, "since": { "offset": 1, "epoch": all["epoch"] } });
    assert_eq!(result(at, "history", since).await["publications"].as_array().unwrap().len(), 1);
    let newest = json!({ "channel": "kept:1", "limit": 1, "reverse": true });
    assert_eq!(result(at, "history", newest).await["publications"][0]["offset"], json!(2));
    let lost = json!({ "channel": "kept:1", "limit": 1, "since": { "offset": 1, "epoch": "x" } });
    assert_eq!(error(at, "history", lost).await, 112);
    result(at, "history_remove", json!({ "channel": "kept:1" })).await;
    let none = result(at, "history", json!({ "channel": "kept:1", "limit": 10 })).await;
    assert_eq!((&none["publications"], &none["offset"]), (&json!([]), &json!(2)), "{none}");

    result(at, "send", json!({ "to": ["connection:".to_owned() + &client.id, "room:live:1"], "data": 4 })).await;
    assert_eq!(client.push().await["message"]["data"], json!(4));
    client.heard_nothing().await;
}

/// R33, on one instance.
#[tokio::test]
async fn a_publish_that_is_repeated_happens_once() {
    let gateway = alone().await;
    let at = address(&gateway);
    let mut client = gateway.client().await;
    client.join("kept:1").await;
    client.join("plain:1").await;
    for room in ["kept:1", "plain:1"] {
        let publish = json!({ "channel": room, "data": room, "idempotency_key": "k1" });
        let first = result(at, "publish", publish.clone()).await;
        assert_eq!(result(at, "publish", publish).await, first);
        assert_eq!(client.heard(room).await, json!(room));
    }
    client.heard_nothing().await;
    let long = json!({ "channel": "kept:1", "data": 1, "idempotency_key": "k".repeat(65) });
    assert_eq!(error(at, "publish", long).await, 107);
}

#[tokio::test]
async fn a_server_puts_users_into_rooms_and_out_and_away() {
    let gateway = alone().await;
    let at = address(&gateway);
    let (mut phone, mut laptop) = (gateway.user("ann").await, gateway.user("ann").await);
    let join = json!({ "user": "ann", "channel": "live:1", "info": { "role": "x" }, "data": { "hello": 1 } });
    assert_eq!(result(at, "subscribe", join).await, json!({ "connections": 2 }));
    for client in [&mut phone, &mut laptop] {
        let push = client.push().await;
        assert_eq!(
            (&push["channel"], &push["subscribe"]["data"]),
            (&json!("live:1"), &json!({ "hello": 1 })),
            "{push}"
        );
    }
    let presence = result(at, "presence", json!({ "channel": "live:1" })).await["presence"].take();
    let shown = &presence[&phone.id];
    assert_eq!(*shown, json!({ "client": phone.id, "user": "ann", "chan_info": { "role": "x" } }), "{presence}");
    let stats = result(at, "presence_stats", json!({ "channel": "live:1" })).await;
    assert_eq!(stats, json!({ "num_clients": 2, "num_users": 1 }));
    let channels = result(at, "channels", json!({ "pattern": "li*" })).await;
    assert_eq!(channels, json!({ "channels": { "live:1": { "num_clients": 2 } } }));
    let users = result(at, "users", json!({ "users": ["ann", "bob"] })).await["users"].take();
    assert_eq!((&users["ann"], &users["bob"]["online"]), (&json!({ "online": true, "num_clients": 2 }), &json!(false)));

    let other = json!({ "user": "bob", "client": phone.id, "channel": "live:1" });
    assert_eq!(result(at, "unsubscribe", other).await, json!({ "connections": 0 }), "it is not bob's");
    let one = json!({ "user": "ann", "client": phone.id, "channel": "live:1" });
    assert_eq!(result(at, "unsubscribe", one).await, json!({ "connections": 1 }));
    eventually("it has left", || gateway.hub().count("live:1").0 == 1).await;

    let kept = json!({ "user": "ann", "whitelist": [laptop.id], "disconnect": { "code": 4001, "reason": "bye" } });
    assert_eq!(result(at, "disconnect", kept).await, json!({ "connections": 1 }));
    assert_eq!(phone.closed().await, (4001, "bye".to_owned()));
    assert_eq!(result(at, "disconnect", json!({ "client": laptop.id, "user": "" })).await, json!({ "connections": 1 }));
    assert_eq!(laptop.closed().await.0, 3503);
}

#[tokio::test]
async fn a_batch_is_answered_in_order() {
    let gateway = alone().await;
    let at = address(&gateway);
    for parallel in [false, true] {
        let commands = json!([
            { "publish": { "channel": "kept:1", "data": 1 } },
            { "presence_stats": { "channel": "plain:1" } },
            { "nothing": {} },
            { "batch": { "commands": [] } },
            { "info": {}, "users": {} },
            { "channels": {} },
        ]);
        let replies = call(at, "batch", json!({ "commands": commands, "parallel": parallel })).await["replies"].take();
        assert!(replies[0]["publish"]["offset"].is_u64(), "{replies}");
        let codes: Vec<_> = (1..5).map(|n| replies[n]["error"]["code"].as_u64().unwrap()).collect();
        assert_eq!(codes, [108, 104, 104, 107]);
        assert_eq!(replies[5]["channels"], json!({ "channels": {} }));
    }
}

#[tokio::test]
async fn a_server_calls_plugins_past_which_it_publishes() {
    let config = format!("{API}{}", plugin_config(&fixture("echo-call"), "", "")).replace("plugins = [\"p\"]", "");
    let gateway = TestGateway::start(&config).await;
    let at = address(&gateway);
    let echo = result(at, "rpc", json!({ "method": "echo", "params": { "x": [1] } })).await;
    assert_eq!(echo, json!({ "data": { "x": [1] } }));
    let all = result(at, "rpc", json!({ "method": "echo", "params": 5, "all": true })).await;
    assert_eq!((&all["answers"][0]["data"], &all["missing"]), (&json!(5), &json!([])), "{all}");

    let gateway = TestGateway::start(&format!("{API}{}", plugin_config(&fixture("drop"), "", ""))).await;
    let at = address(&gateway);
    let mut client = gateway.client().await;
    client.join("room:1").await;
    result(at, "publish", json!({ "channel": "room:1", "data": 1 })).await;
    assert_eq!(client.heard("room:1").await, json!(1), "the plugin drops what clients send");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let gateway = alone().await;
    let at = address(&gateway);
    let mut clients = Vec::new();
    for n in 0..7 {
        let mut client = gateway.user(&format!("u{n}")).await;
        client.join("live:1").await;
        clients.push(client);
    }
    let ids: BTreeSet<_> = clients.iter().map(|client| client.id.clone()).collect();
    for (method, list, parameters) in [
        ("connections", "connections", json!({ "limit": 3 })),
        ("members", "members", json!({ "channel": "live:1", "limit": 3 })),
    ] {
        let (mut found, mut sizes, mut parameters) = (Vec::new(), Vec::new(), parameters);
        loop {
            let page = result(at, method, parameters.clone()).await;
            let entries = page[list].as_array().unwrap();
            sizes.push(entries.len());
            found.extend(entries.iter().map(|entry| entry["client"].as_str().unwrap().to_owned()));
            let Some(next) = page.get("next") else { break };
            parameters["cursor"] = next.clone();
        }
        assert_eq!((sizes, found.len()), (vec![3, 3, 1], 7));
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), ids);
    }
    let mine = result(at, "connections", json!({ "user": "u0" })).await["connections"].take();
    assert_eq!(mine.as_array().unwrap().len(), 1);
    assert_eq!((&mine[0]["user"], &mine[0]["channels"]), (&json!("u0"), &json!(["live:1"])), "{mine}");
    let info = result(at, "info", json!({})).await["nodes"].take();
    assert_eq!((&info[0]["num_clients"], &info[0]["num_channels"]), (&json!(7), &json!(1)), "{info}");
    assert_eq!(info[0]["uid"], mine[0]["instance"]);
}

#[tokio::test]
async fn questions_to_clients_are_gathered() {
    let gateway = alone().await;
    let at = address(&gateway);
    let (mut a, mut b, mut c) = (gateway.client().await, gateway.client().await, gateway.client().await);
    for client in [&mut a, &mut b, &mut c] {
        client.join("plain:1").await;
    }
    let ask = |more: Value| {
        let mut question = json!({ "to": ["room:plain:1"], "data": { "q": 1 } });
        question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        result(at, "requests", question)
    };
    // All but one are asked, and answer.
    let excepted = format!("connection:{}", c.id);
    let (gathered, (), ()) = tokio::join!(
        ask(json!({ "except": [excepted], "timeout_ms": 20_000 })),
        answer(&mut a, json!({ "from": "a" })),
        answer(&mut b, json!(null)),
    );
    assert_eq!(gathered["answers"].as_array().unwrap().len(), 2, "{gathered}");
    assert_eq!((&gathered["silent"], &gathered["missing"]), (&json!([]), &json!([])));
    c.heard_nothing().await;
    // One ends instead of answering: nobody waits for it.
    let started = Instant::now();
    let (gathered, (), (), ()) =
        tokio::join!(ask(json!({ "timeout_ms": 20_000 })), answer(&mut a, json!(1)), answer(&mut b, json!(2)), async {
            request(&mut c).await;
            c.leave().await;
        });
    assert_eq!(gathered["answers"].as_array().unwrap().len(), 2, "{gathered}");
    assert_eq!(gathered["silent"].as_array().unwrap().len(), 1);
    assert!(started.elapsed() < Duration::from_secs(15));
    // One is silent, and later than the deadline nobody listens.
    let (gathered, (), late) =
        tokio::join!(ask(json!({ "timeout_ms": 2_000 })), answer(&mut a, json!(1)), request(&mut b));
    assert_eq!(gathered["silent"], json!([{ "client": b.id, "instance": gateway.gateway.router().instance }]));
    let too_late = json!({ "method": "wayleave.answer", "data": { "request": late, "data": 1 } });
    until("it is forgotten", async || b.refused("rpc", too_late.clone()).await == 108).await;
    assert_eq!(a.refused("rpc", json!({ "method": "wayleave.answer", "data": { "request": "x" } })).await, 108);
    assert_eq!(a.refused("rpc", json!({ "method": "wayleave.answer", "data": 5 })).await, 107);
    // Nobody is there.
    let started = Instant::now();
    let nobody = result(at, "requests", json!({ "to": ["room:plain:9"], "data": 1 })).await;
    assert_eq!(nobody["answers"], json!([]));
    assert!(started.elapsed() < Duration::from_secs(4));
}

/// A1.
#[tokio::test]
async fn a1_a_message_to_rooms_except_some_reaches_exactly_those() {
    let redis = RedisServer::start().await;
    let gateways = gateways::<3>(&redis, API).await;
    let mut clients = Vec::new();
    for gateway in &gateways {
        for rooms in
            [&["plain:1"][..], &["plain:2"], &["plain:1", "plain:2"], &["plain:1", "plain:3"], &["plain:3"], &[]]
        {
            let mut client = gateway.client().await;
            for room in rooms {
                client.join(room).await;
            }
            let expected = rooms.iter().any(|room| *room != "plain:3") && !rooms.contains(&"plain:3");
            clients.push((client, expected));
        }
    }
    let send = json!({ "to": ["room:plain:1", "room:plain:2"], "except": ["room:plain:3"], "data": 1 });
    result(address(&gateways[0]), "send", send).await;
    result(address(&gateways[0]), "send", json!({ "to": ["everyone"], "data": "end" })).await;
    for (client, expected) in &mut clients {
        if *expected {
            assert_eq!(client.push().await["pub"]["data"], json!(1));
        }
        assert_eq!(client.push().await["message"]["data"], json!("end"), "at most one copy");
    }
}

/// A2, and A5.
#[tokio::test]
async fn a2_questions_are_answered_in_part_when_an_instance_is_stopped() {
    let redis = RedisServer::start().await;
    let config =
        format!("{API}{ROOMS}[[plugins]]\nname = \"p\"\npath = {:?}\n", fixture("echo-call").display().to_string());
    let mut instances = Vec::new();
    for name in ["a", "b", "c"] {
        let instance = Instance::start(&config, Some(&redis.url()), name).await;
        instance.ready().await;
        instances.push(instance);
    }
    let mut clients = Vec::new();
    for instance in &instances {
        let mut client = instance.client().await;
        client.join("plain:1").await;
        clients.push(client);
    }
    let at = instances[0].addr();
    until("all see all", async || result(at, "info", json!({})).await["nodes"].as_array().unwrap().len() == 3).await;
    instances[2].stop();
    let question = json!({ "to": ["room:plain:1"], "data": { "q": 1 }, "timeout_ms": 1_000 });
    let [a, b, _] = clients.as_mut_slice() else { unreachable!() };
    let started = Instant::now();
    let (gathered, (), ()) = tokio::join!(result(at, "requests", question), answer(a, json!(1)), answer(b, json!(2)));
    let took = started.elapsed();
    assert!((900..2_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(gathered["answers"].as_array().unwrap().len(), 2, "{gathered}");
    assert_eq!(gathered["missing"].as_array().unwrap().len(), 1, "{gathered}");
    assert_eq!(gathered["missing"][0]["name"], json!("c"));

    let everywhere = json!({ "method": "echo", "params": 7, "all": true, "timeout_ms": 1_000 });
    let all = result(at, "rpc", everywhere).await;
    let mut names: Vec<_> =
        all["answers"].as_array().unwrap().iter().map(|a| (a["name"].clone(), a["data"].clone())).collect();
    names.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(names, [(json!("a"), json!(7)), (json!("b"), json!(7))], "{all}");
    assert_eq!(all["missing"][0]["name"], json!("c"), "{all}");
    instances[2].cont();
}

/// A3.
#[tokio::test]
async fn a3_queries_know_of_all_instances_and_wait_for_none() {
    let redis = RedisServer::start().await;
    let config = format!("{API}{ROOMS}");
    let a = Instance::start(&config, Some(&redis.url()), "a").await;
    a.ready().await;
    let at = a.addr();
    let mut c = Instance::start(&config, Some(&redis.url()), "c").await;
    c.ready().await;
    let mut client = c.user("ann").await;
    client.join("live:1").await;
    client.join("plain:1").await;
    let started = Instant::now();
    let members = result(at, "members", json!({ "channel": "live:1" })).await["members"].take();
    assert_eq!(members[0]["client"], json!(client.id));
    // Nobody waits for the other instance for long, so a page may lack what it says.
    let both = json!({ "channels": { "live:1": { "num_clients": 1 }, "plain:1": { "num_clients": 1 } } });
    until("both rooms are listed", async || result(at, "channels", json!({})).await == both).await;
    for parameters in [json!({}), json!({ "user": "ann" }), json!({ "instance": "c" })] {
        until("its connection is listed", async || {
            let page = result(at, "connections", parameters.clone()).await;
            let one = &page["connections"][0];
            one["channels"] == json!(["live:1", "plain:1"]) && one["user"] == "ann"
        })
        .await;
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());

    c.stop();
    let timed = async |method, parameters| {
        let started = Instant::now();
        let result = result(at, method, parameters).await;
        assert!(started.elapsed() < Duration::from_millis(500), "{method}: {:?}", started.elapsed());
        result
    };
    let page = timed("connections", json!({ "user": "ann" })).await;
    assert_eq!((&page["connections"][0]["client"], &page["stale"]), (&json!(client.id), &json!(true)), "{page}");
    assert_eq!(page["missing"][0]["name"], json!("c"));
    let page = timed("connections", json!({})).await;
    assert_eq!((&page["connections"], &page["missing"][0]["name"]), (&json!([]), &json!("c")), "{page}");
    let channels = timed("channels", json!({})).await;
    assert_eq!((&channels["channels"]["live:1"]["num_clients"], &channels["stale"]), (&json!(1), &json!(true)));
    assert_eq!(timed("presence_stats", json!({ "channel": "live:1" })).await["num_clients"], json!(1));
    assert_eq!(timed("users", json!({ "users": ["ann"] })).await["users"]["ann"]["online"], json!(true));
    assert_eq!(timed("info", json!({})).await["nodes"].as_array().unwrap().len(), 2);
    until("its silence shows", async || {
        let all = result(at, "instances", json!({})).await["instances"].take();
        all.as_array().unwrap().iter().any(|it| it["name"] == "c" && it["silent_ms"].as_u64() > Some(2_500))
    })
    .await;
    c.cont();
}

/// A4.
#[tokio::test]
async fn a4_users_are_moved_and_closed_on_all_instances() {
    let redis = RedisServer::start().await;
    let gateways = gateways::<3>(&redis, API).await;
    let at = address(&gateways[0]);
    let mut clients = Vec::new();
    for n in 0..99 {
        clients.push(gateways[n % 3].user(&format!("u{}", n % 33)).await);
    }
    let users: Vec<_> = (0..33).map(|n| format!("user:u{n}")).collect();
    let moved = result(at, "subscribe", json!({ "to": users, "channel": "plain:1" })).await;
    assert_eq!(moved, json!({ "connections": 99 }));
    result(at, "publish", json!({ "channel": "plain:1", "data": 1 })).await;
    for client in &mut clients {
        assert_eq!(client.heard("plain:1").await, json!(1));
    }
    let closed = json!({ "user": "u0", "disconnect": { "code": 4100, "reason": "out" } });
    assert_eq!(result(at, "disconnect", closed).await, json!({ "connections": 3 }));
    for n in [0, 33, 66] {
        assert_eq!(clients[n].closed().await, (4100, "out".to_owned()));
    }
    let left = result(at, "unsubscribe", json!({ "to": ["everyone"], "channel": "plain:1" })).await;
    assert_eq!(left, json!({ "connections": 96 }));
    until("the room is empty", async || result(at, "channels", json!({})).await["channels"] == json!({})).await;
}

/// What all of them have put on the bus.
fn sent(gateways: &[TestGateway]) -> f64 {
    gateways.iter().map(|gateway| gateway.metric("wayleave_bus_sent_total")).sum()
}

/// How often Redis was told to publish.
async fn published(redis: &RedisServer) -> u64 {
    let stats = redis.info("commandstats").await;
    let calls = |stat: &String| stat.strip_prefix("calls=")?.split(',').next()?.parse().ok();
    stats.get("cmdstat_publish").and_then(calls).unwrap_or(0)
}

/// A13 and G9.
#[tokio::test]
async fn a13_g9_a_message_is_published_to_redis_once_or_not_at_all() {
    let redis = RedisServer::start().await;
    // No probes of the paths between.
    let gateways = gateways::<3>(&redis, API).await;
    let at = address(&gateways[0]);
    let mut clients = Vec::new();
    for gateway in &gateways {
        for _ in 0..10 {
            let mut client = gateway.client().await;
            client.join("kept:1").await;
            client.join("plain:1").await;
            clients.push(client);
        }
    }
    let before = gateways[0].metric("wayleave_bus_sent_total");
    let local = json!({ "to": ["everyone", "room:kept:1"], "data": "local", "local": true });
    assert_eq!(result(at, "send", local).await, json!({ "here": 10 }));
    let probes = |before: f64| gateways[0].metric("wayleave_bus_sent_total") - before;
    let n_local = probes(before);
    assert!(n_local < 3.0, "only probes of its own path, not {n_local}");
    let (n_sent, n_published) = (sent(&gateways), published(&redis).await);
    for n in 0..200 {
        result(at, "send", json!({ "to": ["everyone"], "data": n })).await;
    }
    for (n, client) in clients.iter_mut().enumerate() {
        if n < 10 {
            assert_eq!(client.push().await["message"]["data"], json!("local"));
        }
        for n in 0..200 {
            assert_eq!(client.push().await["message"]["data"], json!(n));
        }
        client.heard_nothing().await;
    }
    let (n_sent, n_published) = (sent(&gateways) - n_sent, published(&redis).await - n_published);
    assert!((200.0..240.0).contains(&n_sent), "{n_sent}");
    assert!((200..240).contains(&n_published), "{n_published}");
}

/// A15.
#[tokio::test]
async fn a15_what_is_for_one_connection_is_heard_by_one_instance() {
    let redis = RedisServer::start().await;
    let gateways = gateways::<3>(&redis, API).await;
    let mut client = gateways[1].client().await;
    let heard = |n: usize| gateways[n].metric("wayleave_bus_received_total");
    let before = [heard(0), heard(1), heard(2)];
    let to = format!("connection:{}", client.id);
    for n in 0..1_000 {
        let router = gateways[0].gateway.router();
        let target = wayleave::config::Target::parse(&to).unwrap();
        router.send(vec![target], Vec::new(), &wayleave::protocol::Payload::Text(n.to_string()), &[], false).unwrap();
    }
    for n in 0..1_000 {
        assert_eq!(client.push().await["message"]["data"], json!(n));
    }
    let after = [heard(0) - before[0], heard(1) - before[1], heard(2) - before[2]];
    assert!(after[1] >= 1_000.0 && after[0] < 50.0 && after[2] < 50.0, "{after:?}");
}

/// U4.
#[tokio::test]
async fn u4_a_message_to_many_users_reaches_them_and_names_none() {
    let redis = RedisServer::start().await;
    let gateways = gateways::<3>(&redis, API).await;
    let mut clients = Vec::new();
    for n in 0..60 {
        clients.push((n, gateways[n % 3].user(&format!("secret-{n}")).await));
    }
    let to: Vec<_> = (0..50).map(|n| format!("user:secret-{n}")).collect();
    result(address(&gateways[0]), "send", json!({ "to": to, "data": "x" })).await;
    result(address(&gateways[0]), "send", json!({ "to": ["everyone"], "data": "end" })).await;
    for (n, client) in &mut clients {
        if *n < 50 {
            assert_eq!(client.push().await, json!({ "message": { "data": "x" } }));
        }
        assert_eq!(client.push().await, json!({ "message": { "data": "end" } }));
    }
}

/// R33.
#[tokio::test]
async fn r33_a_storm_of_retries_on_two_instances_is_one_message() {
    let redis = RedisServer::start().await;
    let gateways = gateways::<2>(&redis, API).await;
    let (mut a, mut b) = (gateways[0].client().await, gateways[1].client().await);
    for client in [&mut a, &mut b] {
        client.join("kept:1").await;
        client.join("plain:1").await;
    }
    for key in 0..10 {
        for (room, answers) in [("kept:1", 1), ("plain:1", 1)] {
            let publish = json!({ "channel": room, "data": key, "idempotency_key": format!("k{key}") });
            let storm = (0..20).map(|n| result(address(&gateways[n % 2]), "publish", publish.clone()));
            let results = futures_util::future::join_all(storm).await;
            assert_eq!(results.iter().map(Value::to_string).collect::<BTreeSet<_>>().len(), answers, "{results:?}");
        }
    }
    for client in [&mut a, &mut b] {
        for key in 0..10 {
            assert_eq!(client.heard("kept:1").await, json!(key));
            assert_eq!(client.heard("plain:1").await, json!(key));
        }
        client.heard_nothing().await;
    }
    let history = result(address(&gateways[1]), "history", json!({ "channel": "kept:1" })).await;
    assert_eq!(history["offset"], json!(10));
}

/// Its name as a target means the user, on whichever instance it is.
#[tokio::test]
async fn a_users_own_room_as_a_target_is_the_user_everywhere() {
    let redis = RedisServer::start().await;
    let more = format!(
        "{API}\n[server]\npersonal_rooms = true\n[[rooms]]\nmatch = \"user:*\"\npublish = \"members\"\n\
         history = {{ size = 10 }}\nrecords = {{}}\n"
    );
    let [a, b] = gateways::<2>(&redis, &more).await;
    let (mut on_a, mut on_b) = (a.user("ada").await, b.user("ada").await);
    result(address(&a), "send", json!({ "to": ["room:user:ada"], "data": 1 })).await;
    for client in [&mut on_a, &mut on_b] {
        assert_eq!(client.heard("user:ada").await, json!(1));
        client.heard_nothing().await;
    }
    let call = json!({ "method": "wayleave.record", "data": { "room": "user:ada", "record": "d", "set": 1 } });
    assert_eq!(on_a.refused("rpc", call).await, 103);
}

#[tokio::test]
async fn what_fits_no_outbox_is_refused_and_closes_nobody() {
    let gateway = TestGateway::start(&format!("{API}{ROOMS}\n[limits]\noutbox = \"128KiB\"\n")).await;
    let at = address(&gateway);
    let mut client = gateway.client().await;
    client.join("plain:1").await;
    client.join("kept:1").await;
    let large = "x".repeat(65 << 10);
    for room in ["plain:1", "kept:1"] {
        assert_eq!(error(at, "publish", json!({ "channel": room, "data": large })).await, 106);
        let both = result(at, "broadcast", json!({ "channels": [room], "data": large })).await;
        assert_eq!(both["responses"][0]["error"]["code"], json!(106), "{both}");
    }
    assert_eq!(error(at, "send", json!({ "to": ["everyone"], "data": large })).await, 106);
    result(at, "publish", json!({ "channel": "plain:1", "data": "small" })).await;
    assert_eq!(client.heard("plain:1").await, json!("small"));
}

/// R20: the answer of Redis is lost, and the one that asked tries again.
#[tokio::test]
async fn a_publish_whose_answer_was_lost_was_heard_once_everywhere() {
    let redis = RedisServer::start().await;
    let proxy = FaultProxy::start(redis.address()).await;
    let more = format!("{API}\n[server]\npersonal_rooms = true\n");
    let a = crate::cluster::gateway(&proxy.url(), "a", &more).await;
    let b = crate::cluster::gateway(&redis.url(), "b", &more).await;
    let (mut on_a, mut on_b) = (a.user("ann").await, b.user("ann").await);
    for client in [&mut on_a, &mut on_b] {
        client.join("plain:1").await;
    }
    for room in ["plain:1", "user:ann"] {
        let publish = json!({ "channel": room, "data": room, "idempotency_key": "k" });
        // Only what is asked is lost: what is heard comes on another connection.
        proxy.freeze_only(Which::Others, Direction::ToClient);
        assert_eq!(error(address(&a), "publish", publish.clone()).await, 100, "the outcome is not known");
        assert_eq!(on_b.heard(room).await, json!(room));
        proxy.heal();
        let router = std::sync::Arc::clone(a.gateway.router());
        until("a is back", async || router.cluster.as_ref().unwrap().trouble().is_none()).await;
        until("the same is answered", async || {
            call(address(&a), "publish", publish.clone()).await.get("result").is_some()
        })
        .await;
        assert_eq!(on_a.heard(room).await, json!(room));
        for client in [&mut on_a, &mut on_b] {
            client.heard_nothing().await;
        }
    }
}

#[tokio::test]
async fn while_redis_is_away_answers_are_stale_and_deeds_are_errors() {
    let mut redis = RedisServer::start().await;
    let [a, _b] = gateways::<2>(&redis, API).await;
    let mut client = a.user("ann").await;
    client.join("live:1").await;
    let at = address(&a);
    redis.kill();
    let router = a.gateway.router();
    eventually("it is noticed", || router.cluster.as_ref().unwrap().trouble().is_some()).await;
    let started = Instant::now();
    let presence = result(at, "presence", json!({ "channel": "live:1" })).await;
    assert_eq!((&presence["stale"], presence["presence"].as_object().unwrap().len()), (&json!(true), 1));
    for (method, parameters) in [
        ("presence_stats", json!({ "channel": "live:1" })),
        ("members", json!({ "channel": "live:1" })),
        ("channels", json!({})),
        ("users", json!({ "users": ["ann"] })),
        ("connections", json!({ "user": "ann" })),
        ("connections", json!({})),
        ("info", json!({})),
    ] {
        assert_eq!(result(at, method, parameters).await["stale"], json!(true), "{method}");
    }
    assert_eq!(error(at, "disconnect", json!({ "user": "ann" })).await, 108);
    assert_eq!(client.closed().await.0, 3503, "here it was done");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn all_instances_load_their_plugins_anew() {
    let redis = RedisServer::start().await;
    let plugin = format!("[[plugins]]\nname = \"p\"\npath = {:?}\n", fixture("echo-call").display().to_string());
    let gateways = gateways::<2>(&redis, &format!("{API}{plugin}")).await;
    let at = address(&gateways[0]);
    let same = result(at, "instances", json!({})).await;
    assert_eq!((&same["differing"], same["instances"].as_array().unwrap().len()), (&json!({}), 2), "{same}");
    let text = std::fs::read_to_string(gateways[1].file()).unwrap();
    std::fs::write(gateways[1].file(), text.replace("echo-call.wat", "pass.wat")).unwrap();
    let all = result(at, "reload", json!({ "all": true })).await;
    assert_eq!((all["answers"].as_array().unwrap().len(), &all["missing"]), (2, &json!([])), "{all}");
    until("the difference shows", async || {
        let differing = result(at, "instances", json!({})).await["differing"].take();
        differing["p"].as_object().is_some_and(|hashes| hashes.len() == 2)
    })
    .await;
    std::fs::write(gateways[1].file(), "[[[").unwrap();
    until("a failure is reported", async || {
        let all = result(at, "reload", json!({ "all": true })).await;
        all["answers"].as_array().unwrap().iter().any(|answer| answer.get("error").is_some())
    })
    .await;
    assert!(result(at, "reload", json!({})).await["generation"].is_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_writes_documents_and_members_hear_of_it() {
    let rooms =
        "[[rooms]]\nmatch = \"doc:*\"\nrecords = { count = 1, size = \"100B\" }\n[[rooms]]\nmatch = \"none:*\"\n";
    let gateway = TestGateway::start(&format!("{API}{rooms}")).await;
    let at = address(&gateway);
    let mut member = gateway.client().await;
    member.join("doc:1").await;
    let write = |more: Value| {
        let mut parameters = json!({ "channel": "doc:1", "record": "d" });
        parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parameters
    };
    assert_eq!(result(at, "record", write(json!({ "set": { "a": 1 } }))).await, json!({ "version": 1 }));
    assert_eq!(
        result(at, "record", write(json!({ "patch": { "b": 2 }, "version": 1 }))).await,
        json!({ "version": 2 })
    );
    let conflict = result(at, "record", write(json!({ "set": 0, "version": 1 }))).await;
    assert_eq!(conflict, json!({ "conflict": true, "version": 2, "data": { "a": 1, "b": 2 } }));
    assert_eq!(member.heard("doc:1").await, json!({ "record": "d", "version": 1, "data": { "a": 1 } }));
    assert_eq!(member.heard("doc:1").await, json!({ "record": "d", "version": 2, "patch": { "b": 2 } }));
    let all = result(at, "records", json!({ "channel": "doc:1" })).await;
    assert_eq!(all["records"]["d"], json!({ "version": 2, "data": { "a": 1, "b": 2 } }));
    // One document of a hundred bytes, and no more.
    assert_eq!(error(at, "record", json!({ "channel": "doc:1", "record": "e", "set": 1 })).await, 106);
    assert_eq!(error(at, "record", write(json!({ "set": "x".repeat(100) }))).await, 106);
    assert_eq!(error(at, "record", write(json!({}))).await, 107);
    assert_eq!(error(at, "records", json!({ "channel": "none:1" })).await, 108);
    assert_eq!(result(at, "record", write(json!({ "delete": true }))).await, json!({ "version": 3 }));
    assert_eq!(member.heard("doc:1").await, json!({ "record": "d", "version": 3, "data": null }));
    // What clients may write, they write under the room's rights.
    let call = json!({ "method": "wayleave.record", "data": { "room": "doc:1", "record": "d", "set": 1 } });
    assert_eq!(member.refused("rpc", call).await, 103);
}
