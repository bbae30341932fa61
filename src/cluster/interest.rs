//! Which channels this instance wants to hear, and which it does hear: the
//! state alone, apart from the task that subscribes.
//!
//! A channel is wanted while somebody holds it and a little longer, so that a
//! room that is left and joined again costs nothing. Whoever comes while it is
//! being subscribed waits for the same confirmation.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::id::BootId;

/// How long a channel is heard after the last one let go.
const LINGER: Duration = Duration::from_secs(1);

/// How long what is left stays noted in Redis. After a failover, the leaves of
/// the last seconds may be undone: whoever was there is found by that note.
const NOTED: Duration = Duration::from_secs(60);

/// A channel's name.
pub(super) type Topic = Arc<str>;

/// Whose channel it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Of {
    Room(String),
    User(String),
    Instances,
}

/// All channels that matter.
#[derive(Debug, Default)]
pub(super) struct Interest {
    topics: HashMap<Topic, Entry>,
    /// To be subscribed.
    wanted: HashSet<Topic>,
    /// How many are being subscribed.
    under_way: usize,
    /// Those that belong to no room or user: the instance itself is heard by
    /// them, so they come first.
    own: Vec<Topic>,
    /// Nobody holds them any more, since then.
    idle: HashMap<Topic, Instant>,
    /// They are not heard any more, since then, and are still noted in Redis.
    left: HashMap<Topic, (Instant, Of)>,
    /// The same in their order, and some that are held again.
    lefts: VecDeque<(Instant, Topic)>,
}

#[derive(Debug)]
struct Entry {
    of: Of,
    holders: usize,
    state: State,
    waiters: Vec<oneshot::Sender<()>>,
    /// The last count of each sender.
    counts: Vec<(BootId, u32, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Deaf,
    /// It is being subscribed.
    UnderWay,
    Heard,
}

/// What holding a channel comes to.
#[derive(Debug)]
pub(super) enum Held {
    /// It is heard.
    Heard,
    /// It will be, and this says when.
    Soon(oneshot::Receiver<()>),
}

impl Interest {
    /// Somebody wants a channel. True beside it: the subscriber must be woken.
    pub(super) fn hold(&mut self, topic: &Topic, of: Of) -> (Held, bool) {
        if of == Of::Instances && !self.own.contains(topic) {
            self.own.push(Arc::clone(topic));
        }
        let entry = self.topics.entry(Arc::clone(topic)).or_insert_with(|| Entry {
            of,
            holders: 0,
            state: State::Deaf,
            waiters: Vec::new(),
            counts: Vec::new(),
        });
        if entry.holders == 0 {
            self.idle.remove(topic);
            self.left.remove(topic);
        }
        entry.holders += 1;
        if entry.state == State::Heard {
            return (Held::Heard, false);
        }
        let (sender, receiver) = oneshot::channel();
        // While Redis is away nobody drains them, and those who have given up
        // come back again and again.
        entry.waiters.retain(|waiter| !waiter.is_closed());
        entry.waiters.push(sender);
        let must_wake = entry.state == State::Deaf && self.wanted.insert(Arc::clone(topic));
        (Held::Soon(receiver), must_wake)
    }

    /// Somebody lets go.
    pub(super) fn release(&mut self, topic: &Topic, now: Instant) {
        let Some(entry) = self.topics.get_mut(topic) else { return };
        entry.holders -= 1;
        if entry.holders == 0 {
            entry.waiters.clear();
            self.idle.insert(Arc::clone(topic), now);
        }
    }

    /// At most `max` channels to subscribe now.
    pub(super) fn take_wanted(&mut self, max: usize) -> Vec<Topic> {
        let own = self.own.iter().filter(|topic| self.wanted.contains(*topic));
        let others = self.wanted.iter().filter(|topic| !self.own.contains(topic));
        let taken: Vec<_> = own.chain(others).take(max).cloned().collect();
        for topic in &taken {
            self.wanted.remove(topic);
            if let Some(entry) = self.topics.get_mut(topic) {
                entry.state = State::UnderWay;
                self.under_way += 1;
            }
        }
        taken
    }

    /// Whose channels these are.
    pub(super) fn of(&self, topics: &[Topic]) -> Vec<Of> {
        topics.iter().filter_map(|topic| self.topics.get(topic).map(|entry| entry.of.clone())).collect()
    }

    /// Whose channels all are that are held.
    pub(super) fn all(&self) -> Vec<Of> {
        self.topics.values().map(|entry| entry.of.clone()).collect()
    }

