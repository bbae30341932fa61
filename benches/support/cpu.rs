//! What calls cost in time on a processor.

use super::stats::median;

/// Calls in one measurement, at most; and how many there are.
pub(crate) const CALLS: u32 = 2_000;
pub(crate) const BATCHES: usize = 31;

/// CPU microseconds of one call by this thread, the median over batches.
pub(crate) fn measure(call: impl FnMut()) -> f64 {
    measure_by(this_thread, call)
}

/// The same by another clock, in nanoseconds.
pub(crate) fn measure_by(on_cpu: impl Fn() -> u64, mut call: impl FnMut()) -> f64 {
    let mut batch = |calls: u32| {
        let before = on_cpu();
        (0..calls).for_each(|_| call());
        (on_cpu() - before) as f64 / 1e3 / f64::from(calls)
    };
    // What is slow needs fewer to be told apart.
    batch(CALLS / 10);
    let calls = if batch(CALLS / 10) > 50.0 { CALLS / 10 } else { CALLS };
    batch(calls);
    median((0..BATCHES).map(|_| batch(calls)))
}

/// Nanoseconds that this thread has been on a CPU.
fn this_thread() -> u64 {
    // The kernel accounts at the next switch; to yield makes it do so.
    std::thread::yield_now();
    schedstat("/proc/thread-self/schedstat")
}

/// The same of all threads of this process and of others.
pub(crate) fn processes(others: &[u32]) -> u64 {
    std::thread::yield_now();
    let tasks = |process: String| std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let all = others.iter().map(u32::to_string).chain(["self".to_owned()]);
    all.flat_map(tasks).map(|task| schedstat(&format!("{}/schedstat", task.path().display()))).sum()
}

fn schedstat(path: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}
