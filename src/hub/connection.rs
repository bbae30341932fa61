//! One identified connection, as the hub and the router see it.

use std::{any::Any, collections::HashMap, fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    auth::{TokenId, revoked::Revocation},
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
    /// By what it is here, and until when; None: by something without a name or
    /// a time, for as long as it likes.
    pub(super) lease: Option<Box<Lease>>,
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

/// By which token something was granted, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// None: it does not end.
    pub expires: Option<Instant>,
    /// The token.
    pub token: TokenId,
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
    /// By what it is in there; None: for as long as the connection.
    pub lease: Option<Arc<Lease>>,
}

impl Connection {
    /// A connection that is in no room yet.
    #[must_use]
    pub fn new(id: ConnectionId, user: UserId, info: Arc<str>, encoding: Encoding, outbox: Arc<Outbox>) -> Self {
        let (rooms, joining) = (HashMap::new(), HashMap::new());
        let state = State { info, lease: None, rooms, joining, places: 0, is_gone: false };
        let kept = Kept::default();
        Self { id, id_text: id.to_string().into(), user, encoding, outbox, state: Mutex::new(state), kept }
    }

    /// Whether it has left the hub.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.state.lock().is_gone
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

    /// By what it is here from now on.
    pub fn set_lease(&self, lease: Lease) {
        self.state.lock().lease = (lease != Lease::default()).then(|| Box::new(lease));
    }

    /// By what it is here.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.state.lock().lease.as_deref().cloned().unwrap_or_default()
    }

    /// By what it is in a room from now on; false: it is not in there.
    pub fn set_room_lease(&self, room: &str, lease: Lease) -> bool {
        let mut state = self.state.lock();
        let membership = state.rooms.get_mut(room);
        membership.map(|membership| membership.lease = Some(Arc::new(lease))).is_some()
    }

    /// When it ends, and when its memberships do, for those that end before it
    /// is gone.
    #[must_use]
    pub fn ends(&self) -> (Option<Instant>, Vec<(RoomName, Instant)>) {
        let state = self.state.lock();
        let ends = |(room, membership): (&RoomName, &Membership)| {
            Some((Arc::clone(room), membership.lease.as_ref()?.expires?))
        };
        let own = state.lease.as_ref().and_then(|lease| lease.expires);
        (own, state.rooms.iter().filter_map(ends).collect())
    }

    /// True if it is here by a token that was taken back; beside it the rooms
    /// that it is in by such a token.
    #[must_use]
    pub fn hit_by(&self, revocation: &Revocation) -> (bool, Vec<RoomName>) {
        let state = self.state.lock();
        let nothing = Lease::default();
        let is_hit = |lease: &Lease| revocation.hits(&self.user, &lease.token);
        let rooms = state.rooms.iter().filter(|(_, membership)| membership.lease.as_deref().is_some_and(is_hit));
        (is_hit(state.lease.as_deref().unwrap_or(&nothing)), rooms.map(|(room, _)| Arc::clone(room)).collect())
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
