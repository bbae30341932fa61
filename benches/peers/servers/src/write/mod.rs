//! The machine's floor: one thread and no library. A message is written to each
//! member's socket in turn, and all that one read brought by one write.

mod connection;
mod pipe;
mod relay;
mod resp;
mod rooms;

use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

use self::connection::{Connection, Stage};
use self::pipe::Pipe;
use self::relay::{Heard, Relay};
use self::rooms::Rooms;

const LISTENER: Token = Token(usize::MAX);

/// Of one read: more than a long message, or a burst of short ones.
const READ: usize = 128 << 10;

pub(crate) fn serve(listener: std::net::TcpListener, redis: Option<u16>) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut server = Server::open(poll.registry().try_clone()?, listener, redis)?;
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept()?,
                relay::PUBLISHER | relay::SUBSCRIBER => server.redis(event)?,
                Token(key) => server.connection(key, event),
            }
        }
    }
}

struct Server {
    registry: Registry,
    listener: TcpListener,
    connections: Slab<Connection>,
    rooms: Rooms,
    /// Without it, messages go to the members at once.
    relay: Option<Relay>,
    buffer: Box<[u8]>,
}

impl Server {
    fn open(registry: Registry, listener: std::net::TcpListener, redis: Option<u16>) -> Result<Server> {
        let mut listener = TcpListener::from_std(listener);
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let relay = redis.map(|port| Relay::open(&registry, port)).transpose()?;
        let (connections, rooms) = (Slab::new(), Rooms::default());
        Ok(Server { registry, listener, connections, rooms, relay, buffer: vec![0; READ].into() })
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accepting"),
            };
            let entry = self.connections.vacant_entry();
            let pipe = Pipe::open(&self.registry, stream, Token(entry.key()))?;
            entry.insert(Connection::new(pipe));
        }
    }

    fn connection(&mut self, key: usize, event: &Event) {
        loop {
            let taken = self.take(key, event);
            // Also what was said before the trouble.
            self.deliver();
            match taken {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => return self.close(key),
            }
        }
    }

    /// Reads once, and does what was said. True when there may be more; an error ends
    /// the connection.
    fn take(&mut self, key: usize, event: &Event) -> Result<bool> {
        // Of a connection that is closed, an event may be left.
        let Some(connection) = self.connections.get_mut(key) else { return Ok(false) };
        let more = connection.pipe.handle(event, &mut self.buffer, &mut connection.begun)?;
        match connection.stage {
            Stage::Asking => self.upgrade(key)?,
            Stage::Waiting(_) => {}
            Stage::Open => match &mut self.relay {
                Some(relay) => connection.messages(|room, data| relay.add(room, data))?,
                None => connection.messages(|room, data| self.rooms.add(room, data))?,
            },
        }
        Ok(more)
    }

    /// Members are let in when the room can be heard.
    fn upgrade(&mut self, key: usize) -> Result<()> {
        let connection = &mut self.connections[key];
        let Some(upgrade) = connection.upgrade()? else { return Ok(()) };
        connection.stage = Stage::Waiting(upgrade.answer);
        let mut subscribed = true;
        if let Some(name) = upgrade.room {
            let (id, room) = self.rooms.get_or_open(name.as_bytes());
            room.members.push(key);
            connection.room = Some(id);
            if let Some(relay) = &mut self.relay {
                subscribed = room.subscribed;
                if !subscribed && room.members.len() == 1 {
                    relay.subscribe(name.as_bytes());
                }
            }
        }
        if subscribed {
            connection.let_in();
        }
        Ok(())
    }

    fn redis(&mut self, event: &Event) -> Result<()> {
        let Some(relay) = &mut self.relay else { return Ok(()) };
        loop {
            let more = relay.take(event, &mut self.buffer, |heard| match heard {
                Heard::Message(room, data) => self.rooms.add(room, data),
                Heard::Subscribed(name) => {
                    let (_, room) = self.rooms.get_or_open(name);
                    room.subscribed = true;
                    for &key in &room.members {
                        self.connections[key].let_in();
                    }
                }
            })?;
            self.rooms.deliver(&mut self.connections);
            if !more {
                return Ok(());
            }
        }
    }

    /// Sends what the last read has brought.
    fn deliver(&mut self) {
        match &mut self.relay {
            Some(relay) => relay.send(),
            None => self.rooms.deliver(&mut self.connections),
        }
    }

    fn close(&mut self, key: usize) {
        let connection = self.connections.remove(key);
        if let Some(room) = connection.room {
            self.rooms.leave(room, key);
        }
    }
}
