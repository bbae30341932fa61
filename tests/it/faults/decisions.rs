//! What plugins decide, on several instances, and while they are replaced.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{FAST, Listener, Random, gateway, member, stats, url};
use crate::support::{TestClient, TestGateway, eventually, fixture, redis::RedisServer, until};

/// A plugin as the config names it.
fn plugin(name: &str, path: &Path) -> String {
    format!("[[plugins]]\nname = \"{name}\"\npath = {:?}\ntimeout = \"5s\"\n", path.display().to_string())
}

/// Writes a file as publishers should: whole, by a rename.
fn put(text: &str, place: &Path) {
    let beside = place.with_extension("part");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, place).unwrap();
}

/// U7: hooks come before delivery. What a plugin rejects, drops or fails at is
/// delivered to nobody on any instance, and kept nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn u7_what_a_plugin_rejects_is_delivered_nowhere() {
    let redis = RedisServer::start().await;
    let mut more = String::new();
    for name in ["refuse", "drop", "trap", "pass"] {
        more += &plugin(name, &fixture(name));
        for (kind, keep) in [("l", ""), ("k", "history = { size = 100, ttl = \"5m\" }\nrecovery = true\n")] {
            write!(
                more,
                "[[rooms]]\nmatch = \"{name}:{kind}\"\npublish = \"anyone\"\nplugins = [\"{name}\"]\n{keep}\
                 [[routes]]\nroom = \"{name}:{kind}\"\nto = [\"user:ann\", \"room:plain:copies\"]\n"
            )
            .unwrap();
        }
    }
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(gateway(&url(&redis), name, &format!("{FAST}\n{more}")).await);
    }
    let rooms: Vec<_> = ["refuse", "drop", "trap", "pass"]
        .iter()
        .flat_map(|name| [format!("{name}:l"), format!("{name}:k")])
        .chain(["plain:copies".to_owned(), "plain:end".to_owned()])
        .collect();
    let mut listeners = Vec::new();
    for gateway in &all {
        listeners.push(Listener::of(member(&gateway.url(), "ann", &rooms).await));
    }
    let mut senders = Vec::new();
    for gateway in &all {
        senders.push(gateway.client().await);
    }
    let mut answers: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for sender in &mut senders {
        for room in rooms.iter().filter(|room| !room.starts_with("pass") && !room.starts_with("plain")) {
            let reply = sender.ask("publish", json!({ "channel": room, "data": "never" })).await;
            let name = room.split_once(':').unwrap().0;
            answers.entry(name).or_default().push(reply["error"]["code"].clone());
        }
    }
    assert_eq!(answers["refuse"], vec![json!(450); 6]);
    assert_eq!(answers["drop"], vec![Value::Null; 6], "the sender is not told");
    assert!(answers["trap"].iter().all(Value::is_u64), "{answers:?}");
    // What passes comes, in the room, as a copy and to the user: so all of it would have.
    for sender in &mut senders {
        for room in ["pass:l", "pass:k"] {
            sender.publish(room, json!("passed")).await;
        }
        sender.publish("plain:end", json!("end")).await;
    }
    let heard = |listener: &Listener| -> Vec<String> {
        let heard = listener.heard.lock();
        let text = |push: &Value| match push.get("pub") {
            Some(it) => format!("{} {}", push["channel"], it["data"]),
            None => format!("message {}", push["message"]["data"]),
        };
        let mut all: Vec<_> = heard.pushes.iter().map(|(_, push)| text(push)).collect();
        all.sort();
        all
    };
    let mut expected = Vec::new();
    for _ in 0..3 {
        expected.extend(["\"pass:l\" \"passed\"", "\"pass:k\" \"passed\"", "\"plain:end\" \"end\""]);
        // A connection that is the user's and in the room gets one of the two.
        expected.extend(["message \"passed\""; 2]);
    }
    let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
    expected.sort();
    for listener in &listeners {
        eventually("what passes has come", || heard(listener).len() >= expected.len()).await;
        assert_eq!(heard(listener), expected);
    }
    for room in ["refuse:k", "drop:k", "trap:k"] {
        let history = senders[0].ask("history", json!({ "channel": room, "limit": 10 })).await;
        let n = history["history"]["publications"].as_array().map(Vec::len);
        assert!(matches!(n, Some(0) | None) && history["history"]["offset"].as_u64().unwrap_or(0) == 0, "{history}");
    }
    println!("u7: {answers:?}; nothing of it came to any of 3 instances");
}

