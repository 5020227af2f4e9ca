//! A session in the kernel: the hand-over, reading and writing records, renewing keys, closing.
//!
//! All calls are non-blocking and report `WouldBlock`; waiting is [`crate::proxy::channel`]'s job.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use ktls::CryptoInfo;
use rustls::client::ClientConnectionData;
use rustls::crypto::aws_lc_rs;
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets, SupportedCipherSuite};

use super::record::{self, Control, ControlReader, Expected, RecordError};
use super::sys::{self, Direction};
use crate::tls::session::{Connection, Session};

/// How long a sending key is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyLimit {
    /// Records after which it is renewed, or the session retired; after twice as many nothing is sent any more.
    pub records: u64,
    /// Whether this kernel renews keys ([`super::Support::renews_keys`]).
    pub renewable: bool,
}

impl KeyLimit {
    /// The most that may be configured. AES-GCM's limit is about 2^24.5 full records (RFC 8446 5.5), which twice this does
    /// not reach, and there is room for counting a body by its bytes.
    pub const MOST: u64 = 1 << 23;
}

/// Keys a peer may make us renew within one connection; each costs a system call and key derivation.
const MAX_KEY_UPDATES: u32 = 4_096;

/// Why the kernel part of a connection ended, or could not begin.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A control record that must not be there.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The peer gave up with an alert.
    #[error("the peer sent alert {0}")]
    Alert(u8),
    /// The peer changed its key and this kernel cannot follow (before 6.14).
    #[error("the peer renewed its key and this kernel cannot: {0}")]
    KeyUpdate(io::Error),
    /// So much was sent under one key that nothing more may be, and it cannot be renewed.
    #[error("the key is used up")]
    KeyUsedUp,
    /// rustls gave no secrets.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The secrets do not fit the kernel.
    #[error("{0}")]
    Secrets(String),
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Application bytes.
    Data(usize),
    /// A control record was dealt with; read again.
    Control,
    /// The peer said close_notify.
    CloseNotify,
    /// FIN without close_notify: what came before may have been cut off.
    Fin,
}

enum Keys {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

impl Keys {
    fn next(&mut self, direction: Direction) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match (self, direction) {
            (Self::Server(keys), Direction::Transmit) => keys.update_tx_secret(),
            (Self::Server(keys), Direction::Receive) => keys.update_rx_secret(),
            (Self::Client(keys), Direction::Transmit) => keys.update_tx_secret(),
            (Self::Client(keys), Direction::Receive) => keys.update_rx_secret(),
        }
    }
}

/// What remains in userspace of a session whose records are made by the kernel.
pub struct KernelSession {
    keys: Keys,
    suite: SupportedCipherSuite,
    control: ControlReader,
    tls13: bool,
    /// A KeyUpdate that we owe the peer; sent before the next data.
    owes_key_update: bool,
    /// We have said close_notify: nothing may follow it, and no answer to a KeyUpdate either.
    silent: bool,
    limit: KeyLimit,
    key_updates: u32,
    records_sent: u64,
    control_records: u64,
    keys_renewed: u64,
}

impl KernelSession {
    /// Makes the socket ready for a hand-over. No key is set yet, so whatever this says, the session can still go on in
    /// userspace.
    ///
    /// # Errors
    /// The kernel has no TLS, or the connection is not fully open any more: it takes over sockets in the state
    /// ESTABLISHED only, which a peer that has already sent its FIN has left.
    pub fn prepare(socket: BorrowedFd<'_>) -> io::Result<()> {
        sys::enable(socket)
    }

