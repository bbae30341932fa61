//! The names of keys and channels in Redis.
//!
//! Everything that one script touches carries one hash tag and so lives on one
//! node of a Redis Cluster: `{r:…}` for a room, `{u:…}` for a user, `{i}` for
//! the instances. Names chosen by users are escaped, so that none can end the
//! tag or pass for another's key.

use crate::id::{BootId, InstanceId};

/// The layout of what is in Redis. Instances of different layouts must not
/// share a prefix.
pub(super) const LAYOUT: &str = "1";

/// Makes names under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// As in the config, with the layout behind it.
    base: String,
    prefix: String,
}

/// Replaces what has a meaning in keys.
fn escape(name: &str) -> std::borrow::Cow<'_, str> {
    if !name.contains(['{', '}', '%']) {
        return name.into();
    }
    let mut escaped = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        match c {
            '{' => escaped.push_str("%7B"),
            '}' => escaped.push_str("%7D"),
            '%' => escaped.push_str("%25"),
            c => escaped.push(c),
        }
    }
    escaped.into()
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { base: format!("{prefix}:{LAYOUT}"), prefix: prefix.to_owned() }
    }

    /// Says which layout is in use under the prefix.
    pub(super) fn layout(&self) -> String {
        format!("{}:layout", self.prefix)
    }

    /// A part of what is kept of a room; also the start of its channel.
    pub(super) fn room(&self, room: &str, part: &str) -> String {
        format!("{}:{{r:{}}}:{part}", self.base, escape(room))
    }

    /// A part of what is kept of a user.
    pub(super) fn user(&self, user: &str, part: &str) -> String {
        format!("{}:{{u:{}}}:{part}", self.base, escape(user))
    }

    /// Something of all instances.
    pub(super) fn instances(&self, part: &str) -> String {
        format!("{}:{{i}}:{part}", self.base)
    }

    /// Something of one instance; beside the others'.
    pub(super) fn instance(&self, part: &str, instance: InstanceId) -> String {
        format!("{}:{{i}}:{part}:{instance}", self.base)
    }

    /// Something of a plugin.
    pub(super) fn plugin(&self, plugin: &str, part: &str) -> String {
        format!("{}:{{p:{}}}:{part}", self.base, escape(plugin))
    }

    /// Something that is counted against a limit.
    pub(super) fn limit(&self, kind: &str, name: &str) -> String {
        format!("{}:{{l:{kind}:{}}}", self.base, escape(name))
    }

    /// The channel of a room.
    pub(super) fn room_topic(&self, room: &str) -> String {
        self.room(room, "c")
    }

    /// The channel of a user.
    pub(super) fn user_topic(&self, user: &str) -> String {
        self.user(user, "c")
    }

    /// The channel of one instance.
    pub(super) fn instance_topic(&self, boot: BootId) -> String {
        format!("{}:{{b:{boot}}}", self.base)
    }

    /// The channel that every instance hears.
    pub(super) fn everyone_topic(&self) -> String {
        self.instances("all")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_the_hash_tag_or_passes_for_another() {
        let keys = Keys::new("w");
        assert_eq!(keys.room("a", "m"), "w:1:{r:a}:m");
        assert_eq!(keys.room("}:m", "m"), "w:1:{r:%7D:m}:m");
        let names = ["", "}", "{", "%7D", "a}:h", "a", "a:h", "{}", "%"];
        let mut seen = std::collections::HashSet::new();
        for name in names {
            for part in ["m", "h"] {
                let key = keys.room(name, part);
                let tag = &key[key.find('{').unwrap() + 1..key.find('}').unwrap()];
                assert!(!tag.is_empty() && tag.starts_with("r:"), "{key}");
                assert!(seen.insert(key), "two rooms share a key");
            }
        }
    }
}
