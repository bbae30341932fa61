//! The way of a message, and of everything else that a client asks.
//!
//! The router alone joins plugins and hub. It takes what a session understood,
//! asks the hooks of one generation, and performs what they answered. It knows
//! no socket and no wire: frames go through the hub into outboxes.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::revoked::Revocations,
    cluster::Cluster,
    config::{HistoryConfig, JoinLeave, PublishRight, RoomConfig, Target, Template},
    generation::{Generation, Pipeline},
    hub::{Connection, Hub, Membership},
    id::{self, BootId, ConnectionId, MessageId, MessageIds},
    metrics::Metrics,
    plugin::{Answer, Caller, Delivery, Failure, MessageView, Plugin, Policy, Routing, Verdict},
    protocol::{MemberInfo, PastPublication, Payload, Refusal, Seen},
    room::{
        Position,
        history::{Appended, MemoryHistory, RECOVERY_MAX, Range, Reading},
        records::MemoryRecords,
    },
    session::flusher::{Batch, Flusher},
    traces::{Span, Tracer},
};

mod actions;
mod api;
mod connect;
mod deliver;
mod inbound;
mod join;
mod leases;
mod limits;
mod presence;
mod queries;
mod recheck;
pub mod records;
mod registration;
mod remote;
mod repair;
mod requests;
mod revoking;
mod shared;
mod sweep;
mod tail;
mod tick;

pub use self::{
    api::{Act, Acted, Message, Reloading, Work},
    connect::{Newcomer, NotConnected},
    deliver::HubLookup,
    inbound::{Inbound, PassedIn},
    limits::too_often,
    queries::{ConnectionsPage, InstanceReport, Known, MembersList},
    remote::Remote,
    requests::{Gathered, Given},
    shared::{SharedLookup, SharedStore, SharedTurn},
    tail::{Tailing, Watched},
    tick::{Alone, Ticker, Turn},
};
use self::{
    remote::{Orders, Recent},
    repair::Repairs,
};

/// The most members that one answer lists. A larger room can be counted; its
/// list would be a megabyte in the outbox of whoever asks.
const PRESENCE_MAX: usize = 2_000;

/// The routed unit: one message with all that the hooks have made of it.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// Unique among all instances.
    pub id: MessageId,
    /// Where it was published.
    pub room: &'a str,
    /// Who sent it.
    pub sender: &'a MemberInfo,
    /// Its body.
    pub payload: Payload,
    /// Its own room receives it.
    pub keep: bool,
    /// Who else does.
    pub deliveries: Vec<Delivery>,
}

/// Owns the way of a message.
#[derive(Debug)]
pub struct Router {
    /// Who is here.
    pub hub: Arc<Hub>,
    /// Writes what was delivered.
    pub flusher: Arc<Flusher>,
    /// Counts.
    pub metrics: Metrics,
    /// This run of this instance.
    pub boot: BootId,
    /// Names it to clients.
    pub instance: String,
    /// The other instances; None: there are none.
    pub cluster: Option<Arc<Cluster>>,
    generation: ArcSwap<Generation>,
    /// The number of the generation in force, for those who wait for the next.
    replaced: watch::Sender<id::Generation>,
    ids: MessageIds,
    /// What rooms keep, without a cluster.
    memory: MemoryHistory,
    /// Deliveries that have come on one channel and may come on another.
    recent: Mutex<Recent>,
    /// What other instances want done.
    orders: Orders,
    /// Rooms whose members are being told what has not come.
    repairs: Repairs,
    /// Documents of rooms, without a cluster.
    memory_records: MemoryRecords,
    /// What members here know of their rooms' documents.
    versions: records::Versions,
    /// What users may still ask.
    limits: limits::UserLimits,
    /// What members here know of who is in their rooms.
    known: presence::Known,
    /// What is under way beside the sessions.
    pub tasks: TaskTracker,
    /// Cancelled when the instance begins to end.
    pub stop: CancellationToken,
    /// What is asked of clients and instances.
    questions: requests::Questions,
    is_retired: AtomicBool,
    /// Connections that are told their end, for as long as they take to read it.
    pub parting: Mutex<HashSet<ConnectionId>>,
    /// How often clients of an address have asked for what.
    by_address: Mutex<limits::AddressLevels>,
    /// Clients here that have no socket of their own.
    pub inbound: Inbound,
    /// What the server API needs beside.
    service: api::Service,
    /// Who looks at what passes.
    tails: tail::Tails,
    /// Set once, if anything is traced.
    traces: std::sync::OnceLock<Arc<Tracer>>,
    /// Tokens that were taken back.
    revocations: Mutex<Revocations>,
}

