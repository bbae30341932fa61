//! Which way to speak WebSocket costs least: a room of 1,000, opening and
//! holding 10,000, each way beside the bare writing of the same frame.

mod contestants;
mod support;

use std::collections::BTreeMap;

use anyhow::Result;
use support::args::{self, Options, Role};
use support::room::{self, Figures, Plan};
use support::table::{self, figure};
use support::{crowd, machine};

/// Bytes of a message.
const PAYLOAD: usize = 128;
/// What the ratios of the paced load are to.
const ONE: &str = "bare write";
/// What those of the saturated load are to.
const TEN: &str = "bare write of 10";
/// How they write a burst is all that tells these from others.
const ONLY_IN_ROOMS: [&str; 4] = [TEN, "bare write of 64", "direct, joined", "direct, outbox"];

fn main() -> Result<()> {
    match args::role()? {
        Role::Skip => Ok(()),
        Role::Serve(serve) => contestants::serve(&serve),
        Role::Measure(options) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(measure(&options))
        }
    }
}

async fn measure(options: &Options) -> Result<()> {
    let connections = if options.quick { 1000 } else { 10_000 };
    machine::raise_open_files(connections as u64 + 500)?;
    println!("codecs: {}", machine::line());
    rooms(options).await?;
    crowds(options, connections).await
}

async fn rooms(options: &Options) -> Result<()> {
    let plan = Plan::new(options);
    let mut rounds: BTreeMap<&str, Vec<Figures>> = BTreeMap::new();
    // Round by round and not row by row: a slow minute then hits all alike.
    for _ in 0..plan.rounds {
        for name in contestants::NAMES {
            if [ONE, TEN].contains(&name) || options.wants(name) {
                let figures = room::stand_in(name, PAYLOAD, &plan).await?;
                rounds.entry(name).or_default().push(figures);
            }
        }
    }
    let own = |name| Some(room::row(name, rounds.get(name)?, &rounds[ONE], &rounds[TEN]));
    let (clients, count) = (plan.clients, plan.rounds);
    println!("\n{clients} clients, {PAYLOAD} bytes, medians of {count} rounds");
    let rows: Vec<_> = contestants::NAMES.into_iter().filter_map(own).collect();
    table::print(&room::HEAD, &rows);
    Ok(())
}

async fn crowds(options: &Options, connections: usize) -> Result<()> {
    let mut rows = Vec::new();
    for name in contestants::NAMES {
        if ONLY_IN_ROOMS.contains(&name) || !options.wants(name) {
            continue;
        }
        let figures = crowd::stand_in(name, connections).await?;
        let cells = [figure(figures.connect, 1), figure(figures.resident, 2)];
        rows.push([vec![name.to_owned()], cells.to_vec()].concat());
    }
    println!("{connections} idle connections");
    table::print(&["way", "connect us", "resident KiB"], &rows);
    Ok(())
}
