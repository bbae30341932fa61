//! What plugins log while they are tested: shown with the cases that fail.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// The lines since they were last taken.
#[derive(Debug, Clone, Default)]
pub(super) struct GuestLog(Arc<Mutex<Vec<u8>>>);

impl io::Write for GuestLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl GuestLog {
    /// Begins to listen, for as long as the process lives.
    pub(super) fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt::layer()
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        // Whoever listens already hears it instead.
        let _listening =
            tracing_subscriber::registry().with(EnvFilter::new("wayleave::guest=debug")).with(lines).try_init();
        log
    }

    pub(super) fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock());
        String::from_utf8_lossy(&bytes).lines().map(|line| line.trim().to_owned()).collect()
    }
}
