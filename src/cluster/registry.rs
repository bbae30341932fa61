//! Who is where: members of rooms, connections of users, instances.

use std::{collections::BTreeMap, sync::Arc};

use redis::Value;
use tokio::sync::oneshot;

use super::{
    BusError, Cluster, Debt,
    envelope::{self, Body},
    interest::Of,
    pipeline::{Done, garbled, parse},
    script,
};
use crate::{
    config::{JoinLeave, UserLimit},
    id::{BootId, InstanceId},
    protocol::MemberInfo,
};

/// What became of a user's new connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedIn {
    /// It is counted.
    In {
        /// The user had no connection before.
        is_first: bool,
        /// Connections that must be closed to make room.
        over: Vec<String>,
    },
    /// The user has as many as allowed.
    Limit,
}

/// A connection between its signing in and its being here: what Redis has of it
/// is no stray. Ends when it is dropped.
#[derive(Debug)]
pub struct Arrival {
    cluster: Arc<Cluster>,
    connection: Box<str>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.cluster.arriving.lock().remove(&self.connection);
    }
}

/// Some members of a room.
#[derive(Debug, Clone)]
pub struct MembersPage {
    /// In the order in which they came.
    pub members: Vec<MemberInfo>,
    /// Where the next page begins; None: this was the last.
    pub next: Option<String>,
}

/// An instance as it is seen from another.
#[derive(Debug, Clone)]
pub struct InstanceInfo {
    /// Its id.
    pub id: String,
    /// What it says of itself: a JSON text.
    pub info: String,
    /// How long its beat had not changed at the last look; None: it was not
    /// seen then.
    pub silent: Option<std::time::Duration>,
}

/// The member in a value that the scripts keep.
pub(super) fn member_of(value: &[u8]) -> Option<MemberInfo> {
    let at = value.iter().position(|byte| *byte == 0)?;
    let (frame, _) = envelope::decode(&value[at + 1..]).ok()?;
    let Body::Presence(changes) = frame.body else { return None };
    changes.left.first().map(envelope::Member::to_info)
}

impl Cluster {
    /// The channels that an instance hears from its start to its end.
    pub(super) fn own_topics(&self) -> [String; 2] {
        [self.keys.instance_topic(self.boot), self.keys.everyone_topic()]
    }

    /// Notes rooms and users as held here, before anything is written there.
    pub(super) async fn note(&self, of: &[Of]) -> Result<(), BusError> {
        let rooms: Vec<&str> =
            of.iter().filter_map(|of| if let Of::Room(room) = of { Some(room.as_str()) } else { None }).collect();
        let users: Vec<&str> =
            of.iter().filter_map(|of| if let Of::User(user) = of { Some(user.as_str()) } else { None }).collect();
        if rooms.is_empty() && users.is_empty() {
            return Ok(());
        }
        let me = self.id();
        let keys = [
            self.keys.instances("dead"),
            self.keys.instance("rooms", me),
            self.keys.instance("users", me),
            self.keys.instances("beats"),
            self.keys.instances("departed"),
        ];
        let mut command = script::INDEX.with(&keys.each_ref().map(String::as_str), &[&me.to_string(), &rooms.len()]);
        for name in rooms.iter().chain(&users) {
            command.arg(*name);
        }
        let noted: i64 = parse(self.write(command, &keys[0]).await?)?;
        if noted == 1 { Ok(()) } else { Err(BusError::Down) }
    }

    /// What nobody here has held for long.
    pub(super) fn forget(&self, of: &[Of]) {
        let me = self.id();
        let [mut rooms, mut users] = ["rooms", "users"].map(|part| {
            let key = self.keys.instance(part, me);
            let mut command = redis::cmd("SREM");
            command.arg(&key);
            (command, key, 0)
        });
        for of in of {
            let (command, name) = match of {
                Of::Room(room) => (&mut rooms, room),
                Of::User(user) => (&mut users, user),
                Of::Instances => continue,
            };
            command.0.arg(name);
            command.2 += 1;
        }
        for (command, key, n) in [rooms, users] {
            if n > 0 {
                self.pipeline.put(command, key, Done::Nobody);
            }
        }
    }

