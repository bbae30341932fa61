//! What plugins decide, and the gateway does.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wayleave::{
    config::Config,
    generation::Generation,
    hub::Hub,
    metrics::Metrics,
    plugin::{Answer, Caller, KvStore, Lookup, MemoryStore, NotStored, Plugin, PluginHost, Unavailable},
    protocol::{MemberInfo, Payload},
    reload::Outcome,
    router::{HubLookup, Router, Surroundings, Ticker, Turn},
    session::flusher::Flusher,
};

use crate::support::{TestGateway, eventually, fixture};

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

/// What instances share, while it cannot be reached.
#[derive(Debug)]
struct Away;

impl KvStore for Away {
    fn get(&self, _plugin: &str, _key: &str) -> Result<Option<Payload>, Unavailable> {
        Err(Unavailable)
    }
    fn set(&self, _: &str, _: &str, _: Payload, _: Option<Duration>, _: usize) -> Result<(), NotStored> {
        Err(NotStored::Unavailable)
    }
    fn delete(&self, _plugin: &str, _key: &str) -> Result<bool, Unavailable> {
        Err(Unavailable)
    }
    fn increment(&self, _: &str, _: &str, _: i64, _: Option<Duration>, _: usize) -> Result<i64, NotStored> {
        Err(NotStored::Unavailable)
    }
}

impl Lookup for Away {
    fn count(&self, _room: &str) -> Result<(usize, usize), Unavailable> {
        Err(Unavailable)
    }
    fn members(&self, _room: &str, _limit: usize) -> Result<Vec<MemberInfo>, Unavailable> {
        Err(Unavailable)
    }
    fn connections(&self, _user: &str) -> Result<Vec<String>, Unavailable> {
        Err(Unavailable)
    }
}

fn plugin_on(name: &str, store: Arc<dyn KvStore>, lookup: Arc<dyn Lookup>) -> Arc<Plugin> {
    let path = fixture(name).display().to_string();
    let text = format!("[[plugins]]\nname = \"p\"\npath = {path:?}\ngrants = [\"kv\", \"lookup\"]\n");
    let config = Config::parse(&text, Path::new("/"), &Default::default()).unwrap();
    let host = PluginHost::open(None, store, lookup, Metrics::new()).unwrap();
    host.load(&config.plugins, &[]).unwrap().remove(0)
}

#[track_caller]
fn check_answer(plugin: &Plugin, method: &str, expected: &str) {
    let caller = Caller { connection: "c", user: "", info: "" };
    let answer = plugin.answer(caller, method, &Payload::Text("null".into())).unwrap();
    assert!(matches!(&answer, Answer::Reply(text, _) if text.to_json() == expected), "{answer:?}");
}

#[test]
fn what_instances_share_may_be_unavailable_and_is_not_taken_for_nothing() {
    let store = Arc::new(MemoryStore::default());
    store.set("p", "there", Payload::Text("1".into()), None, 100).unwrap();
    store.set("q", "elsewhere", Payload::Text("1".into()), None, 100).unwrap();
    let plugin = plugin_on("reads", store, Arc::new(HubLookup(Arc::new(Hub::new()))));
    check_answer(&plugin, "there", "[0,0,0,0]");
    check_answer(&plugin, "elsewhere", "[1,0,0,0]");
    let plugin = plugin_on("reads", Arc::new(Away), Arc::new(Away));
    check_answer(&plugin, "there", "[2,1,1,1]");
    // A counter that does not count is told so.
    let plugin = plugin_on("counter-kv", Arc::new(Away), Arc::new(Away));
    let caller = Caller { connection: "c", user: "", info: "" };
    let answer = plugin.answer(caller, "count", &Payload::Text("null".into())).unwrap();
    assert!(matches!(&answer, Answer::Refuse(refusal) if refusal.code == 507), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_asked_every_period_until_a_reload_without_it() {
    let gateway = TestGateway::with_callee("tick-sends", "tick = \"1s\"").await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    for _ in 0..2 {
        assert_eq!(client.heard("room:1").await, 1000);
    }
    // Replaced while it ticks, it neither stops nor ticks twice.
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    let ticks = || gateway.metric(r#"wayleave_plugin_call_seconds_count{plugin="p",hook="tick"}"#);
    let (before, start) = (ticks(), std::time::Instant::now());
    for n in 2..12 {
        let other = text.replace("tick = \"1s\"", &format!("tick = \"1s\"\nhost_calls = {n}"));
        assert!(matches!(gateway.reload_with(&other).await, Outcome::Replaced(_)));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.heard("room:1").await;
    assert!(ticks() - before <= start.elapsed().as_secs_f64() + 1.0);
    let without = text.split("[[plugins]]").next().unwrap();
    assert!(matches!(gateway.reload_with(without).await, Outcome::Replaced(_)));
    client.ask("ping", json!({})).await;
    // One that was under way has arrived before the pause is over.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = ticks();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(ticks(), after);
}

#[derive(Debug)]
struct Switch(AtomicBool);

impl Turn for Switch {
    fn is_mine(&self, job: &str) -> bool {
        assert_eq!(job, "tick:p");
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_instance_whose_turn_it_is_ticks_and_a_failed_tick_is_counted() {
    let path = fixture("tick-traps").display().to_string();
    let text = format!("[[plugins]]\nname = \"p\"\npath = {path:?}\ntick = \"1s\"\n");
    let config = Config::parse(&text, Path::new("/"), &Default::default()).unwrap();
    let (hub, metrics) = (Arc::new(Hub::new()), Metrics::new());
    let lookup = Arc::new(HubLookup(Arc::clone(&hub)));
    let host = PluginHost::open(None, Arc::new(MemoryStore::default()), lookup, metrics.clone()).unwrap();
    let generation = Arc::new(Generation::build(config, &host, None).unwrap());
    let router =
        Arc::new(Router::new(hub, Arc::new(Flusher::new(1)), metrics, Arc::clone(&generation), Surroundings::alone()));
    let (turn, tasks, stop) = (Arc::new(Switch(AtomicBool::new(false))), TaskTracker::new(), CancellationToken::new());
    tasks.spawn(Ticker::new(router, Arc::clone(&turn) as _, tasks.clone()).run(stop.clone()));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let plugin = &generation.plugins[0];
    assert_eq!(plugin.failures(), 0, "it was somebody else's turn");
    turn.0.store(true, Ordering::Relaxed);
    eventually("a tick failed", || plugin.failures() > 0).await;
    // A failure ends a guest and not the ticking.
    eventually("another one failed", || plugin.failures() > 1).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
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
