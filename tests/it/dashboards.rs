//! Row A11: every query of the dashboard and of the alerts names metrics that a
//! live instance has.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use crate::support::{fixture, instance::Instance, plugin_config, redis::RedisServer, until};

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap()
}

/// The metrics that a query names.
fn metrics(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("wayleave_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Every string under this key, wherever it stands.
fn strings_under(key: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match value {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => strings_under(key, value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| strings_under(key, item, found)),
        _ => {}
    }
}

/// The names of what a scrape holds, and the labels that each has somewhere.
fn scraped(text: &str) -> BTreeSet<String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_names_metrics_that_a_live_instance_has() {
    let redis = RedisServer::start().await;
    let api = "[api]\nkeys = [{ name = \"a\", key = \"0123456789abcdef\" }]\n";
    let config = plugin_config(&fixture("trap"), "", api);
    let instance = Instance::start(&config, Some(&redis.url()), "a").await;
    instance.ready().await;
    let (mut ada, mut gone) = (instance.user("ada").await, instance.client().await);
    ada.join("room:1").await;
    ada.join("free:1").await;
    ada.publish("free:1", json!(1)).await;
    // Its plugin fails; a client breaks the protocol; a server has no key.
    assert_eq!(ada.refused("publish", json!({ "channel": "room:1", "data": 1 })).await, 100);
    gone.say("what?").await;
    gone.closed().await;
    let _no_key = instance.get("/api/info").await.unwrap();
    let scrape = async || scraped(&instance.get("/metrics").await.unwrap().1);
    until("a close is counted", async || scrape().await.contains("wayleave_closes_total")).await;
    let has = scrape().await;

    let dashboard: Value = serde_json::from_str(&read("grafana/dashboard.json")).unwrap();
    let mut queries = Vec::new();
    strings_under("expr", &dashboard, &mut queries);
    strings_under("query", &dashboard["templating"], &mut queries);
    assert!(queries.len() > 40, "{}", queries.len());
    let alerts = read("prometheus/alerts.yml");
    let rules: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(rules.len() > 8);
    assert_eq!(rules.len(), alerts.matches("- alert: ").count());
    queries.extend(rules.into_iter().map(str::to_owned));

    let named: BTreeSet<String> = queries.iter().flat_map(|query| metrics(query)).collect();
    let unknown: Vec<_> = named.difference(&has).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {has:#?}");
    for query in &queries {
        let is_plain = ["prometheus", "up{job=\"wayleave\"} == 0"].contains(&query.as_str());
        assert!(is_plain || !metrics(query).is_empty(), "{query}");
        // A parenthesis too few is the commonest mistake of all.
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(query.matches(open).count(), query.matches(close).count(), "{query}");
        }
    }
    // What is counted is shown: nothing is exported that no panel has.
    let shown = |name: &&String| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        !named.iter().any(|named| named.starts_with(base))
    };
    let hidden: Vec<_> = has.iter().filter(shown).collect();
    assert_eq!(hidden, ["process_virtual_memory_bytes"]);
}

/// What docs/operations.md says of alerts is said of those that there are.
#[test]
fn every_alert_is_explained() {
    let alerts = read("prometheus/alerts.yml");
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(page.contains(&format!("`{alert}`")), "{alert}");
    }
}
