//! Spans of what clients ask for, of the hooks that it runs through and of its
//! delivery, for a collector of OpenTelemetry.
//!
//! Off unless the config names a collector: then a hook costs one look at a
//! value of its thread. What is looked at more closely is decided once, where a
//! command begins; what happens below it on the same thread finds it there. The
//! libraries for this bring tonic with them even where no gRPC is spoken, and
//! OTLP over HTTP is a few fields of JSON, so those are written here.

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

mod export;

pub use self::export::{Collector, export};
use crate::{config::TracingConfig, metrics::Metrics};

/// Spans that may wait for the collector; more are dropped and counted.
const WAITING: usize = 4096;

/// Bytes of a name that a client chose.
const NAME_MAX: usize = 128;

/// Begins spans.
#[derive(Debug)]
pub struct Tracer {
    /// A span is kept if a random number is below this.
    below: u64,
    /// Names of rooms and users may be told.
    names: bool,
    random: RandomState,
    n: AtomicU64,
    sender: mpsc::Sender<Finished>,
    metrics: Metrics,
}

/// Where a span stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    trace: (u64, u64),
    span: u64,
}

/// What a collector is told.
#[derive(Debug)]
pub struct Finished {
    place: Place,
    parent: Option<u64>,
    name: &'static str,
    started: Duration,
    took: Duration,
    attributes: Vec<(&'static str, String)>,
    error: Option<String>,
}

thread_local! {
    static CURRENT: RefCell<Option<(Arc<Tracer>, Place)>> = const { RefCell::new(None) };
}

impl Tracer {
    /// One, and what it hands to [`export`].
    #[must_use]
    pub fn new(config: &TracingConfig, metrics: Metrics) -> (Arc<Self>, mpsc::Receiver<Finished>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let below = (config.sample.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        let (random, n) = (RandomState::new(), AtomicU64::new(0));
        (Arc::new(Self { below, names: config.names, random, n, sender, metrics }), receiver)
    }

    /// A span that belongs to no other; None: this one is passed over.
    #[must_use]
    pub fn root(self: &Arc<Self>, name: &'static str) -> Option<Span> {
        let random = self.random();
        let keeps = random < self.below || self.below == u64::MAX;
        keeps.then(|| {
            let place = Place { trace: (self.random(), self.random()), span: self.random() };
            Span::new(self, place, None, name)
        })
    }

    fn random(&self) -> u64 {
        self.random.hash_one(self.n.fetch_add(1, Ordering::Relaxed))
    }
}

/// Something that takes a while; it ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    tracer: Arc<Tracer>,
    began: Instant,
    /// None: it has ended.
    finished: Option<Finished>,
}

/// A span below the one that this thread is in. None: it is in none.
#[must_use]
pub fn child(name: &'static str) -> Option<Span> {
    CURRENT.with_borrow(|current| {
        let (tracer, above) = current.as_ref()?;
        let place = Place { trace: above.trace, span: tracer.random() };
        Some(Span::new(tracer, place, Some(above.span), name))
    })
}

/// Does something within a span: spans that begin below find it.
pub fn within<T>(span: Option<&Span>, work: impl FnOnce() -> T) -> T {
    let Some(span) = span else { return work() };
    let _entered = Entered::new(span);
    work()
}

/// The same for what waits: the thread is in the span whenever it goes on.
pub async fn wait_within<F: Future + Unpin>(span: Option<&Span>, mut future: F) -> F::Output {
    std::future::poll_fn(|context| -> Poll<F::Output> {
        let _entered = span.map(Entered::new);
        Pin::new(&mut future).poll(context)
    })
    .await
}

/// While this lives, the thread is in a span; then in what it was in before.
struct Entered(Option<(Arc<Tracer>, Place)>);

impl Entered {
    fn new(span: &Span) -> Self {
        let now = span.finished.as_ref().map(|finished| (Arc::clone(&span.tracer), finished.place));
        Self(CURRENT.replace(now))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

impl Span {
    fn new(tracer: &Arc<Tracer>, place: Place, parent: Option<u64>, name: &'static str) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (attributes, error, took) = (Vec::new(), None, Duration::ZERO);
        let finished = Finished { place, parent, name, started, took, attributes, error };
        Self { tracer: Arc::clone(tracer), began: Instant::now(), finished: Some(finished) }
    }

    /// Adds what no client chose.
    pub fn note(&mut self, key: &'static str, value: impl Into<String>) {
        if let Some(finished) = &mut self.finished {
            finished.attributes.push((key, value.into()));
        }
    }

    /// Adds the name of a room or a user, if the config allows it, and of that
    /// no more than the start.
    pub fn note_name(&mut self, key: &'static str, value: &str) {
        if self.tracer.names {
            self.note(key, &value[..value.floor_char_boundary(NAME_MAX)]);
        }
    }

    /// It came to nothing.
    pub fn fail(&mut self, reason: impl Into<String>) {
        if let Some(finished) = &mut self.finished {
            finished.error = Some(reason.into());
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(mut finished) = self.finished.take() else { return };
        finished.took = self.began.elapsed();
        if self.tracer.sender.try_send(finished).is_err() {
            self.tracer.metrics.spans("dropped", 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(sample: f64, names: bool) -> (Arc<Tracer>, mpsc::Receiver<Finished>) {
        let otlp = "http://127.0.0.1:4318".to_owned();
        Tracer::new(&TracingConfig { otlp: Some(otlp), authorities: None, sample, names }, Metrics::new())
    }

    #[test]
    fn spans_below_find_the_one_above_and_nothing_else_does() {
        let (tracer, mut receiver) = tracer(1.0, false);
        assert!(child("alone").is_none());
        let root = tracer.root("root");
        within(root.as_ref(), || {
            let hook = child("hook");
            within(hook.as_ref(), || drop(child("below")));
            drop(hook);
            drop(child("delivery"));
        });
        assert!(child("alone").is_none());
        drop(root);
        let all: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert_eq!(all.iter().map(|span| span.name).collect::<Vec<_>>(), ["below", "hook", "delivery", "root"]);
        let [below, hook, delivery, root] = &all[..] else { panic!() };
        assert_eq!((root.parent, below.parent), (None, Some(hook.place.span)));
        assert_eq!((hook.parent, delivery.parent), (Some(root.place.span), Some(root.place.span)));
        assert!(all.iter().all(|span| span.place.trace == root.place.trace));
    }

    #[test]
    fn as_many_are_kept_as_are_asked_for() {
        let kept = |sample| {
            let (tracer, _receiver) = tracer(sample, false);
            (0..10_000).filter(|_| tracer.root("x").is_some()).count()
        };
        assert_eq!((kept(0.0), kept(1.0)), (0, 10_000));
        assert!((700..1300).contains(&kept(0.1)), "{}", kept(0.1));
    }

    #[test]
    fn names_are_told_only_where_that_is_allowed() {
        for names in [false, true] {
            let (tracer, mut receiver) = tracer(1.0, names);
            tracer.root("x").unwrap().note_name("room", &"ä".repeat(500));
            let told = receiver.try_recv().unwrap().attributes;
            assert_eq!(told.first().map(|(_, name)| name.len()), names.then_some(128));
        }
    }

    #[tokio::test]
    async fn what_waits_is_in_its_span_and_others_meanwhile_are_not() {
        let (tracer, _receiver) = tracer(1.0, false);
        let root = tracer.root("root");
        let waiting = async {
            assert!(child("before").is_some());
            tokio::task::yield_now().await;
            assert!(child("after").is_some());
        };
        let waiting = wait_within(root.as_ref(), Box::pin(waiting));
        let other = async { assert!(child("other").is_none()) };
        tokio::join!(waiting, other);
    }
}
