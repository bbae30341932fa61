//! The page to try the gateway. Everything is in the binary; nothing is
//! fetched from elsewhere.

use std::convert::Infallible;

use axum::{
    Router as Routes,
    extract::State,
    http::header,
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
