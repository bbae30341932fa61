//! `wayleave bench`: what a gateway bears, measured from outside.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    client::Gateway,
    subscribe::{Ended, Socket},
};

/// Connections that are opened at once.
const AT_ONCE: usize = 64;

/// Messages that wait for a connection to send them.
const QUEUE: usize = 16;

/// How long the last messages are waited for.
const LINGER: Duration = Duration::from_secs(5);

/// Loads a gateway. Members of the rooms publish: the rooms' `publish` must let
/// them.
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    /// Clients.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Rooms; each client is in one.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rooms: u32,
    /// Messages a second, in all rooms together.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How long.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// What the rooms are called; a number is put behind it.
    #[arg(long, default_value = "chat:bench-")]
    room: String,
    /// Bytes of a message.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(32..=65_536))]
    size: u32,
    /// A token for all of them; without it, as nobody.
    #[arg(long, default_value = "")]
    token: String,
    /// The server's process, for its CPU; on this machine.
    #[arg(long)]
    pid: Option<u32>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: Gateway,
}

/// What all connections count.
#[derive(Debug)]
struct Tally {
    begun: Instant,
    sent: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    delivered: AtomicU64,
    latencies: Latencies,
}

/// Counts by microseconds, a sixteenth apart.
#[derive(Debug)]
struct Latencies(Vec<AtomicU64>);

impl Latencies {
    const PARTS: u64 = 16;

    fn new() -> Self {
        Self((0..64 * Self::PARTS).map(|_| AtomicU64::new(0)).collect())
    }

    fn place(micros: u64) -> usize {
        let part = match micros {
            0..Self::PARTS => micros,
            _ => {
                let power = u64::from(micros.ilog2());
                (power - 3) * Self::PARTS + ((micros >> (power - 4)) - Self::PARTS)
            }
        };
        usize::try_from(part).unwrap_or(usize::MAX).min(64 * Self::PARTS as usize - 1)
    }

    /// The least that is counted there.
    fn micros(place: usize) -> u64 {
        let place = place as u64;
        let power = place / Self::PARTS;
        if power == 0 { place } else { (Self::PARTS + place % Self::PARTS) << (power - 1) }
    }

