//! Messages of rooms with history that should have come and have not.
//!
//! Redis forgets a message for whoever does not take it at once. A room with
//! history keeps it, and its offsets show that it is missing: it is read and
//! delivered in its place. Where that cannot be done, those who would notice
//! are told, so that they ask for what they can still get.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Router, remote};
use crate::{
    cluster::Cluster,
    config::HistoryConfig,
    hub::Placed,
    id::RoomName,
    protocol::{Broadcast, Push, codes},
    room::{
        Position,
        history::{RECOVERY_MAX, Range, Reading},
    },
    session::flusher::Batch,
};

/// How often the positions of all rooms are compared with what is kept.
const LOOK: Duration = Duration::from_secs(4);

/// Rooms in one such question.
const ROOMS: usize = 256;

/// How long to wait before a repair that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// Rooms that are read at once; each may bring as many messages as a recovery.
const AT_ONCE: usize = 32;

/// What is being repaired.
#[derive(Debug)]
pub(super) struct Repairs {
    /// The rooms; true: something more is missing there.
    rooms: Mutex<HashMap<RoomName, bool>>,
    turns: Semaphore,
}

impl Default for Repairs {
    fn default() -> Self {
        Self { rooms: Mutex::default(), turns: Semaphore::new(AT_ONCE) }
    }
}

impl Router {
    /// Brings a room's members up to date, beside everything else.
    pub(super) fn repair(self: &Arc<Self>, room: &str) {
        if let Some(again) = self.repairs.rooms.lock().get_mut(room) {
            *again = true;
            return;
        }
        let room: RoomName = room.into();
        self.repairs.rooms.lock().insert(Arc::clone(&room), false);
        let router = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                let done = {
                    let _turn = router.repairs.turns.acquire().await;
                    router.repair_once(&room).await
                };
                if !done && !router.stop.is_cancelled() {
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                let mut repairs = router.repairs.rooms.lock();
                if !done || repairs.get(&room) != Some(&true) {
                    repairs.remove(&room);
                    return;
                }
                repairs.insert(Arc::clone(&room), false);
            }
        });
    }

    /// False: Redis did not answer.
    async fn repair_once(self: &Arc<Self>, room: &RoomName) -> bool {
        let generation = self.generation();
        let Some(keep) = generation.room(room).and_then(|(entry, _)| entry.history) else { return true };
        loop {
            let Some(at) = self.hub.position(room) else { return true };
            let range = Range::Forward { since: Some(at.offset), limit: RECOVERY_MAX };
            let Ok(reading) = self.read(room, range, keep).await else { return false };
            let top = reading.position();
            // While it was read, the room may have moved on, or been left and
            // entered again: then this tells nothing of it.
            if !reading.continues(&at.epoch, at.offset) {
                if self.lost(room, &at, &top, true) {
                    return true;
                }
                continue;
            }
            // The same messages up to here, perhaps under another name; what
            // came behind them there is lost.
            let from = Position { epoch: Arc::clone(&reading.epoch), offset: at.offset };
            if from != at && !self.lost(room, &at, &from, false) {
                continue;
            }
            let Some(last) = reading.messages.last().map(|kept| kept.offset) else {
                // They were there and are not kept any more?
                if reading.top <= at.offset || self.lost(room, &from, &top, true) {
                    return true;
                }
                continue;
            };
            if !self.deliver_read(room, &reading) {
                let Some(at) = self.hub.position(room) else { return true };
                if self.lost(room, &at, &top, true) {
                    return true;
                }
                continue;
            }
            if last >= reading.top {
                return true;
            }
        }
    }

    /// Delivers what was read. False: it does not begin where the members stand.
    fn deliver_read(self: &Arc<Self>, room: &RoomName, reading: &Reading) -> bool {
        let mut batch = Batch::new(&self.flusher);
        for kept in &reading.messages {
            let Some(past) = remote::past_publication(kept) else { continue };
            let push = Push::Publication(past.borrowed(room));
            let position = Position { epoch: Arc::clone(&reading.epoch), offset: kept.offset };
            match self.hub.deliver_at(room, &position, &Broadcast::new(push), &mut batch) {
                Placed::Delivered(delivered) => {
                    self.metrics.delivered(delivered.queued, delivered.dropped);
                    self.metrics.cluster.repaired.inc();
                }
                Placed::Before => {}
                Placed::Gap => return false,
                Placed::Nobody => return true,
            }
        }
        true
    }

    /// Tells those who count on it that messages are lost to them, all or those
    /// who were ahead of the room; they come back by themselves and ask for what
    /// there is. False: the room does not stand there any more.
    fn lost(self: &Arc<Self>, room: &RoomName, from: &Position, to: &Position, to_all: bool) -> bool {
        let generation = self.generation();
        let mut batch = Batch::new(&self.flusher);
        let Some(connections) = self.hub.move_position(room, from, to, to_all) else { return false };
        for connection in connections {
            self.metrics.cluster.unrepaired.inc();
            let push = Push::YouLeft { room, code: codes::INSUFFICIENT_STATE, reason: "insufficient state" };
            let own = connection.encoding.push(&push);
            self.take_out(&generation, &connection, room, Some(own), 0, &mut batch);
        }
        true
    }

    /// Compares where all rooms stand with what is kept, now and then, and
    /// repairs what lies behind: a message that never came has no successor
    /// that would show it.
    pub async fn watch_positions(self: Arc<Self>, cluster: Arc<Cluster>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            self.compare_positions(&cluster).await;
        }
    }

    /// One comparison of all rooms.
    pub(super) async fn compare_positions(self: &Arc<Self>, cluster: &Cluster) {
        let generation = self.generation();
        let keep = |room: &RoomName| generation.room(room).and_then(|(entry, _)| entry.history);
        let rooms: Vec<(RoomName, Position, HistoryConfig)> = self
            .hub
            .positions()
            .into_iter()
            .filter_map(|(room, position)| keep(&room).map(|keep| (room, position, keep)))
            .collect();
        for rooms in rooms.chunks(ROOMS) {
            let asked: Vec<_> = rooms.iter().map(|(room, _, keep)| (Arc::clone(room), *keep)).collect();
            let Ok(readings) = cluster.positions(&asked).await else { return };
            for ((room, at, _), reading) in rooms.iter().zip(readings) {
                if reading.is_ok_and(|reading| reading.epoch != at.epoch || reading.top > at.offset) {
                    self.repair(room);
                }
            }
        }
    }
}
