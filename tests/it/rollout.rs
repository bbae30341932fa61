//! From one content of a plugin to the next, and what becomes of one that fails.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use wayleave::reload::Outcome;

use crate::support::{TestClient, TestGateway, eventually, fixture, plugin_config, until};

/// A plugin in a file of its own, which can be replaced.
struct Swapped {
    _folder: tempfile::TempDir,
    file: PathBuf,
}

impl Swapped {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let this = Self { file: folder.path().join("p.wat"), _folder: folder };
        this.put(name);
        this
    }

    fn put(&self, name: &str) {
        let beside = self.file.with_extension("part");
        std::fs::copy(fixture(name), &beside).unwrap();
        std::fs::rename(beside, &self.file).unwrap();
    }

    async fn reload(&self, gateway: &TestGateway, name: &str) {
        self.put(name);
        // The gateway watches the file as well: whoever comes first.
        let outcome = gateway.gateway.reloader().reload("a test").await;
        assert!(!matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    }
}

fn phase(gateway: &TestGateway) -> &'static str {
    gateway.gateway.reloader().running().plugins[0].phase().key()
}

/// What a message in this room becomes, and who is said to have handled it.
async fn said(client: &mut TestClient, room: &str) -> (Value, String) {
    client.publish(room, json!(1)).await;
    let push = client.push().await;
    (push["pub"]["data"]["stamp"].clone(), push["pub"]["tags"]["plugins"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_has_its_share_of_the_rooms_and_then_all() {
    let plugin = Swapped::new("stamp-a");
    let rollout = "[plugins.rollout]\nshare = 30\nfor = \"1h\"\n";
    let more = "[limits]\ncommands_per_second = 10000\ncommands_burst = 10000\n";
    let config = plugin_config(&plugin.file, rollout, more);
    let gateway = TestGateway::start(&config).await;
    assert_eq!(phase(&gateway), "settled");
    let mut client = gateway.client().await;
    let rooms: Vec<_> = (0..60).map(|n| format!("room:{n}")).collect();
    for room in &rooms {
        client.join(room).await;
        assert_eq!(said(&mut client, room).await, (json!("a"), "p@1".to_owned()));
    }
    plugin.reload(&gateway, "stamp-b").await;
    assert_eq!(phase(&gateway), "canary");
    let mut new = BTreeSet::new();
    for room in &rooms {
        let (stamp, by) = said(&mut client, room).await;
        assert!((stamp == "a" && by == "p@1") || (stamp == "b" && by == "p@2"), "{room}: {stamp} {by}");
        if stamp == "b" {
            new.insert(room);
        }
    }
    assert!((5..=30).contains(&new.len()), "{} of 60 rooms", new.len());
    for room in &rooms {
        let is_new = said(&mut client, room).await.0 == "b";
        assert_eq!(is_new, new.contains(room), "{room} has changed sides");
    }
    // What takes its place next begins from what most have.
    plugin.reload(&gateway, "stamp-a").await;
    for room in &rooms {
        assert_eq!(said(&mut client, room).await.0, "a");
    }
    // With another config it takes its place at once: what an operator changes holds.
    plugin.put("stamp-b");
    std::fs::write(
        gateway.file(),
        std::fs::read_to_string(gateway.file()).unwrap().replace("share = 30", "share = 20"),
    )
    .unwrap();
    until("all have it", async || gateway.gateway.reloader().reload("a test").await == Outcome::Unchanged).await;
    assert_eq!(phase(&gateway), "settled");
    assert_eq!(said(&mut client, &rooms[0]).await.0, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_time_a_canary_has_all_rooms() {
    let plugin = Swapped::new("stamp-a");
    let config = plugin_config(&plugin.file, "[plugins.rollout]\nshare = 1\nfor = \"50ms\"\n", "");
    let gateway = TestGateway::start(&config).await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    plugin.reload(&gateway, "stamp-b").await;
    until("it has come to all", async || said(&mut client, "room:1").await.0 == "b").await;
    until("the one before is gone", async || {
        said(&mut client, "room:1").await;
        phase(&gateway) == "settled"
    })
    .await;
}

/// One that traps where the one before did not is taken back, and nobody is
/// refused from then on; a mended one gets its turn.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_more_than_the_one_before_is_withdrawn() {
    let plugin = Swapped::new("stamp-a");
    let gateway = TestGateway::start(&plugin_config(&plugin.file, "", "")).await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    for _ in 0..10 {
        assert_eq!(said(&mut client, "room:1").await.0, "a");
    }
    plugin.reload(&gateway, "trap").await;
    let mut refused = 0;
    while phase(&gateway) == "watched" {
        let reply = client.ask("publish", json!({ "channel": "room:1", "data": 1 })).await;
        refused += u32::from(!reply["error"].is_null());
        assert!(refused < 10, "it is not withdrawn");
    }
    assert_eq!((phase(&gateway), refused), ("withdrawn", 5));
    for _ in 0..10 {
        assert_eq!(said(&mut client, "room:1").await, (json!("a"), "p@1".to_owned()));
    }
    assert_eq!(gateway.metric("wayleave_plugins_withdrawn_total{plugin=\"p\"}"), 1.0);
    // The same content once more changes nothing; another one does.
    plugin.reload(&gateway, "trap").await;
    assert_eq!(phase(&gateway), "withdrawn");
    plugin.reload(&gateway, "stamp-b").await;
    assert_eq!(said(&mut client, "room:1").await.0, "b");
    assert_eq!(phase(&gateway), "watched");
}

/// Saves that come faster than a plugin is watched keep the last ones, not all.
#[tokio::test(flavor = "multi_thread")]
async fn predecessors_do_not_pile_up() {
    let plugin = Swapped::new("stamp-a");
    let gateway = TestGateway::start(&plugin_config(&plugin.file, "", "")).await;
    let mut seen = Vec::new();
    for name in ["stamp-b", "stamp-a"].repeat(4) {
        seen.push(Arc::downgrade(&gateway.gateway.reloader().running().plugins[0]));
        plugin.reload(&gateway, name).await;
    }
    assert_eq!(phase(&gateway), "watched");
    // The one before, which a rollback of the config would bring back too.
    eventually("the others are gone", || seen.iter().filter(|plugin| plugin.strong_count() > 0).count() <= 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_can_be_turned_off() {
    let plugin = Swapped::new("pass");
    let rollout = "breaker = false\n[plugins.rollout]\nrollback = false\n";
    let gateway = TestGateway::start(&plugin_config(&plugin.file, rollout, "")).await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    plugin.reload(&gateway, "trap").await;
    for _ in 0..50 {
        let reply = client.ask("publish", json!({ "channel": "room:1", "data": 1 })).await;
        assert_eq!(reply["error"]["code"], 100);
    }
    assert_eq!(phase(&gateway), "watched");
}

/// A plugin that always fails is not asked each time; what its policy says holds
/// as before, and it is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_always_fails_rests() {
    let more = "[limits]\ncommands_per_second = 10000\ncommands_burst = 10000\n";
    let gateway = TestGateway::start(&plugin_config(&fixture("trap"), "on_failure = \"open\"", more)).await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    let failed = |kind: &str| {
        gateway.metric(&format!("wayleave_plugin_failures_total{{plugin=\"p\",hook=\"transform\",kind=\"{kind}\"}}"))
    };
    for n in 0..30 {
        client.publish("room:1", json!(n)).await;
        assert_eq!(client.heard("room:1").await, json!(n), "failures are open here");
    }
    assert_eq!((failed("trap"), failed("resting")), (20.0, 10.0));
    let mut n = 30;
    until("it is tried again", async || {
        client.publish("room:1", json!(n)).await;
        assert_eq!(client.heard("room:1").await, json!(n));
        n += 1;
        failed("trap") > 20.0
    })
    .await;
    eventually("once", || failed("trap") == 21.0).await;
}
