//! What breaks, and what users notice of it. Each test is named after its row
//! in docs/redis.md; the instances that are killed or stopped are processes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::support::{
    NoAnswer, PATIENCE, TestClient, TestGateway, checker::Log, eventually, instance::Instance, redis::RedisServer,
    token, until,
};

mod chaos;
mod cleaning;
mod death;
mod decisions;
mod failover;
mod flapping;
mod large;
mod links;
mod loss;
mod measures;
mod messages;
mod model;
mod modes;
mod outage;
mod partition;
mod returning;
mod rolling;
mod soak;
mod streams;
mod wrong;

/// Timings that let a test be short.
const FAST: &str = "heartbeat = \"500ms\"\nttl = \"1500ms\"\nsweep = \"250ms\"\n";

/// What [`FAST`] makes of the bound in which a dead instance is gone from
/// everywhere: ttl, 1.2 sweeps, one second.
const VANISH: Duration = Duration::from_millis(1500 + 300 + 1000);

/// The ttl of [`FAST`].
const TTL: Duration = Duration::from_millis(1500);

/// Longer than a thread waits on a machine that has time for it.
const PAUSE: Duration = Duration::from_millis(100);

/// Notices when the machine has no time for us. An instance that stood still for
/// two sweeps counts the silence of others from the start.
struct Pauses {
    longest: Arc<Mutex<Duration>>,
}

impl Pauses {
    fn watch() -> Self {
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let noted = Arc::downgrade(&longest);
        std::thread::spawn(move || {
            const STEP: Duration = Duration::from_millis(10);
            loop {
                let before = std::time::Instant::now();
                std::thread::sleep(STEP);
                let Some(longest) = noted.upgrade() else { return };
                let mut longest = longest.lock();
                *longest = longest.max(before.elapsed().saturating_sub(STEP));
            }
        });
        Self { longest }
    }

    /// What a dead instance may take longer: nothing, or the `ttl` once more.
    fn grace(&self, ttl: Duration) -> Duration {
        let longest = *self.longest.lock();
        if longest > PAUSE {
            println!("the machine stood still for {longest:?}");
            return ttl;
        }
        Duration::ZERO
    }
}

/// Rooms of every kind, and clients that may be quick.
const ROOMS: &str = r#"
[limits]
commands_per_second = 1000000
commands_burst = 1000000
outbox = "64MiB"
[[rooms]]
match = "live:*"
publish = "anyone"
presence = true
join_leave = "users"
[[rooms]]
match = "plain:*"
publish = "anyone"
[[rooms]]
match = "kept:*"
publish = "anyone"
presence = true
history = { size = 10000, ttl = "5m" }
recovery = true
"#;

/// An instance in this process, with these lines of `[bus]` and `[cluster]`.
async fn gateway(bus: &str, name: &str, cluster: &str) -> TestGateway {
    if std::env::var_os("TEST_LOG").is_some() {
        let _other_test = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).try_init();
    }
    let config = format!("[bus]\nkind = \"redis\"\n{bus}\n[cluster]\nname = \"{name}\"\n{cluster}\n{ROOMS}");
    let gateway = TestGateway::start(&config).await;
    is_ready(&gateway).await;
    gateway
}

async fn is_ready(gateway: &TestGateway) {
    let cluster = Arc::clone(gateway.gateway.router().cluster.as_ref().unwrap());
    eventually("the instance is ready", || cluster.trouble().is_none()).await;
}

fn trouble(gateway: &TestGateway) -> Option<String> {
    gateway.gateway.router().cluster.as_ref().unwrap().trouble()
}

/// Several, all at one Redis and with short timings.
async fn gateways<const N: usize>(redis: &RedisServer) -> [TestGateway; N] {
    let mut all = Vec::new();
    for n in 0..N {
        all.push(gateway(&url(redis), &format!("g{n}"), FAST).await);
    }
    all.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
}

fn url(redis: &RedisServer) -> String {
    format!("url = \"{}\"", redis.url())
}