/// A transform that replaces the second byte of a text by this letter.
fn version(letter: char) -> String {
    let text = std::fs::read_to_string(fixture("stamp-a")).unwrap();
    let plain = "(param i32) (result i32) (i32.const 16))";
    assert!(text.contains(plain));
    text.replacen(
        plain,
        &format!(
            "(param $p i32) (result i32)
      ;; The payload is behind the sender's 32 bytes and the message's id and room.
      (i32.store8 offset=1 (i32.load offset=52 (local.get $p)) (i32.const {}))
      (i32.store (i32.const 24) (i32.load offset=52 (local.get $p)))
      (i32.store (i32.const 28) (i32.load offset=56 (local.get $p)))
      (i32.const 16))",
            letter as u32
        ),
        1,
    )
}

/// Rooms whose messages a plugin marks.
fn marked(path: &Path) -> String {
    format!(
        "{FAST}\n{}[[rooms]]\nmatch = \"mark:live\"\npublish = \"anyone\"\npresence = true\nplugins = [\"p\"]\n\
         [[rooms]]\nmatch = \"mark:kept\"\npublish = \"anyone\"\nhistory = {{ size = 10000, ttl = \"5m\" }}\n\
         recovery = true\nplugins = [\"p\"]\n",
        plugin("p", path)
    )
}

const MARKED: [&str; 2] = ["mark:live", "mark:kept"];

/// What one listener heard of one sender: version and number of each.
fn by_sender(listener: &Listener, room: &str) -> BTreeMap<u64, Vec<(char, u64)>> {
    let mut all: BTreeMap<u64, Vec<(char, u64)>> = BTreeMap::new();
    for data in listener.data(room) {
        let text = data.as_str().unwrap();
        let (sender, n) = text[1..].split_once(':').unwrap();
        all.entry(sender.parse().unwrap()).or_default().push((text.chars().next().unwrap(), n.parse().unwrap()));
    }
    all
}

/// Senders, one an instance, that go on until they are told to stop; each says
/// how many it sent.
struct Senders {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(u64, u64)>,
}

impl Senders {
    async fn start(gateways: &[TestGateway], pause: Duration) -> Self {
        let (stop, mut tasks) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for (sender, gateway) in (0..).zip(gateways) {
            let mut client: TestClient = gateway.client().await;
            let ends = Arc::clone(&stop);
            tasks.spawn(async move {
                let mut turns = tokio::time::interval(pause);
                let mut n = 0;
                while !ends.load(Ordering::Relaxed) {
                    turns.tick().await;
                    for room in MARKED {
                        client.publish(room, json!(format!("?{sender}:{n}"))).await;
                    }
                    n += 1;
                }
                (sender, n)
            });
        }
        Self { stop, tasks }
    }

    /// How many messages each has sent to each room.
    async fn end(mut self) -> BTreeMap<u64, u64> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = BTreeMap::new();
        while let Some(ended) = self.tasks.join_next().await {
            sent.extend([ended.unwrap()]);
        }
        sent
    }
}

