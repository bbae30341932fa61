//! An instance without others, all of it on this thread, with clients on sockets
//! of this process.

use std::{
    future::poll_fn,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio_util::sync::CancellationToken;
use wayleave::{
    config::Config,
    generation::Generation,
    hub::{Connection, Hub},
    id::BootId,
    metrics::Metrics,
    net::Socket,
    protocol::Encoding,
    router::{Router, Surroundings},
    session::{
        self,
        flusher::{Batch, Flusher},
    },
};

use crate::support::{plugins, wire};

/// Rooms that keep nothing, and rooms that do. No limit is met, and no ping comes
/// in time.
const CONFIG: &str = r#"
[server]
ping_interval = "1h"

[auth]
anonymous = true

[limits]
commands_per_second = 1_000_000_000
commands_burst = 1_000_000_000

[[rooms]]
match = "live:*"
publish = "anyone"

[[rooms]]
match = "kept:*"
publish = "anyone"
history = { size = 100, ttl = "1h" }
"#;

/// Its number is the same each time: ids begin with it, and a zero to begin with
/// is written by another way.
const BOOT: BootId = BootId(0x9e37_79b9_7f4a_7c15);

/// Turns of the runtime in which something that waits for nothing has happened.
const TURNS: usize = 10_000;

pub(super) struct Instance {
    pub(super) router: Arc<Router>,
}

impl Instance {
    /// Does `work` with one, on a runtime of this thread.
    pub(super) fn run(work: impl AsyncFnOnce(&Self) -> Result<()>) -> Result<()> {
        let config = Config::parse(CONFIG, Path::new(env!("CARGO_MANIFEST_DIR")), &Default::default())?;
        let generation = Arc::new(Generation::build(config, &plugins::host(), None)?);
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let flusher = Arc::new(Flusher::new(1));
            let surroundings = Surroundings { boot: BOOT, ..Surroundings::alone() };
            let (tasks, stop) = (surroundings.tasks.clone(), surroundings.stop.clone());
            let router =
                Router::new(Arc::new(Hub::new()), Arc::clone(&flusher), Metrics::new(), generation, surroundings);
            tasks.spawn(flusher.run(0, stop));
            work(&Self { router: Arc::new(router) }).await
        })
    }

    /// The session of a client whose socket is this, and who has said this right
    /// behind the handshake.
    pub(super) fn session(&self, socket: Socket, said: &str) -> impl Future<Output = ()> + use<> {
        let said = wire::client_frame(said.as_bytes()).into();
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let stop = CancellationToken::new();
        session::run(socket, Encoding::CentrifugeJson, address, said, Arc::clone(&self.router), stop)
    }

    /// New clients, in this room and with nothing to read.
    pub(super) async fn clients(&self, number: usize, room: &str) -> Result<Vec<Client>> {
        let mut clients = Vec::new();
        for _ in 0..number {
            let (server, client) = Client::pair()?;
            let subscribe = format!(r#"{{"id":2,"subscribe":{{"channel":"{room}"}}}}"#);
            let said = format!("{{\"id\":1,\"connect\":{{}}}}\n{subscribe}");
            self.router.tasks.spawn(self.session(register(server).await?, &said));
            clients.push(client);
        }
        let is_ready = || self.router.hub.count(room).0 == number;
        for client in &mut clients {
            // The answer to the hello and that to the subscribe.
            until(|| Ok(is_ready() && client.last_reply()?.contains(r#""id":2"#))).await?;
        }
        rest(Instant::now());
        Ok(clients)
    }

    /// Somebody in this room.
    pub(super) fn member(&self, room: &str) -> Result<Arc<Connection>> {
        self.router.hub.connections_in(room).pop().context("there is nobody in the room")
    }

    /// Writes what waits. The flusher leaves that to its task when it has been at
    /// it most of the time; so it rests as long, and each time is alike.
    pub(super) fn write(batch: Batch<'_>) {
        let began = Instant::now();
        drop(batch);
        rest(began);
    }
}

/// Sleeps for as long as something has taken, and a little.
fn rest(since: Instant) {
    thread::sleep(since.elapsed() + Duration::from_micros(10));
}

/// Polls a session once, which must not end, and lets the flusher rest.
pub(super) async fn poll_once(session: &mut Pin<&mut impl Future<Output = ()>>) -> Result<()> {
    let began = Instant::now();
    let has_ended = poll_fn(|context| Poll::Ready(session.as_mut().poll(context).is_ready())).await;
    ensure!(!has_ended, "a session has ended");
    rest(began);
    Ok(())
}

async fn until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..TURNS {
        if is_so()? {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
    bail!("clients were not answered")
}

/// Gives a socket to the runtime, and waits until that knows it as writable, as
/// one is after its upgrade.
pub(super) async fn register(socket: TcpStream) -> Result<Socket> {
    let socket = tokio::net::TcpStream::from_std(socket)?;
    socket.writable().await?;
    Ok(socket.into())
}

/// The other end of a session's socket.
pub(super) struct Client {
    socket: TcpStream,
    buffer: Box<[u8]>,
    /// Bytes in all.
    pub(super) heard: usize,
}

impl Client {
    /// Both ends of a connection; neither waits.
    pub(super) fn pair() -> Result<(TcpStream, Self)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let socket = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        for socket in [&socket, &server] {
            socket.set_nonblocking(true)?;
        }
        server.set_nodelay(true)?;
        Ok((server, Self { socket, buffer: vec![0; 64 << 10].into(), heard: 0 }))
    }

    /// Reads what is there.
    pub(super) fn read(&mut self) -> Result<&[u8]> {
        let n = match self.socket.read(&mut self.buffer) {
            Ok(0) => bail!("the gateway has closed a client's connection"),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        self.heard += n;
        Ok(&self.buffer[..n])
    }

    /// Says something, which the session can read from here on.
    pub(super) async fn say(&mut self, frame: &[u8]) -> Result<()> {
        self.socket.write_all(frame)?;
        // The runtime asks the kernel for what has happened.
        tokio::task::yield_now().await;
        Ok(())
    }

    fn last_reply(&mut self) -> Result<String> {
        Ok(String::from_utf8_lossy(self.read()?).into_owned())
    }
}
