//! Several instances on one real Redis, in this process.

use std::time::Duration;

use serde_json::{Value, json};
use wayleave::{cluster::envelope::What, config::Target, session::flusher::Batch};

use crate::support::{TestClient, TestGateway, eventually, fixture, redis::RedisServer, until};

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

/// U6: a user's commands are counted over all instances.
#[tokio::test(flavor = "multi_thread")]
async fn u6_a_users_commands_are_limited_over_all_instances() {
    let mut redis = RedisServer::start().await;
    let more = "[limits]\nuser_commands = \"40/2s\"\nuser_commands_down = \"closed\"\n\
                commands_burst = 100000\ncommands_per_second = 100000";
    let gateways = gateways::<3>(&redis, more).await;
    let mut clients = Vec::new();
    for gateway in &gateways {
        clients.push(gateway.user("ann").await);
    }
    let (mut accepted, mut refused, mut closed) = (0, 0, 0);
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        for client in &mut clients {
            let reply = client.ask("publish", json!({ "channel": "plain:1", "data": 1 })).await;
            match reply.get("error") {
                None => accepted += 1,
                // Redis took too long to say.
                Some(error) if error["code"] == 108 => closed += 1,
                Some(error) => {
                    assert_eq!(error["code"], json!(111), "{reply}");
                    assert!(error["message"].as_str().unwrap().contains("try again in"), "{reply}");
                    refused += 1;
                }
            }
        }
    }
    // A full bucket, and what comes in by the time the last was asked.
    let most = 40.0 + 20.0 * start.elapsed().as_secs_f64() + 1.0;
    assert!(f64::from(accepted) <= most, "{accepted} accepted, {most} allowed");
    assert!(
        accepted >= 40 && accepted + closed >= 100 && refused > 0,
        "{accepted} accepted, {refused} refused, {closed} closed"
    );
    redis.stop();
    // What was taken in advance is used up first.
    until("it is refused", async || {
        let asked = std::time::Instant::now();
        let reply = clients[0].ask("publish", json!({ "channel": "plain:1", "data": 1 })).await;
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        matches!(reply["error"]["code"].as_u64(), Some(108 | 111))
    })
    .await;
    redis.cont();
}

/// M11: concurrent merges on two instances all count, and those who follow the
/// patches see the same document.
#[tokio::test(flavor = "multi_thread")]
async fn m11_concurrent_merges_lose_nothing_and_patches_converge() {
    let redis = RedisServer::start().await;
    let more = "[limits]\ncommands_burst = 100000\ncommands_per_second = 100000\n\
                [[rooms]]\nmatch = \"doc:*\"\npublish = \"members\"\nrecords = { count = 4, size = \"64KiB\" }";
    let [a, b] = gateways::<2>(&redis, more).await;
    let mut follower = b.client().await;
    follower.join("doc:1").await;
    let write = |client: TestClient, from: usize| async move {
        let mut client = client;
        client.join("doc:1").await;
        for n in from..from + 100 {
            let patch = json!({ "room": "doc:1", "record": "d", "patch": { format!("k{n}"): n } });
            let reply = client.ask("rpc", json!({ "method": "wayleave.record", "data": patch })).await;
            assert!(reply["rpc"]["data"]["version"].is_u64(), "{reply}");
        }
        client
    };
    let (on_a, on_b) = (a.client().await, b.client().await);
    let (mut on_a, _on_b) = tokio::join!(write(on_a, 0), write(on_b, 100));
    let call = json!({ "method": "wayleave.records", "data": { "room": "doc:1" } });
    let reply = on_a.ask("rpc", call).await;
    let record = &reply["rpc"]["data"]["records"]["d"];
    assert_eq!((&record["version"], record["data"].as_object().unwrap().len()), (&json!(200), 200));
    let mut followed = json!({});
    for version in 1..=200 {
        let change = follower.heard("doc:1").await;
        assert_eq!((&change["record"], &change["version"]), (&json!("d"), &json!(version)));
        let changed = change.get("patch").or(change.get("data")).unwrap();
        followed.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    }
    assert_eq!(followed, record["data"]);
    // A write on an old version is told what is there; a new member gets it all.
    let stale = json!({ "room": "doc:1", "record": "d", "set": 1, "version": 7 });
    let reply = on_a.ask("rpc", json!({ "method": "wayleave.record", "data": stale })).await;
    assert_eq!((&reply["rpc"]["data"]["conflict"], &reply["rpc"]["data"]["version"]), (&json!(true), &json!(200)));
    let mut late = a.client().await;
    late.join("doc:1").await;
    assert_eq!(late.heard("doc:1").await, json!({ "record": "d", "version": 200, "data": followed }));
}

