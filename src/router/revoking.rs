//! Tokens are taken back: here at once, and on the other instances with their
//! next look, which is at most half a second away.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Router, remote::refusal};
use crate::{
    auth::{
        self, TokenId,
        revoked::{Added, REVOCATIONS_MAX, Revocation, Revocations, Revoked},
    },
    cluster::{BusError, Cluster, RevokedUpTo},
    hub::Connection,
    id::RoomName,
    protocol::{Close, Refusal},
    session::flusher::Batch,
};

/// How often an instance looks what others have taken back.
const LOOK: Duration = Duration::from_millis(500);

/// Connections that are looked at before others get their turn.
const AT_ONCE: usize = 1_024;

impl Router {
    /// True if a token of this user was taken back.
    pub(super) fn is_revoked(&self, user: &str, token: &TokenId) -> bool {
        self.revocations.lock().hit(user, token, auth::now())
    }

    /// Takes back a token, or all of a user, on all instances: who is here by it
    /// is closed, and it lets nobody in.
    ///
    /// # Errors
    /// If too many are remembered, or the others cannot be told; it then holds
    /// nowhere, or it is not known whether it does.
    pub async fn revoke(self: &Arc<Self>, revocation: Revocation) -> Result<(), Refusal> {
        if let Some(cluster) = &self.cluster
            && !note(cluster, &revocation).await.map_err(refusal)?
        {
            return Err(too_many());
        }
        // First: who comes from now on is not let in.
        if self.revocations.lock().add(&revocation) == Added::Full {
            return Err(too_many());
        }
        self.end_by(&[revocation]).await;
        Ok(())
    }

    /// Ends what is here by tokens that were taken back.
    async fn end_by(self: &Arc<Self>, new: &[Revocation]) {
        let (users, tokens): (Vec<_>, Vec<_>) =
            new.iter().partition(|revocation| matches!(revocation.what, Revoked::User(_)));
        for revocation in users {
            let Revoked::User(user) = &revocation.what else { continue };
            let connections = self.hub.connections_of(user);
            self.end_each(&connections, |connection| connection.hit_by(revocation));
        }
        if let [only] = tokens.as_slice() {
            return self.end_among_all(|connection| connection.hit_by(only)).await;
        }
        if !tokens.is_empty() {
            // All of them in one pass, however many they are.
            let mut set = Revocations::default();
            for revocation in tokens {
                set.add(revocation);
            }
            self.end_among_all(|connection| hit_by_any(connection, &set)).await;
        }
    }

    async fn end_among_all(self: &Arc<Self>, hit: impl Fn(&Connection) -> (bool, Vec<RoomName>)) {
        for some in self.hub.all_connections().chunks(AT_ONCE) {
            self.end_each(some, &hit);
            tokio::task::yield_now().await;
        }
    }

    fn end_each(self: &Arc<Self>, connections: &[Arc<Connection>], hit: impl Fn(&Connection) -> (bool, Vec<RoomName>)) {
        let generation = self.generation();
        let mut batch = Batch::new(&self.flusher);
        for connection in connections {
            let (is_hit, rooms) = hit(connection);
            if is_hit {
                connection.outbox.close(Close::INVALID_TOKEN);
                continue;
            }
            for room in rooms {
                self.leave_by_server(&generation, connection, &room, 0, &mut batch);
            }
        }
    }

    /// Learns what other instances have taken back, until `stop`.
    pub async fn watch_revocations(self: Arc<Self>, cluster: Arc<Cluster>, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut known, mut is_behind) = (RevokedUpTo::default(), false);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = stop.cancelled() => return,
            }
            let learnt = self.learn(&cluster, &mut known).await;
            match &learnt {
                Err(error) if !is_behind => tracing::warn!(%error, "cannot learn which tokens were taken back"),
                Ok(()) if is_behind => tracing::info!("which tokens were taken back is known again"),
                Err(_) | Ok(()) => {}
            }
            is_behind = learnt.is_err();
        }
    }

    async fn learn(self: &Arc<Self>, cluster: &Cluster, known: &mut RevokedUpTo) -> Result<(), BusError> {
        loop {
            let since = cluster.revoked_since(known).await?;
            let is_another = since.last.epoch != known.epoch || since.last.number < known.number;
            let is_lost = since.last.epoch.is_empty() && !self.revocations.lock().is_empty();
            if is_another || is_lost {
                // Also before its first look: it may have taken something back.
                let ours: Vec<_> = self.revocations.lock().iter().collect();
                if !ours.is_empty() && !known.epoch.is_empty() {
                    tracing::warn!("Redis is another one, or has lost what was revoked; it is told again");
                }
                for revocation in ours {
                    note(cluster, &revocation).await?;
                }
                // Numbers of the same count that were given twice are read again.
                let reads_again = !is_lost && since.last.epoch == known.epoch;
                *known = RevokedUpTo { epoch: since.last.epoch, number: 0 };
                if reads_again {
                    continue;
                }
            }
            let (now, mut new) = (auth::now(), Vec::new());
            for (number, what, times) in since.new {
                known.number = number;
                let Some(revocation) = Revocation::parse(&what, &times) else { continue };
                if revocation.until <= now {
                    continue;
                }
                match self.revocations.lock().add(&revocation) {
                    Added::New => new.push(revocation),
                    Added::Known => {}
                    Added::Full => tracing::error!("too many revocations to remember; one does not hold here"),
                }
            }
            self.end_by(&new).await;
            if !since.has_more {
                known.number = known.number.max(since.last.number);
                return Ok(());
            }
        }
    }
}

async fn note(cluster: &Cluster, revocation: &Revocation) -> Result<bool, BusError> {
    cluster.revoke(&revocation.what_text(), revocation.before, revocation.until, REVOCATIONS_MAX).await
}

/// What [`Connection::hit_by`] says of one, of many.
fn hit_by_any(connection: &Connection, set: &Revocations) -> (bool, Vec<RoomName>) {
    let (user, now) = (&connection.user, auth::now());
    let mut rooms = connection.rooms();
    rooms.retain(|room| {
        let lease = connection.membership(room).and_then(|membership| membership.lease);
        lease.is_some_and(|lease| set.hit(user, &lease.token, now))
    });
    (set.hit(user, &connection.lease().token, now), rooms)
}

fn too_many() -> Refusal {
    let reason = format!("limit exceeded: {REVOCATIONS_MAX} revocations are remembered; give them shorter lifetimes");
    Refusal { reason: reason.into(), ..Refusal::LIMIT_EXCEEDED }
}