    pub(super) fn member_keys(&self, room: &str, instance: InstanceId) -> [String; 6] {
        let own = format!("of:{instance}");
        ["members", "order", "users", &own, "cleaned", "count"].map(|part| self.keys.room(room, part))
    }

    /// Registers members of a room here; `told_of` says who is announced, now
    /// and when they leave. Returns how many were not registered.
    ///
    /// # Errors
    /// If it is not certain that they are registered.
    pub async fn enter(&self, room: &str, members: &[MemberInfo], told_of: JoinLeave) -> Result<usize, BusError> {
        let me = self.id();
        let keys = self.member_keys(room, me);
        let arguments: [&dyn script::Argument; 3] =
            [&me.to_string(), &self.publish_command(), &self.keys.room_topic(room)];
        let mut command = script::ENTER.with(&keys.each_ref().map(String::as_str), &arguments);
        for member in members {
            let (value, joined) = self.member(room, member, told_of);
            command.arg(&member.connection).arg(value).arg(joined);
        }
        let entered: i64 = parse(self.write(command, &keys[0]).await?)?;
        usize::try_from(entered).map_err(|_| BusError::Down)
    }

    /// Takes a connection out of a room; it is tried until it is certain.
    pub fn exit(self: &Arc<Self>, room: &str, connection: &str) {
        self.exit_as(self.id(), room, connection);
    }

    pub(super) fn exit_as(self: &Arc<Self>, instance: InstanceId, room: &str, connection: &str) {
        let (command, key) = self.exiting(instance, room, connection);
        let debt = Debt::Exit { room: room.to_owned(), connection: connection.to_owned(), instance };
        self.pipeline.put(command, key, self.or_owe(debt));
    }

    pub(super) fn exiting(&self, instance: InstanceId, room: &str, connection: &str) -> (redis::Cmd, String) {
        let keys = self.member_keys(room, instance);
        let command = script::EXIT.with(
            &keys.each_ref().map(String::as_str),
            &[&self.publish_command(), &self.keys.room_topic(room), &connection],
        );
        let [key, ..] = keys;
        (command, key)
    }

    fn or_owe(self: &Arc<Self>, debt: Debt) -> Done {
        let cluster = Arc::clone(self);
        Done::Call(Box::new(move |answer| {
            if answer.is_err() {
                cluster.owe(debt);
            }
        }))
    }

    pub(super) fn owe(&self, debt: Debt) {
        self.debts.lock().push(debt);
    }

    /// A connection is about to be signed in.
    #[must_use]
    pub fn arrive(self: &Arc<Self>, connection: &str) -> Arrival {
        self.arriving.lock().insert(connection.into());
        Arrival { cluster: Arc::clone(self), connection: connection.into() }
    }

    /// Counts a user's new connection against its limit, over all instances.
    ///
    /// # Errors
    /// If it is not certain that it is counted.
    pub async fn sign_in(
        &self,
        user: &str,
        connection: &str,
        max: usize,
        limit: UserLimit,
    ) -> Result<SignedIn, BusError> {
        let me = self.id();
        let (key, cleaned) = (self.keys.user(user, "connections"), self.keys.user(user, "cleaned"));
        let close = u8::from(limit == UserLimit::CloseOldest);
        let member = format!("{connection}@{me}");
        let command = script::SIGN_IN.with(&[&key, &cleaned], &[&member, &me.to_string(), &max, &close]);
        let answer: Vec<Value> = parse(self.write(command, &key).await?)?;
        let mut answer = answer.into_iter();
        match answer.next().map(parse::<i64>) {
            Some(Ok(0)) => Ok(SignedIn::Limit),
            Some(Ok(1)) => {
                let is_first = answer.next().map(parse::<i64>).transpose()? == Some(1);
                let over: Vec<String> = answer.next().map(parse).transpose()?.unwrap_or_default();
                let over = over.into_iter().filter_map(|member| Some(member.split_once('@')?.0.to_owned()));
                Ok(SignedIn::In { is_first, over: over.collect() })
            }
            _ => Err(BusError::Down),
        }
    }

