//! The key-value stores of plugins, in memory: one a plugin, shared by its
//! guests and kept over reloads.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::protocol::Payload;

/// The longest key, in bytes.
const KEY_MAX: usize = 512;

/// All stores, by plugin.
#[derive(Debug, Default)]
pub(super) struct Stores(Mutex<HashMap<String, Arc<Kv>>>);

impl Stores {
    /// The store of a plugin; the same one each time.
    pub(super) fn of(&self, plugin: &str) -> Arc<Kv> {
        Arc::clone(self.0.lock().entry(plugin.to_owned()).or_default())
    }
}

/// One plugin's store. Held for one operation.
#[derive(Debug, Default)]
pub(super) struct Kv(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    values: HashMap<String, Entry>,
    /// Bytes of keys and values.
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    value: Payload,
    until: Option<Instant>,
}

/// Why a value was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotStored {
    Quota,
    TooLarge,
    NotANumber,
}

impl Entry {
    fn new(value: Payload, ttl: u64, now: Instant) -> Self {
        let until = (ttl > 0).then(|| now.checked_add(Duration::from_millis(ttl))).flatten();
        Self { value, until }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    fn size(&self, key: &str) -> usize {
        let value = match &self.value {
            Payload::Text(text) => text.len(),
            Payload::Binary(bytes) => bytes.len(),
        };
        key.len() + value
    }
}

impl Entries {
    fn remove(&mut self, key: &str) -> Option<Entry> {
        let entry = self.values.remove(key)?;
        self.bytes -= entry.size(key);
        Some(entry)
    }

    fn get(&mut self, key: &str, now: Instant) -> Option<&Entry> {
        if self.values.get(key)?.is_over(now) {
            self.remove(key);
        }
        self.values.get(key)
    }

    fn put(&mut self, key: &str, entry: Entry, quota: usize, now: Instant) -> Result<(), NotStored> {
        let size = entry.size(key);
        if key.len() > KEY_MAX || size > quota {
            return Err(NotStored::TooLarge);
        }
        let old = self.values.get(key).map_or(0, |old| old.size(key));
        if self.bytes - old + size > quota {
            // Only now is it worth to look for what is over.
            let over: Vec<_> =
                self.values.iter().filter(|(_, entry)| entry.is_over(now)).map(|(key, _)| key.clone()).collect();
            for key in over {
                self.remove(&key);
            }
            let old = self.values.get(key).map_or(0, |old| old.size(key));
            if self.bytes - old + size > quota {
                return Err(NotStored::Quota);
            }
        }
        self.remove(key);
        self.bytes += size;
        self.values.insert(key.to_owned(), entry);
        Ok(())
    }
}

impl Kv {
    pub(super) fn get(&self, key: &str) -> Option<Payload> {
        self.0.lock().get(key, Instant::now()).map(|entry| entry.value.clone())
    }

    pub(super) fn set(&self, key: &str, value: Payload, ttl: u64, quota: usize) -> Result<(), NotStored> {
        let now = Instant::now();
        self.0.lock().put(key, Entry::new(value, ttl, now), quota, now)
    }

    pub(super) fn delete(&self, key: &str) -> bool {
        self.0.lock().remove(key).is_some_and(|entry| !entry.is_over(Instant::now()))
    }

    pub(super) fn increment(&self, key: &str, by: i64, ttl: u64, quota: usize) -> Result<i64, NotStored> {
        let now = Instant::now();
        let mut entries = self.0.lock();
        let (value, until) = match entries.get(key, now) {
            None => (0, Entry::new(Payload::Text(String::new()), ttl, now).until),
            Some(Entry { value: Payload::Text(text), until }) => {
                (text.parse::<i64>().map_err(|_| NotStored::NotANumber)?, *until)
            }
            Some(_) => return Err(NotStored::NotANumber),
        };
        let value = value.saturating_add(by);
        let entry = Entry { value: Payload::Text(value.to_string()), until };
        entries.put(key, entry, quota, now)?;
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Payload {
        Payload::Text(value.to_owned())
    }

    #[test]
    fn the_quota_counts_keys_and_values_and_forgets_what_is_gone() {
        let kv = Kv::default();
        assert_eq!(kv.set("a", text("1234567"), 0, 16), Ok(()));
        assert_eq!(kv.set("b", text("1234567"), 0, 16), Ok(()));
        assert_eq!(kv.set("c", text("1"), 0, 16), Err(NotStored::Quota));
        assert_eq!(kv.set("b", text("12345678"), 0, 16), Err(NotStored::Quota));
        assert_eq!(kv.get("b"), Some(text("1234567")));
        assert!(kv.delete("a"));
        assert!(!kv.delete("a"));
        assert_eq!(kv.set("c", text("1"), 0, 16), Ok(()));
        assert_eq!(kv.set("d", text("12345678901234567"), 0, 16), Err(NotStored::TooLarge));
    }

    #[test]
    fn a_value_past_its_ttl_is_gone_and_makes_room() {
        let kv = Kv::default();
        let now = Instant::now();
        kv.0.lock().put("old", Entry { value: text("12345678"), until: Some(now) }, 16, now).unwrap();
        assert_eq!(kv.set("new", text("12345678"), 0, 16), Ok(()));
        assert_eq!(kv.get("old"), None);
    }

    #[test]
    fn numbers_count_up_from_nothing() {
        let kv = Kv::default();
        assert_eq!(kv.increment("n", 2, 0, 100), Ok(2));
        assert_eq!(kv.increment("n", -5, 0, 100), Ok(-3));
        assert_eq!(kv.get("n"), Some(text("-3")));
        kv.set("x", text("y"), 0, 100).unwrap();
        assert_eq!(kv.increment("x", 1, 0, 100), Err(NotStored::NotANumber));
    }
}
