//! Beats, watches the others, and cleans up after those that died.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use redis::Value;
use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    BusError, Cluster, Receiver,
    backoff::spread,
    check,
    cleanup::clean_up,
    membership::{Look, Observer},
    registry::SignedIn,
    script,
};

/// In how many sweeps the server itself is looked at once for what could go
/// wrong.
const CHECK: u32 = 30;

/// The same while it refuses what is asked, or something is wrong with it.
const CHECK_SOON: u32 = 4;

/// Members that are registered anew in one script.
const REFILL: usize = 200;

/// How many such scripts are under way at once.
const AT_ONCE: usize = 256;

/// What a beat was answered.
enum Beat {
    /// The others have taken us for dead.
    Deposed,
    /// They see us.
    Seen { epoch: String, line: String, look: Look },
}

/// A piece of work that ended.
enum Work {
    Refill(Result<(), BusError>),
    Check,
    CleanUp(String, Result<(), BusError>),
    Tell,
}

/// What is remembered between beats.
struct Heart {
    cluster: Arc<Cluster>,
    receiver: Arc<dyn Receiver>,
    observer: Observer,
    /// Which Redis it was: another one must be told everything anew.
    known: Option<(String, String)>,
    /// Everything must be registered, as soon as nothing is left of the instances
    /// that we were before.
    must_refill: bool,
    /// The others were told that those who are here have gone.
    was_deposed: bool,
    /// What takes longer than a beat may wait. Ends with the heart.
    work: JoinSet<Work>,
    refilling: Option<Id>,
    checking: Option<Id>,
    next_beat: Instant,
    last_check: Instant,
}

/// Beats until `stop`.
pub(super) async fn run(cluster: Arc<Cluster>, receiver: Arc<dyn Receiver>, stop: CancellationToken) {
    let observer = Observer::new(cluster.config.ttl, cluster.config.sweep);
    let now = Instant::now();
    let mut heart = Heart {
        cluster,
        receiver,
        observer,
        known: None,
        must_refill: false,
        was_deposed: false,
        work: JoinSet::new(),
        refilling: None,
        checking: None,
        next_beat: now,
        last_check: now,
    };
    loop {
        let pause = heart.step().await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Some(ended) = heart.work.join_next() => match ended {
                Ok(work) => heart.on_ended(work),
                Err(error) => {
                    tracing::error!(%error, "a task of the cluster panicked");
                    heart.on_panic(error.id());
                }
            },
            () = stop.cancelled() => return,
        }
    }
}

impl Heart {
    /// One beat or look; returns how long to wait for the next.
    async fn step(&mut self) -> Duration {
        let sweep = self.cluster.config.sweep;
        let now = Instant::now();
        // One that is deaf is cut off, whatever it can still write.
        let is_hearing = self.cluster.ears.is_up();
        let beats = is_hearing && (now >= self.next_beat || self.must_refill);
        match self.beat(beats).await {
            Ok(Beat::Deposed) => {
                let before = self.cluster.id();
                self.cluster.ears.note_again();
                self.cluster.generation.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                *self.cluster.beaten.lock() = None;
                self.cluster.metrics.deposed.inc();
                self.must_refill = true;
                self.was_deposed = true;
                self.next_beat = now;
                tracing::warn!(instance = %before, "the others had taken this instance for dead; registering anew");
                return Duration::from_millis(10);
            }
            Ok(Beat::Seen { epoch, line, look }) => {
                if beats {
                    if self.cluster.reader.was_demoted() {
                        self.cluster.leave_demoted();
                    }
                    *self.cluster.beaten.lock() = Some(now);
                    self.next_beat = now + self.cluster.config.heartbeat;
                }
                *self.cluster.trouble.lock() = None;
                self.on_seen(epoch, line, &look, beats);
            }
            Err(error) => {
                if self.cluster.trouble.lock().replace(error.to_string()).is_none() {
                    tracing::warn!(%error, "no beat");
                }
                self.cluster.metrics.up.set(0);
                if matches!(error, BusError::Refused(_)) {
                    self.check_after(CHECK_SOON * sweep);
                }
                self.observer.lose_touch();
                return spread(sweep / 8, sweep / 4);
            }
        }
        self.cluster.metrics.up.set(i64::from(self.cluster.trouble().is_none()));
        self.cluster.metrics.topics.set(i64::try_from(self.cluster.ears.n_topics()).unwrap_or(i64::MAX));
        if !is_hearing {
            return Duration::from_millis(50);
        }
        let is_wrong = self.cluster.wrong.lock().is_some();
        self.check_after(if is_wrong { CHECK_SOON } else { CHECK } * sweep);
        let next = spread(sweep.mul_f64(0.8), sweep.mul_f64(1.2));
        next.min(self.observer.next() + Duration::from_millis(5)).min(self.next_beat.duration_since(now))
    }

