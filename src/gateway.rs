//! The composition root: the one place that knows every part.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    cluster::{Cluster, Receiver},
    config::{BusConfig, Config, DrainConfig},
    generation::Generation,
    http::{self, Web},
    hub::{Connection, Hub},
    id::{BootId, ConnectionId},
    metrics::Metrics,
    plugin::{Lookup, MemoryStore, PluginHost, kv::KvStore},
    protocol::Close,
    reload::{Outcome, Reloader, Watcher},
    router::{
        Alone, HubLookup, Remote, Router, SharedLookup, SharedStore, SharedTurn, Surroundings, Ticker, Turn, Work,
    },
    session::flusher::Flusher,
    traces::{self, Tracer},
};

/// How often some connections are closed in a drain.
const PACE: Duration = Duration::from_millis(10);

/// So many a second are closed at least.
const PACED_MIN: u32 = 200;

/// How many of those that are left are named.
const NAMED: usize = 20;

/// What was left at the end of a drain.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    /// Connections.
    pub connections: usize,
    /// Some of them, with their users.
    pub named: Vec<String>,
    /// Tasks, those of the connections among them.
    pub tasks: usize,
}

impl Left {
    fn of(gateway: &Gateway) -> Self {
        let all = gateway.router.hub.all_connections();
        let parting: Vec<_> = gateway.router.parting.lock().iter().copied().collect();
        let name = |connection: &Arc<Connection>| format!("{} of {:?}", connection.id_text, connection.user);
        let parts = |id: &ConnectionId| format!("{id}, which does not read its end");
        Self {
            connections: all.len() + parting.len(),
            named: all.iter().map(name).chain(parting.iter().map(parts)).take(NAMED).collect(),
            tasks: gateway.tasks.len(),
        }
    }
}

/// A running gateway. Dropping it without a drain leaves its tasks to the
/// runtime.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    router: Arc<Router>,
    reloader: Arc<Reloader>,
    tasks: TaskTracker,
    /// Ends the listener, the ticks, and sessions that are nobody yet.
    stop: CancellationToken,
    /// Ends what serves sessions, after them.
    end: CancellationToken,
    /// The server API wants it to end.
    drain_asked: CancellationToken,
}

