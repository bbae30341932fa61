//! What the server API asks of Redis: who beats, who has a room, how many are
//! in which.

use std::{collections::BTreeSet, time::Duration};

use redis::Value;

use super::{BusError, Cluster, pipeline::parse};
use crate::id::{BootId, InstanceId};

/// Rooms in one question.
const ROOMS: usize = 512;

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

    /// True for the first that says this key in this room, on any instance,
    /// within `ttl`.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn once(&self, room: &str, key: &str, ttl: Duration) -> Result<bool, BusError> {
        let name = self.keys.room(room, &format!("once:{key}"));
        let mut command = redis::cmd("SET");
        command.arg(&name).arg(1).arg("NX").arg("PX").arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        Ok(self.write(command, &name).await? != Value::Nil)
    }
}
