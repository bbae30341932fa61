//! The life of one connection: handshake, commands, heartbeat, end.
//!
//! One task a connection. It waits on its [`wire::Wire`], asks the router what
//! each command comes to, and puts the answers into its own outbox; deliveries
//! of others go into that outbox without this task having to run.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

mod bucket;
pub mod flusher;
mod heartbeat;
pub mod outbox;
pub mod reader;
mod wire;

use self::{
    bucket::{Bucket, Taken},
    flusher::Batch,
    heartbeat::{Due, Heartbeat},
    outbox::Outbox,
    wire::{Input, Wire},
};
use crate::{
    hub::Connection,
    id::ConnectionId,
    plugin::JoinView,
    protocol::{Close, Command, Encoding, Push, Refusal, Reply, Request, centrifuge},
    room::history::Appended,
    router::{Newcomer, NotConnected, Published, Router},
};

/// Runs a connection from its upgrade to its end. `early` is what the client
/// sent right behind the handshake; `stop` ends it while it is nobody yet.
pub async fn run(socket: TcpStream, early: Bytes, router: Arc<Router>, stop: CancellationToken) {
    let generation = router.generation();
    let limits = &generation.config.limits;
    let (outbox_max, message_size, close_timeout) = (limits.outbox, limits.message_size, limits.close_timeout);
    let connect_by = Instant::now() + generation.config.server.connect_timeout;
    drop(generation);
    let id = ConnectionId::random(router.boot);
    let socket = Arc::new(socket);
    let outbox = Arc::new(Outbox::new(Arc::clone(&socket), outbox_max, id.shard(router.flusher.shards())));
    let mut wire = Wire::new(socket, Arc::clone(&outbox), message_size);
    let open = Counted::new(&router.metrics.sockets);
    let newcomer = Newcomer { id, encoding: Encoding::CentrifugeJson, outbox };
    let close = match Box::pin(handshake(&mut wire, &router, newcomer, early, connect_by, stop)).await {
        Ok(session) => serve(&mut wire, session).await,
        Err(close) => close,
    };
    drop(open);
    router.metrics.closed(close.code);
    tracing::debug!(connection = %id, code = close.code, reason = %close.reason, "closed");
    wire.finish(close, close_timeout).await;
}

/// Counts for as long as it lives, also through a panic.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Waits for a good hello, and no longer than the deadline.
async fn handshake(
    wire: &mut Wire,
    router: &Arc<Router>,
    newcomer: Newcomer,
    early: Bytes,
    deadline: Instant,
    stop: CancellationToken,
) -> Result<Session, Close> {
    let mut refused = 0;
    let mut texts = wire.early(&early);
    // It is a piece of the HTTP parser's buffer and would keep all of it.
    drop(early);
    loop {
        for (n, text) in texts.iter().enumerate() {
            let mut batch = Batch::new(&router.flusher);
            let mut requests = centrifuge::decode(text);
            while let Some(request) = requests.next() {
                if stop.is_cancelled() {
                    return Err(Close::SHUTDOWN);
                }
                let Some(mut session) = hello(router, &newcomer, request, &mut batch).await? else {
                    refused += 1;
                    if refused >= HELLOS_MAX {
                        return Err(Close::TOO_MANY_ERRORS);
                    }
                    continue;
                };
                // What came with the hello is the session's first work.
                for request in requests {
                    session.on_request(request, &mut batch).await?;
                }
                drop(batch);
                for text in &texts[n + 1..] {
                    session.on_text(text).await?;
                }
                return Ok(session);
            }
        }
        texts = tokio::select! {
            input = wire.next(deadline) => match input {
                Input::Texts(texts) => texts,
                Input::Tick => return Err(Close::STALE),
                Input::Ended(close) => return Err(close),
            },
            () = stop.cancelled() => return Err(Close::SHUTDOWN),
        };
    }
}

/// Hellos that may be refused on one socket; a token may be fetched anew, but
/// not guessed.
const HELLOS_MAX: u32 = 5;

