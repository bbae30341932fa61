//! What a message costs the gateway in a room of 1,000 Centrifuge clients, and
//! the bare writing of the same frame beside it.

mod support;

use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use support::args::{self, Options, Role};
use support::centrifuge::Client;
use support::gateway::Gateway;
use support::process::Process;
use support::room::{self, Figures, Plan, Source};
use support::tally::Tally;
use support::{client, floor, machine, table, wire};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

/// Bytes of a message's data.
const PAYLOAD: usize = 128;
const CHANNEL: &str = "bench:1";
const FLOORS: [&str; 3] = ["bare write", "bare write of 10", "raw tokio"];

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
    machine::raise_open_files(2000)?;
    println!("fanout: {}", machine::line());
    let plan = Plan::new(options);
    let (mut own, mut floors) = (Vec::new(), [const { Vec::new() }; FLOORS.len()]);
    let mut frame = 0;
    // Round by round and not row by row: a slow minute then hits all alike.
    for _ in 0..plan.rounds {
        let (figures, length) = gateway(&plan).await?;
        own.push(figures);
        frame = length;
        for (name, rounds) in FLOORS.iter().zip(&mut floors) {
            rounds.push(room::stand_in(name, wire::payload_of(frame), &plan).await?);
        }
    }
    let (clients, count) = (plan.clients, plan.rounds);
    println!("\n{clients} clients, {PAYLOAD} bytes of data, frames of {frame}, medians of {count} rounds");
    let [one, ten, _] = &floors;
    let own = ("wayleave", &own);
    let rows = FLOORS.into_iter().zip(&floors).chain([own]);
    let rows: Vec<_> = rows.map(|(way, rounds)| room::row(way, rounds, one, ten)).collect();
    table::print(&room::HEAD, &rows);
    Ok(())
}

/// The gateway's figures, and the bytes of the frame that a member gets.
async fn gateway(plan: &Plan) -> Result<(Figures, usize)> {
    let gateway = Gateway::start().await?;
    let readers = LocalSet::new();
    let measured = readers.run_until(loaded(&gateway, plan, &readers)).await;
    measured.with_context(|| format!("the gateway said:\n{}", gateway.log()))
}

async fn loaded(gateway: &Gateway, plan: &Plan, readers: &LocalSet) -> Result<(Figures, usize)> {
    let tally = Rc::new(Tally::new(plan.clients));
    for stream in client::open_all(gateway.addr, Gateway::WEBSOCKET, plan.clients).await? {
        let mut member = Client::new(stream);
        member.connect().await?;
        member.subscribe(CHANNEL).await?;
        readers.spawn_local(member.follow(Rc::clone(&tally)));
    }
    let stream = client::open_all(gateway.addr, Gateway::WEBSOCKET, 1).await?.pop();
    let mut publisher = Client::new(stream.context("no connection for the publisher")?);
    publisher.connect().await?;
    let (orders, receiver) = mpsc::channel(4);
    readers.spawn_local(publisher.publish(CHANNEL, PAYLOAD, receiver, Rc::clone(&tally)));
    let mut source = Publisher { process: &gateway.process, orders };
    let figures = room::measure(&mut source, &tally, plan).await?;
    Ok((figures, tally.frame.get()))
}

/// One client that publishes to the room.
struct Publisher<'a> {
    process: &'a Process,
    orders: mpsc::Sender<usize>,
}

impl Source for Publisher<'_> {
    fn process(&self) -> &Process {
        self.process
    }

    async fn send(&mut self, messages: usize) -> Result<()> {
        self.orders.send(messages).await.context("the publisher is gone")
    }
}
