//! What is measured.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    Stage,
    rig::Rig,
    verdict::{Verdict, mib},
};

/// What must be as it was once all have left, but for so many.
pub(super) const EMPTIED: [(&str, f64); 6] = [
    ("sockets", 0.0),
    ("connections", 0.0),
    ("memberships", 0.0),
    ("rooms", 0.0),
    ("tasks", 0.0),
    // The generation before is kept to go back to, with its form of a plugin.
    ("files", 1.0),
];

pub(super) type Levels = BTreeMap<&'static str, f64>;

/// One look at everything.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) at: Duration,
    pub(super) gateways: Vec<Levels>,
    pub(super) redis: Levels,
    pub(super) load: Levels,
}

impl Taken {
    pub(super) async fn now(rig: &mut Rig, stage: &Stage, at: Duration) -> Self {
        let mut gateways = Vec::new();
        for instance in &mut rig.instances {
            let mut text = instance.get("/metrics").await;
            // On a busy machine an answer may take longer than a test waits.
            for _ in 0..10 {
                if text.is_err() {
                    stage.count("late answers");
                    text = instance.get("/metrics").await;
                }
            }
            let text = text.unwrap().1;
            let metric = |name: &str| {
                let own = text.lines().filter_map(|line| line.strip_prefix(name));
                own.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).fold(0.0, |sum, it| sum + it)
            };
            gateways.push(Levels::from([
                ("resident", metric("process_resident_memory_bytes ")),
                ("anonymous", instance.anonymous_bytes() as f64),
                // One of them is that of the question itself.
                ("files", instance.open_files() as f64),
                ("threads", instance.threads() as f64),
                ("tasks", metric("wayleave_tasks ")),
                ("cpu", metric("process_cpu_seconds_total ")),
                ("sockets", metric("wayleave_sockets ")),
                ("connections", metric("wayleave_connections ")),
                ("rooms", metric("wayleave_rooms ")),
                ("memberships", metric("wayleave_memberships ")),
                ("deliveries", metric("wayleave_deliveries_total ")),
                ("messages", metric("wayleave_messages_total ")),
                ("accepted", metric("wayleave_accepted_total ")),
                ("slow", metric("wayleave_slow_clients_total ")),
                ("dropped", metric("wayleave_slow_dropped_total ")),
                ("generation", metric("wayleave_generation ")),
                ("failures", metric("wayleave_plugin_failures_total{")),
            ]));
        }
        let cpu = rig.redis.info("cpu").await;
        let redis = Levels::from([
            ("cpu", ["used_cpu_sys", "used_cpu_user"].map(|key| cpu[key].parse::<f64>().unwrap()).iter().sum()),
            ("memory", rig.redis.number("memory", "used_memory").await as f64),
            // How far a room with history had come is remembered for a week (`COUNT_TTL`).
            ("remembered", rig.redis.keys_containing("}:about").await.len() as f64),
            ("keys", redis::from_redis_value::<u64>(rig.redis.command(&["DBSIZE"]).await).unwrap() as f64),
        ]);
        let load = Levels::from([
            ("sent", stage.counted("sent") as f64),
            ("heard", stage.counted("heard") as f64),
            ("cpu", seconds_of_processor()),
        ]);
        Self { at, gateways, redis, load }
    }

    /// Whether nobody is there, and nothing that was not there before.
    pub(super) fn is_as_empty_as(&self, before: &Self) -> bool {
        let pairs = || self.gateways.iter().zip(&before.gateways);
        EMPTIED.iter().all(|(name, more)| pairs().all(|(now, then)| now[name] <= then[name] + more))
    }

    /// Whether nobody is there.
    pub(super) fn is_empty(&self) -> bool {
        self.gateways.iter().all(|levels| levels["sockets"] == 0.0 && levels["rooms"] == 0.0)
    }

    fn line(&self) -> Value {
        json!({ "at": self.at.as_secs_f64(), "gateways": self.gateways, "redis": self.redis, "load": self.load })
    }
}

/// All looks of a run, also as lines of JSON in a file.
pub(super) struct Samples {
    all: Vec<Taken>,
    file: File,
    folder: PathBuf,
    shown: Duration,
}

impl Samples {
    pub(super) fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let file = File::create(folder.join("samples.jsonl")).unwrap();
        Self { all: Vec::new(), file, folder: folder.to_owned(), shown: Duration::ZERO }
    }

    pub(super) fn add(&mut self, taken: Taken) {
        writeln!(self.file, "{}", taken.line()).unwrap();
        self.all.push(taken);
    }

    /// Notes that something was done.
    pub(super) fn mark(&mut self, at: Duration, what: &str) {
        writeln!(self.file, "{}", json!({ "at": at.as_secs_f64(), "mark": what })).unwrap();
    }

    /// Prints how things stand, once a minute.
    pub(super) fn progress(&mut self, stage: &Stage) {
        let [.., last] = &self.all[..] else { return };
        if last.at < self.shown + Duration::from_secs(60) {
            return;
        }
        self.shown = last.at;
        let mut line = format!("{:3.0} min", last.at.as_secs_f64() / 60.0);
        for levels in &last.gateways {
            let _infallible = write!(
                line,
                " | {:.1} MiB, {} files, {} tasks, {} connections",
                mib(levels["resident"]),
                levels["files"],
                levels["tasks"],
                levels["connections"]
            );
        }
        println!("{line} | Redis {:.1} MiB, {} keys", mib(last.redis["memory"]), last.redis["keys"]);
        for (what, n) in &*stage.wrong.lock() {
            println!("  wrong, {n} times: {what}");
        }
    }

    /// Says how it went, and fails if it did not go well.
    pub(super) fn finish(mut self, before: &Taken, after: &Taken, within: Duration, stage: &Stage) {
        writeln!(self.file, "{}", after.line()).unwrap();
        let mut verdict = Verdict::new(&self.all, before, after);
        verdict.load(stage);
        verdict.gateway(0, "a");
        verdict.gateway(1, "b");
        verdict.redis();
        verdict.processor();
        verdict.say(&format!("all had left after {:.1} s", within.as_secs_f64()));
        std::fs::write(self.folder.join("verdict.txt"), &verdict.text).unwrap();
        print!("{}", verdict.text);
        assert!(verdict.is_good, "something is wrong, see the lines that begin with !!!");
    }
}

/// What this process, which makes the load, has used.
fn seconds_of_processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    // User and system time, the 14th and 15th field, in hundredths of a second.
    fields.skip(11).take(2).map(|field| field.parse::<f64>().unwrap() / 100.0).sum()
}