/// One command of somebody who is nobody yet: it must be a hello. None: it was
/// refused, and another may follow.
async fn hello(
    router: &Arc<Router>,
    newcomer: &Newcomer,
    request: Result<Request<'_>, centrifuge::NotTheProtocol>,
    batch: &mut Batch<'_>,
) -> Result<Option<Session>, Close> {
    let request = understood(request)?;
    let Command::Connect(hello) = request.command else { return Err(Close::BAD_REQUEST) };
    router.metrics.command("connect");
    match Box::pin(router.connect(newcomer, request.id, &hello, batch)).await {
        Ok(connection) => Ok(Some(Session::new(router, connection))),
        Err(NotConnected::Closed(close)) => Err(close),
        Err(NotConnected::Refused(refusal)) => {
            router.metrics.refused(refusal.code);
            newcomer.outbox.put(&newcomer.encoding.refusal(request.id, &refusal), batch);
            Ok(None)
        }
    }
}

fn understood<'a>(request: Result<Request<'a>, centrifuge::NotTheProtocol>) -> Result<Request<'a>, Close> {
    request.map_err(|error| {
        tracing::debug!(%error, "bad request");
        Close::BAD_REQUEST
    })
}

/// The loop of an identified connection.
async fn serve(wire: &mut Wire, mut session: Session) -> Close {
    loop {
        let step = match wire.next(session.deadline()).await {
            Input::Texts(texts) => session.on_texts(&texts).await,
            Input::Tick => session.on_tick(),
            Input::Ended(close) => Err(close),
        };
        if let Err(close) = step {
            session.may_return = close.may_return();
            return close;
        }
    }
}

/// An identified connection. Dropping it takes it out of the hub, whatever
/// ended it.
struct Session {
    router: Arc<Router>,
    connection: Arc<Connection>,
    heartbeat: Heartbeat,
    /// As the client was told in its welcome, whatever a reload brings: it
    /// counts on them.
    ping_interval: Duration,
    pong_timeout: Option<Duration>,
    commands: Bucket,
    /// When its time here or in a room is over, unless it is given more.
    ends: Option<Instant>,
    /// The client did not mean to end it.
    may_return: bool,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut batch = Batch::new(&self.router.flusher);
        self.router.disconnected(&self.connection, self.may_return, &mut batch);
    }
}

impl Session {
    fn new(router: &Arc<Router>, connection: Arc<Connection>) -> Self {
        let now = Instant::now();
        let generation = router.generation();
        let server = &generation.config.server;
        let ends = router.next_end(&connection);
        Self {
            router: Arc::clone(router),
            connection,
            heartbeat: Heartbeat::new(now, server.ping_interval),
            ping_interval: server.ping_interval,
            pong_timeout: server.require_pong.then_some(server.pong_timeout),
            commands: Bucket::new(now, generation.config.limits.commands_burst),
            ends,
            may_return: true,
        }
    }

    fn deadline(&self) -> Instant {
        let heartbeat = self.heartbeat.deadline();
        self.ends.map_or(heartbeat, |ends| ends.min(heartbeat))
    }

    fn on_tick(&mut self) -> Result<(), Close> {
        let now = Instant::now();
        self.router.end_what_is_over(&self.connection, now)?;
        self.ends = self.router.next_end(&self.connection);
        match self.heartbeat.due(now, self.ping_interval, self.pong_timeout) {
            Due::Nothing => Ok(()),
            Due::Dead => Err(Close::NO_PONG),
            Due::Ping => {
                let mut batch = Batch::new(&self.router.flusher);
                self.put(&self.connection.encoding.push(&Push::Ping), &mut batch);
                Ok(())
            }
        }
    }

    async fn on_texts(&mut self, texts: &[tungstenite::Utf8Bytes]) -> Result<(), Close> {
        self.heartbeat.alive();
        let router = Arc::clone(&self.router);
        let mut batch = Batch::new(&router.flusher);
        let mut since = Instant::now();
        for text in texts {
            for request in centrifuge::decode(text) {
                self.on_request(request, &mut batch).await?;
                if since.elapsed() > TURN {
                    batch.flush();
                    tokio::task::yield_now().await;
                    since = Instant::now();
                }
            }
        }
        Ok(())
    }

