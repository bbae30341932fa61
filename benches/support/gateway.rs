//! The gateway itself as a child process, with a config of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::process::{self, Process};

const PATIENCE: Duration = Duration::from_secs(5);

/// The whole config of a gateway under load.
fn config(addr: SocketAddr) -> String {
    format!(
        r#"
[server]
listen = "{addr}"

[auth]
anonymous = true

[[rooms]]
match = "bench:*"
publish = "anyone"

[limits]
commands_per_second = 1_000_000_000
commands_burst = 1_000_000_000
"#
    )
}

pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    /// Its config and its log; goes with it.
    folder: TempDir,
}

impl Gateway {
    pub(crate) const WEBSOCKET: &str = "/connection/websocket";

    /// Starts one on a free loopback port, and waits until it is ready.
    pub(crate) async fn start() -> Result<Gateway> {
        Self::start_with(config).await
    }

    /// The same with another config, made for the address.
    pub(crate) async fn start_with(config: impl FnOnce(SocketAddr) -> String) -> Result<Gateway> {
        let addr = free_addr()?;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("config.toml");
        fs::write(&path, config(addr))?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new(env!("CARGO_BIN_EXE_wayleave"))
            .args(["run", "--config"])
            .arg(&path)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut gateway = Gateway { process: Process(child), addr, folder };
        gateway.ready().await?;
        Ok(gateway)
    }

    async fn ready(&mut self) -> Result<()> {
        for _ in 0..200 {
            if is_ready(self.addr).await {
                return Ok(());
            }
            if let Some(status) = self.process.0.try_wait()? {
                bail!("the gateway ended with {status}:\n{}", self.log());
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("the gateway is not ready after 10 s:\n{}", self.log())
    }

    /// What it has said, for a report of trouble.
    pub(crate) fn log(&self) -> String {
        process::end_of(&self.folder.path().join("log"))
    }
}

/// Every line of a gateway's `/metrics` with its value.
pub(crate) async fn metrics(addr: SocketAddr) -> Result<BTreeMap<String, f64>> {
    let answer = timeout(PATIENCE, get(addr, "/metrics")).await.context("no metrics")??;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "no metrics: {answer}");
    let lines = answer.lines().filter(|line| line.starts_with("wayleave_"));
    let parsed = lines.filter_map(|line| line.rsplit_once(' '));
    Ok(parsed.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// Free now, and asked for at once: no other process here picks ports.
pub(crate) fn free_addr() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Does a gateway there take clients?
pub(crate) async fn is_ready(addr: SocketAddr) -> bool {
    get(addr, "/ready").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

/// The whole answer, with its head.
async fn get(addr: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer)?)
}
