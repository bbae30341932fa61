//! The plugins of the file.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Network, OriginRule, Secret, rates::read_networks, read::Table, secs};
use crate::{
    dial::check_authorities,
    plugin::{Grant, Hook, Policy},
};

/// `[[plugins]]`: a component with its settings, grants and limits.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConfig {
    /// How rooms, logs and metrics call it.
    pub name: String,
    /// A source folder, or a `.wasm`, `.wat` or `.js` file; absolute.
    pub path: PathBuf,
    /// Handed to the plugin's `init` as JSON.
    pub settings: serde_json::Value,
    /// The hooks that it must have, no more and no less; None: as it comes.
    pub hooks: Option<Vec<Hook>>,
    /// The imports that it may have.
    pub grants: Vec<Grant>,
    /// How often it is asked at its `tick` hook, which it then must have.
    pub tick: Option<Duration>,
    /// How long one call may take.
    pub timeout: Duration,
    /// How long `init` and the self-test may take.
    pub init_timeout: Duration,
    /// Linear memory of one guest, in bytes.
    pub memory: usize,
    /// Bytes of one answer, and of one argument of a host call.
    pub answer_size: usize,
    /// Host calls during one call.
    pub host_calls: u64,
    /// Targets and actions in one answer.
    pub targets: usize,
    /// Calls after which a guest is replaced by a fresh one.
    pub recycle_after: u64,
    /// Bytes of keys and values in the plugin's store.
    pub kv_quota: usize,
    /// Bytes a second into the log.
    pub log_rate: usize,
    /// What holds when the plugin fails, for each hook.
    pub on_failure: BTreeMap<Hook, Policy>,
    /// By the names that the plugin asks for.
    pub secrets: BTreeMap<String, Secret>,
    /// The files that they were read from.
    pub secret_files: Vec<PathBuf>,
    /// Where its requests may go; None: nowhere.
    pub http: Option<HttpConfig>,
    /// How a new content of its file takes the place of the one before.
    pub rollout: RolloutConfig,
    /// It rests when half of its calls fail.
    pub breaker: bool,
}

/// `[plugins.rollout]`: how a new content of a plugin's file takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolloutConfig {
    /// Percent of the rooms or users that get it first; 100: all at once.
    pub share: u64,
    /// Of what it is a share.
    pub by: RolloutBy,
    /// How long it has its share, and after that how long it is watched.
    pub watch: Duration,
    /// The one before takes its place again if it fails more.
    pub rollback: bool,
}

/// What a share is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutBy {
    /// Rooms; where there is none, users.
    Room,
    /// Users; where there is none, connections.
    User,
}

/// `[plugins.http]`: which requests a plugin may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where to; each is an [`OriginRule`].
    pub origins: Vec<String>,
    /// Addresses that are not public and may be gone to all the same.
    pub private: Vec<Network>,
    /// How long one may take.
    pub timeout: Duration,
    /// Bytes of an answer's body.
    pub response_size: usize,
    /// Requests under way at once.
    pub concurrency: usize,
    /// PEM: whom to trust instead of public authorities.
    pub authorities: Option<String>,
}

impl PluginConfig {
    /// The file to load: the path itself, or in a source folder `plugin.js`,
    /// or `plugin.wasm` if there is none.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        if !self.is_source() {
            return self.path.clone();
        }
        let script = self.path.join("plugin.js");
        if script.is_file() { script } else { self.path.join("plugin.wasm") }
    }

    /// True if the path is a source folder that can be built.
    #[must_use]
    pub fn is_source(&self) -> bool {
        let is_file = |extension: &OsStr| ["wasm", "wat", "js", "mjs"].iter().any(|known| extension == *known);
        !self.path.extension().is_some_and(is_file)
    }
}

pub(super) fn read_plugins(root: &Table<'_>, folder: &Path) -> Vec<PluginConfig> {
    let mut plugins: Vec<PluginConfig> = Vec::new();
    for table in root.list("plugins") {
        let name = table.required::<String>("name").unwrap_or_default();
        let path = table.required::<String>("path").unwrap_or_default();
        if !is_name(&name) {
            table.wrong("name", format!("`{name}` is not a plugin's name; expected {NAME}"));
        }
        if !name.is_empty() && plugins.iter().any(|plugin| plugin.name == name) {
            table.wrong("name", format!("there are two plugins named `{name}`"));
        }
        plugins.push(read_plugin(table, name, folder.join(path), folder));
    }
    plugins
}

