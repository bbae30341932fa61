//! The beginning and the end of a connection.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Router,
    join::{Admitted, Greeting, Wish, admit, check_name},
    leases::{Known, grant, lease, ttl},
    on_failure,
    remote::refusal,
};
use crate::{
    auth::{self, BadToken, ConnectionClaims, Sub, TokenId},
    cluster::{Arrival, SignedIn, envelope::What},
    config::{Target, UserLimit},
    generation::Generation,
    hub::{Connection, Kept},
    id::{ConnectionId, RoomName},
    plugin::{Authentication, Caller, EventView, HelloView, Identity, JoinView},
    protocol::{Close, Encoding, Hello, JoinedRoom, Refusal, Reply, Welcome},
    session::{flusher::Batch, outbox::Outbox},
};

/// A socket that says hello.
#[derive(Debug)]
pub struct Newcomer {
    /// The id that it will have.
    pub id: ConnectionId,
    /// The wire it speaks.
    pub encoding: Encoding,
    /// From where it comes.
    pub address: IpAddr,
    /// Where its frames go.
    pub outbox: Arc<Outbox>,
    /// By what requests beside its stream name it; None: it has a socket.
    pub session: Option<String>,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotConnected {
    /// An error reply; the client may try again on the same socket.
    Refused(Refusal),
    /// The socket is closed.
    Closed(Close),
}

impl From<Refusal> for NotConnected {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Close> for NotConnected {
    fn from(close: Close) -> Self {
        Self::Closed(close)
    }
}

impl Router {
    /// Identifies a newcomer and puts it into the rooms that it is in from
    /// the start. The good answer is in its outbox afterwards, before
    /// everything else.
    ///
    /// # Errors
    /// Why it is not let in.
    pub async fn connect(
        self: &Arc<Self>,
        newcomer: &Newcomer,
        id: u32,
        hello: &Hello<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<Arc<Connection>, NotConnected> {
        let generation = self.generation();
        let id_text = newcomer.id.to_string();
        batch.flush();
        let known = self.identify(&generation, &id_text, hello).await?;
        let rooms = admit_rooms(&generation, &id_text, &known)?;
        let Newcomer { encoding, outbox, .. } = newcomer;
        let lease = lease(known.expires_at, &known.token);
        let ttl = ttl(lease.expires);
        let mut connection =
            Connection::new(newcomer.id, known.user.into(), known.info.into(), *encoding, Arc::clone(outbox));
        connection.set_lease(lease);
        let (is_first, arrival) = self.sign_in(&generation, &mut connection, batch).await?;
        let connection = Arc::new(connection);
        // Others may speak to its user from the moment that the hub knows it.
        outbox.hold();
        if let Err(reason) = self.add(&generation, &connection) {
            // Without a cluster it was never counted.
            if self.cluster.is_some() {
                self.sign_out(&connection);
            }
            return Err(reason);
        }
        // What was taken back meanwhile did not find it.
        if self.is_revoked(&connection.user, &known.token) {
            self.turn_out(&generation, &connection, is_first, batch);
            return Err(Close::INVALID_TOKEN.into());
        }
        drop(arrival);
        let mut told = Vec::with_capacity(rooms.len());
        for (room, admitted) in rooms {
            let seen = hello.seen.iter().find(|(name, _)| **name == *room).map(|(_, seen)| seen.clone());
            // The number was checked and nobody else knows the connection.
            let entering =
                self.enter(&generation, &connection, &room, admitted, Greeting::Welcome, seen, usize::MAX, batch);
            // Most are in none yet, and need not carry what that takes.
            match Box::pin(entering).await {
                Ok(joined) => told.push((room, joined)),
                Err(refusal) => {
                    self.turn_out(&generation, &connection, is_first, batch);
                    return Err(refusal.into());
                }
            }
        }
        let server = &generation.config.server;
        let frame = |told: &[(RoomName, JoinedRoom)]| {
            let welcome = Welcome {
                connection: &connection.id_text,
                instance: &self.instance,
                ping: server.ping_interval.as_secs(),
                pong: server.require_pong,
                session: newcomer.session.as_deref(),
                ttl,
                rooms: told,
            };
            encoding.reply(id, &Reply::Connected(welcome))
        };
        let mut welcome = frame(&told);
        if welcome.len() > outbox.max() / 2 {
            // It would be closed as slow for it, again and again.
            told.iter_mut().for_each(|(_, joined)| joined.withhold());
            welcome = frame(&told);
        }
        outbox.greet_in(welcome, batch);
        for (room, _) in &told {
            self.observe_room(&generation, &connection, "joined", room, 0, batch);
        }
        let mut observe = |kind| {
            let event = EventView { kind, room: "" };
            self.observe(&generation, generation.observers(), &connection, event, 0, batch);
        };
        observe("connected");
        if is_first {
            observe("online");
        }
        Ok(connection)
    }

    /// Takes out somebody who was almost in. On this socket it may try again, as
    /// somebody new. Plugins were told of no room, and hear of no leaving.
    fn turn_out(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        connection: &Connection,
        is_first: bool,
        batch: &mut Batch<'_>,
    ) {
        for room in self.hub.remove(connection).unwrap_or_default() {
            self.withdraw(generation, connection, &room, None, batch);
        }
        // Who came meanwhile was not the first. They are told that the user
        // came, before they may be told that it went.
        if is_first {
            self.on_user(&connection.user, "online");
        }
        self.sign_out(connection);
        connection.outbox.release();
    }

    /// Counts a user's connection over all instances. True: it is the first. The
    /// arrival must live until the hub has it.
    async fn sign_in(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        connection: &mut Connection,
        batch: &mut Batch<'_>,
    ) -> Result<(bool, Option<Arrival>), NotConnected> {
        if connection.user.is_empty() {
            return Ok((false, None));
        }
        let Some(cluster) = &self.cluster else {
            return Ok((self.hub.connections_of(&connection.user).is_empty(), None));
        };
        let limits = &generation.config.limits;
        batch.flush();
        let hold = cluster.hold_user(&connection.user).await.map_err(refusal)?;
        connection.kept = Kept::new(hold);
        let arrival = cluster.arrive(&connection.id_text);
        let signed = cluster
            .sign_in(&connection.user, &connection.id_text, limits.connections_per_user, limits.user_limit)
            .await;
        match signed {
            Ok(SignedIn::In { is_first, over }) => {
                for oldest in over {
                    let close = Close::CONNECTION_LIMIT;
                    let what = What::Close(close.code, close.reason);
                    self.order(generation, &Target::Connection(oldest), &what, 0, batch);
                }
                Ok((is_first, Some(arrival)))
            }
            Ok(SignedIn::Limit) => Err(Close::CONNECTION_LIMIT.into()),
            Err(error) => {
                self.sign_out(connection);
                Err(refusal(error).into())
            }
        }
    }

    fn sign_out(self: &Arc<Self>, connection: &Connection) {
        if connection.user.is_empty() {
            return;
        }
        let user = Arc::clone(&connection.user);
        match &self.cluster {
            Some(cluster) => {
                let router = Arc::downgrade(self);
                cluster.sign_out(&connection.user, &connection.id_text, move || {
                    // Plugins take their time; the pipeline must not wait.
                    if let Some(router) = router.upgrade() {
                        router.clone().tasks.spawn(async move { router.on_user(&user, "offline") });
                    }
                });
            }
            None if self.hub.connections_of(&user).is_empty() => self.on_user(&user, "offline"),
            None => {}
        }
    }

    /// Takes a connection into the hub. With a cluster its user's limit was
    /// looked at there.
    fn add(&self, generation: &Generation, connection: &Arc<Connection>) -> Result<(), NotConnected> {
        let limits = &generation.config.limits;
        let max = if self.cluster.is_some() { usize::MAX } else { limits.connections_per_user };
        let closes = limits.user_limit == UserLimit::CloseOldest;
        self.hub
            .add(connection, if closes { usize::MAX } else { max })
            .map_err(|_| NotConnected::from(Close::CONNECTION_LIMIT))?;
        if closes && max < usize::MAX && !connection.user.is_empty() {
            // All newcomers of one moment see each other here, and which of
            // the older ones end already.
            let mut devices = self.hub.connections_of(&connection.user);
            devices.retain(|device| device.outbox.closing().is_none());
            for oldest in devices.iter().take(devices.len().saturating_sub(max)) {
                oldest.outbox.close(Close::CONNECTION_LIMIT);
            }
        }
        Ok(())
    }

    /// Forgets a connection that has ended, and tells those whom it concerns.
    /// Where one that `may_return` has a grace, it counts as present for that
    /// long; on an instance that ends, the others see to that.
    pub fn disconnected(self: &Arc<Self>, connection: &Arc<Connection>, may_return: bool, batch: &mut Batch<'_>) {
        let generation = self.generation();
        let rooms = self.forget(&generation, connection, batch);
        let grace = |room: &RoomName| {
            let grace = generation.room(room).map_or(Duration::ZERO, |(entry, _)| entry.presence_grace);
            grace.min(if may_return { Duration::MAX } else { Duration::ZERO })
        };
        let (linger, leave): (Vec<_>, Vec<_>) = rooms.into_iter().partition(|room| !grace(room).is_zero());
        for room in leave {
            self.take_out(&generation, connection, &room, None, 0, batch);
        }
        for room in linger {
            let (router, connection, grace) = (Arc::clone(self), Arc::clone(connection), grace(&room));
            self.tasks.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(grace) => {}
                    () = router.stop.cancelled() => return,
                }
                let mut batch = Batch::new(&router.flusher);
                router.take_out(&router.generation(), &connection, &room, None, 0, &mut batch);
            });
        }
    }

