//! What a server wants done: publish, send, put into rooms, disconnect.
//!
//! The server's word stands: what it publishes or sends goes past the rooms'
//! plugins and the `[[routes]]`, and no right of a client is asked about. Whom
//! it puts into a room is admitted like anybody else whom a server puts there.

use std::{
    borrow::Cow,
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Published, Router, deliver::publication, is_personal, join::check_name, leases::is_over, remote::refusal,
    requests::Gathered,
};
use crate::{
    auth::Overrides,
    cluster::{
        Once,
        envelope::{Body, Deed, Question, Routed, Terms, What},
    },
    config::{HistoryConfig, Target},
    generation::Generation,
    id::{BootId, ConnectionId},
    plugin::{Caller, Delivery},
    protocol::{Close, Payload, Refusal, Seen, Tag},
    room::{
        Position,
        history::{KEY_MAX, KEY_TTL},
        keys::{Full, Keys},
    },
    session::flusher::Batch,
};

/// How long the other instances may take to do something with connections. A
/// join there waits for Redis.
const ACT_WITHIN: Duration = Duration::from_secs(3);

/// How long all instances may take to compile their plugins anew.
const WORK_WITHIN: Duration = Duration::from_secs(30);

/// Keys of live rooms that are remembered without a cluster: those of twenty
/// broadcasts to as many rooms as one may have.
const ONCE_MAX: usize = 200_000;

/// A message of a server.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// Its body.
    pub payload: Payload,
    /// What it carries beside.
    pub tags: Vec<Tag<'a>>,
    /// The room's history does not keep it.
    pub skip_history: bool,
    /// The same key in the same room is published once within ten minutes.
    pub key: Option<&'a str>,
}

/// Something to be done with connections.
#[derive(Debug, Clone)]
pub struct Act<'a> {
    /// With whose.
    pub to: Vec<Target>,
    /// But not with these.
    pub except: Vec<Target>,
    /// Only with those of this user; None: of any.
    pub user: Option<&'a str>,
    /// What.
    pub what: What<'a>,
    /// Of a join: JSON beside the member in the room.
    pub info: Option<&'a str>,
    /// Of a join: JSON for the client.
    pub data: Option<&'a str>,
    /// Of a join: what the client has seen of the room.
    pub since: Option<Seen<'a>>,
    /// Of a join: when it ends, in milliseconds since 1970.
    pub until: Option<u64>,
    /// Of a join: what holds instead of what the room's entry says.
    pub(crate) overrides: Overrides,
}

impl<'a> Act<'a> {
    /// With nothing beside.
    #[must_use]
    pub fn new(to: Vec<Target>, what: What<'a>) -> Self {
        let (info, data, since, until) = (None, None, None, None);
        Self { to, except: Vec::new(), user: None, what, info, data, since, until, overrides: Overrides::default() }
    }
}

/// With how many connections something was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acted {
    /// It was done.
    pub done: usize,
    /// It could not be done.
    pub failed: usize,
    /// Instances that were told and have not reported.
    pub missing: Vec<BootId>,
}

/// What an instance can be told to do with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Load config and plugins anew; its number is the generation in force.
    Reload,
    /// Put the generation before in force again; the number is the new one's.
    Rollback,
    /// End in order; the number is of the connections that are to go.
    Drain,
}

/// Such work that is under way: its number, or why it failed.
pub type Reloading = Pin<Box<dyn Future<Output = Result<u64, String>> + Send>>;

/// What the operations need beside the router.
pub(super) struct Service {
    started: Instant,
    /// Does what the instance is told to do with itself.
    work: OnceLock<Box<dyn Fn(Work) -> Reloading + Send + Sync>>,
    /// Keys that were used in live rooms, without a cluster.
    used: Mutex<Keys<(String, String), ()>>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("started", &self.started).finish_non_exhaustive()
    }
}

impl Default for Service {
    fn default() -> Self {
        let used = Mutex::new(Keys::new(KEY_TTL, ONCE_MAX));
        Self { started: Instant::now(), work: OnceLock::new(), used }
    }
}

impl Service {
    /// True for the first that says this key in this room.
    fn once(&self, room: &str, key: &str) -> Result<bool, Full> {
        let (key, now) = ((room.to_owned(), key.to_owned()), std::time::Instant::now());
        let mut used = self.used.lock();
        let is_first = used.get(&key, now)?.is_none();
        if is_first {
            used.insert(key.into(), (), now);
        }
        Ok(is_first)
    }

