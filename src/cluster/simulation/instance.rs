//! One simulated instance. The hub, the interest in channels, the observer and
//! the judgement of what a client has missed are the real ones. What stands
//! between them and Redis waits for sockets and clocks in the real gateway; it
//! is written here once more, step by step, and names what it mirrors.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, try_join_all},
};
use tokio::sync::{Mutex, Notify, oneshot};

use super::{
    network::{Broken, Conn, Network},
    runtime::Runtime,
    store::{Answer, Command, Entering},
    told_of,
};
use crate::{
    cluster::{
        BusError,
        interest::{Held, Interest, Of, Topic},
        membership::{Finding, Look, Observer},
    },
    hub::{self, Connection, Hub, Kept as Keeping, Membership, Placed, Stand, Told, Waiting},
    id::{BootId, ConnectionId, InstanceId},
    plugin::Permission,
    protocol::{Broadcast, Encoding, PayloadRef, Publication, Push},
    room::{
        Position,
        history::{Kept, RECOVERY_MAX, Range, Reading},
    },
    session::{
        flusher::{Batch, Flusher},
        outbox::Outbox,
    },
};

// As `[cluster]` has them.
const HEARTBEAT: Duration = Duration::from_secs(2);
pub(super) const TTL: Duration = Duration::from_secs(6);
const SWEEP: Duration = Duration::from_secs(1);

/// As `Cluster::patience`.
const PATIENCE: Duration = Duration::from_millis(2500);

/// As in cluster.rs.
const LASTING: Duration = Duration::from_secs(1);

// As in ears.rs.
const PROBE: Duration = Duration::from_millis(800);
const SILENCE: Duration = Duration::from_millis(2200);
const STALL: Duration = Duration::from_millis(1000);
const NOTE_RETRY: Duration = Duration::from_millis(50);
const EARS_SWEEP: Duration = Duration::from_millis(250);
const BATCH: usize = 512;

// Much smaller than in heart.rs, so that few names take several steps.
const STEP: usize = 2;
const MEMBERS: usize = 2;
const REFILL: usize = 3;

// As in repair.rs.
const LOOK: Duration = Duration::from_secs(4);
const RETRY: Duration = Duration::from_millis(250);

/// How many messages rooms keep, and how long, in milliseconds.
const KEEP: (usize, u64) = (25, 20_000);

/// Rooms whose name begins so keep messages, and recover.
pub(super) fn keeps(room: &str) -> bool {
    room.starts_with('h')
}

enum Done {
    Nobody,
    Task(oneshot::Sender<Result<Answer, BusError>>),
    Call(Box<dyn FnOnce(Result<Answer, BusError>)>),
}

struct Write {
    command: Command,
    done: Done,
    since: Duration,
}

/// What waits for a connection, as pipeline.rs has it.
#[derive(Default)]
struct Queue {
    writes: RefCell<VecDeque<Write>>,
    came: Notify,
}

impl Queue {
    fn put(&self, write: Write) {
        self.writes.borrow_mut().push_back(write);
        self.came.notify_one();
    }
}

impl Done {
    fn tell(self, answer: Result<Answer, BusError>) {
        match self {
            Self::Nobody => {}
            Self::Task(task) => drop(task.send(answer)),
            Self::Call(call) => call(answer),
        }
    }
}

/// As `Debt` of cluster.rs.
enum Debt {
    Exit(InstanceId, String, String),
    SignOut(InstanceId, String, String),
}

impl Debt {
    fn command(&self) -> Command {
        match self {
            Self::Exit(me, room, id) => Command::Exit { me: me.to_string(), room: room.clone(), id: id.clone() },
            Self::SignOut(me, user, id) => Command::SignOut { user: user.clone(), member: format!("{id}@{me}") },
        }
    }
}

/// What never ends well.
enum Never {}

/// As backoff.rs.
struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);

    fn new() -> Self {
        Self(Self::FIRST)
    }

    fn next(&mut self, runtime: &Runtime) -> Duration {
        let wait = runtime.spread(Duration::ZERO, self.0);
        self.0 = (self.0 * 2).min(Duration::from_secs(2));
        wait
    }
}

/// What a client is told, beside the messages that the hub delivers. It stands
/// in the outbox between them, as its number.
#[derive(Debug, Clone)]
pub(super) enum Note {
    Joined {
        room: String,
        position: Option<Position>,
        head: Option<String>,
        recovered: Option<Vec<Kept>>,
    },
    /// The join or leave was not done.
    Refused(String),
    Left(String),
    /// Messages are lost to it.
    Lost(String),
    Published(String, bool),
}

/// What a client asks.
#[derive(Debug)]
pub(super) enum Request {
    Join(String, Option<(Arc<str>, u64)>),
    Leave(String),
    /// A message under an idempotency key.
    Publish(String, String, String),
    Close,
}

/// A client's socket, as both ends see it.
pub(super) struct Session {
    pub(super) connection: Arc<Connection>,
    pub(super) notes: RefCell<Vec<Note>>,
    requests: RefCell<VecDeque<Request>>,
    asked: Notify,
    /// The client was let in.
    pub(super) is_in: Cell<bool>,
    /// The instance has ended it.
    pub(super) is_over: Cell<bool>,
}

impl Session {
    pub(super) fn ask(&self, request: Request) {
        self.requests.borrow_mut().push_back(request);
        self.asked.notify_one();
    }

    fn frame(&self, note: Note) -> Bytes {
        let mut notes = self.notes.borrow_mut();
        notes.push(note);
        Bytes::from(format!("!{}", notes.len() - 1))
    }

    fn tell(&self, note: Note) {
        let frame = self.frame(note);
        let _scheduled = self.connection.outbox.push(&frame);
    }
}

