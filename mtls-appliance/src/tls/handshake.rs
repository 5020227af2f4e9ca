//! Drives a handshake over a socket, and leaves the socket at a record boundary when the kernel shall take over.
//!
//! Deadlines are the caller's: wrap [`run`] in a timeout.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::records::{MAX_RECORD, complete_records, first_record};
use super::session::{Progress, Session};

/// Bytes a peer may send before its handshake is complete: a generous chain, several times over.
const MAX_HANDSHAKE_BYTES: usize = 128 * 1024;

/// Why a handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// rustls refused the peer.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The peer closed the connection.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// The peer sent more than any handshake needs.
    #[error("the peer sent more than {MAX_HANDSHAKE_BYTES} bytes during the handshake")]
    TooLong,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs the handshake of `session` over `tcp`.
///
/// With `exact` no record beyond the handshake is taken from the socket, so that the kernel can take over right there:
/// application data that the peer sent along stays for it, and so does a KeyUpdate, which changes the keys that are
/// handed over.
///
/// # Errors
/// See [`HandshakeError`]. An alert for the peer has been written where TLS has one.
pub async fn run(tcp: &TcpStream, session: &mut Session, exact: bool) -> Result<(), HandshakeError> {
    let mut buffer = vec![0u8; MAX_RECORD];
    let mut received = 0usize;
    let mut progress = session.advance();
    loop {
        flush(tcp, session).await?;
        match progress? {
            Progress::Established => return Ok(()),
            Progress::PeerClosed if session.is_handshaking() => return Err(HandshakeError::Closed),
            // All it has to say came along with the end of the handshake; what it asked for is still due.
            Progress::PeerClosed => return Ok(()),
            Progress::Blocked => {}
        }
        let taken;
        if exact {
            let whole = peek_records(tcp, &mut buffer).await?;
            (taken, progress) = feed_records(session, &buffer[..whole]);
            recv(tcp, &mut buffer[..taken], RecvFlags::DONTWAIT).map_err(io::Error::from)?;
        } else {
            taken = read_some(tcp, &mut buffer).await?;
            progress = session.feed(&buffer[..taken]);
        }
        if taken == 0 {
            return Err(HandshakeError::Closed);
        }
        received += taken;
        if received > MAX_HANDSHAKE_BYTES {
            return Err(HandshakeError::TooLong);
        }
    }
}

/// Feeds record by record until the handshake is complete; returns how many bytes that took.
fn feed_records(session: &mut Session, records: &[u8]) -> (usize, Result<Progress, rustls::Error>) {
    let mut taken = 0;
    let mut progress = Ok(Progress::Blocked);
    while taken < records.len() && matches!(progress, Ok(Progress::Blocked)) {
        let end = taken + first_record(&records[taken..]);
        progress = session.feed(&records[taken..end]);
        taken = end;
    }
    (taken, progress)
}

async fn flush(tcp: &TcpStream, session: &mut Session) -> io::Result<()> {
    while !session.outgoing().is_empty() {
        match tcp.try_write(session.outgoing()) {
            Ok(n) => session.written(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn read_some(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match tcp.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tcp.readable().await?,
            other => return other,
        }
    }
}

/// Looks at what has come without taking it, until there is a whole record; returns the length of all whole ones, 0 at
/// the end of the stream.
async fn peek_records(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let ready = tcp.ready(Interest::READABLE).await?;
        let seen = tcp.try_io(Interest::READABLE, || {
            let (_, n) = recv(tcp, &mut *buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            match complete_records(&buffer[..n]) {
                // Not enough yet: report "would block", so that the next wait is for new bytes, not for these.
                0 if n != 0 && !ready.is_read_closed() => Err(io::ErrorKind::WouldBlock.into()),
                whole => Ok(whole),
            }
        });
        match seen {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}
