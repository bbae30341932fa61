//! What a client says to each kind of server, and how it knows the answers.

use serde_json::json;

/// HS256 wants a key of 32 bytes.
pub(crate) const SECRET: &str = "the benches' own secret, 32 bytes";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Centrifuge,
    SocketIo,
}

/// One thing to say, and a part of the answer to it.
pub(crate) struct Step {
    pub(crate) say: Option<String>,
    pub(crate) answer: &'static str,
}

impl Dialect {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Dialect::Centrifuge => "/connection/websocket",
            Dialect::SocketIo => "/socket.io/?EIO=4&transport=websocket",
        }
    }

    /// From the open socket to being known, as that user or as nobody.
    pub(crate) fn hello(self, user: Option<&str>) -> anyhow::Result<Vec<Step>> {
        Ok(match self {
            Dialect::Centrifuge => {
                let token = user.map(token).transpose()?;
                let connect = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
                let say = json!({ "id": 1, "connect": connect }).to_string();
                vec![Step { say: Some(say), answer: r#""id":1"# }]
            }
            Dialect::SocketIo => {
                let auth = user.map_or_else(String::new, |user| json!({ "user": user }).to_string());
                vec![Step { say: None, answer: "0{" }, Step { say: Some(format!("40{auth}")), answer: "40{" }]
            }
        })
    }

    pub(crate) fn join(self, room: &str) -> Step {
        match self {
            Dialect::Centrifuge => {
                let say = json!({ "id": 2, "subscribe": { "channel": room } }).to_string();
                Step { say: Some(say), answer: r#""id":2"# }
            }
            // With an id, so that the server acknowledges it.
            Dialect::SocketIo => Step { say: Some(format!(r#"421["join","{room}"]"#)), answer: "431[" },
        }
    }

    /// A message of `length` bytes of data to a room; see `watch::mark`.
    pub(crate) fn to_room(self, room: &str, mark: &str, length: usize) -> String {
        // The quotes are part of the data.
        let data = filled(mark, length - 2);
        match self {
            Dialect::Centrifuge => format!(r#"{{"id":3,"publish":{{"channel":"{room}","data":"{data}"}}}}"#),
            Dialect::SocketIo => format!(r#"42["pub","{room}","{data}"]"#),
        }
    }

    /// The same to a user. The gateway's route finds the user in the data.
    pub(crate) fn to_user(self, user: &str, mark: &str, length: usize) -> String {
        match self {
            Dialect::Centrifuge => {
                let around = format!(r#"{{"user":"{user}","text":""}}"#).len();
                let text = filled(mark, length - around);
                let data = format!(r#"{{"user":"{user}","text":"{text}"}}"#);
                format!(r#"{{"id":3,"publish":{{"channel":"to:1","data":{data}}}}}"#)
            }
            Dialect::SocketIo => {
                let data = filled(mark, length - 2);
                format!(r#"42["user","{user}","{data}"]"#)
            }
        }
    }

    /// The answer to a text that is a ping.
    pub(crate) fn pong(self, text: &[u8]) -> Option<&'static [u8]> {
        match self {
            Dialect::Centrifuge => (text.trim_ascii() == b"{}").then_some(b"{}"),
            Dialect::SocketIo => (text == b"2").then_some(b"3"),
        }
    }

    pub(crate) fn is_refusal(self, text: &str) -> bool {
        match self {
            Dialect::Centrifuge => text.contains(r#""error":{"#) || text.contains(r#""disconnect":{"#),
            Dialect::SocketIo => text.starts_with("44") || text.starts_with("41"),
        }
    }
}

fn token(user: &str) -> anyhow::Result<String> {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({ "sub": user, "exp": 4_000_000_000_u64 });
    Ok(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)?)
}

fn filled(mark: &str, length: usize) -> String {
    mark.chars().chain("0123456789abcdef".chars().cycle()).take(length).collect()
}
