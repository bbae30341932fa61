//! A gateway and its clients, for tests.

#[allow(dead_code, reason = "made for tests of all faults, of which there are not all yet")]
pub mod checker;
#[allow(dead_code, reason = "as above")]
pub mod instance;
pub mod pages;
pub mod process;
#[allow(dead_code, reason = "as above")]
pub mod proxy;
#[allow(dead_code, reason = "as above")]
pub mod redis;
pub mod stream;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::CloseFrame},
};
use wayleave::{config::Config, gateway::Gateway, hub::Hub, reload::Outcome};

/// How long anything that should happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A key for tokens.
pub const SECRET: &str = "a secret of tests that is long enough";

/// Waits until a condition holds.
#[track_caller]
pub fn eventually<'a>(what: &'a str, mut condition: impl FnMut() -> bool + 'a) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !condition() {
            assert!(tokio::time::Instant::now() < deadline, "{caller}: never came true: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Waits until a condition holds that takes asking somebody.
#[track_caller]
pub fn until<'a>(what: &'a str, mut condition: impl AsyncFnMut() -> bool + 'a) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !condition().await {
            assert!(tokio::time::Instant::now() < deadline, "{caller}: never came true: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Whether `tests/setup` could not get the tools of a language, which it has
/// said; in CI it fails then.
pub fn is_left_out(language: &str) -> bool {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/left-out");
    let is_left_out = std::fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|it| it == language));
    if is_left_out {
        eprintln!("left out: it needs the tools for {language}");
    }
    is_left_out
}

/// The path of a fixture plugin.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/fixtures").join(format!("{name}.wat"))
}

/// A gateway in this process with a config file of its own.
pub struct TestGateway {
    pub gateway: Gateway,
    pub folder: TempDir,
    /// Others that it needs for as long as it lives.
    pub files: Vec<TempDir>,
}

impl TestGateway {
    /// Starts with this text behind a `[server]` that listens on a free port
    /// and lets anybody in.
    pub async fn start(config: &str) -> Self {
        Self::start_raw(&format!("{config}\n[metrics]\nenabled = true\n", config = with_defaults(config))).await
    }

    pub async fn start_raw(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file).unwrap_or_else(|error| panic!("{error}"));
        let gateway = Gateway::start(config, Some(file)).await.unwrap_or_else(|error| panic!("{error:#}"));
        Self { gateway, folder, files: Vec::new() }
    }

    /// One whose only plugin `p` is a fixture, in the rooms `room:*`.
    pub async fn with_plugin(fixture_name: &str, more: &str) -> Self {
        Self::start(&plugin_config(&fixture(fixture_name), more, "")).await
    }

    /// One whose only plugin `p` is a fixture that no room has: it answers
    /// calls.
    pub async fn with_callee(fixture_name: &str, more: &str) -> Self {
        let config = plugin_config(&fixture(fixture_name), more, "");
        Self::start(&config.replace("plugins = [\"p\"]", "")).await
    }

    pub fn hub(&self) -> &Arc<Hub> {
        &self.gateway.router().hub
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    pub fn url(&self) -> String {
        format!("ws://{}/connection/websocket", self.gateway.address())
    }

    /// The value of a metric, labels and all: `name{label="x"}`; 0 if absent.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.gateway.router().metrics.text(0, 0, 0);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// A client without a hello.
    pub async fn socket(&self) -> TestClient {
        TestClient::open(&self.url()).await
    }

    /// A connected anonymous client.
    pub async fn client(&self) -> TestClient {
        self.client_with(json!({})).await
    }

    /// A client of a user, by token.
    pub async fn user(&self, user: &str) -> TestClient {
        self.client_with(json!({ "token": token(&json!({ "sub": user })) })).await
    }

    pub async fn client_with(&self, hello: Value) -> TestClient {
        TestClient::connect(&self.url(), hello).await
    }

    /// Replaces the config's text and reloads.
    pub async fn reload_with(&self, text: &str) -> Outcome {
        std::fs::write(self.file(), text).unwrap();
        self.gateway.reloader().reload("a test").await
    }
}

fn with_defaults(config: &str) -> String {
    let server = "listen = \"127.0.0.1:0\"\ncache = \"\"\n";
    let config = match config.split_once("[server]\n") {
        Some((before, after)) => format!("{before}[server]\n{server}{after}"),
        None => format!("[server]\n{server}{config}"),
    };
    if config.contains("[auth]") {
        config
    } else {
        format!("{config}\n[auth]\nanonymous = true\n[auth.jwt]\nhmac_secret = \"{SECRET}\"\n")
    }
}

/// A config in which the rooms `room:*` have plugin `p`.
pub fn plugin_config(path: &Path, plugin: &str, more: &str) -> String {
    format!(
        "{more}\n[[rooms]]\nmatch = \"room:*\"\npublish = \"members\"\npresence = true\nstamp = true\nplugins = [\"p\"]\n\
         [[rooms]]\nmatch = \"free:*\"\npublish = \"members\"\n\
         [[plugins]]\nname = \"p\"\npath = {path:?}\n{plugin}\n",
        path = path.display().to_string()
    )
}