    fn add(&self, micros: u64) {
        self.0[Self::place(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// In so many milliseconds, this part of them came.
    fn within(&self, part: f64) -> f64 {
        let counts: Vec<u64> = self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * part).ceil().max(1.0) as u64;
        let mut seen = 0;
        let place = counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        place.map_or(0.0, |place| Self::micros(place) as f64 / 1000.0)
    }
}

pub(super) fn main(bench: &Bench) -> ExitCode {
    super::block_on(async {
        let figures = measure(bench).await?;
        if bench.json {
            println!("{figures}");
        } else {
            print(&figures);
        }
        Ok(())
    })
}

async fn measure(bench: &Bench) -> anyhow::Result<Value> {
    ensure!(bench.rooms <= bench.connections, "more rooms than connections: some would be empty");
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let tally = Arc::new(Tally {
        begun: Instant::now(),
        sent: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        lost: AtomicU64::new(0),
        delivered: AtomicU64::new(0),
        latencies: Latencies::new(),
    });
    let senders = open(bench, &tally, &tasks, &stop).await?;
    let opened = tally.begun.elapsed();
    let cpu = bench.pid.map(cpu_of).transpose()?;
    let started = Instant::now();
    publish(bench, &tally, &senders, started).await;
    let took = started.elapsed();
    let deadline = Instant::now() + LINGER;
    while tally.delivered.load(Ordering::Relaxed) < expected(bench, &tally) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cpu = cpu.zip(bench.pid).map(|(before, pid)| Ok::<_, anyhow::Error>(cpu_of(pid)?.saturating_sub(before)));
    let cpu = cpu.transpose()?;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let delivered = number(&tally.delivered);
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    Ok(json!({
        "connections": bench.connections,
        "rooms": bench.rooms,
        "seconds": round(took.as_secs_f64()),
        "connect_seconds": round(opened.as_secs_f64()),
        "messages": number(&tally.sent),
        "refused": number(&tally.refused),
        "connections_lost": number(&tally.lost),
        "deliveries": delivered,
        "deliveries_missing": expected(bench, &tally).saturating_sub(delivered),
        "deliveries_a_second": round(delivered as f64 / took.as_secs_f64()),
        "latency_ms": {
            "p50": tally.latencies.within(0.5),
            "p90": tally.latencies.within(0.9),
            "p99": tally.latencies.within(0.99),
            "max": tally.latencies.within(1.0),
        },
        "server_cpu_seconds": cpu.map(|cpu| round(cpu.as_secs_f64())),
        "server_cpu_us_a_delivery": cpu.map(|cpu| round(cpu.as_secs_f64() * 1e6 / delivered.max(1) as f64)),
    }))
}

/// Opens all connections, each in its room.
async fn open(
    bench: &Bench,
    tally: &Arc<Tally>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<mpsc::Sender<String>>> {
    let opening = (0..bench.connections).map(|n| async move {
        let room = format!("{}{}", bench.room, n % bench.rooms);
        let mut socket = Socket::open(&bench.gateway, &bench.token).await?;
        socket.ask("subscribe", json!({ "channel": room }), &mut |_| {}).await?;
        Ok((socket, room))
    });
    let mut opening = futures_util::stream::iter(opening).buffer_unordered(AT_ONCE);
    let mut senders = Vec::new();
    while let Some(opened) = opening.next().await {
        let (socket, room) = opened.map_err(|ended: Ended| match ended {
            Ended::Lost(why) | Ended::Refused(why) => anyhow::anyhow!("a connection could not be opened: {why}"),
        })?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        tasks.spawn(live(socket, room, receiver, Arc::clone(tally), stop.clone()));
        senders.push(sender);
        if senders.len() % 1_000 == 0 {
            eprintln!("{} connections", senders.len());
        }
    }
    Ok(senders)
}

/// One connection: sends what it is told to, counts what comes.
async fn live(
    mut socket: Socket,
    room: String,
    mut to_send: mpsc::Receiver<String>,
    tally: Arc<Tally>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            came = socket.read() => match came {
                Ok(came) => came.iter().for_each(|came| tally.count(came)),
                Err(_) => {
                    tally.lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            },
            Some(filler) = to_send.recv() => {
                let at = tally.now();
                let data = json!({ "at": at, "filler": filler });
                if socket.send("publish", json!({ "channel": room, "data": data })).await.is_err() {
                    tally.lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

impl Tally {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn count(&self, came: &Value) {
        if let Some(at) = came["push"]["pub"]["data"]["at"].as_u64() {
            self.delivered.fetch_add(1, Ordering::Relaxed);
            self.latencies.add(self.now().saturating_sub(at));
        } else if let Some(error) = came.get("error")
            && self.refused.fetch_add(1, Ordering::Relaxed) == 0
        {
            eprintln!("refused with {}: {}", error["code"], error["message"]);
        }
    }
}

/// Publishes at the rate, for as long as is wanted.
async fn publish(bench: &Bench, tally: &Tally, senders: &[mpsc::Sender<String>], started: Instant) {
    let total = u64::from(bench.rate) * u64::from(bench.seconds);
    let filler = "x".repeat(bench.size as usize - 32);
    let mut shown = started;
    let mut busy = 0_u64;
    for n in 0..total {
        // By the clock and not by pauses, which would add up.
        let due = started + Duration::from_secs_f64(n as f64 / f64::from(bench.rate));
        tokio::time::sleep_until(due).await;
        let sender = &senders[usize::try_from(n).unwrap_or(0) % senders.len()];
        match sender.try_send(filler.clone()) {
            Ok(()) => {
                tally.sent.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => busy += 1,
        }
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            let (sent, delivered) = (tally.sent.load(Ordering::Relaxed), tally.delivered.load(Ordering::Relaxed));
            eprintln!("{:>4} s: {sent} messages, {delivered} deliveries", started.elapsed().as_secs());
        }
    }
    if busy > 0 {
        eprintln!("{busy} messages were not sent: their connections had gone or were busy");
    }
    // The last part of a second counts as well.
    tokio::time::sleep_until(started + Duration::from_secs(bench.seconds.into())).await;
}

/// How many deliveries the messages make that were sent and not refused.
fn expected(bench: &Bench, tally: &Tally) -> u64 {
    // Of each room, as many as are in it.
    let (all, rooms) = (u64::from(bench.connections), u64::from(bench.rooms));
    let members = |room: u64| all / rooms + u64::from(room < all % rooms);
    let average = (0..rooms).map(members).map(|n| n * n).sum::<u64>() as f64 / all as f64;
    let sent = tally.sent.load(Ordering::Relaxed).saturating_sub(tally.refused.load(Ordering::Relaxed));
    (sent as f64 * average).round() as u64
}

/// What a process has used so far; of Linux.
fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let file = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&file).with_context(|| format!("no process {pid} on this machine ({file})"))?;
    // Behind the name, which may hold anything, stand the numbers.
    let numbers: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| numbers.get(n).and_then(|text| text.parse::<u64>().ok()).context("an unknown format");
    // In hundredths of a second wherever Linux runs.
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

fn print(figures: &Value) {
    let number = |name: &str| figures[name].to_string();
    println!(
        "{} connections in {} rooms, opened in {} s",
        number("connections"),
        number("rooms"),
        number("connect_seconds")
    );
    println!("{} messages in {} s, {} refused", number("messages"), number("seconds"), number("refused"));
    let (missing, lost) = (number("deliveries_missing"), number("connections_lost"));
    let a_second = number("deliveries_a_second");
    println!("{} deliveries, {a_second} a second; {missing} missing, {lost} connections lost", number("deliveries"));
    let latency = &figures["latency_ms"];
    let (p50, p90, p99, max) = (&latency["p50"], &latency["p90"], &latency["p99"], &latency["max"]);
    println!("latency: p50 {p50} ms, p90 {p90} ms, p99 {p99} ms, max {max} ms");
    if !figures["server_cpu_seconds"].is_null() {
        let (cpu, each) = (number("server_cpu_seconds"), number("server_cpu_us_a_delivery"));
        println!("server CPU: {cpu} s, {each} us a delivery");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_known_to_a_sixteenth() {
        for micros in (0..5_000).chain([1 << 20, 123_456_789, u64::from(u32::MAX)]) {
            let known = Latencies::micros(Latencies::place(micros));
            assert!(known <= micros && micros - known <= micros / 16, "{micros}: {known}");
        }
        let all = Latencies::new();
        (1..=1000).for_each(|millis| all.add(millis * 1000));
        assert!((all.within(0.5) - 500.0).abs() < 32.0 && (all.within(0.99) - 990.0).abs() < 64.0);
        assert!((Latencies::new().within(0.5) - 0.0).abs() < f64::EPSILON);
    }
}
