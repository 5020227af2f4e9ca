//! Delivers the sampled drops that the XDP program writes with aya-log to the `log` crate, under the target `guard`.
//!
//! The program itself keeps the rate (`guard.log_per_second`); the ring of records belongs to the running daemon, so that a
//! restart does not read what was meant for its predecessor.
#![expect(unsafe_code, reason = "tokio watches a raw file descriptor")]

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use mtls_appliance_common::{Action, Reason};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::GuardError;

/// The stream of sampled drops.
pub struct DropLog {
    logger: EbpfLogger<Forward>,
}

impl DropLog {
    /// Of the program at this interface, if it is at one.
    pub(super) fn take(ebpf: &mut Ebpf, interface: Option<&str>) -> Result<DropLog, GuardError> {
        let logger = EbpfLogger::init_with_logger(ebpf, Forward { interface: interface.map(str::to_owned) })
            .map_err(GuardError::kernel("opening the ring of log records"))?;
        Ok(DropLog { logger })
    }

    /// Logs sampled drops for as long as it is polled. Needs a tokio runtime with I/O, of any flavour, and best one for itself:
    /// while records come faster than they are logged it does not pause.
    ///
    /// # Errors
    /// When the runtime cannot watch the ring.
    pub async fn run(self) -> io::Result<()> {
        let all = |logger: &mut EbpfLogger<Forward>| {
            logger.flush();
            false
        };
        whenever_readable(self.logger, all).await
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

/// What owns the descriptor of a ring.
pub(super) trait Ring: AsRawFd {}
impl Ring for EbpfLogger<Forward> {}
impl Ring for RingBuf<MapData> {}

/// Has `read` read a ring whenever there is something in it; it says whether there may be more.
pub(super) async fn whenever_readable<T: Ring>(ring: T, mut read: impl FnMut(&mut T) -> bool) -> io::Result<()> {
    // SAFETY: each of the types that are a `Ring` owns the map's file descriptor, hands out the same one for as long as it
    // lives, and never closes it before; it lives in the `AsyncFd`.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    let mut ring = ring.map_err(|error| error.into_parts().1)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        if read(ready.get_inner_mut()) {
            drop(ready);
            tokio::task::yield_now().await;
        } else {
            ready.clear_ready();
        }
    }
}

/// What the program says in numbers: action, reason, source and its port, destination and its port.
fn in_words(numbers: &str) -> Option<String> {
    let mut numbers = numbers.split(' ');
    let mut next = || numbers.next();
    let (action, reason) = (next()?.parse::<usize>().ok()?, next()?.parse().ok()?);
    let action = match Action::ALL.get(action)? {
        Action::Observed => "would drop",
        action => action.name(),
    };
    let (source, source_port) = (next()?.parse::<Ipv6Addr>().ok()?.to_canonical(), next()?);
    let (destination, destination_port) = (next()?.parse::<Ipv6Addr>().ok()?.to_canonical(), next()?);
    let reason = Reason::from_index(reason).name();
    Some(match destination_port {
        "0" => format!("{action} a packet from {source} to {destination}: {reason}"),
        _ => format!("{action} {source} port {source_port} to {destination} port {destination_port}: {reason}"),
    })
}

/// The logger that is installed when a record comes, not the one at the time the ring was opened.
pub(super) struct Forward {
    interface: Option<String>,
}

impl Log for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && log::logger().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = record.args().to_string();
            let mut line = in_words(&text).unwrap_or(text);
            if let Some(interface) = &self.interface {
                line = format!("{interface}: {line}");
            }
            log::logger()
                .log(&Record::builder().metadata(record.metadata().clone()).args(format_args!("{line}")).build());
        }
    }

    fn flush(&self) {
        log::logger().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn numbers_become_words() {
        for (numbers, words) in [
            (
                "1 6 ::ffff:203.0.113.9 49152 ::ffff:192.0.2.1 443",
                "dropped 203.0.113.9 port 49152 to 192.0.2.1 port 443: unregistered_source",
            ),
            (
                "2 13 2001:db8::7 1 2001:db8::1 443",
                "would drop 2001:db8::7 port 1 to 2001:db8::1 port 443: source_over_budget",
            ),
            (
                "1 7 ::ffff:203.0.113.9 0 ::ffff:192.0.2.1 0",
                "dropped a packet from 203.0.113.9 to 192.0.2.1: short_tcp",
            ),
        ] {
            assert_eq!(in_words(numbers).as_deref(), Some(words));
        }
        for other in ["", "1", "9 6 ::1 1 ::1 1", "a text of another version"] {
            assert_eq!(in_words(other), None, "{other:?}");
        }
    }
}