/// A token with these claims.
pub fn token(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

/// A client that speaks the JSON protocol by hand.
pub struct TestClient {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub id: String,
    next: u32,
    /// Came while something else was waited for.
    early: Vec<Value>,
    /// Commands whose replies nobody waits for any more.
    given_up: Vec<u32>,
    url: String,
    hello: Value,
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq)]
pub enum NoAnswer {
    /// None in time.
    Late,
    /// The connection ended: with this code and reason, or 0 if it just broke.
    Closed(u16, String),
}

/// One thing that came.
#[derive(Debug, PartialEq)]
enum Came {
    Json(Value),
    Closed(u16, String),
}

impl TestClient {
    pub async fn open(url: &str) -> Self {
        let (socket, _) = connect_async(url).await.unwrap();
        Self::new(socket, url, json!({}))
    }

    /// A client on a socket that was opened elsewhere.
    pub fn of(socket: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self::new(socket, "", json!({}))
    }

    /// How the first thing that was asked ended: None if well, else the code
    /// and reason of the refusal or the close frame.
    pub async fn first(&mut self) -> Option<(u64, String)> {
        match self.came().await {
            Came::Closed(code, reason) => Some((code.into(), reason)),
            Came::Json(reply) => {
                let code = reply["error"]["code"].as_u64()?;
                Some((code, reply["error"]["message"].as_str().unwrap_or_default().to_owned()))
            }
        }
    }

    fn new(socket: WebSocketStream<MaybeTlsStream<TcpStream>>, url: &str, hello: Value) -> Self {
        let (early, given_up) = (Vec::new(), Vec::new());
        Self { socket, id: String::new(), next: 0, early, given_up, url: url.to_owned(), hello }
    }

