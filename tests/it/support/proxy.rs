//! TCP proxies: one that does harm between a gateway and Redis, one that
//! shares clients out among gateways.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::process::ReservedPort;

/// What is read at once.
const CHUNK: usize = 16 << 10;

/// Chunks of one direction of one connection that may be on their way in the
/// proxy; then it stops reading. A delay needs room for what it holds back.
const QUEUE: usize = 256;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
    Both,
}

impl Direction {
    fn has(self, one: Self) -> bool {
        self == one || self == Self::Both
    }
}

/// Which connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those that have sent a command of Redis that subscribes.
    Subscribers,
    /// Those that have not.
    Others,
    /// Those that a gateway has named as the ones that write in order.
    Writers,
    /// Those that have sent what [`FaultProxy::hold_from`] waits for.
    Caught,
}

impl Which {
    fn has(self, connection: &Connection) -> bool {
        match self {
            Self::All => true,
            Self::Subscribers => connection.is_subscriber.load(Ordering::Acquire),
            Self::Others => !connection.is_subscriber.load(Ordering::Acquire),
            Self::Writers => connection.is_writer.load(Ordering::Acquire),
            Self::Caught => connection.is_caught.load(Ordering::Acquire),
        }
    }
}

/// What is wrong with the network.
#[derive(Debug, Clone, Default)]
struct Faults {
    cut: bool,
    frozen: Vec<(Which, Direction)>,
    delay: Duration,
    jitter: Duration,
    /// What a connection is caught by.
    bait: Option<Arc<[u8]>>,
}

impl Faults {
    fn freezes(&self, connection: &Connection, direction: Direction) -> bool {
        self.frozen.iter().any(|(which, frozen)| which.has(connection) && frozen.has(direction))
    }
}

/// A proxy in front of one server.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    to: Mutex<SocketAddr>,
    port: ReservedPort,
    /// None: connecting is refused.
    listener: Mutex<Option<TcpListener>>,
    faults: watch::Sender<Faults>,
    connections: Mutex<Vec<Arc<Connection>>>,
    accepted: AtomicUsize,
    n_to_server: AtomicU64,
    n_to_client: AtomicU64,
}

