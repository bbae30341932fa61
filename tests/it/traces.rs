//! Traces as a collector gets them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::support::{TestGateway, eventually, fixture, plugin_config, process::ReservedPort};

/// A collector on loopback that keeps what comes.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Value>>>);

impl Collector {
    fn listen(listener: TcpListener) -> Self {
        let collector = Self::default();
        let kept = collector.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(kept.clone().take(stream));
            }
        });
        collector
    }

    /// The same behind TLS.
    fn listen_tls(listener: TcpListener, server: Arc<rustls::ServerConfig>) -> Self {
        let collector = Self::default();
        let (kept, acceptor) = (collector.clone(), tokio_rustls::TlsAcceptor::from(server));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // One that does not trust it is gone by itself.
                if let Ok(stream) = acceptor.accept(stream).await {
                    tokio::spawn(kept.clone().take(stream));
                }
            }
        });
        collector
    }

    async fn take(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = n.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_ascii_lowercase());
        }
        assert!(["post /v1/traces http/1.1", "post /otlp/v1/traces http/1.1"].contains(&&*head[0]), "{head:?}");
        assert!(head.contains(&"content-type: application/json".to_owned()), "{head:?}");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        for resource in body["resourceSpans"].as_array().unwrap() {
            let service = &resource["resource"]["attributes"][0];
            assert_eq!(service, &json!({ "key": "service.name", "value": { "stringValue": "wayleave" } }));
            for scope in resource["scopeSpans"].as_array().unwrap() {
                self.0.lock().extend(scope["spans"].as_array().unwrap().iter().cloned());
            }
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        stream.get_mut().write_all(answer).await.unwrap();
        stream.get_mut().shutdown().await.unwrap();
    }

    fn named(&self, name: &str) -> Vec<Value> {
        self.0.lock().iter().filter(|span| span["name"] == name).cloned().collect()
    }
}

