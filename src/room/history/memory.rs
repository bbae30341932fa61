//! The histories of one instance that is alone.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Appended, COUNT_TTL, KEY_TTL, Kept, Range, Reading, new_epoch};
use crate::{
    config::HistoryConfig,
    room::{
        Position,
        keys::{Full, Keys},
    },
};

const SHARDS: usize = 64;

/// Idempotency keys that are remembered of one room.
const KEYS: usize = 100_000;

/// Rooms of a shard that one sweep looks at, if they are few.
const SWEEP: usize = 64;

/// How long rooms begin in the same epoch. With the one before it that is less
/// than any room's count is remembered.
const EPOCH: Duration = Duration::from_secs(COUNT_TTL.as_secs() / 4);

/// What the rooms of an instance without others keep.
#[derive(Debug)]
pub struct MemoryHistory {
    hasher: RandomState,
    /// Each is held for one operation, the delivery of a message included: all
    /// members see one order.
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    rooms: HashMap<Arc<str>, Log>,
    /// The same rooms; the one that was looked at longest ago is the first.
    turns: VecDeque<Arc<str>>,
    epoch: Epoch,
}

/// The epoch of rooms of which nothing is remembered.
#[derive(Debug)]
struct Epoch {
    name: Arc<str>,
    since: Instant,
    /// The one before, if nothing of a room that began in it can have been
    /// forgotten yet: a room that is not known now had nothing in that one.
    before: Option<Arc<str>>,
}

#[derive(Debug)]
struct Log {
    epoch: Arc<str>,
    /// The epoch before, in which there was nothing.
    before: Option<Arc<str>>,
    top: u64,
    messages: VecDeque<(Instant, Kept)>,
    ttl: Duration,
    last: Instant,
    keys: Option<Box<Keys<str, u64>>>,
}

impl Default for MemoryHistory {
    fn default() -> Self {
        let shard = || Mutex::new(Shard::new(Instant::now()));
        Self { hasher: RandomState::new(), shards: std::iter::repeat_with(shard).take(SHARDS).collect() }
    }
}

impl Epoch {
    fn new(now: Instant) -> Self {
        Self { name: new_epoch().into(), since: now, before: None }
    }

    /// A count that was forgotten must not begin again under its old name, and
    /// for a room that was never heard of there is nothing else that tells. So
    /// the name changes with time, before any count of it can be forgotten.
    fn renew(&mut self, now: Instant) {
        let lasted = now.duration_since(self.since);
        if lasted < EPOCH {
            return;
        }
        let next = Self::new(now);
        let before = std::mem::replace(self, next).name;
        self.before = (lasted + EPOCH <= COUNT_TTL).then_some(before);
    }
}

fn past(before: Option<&Arc<str>>) -> Vec<(Arc<str>, u64)> {
    before.map(|epoch| (Arc::clone(epoch), 0)).into_iter().collect()
}

impl Log {
    fn new(epoch: &Epoch, now: Instant) -> Self {
        Self {
            epoch: Arc::clone(&epoch.name),
            before: epoch.before.clone(),
            top: 0,
            messages: VecDeque::new(),
            ttl: Duration::ZERO,
            last: now,
            keys: None,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.last) > self.ttl.saturating_add(COUNT_TTL)
    }

    fn trim(&mut self, size: usize, ttl: Duration, now: Instant) {
        while self.messages.len() > size
            || self.messages.front().is_some_and(|(since, _)| now.duration_since(*since) > ttl)
        {
            self.messages.pop_front();
        }
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
    }

    /// What time has made superfluous.
    fn shrink(&mut self, now: Instant) {
        self.trim(usize::MAX, self.ttl, now);
        if let Some(keys) = &mut self.keys {
            keys.forget(now);
            if keys.is_empty() {
                self.keys = None;
            }
        }
    }

    fn reading(&mut self, range: Range) -> Reading {
        let all = self.messages.iter().map(|(_, kept)| kept);
        let messages = match range {
            Range::Nothing => Vec::new(),
            Range::Forward { since, limit } => {
                all.filter(|kept| since.is_none_or(|since| kept.offset > since)).take(limit).cloned().collect()
            }
            Range::Reverse { since, limit } => {
                all.rev().filter(|kept| since.is_none_or(|since| kept.offset < since)).take(limit).cloned().collect()
            }
        };
        Reading { epoch: Arc::clone(&self.epoch), top: self.top, past: past(self.before.as_ref()), messages }
    }
}

