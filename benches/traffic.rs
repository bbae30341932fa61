//! What a message costs that crosses instances: two gateways and a Redis, and
//! Socket.IO with its Redis adapter under the same load beside them.

mod peers;
mod support;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use peers::load::{As, Load, Message, Receiver, Run, To};
use peers::site::{Site, Way};
use support::args::{self, Options, Role};
use support::machine;
use support::stats::median;
use support::table::{self, figure};
use tokio::time::timeout;

/// Bytes of a message's data.
const PAYLOAD: usize = 128;
/// What no load may outlast, its own length aside.
const PATIENCE: Duration = Duration::from_secs(120);

const ROOMS: usize = 200;
/// Members of a room on each of the two instances.
const MEMBERS: usize = 5;
const TO_ROOMS_PER_SECOND: u64 = 1000;

const USERS: usize = 100;
const TO_USERS_PER_SECOND: u64 = 500;

const TO_CROWD_PER_SECOND: u64 = 10;

struct Plan {
    rounds: usize,
    /// How long the load is held.
    length: Duration,
    /// And before it one that is not measured: V8 compiles what is hot.
    warming: Duration,
    crowd: usize,
    /// Messages to rooms, a second.
    to_rooms: u64,
}

impl Plan {
    fn new(options: &Options) -> Self {
        let seconds = options.seconds.unwrap_or(if options.quick { 2 } else { 10 });
        let crowd = if options.quick { 500 } else { 10_000 };
        // Those who read and those who publish, with files to spare.
        let fits = machine::raise_open_files(crowd as u64 + 500).is_ok();
        Self {
            rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 3 }),
            length: Duration::from_secs(seconds.max(1)),
            warming: Duration::from_secs(if options.quick { 1 } else { 5 }),
            crowd: if fits { crowd } else { crowd.min(2000) },
            to_rooms: options.rate.unwrap_or(TO_ROOMS_PER_SECOND).max(1),
        }
    }
}

fn main() -> Result<()> {
    match args::role()? {
        Role::Skip => Ok(()),
        Role::Serve(serve) => bail!("no stand-in `{}`", serve.name),
        Role::Measure(options) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(&options))
        }
    }
}

async fn measure(options: &Options) -> Result<()> {
    machine::raise_open_files(2500)?;
    println!("cluster: {}", machine::line());
    let plan = Plan::new(options);
    let ways: Vec<Way> = Way::ALL.into_iter().filter(|way| options.wants(way.name()) && is_there(*way)).collect();
    let mut rounds: Vec<Round> = ways.iter().map(|way| Round::new(*way)).collect();
    // Round by round and not row by row: a slow minute then hits all alike.
    for _ in 0..plan.rounds {
        for round in &mut rounds {
            let name = round.way.name();
            if round.way != Way::Alone {
                round.rooms.push(bounded(&plan, to_rooms(round.way, &plan)).await.context(name)?);
            }
            round.users.push(bounded(&plan, to_users(round.way, &plan)).await.context(name)?);
        }
    }
    if rounds.iter().any(|round| !round.rooms.is_empty()) {
        print_rooms(&rounds, &plan);
    }
    if !rounds.is_empty() {
        print_users(&rounds, &plan);
    }
    if ways.contains(&Way::Wayleave) {
        bounded(&plan, crowd(&plan)).await.context("the large room")?;
    }
    Ok(())
}

fn is_there(way: Way) -> bool {
    let missing = way.missing();
    if let Some(why) = &missing {
        println!("\n!!! LEFT OUT: {}: {why}\n", way.name());
    }
    missing.is_none()
}

async fn bounded<T>(plan: &Plan, load: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE + 4 * plan.length, load).await.context("takes too long")?
}

/// The figures of one way, round by round.
struct Round {
    way: Way,
    rooms: Vec<ToRooms>,
    users: Vec<ToUsers>,
}

impl Round {
    fn new(way: Way) -> Self {
        Self { way, rooms: Vec::new(), users: Vec::new() }
    }
}

/// Microseconds a delivery or a message, bytes a message, milliseconds.
#[derive(Clone, Copy, Debug)]
struct ToRooms {
    all: f64,
    redis: f64,
    traffic: f64,
    local: Quantiles,
    remote: Quantiles,
}

#[derive(Clone, Copy, Debug)]
struct ToUsers {
    remote: ToUser,
    local: ToUser,
}

#[derive(Clone, Copy, Debug)]
struct ToUser {
    all: f64,
    redis: f64,
    traffic: f64,
    times: Quantiles,
}

#[derive(Clone, Copy, Debug)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

impl Quantiles {
    fn of(times: &support::stats::Histogram) -> Self {
        Self { p50: times.quantile(0.5), p99: times.quantile(0.99) }
    }
}

