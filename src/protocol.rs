//! What clients say and are told, free of any wire.
//!
//! The session and the router know only these types. Bytes become a
//! [`Request`] and a [`Reply`] or [`Push`] becomes bytes in the codecs below;
//! no other module knows a wire format.

use std::{borrow::Cow, cell::OnceCell};

use bytes::Bytes;

use crate::{
    id::{RoomName, UserId},
    room::Position,
};

pub mod centrifuge;
pub mod codes;
pub mod frame;

pub use self::codes::{Close, Refusal};

/// The wire encodings that a connection can have chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Centrifuge protocol, version 2, JSON.
    CentrifugeJson,
}

/// One command of a client. `id` 0 asks for no reply.
#[derive(Debug)]
pub struct Request<'a> {
    /// Repeated in the reply.
    pub id: u32,
    /// What is asked.
    pub command: Command<'a>,
}

/// A name and value that a message carries.
pub type Tag<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A body as it stands on the wire: a JSON text.
pub type Data<'a> = Option<&'a str>;

/// What a client can ask.
#[derive(Debug)]
pub enum Command<'a> {
    /// The first command of each connection.
    Connect(Hello<'a>),
    /// Join a room.
    Join {
        /// The room.
        room: Cow<'a, str>,
        /// Subscription token, or empty.
        token: Cow<'a, str>,
        /// Anything, for the plugins.
        data: Data<'a>,
        /// What it has seen already, if it wants what it missed.
        recover: Option<Seen<'a>>,
    },
    /// Leave a room.
    Leave {
        /// The room.
        room: Cow<'a, str>,
    },
    /// Send a message to a room.
    Publish {
        /// The room.
        room: Cow<'a, str>,
        /// The message.
        data: &'a str,
    },
    /// Who is in a room.
    Presence {
        /// The room.
        room: Cow<'a, str>,
    },
    /// How many are in a room.
    PresenceStats {
        /// The room.
        room: Cow<'a, str>,
    },
    /// What a room has kept.
    History {
        /// The room.
        room: Cow<'a, str>,
        /// How many messages; 0: only the position.
        limit: usize,
        /// Behind which place, or before it in reverse.
        since: Option<Seen<'a>>,
        /// The newest first.
        reverse: bool,
    },
    /// Call a plugin and wait for its reply.
    Call {
        /// The plugin's own name for it.
        method: Cow<'a, str>,
        /// The argument.
        data: Data<'a>,
    },
    /// A message to the plugins that nobody answers.
    Send {
        /// The message.
        data: Data<'a>,
    },
    /// Another token in place of the one that expires.
    Refresh {
        /// Connection token.
        token: Cow<'a, str>,
    },
    /// Another token for a room that it is in.
    SubRefresh {
        /// The room.
        room: Cow<'a, str>,
        /// Subscription token.
        token: Cow<'a, str>,
    },
    /// Asks for a reply and nothing more.
    Ping,
    /// The answer to the server's ping.
    Pong,
    /// Something this version does not offer, by its wire name.
    Unsupported,
}

/// Up to where somebody has seen a room's messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<'a> {
    /// Of which history.
    pub epoch: Cow<'a, str>,
    /// The last message.
    pub offset: u64,
}

/// How a connection introduces itself.
#[derive(Debug, Default)]
pub struct Hello<'a> {
    /// Connection token, or empty.
    pub token: Cow<'a, str>,
    /// Anything, for the plugins.
    pub data: Data<'a>,
    /// The client library.
    pub name: Cow<'a, str>,
    /// Its version.
    pub version: Cow<'a, str>,
    /// What it has seen of rooms that the server joins it to.
    pub seen: Vec<(Cow<'a, str>, Seen<'a>)>,
}

/// A body inside the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// One valid JSON value.
    Text(String),
    /// Anything.
    Binary(Vec<u8>),
}

impl Payload {
    /// As clients that speak JSON get it: a text as it is, bytes as a JSON
    /// string in base64 (RFC 4648, section 4).
    #[must_use]
    pub fn to_json(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Binary(bytes) => Cow::Owned(Self::base64(bytes)),
        }
    }

    /// Bytes as a JSON string.
    #[must_use]
    pub fn base64(bytes: &[u8]) -> String {
        format!("\"{}\"", data_encoding::BASE64.encode(bytes))
    }
}

/// JSON without the line breaks that would end a command in a frame of
/// several. In JSON they are only ever blanks.
#[must_use]
pub fn one_line(mut json: String) -> String {
    json.retain(|c| !matches!(c, '\n' | '\r'));
    json
}

/// Who somebody is, as other members see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// The connection.
    pub connection: String,
    /// Its user.
    pub user: UserId,
    /// JSON from authentication, or empty.
    pub info: std::sync::Arc<str>,
    /// JSON from the admission to the room, or empty.
    pub room_info: std::sync::Arc<str>,
}

