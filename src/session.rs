//! The life of one connection: handshake, commands, heartbeat, end.
//!
//! One task a connection. It waits on its [`wire::Wire`], asks the router what
//! each command comes to, and puts the answers into its own outbox; deliveries
//! of others go into that outbox without this task having to run.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

mod bucket;
pub mod echo;
pub mod flusher;
mod frames;
mod heartbeat;
pub mod outbox;
pub mod reader;
mod stream;
mod wire;

pub use self::stream::StreamBody;

use self::{
    bucket::{Bucket, Taken},
    flusher::Batch,
    heartbeat::{Due, Heartbeat},
    outbox::Outbox,
    reader::Takes,
    stream::Stream,
    wire::{Input, Line, Wire},
};
use crate::{
    config::{Level, RateOf},
    hub::Connection,
    id::ConnectionId,
    net::Socket,
    plugin::JoinView,
    protocol::{
        Close, Command, Encoding, Incoming, NotTheProtocol, Payload, PayloadRef, Push, Refusal, Reply, Request,
    },
    room::history::Appended,
    router::{Newcomer, NotConnected, Published, Router, too_often},
    traces::{self, Span},
};

/// Runs a connection from its upgrade to its end. `early` is what the client
/// sent right behind the handshake; `stop` ends it while it is nobody yet.
pub fn run(
    socket: Socket,
    encoding: Encoding,
    address: IpAddr,
    early: Bytes,
    router: Arc<Router>,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let (outbox_max, message_size) = sizes(&router);
    let id = ConnectionId::random(router.boot);
    let socket = Arc::new(socket);
    let outbox = Arc::new(Outbox::new(Arc::clone(&socket), outbox_max, router.flusher.shard(id)));
    let takes = if encoding.is_protobuf() { Takes::Bytes } else { Takes::Texts };
    let mut wire = Wire::new(socket, Arc::clone(&outbox), message_size, takes);
    let first = wire.early(&early);
    // It is a piece of the HTTP parser's buffer and would keep all of it.
    drop(early);
    converse(wire, Newcomer { id, encoding, address, outbox, session: None }, first, router, stop)
}

/// A connection whose client has no socket of its own: the body of the response
/// that it hears, and what runs it to its end. `first` is what came with the
/// request; what comes later is [passed in](Router::pass_in).
pub fn stream(
    encoding: Encoding,
    address: IpAddr,
    first: Incoming,
    router: Arc<Router>,
    stop: CancellationToken,
) -> (StreamBody, impl Future<Output = ()>) {
    let (outbox_max, _) = sizes(&router);
    let id = ConnectionId::random(router.boot);
    let outbox = Arc::new(Outbox::taken(encoding, outbox_max, router.flusher.shard(id)));
    let body = StreamBody(Arc::clone(&outbox));
    let (sender, incoming) = mpsc::channel(INCOMING);
    let run = async move {
        let entry = router.inbound.open(sender, Arc::clone(&outbox));
        let line = Stream { incoming, outbox: Arc::clone(&outbox) };
        let newcomer = Newcomer { id, encoding, address, outbox, session: Some(entry.name().to_owned()) };
        converse(line, newcomer, vec![first], router.clone(), stop).await;
        drop(entry);
    };
    (body, run)
}

/// Messages that may wait for a client that has no socket of its own.
const INCOMING: usize = 64;

fn sizes(router: &Router) -> (usize, usize) {
    let generation = router.generation();
    (generation.config.limits.outbox, generation.config.limits.message_size)
}

