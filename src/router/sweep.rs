//! Gives back what time has made superfluous of what is kept in memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Router;
use crate::auth;

/// How often, and in how many times all rooms are looked at.
const PERIOD: Duration = Duration::from_secs(1);
const PART: usize = 60;

impl Router {
    /// Does so until the instance begins to end.
    pub async fn sweep(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = self.stop.cancelled() => return,
            }
            self.memory.sweep(PART, Instant::now());
            self.memory_records.sweep(Instant::now());
            self.service.sweep();
            self.revocations.lock().forget(auth::now());
        }
    }
}
