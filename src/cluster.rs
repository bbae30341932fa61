//! Many instances on one Redis: what they share, and how they hear each other.
//!
//! [`Cluster`] is what the router asks; what comes in goes to its [`Receiver`].
//! Four connections are kept apart, since they fail apart: one writes, in order
//! ([`pipeline`]); one publishes, unanswered ([`publisher`]); one hears
//! ([`ears`]); one reads and beats ([`heart`]).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Cmd, RedisError, RedisResult, Value};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod backoff;
mod check;
mod cleanup;
mod ears;
pub mod envelope;
mod hearing;
mod heart;
mod history;
mod interest;
mod keys;
mod lanes;
mod link;
mod membership;
mod metrics;
mod pipeline;
mod publisher;
mod queries;
mod reader;
mod registry;
mod revoked;
mod script;
#[cfg(test)]
mod simulation;
mod socket;
mod store;
mod wiring;

use self::{
    backoff::Backoff,
    ears::Ears,
    envelope::{Body, Changes, Frame, Member},
    keys::Keys,
    link::Link,
    pipeline::Pipeline,
    publisher::Publisher,
    reader::Reader,
    wiring::Wiring,
};
pub use self::{
    ears::Hold,
    metrics::ClusterMetrics,
    pipeline::BusError,
    queries::Once,
    registry::{Arrival, InstanceInfo, MembersPage, SignedIn},
    revoked::RevokedUpTo,
    store::{Granted, RecordWrite},
};
use crate::{
    config::{ClusterConfig, JoinLeave, RedisConfig},
    id::{BootId, InstanceId, RoomName, UserId},
    protocol::MemberInfo,
    room::Position,
};

/// How long an instance that reaches Redis again may need until all that it
/// holds is registered there.
const REGISTER: Duration = Duration::from_secs(3);

/// What the cluster tells the rest of the gateway. Nothing here may wait.
pub trait Receiver: Send + Sync + 'static {
    /// A frame came, from another instance or from this one.
    fn on_frame(&self, origin: BootId, body: Body<'_>, position: Option<Position>);

    /// Everything is heard again; something may have been missed.
    fn on_hearing(&self);

    /// The rooms whose members here are registered, and all of those.
    fn registered(&self) -> Vec<(RoomName, Vec<MemberInfo>, JoinLeave)>;

    /// True if a connection is in a room here.
    fn is_member(&self, room: &str, connection: &str) -> bool;

    /// True if a connection is on its way into a room here.
    fn is_coming(&self, room: &str, connection: &str) -> bool;

    /// True if a connection is here.
    fn is_connected(&self, connection: &str) -> bool;

    /// The users here with their connections.
    fn users(&self) -> Vec<(UserId, Vec<String>)>;

    /// A member of a dead instance was taken out of a room by this one; true:
    /// its user is in there no more.
    fn on_reaped(&self, room: &str, member: &MemberInfo, is_last: bool);

    /// A user has no connection any more, which was not certain before or
    /// belonged to a dead instance.
    fn on_user_gone(&self, user: &str);

    /// This instance was taken for dead; a member here is registered again.
    fn on_back(&self, room: &str, member: &MemberInfo);

    /// The same of a user who was taken for gone.
    fn on_user_back(&self, user: &str);

    /// What this instance tells the others of itself: a JSON text.
    fn info(&self) -> String;
}