/// The store of a plugin is one for all instances, and so are its quota and the
/// instance that ticks.
#[tokio::test(flavor = "multi_thread")]
async fn plugins_share_their_store_and_one_instance_ticks() {
    let redis = RedisServer::start().await;
    let plugin = |name: &str, fixture_name: &str, more: &str| {
        let path = fixture(fixture_name).display().to_string();
        format!("[[plugins]]\nname = \"{name}\"\npath = {path:?}\n{more}\n")
    };
    let more = format!(
        "{}{}[[rooms]]\nmatch = \"room:*\"\n",
        plugin("count", "counter-kv", "grants = [\"kv\"]\ntimeout = \"2s\""),
        plugin("tick", "tick-sends", "tick = \"1s\"")
    );
    let [a, b] = gateways::<2>(&redis, &more).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    for n in 0..10 {
        let client = if n % 2 == 0 { &mut on_a } else { &mut on_b };
        let reply = client.ask("rpc", json!({ "method": "next", "data": null })).await;
        assert_eq!(reply["rpc"]["data"].to_string().trim_matches('"'), (n + 1).to_string(), "{reply}");
    }
    on_a.join("room:1").await;
    on_b.join("room:1").await;
    for client in [&mut on_a, &mut on_b] {
        assert_eq!(client.heard("room:1").await, json!(1000));
        assert_eq!(client.heard("room:1").await, json!(1000));
    }
    let ticks =
        |gateway: &TestGateway| gateway.metric(r#"wayleave_plugin_call_seconds_count{plugin="tick",hook="tick"}"#);
    let (first, second) = (ticks(&a), ticks(&b));
    assert!((first == 0.0) != (second == 0.0), "{first} and {second} ticks");
    // It is handed over when the instance ends.
    let (mut left, ticking) = if first > 0.0 { (on_b, a) } else { (on_a, b) };
    // Its client does not read its close, so longer than `close_timeout`.
    ticking.gateway.drain(Duration::from_secs(15)).await.unwrap();
    while left.try_push(Duration::from_millis(10)).await.is_ok() {}
    assert_eq!(left.heard("room:1").await, json!(1000));
}

/// Sums are of 64 bits and exact on Redis as in memory, also where Lua's numbers
/// are not.
#[tokio::test(flavor = "multi_thread")]
async fn sums_are_the_same_on_redis_and_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.js");
    let script = r#"
        import { get, increment, set } from "wayleave:plugin/kv";
        const of = (payload) => JSON.parse(payload.val);
        export function call(caller, method, payload) {
            const [before, step] = of(payload);
            if (before !== null) set("n", { tag: "text", val: before });
            const sum = increment(before === null ? "none" : "n", BigInt(step));
            const kept = get(before === null ? "none" : "n");
            const said = JSON.stringify([sum.tag, kept.tag === "value" ? kept.val.val : null]);
            return { tag: "reply", val: { payload: { tag: "text", val: said } } };
        }
    "#;
    std::fs::write(&file, script).unwrap();
    let plugin = format!("[[plugins]]\nname = \"sum\"\npath = {file:?}\ngrants = [\"kv\"]\ntimeout = \"2s\"\n");
    let redis = RedisServer::start().await;
    let [shared] = gateways::<1>(&redis, &plugin).await;
    let alone = TestGateway::start(&plugin).await;
    let (mut on_redis, mut in_memory) = (shared.client().await, alone.client().await);
    let (most, least) = ("9223372036854775807", "-9223372036854775808");
    for (before, step, sum) in [
        ("9007199254740992", "1", Some("9007199254740993")),
        ("9007199254740991", "9007199254740993", Some("18014398509481984")),
        ("-9007199254740993", "-2", Some("-9007199254740995")),
        ("-0", most, Some(most)),
        ("5", "-7", Some("-2")),
        (most, "1", Some(most)),
        (least, "-1", Some(least)),
        (most, least, Some("-1")),
        ("9223372036854775808", "1", None),
        ("1.5", "1", None),
        ("\"1\"", "1", None),
    ] {
        let expected = match sum {
            Some(sum) => json!(["value", sum]),
            None => json!(["not-a-number", before]),
        };
        for (client, place) in [(&mut on_redis, "on Redis"), (&mut in_memory, "in memory")] {
            let reply = client.ask("rpc", json!({ "method": "sum", "data": [before, step] })).await;
            assert_eq!(reply["rpc"]["data"], expected, "{before} and {step} {place}: {reply}");
        }
    }
}

