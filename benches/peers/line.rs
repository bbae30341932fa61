//! A client's connection, in either dialect.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::dialect::{Dialect, Step};
use super::watch::Watch;
use crate::support::{client, wire};

const PATIENCE: Duration = Duration::from_secs(20);
const CLOSE: u8 = 8;
const PING: u8 = 9;

pub(crate) struct Line {
    read: OwnedReadHalf,
    pen: Pen,
    /// The beginning of a frame whose rest is still to come.
    begun: Vec<u8>,
}

/// The writing half, for a sender that does not wait for the reader.
#[derive(Clone)]
pub(crate) struct Pen {
    write: Rc<OwnedWriteHalf>,
    pub(crate) dialect: Dialect,
}

impl Line {
    /// Opens one and makes itself known.
    pub(crate) async fn open(addr: SocketAddr, dialect: Dialect, user: Option<&str>) -> Result<Line> {
        let request = wire::upgrade_request(dialect.path());
        let (stream, begun) = client::open(addr, &request).await?;
        let (read, write) = stream.into_split();
        let mut line = Line { read, pen: Pen { write: Rc::new(write), dialect }, begun };
        for step in dialect.hello(user)? {
            line.take(step).await?;
        }
        Ok(line)
    }

    pub(crate) async fn join(&mut self, room: &str) -> Result<()> {
        self.take(self.pen.dialect.join(room)).await
    }

    pub(crate) fn pen(&self) -> Pen {
        self.pen.clone()
    }

    async fn take(&mut self, step: Step) -> Result<()> {
        if let Some(say) = &step.say {
            self.pen.say(say).await?;
        }
        let said = || format!("saying {}", step.say.as_deref().unwrap_or("nothing"));
        let answered = timeout(PATIENCE, self.answered(step.answer)).await;
        answered.context("no answer").flatten().with_context(said)
    }

    async fn answered(&mut self, answer: &str) -> Result<()> {
        let dialect = self.pen.dialect;
        let (mut answered, mut refusal) = (false, None);
        loop {
            // A server that speaks first may have spoken already.
            let look = |text: &[u8]| {
                let text = String::from_utf8_lossy(text);
                answered |= text.contains(answer);
                if dialect.is_refusal(&text) {
                    refusal = Some(text.into_owned());
                }
            };
            self.look(look).await?;
            if let Some(refusal) = refusal {
                bail!("refused: {refusal}");
            }
            if answered {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Reports what arrives, to the end.
    pub(crate) async fn follow(mut self, place: usize, watch: Rc<Watch>) {
        let dialect = self.pen.dialect;
        let look = |text: &[u8]| {
            if !watch.look(place, text) && dialect.is_refusal(&String::from_utf8_lossy(text)) {
                watch.fail(&format!("refused: {}", String::from_utf8_lossy(text)));
            }
        };
        let ended = async {
            loop {
                self.look(look).await?;
                self.fill().await?;
            }
        };
        let ended: Result<()> = ended.await;
        if let Err(error) = ended {
            watch.fail(&format!("a client's connection: {error:#}"));
        }
    }

    /// Waits until there is more.
    async fn fill(&mut self) -> Result<()> {
        let begun = &mut self.begun;
        let more = client::take(&mut self.read, |bytes| begun.extend_from_slice(bytes)).await?;
        more.context("closed by the server")
    }

    /// Hands over the texts that are there whole, and answers the pings.
    async fn look(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut answers = Vec::new();
        let mut rest = self.begun.as_slice();
        while let Some((opcode, payload, after)) = wire::split_frame(rest) {
            match opcode {
                CLOSE => bail!("closed: {}", String::from_utf8_lossy(payload.get(2..).unwrap_or_default())),
                PING => answers.extend(wire::client_pong(payload)),
                _ => match self.pen.dialect.pong(payload) {
                    Some(pong) => answers.extend(wire::client_frame(pong)),
                    None => each(payload),
                },
            }
            rest = after;
        }
        let looked = self.begun.len() - rest.len();
        self.begun.drain(..looked);
        if answers.is_empty() { Ok(()) } else { self.pen.write(&answers).await }
    }
}

impl Pen {
    pub(crate) async fn say(&self, text: &str) -> Result<()> {
        self.write(&wire::client_frame(text.as_bytes())).await
    }

    /// All at once: the reader's answers and the sender's messages share it.
    async fn write(&self, frames: &[u8]) -> Result<()> {
        loop {
            match self.write.try_write(frames) {
                Ok(length) => {
                    ensure!(length == frames.len(), "the server has stopped reading");
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.write.writable().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
