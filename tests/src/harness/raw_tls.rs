//! TLS 1.3 whose every record the test makes: sizes, padding, control records, halves and wrong ones.
//!
//! rustls performs the handshake and gives the traffic secrets away; from then on records are sealed and opened here
//! (RFC 8446 5 and 7), each direction on its own. Nothing is checked that a peer may do; what a peer must not do is an
//! error of [`RawReader`].

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, KeyLog, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite,
};

use super::Lab;
use super::client::chain;

/// Content type of alerts.
pub const ALERT: u8 = 21;
/// Content type of handshake messages.
pub const HANDSHAKE: u8 = 22;
/// Content type of application data.
pub const DATA: u8 = 23;
/// The most content that one record holds.
pub const RECORD: usize = 16_384;

const KEY_UPDATE: u8 = 24;
const TAG: usize = 16;
const HEADER: usize = 5;

/// The bulk cipher of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// `TLS_AES_128_GCM_SHA256`
    Aes128,
    /// `TLS_AES_256_GCM_SHA384`
    Aes256,
    /// `TLS_CHACHA20_POLY1305_SHA256`
    ChaCha20,
}

impl Cipher {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aes128, Self::Aes256, Self::ChaCha20];

    fn suite(self) -> SupportedCipherSuite {
        match self {
            Self::Aes128 => cipher_suite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256 => cipher_suite::TLS13_AES_256_GCM_SHA384,
            Self::ChaCha20 => cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        }
    }

    fn hash(self) -> hmac::Algorithm {
        match self {
            Self::Aes256 => hmac::HMAC_SHA384,
            Self::Aes128 | Self::ChaCha20 => hmac::HMAC_SHA256,
        }
    }

    fn aead(self) -> &'static Algorithm {
        match self {
            Self::Aes128 => &AES_128_GCM,
            Self::Aes256 => &AES_256_GCM,
            Self::ChaCha20 => &CHACHA20_POLY1305,
        }
    }

    /// What does these suites, the first of them first.
    pub(super) fn provider(suites: impl IntoIterator<Item = Self>) -> Arc<CryptoProvider> {
        let cipher_suites = suites.into_iter().map(Self::suite).collect();
        Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
    }
}

/// The key of one direction.
struct TrafficKey {
    cipher: Cipher,
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
}

impl TrafficKey {
    fn new(cipher: Cipher, secret: Vec<u8>) -> anyhow::Result<Self> {
        let key = expand(cipher, &secret, "key", cipher.aead().key_len());
        let iv = expand(cipher, &secret, "iv", 12);
        let key = UnboundKey::new(cipher.aead(), &key).map_err(|_| anyhow::anyhow!("not a key"))?;
        Ok(Self { cipher, secret, key: LessSafeKey::new(key), iv, sequence: 0 })
    }

    /// The key after a KeyUpdate (RFC 8446 7.2).
    fn renew(&mut self) -> anyhow::Result<()> {
        let secret = expand(self.cipher, &self.secret, "traffic upd", self.secret.len());
        *self = Self::new(self.cipher, secret)?;
        Ok(())
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&self.iv);
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// HKDF-Expand-Label with an empty context, for no more than one block of the hash (RFC 8446 7.1).
fn expand(cipher: Cipher, secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let mut info = vec![0, u8::try_from(length).unwrap_or(u8::MAX), u8::try_from(label.len()).unwrap_or(u8::MAX)];
    info.extend_from_slice(label.as_bytes());
    info.extend_from_slice(&[0, 1]);
    let block = hmac::sign(&hmac::Key::new(cipher.hash(), secret), &info);
    block.as_ref()[..length].to_vec()
}

/// The sending half of a session.
pub struct RawWriter {
    socket: Arc<TcpStream>,
    key: TrafficKey,
}

impl RawWriter {
    /// A record with that content and so much padding; nothing is sent.
    ///
    /// # Errors
    /// When the content is too long.
    pub fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> anyhow::Result<Vec<u8>> {
        let padding = padding.min(RECORD - content.len().min(RECORD));
        let length = u16::try_from(content.len() + 1 + padding + TAG)?.to_be_bytes();
        let header = [DATA, 3, 3, length[0], length[1]];
        let mut inner = content.to_vec();
        inner.push(kind);
        inner.resize(content.len() + 1 + padding, 0);
        let nonce = self.key.nonce();
        self.key
            .key
            .seal_in_place_append_tag(nonce, Aad::from(header), &mut inner)
            .map_err(|_| anyhow::anyhow!("a record cannot be sealed"))?;
        let mut record = header.to_vec();
        record.extend_from_slice(&inner);
        Ok(record)
    }

