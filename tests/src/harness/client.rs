//! A caller that can misbehave: TLS by rustls, every byte inside chosen by the test.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

use tungstenite::WebSocket;

use super::Place;
use super::curl::{NAME, write_pattern};
use super::incoming::Incoming;
use super::raw_tls::Cipher;
use crate::http::Head;
use crate::pattern;

/// How long any single read or write may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a client does TLS. Clones share resumed sessions.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    folder: PathBuf,
    identity: Option<String>,
}

impl ClientTls {
    pub(super) fn new(folder: &Path, identity: Option<&str>) -> anyhow::Result<Self> {
        Self::with_versions(folder, identity, rustls::ALL_VERSIONS, default_provider())
    }

    /// The same with one TLS version only.
    ///
    /// # Errors
    /// When the certificates cannot be read again.
    pub fn only(&self, version: &'static SupportedProtocolVersion) -> anyhow::Result<Self> {
        Self::with_versions(&self.folder, self.identity.as_deref(), &[version], default_provider())
    }

    /// The same with TLS 1.3 and one cipher only.
    ///
    /// # Errors
    /// When the certificates cannot be read again.
    pub fn cipher(&self, cipher: Cipher) -> anyhow::Result<Self> {
        let (identity, versions) = (self.identity.as_deref(), &[&rustls::version::TLS13]);
        Self::with_versions(&self.folder, identity, versions, Cipher::provider([cipher]))
    }

    fn with_versions(
        folder: &Path,
        identity: Option<&str>,
        versions: &[&'static SupportedProtocolVersion],
        provider: Arc<CryptoProvider>,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in chain(folder, "edge-ca")? {
            roots.add(certificate)?;
        }
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let path = folder.join(format!("{name}.key"));
                let key =
                    PrivateKeyDer::from_pem_file(&path).with_context(|| format!("cannot read {}", path.display()))?;
                builder.with_client_auth_cert(chain(folder, name)?, key)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), folder: folder.to_owned(), identity: identity.map(str::to_owned) })
    }
}

fn default_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl ClientTls {
    fn begin(&self) -> anyhow::Result<ClientConnection> {
        Ok(ClientConnection::new(Arc::clone(&self.config), ServerName::try_from(NAME)?)?)
    }
}

/// A connected client.
pub struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// Read, not yet consumed.
    buffer: Vec<u8>,
}

/// A whole response.
#[derive(Debug, Clone)]
pub struct Response {
    /// Interim responses before it.
    pub interim: Vec<Head>,
    /// Its head.
    pub head: Head,
    /// Its status code.
    pub status: u16,
    /// Its body without chunked framing; empty after [`Client::download`].
    pub body: Vec<u8>,
    /// Length of the body.
    pub length: u64,
    /// SHA-256 of the body.
    pub sha256: String,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {:?}", self.text()))
    }
}

impl Client {
    /// Connects from a place and performs the handshake as far as the client sees it; with TLS 1.3 the server may still
    /// refuse the certificate.
    ///
    /// # Errors
    /// When either fails.
    pub fn connect(place: &Place, address: SocketAddr, tls: &ClientTls) -> anyhow::Result<Self> {
        Self::connect_with(place, address, tls, |_| {})
    }

