//! The sections that stand once in the file.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{OriginRule, Rate, read::Table, secs};

/// `[server]`: sockets, heartbeat and the pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long a client may take to send the head of an HTTP request.
    pub header_timeout: Duration,
    /// How long a socket may live without a successful `connect`.
    pub connect_timeout: Duration,
    /// How often the server pings.
    pub ping_interval: Duration,
    /// How long it waits for the answer.
    pub pong_timeout: Duration,
    /// False: clients that never answer pings are kept.
    pub require_pong: bool,
    /// Join each connection of user `u` to the room `user:u`.
    pub personal_rooms: bool,
    /// Browser origins that may connect; empty: only the gateway's own pages.
    pub allowed_origins: Vec<String>,
    /// Serve the page to try it at `/`.
    pub try_page: bool,
    /// Where compiled plugins are kept; None: only in memory.
    pub cache: Option<PathBuf>,
}

impl ServerConfig {
    pub(super) fn read(table: Table<'_>, folder: &Path) -> Self {
        let listen = table.or("listen", "127.0.0.1:8000".to_owned());
        let listen = listen.parse().unwrap_or_else(|_| {
            table.wrong("listen", format!(r#"`{listen}` is not an address; expected one such as "127.0.0.1:8000""#));
            SocketAddr::from(([127, 0, 0, 1], 8000))
        });
        let server = Self {
            listen,
            header_timeout: table.duration("header_timeout", secs(5), Duration::from_millis(100)..=secs(60)),
            connect_timeout: table.duration("connect_timeout", secs(5), Duration::from_millis(100)..=secs(60)),
            ping_interval: table.duration("ping_interval", secs(25), secs(1)..=secs(3600)),
            pong_timeout: table.duration("pong_timeout", secs(8), Duration::from_millis(100)..=secs(3600)),
            require_pong: table.or("require_pong", true),
            personal_rooms: table.or("personal_rooms", false),
            allowed_origins: table.or("allowed_origins", Vec::new()),
            try_page: table.or("try_page", false),
            cache: Some(table.or("cache", ".wayleave/cache".to_owned()))
                .filter(|path| !path.is_empty())
                .map(|path| folder.join(path)),
        };
        if server.pong_timeout >= server.ping_interval {
            table.wrong("pong_timeout", "must be shorter than `ping_interval`");
        }
        for origin in &server.allowed_origins {
            if let Err(reason) = OriginRule::parse(origin) {
                table.wrong("allowed_origins", format!("`{origin}` is not an origin: {reason}"));
            }
        }
        table.finish();
        server
    }
}

/// A text that must not appear in logs or errors.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What holds for a limit that is counted elsewhere, while that cannot be
/// reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLimitDown {
    /// Each instance counts for itself.
    Open,
    /// Commands are refused for the moment.
    Closed,
}

/// What happens when a user has as many connections as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserLimit {
    /// The new one is refused.
    Reject,
    /// The new one is let in and the oldest one closed.
    CloseOldest,
}

/// `[limits]`: what one connection or user may use up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open sockets of this instance.
    pub connections: usize,
    /// Open connections of one user, on all instances.
    pub connections_per_user: usize,
    /// What happens to the next one.
    pub user_limit: UserLimit,
    /// Rooms that one connection may be in.
    pub rooms_per_connection: usize,
    /// Bytes of a message from a client, whole.
    pub message_size: usize,
    /// Bytes that may wait toward one client before it is closed as slow.
    pub outbox: usize,
    /// Bytes of the name of a room or a user.
    pub name_length: usize,
    /// Commands that a connection may send a second, in the long run.
    pub commands_per_second: u64,
    /// Commands that it may send at once.
    pub commands_burst: u64,
    /// Commands of one user, on all its connections and all instances; None:
    /// as many as its connections may.
    pub user_commands: Option<Rate>,
    /// What holds for that while Redis does not answer.
    pub user_commands_down: OnLimitDown,
    /// How long a closing client may take to read what is left for it.
    pub close_timeout: Duration,
}

impl Limits {
    pub(super) fn read(table: Table<'_>) -> Self {
        let number = |key, default, range| usize::try_from(table.number(key, default, range)).unwrap_or(usize::MAX);
        let limits = Self {
            connections: number("connections", 100_000, 1..=10_000_000),
            connections_per_user: number("connections_per_user", 64, 1..=1_000_000),
            user_limit: table
                .choice("user_limit", &[("reject", UserLimit::Reject), ("close-oldest", UserLimit::CloseOldest)]),
            rooms_per_connection: number("rooms_per_connection", 128, 1..=1_000_000),
            message_size: table.size("message_size", 64 << 10, 128..=64 << 20),
            outbox: table.size("outbox", 1 << 20, 1 << 10..=1 << 30),
            name_length: number("name_length", 255, 1..=4096),
            commands_per_second: table.number("commands_per_second", 200, 1..=1_000_000_000),
            commands_burst: table.number("commands_burst", 400, 1..=1_000_000_000),
            user_commands: table.or("user_commands", None),
            user_commands_down: table
                .choice("user_commands_down", &[("open", OnLimitDown::Open), ("closed", OnLimitDown::Closed)]),
            close_timeout: table.duration("close_timeout", secs(5), Duration::from_millis(100)..=secs(60)),
        };
        table.finish();
        limits
    }
}

/// `[api]`: the server API over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Who may use it; empty: it is off.
    pub keys: Vec<ApiKey>,
}

/// One key of the server API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// For logs.
    pub name: String,
    /// What is sent in `X-API-Key`.
    pub key: Secret,
}

impl ApiConfig {
    pub(super) fn read(table: Table<'_>) -> Self {
        let mut keys: Vec<ApiKey> = Vec::new();
        for entry in table.list("keys") {
            let name = entry.required::<String>("name").unwrap_or_default();
            let key = entry.required::<String>("key");
            match key.as_deref().map(str::trim) {
                Some("") => entry.wrong("key", "is empty, which anybody can send; expected a long random text"),
                Some(key) if key.len() < 16 => {
                    entry.wrong("key", "is shorter than 16 bytes, which can be guessed; expected a long random text");
                }
                // One that is not there is a mistake already.
                Some(_) | None => {}
            }
            let key = key.unwrap_or_default();
            if keys.iter().any(|known| known.name == name) {
                entry.wrong("name", format!("there are two keys named `{name}`"));
            }
            entry.finish();
            keys.push(ApiKey { name, key: Secret(key) });
        }
        table.finish();
        Self { keys }
    }
}

/// `[metrics]`: whether `/metrics` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Whoever reaches the listener may read `/metrics`.
    pub enabled: bool,
}

impl MetricsConfig {
    pub(super) fn read(table: Table<'_>) -> Self {
        let metrics = Self { enabled: table.or("enabled", false) };
        table.finish();
        metrics
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// A level, or a filter as `tracing` has it.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl LogConfig {
    pub(super) fn read(table: Table<'_>) -> Self {
        let log = Self {
            level: table.or("level", "info".to_owned()),
            format: table.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        };
        if tracing_subscriber::EnvFilter::try_new(&log.level).is_err() {
            table.wrong("level", format!("`{}` is not a level; expected error, warn, info, debug or trace", log.level));
        }
        table.finish();
        log
    }
}
