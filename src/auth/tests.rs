//! Tokens as issuers make them, and as others try.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::config::Config;

const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn tokens(text: &str) -> Tokens {
    let config = Config::parse(text, std::path::Path::new("."), &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    Tokens::new(&config.auth.jwt, None)
}

fn with_secret(more: &str) -> Tokens {
    tokens(&format!("[auth.jwt]\nhmac_secret = \"{SECRET}\"\n{more}"))
}

fn sign(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

async fn connection(tokens: &Tokens, token: &str) -> Result<ConnectionClaims, BadToken> {
    tokens.connection(token, &TaskTracker::new()).await
}

async fn of(claims: Value) -> Result<ConnectionClaims, BadToken> {
    connection(&with_secret(""), &sign(Algorithm::HS256, SECRET, &claims)).await
}

async fn subscription(claims: Value) -> Result<SubscriptionClaims, BadToken> {
    with_secret("").subscription(&sign(Algorithm::HS256, SECRET, &claims), &TaskTracker::new()).await
}

#[tokio::test]
async fn a_good_token_says_who_it_is() {
    let known = of(json!({
        "sub": "ada", "exp": 4_000_000_000_u64, "iat": 5, "jti": "x", "info": { "name": "Ada" },
        "channels": ["news", "a"], "meta": { "any": 1 },
        "subs": { "a": { "info": 1, "b64data": "eyJ4IjoxfQ==", "expire_at": 9, "override": { "presence": { "value": false } } } },
    }))
    .await
    .unwrap();
    assert_eq!((known.user.as_str(), known.info.as_deref()), ("ada", Some(r#"{"name":"Ada"}"#)));
    assert_eq!(known.expires_at, Some(4_000_000_000_000));
    assert_eq!(known.token, TokenId { jti: Some("x".into()), issued_at: 5 });
    let [a, news] = known.subs.as_slice() else { panic!("{known:?}") };
    assert_eq!((a.room.as_str(), a.info.as_deref(), a.data.as_deref()), ("a", Some("1"), Some(r#"{"x":1}"#)));
    assert_eq!((a.expires_at, a.overrides.presence()), (Some(9000), Some(false)));
    assert_eq!((news.room.as_str(), news.expires_at), ("news", None));
}

#[tokio::test]
async fn a_tokens_time_and_the_time_of_what_it_grants_may_differ() {
    let at = async |claims: Value| of(claims).await.unwrap().expires_at;
    assert_eq!(at(json!({ "sub": "a" })).await, None);
    assert_eq!(at(json!({ "sub": "a", "exp": 4_000_000_000_u64, "expire_at": 0 })).await, None);
    assert_eq!(at(json!({ "sub": "a", "exp": 4_000_000_000_u64, "expire_at": -1 })).await, None);
    assert_eq!(
        at(json!({ "sub": "a", "exp": 4_000_000_000_u64, "expire_at": 4_100_000_000_u64 })).await,
        Some(4_100_000_000_000)
    );
}

#[tokio::test]
async fn an_old_token_is_told_from_a_bad_one_only_if_it_was_good() {
    assert_eq!(of(json!({ "sub": "ada", "exp": 1 })).await.unwrap_err(), BadToken::Expired);
    let forged = sign(Algorithm::HS256, &"x".repeat(64), &json!({ "sub": "ada", "exp": 1 }));
    assert_eq!(connection(&with_secret(""), &forged).await.unwrap_err(), BadToken::Invalid);
    let other = sign(Algorithm::HS256, SECRET, &json!({ "sub": "ada", "exp": 1, "aud": "you" }));
    assert_eq!(connection(&with_secret("audience = \"us\""), &other).await.unwrap_err(), BadToken::Invalid);
}

#[tokio::test]
async fn leeway_is_for_clocks_that_are_apart() {
    let late = sign(Algorithm::HS256, SECRET, &json!({ "sub": "ada", "exp": now() - 5 }));
    let early = sign(Algorithm::HS256, SECRET, &json!({ "sub": "ada", "nbf": now() + 5 }));
    for (leeway, good) in [("leeway = \"1m\"", true), ("", false)] {
        assert_eq!(connection(&with_secret(leeway), &late).await.is_ok(), good);
        assert_eq!(connection(&with_secret(leeway), &early).await.is_ok(), good);
    }
}

#[tokio::test]
async fn audience_and_issuer_count_when_they_are_asked_for() {
    let tokens = with_secret("audience = \"us\"\nissuer = \"them\"");
    let check = async |claims: Value| connection(&tokens, &sign(Algorithm::HS256, SECRET, &claims)).await.is_ok();
    assert!(check(json!({ "sub": "a", "aud": "us", "iss": "them" })).await);
    assert!(check(json!({ "sub": "a", "aud": ["you", "us"], "iss": "them" })).await);
    for bad in [
        json!({ "sub": "a", "aud": "you", "iss": "them" }),
        json!({ "sub": "a", "aud": "us" }),
        json!({ "sub": "a", "iss": "them" }),
        json!({ "sub": "a", "aud": [], "iss": "them" }),
        json!({ "sub": "a", "aud": [5, "us"], "iss": "them" }),
        json!({ "sub": "a", "aud": "us", "iss": ["them"] }),
    ] {
        assert!(!check(bad.clone()).await, "{bad}");
    }
}

#[tokio::test]
async fn a_token_is_good_for_what_it_was_made_for_alone() {
    let pass = json!({ "sub": "ada", "channel": "a", "client": "c", "info": 1, "exp": 4_000_000_000_u64 });
    assert_eq!(of(pass.clone()).await.unwrap_err(), BadToken::Invalid, "it would open all that ada may");
    let claims = subscription(pass).await.unwrap();
    assert_eq!((claims.user.as_str(), claims.client.as_deref(), claims.sub.room.as_str()), ("ada", Some("c"), "a"));
    assert_eq!((claims.sub.info.as_deref(), claims.sub.expires_at), (Some("1"), Some(4_000_000_000_000)));
    for bad in [
        json!({ "sub": "ada" }),
        json!({ "channel": "a" }),
        json!({ "sub": "ada", "channel": null }),
        json!({ "sub": "ada", "channel": "a", "override": { "publish": { "value": false } } }),
        json!({ "sub": "ada", "channel": "a", "info": 1, "b64info": "MQ==" }),
        json!({ "sub": "ada", "channel": "a", "b64info": "e30" }),
        json!({ "sub": "ada", "channel": "a", "b64info": "e1t7" }),
    ] {
        assert_eq!(subscription(bad.clone()).await.unwrap_err(), BadToken::Invalid, "{bad}");
    }
}

#[tokio::test]
async fn each_of_several_issuers_has_its_own_keys() {
    let other = "another secret that is long enough for anybody";
    let tokens = tokens(&format!(
        "[[auth.jwt]]\nissuer = \"a\"\nhmac_secret = \"{SECRET}\"\nalgorithms = [\"HS512\"]\n\
         [[auth.jwt]]\nissuer = \"b\"\nhmac_secret = \"{other}\"\n"
    ));
    let check = async |algorithm, secret: &str, issuer: Value| {
        connection(&tokens, &sign(algorithm, secret, &json!({ "sub": "x", "iss": issuer }))).await.is_ok()
    };
    use Algorithm::{HS256, HS512};
    assert!(check(HS512, SECRET, json!("a")).await && check(HS256, other, json!("b")).await);
    assert!(!check(HS512, SECRET, json!("b")).await && !check(HS256, other, json!("a")).await);
    assert!(!check(HS256, SECRET, json!("a")).await, "its key is for another algorithm");
    assert!(!check(HS256, other, json!("c")).await && !check(HS256, other, json!(null)).await);
    assert!(!check(HS256, other, json!(["b"])).await);
}
