//! One TLS session on one socket, in the kernel or in userspace, behind the same calls.
//!
//! All methods take `&self`: the two directions of a session are used at the same time from one task. Nothing here
//! knows HTTP; nothing is shared between threads.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::buffer::Buffer;
use super::pace::Pace;
use crate::ktls::session::{KernelError, Received};
use crate::ktls::splice::Pipe;
use crate::ktls::{KernelSession, NotOffloaded, unacknowledged};
use crate::telemetry::Counters;
use crate::tls::session::Session;

/// Ciphertext read at once in userspace.
const READ_AT_ONCE: usize = 64 * 1024;
/// How often a peer that takes nothing into its window is looked at: it may still take what the socket holds.
const LOOK: Duration = Duration::from_secs(1);
/// Plaintext encrypted at once in userspace: four full records.
const ENCRYPT_AT_ONCE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_AT_ONCE]);
    static GATHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(ENCRYPT_AT_ONCE));
}

/// How long to wait for the peer.
#[derive(Clone, Copy)]
pub enum Patience<'a> {
    /// This long for each advance.
    Stall(Duration),
    /// Until then, whatever happens.
    Until(Instant),
    /// As long as the peer keeps its pace.
    Pace(&'a Pace<'a>),
}

impl Patience<'_> {
    fn deadline(self) -> Instant {
        match self {
            Self::Stall(duration) => Instant::now() + duration,
            Self::Until(instant) => instant,
            Self::Pace(pace) => pace.deadline(Instant::now()),
        }
    }
}

/// Why a session broke.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// FIN came without close_notify.
    #[error("the connection ended without close_notify")]
    Truncated,
    /// The peer stood still.
    #[error("the peer did not advance in time")]
    TimedOut,
    /// The peer advanced, but too slowly on average.
    #[error("the peer was too slow")]
    TooSlow,
    /// In the kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// In userspace.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl ChannelError {
    /// Stable name for counters and the log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::TimedOut => "timed_out",
            Self::TooSlow => "too_slow",
            Self::Kernel(KernelError::Record(error)) => error.reason(),
            Self::Kernel(KernelError::Alert(_)) | Self::Tls(rustls::Error::AlertReceived(_)) => "alert_received",
            Self::Kernel(KernelError::KeyUpdate(_)) => "key_update_not_possible",
            Self::Kernel(KernelError::Tls(_) | KernelError::Secrets(_)) => "tls_error",
            Self::Tls(error) => crate::tls::server::reason(error),
            Self::Io(error) | Self::Kernel(KernelError::Io(error)) => match error.kind() {
                io::ErrorKind::ConnectionReset => "reset",
                io::ErrorKind::BrokenPipe => "closed_by_peer",
                _ if error.raw_os_error() == Some(libc::EBADMSG) => "decrypt_error",
                _ => "io_error",
            },
        }
    }
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were added.
    Data(usize),
    /// close_notify: the peer has said all it had to say.
    Closed,
}

/// What an attempt to fill a pipe gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes are in the pipe.
    Bytes(usize),
    /// A control record (or the end of the stream) is next, which [`Channel::read`] must take.
    Control,
    /// Nothing is there now.
    Nothing,
}

enum Records {
    Kernel(Box<KernelSession>),
    User(Box<Session>),
}

/// A TLS session on a socket.
pub struct Channel {
    tcp: TcpStream,
    records: RefCell<Records>,
    /// Plaintext that came along with the handshake.
    early: RefCell<Vec<u8>>,
    not_offloaded: Option<Arc<NotOffloaded>>,
    /// The peer has said close_notify.
    closed: Cell<bool>,
    /// We have said close_notify.
    finished: Cell<bool>,
    counters: Arc<Counters>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Records::Kernel(session) = self.records.get_mut() {
            let (control_records, keys_renewed) = session.totals();
            self.counters.control_records.add(control_records);
            self.counters.keys_renewed.add(keys_renewed);
        }
    }
}

impl Channel {
    /// A session whose records are made by the kernel; `early` was received with the handshake.
    pub fn kernel(tcp: TcpStream, session: KernelSession, early: Vec<u8>, counters: Arc<Counters>) -> Self {
        Self {
            tcp,
            records: RefCell::new(Records::Kernel(Box::new(session))),
            early: RefCell::new(early),
            not_offloaded: None,
            closed: Cell::new(false),
            finished: Cell::new(false),
            counters,
        }
    }

    /// A session whose records are made here, and why.
    pub fn user(tcp: TcpStream, session: Session, why: NotOffloaded, counters: Arc<Counters>) -> Self {
        Self {
            tcp,
            records: RefCell::new(Records::User(Box::new(session))),
            early: RefCell::new(Vec::new()),
            not_offloaded: Some(Arc::new(why)),
            closed: Cell::new(false),
            finished: Cell::new(false),
            counters,
        }
    }

