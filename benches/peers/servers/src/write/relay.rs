//! The way through Redis that any gateway over its publish and subscribe takes: one
//! command a message on one connection, and on another what is subscribed to.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};

use anyhow::{Context as _, Result};
use mio::event::Event;
use mio::{Registry, Token};

use super::pipe::Pipe;
use super::resp;

pub(super) const PUBLISHER: Token = Token(usize::MAX - 1);
pub(super) const SUBSCRIBER: Token = Token(usize::MAX - 2);

pub(super) struct Relay {
    publisher: Pipe,
    /// To be written at once.
    commands: Vec<u8>,
    subscriber: Pipe,
    begun: Vec<u8>,
}

/// What Redis tells a subscriber.
pub(super) enum Heard<'a> {
    /// The room and the data.
    Message(&'a [u8], &'a [u8]),
    Subscribed(&'a [u8]),
}

impl Relay {
    pub(super) fn open(registry: &Registry, port: u16) -> Result<Relay> {
        let open = |token, first: &[u8]| -> Result<Pipe> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting to Redis")?;
            stream.write_all(first)?;
            stream.set_nonblocking(true)?;
            Ok(Pipe::open(registry, mio::net::TcpStream::from_std(stream), token)?)
        };
        let mut quiet = Vec::new();
        // How many have heard a message is not asked for.
        resp::command(&mut quiet, [b"CLIENT", b"REPLY", b"OFF"]);
        Ok(Relay {
            publisher: open(PUBLISHER, &quiet)?,
            commands: Vec::new(),
            subscriber: open(SUBSCRIBER, b"")?,
            begun: Vec::new(),
        })
    }

    /// Once it is subscribed, that is heard.
    pub(super) fn subscribe(&mut self, room: &[u8]) {
        let mut command = Vec::new();
        resp::command(&mut command, [b"SUBSCRIBE", room]);
        self.subscriber.write(&command);
    }

    /// Puts a message to those that `send` sends.
    pub(super) fn add(&mut self, room: &[u8], data: &[u8]) {
        resp::command(&mut self.commands, [b"PUBLISH", room, data]);
    }

    pub(super) fn send(&mut self) {
        if !self.commands.is_empty() {
            self.publisher.write(&self.commands);
            self.commands.clear();
        }
    }

    /// Reads once and hands over what is there whole. True when there may be more.
    pub(super) fn take(&mut self, event: &Event, buffer: &mut [u8], mut each: impl FnMut(Heard<'_>)) -> Result<bool> {
        let pipe = if event.token() == PUBLISHER { &mut self.publisher } else { &mut self.subscriber };
        let more = pipe.handle(event, buffer, &mut self.begun).context("reading from Redis")?;
        let mut at = 0;
        while let Some(push) = resp::push(&self.begun[at..])? {
            at += push.length;
            match push.parts {
                [b"message", room, data] => each(Heard::Message(room, data)),
                [b"subscribe", room, _] => each(Heard::Subscribed(room)),
                [kind, ..] => anyhow::bail!("Redis says {}", kind.escape_ascii()),
            }
        }
        self.begun.drain(..at);
        Ok(more)
    }
}
