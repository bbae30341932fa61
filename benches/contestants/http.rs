//! The HTTP side as a gateway has it: an own accept loop over hyper's http1
//! connection with a deadline for the head, an axum router behind it.

use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::response::{IntoResponse as _, Response};
use axum::{Router, routing};
use hyper::server::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tungstenite::handshake::derive_accept_key;

/// Accepts for ever; `then` gets each upgraded connection in a task of its own.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    then: impl Fn(Upgraded) -> F + Clone + Send + Sync + 'static,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let upgrade = move |request| async move { upgrade(request, then) };
    let service = TowerToHyperService::new(Router::new().route("/", routing::get(upgrade)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
    builder.max_buf_size(16 * 1024);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(connection.with_upgrades());
    }
}

fn upgrade<F>(mut request: Request, then: impl FnOnce(Upgraded) -> F + Send + 'static) -> Response
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move { then(upgraded.await?).await });
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, "websocket")];
    let accept = [(SEC_WEBSOCKET_ACCEPT, accept)];
    (StatusCode::SWITCHING_PROTOCOLS, headers, accept).into_response()
}
