//! `wayleave token`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::config::Jwt;

/// Makes a token with the config's own secret.
#[derive(Debug, clap::Args)]
pub(super) struct Token {
    /// Whose it is.
    #[arg(long)]
    user: String,
    /// A room that the connection is in from the start; may be repeated.
    #[arg(long = "room")]
    rooms: Vec<String>,
    /// How long it is good for: "90s", "1h", "30days", or "forever".
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Ttl,
    /// JSON about the user, for plugins and other members.
    #[arg(long, value_parser = super::json)]
    info: Option<Value>,
    #[command(flatten)]
    config: super::ConfigArgument,
}

#[derive(Debug, Clone, Copy)]
struct Ttl(Option<Duration>);

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "forever" {
        return Ok(Ttl(None));
    }
    let ttl = humantime::parse_duration(text).map_err(|error| format!("{error}; expected \"1h\" or \"forever\""))?;
    Ok(Ttl(Some(ttl)))
}

pub(super) fn main(token: &Token) -> ExitCode {
    let config = match super::load(&token.config.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    super::finish(make(token, &config.auth.jwt).map(|token| println!("{token}")))
}

fn make(token: &Token, issuers: &[Jwt]) -> anyhow::Result<String> {
    ensure!(!issuers.is_empty(), "the config has no `auth.jwt`, so that no token would be taken; see `hmac_secret`");
    let with_secret = issuers.iter().find_map(|jwt| Some((jwt, jwt.secret.as_ref()?)));
    let (jwt, secret) =
        with_secret.context("no `auth.jwt` of the config has an `hmac_secret`: its tokens are made elsewhere")?;
    ensure!(!token.user.is_empty(), "--user must not be empty");
    let mut claims = json!({ "sub": token.user });
    if let Ttl(Some(ttl)) = token.ttl {
        let ends = SystemTime::now().duration_since(UNIX_EPOCH)? + ttl;
        claims["exp"] = ends.as_secs().into();
    }
    if let Some(info) = &token.info {
        claims["info"] = info.clone();
    }
    if !token.rooms.is_empty() {
        claims["channels"] = token.rooms.clone().into();
    }
    if let Some(audience) = &jwt.audience {
        claims["aud"] = audience.as_str().into();
    }
    if let Some(issuer) = &jwt.issuer {
        claims["iss"] = issuer.as_str().into();
    }
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    Ok(encode(&Header::new(jwt.algorithms[0]), &claims, &key)?)
}
