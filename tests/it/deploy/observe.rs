//! The profile `observe` of `compose.yaml`: what can be seen of it without
//! running a container.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_yaml_ng::Value;
use wayleave::config::Config;

use super::{COMPOSE, config, folder, manifest};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(path: &Path) -> Value {
    serde_yaml_ng::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compose() -> Value {
    yaml(&folder().join(COMPOSE))
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is a text"))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_sequence().into_iter().flatten().map(text).collect()
}

fn networks<'a>(compose: &'a Value, service: &str) -> BTreeSet<&'a str> {
    texts(&compose["services"][service]["networks"]).into_iter().collect()
}

/// What of this repository stands at a path of a service's container.
#[track_caller]
fn mounted(compose: &Value, service: &str, path: &str) -> PathBuf {
    let mounts = texts(&compose["services"][service]["volumes"]);
    let found = mounts.iter().find_map(|mount| {
        let (source, target) = mount.split_once(':')?;
        let rest = path.strip_prefix(target.trim_end_matches(":ro"))?;
        Some(folder().join(source.strip_prefix("./")?).join(rest.trim_start_matches('/')))
    });
    found.unwrap_or_else(|| panic!("{service} has nothing at {path}"))
}

/// The container's port of the only one that is published.
#[track_caller]
fn published(compose: &Value, service: &str) -> String {
    let ports = texts(&compose["services"][service]["ports"]);
    assert_eq!(ports.len(), 1, "{service}");
    ports[0].rsplit(':').next().unwrap().to_owned()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => files(&path, found),
            Some("yaml" | "yml") => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn all_manifests_can_be_read() {
    let mut found = Vec::new();
    files(&folder(), &mut found);
    assert!(found.len() > 10, "{found:?}");
    for path in found {
        for document in serde_yaml_ng::Deserializer::from_str(&read(&path)) {
            let value = Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(value.is_mapping(), "{}", path.display());
        }
    }
}

#[test]
fn compose_publishes_on_this_machine_alone_and_mounts_what_there_is() {
    let compose = compose();
    let (mut observing, named) = (BTreeSet::new(), |kind: &str, name: &str| compose[kind].get(name).is_some());
    for (service, it) in compose["services"].as_mapping().unwrap() {
        let service = text(service);
        for port in texts(&it["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{service}: {port}");
        }
        for mount in texts(&it["volumes"]) {
            let source = mount.split(':').next().unwrap();
            let is_there = match source.strip_prefix("./") {
                Some(path) => folder().join(path).exists() && mount.ends_with(":ro"),
                None => named("volumes", source),
            };
            assert!(is_there, "{service}: {mount}");
        }
        assert!(!networks(&compose, service).is_empty(), "{service}: without one it is in the default network");
        assert!(networks(&compose, service).iter().all(|network| named("networks", network)), "{service}");
        if it.get("profiles").is_some() {
            assert_eq!(texts(&it["profiles"]), ["observe"]);
            observing.insert(service);
        }
    }
    assert_eq!(observing, BTreeSet::from(["grafana", "prometheus"]));
}

#[test]
fn prometheus_scrapes_the_gateways_and_judges_by_the_alerts() {
    let compose = compose();
    let file = texts(&compose["services"]["prometheus"]["command"])
        .into_iter()
        .find_map(|argument| argument.strip_prefix("--config.file="))
        .unwrap();
    let here = mounted(&compose, "prometheus", file);
    let its = yaml(&here);
    for rules in texts(&its["rule_files"]) {
        assert!(yaml(&here.with_file_name(rules))["groups"].is_sequence());
    }
    let job = &its["scrape_configs"][0];
    // Alerts and dashboard name the job.
    assert_eq!(text(&job["job_name"]), "wayleave");
    let names = &job["dns_sd_configs"][0];
    assert_eq!((texts(&names["names"]), text(&names["type"])), (vec!["gateway"], "A"));
    let listens = config(&manifest(COMPOSE)).server.listen;
    assert_eq!(names["port"].as_u64(), Some(listens.port().into()));
    assert!(job.get("metrics_path").is_none() && job.get("scheme").is_none(), "/metrics over http");
    // It reaches them, and Redis does not hear of it.
    let shared: Vec<_> =
        networks(&compose, "prometheus").intersection(&networks(&compose, "gateway")).copied().collect();
    assert_eq!(shared, ["scraped"]);
    assert_eq!(compose["networks"]["scraped"]["internal"].as_bool(), Some(true));
    assert!(networks(&compose, "prometheus").is_disjoint(&networks(&compose, "redis")));
    // The other configuration judges by the same.
    assert_eq!(yaml(&here.with_file_name("prometheus.yml"))["rule_files"], its["rule_files"]);
}

/// The gateways say nothing at `/metrics` until the variable is set.
#[test]
fn one_variable_opens_the_metrics() {
    let compose = compose();
    let variable = "WAYLEAVE_METRICS_ENABLED";
    let value = text(&compose["services"]["gateway"]["environment"][variable]).to_owned();
    assert_eq!(value, format!("${{{variable}:-false}}"));
    let opened = |value: &str| {
        let mut environment: BTreeMap<String, String> = super::environment(&manifest(COMPOSE));
        environment.insert(variable.to_owned(), value.to_owned());
        let text = read(&folder().join("etc/config.toml"));
        Config::parse(&text, &folder().join("etc"), &environment).unwrap().metrics.enabled
    };
    assert!(opened("true") && !opened("false"));
}

#[test]
fn grafana_shows_the_dashboard_from_that_prometheus() {
    let compose = compose();
    let environment = &compose["services"]["grafana"]["environment"];
    let provisioning = mounted(&compose, "grafana", text(&environment["GF_PATHS_PROVISIONING"]));
    let source = &yaml(&provisioning.join("datasources/prometheus.yaml"))["datasources"][0];
    assert_eq!((text(&source["type"]), source["isDefault"].as_bool()), ("prometheus", Some(true)));
    let url = format!("http://prometheus:{}", published(&compose, "prometheus"));
    assert_eq!(text(&source["url"]), url);
    assert!(!networks(&compose, "grafana").is_disjoint(&networks(&compose, "prometheus")));
    assert!(networks(&compose, "grafana").is_disjoint(&networks(&compose, "gateway")));
    let provider = &yaml(&provisioning.join("dashboards/wayleave.yaml"))["providers"][0];
    let dashboards = mounted(&compose, "grafana", text(&provider["options"]["path"]));
    let home = mounted(&compose, "grafana", text(&environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]));
    assert_eq!(home, dashboards.join("dashboard.json"));
    // All JSON in there is taken for dashboards.
    let json = std::fs::read_dir(&dashboards).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(json.filter(|path| path.extension().is_some_and(|it| it == "json")).count(), 1);
    let dashboard: serde_json::Value = serde_json::from_str(&read(&home)).unwrap();
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!((&variable["type"], &variable["query"]), (&"datasource".into(), &"prometheus".into()));
    // Nobody has an account, so nobody has the one with the password `admin`.
    for (key, value) in [
        ("GF_AUTH_ANONYMOUS_ORG_ROLE", "Viewer"),
        ("GF_AUTH_BASIC_ENABLED", "false"),
        ("GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION", "true"),
    ] {
        assert_eq!(text(&environment[key]), value, "{key}");
    }
}
