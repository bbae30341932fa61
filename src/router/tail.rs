//! A live view of what passes here, for those who look for what is wrong.
//!
//! While nobody looks it costs one read of a number for each message. Whoever
//! looks and cannot keep up loses lines and is told how many; nobody waits.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{sync::Notify, time::Instant};

use super::{Router, join::check_name, remote::refusal};
use crate::{
    cluster::Hold,
    config::{Pattern, Target},
    generation::Generation,
    id::ConnectionId,
    plugin::{Caller, EventView},
    protocol::{MemberInfo, Payload, Refusal, one_line},
};

/// Who may look at once.
const TAILS_MAX: usize = 32;

/// Bytes that wait for one of them.
const WAITING_MAX: usize = 1 << 20;

/// A longer message is told without what is in it.
const DATA_MAX: usize = 16 << 10;

/// Whoever has taken nothing for so long, though there was something, gives
/// its place to the next one.
const STALE: Duration = Duration::from_secs(60);

/// What somebody looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// One room.
    Room(String),
    /// What one user does and is sent by name.
    User(String),
    /// All that passes here.
    Everything,
}

/// All who look.
#[derive(Debug, Default)]
pub(super) struct Tails {
    n: AtomicUsize,
    all: Mutex<Vec<Arc<Tail>>>,
}

#[derive(Debug)]
struct Tail {
    watched: Watched,
    /// Whoever looks may know of that room only.
    is_limited: bool,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug)]
struct Waiting {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    taken: Instant,
    /// Its place was given to another.
    is_over: bool,
}

impl Tail {
    fn new(watched: Watched, is_limited: bool) -> Self {
        let waiting = Waiting { lines: VecDeque::new(), bytes: 0, dropped: 0, taken: Instant::now(), is_over: false };
        Self { watched, is_limited, waiting: Mutex::new(waiting), wake: Notify::new() }
    }

    fn put(&self, line: &str) {
        let mut waiting = self.waiting.lock();
        if waiting.bytes + line.len() > WAITING_MAX {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_owned());
        drop(waiting);
        self.wake.notify_one();
    }

    /// What waits, a line each; None: it is over.
    fn take(&self) -> Option<String> {
        let mut waiting = self.waiting.lock();
        if waiting.is_over {
            return None;
        }
        waiting.taken = Instant::now();
        waiting.bytes = 0;
        let mut text: String = waiting.lines.drain(..).collect();
        let dropped = std::mem::take(&mut waiting.dropped);
        if dropped > 0 {
            text += &format!("{{\"type\":\"dropped\",\"count\":{dropped}}}\n");
        }
        Some(text)
    }
}

impl Tails {
    fn add(&self, watched: Watched, is_limited: bool, now: Instant) -> Result<Arc<Tail>, Refusal> {
        let mut all = self.all.lock();
        if all.len() >= TAILS_MAX {
            let is_stale = |tail: &Arc<Tail>| {
                let mut waiting = tail.waiting.lock();
                waiting.is_over = !waiting.lines.is_empty() && now.saturating_duration_since(waiting.taken) > STALE;
                waiting.is_over
            };
            let Some(stale) = all.iter().position(is_stale) else {
                let reason = format!("too many requests: {TAILS_MAX} look at this instance already");
                return Err(Refusal { reason: reason.into(), ..Refusal::TOO_MANY_REQUESTS });
            };
            all.swap_remove(stale).wake.notify_one();
        }
        let tail = Arc::new(Tail::new(watched, is_limited));
        all.push(Arc::clone(&tail));
        self.n.store(all.len(), Ordering::Relaxed);
        Ok(tail)
    }

    fn remove(&self, tail: &Arc<Tail>) {
        let mut all = self.all.lock();
        all.retain(|other| !Arc::ptr_eq(other, tail));
        self.n.store(all.len(), Ordering::Relaxed);
    }

