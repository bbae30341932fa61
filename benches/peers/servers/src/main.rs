//! The servers that the gateway is measured beside, one by name:
//!
//!     peers NAME --port P [--redis PORT]
//!
//! It listens on 127.0.0.1 and ends when its standard input does.

mod args;
mod axum_ws;
mod listen;
mod raw;
mod socket_io;
mod wire;
mod write;

use std::future::Future;
use std::io;
use std::process::exit;
use std::thread;

use anyhow::{Result, bail};

use args::Args;

fn main() -> Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    rlimit::increase_nofile_limit(u64::MAX)?;
    // The bench holds the other end: no server outlives it.
    thread::spawn(|| {
        let ended = io::copy(&mut io::stdin(), &mut io::sink());
        exit(i32::from(ended.is_err()));
    });
    let listener = listen::on(args.port)?;
    match (args.name.as_str(), args.redis) {
        ("write", redis) => write::serve(listener, redis),
        ("socketioxide", redis) => run(socket_io::serve(listener, redis)),
        ("raw", None) => run(raw::serve(listener)),
        ("axum", None) => run(axum_ws::serve(listener)),
        (name @ ("raw" | "axum"), Some(_)) => bail!("{name} knows no Redis"),
        (name, _) => bail!("no server is called {name}, but write, raw, axum and socketioxide are"),
    }
}

/// On the runtime that a server would have: a worker for each core.
fn run(server: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(server)
}
