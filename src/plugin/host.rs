//! What a guest can reach: one state a guest, behind every host import.
//!
//! Nothing here acts on the gateway, and only `kv` and `lookup` may wait, where
//! instances share them. Each call is counted, and each import exists only if
//! it was granted.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use wasmtime::{ResourceLimiter, component::HasSelf, component::Linker};

use super::{
    Environment, Lookup, Unavailable,
    kv::{KvStore, NotStored},
    types::Grant,
    v0_1_0::wayleave::plugin as wit,
};
use crate::{config::PluginConfig, protocol::Payload};

/// The longest log line, in bytes; the rest is cut.
const LOG_LINE_MAX: usize = 4 << 10;

/// The most members that one look-up returns.
const MEMBERS_MAX: usize = 1_000;

/// The most random bytes of one call.
const RANDOM_MAX: u32 = 4 << 10;

/// Everything that one guest's imports and limits work on.
pub(super) struct HostState {
    plugin: Arc<str>,
    store: Arc<dyn KvStore>,
    kv_quota: usize,
    lookup: Arc<dyn Lookup>,
    log: Arc<LogBudget>,
    started: Instant,
    pub(super) limits: Limiter,
    /// Host calls left for the call that runs.
    pub(super) calls_left: u64,
}

impl HostState {
    pub(super) fn new(
        plugin: &Arc<str>,
        config: &PluginConfig,
        environment: &Environment,
        log: &Arc<LogBudget>,
    ) -> Self {
        Self {
            plugin: Arc::clone(plugin),
            store: Arc::clone(&environment.store),
            kv_quota: config.kv_quota,
            lookup: Arc::clone(&environment.lookup),
            log: Arc::clone(log),
            started: environment.started,
            limits: Limiter { max: config.memory, used: 0, refused: false },
            calls_left: 0,
        }
    }

    fn count(&mut self) -> wasmtime::Result<()> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or(TooManyHostCalls)?;
        Ok(())
    }
}

/// The guest has used up its host calls.
#[derive(Debug, thiserror::Error)]
#[error("more host calls than `host_calls` allows")]
pub(super) struct TooManyHostCalls;

/// Bounds linear memory and remembers that it did.
#[derive(Debug)]
pub(super) struct Limiter {
    max: usize,
    /// Bytes of linear memory now. It never shrinks.
    pub(super) used: usize,
    /// The guest wanted more since this was last false.
    pub(super) refused: bool,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        // A component may have several memories, so the sum is kept.
        let used = self.used + desired.saturating_sub(current);
        self.refused |= used > self.max;
        if used <= self.max {
            self.used = used;
        }
        Ok(used <= self.max)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        // An entry is a pointer of the host.
        self.memory_growing(current.saturating_mul(8), desired.saturating_mul(8), None)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        16
    }
}

/// Bytes that a plugin may still log, refilled by the second.
#[derive(Debug)]
pub(super) struct LogBudget {
    rate: usize,
    state: parking_lot::Mutex<(Instant, usize, u64)>,
}

impl LogBudget {
    pub(super) fn new(rate: usize) -> Self {
        Self { rate, state: parking_lot::Mutex::new((Instant::now(), rate, 0)) }
    }

    /// None: the line is dropped. Some(n): it may go out, and n were dropped
    /// before it.
    fn take(&self, bytes: usize) -> Option<u64> {
        let mut state = self.state.lock();
        let (since, left, dropped) = &mut *state;
        if since.elapsed().as_secs() >= 1 {
            *since = Instant::now();
            *left = self.rate;
        }
        if *left < bytes {
            *dropped += 1;
            return None;
        }
        *left -= bytes;
        Some(std::mem::take(dropped))
    }
}

/// Adds the granted interfaces to a linker, and no others.
pub(super) fn link(linker: &mut Linker<HostState>, grants: &[Grant]) -> wasmtime::Result<()> {
    type Own = HasSelf<HostState>;
    wit::types::add_to_linker::<_, Own>(linker, |state| state)?;
    for grant in grants {
        match grant {
            Grant::Log => wit::log::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Kv => wit::kv::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Lookup => wit::lookup::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Clock => wit::clock::add_to_linker::<_, Own>(linker, |state| state)?,
            Grant::Random => wit::random::add_to_linker::<_, Own>(linker, |state| state)?,
        }
    }
    Ok(())
}

impl wit::types::Host for HostState {}

impl wit::log::Host for HostState {
    fn log(&mut self, level: wit::log::Level, message: String) -> wasmtime::Result<()> {
        self.count()?;
        let line = &message[..message.floor_char_boundary(LOG_LINE_MAX)];
        let Some(dropped) = self.log.take(line.len()) else { return Ok(()) };
        let plugin = self.plugin.as_ref();
        if dropped > 0 {
            tracing::warn!(plugin, dropped, "log lines were dropped: more than `log_rate` allows");
        }
        // Debug form: a guest's line cannot break out of its own line.
        match level {
            wit::log::Level::Debug => tracing::debug!(target: "wayleave::guest", plugin, "{line:?}"),
            wit::log::Level::Info => tracing::info!(target: "wayleave::guest", plugin, "{line:?}"),
            wit::log::Level::Warn => tracing::warn!(target: "wayleave::guest", plugin, "{line:?}"),
            wit::log::Level::Error => tracing::error!(target: "wayleave::guest", plugin, "{line:?}"),
        }
        Ok(())
    }
}

