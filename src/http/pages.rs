//! The page to try the gateway, and the one for those who run it. Everything
//! is in the binary; nothing is fetched from elsewhere.

use std::convert::Infallible;

use axum::{
    Router as Routes,
    body::Body,
    extract::State,
    http::{Response, StatusCode, header},
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
    routing::get,
};
use futures_util::StreamExt;
use tokio_stream::wrappers::WatchStream;

use super::Web;

/// Scripts and styles of our own only; a name that a user chose cannot become
/// one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws: wss:; \
                      img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same for the admin page, which speaks with its own server alone.
const ADMIN_POLICY: &str = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; \
                            frame-ancestors 'none'";

macro_rules! file {
    ($name:literal, $kind:literal) => {
        get(|| async {
            let headers = [
                (header::CONTENT_TYPE, $kind),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, include_bytes!(concat!("try/", $name)).as_slice()).into_response()
        })
    };
}

pub(super) fn routes() -> Routes<Web> {
    Routes::new()
        .route("/", file!("index.html", "text/html; charset=utf-8"))
        .route("/try/app.js", file!("app.js", "text/javascript; charset=utf-8"))
        .route("/try/app.css", file!("app.css", "text/css; charset=utf-8"))
        .route("/try/events", get(events))
}

/// What is live, now and after each reload: server-sent events, each the JSON
/// of a [`Status`](crate::reload::Status).
async fn events(State(web): State<Web>) -> impl IntoResponse {
    let stop = web.stop.clone();
    let statuses = WatchStream::new(web.reloader.status())
        .map(|status| Ok::<_, Infallible>(Event::default().json_data(&status).unwrap_or_default()))
        .take_until(async move { stop.cancelled().await });
    Sse::new(statuses).keep_alive(KeepAlive::default())
}

/// A file of the admin page, where the config wants one.
macro_rules! admin_file {
    ($name:literal, $kind:literal) => {
        get(async |State(web): State<Web>| admin_file(&web, $kind, include_bytes!(concat!("admin/", $name))))
    };
}

/// The admin page holds nothing but itself: what it shows, it asks of the
/// server API, with the key that somebody types in.
pub(super) fn admin_routes() -> Routes<Web> {
    Routes::new()
        .route("/admin", admin_file!("index.html", "text/html; charset=utf-8"))
        .route("/admin/admin.js", admin_file!("admin.js", "text/javascript; charset=utf-8"))
        .route("/admin/admin.css", admin_file!("admin.css", "text/css; charset=utf-8"))
        .route("/admin/icon.svg", admin_file!("icon.svg", "image/svg+xml"))
}

fn admin_file(web: &Web, kind: &'static str, file: &'static [u8]) -> Response<Body> {
    if !web.router.generation().config.admin.enabled {
        let text = "the admin page is off; see `admin.enabled` in the config\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, ADMIN_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, file).into_response()
}
