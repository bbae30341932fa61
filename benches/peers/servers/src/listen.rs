//! The listener, which is the same for all.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context as _, Result};
use axum::serve::{Listener, ListenerExt as _};
use socket2::{Domain, Socket, Type};

/// Connections that wait to be accepted. A bench opens thousands at once, and what
/// is over this waits a second for its next try.
const BACKLOG: i32 = 4096;

pub(crate) fn on(port: u16) -> Result<TcpListener> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // A port that was in use a moment ago may be taken again.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into()).with_context(|| format!("listening on {addr}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// For the servers on axum, whose connections are to have what all have.
pub(crate) fn for_axum(listener: TcpListener) -> Result<impl Listener<Addr = SocketAddr>> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(listener.tap_io(|stream| {
        // A connection that is gone already shows when it is read.
        let _ = stream.set_nodelay(true);
    }))
}
