//! What reloads cost the clients: a plugin replaced every 200 ms under 20,000
//! deliveries a second, beside the same load without reloads.
//!
//! Every message is accounted for: lost, doubled, out of order, or handled by
//! two generations would each be counted here.

#![allow(clippy::unwrap_used, reason = "a bench ends with its first trouble")]
#![expect(clippy::disallowed_methods, reason = "no drain waits for the tasks of a bench")]

mod support;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use support::{machine, stats::Histogram, table};
use tokio_tungstenite::{connect_async, tungstenite::Message};
use wayleave::{config::Config, gateway::Gateway, reload::Outcome};

const READERS: usize = 400;
const PER_SECOND: u32 = 50;
const EVERY: Duration = Duration::from_millis(200);

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let seconds = if std::env::args().any(|argument| argument == "--quick") { 2 } else { 20 };
    machine::raise_open_files(READERS as u64 * 2 + 500).unwrap();
    println!("reload: {}", machine::line());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut rows = Vec::new();
    for reloading in [false, true, false, true] {
        rows.push(runtime.block_on(run(seconds, reloading)));
    }
    let deliveries = READERS as u32 * PER_SECOND;
    println!("\n{deliveries} deliveries a second for {seconds} s, gateway and clients in one process");
    let head = ["reloads", "delivered", "lost", "doubled", "mixed", "p50 ms", "p99 ms", "max ms"];
    table::print(&head, &rows);
}

/// What one reader has seen.
struct Seen {
    times: Vec<Duration>,
    delivered: u64,
    doubled: u64,
    mixed: u64,
}

async fn run(seconds: u32, reloading: bool) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("p.wat");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/fixtures/pass.wat");
    let text = std::fs::read_to_string(source).unwrap();
    std::fs::write(&place, &text).unwrap();
    let config = "[server]\nlisten = \"127.0.0.1:0\"\ncache = \"\"\n[auth]\nanonymous = true\n\
                  [limits]\ncommands_per_second = 1000000\ncommands_burst = 1000000\n\
                  [[rooms]]\nmatch = \"r\"\npublish = \"anyone\"\nstamp = true\nplugins = [\"p\"]\n\
                  [[plugins]]\nname = \"p\"\npath = \"p.wat\"\n";
    let config = Config::parse(config, folder.path(), &Default::default()).unwrap();
    let gateway = Gateway::start(config, None).await.unwrap();
    let url = format!("ws://{}/connection/websocket", gateway.address());
    let messages = u64::from(seconds * PER_SECOND);
    let started = Instant::now();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let (mut socket, _) = connect_async(&url).await.unwrap();
        let hello = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"r\"}}";
        socket.send(Message::text(hello)).await.unwrap();
        socket.next().await.unwrap().unwrap();
        socket.next().await.unwrap().unwrap();
        readers.push(tokio::spawn(async move {
            let mut seen = Seen { times: Vec::new(), delivered: 0, doubled: 0, mixed: 0 };
            let mut next = 0;
            while next < messages {
                let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_secs(10), socket.next()).await else {
                    break;
                };
                let Message::Text(text) = message else { continue };
                if text.as_str() == "{}" {
                    socket.send(Message::text("{}")).await.unwrap();
                    continue;
                }
                let push: serde_json::Value = serde_json::from_str(&text).unwrap();
                let publication = &push["push"]["pub"];
                let n = publication["data"][0].as_u64().unwrap();
                let sent = Duration::from_nanos(publication["data"][1].as_u64().unwrap());
                seen.times.push(started.elapsed().saturating_sub(sent));
                seen.delivered += 1;
                seen.doubled += u64::from(n < next);
                next = n + 1;
                let tags = &publication["tags"];
                let generation = tags["generation"].as_str().unwrap();
                seen.mixed += u64::from(tags["plugins"] != format!("p@{generation}"));
            }
            seen
        }));
    }
    let (mut publisher, _) = connect_async(&url).await.unwrap();
    publisher.send(Message::text("{\"id\":1,\"connect\":{}}")).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / PER_SECOND);
    let (mut reloads, mut reloaded) = (0, Instant::now());
    for n in 0..messages {
        ticks.tick().await;
        if reloading && reloaded.elapsed() >= EVERY {
            reloaded = Instant::now();
            std::fs::write(&place, format!("{text}\n;; {n}\n")).unwrap();
            let reloader = gateway.reloader().clone();
            reloads += 1;
            tokio::spawn(async move { assert!(matches!(reloader.reload("bench").await, Outcome::Replaced(_))) });
        }
        let now = u64::try_from(started.elapsed().as_nanos()).unwrap();
        let publish = format!("{{\"id\":2,\"publish\":{{\"channel\":\"r\",\"data\":[{n},{now}]}}}}");
        publisher.send(Message::text(publish)).await.unwrap();
    }
    let mut all = Seen { times: Vec::new(), delivered: 0, doubled: 0, mixed: 0 };
    let mut times = Histogram::new();
    for reader in readers {
        let seen = reader.await.unwrap();
        seen.times.iter().for_each(|time| times.add(*time));
        all.delivered += seen.delivered;
        all.doubled += seen.doubled;
        all.mixed += seen.mixed;
    }
    let _left = gateway.drain(Duration::from_secs(5)).await;
    let lost = messages * READERS as u64 - (all.delivered - all.doubled);
    let quantile = |q| table::figure(times.quantile(q), 1);
    let counts = [reloads, all.delivered, lost, all.doubled, all.mixed].map(|n: u64| n.to_string());
    counts.into_iter().chain([quantile(0.5), quantile(0.99), quantile(1.0)]).collect()
}
