//! Sockets in: the accept loop with its deadlines, and what HTTP answers.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router as Routes,
    body::Body,
    extract::State,
    http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;

use crate::{
    net::{self, Socket},
    protocol::Encoding,
    reload::Reloader,
    router::Router,
    session,
};

mod admission;
mod api;
mod origin;
mod pages;
mod streams;

pub(crate) use self::api::{About, METHODS, Method};
pub use self::{admission::Admission, api::Guesses};

use self::admission::{Admitted, Full, client_address};

/// The head of a request, in bytes. Browsers send far less.
const HEAD_MAX: usize = 16 << 10;

/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// How long a connection may live that is not upgraded. A scrape or a page
/// takes moments, and the page's event stream comes back by itself.
const HTTP_MAX: Duration = Duration::from_secs(60);

/// How long the last answer may take once the instance ends.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// Sockets beyond those of clients, for what is no client and for those
/// who are told that it is full.
const SPARE: usize = 256;

/// How often it is looked whether an answer still goes on, at the end.
const STAYS_LOOK: Duration = Duration::from_millis(50);

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
    /// Who may come in.
    pub admission: Arc<Admission>,
    /// Addresses that try keys of the server API.
    pub guesses: Arc<Guesses>,
}

/// Who is at the other end, beside each request.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// One accepted socket, counted until the last holder lets go.
#[derive(Debug)]
struct Open {
    all: Arc<AtomicUsize>,
    /// Answers that go on over it.
    stays: AtomicUsize,
}

