//! Who is connected to this instance: connections, users and rooms, both
//! ways; and the one way in which a push reaches them.
//!
//! Indexes are sharded by name and each shard has one short lock. Locks are
//! taken in the order connection, shard, outbox, and never across an await.
//! Frames are only appended to outboxes here; the [`Batch`] writes them.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    config::{Pattern, SlowConfig},
    id::{ConnectionId, RoomName, UserId},
    protocol::{Broadcast, MemberInfo},
    session::{
        flusher::Batch,
        outbox::{Outbox, Pushed, Spare},
    },
};

mod connection;
mod listening;
mod positions;
mod room;
mod slow;

use self::room::{Member, Room};
pub use self::{
    connection::{Connection, Kept, Lease, Membership, Place},
    listening::Listening,
    positions::Placed,
    room::{Stand, Waiting},
};

/// Enough that two threads seldom meet on one lock; a shard is small.
const SHARDS: usize = 64;

/// Each lock is held for one operation on one shard.
type Shards<K, V> = Box<[Mutex<HashMap<K, V>>]>;

/// The index of this instance.
#[derive(Debug)]
pub struct Hub {
    hasher: RandomState,
    rooms: Shards<RoomName, Room>,
    users: Shards<UserId, Vec<Arc<Connection>>>,
    connections: Shards<ConnectionId, Arc<Connection>>,
    n_connections: AtomicUsize,
    n_rooms: AtomicUsize,
}

/// What is said when somebody joins or leaves. It goes into the outboxes under
/// the room's lock, so that all hear of joins, leaves and messages in the order
/// in which they happened, and nobody hears a room before knowing to be in it:
/// clients drop what comes then.
#[derive(Debug, Default)]
pub struct Told<'a> {
    /// To the one that joins or leaves.
    pub own: Option<Bytes>,
    /// To the others in the room.
    pub others: Option<Broadcast<'a>>,
    /// They are told only if it is its user's first or last connection there.
    pub by_user: bool,
}

impl Told<'_> {
    fn tell(&self, who: &Connection, others: &mut Room, batch: &mut Batch<'_>) {
        if let Some(frame) = &self.own {
            put(&who.outbox, frame, Spare::Never, batch);
        }
        if let Some(broadcast) = &self.others
            && !(self.by_user && others.has_user(&who.user))
        {
            others.deliver("", 0, broadcast, &mut Seen::default(), batch);
        }
    }
}

impl Member {
    /// Takes a frame, or keeps it until the member has caught up.
    fn hear(&mut self, offset: u64, frame: &Bytes, spare: Spare, batch: &mut Batch<'_>) -> Delivered {
        let spare = spare.of(self.place.0);
        match &mut self.stand {
            Stand::Live => put(&self.outbox, frame, spare, batch),
            Stand::Positioned(from) if offset == 0 || offset > *from => put(&self.outbox, frame, spare, batch),
            Stand::Positioned(_) => Delivered::default(),
            Stand::Held(waiting) => {
                waiting.put(offset, frame, self.outbox.max());
                Delivered { queued: 1, ..Delivered::default() }
            }
        }
    }
}

/// Somebody who has taken a place in a room, and what goes with that.
#[derive(Debug)]
pub struct Entrant {
    /// What it may do there.
    pub membership: Membership,
    /// What was taken.
    pub place: Place,
    /// Where it stands in the room's history.
    pub stand: Stand,
    /// How it wants to hear the room.
    pub listening: Listening,
    /// What the config says of slow members of the room now.
    pub slow: Option<Arc<SlowConfig>>,
}

/// How many connections a push reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// The frame waits in their outboxes.
    pub queued: usize,
    /// Their outboxes overflowed; they are being closed.
    pub slow: usize,
    /// Frames that were left out, this one or older ones.
    pub dropped: usize,
}

impl std::ops::AddAssign for Delivered {
    fn add_assign(&mut self, other: Self) {
        self.queued += other.queued;
        self.slow += other.slow;
        self.dropped += other.dropped;
    }
}

/// Connections that have had a delivery, or shall not have it.
#[derive(Debug, Default)]
pub struct Seen(Option<HashSet<ConnectionId>>);

impl Seen {
    /// One that remembers whom it has seen.
    #[must_use]
    pub fn tracking() -> Self {
        Self(Some(HashSet::new()))
    }

    /// Nobody gets it twice: false if it was seen before. Without tracking,
    /// everybody is new.
    fn is_new(&mut self, id: ConnectionId) -> bool {
        self.0.as_mut().is_none_or(|seen| seen.insert(id))
    }

