//! `[tls]`: clients, servers and browsers over an encrypted socket, and a
//! certificate that is renewed while they talk.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};
use wayleave::reload::Outcome;

use crate::support::{PATIENCE, TestGateway, eventually, until};

const ROOM: &str = "[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";

/// A certificate for localhost, with its key.
struct Made {
    cert: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl Made {
    fn new() -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        Self { cert, key: signing_key }
    }

    fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), self.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), self.key.serialize_pem()).unwrap();
    }

    /// A client that trusts this one alone.
    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        TlsConnector::from(Arc::new(config.with_no_client_auth()))
    }

    async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        timeout(PATIENCE, self.connector().connect(name, tcp)).await.expect("no handshake and no end")
    }

    async fn client(&self, address: SocketAddr) -> Client {
        let stream = self.connect(address).await.unwrap();
        let (socket, _) = client_async("wss://localhost/connection/websocket", stream).await.unwrap();
        let mut client = Client { socket, next: 0 };
        client.ask("connect", json!({})).await;
        client
    }
}

struct Client {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    next: u32,
}

impl Client {
    async fn say(&mut self, method: &str, body: &Value) {
        self.next += 1;
        let text = json!({ "id": self.next, method: body }).to_string();
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Sends a command and waits for its reply; what comes before is dropped.
    async fn ask(&mut self, method: &str, body: Value) -> Value {
        self.say(method, &body).await;
        loop {
            let heard = self.hear().await;
            if heard["id"] == self.next {
                assert!(heard.get(method).is_some(), "{heard}");
                return heard;
            }
        }
    }

    /// The next line.
    async fn hear(&mut self) -> Value {
        match timeout(PATIENCE, self.socket.next()).await.expect("nothing came") {
            Some(Ok(Message::Text(text))) => serde_json::from_str(text.lines().next().unwrap()).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// One whose files lie beside its config.
async fn start(made: &Made, more: &str) -> TestGateway {
    let folder = tempfile::tempdir().unwrap();
    made.write(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let limits = "commands_per_second = 1000000\ncommands_burst = 1000000\n";
    let more = match more.split_once("[limits]\n") {
        Some((before, after)) => format!("{before}[limits]\n{limits}{after}"),
        None => format!("{more}\n[limits]\n{limits}"),
    };
    let config = format!("{more}\n{ROOM}\n[tls]\ncert = {cert:?}\nkey = {key:?}\n");
    let mut gateway = TestGateway::start(&config).await;
    // The certificate's folder lives as long as the gateway.
    gateway.files.push(folder);
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_talk_over_tls_small_and_large() {
    let made = Made::new();
    let gateway = start(&made, "").await;
    let address = gateway.gateway.address();
    let (mut ada, mut bob) = (made.client(address).await, made.client(address).await);
    ada.ask("subscribe", json!({ "channel": "r" })).await;
    bob.ask("subscribe", json!({ "channel": "r" })).await;
    for size in [1, 100, 5_000, 16_300, 16_500, 40_000, 60_000] {
        ada.ask("publish", json!({ "channel": "r", "data": "x".repeat(size) })).await;
        let heard = bob.hear().await;
        assert_eq!(heard["push"]["pub"]["data"].as_str().map(str::len), Some(size));
    }
    // Many at once, which share records.
    for n in 0..200 {
        ada.say("publish", &json!({ "channel": "r", "data": n })).await;
    }
    for n in 0..200 {
        assert_eq!(bob.hear().await["push"]["pub"]["data"], n);
    }
    // Without a trusted certificate there is no connection.
    assert!(Made::new().connect(address).await.is_err());
    assert_eq!(gateway.hub().n_connections(), 2);
}

/// A client that stops reading: what TLS holds back is bounded, it finds what
/// was sent to it when it reads on, and nobody else waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_pauses_over_tls_gets_everything_later() {
    let made = Made::new();
    let gateway = start(&made, "[limits]\noutbox = \"64MiB\"\n").await;
    let address = gateway.gateway.address();
    let (mut ada, mut paused) = (made.client(address).await, made.client(address).await);
    paused.ask("subscribe", json!({ "channel": "r" })).await;
    ada.ask("subscribe", json!({ "channel": "r" })).await;
    let data = "x".repeat(60_000);
    for n in 0..300 {
        ada.ask("publish", json!({ "channel": "r", "data": format!("{n} {data}") })).await;
    }
    for n in 0..300 {
        let heard = paused.hear().await;
        let text = heard["push"]["pub"]["data"].as_str().unwrap();
        assert!(text.len() > 60_000 && text.starts_with(&format!("{n} ")), "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_live_and_nobody_is_dropped() {
    let (old, new) = (Made::new(), Made::new());
    let gateway = start(&old, "").await;
    let address = gateway.gateway.address();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = old.client(address).await;
        client.ask("subscribe", json!({ "channel": "r" })).await;
        clients.push(client);
    }
    let mut sender = old.client(address).await;
    sender.ask("subscribe", json!({ "channel": "r" })).await;
    let folder = gateway.files[0].path().to_owned();
    let mut n = 0;
    let mut renewed = false;
    // Traffic before, while and after the files are replaced.
    while n < 400 || !renewed {
        if n == 100 {
            new.write(&folder);
        }
        if n >= 100 && n % 10 == 0 && !renewed {
            renewed = new.connect(address).await.is_ok();
        }
        sender.ask("publish", json!({ "channel": "r", "data": n })).await;
        n += 1;
        assert!(n < 1_000_000, "the new certificate never came");
    }
    for client in &mut clients {
        for i in 0..n {
            assert_eq!(client.hear().await["push"]["pub"]["data"], i);
        }
    }
    assert!(old.connect(address).await.is_err(), "the old certificate is presented still");
    new.client(address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_its_key_changes_nothing() {
    let (old, new) = (Made::new(), Made::new());
    let gateway = start(&old, "").await;
    let cert = gateway.files[0].path().join("cert.pem");
    let check = async |content: &str, reason: &str| {
        std::fs::write(&cert, content).unwrap();
        let Outcome::Failed(said) = gateway.gateway.reloader().reload("a test").await else { panic!("it was taken") };
        assert!(said.contains(reason), "{said}");
        old.client(gateway.gateway.address()).await;
    };
    check(&new.cert.pem(), "tls.key: does not serve with `cert`").await;
    check("hello", "tls.cert: holds no certificate").await;
    assert_eq!(gateway.metric("wayleave_reload_failing"), 1.0);
    std::fs::write(&cert, old.cert.pem()).unwrap();
    assert!(!matches!(gateway.gateway.reloader().reload("a test").await, Outcome::Failed(_)));
    assert_eq!(gateway.metric("wayleave_reload_failing"), 0.0);
}

async fn exchange(made: &Made, address: SocketAddr, request: &str) -> String {
    let mut stream = made.connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_api_and_the_pages_are_served_over_tls() {
    let made = Made::new();
    let config = "[server]\ntry_page = true\n[api]\nkeys = [{ name = \"a\", key = \"0123456789abcdef\" }]\n";
    let gateway = start(&made, config).await;
    let address = gateway.gateway.address();
    let health = exchange(&made, address, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    let page = exchange(&made, address, "GET /try/app.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.len() > 20_000, "{} bytes", page.len());
    let info = "POST /api/info HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: 0123456789abcdef\r\n\
                Content-Length: 2\r\n\r\n{}";
    let info = exchange(&made, address, info).await;
    assert!(info.starts_with("HTTP/1.1 200") && info.contains("\"nodes\""), "{info}");
    // HTTP/2 is not offered, whoever asks for it.
    let stream = made.connect(address).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_ends_cleanly() {
    let made = Made::new();
    let gateway = start(&made, "[server]\nheader_timeout = \"1s\"\n").await;
    let address = gateway.gateway.address();
    let end = async |bytes: &[u8]| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("it is still open");
        read.unwrap();
        answer
    };
    let plain = end(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let plain = String::from_utf8(plain).unwrap();
    assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("this port speaks TLS"), "{plain}");
    // A fatal alert, section 6.2 of RFC 8446; then the end.
    let alert = end(&[0x16, 0x03, 0x01, 0, 5, 9, 0, 0, 1, 0]).await;
    assert!(alert.starts_with(&[0x15]), "{alert:?}");
    // Slow ones: not a byte, and half a hello.
    assert!(end(b"").await.is_empty());
    assert!(end(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.is_empty());
    assert_eq!(gateway.gateway.router().metrics.sockets.get(), 0);
    made.client(address).await;
}

/// Connections end as they do without TLS, and say so.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_is_gone_and_a_drain_says_goodbye() {
    let made = Made::new();
    let gateway = start(&made, "").await;
    let address = gateway.gateway.address();
    let (gone, mut left) = (made.client(address).await, made.client(address).await);
    drop(gone);
    eventually("one is left", || gateway.hub().n_connections() == 1).await;
    let drained = tokio::spawn(gateway.gateway.drain(Duration::from_secs(10)));
    let closed = timeout(PATIENCE, left.socket.next()).await.unwrap();
    assert!(matches!(&closed, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 3001), "{closed:?}");
    until("it has closed too", async || !matches!(left.socket.next().await, Some(Ok(_)))).await;
    assert_eq!(drained.await.unwrap(), Ok(()));
}
