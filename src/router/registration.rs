//! Which members all instances know of, when a reload changes in which rooms
//! that is so.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Router, is_personal, is_registered};
use crate::{
    cluster::{BusError, Cluster},
    config::JoinLeave,
    hub::Connection,
    id::RoomName,
    protocol::MemberInfo,
};

/// Members that are registered at once.
const AT_ONCE: usize = 500;

/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

impl Router {
    /// After each reload, registers whom the new config wants known and takes
    /// out whom it does not.
    pub async fn watch_registrations(self: Arc<Self>, cluster: Arc<Cluster>, stop: CancellationToken) {
        let mut replaced = self.replacements();
        loop {
            tokio::select! {
                changed = replaced.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            for room in self.hub.rooms() {
                self.register_until_done(&cluster, &room).await;
            }
        }
    }

    /// The same for one room, into which somebody came as a former config had
    /// it.
    pub(super) fn register_as_configured(self: &Arc<Self>, room: &RoomName) {
        let Some(cluster) = self.cluster.clone() else { return };
        let (router, room) = (Arc::clone(self), Arc::clone(room));
        self.tasks.spawn(async move { router.register_until_done(&cluster, &room).await });
    }

    async fn register_until_done(self: &Arc<Self>, cluster: &Arc<Cluster>, room: &RoomName) {
        while self.register_once(cluster, room).await.is_err() {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    async fn register_once(self: &Arc<Self>, cluster: &Arc<Cluster>, room: &RoomName) -> Result<(), BusError> {
        let wanted = self.registration(room);
        let is_other = |connection: &Arc<Connection>| {
            // A room that is not heard is not in this instance's index either.
            connection.membership(room).is_some_and(|it| it.registered != wanted && it.kept.is_some())
        };
        let changed: Vec<_> = self.hub.connections_in(room).into_iter().filter(is_other).collect();
        if changed.is_empty() {
            return Ok(());
        }
        match wanted {
            None => {
                for connection in &changed {
                    connection.set_registered(room, None);
                    cluster.exit(room, &connection.id_text);
                }
            }
            Some(told_of) => {
                for connections in changed.chunks(AT_ONCE) {
                    register(cluster, room, connections, told_of).await?;
                }
            }
        }
        match wanted {
            None | Some(JoinLeave::Off) => self.unknow(room),
            Some(_) => self.know(room),
        }
        Ok(())
    }

    /// Of whom all instances are told in a room, as the config has it; None:
    /// they do not know who is there.
    fn registration(&self, room: &str) -> Option<JoinLeave> {
        let generation = self.generation();
        let (entry, _) = generation.room(room).filter(|_| !is_personal(&generation, room))?;
        is_registered(entry).then_some(entry.join_leave)
    }

    /// The members here whom all instances know of, by room and by whom they
    /// are told of.
    pub(super) fn all_registered(&self) -> Vec<(RoomName, Vec<MemberInfo>, JoinLeave)> {
        let mut all = Vec::new();
        for room in self.hub.rooms() {
            let mut members =
                [JoinLeave::Off, JoinLeave::Connections, JoinLeave::Users].map(|told_of| (told_of, vec![]));
            for connection in self.hub.connections_in(&room) {
                let Some(membership) = connection.membership(&room) else { continue };
                let of_kind = members.iter_mut().find(|(told_of, _)| Some(*told_of) == membership.registered);
                if let Some((_, members)) = of_kind {
                    members.push(connection.as_member(membership.info));
                }
            }
            let some = members.into_iter().filter(|(_, members)| !members.is_empty());
            all.extend(some.map(|(told_of, members)| (Arc::clone(&room), members, told_of)));
        }
        all
    }
}

async fn register(
    cluster: &Arc<Cluster>,
    room: &RoomName,
    connections: &[Arc<Connection>],
    told_of: JoinLeave,
) -> Result<(), BusError> {
    let as_member = |connection: &Arc<Connection>| Some(connection.as_member(connection.membership(room)?.info));
    let members: Vec<_> = connections.iter().filter_map(as_member).collect();
    // Before it is so, so that nobody takes them for strays; and who leaves
    // before it is so is taken out behind it.
    for connection in connections {
        connection.set_registered(room, Some(told_of));
    }
    let entered = cluster.enter(room, &members, told_of).await;
    for connection in connections {
        if entered.is_err() {
            connection.set_registered(room, None);
        }
        if entered.is_err() || connection.membership(room).is_none() {
            cluster.exit(room, &connection.id_text);
        }
    }
    entered.map(|_| ())
}
