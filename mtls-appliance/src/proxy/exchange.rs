//! One request and its answer: the client's session on one side, an origin connection on the other.
//!
//! Both directions run at the same time in one task, so an origin may answer before it has read the request body. What
//! breaks is told apart by blame: the client's fault, the origin's, or ours; and whether the client has already been
//! sent a part of the answer decides between an error response and a reset.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::buffer::Buffer;
use super::channel::{Channel, ChannelError, Patience, Read};
use super::client::Caller;
use super::date;
use super::origin::response_patience;
use super::pace::Pace;
use super::pool::{Errand, Lease, Link, Pool, Unavailable};
use super::relay::{Moved, Relay, RelayError};
use super::tunnel::Tunnel;
use super::upstream::{Mishap, Upstream, Witness};
use crate::app::{Live, Shared};
use crate::config::{OffloadMode, PoolMode};
use crate::http1::{
    BodyFraming, Disposition, Exchange, HeadLimits, HeadScanner, RequestHead, ResponseError, ResponseHead,
    ResponseOptions, ResponsePlan, parse_response_with, write_response,
};
use crate::ktls::NotOffloaded;
use crate::ktls::session::KernelError;
use crate::telemetry::DataPath;

/// How long an origin that stopped taking the request body may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How far apart two deadlines may pass that were to pass at once.
const SAME_MOMENT: Duration = Duration::from_millis(100);
/// Interim responses to one request; more is a flood.
const MAX_INTERIM: u32 = 32;

/// What became of an exchange.
pub(super) struct Outcome {
    /// Status that the client was sent; `None` when there was none.
    pub(super) status: Option<u16>,
    /// Request body.
    pub(super) up: Moved,
    /// Response body.
    pub(super) down: Moved,
    /// What went wrong, if anything did.
    pub(super) failure: Option<Failure>,
    /// What becomes of the client's connection.
    pub(super) next: Next,
    /// The origin session, when there was one: in the kernel, or why not.
    pub(super) origin: Option<Result<(), Arc<NotOffloaded>>>,
    /// The origin's address, when there was a session.
    pub(super) address: Option<SocketAddr>,
}

impl Outcome {
    /// The appliance answered by itself.
    pub(super) fn own(status: u16, failure: Option<Failure>, next: Next) -> Self {
        let (up, down) = (Moved::default(), Moved::default());
        Self { status: Some(status), up, down, failure, next, origin: None, address: None }
    }
}

/// What becomes of the client's connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Another request may follow.
    Continue,
    /// Close in order.
    Close,
    /// Reset: an answer was cut off.
    Abort,
}

/// A failure with its blame.
#[derive(Debug)]
pub(super) struct Failure {
    /// `client`, `origin` or `appliance`.
    pub(super) blame: &'static str,
    /// Stable name.
    pub(super) reason: &'static str,
    /// Status to answer with, if nothing of the answer has been sent.
    pub(super) status: u16,
}

impl Failure {
    pub(super) fn client(reason: &'static str, status: u16) -> Self {
        Self { blame: "client", reason, status }
    }

    pub(super) fn origin(reason: &'static str, status: u16) -> Self {
        Self { blame: "origin", reason, status }
    }

    /// The client has closed the connection, or reset it, before it had its answer.
    fn gone() -> Self {
        Self::client("client_gone", 0)
    }

    /// What was to go to the client did not.
    fn to_client(error: &ChannelError) -> Self {
        match error {
            ChannelError::NoMemory | ChannelError::Kernel(KernelError::KeyUsedUp) => Self::own(error.reason()),
            ChannelError::TooSlow => Self::client("response_read_too_slow", 0),
            error => Self::client(error.reason(), 0),
        }
    }

    /// What was to go to the origin did not, and there is no answer either.
    fn to_origin(error: &ChannelError) -> Option<Self> {
        match error {
            ChannelError::NoMemory | ChannelError::Kernel(KernelError::KeyUsedUp) => {
                Some(Self { status: 503, ..Self::own(error.reason()) })
            }
            ChannelError::TooSlow => Some(Self::origin("request_read_too_slow", 504)),
            _ => None,
        }
    }

    /// Nobody's fault: we ended it.
    pub(super) fn own(reason: &'static str) -> Self {
        Self { blame: "appliance", reason, status: 0 }
    }
}

