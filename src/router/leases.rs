//! What ends by the clock: connections and memberships that a token has
//! granted, and how they are given more time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{Router, connect::NotConnected, join::Admitted};
use crate::{
    auth::{BadToken, Sub, SubscriptionClaims, TokenId},
    generation::Generation,
    hub::{Connection, Lease},
    plugin::Permission,
    protocol::{Close, Hello, Payload, Push, Refusal, codes},
    session::flusher::Batch,
};

/// Further than any timer needs to reach; tokio's reach some two years.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who a connection is, and by what.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Empty for an anonymous one.
    pub(super) user: String,
    /// JSON, or empty.
    pub(super) info: String,
    /// Rooms to be in from the start.
    pub(super) subs: Vec<Sub>,
    /// Milliseconds since 1970; None: it does not expire.
    pub(super) expires_at: Option<u64>,
    pub(super) token: TokenId,
}

/// From a moment of the wall's clock, in milliseconds since 1970, to one that
/// no jump of it moves.
pub(super) fn lease(expires_at: Option<u64>, token: &TokenId) -> Lease {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = |at: u64| Instant::now() + Duration::from_millis(at).saturating_sub(wall).min(FAR);
    Lease { expires: expires_at.map(left), token: token.clone() }
}

/// Seconds until then, as clients are told; at least one, since none is never
/// to some of them.
pub(super) fn ttl(expires: Option<Instant>) -> Option<u32> {
    let seconds = expires?.duration_since(Instant::now()).as_secs();
    Some(u32::try_from(seconds).unwrap_or(u32::MAX).max(1))
}

/// True if that moment has passed, in milliseconds since 1970.
pub(super) fn is_over(at: u64) -> bool {
    lease(Some(at), &TokenId::NONE).expires.is_some_and(|expires| expires <= Instant::now())
}

/// As a membership has it.
pub(super) fn permission(overridden: Option<bool>) -> Permission {
    match overridden {
        None => Permission::Configured,
        Some(true) => Permission::Granted,
        Some(false) => Permission::Denied,
    }
}

/// Adds what a token says to what the room's entry and plugins have admitted.
/// What they say stands over it.
pub(super) fn grant(
    generation: &Generation,
    admitted: &mut Admitted,
    sub: Sub,
    token: &TokenId,
) -> Result<(), NotConnected> {
    let Sub { room, info, data, overrides, expires_at } = sub;
    let entry = generation.room(&room).map(|(entry, _)| entry);
    if !entry.is_some_and(|entry| overrides.fits(entry)) {
        tracing::warn!(room, "a token overrides what the room's entry says and only the entry can; it is refused");
        return Err(Close::INVALID_TOKEN.into());
    }
    let membership = &mut admitted.membership;
    if let Some(info) = info.filter(|_| membership.info.is_empty()) {
        membership.info = info.into();
    }
    admitted.data = admitted.data.take().or(data.map(Payload::Text));
    membership.presence = membership.presence.and(permission(overrides.presence()));
    let lease = lease(expires_at, token);
    if lease.expires.is_some_and(|expires| expires <= Instant::now()) {
        return Err(Refusal::TOKEN_EXPIRED.into());
    }
    // What does not end goes with its connection.
    if lease.expires.is_some() {
        membership.lease = Some(Arc::new(lease));
    }
    Ok(())
}

impl Router {
    /// When a connection or something of it is over, unless it is given more
    /// time.
    pub fn next_end(&self, connection: &Connection) -> Option<Instant> {
        let (own, rooms) = connection.ends();
        let first = own.into_iter().chain(rooms.into_iter().map(|(_, end)| end)).min()?;
        Some(first + self.grace())
    }

    fn grace(&self) -> Duration {
        self.generation.load().config.auth.refresh_grace
    }

    /// Takes a connection out of the rooms where its time is over.
    ///
    /// # Errors
    /// If its time here is.
    pub fn end_what_is_over(self: &Arc<Self>, connection: &Connection, now: Instant) -> Result<(), Close> {
        let grace = self.grace();
        let (own, rooms) = connection.ends();
        if own.is_some_and(|end| end + grace <= now) {
            return Err(Close::EXPIRED);
        }
        for (room, _) in rooms.into_iter().filter(|(_, end)| *end + grace <= now) {
            let push = Push::YouLeft { room: &room, code: codes::SUBSCRIPTION_EXPIRED, reason: "subscription expired" };
            let own = Some(connection.encoding.push(&push));
            let mut batch = Batch::new(&self.flusher);
            self.take_out(&self.generation(), connection, &room, own, 0, &mut batch);
        }
        Ok(())
    }

