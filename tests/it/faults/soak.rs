//! Whether it stays as it is: two gateways for as long as one likes under a load
//! of all kinds, while memory, descriptors and tasks are watched.
//! `make soak SECONDS=3600 RATE=1`.

mod crowd;
mod odd;
mod rig;
mod samples;
mod servers;
mod verdict;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use self::{
    rig::Rig,
    samples::{Samples, Taken},
};
use super::Crew;
use crate::support::instance::Instance;

/// For so long after a harm, servers may say that something cannot be done now.
const UNREST: Duration = Duration::from_secs(15);

/// How long all may take to be gone at the end. A connection that broke counts
/// as present for a while, and threads that wait for work end after ten seconds.
const EMPTY: Duration = Duration::from_secs(60);

/// How much goes on, and how often something happens to it.
struct Plan {
    length: Duration,
    every: Duration,
    reload: Duration,
    harm: Duration,
    /// Of each kind that is followed: with history and without.
    rooms: usize,
    /// Of each room.
    members: usize,
    /// Who comes and goes.
    visitors: usize,
    /// The part of the full pace at which all of them act.
    rate: f64,
    /// Where samples are written to.
    folder: PathBuf,
}

impl Plan {
    fn long(length: Duration, rate: f64) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/soak");
        let (every, reload, harm) = (Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(180));
        let (rooms, members, visitors) = (4, 16, 6);
        Self {
            length,
            every: every.min(length / 60),
            reload: reload.min(length / 8),
            harm: harm.min(length / 3),
            rooms,
            members,
            visitors,
            rate,
            folder,
        }
    }

    fn short(folder: &TempDir) -> Self {
        let (rooms, members, visitors) = (2, 4, 2);
        Self { rooms, members, visitors, folder: folder.path().to_owned(), ..Self::long(Duration::from_secs(20), 1.0) }
    }
}

/// What all who take part share.
struct Stage {
    addresses: Vec<SocketAddr>,
    urls: Vec<String>,
    /// How often each thing happened that may happen.
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// And what may not.
    wrong: Mutex<BTreeMap<String, u64>>,
    harmed: Mutex<Option<Instant>>,
    rate: f64,
    next: AtomicU64,
    /// The user who came last, for servers that look for somebody.
    latest: Mutex<String>,
    /// Users whom a server closes.
    sent_away: Mutex<Vec<String>>,
}

impl Stage {
    fn of(instances: &[Instance], rate: f64) -> Self {
        Self {
            addresses: instances.iter().map(Instance::addr).collect(),
            urls: instances.iter().map(Instance::url).collect(),
            counts: Mutex::default(),
            wrong: Mutex::default(),
            harmed: Mutex::default(),
            rate,
            next: AtomicU64::new(1),
            latest: Mutex::new("nobody".to_owned()),
            sent_away: Mutex::default(),
        }
    }

    /// So many milliseconds of the full pace.
    fn pause(&self, milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds).div_f64(self.rate)
    }

    /// How long a slow reader does not read. Longer, and it would be closed since
    /// it does not answer a ping.
    fn nap(&self) -> Duration {
        self.pause(8000).min(Duration::from_secs(25))
    }

    fn url(&self, n: usize) -> &str {
        &self.urls[n % self.urls.len()]
    }

    fn address(&self, n: usize) -> SocketAddr {
        self.addresses[n % self.addresses.len()]
    }

    /// A number that nobody else has.
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    fn counted(&self, what: &str) -> u64 {
        self.counts.lock().get(what).copied().unwrap_or(0)
    }

    fn wrong(&self, what: &str) {
        // Numbers would make each its own kind; a short text has codes alone.
        let kind = what.replace(|c: char| c.is_ascii_digit() && what.len() > 60, "#");
        let mut wrong = self.wrong.lock();
        if wrong.len() < 100 || wrong.contains_key(&kind) {
            *wrong.entry(kind).or_default() += 1;
        }
    }

    fn is_calm(&self) -> bool {
        self.harmed.lock().is_none_or(|at| at.elapsed() > UNREST)
    }

    /// An answer that should not have been an error. Soon after a harm it may be
    /// one that is over in a moment (100, 108).
    fn refused(&self, what: &str, reply: &Value) {
        let code = reply["error"]["code"].as_u64();
        if matches!(code, Some(100 | 108)) && !self.is_calm() {
            self.count("refused after a harm");
        } else {
            self.wrong(&format!("{what}: {reply}"));
        }
    }
}