    /// They could not be subscribed and are to be tried again.
    pub(super) fn want(&mut self, topics: &[Topic]) {
        for topic in topics {
            let Some(entry) = self.topics.get_mut(topic).filter(|entry| entry.state == State::UnderWay) else {
                continue;
            };
            entry.state = State::Deaf;
            self.under_way -= 1;
            self.wanted.insert(Arc::clone(topic));
        }
    }

    /// It is not heard any more, though nobody here has asked for that. True:
    /// it is wanted again, and the subscriber must be woken.
    pub(super) fn lose(&mut self, topic: &str) -> bool {
        let Some((topic, _)) = self.topics.get_key_value(topic) else { return false };
        let topic = Arc::clone(topic);
        let Some(entry) = self.topics.get_mut(&topic).filter(|entry| entry.state == State::Heard) else { return false };
        entry.state = State::Deaf;
        self.wanted.insert(topic)
    }

    /// They are subscribed. One that has been given up since, or must be noted
    /// anew, does not count.
    pub(super) fn heard(&mut self, topics: &[Topic]) {
        for topic in topics {
            let Some(entry) = self.topics.get_mut(topic).filter(|entry| entry.state == State::UnderWay) else {
                continue;
            };
            entry.state = State::Heard;
            self.under_way -= 1;
            for waiter in entry.waiters.drain(..) {
                let _given_up = waiter.send(());
            }
        }
    }

    /// At most `max` channels that nobody has held for a while; they need not
    /// be heard any more.
    pub(super) fn take_idle(&mut self, now: Instant, max: usize) -> Vec<Topic> {
        let over: Vec<_> = self
            .idle
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= LINGER)
            // Unsubscribing could overtake that.
            .filter(|(topic, _)| self.topics.get(*topic).is_none_or(|entry| entry.state != State::UnderWay))
            .take(max)
            .map(|(topic, _)| Arc::clone(topic))
            .collect();
        over.into_iter()
            .filter_map(|topic| {
                self.idle.remove(&topic);
                self.wanted.remove(&topic);
                let entry = self.topics.remove(&topic)?;
                self.left.insert(Arc::clone(&topic), (now, entry.of));
                self.lefts.push_back((now, Arc::clone(&topic)));
                Some(topic)
            })
            .collect()
    }

    /// Whose channels at most `max` are that were left so long ago that they
    /// need not be noted any more.
    pub(super) fn take_left(&mut self, now: Instant, max: usize) -> Vec<Of> {
        let mut over = Vec::new();
        while over.len() < max
            && let Some((since, topic)) = self.lefts.pop_front_if(|(since, _)| now.duration_since(*since) >= NOTED)
        {
            if self.left.get(&topic).is_some_and(|(last, _)| *last == since)
                && let Some((_, of)) = self.left.remove(&topic)
            {
                over.push(of);
            }
        }
        over
    }

    /// The connection is gone, or all must be noted anew: nothing counts as
    /// heard, and everything is wanted.
    pub(super) fn deaf(&mut self) {
        for (topic, entry) in &mut self.topics {
            entry.state = State::Deaf;
            self.wanted.insert(Arc::clone(topic));
        }
        self.under_way = 0;
    }

    /// True when all that is held is heard.
    pub(super) fn is_complete(&self) -> bool {
        self.wanted.is_empty() && self.under_way == 0
    }

    /// Notes a message's count; returns how many are missing before it. None:
    /// it comes late, behind its successors, and would break their order.
    pub(super) fn count(&mut self, topic: &str, origin: BootId, stream: u32, n: u64) -> Option<u64> {
        let Some(entry) = self.topics.get_mut(topic) else { return Some(0) };
        if let Some((_, known, last)) = entry.counts.iter_mut().find(|(boot, ..)| *boot == origin) {
            if *known == stream && n <= *last {
                return None;
            }
            let missing = if *known == stream { n - *last - 1 } else { 0 };
            (*known, *last) = (stream, n);
            return Some(missing);
        }
        entry.counts.push((origin, stream, n));
        Some(0)
    }

