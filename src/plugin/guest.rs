//! One live copy of a plugin: a store of its own, limits, and a deadline for
//! each call. After any failure it is thrown away with its store.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use wasmtime::{Store, Trap, component::InstancePre};

use super::{
    Environment, engine,
    host::{HostState, Shared, TooManyHostCalls},
    script::{Script, ScriptError},
    types::FailureKind,
    version::{BadAnswer, Hooks, Indices},
};
use crate::config::PluginConfig;

/// What guests are made from: compiled, linked and checked once.
pub(super) struct Program {
    pub(super) name: Arc<str>,
    pub(super) config: PluginConfig,
    pub(super) pre: InstancePre<HostState>,
    pub(super) indices: Box<dyn Indices>,
    /// What the engine is to run, if the component is that.
    pub(super) script: Option<Script>,
    /// The settings as JSON.
    pub(super) settings: String,
    pub(super) environment: Arc<Environment>,
    pub(super) shared: Shared,
}

/// A warm guest.
pub(super) struct Guest {
    store: Store<HostState>,
    functions: Box<dyn Hooks>,
    calls: u64,
}

/// What went wrong inside, for people, and its kind.
pub(super) type GuestError = (FailureKind, String);

impl Guest {
    /// A fresh one, after its `init`.
    pub(super) fn start(program: &Program) -> Result<Self, GuestError> {
        let config = &program.config;
        let mut store = store(&program.name, &program.pre, config, &program.environment, &program.shared);
        let start = |store: &mut Store<HostState>| {
            let instance = program.pre.instantiate(&mut *store)?;
            if let Some(script) = &program.script {
                script.load(store, &instance)?.map_err(wasmtime::Error::msg)?;
            }
            let functions = program.indices.load(store, &instance)?;
            let ready = functions.init(store, &program.settings)?;
            Ok((functions, ready))
        };
        let _ticking = program.environment.clock.run();
        match guard(|| start(&mut store)) {
            Ok((functions, Ok(()))) => Ok(Self { store, functions, calls: 0 }),
            Ok((_, Err(why))) => Err((FailureKind::Start, format!("`init` says: {why}"))),
            Err(error) => {
                let (kind, reason) = explain(&error, &store, config.init_timeout);
                Err((kind, format!("a guest does not start: {reason}")))
            }
        }
    }

    /// Runs a script for the first time, to learn which hooks it has.
    pub(super) fn hooks_of(
        script: &Script,
        pre: &InstancePre<HostState>,
        config: &PluginConfig,
        environment: &Environment,
    ) -> Result<Vec<String>, String> {
        let shared = Shared::new(config, environment)?;
        let mut store = store(&config.name.as_str().into(), pre, config, environment, &shared);
        let _ticking = environment.clock.run();
        let loaded = guard(|| {
            let instance = pre.instantiate(&mut store)?;
            script.load(&mut store, &instance)
        });
        match loaded {
            Ok(hooks) => hooks,
            Err(error) => Err(explain(&error, &store, config.init_timeout).1),
        }
    }

    /// Runs the plugin's own test, if it has one.
    pub(super) fn self_test(&mut self, program: &Program) -> Result<(), GuestError> {
        let (config, _ticking) = (&program.config, program.environment.clock.run());
        arm(&mut self.store, &program.environment.clock, config.init_timeout, config.host_calls);
        match guard(|| self.functions.self_test(&mut self.store)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err((FailureKind::Start, format!("the self-test says: {why}"))),
            Err(error) => Err(explain(&error, &self.store, config.init_timeout)),
        }
    }

    /// One call of a hook. After an error the guest must not be used again.
    pub(super) fn call<A>(
        &mut self,
        program: &Program,
        hook: impl FnOnce(&dyn Hooks, &mut Store<HostState>) -> wasmtime::Result<A>,
    ) -> Result<A, GuestError> {
        let (config, _ticking) = (&program.config, program.environment.clock.run());
        self.calls += 1;
        arm(&mut self.store, &program.environment.clock, config.timeout, config.host_calls);
        guard(|| hook(&*self.functions, &mut self.store)).map_err(|error| explain(&error, &self.store, config.timeout))
    }

    /// Bytes of its memory now.
    pub(super) fn memory(&self) -> usize {
        self.store.data().limits.used
    }

    /// True if a fresh one should take its place: it has served long, or its
    /// memory, which never shrinks, has grown past three quarters of it.
    pub(super) fn is_worn(&self, config: &PluginConfig) -> bool {
        self.calls >= config.recycle_after || (self.calls > 1 && self.store.data().limits.used > config.memory / 4 * 3)
    }
}

/// Bounded as the config says, and armed for the first call.
fn store(
    name: &Arc<str>,
    pre: &InstancePre<HostState>,
    config: &PluginConfig,
    environment: &Environment,
    shared: &Shared,
) -> Store<HostState> {
    let mut store = Store::new(pre.engine(), HostState::new(name, config, environment, shared));
    store.limiter(|state| &mut state.limits);
    store.set_hostcall_fuel(config.answer_size);
    arm(&mut store, &environment.clock, config.init_timeout, config.host_calls);
    store
}

fn arm(store: &mut Store<HostState>, clock: &engine::Clock, timeout: Duration, host_calls: u64) {
    let now = Instant::now();
    store.set_epoch_deadline(clock.deadline(now, timeout));
    let state = store.data_mut();
    state.calls_left = host_calls;
    state.deadline = now + timeout;
    state.limits.refused = false;
}

/// wasmtime has had panics on hostile answers; one of them must cost a call
/// and not a thread.
fn guard<A>(call: impl FnOnce() -> wasmtime::Result<A>) -> wasmtime::Result<A> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(wasmtime::format_err!("the plugin host panicked")))
}

fn explain(error: &wasmtime::Error, store: &Store<HostState>, timeout: Duration) -> GuestError {
    let config_says = |key: &str| format!(" (the config's `{key}` bounds it)");
    if let Some(bad) = error.downcast_ref::<BadAnswer>() {
        return (FailureKind::Answer, bad.to_string());
    }
    if error.downcast_ref::<TooManyHostCalls>().is_some() {
        return (FailureKind::HostCalls, TooManyHostCalls.to_string());
    }
    if error.downcast_ref::<Trap>() == Some(&Trap::Interrupt) {
        let text = format!("it took longer than {}", humantime::format_duration(timeout));
        return (FailureKind::Timeout, text + &config_says("timeout"));
    }
    if store.data().limits.refused {
        return (FailureKind::Memory, format!("it wanted more memory than it may have{}", config_says("memory")));
    }
    if let Some(script) = error.downcast_ref::<ScriptError>() {
        return (script.kind, script.to_string());
    }
    let text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if text.contains("hostcall fuel") || text.contains("fuel allocated for hostcalls") {
        return (FailureKind::Answer, format!("an answer or argument is too large{}", config_says("answer_size")));
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => (FailureKind::Trap, trap.to_string()),
        None => (FailureKind::Answer, text),
    }
}
