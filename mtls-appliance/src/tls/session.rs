//! The record layer in userspace, sans-IO: TLS bytes in, plaintext out, and the other way round.
//!
//! Wraps rustls's unbuffered connections, for clients and servers alike. It reads and writes no socket; that is done by
//! [`super::handshake`] until the session is up and by [`crate::proxy::channel`] afterwards.
//!
//! A session may be handed to the kernel right behind the handshake or at any later time ([`Session::ready_to_leave`]).
//! Three things must not stay behind here then. Bytes of the peer's records: the kernel begins at what the socket gives
//! next, so whoever reads for a session that is to leave takes only what completes the record at hand
//! ([`Session::missing`]). Bytes of ours: rustls has counted their records. And a key that the peer was not told of.
//! Plaintext may stay: [`Session::into_parts`] gives it out, and it comes before what the kernel decrypts.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{Error, ProtocolVersion, SupportedCipherSuite};

use super::records::Position;

/// One side of a TLS connection.
pub enum Connection {
    /// We are the server (towards a caller).
    Server(UnbufferedServerConnection),
    /// We are the client (towards the origin).
    Client(UnbufferedClientConnection),
}

/// What [`Session::advance`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The handshake needs more bytes from the peer.
    Blocked,
    /// The session is up and there is nothing more to do with the bytes at hand.
    Established,
    /// The peer said close_notify; everything it sent before has been delivered.
    PeerClosed,
}

/// A TLS session whose records are made here.
pub struct Session {
    connection: Connection,
    /// Bytes from the peer that rustls has not consumed yet.
    incoming: Vec<u8>,
    /// Where the bytes from the peer stand in its records.
    position: Position,
    /// Bytes for the peer that were not written yet.
    outgoing: Vec<u8>,
    /// Plaintext that nobody has taken yet.
    plain: Vec<u8>,
    plain_taken: usize,
    peer_closed: bool,
    /// What rustls found wrong: it must not see those bytes again.
    failed: Option<Error>,
    /// Records of application data, under all keys.
    records_sent: u64,
    server_name: Option<String>,
}

enum Step {
    Again,
    Done(Progress),
}

