//! Answers as JSON, in the form in which files of cases write them.
//!
//! An answer is written in the terms of what was expected: a payload byte for
//! byte where a `text` is, as a value otherwise. Then both are compared.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    plugin::{
        Action, Admission, Answer, Authentication, Delivery, Failure, Identity, Permission, Routing, Terms, Verdict,
    },
    protocol::{Payload, Refusal},
    room::records::Edit,
};

/// Anything that came of a step.
#[derive(Debug)]
pub(super) enum Outcome {
    Init(Result<(), String>),
    Authenticate(Authentication),
    Authorize(Admission),
    AuthorizePublish(Result<(), Refusal>),
    Transform(Verdict),
    Route(Routing),
    Actions(Vec<Action>),
    Call(Answer),
    Failed(Failure),
}

impl Outcome {
    /// `like`: what is expected, as far as it goes.
    pub(super) fn to_json(&self, like: &Value) -> Value {
        match self {
            Self::Init(Ok(())) => json!("ready"),
            Self::Init(Err(why)) => {
                // Languages word it in their own way: a part of it is enough.
                let part = like["failed"].as_str().filter(|part| why.contains(part));
                json!({ "failed": part.unwrap_or(why) })
            }
            Self::Authenticate(Authentication::Abstain) => json!("abstain"),
            Self::Authenticate(Authentication::Accept(identity)) => json!({ "accept": self::identity(identity) }),
            Self::Authenticate(Authentication::Refuse(no))
            | Self::Authorize(Admission::Refuse(no))
            | Self::AuthorizePublish(Err(no))
            | Self::Transform(Verdict::Refuse(no))
            | Self::Route(Routing::Refuse(no))
            | Self::Call(Answer::Refuse(no)) => json!({ "refuse": refusal(no, &like["refuse"]) }),
            Self::Authorize(Admission::Allow(terms)) if *terms == Terms::default() => json!("allow"),
            Self::Authorize(Admission::Allow(terms)) => json!({ "allow": self::terms(terms, &like["allow"]) }),
            Self::AuthorizePublish(Ok(())) => json!("allow"),
            Self::Transform(Verdict::Pass) | Self::Route(Routing::Pass) => json!("pass"),
            Self::Transform(Verdict::Drop) => json!("drop"),
            Self::Transform(Verdict::Replace(payload)) => {
                json!({ "replace": self::payload(payload, &like["replace"]) })
            }
            Self::Route(Routing::Add(list)) => json!({ "add": deliveries(list, &like["add"]) }),
            Self::Route(Routing::Replace(list)) => json!({ "replace": deliveries(list, &like["replace"]) }),
            Self::Actions(list) if list.is_empty() => json!("nothing"),
            Self::Actions(list) => json!({ "actions": actions(list, &like["actions"]) }),
            Self::Call(Answer::Unknown) => json!("unknown"),
            Self::Call(Answer::Reply(payload, list)) => {
                let mut answer = json!({ "reply": self::payload(payload, &like["reply"]) });
                if !list.is_empty() {
                    answer["actions"] = actions(list, &like["actions"]);
                }
                answer
            }
            Self::Failed(failure) => json!({ "failure": failure.kind.key() }),
        }
    }

    /// What people should read beside it.
    pub(super) fn note(&self) -> Option<&str> {
        match self {
            Self::Failed(failure) => Some(&failure.reason),
            _ => None,
        }
    }
}

fn identity(identity: &Identity) -> Value {
    let Identity { user, info, rooms, expires_at } = identity;
    let mut fields = Map::new();
    put(&mut fields, "user", (!user.is_empty()).then(|| json!(user)));
    put(&mut fields, "info", info_value(info));
    put(&mut fields, "rooms", (!rooms.is_empty()).then(|| json!(rooms)));
    put(&mut fields, "expires_at", expires_at.map(|at| json!(at)));
    Value::Object(fields)
}

fn terms(terms: &Terms, like: &Value) -> Value {
    let Terms { publish, presence, info, data } = terms;
    let mut fields = data.as_ref().map(|data| self::payload(data, like)).unwrap_or_default();
    let word = |permission: &Permission| match permission {
        Permission::Configured => None,
        Permission::Granted => Some(json!("granted")),
        Permission::Denied => Some(json!("denied")),
    };
    put(&mut fields, "publish", word(publish));
    put(&mut fields, "presence", word(presence));
    put(&mut fields, "info", info_value(info));
    Value::Object(fields)
}

/// The reason is for people, and compared only if it is expected.
fn refusal(refusal: &Refusal, like: &Value) -> Value {
    let mut fields = Map::new();
    fields.insert("code".to_owned(), json!(refusal.code));
    let is_compared = like.is_null() || like.get("reason").is_some();
    put(&mut fields, "reason", is_compared.then(|| json!(refusal.reason)));
    put(&mut fields, "temporary", refusal.temporary.then_some(json!(true)));
    Value::Object(fields)
}

fn deliveries(list: &[Delivery], like: &Value) -> Value {
    list.iter().enumerate().map(|(n, each)| Value::Object(delivery(each, &like[n]))).collect()
}

