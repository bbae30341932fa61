//! What guests and calls of a plugin cost, on this machine.

use std::time::{Duration, Instant};

use crate::plugin::{Caller, EventView, Failure, HelloView, Hook, JoinView, MessageView, MomentView, Plugin};
use crate::protocol::Payload;

/// Bytes of the message that hooks are asked about.
pub(super) const MESSAGE: usize = 200;

/// Guests that are started, and at most for how long.
const STARTS: (usize, Duration) = (20, Duration::from_secs(2));

/// Calls of each hook, and at most for how long; as many again come before, not
/// counted, at a tenth of it.
const CALLS: (usize, Duration) = (2_000, Duration::from_secs(1));

/// Median and 99th percentile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) median: Duration,
    pub(super) p99: Duration,
    pub(super) calls: usize,
}

impl Cost {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
        let at = |part| at(part).copied().unwrap_or_default();
        Self { median: at(50), p99: at(99), calls: times.len() }
    }
}

/// Of a fresh guest: how long its start takes, and its memory then.
///
/// # Errors
/// If none starts.
pub(super) fn starts(plugin: &Plugin) -> Result<(Cost, usize), Failure> {
    let (begun, mut times, mut memory) = (Instant::now(), Vec::new(), 0);
    while times.len() < STARTS.0 && (times.is_empty() || begun.elapsed() < STARTS.1) {
        let fresh = plugin.renew()?;
        times.push(fresh.took);
        memory = fresh.memory;
    }
    Ok((Cost::of(times), memory))
}

/// Of one hook.
///
/// # Errors
/// If it fails at the sample.
pub(super) fn calls(plugin: &Plugin, hook: Hook) -> Result<Cost, Failure> {
    let payload = sample();
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.len() < CALLS.0 / 10 && begun.elapsed() < CALLS.1 / 10 {
        times.push(call(plugin, hook, &payload)?);
    }
    let begun = Instant::now();
    times.clear();
    while times.len() < CALLS.0 && (times.is_empty() || begun.elapsed() < CALLS.1) {
        times.push(call(plugin, hook, &payload)?);
    }
    Ok(Cost::of(times))
}

/// A JSON text of [`MESSAGE`] bytes, as people write.
fn sample() -> Payload {
    let frame = r#"{"text":""}"#.len();
    let words = "the quick brown fox jumps over the lazy dog and comes back ".chars().cycle();
    Payload::Text(format!(r#"{{"text":"{}"}}"#, words.take(MESSAGE - frame).collect::<String>()))
}

fn call(plugin: &Plugin, hook: Hook, payload: &Payload) -> Result<Duration, Failure> {
    let caller = Caller { connection: "connection-1", user: "ada", info: r#"{"name":"Ada"}"# };
    let message = MessageView { id: "message-1", room: "chat:1", payload };
    let started = Instant::now();
    match hook {
        Hook::Authenticate => drop(plugin.authenticate(HelloView {
            connection: caller.connection,
            token: "a token of nobody",
            data: Some(payload),
            name: "test",
            version: "1.0.0",
        })?),
        Hook::Authorize => drop(plugin.join(caller, JoinView { room: "chat:1", token: "", data: None })?),
        Hook::AuthorizePublish => drop(plugin.publish(caller, message)?),
        Hook::Transform => drop(plugin.transform(caller, message)?),
        Hook::Route => drop(plugin.route(caller, message)?),
        Hook::Observe => drop(plugin.observe(caller, EventView { kind: "joined", room: "chat:1" })?),
        Hook::Tick => {
            let moment = MomentView { now: 1_767_225_600_000, period: plugin.period().unwrap_or_default() };
            drop(plugin.tick(moment)?);
        }
        Hook::Call => drop(plugin.answer(caller, "example", payload)?),
    }
    Ok(started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_json_of_its_size() {
        let Payload::Text(text) = sample() else { unreachable!() };
        assert_eq!(text.len(), MESSAGE);
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    #[test]
    fn of_a_hundred_the_last_is_beyond_the_99th() {
        let cost = Cost::of((0..100).rev().map(Duration::from_micros).collect());
        assert_eq!((cost.median, cost.p99), (Duration::from_micros(50), Duration::from_micros(99)));
    }
}