impl Open {
    /// An answer begins that goes on over it, or it has ended.
    fn may_stay(&self, stays: bool) {
        if stays {
            self.stays.fetch_add(1, Ordering::Relaxed);
        } else {
            self.stays.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn stays(&self) -> bool {
        self.stays.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits as long as a connection may live that is not upgraded, and while an
/// answer goes on over it.
async fn too_long(open: Weak<Open>) {
    tokio::time::sleep(HTTP_MAX).await;
    while open.upgrade().is_some_and(|open| open.stays()) {
        tokio::time::sleep(HTTP_MAX / 12).await;
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
        let (stream, peer) = match accepted {
            Ok((stream, peer)) => (stream, Peer(peer)),
            Err(error) => {
                // Most often no descriptors are left; those that are open go on.
                tracing::error!(%error, "cannot accept; is the limit of open files (ulimit -n) too low?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let guard = Arc::new(Open { all: Arc::clone(&open), stays: AtomicUsize::new(0) });
        // Clients are told why they are not let in, and operators still see.
        // One that has no socket of its own has two: it hears by one and speaks by
        // another.
        let max = 2 * web.router.generation().config.limits.connections + SPARE;
        if open.fetch_add(1, Ordering::Relaxed) >= max {
            web.router.metrics.turn_away("connections");
            continue;
        }
        web.router.metrics.accepted.inc();
        // Frames are joined by us where that helps; the kernel must not wait.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let tls = web.router.generation().config.tls.as_ref().map(|tls| Arc::clone(tls.server()));
        let (routes, stop) = (routes.clone(), web.stop.clone());
        let Some(tls) = tls else {
            web.tasks.spawn(serve_connection(&builder, (stream.into(), peer), routes, guard, stop));
            continue;
        };
        let builder = builder.clone();
        web.tasks.spawn(async move {
            // Boxed, since its state is large and soon over.
            let opened = tokio::select! {
                opened = Box::pin(net::open(stream, tls, header_timeout)) => opened,
                () = stop.cancelled() => None,
            };
            if let Some(socket) = opened {
                serve_connection(&builder, (socket, peer), routes, guard, stop).await;
            }
        });
    }
}

/// One connection's HTTP; ends when it is upgraded, closed, or too slow. A
/// request that is being answered when its time comes is still answered.
fn serve_connection(
    builder: &http1::Builder,
    (socket, peer): (Socket, Peer),
    routes: Routes,
    guard: Arc<Open>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let opened = Arc::downgrade(&guard);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&guard));
        request.extensions_mut().insert(peer);
        let mut routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = builder.serve_connection(TokioIo::new(socket), service).with_upgrades();
    async move {
        tokio::pin!(connection);
        tokio::select! {
            ended = &mut connection => return log_end(ended),
            () = too_long(opened.clone()) => {}
            () = stop.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        let patience = async {
            tokio::select! {
                () = tokio::time::sleep(HTTP_MAX) => {}
                () = stop.cancelled() => {}
            }
            // What goes on over it ends with its session or by itself; what that
            // leaves behind need not be read.
            while opened.upgrade().is_some_and(|open| open.stays()) {
                tokio::time::sleep(STAYS_LOOK).await;
            }
            tokio::time::sleep(LAST_ANSWER).await;
        };
        tokio::select! {
            ended = connection => log_end(ended),
            () = patience => {}
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
        .merge(streams::routes())
        .merge(api::routes())
        .merge(pages::admin_routes());
    if generation.config.server.try_page {
        routes = routes.merge(pages::routes());
    }
    routes.with_state(web)
}

/// Whether a load balancer should send clients here.
async fn ready(State(web): State<Web>) -> Response<Body> {
    let limits = &web.router.generation().config.limits;
    let full = web.admission.trouble(limits).map(str::to_owned);
    let trouble = web.router.cluster.as_ref().and_then(|cluster| cluster.trouble()).or(full);
    match trouble {
        _ if web.router.is_retired() => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {trouble}\n")).into_response(),
        None => "ready\n".into_response(),
    }
}

async fn metrics(State(web): State<Web>) -> Response<Body> {
    if !web.router.generation().config.metrics.enabled {
        return (StatusCode::NOT_FOUND, "metrics are off; see `metrics.enabled` in the config\n").into_response();
    }
    let hub = &web.router.hub;
    web.router.metrics.memberships.set(i64::try_from(hub.n_memberships()).unwrap_or(i64::MAX));
    let n_tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    web.router.metrics.tasks.set(i64::try_from(n_tasks).unwrap_or(i64::MAX));
    if let Some(age) = web.router.cluster.as_ref().and_then(|cluster| cluster.beat_age()) {
        web.router.metrics.cluster.beat_age.set(age.as_secs_f64());
    }
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
    let (encoding, subprotocol) = chosen(request.uri().query().unwrap_or_default(), request.headers());
    let mut response = match tungstenite::handshake::server::create_response(&head) {
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
    let (admitted, address) = match admit(&web, request.headers(), request.extensions()) {
        Ok(admitted) => admitted,
        Err(full) => return full.into_response(),
    };
    if let Some(subprotocol) = subprotocol {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
    }
    let on_upgrade: OnUpgrade = hyper::upgrade::on(&mut request);
    let guard = request.extensions_mut().remove::<Arc<Open>>();
    web.tasks.spawn(async move {
        let _open = (guard, admitted);
        let Ok(upgraded) = on_upgrade.await else { return };
        // We accepted it as this, so it is this.
        let Ok(parts) = upgraded.downcast::<TokioIo<Socket>>() else { return };
        session::run(parts.io.into_inner(), encoding, address, parts.read_buf, web.router, web.stop).await;
    });
    response
}

/// From where a request comes.
fn address_of(web: &Web, headers: &HeaderMap, of: &Extensions) -> IpAddr {
    let Peer(peer) = *of.get().expect("each request is given who has connected");
    client_address(peer.ip(), headers, &web.router.generation().config.server.trusted_proxies)
}

/// Lets a client in, or says why not; and from where it comes.
fn admit(web: &Web, headers: &HeaderMap, of: &Extensions) -> Result<(Admitted, IpAddr), Full> {
    let address = address_of(web, headers, of);
    let admitted = web.admission.admit(&web.router.generation().config.limits, address);
    if let Err(full) = &admitted {
        web.router.metrics.turn_away(full.limit());
    }
    Ok((admitted?, address))
}

/// The encoding that a client wants, and what is said about that: the first
/// subprotocol that it offers and we speak, else what the address says.
fn chosen(query: &str, headers: &HeaderMap) -> (Encoding, Option<&'static str>) {
    const JSON: &str = "centrifuge-json";
    const PROTOBUF: &str = "centrifuge-protobuf";
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut offers = offers.filter_map(|offer| offer.to_str().ok()).flat_map(|offer| offer.split(',').map(str::trim));
    match offers.find(|offer| [JSON, PROTOBUF].contains(offer)) {
        Some(PROTOBUF) => (Encoding::CentrifugeProtobuf, Some(PROTOBUF)),
        Some(_) => (Encoding::CentrifugeJson, Some(JSON)),
        None if query.split('&').any(|part| matches!(part, "format=protobuf" | "cf_protocol=protobuf")) => {
            (Encoding::CentrifugeProtobuf, None)
        }
        None => (Encoding::CentrifugeJson, None),
    }
}
