//! The server API: `POST /api/<method>` with a key and a JSON object.
//!
//! Methods and fields are those of Centrifugo's server API, so that the server
//! libraries made for it work by changing the address, and some of our own
//! stand beside them. Every good request is answered with status 200 and
//! `{"result": …}` or `{"error": {"code": …, "message": …}}`.

use axum::{
    Router as Routes,
    body::{Body, Bytes, to_bytes},
    extract::{Path, State},
    http::{HeaderMap, Request, Response, StatusCode, header},
    response::IntoResponse,
    routing::any,
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap};

use super::Web;
use crate::{config::ApiKey, protocol::Refusal};

mod methods;
mod tokens;
mod wire;

/// Bytes of a request, or as many messages as these if that is more.
const BODY_MAX: usize = 4 << 20;
const MESSAGES: usize = 16;

/// Commands in one batch, and how many of them run at once if they may.
const BATCH_MAX: usize = 10_000;
const AT_ONCE: usize = 64;

pub(super) fn routes() -> Routes<Web> {
    Routes::new().route("/api/{method}", any(serve)).route("/api", any(serve_nothing))
}

#[derive(Serialize)]
struct WireError<'a> {
    code: u32,
    message: &'a str,
    /// The same may succeed a little later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    temporary: bool,
}

impl<'a> From<&'a Refusal> for WireError<'a> {
    fn from(refusal: &'a Refusal) -> Self {
        Self { code: refusal.code, message: &refusal.reason, temporary: refusal.temporary }
    }
}

