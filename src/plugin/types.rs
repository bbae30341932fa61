//! What hooks are asked and what they answer, free of any WIT version.
//!
//! The module of each WIT version converts between these and its bindings;
//! the router knows only these.

use std::{fmt, time::Duration};

use crate::{
    config::Target,
    protocol::{Close, Payload, Refusal},
    room::records::Edit,
};

/// A named point where plugins run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Hook {
    /// A connection says hello.
    Authenticate,
    /// A join.
    Authorize,
    /// A publish, before it is looked at.
    AuthorizePublish,
    /// Each message.
    Transform,
    /// Each message, after transform.
    Route,
    /// Something happened.
    Observe,
    /// A period is over.
    Tick,
    /// A client's call.
    Call,
}

impl Hook {
    /// All of them, in the order of a message's way.
    pub const ALL: &'static [Self] = &[
        Self::Authenticate,
        Self::Authorize,
        Self::AuthorizePublish,
        Self::Transform,
        Self::Route,
        Self::Observe,
        Self::Tick,
        Self::Call,
    ];

    /// The WIT interface that a plugin exports for it.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::Authenticate => "authenticate",
            Self::Authorize => "authorize",
            Self::AuthorizePublish => "authorize-publish",
            Self::Transform => "transform",
            Self::Route => "route",
            Self::Observe => "observe",
            Self::Tick => "tick",
            Self::Call => "call",
        }
    }

    /// True if it decides who may do something.
    #[must_use]
    pub fn is_guard(self) -> bool {
        matches!(self, Self::Authenticate | Self::Authorize | Self::AuthorizePublish)
    }

    /// Its key in the config and in metrics.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::AuthorizePublish => "authorize_publish",
            hook => hook.interface(),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.interface())
    }
}

/// A capability that the config gives to a plugin: one host interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// Lines into the gateway's log.
    Log,
    /// A key-value store of its own.
    Kv,
    /// Who is here.
    Lookup,
    /// The time.
    Clock,
    /// Randomness.
    Random,
    /// Figures of its own among the gateway's.
    Metrics,
    /// Values from the environment or files.
    Secrets,
    /// Requests to other servers.
    Http,
}

impl Grant {
    const ALL: &'static [(&'static str, Self)] = &[
        ("log", Self::Log),
        ("kv", Self::Kv),
        ("lookup", Self::Lookup),
        ("clock", Self::Clock),
        ("random", Self::Random),
        ("metrics", Self::Metrics),
        ("secrets", Self::Secrets),
        ("http", Self::Http),
    ];

    /// Every one.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Self::ALL.iter().map(|(_, grant)| *grant)
    }

    /// The grant of this name, which is also the host interface's.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, grant)| *grant)
    }

    /// As the config has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, grant)| *grant == self).map_or("", |(name, _)| name)
    }

    /// All names, for messages.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// What holds when a plugin fails at a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The matter in hand is refused.
    Closed,
    /// The matter goes on as if the plugin were not there.
    Open,
}

/// The connection on whose behalf a hook is asked.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Its id.
    pub connection: &'a str,
    /// Its user, or empty.
    pub user: &'a str,
    /// JSON, or empty.
    pub info: &'a str,
}

/// A message on its way.
#[derive(Debug, Clone, Copy)]
pub struct MessageView<'a> {
    /// Its id.
    pub id: &'a str,
    /// Where it was published.
    pub room: &'a str,
    /// As the hooks before have left it.
    pub payload: &'a Payload,
}

/// What `authenticate` is asked.
#[derive(Debug, Clone, Copy)]
pub struct HelloView<'a> {
    /// The connection's id.
    pub connection: &'a str,
    /// The token, or empty.
    pub token: &'a str,
    /// What came with it.
    pub data: Option<&'a Payload>,
    /// The client library.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
}

/// Who a connection is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// Empty for an anonymous one.
    pub user: String,
    /// JSON, or empty.
    pub info: String,
    /// Rooms to be in from the start.
    pub rooms: Vec<String>,
    /// Milliseconds since 1970; None: it does not expire.
    pub expires_at: Option<u64>,
}

/// What `authenticate` answers.
#[derive(Debug)]
pub enum Authentication {
    /// This is who it is.
    Accept(Identity),
    /// It may not be here.
    Refuse(Refusal),
    /// Somebody else may know.
    Abstain,
}

/// What `authorize` is asked about a join.
#[derive(Debug, Clone, Copy)]
pub struct JoinView<'a> {
    /// The room.
    pub room: &'a str,
    /// The subscription token, or empty.
    pub token: &'a str,
    /// What came with it.
    pub data: Option<&'a Payload>,
}

