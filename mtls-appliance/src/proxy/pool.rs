//! A worker's connections to origins: keeping idle ones for whom they were opened, and handing them out.
//!
//! By default an origin connection serves one client identity only, so that no confusion about where a message ends can
//! ever hand one client's answer to another. How many there are to one address is bounded over all workers; a request
//! that finds no room waits, and whoever sits on an idle connection to that address gives it up.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep};

use super::buffer::Buffer;
use super::channel::{Channel, Side};
use super::origin::{self, ConnectError};
use super::upstream::{Busy, Mishap, Server, Upstream, Witness};
use crate::app::{Live, Shared};
use crate::config::PoolMode;

/// How long an orderly close of an origin connection may take.
const CLOSE: std::time::Duration = std::time::Duration::from_secs(2);
/// Addresses that one request tries.
const ATTEMPTS: usize = 3;

/// Who may use a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    /// SHA-256 of the client's certificate; zeros where all clients share.
    fingerprint: Witness,
    /// [`Server::id`].
    server: u64,
    /// [`Live::generation`] that it was opened under.
    generation: u64,
}

/// A connection to an origin.
pub(super) struct Link {
    pub(super) channel: Channel,
    pub(super) buffer: Buffer,
    /// It has served a request before.
    pub(super) reused: bool,
    owner: Owner,
    server: Arc<Server>,
    /// Its place among the connections to the address.
    slot: OwnedSemaphorePermit,
    idle_since: Instant,
}

impl Link {
    /// Closes in order, in the background.
    pub(super) fn close(self) {
        let Self { channel, slot, .. } = self;
        tokio::task::spawn_local(async move {
            channel.close(Instant::now() + CLOSE).await;
            drop(slot);
        });
    }
}

/// A connection for one request.
pub(super) struct Lease {
    pub(super) link: Link,
    /// Counts the request towards the address.
    pub(super) busy: Busy,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unavailable {
    /// The last address that was tried.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Every address is out.
    #[error("no address of the origin takes requests")]
    AllOut,
    /// No name could be looked up.
    #[error("no name of the origin has been looked up yet")]
    Unresolved,
    /// Too many requests wait for a connection.
    #[error("too many requests wait for a connection")]
    QueueFull,
    /// No connection became free in time.
    #[error("no connection became free in time")]
    QueueTimedOut,
    /// The client has left while it waited for one.
    #[error("the client left while its request waited for a connection")]
    ClientGone,
}

impl Unavailable {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Connect(error) => error.reason(),
            Self::AllOut => "origin_out",
            Self::Unresolved => "origin_unresolved",
            Self::QueueFull => "origin_queue_full",
            Self::QueueTimedOut => "origin_queue_timed_out",
            Self::ClientGone => "client_gone",
        }
    }

    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Connect(ConnectError::TimedOut) => 504,
            Self::Connect(_) => 502,
            _ => 503,
        }
    }
}

/// For whom a connection is wanted, and where to.
#[derive(Clone, Copy)]
pub(super) struct Errand<'a> {
    pub(super) shared: &'a Shared,
    pub(super) live: &'a Live,
    pub(super) upstream: &'a Upstream,
    /// SHA-256 of the client's certificate.
    pub(super) who: Witness,
    /// The client's session.
    pub(super) client: &'a Channel,
}

impl Errand<'_> {
    fn owner(&self, server: &Server) -> Owner {
        let shared = self.upstream.config.pool == PoolMode::Shared;
        let fingerprint = if shared { [0; 32] } else { self.who };
        Owner { fingerprint, server: server.id, generation: self.live.generation }
    }

    /// Tells the address and the log about a failure.
    pub(super) fn failed(&self, server: &Server, mishap: Mishap, problem: &str) {
        let config = &self.upstream.config;
        let spare = self.upstream.has_spare(server);
        let change = server.failed(mishap, self.who, problem, spare, (config.eject_after, config.eject_for));
        if let Some(change) = change {
            self.upstream.report(&self.shared.log, &self.shared.counters, server, change);
        }
    }

    /// The same about an answer.
    pub(super) fn answered(&self, server: &Server) {
        if let Some(change) = server.answered() {
            self.upstream.report(&self.shared.log, &self.shared.counters, server, change);
        }
    }
}

/// The idle origin connections of one worker, and who waits for one.
#[derive(Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<Owner, Vec<Link>>>,
    waiters: RefCell<HashMap<Owner, VecDeque<oneshot::Sender<Box<Link>>>>>,
}