    /// A KeyUpdate; what is sealed after it uses the new key.
    ///
    /// # Errors
    /// Never for a session that was established.
    pub fn key_update(&mut self, requested: bool) -> anyhow::Result<Vec<u8>> {
        let record = self.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, u8::from(requested)], 0)?;
        self.key.renew()?;
        Ok(record)
    }

    /// A ticket of that many bytes, which only a server may send.
    ///
    /// # Errors
    /// When it is too long.
    pub fn ticket(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        // Lifetime, age_add, a nonce of one byte, the ticket, no extensions (RFC 8446 4.6.1).
        let mut body = vec![0, 0, 14, 16, 1, 2, 3, 4, 1, 0];
        body.extend_from_slice(&u16::try_from(length)?.to_be_bytes());
        body.resize(body.len() + length, 0x77);
        body.extend_from_slice(&[0, 0]);
        let [_, a, b, c] = u32::try_from(body.len())?.to_be_bytes();
        let mut message = vec![4, a, b, c];
        message.extend_from_slice(&body);
        self.seal(HANDSHAKE, &message, 0)
    }

    /// Sends bytes as they are: whole records, or parts of them.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&*self.socket).write_all(bytes)
    }

    /// Seals application data in as few records as it fits in, and sends them.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        for piece in bytes.as_ref().chunks(RECORD) {
            let record = self.seal(DATA, piece, 0)?;
            self.write(&record)?;
        }
        Ok(())
    }

    /// Sends an alert.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn alert(&mut self, level: u8, description: u8) -> anyhow::Result<()> {
        let record = self.seal(ALERT, &[level, description], 0)?;
        Ok(self.write(&record)?)
    }

    /// Sends close_notify.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn close_notify(&mut self) -> anyhow::Result<()> {
        self.alert(1, 0)
    }

    /// Ends TCP's sending side.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn fin(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Has the connection reset as soon as both halves are dropped, and wakes the reading half.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn reset(&self) -> io::Result<()> {
        sockopt::set_socket_linger(&*self.socket, Some(Duration::ZERO))?;
        self.socket.shutdown(Shutdown::Read)
    }
}

/// The receiving half of a session. Reads give application data, 0 after close_notify, and an error on any other end.
pub struct RawReader {
    socket: Arc<TcpStream>,
    key: TrafficKey,
    /// Received, not yet opened.
    sealed: Vec<u8>,
    /// Opened, not yet read.
    plain: Vec<u8>,
    closed: bool,
    /// Most bytes taken from the socket by one call.
    at_once: usize,
}

impl RawReader {
    /// Takes at most that many bytes from the socket by one call.
    pub fn at_once(&mut self, bytes: usize) {
        self.at_once = bytes.max(1);
    }