    /// Takes a connection out of the hub; the rooms that it was in are left to
    /// the caller.
    fn forget(
        self: &Arc<Self>,
        generation: &Arc<Generation>,
        connection: &Connection,
        batch: &mut Batch<'_>,
    ) -> Vec<RoomName> {
        let Some(rooms) = self.hub.remove(connection) else { return Vec::new() };
        self.questions.forget(connection.id);
        let event = EventView { kind: "disconnected", room: "" };
        self.observe(generation, generation.observers(), connection, event, 0, batch);
        self.sign_out(connection);
        rooms
    }

    /// Plugins first, then the token, then whether anybody may come.
    pub(super) async fn identify(
        &self,
        generation: &Generation,
        id: &str,
        hello: &Hello<'_>,
    ) -> Result<Known, NotConnected> {
        let asked = HelloView {
            connection: id,
            token: &hello.token,
            data: hello.data.as_ref(),
            name: &hello.name,
            version: &hello.version,
        };
        for plugin in &generation.authenticators {
            match plugin.authenticate(asked) {
                Ok(Authentication::Accept(identity)) => return check_known(generation, by_plugin(identity)),
                Ok(Authentication::Refuse(refusal)) => return Err(refusal.into()),
                Ok(Authentication::Abstain) => {}
                Err(failure) => on_failure(plugin, &failure)?,
            }
        }
        match hello.token.is_empty() {
            // A token that nobody can check must not pass for anonymous.
            false if !generation.tokens.can_check() => Err(Close::INVALID_TOKEN.into()),
            false => match generation.tokens.connection(&hello.token, &self.tasks).await {
                Ok(claims) => {
                    let known = by_token(claims);
                    // A token of nobody says no more than no token.
                    let is_somebody = !known.user.is_empty() || generation.config.auth.anonymous;
                    if !is_somebody || self.is_revoked(&known.user, &known.token) {
                        return Err(Close::INVALID_TOKEN.into());
                    }
                    check_known(generation, known)
                }
                Err(BadToken::Expired) => Err(Refusal::TOKEN_EXPIRED.into()),
                Err(BadToken::Invalid) => Err(Close::INVALID_TOKEN.into()),
                Err(BadToken::Unknown) => Err(Refusal::BUS_DOWN.into()),
            },
            true if generation.config.auth.anonymous => Ok(Known::default()),
            true => Err(Refusal::UNAUTHORIZED.into()),
        }
    }
}

