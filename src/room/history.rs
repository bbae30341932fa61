//! The messages that a room keeps, and what a client that comes back gets.
//!
//! Offsets count a room's messages from 1 without a hole. They mean something
//! only beside the epoch: a room whose history was lost begins another. Two
//! stores keep messages, one in memory and one in Redis, and one decision says
//! for both what a client has missed.

mod memory;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

pub use self::memory::MemoryHistory;
use super::Position;

/// The most messages that one recovery hands out. Who has missed more is told
/// to read the history, or to begin anew.
pub const RECOVERY_MAX: usize = 1_000;

/// How long an idempotency key is remembered.
pub const KEY_TTL: Duration = Duration::from_secs(600);

/// How long a room's count is remembered after its last message, beyond the
/// age of its messages.
pub const COUNT_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// The longest idempotency key, in bytes.
pub const KEY_MAX: usize = 64;

/// A message that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its place.
    pub offset: u64,
    /// Its frame, as instances send it.
    pub frame: Bytes,
}

/// What reading a room's history gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The epoch.
    pub epoch: Arc<str>,
    /// The offset of the newest message; 0 before the first.
    pub top: u64,
    /// Epochs before it, newest first, each with the last offset that it has in
    /// common with the next: what was written behind it is lost.
    pub past: Vec<(Arc<str>, u64)>,
    /// In order, unless they were asked for in reverse.
    pub messages: Vec<Kept>,
}

/// Which messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// None: only the position is asked.
    Nothing,
    /// The oldest behind an offset; None: from the start.
    Forward {
        /// The offset.
        since: Option<u64>,
        /// How many.
        limit: usize,
    },
    /// The newest before an offset; None: from the end.
    Reverse {
        /// The offset.
        since: Option<u64>,
        /// How many.
        limit: usize,
    },
}

/// What became of a message that was to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Where it stands.
    pub position: Position,
    /// False: its idempotency key was known, and it stands there already.
    pub is_new: bool,
}

impl Reading {
    /// Its newest position.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { epoch: Arc::clone(&self.epoch), offset: self.top }
    }

    /// True if whoever has seen `offset` of `epoch` has seen what this history
    /// holds up to there.
    #[must_use]
    pub fn continues(&self, epoch: &str, offset: u64) -> bool {
        if offset > self.top {
            return false;
        }
        if *self.epoch == *epoch {
            return true;
        }
        // Every fork between that epoch and ours must lie behind the offset.
        for (past, fork) in &self.past {
            if offset > *fork {
                return false;
            }
            if **past == *epoch {
                return true;
            }
        }
        false
    }

    /// What a client has missed that has seen everything up to `offset` of
    /// `epoch`. None: that cannot be said, or not all of it is there. The
    /// reading must be a forward one since that offset.
    #[must_use]
    pub fn missed(&self, epoch: &str, offset: u64) -> Option<&[Kept]> {
        if !self.continues(epoch, offset) {
            return None;
        }
        let complete = self.messages.len() as u64 == self.top - offset
            && self.messages.iter().zip(offset + 1..).all(|(kept, expected)| kept.offset == expected);
        complete.then_some(&self.messages)
    }
}