    /// Waits for more of the stream of records.
    fn advance(&mut self) -> io::Result<()> {
        let mut piece = vec![0; self.at_once];
        let read = (&*self.socket).read(&mut piece)?;
        if read == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "FIN without close_notify"));
        }
        self.sealed.extend_from_slice(&piece[..read]);
        while let Some((kind, content)) = self.open()? {
            match (kind, content.as_slice()) {
                (DATA, content) => self.plain.extend_from_slice(content),
                (ALERT, [_, 0]) => self.closed = true,
                (ALERT, [_, description]) => {
                    return Err(io::Error::other(format!("the peer sent alert {description}")));
                }
                (HANDSHAKE, [KEY_UPDATE, 0, 0, 1, _]) => self.key.renew().map_err(io::Error::other)?,
                // A ticket.
                (HANDSHAKE, [4, ..]) => {}
                (kind, content) => return Err(bad(&format!("a record of type {kind}: {content:?}"))),
            }
        }
        Ok(())
    }

    /// The next whole record.
    fn open(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let Some(&[kind, _, _, high, low]) = self.sealed.get(..HEADER) else { return Ok(None) };
        let end = HEADER + usize::from(u16::from_be_bytes([high, low]));
        if self.sealed.len() < end {
            return Ok(None);
        }
        let mut record: Vec<u8> = self.sealed.drain(..end).collect();
        if kind != DATA {
            return Err(bad(&format!("an unprotected record of type {kind}")));
        }
        let (header, inner) = record.split_at_mut(HEADER);
        let nonce = self.key.nonce();
        let inner =
            self.key.key.open_in_place(nonce, Aad::from(&*header), inner).map_err(|_| bad("a record does not open"))?;
        let last = inner.iter().rposition(|byte| *byte != 0).ok_or_else(|| bad("a record without content type"))?;
        Ok(Some((inner[last], inner[..last].to_vec())))
    }
}

impl Read for RawReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.plain.is_empty() && !self.closed {
            self.advance()?;
        }
        let step = self.plain.len().min(buffer.len());
        buffer[..step].copy_from_slice(&self.plain[..step]);
        self.plain.drain(..step);
        Ok(step)
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// What a side needs for handshakes, per cipher.
struct Party<C> {
    configs: Vec<(Cipher, C)>,
}

impl<C: Clone> Party<C> {
    fn new(make: impl Fn(Cipher) -> anyhow::Result<C>) -> anyhow::Result<Self> {
        let configs = Cipher::ALL.into_iter().map(|cipher| Ok((cipher, make(cipher)?)));
        Ok(Self { configs: configs.collect::<anyhow::Result<_>>()? })
    }

    fn config(&self, cipher: Cipher) -> anyhow::Result<C> {
        let found = self.configs.iter().find(|(of, _)| *of == cipher);
        found.map(|(_, config)| config.clone()).context("no such cipher")
    }
}

/// Whoever opens raw sessions.
pub struct RawClient {
    party: Party<ClientConfig>,
    name: ServerName<'static>,
}

impl RawClient {
    /// With a certificate of the PKI, towards a server of that name whose certificate comes from `authority`.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn new(lab: &Lab, identity: &str, authority: &str, name: &str) -> anyhow::Result<Self> {
        let folder = lab.path("");
        let roots = roots(lab, authority)?;
        let party = Party::new(|cipher| {
            let builder = ClientConfig::builder_with_provider(Cipher::provider([cipher]))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots.clone());
            let mut config = builder.with_client_auth_cert(chain(&folder, identity)?, key(lab, identity)?)?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Ok(config)
        })?;
        Ok(Self { party, name: ServerName::try_from(name.to_owned())? })
    }

    /// Connects; with a receive buffer of that size if one is given.
    ///
    /// # Errors
    /// When TCP or the handshake fails.
    pub fn connect(
        &self,
        address: SocketAddr,
        cipher: Cipher,
        receive_buffer: Option<usize>,
        patience: Duration,
    ) -> anyhow::Result<(RawReader, RawWriter)> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
        if let Some(size) = receive_buffer {
            // Before connecting, so that the window is never larger.
            sockopt::set_socket_recv_buffer_size(&socket, size)?;
        }
        rustix::net::connect(&socket, &address).with_context(|| format!("connecting to {address}"))?;
        let socket = TcpStream::from(socket);
        let secrets = Arc::new(Secrets::default());
        let mut config = self.party.config(cipher)?;
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let connection = ClientConnection::new(Arc::new(config), self.name.clone())?;
        establish(socket, connection.into(), &secrets, patience, [CLIENT, SERVER])
    }
}