    /// Keeps somebody from getting it.
    pub fn exclude(&mut self, id: ConnectionId) {
        self.0.get_or_insert_default().insert(id);
    }
}

/// Why somebody could not be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdded {
    /// The user has as many connections, or the connection rooms, as allowed.
    Limit,
    /// It is in the room.
    Already,
    /// The connection ended meanwhile, or was turned back.
    Gone,
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

fn shards<T: Default>() -> Box<[Mutex<T>]> {
    (0..SHARDS).map(|_| Mutex::default()).collect()
}

fn put(outbox: &Arc<Outbox>, frame: &Bytes, spare: Spare, batch: &mut Batch<'_>) -> Delivered {
    match outbox.put_spare(frame, spare, batch) {
        Pushed::Schedule | Pushed::Queued => Delivered { queued: 1, ..Delivered::default() },
        Pushed::Instead(dropped) => Delivered { queued: 1, dropped, ..Delivered::default() },
        Pushed::Overflow => Delivered { slow: 1, ..Delivered::default() },
        Pushed::Dropped => Delivered { dropped: 1, ..Delivered::default() },
        Pushed::Closed => Delivered::default(),
    }
}

impl Hub {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            rooms: shards(),
            users: shards(),
            connections: shards(),
            n_connections: AtomicUsize::new(0),
            n_rooms: AtomicUsize::new(0),
        }
    }

    fn at<'s, T>(&self, shards: &'s [Mutex<T>], name: &str) -> &'s Mutex<T> {
        &shards[self.hasher.hash_one(name) as usize % SHARDS]
    }

    /// Takes a connection in, unless its user has `max` of them; an anonymous
    /// one has no user to count for.
    ///
    /// # Errors
    /// [`NotAdded::Limit`].
    pub fn add(&self, connection: &Arc<Connection>, max: usize) -> Result<(), NotAdded> {
        if !connection.user.is_empty() {
            let mut users = self.at(&self.users, &connection.user).lock();
            let devices = users.entry(Arc::clone(&connection.user)).or_default();
            if devices.len() >= max {
                return Err(NotAdded::Limit);
            }
            devices.push(Arc::clone(connection));
        }
        self.connections[connection.id.shard(SHARDS)].lock().insert(connection.id, Arc::clone(connection));
        self.n_connections.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Forgets a connection. From here on no room takes it in; the rooms that it
    /// is in are returned, for it to be taken out of. None: it was forgotten
    /// before.
    pub fn remove(&self, connection: &Connection) -> Option<Vec<RoomName>> {
        let mut state = connection.state.lock();
        if std::mem::replace(&mut state.is_gone, true) {
            return None;
        }
        let rooms = state.rooms.keys().cloned().collect();
        drop(state);
        if !connection.user.is_empty()
            && let Entry::Occupied(mut devices) =
                self.at(&self.users, &connection.user).lock().entry(Arc::clone(&connection.user))
        {
            devices.get_mut().retain(|device| device.id != connection.id);
            if devices.get().is_empty() {
                devices.remove();
            }
        }
        if self.connections[connection.id.shard(SHARDS)].lock().remove(&connection.id).is_some() {
            self.n_connections.fetch_sub(1, Ordering::Relaxed);
        }
        Some(rooms)
    }

    /// Takes a place in a room for a connection that is about to join it, so
    /// that nobody else joins it there meanwhile.
    ///
    /// # Errors
    /// Why it cannot join.
    pub fn reserve(&self, connection: &Connection, room: &RoomName, max: usize) -> Result<Place, NotAdded> {
        let mut state = connection.state.lock();
        if state.is_gone {
            return Err(NotAdded::Gone);
        }
        if state.rooms.contains_key(room) || state.joining.contains_key(room) {
            return Err(NotAdded::Already);
        }
        if state.rooms.len() + state.joining.len() >= max {
            return Err(NotAdded::Limit);
        }
        state.places += 1;
        let place = Place(state.places);
        state.joining.insert(Arc::clone(room), place);
        Ok(place)
    }

    /// Gives up a place that was taken, be it that the connection is in the room
    /// by now; nobody is told. False: it was taken from it before. What it did
    /// on its way is undone by `undo`, unless another place was taken
    /// meanwhile, for which the same was done.
    pub fn give_up(&self, connection: &Connection, room: &str, place: Place, undo: impl FnOnce()) -> bool {
        let mut state = connection.state.lock();
        let was_joining = state.joining.get(room) == Some(&place);
        if was_joining {
            state.joining.remove(room);
        }
        let was_in = self.leave_place(room, connection.id, place);
        if was_in {
            state.rooms.remove(room);
        }
        if !state.joining.contains_key(room) && !state.rooms.contains_key(room) {
            undo();
        }
        was_joining || was_in
    }

    fn leave_place(&self, name: &str, id: ConnectionId, place: Place) -> bool {
        let mut rooms = self.at(&self.rooms, name).lock();
        let Some(room) = rooms.get_mut(name) else { return false };
        if room.member_mut(id).is_none_or(|member| member.place != place) {
            return false;
        }
        room.leave(id);
        if room.is_empty() {
            rooms.remove(name);
            self.n_rooms.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    /// Takes a connection off its way into a room, wherever it is there: it will
    /// not be let in.
    pub fn turn_back(&self, connection: &Connection, room: &str) {
        connection.state.lock().joining.remove(room);
    }

    /// Puts a connection into a room in which it has taken a place, and tells
    /// it and the others.
    ///
    /// # Errors
    /// Why not; nothing has changed then, and nobody was told.
    pub fn join(
        &self,
        connection: &Arc<Connection>,
        room: &RoomName,
        entrant: Entrant,
        told: &Told<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<(), NotAdded> {
        let Entrant { membership, place, stand, listening, slow } = entrant;
        let mut state = connection.state.lock();
        if state.is_gone || state.joining.get(room) != Some(&place) {
            return Err(NotAdded::Gone);
        }
        state.joining.remove(room);
        let member = Member {
            id: connection.id,
            encoding: connection.encoding,
            outbox: Arc::clone(&connection.outbox),
            connection: Arc::clone(connection),
            room_info: Arc::clone(&membership.info),
            stand,
            place,
            listening: Some(listening).filter(|listening| !listening.is_usual()).map(Box::new),
        };
        state.rooms.insert(Arc::clone(room), membership);
        let mut rooms = self.at(&self.rooms, room).lock();
        let members = rooms.entry(Arc::clone(room)).or_insert_with(|| {
            self.n_rooms.fetch_add(1, Ordering::Relaxed);
            Room::default()
        });
        members.slow = slow;
        told.tell(connection, members, batch);
        members.join(member);
        Ok(())
    }

    /// Takes a connection out of a room and tells it and the others; None: it
    /// was not in there.
    pub fn leave(
        &self,
        connection: &Connection,
        room: &str,
        told: &Told<'_>,
        batch: &mut Batch<'_>,
    ) -> Option<(RoomName, Membership)> {
        let mut state = connection.state.lock();
        let entry = state.rooms.remove_entry(room)?;
        self.leave_index(room, connection, told, batch);
        Some(entry)
    }

    fn leave_index(&self, name: &str, connection: &Connection, told: &Told<'_>, batch: &mut Batch<'_>) {
        let mut rooms = self.at(&self.rooms, name).lock();
        let Some(room) = rooms.get_mut(name) else { return };
        room.leave(connection.id);
        told.tell(connection, room, batch);
        if room.is_empty() {
            rooms.remove(name);
            self.n_rooms.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Appends a push to the outbox of each member of a room that has not
    /// seen it.
    pub fn deliver_room(
        &self,
        room: &str,
        broadcast: &Broadcast<'_>,
        seen: &mut Seen,
        batch: &mut Batch<'_>,
    ) -> Delivered {
        // Under the lock, so that all members see one order.
        let mut rooms = self.at(&self.rooms, room).lock();
        rooms.get_mut(room).map(|members| members.deliver(room, 0, broadcast, seen, batch)).unwrap_or_default()
    }

    /// The users with their connections.
    #[must_use]
    pub fn users(&self) -> Vec<(UserId, Vec<Arc<Connection>>)> {
        let each = |shard: &Mutex<HashMap<UserId, Vec<Arc<Connection>>>>| {
            shard.lock().iter().map(|(user, devices)| (Arc::clone(user), devices.clone())).collect::<Vec<_>>()
        };
        self.users.iter().flat_map(each).collect()
    }

    /// Appends a push to the outbox of each of `connections` that has not
    /// seen it.
    pub fn deliver_each<'c>(
        &self,
        connections: impl IntoIterator<Item = &'c Arc<Connection>>,
        broadcast: &Broadcast<'_>,
        seen: &mut Seen,
        batch: &mut Batch<'_>,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        for connection in connections {
            if seen.is_new(connection.id) {
                delivered += put(&connection.outbox, broadcast.frame(connection.encoding), Spare::Never, batch);
            }
        }
        delivered
    }

    /// One connection.
    #[must_use]
    pub fn connection(&self, id: ConnectionId) -> Option<Arc<Connection>> {
        self.connections[id.shard(SHARDS)].lock().get(&id).cloned()
    }

    /// All connections of a user.
    #[must_use]
    pub fn connections_of(&self, user: &str) -> Vec<Arc<Connection>> {
        self.at(&self.users, user).lock().get(user).cloned().unwrap_or_default()
    }

    /// Every connection.
    #[must_use]
    pub fn all_connections(&self) -> Vec<Arc<Connection>> {
        self.connections.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// The connections in a room.
    #[must_use]
    pub fn connections_in(&self, room: &str) -> Vec<Arc<Connection>> {
        let rooms = self.at(&self.rooms, room).lock();
        let members = rooms.get(room).map_or(&[][..], Room::members);
        members.iter().map(|member| Arc::clone(&member.connection)).collect()
    }

    /// Sets anew what may be left out for slow members, of all rooms.
    pub fn set_slow(&self, of: impl Fn(&str) -> Option<Arc<SlowConfig>>) {
        for shard in &self.rooms {
            for (name, room) in shard.lock().iter_mut() {
                room.slow = of(name);
            }
        }
    }

    /// The same, of one room.
    pub fn set_slow_of(&self, room: &str, slow: Option<Arc<SlowConfig>>) {
        if let Some(members) = self.at(&self.rooms, room).lock().get_mut(room) {
            members.slow = slow;
        }
    }

    /// The rooms that have members.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomName> {
        self.rooms.iter().flat_map(|shard| shard.lock().keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// True if a room has members here.
    #[must_use]
    pub fn has_room(&self, room: &str) -> bool {
        self.at(&self.rooms, room).lock().contains_key(room)
    }

    /// True if a connection is in a room, be it that it is counted there a
    /// little longer than it lives.
    #[must_use]
    pub fn is_in(&self, room: &str, id: ConnectionId) -> bool {
        self.at(&self.rooms, room).lock().get(room).is_some_and(|room| room.has(id))
    }

    /// True if all instances know that a connection is in a room, be it that it
    /// is counted there a little longer than it lives.
    #[must_use]
    pub fn is_registered(&self, room: &str, id: ConnectionId) -> bool {
        let connection = {
            let mut rooms = self.at(&self.rooms, room).lock();
            rooms.get_mut(room).and_then(|room| room.member_mut(id)).map(|member| Arc::clone(&member.connection))
        };
        connection.and_then(|connection| connection.membership(room)).is_some_and(|it| it.registered.is_some())
    }

    /// True if a connection is on its way into a room.
    #[must_use]
    pub fn is_coming(&self, room: &str, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(|connection| connection.state.lock().joining.contains_key(room))
    }

    /// The rooms that have members and match.
    #[must_use]
    pub fn rooms_matching(&self, pattern: &Pattern) -> Vec<RoomName> {
        let matching = |shard: &Mutex<HashMap<RoomName, Room>>| {
            shard.lock().keys().filter(|room| pattern.matches(room)).cloned().collect::<Vec<_>>()
        };
        self.rooms.iter().flat_map(matching).collect()
    }

    /// At most `limit` members of a room.
    #[must_use]
    pub fn members(&self, room: &str, limit: usize) -> Vec<MemberInfo> {
        let found: Vec<_> = {
            let rooms = self.at(&self.rooms, room).lock();
            let members = rooms.get(room).map_or(&[][..], Room::members);
            let pair = |member: &Member| (Arc::clone(&member.connection), Arc::clone(&member.room_info));
            members.iter().take(limit).map(pair).collect()
        };
        // A connection's lock comes before a shard's, so not under it.
        found.into_iter().map(|(connection, room_info)| connection.as_member(room_info)).collect()
    }

    /// Connections and different users in a room.
    #[must_use]
    pub fn count(&self, room: &str) -> (usize, usize) {
        let rooms = self.at(&self.rooms, room).lock();
        rooms.get(room).map_or((0, 0), |room| (room.members().len(), room.n_users()))
    }

    /// Connections that are identified.
    #[must_use]
    pub fn n_connections(&self) -> usize {
        self.n_connections.load(Ordering::Relaxed)
    }

    /// Rooms that have members.
    #[must_use]
    pub fn n_rooms(&self) -> usize {
        self.n_rooms.load(Ordering::Relaxed)
    }

    /// Places of connections in rooms.
    #[must_use]
    pub fn n_memberships(&self) -> usize {
        self.rooms.iter().map(|shard| shard.lock().values().map(|room| room.members().len()).sum::<usize>()).sum()
    }

    /// Users that have connections.
    #[must_use]
    pub fn n_users(&self) -> usize {
        self.users.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests;
