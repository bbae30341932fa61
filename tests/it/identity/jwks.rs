//! Row T3: keys that an issuer publishes, over a real HTTP server that counts.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::{Signer, refused};
use crate::support::{PATIENCE, TestGateway, until};

/// What the server does with a request.
#[derive(Clone)]
enum Answer {
    Keys(Vec<Value>),
    Raw(String),
    /// None at all.
    Silence,
}

/// An issuer's HTTP server on loopback.
struct Site {
    address: std::net::SocketAddr,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Site {
    async fn start(answer: Answer) -> Self {
        Self::at("127.0.0.1:0", answer).await
    }

    async fn at(address: &str, answer: Answer) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (answers, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let (answers, count) = (Arc::clone(&answers), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let n = stream.read(&mut head).await.unwrap_or(0);
                    assert!(
                        head[..n].starts_with(b"GET /keys HTTP/1.1\r\n"),
                        "{:?}",
                        String::from_utf8_lossy(&head[..n])
                    );
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer = answers.lock().unwrap().clone();
                    let text = match answer {
                        Answer::Keys(keys) => ok(&json!({ "keys": keys }).to_string()),
                        Answer::Raw(text) => text,
                        Answer::Silence => return tokio::time::sleep(PATIENCE).await,
                    };
                    let _gone = stream.write_all(text.as_bytes()).await;
                });
            }
        });
        Self { address, answer, asked, serving }
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// A gateway that believes it.
    async fn gateway(&self, more: &str) -> TestGateway {
        TestGateway::start(&format!("[auth]\n[auth.jwt]\njwks_url = \"http://{}/keys\"\n{more}\n", self.address)).await
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn token(signer: &Signer, kid: &str) -> String {
    let header = json!({ "alg": format!("{:?}", signer.algorithm), "kid": kid });
    signer.sign(&header, &json!({ "sub": "ada" }))
}

const INVALID: u64 = 3500;
const NOT_NOW: u64 = 108;

async fn code(gateway: &TestGateway, token: &str) -> Option<u64> {
    refused(gateway, token).await.map(|(code, _)| code)
}

/// Row T3, rotation.
#[tokio::test]
async fn t3_a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_is_good_no_more() {
    let (a, b) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::EdDSA));
    let site = Site::start(Answer::Keys(vec![a.jwk("a")])).await;
    let gateway = site.gateway("jwks_min_interval = \"1s\"").await;
    assert_eq!(site.asked(), 0, "nobody needs it yet");
    for _ in 0..5 {
        assert_eq!(code(&gateway, &token(&a, "a")).await, None);
    }
    assert_eq!(site.asked(), 1);
    site.set(Answer::Keys(vec![a.jwk("a"), b.jwk("b")]));
    until("the new key is known", async || code(&gateway, &token(&b, "b")).await.is_none()).await;
    assert_eq!(site.asked(), 2);
    assert_eq!(code(&gateway, &token(&a, "a")).await, None);
    site.set(Answer::Keys(vec![b.jwk("b")]));
    until("the old key is gone", async || {
        // A name that nobody knows has the set fetched.
        code(&gateway, &token(&b, &site.asked().to_string())).await;
        code(&gateway, &token(&a, "a")).await.is_some()
    })
    .await;
    assert_eq!(code(&gateway, &token(&b, "b")).await, None);
    assert!(code(&gateway, &token(&a, "b")).await.is_some(), "another kind of key by that name");
}

/// Row T3, down: known keys go on; without any, nobody is sent away for good.
#[tokio::test]
async fn t3_while_the_issuer_is_down_known_keys_go_on_and_others_are_asked_to_wait() {
    let a = Signer::new(Algorithm::ES256);
    let site = Site::start(Answer::Raw("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".into())).await;
    let gateway = site.gateway("jwks_min_interval = \"1s\"\njwks_refresh = \"1s\"").await;
    let mut client = gateway.socket().await;
    let reply = client.ask("connect", json!({ "token": token(&a, "a") })).await;
    assert_eq!(
        (reply["error"]["code"].as_u64(), &reply["error"]["temporary"]),
        (Some(NOT_NOW), &json!(true)),
        "{reply}"
    );
    site.set(Answer::Keys(vec![a.jwk("a")]));
    until("it is there", async || code(&gateway, &token(&a, "a")).await.is_none()).await;
    let (address, before) = (site.address, site.asked());
    site.set(Answer::Raw("garbage".into()));
    until("it is tried again, since the keys are old", async || {
        assert_eq!(code(&gateway, &token(&a, "a")).await, None);
        site.asked() > before
    })
    .await;
    drop(site);
    for _ in 0..20 {
        assert_eq!(code(&gateway, &token(&a, "a")).await, None, "{address} is gone");
    }
}