/// Instances as processes, with short timings.
async fn instances<const N: usize>(redis: &RedisServer, names: [&str; N]) -> [Instance; N] {
    let mut all = Vec::new();
    for name in names {
        all.push(Instance::start(&format!("[cluster]\n{FAST}\n{ROOMS}"), Some(&redis.url()), name).await);
    }
    for instance in &all {
        instance.ready().await;
    }
    all.try_into().unwrap_or_else(|_| unreachable!("as many as were asked for"))
}

/// The id of each instance that beats.
async fn ids(redis: &RedisServer) -> Vec<String> {
    redis::from_redis_value(redis.command(&["HKEYS", "wayleave:1:{i}:beats"]).await).unwrap()
}

/// That of the only one.
async fn only_id(redis: &RedisServer) -> String {
    until("it beats", async || ids(redis).await.len() == 1).await;
    ids(redis).await.remove(0)
}

/// What a watcher is told of comings and goings: `+user room`, `-user room`.
/// Who has no user watches.
type Comings = Vec<String>;

/// A client that takes in what comes, beside the test.
struct Listener {
    heard: Arc<Mutex<Heard>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Heard {
    pushes: Vec<(Instant, Value)>,
    closed: Option<(u16, String)>,
}

impl Listener {
    fn of(mut client: TestClient) -> Self {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let into = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            loop {
                match client.try_push(Duration::from_secs(3600)).await {
                    Ok(push) => into.lock().pushes.push((Instant::now(), push)),
                    Err(NoAnswer::Late) => {}
                    Err(NoAnswer::Closed(code, reason)) => {
                        into.lock().closed = Some((code, reason));
                        return;
                    }
                }
            }
        });
        Self { heard, task }
    }

    /// The data of what was published in a room.
    fn data(&self, room: &str) -> Vec<Value> {
        let heard = self.heard.lock();
        let of_room = heard.pushes.iter().filter(|(_, push)| push["channel"] == room && push.get("pub").is_some());
        of_room.map(|(_, push)| push["pub"]["data"].clone()).collect()
    }

    /// The same, where it was numbers.
    fn numbers(&self, room: &str) -> Vec<u64> {
        self.data(room).iter().filter_map(Value::as_u64).collect()
    }

    /// When something was heard in a room.
    fn has(&self, room: &str, data: &Value) -> bool {
        let heard = self.heard.lock();
        heard.pushes.iter().any(|(_, push)| push["channel"] == room && push["pub"]["data"] == *data)
    }

    /// Who came and who went, sorted.
    fn comings(&self) -> Comings {
        let heard = self.heard.lock();
        let mut comings: Comings = heard.pushes.iter().filter_map(|(_, push)| coming(push)).collect();
        comings.sort();
        comings
    }

    fn closed(&self) -> Option<(u16, String)> {
        self.heard.lock().closed.clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn coming(push: &Value) -> Option<String> {
    let (sign, info) = match (push.get("join"), push.get("leave")) {
        (Some(join), _) => ('+', &join["info"]),
        (_, Some(leave)) => ('-', &leave["info"]),
        (None, None) => return None,
    };
    let user = info["user"].as_str().filter(|user| !user.is_empty())?;
    Some(format!("{sign}{user} {}", push["channel"].as_str()?))
}

/// Connections and users in a room, as a member is told; None: not now. All
/// who have no user count as one.
async fn stats(client: &mut TestClient, room: &str) -> Option<(u64, u64)> {
    let reply = client.try_ask("presence_stats", json!({ "channel": room }), PATIENCE).await.ok()?;
    let stats = reply.get("presence_stats")?;
    Some((stats["num_clients"].as_u64().unwrap_or(0), stats["num_users"].as_u64().unwrap_or(0)))
}

/// A user's client in some rooms.
async fn member(url: &str, user: &str, rooms: &[String]) -> TestClient {
    let hello = if user.is_empty() { json!({}) } else { json!({ "token": token(&json!({ "sub": user })) }) };
    let mut client = TestClient::connect(url, hello).await;
    for room in rooms {
        client.join(room).await;
    }
    client
}

/// Numbers that are the same each time.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// That these are `0..n`, or some of them, in order and none twice. Returns
/// how many are missing.
#[track_caller]
fn in_order(numbers: &[u64], n: u64) -> u64 {
    let twisted = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(twisted, None, "repeated or out of order, of {n}: {numbers:?}");
    assert!(numbers.last().is_none_or(|last| *last < n));
    n - numbers.len() as u64
}

/// Follows a room with history as a good client does: when its connection ends
/// or it is told to, it comes back, here or at the next address, and asks for
/// what it has missed.
async fn follow(urls: Vec<String>, name: String, room: String, log: Log) {
    let mut seen: Option<(String, u64)> = None;
    let mut joined = false;
    for n in 0.. {
        let url = &urls[n % urls.len()];
        let Ok(mut client) = TestClient::try_connect(url, json!({}), Duration::from_secs(5)).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        loop {
            let mut body = json!({ "channel": room });
            if let Some((epoch, offset)) = &seen {
                body["recover"] = json!(true);
                body["epoch"] = json!(epoch);
                body["offset"] = json!(offset);
            }
            let reply = match client.try_ask("subscribe", body, Duration::from_secs(10)).await {
                Ok(reply) if reply.get("subscribe").is_some() => reply["subscribe"].clone(),
                Ok(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(_) => break,
            };
            if !std::mem::replace(&mut joined, true) {
                log.joined(&name, &room);
            }
            if seen.is_some() && reply["recovered"] != json!(true) {
                log.gap(&name, &room);
            }
            for publication in reply["publications"].as_array().into_iter().flatten() {
                log.received(&name, &publication["data"]);
            }
            let epoch = reply["epoch"].as_str().unwrap_or_default().to_owned();
            seen = Some((epoch, reply["offset"].as_u64().unwrap_or(0)));
            // Ok: it was taken out of the room and may come again.
            let end = loop {
                match client.try_push(Duration::from_secs(3600)).await {
                    Ok(push) if push.get("pub").is_some() => {
                        log.received(&name, &push["pub"]["data"]);
                        if let Some((_, offset)) = &mut seen {
                            *offset = push["pub"]["offset"].as_u64().unwrap_or(*offset);
                        }
                    }
                    Ok(push) if push.get("unsubscribe").is_some() => break Ok(()),
                    Ok(_) | Err(NoAnswer::Late) => {}
                    Err(closed) => break Err(closed),
                }
            };
            if end.is_err() {
                break;
            }
        }
        client.leave().await;
    }
}

/// Publishes to a room as fast as `pause` allows, and goes to the next address
/// when its connection ends.
async fn publish(urls: Vec<String>, name: String, room: String, log: Log, pause: Duration) {
    for n in 0.. {
        let url = &urls[n % urls.len()];
        let Ok(mut client) = TestClient::try_connect(url, json!({}), Duration::from_secs(5)).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        loop {
            let stamp = log.send(&name, &room);
            let body = json!({ "channel": room, "data": stamp.data() });
            match client.try_ask("publish", body, Duration::from_secs(10)).await {
                Ok(reply) if reply.get("publish").is_some() => log.acked(&stamp),
                // 100: it may have happened.
                Ok(reply) if reply["error"]["code"] != json!(100) => log.refused(&stamp),
                Ok(_) => {}
                Err(_) => break,
            }
            tokio::time::sleep(pause).await;
        }
        client.leave().await;
    }
}

/// Tasks that end with their test.
#[derive(Default)]
struct Crew(Vec<tokio::task::JoinHandle<()>>);

impl Crew {
    fn add(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(work));
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Publishes one more message to a room and waits until all have it: by then
/// they have what came before, or never will.
async fn finish(log: &Log, url: &str, room: &str, receivers: &[&str]) {
    let mut client = TestClient::connect(url, json!({})).await;
    let stamp = log.send("the last", room);
    until("the last message is accepted", async || {
        let reply = client.ask("publish", json!({ "channel": room, "data": stamp.data() })).await;
        reply.get("publish").is_some()
    })
    .await;
    log.acked(&stamp);
    eventually("all have the last message", || receivers.iter().all(|receiver| log.has(receiver, &stamp))).await;
}
