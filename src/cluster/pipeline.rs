//! The one ordered way of writing to Redis.
//!
//! Whoever has something to write puts it into a bounded queue and passes on.
//! One task takes what waits, sends it in one go and hands the answers out, so
//! that the busier the gateway is, the more goes in one round trip. While there
//! is no connection the queue holds what came last before the bound; what is
//! too old by then is dropped and counted, never delivered late.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{Cmd, RedisError, Value};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{link::Link, metrics::ClusterMetrics, script};

/// Commands in one go.
pub(super) const BATCH: usize = 1024;

/// Commands that may wait; their bytes have a bound of their own.
const QUEUE: usize = 1 << 17;

/// Why Redis did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// It was not sent: nothing has changed.
    #[error("Redis cannot be reached")]
    Down,
    /// It was sent and no answer came: it may have happened.
    #[error("Redis did not answer")]
    Unknown,
    /// Redis refused it: nothing has changed.
    #[error("Redis refused: {0}")]
    Refused(String),
}

/// Who waits for an answer.
pub(super) enum Done {
    /// Nobody.
    Nobody,
    /// A task.
    Task(oneshot::Sender<Result<Value, BusError>>),
    /// Something to be called, on the pipeline's task: it must not wait.
    Call(Box<dyn FnOnce(Result<Value, BusError>) + Send>),
}

/// One command.
pub(super) struct Write {
    pub(super) command: Cmd,
    /// Its first key or its channel.
    pub(super) key: String,
    pub(super) done: Done,
    since: Instant,
    bytes: usize,
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The queue's entrance.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    writes: mpsc::Sender<Write>,
    waiting: Arc<AtomicUsize>,
    max: usize,
    metrics: ClusterMetrics,
}

/// The queue's other end.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) writes: mpsc::Receiver<Write>,
    waiting: Arc<AtomicUsize>,
    pub(super) metrics: ClusterMetrics,
    /// What is older is not sent any more.
    fresh: Duration,
    pub(super) batch: Vec<Write>,
    /// What waited while there was no connection; it goes before the rest.
    pub(super) held: VecDeque<Write>,
}

/// A queue of at most `max` bytes.
pub(super) fn queue(max: usize, fresh: Duration, metrics: ClusterMetrics) -> (Pipeline, Queue) {
    let (sender, writes) = mpsc::channel(QUEUE);
    let waiting = Arc::new(AtomicUsize::new(0));
    let pipeline = Pipeline { writes: sender, waiting: Arc::clone(&waiting), max, metrics: metrics.clone() };
    let held = VecDeque::new();
    (pipeline, Queue { writes, waiting, metrics, fresh, batch: Vec::new(), held })
}

impl Pipeline {
    /// Puts a command into the queue. If it is full, `done` is told at once.
    pub(super) fn put(&self, command: Cmd, key: impl Into<String>, done: Done) {
        let bytes = command.args_iter().map(|arg| if let redis::Arg::Simple(arg) = arg { arg.len() } else { 8 }).sum();
        let write = Write { command, key: key.into(), done, since: Instant::now(), bytes };
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > self.max {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.dropped("queue full");
            return write.done.tell(Err(BusError::Down));
        }
        if let Err(mpsc::error::TrySendError::Full(write) | mpsc::error::TrySendError::Closed(write)) =
            self.writes.try_send(write)
        {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.dropped("queue full");
            write.done.tell(Err(BusError::Down));
        }
    }

    /// Puts a command into the queue and waits for its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn ask(&self, command: Cmd, key: impl Into<String>, within: Duration) -> Result<Value, BusError> {
        let (sender, receiver) = oneshot::channel();
        self.put(command, key, Done::Task(sender));
        match tokio::time::timeout(within, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_gone)) => Err(BusError::Down),
            Err(_late) => Err(BusError::Unknown),
        }
    }
}

impl Done {
    pub(super) fn tell(self, answer: Result<Value, BusError>) {
        match self {
            Self::Nobody => {}
            Self::Task(task) => drop(task.send(answer)),
            Self::Call(call) => call(answer),
        }
    }

    fn is_given_up(&self) -> bool {
        matches!(self, Self::Task(task) if task.is_closed())
    }
}