    /// Gives back what time has made superfluous.
    pub(super) fn sweep(&self) {
        self.used.lock().forget(std::time::Instant::now());
    }
}

/// What was published with a key that is forgotten too soon would be published
/// twice; so no more keys are taken than can be remembered.
pub(super) fn too_many_keys() -> Refusal {
    let reason = "too many idempotency keys within ten minutes";
    Refusal { reason: reason.into(), ..Refusal::TOO_MANY_REQUESTS }
}

/// A refusal as instances tell each other.
pub(super) fn refusal_json(refusal: &Refusal) -> String {
    serde_json::json!({ "code": refusal.code, "message": refusal.reason, "temporary": refusal.temporary }).to_string()
}

fn parse_refusal(text: &str) -> Refusal {
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let code = json["code"].as_u64().and_then(|code| u32::try_from(code).ok()).unwrap_or(Refusal::INTERNAL.code);
    let reason = json["message"].as_str().unwrap_or_default().to_owned().into();
    Refusal { code, reason, temporary: json["temporary"] == true }
}

impl Router {
    /// How long this instance has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.service.started.elapsed()
    }

    /// The server publishes to a room. Where the room keeps messages, the
    /// answer is its position.
    ///
    /// # Errors
    /// If there is no such room, or it could not be kept.
    pub async fn publish_by_server(
        self: &Arc<Self>,
        room: &str,
        message: &Message<'_>,
    ) -> Result<Option<Position>, Refusal> {
        let generation = self.generation();
        check_name(room, generation.config.limits.name_length)?;
        let Message { payload, tags, skip_history, key } = message;
        check_size(&generation, payload, tags)?;
        if key.is_some_and(|key| key.is_empty() || key.len() > KEY_MAX) {
            let reason = format!("bad request: an idempotency key has 1 to {KEY_MAX} bytes");
            return Err(Refusal { reason: reason.into(), ..Refusal::BAD_REQUEST });
        }
        let personal = is_personal(&generation, room).then(|| room.strip_prefix("user:")).flatten();
        let entry = generation.room(room).map(|(entry, _)| entry);
        let keep: Option<HistoryConfig> = match (personal, entry) {
            (Some(_), _) => None,
            (None, Some(entry)) => entry.history.filter(|_| !skip_history),
            (None, None) => return Err(Refusal::UNKNOWN_ROOM),
        };
        if let Some(keep) = keep {
            return self.publish_kept(room, keep, message).await.map(Some);
        }
        if let Some(key) = key {
            return self.publish_once(room, personal, message, key).await.map(|()| None);
        }
        self.publish_live(&generation, room, personal, message);
        Ok(None)
    }

    fn publish_live(
        self: &Arc<Self>,
        generation: &Generation,
        room: &str,
        personal: Option<&str>,
        message: &Message<'_>,
    ) {
        let Message { payload, tags, .. } = message;
        let mut batch = Batch::new(&self.flusher);
        match personal {
            Some(user) => {
                let delivered = self.deliver_to(generation, &to_user(user), payload, None, tags, &mut batch);
                self.metrics.delivered(delivered.queued, delivered.dropped);
            }
            None => self.deliver_live(room, payload, None, tags, &mut batch),
        }
        self.metrics.published.inc();
    }

    /// To a room that keeps nothing, if the key is new there. Nothing may come
    /// between noting the key and publishing: whoever asks again after it was
    /// interrupted is told that it is done.
    async fn publish_once(
        self: &Arc<Self>,
        room: &str,
        personal: Option<&str>,
        message: &Message<'_>,
        key: &str,
    ) -> Result<(), Refusal> {
        let Message { payload, tags, .. } = message;
        let Some(cluster) = &self.cluster else {
            if self.service.once(room, key).map_err(|Full| too_many_keys())? {
                self.publish_live(&self.generation(), room, personal, message);
            }
            return Ok(());
        };
        let is_new = match personal {
            Some(user) => {
                let delivery = to_user(user);
                let body = Body::Delivery(Routed::new(cluster.delivery_id(), &delivery, payload, None, tags));
                cluster.publish_once(Once::User(user), key, body, KEY_TTL).await
            }
            None => {
                let body = publication(room, 0, 0, payload, None, tags);
                cluster.publish_once(Once::Room(room), key, body, KEY_TTL).await
            }
        };
        if is_new.map_err(refusal)? {
            self.metrics.published.inc();
        }
        Ok(())
    }

    async fn publish_kept(
        self: &Arc<Self>,
        room: &str,
        keep: HistoryConfig,
        message: &Message<'_>,
    ) -> Result<Position, Refusal> {
        let Message { payload, tags, key, .. } = message;
        let (sender, receiver) = oneshot::channel();
        let on_kept = Box::new(move |kept| drop(sender.send(kept)));
        {
            let mut batch = Batch::new(&self.flusher);
            let (Published::Now | Published::Later) =
                self.append(room, keep, payload, None, tags, *key, on_kept, &mut batch);
        }
        // Whoever drops it unasked is a cluster that has ended.
        let appended = receiver.await.unwrap_or(Err(Refusal::BUS_DOWN))?;
        if appended.is_new {
            self.metrics.published.inc();
        }
        Ok(appended.position)
    }

    /// The server sends a message to some targets; returns how many
    /// connections here it was put into the outboxes of. `is_local`: to no
    /// other instance, and no history keeps it.
    ///
    /// # Errors
    /// If it is too large for any outbox.
    pub fn send(
        self: &Arc<Self>,
        to: Vec<Target>,
        except: Vec<Target>,
        payload: &Payload,
        tags: &[Tag<'_>],
        is_local: bool,
    ) -> Result<usize, Refusal> {
        let generation = self.generation();
        check_size(&generation, payload, tags)?;
        let mut delivery = Delivery { to, except, payload: None };
        let mut batch = Batch::new(&self.flusher);
        self.metrics.published.inc();
        let delivered = if is_local {
            // What has exceptions is of the moment and is kept by no history.
            delivery.except.push(Target::Connection(String::new()));
            self.deliver_here(&generation, &delivery, payload, None, tags, &mut batch)
        } else {
            self.deliver_to(&generation, &delivery, payload, None, tags, &mut batch)
        };
        self.metrics.delivered(delivered.queued, delivered.dropped);
        Ok(delivered.queued)
    }

    /// Does something with connections, wherever they are, and waits until the
    /// instances that have them say that it is done.
    ///
    /// # Errors
    /// If it could be done with none of those that there are; or if Redis is
    /// away, so that it was done on this instance alone.
    pub async fn act(self: &Arc<Self>, act: Act<'_>) -> Result<Acted, Refusal> {
        check_act(&self.generation(), &act)?;
        let Act { to, except, user, what, info, data, since, until, overrides } = act;
        let texts = |targets: &[Target]| targets.iter().map(|target| target.to_string().into()).collect();
        let deed = Deed {
            to: texts(&to),
            except: texts(&except),
            user: user.unwrap_or_default().into(),
            what,
            info: info.unwrap_or_default().into(),
            data: data.unwrap_or_default().into(),
            since: since.map(|since| (since.offset, since.epoch)),
        };
        let reach = self.reach(&to).await;
        let terms = Terms { until, presence: overrides.presence() };
        let question = if terms == Terms::default() { Question::Do(deed) } else { Question::Place(deed, terms) };
        let Gathered { answers, missing, is_stale, .. } = self.ask(reach, question, ACT_WITHIN).await?;
        let mut acted = Acted { missing: missing.into_iter().collect(), ..Acted::default() };
        let mut why = None;
        for given in answers {
            let number = || given.text.parse::<usize>().unwrap_or(0);
            match given.about.as_str() {
                "done" => acted.done += number(),
                "failed" => acted.failed += number(),
                _ => why = Some(parse_refusal(&given.text)),
            }
        }
        if is_stale {
            let reason = Cow::Borrowed("done on this instance alone: Redis is not available for the moment");
            return Err(Refusal { reason, ..Refusal::BUS_DOWN });
        }
        match why {
            Some(why) if acted.done == 0 => Err(why),
            _ => Ok(acted),
        }
    }

    /// The server calls a plugin; the first that knows the method answers.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn call_by_server(self: &Arc<Self>, method: &str, data: Option<&str>) -> Result<String, Refusal> {
        let caller = Caller { connection: "", user: "", info: "" };
        let data = data.map(|data| Payload::Text(data.to_owned()));
        let reply = self.call_as(caller, method, data, &mut Batch::new(&self.flusher))?;
        Ok(reply.to_json().into_owned())
    }

    /// Forgets what a room has kept. Its count goes on.
    ///
    /// # Errors
    /// If the room keeps nothing, or Redis does not answer.
    pub async fn remove_history(&self, room: &str) -> Result<(), Refusal> {
        let generation = self.generation();
        let (entry, _) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
        entry.history.ok_or(Refusal::NOT_AVAILABLE)?;
        match &self.cluster {
            Some(cluster) => cluster.remove_history(room).await.map_err(refusal),
            None => {
                self.memory.remove(room);
                Ok(())
            }
        }
    }

    /// Says how the instance does what it is told to do with itself; once.
    pub fn work_with(&self, work: impl Fn(Work) -> Reloading + Send + Sync + 'static) {
        let _is_set = self.service.work.set(Box::new(work));
    }

    /// Has this instance do something with itself.
    ///
    /// # Errors
    /// Why it could not. What runs stays as it is then.
    pub async fn work_here(&self, work: Work) -> Result<u64, String> {
        match self.service.work.get() {
            Some(do_it) => do_it(work).await,
            None => Err("this instance cannot do that".to_owned()),
        }
    }

    /// Has every instance do something with itself.
    ///
    /// # Errors
    /// If too much is being asked at once.
    pub async fn work_everywhere(self: &Arc<Self>, work: Work) -> Result<Gathered, Refusal> {
        let reach = self.reach(&[Target::Everyone]).await;
        self.ask(reach, question(work), WORK_WITHIN).await
    }

    /// Has one instance do something with itself.
    ///
    /// # Errors
    /// If too much is being asked at once.
    pub async fn work_at(self: &Arc<Self>, instance: BootId, work: Work) -> Result<Gathered, Refusal> {
        self.ask(self.only([instance]), question(work), WORK_WITHIN).await
    }
}

