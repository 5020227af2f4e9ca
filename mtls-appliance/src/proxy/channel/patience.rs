//! How long a session is waited for, and how it can break.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use crate::ktls::session::KernelError;
use crate::proxy::pace::Pace;

/// How long to wait for the peer.
#[derive(Clone, Copy)]
pub enum Patience<'a> {
    /// This long for each advance.
    Stall(Duration),
    /// Until then, whatever happens.
    Until(Instant),
    /// As long as the peer keeps its pace.
    Pace(&'a Pace<'a>),
}

impl Patience<'_> {
    /// Until when to wait for a peer that last advanced at `advanced`.
    pub(super) fn deadline(self, advanced: Instant) -> Instant {
        match self {
            Self::Stall(duration) => advanced + duration,
            Self::Until(instant) => instant,
            Self::Pace(pace) => pace.deadline(advanced),
        }
    }

    /// Why a deadline has passed.
    pub(super) fn verdict(self) -> ChannelError {
        match self {
            Self::Stall(_) | Self::Until(_) => ChannelError::TimedOut,
            Self::Pace(pace) => pace.verdict(),
        }
    }
}

/// Why a session broke.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// FIN came without close_notify.
    #[error("the connection ended without close_notify")]
    Truncated,
    /// The peer stood still.
    #[error("the peer did not advance in time")]
    TimedOut,
    /// The peer advanced, but too slowly on average.
    #[error("the peer was too slow")]
    TooSlow,
    /// The kernel had no memory for what was to be sent.
    #[error("the kernel had no memory to send with (net.ipv4.tcp_mem)")]
    NoMemory,
    /// In the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// In userspace.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ChannelError {
    /// Stable name for counters and the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::TimedOut => "timed_out",
            Self::TooSlow => "too_slow",
            Self::NoMemory => "no_memory",
            Self::Kernel(KernelError::Record(error)) => error.reason(),
            Self::Kernel(KernelError::Alert(_)) | Self::Tls(rustls::Error::AlertReceived(_)) => "alert_received",
            Self::Kernel(KernelError::KeyUpdate(_)) => "key_update_not_possible",
            Self::Kernel(KernelError::KeyUsedUp) => "key_used_up",
            Self::Kernel(KernelError::Tls(_) | KernelError::Secrets(_)) => "tls_error",
            Self::Tls(error) => crate::tls::server::reason(error),
            Self::Io(error) | Self::Kernel(KernelError::Io(error)) => match error.kind() {
                io::ErrorKind::ConnectionReset => "reset",
                io::ErrorKind::BrokenPipe => "closed_by_peer",
                _ if error.raw_os_error() == Some(libc::EBADMSG) => "decrypt_error",
                _ => "io_error",
            },
        }
    }
}
