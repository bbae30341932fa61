//! Medians and quantiles.

use std::time::Duration;

/// Times up to a second, to the microsecond; later ones count as a second.
pub(crate) struct Histogram {
    counts: Vec<u32>,
    total: u64,
}

impl Histogram {
    const LONGEST: usize = 1_000_000;

    pub(crate) fn new() -> Self {
        Self { counts: vec![0; Self::LONGEST + 1], total: 0 }
    }

    pub(crate) fn add(&mut self, time: Duration) {
        let us = usize::try_from(time.as_micros()).unwrap_or(usize::MAX);
        self.counts[us.min(Self::LONGEST)] += 1;
        self.total += 1;
    }

    /// Takes in what another has.
    pub(crate) fn join(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, other)| *count += other);
        self.total += other.total;
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The time in milliseconds that a share `q` stays within; NaN when empty.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let rank = (self.total as f64 * q).ceil();
        let mut seen = 0;
        for (us, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if self.total > 0 && seen as f64 >= rank {
                return us as f64 / 1e3;
            }
        }
        f64::NAN
    }
}

/// The middle one, or the mean of the middle two; NaN without values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}
