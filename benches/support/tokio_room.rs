//! A room of tasks: each member has a bounded queue, one publisher fills all.

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::orders::{self, Order};

/// Messages that wait for one connection at most; then the publisher waits.
const QUEUE: usize = 256;

pub(crate) struct Room<M> {
    members: Mutex<Vec<mpsc::Sender<M>>>,
}

impl<M: Clone> Room<M> {
    pub(crate) fn join(&self) -> mpsc::Receiver<M> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.members.lock().push(sender);
        receiver
    }

    fn members(&self) -> Vec<mpsc::Sender<M>> {
        self.members.lock().clone()
    }
}

/// The runtime that a server would have: a worker for each core.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}

/// Accepts by `accept`, and sends `message` to all members when ordered.
pub(crate) fn serve<M, F>(message: M, accept: impl FnOnce(TcpListener, Arc<Room<M>>) -> F) -> Result<()>
where
    M: Clone + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let listener = orders::listen()?;
    listener.set_nonblocking(true)?;
    runtime()?.block_on(async {
        let room = Arc::new(Room { members: Mutex::default() });
        tokio::spawn(accept(TcpListener::from_std(listener)?, Arc::clone(&room)));
        // A worker's task like any handler of a message, not the main thread.
        tokio::spawn(publish(room, message)).await?
    })
}

async fn publish<M: Clone>(room: Arc<Room<M>>, message: M) -> Result<()> {
    let mut orders = orders::channel();
    while let Some(order) = orders.recv().await {
        let members = room.members();
        match order {
            Order::Members => println!("{}", members.len()),
            Order::Send(messages) => {
                for _ in 0..messages {
                    deliver(&members, &message).await;
                }
            }
        }
    }
    Ok(())
}

async fn deliver<M: Clone>(members: &[mpsc::Sender<M>], message: &M) {
    for member in members {
        if let Err(TrySendError::Full(message)) = member.try_send(message.clone()) {
            // A closed connection shows in the client's count.
            let _ = member.send(message).await;
        }
    }
}