/// One instance's part in the cluster.
#[derive(Debug)]
pub struct Cluster {
    boot: BootId,
    generation: AtomicU32,
    name: String,
    config: ClusterConfig,
    wiring: Wiring,
    keys: Keys,
    pipeline: Pipeline,
    publisher: Publisher,
    /// Cancelled to end the connection that publishes.
    publishing: Mutex<CancellationToken>,
    /// Cancelled to end the connection that hears.
    hearing: Mutex<CancellationToken>,
    ears: Arc<Ears>,
    reader: Reader,
    /// When the last beat was answered; None: never, or taken for dead since.
    beaten: Mutex<Option<Instant>>,
    /// When this was found to be another Redis than before.
    renewed: Mutex<Option<Instant>>,
    /// Connections that are being signed in.
    arriving: Mutex<HashSet<Box<str>>>,
    /// Leaves that Redis has not confirmed.
    debts: Mutex<Debts>,
    /// Users whose last connection went by paying a debt; plugins are told of
    /// them where they may take their time.
    gone: Mutex<Vec<String>>,
    /// The last look: who beats.
    look: Mutex<membership::Look>,
    /// How long each beat had not changed by then.
    silences: Mutex<HashMap<String, Duration>>,
    /// The last trouble, for those who ask why it is not ready.
    trouble: Mutex<Option<String>>,
    /// What is wrong with the server itself, as the last check has found.
    wrong: Mutex<Option<String>>,
    deliveries: AtomicU64,
    /// Counts.
    pub metrics: ClusterMetrics,
}

/// Something that must be taken out of Redis.
#[derive(Debug, Clone)]
enum Debt {
    Exit { room: String, connection: String, instance: InstanceId },
    SignOut { user: String, connection: String, instance: InstanceId },
}

/// Leaves that are owed; of more than are remembered only that there were some.
#[derive(Debug, Default)]
struct Debts {
    owed: Vec<Debt>,
    is_over: bool,
}

impl Debts {
    fn push(&mut self, debt: Debt) {
        if self.owed.len() < DEBTS {
            self.owed.push(debt);
        } else {
            self.is_over = true;
        }
    }

    fn take(&mut self) -> Vec<Debt> {
        std::mem::take(&mut self.owed)
    }

    /// True once after some were not remembered.
    fn take_over(&mut self) -> bool {
        std::mem::take(&mut self.is_over)
    }
}

/// Leaves that are remembered while Redis is away.
const DEBTS: usize = 100_000;

impl Cluster {
    /// Connects, and checks that this Redis is one to work with. If it cannot
    /// be reached the cluster begins without it, and is not ready.
    ///
    /// # Errors
    /// If it is reached and can never work: a wrong password, another layout.
    pub async fn open(
        redis: RedisConfig,
        config: ClusterConfig,
        boot: BootId,
        metrics: ClusterMetrics,
    ) -> anyhow::Result<(Arc<Self>, Starter)> {
        let name = if config.name.is_empty() { format!("{boot}") } else { config.name.clone() };
        let keys = Keys::new(&redis.prefix);
        let (pipeline, writes) = pipeline::queue(redis.queue, config.ttl, metrics.clone());
        let publisher = Publisher::new(redis.queue, config.ttl, metrics.clone());
        let wiring = Wiring::new(redis, &name);
        let ears = Arc::new(Ears::new(boot, metrics.clone()));
        let cluster = Self {
            boot,
            generation: AtomicU32::new(1),
            name,
            config,
            reader: Reader::new(wiring.clone()),
            wiring,
            keys,
            pipeline,
            publisher,
            publishing: Mutex::default(),
            hearing: Mutex::default(),
            ears,
            beaten: Mutex::default(),
            renewed: Mutex::default(),
            arriving: Mutex::default(),
            debts: Mutex::default(),
            gone: Mutex::default(),
            look: Mutex::default(),
            silences: Mutex::default(),
            trouble: Mutex::default(),
            wrong: Mutex::default(),
            deliveries: AtomicU64::new(1),
            metrics,
        };
        match cluster.wiring.connect("check", None).await {
            Ok(mut link) => check::at_start(&mut link, &cluster.keys).await?,
            Err(error) if check::is_final(&error) => {
                anyhow::bail!("this Redis does not let us in: {error}; see `bus.username`, `bus.password` and its ACL");
            }
            Err(error) => {
                tracing::warn!(%error, "Redis cannot be reached; starting without it, and trying again");
                *cluster.trouble.lock() = Some(error.to_string());
            }
        }
        Ok((Arc::new(cluster), Starter { writes }))
    }

