//! Hears the channels: the task that keeps a subscribing connection, and what
//! it does with what comes in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::join_all, stream::FuturesUnordered};
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    BusError, Cluster, Receiver,
    backoff::Backoff,
    envelope::{self, Body, Frame, Unread},
    interest::{Held, Interest, Of, Topic},
    link::Link,
    metrics::ClusterMetrics,
    wiring::{self, OnMessage, OnPush, Wiring},
};
use crate::id::BootId;

/// Channels in one subscription.
const BATCH: usize = 512;

/// How often the path there and back is tried.
const PROBE: Duration = Duration::from_millis(800);

/// How long it may stay silent before the connection is given up.
const SILENCE: Duration = Duration::from_millis(2200);

/// Who stood still for longer cannot say how long the path was silent.
const STALL: Duration = Duration::from_millis(1000);

/// How long to wait after Redis did not take a note.
const RETRY: Duration = Duration::from_millis(50);

/// How long to wait after a node of a cluster did not take a subscription.
const RETRY_NODE: Duration = Duration::from_millis(200);

/// Subscriptions that are under way at once in a cluster, where one may wait
/// for a node that stands still. One server does them one after the other.
const AT_ONCE: usize = 16;

/// How often what nobody holds any more is let go.
const SWEEP: Duration = Duration::from_millis(250);

/// What the subscribing side knows.
#[derive(Debug)]
pub(super) struct Ears {
    interest: Mutex<Interest>,
    wake: Notify,
    /// When the last probe came back.
    echoed: Mutex<Instant>,
    /// All that is wanted is heard.
    is_up: AtomicBool,
    /// Redis has ended a subscription; something may have been missed.
    has_lost: AtomicBool,
    probes: AtomicU64,
    me: BootId,
    metrics: ClusterMetrics,
}

/// Keeps a channel subscribed for as long as it lives.
#[derive(Debug)]
pub struct Hold {
    ears: Arc<Ears>,
    topic: Topic,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.ears.interest.lock().release(&self.topic, Instant::now());
    }
}

impl Ears {
    pub(super) fn new(me: BootId, metrics: ClusterMetrics) -> Self {
        Self {
            interest: Mutex::default(),
            wake: Notify::new(),
            echoed: Mutex::new(Instant::now()),
            is_up: AtomicBool::new(false),
            has_lost: AtomicBool::new(false),
            probes: AtomicU64::new(0),
            me,
            metrics,
        }
    }

    /// Holds a channel; it is heard once this returns.
    pub(super) async fn hold(self: &Arc<Self>, topic: String, of: Of, within: Duration) -> Result<Hold, BusError> {
        let topic: Topic = topic.into();
        let (held, must_wake) = self.interest.lock().hold(&topic, of);
        let hold = Hold { ears: Arc::clone(self), topic };
        if must_wake {
            self.wake.notify_one();
        }
        match held {
            Held::Heard => Ok(hold),
            Held::Soon(soon) => match tokio::time::timeout(within, soon).await {
                Ok(Ok(())) => Ok(hold),
                _ => Err(BusError::Down),
            },
        }
    }

    /// Everything wanted is heard, and the path works.
    pub(super) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// The instance becomes another one: everything held must be noted as held
    /// by that, before anybody relies on it.
    pub(super) fn note_again(&self) {
        self.interest.lock().deaf();
        self.wake.notify_one();
    }

    /// Whose channels are held.
    pub(super) fn held(&self) -> Vec<Of> {
        self.interest.lock().all()
    }

    /// Channels that are subscribed.
    pub(super) fn n_topics(&self) -> usize {
        self.interest.lock().len()
    }

