//! What clients say and are told, free of any wire.
//!
//! The session and the router know only these types. Bytes become a
//! [`Request`] and a [`Reply`] or [`Push`] becomes bytes in the codecs below;
//! no other module knows a wire format.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::IgnoredAny;
use tungstenite::Utf8Bytes;

use crate::{
    id::{RoomName, UserId},
    room::Position,
};

mod broadcast;
pub mod centrifuge;
pub mod codes;
mod delta;
mod filter;
pub mod frame;
mod protobuf;

pub use self::{
    broadcast::Broadcast,
    codes::{Close, Refusal},
    filter::{Filter, Rule},
};

/// How the gateway names itself to clients.
const VERSION: &str = concat!("wayleave ", env!("CARGO_PKG_VERSION"));

/// The wire encodings that a connection can have chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Centrifuge protocol, version 2, JSON in text frames of a WebSocket.
    CentrifugeJson,
    /// The same, Protobuf in binary frames.
    CentrifugeProtobuf,
    /// JSON, a line each, in the body of an HTTP response.
    CentrifugeJsonStream,
    /// Protobuf, each behind its length, in the body of an HTTP response.
    CentrifugeProtobufStream,
    /// JSON as server-sent events in the body of an HTTP response.
    CentrifugeEvents,
}

/// What a client has sent, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A text.
    Text(Utf8Bytes),
    /// Bytes.
    Binary(Bytes),
}

impl Incoming {
    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }

    /// True if it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a client says in a request beside its stream.
#[derive(Debug)]
pub struct Said {
    /// The instance that has the stream, as its welcome names it.
    pub node: String,
    /// The stream, as its welcome names it.
    pub session: String,
    /// Its commands.
    pub message: Incoming,
}

/// What came is not the protocol; the connection ends with 3501.
#[derive(Debug, thiserror::Error)]
#[error("not a command of the Centrifuge protocol: {0}")]
pub struct NotTheProtocol(pub(crate) Cow<'static, str>);

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

/// What a client can ask.
#[derive(Debug)]
pub enum Command<'a> {
    /// The first command of each connection. Boxed, as it is large and rare:
    /// sessions have room for a command.
    Connect(Box<Hello<'a>>),
    /// Join a room.
    Join {
        /// The room.
        room: Cow<'a, str>,
        /// Subscription token, or empty.
        token: Cow<'a, str>,
        /// Anything, for the plugins.
        data: Option<Payload>,
        /// What it has seen already, if it wants what it missed.
        recover: Option<Seen<'a>>,
        /// How it wants to hear the room.
        wishes: Wishes,
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
        payload: Payload,
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
        data: Option<Payload>,
    },
    /// A message to the plugins that nobody answers.
    Send {
        /// The message.
        data: Option<Payload>,
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

/// How somebody wants to hear a room, where the room offers it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Who comes and goes.
    pub join_leave: bool,
    /// Messages as differences to those before them.
    pub delta: bool,
    /// Only some messages.
    pub filter: Option<Box<Rule>>,
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
    pub data: Option<Payload>,
    /// The client library.
    pub name: Cow<'a, str>,
    /// Its version.
    pub version: Cow<'a, str>,
    /// What it has seen of rooms that the server joins it to.
    pub seen: Vec<(Cow<'a, str>, Seen<'a>)>,
}

impl Command<'_> {
    /// What a client wants others or the plugins to read.
    #[must_use]
    pub fn payload(&self) -> Option<&Payload> {
        match self {
            Self::Connect(hello) => hello.data.as_ref(),
            Self::Join { data, .. } | Self::Call { data, .. } | Self::Send { data } => data.as_ref(),
            Self::Publish { payload, .. } => Some(payload),
            _ => None,
        }
    }
}

/// A body inside the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// One valid JSON value.
    Text(String),
    /// Anything.
    Binary(Vec<u8>),
}

/// How deep a client's JSON may nest. Most that reads JSON calls itself for each
/// level: a plugin would fail at some thousands, and be taken for a bad one, and
/// many libraries give up at 128, of which some are left to wrap it.
pub const LEVELS_MAX: usize = 100;