/// Whoever accepts raw sessions, with the certificate `origin`; callers must show one from `origin-ca`.
pub struct RawServer {
    party: Party<ServerConfig>,
}

impl RawServer {
    /// Reads the certificates.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(lab: &Lab) -> anyhow::Result<Self> {
        let roots = Arc::new(roots(lab, "origin-ca")?);
        let party = Party::new(|cipher| {
            let provider = Cipher::provider([cipher].into_iter().chain(Cipher::ALL));
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
            let mut config = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain(&lab.path(""), "origin")?, key(lab, "origin")?)?;
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            config.ignore_client_order = true;
            // Tickets are sent when a test wants them.
            config.send_tls13_tickets = 0;
            Ok(config)
        })?;
        Ok(Self { party })
    }

    /// Performs the handshake on an accepted connection, with that cipher if the client does it.
    ///
    /// # Errors
    /// When it fails.
    pub fn accept(
        &self,
        socket: TcpStream,
        cipher: Cipher,
        patience: Duration,
    ) -> anyhow::Result<(RawReader, RawWriter)> {
        let secrets = Arc::new(Secrets::default());
        let mut config = self.party.config(cipher)?;
        config.key_log = Arc::clone(&secrets) as Arc<dyn KeyLog>;
        let connection = ServerConnection::new(Arc::new(config))?;
        establish(socket, connection.into(), &secrets, patience, [SERVER, CLIENT])
    }
}

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

/// The traffic secrets of one handshake.
#[derive(Debug, Default)]
struct Secrets(Mutex<HashMap<String, Vec<u8>>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(label.to_owned(), secret.to_vec());
    }
}

impl Secrets {
    fn key(&self, cipher: Cipher, label: &str) -> anyhow::Result<TrafficKey> {
        let secret = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(label);
        TrafficKey::new(cipher, secret.with_context(|| format!("no {label}"))?)
    }
}

/// Performs the handshake record by record, so that nothing behind it is taken from the socket.
fn establish(
    socket: TcpStream,
    mut connection: Connection,
    secrets: &Secrets,
    patience: Duration,
    [sending, receiving]: [&str; 2],
) -> anyhow::Result<(RawReader, RawWriter)> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    loop {
        while connection.wants_write() {
            connection.write_tls(&mut &socket)?;
        }
        if !connection.is_handshaking() {
            break;
        }
        let mut record = vec![0; HEADER];
        (&socket).read_exact(&mut record).context("TLS handshake")?;
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(HEADER + length, 0);
        (&socket).read_exact(&mut record[HEADER..]).context("TLS handshake")?;
        let mut rest = &record[..];
        while !rest.is_empty() {
            ensure!(connection.read_tls(&mut rest)? > 0, "the handshake takes no more");
            connection.process_new_packets()?;
        }
    }
    let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    let cipher = Cipher::ALL.into_iter().find(|cipher| Some(cipher.suite().suite()) == suite);
    let cipher = cipher.context("another cipher suite")?;
    let socket = Arc::new(socket);
    let writer = RawWriter { socket: Arc::clone(&socket), key: secrets.key(cipher, sending)? };
    let key = secrets.key(cipher, receiving)?;
    let reader = RawReader { socket, key, sealed: Vec::new(), plain: Vec::new(), closed: false, at_once: 64 * 1024 };
    Ok((reader, writer))
}

fn roots(lab: &Lab, authority: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(&lab.path(""), authority)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn key(lab: &Lab, name: &str) -> anyhow::Result<PrivateKeyDer<'static>> {
    let path = lab.path(&format!("{name}.key"));
    PrivateKeyDer::from_pem_file(&path).with_context(|| format!("cannot read {}", path.display()))
}