    /// A connected client of any gateway.
    #[track_caller]
    pub fn connect<'a>(url: &'a str, hello: Value) -> impl Future<Output = Self> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let connected = Self::try_connect(url, hello, PATIENCE).await;
            connected.unwrap_or_else(|reason| panic!("{caller}: not connected: {reason}"))
        }
    }

    /// A connected client whose kernel takes little for it, so that whoever sends
    /// to it notices soon when it does not read.
    pub async fn narrow(url: &str, hello: Value) -> Self {
        let address = url.trim_start_matches("ws://").split('/').next().unwrap().parse().unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = MaybeTlsStream::Plain(socket.connect(address).await.unwrap());
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        let mut client = Self::new(socket, url, hello.clone());
        client.id = client.ask("connect", hello).await["connect"]["client"].as_str().unwrap().to_owned();
        client
    }

    /// The same, or why not.
    pub async fn try_connect(url: &str, hello: Value, within: Duration) -> Result<Self, String> {
        let connected = async {
            let (socket, _) = connect_async(url).await.map_err(|error| error.to_string())?;
            let mut client = Self::new(socket, url, hello.clone());
            let reply = client.try_ask("connect", hello, within).await.map_err(|reason| format!("{reason:?}"))?;
            client.id = reply["connect"]["client"].as_str().ok_or_else(|| reply.to_string())?.to_owned();
            Ok(client)
        };
        tokio::time::timeout(within, connected).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Breaks the connection off without a word and connects anew with the same
    /// hello. It is in no room then, and pushes that nobody took are gone.
    pub async fn reconnect(&mut self) {
        let url = self.url.clone();
        self.reconnect_to(&url).await;
    }

    /// The same, to another gateway.
    pub async fn reconnect_to(&mut self, url: &str) {
        let reconnected = self.try_reconnect_to(url, PATIENCE).await;
        reconnected.unwrap_or_else(|reason| panic!("not connected again: {reason}"));
    }

    /// The same, where the gateway may not be there; it can be tried again.
    pub async fn try_reconnect_to(&mut self, url: &str, within: Duration) -> Result<(), String> {
        let _already_broken = self.socket.get_mut().shutdown().await;
        *self = Self::try_connect(url, self.hello.clone(), within).await?;
        Ok(())
    }

    /// Ends as one whose machine was switched off and on: with a reset.
    pub fn abort(self) {
        if let MaybeTlsStream::Plain(stream) = self.socket.get_ref() {
            stream.set_zero_linger().unwrap();
        }
    }

    /// Says no more, and waits until the gateway has closed the connection too.
    pub async fn hang_up(mut self) {
        use tokio::io::AsyncReadExt;
        let stream = self.socket.get_mut();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        closed.expect("the gateway keeps its side open").unwrap();
    }

    pub async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub async fn send(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    /// Sends a command and waits for its reply; pushes are kept for later.
    pub async fn ask(&mut self, method: &str, body: Value) -> Value {
        self.next += 1;
        let id = self.next;
        self.say(&json!({ "id": id, method: body }).to_string()).await;
        loop {
            match self.came().await {
                Came::Json(reply) if reply["id"] == id => return reply,
                Came::Json(push) => self.early.push(push),
                closed @ Came::Closed(..) => panic!("instead of a reply to {method}: {closed:?}"),
            }
        }
    }

    /// Sends a command and waits this long for its reply, which is then no
    /// longer expected.
    pub async fn try_ask(&mut self, method: &str, body: Value, within: Duration) -> Result<Value, NoAnswer> {
        self.next += 1;
        let id = self.next;
        let asked = async {
            let command = json!({ "id": id, method: body }).to_string();
            self.socket.send(Message::text(command)).await.map_err(|error| NoAnswer::Closed(0, error.to_string()))?;
            loop {
                match self.came_or_broke().await {
                    Came::Json(reply) if reply["id"] == id => return Ok(reply),
                    Came::Json(push) => self.early.push(push),
                    Came::Closed(code, reason) => return Err(NoAnswer::Closed(code, reason)),
                }
            }
        };
        let answer = tokio::time::timeout(within, asked).await.unwrap_or(Err(NoAnswer::Late));
        if answer == Err(NoAnswer::Late) {
            self.given_up.push(id);
        }
        answer
    }

    /// Whatever comes next, pings too; None: nothing in this time.
    pub async fn try_frame(&mut self, within: Duration) -> Option<Value> {
        if !self.early.is_empty() {
            return Some(self.early.remove(0));
        }
        match tokio::time::timeout(within, self.came_or_broke()).await.ok()? {
            Came::Json(json) => Some(json),
            Came::Closed(..) => None,
        }
    }

    /// A number by lot, the same for the same connection.
    pub fn lot(&self) -> u8 {
        self.id.bytes().fold(0, |sum: u8, byte| sum.wrapping_mul(31).wrapping_add(byte))
    }

    /// The next push, if one comes in this time.
    pub async fn try_push(&mut self, within: Duration) -> Result<Value, NoAnswer> {
        if !self.early.is_empty() {
            return Ok(self.early.remove(0)["push"].take());
        }
        match tokio::time::timeout(within, self.came_or_broke()).await {
            Err(_) => Err(NoAnswer::Late),
            Ok(Came::Json(mut push)) if push.get("push").is_some() => Ok(push["push"].take()),
            Ok(Came::Closed(code, reason)) => Err(NoAnswer::Closed(code, reason)),
            Ok(other) => panic!("instead of a push: {other:?}"),
        }
    }

    pub async fn join(&mut self, room: &str) {
        let reply = self.ask("subscribe", json!({ "channel": room })).await;
        assert!(reply.get("subscribe").is_some(), "{reply}");
    }

    pub async fn publish(&mut self, room: &str, data: Value) {
        let reply = self.ask("publish", json!({ "channel": room, "data": data })).await;
        assert!(reply.get("publish").is_some(), "{reply}");
    }

    /// Sends a command and returns the code of its refusal.
    pub async fn refused(&mut self, method: &str, body: Value) -> u64 {
        let reply = self.ask(method, body).await;
        reply["error"]["code"].as_u64().unwrap_or_else(|| panic!("not refused: {reply}"))
    }

    /// The next push.
    pub async fn push(&mut self) -> Value {
        if !self.early.is_empty() {
            return self.early.remove(0)["push"].take();
        }
        match self.came().await {
            Came::Json(mut push) if push.get("push").is_some() => push["push"].take(),
            other => panic!("instead of a push: {other:?}"),
        }
    }

    /// The data of the next publication in a room; other pushes are passed over.
    pub async fn heard(&mut self, room: &str) -> Value {
        loop {
            let mut push = self.push().await;
            if push["channel"] == room && push.get("pub").is_some() {
                return push["pub"]["data"].take();
            }
        }
    }

    /// Proves that nothing has come: what is asked now is answered at once.
    pub async fn heard_nothing(&mut self) {
        self.ask("ping", json!({})).await;
        assert_eq!(self.early, Vec::<Value>::new());
    }

    /// Waits for the close frame.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.came().await {
                Came::Closed(code, reason) => return (code, reason),
                Came::Json(_) => {}
            }
        }
    }

    async fn came(&mut self) -> Came {
        tokio::time::timeout(PATIENCE, self.came_or_broke()).await.expect("nothing came")
    }

    /// The next thing that came, however long it takes.
    async fn came_or_broke(&mut self) -> Came {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) if text.as_str() == "{}" => {
                    if let Err(error) = self.socket.send(Message::text("{}")).await {
                        return Came::Closed(0, error.to_string());
                    }
                }
                Some(Ok(Message::Text(text))) => {
                    let json: Value = serde_json::from_str(&text).unwrap();
                    let late = self.given_up.iter().position(|id| json["id"] == *id);
                    match late {
                        Some(late) => drop(self.given_up.swap_remove(late)),
                        None => return Came::Json(json),
                    }
                }
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    return Came::Closed(code.into(), reason.to_string());
                }
                Some(Ok(_)) => {}
                end => return Came::Closed(0, format!("{end:?}")),
            }
        }
    }

    pub async fn leave(mut self) {
        let _already = self.socket.close(None).await;
    }
}