impl Session {
    /// A session at its very beginning.
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            incoming: Vec::new(),
            position: Position::default(),
            outgoing: Vec::new(),
            plain: Vec::new(),
            plain_taken: 0,
            peer_closed: false,
            failed: None,
            records_sent: 0,
            server_name: None,
        }
    }

    /// Feeds bytes from the peer and processes all complete records.
    ///
    /// Afterwards [`Self::outgoing`] may hold bytes for the peer (an alert, too, when this fails).
    ///
    /// # Errors
    /// What rustls found wrong with the peer.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress, Error> {
        self.position.pass(bytes);
        self.incoming.extend_from_slice(bytes);
        self.advance()
    }

    /// Processes what has been fed so far.
    ///
    /// # Errors
    /// As [`Self::feed`].
    pub fn advance(&mut self) -> Result<Progress, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        loop {
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::Done(progress)) => {
                    if progress == Progress::PeerClosed {
                        self.peer_closed = true;
                    }
                    let progress = if self.peer_closed { Progress::PeerClosed } else { progress };
                    if self.incoming.is_empty() {
                        self.incoming = Vec::new();
                    }
                    return Ok(progress);
                }
                Err(error) => {
                    // The bytes at hand must stay until then: rustls still points into them.
                    self.collect_alert();
                    self.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step, Error> {
        let Self { connection, incoming, outgoing, plain, server_name, .. } = self;
        let (discard, step) = match connection {
            Connection::Server(server) => {
                let settled = settle(server.process_tls_records(incoming), outgoing, plain);
                if let Some(name) = super::server::take_server_name() {
                    *server_name = Some(name);
                }
                settled
            }
            Connection::Client(client) => settle(client.process_tls_records(incoming), outgoing, plain),
        };
        incoming.drain(..discard);
        step
    }

    /// After an error rustls may still hold what it had to say before, and an alert behind it; it gives those out one by
    /// one before it looks at more input, which it must not see again.
    fn collect_alert(&mut self) {
        while self.wants_write() && matches!(self.step(), Ok(Step::Again)) {}
    }

    fn wants_write(&self) -> bool {
        match &self.connection {
            Connection::Server(connection) => connection.wants_write(),
            Connection::Client(connection) => connection.wants_write(),
        }
    }

    /// Encrypts `data` behind what is already outgoing.
    ///
    /// # Errors
    /// The session cannot send (any more).
    pub fn encrypt(&mut self, data: &[u8]) -> Result<(), Error> {
        // An answer to a KeyUpdate must go out before anything that is encrypted with the new key.
        self.advance()?;
        self.records_sent += data.len().div_ceil(16_384) as u64;
        self.write(Some(data))
    }

    /// Queues close_notify.
    ///
    /// # Errors
    /// The session cannot send (any more).
    pub fn close(&mut self) -> Result<(), Error> {
        self.advance()?;
        self.write(None)
    }

    fn write(&mut self, data: Option<&[u8]>) -> Result<(), Error> {
        // rustls looks at the bytes at hand again: the first part of a message that has not come wholly is in them.
        let Self { connection, incoming, outgoing, .. } = self;
        let (discard, written) = match connection {
            Connection::Server(server) => write(server.process_tls_records(incoming), outgoing, data),
            Connection::Client(client) => write(client.process_tls_records(incoming), outgoing, data),
        };
        incoming.drain(..discard);
        written
    }

    /// Bytes that are due to the peer.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// Forgets the first `n` outgoing bytes: they were written.
    pub fn written(&mut self, n: usize) {
        if n >= self.outgoing.len() {
            // Keeps the allocation of a busy session, gives back that of a burst.
            if self.outgoing.capacity() > 128 * 1024 {
                self.outgoing = Vec::new();
            } else {
                self.outgoing.clear();
            }
        } else {
            self.outgoing.drain(..n);
        }
    }

    /// Gives back the memory that an idle session does not need.
    pub fn trim(&mut self) {
        if self.outgoing.is_empty() {
            self.outgoing = Vec::new();
        }
        if self.pending() == 0 {
            self.plain = Vec::new();
            self.plain_taken = 0;
        }
    }

    /// Plaintext bytes that wait to be taken.
    pub fn pending(&self) -> usize {
        self.plain.len() - self.plain_taken
    }

    /// Moves plaintext into `into`; returns the number of bytes.
    pub fn take_plain(&mut self, into: &mut [u8]) -> usize {
        let n = self.pending().min(into.len());
        let end = self.plain_taken + n;
        into[..n].copy_from_slice(&self.plain[self.plain_taken..end]);
        self.plain_taken = end;
        if self.plain_taken == self.plain.len() {
            self.plain.clear();
            self.plain_taken = 0;
        }
        n
    }

    /// Whether the peer has said close_notify.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether the handshake is not complete yet.
    pub fn is_handshaking(&self) -> bool {
        match &self.connection {
            Connection::Server(connection) => connection.is_handshaking(),
            Connection::Client(connection) => connection.is_handshaking(),
        }
    }

    /// The name that the caller asked for (SNI).
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Bytes of an incomplete record, or of a message of which only the first records have come.
    pub fn undecrypted(&self) -> usize {
        self.incoming.len()
    }

    /// How many bytes the record at hand still needs, or its header; 0 between two records.
    pub fn missing(&self) -> usize {
        self.position.missing()
    }

    /// Records of application data that were made here.
    pub fn records_sent(&self) -> u64 {
        self.records_sent
    }

    /// Whether somebody else could go on from here: nothing of the peer's records is held that would be lost, and
    /// nothing of ours is due. Bytes that must go out first are [`Self::outgoing`] then.
    ///
    /// # Errors
    /// The session cannot send (any more).
    pub fn ready_to_leave(&mut self) -> Result<bool, Error> {
        if self.missing() > 0 || !self.incoming.is_empty() || !self.outgoing.is_empty() {
            return Ok(false);
        }
        self.announce_key()?;
        Ok(self.outgoing.is_empty())
    }

    /// Makes an answer to a KeyUpdate, which rustls keeps back for the next data, outgoing. It encrypts with the new key
    /// from then on, and the peer must not see that before it is told.
    fn announce_key(&mut self) -> Result<(), Error> {
        // To encrypt into no room at all: the announcement comes out of its place, and the byte stays where it is.
        match &mut self.connection {
            Connection::Server(server) => probe(server.process_tls_records(&mut self.incoming))?,
            Connection::Client(client) => probe(client.process_tls_records(&mut self.incoming))?,
        }
        self.advance().map(drop)
    }

    /// The connection's negotiated facts.
    pub fn facts(&self) -> Facts<'_> {
        let (suite, version, certificates) = match &self.connection {
            Connection::Server(c) => (c.negotiated_cipher_suite(), c.protocol_version(), c.peer_certificates()),
            Connection::Client(c) => (c.negotiated_cipher_suite(), c.protocol_version(), c.peer_certificates()),
        };
        Facts { suite, version, certificates: certificates.unwrap_or_default() }
    }

    /// Takes the session apart: the connection, and the plaintext that nobody has taken yet.
    pub fn into_parts(mut self) -> (Connection, Vec<u8>) {
        let plain = self.plain.split_off(self.plain_taken);
        (self.connection, plain)
    }
}

