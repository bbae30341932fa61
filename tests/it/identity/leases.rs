//! What ends by the clock or by a word: expiry, refresh, subscription tokens,
//! and tokens that are taken back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::{refused, seconds};
use crate::{
    api::{error, result},
    cluster::{gateway, gateways},
    support::{
        NoAnswer, PATIENCE, SECRET, TestClient, TestGateway, eventually, fixture, redis::RedisServer, token, until,
    },
};

const API: &str = "[api]\nkeys = [{ name = \"backend\", key = \"a-key-of-the-tests\" }]\n";

/// Rooms that need a token, with plugins and without.
fn rooms() -> String {
    let deny = fixture("deny").display().to_string();
    format!(
        "[[rooms]]\nmatch = \"pass:*\"\njoin = \"token\"\npresence = true\npublish = \"members\"\n\
         [[rooms]]\nmatch = \"guarded:*\"\njoin = \"token\"\nplugins = [\"deny\"]\n\
         [[plugins]]\nname = \"deny\"\npath = {deny:?}\n"
    )
}

fn auth(grace: &str) -> String {
    format!("[auth]\nanonymous = true\nrefresh_grace = \"{grace}\"\n[auth.jwt]\nhmac_secret = {SECRET:?}\n{API}")
}

fn address(gateway: &TestGateway) -> SocketAddr {
    gateway.gateway.address()
}

/// Milliseconds since 1970.
fn millis() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Connects with these claims and returns the welcome beside the client.
async fn welcomed(gateway: &TestGateway, claims: Value) -> (TestClient, Value) {
    let mut client = gateway.socket().await;
    let mut reply = client.ask("connect", json!({ "token": token(&claims) })).await;
    assert!(reply.get("connect").is_some(), "{reply}");
    client.id = reply["connect"]["client"].as_str().unwrap().to_owned();
    (client, reply["connect"].take())
}

/// The next push that is an unsubscribe: its code.
async fn put_out(client: &mut TestClient, room: &str) -> u64 {
    loop {
        let push = client.push().await;
        if push["channel"] == room && push.get("unsubscribe").is_some() {
            return push["unsubscribe"]["code"].as_u64().unwrap();
        }
    }
}

