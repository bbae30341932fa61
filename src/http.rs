//! Sockets in: the accept loop with its deadlines, and what HTTP answers.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router as Routes,
    body::Body,
    extract::State,
    http::{Request, Response, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

use crate::{reload::Reloader, router::Router, session};

mod api;
mod origin;
mod pages;

/// The head of a request, in bytes. Browsers send far less.
const HEAD_MAX: usize = 16 << 10;

/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// How long a connection may live that is not upgraded. A scrape or a page
/// takes moments, and the page's event stream comes back by itself.
const HTTP_MAX: Duration = Duration::from_secs(60);

/// How long the last answer may take once the instance ends.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// How long the accept loop rests when the process has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What handlers need.
#[derive(Debug, Clone)]
pub struct Web {
    /// For sessions.
    pub router: Arc<Router>,
    /// For the pages.
    pub reloader: Arc<Reloader>,
    /// Every session is in here, so that a drain can wait for it.
    pub tasks: TaskTracker,
    /// Begins the end.
    pub stop: CancellationToken,
}

/// One accepted socket, counted until the last holder lets go.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts until `web.stop`, each connection in a task of its own.
pub async fn serve(listener: TcpListener, header_timeout: Duration, web: Web) {
    let open = Arc::new(AtomicUsize::new(0));
    let routes = routes(web.clone());
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(false);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = web.stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most often no descriptors are left; those that are open go on.
                tracing::error!(%error, "cannot accept; is the limit of open files (ulimit -n) too low?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let guard = Arc::new(Open(Arc::clone(&open)));
        if open.fetch_add(1, Ordering::Relaxed) >= web.router.generation().config.limits.connections {
            web.router.metrics.turned_away.inc();
            continue;
        }
        web.router.metrics.accepted.inc();
        // Frames are joined by us where that helps; the kernel must not wait.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        web.tasks.spawn(serve_connection(&builder, stream, routes.clone(), guard, web.stop.clone()));
    }
}

/// One connection's HTTP; ends when it is upgraded, closed, or too slow. A
/// request that is being answered when its time comes is still answered.
fn serve_connection(
    builder: &http1::Builder,
    stream: TcpStream,
    routes: Routes,
    guard: Arc<Open>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&guard));
        let mut routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    async move {
        tokio::pin!(connection);
        let patience = tokio::select! {
            ended = &mut connection => return log_end(ended),
            () = tokio::time::sleep(HTTP_MAX) => HTTP_MAX,
            () = stop.cancelled() => LAST_ANSWER,
        };
        connection.as_mut().graceful_shutdown();
        if let Ok(ended) = tokio::time::timeout(patience, connection).await {
            log_end(ended);
        }
    }
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

fn routes(web: Web) -> Routes {
    let generation = web.router.generation();
    let mut routes = Routes::new()
        .route("/connection/websocket", get(upgrade))
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .merge(api::routes());
    if generation.config.server.try_page {
        routes = routes.merge(pages::routes());
    }
    routes.with_state(web)
}

/// Whether a load balancer should send clients here.
async fn ready(State(web): State<Web>) -> Response<Body> {
    let trouble = web.router.cluster.as_ref().and_then(|cluster| cluster.trouble());
    match trouble {
        _ if web.stop.is_cancelled() => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {trouble}\n")).into_response(),
        None => "ready\n".into_response(),
    }
}

async fn metrics(State(web): State<Web>) -> Response<Body> {
    if !web.router.generation().config.metrics.enabled {
        return (StatusCode::NOT_FOUND, "metrics are off; see `metrics.enabled` in the config\n").into_response();
    }
    let hub = &web.router.hub;
    let text = web.router.metrics.text(hub.n_connections(), hub.n_users(), hub.n_rooms());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The WebSocket handshake, RFC 6455, section 4.2.
async fn upgrade(State(web): State<Web>, mut request: Request<Body>) -> Response<Body> {
    if !origin::is_allowed(request.headers(), &web.router.generation().config.server.allowed_origins) {
        let text = "this origin may not connect; see `server.allowed_origins` in the config\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    let response = match tungstenite::handshake::server::create_response(&head) {
        Ok(response) => response.map(|()| Body::empty()),
        Err(error) => {
            return (
                StatusCode::UPGRADE_REQUIRED,
                [(header::UPGRADE, "websocket"), (header::SEC_WEBSOCKET_VERSION, "13")],
                format!("this is a WebSocket endpoint: {error}\n"),
            )
                .into_response();
        }
    };
    let on_upgrade: OnUpgrade = hyper::upgrade::on(&mut request);
    let guard = request.extensions_mut().remove::<Arc<Open>>();
    web.tasks.spawn(async move {
        let _open = guard;
        let Ok(upgraded) = on_upgrade.await else { return };
        // We accepted it as this, so it is this.
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        session::run(parts.io.into_inner(), parts.read_buf, web.router, web.stop).await;
    });
    response
}