impl Gateway {
    /// Loads the plugins, binds the address and begins to serve. `file` is
    /// where a reload reads the config again; with it, changes are watched.
    ///
    /// # Errors
    /// If a plugin cannot be used or the address cannot be bound.
    pub async fn start(config: Config, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let metrics = Metrics::new();
        let hub = Arc::new(Hub::new());
        let boot = BootId::random();
        let (cluster, starter) = match &config.bus {
            BusConfig::Memory => (None, None),
            BusConfig::Redis(redis) => {
                let watch = config.cluster.clone();
                let (cluster, starter) = Cluster::open(redis.clone(), watch, boot, metrics.cluster.clone()).await?;
                (Some(cluster), Some(starter))
            }
        };
        let here = HubLookup(Arc::clone(&hub));
        let (store, lookup, turn): (Arc<dyn KvStore>, Arc<dyn Lookup>, Arc<dyn Turn>) = match &cluster {
            None => (Arc::new(MemoryStore::default()), Arc::new(here), Arc::new(Alone)),
            Some(cluster) => {
                let lookup = SharedLookup { here, cluster: Arc::clone(cluster) };
                let (store, turn) = (SharedStore(Arc::clone(cluster)), SharedTurn(Arc::clone(cluster)));
                (Arc::new(store), Arc::new(lookup), Arc::new(turn))
            }
        };
        let host = Arc::new(PluginHost::open(config.server.cache.as_deref(), store, lookup, metrics.clone())?);
        let building = Arc::clone(&host);
        let generation = tokio::task::spawn_blocking(move || Generation::build(config, &building, None))
            .await
            .context("loading plugins panicked")??;
        let server = generation.config.server.clone();
        let tracing = generation.config.tracing.clone();
        let collector = traces::Collector::new(&tracing)?;
        let listener =
            TcpListener::bind(server.listen).await.with_context(|| format!("cannot listen on {}", server.listen))?;
        let address = listener.local_addr()?;

        let flusher = Arc::new(Flusher::new(std::thread::available_parallelism().map_or(1, usize::from)));
        let (tasks, stop, end) = (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
        let surroundings = Surroundings { boot, cluster: cluster.clone(), tasks: tasks.clone(), stop: stop.clone() };
        let router = Arc::new(Router::new(hub, Arc::clone(&flusher), metrics, Arc::new(generation), surroundings));
        if let (Some(cluster), Some(starter)) = (&cluster, starter) {
            let receiver: Arc<dyn Receiver> = Arc::new(Remote(Arc::downgrade(&router)));
            tracing::info!(instance = %boot, name = cluster.name(), "one of a cluster");
            starter.start(cluster, &receiver, &tasks, &end);
            let sending = Arc::clone(cluster);
            flusher.then(move || sending.flush());
            tasks.spawn(Arc::clone(&router).watch_positions(Arc::clone(cluster), stop.clone()));
            tasks.spawn(Arc::clone(&router).watch_registrations(Arc::clone(cluster), stop.clone()));
            tasks.spawn(Arc::clone(&router).watch_revocations(Arc::clone(cluster), end.clone()));
        }
        if let Some(collector) = collector {
            let (tracer, spans) = Tracer::new(&tracing, router.metrics.clone());
            router.trace_with(tracer);
            tasks.spawn(traces::export(collector, boot.to_string(), spans, router.metrics.clone(), end.clone()));
        }
        tasks.spawn(Arc::clone(&router).watch_admissions(stop.clone()));
        tasks.spawn(Arc::clone(&router).sweep());
        let reloader = Arc::new(Reloader::new(file, host, Arc::clone(&router)));
        let drain_asked = CancellationToken::new();
        let (reloading, draining) = (Arc::downgrade(&reloader), drain_asked.clone());
        router.work_with(move |work| {
            let (reloader, draining) = (reloading.upgrade(), draining.clone());
            Box::pin(async move {
                let Some(reloader) = reloader else { return Err("this instance ends".to_owned()) };
                let outcome = match work {
                    Work::Reload => reloader.reload("the server API").await,
                    Work::Rollback => reloader.roll_back("the server API").await,
                    Work::Drain => {
                        draining.cancel();
                        return Ok(reloader.router().hub.n_connections() as u64);
                    }
                };
                match outcome {
                    Outcome::Replaced(generation) => Ok(generation),
                    Outcome::Unchanged => Ok(reloader.running().number),
                    Outcome::Failed(reason) => Err(reason),
                }
            })
        });
        for shard in 0..flusher.shards() {
            tasks.spawn(Arc::clone(&flusher).run(shard, end.clone()));
        }
        tasks.spawn(Ticker::new(Arc::clone(&router), turn, tasks.clone()).run(stop.clone()));
        if reloader.file().is_some() {
            match Watcher::new() {
                Ok(watcher) => drop(tasks.spawn(watcher.run(Arc::clone(&reloader), end.clone()))),
                Err(error) => tracing::warn!(%error, "files cannot be watched; reload with SIGHUP instead"),
            }
        }
        let web = Web {
            router: Arc::clone(&router),
            reloader: Arc::clone(&reloader),
            tasks: tasks.clone(),
            stop: stop.clone(),
            guesses: Arc::default(),
            admission: Arc::default(),
        };
        tasks.spawn(Arc::clone(&web.admission).watch(Arc::clone(&router), stop.clone()));
        tasks.spawn(http::serve(listener, server.header_timeout, web));
        Ok(Self { address, router, reloader, tasks, stop, end, drain_asked })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces its generation.
    #[must_use]
    pub fn reloader(&self) -> &Arc<Reloader> {
        &self.reloader
    }

    /// Cancelled when the server API asks for the end of this instance, which
    /// whoever owns it then drains.
    #[must_use]
    pub fn drain_asked(&self) -> CancellationToken {
        self.drain_asked.clone()
    }

    /// Its router, for what is inside the process.
    #[must_use]
    pub fn router(&self) -> &Arc<Router> {
        &self.router
    }

    /// Ends it in order: says that it is not ready, takes nobody in, closes
    /// everybody with "shutdown", some at a time, and waits.
    ///
    /// # Errors
    /// If the deadline came first: what was left.
    pub async fn drain(self, how: impl Into<DrainConfig>) -> Result<(), Left> {
        let how = how.into();
        self.router.retire();
        let sessions_end = async {
            tokio::time::sleep(how.delay).await;
            self.stop.cancel();
            self.tasks.close();
            self.close_paced(how.spread).await;
            // Somebody may have become somebody while we went through them.
            while self.router.hub.n_connections() > 0 || self.router.metrics.sockets.get() > 0 {
                for connection in self.router.hub.all_connections() {
                    connection.outbox.close(Close::SHUTDOWN);
                }
                tokio::time::sleep(PACE).await;
            }
            if let Some(cluster) = &self.router.cluster {
                // Leaves are written before the goodbye.
                cluster.flushed().await;
                let rooms = &self.router.generation().config.rooms;
                cluster.depart(rooms.iter().map(|room| room.presence_grace).max().unwrap_or_default()).await;
            }
            self.end.cancel();
            self.tasks.wait().await;
        };
        let in_time = tokio::time::timeout(how.timeout, sessions_end).await;
        self.stop.cancel();
        self.end.cancel();
        in_time.map_err(|_| Left::of(&self))
    }

    /// Closes the connections one after the other, as evenly as they go into
    /// `spread`.
    async fn close_paced(&self, spread: Duration) {
        let all = self.router.hub.all_connections();
        let spread = spread.min(Duration::from_secs(all.len() as u64) / PACED_MIN);
        let began = Instant::now();
        let mut closed = 0;
        let mut ticks = tokio::time::interval(PACE);
        while closed < all.len() {
            ticks.tick().await;
            let share = if spread.is_zero() { 1.0 } else { began.elapsed().as_secs_f64() / spread.as_secs_f64() };
            // The first goes at once.
            let due = ((all.len() as f64 * share) as usize + 1).min(all.len());
            all[closed..due].iter().for_each(|connection| connection.outbox.close(Close::SHUTDOWN));
            closed = due.max(closed);
        }
    }
}