    /// This run.
    #[must_use]
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// This instance as the others know it now.
    #[must_use]
    pub fn id(&self) -> InstanceId {
        InstanceId { boot: self.boot, generation: self.generation.load(Ordering::Relaxed) }
    }

    /// True if little waits to be published.
    #[must_use]
    pub fn is_at_ease(&self) -> bool {
        self.publisher.is_at_ease()
    }

    /// How people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Since when this instance has shown that it lives; None: it has not yet.
    #[must_use]
    pub fn beat_age(&self) -> Option<std::time::Duration> {
        self.beaten.lock().map(|beaten| beaten.elapsed())
    }

    /// None if this instance can be used for everything; else why not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        if let Some(wrong) = self.wrong.lock().clone() {
            return Some(wrong);
        }
        let beats = self.beaten.lock().is_some_and(|at| at.elapsed() < self.config.ttl);
        if beats && self.ears.is_up() {
            return None;
        }
        let known = self.trouble.lock().clone();
        Some(known.unwrap_or_else(|| "Redis does not answer yet".to_owned()))
    }

    /// True if all instances have had the time to register with this Redis:
    /// each may wait before it tries to reach it again, and then it needs time
    /// to connect and to tell what it holds. One that takes longer is told as
    /// gone, and as back when it has.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let time = backoff::LONGEST + self.config.ttl.max(REGISTER);
        self.renewed.lock().is_none_or(|at| at.elapsed() > time)
    }

    /// True if that was so all the time.
    #[must_use]
    pub fn has_been_settled_since(&self, since: std::time::Instant) -> bool {
        self.is_settled() && self.renewed.lock().is_none_or(|at| at.into_std() < since)
    }

    /// How long an answer of Redis is waited for.
    fn patience(&self) -> Duration {
        self.wiring.timeout() + Duration::from_millis(500)
    }

    /// The command with which a script publishes.
    fn publish_command(&self) -> &'static str {
        if self.wiring.is_cluster() { "SPUBLISH" } else { "PUBLISH" }
    }

    /// Hears a room from now on.
    ///
    /// # Errors
    /// If that is not confirmed in time.
    pub async fn hold_room(&self, room: &str) -> Result<Hold, BusError> {
        self.ears.hold(self.keys.room_topic(room), interest::Of::Room(room.into()), self.patience()).await
    }

    /// Hears a user's channel from now on.
    ///
    /// # Errors
    /// If that is not confirmed in time.
    pub async fn hold_user(&self, user: &str) -> Result<Hold, BusError> {
        self.ears.hold(self.keys.user_topic(user), interest::Of::User(user.into()), self.patience()).await
    }

    /// Sends a frame to whoever hears a room.
    pub fn to_room(&self, room: &str, body: Body<'_>) {
        self.publish(self.keys.room_topic(room), body);
    }

    /// Sends a frame to the instances on which a user is.
    pub fn to_user(&self, user: &str, body: Body<'_>) {
        self.publish(self.keys.user_topic(user), body);
    }

    /// Sends a frame to one instance.
    pub fn to_instance(&self, boot: BootId, body: Body<'_>) {
        self.publish(self.keys.instance_topic(boot), body);
    }

    /// Sends a frame to every instance.
    pub fn to_all(&self, body: Body<'_>) {
        self.publish(self.keys.everyone_topic(), body);
    }

    /// Sends a frame to whoever hears a live room: of the number of a series of
    /// messages, and of its count in that, from 1.
    pub fn to_room_counted<'a>(&self, room: &str, body: impl FnOnce(u32, u64) -> Body<'a>) {
        let frame = |stream, n| Frame { origin: self.boot, body: body(stream, n) }.encode();
        self.publisher.publish_counted(room, self.keys.room_topic(room), frame);
    }

    fn publish(&self, topic: String, body: Body<'_>) {
        let waits = matches!(body, Body::Delivery(_));
        self.publisher.publish(topic, Frame { origin: self.boot, body }.encode());
        if !waits {
            self.publisher.flush();
        }
    }

    /// Sends the messages that wait until those who are here have theirs.
    pub fn flush(&self) {
        self.publisher.flush_due();
    }

    /// Tells the copies of one delivery.
    pub fn delivery_id(&self) -> (u64, u64) {
        (self.boot.0, self.deliveries.fetch_add(1, Ordering::Relaxed))
    }

    /// A script or command through the ordered pipeline.
    async fn write(&self, command: Cmd, key: &str) -> Result<Value, BusError> {
        self.pipeline.ask(command, key, self.patience()).await
    }

    /// A member's value in Redis and the frame that says it joined.
    fn member(&self, room: &str, member: &MemberInfo, told_of: JoinLeave) -> (Vec<u8>, Vec<u8>) {
        let frame = |joined: Vec<Member<'_>>, left: Vec<Member<'_>>| {
            let body = Body::Presence(Changes { room: room.into(), joined, left });
            Frame { origin: self.boot, body }.encode()
        };
        let left = frame(Vec::new(), vec![member.into()]);
        let kind = match told_of {
            JoinLeave::Off => b"-",
            JoinLeave::Connections => b"c",
            JoinLeave::Users => b"u",
        };
        let value = [kind, member.user.as_bytes(), b"\0", &left].concat();
        (value, frame(vec![member.into()], Vec::new()))
    }

    /// What is not confirmed and still to be done: who has come back since is
    /// not taken out.
    fn take_debts(&self, receiver: &dyn Receiver) -> Vec<Debt> {
        let mut debts = self.debts.lock().take();
        debts.retain(|debt| match debt {
            Debt::Exit { room, connection, .. } => !receiver.is_member(room, connection),
            Debt::SignOut { .. } => true,
        });
        debts
    }

    /// Tries all that is not confirmed once more, behind what waits.
    fn settle_debts(self: &Arc<Self>, receiver: &dyn Receiver) {
        for debt in self.take_debts(receiver) {
            // Who comes back may have been entered before this in the queue.
            if let Debt::Exit { room, connection, .. } = &debt
                && receiver.is_coming(room, connection)
            {
                self.owe(debt);
                continue;
            }
            match debt {
                Debt::Exit { room, connection, instance } => self.exit_as(instance, &room, &connection),
                Debt::SignOut { user, connection, instance } => self.sign_out_as(instance, &user, &connection),
            }
        }
    }

    /// Does all that is not confirmed before anything else: who left and comes
    /// back waits already.
    async fn pay_debts(&self, link: &mut Link, receiver: &dyn Receiver) -> RedisResult<()> {
        let debts = self.take_debts(receiver);
        let mut debts = debts.as_slice();
        while !debts.is_empty() {
            let (now, later) = debts.split_at(debts.len().min(DEBTS_AT_ONCE));
            let answers = match link.send(now.iter().map(|debt| self.paying(debt)).collect()).await {
                Ok(answers) => answers,
                Err(error) => {
                    debts.iter().for_each(|debt| self.owe(debt.clone()));
                    return Err(error);
                }
            };
            for (debt, answer) in now.iter().zip(answers) {
                match (debt, answer) {
                    (debt, Err(_)) => self.owe(debt.clone()),
                    (Debt::SignOut { user, .. }, Ok(Value::Int(1))) => self.gone.lock().push(user.clone()),
                    (_, Ok(_)) => {}
                }
            }
            debts = later;
        }
        Ok(())
    }

    fn on_lost(&self, role: &'static str, error: &RedisError, since: Instant, backoff: &mut Backoff) {
        tracing::warn!(%error, role, "a connection to Redis is lost");
        *self.trouble.lock() = Some(error.to_string());
        self.metrics.lost_link(role);
        // One that takes us in and does nothing, such as one that is loading,
        // is not asked faster.
        if since.elapsed() > LASTING {
            backoff.reset();
        }
    }

    fn on_unreachable(&self, role: &'static str, error: &RedisError) {
        tracing::debug!(%error, role, "Redis cannot be reached");
        *self.trouble.lock() = Some(error.to_string());
    }

    fn paying(&self, debt: &Debt) -> (Cmd, String) {
        match debt {
            Debt::Exit { room, connection, instance } => self.exiting(*instance, room, connection),
            Debt::SignOut { user, connection, instance } => self.signing_out(*instance, user, connection),
        }
    }
}

