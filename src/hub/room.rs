//! The members of one room: a plain index, without lock or socket.

use std::{collections::HashMap, sync::Arc};

use crate::{
    hub::Connection,
    id::{ConnectionId, UserId},
    protocol::Encoding,
    session::outbox::Outbox,
};

/// A member, with what a delivery needs beside each other in memory.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: ConnectionId,
    pub(super) encoding: Encoding,
    pub(super) outbox: Arc<Outbox>,
    pub(super) connection: Arc<Connection>,
    /// JSON of its admission.
    pub(super) room_info: Arc<str>,
}

/// Who is in a room. A vector, since deliveries walk over it; the maps say
/// where somebody stands and count users in constant time.
#[derive(Debug, Default)]
pub(super) struct Room {
    members: Vec<Member>,
    positions: HashMap<ConnectionId, usize>,
    users: HashMap<UserId, usize>,
}

impl Room {
    /// False if the connection was a member before; nothing changes then.
    pub(super) fn join(&mut self, member: Member) -> bool {
        if self.positions.contains_key(&member.id) {
            return false;
        }
        self.positions.insert(member.id, self.members.len());
        *self.users.entry(Arc::clone(&member.connection.user)).or_default() += 1;
        self.members.push(member);
        true
    }

    pub(super) fn leave(&mut self, id: ConnectionId) -> Option<Member> {
        let at = self.positions.remove(&id)?;
        let member = self.members.swap_remove(at);
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

    pub(super) fn n_users(&self) -> usize {
        self.users.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
