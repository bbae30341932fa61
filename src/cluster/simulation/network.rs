//! The server behind its network, and what can happen to both.
//!
//! A connection keeps the order of what goes through it, each way. Where a way
//! is cut, what was sent waits, as TCP would have it: when the way is mended it
//! arrives late, even if whoever sent it has long given up, or the connection
//! turns out to be lost. A paused server carries out later what came meanwhile.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use super::{
    runtime::Runtime,
    store::{Answer, Command, Context, Effects, State},
};

/// As `CONNECT_TIMEOUT` of link.rs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// As `bus.timeout`.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// Commands by which a replica may lag behind.
const LAG: usize = 48;

/// Pushes that the server keeps for one that does not take them.
const BUFFER: usize = 400;

/// The connection is gone, or was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

enum Up {
    Hello,
    Command(Command),
    Subscribe(Vec<String>),
    Unsubscribe(Vec<String>),
    /// Another connection is ended.
    Kill(Rc<Conn>),
    Close,
}

enum Down {
    Answer(Answer, oneshot::Sender<Answer>),
    Push(String, String),
}

/// One connection, both ends.
pub(super) struct Conn {
    host: usize,
    /// What its user knows.
    is_broken: Cell<bool>,
    is_closed: Cell<bool>,
    broke: Notify,
    /// What the server knows.
    is_served: Cell<bool>,
    subscribed: RefCell<BTreeSet<String>>,
    /// When the last packet arrives, each way.
    last: [Cell<Duration>; 2],
    /// What waits where a way is cut.
    up: RefCell<VecDeque<(Up, Option<oneshot::Sender<Answer>>)>>,
    down: RefCell<VecDeque<Down>>,
    /// What was said unasked; None: that was all.
    pushed: RefCell<VecDeque<Option<(String, String)>>>,
    came: Notify,
}

impl Conn {
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }
}

/// What is wrong between one host and the server.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Way {
    pub(super) is_cut_up: bool,
    pub(super) is_cut_down: bool,
    /// Of a hundred pushes, how many are lost.
    pub(super) loses: u64,
}

struct Server {
    state: State,
    replica: State,
    /// What the replica has not had.
    behind: VecDeque<(Context, Command)>,
    line: u64,
    is_paused: bool,
    /// Nobody can connect before.
    opens: Duration,
    conns: Vec<Rc<Conn>>,
    waiting: Vec<(Rc<Conn>, Up, Option<oneshot::Sender<Answer>>)>,
}

/// Told of everything that the server does.
pub(super) type Watch = Box<dyn Fn(&State, &Command, &Answer, &Effects)>;

pub(super) struct Network {
    runtime: Runtime,
    server: RefCell<Server>,
    ways: RefCell<BTreeMap<usize, Way>>,
    watch: RefCell<Option<Watch>>,
}

impl Network {
    pub(super) fn new(runtime: &Runtime) -> Rc<Self> {
        let server = Server {
            state: State::default(),
            replica: State::default(),
            behind: VecDeque::new(),
            line: 1,
            is_paused: false,
            opens: Duration::ZERO,
            conns: Vec::new(),
            waiting: Vec::new(),
        };
        Rc::new(Self {
            runtime: runtime.clone(),
            server: RefCell::new(server),
            ways: RefCell::default(),
            watch: RefCell::default(),
        })
    }

    pub(super) fn watch(&self, watch: Watch) {
        *self.watch.borrow_mut() = Some(watch);
    }

    pub(super) fn end(&self) {
        self.watch.take();
        self.server.borrow_mut().conns.clear();
        self.server.borrow_mut().waiting.clear();
    }