    /// Keeps hearing until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        wiring: Wiring,
        cluster: Arc<Cluster>,
        receiver: Arc<dyn Receiver>,
        probe: impl Fn(u64) + Send + Sync + 'static,
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::default();
        for topic in cluster.own_topics() {
            // Held for good: nobody lets go of them.
            drop(self.interest.lock().hold(&topic.into(), Of::Instances));
        }
        while !stop.is_cancelled() {
            let lost = CancellationToken::new();
            *cluster.hearing.lock() = lost.clone();
            let on_push: OnPush = {
                let (ears, on_end) = (Arc::clone(&self), wiring::tell_end(&lost));
                Arc::new(move |push| match push.kind {
                    PushKind::Disconnection => on_end(push),
                    PushKind::SUnsubscribe => ears.on_unsubscribed(&push),
                    PushKind::Message | PushKind::SMessage => ears.metrics.dropped("garbled"),
                    _ => {}
                })
            };
            let on_message: OnMessage = {
                let (ears, receiver) = (Arc::clone(&self), Arc::clone(&receiver));
                Arc::new(move |topic, bytes| ears.on_message(topic, bytes, &*receiver))
            };
            let connecting = wiring.connect_to_subscribe(on_push, on_message);
            let end = tokio::select! {
                end = self.hear(connecting, &cluster, &*receiver, &probe, &mut backoff) => end,
                () = lost.cancelled() => std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into(),
                () = stop.cancelled() => return,
            };
            self.is_up.store(false, Ordering::Relaxed);
            self.interest.lock().deaf();
            self.metrics.lost_link("subscribe");
            tracing::warn!(error = %end, "the subscribing connection to Redis is lost");
            tokio::select! {
                () = backoff.wait() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// One connection's life; returns why it ended.
    async fn hear(
        &self,
        connecting: impl Future<Output = Result<Link, RedisError>>,
        cluster: &Cluster,
        receiver: &dyn Receiver,
        probe: &(impl Fn(u64) + Send + Sync),
        backoff: &mut Backoff,
    ) -> RedisError {
        let link = match connecting.await {
            Ok(link) => link,
            Err(error) => return error,
        };
        *self.echoed.lock() = Instant::now();
        let mut probes = tokio::time::interval(PROBE);
        let mut sweeps = tokio::time::interval(SWEEP);
        for ticks in [&mut probes, &mut sweeps] {
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        let at_once = if link.is_cluster() { AT_ONCE } else { 1 };
        let mut was_up = false;
        // Beside the rest: a path is not silent because many channels are
        // being subscribed, or because one cannot be noted.
        let (mut subscribing, mut doubts) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut leaving = FuturesUnordered::new();
        loop {
            while subscribing.len() < at_once {
                let wanted = self.interest.lock().take_wanted(BATCH);
                if wanted.is_empty() {
                    break;
                }
                subscribing.push(self.subscribe(link.clone(), cluster, wanted));
            }
            if (!was_up || self.has_lost.load(Ordering::Relaxed)) && self.is_complete() {
                was_up = true;
                self.has_lost.store(false, Ordering::Relaxed);
                backoff.reset();
                self.is_up.store(true, Ordering::Relaxed);
                receiver.on_hearing();
            }
            let waits = Instant::now();
            let on_tick = || {
                if waits.elapsed() > STALL {
                    // It is we who stood still; what came meanwhile waits.
                    *self.echoed.lock() = Instant::now();
                }
            };
            tokio::select! {
                Some(subscribed) = subscribing.next() => {
                    if let Err(error) = subscribed {
                        return error;
                    }
                }
                Some(left) = leaving.next() => {
                    if let Err(error) = left {
                        // It has moved, or its node stands still.
                        tracing::debug!(%error, "a channel is not unsubscribed");
                    }
                }
                () = self.wake.notified() => {}
                _ = sweeps.tick() => {
                    on_tick();
                    let idle = {
                        // Under the lock: who holds it again is noted again,
                        // behind this.
                        let (mut interest, now) = (self.interest.lock(), Instant::now());
                        cluster.forget(&interest.take_left(now, BATCH));
                        interest.take_idle(now, BATCH)
                    };
                    if !idle.is_empty() {
                        let names: Vec<String> = idle.iter().map(ToString::to_string).collect();
                        let mut to = link.clone();
                        let left = async move { to.unsubscribe(&names).await };
                        if link.is_cluster() {
                            leaving.push(left);
                        } else if let Err(error) = left.await {
                            return error;
                        }
                    }
                }
                _ = probes.tick() => {
                    on_tick();
                    if self.echoed.lock().elapsed() > SILENCE {
                        if !link.is_cluster() {
                            return silent(cluster);
                        }
                        if doubts.is_empty() {
                            doubts.push(cluster.answers_others());
                        }
                    }
                    probe(self.probes.fetch_add(1, Ordering::Relaxed) + 1);
                }
                Some(answers_others) = doubts.next() => {
                    if answers_others && self.echoed.lock().elapsed() > SILENCE {
                        return silent(cluster);
                    }
                }
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.interest.lock().is_complete()
    }

    /// Subscribes to what is wanted, and notes it as held by this instance
    /// before anybody relies on it. In a cluster each channel is for itself:
    /// a node that has moved away from it or stands still is not the others'
    /// trouble.
    async fn subscribe(&self, link: Link, cluster: &Cluster, wanted: Vec<Topic>) -> Result<(), RedisError> {
        let of = self.interest.lock().of(&wanted);
        let noting = async { cluster.note(&of).await.is_ok() }.shared();
        let is_cluster = link.is_cluster();
        let parts = if is_cluster { wanted.chunks(1) } else { wanted.chunks(BATCH) };
        let parts = parts.map(|topics| {
            let (mut link, noting) = (link.clone(), noting.clone());
            async move {
                let names: Vec<String> = topics.iter().map(ToString::to_string).collect();
                let (subscribed, is_noted) = tokio::join!(link.subscribe(&names), noting);
                match subscribed {
                    Ok(()) if is_noted => {
                        self.interest.lock().heard(topics);
                        return Ok(());
                    }
                    // Redis is away, or this instance was taken for dead and
                    // has not come back yet. The probe decides whether to go on.
                    Ok(()) => tokio::time::sleep(RETRY).await,
                    Err(error) if is_cluster => {
                        tracing::debug!(%error, "a channel is not subscribed; trying again");
                        tokio::time::sleep(RETRY_NODE).await;
                    }
                    Err(error) => return Err(error),
                }
                self.interest.lock().want(topics);
                self.wake.notify_one();
                Ok(())
            }
        });
        join_all(parts).await.into_iter().collect()
    }

    /// A server unsubscribes us when the channel's slot moves to another.
    fn on_unsubscribed(&self, push: &PushInfo) {
        let Some(Value::BulkString(topic)) = push.data.first() else { return };
        let Ok(topic) = std::str::from_utf8(topic) else { return };
        if self.interest.lock().lose(topic) {
            self.has_lost.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    fn on_message(&self, topic: &[u8], bytes: &[u8], receiver: &dyn Receiver) {
        self.metrics.received.inc();
        self.metrics.received_bytes.inc_by(bytes.len() as u64);
        let (frame, position) = match envelope::decode(bytes) {
            Ok(read) => read,
            Err(Unread::Version) => return self.metrics.dropped("version"),
            Err(Unread::Garbled) => return self.metrics.dropped("garbled"),
        };
        let Frame { origin, body } = frame;
        if let (Body::Probe(_), true) = (&body, origin == self.me) {
            *self.echoed.lock() = Instant::now();
            return;
        }
        if let Body::Publication(publication) = &body
            && publication.n > 0
            && origin != self.me
        {
            let topic = std::str::from_utf8(topic).unwrap_or_default();
            match self.interest.lock().count(topic, origin, publication.stream, publication.n) {
                Some(missing) => drop(self.metrics.missed.inc_by(missing)),
                // A connection that was given up may still have carried it.
                None => return self.metrics.dropped("late"),
            }
        }
        receiver.on_frame(origin, body, position);
    }
}

/// Ends both connections: it may be either direction that is broken.
fn silent(cluster: &Cluster) -> RedisError {
    cluster.publishing.lock().cancel();
    std::io::Error::new(std::io::ErrorKind::TimedOut, "nothing comes back from Redis").into()
}

impl Cluster {
    /// True if the node by which this instance is reached answers a new
    /// connection, or nothing answers at all. Else it stands still: connections
    /// to it may be sound, and those to the other nodes are.
    async fn answers_others(&self) -> bool {
        let Ok(mut link) = self.wiring.connect("check", None).await else { return true };
        let topic = self.keys.instance_topic(self.boot);
        let mut exists = redis::cmd("EXISTS");
        exists.arg(&topic);
        link.one(exists, &topic).await.is_ok()
    }
}
