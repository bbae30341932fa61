//! A room of many clients under a paced and a saturated load.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::LocalSet;
use tokio::time::{interval, sleep};

use super::args::Options;
use super::process::Process;
use super::stand_in::StandIn;
use super::stats::median;
use super::table::figure;
use super::tally::Tally;
use super::{client, wire};

/// Messages that a saturated source hands over at once. Two bursts may be
/// under way, so that no bound of a queue is what is measured.
pub(crate) const BURST: usize = 64;

pub(crate) struct Plan {
    pub(crate) clients: usize,
    pub(crate) rounds: usize,
    paced_messages: usize,
    period: Duration,
    saturated: Duration,
}

impl Plan {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            clients: 1000,
            rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 3 }),
            paced_messages: if options.quick { 10 } else { 40 },
            period: Duration::from_millis(50),
            saturated: Duration::from_millis(if options.quick { 300 } else { 1000 }),
        }
    }
}

/// What makes the server send.
pub(crate) trait Source {
    fn process(&self) -> &Process;
    async fn send(&mut self, messages: usize) -> Result<()>;
}

impl Source for StandIn {
    fn process(&self) -> &Process {
        &self.process
    }

    async fn send(&mut self, messages: usize) -> Result<()> {
        StandIn::send(self, messages)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Server CPU a delivery, microseconds.
    pub(crate) paced: f64,
    pub(crate) saturated: f64,
    pub(crate) per_second: f64,
    /// From the order to the client's read under the paced load, milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// The columns of a table of rooms.
pub(crate) const HEAD: [&str; 8] =
    ["way", "20/s us", "x bare", "p50 ms", "p99 ms", "full us", "x bare of 10", "1000/s"];

/// A row: each figure's median over the rounds, and the medians of its ratios
/// to the bare write of one frame and of ten, taken round by round.
pub(crate) fn row(way: &str, rounds: &[Figures], one: &[Figures], ten: &[Figures]) -> Vec<String> {
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure));
    let ratio = |floor: &[Figures], cost: fn(&Figures) -> f64| {
        median(rounds.iter().zip(floor).map(|(own, floor)| cost(own) / cost(floor)))
    };
    vec![
        way.to_owned(),
        figure(of(|f| f.paced), 2),
        figure(ratio(one, |f| f.paced), 2),
        figure(of(|f| f.p50), 1),
        figure(of(|f| f.p99), 1),
        figure(of(|f| f.saturated), 2),
        figure(ratio(ten, |f| f.saturated), 2),
        figure(of(|f| f.per_second) / 1000.0, 0),
    ]
}

/// Starts the stand-in of that name, fills its room and measures it.
pub(crate) async fn stand_in(name: &str, payload: usize, plan: &Plan) -> Result<Figures> {
    let mut server = StandIn::start(name, payload).await?;
    let streams = client::open_all(server.addr, "/", plan.clients).await?;
    server.wait_for_members(plan.clients).await?;
    let tally = Rc::new(Tally::new(plan.clients));
    let frame = wire::server_frame(&vec![0; payload]).len();
    let readers = LocalSet::new();
    for stream in streams {
        readers.spawn_local(client::count_frames(stream, frame, Rc::clone(&tally)));
    }
    readers.run_until(measure(&mut server, &tally, plan)).await
}

pub(crate) async fn measure(source: &mut impl Source, tally: &Tally, plan: &Plan) -> Result<Figures> {
    let mut messages = 3;
    for _ in 0..messages {
        tally.sending();
        source.send(1).await?;
    }
    tally.wait(messages).await?;
    tally.times.borrow_mut().clear();

    let mut ticks = interval(plan.period);
    let before = source.process().cpu()?;
    for _ in 0..plan.paced_messages {
        ticks.tick().await;
        tally.sending();
        source.send(1).await?;
    }
    messages += plan.paced_messages;
    tally.wait(messages).await?;
    settle().await;
    let after = source.process().cpu()?;
    let each = |used: Duration, messages| used.as_secs_f64() * 1e6 / (messages * tally.clients) as f64;
    let paced = each(after.since(&before), plan.paced_messages);

    let started = Instant::now();
    let mut burst_messages = 0;
    while started.elapsed() < plan.saturated {
        source.send(BURST).await?;
        tally.wait(messages + burst_messages).await?;
        burst_messages += BURST;
    }
    tally.wait(messages + burst_messages).await?;
    let took = started.elapsed();
    settle().await;
    let saturated = each(source.process().cpu()?.since(&after), burst_messages);
    let times = tally.times.borrow();
    Ok(Figures {
        paced,
        saturated,
        per_second: (burst_messages * tally.clients) as f64 / took.as_secs_f64(),
        p50: times.quantile(0.5),
        p99: times.quantile(0.99),
    })
}

/// Lets a server finish what it does after its last write, and the kernel
/// account for it.
async fn settle() {
    sleep(Duration::from_millis(20)).await;
}
