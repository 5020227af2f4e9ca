//! One TLS session on one socket, in the kernel or in userspace, behind the same calls.
//!
//! All methods take `&self`: the two directions of a session are used at the same time from one task. Nothing here
//! knows HTTP; nothing is shared between threads. Sessions that begin in userspace may go to the kernel later, see [`Channel::to_kernel`].

mod hand_over;
mod patience;
mod send;
mod splice;
mod starving;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use hand_over::Course;
pub use patience::{ChannelError, Patience};
pub use splice::Filled;
use starving::Starving;

use super::buffer::Buffer;
use crate::ktls::session::{KernelError, KeyLimit, Received};
use crate::ktls::{KernelSession, NotOffloaded};
use crate::telemetry::Counters;
use crate::tls::session::Session;

/// Ciphertext read at once in userspace.
const READ_AT_ONCE: usize = 64 * 1024;
thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_AT_ONCE]);
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were added.
    Data(usize),
    /// close_notify: the peer has said all it had to say.
    Closed,
}

/// Which side of us the peer is on; for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A caller.
    Client,
    /// The origin.
    Origin,
}

enum Records {
    Kernel(Box<KernelSession>),
    User(Box<Session>),
    /// The hand-over failed half-way.
    Lost,
}

impl Records {
    fn lost() -> ChannelError {
        io::Error::new(io::ErrorKind::NotConnected, "the hand-over failed").into()
    }
}

/// A TLS session on a socket.
pub struct Channel {
    tcp: TcpStream,
    records: RefCell<Records>,
    course: Cell<Course>,
    limit: KeyLimit,
    /// Plaintext from before the hand-over.
    early: RefCell<Vec<u8>>,
    not_offloaded: RefCell<Option<Arc<NotOffloaded>>>,
    side: Cell<Option<Side>>,
    /// The peer has said close_notify.
    closed: Cell<bool>,
    /// We have said close_notify.
    finished: Cell<bool>,
    /// The kernel has no memory for what is to be sent.
    starving: Cell<Option<Starving>>,
    counters: Arc<Counters>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Records::Kernel(session) = self.records.get_mut() {
            let (control_records, keys_renewed) = session.totals();
            self.counters.control_records.add(control_records);
            self.counters.keys_renewed.add(keys_renewed);
        }
        if self.course.get() != Course::Stays {
            self.count_as(false);
        }
    }
}

impl Channel {
    /// A session that is handed over now.
    ///
    /// # Errors
    /// The hand-over failed: the session is lost.
    pub fn kernel(
        tcp: TcpStream,
        session: Session,
        limit: KeyLimit,
        counters: Arc<Counters>,
    ) -> Result<Self, KernelError> {
        let (kernel, early) = KernelSession::hand_over(tcp.as_fd(), session, limit)?;
        let channel = Self::new(tcp, Records::Kernel(Box::new(kernel)), Course::Stays, limit, None, counters);
        channel.early.replace(early);
        Ok(channel)
    }

    /// A session whose records are made here, and why.
    pub fn user(tcp: TcpStream, session: Session, why: NotOffloaded, counters: Arc<Counters>) -> Self {
        // rustls has its own.
        let limit = KeyLimit { records: KeyLimit::MOST, renewable: true };
        Self::new(tcp, Records::User(Box::new(session)), Course::Stays, limit, Some(why), counters)
    }

    /// A session whose records are made here until [`Self::to_kernel`]; the socket is prepared for that.
    pub fn user_at_first(tcp: TcpStream, session: Session, limit: KeyLimit, counters: Arc<Counters>) -> Self {
        let why = Some(NotOffloaded::BelowThreshold);
        Self::new(tcp, Records::User(Box::new(session)), Course::Later, limit, why, counters)
    }