    /// Channels that are held or linger.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn topic(name: &str) -> Topic {
        name.into()
    }

    #[test]
    fn the_first_subscribes_and_all_wait_for_one_confirmation() {
        let mut interest = Interest::default();
        let room = topic("r");
        let (first, wake) = interest.hold(&room, Of::Instances);
        assert!(wake);
        let (second, wake) = interest.hold(&room, Of::Instances);
        assert!(!wake, "one subscription is under way");
        assert_eq!(interest.take_wanted(10), [Arc::clone(&room)]);
        interest.heard(&[Arc::clone(&room)]);
        for held in [first, second] {
            let Held::Soon(mut soon) = held else { panic!("it was not heard yet") };
            assert_eq!(soon.try_recv(), Ok(()));
        }
        assert!(matches!(interest.hold(&room, Of::Instances).0, Held::Heard));
    }

    #[test]
    fn a_channel_is_left_a_little_after_the_last() {
        let mut interest = Interest::default();
        let room = topic("r");
        drop(interest.hold(&room, Of::Instances));
        interest.take_wanted(1);
        interest.heard(&[Arc::clone(&room)]);
        let now = Instant::now();
        interest.release(&room, now);
        assert!(interest.take_idle(now, 9).is_empty());
        drop(interest.hold(&room, Of::Instances));
        assert!(interest.take_idle(now + 2 * LINGER, 9).is_empty(), "somebody came back");
        interest.release(&room, now);
        assert_eq!(interest.take_idle(now + LINGER, 9).len(), 1);
        assert_eq!(interest.len(), 0);
    }

    #[test]
    fn what_is_left_stays_noted_for_a_while() {
        let mut interest = Interest::default();
        let room = topic("r");
        let now = Instant::now();
        let leave_at = |interest: &mut Interest, at: Instant| {
            drop(interest.hold(&room, Of::Room("r".into())));
            interest.release(&room, at);
            assert_eq!(interest.take_idle(at + LINGER, 9).len(), 1);
        };
        leave_at(&mut interest, now);
        assert_eq!(interest.take_left(now + NOTED, 9), []);
        leave_at(&mut interest, now + NOTED / 2);
        assert_eq!(interest.take_left(now + NOTED + LINGER, 9), [], "somebody was there since");
        assert_eq!(interest.take_left(now + NOTED / 2 + NOTED + LINGER, 9), [Of::Room("r".into())]);
        assert_eq!(interest.take_left(now + 9 * NOTED, 9), []);
    }

    #[test]
    fn a_lost_connection_wants_everything_again() {
        let mut interest = Interest::default();
        let room = topic("r");
        drop(interest.hold(&room, Of::Instances));
        interest.take_wanted(1);
        interest.heard(&[Arc::clone(&room)]);
        assert!(interest.is_complete());
        interest.deaf();
        assert!(!interest.is_complete());
        assert!(matches!(interest.hold(&room, Of::Instances).0, Held::Soon(_)));
    }

    #[test]
    fn who_gives_up_waiting_leaves_nothing_behind() {
        let mut interest = Interest::default();
        let room = topic("r");
        for _ in 0..100 {
            drop(interest.hold(&room, Of::Instances));
        }
        assert_eq!(interest.topics[&room].waiters.len(), 1);
    }

    #[test]
    fn the_instance_s_own_channels_come_first() {
        let mut interest = Interest::default();
        for n in 0..100 {
            drop(interest.hold(&topic(&n.to_string()), Of::Room(n.to_string())));
        }
        let own = topic("own");
        drop(interest.hold(&own, Of::Instances));
        assert_eq!(interest.take_wanted(1), [own]);
        assert_eq!(interest.take_wanted(1000).len(), 100);
    }

    #[test]
    fn what_redis_ends_is_wanted_again() {
        let mut interest = Interest::default();
        let room = topic("r");
        assert!(!interest.lose("r"));
        drop(interest.hold(&room, Of::Instances));
        assert!(!interest.lose("r"), "it is about to be subscribed");
        interest.take_wanted(1);
        assert!(!interest.lose("r"), "that was another subscription");
        interest.heard(&[Arc::clone(&room)]);
        assert!(interest.lose("r"));
        assert!(!interest.is_complete());
        assert_eq!(interest.take_wanted(1), [room]);
    }

    #[test]
    fn what_is_being_subscribed_is_not_left_and_counts_only_for_those_it_was_for() {
        let mut interest = Interest::default();
        let room = topic("r");
        let now = Instant::now();
        drop(interest.hold(&room, Of::Instances));
        assert_eq!(interest.take_wanted(9).len(), 1);
        interest.release(&room, now);
        assert!(interest.take_idle(now + 2 * LINGER, 9).is_empty());
        interest.deaf();
        interest.heard(&[Arc::clone(&room)]);
        assert!(!interest.is_complete(), "it must be noted anew");
        assert_eq!(interest.take_idle(now + 2 * LINGER, 9), [room]);
    }

    #[test]
    fn missing_messages_are_counted_by_sender() {
        let mut interest = Interest::default();
        let room = topic("r");
        drop(interest.hold(&room, Of::Instances));
        let (a, b) = (BootId(1), BootId(2));
        assert_eq!(interest.count("r", a, 1, 5), Some(0), "what came before we listened is not missed");
        assert_eq!(interest.count("r", b, 1, 1), Some(0));
        assert_eq!(interest.count("r", a, 1, 6), Some(0));
        assert_eq!(interest.count("r", a, 1, 9), Some(2));
        assert_eq!(interest.count("r", a, 1, 7), None, "too late, and counted as missing");
        assert_eq!(interest.count("r", a, 2, 1), Some(0), "a new count");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Hold(usize),
        Release(usize),
        /// What is wanted is subscribed; false: that fails.
        Subscribe(bool),
        Deaf,
        /// Milliseconds.
        Wait(u64),
        Sweep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0usize..4).prop_map(Step::Hold),
            6 => (0usize..4).prop_map(Step::Release),
            3 => prop::bool::weighted(0.8).prop_map(Step::Subscribe),
            1 => Just(Step::Deaf),
            2 => prop_oneof![0u64..1500, 20_000u64..70_000].prop_map(Step::Wait),
            3 => Just(Step::Sweep),
        ]
    }

    proptest! {
            #![proptest_config(ProptestConfig::with_cases(500))]

            #[test]
            fn channels_are_heard_and_noted_while_they_are_held_and_a_little_longer(
                steps in prop::collection::vec(step(), 1..120),
            ) {
                let names = ["0", "1", "2", "3"].map(topic);
                let mut interest = Interest::default();
                let mut now = Instant::now();
                let mut holders = [0usize; 4];
                let mut heard = BTreeSet::new();
                let mut waiting: BTreeMap<usize, Vec<oneshot::Receiver<()>>> = BTreeMap::new();
                // When nobody held it any more, and when it was left.
                let (mut free, mut left) = (BTreeMap::new(), BTreeMap::new());
                let mut noted = BTreeSet::new();
                for step in steps {
                    match step {
                        Step::Hold(n) => {
                            let (held, wakes) = interest.hold(&names[n], Of::Room(n.to_string()));
                            holders[n] += 1;
                            free.remove(&n);
    left.remove(&n);
                            match held {
                                Held::Heard => prop_assert!(heard.contains(&n)),
                                Held::Soon(soon) => {
                                    prop_assert!(!heard.contains(&n));
                                    prop_assert!(wakes || !interest.wanted.is_empty());
                                    waiting.entry(n).or_default().push(soon);
                                }
                            }
                        }
                        Step::Release(n) if holders[n] > 0 => {
                            interest.release(&names[n], now);
                            holders[n] -= 1;
                            if holders[n] == 0 {
                                free.insert(n, now);
                                waiting.remove(&n);
                            }
                        }
                        Step::Release(_) => {}
                        Step::Subscribe(succeeds) => {
                            let wanted = interest.take_wanted(9);
                            prop_assert_eq!(interest.of(&wanted).len(), wanted.len());
                            if !succeeds {
                                interest.want(&wanted);
                                continue;
                            }
                            interest.heard(&wanted);
                            for n in wanted.iter().map(|topic| topic.parse::<usize>().unwrap()) {
                                heard.insert(n);
    noted.insert(n);
                                for mut soon in waiting.remove(&n).unwrap_or_default() {
                                    prop_assert_eq!(soon.try_recv(), Ok(()));
                                }
                            }
                            prop_assert!(interest.is_complete());
                        }
                        Step::Deaf => {
                            interest.deaf();
                            heard.clear();
                        }
                        Step::Wait(ms) => now += Duration::from_millis(ms),
                        Step::Sweep => {
                            let expected: BTreeSet<usize> =
                                left.iter().filter(|(_, since)| now.duration_since(**since) >= NOTED).map(|(n, _)| *n).collect();
                            let found: Vec<Of> = interest.take_left(now, 9);
                            let found: BTreeSet<usize> = found
                                .into_iter()
                                .map(|of| if let Of::Room(name) = of { name.parse().unwrap() } else { unreachable!() })
                                .collect();
                            prop_assert_eq!(&found, &expected);
                            for n in found {
                                left.remove(&n);
    noted.remove(&n);
                            }
                            let expected: BTreeSet<usize> =
                                free.iter().filter(|(_, since)| now.duration_since(**since) >= LINGER).map(|(n, _)| *n).collect();
                            let found: BTreeSet<usize> =
                                interest.take_idle(now, 9).iter().map(|topic| topic.parse().unwrap()).collect();
                            prop_assert_eq!(&found, &expected);
                            for n in found {
                                free.remove(&n);
    heard.remove(&n);
    left.insert(n, now);
                            }
                        }
                    }
                    // Whoever holds hears, or somebody is about to subscribe; and is found by the note.
                    for n in (0..4).filter(|n| holders[*n] > 0) {
                        prop_assert!(heard.contains(&n) || interest.wanted.contains(&names[n]));
                        prop_assert!(!heard.contains(&n) || noted.contains(&n));
                    }
                    prop_assert_eq!(interest.len(), (0..4).filter(|n| holders[*n] > 0 || free.contains_key(n)).count());
                }
            }
        }
}