impl Shard {
    fn new(now: Instant) -> Self {
        Self { rooms: HashMap::new(), turns: VecDeque::new(), epoch: Epoch::new(now) }
    }

    /// Looks at the next so many rooms.
    fn sweep(&mut self, rooms: usize, now: Instant) {
        for _ in 0..rooms.min(self.turns.len()) {
            let Some(room) = self.turns.pop_front() else { return };
            let Some(log) = self.rooms.get_mut(&room) else { continue };
            if log.is_over(now) {
                self.rooms.remove(&room);
            } else {
                log.shrink(now);
                self.turns.push_back(room);
            }
        }
        if self.rooms.len() < self.rooms.capacity() / 4 {
            self.rooms.shrink_to(self.rooms.len() * 2);
            self.turns.shrink_to(self.rooms.len() * 2);
        }
    }

    fn log(&mut self, room: &str, now: Instant) -> &mut Log {
        if !self.rooms.contains_key(room) {
            // More than comes in, so that no rush of new rooms outruns it.
            self.sweep(2, now);
            let name: Arc<str> = room.into();
            self.turns.push_back(Arc::clone(&name));
            self.rooms.insert(name, Log::new(&self.epoch, now));
        }
        self.rooms.get_mut(room).expect("it was there, or has just been put there")
    }
}