    fn new(
        tcp: TcpStream,
        records: Records,
        course: Course,
        limit: KeyLimit,
        not_offloaded: Option<NotOffloaded>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            tcp,
            records: RefCell::new(records),
            course: Cell::new(course),
            limit,
            early: RefCell::default(),
            not_offloaded: RefCell::new(not_offloaded.map(Arc::new)),
            side: Cell::new(None),
            closed: Cell::new(false),
            finished: Cell::new(false),
            starving: Cell::new(None),
            counters,
        }
    }

    /// Counts the session as one towards that side: when it is in the kernel, or is known to stay here.
    pub fn count(&self, side: Side) {
        self.side.set(Some(side));
        if self.course.get() == Course::Stays {
            self.count_as(self.is_kernel());
        }
    }

    fn count_as(&self, kernel: bool) {
        match (self.side.get(), kernel) {
            (Some(Side::Client), true) => self.counters.client_sessions_offloaded.increment(),
            (Some(Side::Client), false) => self.counters.client_sessions_userspace.increment(),
            (Some(Side::Origin), true) => self.counters.origin_sessions_offloaded.increment(),
            (Some(Side::Origin), false) => self.counters.origin_sessions_userspace.increment(),
            (None, _) => {}
        }
    }

    /// Whether the kernel makes the records.
    pub fn is_kernel(&self) -> bool {
        self.not_offloaded.borrow().is_none()
    }

    /// Whether the session is in the kernel, or why not.
    ///
    /// # Errors
    /// Why not.
    pub fn offloaded(&self) -> Result<(), Arc<NotOffloaded>> {
        self.not_offloaded.borrow().clone().map_or(Ok(()), Err)
    }

    /// Whether the session is in the kernel or may yet be, or why not.
    ///
    /// # Errors
    /// Why not.
    pub fn offloadable(&self) -> Result<(), Arc<NotOffloaded>> {
        if self.course.get() == Course::Stays { self.offloaded() } else { Ok(()) }
    }

    /// Whether the peer has said close_notify, and that has been read.
    pub fn peer_closed(&self) -> bool {
        self.closed.get()
    }

    /// The session's key is near its limit and cannot be renewed.
    pub fn must_retire(&self) -> bool {
        match &*self.records.borrow() {
            Records::Kernel(session) => session.must_retire(),
            // One that may be handed over does not begin to renew keys where the kernel might not follow.
            Records::User(session) if self.course.get() != Course::Stays => {
                session.records_sent() >= self.limit.records
            }
            // rustls renews keys by itself in TLS 1.3 and refuses to send beyond the limit in 1.2.
            Records::User(_) => false,
            Records::Lost => true,
        }
    }

    /// Reads if something is there; `None` otherwise. `buffer` must not be full.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn try_read(&self, buffer: &mut Buffer) -> Result<Option<Read>, ChannelError> {
        if buffer.is_full() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        self.hand_over_if_due()?;
        if self.closed.get() {
            return Ok(Some(Read::Closed));
        }
        let mut early = self.early.borrow_mut();
        if !early.is_empty() {
            let room = buffer.room();
            let n = early.len().min(room.len());
            room[..n].copy_from_slice(&early[..n]);
            buffer.added(n);
            early.drain(..n);
            if early.is_empty() {
                *early = Vec::new();
            }
            return Ok(Some(Read::Data(n)));
        }
        drop(early);
        match &mut *self.records.borrow_mut() {
            Records::Kernel(session) => self.try_read_kernel(session, buffer),
            Records::User(session) => self.try_read_user(session, buffer),
            Records::Lost => Err(Records::lost()),
        }
    }

    fn try_read_kernel(&self, session: &mut KernelSession, buffer: &mut Buffer) -> Result<Option<Read>, ChannelError> {
        loop {
            let received =
                self.tcp.try_io(Interest::READABLE, || match session.receive(self.tcp.as_fd(), buffer.room()) {
                    Err(KernelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                    other => Ok(other),
                });
            match received {
                Err(_) => {
                    buffer.added(0);
                    return Ok(None);
                }
                Ok(Err(error)) => {
                    buffer.added(0);
                    if let Some(alert) = error.alert() {
                        KernelSession::send_fatal_alert(self.tcp.as_fd(), alert);
                    }
                    return Err(error.into());
                }
                Ok(Ok(Received::Control)) => {}
                Ok(Ok(Received::Data(n))) => {
                    buffer.added(n);
                    return Ok(Some(Read::Data(n)));
                }
                Ok(Ok(Received::CloseNotify)) => {
                    buffer.added(0);
                    self.closed.set(true);
                    return Ok(Some(Read::Closed));
                }
                Ok(Ok(Received::Fin)) => {
                    buffer.added(0);
                    return Err(ChannelError::Truncated);
                }
            }
        }
    }

    fn try_read_user(&self, session: &mut Session, buffer: &mut Buffer) -> Result<Option<Read>, ChannelError> {
        loop {
            if session.pending() > 0 {
                let n = session.take_plain(buffer.room());
                buffer.added(n);
                return Ok(Some(Read::Data(n)));
            }
            if session.peer_closed() {
                self.closed.set(true);
                return Ok(Some(Read::Closed));
            }
            let most = self.read_at_most(session);
            let fed = SCRATCH.with(|scratch| {
                let mut scratch = scratch.borrow_mut();
                match self.tcp.try_read(&mut scratch[..most]) {
                    Ok(0) => Err(ChannelError::Truncated),
                    Ok(n) => {
                        let fed = session.feed(&scratch[..n]);
                        // An answer to a KeyUpdate, or an alert when this failed. What the socket does not take now
                        // goes out before the next data.
                        let _ = self.try_flush(session);
                        fed.map(|_| true).map_err(ChannelError::from)
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                    Err(error) => Err(error.into()),
                }
            })?;
            if !fed {
                session.trim();
                return Ok(None);
            }
        }
    }

    fn try_flush(&self, session: &mut Session) -> io::Result<()> {
        while !session.outgoing().is_empty() {
            let n = self.tcp.try_write(session.outgoing())?;
            session.written(n);
        }
        Ok(())
    }

    /// Reads at least one byte, or the peer's close_notify.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn read(&self, buffer: &mut Buffer, patience: Patience<'_>) -> Result<Read, ChannelError> {
        loop {
            if let Some(read) = self.try_read(buffer)? {
                return Ok(read);
            }
            self.readable(patience).await?;
        }
    }

    /// Waits until there may be something to read.
    ///
    /// # Errors
    /// Time is up, or the socket failed.
    pub async fn readable(&self, patience: Patience<'_>) -> Result<(), ChannelError> {
        let begin = Instant::now();
        let ready = timeout_at(patience.deadline(begin), self.tcp.readable()).await;
        if let Patience::Pace(pace) = patience {
            pace.waited(begin.elapsed());
        }
        ready.map_or_else(|_| Err(patience.verdict()), |result| Ok(result?))
    }

    /// Waits until the peer has closed its side of the connection (FIN) or reset it, whatever is still there to be read.
    ///
    /// close_notify alone is not the end: it closes one direction of the session (RFC 8446 6.1), and who says it may be
    /// waiting for an answer. Who closes the connection below is not.
    pub async fn gone(&self) {
        // The one interest that the end of the stream wakes and bytes that nobody has read yet do not: a socket is not
        // registered for urgent data.
        if let Ok(ready) = self.tcp.ready(Interest::PRIORITY).await
            && !ready.is_read_closed()
        {
            std::future::pending().await
        }
    }

    /// Whether [`Self::gone`] would return at once.
    pub async fn is_gone(&self) -> bool {
        tokio::select! {
            biased;
            () = self.gone() => true,
            () = std::future::ready(()) => false,
        }
    }
}