/// What a router is a part of.
#[derive(Debug)]
pub struct Surroundings {
    /// This run of this instance.
    pub boot: BootId,
    /// The other instances; None: there are none.
    pub cluster: Option<Arc<Cluster>>,
    /// What is under way beside the sessions runs here.
    pub tasks: TaskTracker,
    /// Cancelled when the instance begins to end.
    pub stop: CancellationToken,
}

impl Surroundings {
    /// An instance without others.
    #[must_use]
    pub fn alone() -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Self { boot: BootId::random(), cluster: None, tasks, stop }
    }
}

/// What a publish came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It is on its way.
    Now,
    /// The answer comes when it is kept.
    Later,
}

/// Who is told when a message is kept, or could not be.
pub type OnKept = Box<dyn FnOnce(Result<Appended, Refusal>) + Send>;

impl Router {
    /// From here on what clients ask for is traced. Only the first call counts.
    pub fn trace_with(&self, tracer: Arc<Tracer>) {
        let _first = self.traces.set(tracer);
    }

    /// A trace of something that begins here, if there is to be one.
    pub(crate) fn trace(&self, name: &'static str) -> Option<Box<Span>> {
        self.traces.get()?.root(name).map(Box::new)
    }

    /// A router for a first generation.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        flusher: Arc<Flusher>,
        metrics: Metrics,
        generation: Arc<Generation>,
        surroundings: Surroundings,
    ) -> Self {
        let Surroundings { boot, cluster, tasks, stop } = surroundings;
        Self {
            hub,
            flusher,
            metrics,
            boot,
            instance: boot.to_string(),
            cluster,
            replaced: watch::Sender::new(generation.number),
            generation: ArcSwap::new(generation),
            ids: MessageIds::new(),
            memory: MemoryHistory::default(),
            recent: Mutex::default(),
            orders: Orders::default(),
            repairs: Repairs::default(),
            memory_records: MemoryRecords::default(),
            versions: records::Versions::default(),
            limits: limits::UserLimits::default(),
            known: presence::Known::default(),
            tasks,
            stop,
            questions: requests::Questions::default(),
            is_retired: AtomicBool::new(false),
            parting: Mutex::default(),
            by_address: Mutex::default(),
            inbound: Inbound::default(),
            service: api::Service::default(),
            tails: tail::Tails::default(),
            traces: std::sync::OnceLock::new(),
            revocations: Mutex::default(),
        }
    }

    /// The generation in force. Take it once for each thing to be done.
    #[must_use]
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// This instance is about to end: whoever chooses should choose another.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// True after [`retire`](Self::retire).
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Puts the next generation in force; what is under way ends with the one
    /// that it began with.
    pub fn replace(&self, generation: Arc<Generation>) {
        let number = generation.number;
        self.hub.set_slow(|room| generation.room(room).and_then(|(entry, _)| entry.slow.clone()));
        self.generation.store(generation);
        self.replaced.send_replace(number);
    }

    /// Tells when a generation was replaced, after it was.
    #[must_use]
    pub fn replacements(&self) -> watch::Receiver<id::Generation> {
        self.replaced.subscribe()
    }

    /// A client sends a message to a room. `on_kept` answers it if it has to be
    /// kept elsewhere first.
    ///
    /// # Errors
    /// Why nobody gets it.
    pub fn publish(
        self: &Arc<Self>,
        from: &Arc<Connection>,
        room: &str,
        payload: Payload,
        on_kept: impl FnOnce(Result<Appended, Refusal>) + Send + 'static,
        batch: &mut Batch<'_>,
    ) -> Result<Published, Refusal> {
        let generation = self.generation.load();
        join::check_name(room, generation.config.limits.name_length)?;
        let (entry, pipeline) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
        let membership = from.membership(room);
        if !may_publish(entry, membership.as_ref()) || is_personal(&generation, room) {
            return Err(Refusal::PERMISSION_DENIED);
        }
        let sender = from.as_member(membership.map_or_else(|| "".into(), |membership| membership.info));
        let mut envelope =
            Envelope { id: self.ids.next(), room, sender: &sender, payload, keep: true, deliveries: Vec::new() };
        if !run_hooks(pipeline, &mut envelope)? {
            return Ok(Published::Now);
        }
        run_routes(&generation, &mut envelope);
        self.metrics.published.inc();
        let caller = Caller { connection: &sender.connection, user: &sender.user, info: &sender.info };
        self.deliver(&generation, envelope, &pipeline.stamp(caller, room), on_kept, batch)
    }

    /// A client calls a plugin; the first that knows the method answers. The
    /// method of a message that wants no answer is empty.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn call(
        self: &Arc<Self>,
        from: &Arc<Connection>,
        method: &str,
        data: Option<Payload>,
        batch: &mut Batch<'_>,
    ) -> Result<Payload, Refusal> {
        if method == requests::ANSWER {
            return self.on_client_answer(from, data.as_ref());
        }
        let info = from.info();
        let caller = Caller { connection: &from.id_text, user: &from.user, info: &info };
        self.call_as(caller, method, data, batch)
    }

    fn call_as(
        self: &Arc<Self>,
        caller: Caller<'_>,
        method: &str,
        data: Option<Payload>,
        batch: &mut Batch<'_>,
    ) -> Result<Payload, Refusal> {
        let generation = self.generation.load();
        let payload = data.unwrap_or_else(|| Payload::Text("null".into()));
        for plugin in generation.callees() {
            match plugin.answer(caller, method, &payload) {
                Ok(Answer::Reply(reply, actions)) => {
                    self.perform(&generation, actions, 0, batch);
                    return Ok(reply);
                }
                Ok(Answer::Refuse(refusal)) => return Err(refusal),
                Ok(Answer::Unknown) => {}
                Err(failure) => on_failure(plugin, &failure)?,
            }
        }
        Err(Refusal::METHOD_NOT_FOUND)
    }

    /// Who is in a room, on all instances.
    ///
    /// # Errors
    /// If the client may not know, or nobody knows right now.
    pub async fn presence(&self, from: &Connection, room: &str) -> Result<Vec<MemberInfo>, Refusal> {
        self.may_see(from, room)?;
        if self.count(room).await?.0 > PRESENCE_MAX {
            return Err(Refusal::LIMIT_EXCEEDED);
        }
        let Some(cluster) = self.shared(room) else { return Ok(self.hub.members(room, PRESENCE_MAX)) };
        Ok(cluster.members(room, None, PRESENCE_MAX).await.map_err(remote::refusal)?.members)
    }

    /// How many connections and users are in a room, on all instances.
    ///
    /// # Errors
    /// If the client may not know, or nobody knows right now.
    pub async fn presence_stats(&self, from: &Connection, room: &str) -> Result<(usize, usize), Refusal> {
        self.may_see(from, room)?;
        self.count(room).await
    }

    async fn count(&self, room: &str) -> Result<(usize, usize), Refusal> {
        match self.shared(room) {
            Some(cluster) => cluster.count(room).await.map_err(remote::refusal),
            None => Ok(self.hub.count(room)),
        }
    }

    /// The cluster, if the members of this room are registered there.
    fn shared(&self, room: &str) -> Option<&Arc<Cluster>> {
        let generation = self.generation.load();
        let is_registered = generation.room(room).is_some_and(|(entry, _)| is_registered(entry));
        self.cluster.as_ref().filter(|_| is_registered && !is_personal(&generation, room))
    }

    /// What a room has kept.
    ///
    /// # Errors
    /// If the room keeps nothing, the client may not know, or what it has seen
    /// cannot be continued.
    pub async fn history(
        &self,
        from: &Connection,
        room: &str,
        limit: usize,
        since: Option<Seen<'_>>,
        reverse: bool,
    ) -> Result<(Position, Vec<PastPublication>), Refusal> {
        let generation = self.generation.load_full();
        let (entry, _) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
        from.membership(room).ok_or(Refusal::PERMISSION_DENIED)?;
        self.past(entry, room, limit, since, reverse).await
    }

    /// The same for the server itself.
    ///
    /// # Errors
    /// If the room keeps nothing, or what was seen cannot be continued.
    pub async fn past(
        &self,
        entry: &RoomConfig,
        room: &str,
        limit: usize,
        since: Option<Seen<'_>>,
        reverse: bool,
    ) -> Result<(Position, Vec<PastPublication>), Refusal> {
        let keep = entry.history.ok_or(Refusal::NOT_AVAILABLE)?;
        let limit = limit.min(RECOVERY_MAX);
        let offset = since.as_ref().map(|since| since.offset);
        let range = match (limit, reverse) {
            (0, _) => Range::Nothing,
            (_, true) => Range::Reverse { since: offset, limit },
            (_, false) => Range::Forward { since: offset, limit },
        };
        let reading = self.read(room, range, keep).await?;
        if since.is_some_and(|since| !since.epoch.is_empty() && !reading.continues(&since.epoch, since.offset)) {
            return Err(Refusal::UNRECOVERABLE);
        }
        Ok((reading.position(), reading.messages.iter().filter_map(remote::past_publication).collect()))
    }

    async fn read(&self, room: &str, range: Range, keep: HistoryConfig) -> Result<Reading, Refusal> {
        match &self.cluster {
            Some(cluster) => cluster.read(room, range, keep).await.map_err(remote::refusal),
            None => Ok(self.memory.read(room, range, keep, std::time::Instant::now())),
        }
    }

    fn may_see(&self, from: &Connection, room: &str) -> Result<(), Refusal> {
        let generation = self.generation.load();
        let (entry, _) = generation.room(room).ok_or(Refusal::UNKNOWN_ROOM)?;
        // A room that exists and one that does not answer alike to others.
        let membership = from.membership(room).ok_or(Refusal::PERMISSION_DENIED)?;
        if membership.presence.or(entry.presence) { Ok(()) } else { Err(Refusal::NOT_AVAILABLE) }
    }
}

