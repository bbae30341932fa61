//! What 10,000 connected clients that do nothing cost the gateway: to connect,
//! in memory, and in CPU while pings go out. Raw tokio beside it.

mod support;

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use support::args::{self, Options, Role};
use support::centrifuge::Client;
use support::crowd::{self, FIRST, Figures, Start};
use support::gateway::Gateway;
use support::table::{self, figure};
use support::tally::Tally;
use support::{client, floor, machine};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::sleep;

/// Hellos under way at once.
const IN_FLIGHT: usize = 64;

fn main() -> Result<()> {
    match args::role()? {
        Role::Skip => Ok(()),
        Role::Serve(serve) if floor::serve(&serve)? => Ok(()),
        Role::Serve(serve) => bail!("no floor `{}`", serve.name),
        Role::Measure(options) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(&options))
        }
    }
}

async fn measure(options: &Options) -> Result<()> {
    let connections = if options.quick { 1000 } else { 10_000 };
    machine::raise_open_files(connections as u64 + 500)?;
    println!("idle: {}", machine::line());
    let raw = crowd::stand_in("raw tokio", connections).await?;
    let (upgraded, connected, pings) = gateway(connections, options).await?;
    let row = |way: &str, figures: Figures| {
        vec![
            way.to_owned(),
            figure(figures.connect, 1),
            figure(figures.connect / raw.connect, 2),
            figure(figures.resident, 2),
            figure(figures.resident / raw.resident, 2),
        ]
    };
    println!("\n{connections} idle connections");
    let head = ["way", "connect us", "x raw", "resident KiB", "x raw"];
    let rows = [row("raw tokio", raw), row("wayleave, upgraded", upgraded), row("wayleave, and said hello", connected)];
    table::print(&head, &rows);
    println!("{pings}");
    Ok(())
}

/// Figures after the upgrades, after the hellos, and the cost of the pings.
async fn gateway(connections: usize, options: &Options) -> Result<(Figures, Figures, String)> {
    let gateway = Gateway::start().await?;
    let readers = LocalSet::new();
    let measured = readers.run_until(crowded(&gateway, connections, options, &readers)).await;
    measured.with_context(|| format!("the gateway said:\n{}", gateway.log()))
}

async fn crowded(
    gateway: &Gateway,
    connections: usize,
    options: &Options,
    readers: &LocalSet,
) -> Result<(Figures, Figures, String)> {
    let process = &gateway.process;
    let tally = Rc::new(Tally::new(connections));
    let first = client::open_all(gateway.addr, Gateway::WEBSOCKET, FIRST).await?;
    hello(first, &tally, readers).await?;
    let (start, before) = (Start::of(process)?, Start::of(process)?);
    let crowd = client::open_all(gateway.addr, Gateway::WEBSOCKET, connections).await?;
    let upgraded = start.figures(process, connections).await?;
    let interval = hello(crowd, &tally, readers).await?;
    let connected = before.figures(process, connections).await?;

    // A whole ping interval, unless in haste: each connection pings once in it.
    let watched = if options.quick { Duration::from_secs(3) } else { interval };
    let before = process.cpu()?;
    sleep(watched).await;
    let used = process.cpu()?.since(&before);
    tally.check()?;
    let share = used.as_secs_f64() / watched.as_secs_f64() * 100.0;
    let each = used.as_secs_f64() * 1e6 / (connections + FIRST) as f64;
    let (watched, interval) = (watched.as_secs(), interval.as_secs());
    let pings = format!(
        "wayleave idle for {watched} s, a ping every {interval} s: {share:.2} % of a core, {each:.2} us a connection"
    );
    Ok((upgraded, connected, pings))
}

/// Says hello on each; from then on its pings are answered. Gives the interval
/// of the pings.
async fn hello(streams: Vec<TcpStream>, tally: &Rc<Tally>, readers: &LocalSet) -> Result<Duration> {
    let hello = |stream| async {
        let mut client = Client::new(stream);
        let reply = client.connect().await?;
        readers.spawn_local(client.follow(Rc::clone(tally)));
        anyhow::Ok(reply)
    };
    let hellos = stream::iter(streams).map(hello).buffer_unordered(IN_FLIGHT);
    let replies: Vec<String> = hellos.try_collect().await?;
    let reply = replies.last().context("no connections")?;
    let reply: serde_json::Value = serde_json::from_str(reply.trim())?;
    Ok(Duration::from_secs(reply["connect"]["ping"].as_u64().unwrap_or(25)))
}
