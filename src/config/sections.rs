//! The sections that stand once in the file.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Network, OriginRule, Pattern, Rate, RateConfig,
    auth::read_authorities,
    rates,
    read::{Table, nearest},
    secs,
};
use crate::http::{About, METHODS, Method};

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
    /// Proxies whose word is taken for where a client comes from.
    pub trusted_proxies: Vec<Network>,
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
            trusted_proxies: rates::read_networks(&table, "trusted_proxies"),
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
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

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
    /// Clients of this instance.
    pub connections: usize,
    /// Clients from one address, or one network of 64 bits; None: any number.
    pub connections_per_address: Option<usize>,
    /// How fast clients may come; None: as fast as they can.
    pub connect_rate: Option<Rate>,
    /// Bytes of memory of this process, with which no more clients are let in;
    /// None: it is not looked at.
    pub memory: Option<usize>,
    /// How far this process may be behind until no more clients are let in;
    /// None: it is not looked at.
    pub lag: Option<Duration>,
    /// How often somebody may ask for what.
    pub rates: Vec<RateConfig>,
    /// Open connections of one user, on all instances.
    pub connections_per_user: usize,
    /// What happens to the next one.
    pub user_limit: UserLimit,
    /// Rooms with members on this instance.
    pub rooms: usize,
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
            connections_per_address: table
                .optional_number("connections_per_address", 1..=10_000_000)
                .and_then(|n| n.try_into().ok()),
            connect_rate: table.or("connect_rate", None),
            memory: table.optional_size("memory", 64 << 20..=1 << 42),
            lag: table.optional_duration("lag", Duration::from_millis(10)..=secs(60)),
            rates: rates::read(&table),
            connections_per_user: number("connections_per_user", 64, 1..=1_000_000),
            user_limit: table
                .choice("user_limit", &[("reject", UserLimit::Reject), ("close-oldest", UserLimit::CloseOldest)]),
            rooms: number("rooms", 1_000_000, 1..=100_000_000),
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
    /// How many wrong keys one address may send; None: any number.
    pub failures: Option<Rate>,
}

/// One key of the server API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// For logs.
    pub name: String,
    /// What is sent in `X-API-Key`.
    pub key: Secret,
    /// What a sent key is compared by: its BLAKE3 hash.
    pub digest: [u8; 32],
    /// Where it was read from; a change there is a change of the config.
    pub file: Option<PathBuf>,
    /// The methods it may call; None: all.
    pub methods: Option<Vec<String>>,
    /// The rooms it may have to do with; None: all, and everything else.
    pub rooms: Option<Vec<Pattern>>,
}

/// The name of the key that stands in the section itself.
const DEFAULT_KEY: &str = "default";

impl ApiConfig {
    pub(super) fn read(table: Table<'_>, folder: &Path) -> Self {
        let default = read_key(&table, folder, false);
        let mut keys: Vec<ApiKey> = default.map(|key| ApiKey::new(DEFAULT_KEY.to_owned(), key)).into_iter().collect();
        for entry in table.list("keys") {
            let name = entry.required::<String>("name").unwrap_or_default();
            let key = read_key(&entry, folder, true).unwrap_or_default();
            if keys.iter().any(|known| known.name == name) {
                entry.wrong("name", format!("there are two keys named `{name}`"));
            }
            let methods = entry.optional::<Vec<String>>("methods");
            let rooms = entry.optional::<Vec<String>>("rooms");
            check_methods(&entry, methods.as_deref(), rooms.is_some());
            let rooms = rooms.map(|rooms| read_patterns(&entry, &rooms));
            entry.finish();
            keys.push(ApiKey { methods, rooms, ..ApiKey::new(name, key) });
        }
        let failures = table.or("failures", Some(Rate { count: 20, per: secs(60) }));
        table.finish();
        Self { keys, failures }
    }
}

impl ApiKey {
    fn new(name: String, (key, file): (String, Option<PathBuf>)) -> Self {
        let digest = *blake3::hash(key.as_bytes()).as_bytes();
        Self { name, key: Secret(key), digest, file, methods: None, rooms: None }
    }
}

/// A key as it stands there, in a file, or in the environment.
fn read_key(table: &Table<'_>, folder: &Path, is_required: bool) -> Option<(String, Option<PathBuf>)> {
    let inline = table.optional::<String>("key");
    let path = table.optional::<String>("key_file");
    let variable = if is_required { table.optional::<String>("key_env") } else { None };
    let n_given = [inline.is_some(), path.is_some(), variable.is_some()].into_iter().filter(|given| *given).count();
    if n_given > 1 {
        table.wrong("key", "give only one of `key`, `key_file` and `key_env`");
        return None;
    }
    let file = path.as_ref().map(|path| folder.join(path));
    let (at, key) = match (inline, path, variable) {
        (Some(key), ..) => ("key", key),
        (_, Some(path), _) => match std::fs::read_to_string(folder.join(&path)) {
            Ok(key) => ("key_file", key.trim().to_owned()),
            Err(error) => {
                table.wrong("key_file", format!("`{path}` cannot be read: {error}"));
                return None;
            }
        },
        (.., Some(name)) => {
            let Some(key) = table.variable(&name) else {
                table.wrong("key_env", format!("the environment has no variable `{name}`"));
                return None;
            };
            ("key_env", key.to_owned())
        }
        (None, None, None) => {
            if is_required && !table.has("key") && !table.has("key_file") && !table.has("key_env") {
                table.wrong("key", "this key is required (or `key_file`, or `key_env`)");
            }
            return None;
        }
    };
    match key.trim() {
        "" => table.wrong(at, "is empty, which anybody can send; expected a long random text"),
        short if short.len() < 16 => {
            table.wrong(at, "is shorter than 16 bytes, which can be guessed; expected a long random text");
        }
        _ => {}
    }
    Some((key, file))
}

