//! Tokens are taken back: here at once, and on the other instances with their
//! next look, which is at most half a second away.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Router, remote::refusal};
use crate::{
    auth::{
        self, TokenId,
        revoked::{REVOCATIONS_MAX, Revocation, Revoked},
    },
    cluster::{BusError, Cluster, RevokedUpTo},
    protocol::{Close, Refusal},
    session::flusher::Batch,
};

/// How often an instance looks what others have taken back.
const LOOK: Duration = Duration::from_millis(500);

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
        if let Some(cluster) = &self.cluster {
            let noted = cluster.revoke(&revocation.to_text(), revocation.until, REVOCATIONS_MAX).await;
            if !noted.map_err(refusal)? {
                return Err(too_many());
            }
        }
        if !self.apply(&revocation) {
            return Err(too_many());
        }
        Ok(())
    }

    /// False: too many are remembered.
    fn apply(self: &Arc<Self>, revocation: &Revocation) -> bool {
        // First: who comes from now on is not let in.
        if !self.revocations.lock().add(revocation) {
            return false;
        }
        let connections = match &revocation.what {
            Revoked::User(user) => self.hub.connections_of(user),
            Revoked::Token(_) => self.hub.all_connections(),
        };
        let generation = self.generation();
        let mut batch = Batch::new(&self.flusher);
        for connection in connections {
            let (is_hit, rooms) = connection.hit_by(revocation);
            if is_hit {
                connection.outbox.close(Close::INVALID_TOKEN);
                continue;
            }
            for room in rooms {
                self.leave_by_server(&generation, &connection, &room, 0, &mut batch);
            }
        }
        true
    }

    /// Learns what other instances have taken back, until `stop`.
    pub async fn watch_revocations(self: Arc<Self>, cluster: Arc<Cluster>, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = RevokedUpTo::default();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.learn(&cluster, &mut known).await {
                tracing::debug!(%error, "cannot learn what was revoked");
            }
        }
    }

    async fn learn(self: &Arc<Self>, cluster: &Cluster, known: &mut RevokedUpTo) -> Result<(), BusError> {
        loop {
            let since = cluster.revoked_since(known).await?;
            let is_another = since.last.epoch != known.epoch || since.last.number < known.number;
            if is_another {
                if !known.epoch.is_empty() {
                    tracing::warn!("Redis has lost what was revoked; it is told again");
                    let ours: Vec<_> = self.revocations.lock().iter().collect();
                    for revocation in ours {
                        cluster.revoke(&revocation.to_text(), revocation.until, REVOCATIONS_MAX).await?;
                    }
                }
                // Numbers of the same count that were given twice are read again.
                let reads_again = since.last.epoch == known.epoch;
                *known = RevokedUpTo { epoch: since.last.epoch, number: 0 };
                if reads_again {
                    continue;
                }
            }
            for (number, text) in since.new {
                known.number = number;
                let Some(revocation) = Revocation::parse(&text) else { continue };
                if revocation.until > auth::now() && !self.apply(&revocation) {
                    tracing::error!("too many revocations to remember; one does not hold here");
                }
            }
            if !since.has_more {
                known.number = known.number.max(since.last.number);
                return Ok(());
            }
        }
    }
}

fn too_many() -> Refusal {
    let reason = format!("limit exceeded: {REVOCATIONS_MAX} revocations are remembered; give them shorter lifetimes");
    Refusal { reason: reason.into(), ..Refusal::LIMIT_EXCEEDED }
}
