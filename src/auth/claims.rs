//! What tokens say, read strictly: a claim of the wrong type is no claim that
//! is missing, and what would change somebody's rights is not passed over.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{BadToken, Sub, TokenId};
use crate::{
    config::{JoinLeave, Jwt, Recovery, RoomConfig},
    protocol::one_line,
};

/// Later than this no clock shows: the last number that JSON keeps exactly.
const TIME_MAX: u64 = 1 << 53;

/// A moment in seconds since 1970. `null`, fractions, texts and what is below
/// zero are none.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(deserializer)? {
        time if time < TIME_MAX => Ok(Some(time)),
        _ => Err(serde::de::Error::custom("not a time")),
    }
}

/// The same where zero and what is below means "never".
fn end<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match i64::deserialize(deserializer)? {
        time if time < TIME_MAX.cast_signed() => Ok(Some(u64::try_from(time).unwrap_or(0))),
        _ => Err(serde::de::Error::custom("not a time")),
    }
}

/// A text that is there or not, and not `null`.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// `null` is a value like others.
fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn has(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

/// What every token may say.
#[derive(Debug, Deserialize)]
struct Common {
    #[serde(default, deserialize_with = "time")]
    exp: Option<u64>,
    #[serde(default, deserialize_with = "time")]
    nbf: Option<u64>,
    #[serde(default, deserialize_with = "time")]
    iat: Option<u64>,
    #[serde(default, deserialize_with = "text")]
    iss: Option<String>,
    aud: Option<OneOrMany>,
    #[serde(default, deserialize_with = "text")]
    sub: Option<String>,
    #[serde(default, deserialize_with = "text")]
    jti: Option<String>,
    #[serde(default, deserialize_with = "text")]
    channel: Option<String>,
    #[serde(default, deserialize_with = "text")]
    client: Option<String>,
    #[serde(default, deserialize_with = "end")]
    expire_at: Option<u64>,
}

/// What a connection token says beside.
#[derive(Debug, Deserialize)]
struct WireConnection {
    #[serde(default, deserialize_with = "raw")]
    info: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "text")]
    b64info: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    subs: BTreeMap<String, WireSub>,
}

/// What somebody gets in one room. Unknown members may be meant as a
/// restriction, so there are none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSub {
    #[serde(default, deserialize_with = "raw")]
    info: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "text")]
    b64info: Option<String>,
    #[serde(default, deserialize_with = "raw")]
    data: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "text")]
    b64data: Option<String>,
    #[serde(default, rename = "override")]
    overrides: Overrides,
    #[serde(default, deserialize_with = "end")]
    expire_at: Option<u64>,
}

/// What a subscription token says beside.
#[derive(Debug, Deserialize)]
struct WireSubscription {
    #[serde(default, deserialize_with = "raw")]
    info: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "text")]
    b64info: Option<String>,
    #[serde(default, rename = "override")]
    overrides: Overrides,
}

/// What shall hold instead of what the room's entry says. What is not the same
/// for all members of a room here must say what the entry says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Overrides {
    presence: Option<Switch>,
    join_leave: Option<Switch>,
    force_push_join_leave: Option<Switch>,
    force_recovery: Option<Switch>,
    force_positioning: Option<Switch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    #[serde(default)]
    value: bool,
}

impl Overrides {
    /// Whether it may ask who is here; None: as the entry says.
    pub(crate) fn presence(&self) -> Option<bool> {
        self.presence.map(|switch| switch.value)
    }

    /// True if the rest says what a room's entry says anyway.
    pub(crate) fn fits(&self, entry: &RoomConfig) -> bool {
        let (tells, recovers) = (entry.join_leave != JoinLeave::Off, entry.recovery != Recovery::Off);
        let same = |switch: Option<Switch>, is: bool| switch.is_none_or(|switch| switch.value == is);
        same(self.join_leave, tells)
            && same(self.force_push_join_leave, tells)
            && same(self.force_recovery, recovers)
            && same(self.force_positioning, recovers)
    }
}

/// A checked connection token.
#[derive(Debug)]
pub(crate) struct ConnectionClaims {
    pub(crate) user: String,
    pub(crate) info: Option<String>,
    pub(crate) subs: Vec<Sub>,
    pub(crate) expires_at: Option<u64>,
    pub(crate) token: TokenId,
}

/// A checked subscription token.
#[derive(Debug)]
pub(crate) struct SubscriptionClaims {
    pub(crate) user: String,
    /// Only for the connection of this id.
    pub(crate) client: Option<String>,
    /// The room and what is given there.
    pub(crate) sub: Sub,
    pub(crate) token: TokenId,
}