/// W1: a plugin is replaced on three instances, by a good one, by one that is
/// none, and by the good one again, under 500 messages a second.
#[tokio::test(flavor = "multi_thread")]
async fn w1_a_plugin_is_replaced_everywhere_and_each_message_is_of_one_version() {
    let (redis, folder) = (RedisServer::start().await, TempDir::new().unwrap());
    let place = folder.path().join("p.wat");
    put(&version('1'), &place);
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(gateway(&url(&redis), name, &marked(&place)).await);
    }
    let mut listeners = Vec::new();
    for gateway in &all {
        listeners.push(Listener::of(member(&gateway.url(), "", &MARKED.map(str::to_owned)).await));
    }
    // Six messages each 12 ms.
    let senders = Senders::start(&all, Duration::from_millis(12)).await;
    let started = std::time::Instant::now();
    let heard = |version: char| {
        listeners.iter().all(|it| {
            let by_sender = by_sender(it, MARKED[1]);
            by_sender.len() == 3 && by_sender.values().all(|all| all.iter().filter(|it| it.0 == version).count() >= 20)
        })
    };
    eventually("the first version is heard", || heard('1')).await;
    put(&version('2'), &place);
    eventually("the second version is heard", || heard('2')).await;
    let running = || all.iter().map(|it| it.gateway.reloader().running().number).collect::<Vec<_>>();
    assert_eq!(running(), [2; 3]);
    let second = version('2');
    put(&second[..second.len() / 2], &place);
    let failed = || all.iter().all(|it| it.gateway.reloader().status().borrow().error.is_some());
    eventually("all say that it is bad", failed).await;
    let n = listeners[0].data(MARKED[1]).len();
    eventually("it goes on", || listeners[0].data(MARKED[1]).len() > n + 100).await;
    assert_eq!(running(), [2; 3], "the good one keeps serving");
    put(&second, &place);
    let mended = || all.iter().all(|it| it.gateway.reloader().status().borrow().error.is_none());
    eventually("all are content", mended).await;
    let n = listeners[0].data(MARKED[1]).len();
    eventually("it goes on", || listeners[0].data(MARKED[1]).len() > n + 100).await;
    let sent = senders.end().await;
    let took = started.elapsed();
    let mut n_first = 0;
    for (listener, room) in listeners.iter().flat_map(|it| MARKED.map(|room| (it, room))) {
        let has_all = || {
            let came = by_sender(listener, room);
            sent.iter().all(|(sender, n)| came.get(sender).is_some_and(|came| came.len() as u64 >= *n))
        };
        eventually("all has come", has_all).await;
        for (sender, came) in by_sender(listener, room) {
            let numbers: Vec<_> = came.iter().map(|it| it.1).collect();
            assert_eq!(numbers, (0..sent[&sender]).collect::<Vec<_>>(), "lost, doubled or out of order");
            let first = came.iter().take_while(|it| it.0 == '1').count();
            assert!(came[first..].iter().all(|it| it.0 == '2'), "{sender} went back: {came:?}");
            assert!(first > 0 && first < came.len());
            n_first += first;
        }
        assert_eq!(listener.closed(), None);
    }
    let n: u64 = sent.values().sum::<u64>() * 2;
    println!(
        "w1: {n} messages, {:.0} a second, through v1, v2, a bad one and v2 on 3 instances; to 3 members 0 lost, \
         0 doubled, {n_first} of v1, none of neither",
        n as f64 / took.as_secs_f64()
    );
}

