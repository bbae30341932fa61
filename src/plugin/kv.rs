//! What plugins keep: a key-value store for each, shared by its guests and kept
//! over reloads.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock};

use super::{SystemTime, Time, Unavailable};
use crate::protocol::Payload;

/// The longest key, in bytes.
pub const KEY_MAX: usize = 512;

/// The stores of all plugins, by a plugin's name.
///
/// Each call is one atomic step. It is made while a guest waits, on a thread of
/// the runtime: a store that is elsewhere answers within a deadline of its own,
/// and blocks in place.
pub trait KvStore: Send + Sync + fmt::Debug {
    /// The value of a key; None: there is no such key, or its time is over.
    ///
    /// # Errors
    /// If the store cannot be asked now.
    fn get(&self, plugin: &str, key: &str) -> Result<Option<Payload>, Unavailable>;

    /// Puts a value, in place of one that was there and of its ttl. Without a
    /// ttl it stays until it is deleted.
    ///
    /// # Errors
    /// If it is larger than [`check_size`] allows, or would bring the sizes of
    /// all that the plugin has over `quota`; what was there then stays.
    fn set(
        &self,
        plugin: &str,
        key: &str,
        value: Payload,
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<(), NotStored>;

    /// Takes a key away; true if there was one.
    ///
    /// # Errors
    /// If the store cannot be asked now.
    fn delete(&self, plugin: &str, key: &str) -> Result<bool, Unavailable>;

    /// Adds to a whole number that is kept as text, and returns it; it stops at
    /// the ends of its type. A missing key counts as 0; only then `ttl` counts.
    ///
    /// # Errors
    /// As for `set`, or if the key holds something else.
    fn increment(
        &self,
        plugin: &str,
        key: &str,
        by: i64,
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<i64, NotStored>;
}

/// What an entry takes of its plugin's quota: the bytes of key and value.
#[must_use]
pub fn size(key: &str, value: &Payload) -> usize {
    let value = match value {
        Payload::Text(text) => text.len(),
        Payload::Binary(bytes) => bytes.len(),
    };
    key.len() + value
}

/// The size of an entry that can be kept at all.
///
/// # Errors
/// [`NotStored::TooLarge`], if its key is too long or it alone is over `quota`.
pub fn check_size(key: &str, value: &Payload, quota: usize) -> Result<usize, NotStored> {
    let size = size(key, value);
    if key.len() > KEY_MAX || size > quota { Err(NotStored::TooLarge) } else { Ok(size) }
}

/// All stores in the memory of this process, for a gateway that is alone.
#[derive(Debug)]
pub struct MemoryStore {
    plugins: RwLock<HashMap<String, Arc<Kv>>>,
    time: Arc<dyn Time>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::on(Arc::new(SystemTime))
    }
}

impl MemoryStore {
    /// One whose values end by this clock.
    #[must_use]
    pub fn on(time: Arc<dyn Time>) -> Self {
        Self { plugins: RwLock::default(), time }
    }

    /// All that a plugin has kept and that is not over.
    #[must_use]
    pub fn entries(&self, plugin: &str) -> BTreeMap<String, Payload> {
        self.of(plugin).entries(self.time.monotonic())
    }

    /// The store of a plugin; the same one each time.
    fn of(&self, plugin: &str) -> Arc<Kv> {
        if let Some(kv) = self.plugins.read().get(plugin) {
            return Arc::clone(kv);
        }
        Arc::clone(self.plugins.write().entry(plugin.to_owned()).or_default())
    }
}

impl KvStore for MemoryStore {
    fn get(&self, plugin: &str, key: &str) -> Result<Option<Payload>, Unavailable> {
        Ok(self.of(plugin).get(key, self.time.monotonic()))
    }