/// Row T3, slow.
#[tokio::test]
async fn t3_a_slow_issuer_holds_up_a_token_for_a_bounded_time_and_nobody_else() {
    let a = Signer::new(Algorithm::ES256);
    let site = Site::start(Answer::Silence).await;
    let config = format!(
        "[auth]\nanonymous = true\n[auth.jwt]\njwks_url = \"http://{}/keys\"\njwks_timeout = \"3s\"\n[limits]\ncommands_burst = 1000000\n[[rooms]]\nmatch = \"r\"\npublish = \"members\"",
        site.address
    );
    let gateway = TestGateway::start(&config).await;
    let mut other = gateway.client().await;
    other.join("r").await;
    let start = Instant::now();
    let token = token(&a, "a");
    let waiting = async { futures_util::future::join_all((0..20).map(|_| code(&gateway, &token))).await };
    let talking = async {
        let mut slowest = Duration::ZERO;
        while site.asked() == 0 || start.elapsed() < Duration::from_millis(600) {
            let start = Instant::now();
            other.publish("r", json!(1)).await;
            assert_eq!(other.heard("r").await, 1);
            slowest = slowest.max(start.elapsed());
        }
        slowest
    };
    let (codes, slowest) = tokio::join!(waiting, talking);
    assert!(codes.iter().all(|code| *code == Some(NOT_NOW)), "{codes:?}");
    assert!(
        start.elapsed() >= Duration::from_secs(3) && start.elapsed() < Duration::from_secs(6),
        "{:?}",
        start.elapsed()
    );
    // They wait for three.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(site.asked(), 1, "all wait for one");
}

/// Row T3, redirect; and what is too large.
#[tokio::test]
async fn t3_no_redirect_is_followed_and_no_more_read_than_a_set_has() {
    let a = Signer::new(Algorithm::ES256);
    let target = Site::start(Answer::Keys(vec![a.jwk("a")])).await;
    let moved = |status: &str| {
        Answer::Raw(format!(
            "HTTP/1.1 {status} Moved\r\nLocation: http://{}/keys\r\nContent-Length: 0\r\n\r\n",
            target.address
        ))
    };
    for status in ["301", "302", "303", "307", "308"] {
        let site = Site::start(moved(status)).await;
        let gateway = site.gateway("").await;
        assert_eq!(code(&gateway, &token(&a, "a")).await, Some(NOT_NOW), "{status}");
        assert_eq!((site.asked(), target.asked()), (1, 0), "{status}");
    }
    let large = json!({ "keys": [a.jwk("a")], "more": "x".repeat(65 << 10) }).to_string();
    let endless = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        "4000\r\n".to_owned() + &" ".repeat(0x4000) + "\r\n"
    )
    .repeat(1)
        + &("4000\r\n".to_owned() + &" ".repeat(0x4000) + "\r\n").repeat(8);
    for answer in [ok(&large), endless] {
        let site = Site::start(Answer::Raw(answer)).await;
        let gateway = site.gateway("").await;
        assert_eq!(code(&gateway, &token(&a, "a")).await, Some(NOT_NOW));
    }
    let gateway = target.gateway("").await;
    assert_eq!(code(&gateway, &token(&a, "a")).await, None);
}