/// W5: while one instance has the next version of a plugin and another has
/// not, each message is of its sender's instance, and all understand all.
#[tokio::test(flavor = "multi_thread")]
async fn w5_instances_with_two_versions_of_a_plugin_understand_each_other() {
    let (redis, folder) = (RedisServer::start().await, TempDir::new().unwrap());
    let places = ["1", "2"].map(|it| folder.path().join(format!("{it}.wat")));
    let mut all = Vec::new();
    for (n, name) in ["a", "b"].into_iter().enumerate() {
        put(&version(['1', '2'][n]), &places[n]);
        all.push(gateway(&url(&redis), name, &marked(&places[n])).await);
    }
    let mut listeners = Vec::new();
    for gateway in &all {
        listeners.push(Listener::of(member(&gateway.url(), "ann", &MARKED.map(str::to_owned)).await));
    }
    let senders = Senders::start(&all, Duration::from_millis(5)).await;
    eventually("it flows", || listeners.iter().all(|it| it.data(MARKED[1]).len() > 400)).await;
    let sent = senders.end().await;
    for (listener, room) in listeners.iter().flat_map(|it| MARKED.map(|room| (it, room))) {
        eventually("all has come", || listener.data(room).len() as u64 == sent.values().sum::<u64>()).await;
        for (sender, came) in by_sender(listener, room) {
            let of_its_instance = if sender % 2 == 0 { '1' } else { '2' };
            let expected: Vec<_> = (0..sent[&sender]).map(|n| (of_its_instance, n)).collect();
            assert_eq!(came, expected);
        }
    }
    // Who is there, and what is kept, is one for both.
    let mut asker = member(&all[0].url(), "bob", &MARKED.map(str::to_owned)).await;
    assert_eq!(stats(&mut asker, MARKED[0]).await, Some((3, 2)));
    let mut other = member(&all[1].url(), "eve", &[MARKED[1].to_owned()]).await;
    let body = json!({ "channel": MARKED[1], "limit": 100 });
    let kept = asker.ask("history", body.clone()).await["history"]["publications"].take();
    assert_eq!(kept.as_array().unwrap().len(), 100);
    assert_eq!(other.ask("history", body).await["history"]["publications"], kept);
    for gateway in &all {
        for reason in ["garbled", "version"] {
            assert_eq!(gateway.metric(&format!("wayleave_bus_dropped_total{{reason=\"{reason}\"}}")), 0.0);
        }
        assert_eq!(gateway.metric("wayleave_bus_missed_total"), 0.0);
    }
    // The rollout ends: the other one follows on open connections.
    put(&version('2'), &places[0]);
    eventually("it is replaced", || all[0].gateway.reloader().running().number == 2).await;
    asker.publish(MARKED[0], json!("?9:0")).await;
    for listener in &listeners {
        eventually("it is of the second version", || listener.has(MARKED[0], &json!("29:0"))).await;
    }
    println!("w5: {} messages from v1 and v2 side by side, none lost or misread", sent.values().sum::<u64>() * 2);
}

/// A target of a plan.
#[derive(Debug, Clone, PartialEq)]
enum Target {
    Room(usize),
    User(usize),
}

impl Target {
    fn name(&self) -> String {
        match self {
            Self::Room(n) => format!("plain:{n}"),
            Self::User(n) => format!("u{n}"),
        }
    }
}

/// What a plugin answers for every message: deliveries, each to some, but for some.
type Plan = Vec<(Vec<Target>, Vec<Target>)>;

