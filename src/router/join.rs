//! Into a room and out of it, by the client's wish or the server's.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    NotConnected, Router, is_personal, is_registered,
    leases::{grant, is_over, lease, permission, ttl},
    on_failure,
    remote::{past_publication, refusal},
};
use crate::{
    auth::{SubscriptionClaims, TokenId},
    cluster::envelope::Terms,
    config::{Access, JoinLeave, Recovery, RoomConfig},
    generation::Generation,
    hub::{self, Connection, Kept, Listening, Membership, NotAdded, Place, Stand, Told, Waiting},
    id::RoomName,
    plugin::{self, Admission, Caller, EventView, JoinView, Permission},
    protocol::{self, Broadcast, Filter, JoinedRoom, Payload, Push, Refusal, Reply, Wishes, codes},
    room::history::{RECOVERY_MAX, Range},
    session::flusher::Batch,
};

/// Leave to be in a room, before it is taken.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) membership: Membership,
    /// For the client.
    pub(super) data: Option<Payload>,
    /// How it hears the room.
    pub(super) listening: Listening,
}

impl Admitted {
    /// A user's own room: nobody is asked, and only the server speaks there.
    pub(super) fn personal() -> Self {
        let membership = Membership {
            publish: Permission::Denied,
            presence: Permission::Denied,
            info: "".into(),
            kept: Kept::default(),
            registered: None,
            lease: None,
        };
        Self { membership, data: None, listening: Listening::default() }
    }
}

/// By whose wish somebody joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// The client's.
    Client,
    /// The client's, with a token for the room.
    Token,
    /// The server's.
    Server,
}

/// How somebody is told that it is in a room.
#[derive(Debug, Clone)]
pub(super) enum Greeting {
    /// The answer to its own command of this id.
    Reply(u32),
    /// Unasked.
    Push,
    /// As a part of its welcome.
    Welcome,
}

/// What the server gives somebody whom it puts into a room.
#[derive(Debug, Clone, Default)]
pub(super) struct Placing<'a> {
    /// JSON beside it in the room, instead of what the admission says.
    pub(super) info: Option<&'a str>,
    /// JSON that it is told, instead of what the admission says.
    pub(super) data: Option<&'a str>,
    /// What it has seen of the room.
    pub(super) seen: Option<protocol::Seen<'a>>,
    /// Until when, and what it may.
    pub(super) terms: Terms,
}

/// Somebody on the way into a room.
struct Entrant<'a> {
    connection: &'a Arc<Connection>,
    room: &'a RoomName,
    admitted: Admitted,
    greeting: Greeting,
    /// What it has seen, if it wants what it has missed.
    seen: Option<protocol::Seen<'a>>,
    place: Place,
}