/// Keeps a channel subscribed for as long as it lives, as `Hold` of ears.rs.
struct Hold(Rc<Instance>, Topic);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.interest.borrow_mut().release(&self.1, self.0.runtime.instant());
    }
}

pub(super) struct Instance {
    runtime: Runtime,
    network: Rc<Network>,
    pub(super) host: usize,
    pub(super) boot: BootId,
    generation: Cell<u32>,
    pub(super) hub: Hub,
    flusher: Flusher,
    writes: Queue,
    frames: Queue,
    /// Nothing that is published comes back.
    is_broken: Notify,
    debts: RefCell<Vec<Debt>>,
    arriving: RefCell<BTreeSet<String>>,
    reader: RefCell<Option<Rc<Conn>>>,
    connecting: Mutex<Duration>,
    interest: RefCell<Interest>,
    wake: Notify,
    echoed: Cell<Duration>,
    is_up: Cell<bool>,
    repairs: RefCell<BTreeMap<String, bool>>,
    sessions: RefCell<BTreeMap<ConnectionId, Rc<Session>>>,
    holds: RefCell<BTreeMap<(ConnectionId, String), Hold>>,
    /// Work that ended; None: a cleaning up.
    ended: RefCell<VecDeque<Option<Result<(), BusError>>>>,
    has_ended: Notify,
    /// Of the heart: everything must be registered.
    pub(super) must_refill: Cell<bool>,
    pub(super) is_stopping: Cell<bool>,
}

/// What the heart remembers between beats, as `Heart` of heart.rs.
struct Heart {
    observer: Observer,
    known: Option<(String, String)>,
    is_refilling: bool,
    next_beat: Duration,
}

fn garbled() -> BusError {
    BusError::Refused("not as expected".into())
}

fn int(answer: &Answer) -> i64 {
    if let Answer::Int(n) = answer { *n } else { 0 }
}

fn names(answer: Answer) -> Vec<String> {
    if let Answer::Names(names) = answer { names } else { Vec::new() }
}

/// As `parse` of history.rs, with the newest message for the checks.
fn reading(answer: Answer) -> Result<(Reading, Option<String>), BusError> {
    let Answer::Reading { epoch, top, past, messages, head } = answer else { return Err(garbled()) };
    let past = past.split_whitespace().filter_map(|fork| {
        let (epoch, offset) = fork.split_once('=')?;
        Some((epoch.into(), offset.parse().ok()?))
    });
    let kept = |(offset, frame): (u64, String)| Kept { offset, frame: Bytes::from(frame) };
    let messages = messages.into_iter().map(kept).collect();
    Ok((Reading { epoch: epoch.into(), top, past: past.collect(), messages }, head))
}

impl Instance {
    pub(super) fn start(runtime: &Runtime, network: &Rc<Network>) -> Rc<Self> {
        let instance = Rc::new(Self {
            runtime: runtime.clone(),
            network: Rc::clone(network),
            host: runtime.host(),
            boot: BootId(runtime.fresh()),
            generation: Cell::new(1),
            hub: Hub::new(),
            flusher: Flusher::new(1),
            writes: Queue::default(),
            frames: Queue::default(),
            is_broken: Notify::new(),
            debts: RefCell::default(),
            arriving: RefCell::default(),
            reader: RefCell::default(),
            connecting: Mutex::default(),
            interest: RefCell::default(),
            wake: Notify::new(),
            echoed: Cell::new(runtime.now()),
            is_up: Cell::new(false),
            repairs: RefCell::default(),
            sessions: RefCell::default(),
            holds: RefCell::default(),
            ended: RefCell::default(),
            has_ended: Notify::new(),
            must_refill: Cell::new(false),
            is_stopping: Cell::new(false),
        });
        // `Starter::start`, and `watch_positions` of repair.rs.
        instance.spawn(Rc::clone(&instance).keep_writing(false));
        instance.spawn(Rc::clone(&instance).keep_writing(true));
        instance.spawn(Rc::clone(&instance).listen());
        instance.spawn(Rc::clone(&instance).beat_on());
        instance.spawn(Rc::clone(&instance).watch_positions());
        instance
    }

    pub(super) fn name(&self) -> String {
        format!("i{}", self.host)
    }

    pub(super) fn id(&self) -> InstanceId {
        InstanceId { boot: self.boot, generation: self.generation.get() }
    }

    fn me(&self) -> String {
        self.id().to_string()
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.runtime.spawn(self.host, future);
    }