fn question(work: Work) -> Question<'static> {
    match work {
        Work::Reload => Question::Reload,
        Work::Rollback => Question::Rollback,
        Work::Drain => Question::Drain,
    }
}

fn to_user(user: &str) -> Delivery {
    Delivery { to: vec![Target::User(user.to_owned())], except: Vec::new(), payload: None }
}

/// A message that fits no outbox would close everybody who is to get it as
/// slow.
fn check_size(generation: &Generation, payload: &Payload, tags: &[Tag<'_>]) -> Result<(), Refusal> {
    let max = generation.config.limits.outbox / 2;
    let tags: usize = tags.iter().map(|(name, value)| name.len() + value.len()).sum();
    if payload.to_json().len() + tags <= max {
        return Ok(());
    }
    let reason = format!("limit exceeded: a message has at most {max} bytes, half of `limits.outbox`");
    Err(Refusal { reason: reason.into(), ..Refusal::LIMIT_EXCEEDED })
}

/// What makes no sense is said at once, also if nobody is there.
fn check_act(generation: &Generation, act: &Act<'_>) -> Result<(), Refusal> {
    let bad = |reason: &'static str| Refusal { reason: reason.into(), ..Refusal::BAD_REQUEST };
    if act.to.iter().any(|target| matches!(target, Target::Connection(id) if ConnectionId::parse(id).is_none())) {
        return Err(bad("bad request: not the id of a connection"));
    }
    match &act.what {
        What::Join(room) | What::Leave(room) => {
            check_name(room, generation.config.limits.name_length)?;
            let (entry, _) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
            if !act.overrides.fits(entry) {
                let reason = "not available: of `override` only `presence` is a member's; the rest says what the room's entry says";
                return Err(Refusal { reason: reason.into(), ..Refusal::NOT_AVAILABLE });
            }
            if act.until.is_some_and(is_over) { Err(Refusal::EXPIRED) } else { Ok(()) }
        }
        What::Close(code, reason) if !(3000..=4999).contains(code) || reason.len() > Close::REASON_MAX => {
            Err(bad("bad request: a disconnect has a code from 3000 to 4999 and a reason of at most 123 bytes"))
        }
        What::Close(..) | What::SetInfo(_) | What::Expire(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_said_in_many_rooms_is_known_in_all_of_them() {
        let service = Service::default();
        for n in 0..ONCE_MAX {
            assert_eq!(service.once(&n.to_string(), "key"), Ok(true));
        }
        assert!((0..ONCE_MAX).all(|n| service.once(&n.to_string(), "key") == Ok(false)));
        assert_eq!(service.once("one more", "key"), Err(Full), "none is forgotten for it");
    }
}