/// Debts that are paid in one go.
const DEBTS_AT_ONCE: usize = 1_000;

/// A connection that has lasted this long was a good one.
const LASTING: Duration = Duration::from_secs(1);

/// What has to be running; consumed by [`Starter::start`].
#[derive(Debug)]
pub struct Starter {
    writes: pipeline::Queue,
}

impl Starter {
    /// Starts the tasks. They end with `stop`, the writing one after what
    /// waits by then is written.
    pub fn start(
        self,
        cluster: &Arc<Cluster>,
        receiver: &Arc<dyn Receiver>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        tasks.spawn(keep_writing(Arc::clone(cluster), Arc::clone(receiver), self.writes, stop.clone()));
        tasks.spawn(keep_publishing(Arc::clone(cluster), stop.clone()));
        let probing = Arc::clone(cluster);
        let own = cluster.keys.instance_topic(cluster.boot);
        let probe = move |n| probing.publish(own.clone(), Body::Probe(n));
        let (ears, wiring) = (Arc::clone(&cluster.ears), cluster.wiring.clone());
        let (receiving, indexing) = (Arc::clone(receiver), Arc::clone(cluster));
        tasks.spawn(ears.run(wiring, indexing, receiving, probe, stop.clone()));
        tasks.spawn(heart::run(Arc::clone(cluster), Arc::clone(receiver), stop.clone()));
    }
}

