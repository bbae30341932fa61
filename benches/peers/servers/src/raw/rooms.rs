//! The queues of each room's members.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

#[derive(Default)]
pub(super) struct Rooms(Mutex<HashMap<Vec<u8>, Arc<Room>>>);

#[derive(Default)]
pub(super) struct Room {
    members: Mutex<Vec<Sender<Bytes>>>,
}

impl Rooms {
    pub(super) fn join(&self, name: &str, member: Sender<Bytes>) -> Arc<Room> {
        let room = Arc::clone(self.0.lock().entry(name.into()).or_default());
        room.members.lock().push(member);
        room
    }

    pub(super) async fn publish(&self, room: &[u8], frame: Bytes) {
        let room = self.0.lock().get(room).cloned();
        let full = room.map(|room| room.fill(&frame)).unwrap_or_default();
        for member in full {
            // Fails for one that has left.
            let _ = member.send(frame.clone()).await;
        }
    }
}

impl Room {
    /// Those who have no place left for it.
    fn fill(&self, frame: &Bytes) -> Vec<Sender<Bytes>> {
        let mut full = Vec::new();
        for member in &*self.members.lock() {
            if let Err(TrySendError::Full(_)) = member.try_send(frame.clone()) {
                full.push(member.clone());
            }
        }
        full
    }

    pub(super) fn leave(&self, member: &Sender<Bytes>) {
        self.members.lock().retain(|other| !other.same_channel(member));
    }
}