/// What an exchange needs to know.
pub(super) struct Request<'a> {
    pub(super) shared: &'a Shared,
    pub(super) live: &'a Arc<Live>,
    pub(super) pool: &'a Pool,
    /// Where the request goes.
    pub(super) upstream: &'a Upstream,
    /// SHA-256 of the client's certificate.
    pub(super) who: Witness,
    pub(super) client: &'a Channel,
    pub(super) caller: &'a Caller,
    pub(super) head: &'a RequestHead,
    /// The value of the Upgrade field that the origin gets; empty: none.
    pub(super) upgrade: &'a [u8],
    /// The head for the origin, as written by [`crate::http1::write_request`].
    pub(super) origin_head: Vec<u8>,
    /// The client's connection ends after this request.
    pub(super) closing: bool,
}

/// How an attempt on one origin connection ended early.
enum Broken {
    /// Before anything of the answer was sent to the client.
    Before {
        failure: Failure,
        /// The origin cannot have acted on the request, or acting twice does no harm, and nothing was received.
        retry: bool,
        /// The request body was read to its end (or there is none), so the client's connection is in step.
        in_step: bool,
    },
    /// After a part of the answer went out.
    During { failure: Failure, status: u16 },
}

impl Request<'_> {
    /// Runs the exchange. `buffer` holds what the client sent after the head.
    pub(super) async fn run(mut self, buffer: &mut Buffer) -> Outcome {
        let up = Cell::new(Moved::default());
        let down = Cell::new(Moved::default());
        let mut session = None;
        let outcome = |status, failure, next, origin, address| {
            let (up, down) = (up.get(), down.get());
            Outcome { status, up, down, failure, next, origin, address }
        };
        let Request { shared, live, upstream, who, client, .. } = self;
        let errand = Errand { shared, live, upstream, who, client };
        let mut tried = Vec::new();
        let mut retried = None;
        let mut address = None;
        loop {
            let Lease { mut link, busy } = match self.pool.acquire(errand, &mut tried, retried.is_some()).await {
                Ok(lease) => lease,
                Err(Unavailable::ClientGone) => {
                    return outcome(None, Some(Failure::gone()), Next::Abort, session, address);
                }
                Err(error) => {
                    // What happened to the first attempt says more than that there is no second.
                    let failure = retried.unwrap_or_else(|| Failure::origin(error.reason(), error.status()));
                    let next =
                        if self.head.framing().is_empty() && !self.closing { Next::Continue } else { Next::Close };
                    return outcome(None, Some(failure), next, session, address);
                }
            };
            // What is still to be read of a request is read first: how that ends says more.
            if self.head.framing().is_empty() && self.client.is_gone().await {
                self.pool.put(link, self.keep());
                return outcome(None, Some(Failure::gone()), Next::Abort, session, address);
            }
            let server = busy.server();
            address = Some(server.address);
            let attempt = self.attempt(&mut link, buffer, &up, &down).await;
            session = Some(link.channel.offloaded());
            match attempt {
                Ok(Done { status, switched: Some(head), .. }) => {
                    errand.answered(server);
                    // Tunnels are few and long-lived: what they need shall not weigh on every connection.
                    let (failure, next, session) = Box::pin(self.tunnel(link, head, (buffer, &up), &down)).await;
                    return outcome(Some(status), failure, next, Some(session), address);
                }
                Ok(done) => {
                    errand.answered(server);
                    if done.reuse_origin && link.buffer.is_empty() && !link.channel.must_retire() {
                        self.pool.put(link, self.keep());
                    } else {
                        link.close();
                    }
                    let next = if done.close_client { Next::Close } else { Next::Continue };
                    return outcome(Some(done.status), None, next, session, address);
                }
                Err(Broken::Before { failure, retry, in_step }) => {
                    let stale = link.reused;
                    link.channel.abort();
                    // That an idle connection was closed says nothing about its address.
                    if failure.blame == "origin" && !(stale && retry) {
                        errand.failed(server, Mishap::Answer, failure.reason);
                    }
                    if retry && retried.is_none() && (stale || self.upstream.has_spare(server)) {
                        if !stale {
                            tried.push(server.id);
                        }
                        self.shared.counters.requests_retried.increment();
                        retried = Some(failure);
                        continue;
                    }
                    let next = if in_step && !self.closing { Next::Continue } else { Next::Close };
                    return outcome(None, Some(failure), next, session, address);
                }
                Err(Broken::During { failure, status }) => {
                    errand.answered(server);
                    link.channel.abort();
                    return outcome(Some(status), Some(failure), Next::Abort, session, address);
                }
            }
        }
    }

    async fn attempt(
        &mut self,
        link: &mut Link,
        buffer: &mut Buffer,
        up: &Cell<Moved>,
        down: &Cell<Moved>,
    ) -> Result<Done, Broken> {
        let config = &self.live.config;
        let stall = Patience::Stall(config.timeouts.body);
        let splice_from = self.splice_from(&link.channel);
        let hand_over_from = self.hand_over_from();
        let framing = self.head.framing();
        let replayable = framing.is_empty() && self.head.method().is_idempotent();
        let pending = if replayable { self.origin_head.clone() } else { std::mem::take(&mut self.origin_head) };
        let mut upload = Relay {
            from: self.client,
            buffer,
            to: &link.channel,
            pending,
            giving: Pace::giving(config, None),
            taking: Pace::taking(config),
            splice_from,
            hand_over_from,
            limit: config.limits.body_bytes,
            counters: &self.shared.counters,
            moved: up,
        };
        let chunks = self.live.request_chunks();
        let live = self.live;
        let mut upload = pin!(async move {
            match framing {
                BodyFraming::None | BodyFraming::UntilClose => upload.flush().await,
                BodyFraming::Length(length) => upload.exactly(length).await,
                BodyFraming::Chunked => upload.chunked(chunks, live.reserved.as_ref(), false).await,
            }
        });
        let mut uploaded: Option<Result<(), RelayError>> = None;
        let uploading = Cell::new(true);
        let mut answer = Answer::new(self, &link.channel, &mut link.buffer);
        // Nobody is left to read the answer: whoever works on it at the origin may stop. While the request is on its way,
        // the upload sees how the client ends.
        let mut gone = pin!(self.client.gone());

        // The head of the answer, while the request body is still on its way.
        let (head, plan) = loop {
            let patience = answer.patience(uploaded.as_ref(), self.upstream.config.response_timeout);
            tokio::select! {
                biased;
                result = &mut upload, if uploaded.is_none() => {
                    if let Some(failure) = client_fault(&result) {
                        return Err(answer.broken(failure, false, false));
                    }
                    uploaded = Some(result);
                    uploading.set(false);
                    answer.request_sent = Some(Instant::now());
                }
                head = answer.head(patience) => match head {
                    Ok(found) => {
                        // An origin that answers early and closes will not read the rest of the request, so the client
                        // must be told; one that answers early and stays may be streaming.
                        let finished = matches!(uploaded, Some(Ok(())));
                        let plan = found.plan(&answer.exchange, self.closing);
                        let plan = match finished || plan.reuse_origin {
                            true => plan,
                            false => found.plan(&answer.exchange, true),
                        };
                        match plan.disposition {
                            Disposition::Final => break (found, plan),
                            Disposition::Interim | Disposition::Swallow => {
                                if let Err(failure) = answer.interim(&found, &plan, stall).await {
                                    return Err(answer.broken(failure, false, false));
                                }
                            }
                            Disposition::Tunnel if finished => {
                                let switched = Some(answer.take(&found, &plan));
                                return Ok(Done { status: 101, close_client: true, reuse_origin: false, switched });
                            }
                            Disposition::Tunnel => {
                                let failure = Failure::origin("switched_before_the_request", 502);
                                return Err(answer.broken(failure, false, false));
                            }
                        }
                    }
                    Err(fault) => {
                        let in_step = matches!(uploaded, Some(Ok(())));
                        if let Some(Err(RelayError::To(error))) = &uploaded
                            && let Some(failure) = Failure::to_origin(error)
                        {
                            return Err(answer.broken(failure, false, false));
                        }
                        // A reused connection that broke before a single byte of an answer: it had been closed.
                        let retry = replayable && fault.unanswered && answer.buffer.is_empty() && answer.interims == 0;
                        return Err(answer.broken(fault.failure, retry, in_step));
                    }
                },
                () = &mut gone, if uploaded.is_some() => return Err(answer.broken(Failure::gone(), false, false)),
            }
        };

        // The body of the answer; the upload goes on beside it if the origin answered early.
        let status = head.status();
        // An origin whose answer follows the request, as an echo does, is not to blame for a slow client.
        let giving = Pace::giving(config, Some(&uploading));
        let from = (splice_from, hand_over_from);
        let mut download = answer.begin(&head, &plan, (giving, Pace::taking(config)), from, down);
        let chunks = self.live.response_chunks();
        let mut download = pin!(async move {
            match head.framing() {
                BodyFraming::None => download.flush().await,
                BodyFraming::Length(length) => download.exactly(length).await,
                BodyFraming::Chunked => download.chunked(chunks, &(), plan.dechunk).await,
                BodyFraming::UntilClose => download.until_close().await,
            }
        });
        let downloaded = loop {
            tokio::select! {
                biased;
                result = &mut download => break result,
                result = &mut upload, if uploaded.is_none() => {
                    if let Some(failure) = client_fault(&result) {
                        return Err(Broken::During { failure, status });
                    }
                    uploaded = Some(result);
                    uploading.set(false);
                }
                () = &mut gone, if uploaded.is_some() => {
                    return Err(Broken::During { failure: Failure::gone(), status });
                }
            }
        };
        if matches!(downloaded, Err(RelayError::From(ChannelError::TimedOut))) && uploaded.is_none() {
            // Both are silent. An origin whose answer follows the request is silent because the client is, whose time is up
            // no later than the origin's: within the same tick of the clock.
            if let Ok(result) = timeout(SAME_MOMENT, &mut upload).await
                && let Some(failure) = client_fault(&result)
            {
                return Err(Broken::During { failure, status });
            }
        }
        if downloaded.is_ok() && uploaded.is_none() && plan.reuse_origin {
            // The answer is complete and the request is not: let it come to its end if that is near.
            match timeout(LAST_WORDS, &mut upload).await {
                Ok(result) if client_fault(&result).is_none() => uploaded = Some(result),
                _ => {}
            }
        }
        let in_step = matches!(uploaded, Some(Ok(())));
        match downloaded {
            Ok(()) => Ok(Done {
                status,
                close_client: plan.close_client || !in_step,
                reuse_origin: plan.reuse_origin && in_step,
                switched: None,
            }),
            Err(error) => {
                let failure = match &error {
                    RelayError::To(error) => Failure::to_client(error),
                    RelayError::From(ChannelError::TooSlow) => Failure::origin("response_body_too_slow", 502),
                    _ => Failure::origin(error.reason(), 502),
                };
                Err(Broken::During { failure, status })
            }
        }
    }

    /// Carries the bytes of another protocol until the end of both connections; that of the client is left to the caller.
    async fn tunnel(
        &self,
        mut link: Link,
        head: Vec<u8>,
        (buffer, up): (&mut Buffer, &Cell<Moved>),
        down: &Cell<Moved>,
    ) -> (Option<Failure>, Next, Result<(), Arc<NotOffloaded>>) {
        let tunnel = Tunnel {
            shared: self.shared,
            live: self.live,
            caller: self.caller,
            client: self.client,
            origin: &link.channel,
            splice_from: self.splice_from(&link.channel),
            hand_over: self.hand_over_from() < u64::MAX,
        };
        let end = tunnel.run(head, (buffer, up), (&mut link.buffer, down)).await;
        let session = link.channel.offloaded();
        if end.origin_whole {
            link.close();
        } else {
            link.channel.abort();
        }
        (end.failure, if end.client_whole { Next::Close } else { Next::Abort }, session)
    }

    /// From which length on a body has sessions handed over that are not in the kernel yet.
    fn hand_over_from(&self) -> u64 {
        let config = &self.live.config;
        if config.offload == OffloadMode::Off { u64::MAX } else { config.hand_over_from }
    }

    /// How many idle connections of the client's identity are kept.
    fn keep(&self) -> usize {
        let config = &self.upstream.config;
        if config.pool == PoolMode::Off { 0 } else { config.idle_per_identity }
    }

    /// From which length on bodies are spliced between these two sessions, or why none is.
    fn splice_from(&self, origin: &Channel) -> Result<u64, DataPath> {
        self.client.offloadable().and_then(|()| origin.offloadable()).map_err(|why| why.data_path())?;
        match self.live.config.splice_from {
            _ if self.shared.support.no_splice.is_some() => Err(DataPath::KernelNoSplice),
            u64::MAX => Err(DataPath::KernelSpliceNever),
            from => Ok(from),
        }
    }
}