fn micros(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn bytes(run: &Run) -> f64 {
    (run.used.traffic.input + run.used.traffic.output) as f64 / run.messages as f64
}

/// A load that came out slower than asked says more of the clients than of
/// the servers.
fn check_pace(run: &Run, asked: u64) {
    let pace = run.pace;
    if pace < asked as f64 * 0.97 {
        println!("!!! only {pace:.0} of {asked} messages a second went out: the machine is too busy");
    }
}

async fn to_rooms(way: Way, plan: &Plan) -> Result<ToRooms> {
    let member = |n: usize| {
        let (room, place) = (n % ROOMS, n / ROOMS % 2);
        Receiver { place, as_what: As::Member(format!("bench:{room}")) }
    };
    let members = (0..ROOMS * MEMBERS * 2).map(member).collect();
    let mut load = Load::open(Site::start(way, 2).await?, members).await?;
    // Every room gets messages from either instance, in turns.
    let message = |n: usize| {
        let to = To::Room(format!("bench:{}", n % ROOMS));
        Message { place: (n + n / ROOMS) % 2, to, receivers: MEMBERS * 2 }
    };
    load.run(plan.to_rooms, PAYLOAD, plan.warming, message).await?;
    let run = load.run(plan.to_rooms, PAYLOAD, plan.length, message).await?;
    check_pace(&run, plan.to_rooms);
    Ok(ToRooms {
        all: micros(run.used.cpu(), run.deliveries),
        redis: micros(run.used.redis, run.deliveries),
        traffic: bytes(&run),
        local: Quantiles::of(&run.times.local),
        remote: Quantiles::of(&run.times.remote),
    })
}

/// Users on the last instance; those who write to them there too, or on the
/// first one.
async fn to_users(way: Way, plan: &Plan) -> Result<ToUsers> {
    let instances = if way == Way::Alone { 1 } else { 2 };
    let last = instances - 1;
    let user = |n: usize| format!("u{}", n % USERS);
    let users = (0..USERS).map(|n| Receiver { place: last, as_what: As::User(user(n)) }).collect();
    let mut load = Load::open(Site::start(way, instances).await?, users).await?;
    let mut figures = Vec::new();
    for place in 0..instances {
        let message = |n: usize| Message { place, to: To::User(user(n)), receivers: 1 };
        load.run(TO_USERS_PER_SECOND * 2, PAYLOAD, plan.warming, message).await?;
        let run = load.run(TO_USERS_PER_SECOND, PAYLOAD, plan.length / 2, message).await?;
        check_pace(&run, TO_USERS_PER_SECOND);
        figures.push(ToUser {
            all: micros(run.used.cpu(), run.messages),
            redis: micros(run.used.redis, run.messages),
            traffic: bytes(&run),
            times: Quantiles::of(if place == last { &run.times.local } else { &run.times.remote }),
        });
    }
    let (remote, local) = figures.first().zip(figures.last()).context("no instances")?;
    Ok(ToUsers { remote: *remote, local: *local })
}

/// The median over the rounds.
fn middle<T>(rounds: &[T], of: impl Fn(&T) -> f64) -> f64 {
    median(rounds.iter().map(of))
}

/// The median of the ratios, taken round by round; NaN without the other.
fn ratio<T>(rounds: &[T], other: Option<&[T]>, of: impl Fn(&T) -> f64) -> f64 {
    let pairs = rounds.iter().zip(other.unwrap_or_default());
    median(pairs.map(|(own, other)| of(own) / of(other)))
}

fn print_rooms(rounds: &[Round], plan: &Plan) {
    let (per_second, count, length) = (plan.to_rooms, plan.rounds, plan.length.as_secs());
    println!(
        "\nmessages to {ROOMS} rooms of {}, half of each on either of two instances: {per_second} a second for {length} s, \
         {PAYLOAD} bytes, medians of {count} rounds",
        MEMBERS * 2
    );
    let head = [
        "way",
        "us a delivery",
        "x Socket.IO",
        "Redis of it",
        "Redis B",
        "local p50 ms",
        "p99",
        "remote p50 ms",
        "p99",
    ];
    let peer = rounds.iter().find(|round| round.way == Way::SocketIo).map(|round| &round.rooms[..]);
    let row = |round: &Round| {
        let rooms = &round.rooms;
        vec![
            round.way.name().to_owned(),
            figure(middle(rooms, |f| f.all), 2),
            figure(ratio(rooms, peer, |f| f.all), 2),
            figure(middle(rooms, |f| f.redis), 2),
            figure(middle(rooms, |f| f.traffic), 0),
            figure(middle(rooms, |f| f.local.p50), 2),
            figure(middle(rooms, |f| f.local.p99), 1),
            figure(middle(rooms, |f| f.remote.p50), 2),
            figure(middle(rooms, |f| f.remote.p99), 1),
        ]
    };
    let rows: Vec<_> = rounds.iter().filter(|round| !round.rooms.is_empty()).map(row).collect();
    table::print(&head, &rows);
}

fn print_users(rounds: &[Round], plan: &Plan) {
    let (per_second, count, length) = (TO_USERS_PER_SECOND, plan.rounds, plan.length.as_secs_f64() / 2.0);
    println!(
        "messages to {USERS} users, sent on the other instance and on theirs: {per_second} a second for {length} s each, \
         {PAYLOAD} bytes, medians of {count} rounds"
    );
    let head = [
        "way",
        "us a message",
        "x Socket.IO",
        "Redis of it",
        "Redis B",
        "p50 ms",
        "p99",
        "same: us",
        "p50 ms",
        "p99",
        "p50 x same",
    ];
    let peer = rounds.iter().find(|round| round.way == Way::SocketIo).map(|round| &round.users[..]);
    let row = |round: &Round| {
        let users = &round.users;
        let mut row = vec![round.way.name().to_owned()];
        if round.way == Way::Alone {
            row.extend(["-"; 6].map(str::to_owned));
        } else {
            row.extend([
                figure(middle(users, |f| f.remote.all), 1),
                figure(ratio(users, peer, |f| f.remote.all), 2),
                figure(middle(users, |f| f.remote.redis), 1),
                figure(middle(users, |f| f.remote.traffic), 0),
                figure(middle(users, |f| f.remote.times.p50), 2),
                figure(middle(users, |f| f.remote.times.p99), 1),
            ]);
        }
        let of_same =
            if round.way == Way::Alone { f64::NAN } else { middle(users, |f| f.remote.times.p50 / f.local.times.p50) };
        row.extend([
            figure(middle(users, |f| f.local.all), 1),
            figure(middle(users, |f| f.local.times.p50), 2),
            figure(middle(users, |f| f.local.times.p99), 1),
            figure(of_same, 2),
        ]);
        row
    };
    table::print(&head, &rounds.iter().map(row).collect::<Vec<_>>());
}

/// A large room on the second instance and the publisher on the first: what
/// passes through Redis, before and after there is a third instance that has
/// no member of it.
async fn crowd(plan: &Plan) -> Result<()> {
    let members = (0..plan.crowd).map(|_| Receiver { place: 1, as_what: As::Member("bench:0".to_owned()) }).collect();
    let mut load = Load::open(Site::start(Way::Wayleave, 2).await?, members).await?;
    let message = |_| Message { place: 0, to: To::Room("bench:0".to_owned()), receivers: plan.crowd };
    load.run(TO_CROWD_PER_SECOND, PAYLOAD, Duration::from_millis(300), message).await?;
    let (mut rows, mut third) = (Vec::new(), String::new());
    for instances in [2, 3] {
        if instances > load.site.servers.len() {
            load.site.add().await?;
            // What a start brings with it is no idling.
            load.idle(Duration::from_secs(3)).await?;
        }
        let newest = instances - 1;
        let start = load.site.metrics(newest).await?;
        let idle = load.idle(plan.length).await?;
        let between = load.site.metrics(newest).await?;
        let run = load.run(TO_CROWD_PER_SECOND, PAYLOAD, plan.length, message).await?;
        let end = load.site.metrics(newest).await?;
        let seconds = [plan.length.as_secs_f64(), run.took.as_secs_f64()];
        let each = |used: u64, idle: u64| {
            figure((used as f64 - idle as f64 / seconds[0] * seconds[1]) / run.messages as f64, 0)
        };
        let (used, without) = (run.used.traffic, idle.traffic);
        rows.push(vec![
            instances.to_string(),
            each(used.input, without.input),
            each(used.output, without.output),
            figure((without.input + without.output) as f64 / seconds[0], 0),
        ]);
        third = [
            ("idle", &idle, moved(&start, &between)),
            ("while the room got its messages", &run.used, moved(&between, &end)),
        ]
        .into_iter()
        .zip(seconds)
        .map(|((when, used, moved), seconds)| {
            let cpu = used.servers[newest].as_secs_f64() * 1e3 / seconds;
            format!("\n- {when}: {cpu:.2} ms of CPU a second; counters that moved: {moved}")
        })
        .collect();
    }
    println!(
        "one room of {} on the second instance, published to on the first: {TO_CROWD_PER_SECOND} messages a second for {} s, \
         {PAYLOAD} bytes; bytes a message, without what passes when nothing is sent",
        plan.crowd,
        plan.length.as_secs()
    );
    table::print(&["instances", "to Redis B", "from Redis B", "idle B/s"], &rows);
    println!("The third instance, which has no member of the room:{third}");
    Ok(())
}

/// The counters that differ, but for the connection that asked.
fn moved(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> String {
    let counters = after.iter().filter(|(name, _)| name.contains("_total") && !name.contains("accepted"));
    let moved = counters.filter_map(|(name, now)| {
        let by = now - before.get(name).copied().unwrap_or_default();
        (by != 0.0).then(|| format!("{name} by {by}"))
    });
    let moved: Vec<_> = moved.collect();
    if moved.is_empty() { "none".to_owned() } else { moved.join(", ") }
}
