//! A client's connection, in every dialect.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::dialect::{As, Dialect, Step, room_of};
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
    /// Whoever writes does it to the end: the reader's answers and the sender's
    /// messages share it.
    write: Rc<Mutex<OwnedWriteHalf>>,
    pub(crate) dialect: Dialect,
}

impl Line {
    /// Opens one, through its upgrade.
    pub(crate) async fn upgrade(addr: SocketAddr, dialect: Dialect, heard: &As) -> Result<Line> {
        let request = wire::upgrade_request(&dialect.path(heard));
        let (stream, begun) = client::open(addr, &request).await?;
        let (read, write) = stream.into_split();
        Ok(Line { read, pen: Pen { write: Rc::new(Mutex::new(write)), dialect }, begun })
    }

    /// Makes itself known, and hears what it is to hear.
    pub(crate) async fn hello(&mut self, heard: &As, users_have_rooms: bool) -> Result<()> {
        let dialect = self.pen.dialect;
        let user = match heard {
            As::User(user) => Some(user.as_str()),
            _ => None,
        };
        for step in dialect.hello(user)? {
            self.take(step).await?;
        }
        let rooms = match heard {
            As::Member(rooms) => rooms.clone(),
            As::User(user) if users_have_rooms => vec![room_of(user)],
            _ => Vec::new(),
        };
        for room in rooms {
            if let Some(step) = dialect.join(&room) {
                self.take(step).await?;
            }
        }
        Ok(())
    }

    pub(crate) fn pen(&self) -> Pen {
        self.pen.clone()
    }

    async fn take(&mut self, step: Step) -> Result<()> {
        if let Some(say) = &step.say {
            self.pen.say(say).await?;
        }
        let said = || format!("saying {}", String::from_utf8_lossy(step.say.as_deref().unwrap_or(b"nothing")));
        let answered = timeout(PATIENCE, self.answered(&step.answer)).await;
        answered.context("no answer").flatten().with_context(said)
    }

    async fn answered(&mut self, answer: &[u8]) -> Result<()> {
        let dialect = self.pen.dialect;
        let (mut answered, mut refusal) = (false, None);
        loop {
            // A server that speaks first may have spoken already.
            let look = |payload: &[u8]| {
                answered |= memchr::memmem::find(payload, answer).is_some();
                if dialect.is_refusal(payload) {
                    refusal = Some(String::from_utf8_lossy(payload).into_owned());
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
    pub(crate) async fn follow(mut self, place: usize, receiver: usize, watch: Rc<Watch>) {
        let dialect = self.pen.dialect;
        let look = |payload: &[u8]| {
            if !watch.look(place, receiver, payload) && dialect.is_refusal(payload) {
                watch.fail(&format!("refused: {}", String::from_utf8_lossy(payload)));
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

    /// Hands over the payloads that are there whole, and answers the pings.
    async fn look(&mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut answers = Vec::new();
        let mut rest = self.begun.as_slice();
        while let Some((opcode, payload, after)) = wire::split_frame(rest) {
            match opcode {
                CLOSE => bail!("closed: {}", String::from_utf8_lossy(payload.get(2..).unwrap_or_default())),
                PING => answers.extend(wire::client_pong(payload)),
                _ => {
                    answers.extend(self.pen.dialect.pong(payload).unwrap_or_default());
                    each(payload);
                }
            }
            rest = after;
        }
        let looked = self.begun.len() - rest.len();
        self.begun.drain(..looked);
        if self.begun.is_empty() {
            // Thousands of clients keep none.
            self.begun = Vec::new();
        }
        if answers.is_empty() { Ok(()) } else { self.pen.say(&answers).await }
    }
}

impl Pen {
    /// Writes frames.
    pub(crate) async fn say(&self, mut frames: &[u8]) -> Result<()> {
        let write = self.write.lock().await;
        while !frames.is_empty() {
            match write.try_write(frames) {
                Ok(length) => frames = &frames[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => write.writable().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
