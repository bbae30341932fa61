//! A WebSocket server that sends back what it gets, with the gateway's own
//! reader and outbox. `make test-autobahn` runs a suite against it.
//!
//! ```sh
//! cargo run --example echo -- 127.0.0.1:9001
//! ```

#![expect(clippy::disallowed_methods, reason = "nothing is drained here: a signal ends the process")]

use std::{convert::Infallible, net::SocketAddr, process::ExitCode};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use wayleave::session::echo;

/// Bytes of the largest message; the suite's is 16 MiB.
const MESSAGE_SIZE: usize = 32 << 20;

#[tokio::main]
async fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1).and_then(|word| word.parse::<SocketAddr>().ok()) else {
        eprintln!("usage: echo ADDRESS   (such as 127.0.0.1:9001; port 0 for a free one)");
        return ExitCode::from(2);
    };
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("cannot listen on {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match listener.local_addr() {
        Ok(address) => println!("listening on {address}"),
        Err(error) => eprintln!("{error}"),
    }
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            Err(error) => eprintln!("cannot accept: {error}"),
        }
    }
}

async fn serve(stream: TcpStream) {
    let _without_delay = stream.set_nodelay(true);
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(upgrade)).with_upgrades();
    if let Err(error) = served.await {
        eprintln!("{error}");
    }
}

async fn upgrade(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    let Ok(response) = tungstenite::handshake::server::create_response(&head) else {
        let mut refused = Response::new(Empty::new());
        *refused.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return Ok(refused);
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        if let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() {
            echo::run(parts.io.into_inner(), parts.read_buf, MESSAGE_SIZE).await;
        }
    });
    Ok(response.map(|()| Empty::new()))
}
