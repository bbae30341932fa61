//! The one method whose answer goes on: what passes, a JSON object a line.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{Request, Response, StatusCode, header},
    response::IntoResponse,
};
use serde_json::json;

use super::{Caller, Method, Reply, audit, json, keys, text, wire::bad};
use crate::{
    http::{Open, Web},
    protocol::Refusal,
    router::Watched,
};

/// How often there is a line, whatever happens: a reader that has gone is
/// noticed by it.
const ALIVE: Duration = Duration::from_secs(10);

/// The socket may stay as long as this lives.
struct Staying(Option<Arc<Open>>);

impl Drop for Staying {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.may_stay(false);
        }
    }
}

pub(super) async fn serve(web: &Web, caller: &Caller, method: &Method, request: Request<Body>) -> Response<Body> {
    let answer = begin(web, caller, method, request).await;
    let (about, code) = match &answer {
        Ok((about, _)) => (about.clone(), 0),
        Err(refusal) => (String::new(), refusal.code),
    };
    web.router.metrics.api_called(method.name, code);
    audit(caller, method, &about, code);
    match answer {
        Ok((_, response)) => response,
        Err(refusal) => json(StatusCode::OK, text(&Reply::Error((&refusal).into()))),
    }
}

async fn begin(
    web: &Web,
    caller: &Caller,
    method: &Method,
    request: Request<Body>,
) -> Result<(String, Response<Body>), Refusal> {
    // A body cannot be looked at from two threads, and nobody reads it.
    let (request, _) = request.into_parts();
    let watched = watched(request.uri.query().unwrap_or_default())?;
    let room = if let Watched::Room(room) = &watched { room } else { "" };
    keys::check(&caller.key, method, json!({ "channel": room }).to_string().as_bytes())?;
    let about = match &watched {
        Watched::Room(name) => format!("room:{name}"),
        Watched::User(name) => format!("user:{name}"),
        Watched::Everything => "everything".to_owned(),
    };
    let tailing = web.router.tail(watched).await?;
    let open = request.extensions.get::<Arc<Open>>().cloned();
    if let Some(open) = &open {
        open.may_stay(true);
    }
    let first = json!({ "type": "tailing", "about": about, "instance": web.router.instance }).to_string() + "\n";
    let stop = web.stop.clone();
    let state = (tailing, Staying(open), stop, Some(first));
    let lines = futures_util::stream::unfold(state, async |(mut tailing, staying, stop, first)| {
        let text = match first {
            Some(first) => first,
            None => tokio::select! {
                text = tailing.next() => text?,
                () = tokio::time::sleep(ALIVE) => "{\"type\":\"alive\"}\n".to_owned(),
                () = stop.cancelled() => return None,
            },
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), (tailing, staying, stop, None)))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((about, (headers, Body::from_stream(lines)).into_response()))
}

/// What the query of the address asks for.
fn watched(query: &str) -> Result<Watched, Refusal> {
    let mut watched = Watched::Everything;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let value = value.into_owned();
        watched = match (&watched, &*name) {
            (Watched::Everything, "room") if !value.is_empty() => Watched::Room(value),
            (Watched::Everything, "user") if !value.is_empty() => Watched::User(value),
            _ => return Err(bad("expected `?room=NAME`, `?user=NAME`, or nothing for everything")),
        };
    }
    Ok(watched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_one_room_or_one_user() {
        assert_eq!(watched("").unwrap(), Watched::Everything);
        assert_eq!(watched("room=a%20b%26c").unwrap(), Watched::Room("a b&c".to_owned()));
        assert_eq!(watched("user=ada").unwrap(), Watched::User("ada".to_owned()));
        for wrong in ["room=", "room=a&user=b", "channel=x", "room=a&room=b"] {
            assert_eq!(watched(wrong).unwrap_err().code, 107, "{wrong}");
        }
    }
}
