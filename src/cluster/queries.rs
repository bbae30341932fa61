//! What the server API asks of Redis: who beats, who has a room, how many are
//! in which.

use std::{collections::BTreeSet, time::Duration};

use super::{
    BusError, Cluster,
    envelope::{Body, Frame},
    pipeline::parse,
    script,
};
use crate::id::{BootId, InstanceId};

/// Rooms in one question.
const ROOMS: usize = 512;

/// Where something is sent once.
#[derive(Debug, Clone, Copy)]
pub enum Once<'a> {
    /// To a room's members.
    Room(&'a str),
    /// To a user's connections.
    User(&'a str),
}

impl Cluster {
    /// The instances that beat, itself among them. It is asked anew, so that
    /// one that has just begun is among them too.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn beating(&self) -> Result<Vec<InstanceId>, BusError> {
        let key = self.keys.instances("beats");
        let mut command = redis::cmd("HKEYS");
        command.arg(&key);
        let names: Vec<String> = parse(self.reader.one(command, &key).await?)?;
        let mut instances: Vec<_> = names.iter().filter_map(|name| InstanceId::parse(name)).collect();
        if !instances.contains(&self.id()) {
            instances.push(self.id());
        }
        instances.sort();
        Ok(instances)
    }

    /// The instances that hear a room, or have until about a minute ago.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn holders(&self, room: &str) -> Result<BTreeSet<BootId>, BusError> {
        let instances = self.beating().await?;
        let commands = instances.iter().map(|instance| {
            let key = self.keys.instance("rooms", *instance);
            let mut command = redis::cmd("SISMEMBER");
            command.arg(&key).arg(room);
            (command, key)
        });
        let mut holders = BTreeSet::new();
        for (instance, answer) in instances.iter().zip(self.reader.all(commands.collect()).await?) {
            if parse::<i64>(answer?)? == 1 {
                holders.insert(instance.boot);
            }
        }
        Ok(holders)
    }

    /// How many connections are in each of these rooms, in order.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn counts(&self, rooms: &[&str]) -> Result<Vec<usize>, BusError> {
        let mut counts = Vec::with_capacity(rooms.len());
        for rooms in rooms.chunks(ROOMS) {
            let commands = rooms.iter().map(|room| {
                let key = self.keys.room(room, "members");
                let mut command = redis::cmd("HLEN");
                command.arg(&key);
                (command, key)
            });
            for answer in self.reader.all(commands.collect()).await? {
                counts.push(parse(answer?)?);
            }
        }
        Ok(counts)
    }

    /// Sends a frame to whoever hears a room, or a user, if nobody has said this
    /// key there within `ttl`, on any instance. It is heard here as well and
    /// delivered from there alone: if no answer comes, that is the only way to
    /// know that it was sent. False: the key was known.
    ///
    /// # Errors
    /// If Redis does not answer; [`BusError::Unknown`] if it may be done, and
    /// the same with this key then does not happen twice.
    pub async fn publish_once(&self, to: Once<'_>, key: &str, body: Body<'_>, ttl: Duration) -> Result<bool, BusError> {
        let part = format!("once:{key}");
        let (name, topic) = match to {
            Once::Room(room) => (self.keys.room(room, &part), self.keys.room_topic(room)),
            Once::User(user) => (self.keys.user(user, &part), self.keys.user_topic(user)),
        };
        let frame = Frame { origin: BootId::NOBODY, body }.encode();
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        self.metrics.sent.inc();
        let command = script::ONCE.with(&[&name], &[&self.publish_command(), &topic, &frame, &ttl]);
        parse::<i64>(self.write(command, &name).await?).map(|is_new| is_new == 1)
    }
}