    /// Hands an established session to the kernel; returns it and the plaintext that nobody has taken yet.
    ///
    /// The socket must stand between two records, both ways ([`Session::ready_to_leave`]).
    ///
    /// Everything that can be checked is checked by the caller beforehand ([`super::Support::takes`],
    /// [`Self::prepare`]); once this has begun there is no way back to userspace.
    ///
    /// # Errors
    /// The socket must then be closed.
    pub fn hand_over(
        socket: BorrowedFd<'_>,
        session: Session,
        limit: KeyLimit,
    ) -> Result<(Self, Vec<u8>), KernelError> {
        let (connection, plain) = session.into_parts();
        let (secrets, keys, peer_is_server) = match connection {
            Connection::Server(server) => {
                let (secrets, keys) = server.dangerous_into_kernel_connection()?;
                (secrets, Keys::Server(keys), false)
            }
            Connection::Client(client) => {
                let (secrets, keys) = client.dangerous_into_kernel_connection()?;
                (secrets, Keys::Client(keys), true)
            }
        };
        let suite = match &keys {
            Keys::Server(keys) => keys.negotiated_cipher_suite(),
            Keys::Client(keys) => keys.negotiated_cipher_suite(),
        };
        let ExtractedSecrets { tx, rx } = secrets;
        // In TLS 1.3 the number of records sent under the present key, which the kernel's count goes on from.
        let records_sent = tx.0;
        install(socket, suite, Direction::Transmit, tx)?;
        install(socket, suite, Direction::Receive, rx)?;
        let tls13 = matches!(suite, SupportedCipherSuite::Tls13(_));
        let session = Self {
            keys,
            suite,
            control: ControlReader::new(Expected { tls13, peer_is_server }),
            tls13,
            owes_key_update: false,
            silent: false,
            limit,
            key_updates: 0,
            records_sent,
            control_records: 0,
            keys_renewed: 0,
        };
        Ok((session, plain))
    }

    /// Reads application data into `buffer`, or deals with one control record.
    ///
    /// # Errors
    /// `Io(WouldBlock)` when nothing is there.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, KernelError> {
        let (n, kind) = sys::receive(socket, buffer)?;
        match kind {
            None if n == 0 => Ok(Received::Fin),
            Some(record::APPLICATION_DATA) if n == 0 => {
                self.control.empty()?;
                Ok(Received::Control)
            }
            None | Some(record::APPLICATION_DATA) => {
                self.control.data()?;
                Ok(Received::Data(n))
            }
            Some(kind) => self.control_record(socket, kind, &buffer[..n]),
        }
    }

    /// Application data was taken from the socket by splice.
    ///
    /// # Errors
    /// It must not come here, see [`ControlReader::data`].
    pub fn spliced(&mut self) -> Result<(), KernelError> {
        Ok(self.control.data()?)
    }

    fn control_record(&mut self, socket: BorrowedFd<'_>, kind: u8, payload: &[u8]) -> Result<Received, KernelError> {
        let mut received = Received::Control;
        self.control_records += 1;
        let Self { keys, suite, control, owes_key_update, silent, key_updates, keys_renewed, .. } = self;
        control.read(kind, payload, |message| match message {
            Control::Ignored => Ok(()),
            Control::CloseNotify => {
                received = Received::CloseNotify;
                Ok(())
            }
            Control::FatalAlert(description) => Err(KernelError::Alert(description)),
            Control::KeyUpdate { requested } => {
                *key_updates += 1;
                if *key_updates > MAX_KEY_UPDATES {
                    return Err(RecordError::Flood.into());
                }
                let secret = keys.next(Direction::Receive)?;
                install(socket, *suite, Direction::Receive, secret).map_err(|error| match error {
                    KernelError::Io(error) => KernelError::KeyUpdate(error),
                    other => other,
                })?;
                *keys_renewed += 1;
                *owes_key_update |= requested && !*silent;
                Ok(())
            }
        })?;
        if self.owes_key_update {
            match self.renew_sending_key(socket) {
                // Sent before the next data instead.
                Err(KernelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => other?,
            }
        }
        Ok(received)
    }

    /// Must be called before sending: sends a KeyUpdate that is due, ours or the answer to the peer's.
    ///
    /// # Errors
    /// `Io(WouldBlock)` when the socket takes nothing now.
    pub fn before_send(&mut self, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        if self.owes_key_update || (self.rekey_due() && self.renewable()) {
            return self.renew_sending_key(socket);
        }
        // Only a body longer than any should be, or a tunnel between two looks at it, comes so far.
        if self.records_sent >= 2 * self.limit.records {
            return Err(KernelError::KeyUsedUp);
        }
        Ok(())
    }

    /// Counts `bytes` handed to the kernel in one call.
    pub fn sent(&mut self, bytes: usize) {
        self.records_sent += (bytes as u64).div_ceil(16_384);
    }

    /// Control records consumed, and traffic keys renewed in either direction.
    pub fn totals(&self) -> (u64, u64) {
        (self.control_records, self.keys_renewed)
    }

    fn rekey_due(&self) -> bool {
        self.records_sent >= self.limit.records
    }

    /// A KeyUpdate tells the peer of a key that the kernel must then take, so that is known beforehand.
    fn renewable(&self) -> bool {
        self.tls13 && self.limit.renewable
    }

    /// The key is near its limit and cannot be renewed: the connection must end at the next opportunity.
    pub fn must_retire(&self) -> bool {
        self.rekey_due() && !self.renewable()
    }

    fn renew_sending_key(&mut self, socket: BorrowedFd<'_>) -> Result<(), KernelError> {
        if !self.renewable() {
            self.owes_key_update = false;
            return Ok(());
        }
        // KeyUpdate, update_not_requested (RFC 8446 4.6.3).
        sys::send(socket, record::HANDSHAKE, &[24, 0, 0, 1, 0])?;
        let secret = self.keys.next(Direction::Transmit)?;
        install(socket, self.suite, Direction::Transmit, secret)?;
        self.owes_key_update = false;
        self.records_sent = 0;
        self.keys_renewed += 1;
        Ok(())
    }

    /// Sends close_notify.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing now.
    pub fn send_close_notify(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        sys::send(socket, record::ALERT, &[1, record::CLOSE_NOTIFY])?;
        self.silent = true;
        self.owes_key_update = false;
        Ok(())
    }

    /// Sends a fatal alert; best effort, for a connection that is given up.
    pub fn send_fatal_alert(socket: BorrowedFd<'_>, description: u8) {
        // The connection is lost either way; the peer merely learns why.
        let _ = sys::send(socket, record::ALERT, &[2, description]);
    }
}

