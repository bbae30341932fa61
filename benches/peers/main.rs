//! The gateway beside others, under the same loads on the same machine: see
//! benches/README.md. Each figure is a line of JSON; `benches/peers/report`
//! makes tables and plots of them.

#[path = "mod.rs"]
mod peers;
#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use peers::contestant::{self, Contestant, Kind};
use peers::load::{self, Load, Opened, Run};
use peers::scenario::{self, Pace, Scenario};
use peers::site::Site;
use serde_json::{Value, json};
use support::machine;
use tokio::time::{sleep, timeout};

/// What no load may outlast, its own length aside.
const PATIENCE: Duration = Duration::from_secs(120);
/// The worst a saturated load may make 99 of 100 deliveries wait, milliseconds.
const BEARABLE: f64 = 100.0;
/// Bursts of saturated loads, and how many of them are under way.
const BURSTS: [(usize, usize); 6] = [(64, 2), (32, 2), (16, 2), (4, 2), (1, 2), (1, 1)];
/// Connections that Socket.IO gets before any is measured: V8 compiles what is hot.
const COLD: usize = 2000;
/// The share of one processor that others may use while a load runs, without a word.
const QUIET: f64 = 0.1;
/// Between two loads, for what the one before has left to the kernel.
const REST: Duration = Duration::from_millis(300);

const USAGE: &str = "use --quick, --rounds N, --seconds N, --only CONTESTANT,…, --scenarios SCENARIO,…, --out FILE";

struct Options {
    rounds: usize,
    /// How long each load is held.
    length: Duration,
    quick: bool,
    only: Option<Vec<String>>,
    scenarios: Option<Vec<String>>,
    out: PathBuf,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, addr] = &args[..]
        && flag == "--hook"
    {
        return hook(addr);
    }
    let Some(options) = options(&args)? else {
        println!("not measured: give --bench or --quick");
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&options))
}

/// None: this is `cargo test --benches`, and a measurement is not a test.
fn options(args: &[String]) -> Result<Option<Options>> {
    let mut measure = false;
    let (mut rounds, mut seconds, mut only, mut scenarios, mut quick) = (None, None, None, None, false);
    let mut out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/results.jsonl");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value: {USAGE}"));
        let list = |text: &String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        match arg.as_str() {
            "--bench" => measure = true,
            "--quick" => (measure, quick) = (true, true),
            "--rounds" => rounds = Some(value()?.parse()?),
            "--seconds" => seconds = Some(value()?.parse()?),
            "--only" => only = Some(list(value()?)),
            "--scenarios" => scenarios = Some(list(value()?)),
            "--out" => out = value()?.into(),
            other => bail!("unknown argument `{other}`: {USAGE}"),
        }
    }
    let known = |names: &Option<Vec<String>>, all: &[&str]| match names
        .iter()
        .flatten()
        .find(|name| !all.contains(&name.as_str()))
    {
        Some(name) => bail!("there is no `{name}`; there are {}", all.join(", ")),
        None => Ok(()),
    };
    known(&only, &contestant::ALL.map(|contestant| contestant.id))?;
    known(&scenarios, &scenario::ALL.map(|scenario| scenario.id))?;
    let length = Duration::from_secs(seconds.unwrap_or(if quick { 1 } else { 4 }).max(1));
    let rounds = rounds.unwrap_or(if quick { 1 } else { 3 });
    Ok(measure.then_some(Options { rounds, length, quick, only, scenarios, out }))
}

