//! A stand-in server as the bench sees it: started by running the bench's own
//! binary again, ordered by lines.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::process::Process;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct StandIn {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    orders: ChildStdin,
    replies: mpsc::Receiver<String>,
}

impl StandIn {
    pub(crate) async fn start(name: &str, payload: usize) -> Result<StandIn> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", name, &payload.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("no pipe to the server")?;
        let stdout = child.stdout.take().context("no pipe from the server")?;
        let process = Process(child);
        let (sender, mut replies) = mpsc::channel(16);
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| sender.blocking_send(line)).find(Result::is_err)
        });
        let addr = timeout(PATIENCE, replies.recv()).await?.context("the server ended")?;
        Ok(StandIn { process, addr: addr.parse()?, orders, replies })
    }

    /// Has each of `members` been taken into the room?
    pub(crate) async fn wait_for_members(&mut self, members: usize) -> Result<()> {
        for _ in 0..1000 {
            writeln!(self.orders, "members")?;
            let reply = timeout(PATIENCE, self.replies.recv()).await?.context("the server ended")?;
            let count: usize = reply.parse()?;
            ensure!(count <= members, "{count} members of {members}");
            if count == members {
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        anyhow::bail!("not all of {members} connections became members")
    }

    pub(crate) fn send(&mut self, messages: usize) -> Result<()> {
        Ok(writeln!(self.orders, "send {messages}")?)
    }
}
