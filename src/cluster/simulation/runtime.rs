//! Time, chance and tasks of a simulation: one thread, no clock but its own,
//! and of what is ready the seed says what runs first.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Where tasks run that belong to no instance.
pub(super) const WORLD: usize = 0;

/// Splitmix64: small, and the same everywhere.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Tasks that are to be polled.
type Ready = Arc<Mutex<Vec<u64>>>;

struct Task {
    host: usize,
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

#[derive(Default)]
struct Host {
    is_paused: bool,
    is_dead: bool,
    /// Woken while it was paused.
    held: BTreeSet<u64>,
}

struct Alarm {
    id: u64,
    ready: Ready,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.ready.lock().push(self.id);
    }
}

/// What happens when, in order.
type Timers = BTreeMap<(Duration, u64), Box<dyn FnOnce()>>;

struct Inner {
    start: Instant,
    now: Cell<Duration>,
    next: Cell<u64>,
    random: RefCell<Random>,
    timers: RefCell<Timers>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    ready: Ready,
    hosts: RefCell<Vec<Host>>,
    /// None: nobody wants it.
    trace: Option<RefCell<Vec<String>>>,
}

/// A handle on all of it.
#[derive(Clone)]
pub(super) struct Runtime(Rc<Inner>);

/// It took too long.
#[derive(Debug)]
pub(super) struct Late;

impl Runtime {
    pub(super) fn new(seed: u64, is_traced: bool) -> Self {
        Self(Rc::new(Inner {
            start: Instant::now(),
            now: Cell::default(),
            next: Cell::default(),
            random: RefCell::new(Random(seed)),
            timers: RefCell::default(),
            tasks: RefCell::default(),
            ready: Ready::default(),
            hosts: RefCell::new(vec![Host::default()]),
            trace: is_traced.then(RefCell::default),
        }))
    }

    /// Since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.0.now.get()
    }

    /// The same for those who count in instants.
    pub(super) fn instant(&self) -> Instant {
        self.0.start + self.now()
    }

    /// A number that has not been given out before.
    pub(super) fn fresh(&self) -> u64 {
        let next = self.0.next.get() + 1;
        self.0.next.set(next);
        next
    }

    pub(super) fn below(&self, n: u64) -> u64 {
        self.0.random.borrow_mut().next() % n.max(1)
    }

    pub(super) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Anything from `from` to `to`, both in milliseconds.
    pub(super) fn ms(&self, from: u64, to: u64) -> Duration {
        self.spread(Duration::from_millis(from), Duration::from_millis(to))
    }

    /// As [`super::super::backoff::spread`].
    pub(super) fn spread(&self, from: Duration, to: Duration) -> Duration {
        let range = u64::try_from(to.saturating_sub(from).as_micros()).unwrap();
        from + Duration::from_micros(self.below(range + 1))
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        from.get(usize::try_from(self.below(from.len() as u64)).unwrap())
    }

    pub(super) fn trace(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.0.trace {
            let line = format!("{:>9.4} {}", self.now().as_secs_f64(), line());
            trace.borrow_mut().push(line);
        }
    }

    pub(super) fn traced(&self) -> Vec<String> {
        self.0.trace.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// A place for tasks that can be paused and killed.
    pub(super) fn host(&self) -> usize {
        self.0.hosts.borrow_mut().push(Host::default());
        self.0.hosts.borrow().len() - 1
    }

    pub(super) fn spawn(&self, host: usize, future: impl Future<Output = ()> + 'static) {
        if self.0.hosts.borrow()[host].is_dead {
            return;
        }
        let id = self.fresh();
        let waker = Waker::from(Arc::new(Alarm { id, ready: Arc::clone(&self.0.ready) }));
        self.0.tasks.borrow_mut().insert(id, Task { host, future: Box::pin(future), waker });
        self.0.ready.lock().push(id);
    }

    pub(super) fn is_paused(&self, host: usize) -> bool {
        self.0.hosts.borrow()[host].is_paused
    }

    /// Nothing of it runs until it is resumed; time goes on.
    pub(super) fn pause(&self, host: usize) {
        self.0.hosts.borrow_mut()[host].is_paused = true;
    }

    pub(super) fn resume(&self, host: usize) {
        let held = {
            let host = &mut self.0.hosts.borrow_mut()[host];
            host.is_paused = false;
            std::mem::take(&mut host.held)
        };
        self.0.ready.lock().extend(held);
    }

    /// Nothing of it runs any more.
    pub(super) fn kill(&self, host: usize) {
        self.0.hosts.borrow_mut()[host].is_dead = true;
        let ids: Vec<u64> =
            self.0.tasks.borrow().iter().filter(|(_, task)| task.host == host).map(|(id, _)| *id).collect();
        for id in ids {
            let task = self.0.tasks.borrow_mut().remove(&id);
            drop(task);
        }
    }

    /// Does something a little later.
    pub(super) fn after(&self, delay: Duration, act: impl FnOnce() + 'static) {
        let key = (self.now() + delay, self.fresh());
        self.0.timers.borrow_mut().insert(key, Box::new(act));
    }

    pub(super) fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + use<> {
        let state: Rc<RefCell<(bool, Option<Waker>)>> = Rc::default();
        let shared = Rc::clone(&state);
        self.after(delay, move || {
            let waker = {
                let mut state = shared.borrow_mut();
                state.0 = true;
                state.1.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        std::future::poll_fn(move |context: &mut Context<'_>| {
            let mut state = state.borrow_mut();
            if state.0 {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        })
    }

    pub(super) async fn timeout<T>(&self, delay: Duration, future: impl Future<Output = T>) -> Result<T, Late> {
        match select(pin!(future), pin!(self.sleep(delay))).await {
            Either::Left((value, _)) => Ok(value),
            Either::Right(_) => Err(Late),
        }
    }

    /// Runs until a time.
    pub(super) fn run_until(&self, end: Duration) {
        loop {
            while self.poll_one() {}
            let timer = {
                let mut timers = self.0.timers.borrow_mut();
                match timers.first_key_value() {
                    Some(((at, _), _)) if *at <= end => timers.pop_first(),
                    _ => None,
                }
            };
            let Some(((at, _), act)) = timer else { break };
            self.0.now.set(at);
            act();
        }
        self.0.now.set(end);
    }

    fn poll_one(&self) -> bool {
        let id = {
            let mut ready = self.0.ready.lock();
            if ready.is_empty() {
                return false;
            }
            let at = usize::try_from(self.below(ready.len() as u64)).unwrap();
            let id = ready.swap_remove(at);
            ready.retain(|other| *other != id);
            id
        };
        let Some(mut task) = self.0.tasks.borrow_mut().remove(&id) else { return true };
        if self.is_paused(task.host) {
            self.0.hosts.borrow_mut()[task.host].held.insert(id);
            self.0.tasks.borrow_mut().insert(id, task);
            return true;
        }
        let waker = task.waker.clone();
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            && !self.0.hosts.borrow()[task.host].is_dead
        {
            self.0.tasks.borrow_mut().insert(id, task);
        }
        true
    }

    /// Drops everything, so that nothing keeps itself alive in a circle.
    pub(super) fn end(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        let timers = std::mem::take(&mut *self.0.timers.borrow_mut());
        drop(timers);
    }
}