/// Row T3, two issuers whose keys have one name.
#[tokio::test]
async fn t3_a_key_of_one_issuer_is_never_used_for_another() {
    let (a, b) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::ES256));
    let (at_a, at_b) =
        (Site::start(Answer::Keys(vec![a.jwk("k")])).await, Site::start(Answer::Keys(vec![b.jwk("k")])).await);
    let config = format!(
        "[auth]\n[[auth.jwt]]\nissuer = \"a\"\njwks_url = \"http://{}/keys\"\n\
         [[auth.jwt]]\nissuer = \"b\"\njwks_url = \"http://{}/keys\"\n",
        at_a.address, at_b.address
    );
    let gateway = TestGateway::start(&config).await;
    let token = |signer: &Signer, issuer: &str| {
        signer.sign(&json!({ "alg": "ES256", "kid": "k" }), &json!({ "sub": "ada", "iss": issuer }))
    };
    for _ in 0..2 {
        assert_eq!(code(&gateway, &token(&a, "a")).await, None);
        assert_eq!(code(&gateway, &token(&b, "b")).await, None);
        assert_eq!(code(&gateway, &token(&a, "b")).await, Some(INVALID));
        assert_eq!(code(&gateway, &token(&b, "a")).await, Some(INVALID));
        assert_eq!(code(&gateway, &token(&a, &format!("http://{}/keys", at_a.address))).await, Some(INVALID));
    }
    assert_eq!((at_a.asked(), at_b.asked()), (1, 1));
}

/// Row T3, a flood of tokens with names that no key has.
#[tokio::test]
async fn t3_ten_thousand_unknown_names_cost_at_most_two_fetches() {
    let a = Signer::new(Algorithm::EdDSA);
    let site = Site::start(Answer::Keys(vec![a.jwk("a")])).await;
    let gateway = site.gateway("[limits]\ncommands_per_second = 1000000\ncommands_burst = 1000000").await;
    let mut client = gateway.client_with(json!({ "token": token(&a, "a") })).await;
    // None is signed; whose key it would need is asked before.
    let forged = |n: usize| {
        let header = data_encoding::BASE64URL_NOPAD
            .encode(json!({ "alg": "EdDSA", "kid": n.to_string() }).to_string().as_bytes());
        format!("{header}.e30.AAAA")
    };
    for n in 0..10_000 {
        assert_eq!(client.refused("refresh", json!({ "token": forged(n) })).await, NOT_NOW);
    }
    assert!(site.asked() <= 2, "{} fetches", site.asked());
    assert_eq!(code(&gateway, &token(&a, "a")).await, None, "the others are not held up");
}

/// A reload keeps what is known, and how long ago it was asked for.
#[tokio::test]
async fn a_reload_fetches_nothing_anew() {
    let a = Signer::new(Algorithm::ES256);
    let site = Site::start(Answer::Keys(vec![a.jwk("a")])).await;
    let gateway = site.gateway("").await;
    assert_eq!(code(&gateway, &token(&a, "a")).await, None);
    let text = std::fs::read_to_string(gateway.file()).unwrap();
    gateway.reload_with(&format!("{text}\n[[rooms]]\nmatch = \"more\"\n")).await;
    assert_eq!(gateway.gateway.router().generation().config.rooms.len(), 1);
    assert_eq!(code(&gateway, &token(&a, "a")).await, None);
    assert_eq!(site.asked(), 1);
}

/// Over TLS, with an authority of the config's.
#[tokio::test]
async fn keys_come_over_tls_from_whom_the_authority_knows() {
    let a = Signer::new(Algorithm::ES256);
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let keys = ok(&json!({ "keys": [a.jwk("a")] }).to_string());
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _head = stream.read(&mut [0; 4096]).await;
            let _gone = stream.write_all(keys.as_bytes()).await;
            let _gone = stream.shutdown().await;
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certified.cert.pem()).unwrap();
    let config = |more: &str| format!("[auth]\n[auth.jwt]\njwks_url = \"https://localhost:{port}/keys\"\n{more}\n");
    let known = TestGateway::start(&config(&format!("jwks_ca_file = {:?}", ca.display().to_string()))).await;
    assert_eq!(code(&known, &token(&a, "a")).await, None);
    let unknown = TestGateway::start(&config("")).await;
    assert_eq!(code(&unknown, &token(&a, "a")).await, Some(NOT_NOW));
    serving.abort();
}
