//! Ping and pong as a small state: no task, no clock of its own.

use std::time::Duration;

use tokio::time::Instant;

/// When to ping, and until when an answer must come.
#[derive(Debug)]
pub(super) struct Heartbeat {
    next_ping: Instant,
    answer_by: Option<Instant>,
    /// When the last ping went out that no pong has come for.
    pinged: Option<Instant>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    Ping,
    /// No answer came.
    Dead,
}

impl Heartbeat {
    pub(super) fn new(now: Instant, interval: Duration) -> Self {
        Self { next_ping: now + interval, answer_by: None, pinged: None }
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Instant {
        self.answer_by.map_or(self.next_ping, |answer_by| answer_by.min(self.next_ping))
    }

    /// `timeout`: None if pings need no answer.
    pub(super) fn due(&mut self, now: Instant, interval: Duration, timeout: Option<Duration>) -> Due {
        if self.answer_by.is_some_and(|answer_by| answer_by <= now) {
            return Due::Dead;
        }
        if self.next_ping > now {
            return Due::Nothing;
        }
        self.next_ping = now + interval;
        self.pinged = Some(now);
        self.answer_by = timeout.map(|timeout| now + timeout);
        Due::Ping
    }

    /// The client has said something.
    pub(super) fn alive(&mut self) {
        self.answer_by = None;
    }

    /// A pong has come: how long after its ping. None: nobody asked for it.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Duration> {
        self.pinged.take().map(|pinged| now.saturating_duration_since(pinged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_after_a_ping_is_death() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start, 10 * SECOND);
        let mut due = |seconds: u32, alive: bool| {
            if alive {
                heartbeat.alive();
            }
            heartbeat.due(start + seconds * SECOND, 10 * SECOND, Some(3 * SECOND))
        };
        assert_eq!(due(9, false), Due::Nothing);
        assert_eq!(due(10, false), Due::Ping);
        assert_eq!(due(12, false), Due::Nothing);
        assert_eq!(due(13, true), Due::Nothing);
        assert_eq!(due(20, false), Due::Ping);
        assert_eq!(due(23, false), Due::Dead);
    }

    #[test]
    fn a_pong_is_timed_once() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start, SECOND);
        assert_eq!(heartbeat.answered(start), None);
        assert_eq!(heartbeat.due(start + SECOND, SECOND, None), Due::Ping);
        assert_eq!(heartbeat.answered(start + 3 * SECOND), Some(2 * SECOND));
        assert_eq!(heartbeat.answered(start + 4 * SECOND), None);
    }

    #[test]
    fn without_pongs_nobody_dies() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start, SECOND);
        for n in 1..100 {
            assert_eq!(heartbeat.due(start + n * SECOND, SECOND, None), Due::Ping);
            assert_eq!(heartbeat.deadline(), start + (n + 1) * SECOND);
        }
    }
}
