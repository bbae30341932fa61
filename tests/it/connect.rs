//! Who gets in, as whom.

use serde_json::json;

use crate::support::{TestGateway, eventually, fixture, token};

#[tokio::test(flavor = "multi_thread")]
async fn an_anonymous_client_is_let_in_where_that_is_allowed() {
    let gateway = TestGateway::start("").await;
    let mut client = gateway.socket().await;
    let reply = client.ask("connect", json!({})).await;
    assert_eq!(reply["connect"]["ping"], 25);
    assert_eq!(reply["connect"]["pong"], true);
    assert_eq!(reply["connect"]["client"].as_str().unwrap().len(), 32);
    assert_eq!(gateway.hub().n_connections(), 1);
    client.leave().await;
    eventually("the connection is forgotten", || gateway.hub().n_connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_token_nobody_gets_in_where_one_is_required() {
    let config = format!("[auth]\nanonymous = false\n[auth.jwt]\nhmac_secret = \"{}\"\n", crate::support::SECRET);
    let gateway = TestGateway::start(&config).await;
    let mut client = gateway.socket().await;
    assert_eq!(client.refused("connect", json!({})).await, 101);
    // The same socket may try again with a token.
    let reply = client.ask("connect", json!({ "token": token(&json!({ "sub": "ada" })) })).await;
    assert!(reply.get("connect").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_closes_and_an_old_one_asks_for_another() {
    let gateway = TestGateway::start("").await;
    let mut client = gateway.socket().await;
    client.say(r#"{"id":1,"connect":{"token":"wrong"}}"#).await;
    assert_eq!(client.closed().await, (3500, "invalid token".into()));
    assert!(gateway.metric(r#"wayleave_closes_total{code="3500"}"#) > 0.0);
    let mut client = gateway.socket().await;
    let old = token(&json!({ "sub": "ada", "exp": 1 }));
    assert_eq!(client.refused("connect", json!({ "token": old })).await, 109);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_nobody_can_check_is_not_taken_for_anonymous() {
    let gateway = TestGateway::start("[auth]\nanonymous = true\n").await;
    let mut client = gateway.socket().await;
    client.say(r#"{"id":1,"connect":{"token":"x"}}"#).await;
    assert_eq!(client.closed().await.0, 3500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_its_token_does() {
    let gateway = TestGateway::start("").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let short = token(&json!({ "sub": "ada", "exp": now + 3 }));
    let mut client = gateway.client_with(json!({ "token": short })).await;
    assert_eq!(client.closed().await, (3005, "connection expired".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_name_rooms_to_be_in_from_the_start() {
    let gateway = TestGateway::start("[[rooms]]\nmatch = \"news\"\npublish = \"members\"\n").await;
    let mut client = gateway.socket().await;
    let named = token(&json!({ "sub": "ada", "channels": ["news"] }));
    let reply = client.ask("connect", json!({ "token": named })).await;
    assert_eq!(reply["connect"]["subs"], json!({ "news": {} }));
    client.publish("news", json!("hello")).await;
    assert_eq!(client.heard("news").await, json!("hello"));
    // A room that it may not be in keeps it out: it would believe to be in.
    let named = token(&json!({ "sub": "ada", "channels": ["elsewhere"] }));
    assert_eq!(gateway.socket().await.refused("connect", json!({ "token": named })).await, 102);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_so_many_connections_and_no_more() {
    let gateway = TestGateway::start("[limits]\nconnections_per_user = 2\n").await;
    let _first = gateway.user("ada").await;
    let second = gateway.user("ada").await;
    let _other = gateway.user("bob").await;
    let hello = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": "ada" })) } }).to_string();
    let mut third = gateway.socket().await;
    third.say(&hello).await;
    assert_eq!(third.closed().await, (3504, "connection limit".into()));
    second.leave().await;
    eventually("its place is free", || gateway.hub().connections_of("ada").len() == 1).await;
    gateway.user("ada").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_says_who_somebody_is() {
    let config = format!(
        "[auth]\nplugins = [\"p\"]\n[[plugins]]\nname = \"p\"\npath = {:?}\n",
        fixture("authenticate-user").display().to_string()
    );
    let gateway = TestGateway::start(&config).await;
    gateway.client_with(json!({ "token": "ada" })).await;
    eventually("ada is known", || gateway.hub().connections_of("ada").len() <= 1).await;
    let mut nobody = gateway.socket().await;
    assert_eq!(nobody.refused("connect", json!({})).await, 103);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authenticator_that_traps_lets_nobody_in() {
    for (policy, code) in [("", 100), ("on_failure = \"open\"", 100), ("on_failure = { authenticate = \"open\" }", 0)] {
        let config = format!(
            "[auth]\nanonymous = true\nplugins = [\"p\"]\n[[plugins]]\nname = \"p\"\npath = {:?}\n{policy}\n",
            fixture("authenticate-traps").display().to_string()
        );
        let gateway = TestGateway::start(&config).await;
        let reply = gateway.socket().await.ask("connect", json!({})).await;
        assert_eq!(reply["error"]["code"].as_u64().unwrap_or(0), code, "{policy}: {reply}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_origins_may_open_a_socket() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let listed = TestGateway::start("[server]\nallowed_origins = [\"https://good.example\"]\n").await;
    let by_default = TestGateway::start("").await;
    let own = |gateway: &TestGateway| format!("http://{}", gateway.gateway.address());
    for (gateway, origin, allowed) in [
        (&listed, "https://good.example".to_owned(), true),
        (&listed, "https://evil.example".to_owned(), false),
        // A list is the whole list.
        (&listed, own(&listed), false),
        (&by_default, own(&by_default), true),
        (&by_default, "https://good.example".to_owned(), false),
    ] {
        let mut request = gateway.url().into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        assert_eq!(tokio_tungstenite::connect_async(request).await.is_ok(), allowed, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_answer_pings_is_closed() {
    use futures_util::StreamExt;
    use tokio_tungstenite::tungstenite::Message;
    let gateway = TestGateway::start(
        "[server]\nping_interval = \"1s\"\npong_timeout = \"900ms\"\n[limits]\ncommands_burst = 1000000\n",
    )
    .await;
    let (mut socket, _) = tokio_tungstenite::connect_async(gateway.url()).await.unwrap();
    futures_util::SinkExt::send(&mut socket, Message::text(r#"{"id":1,"connect":{}}"#)).await.unwrap();
    let mut pings = 0;
    let code = loop {
        match tokio::time::timeout(crate::support::PATIENCE, socket.next()).await.unwrap() {
            Some(Ok(Message::Text(text))) if text.as_str() == "{}" => pings += 1,
            Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
            Some(Ok(_)) => {}
            end => panic!("{end:?}"),
        }
    };
    assert_eq!((pings, code), (1, 3012));
    // One that answers stays: the test client does, through several pings.
    let mut client = gateway.client().await;
    let before = tokio::time::Instant::now();
    while before.elapsed() < std::time::Duration::from_millis(2500) {
        client.ask("ping", json!({})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_cannot_be_guessed_on_one_socket() {
    let config = format!("[auth]\nanonymous = false\n[auth.jwt]\nhmac_secret = \"{}\"\n", crate::support::SECRET);
    let gateway = TestGateway::start(&config).await;
    let mut client = gateway.socket().await;
    client.say(&"{\"id\":1,\"connect\":{}}\n".repeat(100)).await;
    assert_eq!(client.closed().await, (3509, "too many errors".into()));
    assert_eq!(gateway.metric(r#"wayleave_refusals_total{code="101"}"#), 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_always_talks_does_not_outlive_its_deadlines() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let gateway = TestGateway::start("[limits]\ncommands_burst = 1000000000\ncommands_per_second = 1000000000\n").await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (socket, _) = tokio_tungstenite::connect_async(gateway.url()).await.unwrap();
    let (mut write, mut read) = socket.split();
    let hello = json!({ "id": 1, "connect": { "token": token(&json!({ "sub": "ada", "exp": now + 2 })) } });
    write.send(Message::text(hello.to_string())).await.unwrap();
    let talking =
        tokio::task::spawn(async move { while write.send(Message::text("{}\n".repeat(1000))).await.is_ok() {} });
    let code = loop {
        match tokio::time::timeout(crate::support::PATIENCE, read.next()).await.expect("it is never closed") {
            Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
            Some(Ok(_)) => {}
            end => panic!("{end:?}"),
        }
    };
    assert_eq!(code, 3005);
    talking.abort();
}
