//! One wasmtime engine for all plugins, and the clock that stops runaways.

use std::{path::Path, time::Duration};

use anyhow::Context;
use wasmtime::{Cache, CacheConfig, Config, Engine, WasmBacktraceDetails};

/// How often the epoch advances, and so how exactly a timeout is kept.
const TICK: Duration = Duration::from_millis(1);

/// Stack of a guest. Host frames come on top, and the threads that run guests
/// have 2 MiB.
const STACK: usize = 512 << 10;

/// Makes the engine; `cache` is a folder for compiled code.
///
/// # Errors
/// If the folder cannot be used, or others could write into it: what is in
/// there is run as it is.
pub(super) fn open(cache: Option<&Path>) -> anyhow::Result<Engine> {
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
    let ticking = engine.weak();
    // A thread of its own: on the runtime, the very guests that it should stop
    // could keep it from running. It ends with the engine.
    std::thread::Builder::new()
        .name("epoch".into())
        .spawn(move || {
            while let Some(engine) = ticking.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .context("no thread for the epoch clock")?;
    Ok(engine)
}

fn open_cache(folder: &Path) -> anyhow::Result<Cache> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let name = folder.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("the cache folder `{name}` (server.cache) cannot be made"))?;
    let mode = folder.metadata().with_context(|| format!("the cache folder `{name}` cannot be read"))?.mode();
    anyhow::ensure!(
        mode & 0o022 == 0,
        "the cache folder `{name}` (server.cache) can be written by others, who could then run code here; `chmod 700` it"
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
