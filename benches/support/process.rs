//! A child process: its CPU time, its memory, its end.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A running server. Dropping it kills it.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Time on a CPU, thread by thread.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let mut threads = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let path = entry?.path();
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(path.join("schedstat")) else {
                continue;
            };
            let on_cpu = text.split(' ').next().context("an empty schedstat")?.parse()?;
            threads.insert(path, on_cpu);
        }
        Ok(Cpu(threads))
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

/// Nanoseconds on a CPU of each thread.
pub(crate) struct Cpu(HashMap<PathBuf, u64>);

impl Cpu {
    /// What the threads that are alive now have used since `earlier`. What a
    /// thread used that ended in between is lost: servers keep their threads.
    pub(crate) fn since(&self, earlier: &Cpu) -> Duration {
        let used = |(thread, now): (&_, &u64)| now - earlier.0.get(thread).copied().unwrap_or(0);
        Duration::from_nanos(self.0.iter().map(used).sum())
    }
}
