//! Connection tokens: JSON web tokens with the claims of Centrifugo's clients.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, errors::ErrorKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{config::Jwt, plugin::Identity, protocol::one_line};

/// Checks tokens against one key. The algorithm is the key's, whatever the
/// token says.
pub struct Tokens {
    key: DecodingKey,
    validation: Validation,
    leeway: u64,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    /// It was good once; the client should fetch another.
    Expired,
    /// It is not one of ours.
    Invalid,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    exp: Option<u64>,
    info: Option<Box<RawValue>>,
    #[serde(default)]
    channels: Vec<String>,
}

impl Tokens {
    /// For the key and rules of the config.
    #[must_use]
    pub fn new(config: &Jwt) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = config.leeway.as_secs();
        // A token may live for ever; if it says when it ends, that holds.
        validation.required_spec_claims.clear();
        validation.validate_exp = true;
        validation.validate_nbf = true;
        validation.validate_aud = config.audience.is_some();
        if let Some(audience) = &config.audience {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".into());
        }
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".into());
        }
        Self {
            key: DecodingKey::from_secret(config.hmac_secret.expose().as_bytes()),
            leeway: validation.leeway,
            validation,
        }
    }

    /// Who the token says that it is.
    ///
    /// # Errors
    /// If it is not ours, or its time is over.
    pub fn check(&self, token: &str) -> Result<Identity, BadToken> {
        let claims = decode::<Claims>(token, &self.key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => BadToken::Expired,
                _ => BadToken::Invalid,
            })?
            .claims;
        Ok(Identity {
            user: claims.sub,
            info: claims.info.map(|info| one_line(info.get().to_owned())).unwrap_or_default(),
            rooms: claims.channels,
            expires_at: claims.exp.map(|seconds| seconds.saturating_add(self.leeway).saturating_mul(1000)),
        })
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn tokens(more: &str) -> Tokens {
        let text = format!("[auth.jwt]\nhmac_secret = \"{SECRET}\"\n{more}");
        let config = Config::parse(&text, std::path::Path::new("."), &Default::default()).unwrap();
        Tokens::new(config.auth.jwt.as_ref().unwrap())
    }

    fn sign(algorithm: Algorithm, secret: &str, claims: &serde_json::Value) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn a_good_token_says_who_it_is() {
        let claims = json!({ "sub": "ada", "exp": 4_000_000_000_u64, "info": { "name": "Ada" }, "channels": ["news"] });
        let identity = tokens("").check(&sign(Algorithm::HS256, SECRET, &claims)).unwrap();
        assert_eq!(identity.user, "ada");
        assert_eq!(identity.info, r#"{"name":"Ada"}"#);
        assert_eq!(identity.rooms, ["news"]);
        assert_eq!(identity.expires_at, Some(4_000_000_000_000));
    }

    #[test]
    fn bad_tokens_are_told_apart_from_old_ones() {
        let check = |token: &str| tokens("").check(token).unwrap_err();
        assert_eq!(check(&sign(Algorithm::HS256, SECRET, &json!({ "sub": "ada", "exp": 1 }))), BadToken::Expired);
        assert_eq!(check(&sign(Algorithm::HS256, &"x".repeat(32), &json!({ "sub": "ada" }))), BadToken::Invalid);
        assert_eq!(check(&sign(Algorithm::HS512, SECRET, &json!({ "sub": "ada" }))), BadToken::Invalid);
        assert_eq!(
            check(&sign(Algorithm::HS256, SECRET, &json!({ "sub": "ada", "nbf": 4_000_000_000_u64 }))),
            BadToken::Invalid
        );
        assert_eq!(check(&sign(Algorithm::HS256, SECRET, &json!({ "sub": "ada", "exp": "soon" }))), BadToken::Invalid);
        assert_eq!(check("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ."), BadToken::Invalid);
        assert_eq!(check("garbage"), BadToken::Invalid);
    }

    #[test]
    fn audience_and_issuer_count_when_they_are_asked_for() {
        let tokens = tokens("audience = \"us\"\nissuer = \"them\"");
        let check = |claims: serde_json::Value| tokens.check(&sign(Algorithm::HS256, SECRET, &claims)).is_ok();
        assert!(check(json!({ "sub": "a", "aud": "us", "iss": "them" })));
        assert!(!check(json!({ "sub": "a", "aud": "you", "iss": "them" })));
        assert!(!check(json!({ "sub": "a", "aud": "us" })));
        assert!(!check(json!({ "sub": "a" })));
    }
}