impl wit::kv::Host for HostState {
    fn get(&mut self, key: String) -> wasmtime::Result<wit::kv::Found> {
        self.count()?;
        Ok(match self.store.get(&self.plugin, &key) {
            Ok(Some(value)) => wit::kv::Found::Value(value.into()),
            Ok(None) => wit::kv::Found::Missing,
            Err(Unavailable) => wit::kv::Found::Unavailable,
        })
    }

    fn set(&mut self, key: String, value: wit::types::PayloadResult, ttl: u64) -> wasmtime::Result<wit::kv::Stored> {
        self.count()?;
        Ok(match self.store.set(&self.plugin, &key, Payload::from(value), lifetime(ttl), self.kv_quota) {
            Ok(()) => wit::kv::Stored::Ok,
            Err(NotStored::Quota) => wit::kv::Stored::Quota,
            Err(NotStored::TooLarge) => wit::kv::Stored::TooLarge,
            // Nothing here is a number: a store that says so is not right.
            Err(NotStored::NotANumber | NotStored::Unavailable) => wit::kv::Stored::Unavailable,
        })
    }

    fn delete(&mut self, key: String) -> wasmtime::Result<wit::kv::Deleted> {
        self.count()?;
        Ok(match self.store.delete(&self.plugin, &key) {
            Ok(true) => wit::kv::Deleted::Ok,
            Ok(false) => wit::kv::Deleted::Missing,
            Err(Unavailable) => wit::kv::Deleted::Unavailable,
        })
    }

    fn increment(&mut self, key: String, by: i64, ttl: u64) -> wasmtime::Result<wit::kv::Counter> {
        self.count()?;
        Ok(match self.store.increment(&self.plugin, &key, by, lifetime(ttl), self.kv_quota) {
            Ok(value) => wit::kv::Counter::Value(value),
            Err(NotStored::NotANumber) => wit::kv::Counter::NotANumber,
            Err(NotStored::Quota) => wit::kv::Counter::Quota,
            Err(NotStored::TooLarge) => wit::kv::Counter::TooLarge,
            Err(NotStored::Unavailable) => wit::kv::Counter::Unavailable,
        })
    }
}

/// A guest's ttl: 0 milliseconds stand for no end.
fn lifetime(ttl: u64) -> Option<Duration> {
    (ttl > 0).then(|| Duration::from_millis(ttl))
}

impl wit::lookup::Host for HostState {
    fn count(&mut self, room: String) -> wasmtime::Result<wit::lookup::Tally> {
        HostState::count(self)?;
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(match self.lookup.count(&room) {
            Ok((connections, users)) => wit::lookup::Tally::Counts(wit::lookup::Counts {
                connections: number(connections),
                users: number(users),
            }),
            Err(Unavailable) => wit::lookup::Tally::Unavailable,
        })
    }

    fn members(&mut self, room: String, limit: u32) -> wasmtime::Result<wit::lookup::Roster> {
        HostState::count(self)?;
        let member = |member: crate::protocol::MemberInfo| wit::lookup::Member {
            connection: member.connection,
            user: member.user.to_string(),
            info: member.info.to_string(),
        };
        Ok(match self.lookup.members(&room, MEMBERS_MAX.min(limit as usize)) {
            Ok(members) => wit::lookup::Roster::Members(members.into_iter().map(member).collect()),
            Err(Unavailable) => wit::lookup::Roster::Unavailable,
        })
    }

    fn connections(&mut self, user: String) -> wasmtime::Result<wit::lookup::Devices> {
        HostState::count(self)?;
        Ok(match self.lookup.connections(&user) {
            Ok(connections) => wit::lookup::Devices::Connections(connections),
            Err(Unavailable) => wit::lookup::Devices::Unavailable,
        })
    }
}

impl wit::clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn monotonic(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        Ok(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl wit::random::Host for HostState {
    fn bytes(&mut self, length: u32) -> wasmtime::Result<Vec<u8>> {
        self.count()?;
        wasmtime::ensure!(length <= RANDOM_MAX, "more than {RANDOM_MAX} random bytes in one call");
        let mut bytes = vec![0; length as usize];
        getrandom::fill(&mut bytes).map_err(|error| wasmtime::format_err!("no random bytes: {error}"))?;
        Ok(bytes)
    }

    fn number(&mut self) -> wasmtime::Result<u64> {
        self.count()?;
        Ok(u64::from_le_bytes(crate::id::random_bytes()))
    }
}
