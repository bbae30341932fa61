//! A socket that the library opens a session on and reads, and that others
//! write to.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// The half that is written to. Its direction is shut down with the last of
/// its owners.
#[derive(Debug)]
pub(super) struct Socket(OwnedWriteHalf);

/// What the library gets.
#[derive(Debug)]
pub(super) struct Lent {
    read: OwnedReadHalf,
    write: Arc<Socket>,
}

/// Divides a stream.
pub(super) fn lend(stream: TcpStream) -> (Arc<Socket>, Lent) {
    let (read, write) = stream.into_split();
    let write = Arc::new(Socket(write));
    (Arc::clone(&write), Lent { read, write })
}

impl Socket {
    /// Writes what the kernel takes at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    /// Waits until it may take something.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.0.writable().await
    }
}

impl AsyncRead for Lent {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream: &TcpStream = self.write.0.as_ref();
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Those who write end it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