    /// Looks at what the server holds.
    pub(super) fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.server.borrow_mut().state)
    }

    fn way(&self, host: usize) -> Way {
        self.ways.borrow().get(&host).copied().unwrap_or_default()
    }

    // What an instance does.

    pub(super) async fn connect(self: &Rc<Self>, host: usize) -> Result<Rc<Conn>, Broken> {
        let conn = Rc::new(Conn {
            host,
            is_broken: Cell::new(false),
            is_closed: Cell::new(false),
            broke: Notify::new(),
            is_served: Cell::new(true),
            subscribed: RefCell::default(),
            last: Default::default(),
            up: RefCell::default(),
            down: RefCell::default(),
            pushed: RefCell::default(),
            came: Notify::new(),
        });
        let answer = self.send(&conn, Up::Hello);
        match self.runtime.timeout(CONNECT_TIMEOUT, answer).await {
            Ok(Ok(_)) => Ok(conn),
            _ => {
                self.close(&conn);
                Err(Broken)
            }
        }
    }

    /// Sends a command to whose answer nobody listens.
    pub(super) fn one_way(self: &Rc<Self>, conn: &Rc<Conn>, command: Command) -> Result<(), Broken> {
        if conn.is_broken.get() {
            return Err(Broken);
        }
        self.post(conn, Up::Command(command), None);
        Ok(())
    }

    /// Waits until a connection is found to be gone.
    pub(super) async fn broken(&self, conn: &Conn) {
        if !conn.is_broken.get() {
            conn.broke.notified().await;
        }
    }

    /// Sends commands in one go and waits for all answers.
    pub(super) async fn all(self: &Rc<Self>, conn: &Rc<Conn>, commands: Vec<Command>) -> Result<Vec<Answer>, Broken> {
        let sent: Vec<_> = commands.into_iter().map(|command| self.send(conn, Up::Command(command))).collect();
        match self.runtime.timeout(TIMEOUT, futures_util::future::join_all(sent)).await {
            Ok(answers) => answers.into_iter().collect(),
            Err(_late) => Err(Broken),
        }
    }

    pub(super) async fn subscribe(self: &Rc<Self>, conn: &Rc<Conn>, topics: Vec<String>) -> Result<(), Broken> {
        let sent = self.send(conn, Up::Subscribe(topics));
        self.runtime.timeout(TIMEOUT, sent).await.map_err(|_| Broken)?.map(|_| ())
    }

    pub(super) async fn unsubscribe(self: &Rc<Self>, conn: &Rc<Conn>, topics: Vec<String>) -> Result<(), Broken> {
        let sent = self.send(conn, Up::Unsubscribe(topics));
        self.runtime.timeout(TIMEOUT, sent).await.map_err(|_| Broken)?.map(|_| ())
    }

    /// Ends another connection: of what it had sent, nothing is carried out any
    /// more.
    pub(super) async fn kill(self: &Rc<Self>, conn: &Rc<Conn>, other: Rc<Conn>) -> Result<(), Broken> {
        let sent = self.send(conn, Up::Kill(other));
        self.runtime.timeout(TIMEOUT, sent).await.map_err(|_| Broken)?.map(|_| ())
    }

    /// The next thing said unasked; None: the connection is gone.
    pub(super) async fn pushed(&self, conn: &Conn) -> Option<(String, String)> {
        loop {
            let next = conn.pushed.borrow_mut().pop_front();
            match next {
                Some(push) => return push,
                None => conn.came.notified().await,
            }
        }
    }

    /// Its user has done with it. What was sent is still on its way.
    pub(super) fn close(self: &Rc<Self>, conn: &Rc<Conn>) {
        if !conn.is_closed.replace(true) {
            self.post(conn, Up::Close, None);
        }
    }

    fn send(self: &Rc<Self>, conn: &Rc<Conn>, up: Up) -> impl Future<Output = Result<Answer, Broken>> + use<> {
        let (sender, receiver) = oneshot::channel();
        let (network, conn) = (Rc::clone(self), Rc::clone(conn));
        if !conn.is_broken.get() {
            network.post(&conn, up, Some(sender));
        }
        async move {
            if conn.is_broken.get() {
                return Err(Broken);
            }
            tokio::select! {
                biased;
                answer = receiver => answer.map_err(|_| Broken),
                () = conn.broke.notified() => Err(Broken),
            }
        }
    }

    fn post(self: &Rc<Self>, conn: &Rc<Conn>, up: Up, answer: Option<oneshot::Sender<Answer>>) {
        let (network, target) = (Rc::clone(self), Rc::clone(conn));
        self.runtime.after(self.travel(conn, 0), move || network.arrive(&target, up, answer));
    }

    /// How long the next packet takes; it does not overtake.
    fn travel(&self, conn: &Conn, way: usize) -> Duration {
        let slow = self.runtime.chance(2);
        let latency = self.runtime.spread(Duration::from_micros(200), Duration::from_millis(if slow { 60 } else { 3 }));
        let now = self.runtime.now();
        let at = (now + latency).max(conn.last[way].get() + Duration::from_micros(1));
        conn.last[way].set(at);
        at - now
    }

    // What happens in between.

    fn arrive(self: &Rc<Self>, conn: &Rc<Conn>, up: Up, answer: Option<oneshot::Sender<Answer>>) {
        if self.way(conn.host).is_cut_up || !conn.up.borrow().is_empty() {
            conn.up.borrow_mut().push_back((up, answer));
            return;
        }
        if !conn.is_served.get() {
            self.end_connection(conn);
            return;
        }
        if self.server.borrow().is_paused {
            self.server.borrow_mut().waiting.push((Rc::clone(conn), up, answer));
            return;
        }
        self.serve(conn, up, answer);
    }

    fn serve(self: &Rc<Self>, conn: &Rc<Conn>, up: Up, answer: Option<oneshot::Sender<Answer>>) {
        let done = match up {
            Up::Hello => {
                if self.runtime.now() < self.server.borrow().opens {
                    conn.is_served.set(false);
                    self.end_connection(conn);
                    return;
                }
                self.server.borrow_mut().conns.push(Rc::clone(conn));
                Answer::Int(0)
            }
            Up::Command(command) => self.execute(&command),
            Up::Subscribe(topics) => {
                conn.subscribed.borrow_mut().extend(topics);
                Answer::Int(0)
            }
            Up::Unsubscribe(topics) => {
                conn.subscribed.borrow_mut().retain(|topic| !topics.contains(topic));
                Answer::Int(0)
            }
            Up::Kill(other) => {
                if other.is_served.get() {
                    self.reset(&other);
                }
                Answer::Int(0)
            }
            Up::Close => {
                conn.is_served.set(false);
                self.server.borrow_mut().conns.retain(|other| !Rc::ptr_eq(other, conn));
                return;
            }
        };
        if let Some(answer) = answer {
            self.reply(conn, Down::Answer(done, answer));
        }
    }

    fn execute(self: &Rc<Self>, command: &Command) -> Answer {
        let mut effects = Effects::default();
        let (answer, hearers) = {
            let mut server = self.server.borrow_mut();
            let Server { state, replica, behind, line, conns, .. } = &mut *server;
            let now = u64::try_from(self.runtime.now().as_millis()).unwrap();
            let context = Context { now, line: format!("{line:x}") };
            let answer = state.run(&context, command, &mut effects);
            behind.push_back((context, command.clone()));
            if behind.len() > LAG
                && let Some((context, command)) = behind.pop_front()
            {
                replica.run(&context, &command, &mut Effects::default());
            }
            (answer, conns.clone())
        };
        if let Some(watch) = &*self.watch.borrow() {
            watch(&self.server.borrow().state, command, &answer, &effects);
        }
        for (topic, frame) in effects.published {
            for conn in hearers.iter().filter(|conn| conn.subscribed.borrow().contains(&topic)) {
                if !self.runtime.chance(self.way(conn.host).loses) {
                    self.reply(conn, Down::Push(topic.clone(), frame.clone()));
                }
            }
        }
        answer
    }

    fn reply(self: &Rc<Self>, conn: &Rc<Conn>, down: Down) {
        let (network, target) = (Rc::clone(self), Rc::clone(conn));
        self.runtime.after(self.travel(conn, 1), move || network.receive(&target, down));
    }

    fn receive(self: &Rc<Self>, conn: &Rc<Conn>, down: Down) {
        if self.way(conn.host).is_cut_down || !conn.down.borrow().is_empty() {
            conn.down.borrow_mut().push_back(down);
        } else {
            self.hand_over(conn, down);
        }
    }

    fn hand_over(self: &Rc<Self>, conn: &Rc<Conn>, down: Down) {
        if conn.is_broken.get() || conn.is_closed.get() {
            return;
        }
        match down {
            Down::Answer(answer, to) => drop(to.send(answer)),
            Down::Push(topic, frame) => {
                let waiting = {
                    let mut pushed = conn.pushed.borrow_mut();
                    pushed.push_back(Some((topic, frame)));
                    pushed.len()
                };
                conn.came.notify_one();
                if waiting > BUFFER {
                    self.reset(conn);
                }
            }
        }
    }

    /// The server knows nothing of it any more; its user learns it when a word
    /// comes through.
    fn reset(self: &Rc<Self>, conn: &Rc<Conn>) {
        conn.is_served.set(false);
        self.server.borrow_mut().conns.retain(|other| !Rc::ptr_eq(other, conn));
        self.end_connection(conn);
    }

    fn end_connection(self: &Rc<Self>, conn: &Rc<Conn>) {
        let (network, target) = (Rc::clone(self), Rc::clone(conn));
        self.runtime.after(self.travel(conn, 1), move || {
            if network.way(target.host).is_cut_down || target.is_broken.replace(true) {
                return;
            }
            target.broke.notify_waiters();
            target.pushed.borrow_mut().push_back(None);
            target.came.notify_one();
        });
    }

    // What the seed does to it.

    /// The server does something by itself.
    pub(super) fn happen(self: &Rc<Self>, command: &Command) {
        self.execute(command);
    }

    pub(super) fn cut(&self, host: usize, up: bool, down: bool) {
        let mut ways = self.ways.borrow_mut();
        let way = ways.entry(host).or_default();
        way.is_cut_up |= up;
        way.is_cut_down |= down;
    }

    pub(super) fn lose(&self, host: usize, percent: u64) {
        self.ways.borrow_mut().entry(host).or_default().loses = percent;
    }

    /// The way is mended. `conns` are those that began before.
    pub(super) fn mend(self: &Rc<Self>, host: usize, conns: &[Rc<Conn>]) {
        {
            let mut ways = self.ways.borrow_mut();
            let way = ways.entry(host).or_default();
            (way.is_cut_up, way.is_cut_down) = (false, false);
        }
        for conn in conns.iter().filter(|conn| conn.host == host) {
            if !conn.is_served.get() {
                conn.up.borrow_mut().clear();
                conn.down.borrow_mut().clear();
                self.end_connection(conn);
                continue;
            }
            if self.runtime.chance(40) {
                conn.up.borrow_mut().clear();
                conn.down.borrow_mut().clear();
                self.reset(conn);
                continue;
            }
            // It is sent once more, now or some time after.
            let (network, target) = (Rc::clone(self), Rc::clone(conn));
            self.runtime.after(self.runtime.ms(0, 3000), move || network.flush(&target));
        }
    }

    fn flush(self: &Rc<Self>, conn: &Rc<Conn>) {
        let way = self.way(conn.host);
        if !way.is_cut_up {
            let waiting = conn.up.take();
            for (up, answer) in waiting {
                self.arrive(conn, up, answer);
            }
        }
        if !way.is_cut_down {
            let waiting = conn.down.take();
            for down in waiting {
                self.hand_over(conn, down);
            }
        }
    }

    /// All connections that the server knows.
    pub(super) fn conns(&self) -> Vec<Rc<Conn>> {
        self.server.borrow().conns.clone()
    }

    /// A host has ended, and its kernel says so.
    pub(super) fn close_all(self: &Rc<Self>, host: usize) {
        for conn in self.conns().iter().filter(|conn| conn.host == host) {
            self.close(conn);
        }
    }

    /// The connections of a host are reset.
    pub(super) fn reset_host(self: &Rc<Self>, host: usize) {
        for conn in self.conns().iter().filter(|conn| conn.host == host) {
            self.reset(conn);
        }
    }

    pub(super) fn pause(&self) {
        self.server.borrow_mut().is_paused = true;
    }

    pub(super) fn resume(self: &Rc<Self>) {
        let waiting = {
            let mut server = self.server.borrow_mut();
            server.is_paused = false;
            std::mem::take(&mut server.waiting)
        };
        for (conn, up, answer) in waiting {
            if conn.is_served.get() {
                self.serve(&conn, up, answer);
            }
        }
    }

    /// Another server takes over. It has not had the last `lost` commands;
    /// None: it has nothing. It can be reached after `gap`.
    pub(super) fn fail_over(self: &Rc<Self>, lost: Option<usize>, gap: Duration) {
        let conns = {
            let mut server = self.server.borrow_mut();
            let Server { state, replica, behind, .. } = &mut *server;
            match lost {
                Some(lost) => {
                    let keep = behind.len().saturating_sub(lost);
                    for (context, command) in behind.drain(..keep) {
                        replica.run(&context, &command, &mut Effects::default());
                    }
                }
                None => *replica = State::default(),
            }
            behind.clear();
            state.clone_from(replica);
            server.line += 1;
            server.is_paused = false;
            server.opens = self.runtime.now() + gap;
            server.waiting.clear();
            std::mem::take(&mut server.conns)
        };
        for conn in conns {
            conn.is_served.set(false);
            self.end_connection(&conn);
        }
    }
}
