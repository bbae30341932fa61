//! What the contestants are put to.

use super::contestant::{Contestant, Kind, With};
use super::dialect::As;
use super::load::{Message, Receiver, To};

/// Members of each of many rooms.
const MEMBERS: usize = 10;
/// Connections of a load at most, where a member may be in many rooms.
const CLIENTS: usize = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowd {
    /// One room of so many.
    Room(usize),
    /// So many rooms of ten; their members are spread over the instances, and so
    /// are the messages.
    Rooms(usize),
    /// So many rooms of one.
    Alone(usize),
    /// So many users on the last instance, written to from the first.
    Users(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    PerSecond(u64),
    /// As fast as it goes.
    Full,
    /// No messages: so many connections.
    Storm(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) id: &'static str,
    pub(crate) instances: usize,
    /// Also one instance has what it needs to be one of many.
    pub(crate) bus: bool,
    pub(crate) crowd: Crowd,
    pub(crate) pace: Pace,
    /// Bytes of a message's data.
    pub(crate) bytes: usize,
}

const fn one(id: &'static str, crowd: Crowd, pace: Pace, bytes: usize) -> Scenario {
    Scenario { id, instances: 1, bus: false, crowd, pace, bytes }
}

const fn many(id: &'static str, instances: usize, crowd: Crowd, per_second: u64) -> Scenario {
    Scenario { id, instances, bus: true, crowd, pace: Pace::PerSecond(per_second), bytes: 128 }
}

pub(crate) const ALL: [Scenario; 18] = [
    one("fanout-100", Crowd::Room(100), Pace::PerSecond(200), 128),
    one("fanout-1000", Crowd::Room(1000), Pace::PerSecond(20), 128),
    one("fanout-10000", Crowd::Room(10_000), Pace::PerSecond(2), 128),
    one("saturated-1000", Crowd::Room(1000), Pace::Full, 128),
    one("saturated-10000", Crowd::Room(10_000), Pace::Full, 128),
    one("rooms-1", Crowd::Rooms(1), Pace::PerSecond(1000), 128),
    one("rooms-100", Crowd::Rooms(100), Pace::PerSecond(1000), 128),
    one("rooms-10000", Crowd::Rooms(10_000), Pace::PerSecond(1000), 128),
    one("users", Crowd::Users(100), Pace::PerSecond(500), 128),
    one("hooks", Crowd::Alone(100), Pace::PerSecond(1000), 200),
    one("hooks-busy", Crowd::Alone(100), Pace::PerSecond(10_000), 200),
    one("large", Crowd::Room(50), Pace::PerSecond(10), 64 << 10),
    one("connect", Crowd::Alone(0), Pace::Storm(10_000), 0),
    many("one-rooms", 1, Crowd::Rooms(200), 1000),
    many("two-rooms", 2, Crowd::Rooms(200), 1000),
    many("three-rooms", 3, Crowd::Rooms(200), 1000),
    many("two-users", 2, Crowd::Users(100), 500),
    many("three-users", 3, Crowd::Users(100), 500),
];

impl Scenario {
    pub(crate) fn is_for(&self, contestant: &Contestant) -> bool {
        let plain = contestant.with == With::Nothing || matches!(contestant.with, With::Adapter(_));
        // The bare rooms know one room a connection.
        let is_bare = matches!(contestant.kind, Kind::Write | Kind::Raw | Kind::Axum);
        contestant.can_be(self.bus)
            && (plain || !matches!(self.pace, Pace::Storm(_)))
            && !(is_bare && self.crowd == Crowd::Rooms(10_000))
            && !(self.id.starts_with("hooks") && contestant.with == With::Protobuf)
    }

    pub(crate) fn connections(&self) -> usize {
        match (self.pace, self.crowd) {
            (Pace::Storm(count), _) => count,
            (_, Crowd::Room(members)) => members,
            (_, Crowd::Rooms(rooms)) => (rooms * MEMBERS).min(CLIENTS),
            (_, Crowd::Alone(count) | Crowd::Users(count)) => count,
        }
    }

    pub(crate) fn receivers(&self) -> Vec<Receiver> {
        let member = |place, rooms| Receiver { place, heard: As::Member(rooms) };
        match self.crowd {
            Crowd::Room(members) => (0..members).map(|n| member(n % self.instances, vec![room(0)])).collect(),
            Crowd::Alone(rooms) => (0..rooms).map(|n| member(n % self.instances, vec![room(n)])).collect(),
            Crowd::Rooms(rooms) => {
                let (memberships, clients) = (rooms * MEMBERS, self.connections());
                let of = |client| (client..memberships).step_by(clients).map(|n| room(n / MEMBERS)).collect();
                (0..clients).map(|client| member(client % MEMBERS % self.instances, of(client))).collect()
            }
            Crowd::Users(users) => {
                let heard = |n: usize| As::User(user(n));
                (0..users).map(|n| Receiver { place: self.instances - 1, heard: heard(n) }).collect()
            }
        }
    }

    /// The nth message.
    pub(crate) fn message(&self, n: usize) -> Message {
        let message = |place, to, receivers: std::ops::Range<usize>| {
            let (count, clients) = (receivers.len(), self.connections());
            Message { place, to, receivers: count, sum: receivers.map(|receiver| receiver % clients).sum() }
        };
        match self.crowd {
            Crowd::Room(members) => message(n % self.instances, To::Room(room(0)), 0..members),
            Crowd::Alone(rooms) => {
                let n = n % rooms;
                message(n % self.instances, To::Room(room(n)), n..n + 1)
            }
            // Every room gets messages from every instance, in turns.
            Crowd::Rooms(rooms) => {
                let (n, turn) = (n % rooms, n / rooms);
                message((n + turn) % self.instances, To::Room(room(n)), n * MEMBERS..(n + 1) * MEMBERS)
            }
            Crowd::Users(users) => message(0, To::User(user(n % users)), n % users..n % users + 1),
        }
    }
}

fn room(n: usize) -> String {
    format!("bench:{n}")
}

fn user(n: usize) -> String {
    format!("u{n}")
}
