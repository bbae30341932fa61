//! What the cluster counts. The names stand in `crate::metrics`.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

/// Why something was dropped, or what happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// All counters. A clone counts into the same ones.
#[derive(Debug, Clone, Default)]
pub struct ClusterMetrics {
    /// Frames put on the way to others.
    pub sent: Counter,
    /// Frames that came, our own among them.
    pub received: Counter,
    /// Their bytes.
    pub received_bytes: Counter,
    /// Messages of live rooms that others sent and that never came.
    pub missed: Counter,
    /// Messages of rooms with history that did not come and were read instead.
    pub repaired: Counter,
    /// Times at which members had to be told that messages are lost to them.
    pub unrepaired: Counter,
    /// Frames and commands that came to nothing, by reason.
    pub drops: Family<ReasonLabel, Counter>,
    /// Connections to Redis that were lost, by role.
    pub lost: Family<ReasonLabel, Counter>,
    /// Ends of cleaning up, by outcome.
    pub sweeps: Family<ReasonLabel, Counter>,
    /// Writes that a newer claim has made void.
    pub fenced: Counter,
    /// Times at which the others had taken this instance for dead.
    pub deposed: Counter,
    /// Instances that beat.
    pub instances: Gauge,
    /// Channels heard or wanted.
    pub topics: Gauge,
    /// Seconds since the last beat, at the last scrape.
    pub beat_age: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// 1 while Redis can be used in both directions.
    pub up: Gauge,
}

impl ClusterMetrics {
    pub(crate) fn begin_at_zero(&self) {
        for reason in ["garbled", "late", "orders", "refused", "stale", "unknown", "version"] {
            drop(self.drops.get_or_create(&ReasonLabel { reason }));
        }
        for role in ["publish", "read", "subscribe", "write"] {
            drop(self.lost.get_or_create(&ReasonLabel { reason: role }));
        }
        for outcome in ["done", "fenced", "stopped"] {
            drop(self.sweeps.get_or_create(&ReasonLabel { reason: outcome }));
        }
    }

    /// Something came to nothing.
    pub fn dropped(&self, reason: &'static str) {
        self.drops.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A connection to Redis ended.
    pub fn lost_link(&self, role: &'static str) {
        self.lost.get_or_create(&ReasonLabel { reason: role }).inc();
    }

    /// A cleaning up ended.
    pub fn swept(&self, outcome: &'static str) {
        self.sweeps.get_or_create(&ReasonLabel { reason: outcome }).inc();
    }
}