impl Router {
    /// A client joins a room. The good answer is in its outbox afterwards,
    /// before anything that it hears in there. Returns when that ends.
    ///
    /// # Errors
    /// Why it may not.
    pub async fn join(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        id: u32,
        join: JoinView<'_>,
        seen: Option<protocol::Seen<'_>>,
        wishes: Wishes,
        batch: &mut Batch<'_>,
    ) -> Result<Option<Instant>, Refusal> {
        let generation = self.generation();
        check_name(join.room, generation.config.limits.name_length)?;
        if is_personal(&generation, join.room) {
            return Err(Refusal::PERMISSION_DENIED);
        }
        if connection.membership(join.room).is_some() {
            return Err(Refusal::ALREADY_JOINED);
        }
        let needs_token = generation.room(join.room).is_some_and(|(entry, _)| entry.join == Access::Token);
        let pass = match needs_token {
            true => Some(self.check_pass(&generation, connection, join.room, join.token, batch).await?),
            false => None,
        };
        let info = connection.info();
        let caller = Caller { connection: &connection.id_text, user: &connection.user, info: &info };
        let wish = if needs_token { Wish::Token } else { Wish::Client };
        let mut admitted = admit(&generation, caller, join, wish)?;
        if let Some((entry, _)) = generation.room(join.room) {
            admitted.listening = granted(entry, wishes)?;
        }
        if let Some(SubscriptionClaims { sub, token, .. }) = pass {
            grant(&generation, &mut admitted, sub, &token).map_err(|reason| match reason {
                NotConnected::Refused(refusal) => refusal,
                NotConnected::Closed(_) => Refusal::PERMISSION_DENIED,
            })?;
            // Also one that does not end can be taken back, by itself.
            admitted.membership.lease.get_or_insert_with(|| Arc::new(lease(None, &token)));
        }
        let lease = admitted.membership.lease.clone();
        let max = generation.config.limits.rooms_per_connection;
        let room: RoomName = join.room.into();
        self.enter(&generation, connection, &room, admitted, Greeting::Reply(id), seen, max, batch).await?;
        self.observe_room(&generation, connection, "joined", &room, 0, batch);
        let Some(lease) = lease else { return Ok(None) };
        // What was taken back meanwhile did not find it in there.
        if self.is_revoked(&connection.user, &lease.token) {
            self.leave_by_server(&generation, connection, &room, 0, batch);
        }
        Ok(lease.expires)
    }

    /// Takes somebody into a room who may be there: the room is heard, it is
    /// registered, and it is told what it has missed, before it hears anything.
    #[expect(clippy::too_many_arguments, reason = "each is of another kind")]
    pub(super) async fn enter(
        self: &Arc<Self>,
        generation: &Generation,
        connection: &Arc<Connection>,
        room: &RoomName,
        admitted: Admitted,
        greeting: Greeting,
        seen: Option<protocol::Seen<'_>>,
        max: usize,
        batch: &mut Batch<'_>,
    ) -> Result<JoinedRoom, Refusal> {
        self.has_space(generation, room).await?;
        let place = self.hub.reserve(connection, room, max).map_err(not_added)?;
        let entrant = Entrant { connection, room, admitted, greeting, seen, place };
        let mut is_registering = false;
        let entered = self.enter_reserved(generation, entrant, &mut is_registering, batch).await;
        match &entered {
            Err(_) => {
                let undo = || {
                    if let Some(cluster) = self.cluster.as_ref().filter(|_| is_registering) {
                        cluster.exit(room, &connection.id_text);
                    }
                };
                if !self.hub.give_up(connection, room, place, undo) {
                    return Err(not_added(NotAdded::Gone));
                }
            }
            Ok(_) => {
                let newer = self.generation();
                if newer.number != generation.number {
                    self.hub.set_slow_of(room, newer.room(room).and_then(|(entry, _)| entry.slow.clone()));
                    if self.cluster.is_some() {
                        self.register_as_configured(room);
                    }
                }
                let tells = generation.room(room).is_some_and(|(entry, _)| entry.join_leave != JoinLeave::Off);
                if tells && self.shared(room).is_some() {
                    self.know(room);
                }
                if generation.room(room).is_some_and(|(entry, _)| entry.records.is_some()) {
                    batch.flush();
                    self.tell_records(connection, room).await;
                }
            }
        }
        entered
    }

    /// Whether one more may be in a room. Those who come in the same moment do
    /// not see each other.
    async fn has_space(&self, generation: &Generation, room: &str) -> Result<(), Refusal> {
        if self.hub.n_rooms() >= generation.config.limits.rooms && !self.hub.has_room(room) {
            return Err(Refusal::LIMIT_EXCEEDED);
        }
        match generation.room(room).and_then(|(entry, _)| entry.members) {
            Some(max) if !is_personal(generation, room) && Box::pin(self.count(room)).await?.0 >= max => {
                Err(Refusal::LIMIT_EXCEEDED)
            }
            _ => Ok(()),
        }
    }

