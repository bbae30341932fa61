//! The one method whose answer goes on: what passes, a JSON object a line.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{Request, Response, StatusCode, header},
    response::IntoResponse,
};
use serde_json::json;

use super::{AUDIT, Caller, Method, Reply, audit, json, keys, text, wire::bad};
use crate::{
    config::ApiKey,
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

pub(super) async fn serve(
    web: &Web,
    caller: &Caller,
    method: &'static Method,
    request: Request<Body>,
) -> Response<Body> {
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
    method: &'static Method,
    request: Request<Body>,
) -> Result<(String, Response<Body>), Refusal> {
    // A body cannot be looked at from two threads, and nobody reads it.
    let (request, _) = request.into_parts();
    let watched = watched(request.uri.query().unwrap_or_default())?;
    check(&caller.key, method, &watched)?;
    let about = match &watched {
        Watched::Room(name) => format!("room:{name}"),
        Watched::User(name) => format!("user:{name}"),
        Watched::Everything => "everything".to_owned(),
    };
    let is_limited = caller.key.rooms.is_some();
    let still = Still { web: web.clone(), digest: caller.key.digest, is_limited, method, watched: watched.clone() };
    let tailing = web.router.tail(watched, is_limited).await?;
    let open = request.extensions.get::<Arc<Open>>().cloned();
    if let Some(open) = &open {
        open.may_stay(true);
    }
    let first = json!({ "type": "tailing", "about": about, "instance": web.router.instance }).to_string() + "\n";
    let state = (tailing, Staying(open), still, Some(first));
    let lines = futures_util::stream::unfold(state, async |(mut tailing, staying, still, first)| {
        let text = match first {
            Some(first) => first,
            None => tokio::select! {
                text = tailing.next() => text?,
                () = tokio::time::sleep(ALIVE) => "{\"type\":\"alive\"}\n".to_owned(),
                () = still.web.stop.cancelled() => return None,
            },
        };
        if !still.may() {
            tracing::info!(target: AUDIT, method = still.method.name, "a tail ends, since its key may not look any more");
            return None;
        }
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), (tailing, staying, still, None)))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((about, (headers, Body::from_stream(lines)).into_response()))
}

/// Who looks, asked again before each line: keys reload while tails are open.
struct Still {
    web: Web,
    digest: [u8; 32],
    /// What it is shown is no more than a key for rooms may see.
    is_limited: bool,
    method: &'static Method,
    watched: Watched,
}

impl Still {
    fn may(&self) -> bool {
        let generation = self.web.router.generation();
        let key = generation.config.api.keys.iter().find(|key| key.digest == self.digest);
        let key = key.filter(|key| self.is_limited || key.rooms.is_none());
        key.is_some_and(|key| check(key, self.method, &self.watched).is_ok())
    }
}

/// A key that is limited to rooms looks at those: users are in others too,
/// whatever its patterns match.
fn check(key: &ApiKey, method: &Method, watched: &Watched) -> Result<(), Refusal> {
    let about = match watched {
        Watched::Room(room) => json!({ "channel": room }),
        Watched::User(_) | Watched::Everything if key.rooms.is_some() => {
            return Err(keys::denied(key, "a user or everything in `tail`"));
        }
        Watched::User(_) | Watched::Everything => json!({}),
    };
    keys::check(key, method, about.to_string().as_bytes())
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
    use crate::config::Config;

    #[test]
    fn a_key_for_rooms_looks_at_no_user_whatever_it_matches() {
        let text = "[api]\nkeys = [{ name = \"all\", key = \"0123456789abcdef\" }, { name = \"tenant\", key = \
                    \"fedcba9876543210\", rooms = [\"*\"] }]";
        let config = Config::parse(text, std::path::Path::new("/"), &Default::default()).unwrap();
        let method = Method::named("tail").unwrap();
        let may = |key: usize, query: &str| check(&config.api.keys[key], method, &watched(query).unwrap()).is_ok();
        for (query, allowed) in [("room=a", true), ("user=a", false), ("", false)] {
            assert!(may(0, query) && may(1, query) == allowed, "{query}");
        }
    }

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
