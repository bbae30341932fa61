//! One identified connection, as the hub and the router see it.

use std::{any::Any, collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;

use crate::{
    config::JoinLeave,
    id::{ConnectionId, RoomName, UserId},
    plugin::Permission,
    protocol::{Encoding, MemberInfo},
    session::outbox::Outbox,
};

/// An open connection whose identity is known.
#[derive(Debug)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// The id as clients and plugins see it.
    pub id_text: Box<str>,
    /// Empty for an anonymous one.
    pub user: UserId,
    /// The wire it speaks.
    pub encoding: Encoding,
    /// Where its frames go.
    pub outbox: Arc<Outbox>,
    /// Taken before a room's lock, never the other way round.
    pub(super) state: Mutex<State>,
    /// What keeps its user heard.
    pub kept: Kept,
}

#[derive(Debug)]
pub(super) struct State {
    /// JSON that presence and plugins see; may be empty.
    pub(super) info: Arc<str>,
    pub(super) rooms: HashMap<RoomName, Membership>,
    /// Rooms that it is about to be in.
    pub(super) joining: HashMap<RoomName, Place>,
    /// How many places were taken for it.
    pub(super) places: u64,
    /// It is gone from the hub, and no room may take it in any more.
    pub(super) is_gone: bool,
}

/// A place in a room that was taken for a connection: another one than was
/// taken there before it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub(super) u64);

/// Something that must live as long as what it is given to.
#[derive(Clone, Default)]
pub struct Kept(Option<Arc<dyn Any + Send + Sync>>);

impl Kept {
    /// Keeps `thing` alive.
    #[must_use]
    pub fn new(thing: impl Any + Send + Sync) -> Self {
        Self(Some(Arc::new(thing)))
    }

    /// True if there is such a thing.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Kept(…)" } else { "Kept" })
    }
}

/// What a connection may do in a room that it is in.
#[derive(Debug, Clone)]
pub struct Membership {
    /// May it publish?
    pub publish: Permission,
    /// May it ask who is here?
    pub presence: Permission,
    /// JSON shown beside it in this room; may be empty.
    pub info: Arc<str>,
    /// What keeps the room heard.
    pub kept: Kept,
    /// That all instances know of it here, and of whom they are told when it
    /// leaves; as it is, whatever the config now says. None: they do not.
    pub registered: Option<JoinLeave>,
}

impl Connection {
    /// A connection that is in no room yet.
    #[must_use]
    pub fn new(id: ConnectionId, user: UserId, info: Arc<str>, encoding: Encoding, outbox: Arc<Outbox>) -> Self {
        let state = State { info, rooms: HashMap::new(), joining: HashMap::new(), places: 0, is_gone: false };
        let kept = Kept::default();
        Self { id, id_text: id.to_string().into(), user, encoding, outbox, state: Mutex::new(state), kept }
    }

    /// What it may do in a room; None: it is not in there.
    #[must_use]
    pub fn membership(&self, room: &str) -> Option<Membership> {
        self.state.lock().rooms.get(room).cloned()
    }

    /// Notes whether all instances know of it in a room; false: it is not in
    /// there.
    pub fn set_registered(&self, room: &str, registered: Option<JoinLeave>) -> bool {
        let mut state = self.state.lock();
        let membership = state.rooms.get_mut(room);
        membership.map(|membership| membership.registered = registered).is_some()
    }

    /// The rooms that it is in.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomName> {
        self.state.lock().rooms.keys().cloned().collect()
    }

    /// In how many rooms it is.
    #[must_use]
    pub fn n_rooms(&self) -> usize {
        self.state.lock().rooms.len()
    }

    /// The JSON that others see of it.
    #[must_use]
    pub fn info(&self) -> Arc<str> {
        Arc::clone(&self.state.lock().info)
    }

    /// Replaces that JSON from now on.
    pub fn set_info(&self, info: Arc<str>) {
        self.state.lock().info = info;
    }

    /// How others see it in a room.
    #[must_use]
    pub fn as_member(&self, room_info: Arc<str>) -> MemberInfo {
        MemberInfo { connection: self.id_text.to_string(), user: Arc::clone(&self.user), info: self.info(), room_info }
    }
}
