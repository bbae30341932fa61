//! Spans on their way to the collector: OTLP over HTTP or HTTPS, as JSON.

use std::{fmt, io, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::Finished;
use crate::{config::TracingConfig, dial::Dialer, metrics::Metrics};

/// Spans of one request.
const BATCH: usize = 512;

/// How long spans wait for others.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the collector may take; what it does not take then is dropped.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where spans go.
pub struct Collector {
    url: Uri,
    dialer: Dialer,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Collector {
    /// The one that the config names; None: it names none.
    ///
    /// # Errors
    /// If it cannot be one, which the config's reader has looked at already.
    pub fn new(config: &TracingConfig) -> anyhow::Result<Option<Self>> {
        let Some(url) = &config.otlp else { return Ok(None) };
        let url: Uri = url.parse().context("`tracing.otlp`")?;
        let dialer = Dialer::new(&url, config.authorities.as_deref());
        let dialer = dialer.map_err(|reason| anyhow::anyhow!("`tracing.otlp`: {reason}"))?;
        Ok(Some(Self { url, dialer }))
    }
}

/// Hands spans to the collector until `stop`, and then what is left. One that
/// does not answer costs spans and nothing else.
pub async fn export(
    collector: Collector,
    instance: String,
    mut spans: mpsc::Receiver<Finished>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut was_well = true;
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            first = spans.recv() => batch.extend(first),
            () = stop.cancelled() => spans.close(),
        }
        let deadline = if stop.is_cancelled() { Instant::now() } else { Instant::now() + PAUSE };
        while batch.len() < BATCH {
            match timeout_at(deadline, spans.recv()).await {
                Ok(Some(span)) => batch.push(span),
                _ => break,
            }
        }
        if batch.is_empty() {
            if stop.is_cancelled() || spans.is_closed() {
                return;
            }
            continue;
        }
        let n = batch.len() as u64;
        let sent = timeout(TIMEOUT, send(&collector, body(&instance, &batch))).await;
        let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        metrics.spans(if sent.is_ok() { "sent" } else { "failed" }, n);
        // Once a change, not once a second.
        match &sent {
            Err(error) if was_well => tracing::warn!(%error, "the collector of traces takes nothing"),
            Ok(()) if !was_well => tracing::info!("the collector of traces takes spans again"),
            _ => {}
        }
        was_well = sent.is_ok();
    }
}

fn body(instance: &str, spans: &[Finished]) -> String {
    let resource = attributes(&[("service.name", "wayleave"), ("service.instance.id", instance)]);
    let scope = json!({ "name": "wayleave", "version": env!("CARGO_PKG_VERSION") });
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let scoped = json!([{ "scope": scope, "spans": spans }]);
    json!({ "resourceSpans": [{ "resource": { "attributes": resource }, "scopeSpans": scoped }] }).to_string()
}

fn attributes<V: AsRef<str>>(pairs: &[(&str, V)]) -> Value {
    pairs.iter().map(|(key, value)| json!({ "key": key, "value": { "stringValue": value.as_ref() } })).collect()
}

/// Numbers of 64 bits are texts, and ids are hexadecimal, as OTLP has it in JSON.
fn span(span: &Finished) -> Value {
    const SERVER: u8 = 2;
    const INTERNAL: u8 = 1;
    const ERROR: u8 = 2;
    let (high, low) = span.place.trace;
    let mut json = json!({
        "traceId": format!("{high:016x}{low:016x}"),
        "spanId": format!("{:016x}", span.place.span),
        "name": span.name,
        "kind": if span.parent.is_none() { SERVER } else { INTERNAL },
        "startTimeUnixNano": span.started.as_nanos().to_string(),
        "endTimeUnixNano": (span.started + span.took).as_nanos().to_string(),
        "attributes": attributes(&span.attributes),
    });
    if let Some(parent) = span.parent {
        json["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(error) = &span.error {
        json["status"] = json!({ "code": ERROR, "message": error });
    }
    json
}

async fn send(Collector { url, dialer }: &Collector, body: String) -> io::Result<()> {
    let stream = dialer.open().await.map_err(io::Error::other)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
    let request = Request::post(path)
        .header(header::HOST, url.authority().map_or("", |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(axum::body::Body::from(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let answered = async { sender.send_request(request).await.map_err(io::Error::other) };
    let driven = async { connection.await.map_err(io::Error::other) };
    tokio::pin!(answered, driven);
    // The connection goes on while the answer is waited for, in this very task.
    let response = tokio::select! {
        response = &mut answered => response?,
        // With its answer, if there was one: some end TLS without a goodbye.
        ended = &mut driven => match answered.await {
            Err(error) => return Err(ended.err().unwrap_or(error)),
            Ok(response) => response,
        },
    };
    if response.status().is_success() { Ok(()) } else { Err(io::Error::other(format!("status {}", response.status()))) }
}
