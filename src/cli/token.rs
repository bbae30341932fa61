//! `wayleave token`.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, ensure};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::config::{Jwt, KeySource};

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
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut claims = json!({ "sub": token.user, "iat": now.as_secs() });
    if let Ttl(Some(ttl)) = token.ttl {
        claims["exp"] = (now + ttl).as_secs().into();
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
    let mut header = Header::new(jwt.algorithms[0]);
    if let KeySource::Fixed(keys) = &jwt.keys {
        header.kid = keys.first().and_then(|key| key.id()).map(str::to_owned);
    }
    Ok(encode(&header, &claims, &key)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::Tokens, config::Config};

    #[tokio::test]
    async fn a_token_is_good_by_the_config_that_it_is_made_with() {
        for more in ["", "key_id = \"k\"", "issuer = \"i\"\naudience = \"a\"\nalgorithms = [\"HS384\"]"] {
            let text = format!("[auth.jwt]\nhmac_secret = \"{}\"\n{more}", "0123456789abcdef".repeat(4));
            let config = Config::parse(&text, std::path::Path::new("/"), &Default::default()).unwrap();
            let token = Token {
                user: "ada".to_owned(),
                rooms: Vec::new(),
                ttl: Ttl(Some(Duration::from_secs(60))),
                info: None,
                config: super::super::ConfigArgument { config: "none".into() },
            };
            let made = make(&token, &config.auth.jwt).unwrap();
            let claims = Tokens::new(&config.auth.jwt, None).connection(&made, &Default::default()).await.unwrap();
            assert_eq!(claims.user, "ada", "{more}");
            assert!(claims.token.issued_at > 1_700_000_000, "it can be taken back by its time");
        }
    }
}