/// Not an `async fn`: that would keep its arguments twice.
fn converse(
    mut line: impl Line,
    newcomer: Newcomer,
    first: Vec<Incoming>,
    router: Arc<Router>,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let generation = router.generation();
    let close_timeout = generation.config.limits.close_timeout;
    let connect_by = Instant::now() + generation.config.server.connect_timeout;
    drop(generation);
    async move {
        let id = newcomer.id;
        let open = Counted::new(&router.metrics.sockets);
        let close = match Box::pin(handshake(&mut line, &router, newcomer, first, connect_by, stop)).await {
            Ok(session) => serve(&mut line, session).await,
            Err(close) => close,
        };
        drop(open);
        router.metrics.closed(close.code);
        tracing::debug!(connection = %id, code = close.code, reason = %close.reason, "closed");
        router.parting.lock().insert(id);
        Box::pin(line.finish(close, close_timeout)).await;
        router.parting.lock().remove(&id);
    }
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
    line: &mut impl Line,
    router: &Arc<Router>,
    newcomer: Newcomer,
    mut messages: Vec<Incoming>,
    deadline: Instant,
    stop: CancellationToken,
) -> Result<Session, Close> {
    let mut refused = 0;
    loop {
        for (n, message) in messages.iter().enumerate() {
            let mut batch = Batch::new(&router.flusher);
            let mut requests = newcomer.encoding.decode(message);
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
                let mut step = Ok(());
                for request in requests {
                    step = session.on_request(request, &mut batch).await;
                    if step.is_err() {
                        break;
                    }
                }
                drop(batch);
                if step.is_ok() {
                    step = session.on_messages(&messages[n + 1..]).await;
                }
                return step.map_err(|close| session.ended(close)).map(|()| session);
            }
        }
        messages = tokio::select! {
            input = line.next(deadline) => match input {
                Input::Messages(messages) => messages,
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
    request: Result<Request<'_>, NotTheProtocol>,
    batch: &mut Batch<'_>,
) -> Result<Option<Session>, Close> {
    let request = understood(request)?;
    if request.command.payload().is_some_and(Payload::is_too_deep) {
        return Err(Close::BAD_REQUEST);
    }
    let Command::Connect(hello) = request.command else { return Err(Close::BAD_REQUEST) };
    router.metrics.command("connect");
    let began = Instant::now();
    let mut span = router.trace("connect");
    let connecting = router.connect(newcomer, request.id, &hello, batch);
    let connected = traces::wait_within(span.as_deref(), Box::pin(connecting)).await;
    if let (Some(span), Err(_)) = (&mut span, &connected) {
        span.fail("refused");
    }
    drop(span);
    router.metrics.command_took("connect", began.elapsed());
    match connected {
        Ok(connection) => Ok(Some(Session::new(router, connection, newcomer.address))),
        Err(NotConnected::Closed(close)) => Err(close),
        Err(NotConnected::Refused(refusal)) => {
            router.metrics.refused(refusal.code);
            newcomer.outbox.put(&newcomer.encoding.refusal(request.id, &refusal), batch);
            Ok(None)
        }
    }
}

fn understood<'a>(request: Result<Request<'a>, NotTheProtocol>) -> Result<Request<'a>, Close> {
    request.map_err(|error| {
        tracing::debug!(%error, "bad request");
        Close::BAD_REQUEST
    })
}

