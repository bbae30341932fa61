//! Members are asked about again after a reload, where the config wants that:
//! what a plugin allowed before, its successor may not.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{
    Router, is_personal,
    join::{Wish, admit},
};
use crate::{
    generation::Generation,
    hub::Connection,
    id::RoomName,
    plugin::{Caller, JoinView, without_blocking},
    session::flusher::Batch,
};

/// Members that are asked about before others have their turn.
const AT_ONCE: usize = 64;

impl Router {
    /// After each reload, takes out of their rooms whom the new generation would
    /// not let in.
    pub async fn watch_admissions(self: Arc<Self>, stop: CancellationToken) {
        let mut replaced = self.replacements();
        loop {
            tokio::select! {
                changed = replaced.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            let generation = self.generation();
            let is_asked = |room: &RoomName| {
                generation.room(room).is_some_and(|(entry, _)| entry.recheck) && !is_personal(&generation, room)
            };
            for room in self.hub.rooms().into_iter().filter(is_asked) {
                for members in self.hub.connections_in(&room).chunks(AT_ONCE) {
                    without_blocking(|| self.ask_again(&generation, &room, members));
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn ask_again(self: &Arc<Self>, generation: &Arc<Generation>, room: &RoomName, members: &[Arc<Connection>]) {
        let mut batch = Batch::new(&self.flusher);
        for member in members {
            let info = member.info();
            let caller = Caller { connection: &member.id_text, user: &member.user, info: &info };
            // It is there: whether it may come by its own wish is settled. What it
            // said when it came is not kept.
            let join = JoinView { room, token: "", data: None };
            if admit(generation, caller, join, Wish::Server).is_err() {
                self.leave_by_server(generation, member, room, 0, &mut batch);
            }
        }
    }
}
