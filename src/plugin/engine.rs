//! One wasmtime engine for all plugins, and the clock that stops runaways.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
    thread::Thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use wasmtime::{Cache, CacheConfig, Config, Engine, EngineWeak, WasmBacktraceDetails};

/// What one step of the epoch stands for.
const TICK: Duration = Duration::from_millis(1);

/// The clock looks after so much at most, and after half the shortest timeout
/// that was asked for since it rested: so late may a runaway be stopped, and some
/// ticks besides. To look costs as much as ten calls.
const LOOK_MAX: Duration = Duration::from_millis(20);

/// Looks without a call before the clock rests. To wake it costs a call some
/// microseconds, so not at the first gap.
const REST_AFTER: u32 = 5;

/// How long it rests at most.
const REST_MAX: Duration = Duration::from_secs(1);

/// Stack of a guest. Host frames come on top, and the threads that run guests
/// have 2 MiB.
const STACK: usize = 512 << 10;

/// Makes the engine; `cache` is a folder for compiled code.
///
/// # Errors
/// If the folder cannot be used, or others could write into it: what is in
/// there is run as it is.
pub(super) fn open(cache: Option<&Path>) -> anyhow::Result<(Engine, Clock)> {
    let mut config = Config::new();
    // Off, it takes 0.4 us from each call; hooks are synchronous anyway.
    config.concurrency_support(false);
    config.epoch_interruption(true);
    config.max_wasm_stack(STACK);
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config.wasm_memory64(false);
    config.wasm_relaxed_simd(false);
    if let Some(folder) = cache {
        config.cache(Some(open_cache(folder)?));
    }
    let engine = Engine::new(&config).map_err(|error| anyhow::anyhow!("the wasm engine does not start: {error:#}"))?;
    let clock = Clock::start(&engine).context("no thread for the epoch clock")?;
    Ok((engine, clock))
}

/// Keeps the engine's epoch up with the time while guests run, and rests while
/// none does. It steps over many ticks at once: a thread that wakes each
/// millisecond would be the largest part of what a call costs.
///
/// It has a thread of its own: on the runtime, the very guests that it should
/// stop could keep it from running. The thread ends with the engine.
#[derive(Debug)]
pub(super) struct Clock {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    /// Ticks since then, as far as the epoch has come.
    epoch: AtomicU64,
    /// Ticks from look to look.
    look: AtomicU64,
    /// Calls under way.
    running: AtomicUsize,
    is_resting: AtomicBool,
}

/// A call under way; the clock runs for as long as it lives.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Clock {
    fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            epoch: AtomicU64::new(0),
            look: AtomicU64::new(ticks(LOOK_MAX)),
            running: AtomicUsize::new(0),
            is_resting: AtomicBool::new(false),
        });
        let (ticking, engine) = (Arc::clone(&shared), engine.weak());
        let handle = std::thread::Builder::new().name("epoch".into()).spawn(move || keep_up(&engine, &ticking))?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// To be held during a call of a guest.
    pub(super) fn run(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, SeqCst);
        // Either we see that it rests, or it saw the call before resting.
        if self.shared.is_resting.load(SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared)
    }

    /// How far beyond the current epoch a call ends that begins now and may
    /// take so long. It is never stopped before; the epoch lags behind the time
    /// by what is added.
    pub(super) fn deadline(&self, now: Instant, budget: Duration) -> u64 {
        let shared = &*self.shared;
        let look = ticks(budget / 2).max(1);
        if look < shared.look.load(Relaxed) && look < shared.look.fetch_min(look, Relaxed) {
            // It may be at the beginning of a longer one.
            self.thread.unpark();
        }
        // Acquired: what is counted from here on is the epoch as it is by then.
        let behind = shared.now(now).saturating_sub(shared.epoch.load(Acquire));
        let budget = budget.as_nanos().div_ceil(TICK.as_nanos());
        behind.saturating_add(u64::try_from(budget).unwrap_or(u64::MAX)).saturating_add(1)
    }
}

impl Shared {
    fn now(&self, now: Instant) -> u64 {
        ticks(now.duration_since(self.started))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

fn keep_up(engine: &EngineWeak, shared: &Shared) {
    let (mut idle_looks, mut has_rested) = (0, false);
    loop {
        let look = shared.look.load(Relaxed);
        std::thread::park_timeout(TICK * u32::try_from(look).unwrap_or(1));
        let Some(engine) = engine.upgrade() else { return };
        let epoch = shared.epoch.load(Relaxed);
        let now = shared.now(Instant::now());
        // When the whole process stood still, calls did too: what they have left
        // must not be gone at once.
        let now = if has_rested { now } else { now.min(epoch + 2 * look) };
        for tick in epoch..now {
            engine.increment_epoch();
            // Behind it: who begins in between ends late, and not early.
            shared.epoch.store(tick + 1, Release);
        }
        has_rested = false;
        drop(engine);
        idle_looks = if shared.running.load(SeqCst) == 0 { idle_looks + 1 } else { 0 };
        if idle_looks < REST_AFTER {
            continue;
        }
        shared.is_resting.store(true, SeqCst);
        // The bound lets it notice that the engine is gone.
        if shared.running.load(SeqCst) == 0 {
            std::thread::park_timeout(REST_MAX);
        }
        shared.is_resting.store(false, SeqCst);
        // Those with short timeouts may be gone.
        shared.look.store(ticks(LOOK_MAX), Relaxed);
        (idle_looks, has_rested) = (0, true);
    }
}

fn open_cache(folder: &Path) -> anyhow::Result<Cache> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let name = folder.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("the cache folder `{name}` (server.cache) cannot be made"))?;
    let metadata = folder.metadata().with_context(|| format!("the cache folder `{name}` cannot be read"))?;
    let own = std::fs::metadata("/proc/self").map_or(metadata.uid(), |process| process.uid());
    anyhow::ensure!(
        metadata.mode() & 0o022 == 0 && metadata.uid() == own,
        "the cache folder `{name}` (server.cache) can be written by others, who could then run code here; make it your own and `chmod 700` it"
    );
    let mut config = CacheConfig::new();
    config.with_directory(folder.canonicalize()?);
    Cache::new(config).map_err(|error| anyhow::anyhow!("the cache of compiled plugins does not open: {error:#}"))
}

/// So many are over after this.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_no_sooner_than_it_may_and_not_much_later() {
        let (engine, clock) = open(None).unwrap();
        let mut budget = Duration::from_millis(40);
        let ends = |budget: Duration| {
            let module = wasmtime::Module::new(&engine, "(module (func (export \"f\") (loop (br 0))))").unwrap();
            let mut store = wasmtime::Store::new(&engine, ());
            let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
            let run = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
            let (now, _running) = (Instant::now(), clock.run());
            store.set_epoch_deadline(clock.deadline(now, budget));
            run.call(&mut store, ()).unwrap_err();
            now.elapsed()
        };
        for _ in 0..4 {
            // A machine that stands still makes it late, and nothing makes it early.
            let took = ends(budget);
            assert!(took >= budget, "{took:?} of {budget:?}");
            assert!(took < Duration::from_secs(10), "{took:?} of {budget:?}");
            budget /= 2;
        }
    }
}
