//! `wayleave run`.

use std::{path::Path, process::ExitCode};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::notify::notify;
use crate::{
    gateway::{Gateway, Left},
    generation::NotBuilt,
};

pub(super) fn main(file: &Path) -> ExitCode {
    let config = match super::load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    super::start_log(&config.log);
    // Only here: those that `dev` starts to build plugins would do without, too.
    #[cfg(target_os = "linux")]
    refuse_huge_pages();
    match runtime().and_then(|runtime| runtime.block_on(serve(config, file))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            // A plugin that cannot be used is a mistake like one of the config.
            if error.is::<NotBuilt>() { ExitCode::from(super::EXIT_MISTAKE) } else { ExitCode::FAILURE }
        }
    }
}

pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    raise_file_limit();
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

async fn serve(config: crate::config::Config, file: &Path) -> anyhow::Result<ExitCode> {
    let signals = Signals::new()?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let gateway = Gateway::start(config, Some(file.to_owned())).await?;
    tracing::info!("listening on {scheme}://{}", gateway.address());
    notify("READY=1");
    signals.until_stopped(gateway, std::future::pending()).await
}

/// The signals that mean something. Made before anybody can send one in good
/// faith: without a handler they end the process.
pub(super) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Serves until a signal, or until `ended` is; then drains.
    pub(super) async fn until_stopped(
        mut self,
        gateway: Gateway,
        ended: impl Future<Output = ()>,
    ) -> anyhow::Result<ExitCode> {
        tokio::pin!(ended);
        let asked = gateway.drain_asked();
        loop {
            tokio::select! {
                _ = self.hangup.recv() => drop(gateway.reloader().reload("SIGHUP").await),
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                () = asked.cancelled() => break,
                () = &mut ended => break,
            }
        }
        let how = gateway.reloader().running().config.drain;
        tracing::info!(timeout = ?how.timeout, connections = gateway.router().hub.n_connections(), "draining");
        notify("STOPPING=1");
        Ok(match gateway.drain(how).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(left) => {
                let Left { connections, named, tasks } = left;
                tracing::error!(connections, tasks, ?named, "the drain was cut off at drain.timeout; these were left");
                ExitCode::FAILURE
            }
        })
    }
}

/// Each socket is a descriptor, and the usual soft limit is 1,024 of them.
#[expect(unsafe_code, reason = "two libc calls on a struct of our own; std has no such call")]
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls are given a valid pointer to an initialised struct.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        tracing::warn!("the limit of open files could not be raised; connections are bounded by `ulimit -n`");
    }
}

/// The allocator asks for pages of 2 MiB where they are to be had, and then all of one
/// is resident as soon as a byte of it is used: a buffer of 64 KiB that a client has
/// room for and does not fill would cost 64 KiB, and the kernel would clear it all.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "one libc call on numbers; std has no such call")]
fn refuse_huge_pages() {
    const ON: libc::c_ulong = 1;
    const NONE: libc::c_ulong = 0;
    // SAFETY: this call takes no pointer, and all of its five arguments are given.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, ON, NONE, NONE, NONE) } != 0 {
        tracing::warn!("huge pages could not be refused; a client may hold more memory than the limits say");
    }
}
