//! Writing to several nodes: order holds within a slot and nowhere else, so a
//! node that stands still holds up what lies on it, and nothing besides.

use std::collections::{HashMap, VecDeque};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{RedisError, cluster_routing::Slot};
use tokio_util::sync::CancellationToken;

use super::{
    link::Link,
    pipeline::{Answers, BATCH, Done, Queue, Write, carry_out},
};

/// What goes to one slot.
#[derive(Default)]
struct Lane {
    /// Who waits for what is under way.
    waiters: Vec<Done>,
    /// What comes behind that.
    queue: VecDeque<Write>,
}

impl Queue {
    /// Like [`run`](Self::run), in a cluster.
    ///
    /// # Errors
    /// The connection's.
    pub(super) async fn run_apart(
        &mut self,
        link: &Link,
        lost: &CancellationToken,
        stop: &CancellationToken,
    ) -> Result<(), RedisError> {
        let mut lanes: HashMap<Slot, Lane> = HashMap::new();
        let mut under_way = FuturesUnordered::new();
        let end = loop {
            let n = self.held.len().min(BATCH);
            self.batch.extend(self.held.drain(..n));
            let is_ended = tokio::select! {
                biased;
                () = lost.cancelled() => break Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
                () = std::future::ready(()), if n > 0 => false,
                Some((slot, answers)) = under_way.next() => {
                    let waiters = lanes.get_mut(&slot).map(|lane| std::mem::take(&mut lane.waiters)).unwrap_or_default();
                    if let Err(error) = self.answer(waiters, answers) {
                        break Err(error);
                    }
                    under_way.extend(self.next_of(link, &mut lanes, slot));
                    continue;
                }
                n = self.writes.recv_many(&mut self.batch, BATCH) => n == 0,
                () = stop.cancelled(), if under_way.is_empty() => true,
            };
            if is_ended && under_way.is_empty() {
                break Ok(());
            }
            let mut idle = Vec::new();
            for write in self.batch.drain(..) {
                let slot = Slot::for_key(&write.key);
                let lane = lanes.entry(slot).or_insert_with(|| {
                    idle.push(slot);
                    Lane::default()
                });
                lane.queue.push_back(write);
            }
            for slot in idle {
                under_way.extend(self.next_of(link, &mut lanes, slot));
            }
            if is_ended && let Some((slot, answers)) = under_way.next().await {
                let waiters = lanes.get_mut(&slot).map(|lane| std::mem::take(&mut lane.waiters)).unwrap_or_default();
                if let Err(error) = self.answer(waiters, answers) {
                    break Err(error);
                }
                under_way.extend(self.next_of(link, &mut lanes, slot));
            }
        };
        for lane in lanes.into_values() {
            self.unknown(lane.waiters);
            self.held.extend(lane.queue);
        }
        end
    }

    /// Sends what waits for a slot, or forgets the slot.
    fn next_of(
        &self,
        link: &Link,
        lanes: &mut HashMap<Slot, Lane>,
        slot: Slot,
    ) -> Option<impl Future<Output = (Slot, Answers)> + use<>> {
        let mut commands = Vec::new();
        let lane = lanes.get_mut(&slot)?;
        while commands.is_empty() && !lane.queue.is_empty() {
            let n = lane.queue.len().min(BATCH);
            (commands, lane.waiters) = self.fresh(lane.queue.drain(..n));
        }
        if commands.is_empty() {
            lanes.remove(&slot);
            return None;
        }
        let mut link = link.clone();
        Some(async move { (slot, carry_out(&mut link, commands).await) })
    }
}
