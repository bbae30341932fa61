//! A load balancer to try several gateways on one machine: each TCP connection
//! goes to the next address in turn, whoever it comes from.
//!
//! An address that does not answer is passed over, so that nobody misses a
//! gateway that was killed. It checks no health and knows no TLS; `deploy/` has
//! what production needs.
//!
//! ```sh
//! cargo run --example balance -- --listen 127.0.0.1:8000 127.0.0.1:8001 127.0.0.1:8002
//! ```

#![expect(clippy::disallowed_methods, reason = "nothing is drained here: a signal ends the process and all it carries")]

use std::{io, net::SocketAddr, process::ExitCode, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

/// How long an address has to answer before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to rest when nothing can be accepted, most often for want of
/// descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> ExitCode {
    let Some((listen, mut addresses)) = arguments() else {
        eprintln!("usage: balance --listen ADDRESS ADDRESS...   (such as 127.0.0.1:8000)");
        return ExitCode::from(2);
    };
    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen on {listen}: {error}");
            return ExitCode::FAILURE;
        }
    };
    loop {
        let client = accept(&listener).await;
        let order = addresses.clone();
        addresses.rotate_left(1);
        tokio::spawn(async move {
            if let Err(error) = carry(client, &order).await {
                eprintln!("{error}");
            }
        });
    }
}

/// Where to listen, and where connections go; None if that is not what stands
/// there.
fn arguments() -> Option<(SocketAddr, Vec<SocketAddr>)> {
    let mut words = std::env::args().skip(1);
    let listen = words.next().filter(|word| word == "--listen").and_then(|_| words.next()?.parse().ok())?;
    let addresses: Vec<SocketAddr> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    (!addresses.is_empty()).then_some((listen, addresses))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            Err(error) => eprintln!("cannot accept: {error}"),
        }
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Connects to the first address that answers, and copies both ways until both
/// ends are done.
async fn carry(mut client: TcpStream, addresses: &[SocketAddr]) -> io::Result<()> {
    for address in addresses {
        let Ok(Ok(mut gateway)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await else { continue };
        client.set_nodelay(true)?;
        gateway.set_nodelay(true)?;
        // One that breaks off is everyday life here; both sides see their end.
        let _ended = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
        return Ok(());
    }
    Err(io::Error::other("no gateway answers"))
}