    async fn enter_reserved(
        self: &Arc<Self>,
        generation: &Generation,
        entrant: Entrant<'_>,
        is_registering: &mut bool,
        batch: &mut Batch<'_>,
    ) -> Result<JoinedRoom, Refusal> {
        let Entrant { connection, room, mut admitted, greeting, seen, place } = entrant;
        // A user's own room is its connections' alone and needs nothing of this.
        let entry = generation.room(room).map(|(entry, _)| entry).filter(|_| !is_personal(generation, room));
        let told_of = entry.map_or(JoinLeave::Off, |entry| entry.join_leave);
        let cluster = self.cluster.as_ref().filter(|_| entry.is_some());
        let registry = cluster.filter(|_| entry.is_some_and(is_registered));
        let member = connection.as_member(Arc::clone(&admitted.membership.info));
        if let Some(cluster) = cluster {
            batch.flush();
            admitted.membership.kept = Kept::new(cluster.hold_room(room).await.map_err(refusal)?);
        }
        if let Some(cluster) = registry {
            *is_registering = true;
            admitted.membership.registered = Some(told_of);
            cluster.enter(room, std::slice::from_ref(&member), told_of).await.map_err(refusal)?;
        }
        // The cluster tells of it where there is one, this room too.
        let tells = told_of != JoinLeave::Off && cluster.is_none();
        let others = tells.then(|| Broadcast::new(Push::Joined { room, member: &member }));
        let by_user = told_of == JoinLeave::Users;
        let Admitted { membership, data, listening } = admitted;
        let ttl = membership.lease.as_ref().and_then(|lease| ttl(lease.expires));
        let mut joined = JoinedRoom { data, delta: listening.delta, ttl, ..JoinedRoom::default() };
        let filter = listening.filter.clone();
        let slow = entry.and_then(|entry| entry.slow.clone());
        let entrant = |stand| hub::Entrant { membership, place, stand, listening, slow };
        let Some((keep, entry)) = entry.and_then(|entry| Some((entry.history?, entry))) else {
            let told = Told { own: greeting.frame(connection, room, &joined), others, by_user };
            self.hub.join(connection, room, entrant(Stand::Live), &told, batch).map_err(not_added)?;
            return Ok(joined);
        };
        let told = Told { own: None, others, by_user };
        let held = Stand::Held(Waiting::default());
        self.hub.join(connection, room, entrant(held), &told, batch).map_err(not_added)?;
        batch.flush();
        let seen = seen.filter(|_| entry.recovery != Recovery::Off);
        let range = match (&seen, entry.recovery) {
            (_, Recovery::Cache) => Range::Reverse { since: None, limit: 1 },
            (Some(seen), _) => Range::Forward { since: Some(seen.offset), limit: RECOVERY_MAX },
            (None, _) => Range::Nothing,
        };
        let reading = self.read(room, range, keep).await?;
        if entry.recovery == Recovery::Cache {
            joined.was_recovering = seen.is_some();
            let has_latest = |seen: &protocol::Seen<'_>| seen.offset == reading.top && *reading.epoch == *seen.epoch;
            if !seen.as_ref().is_some_and(has_latest) {
                joined.publications = reading.messages.iter().filter_map(past_publication).collect();
            }
            joined.recovered = seen.is_some() && (reading.top == 0 || !reading.messages.is_empty());
        } else if let Some(seen) = seen {
            joined.was_recovering = true;
            let bytes: usize = reading.messages.iter().map(|kept| kept.frame.len()).sum();
            let fits = bytes < connection.outbox.max() / 2;
            if let Some(missed) = reading.missed(&seen.epoch, seen.offset).filter(|_| fits) {
                joined.recovered = true;
                joined.publications = missed.iter().filter_map(past_publication).collect();
            }
        }
        if let Some(filter) = filter {
            joined.publications.retain(|past| filter.passes(&past.tags));
        }
        let is_positioned = entry.recovery != Recovery::Off;
        joined.position = is_positioned.then(|| reading.position());
        let mut frame = greeting.frame(connection, room, &joined);
        if frame.as_ref().is_some_and(|frame| frame.len() > connection.outbox.max() / 2) {
            // Written out it is more than it was.
            joined.withhold();
            frame = greeting.frame(connection, room, &joined);
        }
        if !self.hub.release(connection, room, place, &reading.position(), frame.as_ref(), is_positioned, batch) {
            // Perhaps those who are here hear another history than there is.
            self.repair(room);
            return Err(Refusal::BUS_DOWN);
        }
        Ok(joined)
    }

