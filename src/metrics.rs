//! Every metric, with its name in this one place.
//!
//! No label holds what a client chose: no room, no user, no connection. What
//! every command and every write counts is kept in pieces, one a thread.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabelSet, EncodeMetric,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

mod guests;
pub(crate) mod process;
mod sharded;

pub use self::{
    guests::{GuestFigures, Sample},
    sharded::{Timings, Total},
};

use crate::{
    cluster::ClusterMetrics,
    plugin::{FailureKind, Hook},
    protocol::{Close, Refusal},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabels {
    method: &'static str,
    code: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    plugin: String,
    hook: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    plugin: String,
    hook: &'static str,
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabel {
    plugin: String,
}

/// Bytes of this process's clients, once their connections are theirs: their
/// WebSocket frames or what takes their place in bodies of HTTP, without what
/// TLS, the handshake and heads add.
pub static TRAFFIC: Traffic = Traffic { received: Total::new(), sent: Total::new() };

/// See [`TRAFFIC`].
#[derive(Debug)]
pub struct Traffic {
    received: Total,
    sent: Total,
}

impl Traffic {
    /// So many bytes came.
    pub fn received(&self, bytes: usize) {
        self.received.add(bytes as u64);
    }

    /// So many bytes went.
    pub fn sent(&self, bytes: usize) {
        self.sent.add(bytes as u64);
    }
}

/// Kinds of commands; what is none of them counts as the last.
const COMMANDS: [&str; 16] = [
    "connect",
    "subscribe",
    "unsubscribe",
    "publish",
    "presence",
    "presence_stats",
    "history",
    "rpc",
    "send",
    "ping",
    "pong",
    "refresh",
    "sub_refresh",
    "records",
    "unsupported",
    "other",
];

/// What clients are connected by.
const TRANSPORTS: [&str; 3] = ["websocket", "http_stream", "sse"];

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// From what costs nothing to what waits for Redis and slow plugins.
const COMMAND_BOUNDS: &[Duration] = &[
    micros(4),
    micros(16),
    micros(64),
    micros(256),
    micros(1_000),
    micros(4_000),
    micros(16_000),
    micros(64_000),
    micros(256_000),
    micros(1_000_000),
    micros(4_000_000),
];

/// From one machine to the other side of the earth, and to a bad train.
const RTT_BOUNDS: &[Duration] = &[
    micros(1_000),
    micros(5_000),
    micros(10_000),
    micros(20_000),
    micros(40_000),
    micros(60_000),
    micros(80_000),
    micros(100_000),
    micros(150_000),
    micros(200_000),
    micros(300_000),
    micros(500_000),
    micros(1_000_000),
    micros(3_000_000),
];

/// What is counted for each command and each pong.
#[derive(Debug)]
struct Busy {
    commands: [Total; COMMANDS.len()],
    took: [Timings; COMMANDS.len()],
    rtt: [Timings; TRANSPORTS.len()],
}

fn place(names: &[&str], name: &str) -> usize {
    names.iter().position(|known| *known == name).unwrap_or(names.len() - 1)
}

impl Busy {
    fn new() -> Self {
        Self {
            commands: [const { Total::new() }; COMMANDS.len()],
            took: std::array::from_fn(|_| Timings::new(COMMAND_BOUNDS)),
            rtt: std::array::from_fn(|_| Timings::new(RTT_BOUNDS)),
        }
    }
}

/// A handle on them for the registry.
#[derive(Debug)]
struct Scraped(Arc<Busy>);

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut bytes =
            encoder.encode_descriptor("client_bytes", "Bytes of clients' frames", None, MetricType::Counter)?;
        for (direction, total) in [("in", &TRAFFIC.received), ("out", &TRAFFIC.sent)] {
            ConstCounter::new(total.get()).encode(bytes.encode_family(&[("direction", direction)])?)?;
        }
        let help = "Commands of clients by kind";
        let mut commands = encoder.encode_descriptor("commands", help, None, MetricType::Counter)?;
        for (kind, total) in COMMANDS.iter().zip(&self.0.commands).filter(|(_, total)| total.get() > 0) {
            ConstCounter::new(total.get()).encode(commands.encode_family(&[("kind", *kind)])?)?;
        }
        let help = "Time from a command to its answer, or to where others answer it later";
        let unit = Some(&Unit::Seconds);
        let mut took = encoder.encode_descriptor("command_duration", help, unit, MetricType::Histogram)?;
        for (kind, timings) in COMMANDS.iter().zip(&self.0.took).filter(|(_, timings)| timings.count() > 0) {
            timings.encode(took.encode_family(&[("kind", *kind)])?)?;
        }
        let help = "Time from the server's ping to the client's pong, by what it is connected by";
        let mut rtt = encoder.encode_descriptor("client_rtt", help, unit, MetricType::Histogram)?;
        for (transport, timings) in TRANSPORTS.iter().zip(&self.0.rtt) {
            timings.encode(rtt.encode_family(&[("transport", *transport)])?)?;
        }
        Ok(())
    }
}

