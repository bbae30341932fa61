//! How single members hear a room otherwise than most: only some of its
//! messages, or as differences, or without who comes and goes.

use bytes::Bytes;

use crate::protocol::{Broadcast, Encoding, Filter, Payload};

/// What a member wants and the room grants.
#[derive(Debug, Default)]
pub struct Listening {
    /// Only these messages; None: all.
    pub filter: Option<Filter>,
    /// Messages as differences to those before them.
    pub delta: bool,
    /// Not who comes and goes.
    pub without_members: bool,
    /// Which of the room's messages it has heard last; 0: none, or not for
    /// certain.
    heard: u64,
}

/// What the room has said last, for those who take differences.
#[derive(Debug)]
pub(super) struct Latest {
    /// Counts the room's messages, from 1.
    pub(super) n: u64,
    pub(super) payload: Payload,
}

impl Listening {
    /// Of what it wants and the room grants.
    #[must_use]
    pub fn new(filter: Option<Filter>, delta: bool, without_members: bool) -> Self {
        Self { filter, delta, without_members, heard: 0 }
    }

    /// True if there is nothing unusual about it.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        self.filter.is_none() && !self.delta && !self.without_members
    }

    pub(super) fn wants(&self, broadcast: &Broadcast<'_>) -> bool {
        match (broadcast.publication(), &self.filter) {
            (Some(publication), Some(filter)) => filter.passes(publication.tags),
            (Some(_), None) => true,
            (None, _) => !(self.without_members && broadcast.is_about_members()),
        }
    }

    /// The frame for it, behind what the room has said last.
    pub(super) fn frame<'b>(
        &self,
        encoding: Encoding,
        broadcast: &'b Broadcast<'_>,
        latest: Option<&Latest>,
    ) -> &'b Bytes {
        if !self.delta {
            return broadcast.frame(encoding);
        }
        let before = latest.filter(|latest| latest.n == self.heard).map(|latest| &latest.payload);
        broadcast.delta_frame(encoding, before)
    }

    /// It has heard the room's message of this number; 0: perhaps it has not.
    pub(super) fn has_heard(&mut self, n: u64) {
        self.heard = n;
    }
}
