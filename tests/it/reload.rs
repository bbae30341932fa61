//! Replacing plugins and config while traffic flows.

use std::path::Path;

use serde_json::json;
use wayleave::reload::Outcome;

use crate::support::{TestGateway, eventually, fixture, plugin_config};

/// Puts a fixture in a place as publishers should: whole, by a rename.
fn put(name: &str, place: &Path) {
    let beside = place.with_extension("part");
    std::fs::copy(fixture(name), &beside).unwrap();
    std::fs::rename(beside, place).unwrap();
}

async fn with_file(name: &str, more: &str) -> (TestGateway, std::path::PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("p.wat");
    put(name, &place);
    (TestGateway::start(&plugin_config(&place, "", more)).await, place, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_plugin_goes_live_by_itself_on_open_connections() {
    let (gateway, place, _folder) = with_file("stamp-a", "").await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    client.publish("room:1", json!(1)).await;
    assert_eq!(client.heard("room:1").await["stamp"], "a");
    let hashes = gateway.gateway.reloader().running().hashes();
    assert!(
        hashes["p"].len() == 16 && gateway.gateway.reloader().running().plugins[0].hash().starts_with(&hashes["p"])
    );
    put("stamp-b", &place);
    eventually("the second generation is live", || gateway.gateway.reloader().running().number == 2).await;
    client.publish("room:1", json!(1)).await;
    let push = client.push().await;
    assert_eq!(push["pub"]["data"]["stamp"], "b");
    assert_eq!(push["pub"]["tags"], json!({ "generation": "2", "plugins": "p@2" }));
    assert_eq!(gateway.metric(r#"wayleave_plugin_generation{plugin="p"}"#), 2.0);
    assert_ne!(gateway.gateway.reloader().running().hashes(), hashes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_config_goes_live_by_itself_on_open_connections() {
    let config = "[[rooms]]\nmatch = \"*\"\npublish = \"members\"\n";
    let gateway = TestGateway::start(config).await;
    let (mut client, mut audit) = (gateway.client().await, gateway.client().await);
    client.join("orders:1").await;
    audit.join("audit").await;
    client.publish("orders:1", json!(1)).await;
    audit.heard_nothing().await;
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    let more = "\n[[routes]]\nroom = \"orders:*\"\nto = [\"room:audit\"]\n";
    std::fs::write(gateway.file(), text.clone() + more).unwrap();
    eventually("the rule is live", || gateway.gateway.reloader().running().number == 2).await;
    client.publish("orders:1", json!(2)).await;
    assert_eq!(audit.heard("audit").await, 2);
    // A right that is taken away holds for those who are in.
    let text = text.replace("publish = \"members\"", "publish = \"nobody\"");
    assert_eq!(gateway.reload_with(&text).await, Outcome::Replaced(3));
    assert_eq!(client.refused("publish", json!({ "channel": "orders:1", "data": 3 })).await, 103);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_config_or_plugin_never_replaces_a_good_one() {
    let (gateway, place, _folder) = with_file("stamp-a", "").await;
    let mut client = gateway.client().await;
    client.join("room:1").await;
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    let reload = async || gateway.gateway.reloader().reload("a test").await;
    for (name, reason) in [("no-hooks", "no hook"), ("init-fails", "settings are missing"), ("wants-kv", "kv")] {
        put(name, &place);
        let Outcome::Failed(why) = reload().await else { panic!("{name} went live") };
        assert!(why.contains("plugin `p`") && why.contains(reason), "{why}");
        assert!(gateway.gateway.reloader().status().borrow().error.as_ref().unwrap().contains(reason));
    }
    let whole = wat::parse_file(fixture("stamp-b")).unwrap();
    std::fs::write(&place, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(reload().await, Outcome::Failed(_)));
    put("stamp-a", &place);
    let Outcome::Failed(why) = gateway.reload_with("[server]\nlisten = 5\nwat = 1\n").await else { panic!() };
    assert!(why.contains("line 2: server.listen") && why.contains("line 3: server.wat"), "{why}");
    std::fs::remove_file(gateway.file()).unwrap();
    assert!(matches!(reload().await, Outcome::Failed(_)));
    // All the while the first one serves, and mended, it is found unchanged.
    client.publish("room:1", json!(1)).await;
    assert_eq!(client.push().await["pub"]["tags"]["generation"], "1");
    assert!(gateway.metric(r#"wayleave_reloads_total{outcome="failed"}"#) >= 6.0);
    assert_eq!(gateway.reload_with(&text).await, Outcome::Unchanged);
    assert_eq!(gateway.gateway.reloader().status().borrow().error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_change_is_taken_over() {
    let (gateway, _place, _folder) = with_file("stamp-a", "").await;
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    assert_eq!(gateway.reload_with(&format!("{text}\n# a comment\n")).await, Outcome::Unchanged);
    let before = gateway.gateway.reloader().running();
    let other = text.replace("presence = true", "presence = false");
    assert_eq!(gateway.reload_with(&other).await, Outcome::Replaced(2));
    let after = gateway.gateway.reloader().running();
    assert!(std::sync::Arc::ptr_eq(&before.plugins[0], &after.plugins[0]));
    let settings = format!("{other}\n[plugins.settings]\nwords = [\"x\"]\n");
    // `[metrics]` stands last in the file, so the settings must come before it.
    let settings = settings
        .replace("\n[metrics]", "\n[plugins.settings]\nx = 1\n[metrics]")
        .replace("\n[plugins.settings]\nwords = [\"x\"]\n", "");
    assert_eq!(gateway.reload_with(&settings).await, Outcome::Replaced(3));
    assert_eq!(gateway.gateway.reloader().running().plugins[0].generation(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn through_many_reloads_under_load_no_message_is_lost_doubled_or_of_two_generations() {
    const MESSAGES: u64 = 3_000;
    let limits = "[limits]\ncommands_burst = 1000000\ncommands_per_second = 1000000\n";
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("p.wat");
    put("pass", &place);
    // On a crowded machine a call may wait long for its turn; that is not what this is about.
    let gateway = TestGateway::start(&plugin_config(&place, "timeout = \"5s\"", limits)).await;
    let mut readers = Vec::new();
    for _ in 0..10 {
        let mut reader = gateway.client().await;
        reader.join("room:1").await;
        readers.push(reader);
    }
    let senders: Vec<_> = {
        let mut senders = Vec::new();
        for sender in 0..2_u64 {
            let mut client = gateway.client().await;
            client.join("room:1").await;
            senders.push(tokio::task::spawn(async move {
                for n in 0..MESSAGES {
                    client.publish("room:1", json!([sender, n])).await;
                }
            }));
        }
        senders
    };
    let reading: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            tokio::task::spawn(async move {
                let (mut next, mut generations) = ([0; 2], Vec::new());
                for _ in 0..2 * MESSAGES {
                    let push = reader.push().await;
                    let data = &push["pub"]["data"];
                    let sender = usize::try_from(data[0].as_u64().unwrap()).unwrap();
                    assert_eq!(data[1], next[sender], "lost or doubled");
                    next[sender] += 1;
                    let tags = &push["pub"]["tags"];
                    let generation: u64 = tags["generation"].as_str().unwrap().parse().unwrap();
                    assert_eq!(tags["plugins"], format!("p@{generation}"), "of two generations");
                    generations.push((sender, generation));
                }
                // Seen by a sender's messages, generations only ever grow.
                for sender in 0..2 {
                    let own: Vec<_> = generations.iter().filter(|(of, _)| *of == sender).map(|(_, n)| *n).collect();
                    assert!(own.is_sorted(), "sender {sender} went back a generation");
                }
                generations.into_iter().map(|(_, generation)| generation).max().unwrap()
            })
        })
        .collect();
    let mut reloads = 1;
    while !senders.iter().all(tokio::task::JoinHandle::is_finished) {
        // The content changes each time, by a comment.
        let text = std::fs::read_to_string(fixture("pass")).unwrap();
        std::fs::write(&place, format!("{text}\n;; {reloads}\n")).unwrap();
        if let Outcome::Replaced(generation) = gateway.gateway.reloader().reload("a test").await {
            reloads = generation;
        }
    }
    for sender in senders {
        sender.await.unwrap();
    }
    for reader in reading {
        assert!(reader.await.unwrap() > 1);
    }
    assert!(reloads > 3, "only {reloads} reloads");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_plugin_does_not_lose_its_guard_unseen() {
    let (gateway, place, _folder) = with_file("deny", "").await;
    put("pass", &place);
    let Outcome::Failed(why) = gateway.gateway.reloader().reload("a test").await else { panic!("the room is open") };
    assert!(why.contains("lost its `authorize` hook") && why.contains("hooks = [\"transform\"]"), "{why}");
    let mut client = gateway.client().await;
    client.refused("subscribe", json!({ "channel": "room:1" })).await;
    // Said in the config, it is meant.
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    let text = text.replace("name = \"p\"", "name = \"p\"\nhooks = [\"transform\"]");
    // Unless the watcher was quicker.
    assert!(matches!(gateway.reload_with(&text).await, Outcome::Replaced(2) | Outcome::Unchanged));
    assert_eq!(gateway.gateway.reloader().running().number, 2);
    client.join("room:1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_made_anew_is_still_watched() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("dist");
    std::fs::create_dir(&folder).unwrap();
    let place = folder.join("p.wat");
    put("stamp-a", &place);
    let gateway = TestGateway::start(&plugin_config(&place, "", "")).await;
    for (n, name) in ["stamp-b", "stamp-a", "stamp-b"].into_iter().enumerate() {
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::create_dir(&folder).unwrap();
        put(name, &place);
        let wanted = n as u64 + 2;
        eventually("the next generation is live", || gateway.gateway.reloader().running().number >= wanted).await;
    }
}