    /// A client sends another token in place of the one that ends. Returns the
    /// seconds that it is good for.
    ///
    /// # Errors
    /// Why it is not good; one of somebody else ends the connection.
    pub async fn refresh(&self, connection: &Connection, token: &str) -> Result<Option<u32>, NotConnected> {
        if token.is_empty() {
            return Err(Refusal::BAD_REQUEST.into());
        }
        let hello = Hello { token: token.into(), ..Hello::default() };
        let known = self.identify(&self.generation(), &connection.id_text, &hello).await?;
        if *known.user != *connection.user {
            return Err(Close::INVALID_TOKEN.into());
        }
        if !known.info.is_empty() {
            connection.set_info(known.info.into());
        }
        let lease = lease(known.expires_at, &known.token);
        let ttl = ttl(lease.expires);
        connection.set_lease(lease);
        // What was taken back meanwhile was compared with the token of before.
        if self.is_revoked(&connection.user, &known.token) {
            return Err(Close::INVALID_TOKEN.into());
        }
        Ok(ttl)
    }

    /// A client sends another token for a room that it is in.
    ///
    /// # Errors
    /// Why it is not good, or that it is not in there.
    pub async fn sub_refresh(
        self: &Arc<Self>,
        connection: &Connection,
        room: &str,
        token: &str,
        batch: &mut Batch<'_>,
    ) -> Result<Option<u32>, Refusal> {
        let generation = self.generation();
        connection.membership(room).ok_or(Refusal::PERMISSION_DENIED)?;
        let SubscriptionClaims { sub, token, .. } =
            self.check_pass(&generation, connection, room, token, batch).await?;
        let lease = lease(sub.expires_at, &token);
        let ttl = ttl(lease.expires);
        if !connection.set_room_lease(room, lease) {
            return Err(Refusal::PERMISSION_DENIED);
        }
        // What was taken back meanwhile was compared with the token of before.
        if self.is_revoked(&connection.user, &token) {
            self.leave_by_server(&generation, connection, room, 0, batch);
            return Err(Refusal::PERMISSION_DENIED);
        }
        Ok(ttl)
    }

    /// Checks a subscription token: for this room, and for this client.
    pub(super) async fn check_pass(
        &self,
        generation: &Generation,
        connection: &Connection,
        room: &str,
        token: &str,
        batch: &mut Batch<'_>,
    ) -> Result<SubscriptionClaims, Refusal> {
        batch.flush();
        let claims = generation.tokens.subscription(token, &self.tasks).await.map_err(|bad| match bad {
            BadToken::Expired => Refusal::TOKEN_EXPIRED,
            BadToken::Invalid => Refusal::PERMISSION_DENIED,
            BadToken::Unknown => Refusal::BUS_DOWN,
        })?;
        let is_its = *claims.user == *connection.user
            && claims.sub.room == room
            && claims.client.as_ref().is_none_or(|client| **client == *connection.id_text);
        if !is_its || self.is_revoked(&connection.user, &claims.token) {
            return Err(Refusal::PERMISSION_DENIED);
        }
        Ok(claims)
    }

    /// A server sets when a connection is to be out of a room, in milliseconds
    /// since 1970. What token it is in there by is no matter of that.
    pub(super) fn set_room_end(&self, connection: &Connection, room: &str, at: u64) -> Result<(), Refusal> {
        if is_over(at) {
            return Err(Refusal::EXPIRED);
        }
        let held = connection.membership(room).and_then(|membership| membership.lease);
        let lease = lease(Some(at), held.as_ref().map_or(&TokenId::NONE, |lease| &lease.token));
        if !connection.set_room_lease(room, lease) {
            return Err(Refusal::NOT_AVAILABLE);
        }
        // Its session sleeps until what was the end before.
        connection.outbox.nudge();
        Ok(())
    }

    /// A server sets when a connection ends, in milliseconds since 1970; 0:
    /// never. The client is told.
    pub(super) fn set_end(&self, connection: &Connection, at: u64, batch: &mut Batch<'_>) {
        let token = connection.lease().token;
        let lease = lease((at > 0).then_some(at), &token);
        if lease.expires.is_some_and(|expires| expires <= Instant::now()) {
            connection.outbox.close(Close::EXPIRED);
            return;
        }
        let push = Push::Refresh { ttl: ttl(lease.expires) };
        connection.set_lease(lease);
        connection.outbox.put(&connection.encoding.push(&push), batch);
        // Its session sleeps until what was the end before.
        connection.outbox.nudge();
    }
}
