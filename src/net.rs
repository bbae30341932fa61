//! A client's socket: TCP, or TLS over it, with one face.
//!
//! Whoever delivers writes from its own thread and waits for nobody, so TLS is
//! driven here by hand: what is encrypted goes to the kernel at once, and what
//! that does not take waits in the session's own buffer, which is bounded. The
//! plain way costs one comparison.

use std::{
    io::{self, Read, Write},
    os::fd::{AsRawFd, BorrowedFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use crate::metrics::TRAFFIC;

/// Plaintext that is encrypted at once, in bytes: so much may wait besides an
/// outbox while the kernel takes no more.
const WRITE_MAX: usize = 64 << 10;

/// What somebody hears who does not speak TLS to a port that does.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\
                         Content-Length: 39\r\n\r\nthis port speaks TLS: https:// or wss\r\n";

/// A client's socket.
#[derive(Debug)]
pub enum Socket {
    /// As it comes.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream>),
}

/// A TCP socket with a TLS session that is past its handshake.
#[derive(Debug)]
pub struct TlsStream {
    tcp: TcpStream,
    /// Held for one read or write, never across an await.
    session: Mutex<ServerConnection>,
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(tcp)
    }
}

/// Opens a socket that was accepted by its handshake, within `patience`. None:
/// there was none.
pub async fn open(tcp: TcpStream, tls: Arc<ServerConfig>, patience: Duration) -> Option<Socket> {
    match timeout(patience, handshake(tcp, tls)).await {
        Ok(Ok(stream)) => return Some(Socket::Tls(Box::new(stream))),
        Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
        Err(_late) => tracing::debug!("no TLS in time"),
    }
    None
}

async fn handshake(mut tcp: TcpStream, tls: Arc<ServerConfig>) -> io::Result<TlsStream> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        tcp.write_all(NOT_TLS).await?;
        tcp.shutdown().await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "that was plain HTTP"));
    }
    let mut session = ServerConnection::new(tls).map_err(io::Error::other)?;
    session.set_buffer_limit(None);
    loop {
        while session.wants_write() {
            match session.write_tls(&mut Kernel(&tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
                Err(error) => return Err(error),
            }
        }
        if !session.is_handshaking() {
            return Ok(TlsStream { tcp, session: Mutex::new(session) });
        }
        tcp.readable().await?;
        match session.read_tls(&mut Kernel(&tcp)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                if let Err(error) = session.process_new_packets() {
                    // The alert that says what was wrong.
                    let _told = session.write_tls(&mut Kernel(&tcp));
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// The kernel's side of a socket, for a library that wants streams.
struct Kernel<'a>(&'a TcpStream);

impl Read for Kernel<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads, and takes a short read for the end of what is there: the runtime then
/// waits for more without another question to the kernel.
fn read(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut short = None;
    let read = tcp.try_io(Interest::READABLE, || match (&*SockRef::from(tcp)).read(buffer) {
        Ok(n) if 0 < n && n < buffer.len() => {
            short = Some(n);
            Err(io::ErrorKind::WouldBlock.into())
        }
        read => read,
    });
    short.map_or(read, Ok)
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.tcp,
        }
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is; else the socket has failed.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::Plain(tcp) => read(tcp, buffer),
            Self::Tls(tls) => tls.try_read(buffer),
        }?;
        TRAFFIC.received(read);
        Ok(read)
    }

    /// Ready when [`try_read`](Self::try_read) has something to say.
    ///
    /// # Errors
    /// If the socket has failed.
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Tls(tls) = self
            && tls.has_plaintext()
        {
            return Poll::Ready(Ok(()));
        }
        self.tcp().poll_read_ready(context)
    }

    /// Ready when the kernel takes more.
    ///
    /// # Errors
    /// If the socket has failed.
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp().poll_write_ready(context)
    }

    /// Waits until there is something to read.
    ///
    /// # Errors
    /// If the socket has failed.
    pub async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_read_ready(context)).await
    }

    /// Waits until the kernel takes more.
    ///
    /// # Errors
    /// If the socket has failed.
    pub async fn writable(&self) -> io::Result<()> {
        self.tcp().writable().await
    }
}

/// What writes to a socket, with all at hand that a plain write needs. The
/// socket itself, and what the runtime knows of it, lie in memory that is cold
/// by then, and nearly always say that it takes more.
#[derive(Debug)]
pub struct Writer {
    socket: Arc<Socket>,
    /// Of a plain one.
    plain: Option<BorrowedFd<'static>>,
}

