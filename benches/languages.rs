//! The three examples in all languages, side by side, and beside a hook by HTTP
//! on loopback that does the same: what a call costs, what a guest takes, and
//! what the calls of another plugin notice of it.

#![allow(clippy::unwrap_used, reason = "a bench ends with its first trouble")]
#![allow(unreachable_pub, dead_code, reason = "parts of plugins are taken as they are")]

#[path = "../plugins/rust/moderation/src/censor.rs"]
mod censor;
#[path = "../plugins/rust/members-only/src/members.rs"]
mod members;
mod support;
#[path = "../plugins/rust/mentions/src/text.rs"]
mod text;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use support::{
    cpu::{BATCHES, measure, measure_by, processes},
    http_hook::{self, HttpHook, Kind},
    machine,
    plugins::{CALLER, ID, ROOM, WORDS, body, built, host, join, load, route, transform},
    process::Process,
    stats::median,
    table,
};
use wayleave::{
    plugin::{Plugin, PluginHost},
    protocol::Payload,
};

const LANGUAGES: [(&str, &str); 5] =
    [("Rust", "rust"), ("C", "c"), ("JavaScript", "typescript"), ("Go", "go"), ("Python", "python")];

/// Enough for all of them; what is slow is no failure here.
const LIMITS: &str = "grants = [\"log\"]\nmemory = \"64MiB\"\ntimeout = \"5s\"\ninit_timeout = \"60s\"";

/// Who may join; the rest of the settings of `members-only`.
const ROOMS: &str = r#"{ "rooms": { "chat:*": ["ada"] } }"#;

/// Calls of the neighbour in one round, and rounds.
const NEIGHBOURS: usize = 50_000;
const ROUNDS: usize = 9;

/// Rounds of the table of calls.
const CALL_ROUNDS: usize = 5;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    if std::env::args().any(|argument| argument == http_hook::SERVE) {
        return serve();
    }
    if let Some(at) = std::env::args().position(|argument| argument == Elsewhere::ARGUMENT) {
        return Elsewhere::run(&std::env::args().nth(at + 1).unwrap());
    }
    println!("languages: {}", machine::line());
    let host = host();
    let all: Vec<_> = LANGUAGES.iter().filter_map(|(name, folder)| Language::load(&host, name, folder)).collect();
    let only = std::env::args().skip_while(|argument| argument != "--only").nth(1);
    let is_wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if is_wanted("calls") {
        calls(&all);
    }
    if is_wanted("guests") {
        guests();
    }
    if is_wanted("neighbours") {
        neighbours(&host, &all);
    }
}

/// The examples in one language.
struct Language {
    name: &'static str,
    moderation: Arc<Plugin>,
    members: Arc<Plugin>,
    mentions: Arc<Plugin>,
}

impl Language {
    fn load(host: &PluginHost, name: &'static str, folder: &str) -> Option<Self> {
        let load = |example: &str, settings: &str| load(host, &format!("plugins/{folder}/{example}"), settings);
        let words = format!("{LIMITS}\n[plugins.settings]\nwords = {WORDS:?}");
        let rooms = format!("{LIMITS}\n[plugins.settings.rooms]\n\"chat:*\" = [\"ada\"]");
        let (moderation, members) = (load("moderation", &words)?, load("members-only", &rooms)?);
        Some(Self { name, moderation, members, mentions: load("mentions", LIMITS)? })
    }
}

/// What a hook is asked by HTTP.
#[derive(Deserialize)]
struct Request<'a> {
    room: &'a str,
    user: &'a str,
    info: Box<RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// The examples' own code, with no plugin around it.
fn serve() {
    let censor = censor::Censor::new(&WORDS.map(str::to_owned)).unwrap();
    let members = members::Members::from_settings(ROOMS).unwrap();
    let answer = move |path: &str, body: &[u8]| {
        let request: Request<'_> = serde_json::from_slice(body).unwrap();
        let payload = request.payload.map_or("", RawValue::get);
        let answer = match path {
            "/transform" if !censor.suspects(payload) => json!({ "verdict": "pass" }),
            "/transform" => json!({ "verdict": "replace", "payload": censor.mask_json(payload).unwrap() }),
            "/authorize" => json!({ "allow": members.admits(request.room, request.user, request.info.get()) }),
            _ if !text::may_concern(payload) => json!({ "verdict": "pass" }),
            _ => {
                let text = text::field(payload, "text").unwrap_or_default();
                let users = text::mentions(&text, request.user, 10);
                json!({ "verdict": "add", "users": users, "data": { "kind": "mention", "from": request.user } })
            }
        };
        answer.to_string()
    };
    http_hook::serve(Arc::new(answer)).unwrap();
}

