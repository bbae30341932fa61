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

/// Seconds of processor.
fn cpu() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The name stands in brackets and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<i64>().ok();
    Some((number(11)? + number(12)?) as f64 / TICKS)
}

/// Bytes of address space and bytes resident. Other files count in pages, whose
/// size is not the same everywhere.
fn memory() -> Option<(i64, i64)> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let bytes = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().strip_suffix(" kB")?.parse::<i64>().ok()?.checked_mul(1024)
    };
    Some((bytes("VmSize:")?, bytes("VmRSS:")?))
}

/// Bytes of memory in use; None: this system does not say.
pub(crate) fn resident() -> Option<usize> {
    memory().and_then(|(_, resident)| usize::try_from(resident).ok())
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
        if let Some(cpu) = cpu() {
            put(&mut encoder, "process_cpu_seconds", "Seconds of processor that were used", &ConstCounter::new(cpu))?;
        }
        if let Some((size, resident)) = memory() {
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
