//! What plugins count themselves. A plugin chooses the names, so each has a
//! budget of them, and they outlive its guests and generations.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::{PluginLabel, hook_histogram};

/// Different names of one plugin.
const NAMES_MAX: usize = 64;

/// Bytes of a name.
const NAME_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    plugin: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    plugin: String,
    outcome: &'static str,
}

type FloatGauge = Gauge<f64, AtomicU64>;

/// The families in the registry.
#[derive(Debug, Clone)]
struct Families {
    counts: Family<Labels, Counter>,
    gauges: Family<Labels, FloatGauge>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    dropped: Family<PluginLabel, Counter>,
    requests: Family<RequestLabels, Histogram, fn() -> Histogram>,
}

fn request_histogram() -> Histogram {
    // 250 us to 16 s, each four times the one before.
    Histogram::new(exponential_buckets(250e-6, 4.0, 9))
}

/// All plugins' own figures.
#[derive(Debug)]
pub(super) struct Guests {
    families: Families,
    plugins: Mutex<HashMap<String, Arc<GuestFigures>>>,
}

impl Guests {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let families = Families {
            counts: Family::default(),
            gauges: Family::default(),
            seconds: Family::new_with_constructor(hook_histogram),
            dropped: Family::default(),
            requests: Family::new_with_constructor(request_histogram),
        };
        registry.register("guest_count", "What plugins count, by plugin and name", families.counts.clone());
        registry.register("guest_gauge", "What plugins set, by plugin and name", families.gauges.clone());
        let help = "What plugins time, by plugin and name";
        registry.register_with_unit("guest", help, Unit::Seconds, families.seconds.clone());
        let help = "Uses of `metrics` by plugins that had no effect: a bad name, one too many, or of another kind";
        registry.register("guest_figures_dropped", help, families.dropped.clone());
        let help = "Time of plugins' requests to other servers, by what came of them";
        registry.register_with_unit("guest_request", help, Unit::Seconds, families.requests.clone());
        Self { families, plugins: Mutex::default() }
    }

    /// Of one plugin, in whatever generation.
    pub(super) fn of(&self, plugin: &str) -> Arc<GuestFigures> {
        let mut plugins = self.plugins.lock();
        let figures = plugins.entry(plugin.to_owned()).or_insert_with(|| {
            let dropped = self.families.dropped.get_or_create_owned(&PluginLabel { plugin: plugin.to_owned() });
            let families = self.families.clone();
            Arc::new(GuestFigures { plugin: plugin.to_owned(), families, dropped, known: Mutex::default() })
        });
        Arc::clone(figures)
    }
}

#[derive(Debug)]
enum Figure {
    Count(Counter),
    Gauge(FloatGauge),
    Seconds(Histogram),
}

/// What one use of a figure says.
#[derive(Debug, Clone, Copy)]
pub enum Sample {
    /// So many more.
    Count(u64),
    /// This is how it stands.
    Gauge(f64),
    /// It took so long.
    Seconds(f64),
}

/// One plugin's own figures.
#[derive(Debug)]
pub struct GuestFigures {
    plugin: String,
    families: Families,
    dropped: Counter,
    known: Mutex<HashMap<String, Figure>>,
}

impl GuestFigures {
    /// Takes a sample down, or counts that it could not.
    pub fn take(&self, name: &str, sample: Sample) {
        let mut known = self.known.lock();
        if !known.contains_key(name) && !self.add(&mut known, name, sample) {
            self.dropped.inc();
            return;
        }
        match (known.get(name), sample) {
            (Some(Figure::Count(counter)), Sample::Count(by)) => {
                counter.inc_by(by);
            }
            (Some(Figure::Gauge(gauge)), Sample::Gauge(value)) => {
                gauge.set(value);
            }
            (Some(Figure::Seconds(histogram)), Sample::Seconds(seconds)) if seconds.is_finite() => {
                histogram.observe(seconds);
            }
            _ => {
                self.dropped.inc();
            }
        }
    }

    /// A request to another server ended.
    pub(crate) fn requested(&self, outcome: &'static str, took: Duration) {
        let labels = RequestLabels { plugin: self.plugin.clone(), outcome };
        self.families.requests.get_or_create_owned(&labels).observe(took.as_secs_f64());
    }

    fn add(&self, known: &mut HashMap<String, Figure>, name: &str, sample: Sample) -> bool {
        let is_letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_letter) || known.len() >= NAMES_MAX {
            return false;
        }
        let labels = Labels { plugin: self.plugin.clone(), name: name.to_owned() };
        let figure = match sample {
            Sample::Count(_) => Figure::Count(self.families.counts.get_or_create_owned(&labels)),
            Sample::Gauge(_) => Figure::Gauge(self.families.gauges.get_or_create_owned(&labels)),
            Sample::Seconds(_) => Figure::Seconds(self.families.seconds.get_or_create_owned(&labels)),
        };
        known.insert(name.to_owned(), figure);
        true
    }
}
