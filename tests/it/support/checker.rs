//! What was sent against what came: finds lost, repeated and reordered messages.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// How many findings a report spells out.
const EXAMPLES: usize = 20;

/// How many receivers every receiver's order is compared to.
const COMPARED: usize = 16;

/// What makes a message unlike any other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// The log it belongs to: messages of other tests are none of ours.
    pub run: u32,
    pub room: Arc<str>,
    pub sender: Arc<str>,
    /// From 1, of this sender in this room.
    pub seq: u64,
}

impl Stamp {
    /// As the data of a message.
    pub fn data(&self) -> Value {
        json!({ "run": self.run, "room": &*self.room, "sender": &*self.sender, "seq": self.seq })
    }

    /// From the data of a message; other fields may be beside it.
    pub fn read(data: &Value) -> Option<Self> {
        Some(Self {
            run: data["run"].as_u64()?.try_into().ok()?,
            room: data["room"].as_str()?.into(),
            sender: data["sender"].as_str()?.into(),
            seq: data["seq"].as_u64()?,
        })
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} in {}", self.seq, self.sender, self.room)
    }
}

/// Something that happened.
#[derive(Debug, Clone)]
enum Event {
    Sent(Stamp),
    Acked(Stamp),
    Refused(Stamp),
    Joined(Arc<str>, Arc<str>),
    Left(Arc<str>, Arc<str>),
    Received(Arc<str>, Stamp),
    Gap(Arc<str>, Arc<str>),
}

