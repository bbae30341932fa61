//! What the operating system knows of this process, by the names that
//! Prometheus' own libraries give it. Where there is no `/proc`, it is left out.

use std::{
    fmt, fs,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Ticks of the processor's accounting a second, fixed for all that reads it.
const TICKS: f64 = 100.0;

const PAGE: i64 = 4096;

#[derive(Debug)]
pub(super) struct Process {
    started: f64,
}

impl Process {
    pub(super) fn new() -> Self {
        static STARTED: LazyLock<f64> =
            LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        Self { started: *STARTED }
    }
}

/// Seconds of processor, bytes of address space and bytes resident.
fn stat() -> Option<(f64, i64, i64)> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The name stands in brackets and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<i64>().ok();
    let ticks = number(11)? + number(12)?;
    Some((ticks as f64 / TICKS, number(20)?, number(21)? * PAGE))
}

fn open_files() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

fn most_files() -> Option<i64> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    text.lines().find(|line| line.starts_with("Max open files"))?.split_whitespace().nth(3)?.parse().ok()
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some((cpu, size, resident)) = stat() {
            put(&mut encoder, "process_cpu_seconds", "Seconds of processor that were used", &ConstCounter::new(cpu))?;
            put(&mut encoder, "process_virtual_memory_bytes", "Bytes of address space", &ConstGauge::new(size))?;
            put(&mut encoder, "process_resident_memory_bytes", "Bytes of memory in use", &ConstGauge::new(resident))?;
        }
        if let Some(n) = open_files() {
            put(&mut encoder, "process_open_fds", "Files and sockets that are open", &ConstGauge::new(n))?;
        }
        if let Some(n) = most_files() {
            put(&mut encoder, "process_max_fds", "Files and sockets that may be open", &ConstGauge::new(n))?;
        }
        put(&mut encoder, "process_start_time_seconds", "When it started, since 1970", &ConstGauge::new(self.started))
    }
}

fn put(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}