struct Done {
    status: u16,
    close_client: bool,
    reuse_origin: bool,
    /// The origin has switched protocols: the head that tells the client.
    switched: Option<Vec<u8>>,
}

/// A failed upload that is the client's fault. One that is the origin's is no reason to stop reading its answer.
fn client_fault(result: &Result<(), RelayError>) -> Option<Failure> {
    match result {
        Ok(()) | Err(RelayError::To(_)) => None,
        Err(RelayError::From(ChannelError::TimedOut)) => Some(Failure::client("request_body_timed_out", 408)),
        Err(RelayError::From(ChannelError::TooSlow)) => Some(Failure::client("request_body_too_slow", 408)),
        Err(error @ RelayError::Framing(fault)) => Some(Failure::client(error.reason(), fault.status())),
        Err(error @ RelayError::TooLarge) => Some(Failure::client(error.reason(), 413)),
        Err(error @ (RelayError::From(_) | RelayError::Incomplete)) => Some(Failure::client(error.reason(), 400)),
    }
}

/// A fault of the origin while its head is read.
struct HeadFault {
    failure: Failure,
    /// The connection broke without a byte of an answer.
    unanswered: bool,
}

/// The answer's way: from the origin's session to the client's.
struct Answer<'a> {
    shared: &'a Shared,
    client: &'a Channel,
    origin: &'a Channel,
    buffer: &'a mut Buffer,
    scanner: HeadScanner,
    limits: HeadLimits,
    body_bytes: u64,
    exchange: Exchange<'a>,
    request_sent: Option<Instant>,
    interims: u32,
}

