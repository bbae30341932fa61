//! What a guest can reach: one state a guest, behind every host import.
//!
//! Nothing here acts on the gateway, and only `kv` and `lookup` may wait, where
//! instances share them. Each call is counted, and each import exists only if
//! it was granted.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::ResourceLimiter;

use super::{Environment, Lookup, Time, http::HttpClient, kv::KvStore};
use crate::{
    config::{PluginConfig, Secret},
    metrics::GuestFigures,
};

/// The longest log line, in bytes; the rest is cut.
const LOG_LINE_MAX: usize = 4 << 10;

/// The most members that one look-up returns.
pub(super) const MEMBERS_MAX: usize = 1_000;

/// The most random bytes of one call.
const RANDOM_MAX: u32 = 4 << 10;

/// Everything that one guest's imports and limits work on.
pub(super) struct HostState {
    pub(super) plugin: Arc<str>,
    pub(super) store: Arc<dyn KvStore>,
    pub(super) kv_quota: usize,
    pub(super) lookup: Arc<dyn Lookup>,
    pub(super) figures: Arc<GuestFigures>,
    pub(super) secrets: Arc<BTreeMap<String, Secret>>,
    /// None: it may send no requests.
    pub(super) http: Option<Arc<HttpClient>>,
    log: Arc<LogBudget>,
    time: Arc<dyn Time>,
    started: Instant,
    /// When the call that runs has used up its time.
    pub(super) deadline: Instant,
    pub(super) limits: Limiter,
    /// Host calls left for the call that runs.
    pub(super) calls_left: u64,
}

impl HostState {
    pub(super) fn new(plugin: &Arc<str>, config: &PluginConfig, environment: &Environment, shared: &Shared) -> Self {
        Self {
            plugin: Arc::clone(plugin),
            store: Arc::clone(&environment.store),
            kv_quota: config.kv_quota,
            lookup: Arc::clone(&environment.lookup),
            figures: Arc::clone(&shared.figures),
            secrets: Arc::clone(&shared.secrets),
            http: shared.http.clone(),
            log: Arc::clone(&shared.log),
            time: Arc::clone(&environment.time),
            started: environment.started,
            deadline: environment.started,
            limits: Limiter { max: config.memory, used: 0, refused: false },
            calls_left: 0,
        }
    }

    /// Each host call is one of so many.
    pub(super) fn count(&mut self) -> wasmtime::Result<()> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or(TooManyHostCalls)?;
        Ok(())
    }

    /// A line of the guest's, as far as its budget goes.
    pub(super) fn write_log(&self, level: tracing::Level, message: &str) {
        let line = &message[..message.floor_char_boundary(LOG_LINE_MAX)];
        let Some(dropped) = self.log.take(line.len()) else { return };
        let plugin = self.plugin.as_ref();
        if dropped > 0 {
            tracing::warn!(plugin, dropped, "log lines were dropped: more than `log_rate` allows");
        }
        // Debug form: a guest's line cannot break out of its own line.
        match level {
            tracing::Level::ERROR => tracing::error!(target: "wayleave::guest", plugin, "{line:?}"),
            tracing::Level::WARN => tracing::warn!(target: "wayleave::guest", plugin, "{line:?}"),
            tracing::Level::INFO => tracing::info!(target: "wayleave::guest", plugin, "{line:?}"),
            _ => tracing::debug!(target: "wayleave::guest", plugin, "{line:?}"),
        }
    }

    /// Milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.time.wall()
    }

    /// Nanoseconds since the gateway began.
    pub(super) fn monotonic(&self) -> u64 {
        let passed = self.time.monotonic().saturating_duration_since(self.started);
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What all guests of one plugin share.
pub(super) struct Shared {
    log: Arc<LogBudget>,
    figures: Arc<GuestFigures>,
    secrets: Arc<BTreeMap<String, Secret>>,
    http: Option<Arc<HttpClient>>,
}

impl Shared {
    pub(super) fn new(config: &PluginConfig, environment: &Environment) -> Result<Self, String> {
        let figures = environment.metrics.guest(&config.name);
        let client = |http| environment.requests.client(http, Arc::clone(&figures));
        let http = config.http.as_ref().map(client).transpose()?;
        Ok(Self {
            log: Arc::new(LogBudget::new(config.log_rate)),
            figures,
            secrets: Arc::new(config.secrets.clone()),
            http: http.map(Arc::new),
        })
    }
}

/// At most [`RANDOM_MAX`] bytes.
pub(super) fn random_bytes(length: u32) -> wasmtime::Result<Vec<u8>> {
    wasmtime::ensure!(length <= RANDOM_MAX, "more than {RANDOM_MAX} random bytes in one call");
    let mut bytes = vec![0; length as usize];
    getrandom::fill(&mut bytes).map_err(|error| wasmtime::format_err!("no random bytes: {error}"))?;
    Ok(bytes)
}

/// A guest's ttl: 0 milliseconds stand for no end.
pub(super) fn lifetime(ttl: u64) -> Option<Duration> {
    (ttl > 0).then(|| Duration::from_millis(ttl))
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
struct LogBudget {
    rate: usize,
    state: parking_lot::Mutex<(Instant, usize, u64)>,
}

impl LogBudget {
    fn new(rate: usize) -> Self {
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
