//! The lists of the file: rooms and routes.

use std::{sync::Arc, time::Duration};

use super::{JoinLeave, Recovery, plugins::check_names, read::Table, secs};

pub use super::pattern::{Pattern, Target, Template};

/// Who may publish to a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishRight {
    /// Only the server.
    Nobody,
    /// Connections that are in the room.
    Members,
    /// Every connection.
    Anyone,
}

/// Who may join a room, if its plugins have nothing against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every connection.
    Anyone,
    /// Connections with a user.
    Users,
    /// Connections with a subscription token for the room.
    Token,
    /// Nobody by their own wish; the server joins them.
    Nobody,
}

/// `[[rooms]]`: what holds for the rooms whose names match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomConfig {
    /// Which rooms.
    pub pattern: Pattern,
    /// Who may join.
    pub join: Access,
    /// Who may publish.
    pub publish: PublishRight,
    /// Members may ask who is here.
    pub presence: bool,
    /// Members are told who comes and goes.
    pub join_leave: JoinLeave,
    /// How long somebody whose connection broke counts as present, so that a
    /// reconnect is no leave and join.
    pub presence_grace: Duration,
    /// What the room keeps of its messages; None: nothing.
    pub history: Option<HistoryConfig>,
    /// Clients that come back get what they missed.
    pub recovery: Recovery,
    /// Only those who ask for it are told who comes and goes.
    pub join_leave_on_demand: bool,
    /// Messages may be heard as differences to those before them.
    pub delta: bool,
    /// Members may ask for only some messages, by their tags.
    pub tags_filter: bool,
    /// What may be left out for a member that reads too slowly; None: nothing,
    /// it is closed.
    pub slow: Option<Arc<SlowConfig>>,
    /// Connections that may be in it, on all instances where those are
    /// registered, else on each; None: any number.
    pub members: Option<usize>,
    /// Documents that the room may have; None: none.
    pub records: Option<RecordsConfig>,
    /// After a reload its plugins are asked again about those who are in.
    pub recheck: bool,
    /// Messages carry tags that name the generation and plugins they passed.
    pub stamp: bool,
    /// Names of plugins, in the order in which they are asked.
    pub plugins: Vec<String>,
}

/// What may be left out for a member that reads too slowly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowConfig {
    /// Which messages.
    pub policy: SlowPolicy,
    /// Once so many bytes wait for it.
    pub at: usize,
    /// Where in a message stands what tells those apart that replace each other;
    /// empty: each replaces the one before.
    pub key: Vec<String>,
}

/// Which messages may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlowPolicy {
    /// Those that have waited longest.
    DropOldest,
    /// Those that come.
    DropNewest,
    /// Those for which there is a newer one.
    Latest,
}

/// What a room keeps: both bounds hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryConfig {
    /// Messages.
    pub size: usize,
    /// Age of the oldest.
    pub ttl: Duration,
}

/// The documents of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordsConfig {
    /// How many.
    pub count: usize,
    /// Bytes of one.
    pub size: usize,
    /// How long they are kept after the last write; zero: for good.
    pub ttl: Duration,
}

/// `[[routes]]`: messages of these rooms go to these targets too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Which rooms.
    pub pattern: Pattern,
    /// Where their messages go.
    pub to: Vec<Template>,
    /// The room itself keeps receiving them.
    pub keep: bool,
}