#[tokio::test]
async fn a_welcome_says_when_it_ends_and_a_refresh_gives_more_time() {
    let gateway = TestGateway::start(&auth("0s")).await;
    let (_, forever) = welcomed(&gateway, json!({ "sub": "ada" })).await;
    assert!(forever.get("expires").is_none() && forever.get("ttl").is_none(), "{forever}");
    let soon = json!({ "sub": "ada", "exp": seconds() + 3 });
    let (mut stays, welcome) = welcomed(&gateway, soon.clone()).await;
    let (mut goes, _) = welcomed(&gateway, soon).await;
    assert!(welcome["expires"] == true && (1..=3).contains(&welcome["ttl"].as_u64().unwrap()), "{welcome}");
    let more = token(&json!({ "sub": "ada", "exp": seconds() + 600, "info": { "name": "Ada" } }));
    let reply = stays.ask("refresh", json!({ "token": more })).await;
    let refreshed = &reply["refresh"];
    assert!(refreshed["expires"] == true && (590..=600).contains(&refreshed["ttl"].as_u64().unwrap()), "{reply}");
    assert_eq!(refreshed["client"], stays.id);
    assert!(refreshed["version"].as_str().unwrap().starts_with("wayleave "), "{reply}");
    assert_eq!(goes.closed().await, (3005, "connection expired".to_owned()));
    assert!(stays.ask("ping", json!({})).await.get("ping").is_some());
    let id = wayleave::id::ConnectionId::parse(&stays.id).unwrap();
    assert_eq!(&*gateway.hub().connection(id).unwrap().info(), r#"{"name":"Ada"}"#);
    // One that does not end any more.
    let reply = stays.ask("refresh", json!({ "token": token(&json!({ "sub": "ada" })) })).await;
    assert!(reply["refresh"].get("ttl").is_none(), "{reply}");
}

#[tokio::test]
async fn who_cannot_refresh_has_the_grace_and_no_more() {
    let gateway = TestGateway::start(&auth("2s")).await;
    let end = seconds() + 2;
    let (mut client, _) = welcomed(&gateway, json!({ "sub": "ada", "exp": end })).await;
    let expired = token(&json!({ "sub": "ada", "exp": 1 }));
    assert_eq!(client.refused("refresh", json!({ "token": expired })).await, 109);
    assert_eq!(client.refused("refresh", json!({ "token": "" })).await, 107);
    assert_eq!(client.closed().await.0, 3005);
    let late = millis().saturating_sub((end + 2) * 1000);
    assert!(millis() >= (end + 2) * 1000 && late < 5000, "{late} ms after the grace");
    // Whose token is not theirs, or is none, does not stay.
    for bad in [json!({ "sub": "eve" }), json!({}), json!({ "sub": "ada", "channel": "a" })] {
        let (mut client, _) = welcomed(&gateway, json!({ "sub": "ada", "exp": seconds() + 600 })).await;
        client.say(&json!({ "id": 9, "refresh": { "token": token(&bad) } }).to_string()).await;
        assert_eq!(client.closed().await, (3500, "invalid token".to_owned()), "{bad}");
    }
    let (mut client, _) = welcomed(&gateway, json!({ "sub": "ada" })).await;
    client.say(&json!({ "id": 9, "refresh": { "token": token(&json!({ "sub": "ada" })) + "x" } }).to_string()).await;
    assert_eq!(client.closed().await, (3500, "invalid token".to_owned()));
}

#[tokio::test]
async fn a_room_that_needs_a_token_lets_in_whom_it_was_made_for() {
    let gateway = TestGateway::start(&format!("{}{}", auth("10s"), rooms())).await;
    let (mut ada, _) = welcomed(&gateway, json!({ "sub": "ada" })).await;
    let pass = |more: Value| {
        let mut claims = json!({ "sub": "ada", "channel": "pass:1" });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token(&claims)
    };
    let ask = |token: String| json!({ "channel": "pass:1", "token": token });
    for (bad, code) in [
        (String::new(), 103),
        (pass(json!({})) + "x", 103),
        (pass(json!({ "channel": "pass:2" })), 103),
        (pass(json!({ "sub": "eve" })), 103),
        (pass(json!({ "client": "another" })), 103),
        (pass(json!({ "override": { "join_leave": { "value": true } } })), 103),
        (token(&json!({ "sub": "ada" })), 103),
        (pass(json!({ "exp": 1 })), 109),
    ] {
        assert_eq!(ada.refused("subscribe", ask(bad.clone())).await, code, "{bad}");
    }
    assert_eq!(gateway.hub().count("pass:1"), (0, 0));
    let id = ada.id.clone();
    let good = pass(json!({ "client": id, "exp": seconds() + 600, "info": { "seat": 7 } }));
    let reply = ada.ask("subscribe", ask(good)).await;
    assert!(reply["subscribe"]["expires"] == true && reply["subscribe"]["ttl"].as_u64().unwrap() > 590, "{reply}");
    let present = ada.ask("presence", json!({ "channel": "pass:1" })).await;
    assert_eq!(present["presence"]["presence"][&id]["chan_info"], json!({ "seat": 7 }), "{present}");
    // Plugins are asked after it.
    let guarded = token(&json!({ "sub": "ada", "channel": "guarded:1" }));
    let reply = ada.ask("subscribe", json!({ "channel": "guarded:1", "token": guarded })).await;
    assert!(reply.get("error").is_some() && gateway.hub().count("guarded:1") == (0, 0), "{reply}");
    // The server lets in whom it wants; and a token may take away the presence.
    let (mut bob, _) = welcomed(&gateway, json!({ "sub": "bob" })).await;
    result(address(&gateway), "subscribe", json!({ "user": "bob", "channel": "pass:1" })).await;
    assert_eq!(bob.push().await["subscribe"], json!({}));
    bob.ask("unsubscribe", json!({ "channel": "pass:1" })).await;
    let blind = token(&json!({ "sub": "bob", "channel": "pass:1", "override": { "presence": { "value": false } } }));
    bob.ask("subscribe", json!({ "channel": "pass:1", "token": blind })).await;
    assert_eq!(bob.refused("presence", json!({ "channel": "pass:1" })).await, 108);
    // The same in a connection token.
    let subs =
        json!({ "pass:1": { "info": 1, "data": { "hello": 1 }, "override": { "presence": { "value": false } } } });
    let (mut eve, welcome) = welcomed(&gateway, json!({ "sub": "eve", "subs": subs })).await;
    assert_eq!(welcome["subs"]["pass:1"]["data"], json!({ "hello": 1 }), "{welcome}");
    assert_eq!(eve.refused("presence", json!({ "channel": "pass:1" })).await, 108);
    let other = json!({ "pass:1": { "override": { "force_recovery": { "value": true } } } });
    let other = token(&json!({ "sub": "eve", "subs": other }));
    assert_eq!(refused(&gateway, &other).await, Some((3500, "invalid token".to_owned())));
}

#[tokio::test]
async fn a_subscription_ends_with_its_token_unless_another_comes() {
    let gateway = TestGateway::start(&format!("{}{}", auth("1s"), rooms())).await;
    let pass = |room: &str, exp: u64| token(&json!({ "sub": "ada", "channel": room, "exp": exp }));
    let (mut ada, _) = welcomed(&gateway, json!({ "sub": "ada" })).await;
    let end = seconds() + 4;
    for room in ["pass:goes", "pass:stays"] {
        let reply = ada.ask("subscribe", json!({ "channel": room, "token": pass(room, end) })).await;
        assert!(reply["subscribe"]["ttl"].as_u64().unwrap() <= 4, "{reply}");
    }
    let refresh = |room: &str, token: String| json!({ "channel": room, "token": token });
    for (bad, code) in [(pass("pass:stays", 1), 109), (pass("pass:goes", end + 60), 103), ("x".to_owned(), 103)] {
        assert_eq!(ada.refused("sub_refresh", refresh("pass:stays", bad)).await, code);
    }
    assert_eq!(ada.refused("sub_refresh", refresh("pass:else", pass("pass:else", end + 60))).await, 103);
    let reply = ada.ask("sub_refresh", refresh("pass:stays", pass("pass:stays", end + 600))).await;
    assert!(reply["sub_refresh"]["expires"] == true && reply["sub_refresh"]["ttl"].as_u64().unwrap() > 500, "{reply}");
    assert_eq!(put_out(&mut ada, "pass:goes").await, 2501);
    assert!(millis() >= (end + 1) * 1000, "not before the grace is over");
    assert_eq!((gateway.hub().count("pass:goes"), gateway.hub().count("pass:stays")), ((0, 0), (1, 1)));
    // It comes back as it came.
    let reply = ada.ask("subscribe", json!({ "channel": "pass:goes", "token": pass("pass:goes", end + 600) })).await;
    assert!(reply.get("subscribe").is_some(), "{reply}");
    // Also of those in which the server has put it, for a time.
    let subs = json!({ "pass:2": { "expire_at": seconds() + 2 } });
    let (mut bob, welcome) = welcomed(&gateway, json!({ "sub": "bob", "subs": subs })).await;
    assert_eq!(welcome["subs"]["pass:2"]["expires"], true, "{welcome}");
    assert_eq!(put_out(&mut bob, "pass:2").await, 2501);
}

/// `subscribe` of the server API with `expire_at` and `override`, from another
/// instance than the connection is on.
#[tokio::test]
async fn a_server_puts_somebody_into_a_room_for_a_time_and_on_terms() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, &format!("{}{}", auth("1s"), rooms())).await;
    let (mut ada, _) = welcomed(&b, json!({ "sub": "ada", "iat": seconds() })).await;
    let place = async |room: &str, mut more: Value| {
        more["user"] = "ada".into();
        more["channel"] = room.into();
        assert_eq!(result(address(&a), "subscribe", more).await["connections"], 1);
    };
    let end = seconds() + 4;
    for room in ["pass:goes", "pass:stays"] {
        place(room, json!({ "expire_at": end })).await;
        let push = ada.push().await;
        assert_eq!((&push["channel"], &push["subscribe"]["expires"]), (&room.into(), &true.into()), "{push}");
    }
    place("pass:ever", json!({})).await;
    assert_eq!(ada.push().await["subscribe"], json!({}));
    // Who is there is given another time, and only that.
    place("pass:stays", json!({ "expire_at": end + 600 })).await;
    place("pass:stays", json!({ "info": 1 })).await;
    place("pass:ever", json!({ "expire_at": end })).await;
    // Tokens that are taken back have nothing to do with it.
    let before = json!({ "user": "ada", "issued_before": seconds() - 5 });
    result(address(&a), "invalidate_user_tokens", before).await;
    let mut gone = [(); 2].map(|()| String::new());
    for room in &mut gone {
        let push = ada.push().await;
        assert_eq!(push["unsubscribe"]["code"], 2501, "{push}");
        *room = push["channel"].as_str().unwrap().to_owned();
    }
    gone.sort();
    assert_eq!(gone, ["pass:ever", "pass:goes"]);
    assert!(millis() >= (end + 1) * 1000, "not before the grace is over");
    assert_eq!((b.hub().count("pass:goes"), b.hub().count("pass:stays")), ((0, 0), (1, 1)));
    // What of `override` is a member's own.
    assert!(ada.ask("presence", json!({ "channel": "pass:stays" })).await.get("presence").is_some());
    place("pass:blind", json!({ "override": { "presence": { "value": false } } })).await;
    assert_eq!(ada.push().await["subscribe"], json!({}));
    assert_eq!(ada.refused("presence", json!({ "channel": "pass:blind" })).await, 108);
}