const LIMITS: [&str; 13] = [
    "connections",
    "connections_per_address",
    "connect_rate",
    "memory",
    "lag",
    "connections_per_user",
    "commands",
    "outbox",
    "message_size",
    "frames",
    "errors",
    "connect_timeout",
    "sizes_and_numbers",
];

/// The limit that a close comes of.
fn limit_of_close(code: u16) -> Option<&'static str> {
    let limits = [
        (Close::SLOW, "outbox"),
        (Close::TOO_MANY_REQUESTS, "commands"),
        (Close::CONNECTION_LIMIT, "connections_per_user"),
        (Close::TOO_MANY_ERRORS, "errors"),
        (Close::CONTROL_FLOOD, "frames"),
        (Close::MESSAGE_TOO_BIG, "message_size"),
        (Close::STALE, "connect_timeout"),
    ];
    limits.into_iter().find(|(close, _)| close.code == code).map(|(_, limit)| limit)
}

/// The limit that a refusal comes of.
fn limit_of_refusal(code: u32) -> Option<&'static str> {
    let limits = [(Refusal::TOO_MANY_REQUESTS, "commands"), (Refusal::LIMIT_EXCEEDED, "sizes_and_numbers")];
    limits.into_iter().find(|(refusal, _)| refusal.code == code).map(|(_, limit)| limit)
}

/// All counters. A clone counts into the same ones.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<(Registry, Registry)>,
    busy: Arc<Busy>,
    /// TCP connections taken in.
    pub accepted: Counter,
    /// TCP connections turned away at the limit.
    pub turned_away: Counter,
    /// Open sockets, identified or not.
    pub sockets: Gauge,
    connections: Gauge,
    users: Gauge,
    rooms: Gauge,
    /// Places of connections in rooms, at the last scrape.
    pub memberships: Gauge,
    /// Tasks of the runtime that have not ended, at the last scrape.
    pub tasks: Gauge,
    slow: Counter,
    limited: Family<LimitLabel, Counter>,
    closes: Family<CodeLabel, Counter>,
    refusals: Family<CodeLabel, Counter>,
    api_calls: Family<ApiLabels, Counter>,
    /// Messages of clients and plugins that were taken for delivery.
    pub published: Counter,
    /// Frames put into outboxes by messages.
    pub deliveries: Counter,
    slow_dropped: Counter,
    /// Copies for rooms with history that could not be kept.
    pub copies_lost: Counter,
    /// Actions of plugins that could not be performed.
    pub actions_failed: Counter,
    hook_seconds: Family<HookLabels, Histogram, fn() -> Histogram>,
    plugin_failures: Family<FailureLabels, Counter>,
    plugin_generation: Family<PluginLabel, Gauge>,
    plugins_withdrawn: Family<PluginLabel, Counter>,
    reloads: Family<OutcomeLabel, Counter>,
    reload_failing: Gauge,
    spans: Family<OutcomeLabel, Counter>,
    guests: Arc<guests::Guests>,
    /// The pipeline's generation.
    pub generation: Gauge,
    /// Between instances.
    pub cluster: ClusterMetrics,
}