    /// Tells those who watch something. The line is made once, and only if
    /// somebody does; and for each that may know of one room only, for that.
    fn tell(&self, is_watched: impl Fn(&Watched) -> bool, line: impl Fn(Option<&Watched>) -> String) {
        let told: Vec<_> = self.all.lock().iter().filter(|tail| is_watched(&tail.watched)).cloned().collect();
        let mut whole = None;
        for tail in told {
            if tail.is_limited {
                tail.put(&line(Some(&tail.watched)));
            } else {
                tail.put(whole.get_or_insert_with(|| line(None)));
            }
        }
    }
}

/// Somebody who looks, until it is dropped.
#[derive(Debug)]
pub struct Tailing {
    router: Arc<Router>,
    tail: Arc<Tail>,
    /// With a cluster: what is watched is heard here.
    _hold: Option<Hold>,
}

impl Tailing {
    /// The lines that have come, each a JSON object with a line's end; waits
    /// for the first. None: its place was given to another. Nothing is lost if
    /// the waiting is given up.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let text = self.tail.take()?;
            if !text.is_empty() {
                return Some(text);
            }
            self.tail.wake.notified().await;
        }
    }
}

impl Drop for Tailing {
    fn drop(&mut self) {
        self.router.tails.remove(&self.tail);
    }
}

#[derive(Serialize)]
struct Who<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    client: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
}

/// A message.
#[derive(Serialize)]
struct Said<'a> {
    at: u64,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    to: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Who<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// Bytes of the data.
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

/// Somebody came or went.
#[derive(Serialize)]
struct Moved<'a> {
    at: u64,
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    channel: &'a str,
    #[serde(flatten)]
    who: Who<'a>,
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn line(value: &impl Serialize) -> String {
    // Plain values into memory: there is nothing to fail.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn said(channel: Option<&str>, to: &[Target], from: Option<&MemberInfo>, payload: &Payload, offset: u64) -> String {
    let data: Cow<'_, str> = payload.to_json();
    let size = data.len();
    let data = if size > DATA_MAX { None } else { RawValue::from_string(one_line(data.into_owned())).ok() };
    line(&Said {
        at: now(),
        r#type: "message",
        channel,
        to: to.iter().map(ToString::to_string).collect(),
        from: from.map(|from| Who { client: &from.connection, user: &from.user }),
        offset: Some(offset).filter(|offset| *offset > 0),
        size,
        data,
    })
}

impl Router {
    /// Looks at what passes here from now on. With a cluster, what is said in
    /// the room, or to the user by name, on any instance passes here too.
    /// `is_limited`: whoever looks may know of that room only.
    ///
    /// # Errors
    /// If too many look already, or the room or user cannot be heard now; or a
    /// limited one means a user, who is in other rooms too.
    pub async fn tail(self: &Arc<Self>, watched: Watched, is_limited: bool) -> Result<Tailing, Refusal> {
        let generation = self.generation();
        let watched = match watched {
            Watched::Room(room) => match super::as_user(&generation, &Target::Room(room.clone())) {
                Some(_) if is_limited => return Err(Refusal::PERMISSION_DENIED),
                Some(Target::User(user)) => Watched::User(user),
                _ => generation.room(&room).map(|_| Watched::Room(room)).ok_or(Refusal::UNKNOWN_ROOM)?,
            },
            other => other,
        };
        if let Watched::Room(name) | Watched::User(name) = &watched {
            check_name(name, generation.config.limits.name_length)?;
        }
        let hold = match (&self.cluster, &watched) {
            (Some(cluster), Watched::Room(room)) => Some(cluster.hold_room(room).await.map_err(refusal)?),
            (Some(cluster), Watched::User(user)) => Some(cluster.hold_user(user).await.map_err(refusal)?),
            (None, _) | (_, Watched::Everything) => None,
        };
        let tail = self.tails.add(watched, is_limited, Instant::now())?;
        Ok(Tailing { router: Arc::clone(self), tail, _hold: hold })
    }

    /// True while somebody looks.
    #[inline]
    pub(super) fn is_tailed(&self) -> bool {
        self.tails.n.load(Ordering::Relaxed) > 0
    }