/// What senders and receivers saw, in the order they saw it. Clones write to
/// the same log.
#[derive(Debug, Clone)]
pub struct Log {
    run: u32,
    start: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    events: Vec<(Duration, Event)>,
    last_seqs: HashMap<(Arc<str>, Arc<str>), u64>,
    recoverable: HashSet<Arc<str>>,
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

impl Log {
    pub fn new() -> Self {
        // Unlike those of other tests, of this process and others.
        static LOGS: AtomicU32 = AtomicU32::new(0);
        let run = std::process::id().wrapping_mul(1 << 10).wrapping_add(LOGS.fetch_add(1, Ordering::Relaxed));
        Self { run, start: Instant::now(), inner: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, event: Event) {
        // The time under the lock, so that it never goes back.
        let mut inner = self.inner();
        let at = self.start.elapsed();
        inner.events.push((at, event));
    }

    /// Says that a room keeps history: its messages have one order for all,
    /// and one that anybody got is owed to everybody.
    pub fn recoverable(&self, room: &str) {
        self.inner().recoverable.insert(room.into());
    }

    /// The stamp of a sender's next message in a room, which it sends now.
    pub fn send(&self, sender: &str, room: &str) -> Stamp {
        let (room, sender): (Arc<str>, Arc<str>) = (room.into(), sender.into());
        let mut inner = self.inner();
        let seq = inner.last_seqs.entry((room.clone(), sender.clone())).or_default();
        *seq += 1;
        let stamp = Stamp { run: self.run, room, sender, seq: *seq };
        let at = self.start.elapsed();
        inner.events.push((at, Event::Sent(stamp.clone())));
        stamp
    }

    /// The gateway has accepted it.
    pub fn acked(&self, stamp: &Stamp) {
        self.record(Event::Acked(stamp.clone()));
    }

    /// The gateway has said that nobody gets it. An outcome that is not known
    /// is neither this nor [`Self::acked`].
    pub fn refused(&self, stamp: &Stamp) {
        self.record(Event::Refused(stamp.clone()));
    }

    /// A receiver is in a room: it is owed what is sent from now on. While its
    /// client is away and will recover, it stays so.
    pub fn joined(&self, receiver: &str, room: &str) {
        self.record(Event::Joined(receiver.into(), room.into()));
    }

    /// A receiver is out of a room, or its connection to a room without history
    /// is gone: it is owed nothing after what it has got so far, but has no
    /// hole before that.
    pub fn left(&self, receiver: &str, room: &str) {
        self.record(Event::Left(receiver.into(), room.into()));
    }

    /// The data of a message that came; recovered ones too. Returns its stamp,
    /// None if it is not of this log.
    pub fn received(&self, receiver: &str, data: &Value) -> Option<Stamp> {
        let stamp = Stamp::read(data).filter(|stamp| stamp.run == self.run)?;
        self.record(Event::Received(receiver.into(), stamp.clone()));
        Some(stamp)
    }

    /// A receiver has been told that it may have missed something between what
    /// it got before and what it gets next.
    pub fn gap(&self, receiver: &str, room: &str) {
        self.record(Event::Gap(receiver.into(), room.into()));
    }

    /// How many messages were sent.
    pub fn n_sent(&self) -> usize {
        self.count(|event| matches!(event, Event::Sent(_)))
    }

    /// How many were accepted.
    pub fn n_acked(&self) -> usize {
        self.count(|event| matches!(event, Event::Acked(_)))
    }

    /// How many a receiver has got, repeated ones too.
    pub fn n_received(&self, receiver: &str) -> usize {
        self.count(|event| matches!(event, Event::Received(it, _) if **it == *receiver))
    }

    /// Whether a receiver has got a message.
    pub fn has(&self, receiver: &str, stamp: &Stamp) -> bool {
        self.count(|event| matches!(event, Event::Received(it, got) if **it == *receiver && got == stamp)) > 0
    }

    fn count(&self, which: impl Fn(&Event) -> bool) -> usize {
        self.inner().events.iter().filter(|(_, event)| which(event)).count()
    }

    /// Compares all there is, prints the report's line and returns it. What is
    /// still on its way counts as lost: wait for it first.
    pub fn check(&self) -> Report {
        let report = History::new(&self.inner()).report();
        println!("{report}");
        report
    }
}

/// How it went. Messages are counted once for each receiver, but for `sent`
/// and `acked`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    pub sent: usize,
    pub acked: usize,
    /// Without repeated ones.
    pub received: usize,
    /// Accepted, owed and not received.
    pub lost_acked: usize,
    /// Owed and not received, and the receiver was not told of a gap there. In
    /// a recoverable room this is also what was not accepted, if somebody got it.
    pub lost_silent: usize,
    /// Received again.
    pub duplicated: usize,
    /// Received behind a later one of the same sender.
    pub reorder_sender: usize,
    /// In a recoverable room, received behind one that came later elsewhere.
    /// Each receiver is compared to those before it, and its worst case counts.
    pub reorder_room: usize,
    pub gap_reported: usize,
    /// Received though never sent, or refused.
    pub strangers: usize,
    /// From sending to receiving; what was recovered counts too.
    pub p99: Duration,
    pub max: Duration,
    /// The first findings, for people.
    pub examples: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {} / acked {} / received {} / lost_acked {} / lost_silent {} / dup {} / reorder_sender {} / \
             reorder_room {} / gap_reported {} / p99 {:.1} ms / max {:.1} ms",
            self.sent,
            self.acked,
            self.received,
            self.lost_acked,
            self.lost_silent,
            self.duplicated,
            self.reorder_sender,
            self.reorder_room,
            self.gap_reported,
            self.p99.as_secs_f64() * 1e3,
            self.max.as_secs_f64() * 1e3,
        )
    }
}

impl Report {
    /// Nothing is repeated, reordered or unheard of, and nothing is missing
    /// without a word. What is lost and told of is for the test to judge.
    #[track_caller]
    pub fn assert_honest(&self) {
        let faults: usize =
            [self.lost_silent, self.duplicated, self.reorder_sender, self.reorder_room, self.strangers].iter().sum();
        assert_eq!(0, faults, "{self} / strangers {}\n{}", self.strangers, self.examples.join("\n"));
    }

    /// Everything accepted came once and in order, and no gap was reported.
    #[track_caller]
    pub fn assert_perfect(&self) {
        self.assert_honest();
        assert_eq!((0, 0), (self.lost_acked, self.gap_reported), "{self}\n{}", self.examples.join("\n"));
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }
}

/// What one receiver saw of one room. Places are those in the log.
#[derive(Debug, Default)]
struct View<'a> {
    /// From, and until unless it stayed.
    stays: Vec<(usize, Option<usize>)>,
    /// First receptions in their order.
    received: Vec<(usize, &'a Stamp)>,
    gaps: Vec<usize>,
}

/// Where in the log the messages of each sender came, by their numbers.
type Places<'a> = HashMap<&'a str, BTreeMap<u64, usize>>;

