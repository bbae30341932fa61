//! A child process: its CPU time, its memory, its end.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// A running server. Dropping it kills it.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Time on a CPU of all its threads, also of those that have ended, in the
    /// kernel's own count of nanoseconds.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        cpu_of(self.0.id())
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.0.id());
        let text = fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()).context("no Rss line")?;
        Ok(kib.parse::<u64>()? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last lines of a log, for a report of trouble.
pub(crate) fn end_of(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let from = text.lines().count().saturating_sub(30);
    text.lines().skip(from).collect::<Vec<_>>().join("\n")
}

/// Time on a CPU since a process began.
#[derive(Clone, Copy)]
pub(crate) struct Cpu(Duration);

impl Cpu {
    /// What has been used since `earlier`.
    pub(crate) fn since(&self, earlier: &Cpu) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// That of this process itself.
pub(crate) fn own_cpu() -> Result<Cpu> {
    cpu_of(std::process::id())
}

#[expect(unsafe_code, reason = "two libc calls on values of our own; std has no such call")]
fn cpu_of(process: u32) -> Result<Cpu> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls are given valid pointers to initialised values.
    let (found, read) = unsafe {
        let found = libc::clock_getcpuclockid(process.cast_signed(), &raw mut clock);
        (found, if found == 0 { libc::clock_gettime(clock, &raw mut time) } else { -1 })
    };
    match (found, read) {
        (0, 0) => Ok(Cpu(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32))),
        (0, _) => Err(io::Error::last_os_error()).context("reading a process's clock"),
        (error, _) => bail!("a process has no clock: {}", io::Error::from_raw_os_error(error)),
    }
}

/// How many processors the machine has, and how long they have had nothing to
/// do since it began, together. The kernel counts that when they fall asleep
/// and wake, and not only at its ticks.
pub(crate) fn machine_idle() -> Result<(u32, Duration)> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    // user, nice, system, idle, iowait, …: proc_stat(5).
    let idle: u64 = line.split_whitespace().skip(4).take(2).map(|ticks| ticks.parse().unwrap_or(0)).sum();
    let is_processor = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    Ok((text.lines().filter(is_processor).count() as u32, Duration::from_secs_f64(idle as f64 / TICKS)))
}

/// A second's ticks in /proc, on every Linux that we know of.
const TICKS: f64 = 100.0;
