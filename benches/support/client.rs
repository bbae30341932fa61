//! The load client: many sockets on one thread.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::tally::Tally;
use super::wire;

/// Handshakes under way at once.
const IN_FLIGHT: usize = 64;
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    /// Where every socket of the thread is read into: a buffer for each would
    /// cost the client more than it costs the servers to fill it.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

/// Opens `count` connections, through their upgrade.
pub(crate) async fn open_all(addr: SocketAddr, path: &str, count: usize) -> Result<Vec<TcpStream>> {
    let request: Rc<str> = wire::upgrade_request(path).into();
    let open = |_| {
        let request = Rc::clone(&request);
        async move {
            let (stream, said) = open(addr, &request).await?;
            ensure!(said.is_empty(), "the server spoke before it was spoken to");
            Ok(stream)
        }
    };
    stream::iter(0..count).map(open).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// One connection, and what the server has said on it already.
pub(crate) async fn open(addr: SocketAddr, request: &str) -> Result<(TcpStream, Vec<u8>)> {
    let handshake = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        // Thousands of closed sockets would else wait out their minute.
        stream.set_zero_linger()?;
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            if let Some(end) = wire::end_of_head(&head) {
                break end;
            }
            ensure!(stream.read_buf(&mut head).await? > 0, "closed during the handshake");
        };
        let status = head.starts_with(b"HTTP/1.1 101 ");
        ensure!(status, "refused: {}", String::from_utf8_lossy(&head));
        Ok((stream, head.split_off(end)))
    };
    timeout(PATIENCE, handshake).await.context("no answer to the handshake")?
}

/// Reads what is there and gives it to `each`; `None` at the end.
pub(crate) async fn take<T>(
    stream: &mut (impl AsyncRead + Unpin),
    mut each: impl FnMut(&[u8]) -> T,
) -> io::Result<Option<T>> {
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer))?;
            let filled = buffer.filled();
            Poll::Ready(Ok((!filled.is_empty()).then(|| each(filled))))
        })
    })
    .await
}

/// Counts the messages of a stand-in, frames of equal length, to the end.
pub(crate) async fn count_frames(mut stream: TcpStream, frame: usize, tally: Rc<Tally>) {
    let mut bytes = 0;
    loop {
        match take(&mut stream, <[u8]>::len).await {
            Ok(Some(length)) => {
                tally.delivered(bytes / frame..(bytes + length) / frame);
                bytes += length;
            }
            Ok(None) => return tally.fail("a connection was closed"),
            Err(error) => return tally.fail(&format!("a connection broke: {error}")),
        }
    }
}
