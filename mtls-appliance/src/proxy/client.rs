//! One client connection, from accept to close: handshake, identity, request after request.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant as Clock, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::UnbufferedServerConnection;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::admission::Place;
use super::buffer::Buffer;
use super::channel::{Channel, ChannelError, Patience, Read, Side};
use super::date;
use super::exchange::{Failure, Next, Outcome, Request};
use super::origin::{self, ConnectError};
use super::report::{self, RequestLine, Subject, Tally};
use super::routing::{self, RouteFault};
use super::socket;
use super::tunnel;
use super::upstream::Upstream;
use super::worker::Worker;
use crate::app::{Live, Phase, Shared};
use crate::config::{PoolMode, Site};
use crate::http1::{HeadScanner, Method, OwnResponse, RequestHead, RewriteOptions, parse_request_with, write_request};
use crate::identity::{ClientIdentity, Connection as ConnectionFacts, Facts, header_block};
use crate::registry::Organisation;
use crate::telemetry::Level;
use crate::tls::handshake::{self, HandshakeError};
use crate::tls::server::{reason, take_refusal};
use crate::tls::session::{Connection, Session};

/// What we call ourselves in Via towards the origin (RFC 9110 7.6.3). Callers are not told.
const PSEUDONYM: &str = "mtls-appliance";
/// How long an orderly close may take.
const CLOSE: std::time::Duration = std::time::Duration::from_secs(2);

/// Counts a connection for as long as it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.counters.connections_open.increment();
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.connections_open.decrement();
    }
}

/// Counts a handshake for as long as it runs.
struct Handshaking(Arc<Shared>);

impl Handshaking {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.counters.handshakes_running.increment();
        Self(Arc::clone(shared))
    }
}

impl Drop for Handshaking {
    fn drop(&mut self) {
        self.0.counters.handshakes_running.decrement();
    }
}

/// Turns a connection away before any work is done for it.
pub(super) fn refuse_early(shared: &Shared, tcp: TcpStream, peer: SocketAddr, reason: &'static str) {
    shared.counters.refuse("connection_refused", reason);
    shared.log.event(Level::Warn, "connection_refused", json!({ "peer": peer.to_string(), "reason": reason }));
    drop(tcp);
}

/// Why a connection did not become a session.
struct Refused {
    reason: &'static str,
    detail: String,
    subject: Option<String>,
}

/// Who is at the other end, as long as [`Live::generation`] stays what it was.
pub(super) struct Caller {
    identity: ClientIdentity,
    organisation: Arc<Organisation>,
    connection: ConnectionFacts,
    /// The header block that every request of this connection gets.
    block: Vec<u8>,
    generation: u64,
}

impl Caller {
    fn new(
        live: &Live,
        identity: ClientIdentity,
        organisation: Arc<Organisation>,
        connection: ConnectionFacts,
    ) -> Result<Self, Refused> {
        let facts = Facts { client: &identity, organisation: &organisation, connection: &connection };
        let block = header_block(&live.config.identity.headers, live.config.identity.forwarded_for, facts).map_err(
            |error| Refused {
                reason: error.reason(),
                detail: error.to_string(),
                subject: Some(identity.subject_dn.clone()),
            },
        )?;
        Ok(Self { identity, organisation, connection, block, generation: live.generation })
    }

    /// Holds the caller against the present configuration: trust that was withdrawn reaches live connections, and a
    /// certificate that has expired meanwhile is no longer good.
    fn check(&mut self, live: &Live) -> Result<(), Refused> {
        if let Some((identity, organisation)) = self.verify(live, self.generation)? {
            *self = Self::new(live, identity, organisation, self.connection.clone())?;
        }
        Ok(())
    }

