//! Who is to be sent what.

use std::collections::HashMap;

use slab::Slab;

use super::connection::Connection;
use crate::wire;

/// A room stays when its last member leaves, since the benches' rooms do.
#[derive(Default)]
pub(super) struct Rooms {
    ids: HashMap<Vec<u8>, usize>,
    rooms: Vec<Room>,
    /// Those with frames to deliver.
    touched: Vec<usize>,
}

#[derive(Default)]
pub(super) struct Room {
    pub(super) members: Vec<usize>,
    /// At Redis, if there is one.
    pub(super) subscribed: bool,
    /// To be written to each member, all at once.
    frames: Vec<u8>,
}

impl Rooms {
    pub(super) fn get_or_open(&mut self, name: &[u8]) -> (usize, &mut Room) {
        let id = self.ids.get(name).copied().unwrap_or_else(|| {
            self.ids.insert(name.to_vec(), self.rooms.len());
            self.rooms.push(Room::default());
            self.rooms.len() - 1
        });
        (id, &mut self.rooms[id])
    }

    pub(super) fn leave(&mut self, room: usize, key: usize) {
        self.rooms[room].members.retain(|member| *member != key);
    }

    /// A message to a room is joined to what waits for it already.
    pub(super) fn add(&mut self, room: &[u8], data: &[u8]) {
        // A room that was never opened has no members.
        let Some(&id) = self.ids.get(room) else { return };
        let room = &mut self.rooms[id];
        if room.frames.is_empty() {
            self.touched.push(id);
        }
        wire::put(&mut room.frames, wire::TEXT, data);
    }

    pub(super) fn deliver(&mut self, connections: &mut Slab<Connection>) {
        for id in self.touched.drain(..) {
            let room = &mut self.rooms[id];
            for &member in &room.members {
                connections[member].pipe.write(&room.frames);
            }
            room.frames.clear();
        }
    }
}
