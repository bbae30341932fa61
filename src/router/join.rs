//! Into a room and out of it, by the client's wish or the server's.

use std::sync::Arc;

use bytes::Bytes;

use super::{Router, is_personal, on_failure};
use crate::{
    config::Access,
    generation::Generation,
    hub::{Connection, Membership, NotAdded, Told},
    id::RoomName,
    plugin::{Admission, Caller, EventView, JoinView, Permission, Terms},
    protocol::{Broadcast, MemberInfo, Push, Refusal, Reply, codes},
    session::flusher::Batch,
};

/// Leave to be in a room, before it is taken.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) membership: Membership,
    /// A JSON text for the client.
    pub(super) data: Option<String>,
}

impl Admitted {
    /// A user's own room: nobody is asked, and only the server speaks there.
    pub(super) fn personal() -> Self {
        let membership = Membership { publish: Permission::Denied, presence: Permission::Denied, info: "".into() };
        Self { membership, data: None }
    }
}

impl Router {
    /// A client joins a room. The good answer is in its outbox afterwards,
    /// before anything that it hears in there.
    ///
    /// # Errors
    /// Why it may not.
    pub fn join(
        &self,
        connection: &Arc<Connection>,
        id: u32,
        join: JoinView<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Refusal> {
        let generation = self.generation.load();
        check_name(join.room, generation.config.limits.name_length)?;
        if is_personal(&generation, join.room) {
            return Err(Refusal::PERMISSION_DENIED);
        }
        if connection.membership(join.room).is_some() {
            return Err(Refusal::ALREADY_JOINED);
        }
        let info = connection.info();
        let caller = Caller { connection: &connection.id_text, user: &connection.user, info: &info };
        let admitted = admit(&generation, caller, join, false)?;
        let greeting = connection.encoding.reply(id, &Reply::Joined { data: admitted.data.as_deref() });
        let max = generation.config.limits.rooms_per_connection;
        let room: RoomName = join.room.into();
        let member = connection.as_member(Arc::clone(&admitted.membership.info));
        let told = Told { own: Some(greeting), others: joined(&generation, &room, &member) };
        let added = self.hub.join(connection, &room, admitted.membership.clone(), max, &told, batch);
        added.map_err(|reason| match reason {
            NotAdded::Already => Refusal::ALREADY_JOINED,
            NotAdded::Limit => Refusal::LIMIT_EXCEEDED,
            NotAdded::Gone => Refusal::NOT_AVAILABLE,
        })?;
        self.observe_room(&generation, connection, "joined", &room, 0, batch);
        Ok(())
    }

    /// A client leaves a room.
    ///
    /// # Errors
    /// If the server keeps it there.
    pub fn leave(&self, connection: &Connection, room: &str, batch: &mut Batch<'_>) -> Result<(), Refusal> {
        let generation = self.generation.load();
        if is_personal(&generation, room) {
            return Err(Refusal::PERMISSION_DENIED);
        }
        // To leave where one is not is no error: the aim is reached.
        self.take_out(&generation, connection, room, None, 0, batch);
        Ok(())
    }

    /// Puts a connection into a room and tells it; false if it may not.
    pub(super) fn join_by_server(
        &self,
        generation: &Generation,
        connection: &Arc<Connection>,
        room: &str,
        depth: u8,
        batch: &mut Batch<'_>,
    ) -> bool {
        if check_name(room, generation.config.limits.name_length).is_err() || is_personal(generation, room) {
            return false;
        }
        if connection.membership(room).is_some() {
            return true;
        }
        let info = connection.info();
        let caller = Caller { connection: &connection.id_text, user: &connection.user, info: &info };
        let Ok(admitted) = admit(generation, caller, JoinView { room, token: "", data: None }, true) else {
            return false;
        };
        let greeting = connection.encoding.push(&Push::YouJoined { room, data: admitted.data.as_deref() });
        let max = generation.config.limits.rooms_per_connection;
        let room: RoomName = room.into();
        let member = connection.as_member(Arc::clone(&admitted.membership.info));
        let told = Told { own: Some(greeting), others: joined(generation, &room, &member) };
        if self.hub.join(connection, &room, admitted.membership.clone(), max, &told, batch).is_err() {
            return false;
        }
        self.observe_room(generation, connection, "joined", &room, depth, batch);
        true
    }

    /// Takes a connection out of a room and tells it.
    pub(super) fn leave_by_server(
        &self,
        generation: &Generation,
        connection: &Connection,
        room: &str,
        depth: u8,
        batch: &mut Batch<'_>,
    ) -> bool {
        if is_personal(generation, room) {
            return false;
        }
        let push = Push::YouLeft { room, code: codes::LEFT_BY_SERVER, reason: "server unsubscribe" };
        self.take_out(generation, connection, room, Some(connection.encoding.push(&push)), depth, batch);
        true
    }

    /// Takes a connection out of a room, if it is in there: tells it `own`, the
    /// others that it left, and the room's plugins.
    pub(super) fn take_out(
        &self,
        generation: &Generation,
        connection: &Connection,
        room: &str,
        own: Option<Bytes>,
        depth: u8,
        batch: &mut Batch<'_>,
    ) {
        let Some(membership) = connection.membership(room) else { return };
        let member = connection.as_member(membership.info);
        let is_told = generation.room(room).is_some_and(|(entry, _)| entry.join_leave);
        let others = is_told.then(|| Broadcast::new(Push::Left { room, member: &member }));
        // Another may have been quicker.
        if let Some((room, _)) = self.hub.leave(connection, room, &Told { own, others }, batch) {
            self.observe_room(generation, connection, "left", &room, depth, batch);
        }
    }

    /// Tells the room's plugins who came or went.
    pub(super) fn observe_room(
        &self,
        generation: &Generation,
        connection: &Connection,
        kind: &'static str,
        room: &RoomName,
        depth: u8,
        batch: &mut Batch<'_>,
    ) {
        if let Some((_, pipeline)) = generation.room(room) {
            self.observe(generation, &pipeline.observe, connection, EventView { kind, room }, depth, batch);
        }
    }
}

/// What the others in a room are told of one who joins.
pub(super) fn joined<'a>(generation: &Generation, room: &'a str, member: &'a MemberInfo) -> Option<Broadcast<'a>> {
    let (entry, _) = generation.room(room)?;
    entry.join_leave.then(|| Broadcast::new(Push::Joined { room, member }))
}

/// Asks the room's entry and plugins about a join.
pub(super) fn admit(
    generation: &Generation,
    who: Caller<'_>,
    join: JoinView<'_>,
    by_server: bool,
) -> Result<Admitted, Refusal> {
    let (entry, pipeline) = generation.room(join.room).ok_or(Refusal::UNKNOWN_ROOM)?;
    let may = match entry.join {
        Access::Anyone => true,
        Access::Users => !who.user.is_empty(),
        Access::Nobody => by_server,
    };
    if !may {
        return Err(Refusal::PERMISSION_DENIED);
    }
    let mut terms = Terms::default();
    for plugin in &pipeline.authorize {
        match plugin.join(who, join) {
            Ok(Admission::Allow(more)) => {
                terms.publish = terms.publish.and(more.publish);
                terms.presence = terms.presence.and(more.presence);
                if !more.info.is_empty() {
                    terms.info = more.info;
                }
                terms.data = more.data.or(terms.data);
            }
            Ok(Admission::Refuse(refusal)) => return Err(refusal),
            Err(failure) => on_failure(plugin, &failure)?,
        }
    }
    let membership = Membership { publish: terms.publish, presence: terms.presence, info: terms.info.into() };
    Ok(Admitted { membership, data: terms.data })
}

/// Names come from clients: they are bounded and hold nothing that could
/// disturb a log or a terminal.
pub(super) fn check_name(name: &str, max: usize) -> Result<(), Refusal> {
    if name.len() > max {
        return Err(Refusal::LIMIT_EXCEEDED);
    }
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(Refusal::BAD_REQUEST);
    }
    Ok(())
}
