//! Small things that all instances share: documents of rooms, buckets of
//! tokens, plugins' values, and whose turn it is.

use std::{collections::BTreeMap, time::Duration};

use redis::Value;

use super::{
    BusError, Cluster,
    envelope::{Body, Change, Frame},
    pipeline::{garbled, parse},
    script,
};
use crate::room::records::{Documents, Record};

/// What became of writing a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordWrite {
    /// It has this version now.
    Written(u64),
    /// Somebody was quicker: what is there.
    Conflict(Record),
    /// The room has as many as it may.
    Full,
}

/// What a bucket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Tokens.
    pub tokens: u64,
    /// When the next one is there, if none is left.
    pub retry_after: Duration,
}

impl Cluster {
    /// All documents of a room.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn records(&self, room: &str) -> Result<Documents, BusError> {
        let key = self.keys.room(room, "records");
        let mut command = redis::cmd("HGETALL");
        command.arg(&key);
        let mut all: BTreeMap<String, String> = parse(self.reader.one(command, &key).await?)?;
        let floor = all.remove("").and_then(|floor| floor.parse().ok()).unwrap_or(0);
        let records = all.into_iter().filter_map(|(name, value)| Some((name, document(&value)?))).collect();
        Ok(Documents { floor, records })
    }

    /// One document.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn record(&self, room: &str, name: &str) -> Result<Record, BusError> {
        let key = self.keys.room(room, "records");
        let mut command = redis::cmd("HMGET");
        command.arg(&key).arg(name).arg("");
        let (value, floor): (Option<String>, Option<u64>) = parse(self.reader.one(command, &key).await?)?;
        let none = Record { version: floor.unwrap_or(0), text: String::new() };
        Ok(value.and_then(|value| document(&value)).unwrap_or(none))
    }

    /// Writes a document that was read at `version` and tells the room, which
    /// may have `count`. An empty document deletes it.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn write_record(
        &self,
        version: u64,
        document: &str,
        change: Change<'_>,
        ttl: Duration,
        count: usize,
    ) -> Result<RecordWrite, BusError> {
        let key = self.keys.room(&change.room, "records");
        let topic = self.keys.room_topic(&change.room);
        let name = change.name.as_ref().to_owned();
        let frame = Frame { origin: self.boot, body: Body::Record(change) }.encode();
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let arguments: [&dyn script::Argument; 8] =
            [&name, &version, &document, &self.publish_command(), &topic, &frame, &ttl, &count];
        let answer: Vec<Value> = parse(self.write(script::RECORD.with(&[&key], &arguments), &key).await?)?;
        match answer.as_slice() {
            [Value::Int(1), version] => Ok(RecordWrite::Written(parse(version.clone())?)),
            [Value::Int(2)] => Ok(RecordWrite::Full),
            [_, version, document] => {
                Ok(RecordWrite::Conflict(Record { version: parse(version.clone())?, text: parse(document.clone())? }))
            }
            _ => Err(garbled()),
        }
    }

    /// Takes tokens from a bucket that all instances share.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn take(&self, kind: &str, name: &str, rate: f64, most: u64, wanted: u64) -> Result<Granted, BusError> {
        let key = self.keys.limit(kind, name);
        let command = script::TAKE.with(&[&key], &[&rate, &most, &wanted]);
        let (tokens, wait): (u64, u64) = parse(self.reader.one(command, &key).await?)?;
        Ok(Granted { tokens, retry_after: Duration::from_millis(wait) })
    }

    /// True if a job is this instance's to do now. It stays so until the
    /// instance is gone.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn turn(&self, job: &str) -> Result<bool, BusError> {
        let (jobs, beats) = (self.keys.instances("jobs"), self.keys.instances("beats"));
        let command = script::TURN.with(&[&jobs, &beats], &[&job, &self.id().to_string()]);
        parse::<i64>(self.reader.one(command, &jobs).await?).map(|mine| mine == 1)
    }

    /// Reads or writes a plugin's store; the answer is as the script `keep`
    /// gives it.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn keep(
        &self,
        plugin: &str,
        kind: &str,
        key: &str,
        value: &[u8],
        ttl: u64,
        quota: usize,
    ) -> Result<(i64, Vec<u8>), BusError> {
        let (values, ends) = (self.keys.plugin(plugin, "values"), self.keys.plugin(plugin, "ends"));
        // The empty name is the sum's.
        let key = format!("k{key}");
        let arguments: [&dyn script::Argument; 5] = [&kind, &key, &value, &ttl, &quota];
        let answer: Vec<Value> =
            parse(self.reader.one(script::KEEP.with(&[&values, &ends], &arguments), &values).await?)?;
        match answer.as_slice() {
            [Value::Int(code), Value::BulkString(value)] => Ok((*code, value.clone())),
            [Value::Int(code)] => Ok((*code, Vec::new())),
            _ => Err(garbled()),
        }
    }
}

/// A document as the script `record` keeps it.
fn document(value: &str) -> Option<Record> {
    let (version, text) = value.split_once(' ')?;
    Some(Record { version: version.parse().ok()?, text: text.to_owned() })
}
