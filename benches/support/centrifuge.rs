//! A Centrifuge client in JSON, as little of one as a load needs.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::take;
use super::tally::Tally;
use super::wire;

const PATIENCE: Duration = Duration::from_secs(20);
const CLOSE: u8 = 8;
const PING: u8 = 9;
const REFUSED: &str = r#""error":{"#;

pub(crate) struct Client {
    stream: TcpStream,
    /// The beginning of a frame whose rest is still to come.
    begun: Vec<u8>,
}

/// What a read brought.
#[derive(Default)]
struct Seen {
    publications: usize,
    /// Bytes of the frame with the first of them.
    frame: usize,
    /// What has to be answered.
    answers: Vec<u8>,
    /// Each text frame, when asked for.
    replies: Vec<String>,
    trouble: Option<String>,
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, begun: Vec::new() }
    }

    /// Says hello; the reply holds the ping interval, among others.
    pub(crate) async fn connect(&mut self) -> Result<String> {
        self.ask(r#"{"id":1,"connect":{}}"#).await
    }

    pub(crate) async fn subscribe(&mut self, channel: &str) -> Result<String> {
        self.ask(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#)).await
    }

    async fn ask(&mut self, command: &str) -> Result<String> {
        self.stream.write_all(&wire::client_frame(command.as_bytes())).await?;
        let reply = timeout(PATIENCE, self.reply()).await;
        let reply = reply.with_context(|| format!("no reply to {command}"))??;
        none_refused(std::slice::from_ref(&reply)).context(command.to_owned())?;
        Ok(reply)
    }

    async fn reply(&mut self) -> Result<String> {
        loop {
            let seen = self.see(true).await?;
            if let Some(reply) = seen.replies.into_iter().find(|text| text.contains(r#""id""#)) {
                return Ok(reply);
            }
        }
    }

    /// Counts publications and answers pings, to the end.
    pub(crate) async fn follow(mut self, tally: Rc<Tally>) {
        let mut messages = 0;
        loop {
            match self.see(false).await {
                Ok(seen) => {
                    if seen.publications > 0 {
                        tally.delivered(messages..messages + seen.publications);
                        tally.frame.set(seen.frame);
                    }
                    messages += seen.publications;
                }
                Err(error) => return tally.fail(&format!("a client's connection: {error:#}")),
            }
        }
    }

    /// Reads what is there and answers what must be answered.
    async fn see(&mut self, keep: bool) -> Result<Seen> {
        let begun = &mut self.begun;
        let read = take(&mut self.stream, |bytes| look(begun, bytes, keep)).await?;
        let seen = read.ok_or_else(|| anyhow!("closed by the server"))?;
        if let Some(trouble) = seen.trouble {
            bail!("{trouble}");
        }
        if !seen.answers.is_empty() {
            self.stream.write_all(&seen.answers).await?;
        }
        Ok(seen)
    }

    /// Sends as many publish commands, a frame each, as each order says.
    pub(crate) async fn publish(
        mut self,
        channel: &str,
        payload: usize,
        mut orders: mpsc::Receiver<usize>,
        tally: Rc<Tally>,
    ) {
        // The data is a JSON string: its quotes are part of the payload.
        let data = wire::payload(payload - 2);
        let publish = format!(r#"{{"channel":"{channel}","data":"{data}"}}"#);
        let command = wire::client_frame(format!(r#"{{"id":3,"publish":{publish}}}"#).as_bytes());
        loop {
            let done = tokio::select! {
                order = orders.recv() => match order {
                    Some(messages) => {
                        let commands = command.repeat(messages);
                        self.stream.write_all(&commands).await.map_err(Into::into)
                    }
                    None => return,
                },
                seen = self.see(true) => seen.and_then(|seen| none_refused(&seen.replies)),
            };
            if let Err(error) = done {
                return tally.fail(&format!("the publisher: {error:#}"));
            }
        }
    }
}

fn none_refused(replies: &[String]) -> Result<()> {
    let refusal = replies.iter().find(|reply| reply.contains(REFUSED));
    refusal.map_or(Ok(()), |reply| Err(anyhow!("refused: {reply}")))
}

/// Takes the whole frames of what was begun before and of `bytes`.
fn look(begun: &mut Vec<u8>, bytes: &[u8], keep: bool) -> Seen {
    let mut seen = Seen::default();
    if begun.is_empty() {
        let rest = look_at_frames(bytes, keep, &mut seen);
        begun.extend_from_slice(rest);
    } else {
        begun.extend_from_slice(bytes);
        let rest = look_at_frames(begun, keep, &mut seen).len();
        begun.drain(..begun.len() - rest);
    }
    seen
}

fn look_at_frames<'a>(mut bytes: &'a [u8], keep: bool, seen: &mut Seen) -> &'a [u8] {
    while let Some((opcode, payload, rest)) = wire::split_frame(bytes) {
        match opcode {
            CLOSE => {
                let why = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                seen.trouble = Some(format!("closed: {why}"));
            }
            PING => seen.answers.extend(wire::client_pong(payload)),
            _ => look_at_text(payload, bytes.len() - rest.len(), keep, seen),
        }
        bytes = rest;
    }
    bytes
}

fn look_at_text(payload: &[u8], frame: usize, keep: bool, seen: &mut Seen) {
    if payload.trim_ascii() == b"{}" {
        seen.answers.extend(wire::client_frame(b"{}"));
    }
    let lines = payload.split(|byte| *byte == b'\n');
    // Joins and leaves are off: every push is a publication.
    let publications = lines.filter(|line| line.starts_with(br#"{"push":"#)).count();
    if publications == 1 {
        seen.frame = frame;
    }
    seen.publications += publications;
    if keep {
        seen.replies.push(String::from_utf8_lossy(payload).into_owned());
    }
}
