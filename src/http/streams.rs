//! For clients that cannot have a WebSocket: they hear the body of one long
//! response, as lines (`/connection/http_stream`) or as events
//! (`/connection/sse`), and what they say comes in requests of its own
//! (`/emulation`), to whichever instance.

use axum::{
    Router as Routes,
    body::{Body, to_bytes},
    extract::{Query, State},
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts},
    response::IntoResponse,
    routing::{get, post},
};
use bytes::Bytes;
use serde::Deserialize;
use std::sync::Arc;

use super::{Open, Web, address_of, admit, origin};
use crate::{
    metrics::TRAFFIC,
    protocol::{Encoding, Incoming, Said},
    router::PassedIn,
    session,
};

/// What a message may be longer as a text in a text than by itself: each byte
/// of it may be escaped.
const ESCAPED: usize = 6;

/// What stands around it.
const AROUND: usize = 1 << 10;

/// For how long, in seconds, a browser need not ask again whether it may.
const ASK_AGAIN: &str = "3600";

pub(super) fn routes() -> Routes<Web> {
    Routes::new()
        .route("/connection/http_stream", post(lines).options(may))
        .route("/connection/sse", get(events))
        .route("/emulation", post(said).options(may))
}

/// A page of another origin asks whether it may send what it wants to.
async fn may(State(web): State<Web>, headers: HeaderMap) -> Response<Body> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let answer = response.headers_mut();
    answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(ASK_AGAIN));
    for_origin(&web, &headers, response)
}

/// Lets the page read the answer, if it may be here.
fn for_origin(web: &Web, headers: &HeaderMap, mut response: Response<Body>) -> Response<Body> {
    let Some(page) = headers.get(header::ORIGIN) else { return response };
    if !origin::is_allowed(headers, &web.router.generation().config.server.allowed_origins) {
        let text = "this origin may not connect; see `server.allowed_origins` in the config\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let answer = response.headers_mut();
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page.clone());
    answer.insert(header::VARY, HeaderValue::from_static("origin"));
    response
}

fn is_protobuf(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/octet-stream"))
}

fn message_size(web: &Web) -> usize {
    web.router.generation().config.limits.message_size
}

/// Why a request is not taken.
type Refused = (StatusCode, &'static str);

/// A body of at most `max` bytes. It is counted like a frame.
async fn whole(body: Body, max: usize) -> Result<Bytes, Refused> {
    let text = "larger than `limits.message_size`, or it broke off\n";
    let bytes = to_bytes(body, max).await.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, text))?;
    TRAFFIC.received(bytes.len());
    Ok(bytes)
}

fn text(bytes: Bytes) -> Result<Incoming, Refused> {
    let bytes = bytes.try_into().map_err(|_| (StatusCode::BAD_REQUEST, "not UTF-8\n"))?;
    Ok(Incoming::Text(bytes))
}

/// The first commands are the request's body; all answers are the response's.
async fn lines(State(web): State<Web>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let opened = async {
        let bytes = whole(body, message_size(&web)).await?;
        Ok(if is_protobuf(&head.headers) {
            let kind = "application/octet-stream";
            stream(&web, Encoding::CentrifugeProtobufStream, kind, Incoming::Binary(bytes), &head)
        } else {
            stream(&web, Encoding::CentrifugeJsonStream, "application/json", text(bytes)?, &head)
        })
    };
    let response = opened.await.unwrap_or_else(|refused: Refused| refused.into_response());
    for_origin(&web, &head.headers, response)
}

#[derive(Deserialize)]
struct Connect {
    /// The first commands, as lines of JSON.
    cf_connect: String,
}

async fn events(
    State(web): State<Web>,
    Query(Connect { cf_connect }): Query<Connect>,
    request: Request<Body>,
) -> Response<Body> {
    let (head, _) = request.into_parts();
    // Browsers name no origin where a page of elsewhere only shows an image, say.
    let site = head.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if !head.headers.contains_key(header::ORIGIN) && site.is_some_and(|site| site != b"same-origin" && site != b"none")
    {
        return StatusCode::FORBIDDEN.into_response();
    }
    let response = match cf_connect.len() > message_size(&web) {
        true => (StatusCode::PAYLOAD_TOO_LARGE, "larger than `limits.message_size`\n").into_response(),
        false => {
            // It has no body; this is what would be in one.
            TRAFFIC.received(cf_connect.len());
            let first = Incoming::Text(cf_connect.into());
            stream(&web, Encoding::CentrifugeEvents, "text/event-stream", first, &head)
        }
    };
    for_origin(&web, &head.headers, response)
}

/// Begins a session whose stream is the response.
fn stream(web: &Web, encoding: Encoding, kind: &'static str, first: Incoming, head: &Parts) -> Response<Body> {
    // A page that may not be here must not leave anything behind either.
    if !origin::is_allowed(&head.headers, &web.router.generation().config.server.allowed_origins) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let (admitted, address) = match admit(web, &head.headers, &head.extensions) {
        Ok(admitted) => admitted,
        Err(full) => return full.into_response(),
    };
    let (body, session) = session::stream(encoding, address, first, Arc::clone(&web.router), web.stop.clone());
    let open = head.extensions.get::<Arc<Open>>().cloned();
    if let Some(open) = &open {
        open.may_stay(true);
    }
    web.tasks.spawn(async move {
        session.await;
        drop(admitted);
        if let Some(open) = open {
            open.may_stay(false);
        }
    });
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        // A proxy that collects answers would hold everything back.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::new(body)).into_response()
}

/// What a client says whose stream is elsewhere.
async fn said(State(web): State<Web>, request: Request<Body>) -> Response<Body> {
    let (Parts { headers, extensions, .. }, body) = request.into_parts();
    if !origin::is_allowed(&headers, &web.router.generation().config.server.allowed_origins) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let passed = async {
        if !web.admission.may_say(address_of(&web, &headers, &extensions)) {
            return Err((StatusCode::TOO_MANY_REQUESTS, "more than is heard out\n"));
        }
        let is_protobuf = is_protobuf(&headers);
        let max = message_size(&web);
        let bytes = whole(body, if is_protobuf { max } else { max * ESCAPED } + AROUND).await?;
        let said = if is_protobuf { Said::from_protobuf(bytes) } else { Said::from_json(&bytes) };
        let Said { node, session, message } =
            said.map_err(|_| (StatusCode::BAD_REQUEST, "expected `node`, `session` and `data`\n"))?;
        if message.len() > max {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "larger than `limits.message_size`\n"));
        }
        Ok(match web.router.pass_in(&node, &session, message).await {
            PassedIn::Yes => StatusCode::NO_CONTENT.into_response(),
            PassedIn::NoInstance => (StatusCode::NOT_FOUND, "there is no such instance\n").into_response(),
            PassedIn::TooMuch => (StatusCode::TOO_MANY_REQUESTS, "more than is heard out\n").into_response(),
            PassedIn::Unanswered => {
                let text = "it is not known whether this was heard: the instance that has the stream does not answer\n";
                (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
            }
        })
    };
    let response = passed.await.unwrap_or_else(|refused: Refused| refused.into_response());
    for_origin(&web, &headers, response)
}