/// Row T4, expiry: nothing is heard behind the deadline, wherever it is said.
#[tokio::test]
async fn t4_an_expired_connection_hears_nothing_more_from_another_instance() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, &auth("1s")).await;
    let end = seconds() + 2;
    let (mut listener, _) = welcomed(&b, json!({ "sub": "ada", "exp": end })).await;
    listener.join("plain:1").await;
    let mut talker = a.client().await;
    let talking = tokio::spawn(async move {
        loop {
            talker.publish("plain:1", json!(millis())).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let deadline = (end + 1) * 1000;
    let (mut heard, mut late) = (0, 0);
    let code = loop {
        match listener.try_push(PATIENCE).await {
            Ok(push) => {
                heard += 1;
                late += u64::from(push["pub"]["data"].as_u64().unwrap() > deadline + 100);
            }
            Err(NoAnswer::Closed(code, _)) => break code,
            Err(NoAnswer::Late) => panic!("neither messages nor an end"),
        }
    };
    talking.abort();
    println!("T4: {heard} heard, {late} behind the deadline, closed {} ms after it", millis().saturating_sub(deadline));
    assert_eq!((code, late), (3005, 0));
    assert!(heard > 50 && millis() >= deadline && millis() < deadline + 5000, "{heard}");
    eventually("it is out of the room", || b.hub().count("plain:1") == (0, 0)).await;
}

/// Row T4, ban: on another instance within a second, and for good.
#[tokio::test]
async fn t4_a_banned_user_is_gone_everywhere_and_does_not_come_back() {
    let redis = RedisServer::start().await;
    let config = format!("{}{}", auth("10s"), rooms());
    let [a, b] = gateways::<2>(&redis, &config).await;
    let issued = seconds() - 1;
    let claims = json!({ "sub": "eve", "iat": issued });
    let mut devices = vec![welcomed(&a, claims.clone()).await.0, welcomed(&b, claims.clone()).await.0];
    // Without a time of its own it is older than any.
    devices.push(welcomed(&b, json!({ "sub": "eve" })).await.0);
    let (mut ada, _) = welcomed(&b, json!({ "sub": "ada", "iat": issued })).await;
    let start = Instant::now();
    result(address(&a), "invalidate_user_tokens", json!({ "user": "eve", "expire_at": seconds() + 600 })).await;
    for device in &mut devices {
        assert_eq!(device.closed().await, (3500, "invalid token".to_owned()));
    }
    println!("T4: gone everywhere after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let invalid = Some((3500, "invalid token".to_owned()));
    for gateway in [&a, &b] {
        assert_eq!(refused(gateway, &token(&claims)).await, invalid);
        assert_eq!(refused(gateway, &token(&json!({ "sub": "eve" }))).await, invalid);
        assert_eq!(refused(gateway, &token(&json!({ "sub": "eve", "iat": seconds() + 5 }))).await, None, "a new one");
        assert!(gateway.hub().connections_of("eve").is_empty() || gateway.hub().connections_of("eve").len() == 1);
    }
    assert!(ada.ask("ping", json!({})).await.get("ping").is_some());
    // Nor on one that has come since, and nor with a Redis that has lost it all.
    let c = gateway(&redis.url(), "c", &config).await;
    until("it has heard of it", async || refused(&c, &token(&claims)).await == invalid).await;
    let known = async || redis.command(&["ZCARD", "wayleave:1:{i}:revoked"]).await;
    assert_eq!(known().await, ::redis::Value::Int(1));
    redis.command(&["FLUSHALL"]).await;
    result(address(&b), "revoke_token", json!({ "uid": "x" })).await;
    until("it is told again", async || known().await == ::redis::Value::Int(2)).await;
}

/// Row T4: a Redis that takes over and lacks the newest is told them again,
/// though it counts as far as the one before.
#[tokio::test]
async fn t4_what_a_new_master_lacks_is_told_to_it_again() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, &format!("{}{}", auth("10s"), rooms())).await;
    let claims = json!({ "sub": "ada", "jti": "lost" });
    let invalid = Some((3500, "invalid token".to_owned()));
    for uid in ["kept", "lost"] {
        result(address(&a), "revoke_token", json!({ "uid": uid })).await;
    }
    until("the other has heard of them", async || refused(&b, &token(&claims)).await == invalid).await;
    // It is noted once, however often it is said.
    let ends = seconds() + 600;
    for _ in 0..3 {
        result(address(&a), "invalidate_user_tokens", json!({ "user": "eve", "expire_at": ends, "issued_before": 5 }))
            .await;
    }
    let count = async || redis.command(&["HGET", "wayleave:1:{i}:revoked:last", "last"]).await;
    let known = async || redis.command(&["ZCARD", "wayleave:1:{i}:revoked"]).await;
    assert_eq!((known().await, redis.number("replication", "connected_slaves").await), (::redis::Value::Int(3), 0));
    let counted = count().await;
    assert_eq!(counted, ::redis::Value::BulkString(b"3".to_vec()));

    let other = RedisServer::replica_of(&redis).await;
    other.promote().await;
    for key in ["revoked", "revoked:ends"] {
        other.command(&["ZREM", &format!("wayleave:1:{{i}}:{key}"), "t lost"]).await;
    }
    other.command(&["HDEL", "wayleave:1:{i}:revoked:times", "t lost"]).await;
    redis.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]).await;
    until("it has taken over what the other has", async || known().await == ::redis::Value::Int(2)).await;
    redis.promote().await;
    until("it is told again", async || known().await == ::redis::Value::Int(3)).await;
    assert_eq!(count().await, ::redis::Value::BulkString(b"4".to_vec()), "and only what it lacks is counted");
    let c = gateway(&redis.url(), "c", &format!("{}{}", auth("10s"), rooms())).await;
    until("one that has come since hears of it", async || refused(&c, &token(&claims)).await == invalid).await;
}

