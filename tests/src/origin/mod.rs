//! An origin that demands the appliance's certificate and behaves as the request's path says, well or badly.
//!
//! `wire` reads requests and writes bytes, `behaviour` holds what each path does, `journal` tells the tests what was
//! seen, `tunnel` is what follows 101. The paths:
//!
//! | path | what it does |
//! |---|---|
//! | `/headers` | answers the head as JSON: `request_line`, `headers` as `[name, value]` pairs, `connection` |
//! | `/echo` | the request's body in the request's framing |
//! | `/sha256` | reads the body, answers `sha256` and `bytes` as JSON |
//! | `/bytes/N`, `/chunked/N?size=K`, `/close/N` | N pattern bytes by Content-Length, in chunks of K, or until close |
//! | `/truncate/N?sent=M&how=H`, `/truncate-chunked/N?...`, `/truncate-close/N?...` | the same, but ends after M bytes |
//! | `/longer/N?extra=K` | K bytes more than its Content-Length says |
//! | `/slow?ms=T`, `/drip/N?ms=T` | waits before answering; N bytes, one by one |
//! | `/sip?bytes=K&ms=T&slow=N` | reads K bytes each T ms until N are read, then the rest, then answers |
//! | `/early?status=S&how=H` | answers and closes without reading the body |
//! | `/early-reading?status=S` | answers, then reads the body, and keeps the connection |
//! | `/interim` | 103 and 102 before the 200 |
//! | `/status/S` | that status with a short body, or none where the status allows none |
//! | `/head204`, `/body304` | 204 and 304 with fields that promise a body |
//! | `/two` | two whole responses |
//! | `/garbage`, `/drop?how=H`, `/hang` | bytes that are no HTTP; closes without an answer; never answers |
//! | `/health` | 200, or 503 while the test has made the origin sick |
//! | `/unless-sick?how=H` | 200, or closes without an answer while sick |
//! | `/bad/K` | one malformed response; K as in `behaviour::BAD` |
//! | `/reply/X?how=H` | the bytes that X spells in hexadecimal, whatever they are; closes only if told how |
//! | `/tunnel/echo`, `/tunnel/N` | 101, then echoes until the caller has ended; or sends N pattern bytes, ends, and reads on |
//! | `/tunnel/...?protocol=P&pause=T&how=H` | switches to P; reads nothing for T milliseconds; ends so |
//! | `/tunnel/N?after=true`, `/tunnel/N?stay=` | sends only after the caller has ended; does not end before the caller |
//! | `/websocket` | a WebSocket server that says "hello", sends every message back and closes when asked to |
//! | `/stats` | counts of connections and requests, and the client subjects seen |
//!
//! `how`: `close_notify` (default), `fin` (FIN without close_notify), `rst`.

mod behaviour;
mod journal;
mod tunnel;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use journal::Journal;
use wire::Wire;

/// Extension of the note beside the log that makes the origin sick, see [`crate::harness::Origin::set_sick`].
pub(crate) const SICK: &str = "sick";

/// How long a caller may take for the handshake, and between requests.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the origin is started with.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "testorigin", about = "A TLS origin with scripted behaviour, for tests and the demo")]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9443")]
    pub listen: SocketAddr,
    /// Certificate chain, PEM.
    #[arg(long)]
    pub certificate: PathBuf,
    /// Private key, PEM.
    #[arg(long)]
    pub key: PathBuf,
    /// Authorities one of which must have issued the client's certificate, PEM.
    #[arg(long)]
    pub client_ca: PathBuf,
    /// File to which connections and requests are appended, one JSON object a line.
    #[arg(long)]
    pub log: Option<PathBuf>,
    /// TLS version to offer: "1.2", "1.3" or "any".
    #[arg(long, default_value = "any")]
    pub tls: TlsVersions,
}

/// The TLS versions an origin offers.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum TlsVersions {
    /// Only 1.2.
    #[value(name = "1.2")]
    V1_2,
    /// Only 1.3.
    #[value(name = "1.3")]
    V1_3,
    /// Both.
    #[value(name = "any")]
    Any,
}

/// Serves until killed. Prints `{"event":"ready","address":"..."}` once it accepts connections.
///
/// # Errors
/// When certificates cannot be read or the address cannot be bound.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls_config(options)?));
    let journal = Arc::new(Journal::open(options.log.as_deref())?);
    let listener =
        TcpListener::bind(options.listen).await.with_context(|| format!("cannot listen on {}", options.listen))?;
    println!("{}", json!({"event": "ready", "address": listener.local_addr()?.to_string()}));
    loop {
        let (socket, peer) = listener.accept().await?;
        let (acceptor, journal) = (acceptor.clone(), Arc::clone(&journal));
        tokio::spawn(async move { connection(socket, peer, &acceptor, &journal).await });
    }
}

async fn connection(socket: TcpStream, peer: SocketAddr, acceptor: &TlsAcceptor, journal: &Journal) {
    // Heads and bodies are written separately; the delay of Nagle's algorithm would only slow the tests.
    let _ = socket.set_nodelay(true);
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return journal.handshake_failed(peer, &error.to_string()),
        Err(_) => return journal.handshake_failed(peer, "timed out"),
    };
    let id = journal.connection(peer, stream.get_ref().1);
    let mut wire = Wire::new(stream);
    let end = loop {
        let request = match tokio::time::timeout(PATIENCE, wire.request()).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) => break "closed by the client".to_owned(),
            // The transport's end is no fault of what was sent.
            Ok(Err(error)) if error.is::<std::io::Error>() => break format!("{error:#}"),
            Ok(Err(error)) => {
                journal.malformed(id, &format!("{error:#}"));
                let _ = wire.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
                break format!("{error:#}");
            }
            Err(_) => break "idle".to_owned(),
        };
        journal.request(id, &request.head);
        match behaviour::answer(&mut wire, request, id, journal).await {
            Ok(behaviour::Next::Keep) => {}
            Ok(behaviour::Next::Close(how)) => {
                wire.close(how).await;
                break format!("closed by the origin: {how:?}");
            }
            Err(error) => {
                journal.broken(id, &format!("{error:#}"));
                break format!("{error:#}");
            }
        }
    };
    journal.end(id, &end);
}

fn tls_config(options: &Options) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&options.client_ca)? {
        roots.add(certificate)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let key =
        PrivateKeyDer::from_pem_file(&options.key).with_context(|| format!("cannot read {}", options.key.display()))?;
    let versions: &[&rustls::SupportedProtocolVersion] = match options.tls {
        TlsVersions::V1_2 => &[&rustls::version::TLS12],
        TlsVersions::V1_3 => &[&rustls::version::TLS13],
        TlsVersions::Any => rustls::ALL_VERSIONS,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&options.certificate)?, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read {}", path.display()))
}
