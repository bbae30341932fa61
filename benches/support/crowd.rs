//! Many connections that do nothing: what each costs to open and to hold.

use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::client;
use super::process::Process;
use super::stand_in::StandIn;

/// Opened before the measurement, for what a server does only once.
pub(crate) const FIRST: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Server CPU to open one, microseconds.
    pub(crate) connect: f64,
    /// Resident memory of one, KiB. What the kernel holds is not in it.
    pub(crate) resident: f64,
}

pub(crate) async fn stand_in(name: &str, count: usize) -> Result<Figures> {
    let mut server = StandIn::start(name, 128).await?;
    let _first = client::open_all(server.addr, "/", FIRST).await?;
    server.wait_for_members(FIRST).await?;
    let start = Start::of(&server.process)?;
    let _crowd: Vec<TcpStream> = client::open_all(server.addr, "/", count).await?;
    server.wait_for_members(FIRST + count).await?;
    start.figures(&server.process, count).await
}

/// A server's figures before its crowd.
pub(crate) struct Start {
    cpu: super::process::Cpu,
    resident: u64,
}

impl Start {
    pub(crate) fn of(process: &Process) -> Result<Self> {
        Ok(Self { cpu: process.cpu()?, resident: process.resident()? })
    }

    pub(crate) async fn figures(self, process: &Process, count: usize) -> Result<Figures> {
        sleep(Duration::from_millis(500)).await;
        let used = process.cpu()?.since(&self.cpu);
        let grown = process.resident()?.saturating_sub(self.resident);
        Ok(Figures { connect: used.as_secs_f64() * 1e6 / count as f64, resident: grown as f64 / 1024.0 / count as f64 })
    }
}