/// Row T4: one token of several, at connect, refresh, resume, and of a room.
#[tokio::test]
async fn t4_a_token_that_was_taken_back_is_good_for_nothing_on_any_instance() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, &format!("{}{}", auth("10s"), rooms())).await;
    let claims = |jti: &str| json!({ "sub": "ada", "jti": jti, "iat": seconds() - 1 });
    let (mut lost, _) = welcomed(&b, claims("x")).await;
    let (mut kept, _) = welcomed(&b, claims("y")).await;
    lost.join("kept:1").await;
    let pass = token(&json!({ "sub": "ada", "channel": "pass:1", "jti": "p" }));
    let in_room = json!({ "channel": "pass:1", "token": pass });
    assert!(kept.ask("subscribe", in_room.clone()).await.get("subscribe").is_some());
    let revoke = async |uid: &'static str| result(address(&a), "revoke_token", json!({ "uid": uid })).await;
    revoke("x").await;
    assert_eq!(lost.closed().await, (3500, "invalid token".to_owned()));
    for gateway in [&a, &b] {
        let resume = json!({ "token": token(&claims("x")), "subs": { "kept:1": { "recover": true, "epoch": "e", "offset": 1 } } });
        let refused = TestClient::try_connect(&gateway.url(), resume, PATIENCE).await.err();
        assert_eq!(refused, Some(r#"Closed(3500, "invalid token")"#.to_owned()));
    }
    revoke("p").await;
    assert_eq!(put_out(&mut kept, "pass:1").await, 2000);
    assert_eq!(kept.refused("subscribe", in_room.clone()).await, 103);
    kept.join("plain:1").await;
    kept.say(&json!({ "id": 99, "refresh": { "token": token(&claims("x")) } }).to_string()).await;
    assert_eq!(kept.closed().await, (3500, "invalid token".to_owned()));
    // What is wrong is said.
    assert_eq!(error(address(&a), "revoke_token", json!({})).await, 107);
    assert_eq!(error(address(&a), "revoke_token", json!({ "uid": "x", "expire_at": 5 })).await, 107);
    assert_eq!(error(address(&a), "revoke_token", json!({ "uid": "x", "channel": "a" })).await, 107);
    assert_eq!(error(address(&a), "invalidate_user_tokens", json!({})).await, 107);
}

/// Row T4: by the clock of whoever issues them, so that the next one is good.
#[tokio::test]
async fn what_was_issued_before_a_moment_is_taken_back_and_nothing_else() {
    let gateway = TestGateway::start(&auth("10s")).await;
    let issued = seconds() - 60;
    let of = |iat: u64| json!({ "sub": "ada", "iat": iat });
    let (mut old, _) = welcomed(&gateway, of(issued - 1)).await;
    let (mut new, _) = welcomed(&gateway, of(issued)).await;
    let at = address(&gateway);
    result(at, "invalidate_user_tokens", json!({ "user": "ada", "issued_before": issued })).await;
    assert_eq!(old.closed().await.0, 3500);
    assert!(new.ask("ping", json!({})).await.get("ping").is_some());
    assert_eq!(refused(&gateway, &token(&of(issued - 1))).await.map(|(code, _)| code), Some(3500));
    assert_eq!(refused(&gateway, &token(&of(issued))).await, None);
    assert_eq!(error(at, "invalidate_user_tokens", json!({ "user": "ada", "issued_before": 0 })).await, 107);
    assert_eq!(error(at, "revoke_token", json!({ "uid": "x", "issued_before": 5 })).await, 107);
}

/// On one instance without Redis, and only for as long as was said.
#[tokio::test]
async fn what_is_taken_back_for_a_time_is_good_again_then() {
    let gateway = TestGateway::start(&auth("10s")).await;
    let claims = json!({ "sub": "ada", "jti": "x" });
    let (mut client, _) = welcomed(&gateway, claims.clone()).await;
    result(address(&gateway), "revoke_token", json!({ "uid": "x", "expire_at": seconds() + 4 })).await;
    assert_eq!(client.closed().await.0, 3500);
    assert_eq!(refused(&gateway, &token(&claims)).await.map(|(code, _)| code), Some(3500));
    until("it is forgotten", async || refused(&gateway, &token(&claims)).await.is_none()).await;
}

#[tokio::test]
async fn a_server_sets_when_connections_end_wherever_they_are() {
    let redis = RedisServer::start().await;
    let [a, b] = gateways::<2>(&redis, &auth("0s")).await;
    let (mut ada, _) = welcomed(&b, json!({ "sub": "ada", "exp": seconds() + 3 })).await;
    let at = address(&a);
    until("they know each other", async || {
        result(at, "refresh", json!({ "client": ada.id, "expire_at": seconds() + 60 })).await["connections"] == 1
    })
    .await;
    assert!(ada.push().await["refresh"]["ttl"].as_u64().unwrap() > 50);
    let (mut other, _) = welcomed(&b, json!({ "sub": "ada", "exp": seconds() + 3 })).await;
    let refresh = async |parameters: Value| result(at, "refresh", parameters).await["connections"].clone();
    assert_eq!(refresh(json!({ "user": "ada", "client": ada.id, "expire_at": seconds() + 600 })).await, 1);
    let push = ada.push().await;
    assert!(push["refresh"]["expires"] == true && push["refresh"]["ttl"].as_u64().unwrap() > 590, "{push}");
    assert_eq!(other.closed().await.0, 3005);
    assert!(ada.ask("ping", json!({})).await.get("ping").is_some());
    assert_eq!(refresh(json!({ "user": "ada", "expire_at": 0 })).await, 1);
    assert_eq!(ada.push().await["refresh"], json!({ "expires": false }));
    // Sooner: its session must not sleep until the next ping.
    let start = Instant::now();
    assert_eq!(refresh(json!({ "user": "ada", "expire_at": seconds() + 2 })).await, 1);
    assert_eq!(ada.closed().await, (3005, "connection expired".to_owned()));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    let (mut ada, _) = welcomed(&b, json!({ "sub": "ada" })).await;
    assert_eq!(refresh(json!({ "user": "ada", "expired": true })).await, 1);
    assert_eq!(ada.closed().await, (3005, "connection expired".to_owned()));
    assert_eq!(error(at, "refresh", json!({})).await, 107);
}