impl<'a> View<'a> {
    fn places(&self) -> Places<'a> {
        let mut places = Places::new();
        for (place, stamp) in &self.received {
            places.entry(&stamp.sender).or_default().insert(stamp.seq, *place);
        }
        places
    }

    /// The stay in which something that was sent at this place was sent.
    fn stay(&self, sent: usize) -> Option<(usize, Option<usize>)> {
        self.stays.iter().copied().find(|(start, end)| *start < sent && end.is_none_or(|end| sent < end))
    }
}

#[derive(Debug, Default)]
struct History<'a> {
    sent: HashMap<&'a Stamp, (usize, Duration)>,
    acked: HashSet<&'a Stamp>,
    refused: HashSet<&'a Stamp>,
    /// Every message that anybody got.
    known: HashSet<&'a Stamp>,
    /// By room, then receiver.
    views: BTreeMap<&'a str, BTreeMap<&'a str, View<'a>>>,
    recoverable: HashSet<&'a str>,
    delays: Vec<Duration>,
    report: Report,
}

impl<'a> History<'a> {
    fn new(log: &'a Inner) -> Self {
        let recoverable = log.recoverable.iter().map(AsRef::as_ref).collect();
        let mut history = Self { recoverable, ..Self::default() };
        let mut seen = HashSet::new();
        for (place, (at, event)) in log.events.iter().enumerate() {
            match event {
                Event::Sent(stamp) => drop(history.sent.insert(stamp, (place, *at))),
                Event::Acked(stamp) => drop(history.acked.insert(stamp)),
                Event::Refused(stamp) => drop(history.refused.insert(stamp)),
                Event::Joined(receiver, room) => history.view(room, receiver).stays.push((place, None)),
                Event::Left(receiver, room) => {
                    if let Some(stay) = history.view(room, receiver).stays.last_mut() {
                        stay.1.get_or_insert(place);
                    }
                }
                Event::Gap(receiver, room) => {
                    history.report.gap_reported += 1;
                    history.view(room, receiver).gaps.push(place);
                }
                Event::Received(receiver, stamp) if seen.insert((receiver, stamp)) => {
                    history.view(&stamp.room, receiver).received.push((place, stamp));
                    history.known.insert(stamp);
                    history.arrived(receiver, stamp, *at);
                }
                Event::Received(receiver, stamp) => {
                    history.report.duplicated += 1;
                    history.report.note(|| format!("{receiver} got {stamp} again"));
                }
            }
        }
        history
    }

