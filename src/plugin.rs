//! User code: components that decide, each behind its grants and limits.
//!
//! A [`PluginHost`] makes plugins from files; a [`Plugin`] answers hooks. What
//! they are asked and what they answer are the plain types of [`types`]; a
//! plugin never acts on the gateway, it returns what it wants done.

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

mod breaker;
mod call;
pub(crate) mod core;
mod engine;
mod guest;
mod host;
mod http;
pub mod kv;
mod lane;
mod load;
mod rollout;
mod script;
pub mod time;
pub mod types;
mod version;

use self::{
    breaker::Breaker,
    guest::{Guest, Program},
    lane::Lane,
    rollout::{Key, Record, Rollout},
};
pub use self::{
    kv::{KvStore, MemoryStore, NotStored},
    load::{Examined, LoadError},
    rollout::Phase,
    time::{SystemTime, Time},
    types::{
        Action, Admission, Answer, Authentication, Caller, Delivery, EventView, Failure, FailureKind, Grant, HelloView,
        Hook, Identity, JoinView, MessageView, MomentView, Permission, Policy, Routing, Terms, Verdict,
    },
};
use crate::{
    config::PluginConfig,
    id::Generation,
    metrics::{HookMetrics, Metrics},
    protocol::MemberInfo,
};

/// What instances share cannot be reached now, or not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unavailable")]
pub struct Unavailable;

/// What the `lookup` import reads. It answers within its own deadline: a guest
/// waits for it, and with it the message in hand.
pub trait Lookup: Send + Sync + fmt::Debug {
    /// Connections and different users in a room.
    ///
    /// # Errors
    /// If it cannot be known now; so for all of them.
    fn count(&self, room: &str) -> Result<(usize, usize), Unavailable>;
    /// At most `limit` members.
    ///
    /// # Errors
    /// If it cannot be known now.
    fn members(&self, room: &str, limit: usize) -> Result<Vec<MemberInfo>, Unavailable>;
    /// Ids of a user's connections.
    ///
    /// # Errors
    /// If it cannot be known now.
    fn connections(&self, user: &str) -> Result<Vec<String>, Unavailable>;
}

/// What all plugins share behind their imports.
struct Environment {
    store: Arc<dyn KvStore>,
    lookup: Arc<dyn Lookup>,
    time: Arc<dyn Time>,
    started: Instant,
    clock: engine::Clock,
    metrics: Metrics,
    requests: http::Requests,
    scripts: script::Scripts,
    /// Compiled code by its content, where the same is loaded many times.
    compiled: Option<Mutex<HashMap<blake3::Hash, wasmtime::component::Component>>>,
}

/// Makes plugins. One for the life of the process.
pub struct PluginHost {
    engine: wasmtime::Engine,
    environment: Arc<Environment>,
    /// Generations so far, by plugin.
    generations: Mutex<HashMap<String, Generation>>,
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginHost").finish_non_exhaustive()
    }
}

impl PluginHost {
    /// `cache`: a folder for compiled code, or None to compile at each start.
    ///
    /// # Errors
    /// If wasm cannot be run here, or the folder cannot be used.
    pub fn open(
        cache: Option<&Path>,
        store: Arc<dyn KvStore>,
        lookup: Arc<dyn Lookup>,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        Self::open_for(cache, store, lookup, metrics, None)
    }

    /// The same for tests of plugins: what time it is comes from `time`, and
    /// compiled code is kept, since the same is loaded with many settings.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_for_tests(
        cache: Option<&Path>,
        store: Arc<dyn KvStore>,
        lookup: Arc<dyn Lookup>,
        time: Arc<dyn Time>,
    ) -> anyhow::Result<Self> {
        Self::open_for(cache, store, lookup, Metrics::new(), Some(time))
    }

    fn open_for(
        cache: Option<&Path>,
        store: Arc<dyn KvStore>,
        lookup: Arc<dyn Lookup>,
        metrics: Metrics,
        tests: Option<Arc<dyn Time>>,
    ) -> anyhow::Result<Self> {
        let (engine, clock) = engine::open(cache)?;
        let requests = http::Requests::default();
        let compiled = tests.is_some().then(Mutex::default);
        let time = tests.unwrap_or_else(|| Arc::new(SystemTime));
        let started = time.monotonic();
        let scripts = script::Scripts::default();
        let environment = Environment { store, lookup, time, started, clock, metrics, requests, scripts, compiled };
        Ok(Self { engine, environment: Arc::new(environment), generations: Mutex::default() })
    }

    /// Loads the plugins of a config, in its order. One of `running` that has
    /// the same content and config is taken over with its warm guests. It may
    /// compute for seconds: call it off the runtime's threads.
    ///
    /// # Errors
    /// Every plugin that cannot be used, with its reason.
    pub fn load(&self, configs: &[PluginConfig], running: &[Arc<Plugin>]) -> Result<Vec<Arc<Plugin>>, Vec<LoadError>> {
        let mut plugins = Vec::new();
        let mut errors = Vec::new();
        for config in configs {
            match self.load_one(config, running) {
                Ok(plugin) => plugins.push(plugin),
                Err(reason) => errors.push(LoadError { plugin: config.name.clone(), reason }),
            }
        }
        if errors.is_empty() { Ok(plugins) } else { Err(errors) }
    }

    /// Says what can be known of a plugin without running it; of its config only
    /// the path counts.
    ///
    /// # Errors
    /// If it cannot be read or is no plugin.
    pub fn examine(&self, config: &PluginConfig) -> Result<Examined, String> {
        load::examine(&self.engine, config, &self.environment)
    }

    fn load_one(&self, config: &PluginConfig, running: &[Arc<Plugin>]) -> Result<Arc<Plugin>, String> {
        let source = load::read(config)?;
        let same = |plugin: &&Arc<Plugin>| plugin.hash == source.hash && plugin.program.config == *config;
        if let Some(plugin) = running.iter().find(same) {
            return Ok(Arc::clone(plugin));
        }
        let started = Instant::now();
        let (program, guest) = load::compile(&self.engine, config, &source, &self.environment)?;
        let hooks = program.indices.hooks();
        let before = predecessor(config, &hooks, running);
        let generation = {
            let mut generations = self.generations.lock();
            let generation = generations.entry(config.name.clone()).or_default();
            *generation += 1;
            *generation
        };
        tracing::info!(
            plugin = config.name,
            generation,
            hash = &source.hash.to_hex()[..12],
            hooks = hooks.iter().map(|hook| hook.interface()).collect::<Vec<_>>().join(" "),
            took = ?started.elapsed(),
            "loaded"
        );
        Ok(Arc::new(Plugin {
            hash: source.hash,
            generation,
            metrics: Hook::ALL
                .iter()
                .map(|hook| hooks.contains(hook).then(|| self.environment.metrics.hook(&config.name, *hook)))
                .collect(),
            hooks,
            idle: Mutex::new(vec![guest]),
            lane: config.http.as_ref().map(|http| Lane::new(http.concurrency)),
            program,
            stuck: AtomicU64::new(0),
            failures: AtomicUsize::new(0),
            breaker: Breaker::default(),
            record: Record::default(),
            withdrawn: self.environment.metrics.withdrawn(&config.name),
            rollout: Rollout::new(config.rollout, before, Instant::now()),
        }))
    }
}

