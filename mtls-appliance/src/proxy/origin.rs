//! Connections to an origin's address: TCP, mutual TLS, hand-over. Which address, and who may use them again, is decided
//! by [`super::upstream`] and [`super::pool`].

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::channel::{Channel, Patience};
use super::socket;
use super::upstream::Upstream;
use crate::app::{Live, Shared};
use crate::config::OffloadMode;
use crate::ktls::session::{KernelError, KeyLimit};
use crate::ktls::{KernelSession, NotOffloaded};
use crate::telemetry::Level;
use crate::tls::handshake::{self, HandshakeError};
use crate::tls::session::{Connection, Session};

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

/// Opens a connection to an address of an origin and completes mutual TLS.
pub(super) async fn connect(
    shared: &Shared,
    live: &Live,
    upstream: &Upstream,
    address: SocketAddr,
) -> Result<Channel, ConnectError> {
    let attempt = async {
        let tcp = TcpStream::connect(address).await.map_err(ConnectError::Tcp)?;
        socket::prepare(&tcp, &live.config.limits);
        let connection = UnbufferedClientConnection::new(Arc::clone(&upstream.tls), upstream.server_name.clone())
            .map_err(HandshakeError::Tls)?;
        let mut session = Session::new(Connection::Client(connection));
        handshake::run(&tcp, &mut session, hands_over_at_once(shared, live)).await?;
        establish(shared, live, tcp, session)
    };
    timeout(upstream.config.connect_timeout, attempt).await.map_err(|_| ConnectError::TimedOut)?
}

/// Whether sessions are handed over right behind the handshake.
pub(super) fn hands_over_at_once(shared: &Shared, live: &Live) -> bool {
    let config = &live.config;
    config.offload != OffloadMode::Off && config.hand_over_from == 0 && shared.support.missing.is_none()
}

/// Hands an established session to the kernel, now or when a body is worth it, or keeps it here with the reason.
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
    let at_once = hands_over_at_once(shared, live);
    let taken = taken.and_then(|()| match session.undecrypted() {
        _ if !at_once => Ok(()),
        0 => Ok(()),
        n => Err(NotOffloaded::HandOver(format!("{n} bytes of an incomplete record were read already"))),
    });
    let taken = taken
        .and_then(|()| KernelSession::prepare(tcp.as_fd()).map_err(|error| NotOffloaded::HandOver(error.to_string())));
    let limit = KeyLimit { records: live.config.limits.records_per_key, renewable: shared.support.renews_keys };
    let counters = Arc::clone(&shared.counters);
    match taken {
        Ok(()) if !at_once => Ok(Channel::user_at_first(tcp, session, limit, counters)),
        Ok(()) => Ok(Channel::kernel(tcp, session, limit, counters)?),
        Err(why) if live.config.offload == OffloadMode::Required => Err(ConnectError::NotOffloaded(why)),
        Err(why) => Ok(Channel::user(tcp, session, why, counters)),
    }
}

/// Logs a failed attempt; the exchange's own log line names only the reason.
pub(super) fn log_failure(shared: &Shared, upstream: &Upstream, address: SocketAddr, error: &ConnectError) {
    shared.counters.refuse("origin_failed", error.reason());
    shared.log.event(
        Level::Error,
        "origin_failed",
        serde_json::json!({
            "origin": upstream.config.name,
            "address": address.to_string(),
            "reason": error.reason(),
            "detail": error.to_string(),
        }),
    );
}

/// Reads and waits with the patience for a whole response head.
pub(super) fn response_patience(deadline: Option<Instant>) -> Patience<'static> {
    // Without a deadline the client's upload, which has its own, is what is being waited for.
    Patience::Until(deadline.unwrap_or_else(|| Instant::now() + std::time::Duration::from_secs(86_400)))
}