/// What [`is_name`] takes.
pub const NAME: &str = "up to 64 of a-z, 0-9, - and _";

/// True for what a plugin may be called.
#[must_use]
pub fn is_name(name: &str) -> bool {
    name.len() <= 64 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

/// Everything of a plugin's table but its name and path.
pub(super) fn read_plugin(table: Table<'_>, name: String, path: PathBuf, folder: &Path) -> PluginConfig {
    let number = |key, default, range| usize::try_from(table.number(key, default, range)).unwrap_or(usize::MAX);
    let plugin = PluginConfig {
        name,
        path,
        settings: table.json("settings"),
        hooks: read_hooks(&table),
        grants: read_grants(&table),
        tick: table.optional_duration("tick", secs(1)..=secs(7 * 24 * 3600)),
        timeout: table.duration("timeout", Duration::from_millis(20), Duration::from_millis(1)..=secs(10)),
        init_timeout: table.duration("init_timeout", secs(1), Duration::from_millis(1)..=secs(60)),
        memory: table.size("memory", 16 << 20, 64 << 10..=4 << 30),
        answer_size: table.size("answer_size", 256 << 10, 1 << 10..=64 << 20),
        host_calls: table.number("host_calls", 1_000, 0..=1_000_000),
        targets: number("targets", 1_000, 1..=100_000),
        recycle_after: table.number("recycle_after", 100_000, 1..=1_000_000_000),
        kv_quota: table.size("kv_quota", 1 << 20, 0..=1 << 30),
        log_rate: table.size("log_rate", 16 << 10, 0..=1 << 30),
        on_failure: read_policies(&table),
        http: read_http(&table, folder),
        rollout: read_rollout(&table),
        breaker: table.or("breaker", true),
        secrets: BTreeMap::new(),
        secret_files: Vec::new(),
    };
    let plugin = with_secrets(plugin, &table, folder);
    if !table.holds_table("settings") && plugin.settings != serde_json::json!({}) {
        table.wrong("settings", "expected a table, as in [plugins.settings]");
    }
    table.finish();
    plugin
}

fn read_hooks(table: &Table<'_>) -> Option<Vec<Hook>> {
    let mut hooks = Vec::new();
    for word in table.optional::<Vec<String>>("hooks")? {
        match Hook::ALL.iter().find(|hook| hook.key() == word) {
            Some(hook) => hooks.push(*hook),
            None => {
                let known: Vec<_> = Hook::ALL.iter().map(|hook| hook.key()).collect();
                table.wrong("hooks", format!("`{word}` is not a hook; expected some of {}", known.join(", ")));
            }
        }
    }
    hooks.sort();
    hooks.dedup();
    Some(hooks)
}

fn read_grants(table: &Table<'_>) -> Vec<Grant> {
    let mut grants = Vec::new();
    for word in table.or::<Vec<String>>("grants", Vec::new()) {
        match Grant::from_name(&word) {
            Some(grant) => grants.push(grant),
            None => table.wrong("grants", format!("`{word}` is not a grant; expected some of {}", Grant::names())),
        }
    }
    grants.sort();
    grants.dedup();
    grants
}

fn read_rollout(table: &Table<'_>) -> RolloutConfig {
    let rollout = table.section("rollout");
    let config = RolloutConfig {
        share: rollout.number("share", 100, 1..=100),
        by: rollout.choice("by", &[("room", RolloutBy::Room), ("user", RolloutBy::User)]),
        watch: rollout.duration("for", secs(60), Duration::from_millis(1)..=secs(7 * 24 * 3600)),
        rollback: rollout.or("rollback", true),
    };
    rollout.finish();
    config
}

/// What a grant needs without the grant, or the grant without it, would never
/// do anything.
fn check_grant(table: &Table<'_>, grant: &str) -> bool {
    let is_granted = table.or::<Vec<String>>("grants", Vec::new()).iter().any(|name| name == grant);
    match (is_granted, table.has(grant)) {
        (false, true) => table.wrong(grant, format!("is of no use without the grant; add \"{grant}\" to `grants`")),
        (true, false) => table.wrong("grants", format!("\"{grant}\" needs [plugins.{grant}]")),
        _ => {}
    }
    is_granted
}

fn read_http(table: &Table<'_>, folder: &Path) -> Option<HttpConfig> {
    let is_granted = check_grant(table, "http");
    let http = table.section("http");
    let origins = http.or::<Vec<String>>("origins", Vec::new());
    if http.is_present() && origins.is_empty() {
        http.wrong("origins", r#"expected where requests may go, as in ["https://api.example.com"]"#);
    }
    for text in &origins {
        if let Err(expected) = OriginRule::parse(text) {
            http.wrong("origins", format!("`{text}` is no origin; {expected}"));
        }
    }
    let authorities = http.optional::<String>("ca_file").and_then(|path| {
        let text = std::fs::read_to_string(folder.join(&path));
        let checked = text.map_err(|error| format!("`{path}` cannot be read: {error}"));
        let checked = checked.and_then(|pem| check_authorities(&pem).map(|_| pem));
        checked.map_err(|reason| http.wrong("ca_file", reason)).ok()
    });
    let config = HttpConfig {
        origins,
        private: read_networks(&http, "private"),
        timeout: http.duration("timeout", secs(2), Duration::from_millis(1)..=secs(10)),
        response_size: http.size("response_size", 64 << 10, 1..=16 << 20),
        concurrency: usize::try_from(http.number("concurrency", 32, 1..=128)).unwrap_or(usize::MAX),
        authorities,
    };
    http.finish();
    is_granted.then_some(config)
}

/// `[plugins.secrets]`: each is `{ env = "NAME" }` or `{ file = "path" }`.
fn with_secrets(mut plugin: PluginConfig, table: &Table<'_>, folder: &Path) -> PluginConfig {
    const EXPECTED: &str = r#"expected { env = "NAME" } or { file = "path" }"#;
    check_grant(table, "secrets");
    let given = table.json("secrets");
    if table.has("secrets") && !table.holds_table("secrets") {
        table.wrong("secrets", "expected a table, as in [plugins.secrets]");
        return plugin;
    }
    for (name, source) in given.as_object().into_iter().flatten() {
        let wrong = |text: String| table.wrong("secrets", format!("`{name}`: {text}"));
        let source = source.as_object().filter(|source| source.len() == 1).and_then(|source| source.iter().next());
        let Some((kind, Some(place))) = source.map(|(kind, place)| (kind.as_str(), place.as_str())) else {
            wrong(EXPECTED.into());
            continue;
        };
        let found = match kind {
            "env" => {
                table.variable(place).map(str::to_owned).ok_or_else(|| format!("the variable `{place}` is not set"))
            }
            "file" => {
                let file = folder.join(place);
                let text = std::fs::read_to_string(&file);
                plugin.secret_files.push(file);
                // Editors and `echo` end a file with a line's end.
                text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                    .map_err(|error| format!("`{place}` cannot be read: {error}"))
            }
            _ => Err(EXPECTED.into()),
        };
        match found {
            Ok(text) => drop(plugin.secrets.insert(name.clone(), Secret::new(text))),
            Err(text) => wrong(text),
        }
    }
    plugin
}

/// `on_failure = "open"` spares authentication and admission, which stay
/// closed unless the config names them: `{ authorize = "open" }`.
fn read_policies(table: &Table<'_>) -> BTreeMap<Hook, Policy> {
    const WORDS: &[(&str, Policy)] = &[("closed", Policy::Closed), ("open", Policy::Open)];
    let mut policies = BTreeMap::new();
    if table.holds_table("on_failure") {
        let each = table.section("on_failure");
        for hook in Hook::ALL {
            policies.insert(*hook, each.choice(hook.key(), WORDS));
        }
        each.finish();
        return policies;
    }
    let policy = table.choice("on_failure", WORDS);
    for hook in Hook::ALL {
        policies.insert(*hook, if hook.is_guard() { Policy::Closed } else { policy });
    }
    policies
}

/// Reports each of `used` that is no plugin's name.
pub(super) fn check_names(known: &[&str], used: &[String], mut wrong: impl FnMut(String)) {
    for name in used.iter().filter(|name| !known.contains(&name.as_str())) {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        wrong(format!("there is no plugin named `{name}`; the [[plugins]] are: {known}"));
    }
}