/// A name for a new epoch.
#[must_use]
pub fn new_epoch() -> String {
    data_encoding::HEXLOWER.encode(&crate::id::random_bytes::<5>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reading(epoch: &str, top: u64, past: &[(&str, u64)], offsets: &[u64]) -> Reading {
        Reading {
            epoch: epoch.into(),
            top,
            past: past.iter().map(|(epoch, fork)| ((*epoch).into(), *fork)).collect(),
            messages: offsets.iter().map(|offset| Kept { offset: *offset, frame: Bytes::new() }).collect(),
        }
    }

    fn offsets(missed: Option<&[Kept]>) -> Option<Vec<u64>> {
        missed.map(|missed| missed.iter().map(|kept| kept.offset).collect())
    }

    #[test]
    fn what_was_missed_is_all_or_nothing() {
        let read = reading("e", 5, &[], &[4, 5]);
        assert_eq!(offsets(read.missed("e", 3)), Some(vec![4, 5]));
        assert_eq!(offsets(reading("e", 5, &[], &[]).missed("e", 5)), Some(vec![]));
        assert_eq!(read.missed("e", 2), None, "3 is gone");
        assert_eq!(read.missed("f", 3), None, "another history");
        assert_eq!(reading("e", 5, &[], &[]).missed("e", 6), None, "never written");
        assert_eq!(reading("e", 5, &[], &[4]).missed("e", 3), None, "cut off by a limit");
    }

    #[test]
    fn a_client_that_knows_lost_messages_is_told() {
        // Up to 7 the new master has what the old one had; 8 to 10 are lost,
        // and others have been written in their place.
        let read = |offsets: &[u64]| reading("new", 12, &[("old", 7)], offsets);
        assert_eq!(read(&[11, 12]).missed("old", 10), None);
        assert_eq!(offsets(read(&[8, 9, 10, 11, 12]).missed("old", 7)), Some(vec![8, 9, 10, 11, 12]));
        // Two failovers: both forks count.
        let twice = |offsets: &[u64]| reading("c", 9, &[("b", 6), ("a", 8)], offsets);
        assert_eq!(twice(&[8, 9]).missed("a", 7), None);
        assert_eq!(offsets(twice(&[7, 8, 9]).missed("a", 6)), Some(vec![7, 8, 9]));
    }

    /// What a server has of a room: as append.lua and history.lua keep it.
    #[derive(Debug, Clone)]
    struct Server {
        epoch: usize,
        past: Vec<(usize, u64)>,
        /// Every message, also those that are not kept any more.
        all: Vec<u32>,
    }

    #[derive(Debug, Clone)]
    enum Event {
        Append,
        /// Another server takes over and has not had the last messages.
        FailOver(usize),
        /// Everything is lost.
        Wipe,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![8 => Just(Event::Append), 2 => (0usize..5).prop_map(Event::FailOver), 1 => Just(Event::Wipe)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn who_is_said_to_have_recovered_has_what_the_room_has(
            events in prop::collection::vec(event(), 1..60),
            kept in 1usize..12,
        ) {
            let mut server = Server { epoch: 0, past: Vec::new(), all: Vec::new() };
            // Everything that a client can have been told: where it stands, and what it has.
            let mut told = vec![server.clone()];
            for (n, event) in events.iter().enumerate() {
                match event {
                    Event::Append => server.all.push(u32::try_from(n).unwrap()),
                    Event::FailOver(lost) => {
                        server.all.truncate(server.all.len().saturating_sub(*lost));
                        server.past.insert(0, (server.epoch, server.all.len() as u64));
                        server.epoch = n + 1;
                    }
                    Event::Wipe => server = Server { epoch: n + 1, past: Vec::new(), all: Vec::new() },
                }
                told.push(server.clone());
            }
            let name = |epoch: usize| Arc::<str>::from(format!("e{epoch}"));
            let frame = |message: &u32| Bytes::copy_from_slice(&message.to_le_bytes());
            for client in told {
                let (epoch, offset) = (name(client.epoch), client.all.len());
                let is_here = server.epoch == client.epoch || server.past.iter().any(|(past, _)| *past == client.epoch);
                let has_the_same = is_here && server.all.starts_with(&client.all);
                let messages = server.all.iter().enumerate().skip(offset.max(server.all.len().saturating_sub(kept)));
                let messages = messages.map(|(at, message)| Kept { offset: at as u64 + 1, frame: frame(message) });
                let reading = Reading {
                    epoch: name(server.epoch),
                    top: server.all.len() as u64,
                    past: server.past.iter().map(|(past, fork)| (name(*past), *fork)).collect(),
                    messages: messages.collect(),
                };
                prop_assert_eq!(reading.continues(&epoch, offset as u64), has_the_same);
                let expected = has_the_same && server.all.len() - offset <= kept;
                let missed = reading.missed(&epoch, offset as u64);
                prop_assert_eq!(missed.is_some(), expected);
                if let Some(missed) = missed {
                    let frames: Vec<Bytes> = missed.iter().map(|kept| kept.frame.clone()).collect();
                    prop_assert_eq!(frames, server.all[offset..].iter().map(frame).collect::<Vec<_>>());
                }
            }
        }

        #[test]
        fn of_any_reading_only_all_or_nothing_is_handed_out(
            top in 0u64..20,
            fork in 0u64..20,
            offset in 0u64..20,
            offsets in prop::collection::vec(0u64..20, 0..8),
            is_past in any::<bool>(),
        ) {
            let read = reading("new", top, &[("old", fork)], &offsets);
            let epoch = if is_past { "old" } else { "new" };
            if let Some(missed) = read.missed(epoch, offset) {
                let missed: Vec<u64> = missed.iter().map(|kept| kept.offset).collect();
                prop_assert_eq!(missed, (offset + 1..=top).collect::<Vec<_>>());
                prop_assert!(!is_past || offset <= fork);
            }
        }
    }
}
