//! A gateway and its clients, for tests.

#[allow(dead_code, reason = "made for tests of all faults, of which there are not all yet")]
pub mod checker;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
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

/// The path of a fixture plugin.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/fixtures").join(format!("{name}.wat"))
}

/// A gateway in this process with a config file of its own.
pub struct TestGateway {
    pub gateway: Gateway,
    pub folder: TempDir,
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
        Self { gateway, folder }
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
        let mut client = self.socket().await;
        let reply = client.ask("connect", hello).await;
        client.id = reply["connect"]["client"].as_str().unwrap_or_else(|| panic!("not connected: {reply}")).to_owned();
        client
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
        Self { socket, id: String::new(), next: 0, early: Vec::new() }
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
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing came");
            match message {
                Some(Ok(Message::Text(text))) if text.as_str() == "{}" => self.say("{}").await,
                Some(Ok(Message::Text(text))) => return Came::Json(serde_json::from_str(&text).unwrap()),
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