/// Who may have the place of a new plugin for a while: one with the same
/// config, since what an operator took away must be gone at once.
fn predecessor(config: &PluginConfig, hooks: &[Hook], running: &[Arc<Plugin>]) -> Option<Arc<Plugin>> {
    let before = running.iter().find(|plugin| plugin.program.config == *config && plugin.hooks == hooks)?;
    Some(before.rollout.holder().unwrap_or_else(|| {
        before.rollout.settle();
        Arc::clone(before)
    }))
}

/// What a guest costs that has just been made, its `init` included.
#[derive(Debug, Clone, Copy)]
pub struct Fresh {
    /// How long it took.
    pub took: Duration,
    /// Bytes of its memory.
    pub memory: usize,
}

/// A loaded plugin of one generation.
pub struct Plugin {
    program: Program,
    hash: blake3::Hash,
    generation: Generation,
    hooks: Vec<Hook>,
    /// By hook, for those that it has.
    metrics: Vec<Option<HookMetrics>>,
    /// Where it runs if it may wait for other servers.
    lane: Option<Lane>,
    /// Held for a push or a pop.
    idle: Mutex<Vec<Guest>>,
    /// Calls until it is trusted again not to block its thread.
    stuck: AtomicU64,
    failures: AtomicUsize,
    breaker: Breaker,
    record: Record,
    withdrawn: Counter,
    rollout: Rollout,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.name())
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// As the config calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// How often this plugin has been replaced, from 1.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Of the file's content, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> String {
        self.hash.to_hex().to_string()
    }

    /// The first 16 digits of it, enough to tell contents apart.
    #[must_use]
    pub fn short_hash(&self) -> String {
        self.hash.to_hex()[..16].to_owned()
    }

    /// The hooks that it exports.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// True if the config says which hooks it has.
    #[must_use]
    pub fn names_hooks(&self) -> bool {
        self.program.config.hooks.is_some()
    }

    /// True if no other has its place, anywhere.
    #[must_use]
    pub fn answers_all(&self) -> bool {
        self.rollout.is_settled()
    }

    /// The generation of it that answers for this sender and room.
    #[must_use]
    pub fn answering(&self, sender: Caller<'_>, room: &str) -> Generation {
        let other = self.rollout.instead(Key::of(sender, room));
        other.map_or(self.generation, |other| other.answering(sender, room))
    }

    /// How far it has come in taking its predecessor's place.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.rollout.phase()
    }

    /// Failed calls so far.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }

    /// What holds when it fails at a hook.
    #[must_use]
    pub fn policy(&self, hook: Hook) -> Policy {
        self.program.config.on_failure.get(&hook).copied().unwrap_or(Policy::Closed)
    }

    /// Bytes of memory of its largest guest that waits for a call.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.idle.lock().iter().map(Guest::memory).max().unwrap_or(0)
    }

    /// Throws away the guests that are warm and makes a fresh one, so that
    /// nothing is left of the calls before.
    ///
    /// # Errors
    /// If none can be made; the hook of the failure means nothing.
    pub fn renew(&self) -> Result<Fresh, Failure> {
        self.idle.lock().clear();
        let started = Instant::now();
        let guest = Guest::start(&self.program).map_err(|(kind, reason)| Failure {
            plugin: self.name().to_owned(),
            hook: self.hooks[0],
            kind,
            reason,
        })?;
        let fresh = Fresh { took: started.elapsed(), memory: guest.memory() };
        self.idle.lock().push(guest);
        Ok(fresh)
    }
}

/// Does what may take long; other tasks of the thread go on elsewhere.
pub(crate) fn without_blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
