//! The model of Redis against Redis itself: the scripts answer, tell and leave
//! behind the same as [`State::run`] does.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use redis::{Cmd, Connection, Value};

use super::{
    runtime::Runtime,
    store::{Answer, Command, Context, Effects, Entering, State},
};
use crate::{
    cluster::{keys::Keys, script},
    id::{BootId, InstanceId},
    room::history::Range,
};

const SEQUENCES: u64 = 200;
const STEPS: usize = 60;

/// A server that keeps nothing, on a socket in its folder.
struct Server {
    process: Child,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

impl Server {
    /// None: there is no Redis here.
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let process = std::process::Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--enable-debug-command", "local"])
            .args([
                "--unixsocket".as_ref(),
                folder.path().join("redis").as_os_str(),
                "--dir".as_ref(),
                folder.path().as_os_str(),
            ])
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self { process, folder })
    }

    fn connect(&self) -> Connection {
        let client = redis::Client::open(format!("redis+unix://{}/redis", self.folder.path().display())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A command as it goes to Redis, with the keys that registry.rs, heart.rs and
/// history.rs give it. Channels are the model's, behind `prefix`.
fn wire(keys: &Keys, prefix: &str, command: &Command) -> Cmd {
    let of = |kind: &str, me: &str| keys.instance(kind, InstanceId::parse(me).unwrap());
    let all = |parts: &[&str]| parts.iter().map(|part| keys.instances(part)).collect::<Vec<_>>();
    let member_keys = |room: &str, me: &str| {
        let own = format!("of:{me}");
        ["members", "order", "users", &own, "cleaned", "count"].map(|part| keys.room(room, part)).to_vec()
    };
    let history_keys = |room: &str| ["about", "stream"].map(|part| keys.room(room, part)).to_vec();
    let call = |script: &script::Script, keys: Vec<String>, arguments: &[&dyn script::Argument]| {
        script.with(&keys.iter().map(String::as_str).collect::<Vec<_>>(), arguments)
    };
    let plain = |name: &str, arguments: &[&str]| {
        let mut command = redis::cmd(name);
        command.arg(arguments);
        command
    };
    let topic = |room: &str| format!("{prefix}r:{room}");
    match command {
        Command::Beat { me, fresh, counts } => {
            let mut names = all(&["beats", "infos", "dead", "departed", "claims"]);
            names.extend([of("lease", me), keys.instances("epoch")]);
            call(&script::BEAT, names, &[me, &"{}", &6000, fresh, &u8::from(*counts)])
        }
        Command::Claim { dead, seen, token } => {
            let mut names = all(&["beats", "infos", "dead", "departed", "claims"]);
            names.push(of("lease", dead));
            call(&script::CLAIM, names, &[dead, seen, token])
        }
        Command::Remains { dead, token, most, rooms, users } => {
            let names = vec![keys.instances("claims"), of("rooms", dead), of("users", dead)];
            let mut command = call(&script::REMAINS, names, &[dead, token, most, &rooms.len()]);
            command.arg(rooms).arg(users);
            command
        }
        Command::Index { me, rooms, users } => {
            let mut names = vec![keys.instances("dead"), of("rooms", me), of("users", me)];
            names.extend(all(&["beats", "departed"]));
            let mut command = call(&script::INDEX, names, &[me, &rooms.len()]);
            command.arg(rooms).arg(users);
            command
        }
        Command::Enter { me, room, members } => {
            let mut command = call(&script::ENTER, member_keys(room, me), &[me, &"PUBLISH", &topic(room)]);
            for Entering { id, value, frame } in members {
                command.arg(id).arg(value).arg(frame);
            }
            command
        }
        Command::Exit { me, room, id } => call(&script::EXIT, member_keys(room, me), &[&"PUBLISH", &topic(room), id]),
        Command::ReapRoom { dead, room, most, .. } => {
            call(&script::REAP_ROOM, member_keys(room, dead), &[dead, &"PUBLISH", &topic(room), most])
        }
        Command::SignIn { me, user, connection, max, closes } => {
            let names = ["connections", "cleaned"].map(|part| keys.user(user, part)).to_vec();
            call(&script::SIGN_IN, names, &[&format!("{connection}@{me}"), me, max, &u8::from(*closes)])
        }
        Command::SignOut { user, member } => call(&script::SIGN_OUT, vec![keys.user(user, "connections")], &[member]),
        Command::ReapUser { dead, user } => {
            let names = ["connections", "cleaned"].map(|part| keys.user(user, part)).to_vec();
            call(&script::REAP_USER, names, &[dead])
        }
        Command::Append { room, fresh, frame, size, age, key } => {
            let mut names = history_keys(room);
            names.extend(key.iter().map(|key| keys.room(room, &format!("key:{key}"))));
            call(&script::APPEND, names, &[fresh, &"PUBLISH", &topic(room), frame, size, age, &86_400_000, &600_000])
        }
        Command::Read { room, fresh, range, age } => {
            let (mode, since, limit) = match *range {
                Range::Nothing => ("t", None, 0),
                Range::Forward { since, limit } => ("f", since, limit),
                Range::Reverse { since, limit } => ("r", since, limit),
            };
            let since = since.map_or_else(String::new, |since| since.to_string());
            call(&script::READ, history_keys(room), &[fresh, &mode, &since, &limit, age])
        }
        Command::Forget { me, rooms, .. } => plain("SREM", &[&of("rooms", me), &rooms[0]]),
        Command::RoomsOf { me } => plain("SMEMBERS", &[&of("rooms", me)]),
        Command::UsersOf { me } => plain("SMEMBERS", &[&of("users", me)]),
        Command::MembersOf { me, room } => plain("SMEMBERS", &[&member_keys(room, me)[3]]),
        Command::ConnectionsOf { user } => plain("ZRANGE", &[&keys.user(user, "connections"), "0", "-1"]),
        Command::Depart { me, grace } => plain("HSET", &[&keys.instances("departed"), me, &grace.to_string()]),
        Command::Silence { me } => plain("HDEL", &[&keys.instances("beats"), me]),
        Command::Publish { topic, frame } => plain("PUBLISH", &[&format!("{prefix}{topic}"), frame]),
        Command::Evict { room, all } => {
            let names = history_keys(room);
            plain("DEL", &names[usize::from(!all)..].iter().map(String::as_str).collect::<Vec<_>>())
        }
    }
}

fn text(value: &Value) -> String {
    redis::from_redis_value(value.clone()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    if let Value::Array(values) = value { values } else { panic!("{value:?} is no list") }
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(text).collect()
}

fn sorted(value: &Value) -> Vec<String> {
    let mut texts = texts(value);
    texts.sort();
    texts
}

fn map(value: &Value) -> BTreeMap<String, String> {
    list(value).chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn int(value: &Value) -> i64 {
    redis::from_redis_value(value.clone()).unwrap()
}

/// An answer of Redis as the model gives it.
fn read(command: &Command, value: &Value) -> Answer {
    match (command, value) {
        (Command::Beat { .. }, value) => match list(value) {
            [kind, ..] if int(kind) == 0 => Answer::Deposed,
            [_, epoch, line, beats, departed, claims] => Answer::Seen {
                epoch: text(epoch),
                line: text(line),
                beats: map(beats),
                departed: map(departed),
                claims: map(claims),
            },
            other => panic!("{other:?}"),
        },
        (Command::Remains { .. }, value) => match list(value) {
            [n] if int(n) == -1 => Answer::Fenced,
            [_] => Answer::Int(0),
            [_, rooms, users] => Answer::Left(sorted(rooms), sorted(users)),
            other => panic!("{other:?}"),
        },
        (Command::ReapRoom { .. }, value) => {
            let [n, taken] = list(value) else { panic!("{value:?}") };
            Answer::Reaped(int(n), list(taken).chunks(2).map(|pair| (int(&pair[0]) == 1, text(&pair[1]))).collect())
        }
        (Command::SignIn { .. }, value) => match list(value) {
            [n] => Answer::Int(int(n)),
            [_, is_first, over] => Answer::SignedIn(int(is_first) == 1, texts(over)),
            other => panic!("{other:?}"),
        },
        (Command::ReapUser { .. }, value) => Answer::Pair(int(&list(value)[0]), int(&list(value)[1])),
        (Command::Append { .. }, value) => {
            let [is_new, offset, epoch] = list(value) else { panic!("{value:?}") };
            Answer::Appended(int(is_new) == 1, int(offset).try_into().unwrap(), text(epoch))
        }
        (Command::Read { .. }, value) => {
            let [epoch, top, past, messages] = list(value) else { panic!("{value:?}") };
            let message = |pair: &[Value]| (int(&pair[0]).try_into().unwrap(), text(&pair[1]));
            let messages = list(messages).chunks(2).map(message).collect();
            let (epoch, top, past) = (text(epoch), int(top).try_into().unwrap(), text(past));
            Answer::Reading { epoch, top, past, messages, head: None }
        }
        (Command::RoomsOf { .. } | Command::UsersOf { .. } | Command::MembersOf { .. }, value) => {
            Answer::Names(sorted(value))
        }
        (Command::ConnectionsOf { .. }, value) => Answer::Names(texts(value)),
        (Command::Forget { .. } | Command::Publish { .. } | Command::Evict { .. }, _) => Answer::Int(0),
        (_, value) => Answer::Int(int(value)),
    }
}

const ROOMS: [&str; 2] = ["a", "b{}"];
const USERS: [&str; 3] = ["", "ada", "b}b"];

struct Sequence {
    random: Runtime,
    n: u64,
    tokens: Vec<String>,
}

impl Sequence {
    fn one<'a>(&self, of: &[&'a str]) -> &'a str {
        self.random.pick(of).unwrap()
    }

    fn some(&self, of: &[&str]) -> Vec<String> {
        of.iter().filter(|_| self.random.chance(50)).map(|name| (*name).to_owned()).collect()
    }

    fn instance(&self) -> String {
        let (boot, generation) = (BootId(self.random.below(2)), u32::try_from(1 + self.random.below(2)).unwrap());
        InstanceId { boot, generation }.to_string()
    }

    fn connection(&self) -> String {
        format!("c{}", self.random.below(5))
    }

    fn entering(&self) -> Entering {
        // A connection has one user, and a room tells of one kind.
        let id = self.connection();
        let user = USERS[usize::from(id.as_bytes()[1] % 3)];
        Entering::new(&id, user, ['u', 'c', '-'][usize::from(id.as_bytes()[1] % 2) + usize::from(id == "c4")])
    }

    fn next(&mut self, state: &State) -> Command {
        self.n += 1;
        let n = self.n;
        let fresh = format!("e{n}");
        let (me, room, user) = (self.instance(), self.one(&ROOMS).to_owned(), self.one(&USERS[1..]).to_owned());
        let below = |n| self.random.below(n);
        let since = Some(below(12)).filter(|since| *since > 0);
        let size = |n| usize::try_from(1 + below(n)).unwrap();
        match below(22) {
            0 => Command::Beat { me, fresh, counts: self.random.chance(70) },
            1 => {
                let beat = state.beats.get(&me).map(ToString::to_string);
                let seen = state.claims.get(&me).cloned().or(beat).filter(|_| self.random.chance(80));
                let token = format!("t{n}");
                self.tokens.push(token.clone());
                Command::Claim { dead: me, seen: seen.unwrap_or_default(), token }
            }
            2 => {
                let token = self.random.pick(&self.tokens).cloned().unwrap_or_default();
                let (rooms, users) = (self.some(&ROOMS), self.some(&USERS));
                Command::Remains { dead: me, token, most: 99, rooms, users }
            }
            3 => Command::Index { me, rooms: self.some(&ROOMS), users: self.some(&USERS) },
            4 => Command::Forget { me, rooms: vec![room], users: Vec::new() },
            5..=8 => {
                let members = (0..=below(2)).map(|_| self.entering()).collect();
                Command::Enter { me, room, members }
            }
            9 | 10 => Command::Exit { me, room, id: self.connection() },
            11 => Command::ReapRoom { dead: me, room, most: 99, order: Vec::new() },
            12 | 13 => {
                let (connection, closes) = (self.connection(), self.random.chance(50));
                Command::SignIn { me, user, connection, max: size(4), closes }
            }
            14 => Command::SignOut { user, member: format!("{}@{me}", self.connection()) },
            15 => Command::ReapUser { dead: me, user },
            16 | 17 => {
                let key = self.random.chance(50).then(|| format!("k{}", below(4)));
                Command::Append { room, fresh, frame: format!("m{n}"), size: size(8), age: 600_000, key }
            }
            18 => {
                let limit = size(9);
                let range = match below(3) {
                    0 => Range::Nothing,
                    1 => Range::Forward { since, limit },
                    _ => Range::Reverse { since, limit },
                };
                Command::Read { room, fresh, range, age: 600_000 }
            }
            19 => self.ask(me, room, user),
            20 if self.random.chance(20) => Command::Depart { me, grace: below(3) * 1000 },
            20 if self.random.chance(30) => Command::Silence { me },
            20 => Command::Publish { topic: format!("u:{user}"), frame: format!("f{n}") },
            _ => Command::Evict { room, all: self.random.chance(50) },
        }
    }

    fn ask(&self, me: String, room: String, user: String) -> Command {
        match self.random.below(4) {
            0 => Command::RoomsOf { me },
            1 => Command::UsersOf { me },
            2 => Command::MembersOf { me, room },
            _ => Command::ConnectionsOf { user },
        }
    }
}

fn line(connection: &mut Connection) -> String {
    let info: String = redis::cmd("INFO").arg("replication").query(connection).unwrap();
    info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap().to_owned()
}

/// What a room's keys hold.
fn check_room(connection: &mut Connection, keys: &Keys, state: &State, name: &str) {
    let mut ask = |command: &str, part: &str, more: &[&str]| -> Value {
        redis::cmd(command).arg(keys.room(name, part)).arg(more).query(connection).unwrap()
    };
    let known = state.rooms.get(name).cloned().unwrap_or_default();
    assert_eq!(map(&ask("HGETALL", "members", &[])), known.members, "members of {name}");
    let counts = map(&ask("HGETALL", "users", &[])).into_iter().map(|(user, n)| (user, n.parse().unwrap()));
    assert_eq!(counts.collect::<BTreeMap<String, i64>>(), known.users, "users of {name}");
    let mut order: Vec<_> = known.order.iter().map(|(id, at)| (*at, id.clone())).collect();
    order.sort();
    let order: Vec<String> = order.into_iter().map(|(_, id)| id).collect();
    assert_eq!(texts(&ask("ZRANGE", "order", &["0", "-1"])), order, "order of {name}");
    for (instance, own) in &known.of {
        let found: BTreeSet<String> = texts(&ask("SMEMBERS", &format!("of:{instance}"), &[])).into_iter().collect();
        assert_eq!(found, *own, "{instance} in {name}");
    }
}

#[test]
fn the_scripts_do_what_the_model_does() {
    let Some(server) = Server::start() else {
        println!("there is no redis-server here: not tried");
        return;
    };
    let mut connection = server.connect();
    for script in script::all() {
        let _name: String = redis::cmd("SCRIPT").arg("LOAD").arg(&script.source).query(&mut connection).unwrap();
    }
    let mut hearing = server.connect();
    let mut heard = hearing.as_pubsub();
    heard.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    heard.psubscribe("*").unwrap();
    for seed in 0..SEQUENCES {
        let prefix = format!("s{seed}");
        let keys = Keys::new(&prefix);
        let mut sequence = Sequence { random: Runtime::new(seed, false), n: 0, tokens: Vec::new() };
        let mut state = State::default();
        let mut line_now = line(&mut connection);
        let (mut published, mut done) = (Vec::new(), Vec::new());
        for _ in 0..STEPS {
            if sequence.random.chance(3) {
                let _changed: Value = redis::cmd("DEBUG").arg("CHANGE-REPL-ID").query(&mut connection).unwrap();
                line_now = line(&mut connection);
            }
            let mut command = sequence.next(&state);
            let value: Value = wire(&keys, &prefix, &command)
                .query(&mut connection)
                .unwrap_or_else(|error| panic!("seed {seed}: {command:?}: {error}"));
            let answer = read(&command, &value);
            // Redis takes members in any order.
            if let (Command::ReapRoom { order, .. }, Answer::Reaped(_, taken)) = (&mut command, &answer) {
                *order = taken.iter().map(|(_, value)| id_of(value)).collect();
            }
            let context = Context { now: 0, line: line_now.clone() };
            let mut effects = Effects::default();
            let mut expected = state.run(&context, &command, &mut effects);
            if let Answer::Reading { head, .. } = &mut expected {
                *head = None;
            }
            published.extend(effects.published.into_iter().map(|(topic, frame)| (format!("{prefix}{topic}"), frame)));
            done.push(format!("{command:?} -> {answer:?}"));
            assert_eq!(answer, expected, "seed {seed}:\n{}", done.join("\n"));
        }
        for room in ROOMS {
            check_room(&mut connection, &keys, &state, room);
        }
        state.check().unwrap_or_else(|what| panic!("seed {seed}: {what}\n{}", done.join("\n")));
        published.push((format!("{prefix}end"), String::new()));
        let _heard: i64 = redis::cmd("PUBLISH").arg(format!("{prefix}end")).arg("").query(&mut connection).unwrap();
        for expected in published {
            let message = heard.get_message().unwrap();
            let found = (message.get_channel_name().to_owned(), message.get_payload::<String>().unwrap());
            assert_eq!(found, expected, "seed {seed}:\n{}", done.join("\n"));
        }
    }
}

fn id_of(value: &str) -> String {
    let frame = value.split_once('\0').unwrap().1;
    frame[1..].split_once(' ').unwrap().0.to_owned()
}
