//! What calls cost in time on a processor.

use super::stats::median;

/// Calls in one measurement, at most; and how many there are.
pub(crate) const CALLS: u32 = 2_000;
pub(crate) const BATCHES: usize = 31;

/// CPU microseconds of one call, the median over batches. `others` are threads
/// that compute for it too.
pub(crate) fn measure(others: &[u64], mut call: impl FnMut()) -> f64 {
    let on_cpu = || on_cpu(None) + others.iter().map(|thread| on_cpu(Some(*thread))).sum::<u64>();
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

/// Nanoseconds that a thread has been on a CPU, this one without a number.
fn on_cpu(thread: Option<u64>) -> u64 {
    let path = match thread {
        Some(thread) => format!("/proc/self/task/{thread}/schedstat"),
        None => {
            // The kernel accounts at the next switch; to yield makes it do so.
            std::thread::yield_now();
            "/proc/thread-self/schedstat".to_owned()
        }
    };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The number of this thread, for [`measure`].
pub(crate) fn this_thread() -> u64 {
    let link = std::fs::read_link("/proc/thread-self").unwrap_or_default();
    link.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}