fn hook_histogram() -> Histogram {
    // 1 us to 262 ms, each four times the one before.
    Histogram::new(exponential_buckets(1e-6, 4.0, 10))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("wayleave");
        let mut metrics = Self {
            registry: Arc::default(),
            busy: Arc::new(Busy::new()),
            accepted: Counter::default(),
            turned_away: Counter::default(),
            sockets: Gauge::default(),
            connections: Gauge::default(),
            users: Gauge::default(),
            rooms: Gauge::default(),
            memberships: Gauge::default(),
            tasks: Gauge::default(),
            slow: Counter::default(),
            limited: Family::default(),
            closes: Family::default(),
            refusals: Family::default(),
            api_calls: Family::default(),
            published: Counter::default(),
            deliveries: Counter::default(),
            slow_dropped: Counter::default(),
            copies_lost: Counter::default(),
            actions_failed: Counter::default(),
            hook_seconds: Family::new_with_constructor(hook_histogram),
            plugin_failures: Family::default(),
            plugin_generation: Family::default(),
            plugins_withdrawn: Family::default(),
            reloads: Family::default(),
            reload_failing: Gauge::default(),
            spans: Family::default(),
            guests: Arc::new(guests::Guests::register(&mut registry)),
            generation: Gauge::default(),
            cluster: ClusterMetrics::default(),
        };
        let m = &metrics;
        registry.register("accepted", "TCP connections taken in", m.accepted.clone());
        registry.register(
            "turned_away",
            "Clients turned away by limits of connections, rate, memory or lag",
            m.turned_away.clone(),
        );
        registry.register("sockets", "Open WebSockets, identified or not", m.sockets.clone());
        registry.register("connections", "Identified connections", m.connections.clone());
        registry.register("users", "Users with a connection", m.users.clone());
        registry.register("rooms", "Rooms with a member", m.rooms.clone());
        registry.register("memberships", "Places of connections in rooms", m.memberships.clone());
        registry.register("tasks", "Tasks of the runtime that have not ended", m.tasks.clone());
        registry.register("slow_clients", "Connections closed since they read too slowly", m.slow.clone());
        registry.register("limited", "Closes and refusals that come of a limit, by limit", m.limited.clone());
        registry.register_collector(Box::new(Scraped(Arc::clone(&m.busy))));
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What this is", build);
        registry.register("closes", "Ended connections by close code", m.closes.clone());
        registry.register("refusals", "Error replies by code", m.refusals.clone());
        registry.register("api_calls", "Calls of the server API by method and error code", m.api_calls.clone());
        registry.register("messages", "Messages taken for delivery", m.published.clone());
        registry.register("deliveries", "Frames put into outboxes by messages", m.deliveries.clone());
        registry.register("slow_dropped", "Frames left out for members that read too slowly", m.slow_dropped.clone());
        registry.register("copies_lost", "Copies for rooms with history that could not be kept", m.copies_lost.clone());
        registry.register("actions_failed", "Actions of plugins that could not be performed", m.actions_failed.clone());
        registry.register_with_unit("plugin_call", "Time in plugins by hook", Unit::Seconds, m.hook_seconds.clone());
        registry.register("plugin_failures", "Failed calls of plugins", m.plugin_failures.clone());
        registry.register("plugin_generation", "How often a plugin was replaced", m.plugin_generation.clone());
        registry.register(
            "plugins_withdrawn",
            "New contents of plugins that failed more than those before, which took their places again",
            m.plugins_withdrawn.clone(),
        );
        registry.register("reloads", "Reloads by outcome", m.reloads.clone());
        registry.register("spans", "Spans of traces, by what became of them", m.spans.clone());
        registry.register("reload_failing", "1 since a reload failed, until one succeeds", m.reload_failing.clone());
        registry.register("generation", "Generation of the pipeline", m.generation.clone());
        let c = &m.cluster;
        registry.register("bus_sent", "Frames sent to other instances", c.sent.clone());
        registry.register("bus_received", "Frames heard from the bus, own ones among them", c.received.clone());
        registry.register("bus_received_bytes", "Bytes of frames heard from the bus", c.received_bytes.clone());
        registry.register("bus_missed", "Messages of live rooms that were lost on the bus", c.missed.clone());
        registry.register("bus_dropped", "Frames and commands that came to nothing, by reason", c.drops.clone());
        registry.register("bus_links_lost", "Connections to Redis that were lost, by role", c.lost.clone());
        registry.register("bus_topics", "Channels that are heard or wanted", c.topics.clone());
        registry.register("bus_up", "1 while Redis can be used in both directions", c.up.clone());
        registry.register("history_repaired", "Messages read from history since they did not come", c.repaired.clone());
        registry.register("history_unrepaired", "Members told that messages are lost to them", c.unrepaired.clone());
        registry.register("instances", "Instances that are alive", c.instances.clone());
        registry.register("sweeps", "Cleaning up after dead instances, by outcome", c.sweeps.clone());
        registry.register("sweeps_fenced", "Cleanings up that found a newer claim", c.fenced.clone());
        registry.register("deposed", "Times at which others had taken this one for dead", c.deposed.clone());
        registry.register_with_unit(
            "heartbeat_age",
            "Since this instance last showed that it lives; it is taken for dead after cluster.ttl",
            Unit::Seconds,
            c.beat_age.clone(),
        );
        // These have names of their own, which other programs have as well.
        let mut common = Registry::default();
        common.register_collector(Box::new(process::Process::new()));
        metrics.registry = Arc::new((registry, common));
        metrics.begin_at_zero();
        metrics
    }

    /// What is plotted as a rate must be there before it first happens.
    fn begin_at_zero(&self) {
        for outcome in ["replaced", "unchanged", "failed"] {
            drop(self.reloads.get_or_create(&OutcomeLabel { outcome }));
        }
        for outcome in ["sent", "dropped", "failed"] {
            self.spans(outcome, 0);
        }
        for limit in LIMITS {
            drop(self.limited.get_or_create(&LimitLabel { limit }));
        }
        self.cluster.begin_at_zero();
    }

    /// A connection ended.
    pub fn closed(&self, code: u16) {
        if code == Close::SLOW.code {
            self.slow.inc();
        }
        if let Some(limit) = limit_of_close(code) {
            self.limited.get_or_create(&LimitLabel { limit }).inc();
        }
        self.closes.get_or_create(&CodeLabel { code: code.into() }).inc();
    }

    /// Counts what became of a message: frames put into outboxes, and frames
    /// left out for it.
    pub fn delivered(&self, queued: usize, dropped: usize) {
        self.deliveries.inc_by(queued as u64);
        if dropped > 0 {
            self.slow_dropped.inc_by(dropped as u64);
        }
    }

    /// A command came in.
    pub fn command(&self, kind: &'static str) {
        self.busy.commands[place(&COMMANDS, kind)].add(1);
    }

    /// A command of this kind was answered after this long.
    pub fn command_took(&self, kind: &'static str, took: Duration) {
        self.busy.took[place(&COMMANDS, kind)].observe(took);
    }

    /// A pong came this long after its ping.
    pub fn pong_took(&self, transport: &'static str, took: Duration) {
        self.busy.rtt[place(&TRANSPORTS, transport)].observe(took);
    }

    /// A client was turned away by this limit.
    pub fn turn_away(&self, limit: &'static str) {
        self.turned_away.inc();
        self.limited.get_or_create(&LimitLabel { limit }).inc();
    }

    /// An error reply went out. A plugin's own codes are counted as one.
    pub fn refused(&self, code: u32) {
        if let Some(limit) = limit_of_refusal(code) {
            self.limited.get_or_create(&LimitLabel { limit }).inc();
        }
        let code = if (400..=1999).contains(&code) { 400 } else { code };
        self.refusals.get_or_create(&CodeLabel { code }).inc();
    }

    /// The server API was called; code 0: it succeeded. The method is empty
    /// when the key was wrong.
    pub fn api_called(&self, method: &'static str, code: u32) {
        let code = if (400..=1999).contains(&code) { 400 } else { code };
        self.api_calls.get_or_create(&ApiLabels { method, code }).inc();
    }

    /// A reload ended.
    pub fn reloaded(&self, outcome: &'static str) {
        self.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
        self.reload_failing.set(i64::from(outcome == "failed"));
    }

    /// Spans were sent, dropped or failed.
    pub fn spans(&self, outcome: &'static str, n: u64) {
        self.spans.get_or_create(&OutcomeLabel { outcome }).inc_by(n);
    }

    /// Counts how often a new content of this plugin was withdrawn.
    pub(crate) fn withdrawn(&self, plugin: &str) -> Counter {
        self.plugins_withdrawn.get_or_create_owned(&PluginLabel { plugin: plugin.to_owned() })
    }

    /// What this plugin counts itself.
    #[must_use]
    pub fn guest(&self, plugin: &str) -> Arc<GuestFigures> {
        self.guests.of(plugin)
    }

    /// This plugin is live with this generation.
    pub fn plugin_is_live(&self, plugin: &str, generation: u64) {
        let gauge = self.plugin_generation.get_or_create(&PluginLabel { plugin: plugin.to_owned() });
        gauge.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// The handles of one plugin at one hook, looked up once.
    #[must_use]
    pub fn hook(&self, plugin: &str, hook: Hook) -> HookMetrics {
        let labels = HookLabels { plugin: plugin.to_owned(), hook: hook.key() };
        let seconds = self.hook_seconds.get_or_create(&labels).clone();
        HookMetrics { failures: self.plugin_failures.clone(), plugin: plugin.to_owned(), hook, seconds }
    }

    /// What has become of the calls of all plugins since the start. Read from
    /// the same histograms as `/metrics`, and as coarse.
    #[must_use]
    pub fn hook_calls(&self) -> Vec<HookCalls> {
        let mut registry = Registry::default();
        registry.register("calls", "", self.hook_seconds.clone());
        registry.register("failures", "", self.plugin_failures.clone());
        let mut text = String::new();
        // Writing into a String does not fail.
        encode_registry(&mut text, &registry).expect("metrics become text");
        let mut all: BTreeMap<(String, String), HookCalls> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, labels, value)) = sample(line) else { continue };
            let label = |wanted: &str| {
                labels.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value).to_owned()
            };
            let calls = all.entry((label("plugin"), label("hook"))).or_default();
            match name {
                "calls_count" => calls.count = value as u64,
                "calls_sum" => calls.seconds = value,
                "calls_bucket" => {
                    let upper = label("le").parse().unwrap_or(f64::INFINITY);
                    calls.buckets.push((upper, value as u64));
                }
                "failures_total" => drop(calls.failures.insert(label("kind"), value as u64)),
                _ => {}
            }
        }
        let named = all.into_iter().map(|((plugin, hook), calls)| HookCalls { plugin, hook, ..calls });
        named.collect()
    }

    /// What `/metrics` answers, with these counts of the hub.
    #[must_use]
    pub fn text(&self, connections: usize, users: usize, rooms: usize) -> String {
        let number = |n| i64::try_from(n).unwrap_or(i64::MAX);
        self.connections.set(number(connections));
        self.users.set(number(users));
        self.rooms.set(number(rooms));
        let mut text = String::with_capacity(16 << 10);
        // Writing into a String does not fail.
        let (own, common) = &*self.registry;
        let written = encode_registry(&mut text, own).and_then(|()| encode_registry(&mut text, common));
        written.and_then(|()| encode_eof(&mut text)).expect("metrics become text");
        text
    }
}