/// With a grace, one whose connection broke off has not left if it is back in
/// time, on whichever instance; one that closes has.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_back_within_the_grace_has_not_left() {
    let redis = RedisServer::start().await;
    let more = "[[rooms]]\nmatch = \"calm:*\"\npresence = true\njoin_leave = \"users\"\npresence_grace = \"6s\"\npublish = \"anyone\"";
    let [a, b] = gateways::<2>(&redis, more).await;
    let mut watcher = b.client().await;
    watcher.join("calm:1").await;
    let mut ann = a.user("ann").await;
    ann.join("calm:1").await;
    assert_eq!(watcher.push().await["join"]["info"]["user"], json!("ann"));
    ann.abort();
    eventually("its end is noticed", || a.hub().n_connections() == 0).await;
    let mut back = b.user("ann").await;
    back.join("calm:1").await;
    // When the broken one is let go, nobody is told.
    eventually("it was let go", || a.hub().n_rooms() == 0).await;
    back.publish("calm:1", json!("still here")).await;
    let push = watcher.push().await;
    assert_eq!(push["pub"]["data"], json!("still here"), "{push}");
    let stats = watcher.ask("presence_stats", json!({ "channel": "calm:1" })).await;
    assert_eq!(stats["presence_stats"]["num_users"], json!(2));
    // One that does not come back leaves when its time is over, one that closes
    // leaves at once.
    back.leave().await;
    let push = watcher.push().await;
    assert_eq!(push["leave"]["info"]["user"], json!("ann"), "{push}");
    let mut eve = a.user("eve").await;
    eve.join("calm:1").await;
    assert_eq!(watcher.push().await["join"]["info"]["user"], json!("eve"));
    eve.abort();
    assert_eq!(watcher.push().await["leave"]["info"]["user"], json!("eve"));
}

/// A user's connections are counted over all instances.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_so_many_connections_on_all_instances_together() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, "[limits]\nconnections_per_user = 2").await;
    let (first, _second) = (a.user("ann").await, b.user("ann").await);
    let hello = json!({ "token": crate::support::token(&json!({ "sub": "ann" })) });
    let mut third = b.socket().await;
    third.say(&json!({ "id": 1, "connect": hello.clone() }).to_string()).await;
    assert_eq!(third.closed().await.0, 3504);
    first.leave().await;
    until("there is room for one again", async || {
        TestClient::try_connect(&b.url(), hello.clone(), Duration::from_secs(5)).await.is_ok()
    })
    .await;

    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, "[limits]\nconnections_per_user = 2\nuser_limit = \"close-oldest\"").await;
    let (mut first, mut second) = (a.user("ann").await, b.user("ann").await);
    let mut third = b.user("ann").await;
    assert_eq!(first.closed().await.0, 3504);
    second.heard_nothing().await;
    third.heard_nothing().await;
}

/// Does something on all instances, as a plugin of this one would.
fn order(gateway: &TestGateway, who: &Target, what: &What<'_>) {
    let router = gateway.gateway.router();
    let mut batch = Batch::new(&router.flusher);
    router.order(&router.generation(), who, what, 0, &mut batch);
}

