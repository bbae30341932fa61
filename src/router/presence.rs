//! What the members here have been told of who is in their rooms.
//!
//! Joins and leaves come as messages that can be lost, and come twice when an
//! instance registers anew. For each room that tells who comes and goes, what
//! its members here know is kept: what they know already is not told again,
//! and after a time of deafness they are told the difference. Only who came
//! just before the first of them may be told of although they were asked for.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Router;
use crate::{
    cluster::{
        Cluster,
        envelope::{Changes, Member},
    },
    config::JoinLeave,
    hub::Seen,
    id::{ConnectionId, RoomName},
    protocol::{Broadcast, MemberInfo, Push},
    session::flusher::Batch,
};

/// Members of a room whose coming and going is kept. In a larger room it is
/// passed on as it comes.
const KNOWN_MAX: usize = 20_000;

/// Members that are read at once.
const PAGE: usize = 500;

/// How long the message that somebody came may be under way.
const LATE: Duration = Duration::from_secs(2);

/// How long to wait before a comparison that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What is known, by room.
#[derive(Debug, Default)]
pub(super) struct Known {
    rooms: Mutex<HashMap<RoomName, Room>>,
    comparisons: AtomicU64,
}

#[derive(Debug, Default)]
struct Room {
    /// By connection, or by user where users are told of.
    members: HashMap<Box<str>, Present>,
    /// False: it is being read for the first time, and nothing was told of
    /// those who were there before.
    is_complete: bool,
    /// Until when those whom the first reading found may still be told of: the
    /// message about the last who came can arrive behind it.
    late_until: Option<Instant>,
    /// What came while it is being read: it is newer than what is read.
    since: Option<HashMap<Box<str>, bool>>,
    /// The one comparison that is under way or about to be: with two at once,
    /// one would not know what came while it was reading.
    comparing: Option<Comparing>,
    /// It has too many members.
    is_off: bool,
}

#[derive(Debug)]
struct Present {
    member: MemberInfo,
    /// False: the first reading found it.
    is_told: bool,
}

#[derive(Debug)]
struct Comparing {
    /// A room that was left and entered meanwhile is another one.
    id: u64,
    /// Something may have been missed since it began.
    again: bool,
}

/// Somebody to be told of.
type News = (MemberInfo, bool);

fn key(member: &MemberInfo, told_of: JoinLeave) -> Box<str> {
    match told_of {
        JoinLeave::Users if !member.user.is_empty() => format!("u{}", member.user).into(),
        _ => format!("c{}", member.connection).into(),
    }
}

impl Room {
    /// Takes in that somebody came or went; true: that is news.
    fn apply(&mut self, key: Box<str>, member: &MemberInfo, is_here: bool) -> bool {
        if self.is_off {
            return true;
        }
        if let Some(since) = &mut self.since {
            since.insert(key.clone(), is_here);
        }
        let was_here = if is_here {
            let is_late = self.late_until.is_some_and(|until| Instant::now() < until);
            let before = self.members.insert(key, Present { member: member.clone(), is_told: true });
            before.is_some_and(|before| before.is_told || !is_late)
        } else {
            self.members.remove(&key).is_some()
        };
        if self.members.len() > KNOWN_MAX {
            *self = Self { is_off: true, ..Self::default() };
        }
        // Before it was read, nobody knows who was there.
        was_here != is_here || (!self.is_complete && !is_here)
    }

    /// Begins a comparison; false: there is one, which will look once more.
    fn begin(&mut self, id: u64) -> bool {
        if let Some(comparing) = &mut self.comparing {
            comparing.again = true;
            return false;
        }
        self.comparing = Some(Comparing { id, again: false });
        true
    }

    fn is_compared_by(&self, id: u64) -> bool {
        self.comparing.as_ref().is_some_and(|comparing| comparing.id == id)
    }

    /// Ends a comparison; false: it has to look once more.
    fn end(&mut self, id: u64) -> bool {
        match &mut self.comparing {
            Some(comparing) if comparing.id == id && comparing.again => {
                comparing.again = false;
                false
            }
            Some(comparing) if comparing.id == id => {
                (self.comparing, self.since) = (None, None);
                true
            }
            _ => true,
        }
    }