/// What a handshake has agreed on.
pub struct Facts<'a> {
    /// The cipher suite.
    pub suite: Option<SupportedCipherSuite>,
    /// The protocol version.
    pub version: Option<ProtocolVersion>,
    /// The peer's chain, leaf first; empty when it has shown none.
    pub certificates: &'a [rustls::pki_types::CertificateDer<'static>],
}

/// Gives access to `process_tls_records` results of both sides alike.
trait Side {}
impl Side for ServerConnectionData {}
impl Side for ClientConnectionData {}

fn settle<D: Side>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    plain: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { discard, state, .. } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => plain.extend_from_slice(record.payload),
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let start = outgoing.len();
            match data.encode(&mut []) {
                Err(EncodeError::InsufficientSize(needed)) => {
                    outgoing.resize(start + needed.required_size, 0);
                    match data.encode(&mut outgoing[start..]) {
                        Ok(n) => {
                            outgoing.truncate(start + n);
                            Ok(Step::Again)
                        }
                        Err(error) => Err(Error::General(error.to_string())),
                    }
                }
                Ok(_) => Ok(Step::Again),
                Err(error) => Err(Error::General(error.to_string())),
            }
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // `outgoing` keeps its order and is always written before anything that comes later.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Done(Progress::Blocked)),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done(Progress::Established)),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Done(Progress::PeerClosed)),
        // No early data is ever offered or accepted (`max_early_data_size` is 0).
        Ok(ConnectionState::ReadEarlyData(_)) => Err(Error::General("early data".into())),
        Ok(_) => Err(Error::General("unknown state".into())),
    };
    (discard, step)
}

fn write<D: Side>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Vec<u8>,
    data: Option<&[u8]>,
) -> (usize, Result<(), Error>) {
    let UnbufferedStatus { discard, state, .. } = status;
    let traffic = match state {
        Ok(ConnectionState::WriteTraffic(traffic)) => Ok(traffic),
        Ok(_) => Err(Error::General("the session cannot send".into())),
        Err(error) => Err(error),
    };
    (discard, traffic.and_then(|traffic| seal(traffic, outgoing, data)))
}

fn probe<D: Side>(status: UnbufferedStatus<'_, '_, D>) -> Result<(), Error> {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match traffic.encrypt(&[0], &mut []) {
            Err(EncryptError::InsufficientSize(_)) => Ok(()),
            Err(error) => Err(Error::General(error.to_string())),
            Ok(_) => Err(Error::General("a byte was encrypted into nothing".into())),
        },
        Ok(_) => Err(Error::General("the session cannot send".into())),
        Err(error) => Err(error),
    }
}

fn seal<D: Side>(mut traffic: WriteTraffic<'_, D>, outgoing: &mut Vec<u8>, data: Option<&[u8]>) -> Result<(), Error> {
    let start = outgoing.len();
    let mut room = match data {
        // Per 16 KiB record: header 5, content type 1, tag 16, and the explicit nonce 8 of TLS 1.2.
        Some(data) => data.len() + (data.len() / 16_384 + 1) * 30,
        None => 64,
    };
    loop {
        outgoing.resize(start + room, 0);
        let result = match data {
            Some(data) => traffic.encrypt(data, &mut outgoing[start..]),
            None => traffic.queue_close_notify(&mut outgoing[start..]),
        };
        match result {
            Ok(n) => {
                outgoing.truncate(start + n);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(needed)) if needed.required_size > room => room = needed.required_size,
            Err(error) => {
                outgoing.truncate(start);
                return Err(Error::General(error.to_string()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
