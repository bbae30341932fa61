//! The machine that the figures belong to.

use std::fs;

use anyhow::{Result, ensure};

/// One line: cores, processor, kernel, and what else ran at the start.
pub(crate) fn line() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    let (model, mhz) = (field("model name"), field("cpu MHz"));
    format!("{cores} cores (clients included), {model} at {mhz} MHz, Linux {kernel}, load {load} before")
}

/// Makes room for `wanted` open files in this process and in its children.
pub(crate) fn raise_open_files(wanted: u64) -> Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "std has no getrlimit; the pointer is to a live local")]
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    ensure!(got == 0, "cannot read the limit of open files");
    limit.rlim_cur = limit.rlim_max;
    #[expect(unsafe_code, reason = "std has no setrlimit; the pointer is to a live local")]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    let hard = limit.rlim_max;
    ensure!(set == 0 && hard >= wanted, "{wanted} open files needed, the hard limit is {hard}");
    Ok(())
}
