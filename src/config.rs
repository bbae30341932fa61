//! The checked configuration, and how a TOML text becomes one.
//!
//! Every mistake is reported at once, with its line and what would be right.
//! What is here is already sensible: ranges are checked, patterns are parsed,
//! names refer to things that exist. Paths are made absolute against the
//! folder of the file.

mod auth;
mod bus;
pub(crate) mod cases;
mod origin;
mod pattern;
mod plugins;
mod rates;
mod read;
mod rooms;
mod sections;
mod tls;
mod value;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use self::read::{Document, Table};
pub use self::{
    auth::{AuthConfig, JwksUrl, Jwt, KeySource},
    bus::{BusConfig, ClusterConfig, RedisConfig, RedisMode},
    origin::{Origin, OriginRule},
    plugins::{HttpConfig, NAME as PLUGIN_NAME, PluginConfig, RolloutBy, RolloutConfig, is_name as is_plugin_name},
    rates::{Level, Network, RateConfig, RateOf, network},
    read::Mistake,
    rooms::{
        Access, HistoryConfig, Pattern, PublishRight, RecordsConfig, RoomConfig, RouteConfig, SlowConfig, SlowPolicy,
        Target, Template,
    },
    sections::{
        AdminConfig, ApiConfig, ApiKey, DrainConfig, Limits, LogConfig, LogFormat, MetricsConfig, OnLimitDown, Secret,
        ServerConfig, TracingConfig, UserLimit,
    },
    tls::TlsConfig,
    value::{JoinLeave, Rate, Recovery},
};

