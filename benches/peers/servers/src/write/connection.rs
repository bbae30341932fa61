//! A client's connection.

use anyhow::{Result, bail};

use super::pipe::Pipe;
use crate::wire::{self, Upgrade};

pub(super) struct Connection {
    pub(super) pipe: Pipe,
    pub(super) begun: Vec<u8>,
    pub(super) room: Option<usize>,
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    Asking,
    /// To be given this answer.
    Waiting(String),
    Open,
}

impl Connection {
    pub(super) fn new(pipe: Pipe) -> Connection {
        Connection { pipe, begun: Vec::new(), room: None, stage: Stage::Asking }
    }

    /// What it asks for, once it has.
    pub(super) fn upgrade(&mut self) -> Result<Option<Upgrade>> {
        let upgrade = wire::upgrade(&self.begun)?;
        if upgrade.is_some() {
            // With its memory: most clients only listen from now on.
            self.begun = Vec::new();
        }
        Ok(upgrade)
    }

    /// Gives it the answer.
    pub(super) fn let_in(&mut self) {
        if let Stage::Waiting(answer) = std::mem::replace(&mut self.stage, Stage::Open) {
            self.pipe.write(answer.as_bytes());
        }
    }

    /// Hands over room and data of each message that is there whole, and answers the rest.
    pub(super) fn messages(&mut self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let mut at = 0;
        while let Some(frame) = wire::frame(&mut self.begun[at..])? {
            at += frame.length;
            match frame.opcode {
                wire::TEXT => {
                    let (room, data) = wire::message(frame.payload)?;
                    each(room, data);
                }
                wire::PING => self.pipe.write(&wire::server_frame(wire::PONG, frame.payload)),
                wire::CLOSE => {
                    self.pipe.write(&wire::server_frame(wire::CLOSE, frame.payload));
                    bail!("closed");
                }
                _ => {}
            }
        }
        self.begun.drain(..at);
        Ok(())
    }
}