    /// A message passes in a room.
    #[cold]
    pub(super) fn tail_room(&self, room: &str, from: Option<&MemberInfo>, payload: &Payload, offset: u64) {
        let is_watched = |watched: &Watched| match watched {
            Watched::Room(name) => name == room,
            Watched::User(user) => from.is_some_and(|from| *from.user == **user),
            Watched::Everything => true,
        };
        self.tails.tell(is_watched, |_| said(Some(room), &[], from, payload, offset));
    }

    /// A message passes to some targets. Rooms that keep it tell of it
    /// themselves.
    #[cold]
    pub(super) fn tail_delivery(
        &self,
        generation: &Generation,
        to: &[Target],
        from: Option<&MemberInfo>,
        payload: &Payload,
        is_kept: impl Fn(&str) -> bool,
    ) {
        let is_user = |id: &str, user: &str| {
            let connection = ConnectionId::parse(id).and_then(|id| self.hub.connection(id));
            connection.is_some_and(|connection| *connection.user == *user)
        };
        let to: Vec<Target> =
            to.iter().filter(|target| !matches!(target, Target::Room(room) if is_kept(room))).cloned().collect();
        if to.is_empty() {
            return;
        }
        let is_in = |target: &Target, name: &str| match target {
            Target::Room(room) => room == name,
            Target::Pattern(pattern) => {
                !super::is_personal(generation, name)
                    && Pattern::parse(pattern).is_ok_and(|pattern| pattern.matches(name))
            }
            Target::User(_) | Target::Connection(_) | Target::Everyone => false,
        };
        let is_watched = |watched: &Watched| match watched {
            Watched::Everything => true,
            Watched::Room(name) => to.iter().any(|target| is_in(target, name)),
            Watched::User(name) => {
                from.is_some_and(|from| *from.user == **name)
                    || to.iter().any(|target| match target {
                        Target::User(user) => user == name,
                        Target::Connection(id) => is_user(id, name),
                        Target::Everyone => true,
                        Target::Room(_) | Target::Pattern(_) => false,
                    })
            }
        };
        self.tails.tell(is_watched, |only| match only {
            // Where else it goes is not for them.
            Some(Watched::Room(name)) => {
                let of_it: Vec<Target> = to.iter().filter(|target| is_in(target, name)).cloned().collect();
                said(None, &of_it, from, payload, 0)
            }
            _ => said(None, &to, from, payload, 0),
        });
    }

    /// Somebody came or went.
    #[cold]
    pub(super) fn tail_event(&self, who: Caller<'_>, event: EventView<'_>) {
        let is_watched = |watched: &Watched| match watched {
            Watched::Room(room) => room == event.room,
            Watched::User(user) => user == who.user,
            Watched::Everything => true,
        };
        let who = Who { client: who.connection, user: who.user };
        self.tails.tell(is_watched, |_| {
            let Who { client, user } = who;
            line(&Moved { at: now(), r#type: event.kind, channel: event.room, who: Who { client, user } })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_cannot_keep_up_loses_lines_and_is_told_how_many() {
        let tail = Tail::new(Watched::Everything, false);
        let line = "x".repeat(1023) + "\n";
        for _ in 0..1_100 {
            tail.put(&line);
        }
        let text = tail.take().unwrap();
        assert_eq!(text.lines().count(), 1_025);
        assert_eq!(text.lines().last(), Some(r#"{"type":"dropped","count":76}"#));
        tail.put("y\n");
        assert_eq!(tail.take().as_deref(), Some("y\n"));
    }

    #[test]
    fn places_are_few_and_those_who_sleep_lose_theirs() {
        let (tails, now) = (Tails::default(), Instant::now());
        let all: Vec<_> = (0..TAILS_MAX).map(|_| tails.add(Watched::Everything, false, now).unwrap()).collect();
        assert_eq!(tails.add(Watched::Everything, false, now).unwrap_err().code, 111);
        tails.tell(|_| true, |_| "x\n".to_owned());
        all[1..].iter().for_each(|tail| assert!(tail.take().is_some()));
        assert!(
            tails.add(Watched::Everything, false, now + 2 * STALE).is_ok()
                && all[0].take().is_none()
                && all[1].take().is_some()
        );
    }
}
