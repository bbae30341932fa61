//! The methods about tokens: when connections end, and which tokens are taken
//! back. Names and fields are those of Centrifugo.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::json;

use super::{
    Answer, Web,
    methods::{act, ok, whom},
    wire::{bad, read, required},
};
use crate::{
    auth::{
        self,
        revoked::{Revocation, Revoked},
    },
    cluster::envelope::What,
    protocol::Close,
    router::Act,
};

/// Bytes of the name of a token.
const UID_MAX: usize = 256;

/// How long something stays taken back, in seconds, unless it is said.
const LIFETIME: u64 = 366 * 24 * 3600;

#[derive(Deserialize)]
struct Refresh<'a> {
    #[serde(borrow, default)]
    user: Cow<'a, str>,
    #[serde(borrow, default)]
    client: Option<Cow<'a, str>>,
    #[serde(default)]
    expired: Option<bool>,
    /// Seconds since 1970; 0: never.
    #[serde(default)]
    expire_at: Option<u64>,
}

/// Sets when connections of a user end. `expired` ends them now, so that the
/// client fetches another token.
pub(super) async fn refresh(web: &Web, parameters: &[u8]) -> Answer {
    let Refresh { user, client, expired, expire_at } = read(parameters)?;
    let what = if expired == Some(true) {
        What::Close(Close::EXPIRED.code, Close::EXPIRED.reason)
    } else {
        What::Expire(expire_at.unwrap_or(0).saturating_mul(1000))
    };
    let act_on: Act<'_> = whom(&user, client.as_deref(), &[], &[], what)?;
    act(web, act_on).await
}

#[derive(Deserialize)]
struct Revoke<'a> {
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    user: Cow<'a, str>,
    /// Of one room only, which is not offered.
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    /// Seconds since 1970 after which it need not be remembered.
    #[serde(default)]
    expire_at: Option<u64>,
    /// Of a user: tokens of then and later stay good. Seconds since 1970, by the
    /// clock of whoever issues them.
    #[serde(default)]
    issued_before: Option<u64>,
}

/// Takes back the token with a `jti`.
pub(super) async fn revoke_token(web: &Web, parameters: &[u8]) -> Answer {
    let wire: Revoke<'_> = read(parameters)?;
    let uid = required("uid", &wire.uid)?;
    if uid.len() > UID_MAX {
        return Err(bad(format!("`uid` has at most {UID_MAX} bytes")));
    }
    revoke(web, Revoked::Token(uid.into()), &wire).await
}

/// Takes back all tokens of a user that were issued until now, or before
/// `issued_before`.
pub(super) async fn invalidate_user_tokens(web: &Web, parameters: &[u8]) -> Answer {
    let wire: Revoke<'_> = read(parameters)?;
    let user = required("user", &wire.user)?;
    if user.len() > web.router.generation().config.limits.name_length {
        return Err(bad("`user` is longer than `limits.name_length`"));
    }
    revoke(web, Revoked::User(user.into()), &wire).await
}

async fn revoke(web: &Web, what: Revoked, wire: &Revoke<'_>) -> Answer {
    let now = auth::now();
    let until = wire.expire_at.filter(|at| *at > 0).unwrap_or(now + LIFETIME);
    if until <= now {
        return Err(bad("`expire_at` is over already"));
    }
    if !wire.channel.is_empty() {
        return Err(bad("`channel` is not offered here: tokens are taken back for all rooms"));
    }
    let before = match wire.issued_before {
        Some(_) if matches!(what, Revoked::Token(_)) => {
            return Err(bad(
                "`issued_before` is of `invalidate_user_tokens`: a token is taken back whenever it was issued",
            ));
        }
        Some(0) => return Err(bad("`issued_before` is a time in seconds since 1970")),
        Some(first_good) => first_good - 1,
        None => now,
    };
    web.router.revoke(Revocation { what, before, until }).await?;
    ok(json!({}))
}
