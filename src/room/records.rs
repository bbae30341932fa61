//! Named JSON documents of a room.
//!
//! Each has a version that grows by one with each write. A write names the
//! version that it was made for, or is tried again on what is there; so no
//! write is lost to another.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::Value;

/// The longest name of a document, in bytes.
pub const NAME_MAX: usize = 128;

/// A document as it is kept: its text is empty once it is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// 0: it was never written.
    pub version: u64,
    /// A JSON text, or empty.
    pub text: String,
}

/// What is to be done with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Replace it.
    Set(Value),
    /// Change it by a JSON merge patch (RFC 7396).
    Patch(Value),
    /// Take it away.
    Delete,
}

/// The documents of a room, and the versions of some that were deleted: a late
/// writer must notice. As many are remembered as there may be documents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Documents {
    /// What is not among `records` has this version: it was deleted at that or
    /// before, or it was never written.
    pub floor: u64,
    /// By name.
    pub records: BTreeMap<String, Record>,
}

/// Why a document was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// It has another version.
    Conflict,
    /// The room has as many as it may.
    Full,
}

/// The documents of one instance that is alone.
#[derive(Debug, Default)]
pub struct MemoryRecords(Mutex<HashMap<Box<str>, Kept>>);

#[derive(Debug, Default)]
struct Kept {
    documents: Documents,
    /// When they are given up, if nobody writes.
    ends: Option<Instant>,
}

impl Documents {
    /// One document.
    #[must_use]
    pub fn get(&self, name: &str) -> Record {
        self.records.get(name).cloned().unwrap_or(Record { version: self.floor, text: String::new() })
    }

    /// Those that are not deleted.
    #[must_use]
    pub fn into_live(self) -> Vec<(String, Record)> {
        self.records.into_iter().filter(|(_, record)| !record.text.is_empty()).collect()
    }

    fn n_live(&self) -> usize {
        self.records.values().filter(|record| !record.text.is_empty()).count()
    }

    /// Forgets deleted ones when there are many.
    fn trim(&mut self, count: usize) {
        if self.records.len() > 2 * count {
            let dead = self.records.values().filter(|record| record.text.is_empty());
            self.floor = dead.map(|record| record.version).max().unwrap_or(0).max(self.floor);
            self.records.retain(|_, record| !record.text.is_empty());
        }
    }
}

impl Edit {
    /// As it is written in a call: `{"set": …}`, `{"patch": …}` or
    /// `{"delete": true}`.
    #[must_use]
    pub fn read(asked: &Value) -> Option<Self> {
        if let Some(value) = asked.get("set") {
            return Some(Self::Set(value.clone()));
        }
        if let Some(patch) = asked.get("patch") {
            return Some(Self::Patch(patch.clone()));
        }
        (asked["delete"] == Value::Bool(true)).then_some(Self::Delete)
    }

    /// What a document's text becomes.
    #[must_use]
    pub fn apply(&self, text: &str) -> String {
        match self {
            Self::Set(value) => value.to_string(),
            Self::Patch(patch) => {
                let mut value = serde_json::from_str(text).unwrap_or(Value::Null);
                merge(&mut value, patch);
                value.to_string()
            }
            Self::Delete => String::new(),
        }
    }
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(object) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            object.remove(name);
        } else {
            merge(object.entry(name.as_str()).or_insert(Value::Null), change);
        }
    }
}

impl MemoryRecords {
    /// All documents of a room.
    #[must_use]
    pub fn all(&self, room: &str) -> Documents {
        let rooms = self.0.lock();
        let kept = rooms.get(room).filter(|kept| !kept.is_over(Instant::now()));
        kept.map(|kept| kept.documents.clone()).unwrap_or_default()
    }

    /// One document.
    #[must_use]
    pub fn get(&self, room: &str, name: &str) -> Record {
        let rooms = self.0.lock();
        let kept = rooms.get(room).filter(|kept| !kept.is_over(Instant::now()));
        kept.map(|kept| kept.documents.get(name)).unwrap_or_default()
    }

