//! The members of one room: a plain index, without lock or socket.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    Connection, Delivered, Place, Seen,
    listening::{Latest, Listening},
};
use crate::{
    config::SlowConfig,
    id::{ConnectionId, UserId},
    protocol::{Broadcast, Encoding},
    room::Position,
    session::{
        flusher::Batch,
        outbox::{Outbox, Spare},
    },
};

/// How many members ahead of a delivery memory is asked for.
const AHEAD: usize = 4;

/// A member, with what a delivery needs beside each other in memory.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: ConnectionId,
    pub(super) encoding: Encoding,
    pub(super) outbox: Arc<Outbox>,
    pub(super) connection: Arc<Connection>,
    /// JSON of its admission.
    pub(super) room_info: Arc<str>,
    /// Where it stands in the room's history.
    pub(super) stand: Stand,
    /// What was taken for it.
    pub(super) place: Place,
    /// None for most.
    pub(super) listening: Option<Box<Listening>>,
}

impl Member {
    fn takes_delta(&self) -> bool {
        self.listening.as_ref().is_some_and(|listening| listening.delta)
    }
}

/// How far a member is with a room's messages.
#[derive(Debug, Default)]
pub enum Stand {
    /// It hears what comes.
    #[default]
    Live,
    /// It is being told what it has missed; what comes meanwhile waits here,
    /// with its offset, or 0 if it has none.
    Held(Waiting),
    /// It hears what comes behind this offset, and is told when something is
    /// lost to it.
    Positioned(u64),
}

/// What waits for a member that is catching up.
#[derive(Debug, Default)]
pub struct Waiting {
    pub(super) frames: Vec<(u64, Bytes)>,
    pub(super) bytes: usize,
    /// More came than may wait.
    pub(super) is_over: bool,
}

impl Waiting {
    /// True if all that lies between two positions waits here.
    pub(super) fn bridges(&self, from: &Position, to: &Position) -> bool {
        let between = self.frames.iter().filter(|(offset, _)| *offset > from.offset && *offset <= to.offset);
        from.epoch == to.epoch && between.count() as u64 == to.offset.saturating_sub(from.offset)
    }

    pub(super) fn put(&mut self, offset: u64, frame: &Bytes, max: usize) {
        if self.is_over || self.bytes + frame.len() > max {
            *self = Self { is_over: true, ..Self::default() };
            return;
        }
        self.bytes += frame.len();
        self.frames.push((offset, frame.clone()));
    }
}

/// Who is in a room. A vector, since deliveries walk over it; the maps say
/// where somebody stands and count users in constant time.
#[derive(Debug, Default)]
pub(super) struct Room {
    members: Vec<Member>,
    positions: HashMap<ConnectionId, usize>,
    users: HashMap<UserId, usize>,
    /// Up to where its members have heard its history, if it has one.
    pub(super) position: Option<Position>,
    /// What may be left out for a member that reads too slowly; None: nothing,
    /// it is closed.
    pub(super) slow: Option<Arc<SlowConfig>>,
    /// Members that take differences.
    n_delta: usize,
    /// What they have heard last.
    latest: Option<Latest>,
}

impl Room {
    /// False if the connection was a member before; nothing changes then.
    pub(super) fn join(&mut self, member: Member) -> bool {
        if self.positions.contains_key(&member.id) {
            return false;
        }
        self.n_delta += usize::from(member.takes_delta());
        self.positions.insert(member.id, self.members.len());
        *self.users.entry(Arc::clone(&member.connection.user)).or_default() += 1;
        self.members.push(member);
        true
    }

    pub(super) fn leave(&mut self, id: ConnectionId) -> Option<Member> {
        let at = self.positions.remove(&id)?;
        let member = self.members.swap_remove(at);
        self.n_delta -= usize::from(member.takes_delta());
        if self.n_delta == 0 {
            self.latest = None;
        }
        if let Some(moved) = self.members.get(at) {
            self.positions.insert(moved.id, at);
        }
        if let Some(n) = self.users.get_mut(&member.connection.user) {
            *n -= 1;
            if *n == 0 {
                self.users.remove(&member.connection.user);
            }
        }
        Some(member)
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Appends a push to the outbox of each member that wants it and has not
    /// `seen` it.
    pub(super) fn deliver(
        &mut self,
        name: &str,
        offset: u64,
        broadcast: &Broadcast<'_>,
        seen: &mut Seen,
        batch: &mut Batch<'_>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let spare = match (&self.slow, broadcast.payload()) {
            (Some(slow), Some(payload)) => slow.spare(name, payload),
            _ => Spare::Never,
        };
        let n = self.latest.as_ref().map_or(1, |latest| latest.n + 1);
        for at in 0..self.members.len() {
            if let Some(ahead) = self.members.get(at + AHEAD) {
                ahead.outbox.prefetch();
            }
            let member = &mut self.members[at];
            let Some(listening) = &mut member.listening else {
                if seen.is_new(member.id) {
                    delivered += member.hear(offset, broadcast.frame(member.encoding), spare, batch);
                }
                continue;
            };
            if !listening.wants(broadcast) {
                if let Stand::Held(waiting) = &mut member.stand {
                    // It must not be missed there.
                    waiting.put(offset, &Bytes::new(), usize::MAX);
                }
                continue;
            }
            if !seen.is_new(member.id) {
                continue;
            }
            // What waits for one that is held may be passed over in the end.
            let is_held = matches!(member.stand, Stand::Held(_));
            let latest = self.latest.as_ref().filter(|_| !is_held);
            let frame = listening.frame(member.encoding, broadcast, latest);
            // A difference needs the message before it.
            let spare = if listening.delta { Spare::Never } else { spare };
            let heard = member.hear(offset, frame, spare, batch);
            if let Some(listening) = &mut member.listening
                && broadcast.publication().is_some()
            {
                listening.has_heard(if heard.queued > 0 && !is_held { n } else { 0 });
            }
            delivered += heard;
        }
        if self.n_delta > 0
            && let Some(payload) = broadcast.payload()
        {
            self.latest = Some(Latest { n, payload: payload.to_owned() });
        }
        delivered
    }

    pub(super) fn has(&self, id: ConnectionId) -> bool {
        self.positions.contains_key(&id)
    }

    pub(super) fn member_mut(&mut self, id: ConnectionId) -> Option<&mut Member> {
        let at = *self.positions.get(&id)?;
        self.members.get_mut(at)
    }

    /// True if a user has a connection in here. Nobody in particular never has.
    pub(super) fn has_user(&self, user: &UserId) -> bool {
        !user.is_empty() && self.users.contains_key(user)
    }

    pub(super) fn n_users(&self) -> usize {
        self.users.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
