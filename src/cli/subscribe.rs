//! `wayleave subscribe`: a client like others, on the command line.

use std::{io::Write, process::ExitCode};

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::client::{Gateway, Patience, Wire};

/// Hears a room.
#[derive(Debug, clap::Args)]
pub(super) struct Subscribe {
    /// The room.
    room: String,
    /// A token, as `wayleave token` makes it; without it, as nobody.
    #[arg(long, default_value = "")]
    token: String,
    /// End after so many messages.
    #[arg(long)]
    count: Option<u64>,
    #[command(flatten)]
    gateway: Gateway,
}

/// One connection that speaks the Centrifuge protocol.
pub(super) struct Socket {
    socket: WebSocketStream<Box<dyn Wire>>,
    next: u32,
    answers_pings: bool,
}

/// Why a connection is no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// It may be tried again.
    #[error("{0}")]
    Lost(String),
    /// It would be the same again.
    #[error("refused: {0}")]
    Refused(String),
}

impl Ended {
    fn closed(code: u16, reason: &str) -> Self {
        let text = format!("{code} {reason}");
        // As the protocol has it: what may come back, and what may not.
        match code {
            3500..=3999 | 4500..=4999 => Self::Refused(text),
            _ => Self::Lost(text),
        }
    }

    fn refused(error: &Value) -> Self {
        let text = format!("{}: {}", error["code"], error["message"].as_str().unwrap_or_default());
        if error["temporary"] == true { Self::Lost(text) } else { Self::Refused(text) }
    }
}

fn lost(error: impl std::fmt::Display) -> Ended {
    Ended::Lost(error.to_string())
}

impl Socket {
    /// Connects and says hello.
    pub(super) async fn open(gateway: &Gateway, token: &str) -> Result<Self, Ended> {
        let place = gateway.place().map_err(|error| Ended::Refused(format!("{error:#}")))?;
        let wire = place.connect().await.map_err(|error| Ended::Lost(format!("{error:#}")))?;
        let (socket, _) = client_async(place.websocket(), wire).await.map_err(lost)?;
        let mut socket = Self { socket, next: 0, answers_pings: false };
        let welcome = socket.ask("connect", json!({ "token": token, "name": "wayleave" }), &mut |_| {}).await?;
        socket.answers_pings = welcome["pong"] == true;
        Ok(socket)
    }

    /// Sends a command and waits for its answer; what comes before goes to
    /// `other`.
    pub(super) async fn ask(
        &mut self,
        method: &str,
        body: Value,
        other: &mut impl FnMut(Value),
    ) -> Result<Value, Ended> {
        let id = self.send(method, body).await?;
        loop {
            for mut reply in self.read().await? {
                if reply["id"] != id {
                    other(reply);
                } else if let Some(error) = reply.get("error") {
                    return Err(Ended::refused(error));
                } else {
                    return Ok(reply[method].take());
                }
            }
        }
    }

    /// Sends a command and does not wait; returns its number.
    pub(super) async fn send(&mut self, method: &str, body: Value) -> Result<u32, Ended> {
        self.next += 1;
        let command = json!({ "id": self.next, method: body }).to_string();
        self.socket.send(Message::text(command)).await.map_err(lost)?;
        Ok(self.next)
    }

    /// What comes next, without pings.
    pub(super) async fn read(&mut self) -> Result<Vec<Value>, Ended> {
        loop {
            let text = match self.socket.next().await {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(Ended::closed(frame.code.into(), &frame.reason));
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(lost("the connection broke")),
            };
            let mut all = Vec::new();
            for line in text.lines() {
                let value: Value = serde_json::from_str(line).map_err(lost)?;
                if value.as_object().is_some_and(serde_json::Map::is_empty) {
                    if self.answers_pings {
                        self.socket.send(Message::text("{}")).await.map_err(lost)?;
                    }
                    continue;
                }
                all.push(value);
            }
            if !all.is_empty() {
                return Ok(all);
            }
        }
    }
}

pub(super) fn main(subscribe: &Subscribe) -> ExitCode {
    super::block_on(hear(subscribe))
}

/// Where it was in a room that keeps messages.
#[derive(Debug, Default)]
struct Position {
    epoch: String,
    offset: u64,
    is_known: bool,
}

async fn hear(subscribe: &Subscribe) -> anyhow::Result<()> {
    let (mut position, mut patience, mut left) = (Position::default(), Patience::default(), subscribe.count);
    let mut was_in = false;
    loop {
        match hear_once(subscribe, &mut position, &mut left, &mut patience, &mut was_in).await? {
            None => return Ok(()),
            Some(Ended::Refused(why)) => bail!("refused: {why}"),
            // What is not there from the start is more likely mistyped.
            Some(Ended::Lost(why)) if !was_in => bail!("{why}"),
            Some(Ended::Lost(why)) => eprintln!("lost ({why}); trying again"),
        }
        patience.wait().await;
    }
}

/// Hears on one connection; None: as much as was wanted.
async fn hear_once(
    subscribe: &Subscribe,
    position: &mut Position,
    left: &mut Option<u64>,
    patience: &mut Patience,
    was_in: &mut bool,
) -> anyhow::Result<Option<Ended>> {
    let mut socket = match Socket::open(&subscribe.gateway, &subscribe.token).await {
        Ok(socket) => socket,
        Err(ended) => return Ok(Some(ended)),
    };
    let mut command = json!({ "channel": subscribe.room });
    if position.is_known {
        command["recover"] = true.into();
        command["epoch"] = position.epoch.as_str().into();
        command["offset"] = position.offset.into();
    }
    let mut early = Vec::new();
    let joined = match socket.ask("subscribe", command, &mut |push| early.push(push)).await {
        Ok(joined) => joined,
        Err(ended) => return Ok(Some(ended)),
    };
    (*was_in, *patience) = (true, Patience::default());
    if joined["recoverable"] == true {
        let epoch = joined["epoch"].as_str().unwrap_or_default().to_owned();
        let offset = if joined["recovered"] == true { position.offset } else { joined["offset"].as_u64().unwrap_or(0) };
        *position = Position { epoch, offset, is_known: true };
    }
    let missed = joined["publications"].as_array().cloned().unwrap_or_default();
    print(&json!({ "subscribed": joined, "channel": subscribe.room }))?;
    for publication in missed {
        let push = json!({ "channel": subscribe.room, "pub": publication });
        if tell(&push, position, left)? {
            return Ok(None);
        }
    }
    loop {
        for mut came in std::mem::take(&mut early) {
            let push = came["push"].take();
            if push["channel"] != subscribe.room {
                continue;
            }
            if tell(&push, position, left)? {
                return Ok(None);
            }
            if let Some(out) = push.get("unsubscribe") {
                let (code, reason) = (out["code"].as_u64().unwrap_or(0), out["reason"].as_str().unwrap_or_default());
                let why = format!("taken out of the room: {code} {reason}");
                // From 2500 on a client comes back.
                return Ok(Some(if code >= 2500 { Ended::Lost(why) } else { Ended::Refused(why) }));
            }
        }
        early = match socket.read().await {
            Ok(came) => came,
            Err(ended) => return Ok(Some(ended)),
        };
    }
}

/// True: that was the last one.
fn tell(push: &Value, position: &mut Position, left: &mut Option<u64>) -> anyhow::Result<bool> {
    print(push)?;
    let Some(publication) = push.get("pub") else { return Ok(false) };
    if let Some(offset) = publication["offset"].as_u64() {
        position.offset = offset;
    }
    *left = left.map(|left| left.saturating_sub(1));
    Ok(*left == Some(0))
}

fn print(value: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).context("nobody reads on")
}