pub(super) fn read_rooms(root: &Table<'_>, plugins: &[&str]) -> Vec<RoomConfig> {
    let read = |table: Table<'_>| {
        let history = table.section("history");
        let kept = HistoryConfig {
            size: usize::try_from(history.number("size", 100, 1..=1_000_000)).unwrap_or(usize::MAX),
            ttl: history.duration("ttl", secs(300), secs(1)..=secs(366 * 24 * 3600)),
        };
        let kept = history.is_present().then_some(kept);
        history.finish();
        let records = table.section("records");
        let documents = RecordsConfig {
            count: usize::try_from(records.number("count", 16, 1..=10_000)).unwrap_or(usize::MAX),
            size: records.size("size", 16 << 10, 2..=16 << 20),
            ttl: records.duration("ttl", secs(0), secs(0)..=secs(366 * 24 * 3600)),
        };
        let documents = records.is_present().then_some(documents);
        records.finish();
        let recovery = table.or("recovery", Recovery::Off);
        if recovery != Recovery::Off && kept.is_none() {
            table.wrong("recovery", r#"needs `history`, as in history = { size = 100, ttl = "5m" }"#);
        }
        let delta = table.or("delta", false);
        let slow = read_slow(&table);
        if slow.is_some() && recovery == Recovery::Missed {
            table.wrong("slow", r#"members of a room with `recovery` count on all messages; expected "disconnect""#);
        }
        if slow.is_some() && documents.is_some() {
            table.wrong(
                "slow",
                r#"a change of a document needs the one before it; with `records`, expected "disconnect""#,
            );
        }
        if slow.is_some() && delta {
            table.wrong("slow", r#"a difference needs the message before it; with `delta`, expected "disconnect""#);
        }
        let pattern = table.required::<String>("match");
        let room = RoomConfig {
            pattern: pattern.map_or_else(Pattern::everything, |text| {
                Pattern::parse(&text).unwrap_or_else(|error| {
                    table.wrong("match", error);
                    Pattern::everything()
                })
            }),
            join: table.choice(
                "join",
                &[
                    ("anyone", Access::Anyone),
                    ("users", Access::Users),
                    ("token", Access::Token),
                    ("nobody", Access::Nobody),
                ],
            ),
            publish: table.choice(
                "publish",
                &[
                    ("nobody", PublishRight::Nobody),
                    ("members", PublishRight::Members),
                    ("anyone", PublishRight::Anyone),
                ],
            ),
            presence: table.or("presence", false),
            join_leave: table.or("join_leave", JoinLeave::Off),
            presence_grace: table.duration("presence_grace", secs(0), secs(0)..=secs(300)),
            history: kept,
            recovery,
            join_leave_on_demand: table.or("join_leave_on_demand", false),
            delta,
            tags_filter: table.or("tags_filter", false),
            slow,
            members: table.optional_number("members", 1..=100_000_000).and_then(|n| n.try_into().ok()),
            records: documents,
            recheck: table.or("recheck", false),
            stamp: table.or("stamp", false),
            plugins: table.or("plugins", Vec::new()),
        };
        check_names(plugins, &room.plugins, |text| table.wrong("plugins", text));
        table.finish();
        room
    };
    root.list("rooms").into_iter().map(read).collect()
}

fn read_slow(table: &Table<'_>) -> Option<Arc<SlowConfig>> {
    let policy = table.choice(
        "slow",
        &[
            ("disconnect", None),
            ("drop-oldest", Some(SlowPolicy::DropOldest)),
            ("drop-newest", Some(SlowPolicy::DropNewest)),
            ("latest", Some(SlowPolicy::Latest)),
        ],
    );
    let at = table.size("slow_at", 256 << 10, 1 << 10..=1 << 30);
    let path = table.optional::<String>("slow_key");
    if path.is_some() && policy != Some(SlowPolicy::Latest) {
        table.wrong("slow_key", r#"only `slow = "latest"` has a key"#);
    }
    let key: Vec<String> = path.iter().flat_map(|path| path.split('.').map(str::to_owned)).collect();
    if path.is_some() && (key.len() < 2 || key[0] != "data" || key.iter().any(String::is_empty)) {
        table.wrong("slow_key", r#"expected where in the message it stands, such as "data.symbol""#);
    }
    let key = key.into_iter().skip(1).collect();
    Some(Arc::new(SlowConfig { policy: policy?, at, key }))
}

pub(super) fn read_routes(root: &Table<'_>) -> Vec<RouteConfig> {
    let read = |table: Table<'_>| {
        let pattern = table.required::<String>("room").map(|text| Pattern::parse(&text));
        let to: Vec<String> = table.required("to").unwrap_or_default();
        let keep = table.or("keep", true);
        let mut templates = Vec::new();
        for text in &to {
            match Template::parse(text) {
                Ok(template) => templates.push(template),
                Err(error) => table.wrong("to", error),
            }
        }
        let pattern = match pattern {
            Some(Ok(pattern)) => Some(pattern),
            Some(Err(error)) => {
                table.wrong("room", error);
                None
            }
            None => None,
        };
        table.finish();
        Some(RouteConfig { pattern: pattern?, to: templates, keep })
    };
    root.list("routes").into_iter().filter_map(read).collect()
}