/// How deep lists and objects nest in a text that is JSON.
fn levels(json: &str) -> usize {
    let (mut level, mut deepest, mut is_in_string, mut is_escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_in_string => is_escaped = true,
            b'"' => is_in_string = !is_in_string,
            _ if is_in_string => {}
            b'[' | b'{' => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A body, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadRef<'a> {
    /// One valid JSON value.
    Text(&'a str),
    /// Anything.
    Binary(&'a [u8]),
}

impl Payload {
    /// From a wire that carries bytes: they are a text if they are one JSON
    /// value, so that all clients of a room and its plugins understand them.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) if serde_json::from_str::<IgnoredAny>(&text).is_ok() => Self::Text(text),
            Ok(text) => Self::Binary(text.into_bytes()),
            Err(error) => Self::Binary(error.into_bytes()),
        }
    }

    /// Whether lists and objects nest in it more than [`LEVELS_MAX`] times.
    #[must_use]
    pub fn is_too_deep(&self) -> bool {
        let Self::Text(text) = self else { return false };
        // Nearly all have fewer of them altogether, and to count is quick, more
        // so in a byte.
        let opening = |byte: &u8| u8::from(matches!(byte, b'[' | b'{'));
        let count = |bytes: &[u8]| usize::from(bytes.iter().map(opening).sum::<u8>());
        text.len() > LEVELS_MAX
            && text.as_bytes().chunks(255).map(count).sum::<usize>() > LEVELS_MAX
            && levels(text) > LEVELS_MAX
    }

    /// The same, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> PayloadRef<'_> {
        match self {
            Self::Text(text) => PayloadRef::Text(text),
            Self::Binary(bytes) => PayloadRef::Binary(bytes),
        }
    }

    /// As clients that speak JSON get it: a text as it is, bytes as a JSON
    /// string in base64 (RFC 4648, section 4).
    #[must_use]
    pub fn to_json(&self) -> Cow<'_, str> {
        self.borrowed().to_json()
    }

    /// Bytes as a JSON string.
    #[must_use]
    pub fn base64(bytes: &[u8]) -> String {
        format!("\"{}\"", data_encoding::BASE64.encode(bytes))
    }
}

impl From<String> for Payload {
    /// `text` must be one JSON value.
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<'a> PayloadRef<'a> {
    /// As clients that speak JSON get it, as [`Payload::to_json`] has it.
    #[must_use]
    pub fn to_json(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Binary(bytes) => Cow::Owned(Payload::base64(bytes)),
        }
    }

    /// A copy of its own.
    #[must_use]
    pub fn to_owned(self) -> Payload {
        match self {
            Self::Text(text) => Payload::Text(text.to_owned()),
            Self::Binary(bytes) => Payload::Binary(bytes.to_vec()),
        }
    }

    /// As clients get it whose wire carries bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
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
    Joined(&'a JoinedRoom),
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
    /// To `Call`.
    Called(PayloadRef<'a>),
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
    /// By what requests beside a stream name it, where it has no socket of its
    /// own.
    pub session: Option<&'a str>,
    /// Seconds until its identity expires; None: never.
    pub ttl: Option<u32>,
    /// Rooms that the server joined it to.
    pub rooms: &'a [(RoomName, JoinedRoom)],
}

/// What somebody is told who is in a room now.
#[derive(Debug, Clone, Default)]
pub struct JoinedRoom {
    /// From the admission.
    pub data: Option<Payload>,
    /// Where it stands in the room's history, if it can recover there.
    pub position: Option<Position>,
    /// What it has missed.
    pub publications: Vec<PastPublication>,
    /// It has asked for that.
    pub was_recovering: bool,
    /// That is all it has missed.
    pub recovered: bool,
    /// It hears messages as differences.
    pub delta: bool,
    /// Seconds until it expires; None: never.
    pub ttl: Option<u32>,
}

/// A message from a room's history.
#[derive(Debug, Clone)]
pub struct PastPublication {
    /// Its place.
    pub offset: u64,
    /// The message.
    pub payload: Payload,
    /// The sender, if a client sent it.
    pub sender: Option<MemberInfo>,
    /// What handled it.
    pub tags: Vec<Tag<'static>>,
}

impl JoinedRoom {
    /// Says that what was missed is not handed out after all: it would be too
    /// much at once.
    pub fn withhold(&mut self) {
        self.publications = Vec::new();
        self.recovered = false;
    }
}

impl PastPublication {
    /// The same, borrowed.
    #[must_use]
    pub fn borrowed<'a>(&'a self, room: &'a str) -> Publication<'a> {
        let Self { offset, payload, sender, tags } = self;
        Publication { room, payload: payload.borrowed(), sender: sender.as_ref(), tags, offset: *offset }
    }
}

/// A message in a room.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// The room.
    pub room: &'a str,
    /// The message.
    pub payload: PayloadRef<'a>,
    /// The sender, if a client sent it.
    pub sender: Option<&'a MemberInfo>,
    /// What handled it, for rooms that are stamped.
    pub tags: &'a [Tag<'a>],
    /// Its place in the room's history, if the room has one.
    pub offset: u64,
}

/// In which form a message goes out.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form<'a> {
    /// As it is.
    Plain,
    /// As a whole, to somebody who takes differences: in JSON its text is a
    /// string, so that both sides have the same bytes.
    Whole,
    /// The difference to the message before.
    Delta(&'a [u8]),
}

