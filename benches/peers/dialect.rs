//! What a client says to each kind of server, and how it knows the answers.

use serde_json::json;

use crate::support::wire;

/// HS256 wants a key of 32 bytes.
pub(crate) const SECRET: &str = "the benches' own secret, 32 bytes";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Wayleave's and Centrifugo's, as JSON.
    Json,
    /// The same as Protobuf.
    Protobuf,
    SocketIo,
    /// NATS's own text, in binary frames.
    Nats,
    /// The bare rooms': a connection's path names its room, `ROOM DATA` is sent to one.
    Raw,
}

/// What a connection is to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum As {
    Member(Vec<String>),
    User(String),
    /// It only publishes.
    Nobody,
}

/// Where users are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Users {
    /// A route of the gateway reads the name in the data.
    Routed,
    /// The server knows them.
    Named,
    /// Each has a room of its own.
    Rooms,
}

/// One thing to say, and a part of the answer to it.
pub(crate) struct Step {
    pub(crate) say: Option<Vec<u8>>,
    pub(crate) answer: Vec<u8>,
}

impl Step {
    fn new(say: Option<Vec<u8>>, answer: impl AsRef<[u8]>) -> Self {
        Self { say, answer: answer.as_ref().to_vec() }
    }
}

pub(crate) fn room_of(user: &str) -> String {
    format!("user:{user}")
}

impl Dialect {
    pub(crate) fn users(self, is_wayleave: bool) -> Users {
        match self {
            Dialect::Json | Dialect::Protobuf if is_wayleave => Users::Routed,
            Dialect::SocketIo => Users::Named,
            _ => Users::Rooms,
        }
    }

    pub(crate) fn path(self, heard: &As) -> String {
        match (self, heard) {
            (Dialect::Json, _) => "/connection/websocket".to_owned(),
            (Dialect::Protobuf, _) => "/connection/websocket?cf_protocol=protobuf".to_owned(),
            (Dialect::SocketIo, _) => "/socket.io/?EIO=4&transport=websocket".to_owned(),
            (Dialect::Raw, As::Member(rooms)) => format!("/{}", rooms.concat()),
            (Dialect::Raw, As::User(user)) => format!("/{}", room_of(user)),
            (Dialect::Raw | Dialect::Nats, _) => "/".to_owned(),
        }
    }