impl KernelError {
    /// The alert that tells the peer, if it is its fault or we gave up on it.
    pub fn alert(&self) -> Option<u8> {
        match self {
            Self::Record(error) => Some(error.alert()),
            Self::KeyUpdate(_) => Some(record::INTERNAL_ERROR),
            Self::Io(_) | Self::Alert(_) | Self::KeyUsedUp | Self::Tls(_) | Self::Secrets(_) => None,
        }
    }
}

/// Whether the kernel replaces the sending key of a session in TLS 1.3, tried on a loopback socket. It says so only when it is
/// too late otherwise: the peer would already know of the new key.
pub(super) fn kernel_renews_keys() -> bool {
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
    // Of a session that nothing is ever sent in.
    let secret = || ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([0; 32]), iv: Iv::new([0; 12]) };
    let Ok((_listener, socket)) = super::support::connected() else { return false };
    sys::enable(socket.as_fd()).is_ok()
        && (0..2).all(|_| install(socket.as_fd(), suite, Direction::Transmit, (0, secret())).is_ok())
}

fn install(
    socket: BorrowedFd<'_>,
    suite: SupportedCipherSuite,
    direction: Direction,
    secret: (u64, ConnectionTrafficSecrets),
) -> Result<(), KernelError> {
    let mut info = CryptoInfo::from_rustls(suite, secret).map_err(|error| KernelError::Secrets(error.to_string()))?;
    if let (SupportedCipherSuite::Tls12(_), Direction::Transmit) = (suite, direction) {
        move_explicit_nonces(&mut info);
    }
    sys::install(socket.as_fd(), direction, info)?;
    Ok(())
}

/// Keeps the kernel from using a nonce again that was used before the hand-over.
///
/// In TLS 1.2 the sender of an AES-GCM record chooses the last 8 bytes of its nonce and writes them into the record (RFC
/// 5288 3); one key must never see the same ones twice. rustls takes a start XOR the record's number, the kernel counts
/// up from what it is given, and that is the same start, which rustls has used for its Finished. So the kernel starts at
/// the other end of the range: with fewer than 2^62 records each, the two never meet.
fn move_explicit_nonces(info: &mut CryptoInfo) {
    match info {
        CryptoInfo::AesGcm128(info) => info.iv[0] ^= 0x80,
        CryptoInfo::AesGcm256(info) => info.iv[0] ^= 0x80,
        // Their nonces follow from the record's number alone (RFC 7905 2).
        _ => {}
    }
}