/// The good answers to commands.
#[derive(Debug)]
pub enum Reply<'a> {
    /// To `Connect`.
    Connected(Welcome<'a>),
    /// To `Join`.
    Joined(&'a JoinedRoom<'a>),
    /// To `Leave`.
    Left,
    /// To `Publish`.
    Published,
    /// To `History`.
    History {
        /// The newest message's place.
        position: &'a Position,
        /// What was asked for.
        publications: &'a [PastPublication],
    },
    /// To `Presence`.
    Presence(Vec<MemberInfo>),
    /// To `PresenceStats`.
    PresenceStats {
        /// Connections in the room.
        connections: usize,
        /// Different users among them.
        users: usize,
    },
    /// To `Call`: a JSON text.
    Called(&'a str),
    /// To `Refresh`.
    Refreshed {
        /// The connection's id.
        connection: &'a str,
        /// Seconds until it expires; None: never.
        ttl: Option<u32>,
    },
    /// To `SubRefresh`.
    SubRefreshed {
        /// Seconds until it expires; None: never.
        ttl: Option<u32>,
    },
    /// To `Ping`.
    Pong,
}

/// What a connection is told at its start.
#[derive(Debug)]
pub struct Welcome<'a> {
    /// Its id.
    pub connection: &'a str,
    /// This instance.
    pub instance: &'a str,
    /// Seconds between the server's pings.
    pub ping: u64,
    /// Pings must be answered.
    pub pong: bool,
    /// Seconds until its identity expires; None: never.
    pub ttl: Option<u32>,
    /// Rooms that the server joined it to.
    pub rooms: &'a [(RoomName, JoinedRoom<'a>)],
}

/// What somebody is told who is in a room now.
#[derive(Debug, Clone, Default)]
pub struct JoinedRoom<'a> {
    /// From the admission: a JSON text.
    pub data: Option<Cow<'a, str>>,
    /// Where it stands in the room's history, if it can recover there.
    pub position: Option<Position>,
    /// What it has missed.
    pub publications: Vec<PastPublication>,
    /// It has asked for that.
    pub was_recovering: bool,
    /// That is all it has missed.
    pub recovered: bool,
    /// Seconds until it expires; None: never.
    pub ttl: Option<u32>,
}

/// A message from a room's history.
#[derive(Debug, Clone)]
pub struct PastPublication {
    /// Its place.
    pub offset: u64,
    /// The message: a JSON text.
    pub data: String,
    /// The sender, if a client sent it.
    pub sender: Option<MemberInfo>,
    /// What handled it.
    pub tags: Vec<Tag<'static>>,
}

/// What the server says without being asked.
#[derive(Debug)]
pub enum Push<'a> {
    /// A message in a room.
    Publication {
        /// The room.
        room: &'a str,
        /// The message: a JSON text.
        data: &'a str,
        /// The sender, if a client sent it.
        sender: Option<&'a MemberInfo>,
        /// What handled it, for rooms that are stamped.
        tags: &'a [Tag<'a>],
        /// Its place in the room's history, if the room has one.
        offset: u64,
    },
    /// Somebody came.
    Joined {
        /// Into this room.
        room: &'a str,
        /// Who.
        member: &'a MemberInfo,
    },
    /// Somebody went.
    Left {
        /// From this room.
        room: &'a str,
        /// Who.
        member: &'a MemberInfo,
    },
    /// The server joined this connection to a room.
    YouJoined {
        /// The room.
        room: &'a str,
        /// What it is told.
        joined: &'a JoinedRoom<'a>,
    },
    /// The server took this connection out of a room.
    YouLeft {
        /// The room.
        room: &'a str,
        /// An unsubscribe code.
        code: u32,
        /// For people.
        reason: &'a str,
    },
    /// The server has set when this connection expires.
    Refresh {
        /// Seconds until then; None: never.
        ttl: Option<u32>,
    },
    /// A message to this connection that belongs to no room: a JSON text.
    Message(&'a str),
    /// Are you there?
    Ping,
}

/// A push that many receive: encoded once for each encoding in use.
#[derive(Debug)]
pub struct Broadcast<'a> {
    push: Push<'a>,
    centrifuge_json: OnceCell<Bytes>,
}

impl<'a> Broadcast<'a> {
    /// Nothing is encoded before somebody needs it.
    #[must_use]
    pub fn new(push: Push<'a>) -> Self {
        Self { push, centrifuge_json: OnceCell::new() }
    }

    /// The whole WebSocket frame, shared.
    pub fn frame(&self, encoding: Encoding) -> &Bytes {
        match encoding {
            Encoding::CentrifugeJson => self.centrifuge_json.get_or_init(|| centrifuge::encode_push(&self.push)),
        }
    }
}

impl Encoding {
    /// The frame of a reply.
    #[must_use]
    pub fn reply(self, id: u32, reply: &Reply<'_>) -> Bytes {
        match self {
            Self::CentrifugeJson => centrifuge::encode_reply(id, reply),
        }
    }

    /// The frame of a refusal.
    #[must_use]
    pub fn refusal(self, id: u32, refusal: &Refusal) -> Bytes {
        match self {
            Self::CentrifugeJson => centrifuge::encode_refusal(id, refusal),
        }
    }

    /// The frame of a push to one connection.
    #[must_use]
    pub fn push(self, push: &Push<'_>) -> Bytes {
        match self {
            Self::CentrifugeJson => centrifuge::encode_push(push),
        }
    }
}
