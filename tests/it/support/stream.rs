//! A client without a WebSocket, by hand: it hears the body of a response and
//! speaks in requests.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

/// A client that hears a stream.
pub struct StreamClient {
    body: BufReader<TcpStream>,
    /// What it has heard and not looked at.
    rest: String,
    /// Bytes of bodies that it has sent and heard.
    pub sent: usize,
    pub heard: usize,
    /// The names under which it is spoken to.
    pub node: String,
    pub session: String,
    /// Before each message, and after it.
    around: (&'static str, &'static str),
}

impl StreamClient {
    /// Connects by `/connection/http_stream`.
    pub async fn lines(address: SocketAddr, hello: &Value) -> Self {
        let first = json!({ "id": 1, "connect": hello }).to_string();
        let head = format!(
            "POST /connection/http_stream HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{first}",
            first.len()
        );
        Self::open(address, &head, first.len(), ("", "\n")).await
    }

    /// Connects by `/connection/sse`.
    pub async fn events(address: SocketAddr, hello: &Value) -> Self {
        let first = json!({ "id": 1, "connect": hello }).to_string();
        let query = form_urlencoded::Serializer::new(String::new()).append_pair("cf_connect", &first).finish();
        let head = format!("GET /connection/sse?{query} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        Self::open(address, &head, first.len(), ("data: ", "\n\n")).await
    }

    async fn open(address: SocketAddr, request: &str, sent: usize, around: (&'static str, &'static str)) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut body = BufReader::new(stream);
        let mut line = String::new();
        body.read_line(&mut line).await.unwrap();
        assert_eq!(line.trim_end(), "HTTP/1.1 200 OK");
        while line != "\r\n" {
            line.clear();
            body.read_line(&mut line).await.unwrap();
        }
        let (node, session, rest) = (String::new(), String::new(), String::new());
        let mut client = Self { body, rest, sent, heard: 0, node, session, around };
        let welcome = client.hear().await;
        let name = |key: &str| welcome["connect"][key].as_str().unwrap_or_else(|| panic!("{welcome}")).to_owned();
        (client.node, client.session) = (name("node"), name("session"));
        client
    }

    /// The next message.
    pub async fn hear(&mut self) -> Value {
        loop {
            let message = self.try_hear().await.expect("the stream goes on");
            // A ping.
            if message != json!({}) {
                return message;
            }
        }
    }

    /// The same; None: the stream has ended.
    pub async fn try_hear(&mut self) -> Option<Value> {
        let (before, after) = self.around;
        loop {
            if let Some((message, rest)) = self.rest.split_once(after) {
                let value = serde_json::from_str(message.strip_prefix(before).unwrap()).unwrap();
                self.rest = rest.to_owned();
                return Some(value);
            }
            let chunk = timeout(PATIENCE, self.chunk()).await.expect("it hears something in time")?;
            self.heard += chunk.len();
            self.rest += &chunk;
        }
    }

    /// A piece of the body as it is sent; None: it is over, or broke off.
    async fn chunk(&mut self) -> Option<String> {
        let mut line = String::new();
        self.body.read_line(&mut line).await.ok()?;
        let length = usize::from_str_radix(line.trim_end(), 16).ok().filter(|length| *length > 0)?;
        let mut chunk = vec![0; length + 2];
        self.body.read_exact(&mut chunk).await.ok()?;
        chunk.truncate(length);
        Some(String::from_utf8(chunk).unwrap())
    }

    /// Says something by the instance at `address`; its status. None: no answer
    /// in time.
    pub async fn say(&mut self, address: SocketAddr, command: &Value, within: Duration) -> Option<u16> {
        let data = command.to_string();
        let body = json!({ "node": self.node, "session": self.session, "data": data }).to_string();
        self.sent += body.len();
        let answered = emulate(address, &body);
        timeout(within, answered).await.ok()
    }
}

/// One request to `/emulation`; its status.
pub async fn emulate(address: SocketAddr, body: &str) -> u16 {
    let request = format!(
        "POST /emulation HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.split(' ').nth(1).unwrap_or_else(|| panic!("{text:?}")).parse().unwrap()
}