/// Writes what waits, on one connection after the other.
async fn keep_writing(
    cluster: Arc<Cluster>,
    receiver: Arc<dyn Receiver>,
    mut queue: pipeline::Queue,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    let mut former = None;
    while !stop.is_cancelled() {
        let lost = CancellationToken::new();
        match cluster.wiring.connect("write", Some(wiring::tell_end(&lost))).await {
            Ok(mut link) => {
                let since = Instant::now();
                let written = async {
                    link.succeed(&mut former).await?;
                    link.load_scripts().await?;
                    cluster.pay_debts(&mut link, &*receiver).await?;
                    queue.run(&mut link, &lost, &stop).await
                };
                match written.await {
                    Ok(()) => return,
                    Err(error) => cluster.on_lost("write", &error, since, &mut backoff),
                }
            }
            Err(error) => cluster.on_unreachable("write", &error),
        }
        queue.starve(backoff.wait()).await;
    }
}

/// Publishes, on one connection after the other.
async fn keep_publishing(cluster: Arc<Cluster>, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    let mut former = None;
    while !stop.is_cancelled() {
        let lost = CancellationToken::new();
        match cluster.wiring.connect_to_publish(wiring::tell_end(&lost)).await {
            Ok((mut link, socket)) => {
                let since = Instant::now();
                let published = async {
                    link.succeed(&mut former).await?;
                    *cluster.publishing.lock() = lost.clone();
                    cluster.publisher.run(&mut link, socket, &lost, &stop).await
                };
                match published.await {
                    Ok(()) => return,
                    Err(error) => cluster.on_lost("publish", &error, since, &mut backoff),
                }
            }
            Err(error) => cluster.on_unreachable("publish", &error),
        }
        cluster.publisher.starve(backoff.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_more_is_owed_than_is_remembered_is_known() {
        let mut debts = Debts::default();
        let debt = |n: usize| Debt::SignOut {
            user: "ann".into(),
            connection: n.to_string(),
            instance: InstanceId { boot: BootId(1), generation: 1 },
        };
        (0..DEBTS).for_each(|n| debts.push(debt(n)));
        assert!(!debts.take_over());
        debts.push(debt(DEBTS));
        assert_eq!(debts.take().len(), DEBTS);
        assert!(debts.take_over());
        assert!(!debts.take_over());
    }
}
