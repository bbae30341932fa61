//! What is concluded from what was measured.

use std::time::Duration;

use super::{
    Stage,
    samples::{EMPTIED, Levels, Taken},
};

/// By then all is there that is made once, and what is kept for a time goes as
/// fast as it comes: keys of messages live ten minutes. At most half of a run.
const WARM_UP: Duration = Duration::from_secs(11 * 60);

/// Below this a growth says nothing.
const TELLING: Duration = Duration::from_secs(2 * WARM_UP.as_secs());

/// How much each series of a gateway may grow from the end of the warm-up to the
/// end: a part of its median, and a number beside it. The load itself comes and
/// goes by a few.
const BOUNDS: [(&str, f64, f64); 7] = [
    ("resident", 0.02, 2e6),
    ("anonymous", 0.02, 2e6),
    ("files", 0.02, 3.0),
    ("tasks", 0.02, 3.0),
    ("threads", 0.0, 2.0),
    ("connections", 0.02, 3.0),
    ("rooms", 0.02, 3.0),
];

/// What Redis needs at most for a room that it remembers.
const REMEMBERED_BYTES: f64 = 256.0;

/// What may be left of memory when all have left, beyond what was there before
/// anybody came: the allocator keeps some, and code that was never called is
/// not in memory before.
const LEFT: f64 = 16e6;

pub(super) struct Verdict<'a> {
    all: &'a [Taken],
    /// Those after the warm-up.
    warm: Vec<&'a Taken>,
    before: &'a Taken,
    after: &'a Taken,
    length: Duration,
    pub(super) text: String,
    pub(super) is_good: bool,
}

impl<'a> Verdict<'a> {
    pub(super) fn new(all: &'a [Taken], before: &'a Taken, after: &'a Taken) -> Self {
        let length = all.last().map_or(Duration::ZERO, |last| last.at);
        let warm_up = WARM_UP.min(length / 2);
        let warm = all.iter().filter(|it| it.at >= warm_up).collect();
        Self { all, warm, before, after, length, text: String::new(), is_good: true }
    }

    pub(super) fn say(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn check(&mut self, is_good: bool, line: &str) {
        self.is_good &= is_good;
        self.say(&format!("{}{line}", if is_good { "" } else { "!!! " }));
    }

    pub(super) fn load(&mut self, stage: &Stage) {
        let counts = stage.counts.lock().clone();
        self.say(&format!("{:.0} s of load: {counts:?}", self.length.as_secs_f64()));
        for (what, n) in &*stage.wrong.lock() {
            self.check(false, &format!("wrong, {n} times: {what}"));
        }
        // A gateway that does nothing stays as it is, too.
        let count = |what: &str| counts.get(what).copied().unwrap_or(0);
        for what in ["recovered", "streams", "bad clients", "visits", "calls", "closed as slow", "reloads", "kills"] {
            self.check(self.length < TELLING || count(what) > 0, &format!("{what}: {}", count(what)));
        }
        let (heard, sent) = (count("heard"), count("sent"));
        self.check(heard > sent, &format!("{heard} heard of {sent} sent to rooms with more than one member"));
        self.check(
            count("slow and not closed") == 0,
            &format!("slow and not closed: {}", count("slow and not closed")),
        );
    }

    pub(super) fn gateway(&mut self, n: usize, name: &str) {
        for (what, part, more) in BOUNDS {
            self.growth(&format!("{name}, {what}"), |taken| taken.gateways[n][what], part, more);
        }
        let (before, after) = (&self.before.gateways[n], &self.after.gateways[n]);
        for (what, more) in EMPTIED {
            let (then, now) = (before[what], after[what]);
            self.check(
                now <= then + more,
                &format!("{name}, {what}: {then} before anybody came, {now} when all had left"),
            );
        }
        for what in ["resident", "anonymous"] {
            let most = self.all.iter().map(|taken| taken.gateways[n][what]).fold(0.0, f64::max);
            let line = format!(
                "{name}, {what}: {:.1} MiB before anybody came, {:.1} at most, {:.1} when all had left",
                mib(before[what]),
                mib(most),
                mib(after[what])
            );
            self.check(after[what] <= before[what] + LEFT, &line);
        }
        let counters = ["messages", "deliveries", "generation", "accepted", "slow", "dropped", "failures"];
        let counters = counters.map(|what| format!("{what} {}", after[what]));
        self.say(&format!("{name}: {}", counters.join(", ")));
    }

    pub(super) fn redis(&mut self) {
        let remembered = |taken: &Taken| taken.redis["remembered"];
        self.growth("Redis, keys but those of rooms remembered", |it| it.redis["keys"] - remembered(it), 0.02, 20.0);
        let memory = |it: &Taken| it.redis["memory"] - remembered(it) * REMEMBERED_BYTES;
        self.growth("Redis, memory but that of rooms remembered", memory, 0.02, 1e6);
        let (before, after) = (mib(self.before.redis["memory"]), mib(self.after.redis["memory"]));
        self.say(&format!(
            "Redis: {before:.1} MiB before anybody came, {after:.1} when all had left, with {} rooms remembered",
            remembered(self.after)
        ));
    }

    pub(super) fn processor(&mut self) {
        let ([first, ..], [.., last]) = (self.all, self.all) else { return };
        let used = |now: &Levels, then: &Levels| 100.0 * (now["cpu"] - then["cpu"]) / self.length.as_secs_f64();
        self.say(&format!(
            "processor, % of a core: a {:.1}, b {:.1}, Redis {:.1}, the load {:.1}",
            used(&last.gateways[0], &first.gateways[0]),
            used(&last.gateways[1], &first.gateways[1]),
            used(&last.redis, &first.redis),
            used(&last.load, &first.load)
        ));
    }

    /// By the line that fits best, from the end of the warm-up to the end.
    fn growth(&mut self, name: &str, which: impl Fn(&Taken) -> f64, part: f64, more: f64) {
        let points: Vec<_> = self.warm.iter().map(|taken| (taken.at.as_secs_f64(), which(taken))).collect();
        let [(begin, _), .., (end, _)] = points[..] else { return };
        let middle = median(points.iter().map(|(_, y)| *y).collect());
        let grown = slope(&points) * (end - begin);
        let (shown, grown_shown) = if middle > 1e6 { (mib(middle), mib(grown)) } else { (middle, grown) };
        let line = format!("{name}: {shown:.1}, {grown_shown:+.2} in {:.0} s", end - begin);
        self.check(self.length < TELLING || grown <= middle * part + more, &line);
    }
}

pub(super) fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The median of the slopes between all pairs (Theil and Sen): single peaks do
/// not move it.
fn slope(points: &[(f64, f64)]) -> f64 {
    let pairs = points.iter().enumerate().flat_map(|(n, one)| points[n + 1..].iter().map(move |other| (one, other)));
    median(pairs.map(|((x, y), (later, there))| (there - y) / (later - x)).collect())
}

#[test]
fn a_growth_is_seen_through_peaks() {
    let points: Vec<_> =
        (0..100).map(|n| (f64::from(n), f64::from(n) * 3.0 + if n % 9 == 0 { 500.0 } else { 0.0 })).collect();
    assert!((slope(&points) - 3.0).abs() < 0.2);
    let flat: Vec<_> = (0..100).map(|n| (f64::from(n), f64::from(7 + n % 3))).collect();
    assert!(slope(&flat).abs() < 1e-9);
}