#[derive(Debug, Default)]
struct Connection {
    is_subscriber: AtomicBool,
    is_writer: AtomicBool,
    is_caught: AtomicBool,
    reset: CancellationToken,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultProxy {
    /// It has no faults yet. The server need not be there.
    #[expect(clippy::unused_async, reason = "it needs a runtime, as what is started beside it")]
    pub async fn start(to: SocketAddr) -> Self {
        let port = ReservedPort::new();
        let shared = Arc::new(Shared {
            to: Mutex::new(to),
            listener: Mutex::new(Some(port.listen())),
            port,
            faults: watch::Sender::default(),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            n_to_server: AtomicU64::new(0),
            n_to_client: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(Arc::clone(&shared).accept()).abort_handle();
        Self { shared, accepting }
    }

    pub fn addr(&self) -> SocketAddr {
        self.shared.port.address()
    }

    /// As the address of a Redis.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// Resets every connection and refuses new ones.
    pub fn cut(&self) {
        self.shared.faults.send_modify(|faults| faults.cut = true);
        *locked(&self.shared.listener) = None;
        self.reset_all();
    }

    /// Bytes no longer move, nor does the news that a side has closed; the
    /// sockets stay, and new ones are let in. What was sent meanwhile arrives
    /// after [`Self::heal`].
    pub fn freeze(&self, direction: Direction) {
        self.freeze_only(Which::All, direction);
    }

    /// The same for some of the connections. A connection that is to become a
    /// subscriber while those are frozen does not get that far.
    pub fn freeze_only(&self, which: Which, direction: Direction) {
        self.shared.faults.send_modify(|faults| faults.frozen.push((which, direction)));
    }

    /// Freezes what a client sends from the chunk on that has these bytes in it;
    /// other connections go on, until they send them too. How many do is known by
    /// [`Self::n_open`]; [`Self::heal`] lets all of it go.
    pub fn hold_from(&self, bytes: &[u8]) {
        self.shared.faults.send_modify(|faults| {
            faults.bait = Some(bytes.into());
            faults.frozen.push((Which::Caught, Direction::ToServer));
        });
    }

    /// Bytes that come from now on arrive this much later, both ways, in their
    /// order; each chunk by up to `jitter` more.
    pub fn delay(&self, delay: Duration, jitter: Duration) {
        self.shared.faults.send_modify(|faults| (faults.delay, faults.jitter) = (delay, jitter));
    }

    /// Ends every fault.
    pub fn heal(&self) {
        locked(&self.shared.listener).get_or_insert_with(|| self.shared.port.listen());
        self.shared.faults.send_replace(Faults::default());
        // Now there is no bait any more.
        for connection in &*locked(&self.shared.connections) {
            connection.is_caught.store(false, Ordering::Release);
        }
    }

    /// Resets the connections there are; both sides see it at once.
    pub fn reset_all(&self) {
        self.reset_only(Which::All);
    }

    /// The same for some of them.
    pub fn reset_only(&self, which: Which) {
        for connection in &*locked(&self.shared.connections) {
            if which.has(connection) {
                connection.reset.cancel();
            }
        }
    }

    /// New connections lead to another server; those there are stay.
    pub fn lead_to(&self, to: SocketAddr) {
        *locked(&self.shared.to) = to;
    }

    /// How many connections there are.
    pub fn n_open(&self, which: Which) -> usize {
        let connections = locked(&self.shared.connections);
        connections.iter().filter(|connection| which.has(connection)).count()
    }

    /// How many there have been.
    pub fn n_accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// How many bytes have passed.
    pub fn n_bytes(&self, direction: Direction) -> u64 {
        let to_server = self.shared.n_to_server.load(Ordering::Acquire);
        let to_client = self.shared.n_to_client.load(Ordering::Acquire);
        match direction {
            Direction::ToServer => to_server,
            Direction::ToClient => to_client,
            Direction::Both => to_server + to_client,
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // Its connections are in a set of its own and end with it.
        self.accepting.abort();
    }
}

impl Shared {
    async fn accept(self: Arc<Self>) {
        let mut faults = self.faults.subscribe();
        let mut tasks = JoinSet::new();
        loop {
            let accepted = std::future::poll_fn(|context| match &*locked(&self.listener) {
                Some(listener) => listener.poll_accept(context),
                // A change of the faults wakes us.
                None => Poll::Pending,
            });
            let client = tokio::select! {
                accepted = accepted => accepted,
                _changed = faults.changed() => continue,
                Some(_ended) = tasks.join_next() => continue,
            };
            let Ok((client, _)) = client else { continue };
            self.accepted.fetch_add(1, Ordering::AcqRel);
            let connection = Arc::<Connection>::default();
            {
                // Under the lock: `cut` comes either before this or after.
                let mut connections = locked(&self.connections);
                if self.faults.borrow().cut {
                    let _gone = client.set_zero_linger();
                    continue;
                }
                connections.push(Arc::clone(&connection));
            }
            tasks.spawn(Arc::clone(&self).serve(client, connection));
        }
    }

    async fn serve(self: Arc<Self>, mut client: TcpStream, connection: Arc<Connection>) {
        let mut server = None;
        let to = *locked(&self.to);
        let passed = async {
            let server = server.insert(TcpStream::connect(to).await?);
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            tokio::try_join!(
                self.pump(&connection, Direction::ToServer, from_client, to_server),
                self.pump(&connection, Direction::ToClient, from_server, to_client),
            )
        };
        let is_reset = tokio::select! {
            passed = passed => passed.is_err(),
            () = connection.reset.cancelled() => true,
        };
        if is_reset {
            // Closing them, here at the end, then sends a reset.
            for stream in [Some(&client), server.as_ref()].into_iter().flatten() {
                let _gone = stream.set_zero_linger();
            }
        }
        locked(&self.connections).retain(|other| !Arc::ptr_eq(other, &connection));
    }

    /// Passes bytes on in one direction until its end, or the connection's.
    async fn pump(
        &self,
        connection: &Connection,
        direction: Direction,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (queue, mut queued) = mpsc::channel::<(Instant, io::Result<Vec<u8>>)>(QUEUE);
        let read = async move {
            let mut due = Instant::now();
            let mut watcher = (direction == Direction::ToServer).then(SubscribeWatcher::default);
            let mut trap = Trap::default();
            loop {
                let mut chunk = vec![0; CHUNK];
                let came = from.read(&mut chunk).await.map(|n| {
                    chunk.truncate(n);
                    chunk
                });
                if let (Some(watcher), Ok(chunk)) = (&mut watcher, &came)
                    && watcher.sees(chunk)
                {
                    connection.is_subscriber.store(true, Ordering::Release);
                }
                // It is named in one go, as the first that it is told.
                if let (Direction::ToServer, Ok(chunk)) = (direction, &came)
                    && chunk.windows(8).any(|window| window == b"-write\r\n")
                {
                    connection.is_writer.store(true, Ordering::Release);
                }
                // Before the chunk is in the queue, so that it is held itself.
                if let (Direction::ToServer, Ok(chunk)) = (direction, &came)
                    && let Some(bait) = self.faults.borrow().bait.as_deref()
                    && trap.sees(chunk, bait)
                {
                    connection.is_caught.store(true, Ordering::Release);
                }
                let is_last = came.as_ref().map_or(true, Vec::is_empty);
                due = due.max(Instant::now() + self.delay());
                if queue.send((due, came)).await.is_err() || is_last {
                    return;
                }
            }
        };
        let write = async move {
            let mut faults = self.faults.subscribe();
            let n_passed = if direction == Direction::ToServer { &self.n_to_server } else { &self.n_to_client };
            while let Some((due, came)) = queued.recv().await {
                if due > Instant::now() {
                    tokio::time::sleep_until(due).await;
                }
                // The sender is in `self`, so this ends well.
                drop(faults.wait_for(|faults| !faults.freezes(connection, direction)).await);
                // An error is news that travels like all else.
                let chunk = came?;
                to.write_all(&chunk).await?;
                n_passed.fetch_add(chunk.len() as u64, Ordering::AcqRel);
            }
            to.shutdown().await
        };
        tokio::pin!(write);
        // Who can no longer write need not wait for more to read.
        tokio::select! {
            written = &mut write => written,
            () = read => write.await,
        }
    }

    fn delay(&self) -> Duration {
        let faults = self.faults.borrow();
        if faults.jitter.is_zero() {
            return faults.delay;
        }
        let share = f64::from(getrandom::u32().unwrap()) / f64::from(u32::MAX);
        faults.delay + faults.jitter.mul_f64(share)
    }
}

/// Finds commands of Redis that subscribe, however the bytes are cut.
#[derive(Debug, Default)]
struct SubscribeWatcher {
    /// The end of what came before, as long as such a command less one byte.
    tail: Vec<u8>,
}

impl SubscribeWatcher {
    /// A command's name follows the number of its words; so the same word in
    /// a message is none.
    const COMMANDS: [&[u8]; 3] =
        [b"\r\n$9\r\nsubscribe\r\n", b"\r\n$10\r\nssubscribe\r\n", b"\r\n$10\r\npsubscribe\r\n"];

    /// The longest of these, and `*` with a count before it.
    const LONGEST: usize = 20 + 12;

    fn sees(&mut self, chunk: &[u8]) -> bool {
        self.tail.extend(chunk.iter().map(u8::to_ascii_lowercase));
        let found = Self::COMMANDS.iter().any(|command| {
            let mut places = self.tail.windows(command.len()).enumerate().filter(|(_, window)| window == command);
            places.any(|(at, _)| {
                let before = &self.tail[..at];
                let n_digits = before.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
                n_digits > 0 && before[..at - n_digits].ends_with(b"*")
            })
        });
        self.tail.drain(..self.tail.len().saturating_sub(Self::LONGEST - 1));
        found
    }
}

/// Finds given bytes, however they are cut.
#[derive(Debug, Default)]
struct Trap {
    /// The end of what came before, as long as they are less one byte.
    tail: Vec<u8>,
}

impl Trap {
    fn sees(&mut self, chunk: &[u8], bait: &[u8]) -> bool {
        self.tail.extend(chunk);
        let found = self.tail.windows(bait.len()).any(|window| window == bait);
        self.tail.drain(..self.tail.len().saturating_sub(bait.len() - 1));
        found
    }
}

/// Shares connections out in turn, as a load balancer without stickiness does.
#[derive(Debug)]
pub struct RoundRobin {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    accepting: AbortHandle,
}

impl RoundRobin {
    pub async fn start(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let targets = Arc::new(Mutex::new(targets));
        let accepting = tokio::spawn(Self::accept(listener, Arc::clone(&targets))).abort_handle();
        Self { address, targets, accepting }
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// As the address of a gateway.
    pub fn url(&self) -> String {
        format!("ws://{}/connection/websocket", self.address)
    }

    /// Other targets for connections from now on.
    pub fn set(&self, targets: Vec<SocketAddr>) {
        *locked(&self.targets) = targets;
    }

    async fn accept(listener: TcpListener, targets: Arc<Mutex<Vec<SocketAddr>>>) {
        let mut tasks = JoinSet::new();
        for turn in 0.. {
            let Ok((client, _)) = listener.accept().await else { continue };
            let mut targets = locked(&targets).clone();
            let n = targets.len().max(1);
            targets.rotate_left(turn % n);
            tasks.spawn(Self::serve(client, targets));
            while tasks.try_join_next().is_some() {}
        }
    }

    async fn serve(mut client: TcpStream, targets: Vec<SocketAddr>) {
        for target in targets {
            // One that is gone is passed over.
            let Ok(mut server) = TcpStream::connect(target).await else { continue };
            let delays = [client.set_nodelay(true), server.set_nodelay(true)];
            let passed = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            if passed.is_err() || delays.iter().any(Result::is_err) {
                let _gone = [client.set_zero_linger(), server.set_zero_linger()];
            }
            return;
        }
        let _gone = client.set_zero_linger();
    }
}

impl Drop for RoundRobin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_subscribe() {
        let sees = |text: &str| SubscribeWatcher::default().sees(text.as_bytes());
        assert!(sees("*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nx\r\n"));
        assert!(sees("*1\r\n$4\r\nPING\r\n*12\r\n$10\r\nssubscribe\r\n$1\r\nx\r\n"));
        assert!(sees("*2\r\n$10\r\nPSubscribe\r\n$1\r\nx\r\n"));
        assert!(!sees("*3\r\n$7\r\nPUBLISH\r\n$1\r\nx\r\n$9\r\nsubscribe\r\n"));
        assert!(!sees("*3\r\n$7\r\nPUBLISH\r\n$1\r\n1\r\n$9\r\nsubscribe\r\n"));
        assert!(!sees("*2\r\n$11\r\nUNSUBSCRIBE\r\n$1\r\nx\r\n"));
    }

    #[test]
    fn a_command_in_pieces_subscribes() {
        let command = b"*1\r\n$4\r\nPING\r\n*2\r\n$10\r\nSSUBSCRIBE\r\n$1\r\nx\r\n";
        for size in 1..command.len() {
            let mut watcher = SubscribeWatcher::default();
            let n = command.chunks(size).filter(|chunk| watcher.sees(chunk)).count();
            assert!(n >= 1, "pieces of {size}");
        }
    }
    #[test]
    fn bytes_in_pieces_are_caught_once() {
        let text = b"one lease:abc\r\n two lease:ab";
        for size in 1..text.len() {
            let mut trap = Trap::default();
            let n = text.chunks(size).filter(|chunk| trap.sees(chunk, b"lease:abc\r\n")).count();
            assert_eq!(n, 1, "pieces of {size}");
        }
    }
}
