//! Where the members of a room stand in its history, and what follows: each
//! message once, in order, and nothing passed over unseen.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Connection, Delivered, Hub, Place, Seen, Stand, Waiting, put,
    room::{Member, Room},
};
use crate::{
    id::RoomName,
    protocol::Broadcast,
    room::Position,
    session::{flusher::Batch, outbox::Spare},
};

/// What became of a message with a place in its room's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It was the next one.
    Delivered(Delivered),
    /// The room is here and has heard it before.
    Before,
    /// Something before it has not come, or another history has begun.
    Gap,
    /// Nobody is in the room.
    Nobody,
}

impl Hub {
    /// Lets a member that was held hear the room: `greeting` first, then what
    /// came meanwhile and stands behind `position`. False: too much came, or
    /// not all of what lies between it and where the others stand, or it has
    /// left this place.
    #[expect(clippy::too_many_arguments, reason = "each is of another kind")]
    pub fn release(
        &self,
        connection: &Connection,
        room: &str,
        place: Place,
        position: &Position,
        greeting: Option<&Bytes>,
        is_positioned: bool,
        batch: &mut Batch<'_>,
    ) -> bool {
        let mut rooms = self.at(&self.rooms, room).lock();
        let Some(room) = rooms.get_mut(room) else { return false };
        let is_alone = room.members().len() == 1;
        let known = room.position.clone();
        let Some(member) = room.member_mut(connection.id) else { return false };
        if member.place != place {
            return false;
        }
        let Stand::Held(waiting) = &mut member.stand else { return false };
        if waiting.is_over || known.is_some_and(|known| !waiting.bridges(position, &known)) {
            return false;
        }
        let waiting = std::mem::take(waiting);
        member.stand = Stand::Positioned(position.offset);
        if !is_positioned {
            member.stand = Stand::Live;
        }
        if let Some(listening) = &mut member.listening {
            // What it heard last may be in its greeting.
            listening.has_heard(0);
        }
        if let Some(greeting) = greeting {
            put(&member.outbox, greeting, Spare::Never, batch);
        }
        let Waiting { frames, .. } = waiting;
        let is_new = |(offset, frame): &&(u64, Bytes)| !frame.is_empty() && (*offset == 0 || *offset > position.offset);
        for (_, frame) in frames.iter().filter(is_new) {
            put(&member.outbox, frame, Spare::Never, batch);
        }
        match &mut room.position {
            Some(known) if known.offset >= position.offset => {}
            // Members that were here before hear what lies between as it
            // comes, or as it is repaired.
            Some(_) if !is_alone => {}
            known => *known = Some(position.clone()),
        }
        true
    }

    /// Appends a message with a place in the room's history to the outbox of
    /// each member, if it is the next one. The first that a room hears is.
    pub fn deliver_at(
        &self,
        name: &str,
        position: &Position,
        broadcast: &Broadcast<'_>,
        batch: &mut Batch<'_>,
    ) -> Placed {
        let mut rooms = self.at(&self.rooms, name).lock();
        let Some(room) = rooms.get_mut(name) else { return Placed::Nobody };
        match &room.position {
            Some(known) if known.epoch != position.epoch || position.offset > known.offset + 1 => return Placed::Gap,
            Some(known) if position.offset <= known.offset => return Placed::Before,
            _ => {}
        }
        room.position = Some(position.clone());
        Placed::Delivered(room.deliver(name, position.offset, broadcast, &mut Seen::default(), batch))
    }

    /// Up to where a room's members have heard its history.
    #[must_use]
    pub fn position(&self, room: &str) -> Option<Position> {
        self.at(&self.rooms, room).lock().get(room)?.position.clone()
    }

    /// Members have heard everything up to `to`, or, if it `is_lost`, never will.
    /// Those who would notice are returned: then all who stand somewhere, else
    /// those who were told more when they came. None: the room does not stand
    /// at `from` any more, and nothing has changed.
    pub fn move_position(
        &self,
        room: &str,
        from: &Position,
        to: &Position,
        is_lost: bool,
    ) -> Option<Vec<Arc<Connection>>> {
        let mut rooms = self.at(&self.rooms, room).lock();
        let room = rooms.get_mut(room)?;
        if room.position.as_ref() != Some(from) {
            return None;
        }
        room.position = Some(to.clone());
        let notices =
            |member: &&Member| matches!(member.stand, Stand::Positioned(offset) if is_lost || offset > to.offset);
        Some(room.members().iter().filter(notices).map(|member| Arc::clone(&member.connection)).collect())
    }

    /// The rooms with members that stand somewhere in a history.
    #[must_use]
    pub fn positions(&self) -> Vec<(RoomName, Position)> {
        let standing = |shard: &Mutex<HashMap<RoomName, Room>>| {
            let rooms = shard.lock();
            let found = rooms.iter().filter_map(|(name, room)| Some((Arc::clone(name), room.position.clone()?)));
            found.collect::<Vec<_>>()
        };
        self.rooms.iter().flat_map(standing).collect()
    }
}