    /// The same in the midst of a request whose head told the origin who calls; `checked` is the generation for which
    /// this held before.
    pub(super) fn still_good(&self, live: &Live, checked: u64) -> Result<(), &'static str> {
        match self.verify(live, checked) {
            Ok(Some((_, organisation))) if organisation.codes != self.organisation.codes => Err("organisation_changed"),
            Ok(_) => Ok(()),
            Err(refused) => Err(refused.reason),
        }
    }

    /// Who the caller is now; `None` if nothing has changed since `checked`.
    fn verify(&self, live: &Live, checked: u64) -> Result<Option<(ClientIdentity, Arc<Organisation>)>, Refused> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if i64::try_from(now.as_secs()).is_ok_and(|now| now > self.identity.not_after) {
            return Err(Refused {
                reason: "certificate_expired",
                detail: "the certificate has expired during the connection".into(),
                subject: Some(self.identity.subject_dn.clone()),
            });
        }
        if checked == live.generation {
            return Ok(None);
        }
        let leaf = CertificateDer::from(self.identity.certificate());
        let others: Vec<_> = self.identity.intermediates().map(CertificateDer::from).collect();
        live.verifier.check(&leaf, &others, UnixTime::since_unix_epoch(now)).map(Some).map_err(|(error, refusal)| {
            Refused { reason: refusal.reason, detail: error.to_string(), subject: refusal.subject }
        })
    }
}

/// Serves one connection.
pub(super) async fn serve(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr, place: Place<IpAddr>) {
    let shared = Arc::clone(&worker.shared);
    let open = Open::new(&shared);
    let live = shared.live.load_full();
    let established = {
        let _running = Handshaking::new(&shared);
        establish(&shared, &live, tcp, peer).await
    };
    match established {
        Ok((channel, caller, _place)) => {
            shared.counters.handshakes_completed.increment();
            channel.count(Side::Client);
            let buffer = Buffer::new(live.buffer_size());
            let phase = shared.phase.subscribe();
            let tally = Tally::new();
            let session = ClientSession { worker: &worker, shared: &shared, peer, channel, buffer, phase, tally };
            drop(live);
            session.serve(caller).await;
        }
        Err(refused) => {
            shared.counters.refuse("handshake_refused", refused.reason);
            shared.log.event(
                Level::Warn,
                "handshake_failed",
                json!({
                    "peer": peer.to_string(),
                    "subject": refused.subject,
                    "reason": refused.reason,
                    "detail": refused.detail,
                }),
            );
        }
    }
    drop((open, place));
}

async fn establish(
    shared: &Arc<Shared>,
    live: &Arc<Live>,
    tcp: TcpStream,
    peer: SocketAddr,
) -> Result<(Channel, Caller, Place<String>), Refused> {
    let refused =
        |reason, detail: &dyn std::fmt::Display, subject| Refused { reason, detail: detail.to_string(), subject };
    socket::prepare(&tcp, &live.config.limits);
    let local = tcp.local_addr().map_err(|error| refused("io_error", &error, None))?;
    let connection = UnbufferedServerConnection::new(Arc::clone(&live.server_tls))
        .map_err(|error| refused("tls_error", &error, None))?;
    let mut session = Session::new(Connection::Server(connection));
    let exact = origin::hands_over_at_once(shared, live);
    match timeout(live.config.timeouts.handshake, handshake::run(&tcp, &mut session, exact)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let refusal = take_refusal();
            let (name, subject) = match (&error, refusal) {
                (HandshakeError::Tls(_), Some(refusal)) => (refusal.reason, refusal.subject),
                (HandshakeError::Tls(error), None) => (reason(error), None),
                (HandshakeError::Closed, _) => ("closed_during_handshake", None),
                (HandshakeError::TooLong, _) => ("handshake_too_long", None),
                (HandshakeError::Io(_), _) => ("io_error", None),
            };
            linger(tcp).await;
            return Err(refused(name, &error, subject));
        }
        Err(_) => return Err(refused("handshake_timed_out", &"the handshake was not complete in time", None)),
    }
    let facts = session.facts();
    let identity =
        ClientIdentity::from_chain(facts.certificates).map_err(|error| refused(error.reason(), &error, None))?;
    let subject = || Some(identity.subject_dn.clone());
    let organisation = identity
        .serial_number
        .as_deref()
        .and_then(|serial_number| live.verifier.registry().by_serial_number(serial_number))
        .map(Arc::clone)
        .ok_or_else(|| refused("unregistered_serial_number", &"not registered", subject()))?;
    let name = organisation.codes.first().cloned().unwrap_or_default();
    let place = shared.organisations.take(name, live.config.limits.connections_per_organisation).ok_or_else(|| {
        refused("too_many_connections_of_organisation", &"limits.connections_per_organisation", subject())
    })?;
    let (Some(version), Some(suite)) = (facts.version, facts.suite) else {
        return Err(refused("tls_error", &"no version or cipher suite was negotiated", subject()));
    };
    let connection = ConnectionFacts::new(peer, local, version, suite.suite(), session.server_name());
    let channel = origin::establish(shared, live, tcp, session).map_err(|error| {
        let reason = match error {
            ConnectError::NotOffloaded(_) => "not_offloaded",
            _ => "hand_over_failed",
        };
        refused(reason, &error, subject())
    })?;
    let caller = Caller::new(live, identity, organisation, connection)?;
    Ok((channel, caller, place))
}

