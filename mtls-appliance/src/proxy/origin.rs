//! Connections to the origin: opening them, and keeping idle ones for the client identity they were opened for.
//!
//! An origin connection serves one client identity only, so that no confusion about where a message ends can ever hand
//! one client's answer to another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::buffer::Buffer;
use super::channel::{Channel, Patience};
use crate::app::{Live, Shared};
use crate::config::OffloadMode;
use crate::ktls::session::KernelError;
use crate::ktls::{KernelSession, NotOffloaded};
use crate::telemetry::Level;
use crate::tls::handshake::{self, HandshakeError};
use crate::tls::session::{Connection, Session};

/// How long an orderly close of an origin connection may take.
const CLOSE: std::time::Duration = std::time::Duration::from_secs(2);

/// What an origin connection is bound to: the fingerprint of the client's certificate, and the configuration it was
/// opened under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    /// SHA-256 of the client's certificate.
    pub(super) fingerprint: [u8; 32],
    /// [`Live::generation`].
    pub(super) generation: u64,
}

/// A connection to the origin.
pub(super) struct Link {
    pub(super) channel: Channel,
    pub(super) buffer: Buffer,
    owner: Owner,
    /// It has served a request before.
    pub(super) reused: bool,
    idle_since: Instant,
}

/// Why no connection to the origin could be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("cannot connect: {0}")]
    Tcp(std::io::Error),
    #[error("TLS handshake: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("hand-over to the kernel: {0}")]
    HandOver(#[from] KernelError),
    #[error("offload.mode is \"required\" and {0}")]
    NotOffloaded(NotOffloaded),
    #[error("no connection in time")]
    TimedOut,
}

impl ConnectError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Tcp(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => "connection_refused",
            Self::Tcp(_) => "unreachable",
            Self::Handshake(HandshakeError::Tls(error)) => crate::tls::server::reason(error),
            Self::Handshake(HandshakeError::Closed) => "closed_during_handshake",
            Self::Handshake(HandshakeError::TooLong) => "handshake_too_long",
            Self::Handshake(HandshakeError::Io(_)) => "io_error",
            Self::HandOver(_) => "hand_over_failed",
            Self::NotOffloaded(_) => "not_offloaded",
            Self::TimedOut => "connect_timed_out",
        }
    }
}

/// The idle origin connections of one worker.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<Owner, Vec<Link>>>,
}

impl Pool {
    /// Takes an idle connection of this owner that is still usable.
    pub(super) fn take(&self, owner: Owner) -> Option<Link> {
        loop {
            let mut link = {
                let mut idle = self.idle.borrow_mut();
                let links = idle.get_mut(&owner)?;
                let link = links.pop();
                if links.is_empty() {
                    idle.remove(&owner);
                }
                link?
            };
            // Tickets are consumed here; close_notify, FIN, an alert or bytes that nobody asked for end its use.
            if matches!(link.channel.try_read(&mut link.buffer), Ok(None)) {
                link.reused = true;
                return Some(link);
            }
            close(link);
        }
    }

    /// Keeps a connection whose last exchange ended cleanly.
    pub(super) fn put(&self, mut link: Link, limit: usize) {
        link.idle_since = Instant::now();
        let mut idle = self.idle.borrow_mut();
        let links = idle.entry(link.owner).or_default();
        links.push(link);
        let surplus = (links.len() > limit).then(|| links.remove(0));
        if links.is_empty() {
            // `limit` is 0.
            idle.retain(|_, links| !links.is_empty());
        }
        drop(idle);
        if let Some(link) = surplus {
            close(link);
        }
    }

    /// Closes what has been idle too long or belongs to an older configuration.
    pub(super) fn sweep(&self, live: &Live) {
        let mut expired = Vec::new();
        let now = Instant::now();
        self.idle.borrow_mut().retain(|owner, links| {
            let all = owner.generation != live.generation;
            let mut kept = Vec::with_capacity(links.len());
            for link in links.drain(..) {
                if all || now.duration_since(link.idle_since) > live.config.timeouts.origin_idle {
                    expired.push(link);
                } else {
                    kept.push(link);
                }
            }
            *links = kept;
            !links.is_empty()
        });
        expired.into_iter().for_each(close);
    }