/// A plugin that answers with this plan and keeps the message from its own room.
fn router(plan: &Plan) -> String {
    const LISTS: usize = 2048;
    const DELIVERY: usize = 40;
    const TARGET: usize = 12;
    let text = std::fs::read_to_string(fixture("route-to-user")).unwrap();
    let mut memory = vec![0_u8; LISTS + plan.len() * DELIVERY];
    let word = |memory: &mut Vec<u8>, at: usize, value: usize| {
        memory[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
    };
    // `replace`, of the deliveries at `LISTS`.
    word(&mut memory, 16, 2);
    word(&mut memory, 20, LISTS);
    word(&mut memory, 24, plan.len());
    for (n, (to, except)) in plan.iter().enumerate() {
        for (targets, at) in [(to, LISTS + n * DELIVERY), (except, LISTS + n * DELIVERY + 8)] {
            let list = memory.len();
            memory.resize(list + targets.len() * TARGET, 0);
            word(&mut memory, at, list);
            word(&mut memory, at + 4, targets.len());
            for (k, target) in targets.iter().enumerate() {
                let (name, at) = (target.name(), list + k * TARGET);
                let end = memory.len();
                memory.extend(name.bytes());
                memory.resize(memory.len().next_multiple_of(4), 0);
                memory[at] = u8::from(matches!(target, Target::User(_)));
                word(&mut memory, at + 4, end);
                word(&mut memory, at + 8, name.len());
            }
        }
    }
    assert!(memory.len() < 32_000);
    let mut data = "(data (i32.const 0) \"".to_owned();
    memory.iter().for_each(|byte| write!(data, "\\{byte:02x}").unwrap());
    data += "\")\n";
    let (before, behind) = text.split_once("(data (i32.const 16)").unwrap();
    let behind = &behind[behind.find("(func (export \"route\")").unwrap()..];
    // What a call brings is put behind it.
    format!("{before}{data}{behind}").replace("i32.const 1024", "i32.const 32768")
}

/// W3: plugins choose rooms and users on three instances, and exceptions; who
/// gets a message, and how often, is what a model says.
#[tokio::test(flavor = "multi_thread")]
async fn w3_what_plugins_choose_is_delivered_as_a_model_says() {
    const PLANS: usize = 8;
    const ROOMS: usize = 5;
    const USERS: usize = 4;
    let (redis, folder) = (RedisServer::start().await, TempDir::new().unwrap());
    let mut random = Random(2026);
    let some = |most: u64, random: &mut Random| {
        let n = random.next(most + 1);
        let target = |random: &mut Random| match random.next(2) {
            0 => Target::Room(random.next(ROOMS as u64) as usize),
            _ => Target::User(random.next(USERS as u64) as usize),
        };
        (0..n).map(|_| target(random)).collect::<Vec<_>>()
    };
    let mut plans: Vec<Plan> = Vec::new();
    for n in 0..PLANS {
        let plan = (0..=n % 3).map(|_| {
            let mut to = some(3, &mut random);
            to.push(Target::Room(n % ROOMS));
            (to, some(2, &mut random))
        });
        plans.push(plan.collect());
    }
    let mut more = FAST.to_owned() + "\n";
    for (n, plan) in plans.iter().enumerate() {
        let place = folder.path().join(format!("{n}.wat"));
        put(&router(plan), &place);
        more += &plugin(&format!("p{n}"), &place);
        write!(more, "[[rooms]]\nmatch = \"from:{n}\"\npublish = \"anyone\"\nplugins = [\"p{n}\"]\n").unwrap();
    }
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(gateway(&url(&redis), name, &more).await);
    }
    // Each user has devices here and there, each device some rooms.
    let mut devices = Vec::new();
    for n in 0..24 {
        let user = n % (USERS + 1);
        let rooms: Vec<_> = (0..ROOMS).filter(|_| random.next(3) == 0).collect();
        let mut names: Vec<_> = rooms.iter().map(|n| format!("plain:{n}")).collect();
        names.extend(["plain:end".to_owned(), format!("from:{}", n % PLANS)]);
        let name = if user == USERS { String::new() } else { format!("u{user}") };
        devices.push((user, rooms, Listener::of(member(&all[n % 3].url(), &name, &names).await)));
    }
    let expected = |user: usize, rooms: &[usize], plan: &Plan| {
        let is = |target: &Target| match target {
            Target::Room(n) => rooms.contains(n),
            Target::User(n) => *n == user,
        };
        plan.iter().filter(|(to, except)| to.iter().any(is) && !except.iter().any(is)).count()
    };
    let (mut n_sent, mut n_expected) = (0, 0);
    for origin in &all {
        let mut client = origin.client().await;
        for n in 0..PLANS {
            client.publish(&format!("from:{n}"), json!(n)).await;
            n_sent += 1;
        }
    }
    let counts = |listener: &Listener| {
        let mut counts = [0; PLANS];
        for (_, push) in &listener.heard.lock().pushes {
            let data = push.get("pub").or(push.get("message")).map(|it| &it["data"]);
            if let Some(n) = data.and_then(Value::as_u64) {
                counts[n as usize] += 1;
            }
        }
        counts
    };
    for (user, rooms, listener) in &devices {
        let model: Vec<_> = plans.iter().map(|plan| 3 * expected(*user, rooms, plan)).collect();
        n_expected += model.iter().sum::<usize>();
        eventually("all has come", || counts(listener).iter().sum::<usize>() >= model.iter().sum()).await;
    }
    for origin in &all {
        let mut client = origin.client().await;
        client.publish("plain:end", json!("end")).await;
        for (_, _, listener) in &devices {
            eventually("the end is heard", || listener.data("plain:end").iter().any(|it| it == "end")).await;
        }
    }
    until("nothing is on its way", async || devices.iter().all(|it| it.2.data("plain:end").len() == 3)).await;
    for (user, rooms, listener) in &devices {
        let model: Vec<_> = plans.iter().map(|plan| 3 * expected(*user, rooms, plan)).collect();
        assert_eq!(counts(listener).to_vec(), model, "user {user} in {rooms:?}: {plans:?}");
    }
    println!("w3: {n_sent} messages by {PLANS} plans: {n_expected} deliveries on 3 instances, as the model says");
    assert!(n_expected > 100, "{n_expected}");
}
