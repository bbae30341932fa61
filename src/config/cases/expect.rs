//! What a step is to answer.
//!
//! An answer is kept as JSON, as it is written in the file: a word, or a table
//! with one key that says which answer it is.

use serde_json::{Map, Value};

use super::{super::read::nearest, Table, payload};
use crate::plugin::{FailureKind, Hook};

/// The answer, and what the plugin has kept by then.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expect {
    pub(crate) answer: Value,
    /// None: it is not compared.
    pub(crate) kv: Option<Map<String, Value>>,
}

/// What a hook may answer; the first list is of those that may be a mere word.
fn answers(hook: Option<Hook>) -> (&'static [&'static str], &'static [&'static str]) {
    match hook {
        None => (&["ready"], &["failed"]),
        Some(Hook::Authenticate) => (&["abstain"], &["accept", "refuse"]),
        Some(Hook::Authorize) => (&["allow"], &["allow", "refuse"]),
        Some(Hook::AuthorizePublish) => (&["allow"], &["refuse"]),
        Some(Hook::Transform) => (&["pass", "drop"], &["replace", "refuse"]),
        Some(Hook::Route) => (&["pass"], &["add", "replace", "refuse"]),
        Some(Hook::Observe | Hook::Tick) => (&["nothing"], &["actions"]),
        Some(Hook::Call) => (&["unknown"], &["reply", "refuse"]),
    }
}

const FAILURES: &[FailureKind] = &[
    FailureKind::Trap,
    FailureKind::Timeout,
    FailureKind::Memory,
    FailureKind::HostCalls,
    FailureKind::Answer,
    FailureKind::Start,
    FailureKind::Busy,
];

impl Expect {
    /// None: nothing is expected yet.
    pub(super) fn read(table: &Table<'_>) -> Option<Self> {
        let value = table.json("expect");
        if !table.has("expect") {
            return None;
        }
        let Value::Object(mut fields) = value else {
            return Some(Self { answer: value, kv: None });
        };
        let kv = fields.remove("kv").and_then(|kv| match kv {
            Value::Object(kv) => Some(kv),
            _ => {
                table.wrong("expect", "`kv` is a table of keys with their values");
                None
            }
        });
        // A word that has something beside it.
        let answer = match fields.remove("verdict") {
            Some(word) if fields.is_empty() => word,
            Some(_) => {
                table.wrong("expect", "`verdict` stands for a single word, and there is another answer beside it");
                Value::Null
            }
            None => Value::Object(fields),
        };
        let nothing = serde_json::json!({ "actions": [] });
        let answer = if answer == nothing { Value::String("nothing".to_owned()) } else { answer };
        let answer = in_one_form(answer).unwrap_or_else(|mistake| {
            table.wrong("expect", mistake);
            Value::Null
        });
        Some(Self { answer, kv })
    }

    /// Notes an answer that the hook does not have.
    pub(super) fn check(&self, hook: Option<Hook>, table: &Table<'_>) {
        let (words, keys) = answers(hook);
        let list = || {
            let words = words.iter().map(|word| format!("\"{word}\""));
            let keys = keys.iter().filter(|key| !words_have(answers(hook).0, key)).map(|key| format!("{key} = …"));
            words.chain(keys).chain(std::iter::once("failure = …".to_owned())).collect::<Vec<_>>().join(", ")
        };
        let name = hook.map_or("init", Hook::key);
        match &self.answer {
            // Of a mistake that has been noted.
            Value::Null => {}
            Value::String(word) if words_have(words, word) => {}
            Value::String(word) => {
                let near = nearest(word, words.iter().copied());
                table.wrong("expect", format!("\"{word}\" is no answer of `{name}`; expected {}{near}", list()));
            }
            Value::Object(fields) => self.check_fields(fields, keys, table, &|what| {
                format!("{what} is no answer of `{name}`; expected {}", list())
            }),
            _ => table.wrong("expect", format!("expected {}", list())),
        }
    }

    fn check_fields(
        &self,
        fields: &Map<String, Value>,
        keys: &[&str],
        table: &Table<'_>,
        wrong: &dyn Fn(&str) -> String,
    ) {
        for key in fields.keys() {
            let is_beside = key == "actions" && fields.contains_key("reply");
            if key != "failure" && !is_beside && !words_have(keys, key) {
                table.wrong("expect", wrong(&format!("`{key}`")));
            }
        }
        let n = fields.keys().filter(|key| *key != "actions" || !fields.contains_key("reply")).count();
        if n != 1 {
            table.wrong("expect", wrong(if n == 0 { "nothing" } else { "more than one" }));
        }
        if let Some(kind) = fields.get("failure")
            && !FAILURES.iter().any(|known| kind == known.key())
        {
            let known: Vec<_> = FAILURES.iter().map(|kind| format!("\"{}\"", kind.key())).collect();
            table.wrong("expect", format!("{kind} is no kind of failure; expected one of {}", known.join(", ")));
        }
    }
}

fn words_have(words: &[&str], word: &str) -> bool {
    words.contains(&word)
}

/// Turns each `json = '…'` into the `data` that it stands for, and tries each
/// `binary` and `text`.
fn in_one_form(value: Value) -> Result<Value, String> {
    Ok(match value {
        Value::Object(fields) => {
            let mut found = Map::new();
            for (key, value) in fields {
                match key.as_str() {
                    "json" => {
                        let text = value.as_str().ok_or("`json` is a text in quotes")?;
                        let value = serde_json::from_str(text).map_err(|error| format!("`json` is none: {error}"))?;
                        found.insert("data".to_owned(), value);
                    }
                    // What somebody sends is theirs.
                    "data" | "info" | "set" | "patch" => drop(found.insert(key, value)),
                    "text" | "binary" => {
                        payload(&key, &value).map_err(|expected| format!("`{key}`: {expected}"))?;
                        found.insert(key, value);
                    }
                    _ => drop(found.insert(key, in_one_form(value)?)),
                }
            }
            Value::Object(found)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(in_one_form).collect::<Result<_, _>>()?),
        other => other,
    })
}
