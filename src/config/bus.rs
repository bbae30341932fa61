//! `[bus]` and `[cluster]`: what joins instances.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Secret, read::Table, secs};

/// `[bus]`: what carries messages between instances and keeps what they share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusConfig {
    /// This instance is alone; everything is in its memory.
    Memory,
    /// Redis, Valkey, or what speaks like them.
    Redis(RedisConfig),
}

/// How Redis is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// What stands at the addresses.
    pub mode: RedisMode,
    /// One server, or the sentinels, or some nodes of the cluster.
    pub nodes: Vec<String>,
    /// An ACL user; None: the default one.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// A PEM file with the authorities to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Of every key and channel; instances with the same one are one cluster.
    pub prefix: String,
    /// How long a command may take before the connection is given up.
    pub timeout: Duration,
    /// Bytes that may wait toward Redis before messages for other instances
    /// are dropped and counted.
    pub queue: usize,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL may hold a password; what stands behind it says enough.
        let place = |url: &String| url.rsplit_once('@').map_or(url.clone(), |(_, place)| format!("…@{place}"));
        f.debug_struct("RedisConfig")
            .field("mode", &self.mode)
            .field("nodes", &self.nodes.iter().map(place).collect::<Vec<_>>())
            .field("username", &self.username)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// What kind of Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    Standalone,
    /// The master of this name, as the sentinels know it.
    Sentinel(String),
    /// Redis Cluster, with sharded channels (Redis 7).
    Cluster,
}

impl BusConfig {
    pub(super) fn read(table: Table<'_>, folder: &Path) -> Self {
        #[derive(Clone, Copy)]
        enum Mode {
            Standalone,
            Sentinel,
            Cluster,
        }
        let is_redis = table.choice("kind", &[("memory", false), ("redis", true)]);
        let url = table.or("url", "redis://127.0.0.1:6379".to_owned());
        let mode = table.choice(
            "mode",
            &[("standalone", Mode::Standalone), ("sentinel", Mode::Sentinel), ("cluster", Mode::Cluster)],
        );
        let mut nodes: Vec<String> = table.or("nodes", Vec::new());
        let master = table.or("master", "mymaster".to_owned());
        let username = table.optional::<String>("username");
        let inline = table.optional::<String>("password");
        let file = table.optional::<String>("password_file");
        let ca_file = table.optional::<String>("ca_file").map(|path| folder.join(path));
        let prefix = table.or("prefix", "wayleave".to_owned());
        let timeout = table.duration("timeout", secs(2), Duration::from_millis(100)..=secs(60));
        let queue = table.size("queue", 32 << 20, 64 << 10..=4 << 30);
        match (nodes.is_empty(), mode) {
            (true, Mode::Standalone) => nodes.push(url),
            (false, Mode::Standalone) => table.wrong("nodes", "one server is named by `url`; `nodes` are for `mode`"),
            (true, _) => {
                table.wrong("nodes", r#"this key is required with that mode, as in ["redis://10.0.0.1:26379"]"#);
            }
            (false, _) => {}
        }
        for node in &nodes {
            if redis::IntoConnectionInfo::into_connection_info(node.as_str()).is_err() {
                let key = if matches!(mode, Mode::Standalone) { "url" } else { "nodes" };
                table.wrong(
                    key,
                    r#"is not the URL of a Redis; expected one such as "redis://127.0.0.1:6379" or "rediss://…""#,
                );
            }
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if prefix.is_empty() || !prefix.chars().all(is_plain) || prefix.len() > 64 {
            table.wrong("prefix", "expected up to 64 letters, digits and any of - _ . :");
        }
        if ca_file.as_ref().is_some_and(|path| !path.is_file()) {
            table.wrong("ca_file", "there is no such file");
        }
        let password = match (inline, file) {
            (Some(_), Some(_)) => {
                table.wrong("password_file", "give either `password` or `password_file`, not both");
                None
            }
            (Some(password), None) => Some(Secret(password)),
            (None, Some(path)) => match std::fs::read_to_string(folder.join(&path)) {
                Ok(password) => Some(Secret(password.trim_end().to_owned())),
                Err(error) => {
                    table.wrong("password_file", format!("`{path}` cannot be read: {error}"));
                    None
                }
            },
            (None, None) => None,
        };
        table.finish();
        let mode = match mode {
            Mode::Standalone => RedisMode::Standalone,
            Mode::Sentinel => RedisMode::Sentinel(master),
            Mode::Cluster => RedisMode::Cluster,
        };
        let redis = RedisConfig { mode, nodes, username, password, ca_file, prefix, timeout, queue };
        if is_redis { Self::Redis(redis) } else { Self::Memory }
    }
}

/// `[cluster]`: how instances watch each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// How people call this instance.
    pub name: String,
    /// How often an instance shows that it lives.
    pub heartbeat: Duration,
    /// How long it may be silent before the others clean up after it.
    pub ttl: Duration,
    /// How often the others look.
    pub sweep: Duration,
}

impl ClusterConfig {
    pub(super) fn read(table: Table<'_>) -> Self {
        let cluster = Self {
            name: table.or("name", String::new()),
            heartbeat: table.duration("heartbeat", secs(2), Duration::from_millis(100)..=secs(60)),
            ttl: table.duration("ttl", secs(6), Duration::from_millis(200)..=secs(600)),
            sweep: table.duration("sweep", secs(1), Duration::from_millis(50)..=secs(60)),
        };
        if cluster.ttl < 2 * cluster.heartbeat {
            table.wrong("ttl", "must be at least twice `heartbeat`, or one late beat is taken for a death");
        }
        if cluster.name.len() > 64 || cluster.name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            table.wrong("name", "expected up to 64 characters without blanks");
        }
        table.finish();
        cluster
    }
}
