//! Counts that every thread adds to. Each has a piece of its own, so that no
//! two fight for one cache line; a scrape adds them up.

use std::{
    cell::Cell,
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// More threads than these share.
const SHARDS: usize = 16;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Relaxed) % SHARDS);
        }
        mine.get()
    })
}

/// A number that only grows.
#[derive(Debug)]
pub struct Total([Line<AtomicU64>; SHARDS]);

impl Total {
    /// Zero.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { Line(AtomicU64::new(0)) }; SHARDS])
    }

    /// Adds.
    pub fn add(&self, n: u64) {
        self.0[shard()].0.fetch_add(n, Relaxed);
    }

    /// The sum.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.iter().map(|line| line.0.load(Relaxed)).sum()
    }
}

impl Default for Total {
    fn default() -> Self {
        Self::new()
    }
}

/// Buckets that there may be, with the last one, which has no bound.
const BUCKETS: usize = 16;

#[derive(Debug, Default)]
struct Shard {
    nanos: AtomicU64,
    counts: [AtomicU64; BUCKETS],
}

/// How long something took, each time.
pub struct Timings {
    bounds: &'static [Duration],
    shards: Box<[Line<Shard>]>,
}

impl fmt::Debug for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timings").field("count", &self.count()).finish_non_exhaustive()
    }
}

impl Timings {
    /// `bounds`: of the buckets, rising; one less than [`BUCKETS`] at most.
    #[must_use]
    pub fn new(bounds: &'static [Duration]) -> Self {
        debug_assert!(bounds.len() < BUCKETS && bounds.is_sorted());
        Self { bounds, shards: (0..SHARDS).map(|_| Line::default()).collect() }
    }

    /// It took this long.
    pub fn observe(&self, took: Duration) {
        let Line(shard) = &self.shards[shard()];
        let bucket = self.bounds.partition_point(|bound| *bound < took);
        shard.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        shard.counts[bucket].fetch_add(1, Relaxed);
    }

    /// How often.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shards.iter().flat_map(|line| &line.0.counts).map(|count| count.load(Relaxed)).sum()
    }

    pub(super) fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let nanos: u64 = self.shards.iter().map(|line| line.0.nanos.load(Relaxed)).sum();
        let bounds = self.bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
        let counts =
            (0..).map(|bucket: usize| self.shards.iter().map(|line| line.0.counts[bucket].load(Relaxed)).sum());
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        encoder.encode_histogram::<NoLabelSet>(Duration::from_nanos(nanos).as_secs_f64(), count, &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_threads_add_is_summed() {
        const BOUNDS: &[Duration] = &[Duration::from_millis(1), Duration::from_millis(2)];
        let (total, timings) = (Total::new(), Timings::new(BOUNDS));
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    for millis in 0..100 {
                        total.add(2);
                        timings.observe(Duration::from_millis(millis));
                    }
                });
            }
        });
        assert_eq!((total.get(), timings.count()), (8000, 4000));
        let buckets: Vec<u64> =
            (0..4).map(|bucket| timings.shards.iter().map(|line| line.0.counts[bucket].load(Relaxed)).sum()).collect();
        assert_eq!(buckets, [80, 40, 3880, 0]);
    }
}
