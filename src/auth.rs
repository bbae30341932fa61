//! Tokens: who somebody is and where it may be, by the word of an issuer that
//! the config names.
//!
//! Each issuer has its own keys and rules. A token says which issuer it is of
//! and which of that issuer's keys made it, and is believed in nothing before
//! that key has proven it. Which algorithm a key is for says the config.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio_util::task::TaskTracker;

mod claims;
pub(crate) mod fetch;
mod jwks;
mod jws;
pub(crate) mod keys;
pub mod revoked;
pub(crate) mod self_check;

pub(crate) use self::claims::{ConnectionClaims, Overrides, SubscriptionClaims};
pub use self::keys::Key;
use self::{
    jwks::{Looked, Remote},
    jws::Unchecked,
};
use crate::config::{Jwt, KeySource};

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadToken {
    /// It was good once; the client should fetch another.
    Expired,
    /// It is not one of ours.
    Invalid,
    /// Its key cannot be had for the moment; it may be good.
    Unknown,
}

/// What tells a token from others, for those who take it back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenId {
    /// Its own name.
    pub jti: Option<Box<str>>,
    /// Seconds since 1970; 0 if it does not say.
    pub issued_at: u64,
}

impl TokenId {
    /// Of what a server has granted by itself: younger than any token that is
    /// taken back.
    pub(crate) const NONE: Self = Self { jti: None, issued_at: u64::MAX };
}

/// A room that a token grants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sub {
    pub(crate) room: String,
    /// JSON beside the member.
    pub(crate) info: Option<String>,
    /// JSON for the client.
    pub(crate) data: Option<String>,
    pub(crate) overrides: Overrides,
    /// Milliseconds since 1970; None: as long as the connection.
    pub(crate) expires_at: Option<u64>,
}

/// Checks tokens against the keys of their issuers.
#[derive(Debug)]
pub struct Tokens {
    issuers: Vec<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    rules: Jwt,
    keys: Keys,
}

#[derive(Debug, Clone)]
enum Keys {
    Fixed(Arc<[Key]>),
    Remote(Arc<Remote>),
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Tokens {
    /// For the issuers of the config. What `running` has fetched of the same
    /// issuers from the same places is taken over.
    #[must_use]
    pub fn new(config: &[Jwt], running: Option<&Self>) -> Self {
        let issuer = |rules: &Jwt| {
            let keys = match &rules.keys {
                KeySource::Fixed(keys) => Keys::Fixed(keys.as_slice().into()),
                KeySource::Url(place) => {
                    let before = running.and_then(|running| running.issuers.iter().find(|known| known.rules == *rules));
                    match before.map(|before| before.keys.clone()) {
                        Some(Keys::Remote(remote)) => Keys::Remote(remote),
                        _ => Keys::Remote(Arc::new(Remote::new(place.clone(), rules.algorithms.clone()))),
                    }
                }
            };
            Issuer { rules: rules.clone(), keys }
        };
        Self { issuers: config.iter().map(issuer).collect() }
    }

    /// True if there is a key at all.
    #[must_use]
    pub fn can_check(&self) -> bool {
        !self.issuers.is_empty()
    }

    /// Who a connection token says that it is. A key that has to be fetched is
    /// waited for as long as the config says; it is fetched in a task of
    /// `tasks`.
    ///
    /// # Errors
    /// If it is not ours, its time is over, or its key cannot be had.
    pub(crate) async fn connection(&self, token: &str, tasks: &TaskTracker) -> Result<ConnectionClaims, BadToken> {
        let (issuer, payload) = self.verify(token, tasks).await?;
        ConnectionClaims::read(&payload, &issuer.rules, now())
    }

    /// Which room a subscription token grants to whom.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn subscription(&self, token: &str, tasks: &TaskTracker) -> Result<SubscriptionClaims, BadToken> {
        let (issuer, payload) = self.verify(token, tasks).await?;
        SubscriptionClaims::read(&payload, &issuer.rules, now())
    }

    /// The claims of a token whose signature is good, with its issuer.
    async fn verify(&self, token: &str, tasks: &TaskTracker) -> Result<(&Issuer, Vec<u8>), BadToken> {
        let token = Unchecked::parse(token)?;
        let issuer = self.issuer(&token)?;
        if !issuer.rules.algorithms.contains(&token.algorithm) {
            return Err(BadToken::Invalid);
        }
        let is_signed = |key: &Key| key.signed(token.signed, token.signature, token.algorithm);
        let is_good = match &issuer.keys {
            Keys::Fixed(keys) => keys.iter().filter(|key| key.id.is_none() || key.id == token.key).any(is_signed),
            Keys::Remote(remote) => match remote.find(token.key.as_deref(), token.algorithm, tasks).await {
                Looked::Found(key) if is_signed(&key) => true,
                // The issuer may have another key by now, and says no names.
                Looked::Found(_) if token.key.is_none() => match remote.find_newer(token.algorithm, tasks).await {
                    Looked::Found(key) => is_signed(&key),
                    Looked::Missing | Looked::Unknown => false,
                },
                Looked::Found(_) | Looked::Missing => false,
                Looked::Unknown => return Err(BadToken::Unknown),
            },
        };
        if is_good { Ok((issuer, token.payload)) } else { Err(BadToken::Invalid) }
    }

    /// Whose keys have to be asked. That is all the token's word is taken for:
    /// those keys must then prove it.
    fn issuer(&self, token: &Unchecked<'_>) -> Result<&Issuer, BadToken> {
        let found = match self.issuers.as_slice() {
            [only] => Some(only),
            several => {
                let named = claims::issuer(&token.payload);
                several.iter().find(|issuer| named.is_some() && issuer.rules.issuer == named)
            }
        };
        found.ok_or(BadToken::Invalid)
    }
}

#[cfg(test)]
mod tests;