/// The calls of one plugin at one hook.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HookCalls {
    /// Its name.
    pub plugin: String,
    /// The hook's key.
    pub hook: String,
    /// How many.
    pub count: u64,
    /// How long all of them together took.
    pub seconds: f64,
    /// Of each bound in seconds, how many took no longer.
    buckets: Vec<(f64, u64)>,
    /// How many failed, by kind.
    pub failures: BTreeMap<String, u64>,
}

impl HookCalls {
    /// The least known bound, in seconds, that this part of the calls kept;
    /// None: there were none, or they took longer than is counted.
    #[must_use]
    pub fn within(&self, part: f64) -> Option<f64> {
        let wanted = (self.count as f64 * part).ceil().max(1.0) as u64;
        let kept = self.buckets.iter().find(|(_, count)| *count >= wanted);
        kept.map(|(upper, _)| *upper).filter(|upper| upper.is_finite())
    }
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// A line as it is written above: `name{label="value",…} number`. None of our
/// labels holds a quote or a comma.
fn sample(line: &str) -> Option<(&str, Labels<'_>, f64)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.split_once("} ")?;
    let labels = labels.split(',').filter_map(|label| {
        let (name, value) = label.split_once('=')?;
        Some((name, value.trim_matches('"')))
    });
    Some((name, labels.collect(), value.split(' ').next()?.parse().ok()?))
}

/// Counts the calls of one plugin at one hook.
#[derive(Debug)]
pub struct HookMetrics {
    failures: Family<FailureLabels, Counter>,
    plugin: String,
    hook: Hook,
    seconds: Histogram,
}

impl HookMetrics {
    /// A call took this long.
    pub fn observe(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }

    /// A call failed.
    pub fn failed(&self, kind: FailureKind) {
        let labels = FailureLabels { plugin: self.plugin.clone(), hook: self.hook.key(), kind: kind.key() };
        self.failures.get_or_create(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_of_plugins_are_read_back() {
        let metrics = Metrics::new();
        assert_eq!(metrics.hook_calls(), []);
        let hook = metrics.hook("mask", Hook::AuthorizePublish);
        for micros in [3, 3, 3, 200] {
            hook.observe(Duration::from_micros(micros));
        }
        hook.failed(FailureKind::Timeout);
        let calls = metrics.hook_calls().remove(0);
        assert_eq!((&*calls.plugin, &*calls.hook, calls.count), ("mask", "authorize_publish", 4));
        assert!((calls.seconds - 209e-6).abs() < 1e-9, "{calls:?}");
        assert_eq!((calls.within(0.5), calls.within(1.0)), (Some(4e-6), Some(256e-6)));
        assert_eq!(calls.failures, BTreeMap::from([("timeout".to_owned(), 1)]));
        assert_eq!(HookCalls::default().within(0.5), None);
    }
}