    /// A user has one connection less; tried until it is certain.
    pub fn sign_out(self: &Arc<Self>, user: &str, connection: &str, on_last: impl FnOnce() + Send + 'static) {
        let instance = self.id();
        let (command, key) = self.signing_out(instance, user, connection);
        let debt = Debt::SignOut { user: user.to_owned(), connection: connection.to_owned(), instance };
        let cluster = Arc::clone(self);
        let done = Done::Call(Box::new(move |answer| match answer {
            Ok(Value::Int(1)) => on_last(),
            Ok(_) => {}
            Err(_) => cluster.owe(debt),
        }));
        self.pipeline.put(command, key, done);
    }

    pub(super) fn sign_out_as(self: &Arc<Self>, instance: InstanceId, user: &str, connection: &str) {
        let (command, key) = self.signing_out(instance, user, connection);
        let debt = Debt::SignOut { user: user.to_owned(), connection: connection.to_owned(), instance };
        let (cluster, user) = (Arc::clone(self), user.to_owned());
        let done = Done::Call(Box::new(move |answer| match answer {
            Ok(Value::Int(1)) => cluster.gone.lock().push(user),
            Ok(_) => {}
            Err(_) => cluster.owe(debt),
        }));
        self.pipeline.put(command, key, done);
    }

    pub(super) fn signing_out(&self, instance: InstanceId, user: &str, connection: &str) -> (redis::Cmd, String) {
        let key = self.keys.user(user, "connections");
        let command = script::SIGN_OUT.with(&[&key], &[&format!("{connection}@{instance}")]);
        (command, key)
    }

