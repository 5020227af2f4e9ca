//! Delivers the sampled drops that the XDP program writes with aya-log to the `log` crate, under the target `guard`.
//!
//! The program itself keeps the rate (`guard.log_per_second`); the ring of records belongs to the running daemon, so that a
//! restart does not read what was meant for its predecessor.
#![expect(unsafe_code, reason = "tokio watches a raw file descriptor")]

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::GuardError;

/// The stream of sampled drops.
pub struct DropLog {
    logger: EbpfLogger<Forward>,
}

impl DropLog {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<DropLog, GuardError> {
        let logger = EbpfLogger::init_with_logger(ebpf, Forward)
            .map_err(GuardError::kernel("opening the ring of log records"))?;
        Ok(DropLog { logger })
    }

    /// Logs sampled drops for as long as it is polled. Needs a tokio runtime with I/O, of any flavour.
    ///
    /// # Errors
    /// When the runtime cannot watch the ring.
    pub async fn run(self) -> io::Result<()> {
        // SAFETY: the logger owns the map's file descriptor, hands out the same one for as long as it lives, and never closes
        // it before; it lives in the `AsyncFd`.
        let ring = unsafe { AsyncFd::register_with_interest(self.logger, Interest::READABLE) };
        let mut ring = ring.map_err(|error| error.into_parts().1)?;
        loop {
            let mut ready = ring.readable_mut().await?;
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    }

    /// Logs what is in the ring now.
    pub fn flush(&mut self) {
        self.logger.flush();
    }
}

impl std::fmt::Debug for DropLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DropLog").finish_non_exhaustive()
    }
}

/// The logger that is installed when a record comes, not the one at the time the ring was opened.
struct Forward;

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && log::logger().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            log::logger().log(record);
        }
    }

    fn flush(&self) {
        log::logger().flush();
    }
}