/// A backend that allows all it is asked, as one would write it.
fn hook(addr: &str) -> Result<()> {
    // The bench holds the other end, however it ends.
    std::thread::spawn(|| {
        let _until_then = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    tokio::runtime::Runtime::new()?.block_on(async {
        let app = axum::Router::new().fallback(async |_asked: bytes::Bytes| axum::Json(json!({ "result": {} })));
        Ok(axum::serve(tokio::net::TcpListener::bind(addr).await?, app).await?)
    })
}

struct Results(File);

impl Results {
    fn write(&mut self, line: &Value) -> Result<()> {
        Ok(writeln!(self.0, "{line}")?)
    }
}

async fn measure(options: &Options) -> Result<()> {
    fs::create_dir_all(options.out.parent().context("--out has no folder")?)?;
    let mut results = Results(File::create(&options.out)?);
    println!("peers: {}", machine::line());
    results.write(&json!({
        "kind": "run",
        "when": humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        "machine": machine::line(),
        "rounds": options.rounds,
        "seconds": options.length.as_secs(),
        "versions": versions(),
    }))?;
    let wanted =
        |names: &Option<Vec<String>>, id: &str| names.as_ref().is_none_or(|names| names.iter().any(|name| name == id));
    let mut contestants = Vec::new();
    for contestant in contestant::ALL.iter().filter(|one| wanted(&options.only, one.id)) {
        if let Some(why) = contestant.missing() {
            println!("\n!!! LEFT OUT: {}: {why}\n", contestant.id);
            results.write(&json!({ "kind": "missing", "contestant": contestant.id, "why": why }))?;
            continue;
        }
        contestants.push(contestant);
    }
    let pairs: Vec<_> = scenario::ALL
        .iter()
        .filter(|scenario| wanted(&options.scenarios, scenario.id))
        .flat_map(|scenario| contestants.iter().filter(|one| scenario.is_for(one)).map(move |one| (scenario, *one)))
        .collect();
    let total = pairs.len() * options.rounds;
    // Round by round: a slow minute then hits all alike.
    for round in 1..=options.rounds {
        for (n, (scenario, contestant)) in pairs.iter().enumerate() {
            let done = (round - 1) * pairs.len() + n + 1;
            print!("{done:4}/{total} {:16} {:20} ", scenario.id, contestant.id);
            std::io::stdout().flush()?;
            machine::raise_open_files(scenario.connections() as u64 + 500)?;
            let bounded = timeout(PATIENCE + 8 * options.length, one(scenario, contestant, options)).await;
            let lines = match bounded.context("takes too long").flatten() {
                Ok(lines) => lines,
                Err(error) => {
                    let told: &[&str] =
                        if scenario.id == "connect" { &["upgrade", "connect", "idle"] } else { &[scenario.id] };
                    let line = |id: &&str| json!({ "kind": "failed", "scenario": id, "why": format!("{error:#}") });
                    told.iter().map(line).collect()
                }
            };
            println!("{}", lines.iter().map(told).collect::<Vec<_>>().join("; "));
            for mut line in lines {
                line["round"] = round.into();
                line["contestant"] = contestant.id.into();
                results.write(&line)?;
            }
            sleep(REST).await;
        }
    }
    println!("\nthe figures are in {}", options.out.display());
    Ok(())
}

/// What a line of the results says, for who watches.
fn told(line: &Value) -> String {
    if let Some(why) = line["why"].as_str() {
        return format!("FAILED: {}", why.lines().next().unwrap_or_default());
    }
    let figure = |name: &str, unit: &str| line[name].as_f64().map(|value| format!("{value:.2} {unit}"));
    let wrong = line["lost"].as_u64().unwrap_or(0) + line["doubled"].as_u64().unwrap_or(0);
    let wrong = (wrong > 0).then(|| format!("{wrong} LOST OR DOUBLED"));
    let others = line["others"].as_f64().filter(|share| *share > QUIET);
    let others = others.map(|share| format!("OTHERS USED {:.0} % OF A PROCESSOR", 100.0 * share));
    let parts = [
        figure("us", "us"),
        figure("per_second", "a second"),
        figure("p99", "ms"),
        figure("kib", "KiB"),
        wrong,
        others,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

async fn one(scenario: &Scenario, contestant: &Contestant, options: &Options) -> Result<Vec<Value>> {
    let mut site = Site::start(contestant, scenario.instances, scenario.bus).await?;
    if let Pace::Storm(count) = scenario.pace {
        let count = if options.quick { 1000 } else { count };
        let first = if contestant.kind == Kind::SocketIo { COLD } else { 64 };
        let opened = load::storm(&mut site, first, count).await;
        return Ok(opened_lines(&opened.with_context(|| site.log())?));
    }
    let mut load = Load::open(site, scenario.receivers()).await?;
    // V8 compiles what is hot: cold, Socket.IO costs half as much again.
    let is_cold = contestant.kind == Kind::SocketIo && !options.quick;
    let warming = Duration::from_secs(if is_cold { 5 } else { 1 });
    let message = |n| scenario.message(n);
    let mut line = match scenario.pace {
        Pace::PerSecond(per_second) => {
            load.paced(per_second, scenario.bytes, warming, message).await?;
            figures(&load.paced(per_second, scenario.bytes, options.length, message).await?)
        }
        Pace::Full => {
            load.saturated(BURSTS[1], scenario.bytes, warming, message).await?;
            let mut lines = Vec::new();
            for burst in BURSTS {
                lines.push(figures(&load.saturated(burst, scenario.bytes, options.length / 2, message).await?));
                let figure = |n: usize, name: &str| lines.get(n).and_then(|line| line[name].as_f64()).unwrap_or(0.0);
                // Smaller bursts are for those who cannot bear the larger ones.
                if lines.len() > 1 && figure(lines.len() - 1, "p99") < BEARABLE {
                    break;
                }
            }
            let rate = |line: &Value| line["per_second"].as_f64().unwrap_or(0.0);
            let bearable = lines.into_iter().filter(|line| line["p99"].as_f64().is_some_and(|p99| p99 < BEARABLE));
            bearable.max_by(|a, b| rate(a).total_cmp(&rate(b))).context("p99 is above 100 ms with any burst")?
        }
        Pace::Storm(_) => bail!("a storm has no messages"),
    };
    line["scenario"] = scenario.id.into();
    Ok(vec![line])
}

fn figures(run: &Run) -> Value {
    let arrived = (run.deliveries + run.wrong.doubled).saturating_sub(run.wrong.lost);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / arrived as f64;
    let mut times = support::stats::Histogram::new();
    times.join(&run.times.local);
    times.join(&run.times.remote);
    // Not a number is none of JSON's.
    let quantile = |times: &support::stats::Histogram, q| Some(times.quantile(q)).filter(|ms| !ms.is_nan());
    json!({
        "kind": "figures",
        "us": each(run.used.cpu()),
        "redis_us": each(run.used.redis),
        "hook_us": each(run.used.hook),
        "server_us": run.used.servers.iter().map(|server| each(*server)).collect::<Vec<_>>(),
        "redis_bytes": (run.used.traffic.input + run.used.traffic.output) as f64 / run.messages as f64,
        "per_second": arrived as f64 / run.took.as_secs_f64(),
        "p50": quantile(&times, 0.5),
        "p99": quantile(&times, 0.99),
        "p999": quantile(&times, 0.999),
        "local_p50": quantile(&run.times.local, 0.5),
        "remote_p50": quantile(&run.times.remote, 0.5),
        "deliveries": arrived,
        "lost": run.wrong.lost,
        "doubled": run.wrong.doubled,
        "pace": run.pace,
        "others": run.used.others,
    })
}

fn opened_lines(opened: &Opened) -> Vec<Value> {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let line = |scenario: &str, figures: Value| {
        let mut line = json!({ "kind": "figures", "scenario": scenario });
        line.as_object_mut().into_iter().for_each(|line| line.extend(figures.as_object().cloned().unwrap_or_default()));
        line
    };
    vec![
        line(
            "upgrade",
            json!({ "us": us(opened.upgrade), "per_second": opened.upgrades_per_second, "others": opened.others[0] }),
        ),
        line(
            "connect",
            json!({ "us": us(opened.connect), "per_second": opened.connects_per_second, "others": opened.others[1] }),
        ),
        line("idle", json!({ "kib": opened.resident / 1024.0 })),
    ]
}

/// What each of them calls itself, where it is there.
fn versions() -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let says = |program: PathBuf, question: &str| {
        let output = Command::new(program).arg(question).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned()).filter(|said| !said.is_empty())
    };
    let locked = |name: &str| {
        let text = fs::read_to_string(root.join("benches/peers/servers/Cargo.lock")).ok()?;
        let after = text.split_once(&format!("name = \"{name}\"\nversion = \""))?.1;
        Some(after.split('"').next()?.to_owned())
    };
    let package = |name: &str| {
        let text = fs::read_to_string(root.join("benches/peers/socketio/package.json")).ok()?;
        let package: Value = serde_json::from_str(&text).ok()?;
        Some(package["dependencies"][name].as_str()?.to_owned())
    };
    let program = |kind: Kind| contestant::ALL.iter().find(|one| one.kind == kind).map(Contestant::program);
    let by_hand = |name: &str| {
        let is_ours = root.join(format!("target/peers/bin/{name}.version")).is_file();
        move |said: String| if is_ours { said } else { format!("{said}, not built by `benches/peers/setup`") }
    };
    let said = |program: PathBuf| says(program, "--version");
    json!({
        "wayleave": env!("CARGO_PKG_VERSION"),
        "centrifugo": program(Kind::Centrifugo).and_then(|program| says(program, "version")).map(by_hand("centrifugo")),
        "nats": program(Kind::Nats).and_then(said).map(by_hand("nats-server")),
        "socket.io": package("socket.io"),
        "@socket.io/redis-adapter": package("@socket.io/redis-adapter"),
        "@socket.io/redis-streams-adapter": package("@socket.io/redis-streams-adapter"),
        "bufferutil": package("bufferutil"),
        "node": program(Kind::SocketIo).and_then(said),
        "socketioxide": locked("socketioxide"),
        "axum": locked("axum"),
        "tokio": locked("tokio"),
        "redis": said("redis-server".into()),
    })
}