/// A right, as an admission leaves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Permission {
    /// As the room's entry says, also after a reload.
    #[default]
    Configured,
    /// Yes, whatever the entry says.
    Granted,
    /// No, whatever the entry says.
    Denied,
}

impl Permission {
    /// The right, where the config says `configured`.
    #[must_use]
    pub fn or(self, configured: bool) -> bool {
        match self {
            Self::Configured => configured,
            Self::Granted => true,
            Self::Denied => false,
        }
    }

    /// Of two plugins' answers: a denial stands over everything.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Denied, _) | (_, Self::Denied) => Self::Denied,
            (Self::Granted, _) | (_, Self::Granted) => Self::Granted,
            _ => Self::Configured,
        }
    }
}

/// On which terms somebody is admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// May it publish?
    pub publish: Permission,
    /// May it ask who is here?
    pub presence: Permission,
    /// JSON shown beside it, or empty.
    pub info: String,
    /// For the client.
    pub data: Option<Payload>,
}

/// What `authorize` answers.
#[derive(Debug)]
pub enum Admission {
    /// Come in.
    Allow(Terms),
    /// Stay out.
    Refuse(Refusal),
}

/// What `transform` answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Unchanged.
    Pass,
    /// Changed.
    Replace(Payload),
    /// Nobody gets it, and nobody is told.
    Drop,
    /// Nobody gets it, and the sender is told.
    Refuse(Refusal),
}

/// A payload for some targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Who gets it, once each.
    pub to: Vec<Target>,
    /// Who does not.
    pub except: Vec<Target>,
    /// None: the message's own.
    pub payload: Option<Payload>,
}

/// What `route` answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Routing {
    /// To its room.
    Pass,
    /// To its room and these.
    Add(Vec<Delivery>),
    /// Only to these.
    Replace(Vec<Delivery>),
    /// To nobody, and the sender is told.
    Refuse(Refusal),
}

/// What `observe` is told.
#[derive(Debug, Clone, Copy)]
pub struct EventView<'a> {
    /// `connected`, `disconnected`, `joined`, `left`.
    pub kind: &'static str,
    /// Of a join or leave; empty otherwise.
    pub room: &'a str,
}

/// What `tick` is told.
#[derive(Debug, Clone, Copy)]
pub struct MomentView {
    /// Milliseconds since 1970.
    pub now: u64,
    /// How often it is asked.
    pub period: Duration,
}

/// What a plugin wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this.
    Send(Delivery),
    /// Put a user or connection into a room.
    Join {
        /// Who.
        who: Target,
        /// Where.
        room: String,
    },
    /// Take a user or connection out of a room.
    Leave {
        /// Who.
        who: Target,
        /// Where.
        room: String,
    },
    /// Replace a connection's info.
    SetInfo {
        /// Its id.
        connection: String,
        /// JSON, or empty.
        info: String,
    },
    /// End connections.
    Disconnect {
        /// Whose.
        who: Target,
        /// How.
        close: Close,
    },
    /// Write a document of a room.
    Record {
        /// Which room.
        room: String,
        /// Its name in the room.
        name: String,
        /// What becomes of it.
        edit: Edit,
        /// The version that it must have; None: whatever it is.
        version: Option<u64>,
    },
}

/// What `call` answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The reply: a JSON text.
    Reply(Payload, Vec<Action>),
    /// No.
    Refuse(Refusal),
    /// Not my method.
    Unknown,
}

/// Why a guest did not answer as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// It crashed.
    Trap,
    /// It took longer than its timeout.
    Timeout,
    /// It wanted more memory than its limit.
    Memory,
    /// It called the host more often, or with more, than allowed.
    HostCalls,
    /// Its answer is too large or makes no sense.
    Answer,
    /// A fresh guest could not be made.
    Start,
    /// Too many of its calls wait for other servers.
    Busy,
    /// It has failed so often that it is not asked for a while.
    Resting,
}

impl FailureKind {
    /// Its name in metrics.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::HostCalls => "host_calls",
            Self::Answer => "answer",
            Self::Start => "start",
            Self::Busy => "busy",
            Self::Resting => "resting",
        }
    }
}

/// A plugin failed at a hook. What follows is up to its policy.
#[derive(Debug, Clone, thiserror::Error)]
#[error("plugin `{plugin}` failed at {hook}: {reason}")]
pub struct Failure {
    /// Which plugin.
    pub plugin: String,
    /// Where.
    pub hook: Hook,
    /// What kind.
    pub kind: FailureKind,
    /// For people.
    pub reason: String,
}
