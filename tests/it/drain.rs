//! The orderly end.

use std::time::Duration;

use serde_json::json;

use crate::support::TestGateway;

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_everybody_and_ends() {
    let gateway = TestGateway::start("[[rooms]]\nmatch = \"r\"\npublish = \"members\"\n").await;
    let (mut ada, mut nobody) = (gateway.client().await, gateway.socket().await);
    ada.join("r").await;
    ada.publish("r", json!("last words")).await;
    let (url, how) = (gateway.url(), gateway.gateway.reloader().running().config.drain);
    let drained = tokio::task::spawn(gateway.gateway.drain(how));
    assert_eq!(ada.heard("r").await, "last words");
    assert_eq!(ada.closed().await, (3001, "shutdown".into()));
    assert_eq!(nobody.closed().await, (3001, "shutdown".into()));
    drop((ada, nobody));
    assert_eq!(drained.await.unwrap(), Ok(()));
    assert!(tokio_tungstenite::connect_async(url).await.is_err());
}