/// One call by HTTP, from what a gateway has to an answer that it can read.
fn ask(hook: &mut HttpHook, path: &str, payload: Option<&Payload>) {
    let payload = payload.map(|payload| match payload {
        Payload::Text(json) => serde_json::from_str::<&RawValue>(json).unwrap(),
        Payload::Binary(_) => unreachable!("the bodies are text"),
    });
    let info = serde_json::from_str::<&RawValue>(CALLER.info).unwrap();
    #[derive(serde::Serialize)]
    struct Asked<'a> {
        id: &'a str,
        room: &'a str,
        connection: &'a str,
        user: &'a str,
        info: &'a RawValue,
        payload: Option<&'a RawValue>,
    }
    let asked = Asked { id: ID, room: ROOM, connection: CALLER.connection, user: CALLER.user, info, payload };
    let answer = hook.ask(path, serde_json::to_vec(&asked).unwrap()).unwrap();
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert!(answer["verdict"].is_string() || answer["allow"] == true, "not what was to be measured: {answer}");
}

/// The hooks that are asked, in their order in the table.
const ASKED: [&str; 5] = ["moderation, clean", "masked", "members-only", "mentions, none", "two"];

fn calls(all: &[Language]) {
    let (clean, dirty, mention) = (body(""), body("oh darn it "), body("ask @grace and @bob "));
    let by_http = |kind| {
        let mut hook = HttpHook::start(kind).unwrap();
        let server = [hook.server()];
        let mut cost =
            |path: &str, payload: Option<&Payload>| measure_by(|| processes(&server), || ask(&mut hook, path, payload));
        [
            cost("/transform", Some(&clean)),
            cost("/transform", Some(&dirty)),
            cost("/authorize", None),
            cost("/route", Some(&clean)),
            cost("/route", Some(&mention)),
        ]
    };
    let by_plugin = |language: &Language| {
        [
            measure(|| transform(&language.moderation, &clean)),
            measure(|| transform(&language.moderation, &dirty)),
            measure(|| join(&language.members)),
            measure(|| route(&language.mentions, &clean)),
            measure(|| route(&language.mentions, &mention)),
        ]
    };
    let rows = ["HTTP, axum", "HTTP, bare hyper"].into_iter().chain(all.iter().map(|language| language.name));
    let mut rows: Vec<_> = rows.map(|name| (name, [(); 5].map(|()| Vec::new()))).collect();
    // Through all rows before the next begins, so that a slow minute hits all alike.
    for _ in 0..CALL_ROUNDS {
        let costs = [Kind::Usual, Kind::Bare].map(by_http).into_iter().chain(all.iter().map(by_plugin));
        for ((_, row), costs) in rows.iter_mut().zip(costs) {
            row.iter_mut().zip(costs).for_each(|(cell, cost)| cell.push(cost));
        }
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, row)| (name, row.map(median))).collect();
    let http = rows[0].1;
    let cell = |(cost, http): (&f64, &f64)| format!("{cost:.2} ({:.1}x)", http / cost);
    let row = |(name, costs): &(&str, [f64; 5])| {
        [(*name).to_owned()].into_iter().chain(costs.iter().zip(&http).map(cell)).collect()
    };
    println!(
        "\nCPU of a call in us, with HTTP that of both processes, and how much cheaper than HTTP with axum; medians of \
         {CALL_ROUNDS} rounds, each the median of {BATCHES} batches"
    );
    let head: Vec<_> = [""].into_iter().chain(ASKED).collect();
    table::print(&head, &rows.iter().map(row).collect::<Vec<_>>());
}

