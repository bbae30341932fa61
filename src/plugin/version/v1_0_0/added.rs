//! What 1.0.0 has and 0.1.0 had not.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{super::BadAnswer, bindings::wayleave::plugin as wit};
use crate::{
    metrics::Sample,
    plugin::{
        host::HostState,
        http::{Outcome, Request},
        types::Action,
    },
    protocol::Payload,
    room::records::Edit,
};

/// An action by its name.
pub(super) fn command(name: &str, arguments: &str) -> Result<Action, BadAnswer> {
    let bad = |what: &str| BadAnswer(format!("the action `{name}`: {what}"));
    if name != "record" {
        return Err(bad("there is none of this name; there is `record`"));
    }
    let asked: Value = serde_json::from_str(arguments).map_err(|error| bad(&format!("its arguments: {error}")))?;
    let text = |field: &str| {
        let text = asked[field].as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| bad(&format!("`{field}` is required")))
    };
    let version = match &asked["version"] {
        Value::Null => None,
        version => Some(version.as_u64().ok_or_else(|| bad("`version` is a whole number"))?),
    };
    let edit = Edit::read(&asked).ok_or_else(|| bad("one of `set`, `patch` and `delete` is required"))?;
    Ok(Action::Record { room: text("channel")?, name: text("record")?, edit, version })
}

impl wit::metrics::Host for HostState {
    fn count(&mut self, name: String, by: u64) -> wasmtime::Result<()> {
        HostState::count(self)?;
        self.figures.take(&name, Sample::Count(by));
        Ok(())
    }

    fn gauge(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        HostState::count(self)?;
        self.figures.take(&name, Sample::Gauge(value));
        Ok(())
    }

    fn observe(&mut self, name: String, seconds: f64) -> wasmtime::Result<()> {
        HostState::count(self)?;
        self.figures.take(&name, Sample::Seconds(seconds));
        Ok(())
    }
}

impl wit::secrets::Host for HostState {
    fn get(&mut self, name: String) -> wasmtime::Result<wit::secrets::Found> {
        self.count()?;
        Ok(match self.secrets.get(&name) {
            Some(secret) => wit::secrets::Found::Value(secret.expose().to_owned()),
            None => wit::secrets::Found::Missing,
        })
    }
}

impl wit::http::Host for HostState {
    fn send(&mut self, request: wit::http::Request) -> wasmtime::Result<wit::http::Outcome> {
        self.count()?;
        let Some(client) = &self.http else {
            return Ok(wit::http::Outcome::Forbidden("the config names no origins".into()));
        };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let asked = Duration::from_millis(request.timeout.into());
        let request = Request {
            method: request.method,
            url: request.url,
            headers: request.headers,
            body: request.body.map_or_else(Vec::new, |body| match Payload::from(body) {
                Payload::Text(text) => text.into_bytes(),
                Payload::Binary(bytes) => bytes,
            }),
            timeout: if asked.is_zero() { left } else { left.min(asked) },
        };
        Ok(match client.send(request) {
            Outcome::Response { status, headers, body } => {
                let body = String::from_utf8(body).map_or_else(
                    |not| wit::types::PayloadResult::Binary(not.into_bytes()),
                    wit::types::PayloadResult::Text,
                );
                wit::http::Outcome::Response(wit::http::Response { status, headers, body })
            }
            Outcome::Forbidden(why) => wit::http::Outcome::Forbidden(why),
            Outcome::TooLarge => wit::http::Outcome::TooLarge,
            Outcome::Timeout => wit::http::Outcome::Timeout,
            Outcome::Failed(why) => wit::http::Outcome::Failed(why),
        })
    }
}
