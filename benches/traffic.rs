//! What passes through Redis for a message into a large room on another
//! instance, with a third instance beside that has no member of it.

mod peers;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use peers::contestant::{self, Kind};
use peers::dialect::As;
use peers::load::{Load, Message, Receiver, To};
use peers::site::Site;
use support::args::{self, Options, Role};
use support::gateway;
use support::machine;
use support::table::{self, figure};
use tokio::time::timeout;

/// Bytes of a message's data.
const PAYLOAD: usize = 128;
/// What no load may outlast, its own length aside.
const PATIENCE: Duration = Duration::from_secs(120);

const TO_CROWD_PER_SECOND: u64 = 10;

struct Plan {
    /// How long the load is held.
    length: Duration,
    crowd: usize,
}

impl Plan {
    fn new(options: &Options) -> Self {
        let seconds = options.seconds.unwrap_or(if options.quick { 2 } else { 10 });
        let crowd = if options.quick { 500 } else { 10_000 };
        // Those who read and those who publish, with files to spare.
        let fits = machine::raise_open_files(crowd as u64 + 500).is_ok();
        Self { length: Duration::from_secs(seconds.max(1)), crowd: if fits { crowd } else { crowd.min(2000) } }
    }
}

fn main() -> Result<()> {
    match args::role()? {
        Role::Skip => Ok(()),
        Role::Serve(serve) => bail!("no stand-in `{}`", serve.name),
        Role::Measure(options) => {
            println!("traffic: {}", machine::line());
            let plan = Plan::new(&options);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let bounded = async { timeout(PATIENCE + 4 * plan.length, crowd(&plan)).await.context("takes too long")? };
            runtime.block_on(bounded)
        }
    }
}

/// A large room on the second instance and the publisher on the first: what
/// passes through Redis, before and after there is a third instance that has
/// no member of it.
async fn crowd(plan: &Plan) -> Result<()> {
    let heard = || As::Member(vec!["bench:0".to_owned()]);
    let members = (0..plan.crowd).map(|_| Receiver { place: 1, heard: heard() }).collect();
    let wayleave = contestant::ALL.iter().find(|one| one.kind == Kind::Wayleave).context("nobody to measure")?;
    let mut load = Load::open(Site::start(wayleave, 2, true).await?, members).await?;
    let message =
        |_| Message { place: 0, to: To::Room("bench:0".to_owned()), receivers: plan.crowd, sum: (0..plan.crowd).sum() };
    load.paced(TO_CROWD_PER_SECOND, PAYLOAD, Duration::from_millis(300), message).await?;
    let (mut rows, mut third) = (Vec::new(), String::new());
    for instances in [2, 3] {
        if instances > load.site.servers.len() {
            load.site.add().await?;
            // What a start brings with it is no idling.
            load.idle(Duration::from_secs(3)).await?;
        }
        let newest = instances - 1;
        let start = gateway::metrics(load.site.servers[newest].addr).await?;
        let idle = load.idle(plan.length).await?;
        let between = gateway::metrics(load.site.servers[newest].addr).await?;
        let run = load.paced(TO_CROWD_PER_SECOND, PAYLOAD, plan.length, message).await?;
        let end = gateway::metrics(load.site.servers[newest].addr).await?;
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