    /// How many connections and users are in a room.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn count(&self, room: &str) -> Result<(usize, usize), BusError> {
        let count = |part: &str| {
            let key = self.keys.room(room, part);
            let mut command = redis::cmd("HLEN");
            command.arg(&key);
            (command, key)
        };
        let mut answers = self.reader.all(vec![count("members"), count("users")]).await?.into_iter();
        let mut next = || answers.next().ok_or_else(garbled)?.and_then(parse::<usize>);
        Ok((next()?, next()?))
    }

    /// A page of a room's members, behind where another one ended.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn members(&self, room: &str, behind: Option<&str>, limit: usize) -> Result<MembersPage, BusError> {
        let behind = behind.unwrap_or("0");
        if behind.parse::<u64>().is_err() {
            return Err(BusError::Refused("not a place in the list".into()));
        }
        let (members, order) = (self.keys.room(room, "members"), self.keys.room(room, "order"));
        let command = script::PAGE.with(&[&members, &order], &[&behind, &limit]);
        let (last, values): (String, Vec<Vec<u8>>) = parse(self.reader.one(command, &members).await?)?;
        let members = values.iter().filter_map(|value| member_of(value)).collect();
        Ok(MembersPage { members, next: Some(last).filter(|last| last != "0") })
    }

    /// Where a user is: its connections, oldest first, each with its instance.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn connections_of(&self, user: &str) -> Result<Vec<(String, String)>, BusError> {
        let key = self.keys.user(user, "connections");
        let mut command = redis::cmd("ZRANGE");
        command.arg(&key).arg(0).arg(-1);
        let members: Vec<String> = parse(self.reader.one(command, &key).await?)?;
        let split = |member: String| member.split_once('@').map(|(id, instance)| (id.to_owned(), instance.to_owned()));
        Ok(members.into_iter().filter_map(split).collect())
    }

    /// The instances that beat, as they describe themselves.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn instances(&self) -> Result<Vec<InstanceInfo>, BusError> {
        let (beats, key) = (self.beating().await?, self.keys.instances("infos"));
        let mut command = redis::cmd("HGETALL");
        command.arg(&key);
        let mut infos: BTreeMap<String, String> = parse(self.reader.one(command, &key).await?)?;
        let silences = self.silences.lock().clone();
        let info = |instance: InstanceId| {
            let id = instance.to_string();
            let (info, silent) = (infos.remove(&id)?, silences.get(&id).copied());
            Some(InstanceInfo { id, info, silent })
        };
        Ok(beats.into_iter().filter_map(info).collect())
    }

    /// The runs that beat, as this one saw them last; itself among them.
    #[must_use]
    pub fn alive(&self) -> Vec<BootId> {
        let look = self.look.lock();
        let mut boots: Vec<_> = look.beats.keys().filter_map(|id| InstanceId::parse(id)).map(|id| id.boot).collect();
        if !boots.contains(&self.boot) {
            boots.push(self.boot);
        }
        boots.sort();
        boots
    }

    /// True if there is such a run: among those that were seen last, or, as it
    /// may be new, among those that beat.
    ///
    /// # Errors
    /// If it was not seen and Redis does not answer.
    pub async fn finds(&self, boot: BootId) -> Result<bool, BusError> {
        Ok(self.alive().contains(&boot) || self.beating().await?.iter().any(|instance| instance.boot == boot))
    }

    /// The rooms that have members anywhere.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn rooms(&self) -> Result<std::collections::BTreeSet<String>, BusError> {
        let commands = self.beating().await?.into_iter().map(|instance| {
            let key = self.keys.instance("rooms", instance);
            let mut command = redis::cmd("SMEMBERS");
            command.arg(&key);
            (command, key)
        });
        let mut rooms = std::collections::BTreeSet::new();
        for answer in self.reader.all(commands.collect()).await? {
            rooms.extend(parse::<Vec<String>>(answer?)?);
        }
        Ok(rooms)
    }

    /// Takes out what Redis has of this instance and the instance has not:
    /// leaves that a failover has undone.
    pub(super) async fn take_out_strays(self: &Arc<Self>, receiver: &dyn super::Receiver) -> Result<(), BusError> {
        let me = self.id();
        let set = |key: String| {
            let mut command = redis::cmd("SMEMBERS");
            command.arg(&key);
            (command, key)
        };
        let (command, key) = set(self.keys.instance("rooms", me));
        let rooms: Vec<String> = parse(self.reader.one(command, &key).await?)?;
        for rooms in rooms.chunks(256) {
            let commands = rooms.iter().map(|room| set(self.keys.room(room, &format!("of:{me}")))).collect();
            for (room, members) in rooms.iter().zip(self.reader.all(commands).await?) {
                for connection in parse::<Vec<String>>(members?)? {
                    // In this order: who comes is in before it is done with that.
                    if !receiver.is_coming(room, &connection) && !receiver.is_member(room, &connection) {
                        self.exit(room, &connection);
                    }
                }
            }
        }
        let (command, key) = set(self.keys.instance("users", me));
        let users: Vec<String> = parse(self.reader.one(command, &key).await?)?;
        let me_text = me.to_string();
        for user in users {
            for (connection, instance) in self.connections_of(&user).await? {
                // In this order: who arrives is here before it is done with that.
                let is_coming = self.arriving.lock().contains(&*connection);
                if instance == me_text && !is_coming && !receiver.is_connected(&connection) {
                    self.sign_out_as(me, &user, &connection);
                }
            }
        }
        Ok(())
    }

    /// Waits until everything that was put into the pipeline before is
    /// answered.
    pub async fn flushed(&self) {
        let (sender, receiver) = oneshot::channel();
        let mut command = redis::cmd("EXISTS");
        let key = self.keys.layout();
        command.arg(&key);
        self.pipeline.put(command, key, Done::Task(sender));
        let _in_time = tokio::time::timeout(self.patience(), receiver).await;
    }
}