impl Queue {
    /// Writes until the connection fails or `stop` is cancelled and nothing
    /// waits any more. `lost` says that the connection has ended: what waits
    /// then stays for the next.
    ///
    /// # Errors
    /// The connection's.
    pub(super) async fn run(
        &mut self,
        link: &mut Link,
        lost: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<(), RedisError> {
        if link.is_cluster() {
            return self.run_apart(link, lost, stop).await;
        }
        loop {
            if lost.is_cancelled() {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            let n = self.held.len().min(BATCH);
            self.batch.extend(self.held.drain(..n));
            if n == 0 {
                tokio::select! {
                    biased;
                    () = lost.cancelled() => continue,
                    n = self.writes.recv_many(&mut self.batch, BATCH) => if n == 0 { return Ok(()) },
                    () = stop.cancelled() => return Ok(()),
                }
            }
            self.send(link).await?;
        }
    }

    /// While there is no connection: nobody waits in vain.
    pub(super) async fn starve(&mut self, until: impl Future<Output = ()>) {
        tokio::pin!(until);
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        loop {
            tokio::select! {
                () = &mut until => return,
                _ = tick.tick() => {}
            }
            // Those that are awaited are told at once; messages wait for a
            // connection as long as they are fresh.
            while self.held.len() < QUEUE
                && let Ok(write) = self.writes.try_recv()
            {
                self.held.push_back(write);
            }
            let Self { held, waiting, fresh, metrics, .. } = self;
            held.retain_mut(|write| {
                let keep = matches!(write.done, Done::Nobody) && write.since.elapsed() < *fresh;
                if !keep {
                    waiting.fetch_sub(write.bytes, Ordering::Relaxed);
                    if matches!(write.done, Done::Nobody) {
                        metrics.dropped("stale");
                    }
                    std::mem::replace(&mut write.done, Done::Nobody).tell(Err(BusError::Down));
                }
                keep
            });
        }
    }

    /// Sends what was taken out of the queue.
    async fn send(&mut self, link: &mut Link) -> Result<(), RedisError> {
        let mut batch = std::mem::take(&mut self.batch);
        let (commands, waiters) = self.fresh(batch.drain(..));
        self.batch = batch;
        if commands.is_empty() {
            return Ok(());
        }
        let answers = carry_out(link, commands).await;
        self.answer(waiters, answers)
    }

    /// Hands answers out. What a node leaves unanswered is that node's trouble.
    pub(super) fn answer(&self, waiters: Vec<Done>, answers: Answers) -> Result<(), RedisError> {
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                self.unknown(waiters);
                return Err(error);
            }
        };
        let mut broken = None;
        for (answer, done) in answers.into_iter().zip(waiters) {
            match answer {
                Ok(value) => done.tell(Ok(value)),
                Err(error) => {
                    let kind = classify(&error);
                    self.metrics.dropped(if kind == BusError::Unknown { "unknown" } else { "refused" });
                    done.tell(Err(kind));
                    if ends_link(&error) && !error.is_timeout() {
                        broken = Some(error);
                    } else {
                        tracing::debug!(%error, "a command failed");
                    }
                }
            }
        }
        broken.map_or(Ok(()), Err)
    }

    /// Of what leaves the queue, what is still worth sending.
    pub(super) fn fresh(&self, writes: impl Iterator<Item = Write>) -> (Vec<(Cmd, String)>, Vec<Done>) {
        let (mut commands, mut waiters) = (Vec::new(), Vec::new());
        for write in writes {
            self.waiting.fetch_sub(write.bytes, Ordering::Relaxed);
            if write.done.is_given_up() || write.since.elapsed() > self.fresh {
                self.metrics.dropped("stale");
                write.done.tell(Err(BusError::Down));
                continue;
            }
            commands.push((write.command, write.key));
            waiters.push(write.done);
        }
        (commands, waiters)
    }

    pub(super) fn unknown(&self, waiters: Vec<Done>) {
        for done in waiters {
            self.metrics.dropped("unknown");
            done.tell(Err(BusError::Unknown));
        }
    }
}

fn is_script(command: &Cmd) -> bool {
    command.args_iter().next().is_some_and(|name| matches!(name, redis::Arg::Simple(b"EVALSHA")))
}

/// What became of several commands; the error is the connection's.
pub(super) type Answers = Result<Vec<Result<Value, RedisError>>, RedisError>;

/// Sends commands, and the scripts that the server does not know.
pub(super) async fn carry_out(link: &mut Link, commands: Vec<(Cmd, String)>) -> Answers {
    let copies =
        commands.iter().map(|(command, key)| is_script(command).then(|| (command.clone(), key.clone()))).collect();
    let answers = link.send(commands).await?;
    with_scripts(link, answers, copies).await
}

/// The answers, once those whose scripts the server did not know have been
/// sent again, in their order and with all that it takes.
async fn with_scripts(
    link: &mut Link,
    mut answers: Vec<Result<Value, RedisError>>,
    copies: Vec<Option<(Cmd, String)>>,
) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
    let (mut places, mut commands) = (Vec::new(), Vec::new());
    for ((place, answer), copy) in answers.iter().enumerate().zip(copies) {
        if let (Err(error), Some((command, key))) = (answer, copy)
            && error.code() == Some("NOSCRIPT")
        {
            places.push(place);
            commands.push((script::in_full(&command), key));
        }
    }
    if !commands.is_empty() {
        for (place, answer) in places.into_iter().zip(link.send(commands).await?) {
            answers[place] = answer;
        }
    }
    Ok(answers)
}

/// Reads an answer.
pub(super) fn parse<T: redis::FromRedisValue>(value: Value) -> Result<T, BusError> {
    redis::from_redis_value(value).map_err(|_| garbled())
}

/// What an answer is that makes no sense.
pub(super) fn garbled() -> BusError {
    BusError::Refused("an answer that is not as expected".into())
}

/// What an error means for the one who asked.
pub(super) fn classify(error: &RedisError) -> BusError {
    match error.code() {
        Some(_) => BusError::Refused(error.to_string()),
        None => BusError::Unknown,
    }
}

/// True if this server will refuse everything: another one may have become
/// the master.
fn ends_link(error: &RedisError) -> bool {
    error.is_connection_dropped()
        || error.is_timeout()
        || matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH" | "CLUSTERDOWN"))
}