    /// Takes in all who are there; returns the difference.
    fn replace(&mut self, read: HashMap<Box<str>, MemberInfo>) -> Vec<News> {
        let since = self.since.take().unwrap_or_default();
        let mut news = Vec::new();
        let gone: Vec<_> =
            self.members.keys().filter(|key| !read.contains_key(*key) && !since.contains_key(*key)).cloned().collect();
        for key in gone {
            if let Some(gone) = self.members.remove(&key) {
                news.push((gone.member, false));
            }
        }
        let is_first = !std::mem::replace(&mut self.is_complete, true);
        for (key, member) in read {
            if since.contains_key(&key) || self.members.contains_key(&key) {
                continue;
            }
            // Of who was there before, the members have asked for themselves, or do not care.
            if !is_first {
                news.push((member.clone(), true));
            }
            self.members.insert(key, Present { member, is_told: !is_first });
        }
        if is_first {
            self.late_until = Some(Instant::now() + LATE);
        }
        if self.members.len() > KNOWN_MAX {
            *self = Self { is_off: true, ..Self::default() };
        }
        news
    }
}

impl Router {
    /// Tells a room's members here who came and went, if they do not know.
    pub(super) fn on_changes(self: &Arc<Self>, changes: &Changes<'_>) {
        let generation = self.generation();
        let told_of = generation.room(&changes.room).map_or(JoinLeave::Off, |(entry, _)| entry.join_leave);
        if told_of == JoinLeave::Off || !self.hub.has_room(&changes.room) {
            return;
        }
        let mut news = Vec::new();
        let mut batch = Batch::new(&self.flusher);
        let mut known = self.known.rooms.lock();
        let room = match known.get_mut(&*changes.room) {
            Some(room) => room,
            None => known.entry(RoomName::from(&*changes.room)).or_default(),
        };
        for (members, is_here) in [(&changes.joined, true), (&changes.left, false)] {
            for member in members.iter().map(Member::to_info) {
                if room.apply(key(&member, told_of), &member, is_here) {
                    news.push((member, is_here));
                }
            }
        }
        self.tell(&changes.room, &news, &mut batch);
    }

    /// Called under the lock of what is known, so that all is told in the order
    /// in which it became known; it is written after that.
    fn tell(&self, room: &str, news: &[News], batch: &mut Batch<'_>) {
        for (member, is_here) in news {
            let push = if *is_here { Push::Joined { room, member } } else { Push::Left { room, member } };
            let mut seen = Seen::default();
            if let Some(id) = ConnectionId::parse(&member.connection) {
                seen.exclude(id);
            }
            self.hub.deliver_room(room, &Broadcast::new(push), &mut seen, batch);
        }
    }

    /// The first member here is in a room that tells: from now on it is kept
    /// who is known to be there.
    pub(super) fn know(self: &Arc<Self>, room: &RoomName) {
        let is_new = {
            let mut known = self.known.rooms.lock();
            let entry = known.entry(Arc::clone(room)).or_default();
            !entry.is_complete && !entry.is_off && entry.comparing.is_none()
        };
        if is_new {
            self.compare_members(vec![Arc::clone(room)]);
        }
    }

    /// The last member here has left.
    pub(super) fn unknow(&self, room: &str) {
        self.known.rooms.lock().remove(room);
    }

    /// Something may have been missed in all rooms.
    pub(super) fn compare_all_members(self: &Arc<Self>) {
        let rooms =
            self.known.rooms.lock().iter().filter(|(_, room)| !room.is_off).map(|(name, _)| Arc::clone(name)).collect();
        self.compare_members(rooms);
    }

    fn compare_members(self: &Arc<Self>, mut rooms: Vec<RoomName>) {
        let Some(cluster) = self.cluster.clone() else { return };
        let id = self.known.comparisons.fetch_add(1, Ordering::Relaxed);
        {
            let mut known = self.known.rooms.lock();
            rooms.retain(|room| known.get_mut(room).is_some_and(|room| room.begin(id)));
        }
        if rooms.is_empty() {
            return;
        }
        let router = Arc::clone(self);
        self.tasks.spawn(async move {
            for room in rooms {
                loop {
                    let done = router.compare_room(&cluster, &room, id).await;
                    if router.stop.is_cancelled() {
                        return;
                    }
                    if !done {
                        tokio::time::sleep(RETRY).await;
                    } else if router.known.rooms.lock().get_mut(&room).is_none_or(|room| room.end(id)) {
                        break;
                    }
                }
            }
        });
    }