fn attributes(span: &Value) -> BTreeMap<String, String> {
    let pairs = span["attributes"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    pairs.map(|pair| (text(&pair["key"]), text(&pair["value"]["stringValue"]))).collect()
}

fn config(port: u16, more: &str, plugin: &str) -> String {
    plugin_config(&fixture(plugin), "", &format!("[tracing]\notlp = \"http://127.0.0.1:{port}\"\n{more}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_is_one_trace_through_its_hooks_to_its_delivery() {
    let port = ReservedPort::new();
    let collector = Collector::listen(port.listen());
    let gateway = TestGateway::start(&config(port.port(), "sample = 1.0\n", "pass")).await;
    let mut ada = gateway.user("ada-canary").await;
    ada.join("room:canary").await;
    ada.publish("room:canary", json!("canary-data")).await;
    eventually("it has come", || collector.named("publish").len() == 1).await;
    let publish = &collector.named("publish")[0];
    let (trace, id) = (publish["traceId"].as_str().unwrap(), publish["spanId"].as_str().unwrap());
    assert_eq!((trace.len(), id.len(), publish.get("parentSpanId")), (32, 16, None));
    let children: Vec<Value> = collector.0.lock().iter().filter(|span| span["parentSpanId"] == id).cloned().collect();
    let names: Vec<_> = children.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["transform", "deliver"]);
    assert_eq!(attributes(&children[0])["plugin"], "p");
    let nanos = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    for child in &children {
        assert_eq!(child["traceId"], trace);
        assert!(nanos(child, "startTimeUnixNano") >= nanos(publish, "startTimeUnixNano"));
        assert!(nanos(child, "endTimeUnixNano") <= nanos(publish, "endTimeUnixNano") + 1_000_000);
    }
    assert_eq!((collector.named("connect").len(), collector.named("join").len()), (1, 1));
    // Nothing that a client chose.
    assert!(!format!("{:?}", collector.0.lock()).contains("canary"));
    let n_kept = || collector.0.lock().len() as f64;
    eventually("they are counted", || gateway.metric(r#"wayleave_spans_total{outcome="sent"}"#) == n_kept()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_hook_shows_and_names_are_told_where_that_is_allowed() {
    let port = ReservedPort::new();
    let collector = Collector::listen(port.listen());
    let gateway = TestGateway::start(&config(port.port(), "sample = 1.0\nnames = true\n", "trap")).await;
    let mut ada = gateway.user("ada").await;
    ada.join("room:1").await;
    ada.refused("publish", json!({ "channel": "room:1", "data": 1 })).await;
    eventually("it has come", || collector.named("publish").len() == 1).await;
    let publish = &collector.named("publish")[0];
    assert_eq!(publish["status"]["code"], 2);
    assert_eq!((&*attributes(publish)["room"], &*attributes(publish)["user"]), ("room:1", "ada"));
    let hook = &collector.named("transform")[0];
    assert_eq!(hook["status"], json!({ "code": 2, "message": "trap" }));
    assert_eq!(attributes(&collector.named("join")[0])["room"], "room:1");
    assert_eq!(collector.named("deliver").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let port = ReservedPort::new();
    let gateway = TestGateway::start(&config(port.port(), "sample = 1.0\n", "pass")).await;
    let mut ada = gateway.user("ada").await;
    ada.join("room:1").await;
    for n in 0..50 {
        ada.publish("room:1", json!(n)).await;
        assert_eq!(ada.heard("room:1").await, n);
    }
    let failed = || gateway.metric(r#"wayleave_spans_total{outcome="failed"}"#);
    eventually("they have failed", || failed() > 0.0).await;
    // It comes back, and takes what comes then.
    let collector = Collector::listen(port.listen());
    ada.publish("room:1", json!("again")).await;
    eventually("it takes spans again", || !collector.named("publish").is_empty()).await;
    // What waits at the end is still sent.
    ada.publish("room:1", json!("last")).await;
    let before = collector.named("publish").len();
    let ended = tokio::spawn(gateway.gateway.drain(Duration::from_secs(10)));
    ada.closed().await;
    ada.leave().await;
    assert_eq!(ended.await.unwrap(), Ok(()));
    assert!(collector.named("publish").len() >= before.max(2));
}

/// A collector behind TLS: the one whose certificate the config trusts gets
/// spans, and one that shows another certificate gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_behind_tls_gets_spans_if_its_certificate_is_trusted() {
    let made = || rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (good, other) = (made(), made());
    let server = |made: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        Arc::new(builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap())
    };
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("authority.pem");
    std::fs::write(&trusted, good.cert.pem()).unwrap();
    let (here, there) = (ReservedPort::new(), ReservedPort::new());
    let collector = Collector::listen_tls(here.listen(), server(&good));
    let impostor = Collector::listen_tls(there.listen(), server(&other));
    let start = async |port: u16, more: &str| {
        let tracing = format!("[tracing]\notlp = \"https://localhost:{port}/otlp\"\nsample = 1.0\n{more}");
        let gateway = TestGateway::start(&plugin_config(&fixture("pass"), "", &tracing)).await;
        let mut ada = gateway.user("ada").await;
        ada.join("room:1").await;
        ada.publish("room:1", json!(1)).await;
        (gateway, ada)
    };
    let ca = format!("ca_file = {:?}\n", trusted.to_str().unwrap());
    let (_gateway, _ada) = start(here.port(), &ca).await;
    eventually("it has come", || collector.named("publish").len() == 1).await;
    // Neither another certificate nor one that no public authority has signed.
    for (port, more) in [(there.port(), &*ca), (here.port(), "")] {
        let (gateway, _ada) = start(port, more).await;
        let spans = |outcome: &str| gateway.metric(&format!("wayleave_spans_total{{outcome=\"{outcome}\"}}"));
        eventually("they have failed", || spans("failed") > 0.0).await;
        assert_eq!(spans("sent"), 0.0);
    }
    assert_eq!((collector.named("publish").len(), impostor.0.lock().len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_sample_nothing_is_sent() {
    let port = ReservedPort::new();
    let collector = Collector::listen(port.listen());
    let gateway = TestGateway::start(&config(port.port(), "sample = 0.0\n", "pass")).await;
    let mut ada = gateway.user("ada").await;
    ada.join("room:1").await;
    ada.publish("room:1", json!(1)).await;
    let ended = tokio::spawn(gateway.gateway.drain(Duration::from_secs(10)));
    ada.closed().await;
    ada.leave().await;
    assert_eq!(ended.await.unwrap(), Ok(()));
    assert_eq!(collector.0.lock().len(), 0);
}