/// One answer.
#[derive(Serialize)]
enum Reply<'a> {
    #[serde(rename = "result")]
    Result(&'a RawValue),
    #[serde(rename = "error")]
    Error(WireError<'a>),
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    commands: Vec<BTreeMap<Cow<'a, str>, &'a RawValue>>,
    #[serde(default)]
    parallel: bool,
}

/// What a key is compared by: all keys, each in the same time whatever it has
/// in common with the one that was sent.
fn is_known(sent: &str, keys: &[ApiKey]) -> Option<usize> {
    // Whatever the config holds: nothing sent opens nothing.
    if sent.is_empty() {
        return None;
    }
    let sent = blake3::hash(sent.as_bytes());
    let mut found = None;
    for (n, key) in keys.iter().enumerate() {
        // Hashes compare in constant time, and none is passed over.
        if sent == blake3::hash(key.key.expose().as_bytes()) {
            found = Some(n);
        }
    }
    found
}

fn sent_key(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("apikey").then(|| key.trim())
}

fn json(status: StatusCode, body: String) -> Response<Body> {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn text(value: &impl Serialize) -> String {
    // Plain values into memory: there is nothing to fail.
    serde_json::to_string(value).expect("plain values become JSON")
}

/// Everything that is wrong before a method is asked has a status of its own.
fn refuse(status: StatusCode, refusal: &Refusal, message: &str) -> Response<Body> {
    json(status, text(&Reply::Error(WireError { message, ..refusal.into() })))
}

async fn serve_nothing(web: State<Web>, request: Request<Body>) -> Response<Body> {
    serve(web, Path(String::new()), request).await
}

async fn serve(State(web): State<Web>, Path(method): Path<String>, request: Request<Body>) -> Response<Body> {
    let generation = web.router.generation();
    let keys = &generation.config.api.keys;
    if keys.is_empty() {
        return (StatusCode::NOT_FOUND, "the server API is off; see `api.keys` in the config\n").into_response();
    }
    match sent_key(request.headers()).map(|sent| is_known(sent, keys)) {
        Some(Some(n)) => tracing::trace!(key = keys[n].name, method, "server API"),
        Some(None) | None => {
            web.router.metrics.api_called("", Refusal::UNAUTHORIZED.code);
            let message = "the header X-API-Key must hold one of the keys in `api.keys` of the config";
            return refuse(StatusCode::UNAUTHORIZED, &Refusal::UNAUTHORIZED, message);
        }
    }
    let Some(method) = methods::NAMES.iter().find(|name| **name == method) else {
        let message = format!("there is no method `{method}`; there are {}", methods::NAMES.join(", "));
        return refuse(StatusCode::NOT_FOUND, &Refusal::METHOD_NOT_FOUND, &message);
    };
    if request.method() != http::Method::POST {
        let message = "methods are called with POST and a JSON object as body";
        return refuse(StatusCode::METHOD_NOT_ALLOWED, &Refusal::BAD_REQUEST, message);
    }
    let max = BODY_MAX.max(MESSAGES * generation.config.limits.message_size);
    drop(generation);
    let body: Bytes = match to_bytes(request.into_body(), max).await {
        Ok(body) => body,
        Err(error) => {
            let message = format!("the body cannot be read, or has more than {max} bytes: {error}");
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, &Refusal::LIMIT_EXCEEDED, &message);
        }
    };
    let body = if body.trim_ascii().is_empty() { b"{}".as_slice() } else { &body };
    if *method == "batch" {
        return match batch(&web, body).await {
            Ok(replies) => json(StatusCode::OK, replies),
            Err(refusal) => json(StatusCode::OK, text(&Reply::Error((&refusal).into()))),
        };
    }
    let answer = run(&web, method, body).await;
    let reply = match &answer {
        Ok(result) => Reply::Result(result),
        Err(refusal) => Reply::Error(refusal.into()),
    };
    json(StatusCode::OK, text(&reply))
}

async fn run(web: &Web, method: &'static str, parameters: &[u8]) -> Result<Box<RawValue>, Refusal> {
    // The methods' futures are large, and there are many.
    let answer = Box::pin(methods::call(web, method, parameters)).await;
    web.router.metrics.api_called(method, answer.as_ref().map_or_else(|refusal| refusal.code, |_| 0));
    answer
}

/// Commands together; their replies stand in their order.
async fn batch(web: &Web, body: &[u8]) -> Result<String, Refusal> {
    let Batch { commands, parallel } = wire::read(body)?;
    if commands.len() > BATCH_MAX {
        let reason = format!("limit exceeded: a batch has at most {BATCH_MAX} commands");
        return Err(Refusal { reason: reason.into(), ..Refusal::LIMIT_EXCEEDED });
    }
    let at_once = if parallel { AT_ONCE } else { 1 };
    let all: Vec<_> = commands.into_iter().map(|command| one_of_batch(web, command)).collect();
    let replies: Vec<String> = futures_util::stream::iter(all).buffered(at_once).collect().await;
    Ok(format!(r#"{{"replies":[{}]}}"#, replies.join(",")))
}

async fn one_of_batch(web: &Web, command: BTreeMap<Cow<'_, str>, &RawValue>) -> String {
    let mut fields = command.into_iter();
    let (Some((name, parameters)), None) = (fields.next(), fields.next()) else {
        return error_reply(&Refusal::BAD_REQUEST);
    };
    let Some(method) = methods::NAMES.iter().find(|known| **known == name && **known != "batch") else {
        return error_reply(&Refusal::METHOD_NOT_FOUND);
    };
    match run(web, method, parameters.get().as_bytes()).await {
        Ok(result) => text(&BTreeMap::from([(method, result)])),
        Err(refusal) => error_reply(&refusal),
    }
}

fn error_reply(refusal: &Refusal) -> String {
    text(&Reply::Error(refusal.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn any_of_the_keys_is_known_and_nothing_else() {
        let config = "[api]\nkeys = [{ name = \"old\", key = \"0123456789abcdef\" }, { name = \"new\", key = \
                      \"fedcba9876543210\" }]";
        let config = Config::parse(config, std::path::Path::new("/"), &BTreeMap::new()).unwrap();
        let known = |sent: &str| is_known(sent, &config.api.keys);
        assert_eq!((known("0123456789abcdef"), known("fedcba9876543210")), (Some(0), Some(1)));
        assert_eq!((known(""), known("0123456789abcde"), known("0123456789abcdef0")), (None, None, None));
    }

    #[test]
    fn nothing_sent_opens_nothing() {
        let text = "[api]\nkeys = [{ name = \"a\", key = \"0123456789abcdef\" }]";
        let mut keys = Config::parse(text, std::path::Path::new("/"), &BTreeMap::new()).unwrap().api.keys;
        keys[0].key = crate::config::Secret::default();
        assert_eq!(is_known("", &keys), None);
    }

    #[test]
    fn a_key_is_read_from_either_header() {
        let read = |name: &'static str, value: &str| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            sent_key(&headers).map(str::to_owned)
        };
        assert_eq!(read("x-api-key", "k").as_deref(), Some("k"));
        assert_eq!(read("authorization", "apikey k").as_deref(), Some("k"));
        assert_eq!(read("authorization", "Bearer k"), None);
        assert_eq!(read("cookie", "k"), None);
    }
}