    /// The same, with bytes that go out in the client's last flight of the handshake.
    ///
    /// # Errors
    /// When either fails.
    pub fn connect_with(
        place: &Place,
        address: SocketAddr,
        tls: &ClientTls,
        early: impl FnOnce(&mut Vec<u8>),
    ) -> anyhow::Result<Self> {
        let socket = tcp(place, address)?;
        let mut connection = tls.begin()?;
        let mut bytes = Vec::new();
        early(&mut bytes);
        // rustls keeps them until the handshake is complete on this side, and sends them right behind its Finished.
        connection.set_buffer_limit(None);
        connection.writer().write_all(&bytes)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).context("TLS handshake")?;
        }
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Changes how long any single read or write may take; a minute otherwise.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn patient(self, time: Duration) -> anyhow::Result<Self> {
        self.stream.sock.set_read_timeout(Some(time))?;
        self.stream.sock.set_write_timeout(Some(time))?;
        Ok(self)
    }

    /// Whether the server accepted a ticket instead of a full handshake.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The certificate the server showed, DER.
    #[must_use]
    pub fn server_certificate(&self) -> Option<Vec<u8>> {
        Some(self.stream.conn.peer_certificates()?.first()?.to_vec())
    }

    /// Sends bytes as they are, in a record of their own.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.stream.write_all(bytes.as_ref()).context("sending")?;
        self.stream.flush().context("sending")
    }

    /// Sends a request line, `Host`, these fields, and the end of the head.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_head(&mut self, method: &str, target: &str, fields: &[&str]) -> anyhow::Result<()> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {NAME}\r\n");
        for field in fields {
            head += field;
            head += "\r\n";
        }
        head += "\r\n";
        self.send(head)
    }

    /// A GET with these fields, and its response.
    ///
    /// # Errors
    /// When the response is not whole and well-formed.
    pub fn get(&mut self, target: &str, fields: &[&str]) -> anyhow::Result<Response> {
        self.send_head("GET", target, fields)?;
        self.response("GET")
    }

    /// A POST with Content-Length, and its response.
    ///
    /// # Errors
    /// When the response is not whole and well-formed.
    pub fn post(&mut self, target: &str, body: &[u8]) -> anyhow::Result<Response> {
        let length = format!("Content-Length: {}", body.len());
        self.send_head("POST", target, &[&length])?;
        self.send(body)?;
        self.response("POST")
    }

    /// A POST of the first `length` pattern bytes with Content-Length, and its response.
    ///
    /// # Errors
    /// When the response is not whole and well-formed.
    pub fn upload(&mut self, target: &str, length: u64) -> anyhow::Result<Response> {
        let field = format!("Content-Length: {length}");
        self.send_head("POST", target, &[&field])?;
        write_pattern(&mut self.stream, length).context("sending the body")?;
        self.response("POST")
    }

    /// Reads a response, keeping its body.
    ///
    /// # Errors
    /// When it is not whole and well-formed.
    pub fn response(&mut self, method: &str) -> anyhow::Result<Response> {
        let mut body = Vec::new();
        let mut response = self.receive(method, &mut |bytes| body.extend_from_slice(bytes))?;
        response.body = body;
        Ok(response)
    }

    /// Reads one interim response's head.
    ///
    /// # Errors
    /// When the next head is a final response's, or malformed.
    pub fn interim(&mut self) -> anyhow::Result<Head> {
        let head = Incoming::new(&mut self.stream, &mut self.buffer).head()?;
        ensure!(head.status()? / 100 == 1, "a final response instead of an interim one: {}", head.start);
        Ok(head)
    }

    /// A GET of a large body, which is digested and not kept.
    ///
    /// # Errors
    /// When the response is not whole and well-formed.
    pub fn download(&mut self, target: &str) -> anyhow::Result<Response> {
        self.send_head("GET", target, &[])?;
        self.receive("GET", &mut |_| {})
    }

    /// The same by a client that does something with each piece, at most 16 KiB, before it reads the next.
    ///
    /// # Errors
    /// When the response is not whole and well-formed.
    pub fn download_with(&mut self, target: &str, each: &mut dyn FnMut(&[u8])) -> anyhow::Result<Response> {
        self.send_head("GET", target, &[])?;
        self.receive("GET", each)
    }

    /// Makes the kernel take little before it is read, so that a slow reader is one on the wire too.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn narrow(self) -> anyhow::Result<Self> {
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.stream.sock, 64 * 1024)?;
        Ok(self)
    }

    /// Reads to the end of the connection; says whether it ended properly, with close_notify.
    ///
    /// # Errors
    /// When the read fails otherwise than by an end.
    pub fn read_to_end(&mut self) -> anyhow::Result<(Vec<u8>, bool)> {
        Incoming::new(&mut self.stream, &mut self.buffer).to_end()
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// When the connection ends before.
    pub fn take(&mut self, length: u64) -> anyhow::Result<Vec<u8>> {
        let mut taken = Vec::new();
        let mut incoming = Incoming::new(&mut self.stream, &mut self.buffer);
        incoming.exactly(length, &mut |bytes| taken.extend_from_slice(bytes))?;
        Ok(taken)
    }

    /// Sends the first `sent` pattern bytes and receives `received` bytes at the same time; says what these digest to.
    ///
    /// # Errors
    /// When the connection ends before, or nothing moves for a minute.
    pub fn both_ways(&mut self, sent: u64, received: u64) -> anyhow::Result<String> {
        let mut digest = pattern::Sha256::default();
        let early = self.buffer.len().min(usize::try_from(received)?);
        digest.update(&self.buffer[..early]);
        self.buffer.drain(..early);
        let mut offset = 0;
        let mut piece = vec![0; 64 * 1024];
        self.stream.conn.set_buffer_limit(Some(piece.len()));
        self.stream.sock.set_nonblocking(true)?;
        let mut moved_at = Instant::now();
        while offset < sent || digest.length() < received || self.stream.conn.wants_write() {
            let mut moved = false;
            let step = usize::try_from(sent - offset).unwrap_or(usize::MAX).min(piece.len());
            pattern::fill(offset, &mut piece[..step]);
            let taken = self.stream.conn.writer().write(&piece[..step])?;
            offset += taken as u64;
            if self.stream.conn.wants_write() {
                moved |= advanced(self.stream.conn.write_tls(&mut self.stream.sock))?.is_some();
            }
            if digest.length() < received {
                match advanced(self.stream.conn.read_tls(&mut self.stream.sock))? {
                    Some(0) => bail!("the connection ended within a tunnel"),
                    read => moved |= read.is_some(),
                }
                let plain = self.stream.conn.process_new_packets()?.plaintext_bytes_to_read();
                let mut plain = vec![0; plain.min(usize::try_from(received - digest.length())?)];
                self.stream.conn.reader().read_exact(&mut plain)?;
                digest.update(&plain);
            }
            if moved {
                moved_at = Instant::now();
            } else {
                ensure!(moved_at.elapsed() < PATIENCE, "nothing moves: {offset} sent, {} received", digest.length());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.stream.conn.set_buffer_limit(None);
        self.stream.sock.set_nonblocking(false)?;
        Ok(digest.finish())
    }

    /// Asks for WebSocket there (RFC 6455), by another's implementation of it.
    ///
    /// # Errors
    /// When it does not come about; the text names the status where there is one.
    pub fn websocket(self, target: &str) -> anyhow::Result<WebSocket<impl Read + Write>> {
        let (socket, _) = tungstenite::client(format!("wss://{NAME}{target}"), self.stream)
            .map_err(|error| anyhow!("no WebSocket: {error}"))?;
        Ok(socket)
    }

    /// Fails unless nothing arrives for that long and the connection stays open.
    ///
    /// # Errors
    /// When something arrives or the connection ends.
    pub fn must_stay_silent(&mut self, time: Duration) -> anyhow::Result<()> {
        self.stream.sock.set_read_timeout(Some(time))?;
        let mut piece = [0; 1024];
        let result = self.stream.read(&mut piece);
        self.stream.sock.set_read_timeout(Some(PATIENCE))?;
        match result {
            Err(error) if is_timeout(&error) => Ok(()),
            Ok(0) => bail!("the connection was closed"),
            Ok(read) => bail!("unexpected bytes: {:?}", String::from_utf8_lossy(&piece[..read])),
            Err(error) => Err(error).context("the connection ended"),
        }
    }

    /// Waits until bytes arrive, and leaves them where they are.
    ///
    /// # Errors
    /// When none come in time, or the connection has ended.
    pub fn wait_readable(&self) -> anyhow::Result<()> {
        ensure!(self.stream.sock.peek(&mut [0]).context("waiting for an answer")? > 0, "the connection was closed");
        Ok(())
    }

    /// Sends close_notify and leaves the reading side open.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn close_notify(&mut self) -> anyhow::Result<()> {
        self.stream.conn.send_close_notify();
        self.stream.flush().context("sending close_notify")
    }

    /// Renews the traffic keys and asks the peer to do so (TLS 1.3 KeyUpdate).
    ///
    /// # Errors
    /// When the connection is gone or is not TLS 1.3.
    pub fn update_keys(&mut self) -> anyhow::Result<()> {
        self.stream.conn.refresh_traffic_keys()?;
        self.stream.flush().context("sending KeyUpdate")
    }

    /// Encrypts a record and sends only the first half of it.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn send_half_a_record(&mut self, content: &[u8]) -> anyhow::Result<()> {
        self.stream.conn.writer().write_all(content)?;
        let mut record = Vec::new();
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut record)?;
        }
        Ok(self.stream.sock.write_all(&record[..record.len() / 2])?)
    }

    /// Ends TCP's sending side without close_notify.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn fin(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.sock.shutdown(std::net::Shutdown::Write)?)
    }

    /// Resets the connection.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn reset(self) -> anyhow::Result<()> {
        rustix::net::sockopt::set_socket_linger(&self.stream.sock, Some(Duration::ZERO))?;
        Ok(())
    }

    fn receive(&mut self, method: &str, sink: &mut dyn FnMut(&[u8])) -> anyhow::Result<Response> {
        let Self { stream, buffer } = self;
        Incoming::new(stream, buffer).response(method, sink)
    }
}