    fn view(&mut self, room: &'a str, receiver: &'a str) -> &mut View<'a> {
        self.views.entry(room).or_default().entry(receiver).or_default()
    }

    fn arrived(&mut self, receiver: &str, stamp: &Stamp, at: Duration) {
        match self.sent.get(stamp) {
            Some((_, sent)) => self.delays.push(at.saturating_sub(*sent)),
            None => {
                self.report.strangers += 1;
                self.report.note(|| format!("{receiver} got {stamp}, which was not sent"));
            }
        }
    }

    fn report(mut self) -> Report {
        let mut report = std::mem::take(&mut self.report);
        report.sent = self.sent.len();
        report.acked = self.acked.len();
        for stamp in self.known.intersection(&self.refused) {
            report.strangers += 1;
            report.note(|| format!("{stamp} was refused, and came"));
        }
        // In an order that is the same each time.
        let mut by_room: HashMap<&str, BTreeSet<&Stamp>> = HashMap::new();
        for stamp in self.sent.keys() {
            by_room.entry(&stamp.room).or_default().insert(stamp);
        }
        for (room, views) in &self.views {
            for (receiver, view) in views {
                report.received += view.received.len();
                Self::check_senders(receiver, view, &mut report);
                let places = view.places();
                for stamp in by_room.get(room).into_iter().flatten() {
                    self.check_loss(receiver, view, &places, stamp, &mut report);
                }
            }
            if self.recoverable.contains(room) {
                Self::check_order(views, &mut report);
            }
        }
        self.delays.sort_unstable();
        if let Some(max) = self.delays.last() {
            report.max = *max;
            report.p99 = self.delays[(self.delays.len() - 1) * 99 / 100];
        }
        report
    }

    fn check_senders(receiver: &str, view: &View<'_>, report: &mut Report) {
        let mut last = HashMap::new();
        for (_, stamp) in &view.received {
            let last = last.entry(&stamp.sender).or_insert(0);
            if stamp.seq < *last {
                report.reorder_sender += 1;
                report.note(|| format!("{receiver} got {stamp} behind {last}"));
            }
            *last = stamp.seq.max(*last);
        }
    }

    fn check_loss(&self, receiver: &str, view: &View<'_>, places: &Places<'_>, stamp: &Stamp, report: &mut Report) {
        let numbers = places.get(&*stamp.sender);
        if numbers.is_some_and(|numbers| numbers.contains_key(&stamp.seq)) {
            return;
        }
        let Some((start, end)) = view.stay(self.sent[stamp].0) else { return };
        let before = numbers.and_then(|numbers| numbers.range(..stamp.seq).next_back()).map(|(_, place)| *place);
        let behind = numbers.and_then(|numbers| numbers.range(stamp.seq..).next()).map(|(_, place)| *place);
        // Who left has no claim to what was on its way, but to what was before
        // something it got.
        if end.is_some_and(|end| behind.is_none_or(|behind| behind > end)) {
            return;
        }
        let is_acked = self.acked.contains(stamp);
        let is_owed = is_acked || (self.recoverable.contains(&*stamp.room) && self.known.contains(stamp));
        if !is_owed {
            return;
        }
        let hole = before.map_or(start, |before| before.max(start))..behind.unwrap_or(usize::MAX);
        let is_told = view.gaps.iter().any(|gap| hole.contains(gap));
        report.lost_acked += usize::from(is_acked);
        report.lost_silent += usize::from(!is_told);
        let how = if is_told { "was told that it" } else { "silently" };
        report.note(|| format!("{receiver} {how} missed {stamp}"));
    }

    /// Compares each receiver's order to those of the ones that got most.
    fn check_order(views: &BTreeMap<&str, View<'a>>, report: &mut Report) {
        let mut views: Vec<_> = views.iter().collect();
        views.sort_by_key(|(_, view)| std::cmp::Reverse(view.received.len()));
        let order = |view: &View<'a>| view.received.iter().map(|(_, stamp)| *stamp).zip(0..).collect();
        let orders: Vec<HashMap<&Stamp, usize>> = views.iter().take(COMPARED).map(|(_, view)| order(view)).collect();
        for (i, (receiver, view)) in views.iter().enumerate() {
            let counts = orders.iter().take(i).map(|order| {
                let places = view.received.iter().filter_map(|(_, stamp)| order.get(stamp).copied());
                let mut last = 0;
                places
                    .filter(|place| {
                        let is_behind = *place < last;
                        last = last.max(*place);
                        is_behind
                    })
                    .count()
            });
            let n = counts.max().unwrap_or_default();
            report.reorder_room += n;
            if n > 0 {
                report.note(|| format!("{receiver} got {n} messages in another order than others"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: &str = "r";

    /// A log in which `receivers` are in the room, and `n` messages of each
    /// sender that were accepted.
    fn log(receivers: &[&str], senders: &[&str], n: u64) -> (Log, impl Fn(&str, u64) -> Value) {
        let log = Log::new();
        log.recoverable(ROOM);
        for receiver in receivers {
            log.joined(receiver, ROOM);
        }
        for sender in senders {
            for _ in 0..n {
                log.acked(&log.send(sender, ROOM));
            }
        }
        let run = log.run;
        let data = move |sender: &str, seq| Stamp { run, room: ROOM.into(), sender: sender.into(), seq }.data();
        (log, data)
    }

    fn receive(log: &Log, receiver: &str, messages: &[Value]) {
        for message in messages {
            log.received(receiver, message).unwrap();
        }
    }

    #[test]
    fn a_perfect_history_is_perfect() {
        let (log, data) = log(&["a", "b"], &["s"], 3);
        for receiver in ["a", "b"] {
            receive(&log, receiver, &[data("s", 1), data("s", 2), data("s", 3)]);
        }
        let report = log.check();
        report.assert_perfect();
        assert_eq!((report.sent, report.acked, report.received), (3, 3, 6));
        assert!(report.p99 <= report.max && report.max > Duration::ZERO);
        let line = report.to_string();
        assert!(line.starts_with("sent 3 / acked 3 / received 6 / lost_acked 0 / lost_silent 0 / dup 0 /"), "{line}");
    }

    #[test]
    fn a_hole_is_silent_unless_a_gap_is_reported_inside() {
        let (log, data) = log(&["told", "early", "late", "tail"], &["s"], 4);
        receive(&log, "told", &[data("s", 1)]);
        log.gap("told", ROOM);
        receive(&log, "told", &[data("s", 4)]);
        log.gap("early", ROOM);
        receive(&log, "early", &[data("s", 1), data("s", 2), data("s", 4)]);
        receive(&log, "late", &[data("s", 1), data("s", 2), data("s", 4)]);
        log.gap("late", ROOM);
        receive(&log, "tail", &[data("s", 1), data("s", 2), data("s", 3)]);
        let report = log.check();
        assert_eq!((report.lost_acked, report.lost_silent, report.gap_reported), (5, 3, 3), "{report:?}");
    }

    #[test]
    #[should_panic(expected = "a silently missed 2 of s in r")]
    fn a_silent_hole_is_not_honest() {
        let (log, data) = log(&["a"], &["s"], 3);
        receive(&log, "a", &[data("s", 1), data("s", 3)]);
        log.check().assert_honest();
    }

    #[test]
    fn repeated_and_late_messages_are_told_apart() {
        let (log, data) = log(&["a"], &["s", "t"], 3);
        let messages = [("s", 1), ("t", 1), ("s", 3), ("s", 2), ("s", 2), ("t", 2), ("t", 3)];
        receive(&log, "a", &messages.map(|(sender, seq)| data(sender, seq)));
        let report = log.check();
        assert_eq!((report.duplicated, report.reorder_sender, report.reorder_room), (1, 1, 0), "{report:?}");
        assert_eq!((report.received, report.lost_acked), (6, 0));
    }

    #[test]
    fn two_orders_of_a_recoverable_room_are_found() {
        let (log, data) = log(&["a", "b", "z"], &["s", "t"], 2);
        for receiver in ["a", "b"] {
            receive(&log, receiver, &[("s", 1), ("t", 1), ("s", 2), ("t", 2)].map(|(it, seq)| data(it, seq)));
        }
        receive(&log, "z", &[("t", 1), ("s", 1), ("s", 2), ("t", 2)].map(|(it, seq)| data(it, seq)));
        let report = log.check();
        assert_eq!((report.reorder_sender, report.reorder_room), (0, 1), "{report:?}");
    }

    #[test]
    fn who_was_not_there_is_owed_nothing() {
        let (log, data) = log(&[], &["s"], 1);
        log.joined("a", ROOM);
        for _ in 0..3 {
            log.acked(&log.send("s", ROOM));
        }
        // 3 is behind 2, and 4 was on its way.
        receive(&log, "a", &[data("s", 3)]);
        log.left("a", ROOM);
        log.acked(&log.send("s", ROOM));
        let report = log.check();
        assert_eq!((report.lost_acked, report.lost_silent), (1, 1), "{report:?}");
        log.joined("a", ROOM);
        log.acked(&log.send("s", ROOM));
        assert_eq!(log.check().lost_acked, 2);
    }

    #[test]
    fn an_unknown_outcome_is_owed_once_somebody_got_it() {
        let (log, data) = log(&["a", "b"], &["s"], 0);
        log.send("s", ROOM);
        log.send("s", ROOM);
        receive(&log, "a", &[data("s", 2)]);
        let report = log.check();
        assert_eq!((report.acked, report.lost_acked, report.lost_silent), (0, 0, 1), "{report:?}");
    }

    #[test]
    fn what_cannot_have_come_is_strange() {
        let (log, data) = log(&["a"], &["s"], 1);
        let refused = log.send("s", ROOM);
        log.refused(&refused);
        receive(&log, "a", &[data("s", 1), data("s", 2), data("s", 3)]);
        assert_eq!(log.check().strangers, 2);
        assert_eq!(log.received("a", &json!("of somebody else")), None);
        assert_eq!(log.received("a", &Log::new().send("s", ROOM).data()), None);
    }
}