    async fn on_text(&mut self, text: &tungstenite::Utf8Bytes) -> Result<(), Close> {
        self.on_texts(std::slice::from_ref(text)).await
    }

    /// One command. It is async since a room may have to be announced to
    /// others before a join is acknowledged. What waits is boxed: its state
    /// would be a part of each idle connection.
    async fn on_request(
        &mut self,
        request: Result<Request<'_>, centrifuge::NotTheProtocol>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Close> {
        let Request { id, command } = understood(request)?;
        self.router.metrics.command(name(&command));
        match self.may_ask() {
            Taken::Yes => {}
            Taken::No if id == 0 => return Ok(()),
            Taken::No => {
                self.refuse(id, &Refusal::TOO_MANY_REQUESTS, batch);
                return Ok(());
            }
            Taken::Flood => return Err(Close::TOO_MANY_REQUESTS),
        }
        if !matches!(command, Command::Pong | Command::Ping)
            && let Err(refusal) = self.router.limit_user(&self.connection).await
        {
            if id != 0 {
                self.refuse(id, &refusal, batch);
            }
            return Ok(());
        }
        let answer = match command {
            Command::Connect(_) => return Err(Close::BAD_REQUEST),
            Command::Pong => return Ok(()),
            Command::Send { data } => {
                // Nobody waits for an answer, so a refusal is only counted.
                if let Err(refusal) = self.router.call(&self.connection, "", data, batch) {
                    self.router.metrics.refused(refusal.code);
                }
                return Ok(());
            }
            Command::Join { room, token, data, recover } => {
                let join = JoinView { room: &room, token: &token, data };
                // Its good answer is sent on the way, at the right moment.
                let joined = Box::pin(self.router.join(&self.connection, id, join, recover, batch)).await;
                joined.map(|ends| {
                    if ends.is_some() {
                        self.ends = self.router.next_end(&self.connection);
                    }
                    None
                })
            }
            Command::Leave { room } => self.router.leave(&self.connection, &room, batch).map(|()| Some(Reply::Left)),
            Command::Publish { room, data } => {
                let on_kept = self.answer_later(id);
                match self.router.publish(&self.connection, &room, data, on_kept, batch) {
                    Ok(Published::Now) => Ok(Some(Reply::Published)),
                    Ok(Published::Later) => Ok(None),
                    Err(refusal) => Err(refusal),
                }
            }
            Command::Presence { room } => {
                batch.flush();
                let members = Box::pin(self.router.presence(&self.connection, &room)).await;
                members.map(|members| Some(Reply::Presence(members)))
            }
            Command::PresenceStats { room } => {
                batch.flush();
                let stats = Box::pin(self.router.presence_stats(&self.connection, &room)).await;
                stats.map(|(connections, users)| Some(Reply::PresenceStats { connections, users }))
            }
            Command::History { room, limit, since, reverse } => {
                batch.flush();
                match Box::pin(self.router.history(&self.connection, &room, limit, since, reverse)).await {
                    Ok((position, publications)) => {
                        let reply = Reply::History { position: &position, publications: &publications };
                        self.put_list(id, &reply, batch);
                        Ok(None)
                    }
                    Err(refusal) => Err(refusal),
                }
            }
            Command::Call { method, data } if method == "wayleave.records" || method == "wayleave.record" => {
                batch.flush();
                let method = method.trim_start_matches("wayleave.");
                let called = Box::pin(self.router.records_call(&self.connection, method, data)).await;
                called.map(|data| {
                    self.put_list(id, &Reply::Called(&data), batch);
                    None
                })
            }
            Command::Call { method, data } => match self.router.call(&self.connection, &method, data, batch) {
                Ok(data) => {
                    self.put(&self.connection.encoding.reply(id, &Reply::Called(&data)), batch);
                    Ok(None)
                }
                Err(refusal) => Err(refusal),
            },
            Command::Ping => Ok(Some(Reply::Pong)),
            Command::Refresh { token } => {
                batch.flush();
                let refreshed = Box::pin(self.router.refresh(&self.connection, &token)).await;
                self.ends = self.router.next_end(&self.connection);
                match refreshed {
                    Ok(ttl) => Ok(Some(Reply::Refreshed { connection: &self.connection.id_text, ttl })),
                    Err(NotConnected::Refused(refusal)) => Err(refusal),
                    Err(NotConnected::Closed(close)) => return Err(close),
                }
            }
            Command::SubRefresh { room, token } => {
                let refreshed = Box::pin(self.router.sub_refresh(&self.connection, &room, &token, batch)).await;
                self.ends = self.router.next_end(&self.connection);
                refreshed.map(|ttl| Some(Reply::SubRefreshed { ttl }))
            }
            Command::Unsupported => Err(Refusal::METHOD_NOT_FOUND),
        };
        match answer {
            Ok(None) => {}
            Ok(Some(reply)) => {
                self.put_list(id, &reply, batch);
            }
            Err(refusal) => self.refuse(id, &refusal, batch),
        }
        Ok(())
    }