/// What became of a connection attempt that should be refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It was not refused.
    Accepted,
    /// By a fatal alert.
    Alert(AlertDescription),
    /// The connection ended without one.
    Closed(String),
}

/// Connects, and tells how the server refuses this client.
///
/// # Errors
/// When TCP does not connect, or the server neither answers nor refuses.
pub fn refusal(place: &Place, address: SocketAddr, tls: &ClientTls) -> anyhow::Result<Refusal> {
    let mut client = match Client::connect(place, address, tls) {
        Ok(client) => client,
        Err(error) => match error.downcast_ref::<io::Error>() {
            Some(error) => return Ok(Refusal::of(error)),
            None => return Err(error),
        },
    };
    // With TLS 1.3 the verdict on the certificate comes after the client's side of the handshake is complete.
    let mut byte = [0];
    client.stream.sock.set_read_timeout(Some(Duration::from_millis(500)))?;
    match client.stream.read(&mut byte) {
        Err(error) if is_timeout(&error) => {}
        Err(error) => return Ok(Refusal::of(&error)),
        Ok(_) => return Ok(Refusal::Closed("close_notify".to_owned())),
    }
    client.stream.sock.set_read_timeout(Some(PATIENCE))?;
    client.send_head("GET", "/headers", &[])?;
    match client.stream.read(&mut byte) {
        Ok(0) => Ok(Refusal::Closed("close_notify".to_owned())),
        Ok(_) => Ok(Refusal::Accepted),
        Err(error) if is_timeout(&error) => Err(error).context("neither answered nor refused"),
        Err(error) => Ok(Refusal::of(&error)),
    }
}

