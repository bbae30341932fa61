//! The beginning and the end of a connection.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Router,
    join::{Admitted, admit, check_name, joined},
    on_failure,
};
use crate::{
    auth::BadToken,
    generation::Generation,
    hub::{Connection, NotAdded, Told},
    id::{ConnectionId, RoomName},
    plugin::{Authentication, Caller, EventView, HelloView, Identity, JoinView},
    protocol::{Close, Encoding, Hello, Refusal, Reply, Welcome},
    session::{flusher::Batch, outbox::Outbox},
};

/// A socket that says hello.
#[derive(Debug)]
pub struct Newcomer {
    /// The id that it will have.
    pub id: ConnectionId,
    /// The wire it speaks.
    pub encoding: Encoding,
    /// Where its frames go.
    pub outbox: Arc<Outbox>,
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
    /// everything else. Returns when its identity expires, in milliseconds
    /// since 1970, beside the connection.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn connect(
        &self,
        newcomer: &Newcomer,
        id: u32,
        hello: &Hello<'_>,
        batch: &mut Batch<'_>,
    ) -> Result<(Arc<Connection>, Option<u64>), NotConnected> {
        let generation = self.generation.load();
        let id_text = newcomer.id.to_string();
        let identity = authenticate(&generation, &id_text, hello)?;
        let rooms = admit_rooms(&generation, &id_text, &identity)?;
        let Newcomer { encoding, outbox, .. } = newcomer;
        let connection =
            Connection::new(newcomer.id, identity.user.into(), identity.info.into(), *encoding, Arc::clone(outbox));
        let connection = Arc::new(connection);
        // Others may speak to its user from the moment that the hub knows it.
        outbox.hold();
        let added = self.hub.add(&connection, generation.config.limits.connections_per_user);
        if let Err(NotAdded::Limit | NotAdded::Already | NotAdded::Gone) = added {
            return Err(Close::CONNECTION_LIMIT.into());
        }
        let server = &generation.config.server;
        let told: Vec<_> = rooms.iter().map(|(room, admitted)| (Arc::clone(room), admitted.data.clone())).collect();
        let welcome = Welcome {
            connection: &connection.id_text,
            instance: &self.instance,
            ping: server.ping_interval.as_secs(),
            pong: server.require_pong,
            rooms: &told,
        };
        outbox.greet_in(encoding.reply(id, &Reply::Connected(welcome)), batch);
        for (room, admitted) in rooms {
            // The number was checked and nobody else knows the connection.
            let member = connection.as_member(Arc::clone(&admitted.membership.info));
            let told = Told { own: None, others: joined(&generation, &room, &member) };
            if self.hub.join(&connection, &room, admitted.membership, usize::MAX, &told, batch).is_ok() {
                self.observe_room(&generation, &connection, "joined", &room, 0, batch);
            }
        }
        let event = EventView { kind: "connected", room: "" };
        self.observe(&generation, generation.observers(), &connection, event, 0, batch);
        Ok((connection, identity.expires_at))
    }

    /// Forgets a connection that has ended, and tells those whom it concerns.
    pub fn disconnected(&self, connection: &Connection, batch: &mut Batch<'_>) {
        let generation = self.generation.load();
        for room in self.hub.remove(connection) {
            self.take_out(&generation, connection, &room, None, 0, batch);
        }
        let event = EventView { kind: "disconnected", room: "" };
        self.observe(&generation, generation.observers(), connection, event, 0, batch);
    }
}

/// Plugins first, then the token, then whether anybody may come.
fn authenticate(generation: &Generation, id: &str, hello: &Hello<'_>) -> Result<Identity, NotConnected> {
    let asked =
        HelloView { connection: id, token: &hello.token, data: hello.data, name: &hello.name, version: &hello.version };
    for plugin in &generation.authenticators {
        match plugin.authenticate(asked) {
            Ok(Authentication::Accept(identity)) => return check_identity(generation, identity),
            Ok(Authentication::Refuse(refusal)) => return Err(refusal.into()),
            Ok(Authentication::Abstain) => {}
            Err(failure) => on_failure(plugin, &failure)?,
        }
    }
    match (&generation.tokens, hello.token.is_empty()) {
        (Some(tokens), false) => match tokens.check(&hello.token) {
            Ok(identity) => check_identity(generation, identity),
            Err(BadToken::Expired) => Err(Refusal::TOKEN_EXPIRED.into()),
            Err(BadToken::Invalid) => Err(Close::INVALID_TOKEN.into()),
        },
        // A token that nobody can check must not pass for anonymous.
        (None, false) => Err(Close::INVALID_TOKEN.into()),
        (_, true) if generation.config.auth.anonymous => Ok(Identity::default()),
        (_, true) => Err(Refusal::UNAUTHORIZED.into()),
    }
}

fn check_identity(generation: &Generation, identity: Identity) -> Result<Identity, NotConnected> {
    // On the second of its end a token still passes the check of its signature,
    // and would let the client in just to be closed, again and again.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if identity.expires_at.is_some_and(|at| Duration::from_millis(at) <= now) {
        return Err(Refusal::TOKEN_EXPIRED.into());
    }
    if !identity.user.is_empty() {
        check_name(&identity.user, generation.config.limits.name_length)?;
    }
    Ok(identity)
}

/// The rooms that the identity names, and the user's own. One that is not
/// admitted keeps the connection out: it would otherwise believe to be in.
fn admit_rooms(
    generation: &Generation,
    id: &str,
    identity: &Identity,
) -> Result<Vec<(RoomName, Admitted)>, NotConnected> {
    let caller = Caller { connection: id, user: &identity.user, info: &identity.info };
    let mut rooms: Vec<(RoomName, Admitted)> = Vec::new();
    if generation.config.server.personal_rooms && !identity.user.is_empty() {
        rooms.push((format!("user:{}", identity.user).into(), Admitted::personal()));
    }
    for room in &identity.rooms {
        check_name(room, generation.config.limits.name_length)?;
        if rooms.iter().any(|(known, _)| **known == **room) {
            continue;
        }
        if super::is_personal(generation, room) {
            return Err(Refusal::PERMISSION_DENIED.into());
        }
        let admitted = admit(generation, caller, JoinView { room, token: "", data: None }, true)?;
        rooms.push((room.as_str().into(), admitted));
    }
    if rooms.len() > generation.config.limits.rooms_per_connection {
        return Err(Refusal::LIMIT_EXCEEDED.into());
    }
    Ok(rooms)
}
