//! What may be left out for members that read too slowly.

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
};

use serde_json::Value;

use crate::{
    config::{SlowConfig, SlowPolicy},
    protocol::PayloadRef,
    session::outbox::Spare,
};

/// Nobody outside can make two marks alike.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl SlowConfig {
    /// For a message of a room.
    pub(super) fn spare(&self, room: &str, payload: PayloadRef<'_>) -> Spare {
        let at = self.at;
        // 0 marks what must go.
        let mark = |key: &str| HASHER.hash_one((room, key)) | 1;
        match self.policy {
            SlowPolicy::DropOldest => Spare::Oldest { mark: mark(""), at },
            SlowPolicy::DropNewest => Spare::Newest { at },
            SlowPolicy::Latest => Spare::Latest { mark: mark(&self.key_of(payload)), at },
        }
    }

    /// What tells messages that replace each other, as JSON. A message that has
    /// no such thing is like all others that have none.
    fn key_of(&self, payload: PayloadRef<'_>) -> String {
        let PayloadRef::Text(text) = payload else { return String::new() };
        if self.key.is_empty() {
            return String::new();
        }
        let data: Value = serde_json::from_str(text).unwrap_or_default();
        self.key.iter().try_fold(&data, |data, key| data.get(key)).map(ToString::to_string).unwrap_or_default()
    }
}