fn by_plugin(identity: Identity) -> Known {
    let Identity { user, info, rooms, expires_at } = identity;
    let subs = rooms.into_iter().map(|room| Sub { room, ..Sub::default() }).collect();
    // What a plugin has let in was let in now.
    let token = TokenId { jti: None, issued_at: auth::now() };
    Known { user, info, subs, expires_at, token }
}

fn by_token(claims: ConnectionClaims) -> Known {
    let ConnectionClaims { user, info, subs, expires_at, token } = claims;
    Known { user, info: info.unwrap_or_default(), subs, expires_at, token }
}

fn check_known(generation: &Generation, known: Known) -> Result<Known, NotConnected> {
    // On the second of its end a token still passes the check of its signature,
    // and would let the client in just to be closed, again and again.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if known.expires_at.is_some_and(|at| Duration::from_millis(at) <= now) {
        return Err(Refusal::TOKEN_EXPIRED.into());
    }
    if !known.user.is_empty() {
        check_name(&known.user, generation.config.limits.name_length)?;
    }
    Ok(known)
}

/// The rooms that the identity names, and the user's own. One that is not
/// admitted keeps the connection out: it would otherwise believe to be in.
fn admit_rooms(generation: &Generation, id: &str, known: &Known) -> Result<Vec<(RoomName, Admitted)>, NotConnected> {
    let caller = Caller { connection: id, user: &known.user, info: &known.info };
    let mut rooms: Vec<(RoomName, Admitted)> = Vec::new();
    if generation.config.server.personal_rooms && !known.user.is_empty() {
        rooms.push((format!("user:{}", known.user).into(), Admitted::personal()));
    }
    for sub in &known.subs {
        let room = &sub.room;
        check_name(room, generation.config.limits.name_length)?;
        if rooms.iter().any(|(known, _)| **known == **room) {
            continue;
        }
        if super::is_personal(generation, room) {
            return Err(Refusal::PERMISSION_DENIED.into());
        }
        let mut admitted = admit(generation, caller, JoinView { room, token: "", data: None }, Wish::Server)?;
        grant(generation, &mut admitted, sub.clone(), &known.token)?;
        rooms.push((room.as_str().into(), admitted));
    }
    if rooms.len() > generation.config.limits.rooms_per_connection {
        return Err(Refusal::LIMIT_EXCEEDED.into());
    }
    Ok(rooms)
}