    /// Has a look at the server if the last one is this long ago. Beats do not
    /// wait for it.
    fn check_after(&mut self, pause: Duration) {
        if self.checking.is_some() || self.last_check.elapsed() < pause {
            return;
        }
        let cluster = Arc::clone(&self.cluster);
        let checking = self.work.spawn(async move {
            cluster.check().await;
            Work::Check
        });
        self.checking = Some(checking.id());
    }

    async fn beat(&self, counts: bool) -> Result<Beat, BusError> {
        let cluster = &self.cluster;
        let me = cluster.id();
        let names = ["beats", "infos", "dead", "departed", "claims"].map(|part| cluster.keys.instances(part));
        let (lease, epoch) = (cluster.keys.instance("lease", me), cluster.keys.instances("epoch"));
        let mut keys: Vec<&str> = names.iter().map(String::as_str).collect();
        keys.extend([lease.as_str(), epoch.as_str()]);
        let ttl = u64::try_from(cluster.config.ttl.as_millis()).unwrap_or(u64::MAX);
        let fresh = crate::room::history::new_epoch();
        let info = if counts { self.receiver.info() } else { String::new() };
        let arguments: [&dyn script::Argument; 5] = [&me.to_string(), &info, &ttl, &fresh, &u8::from(counts)];
        let answer = cluster.reader.one(script::BEAT.with(&keys, &arguments), &names[0]).await?;
        let mut answer = redis::from_redis_value::<Vec<Value>>(answer).unwrap_or_default().into_iter();
        let mut text = || answer.next().map(|value| redis::from_redis_value::<String>(value).unwrap_or_default());
        let (kind, epoch, line) = (text(), text().unwrap_or_default(), text().unwrap_or_default());
        if kind.as_deref() == Some("0") {
            return Ok(Beat::Deposed);
        }
        let mut map = || {
            let value = answer.next()?;
            redis::from_redis_value::<HashMap<String, String>>(value).ok()
        };
        let mut map = || map().unwrap_or_default();
        // Rooms and users are on other nodes too, in a cluster of Redis.
        // A node that stands still is not waited for.
        let line = match tokio::time::timeout(cluster.config.sweep / 2, cluster.reader.lines()).await {
            Ok(Ok(lines)) if cluster.wiring.is_cluster() => lines,
            Ok(Err(_)) | Err(_) if let Some((_, known)) = &self.known => known.clone(),
            _ => line,
        };
        let look = Look { beats: map(), departed: map(), claims: map() };
        Ok(Beat::Seen { epoch, line, look })
    }

    fn on_seen(&mut self, epoch: String, line: String, look: &Look, beats: bool) {
        let me = self.cluster.id();
        self.cluster.metrics.instances.set(i64::try_from(look.beats.len()).unwrap_or(i64::MAX));
        *self.cluster.look.lock() = look.clone();
        let current = Some((epoch, line));
        if self.known != current {
            if self.known.is_some() {
                tracing::warn!("this is another Redis than before, or it has lost its data; registering anew");
                self.must_refill = true;
                *self.cluster.renewed.lock() = Some(Instant::now());
                self.observer.lose_touch();
            }
            self.known = current;
        }
        let mut found = self.observer.look(Instant::now(), &me.to_string(), look);
        *self.cluster.silences.lock() = self.observer.silences();
        let (has_been, before_me) = look.before(me);
        found.extend(before_me);
        // One that does not beat is seen by nobody, and nobody would clean up
        // after it.
        if self.cluster.debts.lock().take_over() {
            tracing::warn!("too many have left to remember each; comparing all with Redis");
            self.must_refill = true;
        }
        if self.must_refill && beats && self.refilling.is_none() && !has_been {
            self.must_refill = false;
            let (cluster, receiver) = (Arc::clone(&self.cluster), Arc::clone(&self.receiver));
            let tells = self.was_deposed;
            let refilling = self.work.spawn(async move { Work::Refill(refill(&cluster, &*receiver, tells).await) });
            self.refilling = Some(refilling.id());
        }
        self.cluster.settle_debts(&*self.receiver);
        let gone = std::mem::take(&mut *self.cluster.gone.lock());
        if !gone.is_empty() {
            let receiver = Arc::clone(&self.receiver);
            self.work.spawn(async move {
                gone.iter().for_each(|user| receiver.on_user_gone(user));
                Work::Tell
            });
        }
        for finding in found {
            let (cluster, receiver) = (Arc::clone(&self.cluster), Arc::clone(&self.receiver));
            self.work.spawn(async move {
                let result = clean_up(&cluster, &*receiver, &finding).await;
                Work::CleanUp(finding.instance, result)
            });
        }
    }

