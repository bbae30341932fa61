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
    routing::{any, get},
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, time::Instant};

use super::{Peer, Web, client_address};
use crate::{
    config::{ApiKey, Config},
    protocol::Refusal,
};

mod keys;
mod methods;
mod table;
mod tail;
mod tokens;
mod wire;

pub use self::keys::Guesses;
pub(crate) use self::table::{About, METHODS, Method};

/// Bytes of a request, or as many messages as these if that is more.
const BODY_MAX: usize = 4 << 20;
const MESSAGES: usize = 16;

const IS_OFF: &str = "the server API is off; see `api.keys` in the config\n";

/// What the log calls the lines about who has done what.
const AUDIT: &str = "wayleave::audit";

/// Commands in one batch, and how many of them run at once if they may.
const BATCH_MAX: usize = 10_000;
const AT_ONCE: usize = 64;

type Answer = Result<Box<RawValue>, Refusal>;

pub(super) fn routes() -> Routes<Web> {
    Routes::new()
        .route("/api/openapi.json", get(describe))
        .route("/api/{method}", any(serve))
        .route("/api", any(serve_nothing))
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

/// All methods as OpenAPI describes them; no secret, but only where there is
/// something to call.
const DESCRIPTION: &str = include_str!("../../docs/openapi.json");

async fn describe(State(web): State<Web>) -> Response<Body> {
    if web.router.generation().config.api.keys.is_empty() {
        return (StatusCode::NOT_FOUND, IS_OFF).into_response();
    }
    json(StatusCode::OK, DESCRIPTION.to_owned())
}

async fn serve_nothing(web: State<Web>, request: Request<Body>) -> Response<Body> {
    serve(web, Path(String::new()), request).await
}

async fn serve(State(web): State<Web>, Path(method): Path<String>, request: Request<Body>) -> Response<Body> {
    let generation = web.router.generation();
    let caller = match admit(&web, &generation.config, &request) {
        Ok(caller) => caller,
        Err(refused) => return *refused,
    };
    let Some(method) = Method::named(&method) else {
        let names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
        let message = format!("there is no method `{method}`; there are {}", names.join(", "));
        return refuse(StatusCode::NOT_FOUND, &Refusal::METHOD_NOT_FOUND, &message);
    };
    if method.name == "tail" {
        return tail::serve(&web, &caller, method, request).await;
    }
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
    if method.about == About::Others {
        return match batch(&web, &caller, body).await {
            Ok(replies) => json(StatusCode::OK, replies),
            Err(refusal) => json(StatusCode::OK, text(&Reply::Error((&refusal).into()))),
        };
    }
    let answer = run(&web, &caller, method, body).await;
    let reply = match &answer {
        Ok(result) => Reply::Result(result),
        Err(refusal) => Reply::Error(refusal.into()),
    };
    json(StatusCode::OK, text(&reply))
}

/// Who calls.
struct Caller {
    key: ApiKey,
    address: Option<IpAddr>,
}

/// Looks at the key before anything else; who has none learns nothing.
fn admit(web: &Web, config: &Config, request: &Request<Body>) -> Result<Caller, Box<Response<Body>>> {
    let (keys, rate, now) = (&config.api.keys, config.api.failures, Instant::now());
    if keys.is_empty() {
        return Err(Box::new((StatusCode::NOT_FOUND, IS_OFF).into_response()));
    }
    let peer = request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip());
    let address = peer.map(|peer| client_address(peer, request.headers(), &config.server.trusted_proxies));
    // Always, so that nobody who shares an address with a guesser is held up.
    if let Some(n) = sent_key(request.headers()).and_then(|sent| keys::find(sent, keys)) {
        web.guesses.succeeded(address, rate, now);
        return Ok(Caller { key: keys[n].clone(), address });
    }
    if !web.guesses.may_try(address, rate, now) {
        web.router.metrics.api_called("", Refusal::TOO_MANY_REQUESTS.code);
        let message = "too many wrong keys have come from this address; see `api.failures` in the config";
        return Err(Box::new(refuse(StatusCode::TOO_MANY_REQUESTS, &Refusal::TOO_MANY_REQUESTS, message)));
    }
    if web.guesses.failed(address, rate, now) {
        tracing::warn!(target: AUDIT, ?address, "too many wrong keys have come from there; more are answered 429");
    }
    web.router.metrics.api_called("", Refusal::UNAUTHORIZED.code);
    let message = "the header X-API-Key must hold one of the keys in `api.keys` of the config";
    Err(Box::new(refuse(StatusCode::UNAUTHORIZED, &Refusal::UNAUTHORIZED, message)))
}

async fn run(web: &Web, caller: &Caller, method: &'static Method, parameters: &[u8]) -> Answer {
    let answer = match keys::check(&caller.key, method, parameters) {
        // The methods' futures are large, and there are many.
        Ok(()) => Box::pin(methods::call(web, &caller.key, method.name, parameters)).await,
        Err(refusal) => Err(refusal),
    };
    let code = answer.as_ref().map_or_else(|refusal| refusal.code, |_| 0);
    web.router.metrics.api_called(method.name, code);
    if method.writes && tracing::enabled!(target: AUDIT, tracing::Level::INFO) {
        audit(caller, method, &keys::subject(parameters), code);
    }
    answer
}

/// Who has done what.
fn audit(caller: &Caller, method: &Method, about: &str, code: u32) {
    let Caller { key, address } = caller;
    tracing::info!(target: AUDIT, key = key.name, method = method.name, about, code, ?address, "server API");
}

/// Commands together; their replies stand in their order.
async fn batch(web: &Web, caller: &Caller, body: &[u8]) -> Result<String, Refusal> {
    if let Some(method) = Method::named("batch") {
        keys::check(&caller.key, method, body)?;
    }
    let Batch { commands, parallel } = wire::read(body)?;
    if commands.len() > BATCH_MAX {
        let reason = format!("limit exceeded: a batch has at most {BATCH_MAX} commands");
        return Err(Refusal { reason: reason.into(), ..Refusal::LIMIT_EXCEEDED });
    }
    let at_once = if parallel { AT_ONCE } else { 1 };
    let all: Vec<_> = commands.into_iter().map(|command| one_of_batch(web, caller, command)).collect();
    let replies: Vec<String> = futures_util::stream::iter(all).buffered(at_once).collect().await;
    Ok(format!(r#"{{"replies":[{}]}}"#, replies.join(",")))
}

async fn one_of_batch(web: &Web, caller: &Caller, command: BTreeMap<Cow<'_, str>, &RawValue>) -> String {
    let mut fields = command.into_iter();
    let (Some((name, parameters)), None) = (fields.next(), fields.next()) else {
        return error_reply(&Refusal::BAD_REQUEST);
    };
    let Some(method) = Method::named(&name).filter(|method| !matches!(method.name, "batch" | "tail")) else {
        return error_reply(&Refusal::METHOD_NOT_FOUND);
    };
    match run(web, caller, method, parameters.get().as_bytes()).await {
        Ok(result) => text(&BTreeMap::from([(method.name, result)])),
        Err(refusal) => error_reply(&refusal),
    }
}

fn error_reply(refusal: &Refusal) -> String {
    text(&Reply::Error(refusal.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_is_described() {
        let described: serde_json::Value = serde_json::from_str(DESCRIPTION).unwrap();
        let paths: std::collections::BTreeSet<_> = described["paths"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(paths, METHODS.iter().map(|method| format!("/api/{}", method.name)).collect());
        assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
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