/// What `wayleave plugin inspect` says of the moderation example.
fn guests() {
    let mut rows = Vec::new();
    for (name, folder) in LANGUAGES {
        let path = format!("plugins/{folder}/moderation");
        let Some(file) = built(&path) else { continue };
        let settings = json!({ "words": WORDS }).to_string();
        let inspect = Command::new(env!("CARGO_BIN_EXE_wayleave"))
            .args(["plugin", "inspect", "--json", "--settings", &settings])
            .arg(&file)
            .output()
            .unwrap();
        assert!(inspect.status.success(), "{}", String::from_utf8_lossy(&inspect.stderr));
        let report: Value = serde_json::from_slice(&inspect.stdout).unwrap();
        let measured = &report["measured"];
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        rows.push(vec![
            name.to_owned(),
            table::figure(number(&report["size"]) / 1e3, 0),
            table::figure(number(&report["compile_ms"]), 0),
            table::figure(number(&measured["start"]["median_us"]) / 1e3, 3),
            table::figure(number(&measured["memory"]) / 1024.0, 0),
            table::figure(number(&measured["memory_after_calls"]) / 1024.0, 0),
        ]);
    }
    println!("The moderation example, by `wayleave plugin inspect`");
    table::print(
        &["", "file kB", "compile ms", "a guest's start ms", "its memory KiB", "after 2,000 calls KiB"],
        &rows,
    );
}

/// The examples of one language, called in a process of their own while they are
/// told to.
struct Elsewhere {
    child: Process,
    orders: ChildStdin,
}

impl Elsewhere {
    const ARGUMENT: &str = "--call";

    fn start(folder: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child =
            command.args([Self::ARGUMENT, folder]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self { child: Process(child), orders }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap_or_else(|_| panic!("{} has ended", self.child.0.id()));
    }

    fn run(folder: &str) {
        let language = Language::load(&host(), "", folder).unwrap();
        let (clean, is_busy) = (body(""), Arc::new(AtomicBool::new(false)));
        println!("ready");
        let told = Arc::clone(&is_busy);
        thread::spawn(move || {
            std::io::stdin().lines().map_while(Result::ok).for_each(|line| told.store(line == "go", Ordering::Relaxed));
            std::process::exit(0);
        });
        loop {
            if is_busy.load(Ordering::Relaxed) {
                transform(&language.moderation, &clean);
            } else {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// How long calls of a plugin in Rust take, while another one is called without a
/// pause: on another thread, or in another process. What the second takes, the
/// machine takes; what the first takes besides, plugins take from each other.
fn neighbours(host: &PluginHost, all: &[Language]) {
    let words = format!("{LIMITS}\n[plugins.settings]\nwords = {WORDS:?}");
    let Some(neighbour) = load(host, "plugins/rust/moderation", &words) else { return };
    let clean = body("");
    let p99 = || {
        let time = |_| {
            let started = Instant::now();
            transform(&neighbour, &clean);
            started.elapsed()
        };
        let mut times: Vec<Duration> = (0..NEIGHBOURS).map(time).collect();
        times.sort_unstable();
        times[NEIGHBOURS * 99 / 100].as_secs_f64() * 1e6
    };
    let on_a_thread = |language: &Language| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    transform(&language.moderation, &clean);
                }
            });
            let p99 = p99();
            stop.store(true, Ordering::Relaxed);
            p99
        })
    };
    let folder = |name| LANGUAGES.iter().find(|(other, _)| *other == name).map_or("", |(_, folder)| *folder);
    let mut elsewhere: Vec<_> = all.iter().map(|language| Elsewhere::start(folder(language.name))).collect();
    let mut rounds = vec![Vec::new(); all.len()];
    let mut alone = Vec::new();
    for _ in 0..ROUNDS {
        alone.push(p99());
        for ((language, elsewhere), round) in all.iter().zip(&mut elsewhere).zip(&mut rounds) {
            elsewhere.order("go");
            let in_a_process = p99();
            elsewhere.order("rest");
            round.push((in_a_process, on_a_thread(language)));
        }
    }
    let row = |(language, round): (&Language, &Vec<(f64, f64)>)| {
        let of = |which: fn(&(f64, f64)) -> f64| table::figure(median(round.iter().map(which)), 2);
        let cells = [of(|(process, _)| *process), of(|(_, thread)| *thread), of(|(process, thread)| thread / process)];
        [language.name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>()
    };
    let rows: Vec<_> = all.iter().zip(&rounds).map(row).collect();
    println!(
        "Calls of a plugin in Rust while another plugin is called without a pause: p99 in us, medians of {ROUNDS} rounds; \
         alone {:.2}",
        median(alone)
    );
    table::print(&["the other", "in another process", "on another thread", "ratio"], &rows);
}
