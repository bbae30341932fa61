//! A client that does not read.

use std::time::Duration;

use serde_json::json;

use crate::support::{TestGateway, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_is_closed_and_harms_nobody() {
    let config = "[limits]\noutbox = \"64KiB\"\nmessage_size = \"32KiB\"\ncommands_burst = 1000000\nclose_timeout = \"10s\"\n\
                  [[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";
    let gateway = TestGateway::start(config).await;
    let mut slow = gateway.client().await;
    slow.join("r").await;
    let (mut healthy, mut sender) = (gateway.client().await, gateway.client().await);
    healthy.join("r").await;
    sender.join("r").await;
    let text = "x".repeat(30 << 10);
    let mut n = 0;
    // The kernel's buffers take some megabytes before the outbox fills.
    while gateway.hub().count("r").0 == 3 {
        sender.publish("r", json!([n, text])).await;
        assert_eq!(healthy.heard("r").await[0], n);
        sender.heard("r").await;
        n += 1;
        assert!(n < 10_000, "the slow client was never closed");
    }
    // It finds what fitted, whole and in order, and then the reason.
    let closed = slow.closed().await;
    assert_eq!(closed, (3008, "slow".into()));
    assert_eq!(gateway.metric(r#"wayleave_closes_total{code="3008"}"#), 1.0);
    sender.publish("r", json!("after")).await;
    assert_eq!(healthy.heard("r").await, "after");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_let_go_at_the_deadline() {
    let config = "[limits]\noutbox = \"64KiB\"\nmessage_size = \"32KiB\"\ncommands_burst = 1000000\nclose_timeout = \"200ms\"\n\
                  [[rooms]]\nmatch = \"r\"\npublish = \"members\"\n";
    let gateway = TestGateway::start(config).await;
    let mut slow = gateway.client().await;
    slow.join("r").await;
    let mut sender = gateway.client().await;
    sender.join("r").await;
    let text = "x".repeat(30 << 10);
    while gateway.hub().count("r").0 == 2 {
        sender.publish("r", json!(text)).await;
        sender.heard("r").await;
    }
    eventually("its socket is closed", || gateway.gateway.router().metrics.sockets.get() == 1).await;
    tokio::time::timeout(Duration::from_secs(5), sender.ask("ping", json!({}))).await.unwrap();
    drop(slow);
}
