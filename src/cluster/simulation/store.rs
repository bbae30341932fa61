//! What Redis does with the scripts, in plain Rust: each [`Command`] is one
//! script or one plain command, step by step as the Lua has it, and happens at
//! once or not at all. Keys that outlive a run do not expire here.
//!
//! Beside that it keeps what only the checks look at: which message follows
//! which, and who registered whom last.

use std::collections::{BTreeMap, BTreeSet};

use crate::room::history::Range;

#[derive(Debug, Clone)]
pub(super) enum Command {
    Beat {
        me: String,
        fresh: String,
        counts: bool,
    },
    Claim {
        dead: String,
        seen: String,
        token: String,
    },
    Remains {
        dead: String,
        token: String,
        most: usize,
        rooms: Vec<String>,
        users: Vec<String>,
    },
    Index {
        me: String,
        rooms: Vec<String>,
        users: Vec<String>,
    },
    Forget {
        me: String,
        rooms: Vec<String>,
        users: Vec<String>,
    },
    Enter {
        me: String,
        room: String,
        members: Vec<Entering>,
    },
    Exit {
        me: String,
        room: String,
        id: String,
    },
    /// `order`: of the members, who is taken first.
    ReapRoom {
        dead: String,
        room: String,
        most: usize,
        order: Vec<String>,
    },
    SignIn {
        me: String,
        user: String,
        connection: String,
        max: usize,
        closes: bool,
    },
    SignOut {
        user: String,
        member: String,
    },
    ReapUser {
        dead: String,
        user: String,
    },
    Append {
        room: String,
        fresh: String,
        frame: String,
        size: usize,
        age: u64,
        key: Option<String>,
    },
    Read {
        room: String,
        fresh: String,
        range: Range,
        age: u64,
    },
    RoomsOf {
        me: String,
    },
    UsersOf {
        me: String,
    },
    MembersOf {
        me: String,
        room: String,
    },
    ConnectionsOf {
        user: String,
    },
    Depart {
        me: String,
        grace: u64,
    },
    Silence {
        me: String,
    },
    Publish {
        topic: String,
        frame: String,
    },
    /// Redis was full: what a room keeps is gone, and what it knows of it if
    /// `all`.
    Evict {
        room: String,
        all: bool,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Entering {
    pub(super) id: String,
    pub(super) value: String,
    pub(super) frame: String,
}

impl Entering {
    /// A member as `Cluster::member` writes it, with frames that people can
    /// read.
    pub(super) fn new(id: &str, user: &str, told_of: char) -> Self {
        Self { id: id.to_owned(), value: format!("{told_of}{user}\0-{id} {user}"), frame: format!("+{id} {user}") }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Deposed,
    Seen {
        epoch: String,
        line: String,
        beats: BTreeMap<String, String>,
        departed: BTreeMap<String, String>,
        claims: BTreeMap<String, String>,
    },
    Int(i64),
    /// Somebody else has the claim.
    Fenced,
    Left(Vec<String>, Vec<String>),
    Reaped(i64, Vec<(bool, String)>),
    SignedIn(bool, Vec<String>),
    Pair(i64, i64),
    Appended(bool, u64, String),
    Reading {
        epoch: String,
        top: u64,
        past: String,
        messages: Vec<(u64, String)>,
        /// The newest message, for the checks.
        head: Option<String>,
    },
    Names(Vec<String>),
}

/// Which server it is, and its clock.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) now: u64,
    pub(super) line: String,
}

/// What a command did beyond its answer.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Channels and frames.
    pub(super) published: Vec<(String, String)>,
    /// A message and the one before it, if there is one.
    pub(super) appended: Option<(String, Option<String>)>,
    /// Members that were taken out with a dead instance, and who had registered
    /// them since.
    pub(super) robbed: Vec<(String, String)>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    epoch: Option<String>,
    pub(super) beats: BTreeMap<String, u64>,
    dead: BTreeSet<String>,
    pub(super) departed: BTreeMap<String, String>,
    pub(super) claims: BTreeMap<String, String>,
    pub(super) rooms_of: BTreeMap<String, BTreeSet<String>>,
    pub(super) users_of: BTreeMap<String, BTreeSet<String>>,
    pub(super) rooms: BTreeMap<String, Room>,
    pub(super) users: BTreeMap<String, User>,
    pub(super) logs: BTreeMap<String, Log>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    pub(super) members: BTreeMap<String, String>,
    pub(super) order: BTreeMap<String, i64>,
    pub(super) users: BTreeMap<String, i64>,
    pub(super) of: BTreeMap<String, BTreeSet<String>>,
    cleaned: BTreeSet<String>,
    count: i64,
    /// Who registered it last, for the checks.
    entered: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct User {
    /// In the order of their scores.
    pub(super) connections: Vec<String>,
    cleaned: BTreeSet<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    pub(super) about: Option<About>,
    /// Offset, frame and time of each.
    pub(super) stream: Vec<(u64, String, u64)>,
    expires: u64,
    keys: BTreeMap<String, (u64, String)>,
    /// The newest message, for the checks.
    pub(super) head: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct About {
    epoch: String,
    pub(super) top: u64,
    line: String,
    past: String,
}

fn names(set: Option<&BTreeSet<String>>) -> Vec<String> {
    set.into_iter().flatten().cloned().collect()
}

impl Room {
    /// `take_out` of members.lua.
    fn take_out(&mut self, of: &str, id: &str, topic: &str, effects: &mut Effects) -> Option<(String, bool)> {
        if let Some(own) = self.of.get_mut(of) {
            own.remove(id);
        }
        let value = self.members.remove(id)?;
        self.order.remove(id);
        self.entered.remove(id);
        let user = user_of(&value);
        let left = self.users.entry(user.to_owned()).or_default();
        *left -= 1;
        let left = *left;
        if left <= 0 {
            self.users.remove(user);
        }
        if is_told(&value, left) {
            let frame = value.split_once('\0').unwrap().1;
            effects.published.push((topic.to_owned(), frame.to_owned()));
        }
        let is_last = left <= 0 || user.is_empty();
        Some((value, is_last))
    }

    fn reset_count(&mut self) {
        if self.members.is_empty() {
            self.count = 0;
        }
    }
}

pub(super) fn user_of(value: &str) -> &str {
    &value.split_once('\0').unwrap().0[1..]
}

fn is_told(value: &str, others: i64) -> bool {
    match &value[..1] {
        "c" => true,
        "u" => others <= 0 || user_of(value).is_empty(),
        _ => false,
    }
}

impl Log {
    /// `touch` of history.lua.
    fn touch(&mut self, context: &Context, fresh: &str) -> (String, u64, String) {
        let Some(about) = &mut self.about else {
            *self = Self { keys: std::mem::take(&mut self.keys), ..Self::default() };
            let line = context.line.clone();
            self.about = Some(About { epoch: fresh.to_owned(), top: 0, line, past: String::new() });
            return (fresh.to_owned(), 0, String::new());
        };
        if about.line != context.line {
            about.past = format!("{}={} {}", about.epoch, about.top, about.past);
            about.past.truncate(400);
            fresh.clone_into(&mut about.epoch);
            about.line.clone_from(&context.line);
        }
        (about.epoch.clone(), about.top, about.past.clone())
    }

    fn expire(&mut self, now: u64) {
        if now >= self.expires {
            self.stream.clear();
        }
    }
}

impl State {
    /// Carries out one command.
    pub(super) fn run(&mut self, context: &Context, command: &Command, effects: &mut Effects) -> Answer {
        match command {
            Command::Beat { me, fresh, counts } => {
                let epoch = self.epoch.get_or_insert_with(|| fresh.clone()).clone();
                if self.dead.contains(me) {
                    return Answer::Deposed;
                }
                if *counts && !self.departed.contains_key(me) {
                    *self.beats.entry(me.clone()).or_default() += 1;
                }
                let beats = self.beats.iter().map(|(name, n)| (name.clone(), n.to_string())).collect();
                let (departed, claims) = (self.departed.clone(), self.claims.clone());
                Answer::Seen { epoch, line: context.line.clone(), beats, departed, claims }
            }
            Command::Claim { dead, seen, token } => Answer::Int(self.claim(dead, seen, token)),
            Command::Remains { dead, token, most, rooms, users } => self.remains(dead, token, *most, rooms, users),
            Command::Index { me, rooms, users } => {
                if self.dead.contains(me) {
                    return Answer::Int(0);
                }
                if !self.departed.contains_key(me) {
                    self.beats.entry(me.clone()).or_default();
                }
                if !rooms.is_empty() {
                    self.rooms_of.entry(me.clone()).or_default().extend(rooms.iter().cloned());
                }
                if !users.is_empty() {
                    self.users_of.entry(me.clone()).or_default().extend(users.iter().cloned());
                }
                Answer::Int(1)
            }
            Command::Forget { me, rooms, users } => {
                for (sets, gone) in [(&mut self.rooms_of, rooms), (&mut self.users_of, users)] {
                    if let Some(set) = sets.get_mut(me) {
                        set.retain(|name| !gone.contains(name));
                    }
                }
                self.tidy();
                Answer::Int(0)
            }
            Command::Enter { me, room, members } => self.enter(me, room, members, effects),
            Command::Exit { me, room, id } => {
                let known = self.rooms.entry(room.clone()).or_default();
                let taken = known.take_out(me, id, &format!("r:{room}"), effects);
                known.reset_count();
                Answer::Int(i64::from(taken.is_some()))
            }
            Command::ReapRoom { dead, room, most, order } => {
                let known = self.rooms.entry(room.clone()).or_default();
                known.cleaned.insert(dead.clone());
                let mut ids: Vec<String> = known.of.get(dead).into_iter().flatten().cloned().collect();
                ids.sort_by_key(|id| order.iter().position(|first| first == id));
                ids.truncate(*most);
                let mut taken = Vec::new();
                for id in ids {
                    if let Some(by) = known.entered.get(&id).filter(|by| *by != dead) {
                        effects.robbed.push((format!("{id} in {room}"), by.clone()));
                    }
                    if let Some((value, is_last)) = known.take_out(dead, &id, &format!("r:{room}"), effects) {
                        taken.push((is_last, value));
                    }
                }
                known.reset_count();
                Answer::Reaped(known.of.get(dead).map_or(0, |own| own.len() as i64), taken)
            }
            Command::SignIn { me, user, connection, max, closes } => {
                let known = self.users.entry(user.clone()).or_default();
                let member = format!("{connection}@{me}");
                if known.cleaned.contains(me) {
                    return Answer::Int(-1);
                }
                if known.connections.contains(&member) {
                    return Answer::SignedIn(false, Vec::new());
                }
                let n = known.connections.len();
                let mut over = Vec::new();
                if n >= *max {
                    if !closes {
                        return Answer::Int(0);
                    }
                    over = known.connections.drain(..=n - max).collect();
                }
                known.connections.push(member);
                Answer::SignedIn(n == 0, over)
            }
            Command::SignOut { user, member } => {
                let known = self.users.entry(user.clone()).or_default();
                let n = known.connections.len();
                known.connections.retain(|other| other != member);
                Answer::Int(i64::from(known.connections.len() < n && known.connections.is_empty()))
            }
            Command::ReapUser { dead, user } => {
                let known = self.users.entry(user.clone()).or_default();
                known.cleaned.insert(dead.clone());
                let (n, suffix) = (known.connections.len(), format!("@{dead}"));
                known.connections.retain(|member| !member.ends_with(&suffix));
                let gone = n - known.connections.len();
                Answer::Pair(gone as i64, i64::from(gone > 0 && known.connections.is_empty()))
            }
            Command::Append { room, fresh, frame, size, age, key } => {
                self.append(context, room, fresh, frame, (*size, *age), key.as_ref(), effects)
            }
            Command::Read { room, fresh, range, age } => self.read(context, room, fresh, *range, *age),
            Command::RoomsOf { me } => Answer::Names(names(self.rooms_of.get(me))),
            Command::UsersOf { me } => Answer::Names(names(self.users_of.get(me))),
            Command::MembersOf { me, room } => {
                Answer::Names(names(self.rooms.get(room).and_then(|room| room.of.get(me))))
            }
            Command::ConnectionsOf { user } => {
                Answer::Names(self.users.get(user).map(|user| user.connections.clone()).unwrap_or_default())
            }
            Command::Depart { me, grace } => {
                Answer::Int(i64::from(self.departed.insert(me.clone(), grace.to_string()).is_none()))
            }
            Command::Silence { me } => Answer::Int(i64::from(self.beats.remove(me).is_some())),
            Command::Publish { topic, frame } => {
                effects.published.push((topic.clone(), frame.clone()));
                Answer::Int(0)
            }
            Command::Evict { room, all } => {
                let log = self.logs.entry(room.clone()).or_default();
                log.stream.clear();
                if *all {
                    log.about = None;
                }
                Answer::Int(0)
            }
        }
    }

    /// claim.lua.
    fn claim(&mut self, dead: &str, seen: &str, token: &str) -> i64 {
        if let Some(claim) = self.claims.get(dead) {
            if claim != seen {
                return 0;
            }
        } else {
            match self.beats.get(dead) {
                Some(beat) if beat.to_string() != seen => return 0,
                None if !self.departed.contains_key(dead) => return 0,
                _ => {}
            }
        }
        self.dead.insert(dead.to_owned());
        self.beats.remove(dead);
        self.departed.remove(dead);
        self.claims.insert(dead.to_owned(), format!("{token}:0"));
        1
    }

    /// remains.lua.
    fn remains(&mut self, dead: &str, token: &str, most: usize, rooms: &[String], users: &[String]) -> Answer {
        let Some(n) = self.claims.get(dead).and_then(|claim| claim.strip_prefix(token)?.strip_prefix(':')) else {
            return Answer::Fenced;
        };
        let n: u64 = n.parse().unwrap();
        for (sets, done) in [(&mut self.rooms_of, rooms), (&mut self.users_of, users)] {
            if let Some(set) = sets.get_mut(dead) {
                set.retain(|name| !done.contains(name));
            }
        }
        self.tidy();
        let some = |sets: &BTreeMap<String, BTreeSet<String>>| -> Vec<String> {
            sets.get(dead).into_iter().flatten().take(most).cloned().collect()
        };
        let (rooms, users) = (some(&self.rooms_of), some(&self.users_of));
        if rooms.is_empty() && users.is_empty() {
            self.claims.remove(dead);
            return Answer::Int(0);
        }
        self.claims.insert(dead.to_owned(), format!("{token}:{}", n + 1));
        Answer::Left(rooms, users)
    }

    /// enter.lua.
    fn enter(&mut self, me: &str, room: &str, members: &[Entering], effects: &mut Effects) -> Answer {
        let known = self.rooms.entry(room.to_owned()).or_default();
        if known.cleaned.contains(me) {
            return Answer::Int(-1);
        }
        let mut new = 0;
        for Entering { id, value, frame } in members {
            known.entered.insert(id.clone(), me.to_owned());
            known.of.entry(me.to_owned()).or_default().insert(id.clone());
            if known.members.insert(id.clone(), value.clone()).is_some() {
                continue;
            }
            new += 1;
            known.count += 1;
            known.order.insert(id.clone(), known.count);
            let n = known.users.entry(user_of(value).to_owned()).or_default();
            *n += 1;
            if is_told(value, *n - 1) {
                effects.published.push((format!("r:{room}"), frame.clone()));
            }
        }
        Answer::Int(new)
    }

    /// append.lua.
    #[expect(clippy::too_many_arguments, reason = "the script's")]
    fn append(
        &mut self,
        context: &Context,
        room: &str,
        fresh: &str,
        frame: &str,
        (size, age): (usize, u64),
        key: Option<&String>,
        effects: &mut Effects,
    ) -> Answer {
        let log = self.logs.entry(room.to_owned()).or_default();
        log.expire(context.now);
        if let Some((offset, epoch)) = key.and_then(|key| log.keys.get(key)) {
            return Answer::Appended(false, *offset, epoch.clone());
        }
        let (epoch, top, _) = log.touch(context, fresh);
        let top = top + 1;
        log.stream.push((top, frame.to_owned(), context.now));
        if log.stream.len() > size {
            log.stream.drain(..log.stream.len() - size);
        }
        if let Some(about) = &mut log.about {
            about.top = top;
        }
        for _ in 0..8 {
            if log.stream.first().is_none_or(|(.., at)| context.now - at <= age) {
                break;
            }
            log.stream.remove(0);
        }
        log.expires = context.now + age;
        if let Some(key) = key {
            log.keys.insert(key.clone(), (top, epoch.clone()));
        }
        effects.appended = Some((frame.to_owned(), log.head.replace(frame.to_owned())));
        effects.published.push((format!("r:{room}"), format!("P{top} {epoch} {frame}")));
        Answer::Appended(true, top, epoch)
    }

    /// read.lua.
    fn read(&mut self, context: &Context, room: &str, fresh: &str, range: Range, age: u64) -> Answer {
        let log = self.logs.entry(room.to_owned()).or_default();
        log.expire(context.now);
        let (epoch, top, past) = log.touch(context, fresh);
        let found: Vec<&(u64, String, u64)> = match range {
            Range::Nothing => Vec::new(),
            Range::Forward { since, limit } => {
                log.stream.iter().filter(|(offset, ..)| since.is_none_or(|since| *offset > since)).take(limit).collect()
            }
            Range::Reverse { since, limit } => {
                let before = |offset: u64| since.is_none_or(|since| offset < since);
                log.stream.iter().rev().filter(|(offset, ..)| before(*offset)).take(limit).collect()
            }
        };
        let is_young = |(.., at): &&&(u64, String, u64)| *at + age >= context.now;
        let messages = found.iter().filter(is_young).map(|(offset, frame, _)| (*offset, frame.clone())).collect();
        Answer::Reading { epoch, top, past, messages, head: log.head.clone() }
    }

    /// Redis has no empty sets.
    fn tidy(&mut self) {
        self.rooms_of.retain(|_, set| !set.is_empty());
        self.users_of.retain(|_, set| !set.is_empty());
    }

    /// What must hold between commands.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, room) in &self.rooms {
            let mut users: BTreeMap<String, i64> = BTreeMap::new();
            for value in room.members.values() {
                *users.entry(user_of(value).to_owned()).or_default() += 1;
            }
            if users != room.users {
                return Err(format!("{name} counts {:?} and has {users:?}", room.users));
            }
            if !room.members.keys().eq(room.order.keys()) {
                return Err(format!("{name} orders {:?} and has {:?}", room.order, room.members));
            }
            for id in room.members.keys() {
                if !room.of.values().any(|own| own.contains(id)) {
                    return Err(format!("nobody would find {id} in {name}"));
                }
            }
        }
        Ok(())
    }
}
