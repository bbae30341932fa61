//! What plugins share over all instances: their stores, who is here, and whose
//! turn it is.
//!
//! A guest waits for these in the middle of a call, so they block in place and
//! give up soon: the call's own timeout goes on.

use std::{sync::Arc, time::Duration};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::{HubLookup, Turn};
use crate::{
    cluster::{BusError, Cluster},
    plugin::{
        Lookup, Unavailable,
        kv::{KvStore, NotStored, check_size},
    },
    protocol::{MemberInfo, Payload},
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Waits for an answer on a thread of the runtime.
fn wait<T>(work: impl Future<Output = Result<T, BusError>>) -> Result<T, Unavailable> {
    let handle = Handle::try_current().map_err(|_| Unavailable)?;
    if handle.runtime_flavor() != RuntimeFlavor::MultiThread {
        return Err(Unavailable);
    }
    let within = async { tokio::time::timeout(PATIENCE, work).await };
    match tokio::task::block_in_place(|| handle.block_on(within)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a plugin's question was not answered");
            Err(Unavailable)
        }
        Err(_late) => Err(Unavailable),
    }
}

/// Who is here, on all instances.
#[derive(Debug)]
pub struct SharedLookup {
    /// For rooms that are not registered.
    pub here: HubLookup,
    /// The others.
    pub cluster: Arc<Cluster>,
}

impl Lookup for SharedLookup {
    fn count(&self, room: &str) -> Result<(usize, usize), Unavailable> {
        match wait(self.cluster.count(room))? {
            (0, _) => self.here.count(room),
            counts => Ok(counts),
        }
    }

    fn members(&self, room: &str, limit: usize) -> Result<Vec<MemberInfo>, Unavailable> {
        let page = wait(self.cluster.members(room, None, limit))?;
        if page.members.is_empty() { self.here.members(room, limit) } else { Ok(page.members) }
    }

    fn connections(&self, user: &str) -> Result<Vec<String>, Unavailable> {
        Ok(wait(self.cluster.connections_of(user))?.into_iter().map(|(connection, _)| connection).collect())
    }
}

/// The plugins' stores, in Redis. A value stands there behind a letter that
/// says what it is: text or bytes.
#[derive(Debug)]
pub struct SharedStore(pub Arc<Cluster>);

impl SharedStore {
    fn ask(
        &self,
        plugin: &str,
        kind: &str,
        key: &str,
        value: &[u8],
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<Option<Payload>, NotStored> {
        // Redis counts time in a signed number of milliseconds since 1970.
        let ttl = ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 50));
        match wait(self.0.keep(plugin, kind, key, value, ttl, quota))? {
            (1, value) => Ok(Some(match value.split_first() {
                Some((b'b', bytes)) => Payload::Binary(bytes.to_vec()),
                Some((_, text)) => Payload::Text(String::from_utf8_lossy(text).into_owned()),
                None => Payload::Text(String::new()),
            })),
            (0, _) => Ok(None),
            (-1, _) => Err(NotStored::Quota),
            (-2, _) => Err(NotStored::TooLarge),
            (-3, _) => Err(NotStored::NotANumber),
            _ => Err(NotStored::Unavailable),
        }
    }
}

impl KvStore for SharedStore {
    fn get(&self, plugin: &str, key: &str) -> Result<Option<Payload>, Unavailable> {
        self.ask(plugin, "g", key, b"", None, 0).map_err(|_| Unavailable)
    }

    fn set(
        &self,
        plugin: &str,
        key: &str,
        value: Payload,
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<(), NotStored> {
        check_size(key, &value, quota)?;
        let value = match &value {
            Payload::Text(text) => [b"t", text.as_bytes()].concat(),
            Payload::Binary(bytes) => [b"b", bytes.as_slice()].concat(),
        };
        self.ask(plugin, "s", key, &value, ttl, quota).map(|_| ())
    }

    fn delete(&self, plugin: &str, key: &str) -> Result<bool, Unavailable> {
        self.ask(plugin, "d", key, b"", None, 0).map(|gone| gone.is_some()).map_err(|_| Unavailable)
    }

    fn increment(
        &self,
        plugin: &str,
        key: &str,
        by: i64,
        ttl: Option<Duration>,
        quota: usize,
    ) -> Result<i64, NotStored> {
        match self.ask(plugin, "i", key, by.to_string().as_bytes(), ttl, quota)? {
            Some(Payload::Text(number)) => number.parse().map_err(|_| NotStored::NotANumber),
            _ => Err(NotStored::Unavailable),
        }
    }
}

/// Whose turn it is, as Redis has it.
#[derive(Debug)]
pub struct SharedTurn(pub Arc<Cluster>);

impl Turn for SharedTurn {
    fn is_mine(&self, job: &str) -> bool {
        wait(self.0.turn(job)).unwrap_or(false)
    }
}
