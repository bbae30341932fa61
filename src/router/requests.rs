//! Questions to clients and to instances, and their answers gathered.
//!
//! Each instance that is asked reports to the one that asks: first whom it has
//! asked, then what came, and when nothing more comes. So whoever asks knows at
//! its deadline what is there, which clients were silent, and which instances
//! did not report at all. One that hangs costs no more than the deadline.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{Router, api::Work, is_personal, join::Placing};
use crate::{
    cluster::{
        BusError, Cluster,
        envelope::{Answers, Ask, Body, Deed, Question, Terms, What},
    },
    config::Target,
    hub::{Connection, Seen},
    id::{BootId, ConnectionId, RoomName},
    protocol::{self, Broadcast, Close, Payload, PayloadRef, Push, Refusal},
    session::flusher::Batch,
};

/// The method by which clients answer.
pub(super) const ANSWER: &str = "wayleave.answer";

/// Questions of this instance that are under way at once.
const OPEN_MAX: usize = 1_024;

/// Questions that are put to clients here at once.
const PUT_MAX: usize = 1_024;

/// Clients of one instance that one question is put to.
const CLIENTS_MAX: usize = 10_000;

/// Bytes of answers to one question.
const BYTES_MAX: usize = 16 << 20;

/// How long answers of clients are collected before they are passed on.
const COLLECT: Duration = Duration::from_millis(2);

/// More instances than that are asked through the channel that all hear.
const SEPARATELY: usize = 8;

/// Connections with which something is done at once.
const AT_ONCE: usize = 64;

/// What came of a question.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The answers.
    pub answers: Vec<Given>,
    /// Clients that were asked and have not answered, with their instances.
    pub silent: BTreeMap<String, BootId>,
    /// Instances that did not report.
    pub missing: BTreeSet<BootId>,
    /// There would have been more than may be asked or answered.
    pub is_cut: bool,
    /// Others could not be asked, since Redis is away.
    pub is_stale: bool,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// From there.
    pub instance: BootId,
    /// What it is about: for an answer of a client, the connection.
    pub about: String,
    /// A JSON text.
    pub text: String,
}

/// Whom a question goes to.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    instances: BTreeSet<BootId>,
    is_stale: bool,
}

/// What an instance reports at once and for all.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) answers: Vec<(String, String)>,
    pub(super) is_cut: bool,
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Questions {
    next: AtomicU64,
    /// Ours, by number.
    open: Mutex<HashMap<u64, Open>>,
    /// Those put to clients here, by the name that clients repeat.
    put: Mutex<HashMap<String, Put>>,
}

/// A question that waits for reports.
#[derive(Debug)]
struct Open {
    gathered: Gathered,
    /// Instances of which more comes.
    unfinished: BTreeSet<BootId>,
    bytes: usize,
    done: Option<oneshot::Sender<()>>,
}

/// A question that waits for clients.
#[derive(Debug)]
struct Put {
    awaited: HashSet<ConnectionId>,
    given: Vec<(String, String)>,
    bytes: usize,
    is_cut: bool,
    wake: Arc<Notify>,
}

/// Closes a question, also when nobody waits for it any more.
struct Ticket<'a> {
    questions: &'a Questions,
    id: u64,
}

impl Ticket<'_> {
    fn close(&self) -> Gathered {
        self.questions.open.lock().remove(&self.id).map(|open| open.gathered).unwrap_or_default()
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.questions.open.lock().remove(&self.id);
    }
}

impl Questions {
    fn open(&self, reach: &Reach, done: oneshot::Sender<()>) -> Result<Ticket<'_>, Refusal> {
        let gathered = Gathered { missing: reach.instances.clone(), is_stale: reach.is_stale, ..Gathered::default() };
        let open = Open { gathered, unfinished: reach.instances.clone(), bytes: 0, done: Some(done) };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut all = self.open.lock();
        if all.len() >= OPEN_MAX {
            return Err(Refusal::TOO_MANY_REQUESTS);
        }
        all.insert(id, open);
        Ok(Ticket { questions: self, id })
    }

    /// A connection that has ended does not answer any more.
    pub(super) fn forget(&self, connection: ConnectionId) {
        for put in self.put.lock().values_mut() {
            if put.awaited.remove(&connection) && put.awaited.is_empty() {
                put.wake.notify_one();
            }
        }
    }
}

