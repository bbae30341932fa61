//! What `deploy/` has to copy, read by the gateway's own reader.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use wayleave::config::Config;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// A manifest without its comments.
fn manifest(name: &str) -> String {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

/// What stands first in double quotes behind this.
#[track_caller]
fn quoted_behind<'a>(text: &'a str, what: &str) -> &'a str {
    text.split_once(what).and_then(|(_, behind)| behind.split('"').nth(1)).unwrap()
}

/// The seconds that stand right behind this key.
#[track_caller]
fn seconds(text: &str, key: &str) -> Duration {
    let (_, behind) = text.split_once(key).unwrap();
    let number: String = behind.chars().take_while(char::is_ascii_digit).collect();
    Duration::from_secs(number.parse().unwrap())
}

/// The variables that a manifest has for the gateway.
fn environment(manifest: &str) -> BTreeMap<String, String> {
    let words = manifest.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    words
        .filter(|word| word.starts_with("WAYLEAVE_"))
        .map(|name| {
            let value = match name {
                "WAYLEAVE_SERVER_LISTEN" => quoted_behind(manifest, name),
                _ => "as-good-as-any-secret-and-long-enough",
            };
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn config(manifest: &str) -> Config {
    let text = std::fs::read_to_string(folder().join("etc/config.toml")).unwrap();
    Config::parse(&text, &folder().join("etc"), &environment(manifest)).unwrap_or_else(|error| panic!("{error}"))
}

const COMPOSE: &str = "compose.yaml";
const DEPLOYMENT: &str = "kubernetes/deployment.yaml";

#[test]
fn the_config_is_right_and_open_only_as_the_manifests_say() {
    for name in [COMPOSE, DEPLOYMENT] {
        let config = config(&manifest(name));
        assert_eq!(config.server.listen.to_string(), "0.0.0.0:8000", "{name}");
        assert!(!config.auth.jwt.is_empty() && !config.auth.anonymous, "{name}");
        assert!(!config.server.try_page && !config.metrics.enabled, "{name}");
    }
}

#[test]
fn containers_are_killed_only_after_the_drain() {
    let compose = manifest(COMPOSE);
    assert!(seconds(&compose, "stop_grace_period: ") > config(&compose).drain_timeout);
    let deployment = manifest(DEPLOYMENT);
    let before = seconds(&deployment, "command: [sleep, \"");
    assert!(seconds(&deployment, "terminationGracePeriodSeconds: ") > before + config(&deployment).drain_timeout);
}

#[test]
fn kubernetes_mounts_each_plugin_of_the_config() {
    let (kustomization, deployment) = (manifest("kustomization.yaml"), manifest(DEPLOYMENT));
    let plugins = config(&deployment).plugins;
    assert!(!plugins.is_empty());
    for plugin in plugins {
        let file = plugin.file();
        let path = file.strip_prefix(folder()).unwrap().to_str().unwrap();
        assert!(kustomization.contains(&format!("- {path}\n")), "{path}");
        let (name, path) = (path.rsplit('/').next().unwrap(), path.strip_prefix("etc/").unwrap());
        assert!(deployment.contains(&format!("{{key: {name}, path: {path}}}")), "{path}");
    }
}

/// A Service named `wayleave` would put variables into the environment of its
/// pods that stand for no key of the config.
#[test]
fn kubernetes_adds_no_variables_of_its_own() {
    assert!(manifest(DEPLOYMENT).contains("enableServiceLinks: false"));
}