/// True if all instances shall know who is in such a room.
fn is_registered(entry: &RoomConfig) -> bool {
    entry.presence || entry.join_leave != JoinLeave::Off
}

fn may_publish(entry: &RoomConfig, membership: Option<&Membership>) -> bool {
    match (entry.publish, membership) {
        (PublishRight::Nobody, None) | (PublishRight::Members, None) => false,
        (PublishRight::Anyone, None) => true,
        (PublishRight::Nobody, Some(membership)) => membership.publish.or(false),
        (_, Some(membership)) => membership.publish.or(true),
    }
}

/// True for `user:…` where the gateway keeps those rooms for users.
fn is_personal(generation: &Generation, room: &str) -> bool {
    generation.config.server.personal_rooms && room.starts_with("user:")
}

/// A user's own room has no channel of its own: what goes there goes to the
/// user, wherever its connections are. None: the target stands as it is.
fn as_user(generation: &Generation, target: &Target) -> Option<Target> {
    let Target::Room(room) = target else { return None };
    let user = room.strip_prefix("user:").filter(|_| is_personal(generation, room))?;
    Some(Target::User(user.to_owned()))
}

/// What follows a failure: an error if the plugin is closed at that hook.
fn on_failure(plugin: &Plugin, failure: &Failure) -> Result<(), Refusal> {
    match plugin.policy(failure.hook) {
        Policy::Closed => Err(Refusal::INTERNAL),
        Policy::Open => Ok(()),
    }
}