/// A configuration in which nothing is left to be checked but the plugins'
/// files themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Sockets, heartbeat and the pages.
    pub server: ServerConfig,
    /// The certificate; None: clients connect without TLS.
    pub tls: Option<TlsConfig>,
    /// What carries messages between instances.
    pub bus: BusConfig,
    /// How instances watch each other.
    pub cluster: ClusterConfig,
    /// The server API.
    pub api: ApiConfig,
    /// The admin page.
    pub admin: AdminConfig,
    /// Who may connect.
    pub auth: AuthConfig,
    /// What one connection or user may use up.
    pub limits: Limits,
    /// Whether `/metrics` answers.
    pub metrics: MetricsConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Whether and where to commands are traced.
    pub tracing: TracingConfig,
    /// The orderly end.
    pub drain: DrainConfig,
    /// Rooms by pattern; the first entry that matches counts.
    pub rooms: Vec<RoomConfig>,
    /// Routing rules that need no code.
    pub routes: Vec<RouteConfig>,
    /// The plugins that rooms and authentication refer to by name.
    pub plugins: Vec<PluginConfig>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// In order of lines; never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.mistakes.len();
        write!(f, "{n} mistake{} in ", if n == 1 { "" } else { "s" })?;
        match &self.file {
            Some(file) => write!(f, "{}", file.display())?,
            None => write!(f, "the config")?,
        }
        for mistake in &self.mistakes {
            write!(f, "\n  {mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks the file, with this process's environment over it.
    ///
    /// # Errors
    /// Every mistake in it, or that it cannot be read.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let fail = |mistakes| ConfigError { file: Some(file.to_owned()), mistakes };
        let text = std::fs::read_to_string(file).map_err(|error| {
            let text = format!("cannot be read: {error}; name another file with --config");
            fail(vec![Mistake { line: 0, key: String::new(), text }])
        })?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::parse(&text, &folder, &variables.collect()).map_err(|error| fail(error.mistakes))
    }

    /// Checks a text; `folder` is what relative paths in it start from, and
    /// `environment` holds the variables that may stand over it.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str, folder: &Path, environment: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let document = Document::new(text, environment);
        let (table, syntax) = DeTable::parse_recoverable(text);
        for error in &syntax {
            document.mistake(error.span(), "", error.message().trim());
        }
        let config = if syntax.is_empty() {
            Self::read(&Table::root(&document, table.get_ref()), folder)
        } else {
            // Half a document would only add mistakes that are none.
            None
        };
        let mistakes = if syntax.is_empty() { document.finish() } else { document.finish_syntax() };
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(ConfigError { file: None, mistakes }),
        }
    }

    fn read(root: &Table<'_>, folder: &Path) -> Option<Self> {
        let bus = BusConfig::read(root.section("bus"), folder);
        let cluster = ClusterConfig::read(root.section("cluster"));
        let api = ApiConfig::read(root.section("api"), folder);
        let admin = AdminConfig::read(root.section("admin"), &api);
        let server = ServerConfig::read(root.section("server"), folder);
        let tls = TlsConfig::read(root.section("tls"), folder);
        let auth = AuthConfig::read(root.section("auth"), folder);
        let limits = Limits::read(root.section("limits"));
        let metrics = MetricsConfig::read(root.section("metrics"));
        let log = LogConfig::read(root.section("log"));
        let tracing = TracingConfig::read(root.section("tracing"), folder);
        let drain = DrainConfig::read(root.section("drain"));
        let plugins = plugins::read_plugins(root, folder);
        let names: Vec<&str> = plugins.iter().map(|plugin| plugin.name.as_str()).collect();
        plugins::check_names(&names, &auth.plugins, |text| root.section("auth").wrong("plugins", text));
        let rooms = rooms::read_rooms(root, &names);
        let routes = rooms::read_routes(root);
        // A message with what we put around it must fit an empty outbox.
        if limits.outbox < 2 * limits.message_size {
            root.section("limits").wrong("outbox", "must be at least twice `message_size`");
        }
        for (room, slow) in rooms.iter().filter_map(|room| Some((room, room.slow.as_ref()?))) {
            if slow.at > limits.outbox / 2 {
                let text = format!(
                    "must be at least {} bytes: twice the `slow_at` of rooms `{}`, so that answers fit beside messages",
                    slow.at.saturating_mul(2),
                    room.pattern
                );
                root.section("limits").wrong("outbox", text);
            }
        }
        for (room, records) in rooms.iter().filter_map(|room| Some((room, room.records?))) {
            let all = records.count.saturating_mul(records.size);
            if all > limits.outbox / 2 {
                let text = format!(
                    "must be at least {} bytes: twice the {} documents of {} bytes that rooms `{}` may have, or who joins \
                     with all of them is closed as slow",
                    all.saturating_mul(2),
                    records.count,
                    records.size,
                    room.pattern
                );
                root.section("limits").wrong("outbox", text);
            }
        }
        for plugin in plugins.iter().filter(|plugin| plugin.answer_size > limits.outbox / 2) {
            let text = format!(
                "must be at least twice the `answer_size` of plugin `{}`, or its answers close whole rooms",
                plugin.name
            );
            root.section("limits").wrong("outbox", text);
        }
        root.report_unknown();
        Some(Self {
            server,
            tls,
            bus,
            cluster,
            api,
            admin,
            auth,
            limits,
            metrics,
            log,
            tracing,
            drain,
            rooms,
            routes,
            plugins,
        })
    }

    /// The entry that counts for a room; None: there is no such room.
    #[must_use]
    pub fn room(&self, name: &str) -> Option<&RoomConfig> {
        self.rooms.iter().find(|room| room.pattern.matches(name))
    }

    /// What differs from `running` and takes effect only at a restart.
    #[must_use]
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        if self.server.listen != running.server.listen {
            keys.push("server.listen");
        }
        if self.server.header_timeout != running.server.header_timeout {
            keys.push("server.header_timeout");
        }
        if self.server.cache != running.server.cache {
            keys.push("server.cache");
        }
        if self.server.try_page != running.server.try_page {
            keys.push("server.try_page");
        }
        if self.bus != running.bus {
            keys.push("bus");
        }
        if self.cluster != running.cluster {
            keys.push("cluster");
        }
        if self.log != running.log {
            keys.push("log");
        }
        if self.tracing != running.tracing {
            keys.push("tracing");
        }
        keys
    }
}

fn secs(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
