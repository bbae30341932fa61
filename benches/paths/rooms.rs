//! Connections, their rooms, and messages to them, from the router to the sockets.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Result, ensure};
use wayleave::{plugin::JoinView, protocol::Payload, room::history::Appended, session::flusher::Batch};

use super::{
    DATA,
    instance::{Client, Instance, poll_once, register},
};
use crate::support::wire;

const LIVE: &str = "live:lobby";
const KEPT: &str = "kept:lobby";

/// Messages after which the members read: seldom enough that it costs nothing
/// beside them, and often enough that no socket is full.
const READ_EVERY: u32 = 32;

pub(super) fn publish_to_one(count: u32) -> Result<()> {
    publish(LIVE, 1, count)
}

pub(super) fn publish_to_hundred(count: u32) -> Result<()> {
    publish(LIVE, 100, count)
}

pub(super) fn keep(count: u32) -> Result<()> {
    publish(KEPT, 1, count)
}

fn publish(room: &str, members: usize, count: u32) -> Result<()> {
    Instance::run(async |instance| {
        let mut clients = instance.clients(members, room).await?;
        clients.iter_mut().for_each(|client| client.heard = 0);
        let (router, from) = (&instance.router, instance.member(room)?);
        let data = Payload::Text(format!("\"{}\"", wire::payload(DATA - 2)));
        let offset = Arc::new(AtomicU64::new(0));
        for n in 1..=count {
            let mut batch = Batch::new(&router.flusher);
            let last = Arc::clone(&offset);
            let on_kept = move |kept: Result<Appended, _>| {
                last.store(kept.map_or(0, |kept| kept.position.offset), Ordering::Relaxed);
            };
            let published = router.publish(&from, room, data.clone(), on_kept, &mut batch);
            ensure!(published.is_ok(), "a message was refused: {published:?}");
            Instance::write(batch);
            if n % READ_EVERY == 0 || n == count {
                for client in &mut clients {
                    client.read()?;
                }
            }
        }
        let least = clients.iter().map(|client| client.heard).min();
        let kept = offset.load(Ordering::Relaxed);
        ensure!(room != KEPT || kept == u64::from(count), "of {count} messages {kept} are kept");
        ensure!(least >= Some(count as usize * DATA), "a member has heard {least:?} bytes of {count} messages");
        Ok(())
    })
}

/// In and out again, of a room with somebody else in it.
pub(super) fn join(count: u32) -> Result<()> {
    Instance::run(async |instance| {
        let mut client = instance.clients(1, "live:other").await?.remove(0);
        let _other = instance.clients(1, LIVE).await?;
        let (router, connection) = (&instance.router, instance.member("live:other")?);
        for n in 1..=count {
            let mut batch = Batch::new(&router.flusher);
            let join = JoinView { room: LIVE, token: "", data: None };
            let joined = router.join(&connection, 3, join, None, Default::default(), &mut batch).await;
            ensure!(joined.is_ok(), "it may not join: {joined:?}");
            let left = router.leave(&connection, LIVE, &mut batch);
            ensure!(left.is_ok(), "it cannot leave: {left:?}");
            Instance::write(batch);
            if n % READ_EVERY == 0 || n == count {
                client.read()?;
            }
        }
        Ok(())
    })
}

/// A client's publish, from its socket to the answer and to what it hears of it.
pub(super) fn message(count: u32) -> Result<()> {
    Instance::run(async |instance| {
        let (server, mut client) = Client::pair()?;
        let subscribe = format!(r#"{{"id":2,"subscribe":{{"channel":"{LIVE}"}}}}"#);
        let said = format!("{{\"id\":1,\"connect\":{{}}}}\n{subscribe}");
        let mut session = pin!(instance.session(register(server).await?, &said));
        poll_once(&mut session).await?;
        ensure!(instance.router.hub.count(LIVE).0 == 1, "it is not in its room");
        client.read()?;
        client.heard = 0;
        let data = wire::payload(DATA - 2);
        let publish = format!(r#"{{"id":3,"publish":{{"channel":"{LIVE}","data":"{data}"}}}}"#);
        let frame = wire::client_frame(publish.as_bytes());
        for n in 1..=count {
            client.say(&frame).await?;
            poll_once(&mut session).await?;
            if n % READ_EVERY == 0 || n == count {
                client.read()?;
            }
        }
        ensure!(client.heard >= count as usize * DATA, "it has heard {} bytes of {count} messages", client.heard);
        Ok(())
    })
}

/// A socket becomes somebody, is told so, and is dropped.
pub(super) fn connect(count: u32) -> Result<()> {
    Instance::run(async |instance| {
        let (server, mut client) = Client::pair()?;
        for _ in 0..count {
            // Another name of the same connection: that the kernel opens and closes
            // each is left out.
            let socket = register(server.try_clone()?).await?;
            let mut session = pin!(instance.session(socket, r#"{"id":1,"connect":{}}"#));
            poll_once(&mut session).await?;
            ensure!(!client.read()?.is_empty(), "there was no welcome");
        }
        ensure!(instance.router.hub.n_connections() == 0, "somebody is still here");
        Ok(())
    })
}