/// Asks a room's plugins about a message. False: it goes nowhere.
fn run_hooks(pipeline: &Pipeline, envelope: &mut Envelope<'_>) -> Result<bool, Refusal> {
    let n_hooks = pipeline.authorize_publish.len() + pipeline.transform.len() + pipeline.route.len();
    if n_hooks == 0 {
        return Ok(true);
    }
    let id = envelope.id.to_string();
    let MemberInfo { connection, user, info, .. } = envelope.sender;
    let caller = Caller { connection, user, info };
    for plugin in &pipeline.authorize_publish {
        let message = MessageView { id: &id, room: envelope.room, payload: &envelope.payload };
        match plugin.publish(caller, message) {
            Ok(permit) => permit?,
            Err(failure) => on_failure(plugin, &failure)?,
        }
    }
    for plugin in &pipeline.transform {
        let message = MessageView { id: &id, room: envelope.room, payload: &envelope.payload };
        match plugin.transform(caller, message) {
            Ok(Verdict::Pass) => {}
            Ok(Verdict::Replace(payload)) => envelope.payload = payload,
            Ok(Verdict::Drop) => return Ok(false),
            Ok(Verdict::Refuse(refusal)) => return Err(refusal),
            Err(failure) => on_failure(plugin, &failure)?,
        }
    }
    for plugin in &pipeline.route {
        let message = MessageView { id: &id, room: envelope.room, payload: &envelope.payload };
        match plugin.route(caller, message) {
            Ok(Routing::Pass) => {}
            Ok(Routing::Add(deliveries)) => envelope.deliveries.extend(deliveries),
            Ok(Routing::Replace(deliveries)) => {
                envelope.keep = false;
                envelope.deliveries.extend(deliveries);
            }
            Ok(Routing::Refuse(refusal)) => return Err(refusal),
            Err(failure) => on_failure(plugin, &failure)?,
        }
    }
    Ok(true)
}

/// Adds what the `[[routes]]` of the config say.
fn run_routes(generation: &Generation, envelope: &mut Envelope<'_>) {
    let mut data = None;
    for route in generation.routes(envelope.room) {
        envelope.keep &= route.keep;
        let needs_data = route.to.iter().any(Template::needs_data);
        let data = match (&mut data, needs_data) {
            (Some(data), _) => &*data,
            // Not JSON that can be walked (too deep): it fills in nothing.
            (empty @ None, true) => {
                &*empty.insert(serde_json::from_str(&envelope.payload.to_json()).unwrap_or_default())
            }
            (None, false) => &serde_json::Value::Null,
        };
        let user = &envelope.sender.user;
        // A user's own room is reached as that user, not by a name in a message.
        let personal = |target: &Target| matches!(target, Target::Room(room) if is_personal(generation, room));
        let filled = route.to.iter().filter_map(|template| template.fill(envelope.room, user, data));
        let to: Vec<_> = filled.filter(|target| !personal(target)).collect();
        if !to.is_empty() {
            envelope.deliveries.push(Delivery { to, except: Vec::new(), payload: None });
        }
    }
}
