//! What `deploy/` has to copy, read by the gateway's own reader.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use wayleave::config::Config;

mod observe;

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
                // As it is where nobody has set it.
                "WAYLEAVE_METRICS_ENABLED" => "false",
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
    assert!(seconds(&compose, "stop_grace_period: ") > config(&compose).drain.timeout);
    let deployment = manifest(DEPLOYMENT);
    let before = seconds(&deployment, "command: [sleep, \"");
    assert!(seconds(&deployment, "terminationGracePeriodSeconds: ") > before + config(&deployment).drain.timeout);
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

#[test]
fn systemd_kills_only_after_the_drain_and_gives_no_rights() {
    let unit = manifest("systemd/wayleave.service");
    let longest = config(&manifest(COMPOSE)).drain.timeout;
    assert!(seconds(&unit, "TimeoutStopSec=") > longest);
    for line in
        ["DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "Type=notify"]
    {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
    assert!(unit.contains("ExecReload=/bin/kill -HUP $MAINPID") && unit.contains("LimitNOFILE="));
}

#[test]
fn a_service_manager_is_told_of_the_start_and_of_the_end() {
    use std::{os::unix::net::UnixDatagram, process::Command};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:0\"\ncache = \"\"\n[auth]\nanonymous = true\n").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_wayleave"))
        .args(["run", "--config", file.to_str().unwrap()])
        .env("NOTIFY_SOCKET", &path)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let hear = || {
        let mut text = [0; 64];
        let n = manager.recv(&mut text).unwrap();
        String::from_utf8(text[..n].to_vec()).unwrap()
    };
    assert_eq!(hear(), "READY=1");
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(hear(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
}