fn check_methods(entry: &Table<'_>, methods: Option<&[String]>, has_rooms: bool) {
    if methods.is_some_and(<[String]>::is_empty) {
        entry.wrong("methods", "is empty, so that the key could be used for nothing; remove it for all methods");
    }
    for name in methods.unwrap_or_default() {
        match Method::named(name) {
            None => {
                let near = nearest(name, METHODS.iter().map(|method| method.name));
                entry.wrong("methods", format!("there is no method `{name}`{near}"));
            }
            Some(method) if has_rooms && method.about == About::Instance => {
                let text = format!("`{name}` is not about rooms, and a key with `rooms` is for those that are");
                entry.wrong("methods", text);
            }
            Some(_) => {}
        }
    }
}

fn read_patterns(entry: &Table<'_>, rooms: &[String]) -> Vec<Pattern> {
    if rooms.is_empty() {
        entry.wrong("rooms", "is empty, so that the key could be used for nothing; remove it for all rooms");
    }
    let read = |room: &String| Pattern::parse(room).map_err(|error| entry.wrong("rooms", error)).ok();
    rooms.iter().filter_map(read).collect()
}

/// `[drain]`: the orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainConfig {
    /// How long all of it may take.
    pub timeout: Duration,
    /// For how long clients are still let in while `/ready` says no already, so
    /// that load balancers notice.
    pub delay: Duration,
    /// In how much time the connections are closed one after the other, so that
    /// they do not all come to the others at once. Fewer than 200 a second are
    /// not worth the time.
    pub spread: Duration,
}

impl From<Duration> for DrainConfig {
    /// All at once, within this time.
    fn from(timeout: Duration) -> Self {
        Self { timeout, delay: Duration::ZERO, spread: Duration::ZERO }
    }
}

impl DrainConfig {
    pub(super) fn read(table: Table<'_>) -> Self {
        let timeout = table.duration("timeout", secs(10), secs(0)..=secs(3600));
        let drain = Self {
            timeout,
            delay: table.duration("delay", secs(0), secs(0)..=secs(600)),
            spread: table.optional_duration("spread", secs(0)..=secs(3600)).unwrap_or(secs(4).min(timeout / 2)),
        };
        if drain.delay + drain.spread > drain.timeout {
            table.wrong("timeout", "must be at least `delay` and `spread` together, or the last are cut off");
        }
        table.finish();
        drain
    }
}

/// `[admin]`: the page for those who run the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// `/admin` answers; what it shows, it asks of the server API, with a key.
    pub enabled: bool,
}

impl AdminConfig {
    pub(super) fn read(table: Table<'_>, api: &ApiConfig) -> Self {
        let admin = Self { enabled: table.or("enabled", false) };
        if admin.enabled && api.keys.is_empty() {
            table.wrong("enabled", "the page asks the server API, which needs a key; add one to `api.keys`");
        }
        table.finish();
        admin
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

/// `[tracing]`: traces for a collector of OpenTelemetry.
#[derive(Debug, Clone, PartialEq)]
pub struct TracingConfig {
    /// Where the collector listens; None: nothing is traced.
    pub otlp: Option<String>,
    /// PEM: whom to trust there instead of public authorities.
    pub authorities: Option<String>,
    /// Share of commands that are traced, 0 to 1.
    pub sample: f64,
    /// Names of rooms and users may be told.
    pub names: bool,
}

impl TracingConfig {
    pub(super) fn read(table: Table<'_>, folder: &Path) -> Self {
        let ca_file = table.optional::<String>("ca_file");
        let tracing = Self {
            otlp: Some(table.or("otlp", String::new())).filter(|url| !url.is_empty()),
            authorities: ca_file.as_ref().and_then(|path| read_authorities(&table, "ca_file", folder, path)),
            sample: table.or("sample", 0.01),
            names: table.or("names", false),
        };
        if let Some(url) = &tracing.otlp {
            let scheme = match url.parse::<http::Uri>() {
                Ok(url) if url.authority().is_none_or(|it| it.as_str().contains('@')) => None,
                Ok(url) => url.scheme_str().map(str::to_owned),
                Err(_) => None,
            };
            if !matches!(scheme.as_deref(), Some("http" | "https")) {
                let text = r#"is not the URL of a collector; expected one such as "http://127.0.0.1:4318""#;
                table.wrong("otlp", format!(r#"{text} or "https://collector.example:4318", without a password"#));
            } else if scheme.as_deref() == Some("http") && ca_file.is_some() {
                table.wrong("ca_file", "is for a collector behind https://, and `otlp` says http://");
            }
        }
        if !(0.0..=1.0).contains(&tracing.sample) {
            table.wrong("sample", format!("{} is out of range; expected 0.0 to 1.0", tracing.sample));
        }
        table.finish();
        tracing
    }
}