    /// Writes a document that was read at `version`, of a room that may have
    /// `count` and keeps them for `ttl` after the last write, or for ever if
    /// that is zero. `tell` is told before anybody else can write.
    ///
    /// # Errors
    /// Why it is not written.
    #[expect(clippy::too_many_arguments, reason = "each is of another kind")]
    pub fn write(
        &self,
        room: &str,
        name: &str,
        version: u64,
        text: String,
        count: usize,
        ttl: Duration,
        tell: impl FnOnce(u64),
    ) -> Result<u64, Unwritten> {
        let now = Instant::now();
        let mut rooms = self.0.lock();
        let mut kept = rooms.remove(room).filter(|kept| !kept.is_over(now)).unwrap_or_default();
        let written = kept.write(name, version, text, count);
        if written.is_ok() {
            kept.ends = (!ttl.is_zero()).then(|| now + ttl);
        }
        if kept.documents != Documents::default() {
            rooms.insert(room.into(), kept);
        }
        written.inspect(|version| tell(*version))
    }

    /// Gives up what nobody has written for so long as it is kept.
    pub fn sweep(&self, now: Instant) {
        self.0.lock().retain(|_, kept| !kept.is_over(now));
    }
}

impl Kept {
    fn is_over(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    fn write(&mut self, name: &str, version: u64, text: String, count: usize) -> Result<u64, Unwritten> {
        let there = self.documents.get(name);
        if there.version != version {
            return Err(Unwritten::Conflict);
        }
        if there.text.is_empty() && !text.is_empty() && self.documents.n_live() >= count {
            return Err(Unwritten::Full);
        }
        self.documents.records.insert(name.to_owned(), Record { version: version + 1, text });
        self.documents.trim(count);
        Ok(version + 1)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_merges_as_the_rfc_says() {
        // RFC 7396, appendix A.
        let check = |target: Value, patch: Value, expected: Value| {
            let merged = Edit::Patch(patch).apply(&target.to_string());
            assert_eq!(serde_json::from_str::<Value>(&merged).unwrap(), expected);
        };
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"}));
        check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
        check(json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}));
        check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
        check(json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1}));
        check(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}));
        check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
    }

    fn write(records: &MemoryRecords, name: &str, version: u64, text: &str) -> Result<u64, Unwritten> {
        records.write("r", name, version, text.to_owned(), 2, Duration::ZERO, |_| {})
    }

    #[test]
    fn a_write_on_an_old_version_is_refused() {
        let records = MemoryRecords::default();
        assert_eq!(write(&records, "a", 0, "1"), Ok(1));
        assert_eq!(write(&records, "a", 0, "2"), Err(Unwritten::Conflict));
        assert_eq!(records.get("r", "a"), Record { version: 1, text: "1".into() });
        assert_eq!(write(&records, "a", 1, ""), Ok(2));
        assert!(records.all("r").into_live().is_empty(), "a deleted one keeps only its version");
    }

    #[test]
    fn there_are_as_many_as_may_be_and_deleted_ones_are_forgotten_in_time() {
        let records = MemoryRecords::default();
        assert_eq!(write(&records, "a", 0, "1"), Ok(1));
        assert_eq!(write(&records, "b", 0, "1"), Ok(1));
        assert_eq!(write(&records, "c", 0, "1"), Err(Unwritten::Full));
        assert_eq!(write(&records, "b", 1, ""), Ok(2));
        for n in 0..100 {
            let (name, version) = (format!("n{n}"), records.get("r", &format!("n{n}")).version);
            write(&records, &name, version, "1").unwrap();
            write(&records, &name, version + 1, "").unwrap();
            assert!(records.all("r").records.len() <= 4);
        }
        assert_eq!(records.get("r", "a"), Record { version: 1, text: "1".into() });
        assert_eq!(write(&records, "b", 2, "2"), Err(Unwritten::Conflict), "who read it before is late");
        let version = records.get("r", "b").version;
        assert_eq!(write(&records, "b", version, "2"), Ok(version + 1));
    }

    #[test]
    fn what_nobody_writes_is_given_up() {
        let records = MemoryRecords::default();
        records.write("r", "a", 0, "1".into(), 2, Duration::from_secs(1), |_| {}).unwrap();
        records.sweep(Instant::now());
        assert_eq!(records.all("r").records.len(), 1);
        records.sweep(Instant::now() + Duration::from_secs(1));
        assert_eq!(records.all("r"), Documents::default());
    }
}
