//! What the bench tells a stand-in server, one line each on its standard
//! input: `members`, answered by their count, and `send N`.

use std::io::BufRead as _;
use std::net::TcpListener;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Say how many members the room has.
    Members,
    /// Send so many messages to each member, as one burst.
    Send(usize),
}

/// Takes a free loopback port and tells the bench which.
pub(crate) fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}

/// Hands each order to `act`, until the bench closes the pipe.
pub(crate) fn follow(mut act: impl FnMut(Order) -> Result<()>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        act(match line.strip_prefix("send ") {
            Some(count) => Order::Send(count.parse()?),
            None => Order::Members,
        })?;
    }
    Ok(())
}

/// The same for a server on tokio: a thread of its own reads, and ends the
/// process with the pipe, so that no server outlives its bench.
pub(crate) fn channel() -> mpsc::Receiver<Order> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let read = follow(|order| sender.blocking_send(order).context("the publisher is gone"));
        std::process::exit(i32::from(read.is_err()));
    });
    receiver
}
