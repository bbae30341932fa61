//! The connection for what need not be in order with writes: reading, beating,
//! cleaning up.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Cmd, RedisError, RedisResult, Value};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    BusError,
    backoff::spread,
    link::Link,
    pipeline::classify,
    script,
    wiring::{self, Wiring},
};

/// After a failed attempt to connect, others fail at once for up to this long.
const PAUSE: Duration = Duration::from_millis(200);

/// A connection that is made when it is needed.
#[derive(Debug)]
pub(super) struct Reader {
    wiring: Wiring,
    link: Mutex<Option<Open>>,
    /// Held while connecting, so that one does.
    connecting: AsyncMutex<Attempts>,
    /// A server has answered that it is a replica.
    is_demoted: AtomicBool,
}

/// A connection and its number.
#[derive(Debug, Clone)]
struct Open {
    n: u64,
    link: Link,
    /// Cancelled when it has ended: what is sent to it then might as well have
    /// happened.
    lost: CancellationToken,
}

#[derive(Debug, Default)]
struct Attempts {
    n: u64,
    not_before: Option<Instant>,
}

impl Reader {
    pub(super) fn new(wiring: Wiring) -> Self {
        Self { wiring, link: Mutex::default(), connecting: AsyncMutex::default(), is_demoted: AtomicBool::new(false) }
    }

    async fn link(&self) -> RedisResult<(u64, Link)> {
        let open = || self.link.lock().clone().filter(|open| !open.lost.is_cancelled());
        if let Some(Open { n, link, .. }) = open() {
            return Ok((n, link));
        }
        let mut attempts = self.connecting.lock().await;
        if let Some(Open { n, link, .. }) = open() {
            return Ok((n, link));
        }
        if attempts.not_before.is_some_and(|at| Instant::now() < at) {
            return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
        }
        let lost = CancellationToken::new();
        match self.wiring.connect("read", Some(wiring::tell_end(&lost))).await {
            Ok(link) => {
                attempts.n += 1;
                attempts.not_before = None;
                let n = attempts.n;
                *self.link.lock() = Some(Open { n, link: link.clone(), lost });
                Ok((n, link))
            }
            Err(error) => {
                attempts.not_before = Some(Instant::now() + spread(PAUSE / 4, PAUSE));
                Err(error)
            }
        }
    }

    /// True once after a server has answered that it is a replica. The nodes of
    /// a cluster are looked after by the library.
    pub(super) fn was_demoted(&self) -> bool {
        self.is_demoted.swap(false, Ordering::Relaxed) && !self.wiring.is_cluster()
    }

    /// True if what failed so says that the connection is of no use.
    fn must_reconnect(&self, error: &RedisError) -> bool {
        if error.code() == Some("READONLY") {
            self.is_demoted.store(true, Ordering::Relaxed);
        }
        // One node that stands still is not the others' trouble.
        let is_of_one = self.wiring.is_cluster() && !error.is_connection_dropped();
        (error.code().is_none() && !is_of_one)
            || matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN"))
    }

    /// The next one connects anew, unless somebody has already.
    fn lose(&self, n: u64) {
        let mut link = self.link.lock();
        if link.as_ref().is_some_and(|open| open.n == n) {
            *link = None;
        }
    }

    /// Runs one command and gives back the library's error.
    pub(super) async fn raw(&self, command: Cmd, key: &str) -> RedisResult<Value> {
        let (n, mut link) = self.link().await?;
        let result = tokio::time::timeout(self.wiring.timeout(), link.one(command.clone(), key))
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        let result = match result {
            Err(error) if error.code() == Some("NOSCRIPT") => link.one(script::in_full(&command), key).await,
            result => result,
        };
        result.inspect_err(|error| {
            if self.must_reconnect(error) {
                self.lose(n);
            }
        })
    }

    /// What tells whether a node of a cluster has begun anew.
    pub(super) async fn lines(&self) -> RedisResult<String> {
        let (_, mut link) = self.link().await?;
        link.lines().await
    }

    /// Runs one command whose first key is `key`.
    pub(super) async fn one(&self, command: Cmd, key: &str) -> Result<Value, BusError> {
        self.raw(command, key).await.map_err(|error| classify(&error))
    }

    /// Runs several in one go.
    pub(super) async fn all(&self, commands: Vec<(Cmd, String)>) -> Result<Vec<Result<Value, BusError>>, BusError> {
        let (n, mut link) = self.link().await.map_err(|error| classify(&error))?;
        let copies = commands.clone();
        let results = link.send(commands).await.map_err(|error| {
            self.lose(n);
            classify(&error)
        })?;
        let mut answers = Vec::with_capacity(results.len());
        for (result, (command, key)) in results.into_iter().zip(copies) {
            answers.push(match result {
                Err(error) if error.code() == Some("NOSCRIPT") => self.one(command, &key).await,
                Err(error) => {
                    if self.must_reconnect(&error) {
                        self.lose(n);
                    }
                    Err(classify(&error))
                }
                Ok(value) => Ok(value),
            });
        }
        Ok(answers)
    }
}
