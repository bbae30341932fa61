//! Socket.IO as a child process, from the folder `socketio` beside this file.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::support::gateway::free_addr;
use crate::support::process::{self, Process};

pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    /// Its log; goes with it.
    folder: TempDir,
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/socketio")
}

/// Why it cannot be started, if so.
pub(crate) fn missing() -> Option<String> {
    let version = Command::new("node").arg("--version").stdin(Stdio::null()).output();
    if !version.is_ok_and(|output| output.status.success()) {
        return Some("there is no `node`".to_owned());
    }
    let installed = home().join("node_modules/.package-lock.json").is_file();
    (!installed).then(|| "its packages are missing: npm --prefix benches/peers/socketio ci".to_owned())
}

impl Node {
    pub(crate) async fn start(redis: SocketAddr, adapter: &str) -> Result<Node> {
        let addr = free_addr()?;
        let folder = tempfile::tempdir()?;
        let log = File::create(folder.path().join("log"))?;
        let child = Command::new("node")
            .arg(home().join("server.js"))
            .args([&addr.port().to_string(), &redis.port().to_string(), adapter])
            .env("NODE_ENV", "production")
            // Held open as long as this lives; its end is the server's.
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut node = Node { process: Process(child), addr, folder };
        for _ in 0..400 {
            if TcpStream::connect(addr).await.is_ok() {
                return Ok(node);
            }
            if let Some(status) = node.process.0.try_wait()? {
                bail!("Socket.IO ended with {status}:\n{}", node.log());
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("Socket.IO is not ready after 20 s:\n{}", node.log())
    }

    pub(crate) fn log(&self) -> String {
        process::end_of(&self.folder.path().join("log"))
    }
}