impl Writer {
    /// Keeps `socket` open as long as it lives.
    #[must_use]
    #[expect(unsafe_code, reason = "a number that is kept beside what it belongs to")]
    pub fn new(socket: Arc<Socket>) -> Self {
        let plain = match &*socket {
            // SAFETY: it is open as long as `socket`, which lies beside it and is never replaced.
            Socket::Plain(tcp) => Some(unsafe { BorrowedFd::borrow_raw(tcp.as_raw_fd()) }),
            Socket::Tls(_) => None,
        };
        Self { socket, plain }
    }

    /// Takes some of these bytes. Over TLS they may wait here still when this
    /// returns: [`has_rest`](Self::has_rest).
    ///
    /// # Errors
    /// `WouldBlock` if the kernel takes no more; else the socket has failed.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match (&self.plain, &*self.socket) {
            (Some(plain), socket) => match SockRef::from(plain).send(bytes) {
                // The runtime learns of it, and tells when it takes more again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.tcp().try_write(bytes),
                written => written,
            },
            (None, Socket::Plain(tcp)) => tcp.try_write(bytes),
            (None, Socket::Tls(tls)) => tls.try_write(bytes),
        }?;
        TRAFFIC.sent(written);
        Ok(written)
    }

    /// True if bytes that were taken wait for the kernel.
    #[must_use]
    pub fn has_rest(&self) -> bool {
        self.tls().is_some_and(|tls| tls.session.lock().wants_write())
    }

    /// Gives the kernel what waits here.
    ///
    /// # Errors
    /// `WouldBlock` if something is left; else the socket has failed.
    pub fn try_flush(&self) -> io::Result<()> {
        self.tls().map_or(Ok(()), |tls| tls.write_out(&mut tls.session.lock()))
    }

    fn tls(&self) -> Option<&TlsStream> {
        match (&self.plain, &*self.socket) {
            (None, Socket::Tls(tls)) => Some(tls),
            _ => None,
        }
    }
}

impl TlsStream {
    fn has_plaintext(&self) -> bool {
        let mut session = self.session.lock();
        // It keeps no count of what was decrypted; looking changes nothing.
        session.process_new_packets().is_ok_and(|state| state.plaintext_bytes_to_read() > 0 || state.peer_has_closed())
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut session = self.session.lock();
        loop {
            match session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A client that is gone without a goodbye is gone all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            if session.read_tls(&mut Kernel(&self.tcp))? == 0 {
                return Ok(0);
            }
            let processed = session.process_new_packets();
            // Answers to what is no data: alerts, updates of keys. What the
            // kernel does not take goes out with the next write.
            match self.write_out(&mut session) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut session = self.session.lock();
        self.write_out(&mut session)?;
        let taken = session.writer().write(&bytes[..bytes.len().min(WRITE_MAX)])?;
        match self.write_out(&mut session) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn write_out(&self, session: &mut ServerConnection) -> io::Result<()> {
        while session.wants_write() {
            session.write_tls(&mut Kernel(&self.tcp))?;
        }
        Ok(())
    }

    fn say_goodbye(&self) -> io::Result<()> {
        let mut session = self.session.lock();
        session.send_close_notify();
        self.write_out(&mut session)
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        // As far as the kernel takes it; nobody waits any more.
        let _said = self.say_goodbye();
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => loop {
                match tls.try_read(buffer.initialize_unfilled()) {
                    Ok(read) => {
                        buffer.advance(read);
                        return Poll::Ready(Ok(()));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(tls.tcp.poll_read_ready(context))?;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            },
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => until_writable(tls, context, |tls| tls.try_write(bytes)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => until_writable(tls, context, |tls| tls.write_out(&mut tls.session.lock())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => {
                ready!(until_writable(tls, context, TlsStream::say_goodbye))?;
                Pin::new(&mut tls.tcp).poll_shutdown(context)
            }
        }
    }
}

fn until_writable<T>(
    tls: &TlsStream,
    context: &mut Context<'_>,
    mut write: impl FnMut(&TlsStream) -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        match write(tls) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(tls.tcp.poll_write_ready(context))?,
            other => return Poll::Ready(other),
        }
    }
}
