//! What plugins may do beyond answering, and only if it was granted.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, header},
    routing::any,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};
use wayleave::config::Config;

use crate::support::{TestClient, TestGateway, eventually, plugin_config, until};

/// The plugin that does what it is told; `make plugins` builds it.
fn probe(plugin: &str, more: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/fixtures/probe/plugin.wasm");
    assert!(path.is_file(), "the probe is not built; build it first: make plugins");
    plugin_config(&path, plugin, more).replace("plugins = [\"p\"]", "")
}

const ALL: &str = "grants = [\"metrics\", \"secrets\", \"http\"]\n";
const SECRETS: &str = "[plugins.secrets]\nmissing = { file = \"/dev/null\" }\n";

async fn tell(client: &mut TestClient, method: &str, data: Value) -> Value {
    let reply = client.ask("rpc", json!({ "method": method, "data": data })).await;
    assert!(reply["error"].is_null(), "{method}: {reply}");
    reply["rpc"]["data"].clone()
}

/// A server that a plugin may ask things.
struct Other {
    origin: String,
    /// Until it says true, `/slow` does not answer.
    gate: watch::Sender<bool>,
    /// How many wait at `/slow`.
    waiting: Arc<watch::Sender<usize>>,
}

impl Other {
    async fn start() -> Self {
        let (gate, opened) = watch::channel(false);
        let waiting = Arc::new(watch::Sender::new(0));
        let n_waiting = Arc::clone(&waiting);
        let slow = move || {
            let (mut opened, n_waiting) = (opened.clone(), Arc::clone(&n_waiting));
            async move {
                n_waiting.send_modify(|n| *n += 1);
                opened.wait_for(|opened| *opened).await.unwrap();
                "at last"
            }
        };
        let echo = |method: Method, headers: HeaderMap, body: Bytes| async move {
            let agent = headers[header::USER_AGENT].to_str().unwrap().to_owned();
            let token = headers.get("x-token").map(|token| token.to_str().unwrap().to_owned());
            json!({ "method": method.as_str(), "agent": agent, "token": token, "body": body.len() }).to_string()
        };
        let app = Router::new()
            .route("/echo", any(echo))
            .route("/slow", any(slow))
            .route("/big", any(|| async { "x".repeat(2_000) }))
            .route("/binary", any(|| async { vec![0xff_u8; 7] }))
            .route("/away", any(|| async { (StatusCode::FOUND, [(header::LOCATION, "/echo")]) }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { origin, gate, waiting }
    }

    fn config(&self, more: &str) -> String {
        format!("timeout = \"10s\"\n{ALL}[plugins.http]\norigins = [\"{}\"]\n{more}\n{SECRETS}", self.origin)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_counts_among_the_gateways_metrics() {
    let gateway = TestGateway::start(&probe("grants = [\"metrics\", \"http\", \"secrets\"]\n[plugins.http]\norigins = [\"https://a.example\"]\n[plugins.secrets]\n", "")).await;
    let mut client = gateway.client().await;
    for by in [1, 41] {
        tell(&mut client, "count", json!({ "name": "jokes", "by": by })).await;
    }
    tell(&mut client, "gauge", json!({ "name": "mood", "value": -1.5 })).await;
    tell(&mut client, "observe", json!({ "name": "laughing", "seconds": 0.25 })).await;
    assert_eq!(gateway.metric("wayleave_guest_count_total{plugin=\"p\",name=\"jokes\"}"), 42.0);
    assert_eq!(gateway.metric("wayleave_guest_gauge{plugin=\"p\",name=\"mood\"}"), -1.5);
    assert_eq!(gateway.metric("wayleave_guest_seconds_sum{plugin=\"p\",name=\"laughing\"}"), 0.25);
    let dropped = || gateway.metric("wayleave_guest_figures_dropped_total{plugin=\"p\"}");
    // Of another kind, and names that are none.
    for (method, name) in
        [("gauge", "jokes"), ("count", ""), ("count", "Jokes"), ("count", "a\"b"), ("count", &*"x".repeat(65))]
    {
        tell(&mut client, method, json!({ "name": name })).await;
    }
    assert_eq!(dropped(), 5.0);
    for n in 0..70 {
        tell(&mut client, "count", json!({ "name": format!("n{n}") })).await;
    }
    assert_eq!(dropped(), 5.0 + 9.0, "64 names, of which 3 were there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_gets_the_secrets_that_the_config_gives_it_and_a_new_one_after_a_change() {
    let other = Other::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "one\r\n").unwrap();
    let more = format!("{}key = {{ file = \"{}\" }}\n", other.config(""), file.display());
    let text = probe(&more, "");
    let gateway = TestGateway::start(&text).await;
    let mut client = gateway.client().await;
    assert_eq!(tell(&mut client, "secret", json!({ "name": "key" })).await, json!({ "value": "one" }));
    assert_eq!(tell(&mut client, "secret", json!({ "name": "missing" })).await, json!({ "value": "" }));
    assert_eq!(tell(&mut client, "secret", json!({ "name": "PATH" })).await, json!("missing"));
    std::fs::write(&file, "two").unwrap();
    until("the new one is there", async || {
        tell(&mut client, "secret", json!({ "name": "key" })).await == json!({ "value": "two" })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_where_the_config_says_and_nowhere_else() {
    let other = Other::start().await;
    let gateway = TestGateway::start(&probe(&other.config("response_size = \"1KiB\"\ntimeout = \"2s\""), "")).await;
    let mut client = gateway.client().await;
    let url = |path: &str| format!("{}{path}", other.origin);
    let mut send = async |asked: Value| tell(&mut client, "http", asked).await;
    let answer =
        send(json!({ "method": "POST", "url": url("/echo"), "body": "12345", "headers": { "x-token": "t" } })).await;
    assert_eq!(answer["status"], 200);
    let echoed: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
    let agent = format!("wayleave/{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(echoed, json!({ "method": "POST", "agent": agent, "token": "t", "body": 5 }));
    assert_eq!(send(json!({ "url": url("/binary") })).await["body"], json!({ "bytes": 7 }));
    let away = send(json!({ "url": url("/away") })).await;
    assert_eq!((&away["status"], &away["headers"]["location"]), (&json!(302), &json!("/echo")), "not followed");
    assert_eq!(send(json!({ "url": url("/none") })).await["status"], 404);
    assert_eq!(send(json!({ "url": url("/big") })).await, json!("too large"));
    assert_eq!(send(json!({ "url": url("/slow") })).await, json!("timeout"));
    assert_eq!(send(json!({ "url": url("/slow"), "timeout": 1 })).await, json!("timeout"));
    let port = other.origin.rsplit_once(':').unwrap().1;
    for (asked, why) in [
        (json!({ "url": "http://127.0.0.1:1/" }), "http.origins"),
        (json!({ "url": url("/echo").replace("http:", "https:") }), "http.origins"),
        (json!({ "url": format!("http://user@127.0.0.1:{port}/echo") }), "no URL"),
        (json!({ "url": format!("http://localhost:{port}/echo") }), "http.origins"),
        (json!({ "url": "/echo" }), "no URL"),
        (json!({ "url": "file:///etc/passwd" }), "URL"),
        (json!({ "url": url("/echo"), "method": "CONNECT" }), "CONNECT"),
        (json!({ "url": url("/echo"), "method": "GET /x" }), "not a method"),
        (json!({ "url": url("/echo"), "headers": { "Host": "a.example" } }), "is the gateway's"),
        (json!({ "url": url("/echo"), "headers": { "transfer-encoding": "chunked" } }), "is the gateway's"),
        (json!({ "url": url("/echo"), "headers": { "x": "a\r\nb: c" } }), "not one"),
    ] {
        let answer = send(asked.clone()).await;
        assert!(answer["forbidden"].as_str().is_some_and(|text| text.contains(why)), "{asked}: {answer}");
    }
    let counted = |outcome| {
        gateway.metric(&format!("wayleave_guest_request_seconds_count{{plugin=\"p\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!(
        [counted("response"), counted("too_large"), counted("timeout"), counted("forbidden")],
        [4.0, 1.0, 2.0, 11.0]
    );
}

/// Row T14: a name that leads to an address of the inside is no way in, whatever
/// the list of origins says, and nothing is even connected to.
#[tokio::test(flavor = "multi_thread")]
async fn t14_a_name_that_leads_inside_is_refused_unless_the_address_is_named() {
    let other = Other::start().await;
    let hidden = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hidden_port = hidden.local_addr().unwrap().port();
    let port = other.origin.rsplit_once(':').unwrap().1;
    let named = format!("http://localhost:{port}");
    let config = |more: &str| other.config(more).replace(&other.origin, &named);
    let gateway = TestGateway::start(&probe(&config(""), "")).await;
    let mut client = gateway.client().await;
    let asked = json!({ "url": format!("{named}/echo") });
    let refused = tell(&mut client, "http", asked.clone()).await;
    let text = refused["forbidden"].as_str().unwrap_or_default();
    assert!(text.contains("`localhost` leads to") && text.contains("http.private"), "{refused}");
    let gateway = TestGateway::start(&probe(&config("private = [\"127.0.0.0/8\", \"::1\"]"), "")).await;
    let mut client = gateway.client().await;
    assert_eq!(tell(&mut client, "http", asked).await["status"], 200);
    // Everything is not everything.
    let any = other.config("").replace(&other.origin, "*");
    let gateway = TestGateway::start(&probe(&any, "")).await;
    let mut client = gateway.client().await;
    for host in [
        format!("http://127.0.0.1:{hidden_port}"),
        format!("http://localhost:{hidden_port}"),
        format!("http://2130706433:{hidden_port}"),
        format!("http://0x7f.1:{hidden_port}"),
        format!("http://[::ffff:127.0.0.1]:{hidden_port}"),
        "http://[::1]:1".into(),
        "http://169.254.169.254".into(),
        "http://[::ffff:10.0.0.1]".into(),
    ] {
        let refused = tell(&mut client, "http", json!({ "url": format!("{host}/echo") })).await;
        assert!(refused["forbidden"].as_str().is_some_and(|text| text.contains("not public")), "{host}: {refused}");
    }
    let connected = tokio::time::timeout(Duration::from_millis(50), hidden.accept()).await;
    assert!(connected.is_err(), "somebody came: {connected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_tls_looks_at_the_certificate() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.pem"), cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            // Who does not trust it hangs up.
            let Ok(mut stream) = acceptor.accept(socket).await else { continue };
            let mut request = [0; 4096];
            let _n = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let http = format!("[plugins.http]\norigins = [\"{origin}\"]\nprivate = [\"127.0.0.0/8\", \"::1\"]\n");
    let trusting = format!("timeout = \"5s\"\n{ALL}{http}ca_file = \"{}/ca.pem\"\n{SECRETS}", folder.path().display());
    let gateway = TestGateway::start(&probe(&trusting, "")).await;
    let answer = tell(&mut gateway.client().await, "http", json!({ "url": origin })).await;
    assert_eq!(answer["body"], "ok", "{answer}");
    let gateway = TestGateway::start(&probe(&format!("timeout = \"5s\"\n{ALL}{http}{SECRETS}"), "")).await;
    let refused = tell(&mut gateway.client().await, "http", json!({ "url": origin })).await;
    assert!(refused["failed"].as_str().is_some_and(|why| why.contains("certificate")), "{refused}");
}

/// Plugins that wait for others hold nobody up: not other rooms, not other
/// plugins' calls, and not more threads than they may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_calls_stay_in_their_lane() {
    const AT_ONCE: usize = 8;
    let other = Other::start().await;
    let config = other.config(&format!("concurrency = {AT_ONCE}\ntimeout = \"10s\""));
    let gateway = TestGateway::start(&probe(&config, "")).await;
    let url = format!("{}/slow", other.origin);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let mut client = gateway.client().await;
        let asked = json!({ "url": url });
        callers.spawn(async move { tell(&mut client, "http", asked).await });
    }
    other.waiting.subscribe().wait_for(|n| *n == AT_ONCE).await.unwrap();
    // All of its places are taken; others go on.
    let mut client = gateway.client().await;
    client.join("free:1").await;
    for n in 0..200 {
        client.publish("free:1", json!(n)).await;
        assert_eq!(client.heard("free:1").await, json!(n));
    }
    assert_eq!(*other.waiting.borrow(), AT_ONCE);
    other.gate.send_replace(true);
    while let Some(answer) = callers.join_next().await {
        assert_eq!(answer.unwrap()["body"], "at last");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_writes_documents_and_what_it_does_not_know_is_a_failure() {
    let rooms = "[[rooms]]\nmatch = \"doc:*\"\nrecords = {}\n";
    let other = Other::start().await;
    let gateway = TestGateway::start(&probe(&other.config(""), rooms)).await;
    let mut client = gateway.client().await;
    client.join("doc:1").await;
    let write = json!({ "channel": "doc:1", "record": "score", "set": { "home": 1 } });
    tell(&mut client, "perform", json!({ "name": "record", "arguments": write })).await;
    let read = async |client: &mut TestClient| {
        client.ask("rpc", json!({ "method": "wayleave.records", "data": { "room": "doc:1" } })).await
    };
    let mut seen = Value::Null;
    until("it is written", async || {
        seen = read(&mut client).await;
        seen["rpc"]["data"]["records"]["score"]["version"] == 1
    })
    .await;
    assert_eq!(seen["rpc"]["data"]["records"]["score"]["data"], json!({ "home": 1 }));
    // There are no documents in that room.
    let write = json!({ "channel": "free:1", "record": "a", "set": 1 });
    tell(&mut client, "perform", json!({ "name": "record", "arguments": write })).await;
    eventually("it is counted", || gateway.metric("wayleave_actions_failed_total") == 1.0).await;
    for (name, arguments) in [
        ("records", json!({})),
        ("record", json!({})),
        ("record", json!({ "channel": "doc:1", "record": "a" })),
        ("record", json!({ "channel": "doc:1", "record": "a", "set": 1, "version": "x" })),
    ] {
        let data = json!({ "name": name, "arguments": arguments });
        let reply = client.ask("rpc", json!({ "method": "perform", "data": data })).await;
        assert_eq!(reply["error"]["code"], 100, "{data}: {reply}");
    }
    assert_eq!(gateway.metric("wayleave_plugin_failures_total{plugin=\"p\",hook=\"call\",kind=\"answer\"}"), 4.0);
}

#[test]
fn mistakes_of_grants_are_told_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[[plugins]]\nname = \"a\"\npath = \"a.wasm\"\ngrants = [\"http\", \"secrets\"]\n\
        [[plugins]]\nname = \"b\"\npath = \"b.wasm\"\n[plugins.http]\norigins = [\"https://a.example/x\"]\nprivate = [\"inside\"]\n\
        ca_file = \"none.pem\"\n[plugins.secrets]\none = { env = \"NOT_SET_ANYWHERE\" }\ntwo = { file = \"none\" }\nthree = \"x\"\n\
        four = { env = \"A\", file = \"b\" }\n";
    let mistakes = Config::parse(text, folder.path(), &Default::default()).unwrap_err().to_string();
    for part in [
        "plugins[0].grants: \"http\" needs [plugins.http]",
        "plugins[0].grants: \"secrets\" needs [plugins.secrets]",
        "add \"http\" to `grants`",
        "add \"secrets\" to `grants`",
        "`https://a.example/x` is no origin",
        "`inside` is no address",
        "`none.pem` cannot be read",
        "`one`: the variable `NOT_SET_ANYWHERE` is not set",
        "`two`: `none` cannot be read",
        "`three`: expected",
        "`four`: expected",
    ] {
        assert!(mistakes.contains(part), "no {part:?} in: {mistakes}");
    }
}
