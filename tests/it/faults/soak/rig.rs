//! What is watched: two gateways and their Redis; and what happens to them.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tempfile::TempDir;

use super::Stage;
use crate::{
    api::{API, KEY, exchange},
    support::{fixture, instance::Instance, redis::RedisServer},
};

/// Rooms of every kind, plugins that are called by some of them, and the server
/// API. `variant` tells apart configs that replace each other. Nothing is short of
/// time: whoever shares the processor may keep an instance waiting.
fn config(stamp: &Path, variant: usize) -> String {
    let plugin = |name: &str, path: &Path, more: &str| {
        let path = path.display().to_string();
        format!("[[plugins]]\nname = \"{name}\"\npath = {path:?}\ntimeout = \"2s\"\n{more}\n")
    };
    let mut plugins = plugin("stamp", stamp, "")
        + &plugin("count", &fixture("counter-kv"), "grants = [\"kv\"]")
        + &plugin("tick", &fixture("tick-sends"), "tick = \"1s\"");
    let cache = stamp.with_file_name("cache").display().to_string();
    // `make soak` builds the examples; a test without `make` does without them.
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/rust");
    let is_built = ["moderation", "mentions"].iter().all(|name| examples.join(name).join("plugin.wasm").exists());
    let (censored, mentioned) = if is_built {
        let words = format!("grants = [\"log\"]\n[plugins.settings]\nwords = [\"darn\", \"heck{variant}\"]");
        plugins += &plugin("moderation", &examples.join("moderation"), &words);
        plugins += &plugin("mentions", &examples.join("mentions"), "");
        ("plugins = [\"moderation\"]", "plugins = [\"moderation\", \"mentions\"]")
    } else {
        ("", "")
    };
    format!(
        r#"
[server]
personal_rooms = true
cache = {cache:?}
{API}
[bus]
timeout = "10s"
[cluster]
ttl = "20s"
[limits]
outbox = "512KiB"
message_size = "32KiB"
user_commands = "10000/10s"
[[rooms]]
match = "live:*"
publish = "anyone"
{censored}
[[rooms]]
match = "kept:*"
publish = "anyone"
history = {{ size = 1000, ttl = "1m" }}
recovery = true
{censored}
[[rooms]]
match = "own:*"
publish = "members"
presence = true
history = {{ size = 50, ttl = "1m" }}
recovery = true
[[rooms]]
match = "hall:*"
publish = "members"
presence = true
join_leave = true
presence_grace = "1s"
[[rooms]]
match = "chat:*"
publish = "members"
presence = true
join_leave = "users"
{mentioned}
[[rooms]]
match = "price:*"
publish = "anyone"
history = {{ size = 1, ttl = "1m" }}
recovery = "cache"
delta = true
tags_filter = true
[[rooms]]
match = "board:*"
publish = "anyone"
records = {{ count = 8, size = "2KiB", ttl = "1m" }}
[[rooms]]
match = "flood:*"
publish = "anyone"
[[rooms]]
match = "shed:*"
publish = "anyone"
slow = "drop-oldest"
slow_at = "64KiB"
[[rooms]]
match = "stamped:*"
publish = "anyone"
plugins = ["stamp"]
[[rooms]]
match = "room:*"
[[rooms]]
match = "variant:{variant}"
{plugins}
"#
    )
}

pub(super) struct Rig {
    pub(super) redis: RedisServer,
    pub(super) instances: Vec<Instance>,
    folder: TempDir,
    reloads: usize,
}

impl Rig {
    pub(super) async fn start() -> Self {
        let redis = RedisServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut rig = Self { redis, instances: Vec::new(), folder, reloads: 0 };
        rig.write_stamp();
        for name in ["a", "b"] {
            let text = config(&rig.stamp(), 0);
            rig.instances.push(Instance::start(&text, Some(&rig.redis.url()), name).await);
        }
        for instance in &rig.instances {
            instance.ready().await;
        }
        rig
    }

    fn stamp(&self) -> PathBuf {
        self.folder.path().join("stamp.wat")
    }

    /// Another plugin each time, which must be compiled.
    fn write_stamp(&self) {
        let letter = char::from(b'a' + u8::try_from(self.reloads % 26).unwrap());
        let text = std::fs::read_to_string(fixture("stamp-a")).unwrap();
        let text = text.replace(r#"{\"stamp\":\"a\"}"#, &format!(r#"{{\"stamp\":\"{letter}\"}}"#));
        let beside = self.folder.path().join("stamp.new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.stamp()).unwrap();
    }

    /// Changes a plugin, the config or both; every sixth time the config becomes
    /// one that cannot be used, and every sixth is taken back.
    pub(super) async fn reload(&mut self) {
        self.reloads += 1;
        let n = self.reloads;
        if n % 6 == 5 {
            for instance in &self.instances {
                let head = format!("POST /api/rollback HTTP/1.1\r\nX-API-Key: {KEY}");
                let _it_may_have_nothing_to_go_back_to = exchange(instance.addr(), &head, "{}").await;
            }
            return;
        }
        if n.is_multiple_of(2) {
            self.write_stamp();
        }
        for instance in &self.instances {
            let text = instance.config();
            let (old, new) = (text.lines().find(|line| line.contains("variant:")), format!("match = \"variant:{n}\""));
            let text = text.replace(old.unwrap(), &new).replace("publish = \"nobody knows\"\n", "");
            let broken = if n.is_multiple_of(6) { "publish = \"nobody knows\"\n" } else { "" };
            instance.configure(&text.replace(&format!("{new}\n"), &format!("{new}\n{broken}")));
        }
    }

    pub(super) async fn harm(&mut self, stage: &Stage) {
        *stage.harmed.lock() = Some(Instant::now());
        let _gone = self.redis.try_command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    }
}