    /// Whether the kernel makes the records.
    pub fn is_kernel(&self) -> bool {
        self.not_offloaded.is_none()
    }

    /// Whether the session is in the kernel, or why not.
    ///
    /// # Errors
    /// Why not.
    pub fn offloaded(&self) -> Result<(), Arc<NotOffloaded>> {
        self.not_offloaded.clone().map_or(Ok(()), Err)
    }

    /// Whether the peer has said close_notify, and that has been read.
    pub fn peer_closed(&self) -> bool {
        self.closed.get()
    }

    /// The session's key is near its limit and cannot be renewed.
    pub fn must_retire(&self) -> bool {
        match &*self.records.borrow() {
            Records::Kernel(session) => session.must_retire(),
            // rustls renews keys by itself in TLS 1.3 and refuses to send beyond the limit in 1.2.
            Records::User(_) => false,
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
            let fed = SCRATCH.with(|scratch| {
                let mut scratch = scratch.borrow_mut();
                match self.tcp.try_read(&mut scratch) {
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
        let ready = timeout_at(patience.deadline(), self.tcp.readable()).await;
        if let Patience::Pace(pace) = patience {
            pace.waited(begin.elapsed());
            return ready.map_or_else(|_| Err(pace.verdict()), |result| Ok(result?));
        }
        ready.map_or(Err(ChannelError::TimedOut), |result| Ok(result?))
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

    async fn writable(&self, patience: Patience<'_>) -> Result<(), ChannelError> {
        let Patience::Pace(pace) = patience else {
            let ready = timeout_at(patience.deadline(), self.tcp.writable()).await;
            return ready.map_or(Err(ChannelError::TimedOut), |result| Ok(result?));
        };
        // The socket may hold megabytes, and takes more only when a good part of them is gone: what the peer takes
        // meanwhile is seen by what it has acknowledged.
        let mut advanced = Instant::now();
        let mut looked = advanced;
        let mut held = unacknowledged(self.tcp.as_fd())?;
        loop {
            let deadline = pace.deadline(advanced);
            let ready = timeout_at(deadline.min(looked + LOOK), self.tcp.writable()).await;
            let now = Instant::now();
            pace.waited(now - looked);
            let holds = unacknowledged(self.tcp.as_fd())?;
            if holds < held {
                pace.advanced(held - holds);
                advanced = now;
            }
            (looked, held) = (now, holds);
            match ready {
                Ok(result) => return Ok(result?),
                Err(_) if now >= deadline && now != advanced => return Err(pace.verdict()),
                Err(_) => {}
            }
        }
    }

    /// Writes all parts, in as few records as they fit in.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn write_all(&self, parts: &[&[u8]], patience: Patience<'_>) -> Result<(), ChannelError> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut done = 0;
        while done < total {
            let step = match &mut *self.records.borrow_mut() {
                Records::Kernel(session) => self.try_write_kernel(session, parts, done)?,
                Records::User(session) => self.try_write_user(session, parts, done)?,
            };
            match step {
                Some(n) => done += n,
                None => self.writable(patience).await?,
            }
        }
        self.flush(patience).await
    }

    fn try_write_kernel(
        &self,
        session: &mut KernelSession,
        parts: &[&[u8]],
        done: usize,
    ) -> Result<Option<usize>, ChannelError> {
        let mut slices = [IoSlice::new(&[]); 8];
        let count = remaining(parts, done, &mut slices);
        let written = self.tcp.try_io(Interest::WRITABLE, || {
            match session.before_send(self.tcp.as_fd()) {
                Err(KernelError::Io(error)) => return Err(error),
                Err(error) => return Ok(Err(error)),
                Ok(()) => {}
            }
            Ok(Ok(rustix::io::writev(&self.tcp, &slices[..count])?))
        });
        match written {
            Ok(Ok(n)) => {
                session.sent(n);
                Ok(Some(n))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn try_write_user(
        &self,
        session: &mut Session,
        parts: &[&[u8]],
        done: usize,
    ) -> Result<Option<usize>, ChannelError> {
        match self.try_flush(session) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let taken = GATHER.with(|gather| {
            let mut gather = gather.borrow_mut();
            gather.clear();
            let mut skip = done;
            for part in parts {
                let from = skip.min(part.len());
                skip -= from;
                let room = ENCRYPT_AT_ONCE - gather.len();
                let piece = &part[from..];
                gather.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            session.encrypt(&gather)?;
            let n = gather.len();
            // Plaintext of one client does not stay behind in a buffer that all share.
            gather.fill(0);
            Ok::<usize, rustls::Error>(n)
        })?;
        match self.try_flush(session) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Some(taken))
    }

    /// Waits until everything encrypted in userspace was taken by the socket.
    async fn flush(&self, patience: Patience<'_>) -> Result<(), ChannelError> {
        loop {
            match &mut *self.records.borrow_mut() {
                Records::Kernel(_) => return Ok(()),
                Records::User(session) => match self.try_flush(session) {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                },
            }
            self.writable(patience).await?;
        }
    }

    /// Moves at most `limit` bytes from the socket into an empty pipe.
    ///
    /// `None`: a control record (or the end of the stream) is next, which [`Self::read`] must take.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn splice_into(
        &self,
        pipe: &mut Pipe,
        limit: usize,
        patience: Patience<'_>,
    ) -> Result<Option<usize>, ChannelError> {
        loop {
            match self.try_splice_into(pipe, limit)? {
                Filled::Bytes(n) => return Ok(Some(n)),
                Filled::Control => return Ok(None),
                Filled::Nothing => self.readable(patience).await?,
            }
        }
    }

    /// As [`Self::splice_into`], without waiting.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub fn try_splice_into(&self, pipe: &mut Pipe, limit: usize) -> Result<Filled, ChannelError> {
        match self.tcp.try_io(Interest::READABLE, || pipe.fill(self.tcp.as_fd(), limit)) {
            Ok(0) => Ok(Filled::Control),
            Ok(n) => {
                if let Records::Kernel(session) = &mut *self.records.borrow_mut() {
                    session.spliced()?;
                }
                Ok(Filled::Bytes(n))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Filled::Nothing),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Filled::Control),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves everything in the pipe into the socket.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn splice_from(&self, pipe: &mut Pipe, patience: Patience<'_>) -> Result<(), ChannelError> {
        while pipe.held() > 0 {
            let moved = match &mut *self.records.borrow_mut() {
                Records::User(_) => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
                Records::Kernel(session) => {
                    let moved = self.tcp.try_io(Interest::WRITABLE, || {
                        match session.before_send(self.tcp.as_fd()) {
                            Err(KernelError::Io(error)) => return Err(error),
                            Err(error) => return Ok(Err(error)),
                            Ok(()) => {}
                        }
                        Ok(Ok(pipe.drain(self.tcp.as_fd())?))
                    });
                    if let Ok(Ok(n)) = moved {
                        session.sent(n);
                    }
                    moved
                }
            };
            match moved {
                Ok(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable(patience).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Closes in order: close_notify, FIN, read to the peer's end, close. Takes at most until `deadline`.
    ///
    /// Whatever the peer still sends is thrown away: left unread it would turn the close into a reset, which can
    /// destroy bytes that the peer has not read yet.
    pub async fn close(self, deadline: Instant) {
        let patience = Patience::Until(deadline);
        if self.finish(patience).await.is_err() {
            return self.abort();
        }
        if shutdown(&self.tcp, Shutdown::Write).is_err() {
            return;
        }
        let mut sink = vec![0; 16 * 1024];
        loop {
            // The raw socket of a kernel session gives plaintext or EIO on control records, so read it as records.
            let done = match &mut *self.records.borrow_mut() {
                Records::Kernel(session) => {
                    let read =
                        self.tcp.try_io(Interest::READABLE, || match session.receive(self.tcp.as_fd(), &mut sink) {
                            Err(KernelError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                            other => Ok(other),
                        });
                    match read {
                        Ok(Ok(Received::Fin) | Err(_)) => true,
                        Ok(Ok(_)) => false,
                        Err(_) => {
                            drop(read);
                            false
                        }
                    }
                }
                Records::User(_) => match self.tcp.try_read(&mut sink) {
                    Ok(0) => true,
                    Ok(_) => false,
                    Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                },
            };
            if done || self.readable(patience).await.is_err() {
                return;
            }
        }
    }

    /// Says close_notify, once: nothing can be sent afterwards, while the peer may go on.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn finish(&self, patience: Patience<'_>) -> Result<(), ChannelError> {
        self.flush(patience).await?;
        while !self.finished.get() {
            match &mut *self.records.borrow_mut() {
                Records::Kernel(session) => {
                    let sent = self.tcp.try_io(Interest::WRITABLE, || session.send_close_notify(self.tcp.as_fd()));
                    match sent {
                        Ok(()) => {
                            self.finished.set(true);
                            break;
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Records::User(session) => {
                    session.close()?;
                    self.finished.set(true);
                    break;
                }
            }
            self.writable(patience).await?;
        }
        self.flush(patience).await
    }

    /// Resets the connection: what was sent so far must not be taken for complete.
    pub fn abort(self) {
        // When the option cannot be set, the missing close_notify still tells the peer.
        let _ = sockopt::set_socket_linger(&self.tcp, Some(Duration::ZERO));
    }
}

/// The parts from byte `done` on, as slices for a vectored write; returns how many.
fn remaining<'a>(parts: &[&'a [u8]], done: usize, slices: &mut [IoSlice<'a>; 8]) -> usize {
    let mut skip = done;
    let mut count = 0;
    for part in parts {
        let from = skip.min(part.len());
        skip -= from;
        if from < part.len() && count < slices.len() {
            slices[count] = IoSlice::new(&part[from..]);
            count += 1;
        }
    }
    count
}