    fn on_ended(&mut self, work: Work) {
        match work {
            Work::Refill(result) => {
                self.refilling = None;
                match result {
                    Err(error) => {
                        tracing::warn!(%error, "could not register everything; trying again");
                        self.must_refill = true;
                    }
                    // Deposed once more while it ran, it is not done.
                    Ok(()) => self.was_deposed &= self.must_refill,
                }
            }
            Work::Check => {
                self.checking = None;
                self.last_check = Instant::now();
            }
            Work::CleanUp(_, Ok(())) | Work::Tell => {}
            Work::CleanUp(instance, Err(error)) => {
                tracing::warn!(instance, %error, "cleaning up stopped; it will be taken up again");
                self.cluster.metrics.swept("stopped");
            }
        }
    }
}

impl Heart {
    /// What panicked must not count as under way for ever.
    fn on_panic(&mut self, task: Id) {
        if self.refilling == Some(task) {
            self.refilling = None;
            self.must_refill = true;
        }
        if self.checking == Some(task) {
            self.checking = None;
            self.last_check = Instant::now();
        }
    }
}

/// Registers everything that is here, and takes out what is not. `tells`: those
/// who were taken for gone are back.
async fn refill(cluster: &Arc<Cluster>, receiver: &dyn Receiver, tells: bool) -> Result<(), BusError> {
    cluster.note(&cluster.ears.held()).await?;
    let users = receiver.users().into_iter();
    let connections =
        users.flat_map(|(user, all)| all.into_iter().map(move |connection| (Arc::clone(&user), connection)));
    let signing_in = stream::iter(connections).map(|(user, connection)| async move {
        let limit = crate::config::UserLimit::Reject;
        let signed_in = cluster.sign_in(&user, &connection, usize::MAX >> 12, limit).await?;
        if tells && matches!(signed_in, SignedIn::In { is_first: true, .. }) {
            receiver.on_user_back(&user);
        }
        Ok(())
    });
    signing_in.buffer_unordered(AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await?;
    cluster.take_out_strays(receiver).await?;
    let entering = stream::iter(receiver.registered()).map(|(room, members, told_of)| async move {
        // One by one it is known of each whether it was gone.
        for chunk in members.chunks(if tells { 1 } else { REFILL }) {
            let n_new = cluster.enter(&room, chunk, told_of).await?;
            if tells && n_new == chunk.len() {
                chunk.iter().for_each(|member| receiver.on_back(&room, member));
            }
            for member in chunk.iter().filter(|member| !receiver.is_member(&room, &member.connection)) {
                cluster.exit(&room, &member.connection);
            }
        }
        Ok(())
    });
    entering.buffer_unordered(AT_ONCE).try_collect().await
}

impl Cluster {
    /// Ends the connections that learn nothing of it when their server has been
    /// made a replica behind our back: new ones lead where writing succeeds.
    fn leave_demoted(&self) {
        tracing::warn!("the server had become a replica; publishing and hearing are connected anew");
        self.publishing.lock().cancel();
        self.hearing.lock().cancel();
    }

    /// Looks at the server for what could go wrong, and says it.
    async fn check(&self) {
        let Ok(mut link) = self.wiring.connect("check", None).await else { return };
        let mut wrong = None;
        match check::look(&mut link, &self.keys).await {
            Ok(troubles) => {
                for trouble in troubles {
                    match trouble {
                        check::Trouble::Final(text) | check::Trouble::Passing(text) => {
                            tracing::error!("{text}");
                            wrong = Some(text);
                        }
                        check::Trouble::Risk(text) => tracing::warn!("{text}"),
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "Redis could not be checked"),
        }
        *self.wrong.lock() = wrong;
    }

    /// Tells the others that this instance ends in order. Who is still a member
    /// here counts as present for `grace` more; then a survivor takes it out.
    pub async fn depart(&self, grace: Duration) {
        let me = self.id().to_string();
        let (departed, beats) = (self.keys.instances("departed"), self.keys.instances("beats"));
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let mut leave = redis::cmd("HSET");
        leave.arg(&departed).arg(&me).arg(grace);
        let mut silent = redis::cmd("HDEL");
        silent.arg(&beats).arg(&me);
        for (command, key) in [(leave, departed), (silent, beats)] {
            if let Err(error) = self.reader.one(command, &key).await {
                tracing::warn!(%error, "could not say goodbye; the others will notice");
                return;
            }
        }
    }
}