    /// Closes everything.
    pub(super) fn clear(&self) {
        let links: Vec<Link> = self.idle.borrow_mut().drain().flat_map(|(_, links)| links).collect();
        links.into_iter().for_each(close);
    }
}

fn close(link: Link) {
    tokio::task::spawn_local(link.channel.close(Instant::now() + CLOSE));
}

/// Opens a connection to the origin and completes mutual TLS.
pub(super) async fn connect(shared: &Shared, live: &Arc<Live>, owner: Owner) -> Result<Link, ConnectError> {
    let attempt = async {
        let tcp = TcpStream::connect(live.config.origin.address).await.map_err(ConnectError::Tcp)?;
        // A failure costs latency, nothing else.
        let _ = tcp.set_nodelay(true);
        let connection = UnbufferedClientConnection::new(Arc::clone(&live.origin_tls), live.origin_name.clone())
            .map_err(HandshakeError::Tls)?;
        let mut session = Session::new(Connection::Client(connection));
        let exact = live.config.offload != OffloadMode::Off && shared.support.missing.is_none();
        handshake::run(&tcp, &mut session, exact).await?;
        establish(shared, live, tcp, session)
    };
    let channel = timeout(live.config.timeouts.connect, attempt).await.map_err(|_| ConnectError::TimedOut)??;
    shared.counters.origin_connections.increment();
    if channel.is_kernel() {
        shared.counters.origin_sessions_offloaded.increment();
    } else {
        shared.counters.origin_sessions_userspace.increment();
    }
    let buffer = Buffer::new(live.buffer_size());
    Ok(Link { channel, buffer, owner, reused: false, idle_since: Instant::now() })
}

/// Hands an established session to the kernel, or keeps it here with the reason.
pub(super) fn establish(
    shared: &Shared,
    live: &Live,
    tcp: TcpStream,
    session: Session,
) -> Result<Channel, ConnectError> {
    let taken = match (live.config.offload, session.facts().suite) {
        (OffloadMode::Off, _) => Err(NotOffloaded::Disabled),
        (_, None) => Err(NotOffloaded::HandOver("no cipher suite was negotiated".into())),
        (_, Some(suite)) => shared.support.takes(suite),
    };
    let taken = taken.and_then(|()| match session.undecrypted() {
        0 => Ok(()),
        n => Err(NotOffloaded::HandOver(format!("{n} bytes of an incomplete record were read already"))),
    });
    let taken = taken
        .and_then(|()| KernelSession::prepare(tcp.as_fd()).map_err(|error| NotOffloaded::HandOver(error.to_string())));
    match taken {
        Ok(()) => {
            let (kernel, early) = KernelSession::hand_over(tcp.as_fd(), session)?;
            Ok(Channel::kernel(tcp, kernel, early, Arc::clone(&shared.counters)))
        }
        Err(why) if live.config.offload == OffloadMode::Required => Err(ConnectError::NotOffloaded(why)),
        Err(why) => Ok(Channel::user(tcp, session, why, Arc::clone(&shared.counters))),
    }
}

/// Logs a failed attempt; the exchange's own log line names only the reason.
pub(super) fn log_failure(shared: &Shared, live: &Live, error: &ConnectError) {
    shared.counters.refuse("origin_failed", error.reason());
    shared.log.event(
        Level::Error,
        "origin_failed",
        serde_json::json!({
            "origin": live.config.origin.address.to_string(),
            "reason": error.reason(),
            "detail": error.to_string(),
        }),
    );
}

/// Reads and waits with the patience for a whole response head.
pub(super) fn response_patience(deadline: Option<Instant>) -> Patience {
    // Without a deadline the client's upload, which has its own, is what is being waited for.
    Patience::Until(deadline.unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(86_400)))
}

/// Shared by the tasks of one worker.
pub(super) type SharedPool = Rc<Pool>;
