//! A token as it stands: three parts, of which the last proves the others.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::{BadToken, keys};

/// Bytes of a token. Its claims travel with each hello.
const TOKEN_MAX: usize = 16 << 10;

/// Bytes of the name of a key.
const KEY_ID_MAX: usize = 256;

/// A token that nobody has checked yet.
#[derive(Debug)]
pub(super) struct Unchecked<'a> {
    pub(super) algorithm: Algorithm,
    /// The key that it names.
    pub(super) key: Option<String>,
    /// What is signed.
    pub(super) signed: &'a str,
    pub(super) signature: &'a str,
    /// JSON that must not be believed.
    pub(super) payload: Vec<u8>,
}

/// RFC 7515, section 4. Keys, and where keys may be got (`jwk`, `jku`, `x5u`,
/// `x5c`), are no part of it: nobody looks at them.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default, deserialize_with = "some")]
    kid: Option<String>,
    /// What must be understood: we understand none of that.
    #[serde(default, deserialize_with = "there")]
    crit: Option<IgnoredAny>,
    /// RFC 7797: the payload is not encoded.
    #[serde(default, deserialize_with = "there")]
    b64: Option<IgnoredAny>,
    /// A token within a token.
    #[serde(default, deserialize_with = "there")]
    cty: Option<IgnoredAny>,
}

/// Whatever it is, `null` too.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IgnoredAny>, D::Error> {
    IgnoredAny::deserialize(deserializer).map(Some)
}

fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

impl<'a> Unchecked<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, BadToken> {
        let parse = || {
            if token.len() > TOKEN_MAX {
                return None;
            }
            let (signed, signature) = token.rsplit_once('.')?;
            let (header, payload) = signed.split_once('.')?;
            if payload.contains('.') || signature.is_empty() {
                return None;
            }
            let header = BASE64URL_NOPAD.decode(header.as_bytes()).ok()?;
            if header.first() != Some(&b'{') {
                return None;
            }
            let Header { alg, kid, crit: None, b64: None, cty: None } = serde_json::from_slice(&header).ok()? else {
                return None;
            };
            if kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > KEY_ID_MAX) {
                return None;
            }
            let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
            Some(Self { algorithm: keys::algorithm(&alg)?, key: kid, signed, signature, payload })
        };
        parse().ok_or(BadToken::Invalid)
    }
}