    /// Who asks for a long list must not be closed as slow for it.
    fn put_list(&self, id: u32, reply: &Reply<'_>, batch: &mut Batch<'_>) {
        let frame = self.connection.encoding.reply(id, reply);
        if frame.len() > self.connection.outbox.max() / 2 {
            self.refuse(id, &Refusal::LIMIT_EXCEEDED, batch);
        } else {
            self.put(&frame, batch);
        }
    }

    /// Answers a publish when it is kept, wherever that is noticed.
    fn answer_later(&self, id: u32) -> impl FnOnce(Result<Appended, Refusal>) + Send + 'static {
        let (router, connection) = (Arc::clone(&self.router), Arc::clone(&self.connection));
        move |kept| {
            if router.cluster.is_none() {
                return;
            }
            let frame = match kept {
                Ok(_) => connection.encoding.reply(id, &Reply::Published),
                Err(refusal) => {
                    router.metrics.refused(refusal.code);
                    connection.encoding.refusal(id, &refusal)
                }
            };
            connection.outbox.put(&frame, &mut Batch::new(&router.flusher));
        }
    }

    fn may_ask(&mut self) -> Taken {
        let generation = self.router.generation();
        let limits = &generation.config.limits;
        self.commands.take(Instant::now(), limits.commands_per_second, limits.commands_burst)
    }

    fn refuse(&self, id: u32, refusal: &Refusal, batch: &mut Batch<'_>) {
        self.router.metrics.refused(refusal.code);
        self.put(&self.connection.encoding.refusal(id, refusal), batch);
    }

    /// Into the own outbox. That it is full or closing shows on the wire next.
    fn put(&self, frame: &Bytes, batch: &mut Batch<'_>) {
        self.connection.outbox.put(frame, batch);
    }
}

/// How long one connection's commands may keep a thread before others have
/// their turn. Slow plugins make a few commands last for long.
const TURN: Duration = Duration::from_millis(2);

/// A command's name in the metrics.
fn name(command: &Command<'_>) -> &'static str {
    match command {
        Command::Connect(_) => "connect",
        Command::Join { .. } => "subscribe",
        Command::Leave { .. } => "unsubscribe",
        Command::Publish { .. } => "publish",
        Command::Presence { .. } => "presence",
        Command::PresenceStats { .. } => "presence_stats",
        Command::History { .. } => "history",
        Command::Call { .. } => "rpc",
        Command::Send { .. } => "send",
        Command::Refresh { .. } => "refresh",
        Command::SubRefresh { .. } => "sub_refresh",
        Command::Ping => "ping",
        Command::Pong => "pong",
        Command::Unsupported => "unsupported",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Each idle connection has one.
    #[test]
    fn the_future_of_a_connection_is_small() {
        let bytes = size(run);
        println!("{bytes} bytes");
        assert!(bytes <= 2048, "{bytes}");
    }
}
