//! What rooms keep, in Redis.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use redis::Value;

use super::{
    BusError, Cluster,
    envelope::{Body, Frame},
    pipeline::{Done, garbled, parse},
    script,
};
use crate::{
    config::HistoryConfig,
    room::{
        Position,
        history::{Appended, COUNT_TTL, KEY_TTL, Kept, Range, Reading, new_epoch},
    },
};

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Cluster {
    /// Keeps a message of a room and sends it to whoever hears the room, in
    /// one step; messages are kept in the order of these calls. `done` is told
    /// what became of it, [`BusError::Unknown`] if it may have happened: the
    /// same with an idempotency key does not happen twice.
    pub fn append(
        &self,
        room: &str,
        body: Body<'_>,
        keep: HistoryConfig,
        key: Option<&str>,
        done: impl FnOnce(Result<Appended, BusError>) + Send + 'static,
    ) {
        let frame = Frame { origin: self.boot, body }.encode();
        let (about, stream) = (self.keys.room(room, "about"), self.keys.room(room, "stream"));
        let noted = key.map(|key| self.keys.room(room, &format!("key:{key}")));
        let mut keys = vec![about.as_str(), stream.as_str()];
        keys.extend(noted.as_deref());
        let topic = self.keys.room_topic(room);
        let arguments: [&dyn script::Argument; 8] = [
            &new_epoch(),
            &self.publish_command(),
            &topic,
            &frame,
            &keep.size,
            &ms(keep.ttl),
            &ms(keep.ttl.saturating_add(COUNT_TTL)),
            &ms(KEY_TTL),
        ];
        self.metrics.sent.inc();
        let command = script::APPEND.with(&keys, &arguments);
        self.pipeline.put(command, about, Done::Call(Box::new(move |answer| done(answer.and_then(appended)))));
    }

    /// Reads what a room keeps.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn read(&self, room: &str, range: Range, keep: HistoryConfig) -> Result<Reading, BusError> {
        let (command, key) = self.reading(room, range, keep);
        reading_of(self.reader.one(command, &key).await?)
    }

    /// The positions of several rooms, in order.
    ///
    /// # Errors
    /// If Redis does not answer; or for each room.
    pub async fn positions(
        &self,
        rooms: &[(Arc<str>, HistoryConfig)],
    ) -> Result<Vec<Result<Reading, BusError>>, BusError> {
        let commands = rooms.iter().map(|(room, keep)| self.reading(room, Range::Nothing, *keep)).collect();
        Ok(self.reader.all(commands).await?.into_iter().map(|answer| answer.and_then(reading_of)).collect())
    }

    fn reading(&self, room: &str, range: Range, keep: HistoryConfig) -> (redis::Cmd, String) {
        let (about, stream) = (self.keys.room(room, "about"), self.keys.room(room, "stream"));
        let (mode, since, limit) = match range {
            Range::Nothing => ("t", None, 0),
            Range::Forward { since, limit } => ("f", since, limit),
            Range::Reverse { since, limit } => ("r", since, limit),
        };
        let since = since.map_or_else(String::new, |since| since.to_string());
        let arguments: [&dyn script::Argument; 5] = [&new_epoch(), &mode, &since, &limit, &ms(keep.ttl)];
        (script::READ.with(&[&about, &stream], &arguments), about)
    }

    /// Forgets a room's messages; its count goes on.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn remove_history(&self, room: &str) -> Result<(), BusError> {
        let stream = self.keys.room(room, "stream");
        let mut command = redis::cmd("DEL");
        command.arg(&stream);
        self.write(command, &stream).await.map(|_| ())
    }
}

fn appended(answer: Value) -> Result<Appended, BusError> {
    let (is_new, offset, epoch): (u8, u64, String) = parse(answer)?;
    Ok(Appended { position: Position { epoch: epoch.into(), offset }, is_new: is_new == 1 })
}

fn reading_of(answer: Value) -> Result<Reading, BusError> {
    let (epoch, top, past, found): (String, u64, String, Vec<Value>) = parse(answer)?;
    let mut messages = Vec::with_capacity(found.len() / 2);
    let mut found = found.into_iter();
    while let (Some(offset), Some(frame)) = (found.next(), found.next()) {
        let offset = parse(offset)?;
        let Value::BulkString(frame) = frame else { return Err(garbled()) };
        messages.push(Kept { offset, frame: Bytes::from(frame) });
    }
    let past = past.split_whitespace().filter_map(|fork| {
        let (epoch, offset) = fork.split_once('=')?;
        Some((epoch.into(), offset.parse().ok()?))
    });
    Ok(Reading { epoch: epoch.into(), top, past: past.collect(), messages })
}