    fn batch(&self) -> Batch<'_> {
        Batch::new(&self.flusher)
    }

    fn fresh_epoch(&self) -> String {
        format!("e{}", self.runtime.fresh())
    }

    /// Everything of it that could hold it in a circle.
    pub(super) fn end(&self) {
        let holds = std::mem::take(&mut *self.holds.borrow_mut());
        drop(holds);
        self.sessions.borrow_mut().clear();
        for queue in [&self.writes, &self.frames] {
            let writes = queue.writes.take();
            drop(writes);
        }
    }

    // pipeline.rs

    fn put(&self, command: Command, done: Done) {
        self.writes.put(Write { command, done, since: self.runtime.now() });
    }

    async fn ask(&self, command: Command) -> Result<Answer, BusError> {
        let (sender, receiver) = oneshot::channel();
        self.put(command, Done::Task(sender));
        match self.runtime.timeout(PATIENCE, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_gone)) => Err(BusError::Down),
            Err(_late) => Err(BusError::Unknown),
        }
    }

    /// `keep_writing` of cluster.rs.
    async fn keep_writing(self: Rc<Self>, is_silent: bool) {
        let queue = if is_silent { &self.frames } else { &self.writes };
        let mut backoff = Backoff::new();
        let mut held = VecDeque::new();
        let mut former = None;
        loop {
            if let Ok(link) = self.network.connect(self.host).await {
                let since = self.runtime.now();
                // `Link::succeed`
                let succeeds = match &former {
                    Some(former) => self.network.kill(&link, Rc::clone(former)).await.is_ok(),
                    None => true,
                };
                if succeeds {
                    former = Some(Rc::clone(&link));
                }
                if succeeds && (is_silent || self.pay_debts(&link).await.is_ok()) {
                    let _ends = self.run(&link, queue, &mut held, is_silent).await;
                }
                self.network.close(&link);
                if self.runtime.now() - since > LASTING {
                    backoff = Backoff::new();
                }
            }
            let wait = backoff.next(&self.runtime);
            self.starve(wait, queue, &mut held).await;
        }
    }

    /// `Queue::run`.
    async fn run(
        &self,
        link: &Rc<Conn>,
        queue: &Queue,
        held: &mut VecDeque<Write>,
        is_silent: bool,
    ) -> Result<Never, Broken> {
        loop {
            if link.is_broken() {
                return Err(Broken);
            }
            let mut batch: Vec<Write> = held.drain(..).collect();
            while batch.is_empty() {
                batch.extend(queue.writes.borrow_mut().drain(..));
                if !batch.is_empty() {
                    break;
                }
                tokio::select! {
                    biased;
                    () = self.is_broken.notified(), if is_silent => return Err(Broken),
                    () = self.network.broken(link) => return Err(Broken),
                    () = queue.came.notified() => {}
                }
            }
            self.send(link, batch, is_silent).await?;
        }
    }

    /// `Queue::starve`.
    async fn starve(&self, wait: Duration, queue: &Queue, held: &mut VecDeque<Write>) {
        let end = self.runtime.now() + wait;
        loop {
            held.extend(queue.writes.borrow_mut().drain(..));
            let now = self.runtime.now();
            for write in std::mem::take(held) {
                if matches!(write.done, Done::Nobody) && now - write.since < TTL {
                    held.push_back(write);
                } else {
                    write.done.tell(Err(BusError::Down));
                }
            }
            let left = end.saturating_sub(now);
            if left.is_zero() {
                return;
            }
            self.runtime.sleep(left.min(Duration::from_millis(50))).await;
        }
    }

    /// `Queue::send`.
    async fn send(&self, link: &Rc<Conn>, batch: Vec<Write>, is_silent: bool) -> Result<(), Broken> {
        let now = self.runtime.now();
        let (mut commands, mut waiters) = (Vec::new(), Vec::new());
        for write in batch {
            let is_given_up = matches!(&write.done, Done::Task(task) if task.is_closed());
            if is_given_up || now - write.since > TTL {
                write.done.tell(Err(BusError::Down));
                continue;
            }
            commands.push(write.command);
            waiters.push(write.done);
        }
        if commands.is_empty() {
            return Ok(());
        }
        if is_silent {
            return commands.into_iter().try_for_each(|command| self.network.one_way(link, command));
        }
        let answers = self.network.all(link, commands).await;
        match answers {
            Ok(answers) => {
                for (answer, done) in answers.into_iter().zip(waiters) {
                    done.tell(Ok(answer));
                }
                Ok(())
            }
            Err(broken) => {
                for done in waiters {
                    done.tell(Err(BusError::Unknown));
                }
                Err(broken)
            }
        }
    }

    // The debts of cluster.rs.

    fn take_debts(&self) -> Vec<Debt> {
        let mut debts = self.debts.take();
        debts.retain(|debt| match debt {
            Debt::Exit(_, room, id) => !self.is_member(room, id),
            Debt::SignOut(..) => true,
        });
        debts
    }

    fn settle_debts(self: &Rc<Self>) {
        for debt in self.take_debts() {
            // Who comes back may have been entered before this in the queue.
            if let Debt::Exit(_, room, id) = &debt
                && self.is_coming(room, id)
            {
                self.debts.borrow_mut().push(debt);
                continue;
            }
            let command = debt.command();
            self.put(command, self.or_owe(debt));
        }
    }

    async fn pay_debts(&self, link: &Rc<Conn>) -> Result<(), Broken> {
        let debts = self.take_debts();
        if debts.is_empty() {
            return Ok(());
        }
        let paid = self.network.all(link, debts.iter().map(Debt::command).collect()).await;
        if paid.is_err() {
            self.debts.borrow_mut().extend(debts);
        }
        paid.map(|_| ())
    }

    // reader.rs

    async fn link(&self) -> Result<Rc<Conn>, BusError> {
        let open = || self.reader.borrow().clone().filter(|link| !link.is_broken());
        if let Some(link) = open() {
            return Ok(link);
        }
        let mut not_before = self.connecting.lock().await;
        if let Some(link) = open() {
            return Ok(link);
        }
        if self.runtime.now() < *not_before {
            return Err(BusError::Unknown);
        }
        if let Ok(link) = self.network.connect(self.host).await {
            *not_before = Duration::ZERO;
            *self.reader.borrow_mut() = Some(Rc::clone(&link));
            return Ok(link);
        }
        *not_before = self.runtime.now() + self.runtime.ms(50, 200);
        Err(BusError::Unknown)
    }

    async fn many(&self, commands: Vec<Command>) -> Result<Vec<Answer>, BusError> {
        let link = self.link().await?;
        self.network.all(&link, commands).await.map_err(|_| {
            let mut reader = self.reader.borrow_mut();
            if reader.as_ref().is_some_and(|current| Rc::ptr_eq(current, &link)) {
                *reader = None;
            }
            self.network.close(&link);
            BusError::Unknown
        })
    }

    async fn one(&self, command: Command) -> Result<Answer, BusError> {
        self.many(vec![command]).await?.pop().ok_or_else(garbled)
    }

    // ears.rs

    async fn hold(self: &Rc<Self>, topic: String, of: Of) -> Result<Hold, BusError> {
        let topic: Topic = topic.into();
        let (held, must_wake) = self.interest.borrow_mut().hold(&topic, of);
        let hold = Hold(Rc::clone(self), topic);
        if must_wake {
            self.wake.notify_one();
        }
        match held {
            Held::Heard => Ok(hold),
            Held::Soon(soon) => match self.runtime.timeout(PATIENCE, soon).await {
                Ok(Ok(())) => Ok(hold),
                _ => Err(BusError::Down),
            },
        }
    }

    /// `Ears::run`.
    async fn listen(self: Rc<Self>) {
        let mut backoff = Backoff::new();
        for topic in [format!("i:{}", self.boot), "all".to_owned()] {
            drop(self.interest.borrow_mut().hold(&topic.into(), Of::Instances));
        }
        loop {
            self.hear(&mut backoff).await;
            self.is_up.set(false);
            self.interest.borrow_mut().deaf();
            self.runtime.trace(|| format!("{} is deaf", self.name()));
            let wait = backoff.next(&self.runtime);
            self.runtime.sleep(wait).await;
        }
    }

    async fn hear(self: &Rc<Self>, backoff: &mut Backoff) {
        let Ok(link) = self.network.connect(self.host).await else { return };
        let (pushing, pushes) = (Rc::clone(self), Rc::clone(&link));
        self.spawn(async move {
            while let Some((topic, frame)) = pushing.network.pushed(&pushes).await {
                pushing.on_push(&topic, &frame);
            }
        });
        tokio::select! {
            biased;
            () = self.hear_on(&link, backoff) => {}
            () = self.network.broken(&link) => {}
        }
        self.network.close(&link);
    }

    async fn hear_on(self: &Rc<Self>, link: &Rc<Conn>, backoff: &mut Backoff) {
        self.echoed.set(self.runtime.now());
        let mut waits = self.runtime.now();
        let (mut probe_at, mut sweep_at) = (self.runtime.now(), self.runtime.now());
        let mut was_up = false;
        let mut subscribing: Option<LocalBoxFuture<'_, Result<(), Broken>>> = None;
        loop {
            if subscribing.is_none() {
                let wanted = self.interest.borrow_mut().take_wanted(BATCH);
                subscribing = (!wanted.is_empty()).then(|| self.subscribe(link, wanted).boxed_local());
            }
            if !was_up && self.interest.borrow().is_complete() {
                was_up = true;
                *backoff = Backoff::new();
                self.is_up.set(true);
                // `on_hearing` of remote.rs
                self.spawn(Rc::clone(self).compare_positions());
            }
            let now = self.runtime.now();
            if sweep_at <= now {
                sweep_at = now + EARS_SWEEP;
                let left = self.interest.borrow_mut().take_left(self.runtime.instant(), BATCH);
                self.forget(&left);
                let mut topics: Vec<String> = self
                    .interest
                    .borrow_mut()
                    .take_idle(self.runtime.instant(), BATCH)
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                topics.sort();
                if !topics.is_empty() && self.network.unsubscribe(link, topics).await.is_err() {
                    return;
                }
                waits = self.runtime.now();
                continue;
            }
            if probe_at <= now {
                probe_at = now + PROBE;
                if now - waits > STALL {
                    self.echoed.set(now);
                }
                if now.saturating_sub(self.echoed.get()) > SILENCE {
                    self.is_broken.notify_waiters();
                    return;
                }
                let command = Command::Publish { topic: format!("i:{}", self.boot), frame: "probe".to_owned() };
                self.frames.put(Write { command, done: Done::Nobody, since: now });
                waits = now;
                continue;
            }
            let wait = sweep_at.min(probe_at).saturating_sub(now);
            waits = now;
            tokio::select! {
                biased;
                Some(subscribed) = futures_util::future::OptionFuture::from(subscribing.as_mut()) => {
                    subscribing = None;
                    if subscribed.is_err() {
                        return;
                    }
                }
                () = self.wake.notified() => {}
                () = self.runtime.sleep(wait) => {}
            }
        }
    }

    async fn subscribe(&self, link: &Rc<Conn>, mut wanted: Vec<Topic>) -> Result<(), Broken> {
        wanted.sort();
        let topics = wanted.iter().map(ToString::to_string).collect();
        let of = self.interest.borrow().of(&wanted);
        let (subscribed, noted) =
            futures_util::future::join(self.network.subscribe(link, topics), self.note(&of)).await;
        subscribed?;
        if noted.is_ok() {
            self.interest.borrow_mut().heard(&wanted);
        } else {
            self.runtime.sleep(NOTE_RETRY).await;
            self.interest.borrow_mut().want(&wanted);
        }
        Ok(())
    }

    fn on_push(self: &Rc<Self>, topic: &str, frame: &str) {
        if frame == "probe" {
            self.echoed.set(self.runtime.now());
            return;
        }
        let (Some(room), Some(kept)) = (topic.strip_prefix("r:"), frame.strip_prefix('P')) else { return };
        let mut parts = kept.splitn(3, ' ');
        let (offset, epoch, data) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let position = Position { epoch: epoch.into(), offset: offset.parse().unwrap() };
        // `on_kept` of remote.rs
        if self.deliver_at(room, &position, data) == Placed::Gap {
            self.repair(room);
        }
    }

    // registry.rs

    async fn note(&self, of: &[Of]) -> Result<(), BusError> {
        let (rooms, users) = split(of);
        if rooms.is_empty() && users.is_empty() {
            return Ok(());
        }
        let answer = self.ask(Command::Index { me: self.me(), rooms, users }).await?;
        if int(&answer) == 1 { Ok(()) } else { Err(BusError::Down) }
    }

    fn forget(&self, of: &[Of]) {
        let (mut rooms, mut users) = split(of);
        rooms.sort();
        users.sort();
        if !rooms.is_empty() || !users.is_empty() {
            self.put(Command::Forget { me: self.me(), rooms, users }, Done::Nobody);
        }
    }

    async fn enter_all(&self, room: &str, members: &[(String, String)]) -> Result<(), BusError> {
        let members = members.iter().map(|(id, user)| Entering::new(id, user, told_of(room))).collect();
        let command = Command::Enter { me: self.me(), room: room.to_owned(), members };
        match int(&self.ask(command).await?) {
            -1 => Err(BusError::Down),
            _ => Ok(()),
        }
    }

    fn exit(self: &Rc<Self>, room: &str, id: &str) {
        self.exit_as(self.id(), room.to_owned(), id.to_owned());
    }

    fn exit_as(self: &Rc<Self>, me: InstanceId, room: String, id: String) {
        let debt = Debt::Exit(me, room, id);
        self.put(debt.command(), self.or_owe(debt));
    }

    fn or_owe(self: &Rc<Self>, debt: Debt) -> Done {
        let instance = Rc::clone(self);
        Done::Call(Box::new(move |answer| {
            if answer.is_err() {
                instance.debts.borrow_mut().push(debt);
            }
        }))
    }

    async fn sign_in(&self, user: &str, id: &str) -> Result<(), BusError> {
        let (user, connection) = (user.to_owned(), id.to_owned());
        let command = Command::SignIn { me: self.me(), user, connection, max: 1000, closes: false };
        match self.ask(command).await? {
            Answer::SignedIn(..) => Ok(()),
            _ => Err(BusError::Down),
        }
    }

    fn sign_out_as(self: &Rc<Self>, me: InstanceId, user: String, id: String) {
        let debt = Debt::SignOut(me, user, id);
        self.put(debt.command(), self.or_owe(debt));
    }

    async fn take_out_strays(self: &Rc<Self>) -> Result<(), BusError> {
        let me = self.id();
        let rooms = names(self.one(Command::RoomsOf { me: me.to_string() }).await?);
        let ask = |room: &String| Command::MembersOf { me: me.to_string(), room: room.clone() };
        let answers = self.many(rooms.iter().map(ask).collect()).await?;
        for (room, members) in rooms.iter().zip(answers) {
            for id in names(members) {
                if !self.is_coming(room, &id) && !self.is_member(room, &id) {
                    self.exit(room, &id);
                }
            }
        }
        let users = names(self.one(Command::UsersOf { me: me.to_string() }).await?);
        for user in users {
            for member in names(self.one(Command::ConnectionsOf { user: user.clone() }).await?) {
                let Some((id, instance)) = member.split_once('@') else { continue };
                let is_coming = self.arriving.borrow().contains(id);
                if instance == me.to_string() && !is_coming && !self.is_connected(id) {
                    self.sign_out_as(me, user.clone(), id.to_owned());
                }
            }
        }
        Ok(())
    }

    // `Receiver`, as remote.rs has it.

    fn is_member(&self, room: &str, id: &str) -> bool {
        ConnectionId::parse(id).is_some_and(|id| self.hub.is_in(room, id))
    }

    fn is_coming(&self, room: &str, id: &str) -> bool {
        ConnectionId::parse(id).is_some_and(|id| self.hub.is_coming(room, id))
    }

    fn is_connected(&self, id: &str) -> bool {
        ConnectionId::parse(id).is_some_and(|id| self.hub.connection(id).is_some())
    }

    /// Users and connections.
    pub(super) fn users(&self) -> Vec<(String, String)> {
        let all = self.hub.users().into_iter();
        let mut users: Vec<(String, String)> = all
            .flat_map(|(user, devices)| {
                devices.into_iter().map(move |device| (user.to_string(), device.id.to_string()))
            })
            .collect();
        users.sort();
        users
    }

    /// Rooms with their members and those's users.
    pub(super) fn registered(&self) -> BTreeMap<String, Vec<(String, String)>> {
        let members = |room: &str| {
            let members = self.hub.members(room, usize::MAX).into_iter();
            members.map(|member| (member.connection, member.user.to_string())).collect()
        };
        self.hub.rooms().into_iter().map(|room| (room.to_string(), members(&room))).collect()
    }

    // heart.rs

    async fn beat_on(self: Rc<Self>) {
        let mut heart = Heart {
            observer: Observer::new(TTL, SWEEP),
            known: None,
            is_refilling: false,
            next_beat: self.runtime.now(),
        };
        loop {
            let pause = self.step(&mut heart).await;
            tokio::select! {
                biased;
                () = self.has_ended.notified() => {
                    let ended: Vec<_> = self.ended.borrow_mut().drain(..).collect();
                    // `Heart::on_ended`
                    for result in ended.into_iter().flatten() {
                        heart.is_refilling = false;
                        if result.is_err() {
                            self.must_refill.set(true);
                        }
                    }
                }
                () = self.runtime.sleep(pause) => {}
            }
        }
    }

    /// `Heart::step`.
    async fn step(self: &Rc<Self>, heart: &mut Heart) -> Duration {
        let now = self.runtime.now();
        let is_hearing = self.is_up.get();
        let counts = is_hearing && (now >= heart.next_beat || self.must_refill.get());
        let fresh = self.fresh_epoch();
        match self.one(Command::Beat { me: self.me(), fresh, counts }).await {
            Ok(Answer::Deposed) => {
                let before = self.id();
                self.runtime.trace(|| format!("{} was taken for dead as {before}", self.name()));
                self.generation.set(before.generation + 1);
                self.must_refill.set(true);
                heart.next_beat = now;
                return Duration::from_millis(10);
            }
            Ok(Answer::Seen { epoch, line, beats, departed, claims }) => {
                if counts {
                    heart.next_beat = now + HEARTBEAT;
                }
                let map = |map: BTreeMap<String, String>| map.into_iter().collect::<HashMap<_, _>>();
                let look = Look { beats: map(beats), departed: map(departed), claims: map(claims) };
                self.on_seen(heart, (epoch, line), &look, counts);
            }
            _ => {
                heart.observer.lose_touch();
                return self.runtime.spread(SWEEP / 8, SWEEP / 4);
            }
        }
        if !is_hearing {
            return Duration::from_millis(50);
        }
        let next = self.runtime.spread(SWEEP.mul_f64(0.8), SWEEP.mul_f64(1.2));
        next.min(heart.observer.next() + Duration::from_millis(5)).min(heart.next_beat.saturating_sub(now))
    }

    fn on_seen(self: &Rc<Self>, heart: &mut Heart, current: (String, String), look: &Look, counts: bool) {
        let me = self.id();
        if heart.known.as_ref() != Some(&current) {
            if heart.known.is_some() {
                self.must_refill.set(true);
                heart.observer.lose_touch();
            }
            heart.known = Some(current);
        }
        let mut found = heart.observer.look(self.runtime.instant(), &me.to_string(), look);
        let (has_been, before_me) = look.before(me);
        found.extend(before_me);
        found.sort_by(|one, other| one.instance.cmp(&other.instance));
        if self.must_refill.get() && counts && !heart.is_refilling && !has_been {
            heart.is_refilling = true;
            self.must_refill.set(false);
            let instance = Rc::clone(self);
            self.spawn(async move {
                instance.runtime.trace(|| format!("{} refills as {}", instance.name(), instance.id()));
                let result = instance.refill().await;
                instance.runtime.trace(|| format!("{} has refilled: {result:?}", instance.name()));
                instance.end_work(Some(result));
            });
        }
        self.settle_debts();
        for finding in found {
            let instance = Rc::clone(self);
            self.spawn(async move {
                let _taken_up_again = instance.clean_up(&finding).await;
                instance.end_work(None);
            });
        }
    }

    fn end_work(&self, result: Option<Result<(), BusError>>) {
        self.ended.borrow_mut().push_back(result);
        self.has_ended.notify_one();
    }

    async fn refill(self: &Rc<Self>) -> Result<(), BusError> {
        let mut held = self.interest.borrow().all();
        held.sort_by_key(|of| format!("{of:?}"));
        self.note(&held).await?;
        let users = self.users();
        try_join_all(users.iter().map(|(user, connection)| self.sign_in(user, connection))).await?;
        self.take_out_strays().await?;
        let entering = self.registered().into_iter().map(|(room, members)| async move {
            for chunk in members.chunks(REFILL) {
                self.enter_all(&room, chunk).await?;
                for (id, _) in chunk.iter().filter(|(id, _)| !self.is_member(&room, id)) {
                    self.exit(&room, id);
                }
            }
            Ok(())
        });
        try_join_all(entering).await.map(|_| ())
    }

    async fn clean_up(&self, finding: &Finding) -> Result<(), BusError> {
        let dead = finding.instance.clone();
        let token = format!("t{}", self.runtime.fresh());
        let claim = Command::Claim { dead: dead.clone(), seen: finding.seen.clone(), token: token.clone() };
        if int(&self.one(claim).await?) != 1 {
            return Ok(());
        }
        self.runtime.trace(|| format!("{} cleans up after {dead}: {:?}", self.name(), finding.why));
        let (mut rooms, mut users) = (Vec::new(), Vec::new());
        loop {
            let command = Command::Remains { dead: dead.clone(), token: token.clone(), most: STEP, rooms, users };
            match self.one(command).await? {
                Answer::Left(some, others) => (rooms, users) = (some, others),
                _ => return Ok(()),
            }
            // `clean_rooms`
            let mut left = rooms.clone();
            while !left.is_empty() {
                let reap = |room: &String| Command::ReapRoom {
                    dead: dead.clone(),
                    room: room.clone(),
                    most: MEMBERS,
                    order: Vec::new(),
                };
                let answers = self.many(left.iter().map(reap).collect()).await?;
                let is_more = |answer: &Answer| matches!(answer, Answer::Reaped(n, _) if *n > 0);
                left =
                    left.into_iter().zip(answers).filter(|(_, answer)| is_more(answer)).map(|(room, _)| room).collect();
            }
            // `clean_users`
            let reap = |user: &String| Command::ReapUser { dead: dead.clone(), user: user.clone() };
            self.many(users.iter().map(reap).collect()).await?;
        }
    }

    /// `Cluster::depart`, and the end of the gateway.
    pub(super) async fn depart(self: Rc<Self>, grace: u64) {
        self.is_stopping.set(true);
        let sessions: Vec<_> = self.sessions.borrow().values().cloned().collect();
        for session in sessions {
            session.ask(Request::Close);
        }
        self.runtime.sleep(Duration::from_millis(20)).await;
        // `flushed`
        let _in_time = self.ask(Command::ConnectionsOf { user: String::new() }).await;
        if self.one(Command::Depart { me: self.me(), grace }).await.is_ok() {
            let _silent = self.one(Command::Silence { me: self.me() }).await;
        }
    }

    // The router: connect.rs, join.rs, deliver.rs.

    /// A socket that says hello; afterwards its requests, one by one.
    pub(super) fn open(self: &Rc<Self>, user: &str, outbox: Outbox) -> Rc<Session> {
        let id = ConnectionId::parse(&format!("{:016x}{:016x}", self.boot.0, self.runtime.fresh())).unwrap();
        // Nothing is ever written to its socket: the client takes frames out.
        outbox.hold();
        let connection = Connection::new(id, user.into(), "".into(), Encoding::CentrifugeJson, Arc::new(outbox));
        let session = Rc::new(Session {
            connection: Arc::new(connection),
            notes: RefCell::default(),
            requests: RefCell::default(),
            asked: Notify::new(),
            is_in: Cell::new(false),
            is_over: Cell::new(false),
        });
        let (instance, serving) = (Rc::clone(self), Rc::clone(&session));
        self.spawn(async move {
            if instance.is_stopping.get() || instance.connect(&serving).await.is_err() {
                serving.is_over.set(true);
                return;
            }
            serving.is_in.set(true);
            loop {
                let next = serving.requests.borrow_mut().pop_front();
                match next {
                    Some(Request::Join(room, seen)) => {
                        if instance.join(&serving, &room, seen).await.is_err() {
                            serving.tell(Note::Refused(room));
                        }
                    }
                    Some(Request::Leave(room)) => {
                        instance.take_out(&serving.connection, &room, None);
                        serving.tell(Note::Left(room));
                    }
                    Some(Request::Publish(room, data, key)) => instance.publish(&serving, room, data, key),
                    Some(Request::Close) => break,
                    None => serving.asked.notified().await,
                }
            }
            instance.disconnected(&serving.connection);
            serving.is_over.set(true);
        });
        session
    }

    /// `Router::connect` with `sign_in`.
    async fn connect(self: &Rc<Self>, session: &Rc<Session>) -> Result<(), BusError> {
        let connection = &session.connection;
        let user = connection.user.to_string();
        if !user.is_empty() {
            let hold = self.hold(format!("u:{user}"), Of::User(user.clone())).await?;
            self.holds.borrow_mut().insert((connection.id, String::new()), hold);
            self.arriving.borrow_mut().insert(connection.id_text.to_string());
            if let Err(error) = self.sign_in(&user, &connection.id_text).await {
                self.sign_out(connection);
                self.arriving.borrow_mut().remove(&*connection.id_text);
                return Err(error);
            }
        }
        self.hub.add(connection, usize::MAX).unwrap();
        self.arriving.borrow_mut().remove(&*connection.id_text);
        self.sessions.borrow_mut().insert(connection.id, Rc::clone(session));
        Ok(())
    }

    fn sign_out(self: &Rc<Self>, connection: &Connection) {
        if !connection.user.is_empty() {
            self.sign_out_as(self.id(), connection.user.to_string(), connection.id_text.to_string());
        }
        let hold = self.holds.borrow_mut().remove(&(connection.id, String::new()));
        drop(hold);
    }

    /// `Router::disconnected`, for rooms without grace.
    fn disconnected(self: &Rc<Self>, connection: &Arc<Connection>) {
        let mut rooms = self.hub.remove(connection).unwrap_or_default();
        rooms.sort();
        self.sign_out(connection);
        for room in rooms {
            self.take_out(connection, &room, None);
        }
        self.sessions.borrow_mut().remove(&connection.id);
    }

    fn let_go(&self, id: ConnectionId, room: &str) {
        let hold = self.holds.borrow_mut().remove(&(id, room.to_owned()));
        drop(hold);
    }

    /// `Router::enter_reserved`; a room that keeps messages is recoverable.
    async fn join(
        self: &Rc<Self>,
        session: &Rc<Session>,
        name: &str,
        seen: Option<(Arc<str>, u64)>,
    ) -> Result<(), BusError> {
        let connection = &session.connection;
        if connection.membership(name).is_some() {
            return Err(BusError::Down);
        }
        let room: Arc<str> = name.into();
        let place = self.hub.reserve(connection, &room, usize::MAX).map_err(|_| BusError::Down)?;
        let mut is_entering = false;
        let entered = self.enter_reserved(session, &room, place, seen, &mut is_entering).await;
        if entered.is_err() {
            self.hub.give_up(connection, &room, place, || {
                if is_entering {
                    self.exit(&room, &connection.id_text);
                }
            });
            self.let_go(connection.id, &room);
        }
        entered
    }

    async fn enter_reserved(
        self: &Rc<Self>,
        session: &Rc<Session>,
        room: &Arc<str>,
        place: crate::hub::Place,
        seen: Option<(Arc<str>, u64)>,
        is_entering: &mut bool,
    ) -> Result<(), BusError> {
        let connection = &session.connection;
        let hold = self.hold(format!("r:{room}"), Of::Room(room.to_string())).await?;
        self.holds.borrow_mut().insert((connection.id, room.to_string()), hold);
        let member = (connection.id_text.to_string(), connection.user.to_string());
        *is_entering = true;
        self.enter_all(room, std::slice::from_ref(&member)).await?;
        let membership = Membership {
            publish: Permission::Configured,
            presence: Permission::Configured,
            info: "".into(),
            kept: Keeping::default(),
            registered: None,
            lease: None,
        };
        let entrant =
            |stand| hub::Entrant { membership, place, stand, listening: hub::Listening::default(), slow: None };
        let joined = |position, head, recovered| {
            session.frame(Note::Joined { room: room.to_string(), position, head, recovered })
        };
        if !keeps(room) {
            let told = Told { own: Some(joined(None, None, None)), ..Told::default() };
            let joined = self.hub.join(connection, room, entrant(Stand::Live), &told, &mut self.batch());
            return joined.map_err(|_| BusError::Down);
        }
        let held = Stand::Held(Waiting::default());
        self.hub
            .join(connection, room, entrant(held), &Told::default(), &mut self.batch())
            .map_err(|_| BusError::Down)?;
        let range = seen
            .as_ref()
            .map_or(Range::Nothing, |(_, offset)| Range::Forward { since: Some(*offset), limit: RECOVERY_MAX });
        let (reading, head) = self.read(room, range).await?;
        let recovered = seen.and_then(|(epoch, offset)| reading.missed(&epoch, offset).map(<[Kept]>::to_vec));
        let position = reading.position();
        let frame = joined(Some(position.clone()), head, recovered);
        if !self.hub.release(connection, room, place, &position, Some(&frame), true, &mut self.batch()) {
            self.repair(room);
            return Err(BusError::Down);
        }
        Ok(())
    }

    /// `Router::take_out`.
    fn take_out(self: &Rc<Self>, connection: &Connection, room: &str, own: Option<Bytes>) {
        self.hub.turn_back(connection, room);
        if self.hub.leave(connection, room, &Told { own, ..Told::default() }, &mut self.batch()).is_some() {
            self.exit(room, &connection.id_text);
            self.let_go(connection.id, room);
        }
    }

    /// `Router::append`.
    fn publish(self: &Rc<Self>, session: &Rc<Session>, room: String, data: String, key: String) {
        let (size, age) = KEEP;
        let (fresh, frame) = (self.fresh_epoch(), data.clone());
        let session = Rc::clone(session);
        let done = Done::Call(Box::new(move |answer| session.tell(Note::Published(data, answer.is_ok()))));
        self.put(Command::Append { room, fresh, frame, size, age, key: Some(key) }, done);
    }

    async fn read(&self, room: &str, range: Range) -> Result<(Reading, Option<String>), BusError> {
        let fresh = self.fresh_epoch();
        reading(self.one(Command::Read { room: room.to_owned(), fresh, range, age: KEEP.1 }).await?)
    }

    fn deliver_at(&self, room: &str, position: &Position, data: &str) -> Placed {
        let push = Push::Publication(Publication {
            room,
            payload: PayloadRef::Text(data),
            sender: None,
            tags: &[],
            offset: position.offset,
        });
        self.hub.deliver_at(room, position, &Broadcast::new(push), &mut self.batch())
    }

    // repair.rs

    fn repair(self: &Rc<Self>, room: &str) {
        if let Some(again) = self.repairs.borrow_mut().get_mut(room) {
            *again = true;
            return;
        }
        self.repairs.borrow_mut().insert(room.to_owned(), false);
        let (instance, room) = (Rc::clone(self), room.to_owned());
        self.spawn(async move {
            loop {
                if !instance.repair_once(&room).await {
                    instance.runtime.sleep(RETRY).await;
                    continue;
                }
                let mut repairs = instance.repairs.borrow_mut();
                if repairs.get(&room) != Some(&true) {
                    repairs.remove(&room);
                    return;
                }
                repairs.insert(room.clone(), false);
            }
        });
    }

    async fn repair_once(self: &Rc<Self>, room: &str) -> bool {
        loop {
            let Some(at) = self.hub.position(room) else { return true };
            let range = Range::Forward { since: Some(at.offset), limit: RECOVERY_MAX };
            let Ok((reading, _)) = self.read(room, range).await else { return false };
            let top = reading.position();
            if !reading.continues(&at.epoch, at.offset) {
                if self.lost(room, &at, &top, true) {
                    return true;
                }
                continue;
            }
            let from = Position { epoch: Arc::clone(&reading.epoch), offset: at.offset };
            if from != at && !self.lost(room, &at, &from, false) {
                continue;
            }
            let Some(last) = reading.messages.last().map(|kept| kept.offset) else {
                if reading.top <= at.offset || self.lost(room, &from, &top, true) {
                    return true;
                }
                continue;
            };
            if !self.deliver_read(room, &reading) {
                let Some(at) = self.hub.position(room) else { return true };
                if self.lost(room, &at, &top, true) {
                    return true;
                }
                continue;
            }
            if last >= reading.top {
                return true;
            }
        }
    }

    fn deliver_read(&self, room: &str, reading: &Reading) -> bool {
        for kept in &reading.messages {
            let position = Position { epoch: Arc::clone(&reading.epoch), offset: kept.offset };
            match self.deliver_at(room, &position, std::str::from_utf8(&kept.frame).unwrap()) {
                Placed::Delivered(_) | Placed::Before => {}
                Placed::Gap => return false,
                Placed::Nobody => return true,
            }
        }
        true
    }

    fn lost(self: &Rc<Self>, room: &str, from: &Position, to: &Position, to_all: bool) -> bool {
        let Some(connections) = self.hub.move_position(room, from, to, to_all) else { return false };
        for connection in connections {
            let session = self.sessions.borrow().get(&connection.id).cloned();
            let own = session.map(|session| session.frame(Note::Lost(room.to_owned())));
            self.take_out(&connection, room, own);
        }
        true
    }

    async fn watch_positions(self: Rc<Self>) {
        loop {
            self.runtime.sleep(LOOK).await;
            Rc::clone(&self).compare_positions().await;
        }
    }

    async fn compare_positions(self: Rc<Self>) {
        let mut rooms = self.hub.positions();
        rooms.sort_by(|one, other| one.0.cmp(&other.0));
        if rooms.is_empty() {
            return;
        }
        let ask = |(room, _): &(Arc<str>, Position)| Command::Read {
            room: room.to_string(),
            fresh: self.fresh_epoch(),
            range: Range::Nothing,
            age: KEEP.1,
        };
        let Ok(answers) = self.many(rooms.iter().map(ask).collect()).await else { return };
        for ((room, at), answer) in rooms.iter().zip(answers) {
            if reading(answer).is_ok_and(|(reading, _)| reading.epoch != at.epoch || reading.top > at.offset) {
                self.repair(room);
            }
        }
    }
}

fn split(of: &[Of]) -> (Vec<String>, Vec<String>) {
    let (mut rooms, mut users) = (Vec::new(), Vec::new());
    for of in of {
        match of {
            Of::Room(room) => rooms.push(room.clone()),
            Of::User(user) => users.push(user.clone()),
            Of::Instances => {}
        }
    }
    (rooms, users)
}