/// Which issuer a token says it is of. Nothing may be concluded from it but
/// whose key is asked.
pub(super) fn issuer(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Only {
        #[serde(default, deserialize_with = "text")]
        iss: Option<String>,
    }
    serde_json::from_slice::<Only>(payload).ok()?.iss
}

/// Seconds and milliseconds since 1970.
fn millis(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

impl Common {
    fn read(payload: &[u8], rules: &Jwt, now: u64) -> Result<Self, BadToken> {
        let claims: Self = read(payload)?;
        let leeway = rules.leeway.as_secs();
        let is_ours = rules.issuer.as_ref().is_none_or(|issuer| claims.iss.as_ref() == Some(issuer))
            && rules.audience.as_ref().is_none_or(|us| claims.aud.as_ref().is_some_and(|aud| aud.has(us)));
        if !is_ours || claims.nbf.is_some_and(|nbf| nbf > now.saturating_add(leeway)) {
            return Err(BadToken::Invalid);
        }
        // What was never good is not said to have been.
        if claims.exp.is_some_and(|exp| exp.saturating_add(leeway) <= now) {
            return Err(BadToken::Expired);
        }
        Ok(claims)
    }

    /// When what it grants ends, in milliseconds since 1970.
    fn expires_at(&self, rules: &Jwt) -> Option<u64> {
        match self.expire_at {
            Some(0) => None,
            Some(at) => Some(millis(at)),
            None => self.exp.map(|exp| millis(exp.saturating_add(rules.leeway.as_secs()))),
        }
    }

    fn token(&self) -> TokenId {
        TokenId { jti: self.jti.clone().map(Into::into), issued_at: self.iat.unwrap_or(0) }
    }
}

fn read<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, BadToken> {
    // serde would take a list for a struct, its fields in order.
    if payload.trim_ascii_start().first() != Some(&b'{') {
        return Err(BadToken::Invalid);
    }
    serde_json::from_slice(payload).map_err(|error| {
        tracing::debug!(%error, "the claims of a token cannot be read");
        BadToken::Invalid
    })
}

/// JSON as it stands or in base64; None if there is neither.
fn json(plain: Option<Box<RawValue>>, encoded: Option<String>) -> Result<Option<String>, BadToken> {
    match (plain, encoded) {
        (Some(_), Some(_)) => Err(BadToken::Invalid),
        (Some(plain), None) => Ok(Some(one_line(plain.get().to_owned()))),
        (None, Some(encoded)) => {
            let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| BadToken::Invalid)?;
            let text = String::from_utf8(bytes).map_err(|_| BadToken::Invalid)?;
            serde_json::from_str::<&RawValue>(&text).map_err(|_| BadToken::Invalid)?;
            Ok(Some(one_line(text)))
        }
        (None, None) => Ok(None),
    }
}

impl ConnectionClaims {
    /// `now`: seconds since 1970.
    pub(super) fn read(payload: &[u8], rules: &Jwt, now: u64) -> Result<Self, BadToken> {
        let common = Common::read(payload, rules, now)?;
        // One for a single room must not open everything that its user may.
        if common.channel.is_some() || common.client.is_some() {
            return Err(BadToken::Invalid);
        }
        let WireConnection { info, b64info, channels, subs } = read(payload)?;
        let mut all: Vec<Sub> = Vec::new();
        for (room, sub) in subs {
            let WireSub { info, b64info, data, b64data, overrides, expire_at } = sub;
            let (info, data) = (json(info, b64info)?, json(data, b64data)?);
            let expires_at = expire_at.filter(|at| *at > 0).map(millis);
            all.push(Sub { room, info, data, overrides, expires_at });
        }
        for room in channels {
            if !all.iter().any(|sub| sub.room == room) {
                all.push(Sub { room, ..Sub::default() });
            }
        }
        let (expires_at, token) = (common.expires_at(rules), common.token());
        Ok(Self { user: common.sub.unwrap_or_default(), info: json(info, b64info)?, subs: all, expires_at, token })
    }
}

impl SubscriptionClaims {
    /// The same.
    pub(super) fn read(payload: &[u8], rules: &Jwt, now: u64) -> Result<Self, BadToken> {
        let common = Common::read(payload, rules, now)?;
        let (expires_at, token) = (common.expires_at(rules), common.token());
        let (Some(room), Some(user)) = (common.channel, common.sub) else { return Err(BadToken::Invalid) };
        let WireSubscription { info, b64info, overrides } = read(payload)?;
        let sub = Sub { room, info: json(info, b64info)?, data: None, overrides, expires_at };
        Ok(Self { user, client: common.client.filter(|client| !client.is_empty()), sub, token })
    }
}