    /// From the open socket to being known, as that user or as nobody.
    pub(crate) fn hello(self, user: Option<&str>) -> anyhow::Result<Vec<Step>> {
        let token = user.map(token).transpose()?;
        Ok(match self {
            Dialect::Json => {
                let connect = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
                let say = json!({ "id": 1, "connect": connect }).to_string();
                vec![Step::new(Some(text(&say)), r#""id":1"#)]
            }
            Dialect::Protobuf => {
                let connect = field(1, token.unwrap_or_default().as_bytes());
                vec![Step::new(Some(command(1, 4, &connect)), [8, 1])]
            }
            Dialect::SocketIo => {
                let auth = user.map_or_else(String::new, |user| json!({ "user": user }).to_string());
                vec![Step::new(None, "0{"), Step::new(Some(text(&format!("40{auth}"))), "40{")]
            }
            Dialect::Nats => {
                let say = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\nPING\r\n";
                vec![Step::new(None, "INFO "), Step::new(Some(binary(say.as_bytes())), "PONG")]
            }
            Dialect::Raw => Vec::new(),
        })
    }

    pub(crate) fn join(self, room: &str) -> Option<Step> {
        match self {
            Dialect::Json => {
                let say = json!({ "id": 2, "subscribe": { "channel": room } }).to_string();
                Some(Step::new(Some(text(&say)), r#""id":2"#))
            }
            Dialect::Protobuf => Some(Step::new(Some(command(2, 5, &field(1, room.as_bytes()))), [8, 2])),
            // With an id, so that the server acknowledges it.
            Dialect::SocketIo => Some(Step::new(Some(text(&format!(r#"421["join","{room}"]"#))), "431[")),
            Dialect::Nats => Some(Step::new(Some(binary(format!("SUB {room} {room}\r\nPING\r\n").as_bytes())), "PONG")),
            Dialect::Raw => None,
        }
    }

    /// A message of `length` bytes of data to a room; see `watch::mark`.
    pub(crate) fn to_room(self, room: &str, mark: &str, length: usize) -> Vec<u8> {
        // The quotes of JSON are part of the data.
        let quoted = || format!("\"{}\"", filled(mark, length - 2));
        match self {
            Dialect::Json => text(&format!(r#"{{"id":3,"publish":{{"channel":"{room}","data":{}}}}}"#, quoted())),
            Dialect::Protobuf => {
                let publish = [field(1, room.as_bytes()), field(2, quoted().as_bytes())].concat();
                command(3, 7, &publish)
            }
            Dialect::SocketIo => text(&format!(r#"42["pub","{room}",{}]"#, quoted())),
            Dialect::Nats => binary(format!("PUB {room} {length}\r\n{}\r\n", filled(mark, length)).as_bytes()),
            Dialect::Raw => text(&format!("{room} {}", filled(mark, length))),
        }
    }

    /// The same to a user.
    pub(crate) fn to_user(self, users: Users, user: &str, mark: &str, length: usize) -> Vec<u8> {
        match (users, self) {
            (Users::Rooms, _) => self.to_room(&room_of(user), mark, length),
            (Users::Named, _) => text(&format!(r#"42["user","{user}","{}"]"#, filled(mark, length - 2))),
            (Users::Routed, _) => {
                let around = format!(r#"{{"user":"{user}","text":""}}"#).len();
                let data = format!(r#"{{"user":"{user}","text":"{}"}}"#, filled(mark, length - around));
                if self == Dialect::Protobuf {
                    return command(3, 7, &[field(1, b"to:1"), field(2, data.as_bytes())].concat());
                }
                text(&format!(r#"{{"id":3,"publish":{{"channel":"to:1","data":{data}}}}}"#))
            }
        }
    }

    /// The answer to a payload with a ping in it.
    pub(crate) fn pong(self, payload: &[u8]) -> Option<Vec<u8>> {
        match self {
            Dialect::Json => {
                let mut lines = payload.split(|byte| *byte == b'\n');
                lines.any(|line| line.trim_ascii() == b"{}").then(|| text("{}"))
            }
            Dialect::Protobuf => has_empty(payload).then(|| binary(&[0])),
            Dialect::SocketIo => (payload == b"2").then(|| text("3")),
            Dialect::Nats => {
                let is_ping =
                    payload.starts_with(b"PING\r\n") || memchr::memmem::find(payload, b"\nPING\r\n").is_some();
                is_ping.then(|| binary(b"PONG\r\n"))
            }
            Dialect::Raw => None,
        }
    }

    pub(crate) fn is_refusal(self, payload: &[u8]) -> bool {
        let holds = |part: &[u8]| memchr::memmem::find(payload, part).is_some();
        match self {
            Dialect::Json => holds(br#""error":{"#) || holds(br#""disconnect":{"#),
            // A reply with an id and an error, or a push that disconnects.
            Dialect::Protobuf => matches!(payload, [_, 8, _, 0x12, ..]),
            Dialect::SocketIo => payload.starts_with(b"44") || payload.starts_with(b"41"),
            Dialect::Nats => holds(b"-ERR"),
            Dialect::Raw => false,
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    wire::client_frame(text.as_bytes())
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    let mut frame = wire::client_frame(bytes);
    frame[0] = 0x82;
    frame
}

/// A Protobuf field that has a length.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len()), bytes].concat()
}

/// A command of the Centrifuge protocol, behind its length.
fn command(id: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let command = [&[8, id][..], &field(kind, body)].concat();
    binary(&[&varint(command.len())[..], &command].concat())
}

/// True if one of the replies, each behind its length, has none: a ping.
fn has_empty(mut replies: &[u8]) -> bool {
    while let Some((length, rest)) = length(replies) {
        if length == 0 {
            return true;
        }
        replies = rest.get(length..).unwrap_or_default();
    }
    false
}

/// A varint, and what is behind it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().position(|byte| *byte < 0x80)?;
    let length = bytes[..=end].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    Some((length, &bytes[end + 1..]))
}

fn varint(mut n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

fn token(user: &str) -> anyhow::Result<String> {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({ "sub": user, "exp": 4_000_000_000_u64 });
    Ok(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)?)
}

fn filled(mark: &str, length: usize) -> String {
    mark.chars().chain("0123456789abcdef".chars().cycle()).take(length).collect()
}