impl Open {
    fn take(&mut self, origin: BootId, answers: Answers<'_>) {
        self.gathered.missing.remove(&origin);
        self.gathered.is_cut |= answers.is_cut;
        for connection in answers.awaited {
            self.gathered.silent.insert(connection.into_owned(), origin);
        }
        for (about, text) in answers.answers {
            self.gathered.silent.remove(&*about);
            self.bytes += about.len() + text.len();
            if self.bytes > BYTES_MAX {
                self.gathered.is_cut = true;
                continue;
            }
            let given = Given { instance: origin, about: about.into_owned(), text: text.into_owned() };
            self.gathered.answers.push(given);
        }
        if answers.is_last && self.unfinished.remove(&origin) && self.unfinished.is_empty() {
            let _given_up = self.done.take().map(|done| done.send(()));
        }
    }
}

/// What a client answers with.
#[derive(Deserialize)]
struct ClientAnswer<'a> {
    #[serde(borrow)]
    request: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

fn texts(targets: &[Target]) -> Vec<Cow<'static, str>> {
    targets.iter().map(|target| target.to_string().into()).collect()
}

fn targets(texts: &[Cow<'_, str>]) -> Vec<Target> {
    texts.iter().filter_map(|text| Target::parse(text)).collect()
}

impl Router {
    /// Asks the clients of some targets for an answer and gathers what comes
    /// within a time. Each is sent `{"request": …, "data": …}` and calls the
    /// method `wayleave.answer` with the same name and its own data. `data` is
    /// a JSON text.
    ///
    /// # Errors
    /// If too much is being asked at once.
    pub async fn request(
        self: &Arc<Self>,
        to: &[Target],
        except: &[Target],
        data: &str,
        within: Duration,
    ) -> Result<Gathered, Refusal> {
        let reach = self.reach(to).await;
        let question = Question::Clients { to: texts(to), except: texts(except), data: data.into() };
        self.ask(reach, question, within).await
    }

    /// Asks the plugins of every instance.
    ///
    /// # Errors
    /// If too much is being asked at once.
    pub async fn call_everywhere(
        self: &Arc<Self>,
        method: &str,
        data: &str,
        within: Duration,
    ) -> Result<Gathered, Refusal> {
        let reach = self.reach(&[Target::Everyone]).await;
        self.ask(reach, Question::Call(method.into(), data.into()), within).await
    }

    /// The instances that have to do with some targets, this one among them.
    pub(super) async fn reach(&self, to: &[Target]) -> Reach {
        let mut reach = Reach { instances: BTreeSet::from([self.boot]), is_stale: false };
        let Some(cluster) = &self.cluster else { return reach };
        if cluster.trouble().is_some() {
            return Reach { is_stale: true, ..reach };
        }
        match self.find(cluster, to).await {
            Ok(instances) => reach.instances.extend(instances),
            Err(error) => {
                tracing::debug!(%error, "the other instances are not asked");
                reach.is_stale = true;
            }
        }
        reach
    }

    async fn find(&self, cluster: &Cluster, to: &[Target]) -> Result<BTreeSet<BootId>, BusError> {
        let generation = self.generation();
        let mut found = BTreeSet::new();
        for target in to {
            let user = match target {
                Target::Pattern(_) | Target::Everyone => {
                    found.extend(cluster.beating().await?.into_iter().map(|instance| instance.boot));
                    continue;
                }
                Target::Connection(id) => {
                    // One that does not beat would be waited for in vain.
                    let boot = ConnectionId::parse(id).map(ConnectionId::instance);
                    found.extend(boot.filter(|boot| cluster.alive().contains(boot)));
                    continue;
                }
                Target::Room(room) if !is_personal(&generation, room) => {
                    found.extend(cluster.holders(room).await?);
                    continue;
                }
                Target::Room(room) => room.strip_prefix("user:").unwrap_or(room),
                Target::User(user) => user,
            };
            let instances = cluster.connections_of(user).await?.into_iter().map(|(_, instance)| instance);
            found.extend(instances.filter_map(|id| crate::id::InstanceId::parse(&id)).map(|id| id.boot));
        }
        Ok(found)
    }

    /// One instance, or these.
    pub(super) fn only(&self, instances: impl IntoIterator<Item = BootId>) -> Reach {
        Reach { instances: instances.into_iter().collect(), is_stale: false }
    }

    /// Asks and gathers.
    pub(super) async fn ask(
        self: &Arc<Self>,
        reach: Reach,
        question: Question<'_>,
        within: Duration,
    ) -> Result<Gathered, Refusal> {
        let deadline = Instant::now() + within;
        let (sender, done) = oneshot::channel();
        let ticket = self.questions.open(&reach, sender)?;
        let within = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let ask = Ask { id: ticket.id, question, within };
        if let Some(cluster) = self.cluster.as_ref().filter(|_| !reach.is_stale) {
            let others = || reach.instances.iter().filter(|boot| **boot != self.boot);
            if others().count() > SEPARATELY {
                cluster.to_all(Body::Ask(ask.clone()));
            } else {
                others().for_each(|boot| cluster.to_instance(*boot, Body::Ask(ask.clone())));
            }
        }
        if reach.instances.contains(&self.boot) {
            self.on_ask(self.boot, ask);
        }
        if !reach.instances.is_empty() {
            let _in_time = tokio::time::timeout_at(deadline, done).await;
        }
        Ok(ticket.close())
    }

    /// Another instance asks, or this one itself.
    pub(super) fn on_ask(self: &Arc<Self>, origin: BootId, ask: Ask<'_>) {
        let Ask { id, question, within } = ask;
        let router = Arc::clone(self);
        match question {
            Question::Clients { to, except, data } => {
                let within = Duration::from_millis(within.into());
                self.put_to_clients(origin, id, &targets(&to), &targets(&except), &data, within);
            }
            Question::Do(deed) => {
                let deed = deed.into_owned();
                self.report_later(origin, id, async move { router.carry_out_deed(&deed, Terms::default()).await });
            }
            Question::Place(deed, terms) => {
                let deed = deed.into_owned();
                self.report_later(origin, id, async move { router.carry_out_deed(&deed, terms).await });
            }
            Question::Rooms(pattern) => {
                let pattern = pattern.into_owned();
                self.report_later(origin, id, async move { router.unregistered_rooms(&pattern) });
            }
            Question::Connections { user, behind, limit } => {
                let (user, behind) = (user.into_owned(), behind.into_owned());
                self.report_later(origin, id, async move { router.list_connections(&user, &behind, limit as usize) });
            }
            Question::Call(method, data) => {
                let (method, data) = (method.into_owned(), data.into_owned());
                self.report_later(origin, id, async move {
                    let answer = match router.call_by_server(&method, Some(&data)) {
                        Ok(reply) => ("data".to_owned(), reply),
                        Err(refusal) => ("error".to_owned(), super::api::refusal_json(&refusal)),
                    };
                    Report { answers: vec![answer], is_cut: false }
                });
            }
            Question::Reload => self.report_work(origin, id, Work::Reload, "generation"),
            Question::Rollback => self.report_work(origin, id, Work::Rollback, "generation"),
            Question::Drain => self.report_work(origin, id, Work::Drain, "connections"),
        }
    }

    fn report_work(self: &Arc<Self>, origin: BootId, id: u64, work: Work, about: &'static str) {
        let router = Arc::clone(self);
        self.report_later(origin, id, async move {
            let answer = match router.work_here(work).await {
                Ok(number) => (about.to_owned(), number.to_string()),
                Err(reason) => ("error".to_owned(), serde_json::Value::from(reason).to_string()),
            };
            Report { answers: vec![answer], is_cut: false }
        });
    }

    fn report_later(self: &Arc<Self>, origin: BootId, id: u64, work: impl Future<Output = Report> + Send + 'static) {
        let router = Arc::clone(self);
        self.tasks.spawn(async move {
            let Report { answers, is_cut } = work.await;
            let answers = answers.into_iter().map(|(about, text)| (about.into(), text.into())).collect();
            router.report(origin, Answers { id, answers, is_last: true, is_cut, ..Answers::default() });
        });
    }

    fn report(&self, origin: BootId, answers: Answers<'_>) {
        match &self.cluster {
            Some(cluster) if origin != self.boot => cluster.to_instance(origin, Body::Answers(answers)),
            _ => self.on_answers(self.boot, answers),
        }
    }

    /// An instance reports.
    pub(super) fn on_answers(&self, origin: BootId, answers: Answers<'_>) {
        // Later than its deadline, nobody waits for it any more.
        if let Some(open) = self.questions.open.lock().get_mut(&answers.id) {
            open.take(origin, answers);
        }
    }

    fn put_to_clients(
        self: &Arc<Self>,
        origin: BootId,
        id: u64,
        to: &[Target],
        except: &[Target],
        data: &str,
        within: Duration,
    ) {
        let mut connections = self.reached(to, except, "");
        let mut is_cut = connections.len() > CLIENTS_MAX;
        connections.truncate(CLIENTS_MAX);
        let name = format!("{origin}-{id}");
        let wake = Arc::new(Notify::new());
        {
            let mut all = self.questions.put.lock();
            if all.len() >= PUT_MAX {
                is_cut |= !connections.is_empty();
                connections.clear();
            } else if !connections.is_empty() {
                let awaited = connections.iter().map(|connection| connection.id).collect();
                let put = Put { awaited, given: Vec::new(), bytes: 0, is_cut: false, wake: Arc::clone(&wake) };
                all.insert(name.clone(), put);
            }
        }
        let awaited = connections.iter().map(|connection| Cow::Borrowed(&*connection.id_text)).collect();
        let is_last = connections.is_empty();
        self.report(origin, Answers { id, awaited, is_last, is_cut, ..Answers::default() });
        if is_last {
            return;
        }
        let text = format!(r#"{{"request":"{name}","data":{data}}}"#);
        let mut batch = Batch::new(&self.flusher);
        let broadcast = Broadcast::new(Push::Message(PayloadRef::Text(&text)));
        self.hub.deliver_each(&connections, &broadcast, &mut Seen::default(), &mut batch);
        // One may have ended before it was awaited, and nothing would show it.
        for connection in connections.iter().filter(|connection| self.hub.connection(connection.id).is_none()) {
            self.questions.forget(connection.id);
        }
        let router = Arc::clone(self);
        let deadline = Instant::now() + within;
        self.tasks.spawn(async move { router.pass_on(origin, id, &name, &wake, deadline).await });
    }

    /// Passes on what clients answer, until all have or the time is over.
    async fn pass_on(&self, origin: BootId, id: u64, name: &str, wake: &Notify, deadline: Instant) {
        loop {
            tokio::select! {
                () = wake.notified() => tokio::time::sleep(COLLECT).await,
                () = tokio::time::sleep_until(deadline) => {}
                () = self.stop.cancelled() => {}
            }
            let mut all = self.questions.put.lock();
            let Some(put) = all.get_mut(name) else { return };
            let is_last = put.awaited.is_empty() || Instant::now() >= deadline || self.stop.is_cancelled();
            let (given, is_cut) = (std::mem::take(&mut put.given), put.is_cut);
            if is_last {
                all.remove(name);
            }
            drop(all);
            if is_last || !given.is_empty() {
                let answers = given.into_iter().map(|(about, text)| (about.into(), text.into())).collect();
                self.report(origin, Answers { id, answers, is_last, is_cut, ..Answers::default() });
            }
            if is_last {
                return;
            }
        }
    }

    /// A client answers what it was asked.
    ///
    /// # Errors
    /// If it was not asked, or answers too late or too much.
    pub(super) fn on_client_answer(&self, from: &Connection, data: Option<&Payload>) -> Result<Payload, Refusal> {
        let Some(Payload::Text(data)) = data else { return Err(Refusal::BAD_REQUEST) };
        let answer: ClientAnswer<'_> = serde_json::from_str(data).map_err(|_| Refusal::BAD_REQUEST)?;
        let mut all = self.questions.put.lock();
        let put = all.get_mut(&*answer.request).ok_or(Refusal::NOT_AVAILABLE)?;
        if !put.awaited.remove(&from.id) {
            return Err(Refusal::NOT_AVAILABLE);
        }
        let text = answer.data.map_or("null", RawValue::get);
        put.bytes += text.len();
        let fits = put.bytes <= BYTES_MAX;
        if fits {
            put.given.push((from.id_text.to_string(), text.to_owned()));
        }
        put.is_cut |= !fits;
        put.wake.notify_one();
        if fits { Ok(Payload::Text("{}".to_owned())) } else { Err(Refusal::LIMIT_EXCEEDED) }
    }

    /// The connections here that some targets reach, each once.
    fn reached(&self, to: &[Target], except: &[Target], user: &str) -> Vec<Arc<Connection>> {
        let mut seen: HashSet<ConnectionId> =
            except.iter().flat_map(|target| self.resolve(target)).map(|connection| connection.id).collect();
        let mut reached = Vec::new();
        for connection in to.iter().flat_map(|target| self.resolve(target)) {
            if (user.is_empty() || *connection.user == *user) && seen.insert(connection.id) {
                reached.push(connection);
            }
        }
        reached
    }

    /// Does something with the connections here that some targets reach, and
    /// says with how many.
    async fn carry_out_deed(self: &Arc<Self>, deed: &Deed<'static>, terms: Terms) -> Report {
        let generation = self.generation();
        let connections = self.reached(&targets(&deed.to), &targets(&deed.except), &deed.user);
        let (mut done, mut failed, mut why) = (0_usize, 0_usize, None);
        let placing = Placing {
            info: Some(&*deed.info).filter(|info| !info.is_empty()),
            data: Some(&*deed.data).filter(|data| !data.is_empty()),
            seen: deed.since.as_ref().map(|(offset, epoch)| protocol::Seen { epoch: epoch.clone(), offset: *offset }),
            terms,
        };
        let room: RoomName = if let What::Join(room) | What::Leave(room) = &deed.what { &**room } else { "" }.into();
        let each = |connection: Arc<Connection>| {
            let (generation, room, placing) = (&generation, &room, placing.clone());
            async move {
                match &deed.what {
                    What::Join(_) => {
                        let placed = self.place(generation, &connection, room, placing, 0).await;
                        // Who goes meanwhile counts as who was gone before.
                        return Some(placed).filter(|placed| placed.is_ok() || !connection.is_gone());
                    }
                    What::Leave(_) => {
                        let mut batch = Batch::new(&self.flusher);
                        if !self.leave_by_server(generation, &connection, room, 0, &mut batch) {
                            return Some(Err(Refusal::PERMISSION_DENIED));
                        }
                    }
                    What::Close(code, reason) => {
                        connection.outbox.close(Close { code: *code, reason: reason.clone() });
                    }
                    What::SetInfo(info) => connection.set_info(info.as_ref().into()),
                    What::Expire(at) => self.set_end(&connection, *at, &mut Batch::new(&self.flusher)),
                }
                Some(Ok(()))
            }
        };
        let mut outcomes = futures_util::stream::iter(connections.into_iter().map(each)).buffer_unordered(AT_ONCE);
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Some(Ok(())) => done += 1,
                Some(Err(refusal)) => {
                    failed += 1;
                    why = Some(refusal);
                }
                None => {}
            }
        }
        let mut answers = vec![("done".to_owned(), done.to_string()), ("failed".to_owned(), failed.to_string())];
        answers.extend(why.map(|refusal| ("why".to_owned(), super::api::refusal_json(&refusal))));
        Report { answers, is_cut: false }
    }
}