fn delivery(delivery: &Delivery, like: &Value) -> Map<String, Value> {
    let Delivery { to, except, payload } = delivery;
    let mut fields = payload.as_ref().map(|payload| self::payload(payload, like)).unwrap_or_default();
    let names = |targets: &[crate::config::Target]| targets.iter().map(|target| json!(target.to_string())).collect();
    fields.insert("to".to_owned(), names(to));
    put(&mut fields, "except", (!except.is_empty()).then(|| names(except)));
    fields
}

fn actions(list: &[Action], like: &Value) -> Value {
    list.iter().enumerate().map(|(n, each)| action(each, &like[n])).collect()
}

fn action(action: &Action, like: &Value) -> Value {
    match action {
        Action::Send(delivery) => json!({ "send": self::delivery(delivery, &like["send"]) }),
        Action::Join { who, room } => json!({ "join": { "who": who.to_string(), "room": room } }),
        Action::Leave { who, room } => json!({ "leave": { "who": who.to_string(), "room": room } }),
        Action::SetInfo { connection, info } => {
            let mut fields = Map::new();
            fields.insert("connection".to_owned(), json!(connection));
            put(&mut fields, "info", info_value(info));
            json!({ "set_info": fields })
        }
        Action::Disconnect { who, close } => {
            json!({ "disconnect": { "who": who.to_string(), "code": close.code, "reason": close.reason } })
        }
        Action::Record { room, name, edit, version } => {
            let mut fields = Map::new();
            fields.insert("room".to_owned(), json!(room));
            fields.insert("record".to_owned(), json!(name));
            match edit {
                Edit::Set(value) => fields.insert("set".to_owned(), value.clone()),
                Edit::Patch(value) => fields.insert("patch".to_owned(), value.clone()),
                Edit::Delete => fields.insert("delete".to_owned(), json!(true)),
            };
            put(&mut fields, "version", version.map(|version| json!(version)));
            json!({ "record": fields })
        }
    }
}

/// As `data`, unless the bytes of a `text` are expected.
fn payload(payload: &Payload, like: &Value) -> Map<String, Value> {
    let (key, value) = match payload {
        Payload::Binary(bytes) => ("binary", json!(data_encoding::BASE64.encode(bytes))),
        Payload::Text(text) if like.get("text").is_some() => ("text", json!(text)),
        Payload::Text(text) => match serde_json::from_str(text) {
            Ok(value) => ("data", value),
            // A number, say, that this library cannot hold.
            Err(_) => ("text", json!(text)),
        },
    };
    Map::from_iter([(key.to_owned(), value)])
}

/// What a plugin has kept, as files write it.
pub(super) fn kept(entries: &BTreeMap<String, Payload>, like: &Map<String, Value>) -> Map<String, Value> {
    let value = |key: &str, kept: &Payload| match kept {
        Payload::Binary(bytes) => json!({ "binary": data_encoding::BASE64.encode(bytes) }),
        Payload::Text(text) => match serde_json::from_str::<Value>(text) {
            // A text stands for itself, unless a value is easier to read.
            Ok(value) if !value.is_string() && !value.is_null() && !like.get(key).is_some_and(Value::is_string) => {
                value
            }
            _ => json!(text),
        },
    };
    entries.iter().map(|(key, kept)| (key.clone(), value(key, kept))).collect()
}

fn info_value(info: &str) -> Option<Value> {
    (!info.is_empty()).then(|| serde_json::from_str(info).unwrap_or_else(|_| json!(info)))
}

fn put(fields: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        fields.insert(key.to_owned(), value);
    }
}

/// Equal as JSON has it: for numbers the value counts, not how it is written.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other
                || (one.is_f64() || other.is_f64()) && one.as_f64().zip(other.as_f64()).is_some_and(|(a, b)| a == b)
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|found| same(value, found)))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_by_value() {
        assert!(same(&json!({ "a": [1, 2.5] }), &json!({ "a": [1.0, 2.5] })));
        assert!(!same(&json!(1), &json!(2)));
        assert!(!same(&json!({ "a": 1 }), &json!({ "a": 1, "b": null })));
        // A float cannot tell these apart.
        assert!(!same(&json!(12_345_678_901_234_567_890_u64), &json!(12_345_678_901_234_567_891_u64)));
    }

    #[test]
    fn a_text_is_compared_byte_for_byte_where_one_is_expected() {
        let answer = Outcome::Transform(Verdict::Replace(Payload::Text("{ \"n\": 1.0 }".into())));
        assert_eq!(
            answer.to_json(&json!({ "replace": { "text": "x" } })),
            json!({ "replace": { "text": "{ \"n\": 1.0 }" } })
        );
        assert!(same(&answer.to_json(&json!("pass")), &json!({ "replace": { "data": { "n": 1 } } })));
    }

    #[test]
    fn a_reason_counts_only_where_one_is_expected() {
        let answer = Outcome::Transform(Verdict::Refuse(Refusal::from_plugin(400, "why", false)));
        assert_eq!(answer.to_json(&json!({ "refuse": { "code": 400 } })), json!({ "refuse": { "code": 400 } }));
        let whole = json!({ "refuse": { "code": 400, "reason": "why" } });
        assert_eq!(answer.to_json(&Value::Null), whole);
        assert_eq!(answer.to_json(&json!({ "refuse": { "code": 400, "reason": "" } })), whole);
    }
}
