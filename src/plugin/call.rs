//! One call of a hook: who answers it, on which guest, and what a failure leads to.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    Plugin,
    breaker::{Breaker, REST},
    guest::{Guest, GuestError},
    host::HostState,
    rollout::Key,
    types::{
        Action, Admission, Answer, Authentication, Caller, EventView, Failure, FailureKind, HelloView, Hook, JoinView,
        MessageView, MomentView, Routing, Verdict,
    },
    version::Hooks,
    without_blocking,
};
use crate::{
    protocol::{Payload, Refusal},
    traces,
};

/// Warm guests that are kept. Calls run on the runtime's threads, so there is
/// no use for more than those, and few machines have more.
const IDLE_MAX: usize = 64;

/// Why a call that may wait was not begun.
const NO_PLACE: &str =
    "as many calls as may wait for other servers are under way (the config's `http.concurrency` bounds them)";

/// Why a call of one that fails too often was not begun.
const RESTING: &str = "it rests, since half of its calls have failed (the config's `breaker` turns this off)";

/// Calls after a timeout for which the plugin counts as stuck.
const STUCK_FOR: u64 = 1_000;

impl Plugin {
    /// Who is this?
    ///
    /// # Errors
    /// If the plugin fails.
    pub fn authenticate(&self, hello: HelloView<'_>) -> Result<Authentication, Failure> {
        let key = Key { connection: hello.connection, ..Key::default() };
        self.call(Hook::Authenticate, key, |functions, store| functions.authenticate(store, hello))
    }

    /// May it join?
    ///
    /// # Errors
    /// If the plugin fails.
    pub fn join(&self, who: Caller<'_>, join: JoinView<'_>) -> Result<Admission, Failure> {
        self.call(Hook::Authorize, Key::of(who, join.room), |functions, store| functions.join(store, who, join))
    }

    /// May it publish this? Err inside Ok: no.
    ///
    /// # Errors
    /// If the plugin fails.
    pub fn publish(&self, sender: Caller<'_>, message: MessageView<'_>) -> Result<Result<(), Refusal>, Failure> {
        self.call(Hook::AuthorizePublish, Key::of(sender, message.room), |functions, store| {
            functions.publish(store, sender, message)
        })
    }

    /// What becomes of this message?
    ///
    /// # Errors
    /// If the plugin fails.
    pub fn transform(&self, sender: Caller<'_>, message: MessageView<'_>) -> Result<Verdict, Failure> {
        self.call(Hook::Transform, Key::of(sender, message.room), |functions, store| {
            functions.transform(store, sender, message)
        })
    }

    /// Who gets it?
    ///
    /// # Errors
    /// If the plugin fails.
    pub fn route(&self, sender: Caller<'_>, message: MessageView<'_>) -> Result<Routing, Failure> {
        let max = self.program.config.targets;
        self.call(Hook::Route, Key::of(sender, message.room), |functions, store| {
            functions.route(store, sender, message, max)
        })
    }

    /// This happened.
    ///
    /// # Errors
    /// If the plugin fails.
    pub fn observe(&self, who: Caller<'_>, event: EventView<'_>) -> Result<Vec<Action>, Failure> {
        let max = self.program.config.targets;
        self.call(Hook::Observe, Key::of(who, event.room), |functions, store| functions.observe(store, who, event, max))
    }

    /// How often it is asked at [`Hook::Tick`]; None: it does not have it.
    #[must_use]
    pub fn period(&self) -> Option<Duration> {
        self.program.config.tick
    }

    /// A period is over. It may take its whole timeout, since nobody waits for
    /// it: the other tasks of the thread go elsewhere meanwhile.
    ///
    /// # Errors
    /// If the plugin fails.
    pub fn tick(&self, moment: MomentView) -> Result<Vec<Action>, Failure> {
        let max = self.program.config.targets;
        without_blocking(|| {
            self.call(Hook::Tick, Key::default(), |functions, store| functions.tick(store, moment, max))
        })
    }

    /// A client calls.
    ///
    /// # Errors
    /// If the plugin fails.
    pub fn answer(&self, caller: Caller<'_>, method: &str, payload: &Payload) -> Result<Answer, Failure> {
        let max = self.program.config.targets;
        self.call(Hook::Call, Key::of(caller, ""), |functions, store| {
            functions.call(store, caller, method, payload, max)
        })
    }