/// All who make the load.
fn crew(plan: &Plan, stage: &Arc<Stage>) -> Crew {
    let mut crew = Crew::default();
    let stays = Duration::from_secs(3600 * 24);
    let add = |crew: &mut Crew, n: usize, room: String, stays| crew.add(crowd::member(stage.clone(), n, room, stays));
    for r in 0..plan.rooms {
        for kind in ["kept", "live"] {
            let room = format!("{kind}:{r}");
            for m in 0..plan.members {
                add(&mut crew, m, room.clone(), stays);
            }
            // These break off again and again, and come back to the other one.
            add(&mut crew, r, room.clone(), Duration::from_secs(5 + r as u64));
            crew.add(crowd::sender(stage.clone(), r, room, stage.pause(50), 100));
        }
    }
    // A kernel takes some four megabytes before the gateway sees a slow reader.
    let flood = stage.nap() / 200;
    let often = stage.pause(200);
    for (n, (room, pause, size)) in
        [("price:1", often, 200), ("stamped:1", often, 20), ("flood:1", flood, 30_000), ("shed:1", flood, 30_000)]
            .into_iter()
            .enumerate()
    {
        crew.add(crowd::sender(stage.clone(), n, room.to_owned(), pause, size));
    }
    for n in 0..plan.visitors {
        crew.add(crowd::visitors(stage.clone(), n));
    }
    for n in 0..2 {
        for room in ["flood:1", "shed:1"] {
            crew.add(odd::sluggards(stage.clone(), n, room));
        }
        crew.add(odd::rascals(stage.clone(), n));
        crew.add(odd::streams(stage.clone(), n));
        crew.add(servers::backend(stage.clone(), n));
        crew.add(servers::onlooker(stage.clone(), n));
    }
    crew
}

async fn run(plan: Plan) {
    let mut rig = Rig::start().await;
    let stage = Arc::new(Stage::of(&rig.instances, plan.rate));
    // What is made when it is first needed is there before it is counted.
    servers::touch(&stage).await;
    let mut samples = Samples::new(&plan.folder);
    let before = loop {
        let before = Taken::now(&mut rig, &stage, Duration::ZERO).await;
        if before.is_empty() {
            break before;
        }
    };
    let crew = crew(&plan, &stage);
    let (start, mut reload, mut harm) = (Instant::now(), plan.reload, plan.harm);
    let mut ticks = tokio::time::interval(plan.every);
    while start.elapsed() < plan.length {
        ticks.tick().await;
        samples.add(Taken::now(&mut rig, &stage, start.elapsed()).await);
        let at = start.elapsed();
        if at > reload && at + plan.reload < plan.length {
            rig.reload().await;
            stage.count("reloads");
            samples.mark(at, "reload");
            reload += plan.reload;
        }
        if at > harm && at + plan.harm < plan.length {
            rig.harm(&stage).await;
            stage.count("kills");
            samples.mark(at, "subscribers killed");
            harm += plan.harm;
        }
        samples.progress(&stage);
    }
    for task in crew.0.iter().filter(|task| task.is_finished()) {
        stage.wrong(&format!("one of the load's tasks has ended: {:?}", task.id()));
    }
    drop(crew);
    let gone = Instant::now();
    let after = loop {
        let after = Taken::now(&mut rig, &stage, start.elapsed()).await;
        if after.is_as_empty_as(&before) || gone.elapsed() > EMPTY {
            break after;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    samples.finish(&before, &after, gone.elapsed(), &stage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_soak_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    run(Plan::short(&folder)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "an hour: make soak"]
async fn soak() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs_f64(number("SECONDS").unwrap_or(3600.0));
    run(Plan::long(length, number("RATE").unwrap_or(1.0))).await;
}