    /// Does it now if nothing has to be waited for, else beside everything
    /// else. False: it was done and did not succeed.
    fn now_or_soon(&self, work: impl Future<Output = bool> + Send + 'static) -> bool {
        let mut work: Pin<Box<dyn Future<Output = bool> + Send>> = Box::pin(work);
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => {
                self.tasks.spawn(work);
                true
            }
        }
    }

    /// A client leaves a room.
    ///
    /// # Errors
    /// If the server keeps it there.
    pub fn leave(self: &Arc<Self>, connection: &Connection, room: &str, batch: &mut Batch<'_>) -> Result<(), Refusal> {
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
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        connection: &Arc<Connection>,
        room: &str,
        depth: u8,
    ) -> bool {
        let (router, generation, connection) = (Arc::clone(self), Arc::clone(generation), Arc::clone(connection));
        let room: RoomName = room.into();
        self.now_or_soon(async move {
            router.place(&generation, &connection, &room, Placing::default(), depth).await.is_ok()
        })
    }

    /// The same, and waits for it.
    pub(super) async fn place(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        connection: &Arc<Connection>,
        room: &RoomName,
        placing: Placing<'_>,
        depth: u8,
    ) -> Result<(), Refusal> {
        check_name(room, generation.config.limits.name_length)?;
        if is_personal(generation, room) {
            return Err(Refusal::PERMISSION_DENIED);
        }
        let Placing { info, data, seen, terms } = placing;
        // Who is there stays as it is, but for how long.
        let stays = || terms.until.map_or(Ok(()), |until| self.set_room_end(connection, room, until));
        if connection.membership(room).is_some() {
            return stays();
        }
        if terms.until.is_some_and(is_over) {
            return Err(Refusal::EXPIRED);
        }
        let own = connection.info();
        let caller = Caller { connection: &connection.id_text, user: &connection.user, info: &own };
        let mut admitted = admit(generation, caller, JoinView { room, token: "", data: None }, Wish::Server)?;
        let membership = &mut admitted.membership;
        membership.presence = membership.presence.and(permission(terms.presence));
        membership.lease = terms.until.map(|until| Arc::new(lease(Some(until), &TokenId::NONE)));
        if let Some(info) = info {
            admitted.membership.info = info.into();
        }
        admitted.data = data.map(|data| Payload::Text(data.to_owned())).or(admitted.data);
        let mut batch = Batch::new(&self.flusher);
        let max = generation.config.limits.rooms_per_connection;
        match self.enter(generation, connection, room, admitted, Greeting::Push, seen, max, &mut batch).await {
            Ok(_) => {
                self.observe_room(generation, connection, "joined", room, depth, &mut batch);
                if terms.until.is_some() {
                    // Its session does not know yet of an end that is nearer.
                    connection.outbox.nudge();
                }
                Ok(())
            }
            Err(refusal) if refusal == Refusal::ALREADY_JOINED => stays(),
            Err(refusal) => Err(refusal),
        }
    }

    /// Takes a connection out of a room and tells it.
    pub(super) fn leave_by_server(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
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

    /// Takes a connection out of a room, if it is in there or on its way: tells
    /// it `own`, the others that it left, and the room's plugins.
    pub(super) fn take_out(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        connection: &Connection,
        room: &str,
        own: Option<Bytes>,
        depth: u8,
        batch: &mut Batch<'_>,
    ) {
        if let Some(room) = self.withdraw(generation, connection, room, own, batch) {
            self.observe_room(generation, connection, "left", &room, depth, batch);
        }
    }

    /// The same, and plugins are not told. None: it was not in there.
    pub(super) fn withdraw(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        connection: &Connection,
        room: &str,
        own: Option<Bytes>,
        batch: &mut Batch<'_>,
    ) -> Option<RoomName> {
        // First: who gets in before this is in, and taken out.
        self.hub.turn_back(connection, room);
        let membership = connection.membership(room)?;
        let member = connection.as_member(membership.info);
        let told_of = generation.room(room).map_or(JoinLeave::Off, |(entry, _)| entry.join_leave);
        let tells = told_of != JoinLeave::Off && self.cluster.is_none();
        let others = tells.then(|| Broadcast::new(Push::Left { room, member: &member }));
        let by_user = told_of == JoinLeave::Users;
        // Another may have been quicker.
        let (room, membership) = self.hub.leave(connection, room, &Told { own, others, by_user }, batch)?;
        if let Some(cluster) = self.cluster.as_ref().filter(|_| membership.registered.is_some()) {
            cluster.exit(&room, &connection.id_text);
        }
        if !self.hub.has_room(&room) {
            self.unknow(&room);
            self.forget_records(&room);
        }
        Some(room)
    }

    /// Tells the room's plugins who came or went.
    pub(super) fn observe_room(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
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

impl Greeting {
    fn frame(&self, connection: &Connection, room: &str, joined: &JoinedRoom) -> Option<Bytes> {
        match self {
            Self::Reply(id) => Some(connection.encoding.reply(*id, &Reply::Joined(joined))),
            Self::Push => Some(connection.encoding.push(&Push::YouJoined { room, joined })),
            Self::Welcome => None,
        }
    }
}

fn not_added(reason: NotAdded) -> Refusal {
    match reason {
        NotAdded::Already => Refusal::ALREADY_JOINED,
        NotAdded::Limit => Refusal::LIMIT_EXCEEDED,
        NotAdded::Gone => Refusal::NOT_AVAILABLE,
    }
}

/// What the room grants of how somebody wants to hear it.
fn granted(entry: &RoomConfig, wishes: Wishes) -> Result<Listening, Refusal> {
    let Wishes { join_leave, delta, filter } = wishes;
    let wrong = |reason: &'static str| Refusal { reason: reason.into(), ..Refusal::BAD_REQUEST };
    let filter = match filter {
        Some(_) if !entry.tags_filter => return Err(wrong("filters are off in this room")),
        filter => filter.map(|rule| Filter::new(*rule)).transpose().map_err(wrong)?,
    };
    let without_members = entry.join_leave_on_demand && !join_leave;
    Ok(Listening::new(filter, delta && entry.delta, without_members))
}

/// Asks the room's entry and plugins about a join.
pub(super) fn admit(
    generation: &Generation,
    who: Caller<'_>,
    join: JoinView<'_>,
    wish: Wish,
) -> Result<Admitted, Refusal> {
    let (entry, pipeline) = generation.room(join.room).ok_or(Refusal::UNKNOWN_ROOM)?;
    let may = match entry.join {
        Access::Anyone => true,
        Access::Users => !who.user.is_empty(),
        Access::Token => wish != Wish::Client,
        Access::Nobody => wish == Wish::Server,
    };
    if !may {
        return Err(Refusal::PERMISSION_DENIED);
    }
    let mut terms = plugin::Terms::default();
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
    let (publish, presence) = (terms.publish, terms.presence);
    let (info, kept) = (terms.info.into(), Kept::default());
    let membership = Membership { publish, presence, info, kept, registered: None, lease: None };
    let listening = Listening::new(None, false, entry.join_leave_on_demand);
    Ok(Admitted { membership, data: terms.data, listening })
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