    /// Asks a guest, or whoever has the plugin's place for this room or user.
    fn call<A>(
        &self,
        hook: Hook,
        key: Key<'_>,
        function: impl FnOnce(&dyn Hooks, &mut wasmtime::Store<HostState>) -> wasmtime::Result<A>,
    ) -> Result<A, Failure> {
        match self.rollout.instead(key) {
            Some(other) => other.call(hook, key, function),
            None => self.call_own(hook, function),
        }
    }

    fn call_own<A>(
        &self,
        hook: Hook,
        function: impl FnOnce(&dyn Hooks, &mut wasmtime::Store<HostState>) -> wasmtime::Result<A>,
    ) -> Result<A, Failure> {
        let metrics = self.metrics[hook as usize].as_ref();
        let mut span = traces::child(hook.key());
        let started = Instant::now();
        let result = self.call_where_it_belongs(function, started);
        if let Some(metrics) = metrics {
            metrics.observe(started.elapsed());
        }
        if let Some(span) = &mut span {
            span.note("plugin", self.name());
        }
        result.map_err(|(kind, reason)| {
            if let Some(span) = &mut span {
                span.fail(kind.key());
            }
            if let Some(metrics) = metrics {
                metrics.failed(kind);
            }
            let failure = Failure { plugin: self.name().to_owned(), hook, kind, reason };
            // Once a power of two: a plugin that always fails must not fill
            // the log.
            let n = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
            if n.is_power_of_two() {
                tracing::warn!(plugin = failure.plugin, %hook, failures = n, "{}", failure.reason);
            }
            failure
        })
    }

    fn call_where_it_belongs<A>(
        &self,
        function: impl FnOnce(&dyn Hooks, &mut wasmtime::Store<HostState>) -> wasmtime::Result<A>,
        now: Instant,
    ) -> Result<A, GuestError> {
        let breaker = self.program.config.breaker.then_some(&self.breaker);
        if breaker.is_some_and(|breaker| !breaker.allows(now)) {
            return Err((FailureKind::Resting, RESTING.to_owned()));
        }
        self.record.called();
        let stuck = self.stuck.try_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        let result = if let Some(lane) = &self.lane {
            without_blocking(|| match lane.enter(self.program.config.timeout) {
                Some(_place) => self.call_guest(function),
                None => Err((FailureKind::Busy, NO_PLACE.to_owned())),
            })
        } else if stuck.is_err() {
            self.call_guest(function)
        } else {
            // It may sit on its thread for its whole timeout; let the other
            // tasks of the thread go elsewhere. Costs little, so for a while.
            without_blocking(|| self.call_guest(function))
        };
        match &result {
            Ok(_) => {
                if breaker.is_some_and(Breaker::succeeded) {
                    tracing::info!(plugin = self.name(), "it answers again");
                }
            }
            // Nothing that the plugin did.
            Err((FailureKind::Busy, _)) => {}
            Err((kind, reason)) => self.note_failure(*kind, reason, breaker),
        }
        result
    }

    fn note_failure(&self, kind: FailureKind, reason: &str, breaker: Option<&Breaker>) {
        if kind == FailureKind::Timeout {
            self.stuck.store(STUCK_FOR, Ordering::Relaxed);
        }
        if breaker.is_some_and(|breaker| breaker.failed(Instant::now())) {
            tracing::warn!(plugin = self.name(), reason, "it fails half of the time and rests for {REST:?}");
        }
        self.record.failed();
        if self.rollout.failed(&self.record) {
            tracing::error!(
                plugin = self.name(),
                generation = self.generation,
                reason,
                "it fails more than the one before, which takes its place again until the file changes"
            );
            self.withdrawn.inc();
        }
    }

    fn call_guest<A>(
        &self,
        function: impl FnOnce(&dyn Hooks, &mut wasmtime::Store<HostState>) -> wasmtime::Result<A>,
    ) -> Result<A, GuestError> {
        let idle = self.idle.lock().pop();
        let mut guest = match idle {
            Some(guest) => guest,
            // Its `init` may take long.
            None => without_blocking(|| Guest::start(&self.program))?,
        };
        // On an error the guest is dropped here, and its store with it.
        let answer = guest.call(&self.program, function)?;
        if !guest.is_worn(&self.program.config) {
            let mut idle = self.idle.lock();
            if idle.len() < IDLE_MAX {
                idle.push(guest);
            }
        }
        Ok(answer)
    }
}