/// Lets the peer read our alert: closing at once, with bytes of its unread, would reset the connection and could take
/// the alert with it.
async fn linger(tcp: TcpStream) {
    if rustix::net::shutdown(&tcp, rustix::net::Shutdown::Write).is_err() {
        return;
    }
    let mut sink = [0; 4096];
    let drain = async {
        for _ in 0..64 {
            match tcp.try_read(&mut sink) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if tcp.readable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    };
    // A peer that does not close in time is closed upon.
    let _ = timeout(std::time::Duration::from_secs(1), drain).await;
}

/// A client's session, serving requests.
struct ClientSession<'a> {
    worker: &'a Worker,
    shared: &'a Arc<Shared>,
    peer: SocketAddr,
    channel: Channel,
    buffer: Buffer,
    phase: watch::Receiver<Phase>,
    tally: Tally,
}

/// How waiting for a request ended.
enum Waited {
    Head(Box<RequestHead>),
    /// Close in order, as it should be.
    Done(&'static str),
    /// Close in order, for a reason that is worth counting.
    Close(&'static str),
    /// Break off.
    Broken(&'static str),
    /// Refuse the head.
    Refuse(crate::http1::RequestError),
}

/// How a session ends: in a word for the log, and towards the client.
struct End {
    how: &'static str,
    last: Last,
}

/// The last that a client hears.
enum Last {
    /// close_notify.
    Close,
    /// A reset.
    Abort,
    /// A refusal, then close_notify.
    Refusal { status: u16, head_request: bool },
}

impl End {
    fn close(how: &'static str) -> Self {
        Self { how, last: Last::Close }
    }

    fn abort(how: &'static str) -> Self {
        Self { how, last: Last::Abort }
    }

    fn refusal(how: &'static str, status: u16, head_request: bool) -> Self {
        Self { how, last: Last::Refusal { status, head_request } }
    }
}

impl ClientSession<'_> {
    async fn serve(mut self, mut caller: Caller) {
        let End { how, last } = self.requests(&mut caller).await;
        report::connection(self.shared, &self.subject(&caller), &self.tally, how);
        match last {
            Last::Close => self.channel.close(Instant::now() + CLOSE).await,
            Last::Abort => self.channel.abort(),
            Last::Refusal { status, head_request } => self.refuse_and_close(status, how, head_request).await,
        }
    }

    /// Serves requests until the session is to end.
    async fn requests(&mut self, caller: &mut Caller) -> End {
        let mut scanner = HeadScanner::new();
        loop {
            let live = self.shared.live.load_full();
            let waited = self.wait(&live, &mut scanner).await;
            let head = match waited {
                Waited::Head(head) => head,
                Waited::Done(how) => return End::close(how),
                Waited::Close(reason) => {
                    self.shared.counters.refuse("connection_closed", reason);
                    return End::close(reason);
                }
                Waited::Broken(reason) => {
                    self.shared.counters.refuse("connection_broken", reason);
                    return End::abort(reason);
                }
                Waited::Refuse(error) => {
                    let failure = Failure { blame: "client", reason: error.reason(), status: error.status() };
                    let outcome = Outcome::own(failure.status, Some(failure), Next::Close);
                    self.log(caller, None, Clock::now(), &outcome);
                    // What cannot be parsed may still be seen to be a HEAD, whose answer has no content.
                    let head_request = self.buffer.filled().trim_ascii_start().starts_with(b"HEAD ");
                    return End::refusal(error.reason(), error.status(), head_request);
                }
            };
            let started = Clock::now();
            self.tally.requests += 1;
            // The configuration may have changed while we waited.
            let live = self.shared.live.load_full();
            if let Err(refused) = caller.check(&live) {
                self.shared.counters.refuse("identity_refused", refused.reason);
                self.shared.log.event(
                    Level::Warn,
                    "identity_refused",
                    json!({
                        "peer": self.peer.to_string(),
                        "subject": refused.subject,
                        "reason": refused.reason,
                        "detail": refused.detail,
                    }),
                );
                return End::refusal(refused.reason, 403, head.method() == Method::Head);
            }
            let retired = self.retired(&live);
            let closing = retired.is_some();
            let mut line = RequestLine::new(&head, self.buffer.filled());
            if head.max_forwards() == Some(0) {
                // RFC 9110 7.6.2: such a request goes no further, and we are the one to answer it.
                let close = closing || !head.keep_alive() || !head.framing().is_empty();
                self.buffer.consume(head.head_len());
                let outcome = self.answer_options(close, live.config.timeouts.body).await;
                self.log(caller, Some(&line), started, &outcome);
                match outcome.next {
                    Next::Continue => continue,
                    Next::Close => return End::close(retired.unwrap_or("last_request")),
                    Next::Abort => return End::abort("client_gone"),
                }
            }
            let way = way(&live, caller, &head, self.buffer.filled());
            let Way { site, upstream } = match way {
                Ok(way) => way,
                Err(fault) => {
                    let failure = Failure { blame: "client", reason: fault.reason(), status: fault.status() };
                    let outcome = Outcome::own(failure.status, Some(failure), Next::Close);
                    self.log(caller, Some(&line), started, &outcome);
                    return End::refusal(fault.reason(), fault.status(), head.method() == Method::Head);
                }
            };
            line.site = Some(&site.name);
            line.origin = Some(&upstream.config.name);
            let mut origin_head = Vec::new();
            let offer = tunnel::offer(&head, self.buffer.filled(), &site.upgrade, closing, &self.shared.counters);
            let options = RewriteOptions {
                via: Some(PSEUDONYM),
                upgrade: offer.protocols(),
                expect: true,
                default_host: &upstream.config.server_name,
                close: upstream.config.pool == PoolMode::Off && offer.protocols().is_empty(),
            };
            write_request(
                &head,
                self.buffer.filled(),
                live.reserved.as_ref(),
                &caller.block,
                &options,
                &mut origin_head,
            );
            self.buffer.consume(head.head_len());
            let request = Request {
                shared: self.shared,
                live: &live,
                pool: &self.worker.pool,
                upstream,
                who: caller.identity.fingerprint,
                client: &self.channel,
                caller,
                head: &head,
                upgrade: offer.protocols(),
                origin_head,
                closing,
            };
            let mut outcome = request.run(&mut self.buffer).await;
            self.shared.counters.requests.increment();
            let mut next = outcome.next;
            if let (None, Some(failure)) = (outcome.status, &outcome.failure)
                && failure.status != 0
            {
                let close = next != Next::Continue;
                let response = refusal(failure.status, failure.reason, close, head.method() == Method::Head);
                let patience = Patience::Stall(live.config.timeouts.body);
                if self.channel.write_all(&[&response], patience).await.is_err() {
                    next = Next::Abort;
                } else {
                    outcome.status = Some(failure.status);
                }
            } else if outcome.status.is_none() {
                next = Next::Abort;
            }
            self.log(caller, Some(&line), started, &outcome);
            let failure = outcome.failure.map(|failure| failure.reason);
            match next {
                Next::Continue => {}
                Next::Close => return End::close(failure.or(retired).unwrap_or("last_request")),
                Next::Abort => return End::abort(failure.unwrap_or("client_gone")),
            }
        }
    }

    /// Why the request that begins now is the connection's last one, if it is for us to say.
    fn retired(&self, live: &Live) -> Option<&'static str> {
        if self.phase.borrow().is_draining() {
            Some("drain")
        } else if self.tally.requests >= live.config.limits.requests_per_connection {
            Some("requests_per_connection")
        } else {
            self.channel.must_retire().then_some("key_used_up")
        }
    }

    /// Waits for a whole request head.
    async fn wait(&mut self, live: &Live, scanner: &mut HeadScanner) -> Waited {
        let limits = live.request_limits();
        let idle_until = Instant::now() + live.config.timeouts.idle;
        while self.buffer.is_empty() {
            let drain = live.config.timeouts.drain;
            let drained_at = self.phase.borrow_and_update().idle_until(drain, self.tally.fresh());
            let drained_at = drained_at.map(Instant::from_std);
            if drained_at.is_some_and(|at| at <= Instant::now()) {
                return Waited::Done("drain");
            }
            let until = drained_at.map_or(idle_until, |at| at.min(idle_until));
            tokio::select! {
                read = self.channel.read(&mut self.buffer, Patience::Until(until)) => match read {
                    Ok(Read::Data(_)) => {}
                    Ok(Read::Closed) => return Waited::Done("client_closed"),
                    Err(ChannelError::TimedOut) if until == idle_until => return Waited::Close("idle"),
                    Err(ChannelError::TimedOut) => return Waited::Done("drain"),
                    // Between requests nothing can be cut off: many clients just go.
                    Err(ChannelError::Truncated) => return Waited::Done("client_gone"),
                    Err(error) => return Waited::Broken(error.reason()),
                },
                _ = self.phase.changed() => {}
            }
        }
        let head_until = Instant::now() + live.config.timeouts.header;
        loop {
            match parse_request_with(scanner, self.buffer.filled(), &limits) {
                Ok(Some(head)) => return Waited::Head(Box::new(head)),
                Ok(None) => {}
                Err(error) => return Waited::Refuse(error),
            }
            match self.channel.read(&mut self.buffer, Patience::Until(head_until)).await {
                Ok(Read::Data(_)) => {}
                Ok(Read::Closed) => return Waited::Close("head_incomplete"),
                Err(ChannelError::TimedOut) => return Waited::Close("head_timed_out"),
                Err(error) => return Waited::Broken(error.reason()),
            }
        }
    }

    /// Answers OPTIONS for the appliance itself.
    async fn answer_options(&self, close: bool, stall: std::time::Duration) -> Outcome {
        let response = OwnResponse {
            status: 204,
            content_type: "",
            body: b"".into(),
            extra: format!("Allow: {}\r\n", Method::ALLOW).into_bytes().into(),
            close,
            head_request: false,
        };
        let mut out = Vec::new();
        response.write(Some(&date::now()), &mut out);
        let next = match self.channel.write_all(&[&out], Patience::Stall(stall)).await {
            Ok(()) if close => Next::Close,
            Ok(()) => Next::Continue,
            Err(_) => Next::Abort,
        };
        Outcome::own(204, None, next)
    }

    async fn refuse_and_close(self, status: u16, reason: &'static str, head_request: bool) {
        let response = refusal(status, reason, true, head_request);
        let until = Instant::now() + CLOSE;
        if self.channel.write_all(&[&response], Patience::Until(until)).await.is_ok() {
            self.channel.close(until).await;
        } else {
            self.channel.abort();
        }
    }

    fn subject<'c>(&self, caller: &'c Caller) -> Subject<'c> {
        Subject {
            peer: self.peer,
            org: &caller.organisation.codes,
            serial_number: caller.identity.serial_number.as_deref(),
            session: self.channel.offloaded(),
        }
    }

    fn log(&mut self, caller: &Caller, line: Option<&RequestLine<'_>>, started: Clock, outcome: &Outcome) {
        report::request(self.shared, &self.subject(caller), line, started, outcome, &mut self.tally);
    }
}

/// Where a request goes.
struct Way<'a> {
    site: &'a Site,
    upstream: &'a Upstream,
}

fn way<'a>(live: &'a Live, caller: &Caller, head: &RequestHead, buffer: &[u8]) -> Result<Way<'a>, RouteFault> {
    let site = live.routing.site_of_request(caller.connection.server_name(), head.host(buffer))?;
    let origin = routing::origin_of(site, head.path(buffer))?;
    let upstream = live.origins.get(origin).ok_or(RouteFault::UnknownHost)?;
    Ok(Way { site, upstream })
}

/// A whole response of our own.
fn refusal(status: u16, reason: &str, close: bool, head_request: bool) -> Vec<u8> {
    let mut out = Vec::new();
    // RFC 9110 10.2.3: what is out or full now may not be in a moment.
    let extra: &[u8] = if status == 503 { b"Retry-After: 1\r\n" } else { b"" };
    let response = OwnResponse { close, head_request, extra: extra.into(), ..OwnResponse::refusal(status, reason) };
    response.write(Some(&date::now()), &mut out);
    out
}
