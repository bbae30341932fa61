//! Spans on their way to the collector: OTLP over HTTP, as JSON.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::Finished;
use crate::metrics::Metrics;

/// Spans of one request.
const BATCH: usize = 512;

/// How long spans wait for others.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the collector may take; what it does not take then is dropped.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Hands spans to the collector at this URL until `stop`, and then what is left.
/// One that does not answer costs spans and nothing else.
pub async fn export(
    url: String,
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
        let sent = timeout(TIMEOUT, send(&url, body(&instance, &batch))).await;
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

async fn send(url: &str, body: String) -> io::Result<()> {
    let url: http::Uri = url.parse().map_err(io::Error::other)?;
    let host = url.host().ok_or(io::ErrorKind::InvalidInput)?;
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80))).await?;
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
        // With its answer, if there was one.
        ended = &mut driven => {
            ended?;
            answered.await?
        }
    };
    if response.status().is_success() { Ok(()) } else { Err(io::Error::other(format!("status {}", response.status()))) }
}
