//! Named JSON documents of a room.
//!
//! Each has a version that grows by one with each write. A write names the
//! version that it was made for, or is tried again on what is there; so no
//! write is lost to another.

use std::collections::{BTreeMap, HashMap};

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
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Replace it.
    Set(Value),
    /// Change it by a JSON merge patch (RFC 7396).
    Patch(Value),
    /// Take it away.
    Delete,
}

/// The documents of one instance that is alone.
#[derive(Debug, Default)]
pub struct MemoryRecords(Mutex<HashMap<Box<str>, BTreeMap<String, Record>>>);

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
    /// All documents of a room; deleted ones are not among them.
    #[must_use]
    pub fn all(&self, room: &str) -> Vec<(String, Record)> {
        let rooms = self.0.lock();
        let records = rooms.get(room).into_iter().flatten().filter(|(_, record)| !record.text.is_empty());
        records.map(|(name, record)| (name.clone(), record.clone())).collect()
    }

    /// One document.
    #[must_use]
    pub fn get(&self, room: &str, name: &str) -> Record {
        self.0.lock().get(room).and_then(|records| records.get(name)).cloned().unwrap_or_default()
    }

    /// Writes a document that was read at `version`; `tell` is told before
    /// anybody else can write. None: somebody was quicker.
    pub fn write(&self, room: &str, name: &str, version: u64, text: String, tell: impl FnOnce(u64)) -> Option<u64> {
        let mut rooms = self.0.lock();
        let record = rooms.entry(room.into()).or_default().entry(name.to_owned()).or_default();
        if record.version != version {
            return None;
        }
        *record = Record { version: version + 1, text };
        tell(version + 1);
        Some(version + 1)
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

    #[test]
    fn a_write_on_an_old_version_is_refused() {
        let records = MemoryRecords::default();
        assert_eq!(records.write("r", "a", 0, "1".into(), |_| {}), Some(1));
        assert_eq!(records.write("r", "a", 0, "2".into(), |_| {}), None);
        assert_eq!(records.get("r", "a"), Record { version: 1, text: "1".into() });
        assert_eq!(records.write("r", "a", 1, String::new(), |_| {}), Some(2));
        assert!(records.all("r").is_empty(), "a deleted one keeps only its version");
    }
}
