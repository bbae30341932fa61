//! A Redis of the bench's own, that keeps nothing.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::support::gateway::free_addr;
use crate::support::process::Process;

const PATIENCE: Duration = Duration::from_secs(10);
const QUESTION: &str = "INFO stats\r\n";

pub(crate) struct Redis {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    /// For questions; kept, so that asking costs no connecting.
    stream: BufReader<TcpStream>,
    known: Traffic,
    /// Bytes of the last answer.
    answer: u64,
    /// Its working folder; goes with it.
    _folder: TempDir,
}

/// Bytes that Redis has got and given.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) input: u64,
    pub(crate) output: u64,
}

impl Redis {
    pub(crate) async fn start() -> Result<Redis> {
        let addr = free_addr()?;
        let folder = tempfile::tempdir()?;
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &addr.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("this needs redis-server, as Debian's package of that name has it")?;
        let mut process = Process(child);
        let until = tokio::time::Instant::now() + PATIENCE;
        let stream = loop {
            if let Ok(stream) = TcpStream::connect(addr).await {
                break BufReader::new(stream);
            }
            if let Some(status) = process.0.try_wait()? {
                bail!("redis-server ended with {status}");
            }
            ensure!(tokio::time::Instant::now() < until, "redis-server is not ready");
            sleep(Duration::from_millis(10)).await;
        };
        Ok(Redis { process, addr, stream, known: Traffic::default(), answer: 0, _folder: folder })
    }

    /// What has passed since this was last asked, but for the questions.
    pub(crate) async fn traffic(&mut self) -> Result<Traffic> {
        let text = timeout(PATIENCE, self.info()).await.context("Redis does not answer")??;
        let field = |name: &str| -> Result<u64> {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(value.with_context(|| format!("Redis does not tell {name}"))?.trim().parse()?)
        };
        let now = Traffic { input: field("total_net_input_bytes")?, output: field("total_net_output_bytes")? };
        // Redis counts a question in its own answer, and the answer in the next.
        let since = Traffic {
            input: now.input - self.known.input - QUESTION.len() as u64,
            output: now.output - self.known.output - self.answer,
        };
        self.known = now;
        self.answer = bulk(text.len());
        Ok(since)
    }

    async fn info(&mut self) -> Result<String> {
        self.stream.get_mut().write_all(QUESTION.as_bytes()).await?;
        let mut head = String::new();
        self.stream.read_line(&mut head).await?;
        let length: usize = head.trim().strip_prefix('$').context("Redis answers otherwise")?.parse()?;
        let mut text = vec![0; length + 2];
        self.stream.read_exact(&mut text).await?;
        text.truncate(length);
        Ok(String::from_utf8(text)?)
    }
}

/// Bytes on the wire of an answer of that length.
fn bulk(length: usize) -> u64 {
    format!("${length}\r\n\r\n").len() as u64 + length as u64
}
