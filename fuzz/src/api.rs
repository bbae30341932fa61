//! Calls of the server API, to a gateway over a socket: each is answered, and
//! with one of the two things that an answer can be.

use std::{
    cell::RefCell,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use super::here::HERE;

/// Longer than any call may wait for clients or instances.
const PATIENCE: Duration = Duration::from_secs(60);

thread_local! {
    static CONNECTION: RefCell<Option<BufReader<TcpStream>>> = const { RefCell::new(None) };
}

/// The body, to the method of this number.
pub fn api(method: u8, body: &[u8]) {
    let (method, _) = GOOD[usize::from(method) % GOOD.len()];
    let (status, answer) = call(method, body);
    assert_eq!(status, 200, "{method} {body:?}: {answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("an answer is JSON");
    let is_answer = answer["result"].is_object() || answer["replies"].is_array() || answer["error"]["code"].is_u64();
    assert!(is_answer, "{method} {body:?}: {answer}");
}

fn call(method: &str, body: &[u8]) -> (u16, String) {
    CONNECTION.with_borrow_mut(|connection| {
        let connection = connection.get_or_insert_with(|| {
            let socket = TcpStream::connect(HERE.gateway.address()).expect("it listens");
            socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
            BufReader::new(socket)
        });
        let head = format!(
            "POST /api/{method} HTTP/1.1\r\nHost: h\r\nX-API-Key: a-key-that-is-long-enough\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        connection.get_mut().write_all(&[head.as_bytes(), body].concat()).expect("it reads");
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).expect("it answers");
            let line = line.trim_end().to_ascii_lowercase();
            assert!(!line.is_empty() || status > 0, "it has broken off at {method} {body:?}");
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(rest) = line.strip_prefix("content-length: ") {
                length = rest.parse().expect("a length");
            } else if line.is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        connection.read_exact(&mut answer).expect("it answers");
        (status, String::from_utf8(answer).expect("an answer is a text"))
    })
}

/// Good calls.
#[must_use]
pub fn good_calls() -> Vec<(&'static str, Vec<u8>)> {
    GOOD.iter().map(|(method, body)| (*method, body.as_bytes().to_vec())).collect()
}

/// One of each method that takes a body.
const GOOD: &[(&str, &str)] = &[
    (
        "publish",
        r#"{"channel":"kept:1","data":{"n":1.50},"tags":{"k":"v"},"idempotency_key":"k","skip_history":false}"#,
    ),
    ("broadcast", r#"{"channels":["kept:1","live:1"],"b64data":"aGVsbG8="}"#),
    (
        "subscribe",
        r#"{"user":"ada","channel":"kept:1","info":{"a":1},"data":[1],"recover_since":{"offset":1,"epoch":"e"},"expire_at":4000000000,"override":{"presence":{"value":true}}}"#,
    ),
    ("unsubscribe", r#"{"client":"0123456789abcdef0123456789abcdef","channel":"live:1"}"#),
    ("disconnect", r#"{"user":"ada","whitelist":["x"],"disconnect":{"code":4000,"reason":"r"}}"#),
    ("refresh", r#"{"user":"ada","client":"","expired":false,"expire_at":4000000000}"#),
    ("presence", r#"{"channel":"kept:1"}"#),
    ("presence_stats", r#"{"channel":"live:1"}"#),
    ("history", r#"{"channel":"kept:1","limit":-1,"since":{"offset":1,"epoch":"e"},"reverse":true}"#),
    ("history_remove", r#"{"channel":"kept:1"}"#),
    ("channels", r#"{"pattern":"kept:*"}"#),
    ("info", "{}"),
    ("rpc", r#"{"method":"m","params":{"a":1},"all":true,"timeout_ms":1}"#),
    (
        "batch",
        r#"{"commands":[{"publish":{"channel":"live:1","data":1}},{"presence":{"channel":"kept:1"}},{"send":{"to":["everyone"],"data":1}}],"parallel":true}"#,
    ),
    (
        "send",
        r#"{"to":["room:kept:1","user:ada","pattern:live:*"],"except":["everyone"],"data":1,"tags":{"k":"v"},"local":true}"#,
    ),
    ("requests", r#"{"to":["everyone"],"except":["user:ada"],"data":{},"timeout_ms":1}"#),
    ("connections", r#"{"user":"ada","instance":"","limit":5,"cursor":"x"}"#),
    ("members", r#"{"channel":"kept:1","limit":5,"cursor":"1"}"#),
    ("records", r#"{"channel":"kept:1"}"#),
    ("record", r#"{"channel":"kept:1","record":"a","patch":{"b":null},"version":3}"#),
    ("users", r#"{"users":["ada","bob"]}"#),
    ("instances", "{}"),
    ("plugins", "{}"),
    ("revoke_token", r#"{"uid":"t","expire_at":4000000000}"#),
    ("invalidate_user_tokens", r#"{"user":"ada","issued_before":5}"#),
    ("reload", r#"{"all":true}"#),
    ("rollback", r#"{"all":false}"#),
    ("drain", r#"{"instance":"x"}"#),
];
