//! One wasmtime engine for all plugins, and the clock that stops runaways.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::Thread,
    time::Duration,
};

use anyhow::Context;
use wasmtime::{Cache, CacheConfig, Config, Engine, EngineWeak, WasmBacktraceDetails};

/// How often the epoch advances, and so how exactly a timeout is kept.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without a call before the clock rests. To wake it costs a call some
/// microseconds, so not at the first gap.
const REST_AFTER: u32 = 10;

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

/// Advances the engine's epoch while guests run, and rests while none does: a
/// tick each millisecond would otherwise be the largest part of what an idle
/// gateway costs.
///
/// It has a thread of its own: on the runtime, the very guests that it should
/// stop could keep it from running. The thread ends with the engine.
#[derive(Debug)]
pub(super) struct Clock {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct Shared {
    /// Calls under way.
    running: AtomicUsize,
    is_resting: AtomicBool,
}

/// A call under way; the clock ticks for as long as it lives.
#[derive(Debug)]
pub(super) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Clock {
    fn start(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let (ticking, engine) = (Arc::clone(&shared), engine.weak());
        let handle = std::thread::Builder::new().name("epoch".into()).spawn(move || tick(&engine, &ticking))?;
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
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.thread.unpark();
    }
}

fn tick(engine: &EngineWeak, shared: &Shared) {
    let mut idle_ticks = 0;
    loop {
        std::thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        drop(engine);
        idle_ticks = if shared.running.load(SeqCst) == 0 { idle_ticks + 1 } else { 0 };
        if idle_ticks < REST_AFTER {
            continue;
        }
        shared.is_resting.store(true, SeqCst);
        // The bound lets it notice that the engine is gone.
        if shared.running.load(SeqCst) == 0 {
            std::thread::park_timeout(REST_MAX);
        }
        shared.is_resting.store(false, SeqCst);
        idle_ticks = 0;
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

/// Ticks until a budget is used up. One more, since the first tick may come
/// at once.
pub(super) fn ticks(budget: Duration) -> u64 {
    u64::try_from(budget.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u64::MAX - 1) + 1
}