impl Pool {
    /// A connection for a request, to none of the addresses in `tried`; those that cannot be connected to are added.
    /// With `fresh` none that has served before.
    pub(super) async fn acquire(
        &self,
        errand: Errand<'_>,
        tried: &mut Vec<u64>,
        fresh: bool,
    ) -> Result<Lease, Unavailable> {
        let upstream = errand.upstream;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let Some(busy) = upstream.choose(tried) else { break };
            let server = Arc::clone(busy.server());
            let owner = errand.owner(&server);
            if !fresh && let Some(link) = self.take(owner) {
                return Ok(Lease { link, busy });
            }
            let slot = match server.try_slot() {
                Some(slot) => slot,
                None => match self.wait(errand, &server, owner).await? {
                    Turn::Slot(slot) => slot,
                    Turn::Link(link) => return Ok(Lease { link: *link, busy }),
                },
            };
            match origin::connect(errand.shared, errand.live, upstream, server.address).await {
                Ok(channel) => {
                    count(errand.shared, &channel);
                    let buffer = Buffer::new(errand.live.buffer_size());
                    let link = Link { channel, buffer, reused: false, owner, server, slot, idle_since: Instant::now() };
                    return Ok(Lease { link, busy });
                }
                Err(error) => {
                    origin::log_failure(errand.shared, upstream, server.address, &error);
                    errand.failed(&server, Mishap::Connect, &error.to_string());
                    tried.push(server.id);
                    last = Some(error);
                }
            }
        }
        Err(match last {
            Some(error) => error.into(),
            None if upstream.is_unresolved() => Unavailable::Unresolved,
            None => Unavailable::AllOut,
        })
    }

    /// Waits for room at an address, or for a connection that somebody with the same right to it gives back.
    async fn wait(&self, errand: Errand<'_>, server: &Arc<Server>, owner: Owner) -> Result<Turn, Unavailable> {
        let config = &errand.upstream.config;
        let Some(_place) = server.queue(config.queue) else {
            return Err(Unavailable::QueueFull);
        };
        errand.shared.counters.requests_queued.increment();
        // Idle connections, here and at the other workers, make room.
        errand.shared.crowded.send_modify(|times| *times = times.wrapping_add(1));
        let (sender, receiver) = oneshot::channel();
        self.waiters.borrow_mut().entry(owner).or_default().push_back(sender);
        let turn = tokio::select! {
            biased;
            link = receiver => link.ok().map(Turn::Link).ok_or(Unavailable::QueueTimedOut),
            slot = server.slot() => slot.map(Turn::Slot).ok_or(Unavailable::QueueTimedOut),
            () = errand.client.gone() => Err(Unavailable::ClientGone),
            () = sleep(config.queue_timeout) => Err(Unavailable::QueueTimedOut),
        };
        let mut waiters = self.waiters.borrow_mut();
        if let Some(queue) = waiters.get_mut(&owner) {
            queue.retain(|sender| !sender.is_closed());
            if queue.is_empty() {
                waiters.remove(&owner);
            }
        }
        turn
    }

    /// Takes an idle connection that is still usable.
    fn take(&self, owner: Owner) -> Option<Link> {
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
            link.close();
        }
    }

    /// Takes a connection back whose last exchange ended cleanly, and keeps at most `limit` of its kind.
    pub(super) fn put(&self, mut link: Link, limit: usize) {
        link.reused = true;
        if let Some(queue) = self.waiters.borrow_mut().get_mut(&link.owner) {
            while let Some(waiter) = queue.pop_front() {
                match waiter.send(Box::new(link)) {
                    Ok(()) => return,
                    Err(back) => link = *back,
                }
            }
        }
        if limit == 0 || link.server.waiting() > 0 {
            return link.close();
        }
        link.idle_since = Instant::now();
        let mut idle = self.idle.borrow_mut();
        let links = idle.entry(link.owner).or_default();
        links.push(link);
        let surplus = (links.len() > limit).then(|| links.remove(0));
        drop(idle);
        if let Some(link) = surplus {
            link.close();
        }
    }

    /// Closes one idle connection for each request that waits for room at its address.
    pub(super) fn relieve(&self) {
        let mut given_up: HashMap<u64, usize> = HashMap::new();
        self.close_where(|link| {
            let given = given_up.entry(link.server.id).or_default();
            let needed = *given < link.server.waiting();
            *given += usize::from(needed);
            needed
        });
    }

    /// Closes what has been idle too long, belongs to an older configuration, or leads to an address that is no more.
    pub(super) fn sweep(&self, live: &Live) {
        let now = Instant::now();
        let known: Vec<u64> = live.origins.iter().flat_map(|origin| origin.servers()).map(|server| server.id).collect();
        self.close_where(|link| {
            link.owner.generation != live.generation
                || !known.contains(&link.owner.server)
                || now.duration_since(link.idle_since) > live.config.timeouts.origin_idle
        });
    }

    /// Closes everything.
    pub(super) fn clear(&self) {
        self.close_where(|_| true);
    }

    fn close_where(&self, mut condition: impl FnMut(&Link) -> bool) {
        let mut closing = Vec::new();
        self.idle.borrow_mut().retain(|_, links| {
            let (close, keep) = links.drain(..).partition(&mut condition);
            *links = keep;
            closing.extend::<Vec<Link>>(close);
            !links.is_empty()
        });
        closing.into_iter().for_each(Link::close);
    }
}

/// What a request that waited got.
enum Turn {
    Slot(OwnedSemaphorePermit),
    Link(Box<Link>),
}

fn count(shared: &Shared, channel: &Channel) {
    shared.counters.origin_connections.increment();
    channel.count(Side::Origin);
}

/// Shared by the tasks of one worker.
pub(super) type SharedPool = Rc<Pool>;