impl MemoryHistory {
    fn shard(&self, room: &str) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(room) as usize % SHARDS]
    }

    /// Keeps a message; `deliver` is told its position before anybody else's
    /// message gets the next one.
    ///
    /// # Errors
    /// If it has a new idempotency key and too many are remembered.
    pub fn append(
        &self,
        room: &str,
        frame: Bytes,
        keep: HistoryConfig,
        key: Option<&str>,
        now: Instant,
        deliver: impl FnOnce(&Position),
    ) -> Result<Appended, Full> {
        let mut shard = self.shard(room).lock();
        shard.epoch.renew(now);
        let log = shard.log(room, now);
        if let Some(key) = key {
            let keys = log.keys.get_or_insert_with(|| Box::new(Keys::new(KEY_TTL, KEYS)));
            if let Some(offset) = keys.get(key, now)? {
                let position = Position { epoch: Arc::clone(&log.epoch), offset: *offset };
                return Ok(Appended { position, is_new: false });
            }
            keys.insert(key.into(), log.top + 1, now);
        }
        log.top += 1;
        log.ttl = keep.ttl;
        log.last = now;
        log.messages.push_back((now, Kept { offset: log.top, frame }));
        log.trim(keep.size, keep.ttl, now);
        let position = Position { epoch: Arc::clone(&log.epoch), offset: log.top };
        deliver(&position);
        Ok(Appended { position, is_new: true })
    }

    /// Reads what is kept. Of a room that has nothing, nothing stays.
    pub fn read(&self, room: &str, range: Range, keep: HistoryConfig, now: Instant) -> Reading {
        let mut shard = self.shard(room).lock();
        shard.epoch.renew(now);
        match shard.rooms.get_mut(room) {
            Some(log) => {
                log.trim(keep.size, keep.ttl, now);
                log.reading(range)
            }
            None => Reading {
                epoch: Arc::clone(&shard.epoch.name),
                top: 0,
                past: past(shard.epoch.before.as_ref()),
                messages: Vec::new(),
            },
        }
    }

    /// Forgets a room's messages; its count goes on.
    pub fn remove(&self, room: &str) {
        if let Some(log) = self.shard(room).lock().rooms.get_mut(room) {
            log.messages = VecDeque::new();
        }
    }

    /// Gives back what time has made superfluous in a `part`-th of the rooms:
    /// that often, and it has been through all of them.
    pub fn sweep(&self, part: usize, now: Instant) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.epoch.renew(now);
            let rooms = (shard.turns.len() / part.max(1) + 1).max(SWEEP);
            shard.sweep(rooms, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: HistoryConfig = HistoryConfig { size: 100, ttl: Duration::from_secs(60) };

    fn append(history: &MemoryHistory, room: &str, now: Instant) -> Position {
        history.append(room, Bytes::from_static(b"m"), KEEP, None, now, |_| {}).unwrap().position
    }

    fn read(history: &MemoryHistory, room: &str, since: u64, now: Instant) -> Reading {
        history.read(room, Range::Forward { since: Some(since), limit: 100 }, KEEP, now)
    }

    fn sweep(history: &MemoryHistory, now: Instant) {
        (0..4).for_each(|_| history.sweep(4, now));
    }

    /// Rooms and messages that are held.
    fn held(history: &MemoryHistory) -> (usize, usize) {
        let mut held = (0, 0);
        for shard in &history.shards {
            let shard = shard.lock();
            assert_eq!(shard.rooms.len(), shard.turns.len());
            held.0 += shard.rooms.len();
            held.1 += shard.rooms.values().map(|log| log.messages.len()).sum::<usize>();
        }
        held
    }

    #[test]
    fn what_nobody_touches_again_is_given_back() {
        let (history, mut now) = (MemoryHistory::default(), Instant::now());
        for n in 0..10_000 {
            append(&history, &format!("room-{n}"), now);
        }
        history.append("keyed", Bytes::new(), KEEP, Some("k"), now, |_| {}).unwrap();
        assert_eq!(held(&history), (10_001, 10_001));
        now += KEEP.ttl + Duration::from_secs(1);
        sweep(&history, now);
        assert_eq!(held(&history), (10_001, 0));
        assert_eq!(append(&history, "room-7", now).offset, 2, "its count goes on");
        now += KEY_TTL;
        sweep(&history, now);
        assert!(history.shard("keyed").lock().rooms["keyed"].keys.is_none());
        now += COUNT_TTL + KEEP.ttl;
        sweep(&history, now);
        assert_eq!(held(&history), (0, 0));
        assert!(history.shards.iter().all(|shard| shard.lock().rooms.capacity() < 8));
    }

    #[test]
    fn rooms_that_are_only_joined_leave_nothing() {
        let (history, now) = (MemoryHistory::default(), Instant::now());
        for n in 0..10_000 {
            let reading = history.read(&format!("room-{n}"), Range::Nothing, KEEP, now);
            assert_eq!((reading.top, reading.continues(&reading.epoch, 0)), (0, true));
        }
        assert_eq!(held(&history), (0, 0));
    }

    #[test]
    fn who_joined_before_the_first_message_recovers_it() {
        let (history, mut now) = (MemoryHistory::default(), Instant::now());
        let at = history.read("a", Range::Nothing, KEEP, now).position();
        let kept = append(&history, "a", now);
        assert_eq!((&kept.epoch, kept.offset), (&at.epoch, 1));
        assert_eq!(read(&history, "a", 0, now).missed(&at.epoch, 0).map(<[_]>::len), Some(1));
        // The same after the name for new rooms has changed once.
        let at = history.read("b", Range::Nothing, KEEP, now).position();
        now += EPOCH;
        assert!(read(&history, "b", 0, now).continues(&at.epoch, 0));
        assert_ne!(append(&history, "b", now).epoch, at.epoch);
        assert_eq!(read(&history, "b", 0, now).missed(&at.epoch, 0).map(<[_]>::len), Some(1));
    }

    #[test]
    fn nothing_recovers_from_a_history_that_was_forgotten() {
        // However time passes between: in one go, or with looks on the way.
        for steps in [1, 2, 3, 7, 50] {
            let (history, mut now) = (MemoryHistory::default(), Instant::now());
            let nothing_seen = history.read("a", Range::Nothing, KEEP, now).position();
            let seen = append(&history, "a", now);
            for _ in 0..steps {
                now += (COUNT_TTL + KEEP.ttl) / steps + Duration::from_secs(1);
                sweep(&history, now);
            }
            assert_eq!(held(&history), (0, 0));
            for known in [&nothing_seen, &seen] {
                assert!(!read(&history, "a", known.offset, now).continues(&known.epoch, known.offset), "{steps}");
            }
            append(&history, "a", now);
            append(&history, "a", now);
            for known in [&nothing_seen, &seen] {
                let reading = read(&history, "a", known.offset, now);
                assert_eq!(reading.missed(&known.epoch, known.offset), None, "{steps}");
            }
        }
    }

    #[test]
    fn a_key_is_kept_once_and_too_many_are_refused() {
        let (history, now) = (MemoryHistory::default(), Instant::now());
        let append = |key: &str| history.append("a", Bytes::new(), KEEP, Some(key), now, |_| {});
        for n in 0..KEYS {
            assert!(append(&n.to_string()).unwrap().is_new);
        }
        let again = append("0").unwrap();
        assert!(!again.is_new && again.position.offset == 1);
        assert_eq!(append("one more"), Err(Full));
    }
}