    fn set(
        &self,
        plugin: &str,
        key: &str,
        value: Payload,
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<(), NotStored> {
        self.of(plugin).set(key, value, ttl, quota, self.time.monotonic())
    }

    fn delete(&self, plugin: &str, key: &str) -> Result<bool, Unavailable> {
        Ok(self.of(plugin).delete(key, self.time.monotonic()))
    }

    fn increment(
        &self,
        plugin: &str,
        key: &str,
        by: i64,
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<i64, NotStored> {
        self.of(plugin).increment(key, by, ttl, quota, self.time.monotonic())
    }
}

/// One plugin's store. Held for one operation.
#[derive(Debug, Default)]
struct Kv(Mutex<Entries>);

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// The plugin's quota is used up.
    #[error("the quota is used up")]
    Quota,
    /// The key is too long, or the entry alone is over the quota.
    #[error("the key or the value is too large")]
    TooLarge,
    /// What is there is not a whole number as text.
    #[error("the key does not hold a whole number")]
    NotANumber,
    /// The store cannot be asked now; whether the value was kept is not known.
    #[error("the store is unavailable")]
    Unavailable,
}

impl From<Unavailable> for NotStored {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

impl Entry {
    fn new(value: Payload, ttl: Option<Duration>, now: Instant) -> Self {
        Self { value, until: ttl.and_then(|ttl| now.checked_add(ttl)) }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    fn size(&self, key: &str) -> usize {
        size(key, &self.value)
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
        let size = check_size(key, &entry.value, quota)?;
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
    fn entries(&self, now: Instant) -> BTreeMap<String, Payload> {
        let entries = self.0.lock();
        let there = entries.values.iter().filter(|(_, entry)| !entry.is_over(now));
        there.map(|(key, entry)| (key.clone(), entry.value.clone())).collect()
    }

    fn get(&self, key: &str, now: Instant) -> Option<Payload> {
        self.0.lock().get(key, now).map(|entry| entry.value.clone())
    }

    fn set(
        &self,
        key: &str,
        value: Payload,
        ttl: Option<Duration>,
        quota: usize,
        now: Instant,
    ) -> Result<(), NotStored> {
        self.0.lock().put(key, Entry::new(value, ttl, now), quota, now)
    }

    fn delete(&self, key: &str, now: Instant) -> bool {
        self.0.lock().remove(key).is_some_and(|entry| !entry.is_over(now))
    }

    fn increment(
        &self,
        key: &str,
        by: i64,
        ttl: Option<Duration>,
        quota: usize,
        now: Instant,
    ) -> Result<i64, NotStored> {
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
        let (kv, now) = (Kv::default(), Instant::now());
        assert_eq!(kv.set("a", text("1234567"), None, 16, now), Ok(()));
        assert_eq!(kv.set("b", text("1234567"), None, 16, now), Ok(()));
        assert_eq!(kv.set("c", text("1"), None, 16, now), Err(NotStored::Quota));
        assert_eq!(kv.set("b", text("12345678"), None, 16, now), Err(NotStored::Quota));
        assert_eq!(kv.get("b", now), Some(text("1234567")));
        assert!(kv.delete("a", now));
        assert!(!kv.delete("a", now));
        assert_eq!(kv.set("c", text("1"), None, 16, now), Ok(()));
        assert_eq!(kv.set("d", text("12345678901234567"), None, 16, now), Err(NotStored::TooLarge));
    }

    #[test]
    fn a_value_past_its_ttl_is_gone_and_makes_room() {
        let (kv, now) = (Kv::default(), Instant::now());
        kv.0.lock().put("old", Entry { value: text("12345678"), until: Some(now) }, 16, now).unwrap();
        assert_eq!(kv.set("new", text("12345678"), None, 16, now), Ok(()));
        assert_eq!(kv.get("old", now), None);
    }

    #[test]
    fn numbers_count_up_from_nothing() {
        let (kv, now) = (Kv::default(), Instant::now());
        assert_eq!(kv.increment("n", 2, None, 100, now), Ok(2));
        assert_eq!(kv.increment("n", -5, None, 100, now), Ok(-3));
        assert_eq!(kv.get("n", now), Some(text("-3")));
        kv.set("x", text("y"), None, 100, now).unwrap();
        assert_eq!(kv.increment("x", 1, None, 100, now), Err(NotStored::NotANumber));
    }
}