/// What another instance wants done asks plugins, which take their time; what
/// is heard does not wait for them, and the connection that hears lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_order_with_a_slow_guard_stops_no_live_messages() {
    let redis = RedisServer::start().await;
    let path = fixture("authorize-loops").display().to_string();
    let more = format!(
        "[[plugins]]\nname = \"p\"\npath = {path:?}\ntimeout = \"4s\"\n\
         [[rooms]]\nmatch = \"slow:*\"\nplugins = [\"p\"]\n"
    );
    let [a, b] = gateways::<2>(&redis, &more).await;
    let (mut on_a, mut on_b) = (a.client().await, b.client().await);
    on_b.join("plain:1").await;
    let asked = || b.metric(r#"wayleave_plugin_call_seconds_count{plugin="p",hook="authorize"}"#);
    order(&a, &Target::Connection(on_b.id.clone()), &What::Join("slow:1".into()));
    for n in 0..20 {
        on_a.publish("plain:1", json!(n)).await;
        assert_eq!(on_b.heard("plain:1").await, json!(n));
    }
    assert_eq!(asked(), 0.0, "the guard is still thinking");
    eventually("the guard was asked", || asked() > 0.0).await;
    assert_eq!(b.metric(r#"wayleave_bus_links_lost_total{reason="subscribe"}"#), 0.0);
}

/// Two plugins, or one with itself, that undo each other's actions come to an
/// end, also where each action is carried out on another instance.
#[tokio::test]
async fn actions_that_cause_each_other_come_to_an_end_over_all_instances() {
    let redis = RedisServer::start().await;
    let path = fixture("observe-bounce").display().to_string();
    let more =
        format!("[[plugins]]\nname = \"p\"\npath = {path:?}\n[[rooms]]\nmatch = \"room:*\"\nplugins = [\"p\"]\n");
    let [a, b] = gateways::<2>(&redis, &more).await;
    let (mut on_a, mut on_b) = (a.user("ann").await, b.user("ann").await);
    on_b.join("plain:1").await;
    on_a.join("room:1").await;
    for gateway in [&a, &b] {
        eventually("it was told to stop", || gateway.metric("wayleave_actions_failed_total") > 0.0).await;
    }
    // Whatever bounced on would be far by now.
    for n in 0..50 {
        on_a.publish("plain:1", json!(n)).await;
        assert_eq!(on_b.heard("plain:1").await, json!(n));
    }
    for gateway in [&a, &b] {
        let told = gateway.metric(r#"wayleave_plugin_call_seconds_count{plugin="p",hook="observe"}"#);
        assert!(told < 10.0, "{told} times");
    }
}

/// A reload that changes whether all instances know who is in a room counts for
/// those who are in there: nobody stays behind, nobody is missing.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_a_room_is_known_as_the_config_has_it_now() {
    let redis = RedisServer::start().await;
    let more = "[limits]\ncommands_burst = 100000\ncommands_per_second = 100000\n\
                [[rooms]]\nmatch = \"now:*\"\npresence = true\n";
    let [a, b] = gateways::<2>(&redis, more).await;
    let on = std::fs::read_to_string(a.file()).unwrap();
    let off = on.replace("match = \"now:*\"\npresence = true", "match = \"now:*\"\npresence = false");
    assert_ne!(on, off);
    let mut watcher = b.client().await;
    watcher.join("now:1").await;
    let mut n_seen = async |n: u64| {
        until("they are seen", async || {
            let stats = watcher.ask("presence_stats", json!({ "channel": "now:1" })).await;
            stats["presence_stats"]["num_clients"] == n
        })
        .await;
    };
    let (mut ann, mut eve) = (a.user("ann").await, a.user("eve").await);
    ann.join("now:1").await;
    n_seen(2).await;
    a.reload_with(&off).await;
    n_seen(1).await;
    // One comes and one goes while it is off.
    eve.join("now:1").await;
    ann.leave().await;
    eventually("she has left", || a.hub().count("now:1").0 == 1).await;
    a.reload_with(&on).await;
    n_seen(2).await;
    eve.leave().await;
    n_seen(1).await;
}

/// A publish that is answered with "not delivered" was not, also not by a
/// route; and a copy that cannot be kept is counted.
#[tokio::test]
async fn a_full_redis_lets_no_copy_out_of_what_it_does_not_keep() {
    let redis = RedisServer::start().await;
    let more = "[[routes]]\nroom = \"kept:from\"\nto = [\"room:plain:copy\", \"room:kept:copy\"]\n\
                [[routes]]\nroom = \"plain:from\"\nto = [\"room:kept:copy\"]\n";
    let [a, b] = gateways::<2>(&redis, more).await;
    let (mut client, mut here, mut there) = (a.client().await, a.client().await, b.client().await);
    for member in [&mut here, &mut there] {
        member.join("plain:copy").await;
        member.join("kept:copy").await;
    }
    client.publish("kept:from", json!(1)).await;
    for member in [&mut here, &mut there] {
        let mut rooms = [member.push().await, member.push().await].map(|push| push["channel"].clone().to_string());
        rooms.sort();
        assert_eq!(rooms, ["\"kept:copy\"", "\"plain:copy\""]);
    }
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(client.refused("publish", json!({ "channel": "kept:from", "data": 2 })).await, 108);
    for member in [&mut here, &mut there] {
        member.heard_nothing().await;
    }
    let lost = || a.metric("wayleave_copies_lost_total");
    assert!(lost() < 0.1);
    client.publish("plain:from", json!(3)).await;
    eventually("a copy that is lost is counted", || lost() > 0.9).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    client.publish("kept:from", json!(4)).await;
    for member in [&mut here, &mut there] {
        for _ in 0..2 {
            assert_eq!(member.push().await["pub"]["data"], json!(4));
        }
        member.heard_nothing().await;
    }
}