impl<'a> Answer<'a> {
    fn new(request: &Request<'a>, origin: &'a Channel, buffer: &'a mut Buffer) -> Self {
        Self {
            shared: request.shared,
            client: request.client,
            origin,
            buffer,
            scanner: HeadScanner::new(),
            limits: request.live.response_limits(),
            body_bytes: u64::MAX,
            exchange: request.head.exchange(request.upgrade),
            request_sent: None,
            interims: 0,
        }
    }

    /// How long to wait for the head: not limited while the request is on its way, since the upload has its own
    /// deadline; short when the origin stopped taking it.
    fn patience(&self, uploaded: Option<&Result<(), RelayError>>, response: Duration) -> Patience<'static> {
        response_patience(match (uploaded, self.request_sent) {
            (Some(Ok(())), Some(sent)) => Some(sent + response),
            (Some(Err(_)), Some(sent)) => Some(sent + LAST_WORDS.min(response)),
            _ => None,
        })
    }

    async fn head(&mut self, patience: Patience<'_>) -> Result<ResponseHead, HeadFault> {
        loop {
            match parse_response_with(&mut self.scanner, self.buffer.filled(), &self.exchange, &self.limits) {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => {}
                Err(error) => {
                    return Err(HeadFault {
                        failure: Failure::origin(ResponseError::reason(error), 502),
                        unanswered: false,
                    });
                }
            }
            let unanswered = self.buffer.is_empty();
            match self.origin.read(self.buffer, patience).await {
                Ok(Read::Data(_)) => {}
                Ok(Read::Closed) => {
                    return Err(HeadFault { failure: Failure::origin("closed_without_answer", 502), unanswered });
                }
                Err(ChannelError::TimedOut) => {
                    return Err(HeadFault { failure: Failure::origin("response_timed_out", 504), unanswered: false });
                }
                Err(error) => {
                    return Err(HeadFault { failure: Failure::origin(error.reason(), 502), unanswered });
                }
            }
        }
    }

    /// Passes an interim response on, or drops it.
    async fn interim(
        &mut self,
        head: &ResponseHead,
        plan: &ResponsePlan,
        patience: Patience<'_>,
    ) -> Result<(), Failure> {
        self.interims += 1;
        if self.interims > MAX_INTERIM {
            return Err(Failure::origin("interim_response_flood", 502));
        }
        let out = self.take(head, plan);
        if !out.is_empty() {
            self.client.write_all(&[&out], patience).await.map_err(|error| Failure::to_client(&error))?;
        }
        Ok(())
    }

    /// The head for the client; what the origin has sent behind it stays in the buffer.
    fn take(&mut self, head: &ResponseHead, plan: &ResponsePlan) -> Vec<u8> {
        let mut out = Vec::new();
        write_response(head, self.buffer.filled(), plan, &self.options(&date::now()), &mut out);
        self.buffer.consume(head.head_len());
        out
    }

    fn options<'d>(&self, date: &'d str) -> ResponseOptions<'d> {
        ResponseOptions { via: None, date: Some(date), extra: b"" }
    }

    /// The relay of the answer's body, with the head pending.
    fn begin(
        mut self,
        head: &ResponseHead,
        plan: &ResponsePlan,
        (giving, taking): (Pace<'a>, Pace<'a>),
        (splice_from, hand_over_from): (Result<u64, DataPath>, u64),
        moved: &'a Cell<Moved>,
    ) -> Relay<'a> {
        let pending = self.take(head, plan);
        Relay {
            from: self.origin,
            buffer: self.buffer,
            to: self.client,
            pending,
            giving,
            taking,
            splice_from,
            hand_over_from,
            limit: self.body_bytes,
            counters: &self.shared.counters,
            moved,
        }
    }

    fn broken(&self, failure: Failure, retry: bool, in_step: bool) -> Broken {
        Broken::Before { failure, retry, in_step }
    }
}