    /// False: it has to be tried again.
    async fn compare_room(self: &Arc<Self>, cluster: &Cluster, room: &RoomName, id: u64) -> bool {
        let told_of = self.generation().room(room).map_or(JoinLeave::Off, |(entry, _)| entry.join_leave);
        if !self.hub.has_room(room) {
            self.unknow(room);
            return true;
        }
        // After a Redis was wiped, it takes a while until all have registered
        // anew: who is missing until then has not left.
        if told_of == JoinLeave::Off {
            return true;
        }
        if !cluster.is_settled() {
            return false;
        }
        match self.known.rooms.lock().get_mut(room) {
            Some(known) if known.is_compared_by(id) => known.since = Some(HashMap::new()),
            _ => return true,
        }
        let started = Instant::now();
        let mut read = HashMap::new();
        let mut next = None;
        loop {
            let Ok(page) = cluster.members(room, next.as_deref(), PAGE).await else { return false };
            for member in page.members {
                read.insert(key(&member, told_of), member);
            }
            if read.len() > KNOWN_MAX {
                if let Some(known) = self.known.rooms.lock().get_mut(room) {
                    *known = Room { is_off: true, ..Room::default() };
                }
                return true;
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        if !cluster.has_been_settled_since(started) {
            return false;
        }
        let mut batch = Batch::new(&self.flusher);
        let mut all = self.known.rooms.lock();
        if let Some(known) = all.get_mut(room).filter(|known| known.is_compared_by(id)) {
            let news = known.replace(read);
            self.tell(room, &news, &mut batch);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(connection: &str, user: &str) -> MemberInfo {
        MemberInfo { connection: connection.into(), user: user.into(), info: "".into(), room_info: "".into() }
    }

    fn read(members: &[MemberInfo]) -> HashMap<Box<str>, MemberInfo> {
        members.iter().map(|member| (key(member, JoinLeave::Users), member.clone())).collect()
    }

    fn apply(room: &mut Room, member: &MemberInfo, is_here: bool) -> bool {
        room.apply(key(member, JoinLeave::Users), member, is_here)
    }

    #[test]
    fn what_is_known_is_not_told_again() {
        let (ann, bob) = (member("1", "ann"), member("2", "bob"));
        let mut room = Room::default();
        assert_eq!(room.replace(read(std::slice::from_ref(&ann))), [], "they were there before");
        room.late_until = Some(Instant::now());
        assert!(!apply(&mut room, &ann, true), "registered anew");
        assert!(apply(&mut room, &bob, true));
        assert!(apply(&mut room, &ann, false));
        assert!(!apply(&mut room, &ann, false));
    }

    #[test]
    fn who_came_while_it_was_first_read_is_told_of_when_the_message_comes() {
        let (ann, bob) = (member("1", "ann"), member("2", "bob"));
        let mut room = Room::default();
        // Bob has come and gone again, and only the first is heard yet.
        assert!(apply(&mut room, &bob, true));
        room.since = Some(HashMap::new());
        assert_eq!(room.replace(read(std::slice::from_ref(&ann))), [(bob.clone(), false)]);
        assert!(!apply(&mut room, &bob, false), "told already");
        assert!(apply(&mut room, &ann, true), "the message was late");
        assert!(!apply(&mut room, &ann, true), "once");
        assert!(apply(&mut room, &ann, false));
    }

    #[test]
    fn one_comparison_at_a_time_looks_once_more_for_those_who_asked_meanwhile() {
        let mut room = Room::default();
        assert!(room.begin(1) && room.is_compared_by(1));
        assert!(!room.begin(2) && !room.is_compared_by(2));
        assert!(!room.end(1), "it looks once more");
        assert!(room.is_compared_by(1) && room.end(1));
        assert!(room.begin(3));
        // One that began in a room that was left meanwhile ends nothing.
        assert!(room.end(1) && room.is_compared_by(3));
    }

    #[test]
    fn after_a_time_of_deafness_the_difference_is_told() {
        let (ann, bob, eve) = (member("1", "ann"), member("2", "bob"), member("3", "eve"));
        let mut room = Room::default();
        room.replace(read(&[ann.clone(), bob.clone()]));
        room.since = Some(HashMap::new());
        // While it is being read, eve comes and goes: that is newer.
        assert!(apply(&mut room, &eve, true));
        assert!(apply(&mut room, &eve, false));
        assert_eq!(room.replace(read(&[bob.clone(), eve])), [(ann, false)]);
        assert_eq!(room.members.len(), 1);
        assert!(room.members.contains_key("ubob"));
    }
}