/// What the server says without being asked.
#[derive(Debug)]
pub enum Push<'a> {
    /// A message in a room.
    Publication(Publication<'a>),
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
        joined: &'a JoinedRoom,
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
    /// A message to this connection that belongs to no room.
    Message(PayloadRef<'a>),
    /// The connection ends, where no close frame says so.
    Ended(&'a Close),
    /// The server has set when this connection expires.
    Refresh {
        /// Seconds until then; None: never.
        ttl: Option<u32>,
    },
    /// Are you there?
    Ping,
}

impl Encoding {
    /// How many there are.
    const N: usize = 5;

    /// True if messages are Protobuf and not JSON.
    #[must_use]
    pub fn is_protobuf(self) -> bool {
        matches!(self, Self::CentrifugeProtobuf | Self::CentrifugeProtobufStream)
    }

    /// True if it has a socket of its own, else the body of a response.
    #[must_use]
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::CentrifugeJson | Self::CentrifugeProtobuf)
    }

    /// What carries it, as the metrics have it.
    #[must_use]
    pub fn transport(self) -> &'static str {
        match self {
            Self::CentrifugeJson | Self::CentrifugeProtobuf => "websocket",
            Self::CentrifugeJsonStream | Self::CentrifugeProtobufStream => "http_stream",
            Self::CentrifugeEvents => "sse",
        }
    }

    /// The commands in what came, in order.
    ///
    /// # Errors
    /// Each may be refused on its own.
    pub fn decode(self, incoming: &Incoming) -> impl Iterator<Item = Result<Request<'_>, NotTheProtocol>> {
        let wrong = |reason| Requests::Binary(protobuf::Commands::wrong(reason));
        match (incoming, self.is_protobuf()) {
            (Incoming::Text(text), false) => Requests::Lines(centrifuge::decode(text)),
            (Incoming::Binary(bytes), true) => Requests::Binary(protobuf::decode(bytes)),
            (Incoming::Text(_), true) => wrong("a text, expected Protobuf"),
            (Incoming::Binary(_), false) => wrong("bytes, expected a text"),
        }
    }

    /// What a reply goes out as.
    #[must_use]
    pub fn reply(self, id: u32, reply: &Reply<'_>) -> Bytes {
        self.write(|buffer| centrifuge::write_reply(buffer, id, reply), || protobuf::reply(id, reply))
    }

    /// What a refusal goes out as.
    #[must_use]
    pub fn refusal(self, id: u32, refusal: &Refusal) -> Bytes {
        self.write(|buffer| centrifuge::write_refusal(buffer, id, refusal), || protobuf::refusal(id, refusal))
    }

    /// What a push to one connection goes out as.
    #[must_use]
    pub fn push(self, push: &Push<'_>) -> Bytes {
        self.write(|buffer| centrifuge::write_push(buffer, push), || protobuf::push(push))
    }

    /// What a message goes out as in some form.
    fn publication(self, publication: &Publication<'_>, form: Form<'_>) -> Bytes {
        self.write(
            |buffer| centrifuge::write_publication(buffer, publication, form),
            || protobuf::publication_push(publication, form),
        )
    }

    /// The last that goes out.
    #[must_use]
    pub fn close(self, close: &Close) -> Bytes {
        if self.is_websocket() { frame::close(close) } else { self.push(&Push::Ended(close)) }
    }

    fn write(self, json: impl FnOnce(&mut Vec<u8>), protobuf: impl FnOnce() -> protobuf::Message) -> Bytes {
        match self {
            Self::CentrifugeJson => frame::text(json),
            Self::CentrifugeProtobuf => frame::binary(|buffer| protobuf().write(buffer)),
            Self::CentrifugeJsonStream => plain(|buffer| {
                json(buffer);
                buffer.push(b'\n');
            }),
            Self::CentrifugeProtobufStream => plain(|buffer| protobuf().write(buffer)),
            Self::CentrifugeEvents => plain(|buffer| {
                buffer.extend_from_slice(b"data: ");
                json(buffer);
                buffer.extend_from_slice(b"\n\n");
            }),
        }
    }
}

/// What is decoded as it is asked for. A session holds one while it works, so it
/// must be small.
enum Requests<'a, L> {
    Lines(L),
    Binary(protobuf::Commands<'a>),
}

impl<'a, L: Iterator<Item = Result<Request<'a>, NotTheProtocol>>> Iterator for Requests<'a, L> {
    type Item = Result<Request<'a>, NotTheProtocol>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Lines(lines) => lines.next(),
            Self::Binary(commands) => commands.next(),
        }
    }
}

fn plain(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut buffer = Vec::with_capacity(256);
    write(&mut buffer);
    buffer.shrink_to_fit();
    buffer.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_may_nest_so_deep_and_no_deeper() {
        let nested = |levels: usize| Payload::Text("[".repeat(levels) + &"]".repeat(levels));
        assert!(!nested(LEVELS_MAX).is_too_deep());
        assert!(nested(LEVELS_MAX + 1).is_too_deep());
        let objects = "{\"a\":".repeat(LEVELS_MAX + 1) + "1" + &"}".repeat(LEVELS_MAX + 1);
        assert!(Payload::Text(objects).is_too_deep());
        let side_by_side = format!("[{}{{}}]", "{\"a\":[1]},".repeat(1_000));
        assert!(!Payload::Text(side_by_side).is_too_deep());
        let written = format!(r#"{{"text":"\"{}"}}"#, "[".repeat(1_000));
        assert!(!Payload::Text(written).is_too_deep(), "in a string it is text");
        assert!(!Payload::Binary(vec![b'['; 1_000]).is_too_deep());
    }
}