impl Refusal {
    fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Self::Alert(*alert),
            _ => Self::Closed(error.to_string()),
        }
    }
}

/// Begins a handshake and sends all but the second half of the client's flight number `flight`: 0 is the `ClientHello`.
///
/// # Errors
/// When the server does not play along, or the handshake has no such flight.
pub fn half_a_handshake(
    place: &Place,
    address: SocketAddr,
    tls: &ClientTls,
    flight: usize,
) -> anyhow::Result<TcpStream> {
    let mut socket = tcp(place, address)?;
    let mut connection = tls.begin()?;
    for number in 0..=flight {
        while !connection.wants_write() {
            ensure!(connection.is_handshaking(), "the handshake has only {number} flights");
            ensure!(connection.read_tls(&mut socket)? > 0, "the server closed");
            connection.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut bytes)?;
        }
        socket.write_all(if number == flight { &bytes[..bytes.len() / 2] } else { &bytes })?;
    }
    Ok(socket)
}

/// A TCP connection from a place, with deadlines on reads and writes.
///
/// # Errors
/// When it cannot be made.
pub fn tcp(place: &Place, address: SocketAddr) -> anyhow::Result<TcpStream> {
    let connect = || TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connecting to {address}"));
    let socket = place.enter(connect)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

pub(super) fn chain(folder: &Path, name: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let path = folder.join(format!("{name}.pem"));
    CertificateDer::pem_file_iter(&path)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read {}", path.display()))
}

/// `None` where the socket had nothing to give or to take.
fn advanced(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        result => result.map(Some),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