/// The loop of an identified connection.
async fn serve(line: &mut impl Line, mut session: Session) -> Close {
    loop {
        let step = match line.next(session.deadline()).await {
            Input::Messages(messages) => session.on_messages(&messages).await,
            Input::Tick => session.on_tick(),
            Input::Ended(close) => Err(close),
        };
        if let Err(close) = step {
            return session.ended(close);
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
    /// From where it comes.
    address: IpAddr,
    /// What is left of those of `[[limits.rates]]` that count for a connection.
    rates: Box<[Level]>,
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
    fn new(router: &Arc<Router>, connection: Arc<Connection>, address: IpAddr) -> Self {
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
            address,
            rates: Box::default(),
            ends,
            may_return: true,
        }
    }

    /// Notes how it ends.
    fn ended(&mut self, close: Close) -> Close {
        self.may_return = close.may_return();
        close
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

    async fn on_messages(&mut self, messages: &[Incoming]) -> Result<(), Close> {
        self.heartbeat.alive();
        let router = Arc::clone(&self.router);
        let mut batch = Batch::new(&router.flusher);
        let mut since = Instant::now();
        for message in messages {
            for request in self.connection.encoding.decode(message) {
                self.on_request(request, &mut batch).await?;
                // Who was sent away, or whose time is over, says no more.
                if let Some(close) = self.connection.outbox.closing() {
                    return Err(close);
                }
                if self.ends.is_some_and(|ends| ends <= Instant::now()) {
                    self.router.end_what_is_over(&self.connection, Instant::now())?;
                    self.ends = self.router.next_end(&self.connection);
                }
                if since.elapsed() > TURN {
                    batch.flush();
                    tokio::task::yield_now().await;
                    since = Instant::now();
                }
            }
        }
        Ok(())
    }

    /// One command. What may have to wait is boxed: its state would be a part of
    /// each idle connection.
    async fn on_request(
        &mut self,
        request: Result<Request<'_>, NotTheProtocol>,
        batch: &mut Batch<'_>,
    ) -> Result<(), Close> {
        let Request { id, command } = understood(request)?;
        let (kind, began) = (name(&command), Instant::now());
        self.router.metrics.command(kind);
        match self.may_ask() {
            Taken::Yes => {}
            Taken::No if id == 0 => return Ok(()),
            Taken::No => {
                self.refuse(id, &Refusal::TOO_MANY_REQUESTS, batch);
                return Ok(());
            }
            Taken::Flood => return Err(Close::TOO_MANY_REQUESTS),
        }
        if command.payload().is_some_and(Payload::is_too_deep) {
            match id {
                0 => self.router.metrics.refused(Refusal::BAD_REQUEST.code),
                id => self.refuse(id, &Refusal::BAD_REQUEST, batch),
            }
            return Ok(());
        }
        if !matches!(command, Command::Pong)
            && self.router.counts()
            && let Err(refusal) = Box::pin(self.count(&command)).await
        {
            if id != 0 {
                self.refuse(id, &refusal, batch);
            }
            return Ok(());
        }
        let answer = match command {
            Command::Connect(_) => return Err(Close::BAD_REQUEST),
            Command::Pong => {
                if let Some(rtt) = self.heartbeat.answered(began) {
                    self.router.metrics.pong_took(self.connection.encoding.transport(), rtt);
                }
                return Ok(());
            }
            Command::Send { data } => {
                // Nobody waits for an answer, so a refusal is only counted.
                if let Err(refusal) = self.router.call(&self.connection, "", data, batch) {
                    self.router.metrics.refused(refusal.code);
                }
                return Ok(());
            }
            Command::Leave { room } => self.router.leave(&self.connection, &room, batch).map(|()| Some(Reply::Left)),
            Command::Publish { room, payload } => {
                let on_kept = self.answer_later(id);
                let span = self.traced("publish", &room);
                let publish = || self.router.publish(&self.connection, &room, payload, on_kept, batch);
                let published = traces::within(span.as_deref(), publish);
                match traced_end(span, published) {
                    Ok(Published::Now) => Ok(Some(Reply::Published)),
                    Ok(Published::Later) => Ok(None),
                    Err(refusal) => Err(refusal),
                }
            }
            Command::Call { method, data } if !is_records(&method) => {
                match self.router.call(&self.connection, &method, data, batch) {
                    Ok(payload) => {
                        self.put(&self.connection.encoding.reply(id, &Reply::Called(payload.borrowed())), batch);
                        Ok(None)
                    }
                    Err(refusal) => Err(refusal),
                }
            }
            Command::Ping => Ok(Some(Reply::Pong)),
            Command::Unsupported => Err(Refusal::METHOD_NOT_FOUND),
            other => {
                Box::pin(self.on_waiting(id, other, batch)).await?;
                self.router.metrics.command_took(kind, began.elapsed());
                return Ok(());
            }
        };
        self.answer(id, answer, batch);
        self.router.metrics.command_took(kind, began.elapsed());
        Ok(())
    }

    /// The commands that may have to wait for somebody else.
    async fn on_waiting(&mut self, id: u32, command: Command<'_>, batch: &mut Batch<'_>) -> Result<(), Close> {
        let answer = match command {
            Command::Join { room, token, data, recover, wishes } => {
                let join = JoinView { room: &room, token: &token, data: data.as_ref() };
                let span = self.traced("join", &room);
                // Its good answer is sent on the way, at the right moment.
                let joining = self.router.join(&self.connection, id, join, recover, wishes, batch);
                let joined = traces::wait_within(span.as_deref(), Box::pin(joining)).await;
                traced_end(span, joined).map(|ends| {
                    if ends.is_some() {
                        self.ends = self.router.next_end(&self.connection);
                    }
                    None
                })
            }
            Command::Presence { room } => {
                batch.flush();
                let members = self.router.presence(&self.connection, &room).await;
                members.map(|members| Some(Reply::Presence(members)))
            }
            Command::PresenceStats { room } => {
                batch.flush();
                let stats = self.router.presence_stats(&self.connection, &room).await;
                stats.map(|(connections, users)| Some(Reply::PresenceStats { connections, users }))
            }
            Command::History { room, limit, since, reverse } => {
                batch.flush();
                match self.router.history(&self.connection, &room, limit, since, reverse).await {
                    Ok((position, publications)) => {
                        let reply = Reply::History { position: &position, publications: &publications };
                        self.put_list(id, &reply, batch);
                        Ok(None)
                    }
                    Err(refusal) => Err(refusal),
                }
            }
            Command::Call { method, data } => {
                batch.flush();
                let method = method.trim_start_matches("wayleave.");
                let called = self.router.records_call(&self.connection, method, data.as_ref()).await;
                called.map(|data| {
                    self.put_list(id, &Reply::Called(PayloadRef::Text(&data)), batch);
                    None
                })
            }
            Command::Refresh { token } => {
                batch.flush();
                let refreshed = self.router.refresh(&self.connection, &token).await;
                self.ends = self.router.next_end(&self.connection);
                match refreshed {
                    Ok(ttl) => Ok(Some(Reply::Refreshed { connection: &self.connection.id_text, ttl })),
                    Err(NotConnected::Refused(refusal)) => Err(refusal),
                    Err(NotConnected::Closed(close)) => return Err(close),
                }
            }
            Command::SubRefresh { room, token } => {
                let refreshed = self.router.sub_refresh(&self.connection, &room, &token, batch).await;
                self.ends = self.router.next_end(&self.connection);
                refreshed.map(|ttl| Some(Reply::SubRefreshed { ttl }))
            }
            _ => Err(Refusal::METHOD_NOT_FOUND),
        };
        self.answer(id, answer, batch);
        Ok(())
    }

    fn answer(&self, id: u32, answer: Result<Option<Reply<'_>>, Refusal>, batch: &mut Batch<'_>) {
        match answer {
            Ok(None) => {}
            Ok(Some(reply)) => self.put_list(id, &reply, batch),
            Err(refusal) => self.refuse(id, &refusal, batch),
        }
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

    fn traced(&self, name: &'static str, room: &str) -> Option<Box<Span>> {
        let mut span = self.router.trace(name)?;
        span.note_name("room", room);
        span.note_name("user", &self.connection.user);
        Some(span)
    }

    fn may_ask(&mut self) -> Taken {
        let generation = self.router.generation();
        let limits = &generation.config.limits;
        self.commands.take(Instant::now(), limits.commands_per_second, limits.commands_burst)
    }

    /// Counts a command against all limits but the connection's own for all of
    /// its commands.
    async fn count(&mut self, command: &Command<'_>) -> Result<(), Refusal> {
        if !matches!(command, Command::Ping) {
            self.router.limit_user(&self.connection).await?;
        }
        let generation = self.router.generation();
        let rates = &generation.config.limits.rates;
        if rates.is_empty() {
            return Ok(());
        }
        let (kind, now) = (name(command), Instant::now());
        if self.rates.len() != rates.len() {
            self.rates = rates.iter().map(|limit| Level::full(limit.rate, now)).collect();
        }
        for (n, limit) in rates.iter().enumerate().filter(|(_, limit)| limit.commands.iter().any(|name| name == kind)) {
            match limit.of {
                RateOf::Connection => self.rates[n].take(limit.rate, now).map_err(too_often)?,
                RateOf::User | RateOf::Address => {
                    Box::pin(self.router.limit_kind(n, limit, &self.connection, self.address)).await?;
                }
            }
        }
        Ok(())
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

/// Ends a span with what came of it.
fn traced_end<T>(span: Option<Box<Span>>, result: Result<T, Refusal>) -> Result<T, Refusal> {
    if let (Some(mut span), Err(refusal)) = (span, &result) {
        span.fail(format!("refused with {}", refusal.code));
    }
    result
}

/// How long one connection's commands may keep a thread before others have
/// their turn. Slow plugins make a few commands last for long.
const TURN: Duration = Duration::from_millis(2);

/// What the gateway answers itself.
fn is_records(method: &str) -> bool {
    matches!(method, "wayleave.records" | "wayleave.record")
}

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

    fn size<A, B, C, D, E, F, G>(_: fn(A, B, C, D, E, F) -> G) -> usize {
        size_of::<G>()
    }

    /// Each idle connection has one.
    #[test]
    fn the_future_of_a_connection_is_small() {
        let bytes = size(run);
        println!("{bytes} bytes");
        assert!(bytes <= 2048, "{bytes}");
    }
}
