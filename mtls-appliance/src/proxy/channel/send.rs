//! Writing records, and the end of a session.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown, sockopt};
use tokio::io::Interest;
use tokio::time::Instant;

use super::{Channel, ChannelError, Patience, Records};
use crate::ktls::KernelSession;
use crate::ktls::session::{KernelError, Received};
use crate::tls::session::Session;

/// Plaintext encrypted at once in userspace: four full records.
const ENCRYPT_AT_ONCE: usize = 64 * 1024;

thread_local! {
    static GATHER: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(ENCRYPT_AT_ONCE));
}

impl Channel {
    /// Writes all parts, in as few records as they fit in.
    ///
    /// # Errors
    /// See [`ChannelError`].
    pub async fn write_all(&self, parts: &[&[u8]], patience: Patience<'_>) -> Result<(), ChannelError> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut done = 0;
        while done < total {
            self.hand_over_if_due()?;
            let step = match &mut *self.records.borrow_mut() {
                Records::Kernel(session) => self.try_write_kernel(session, parts, done)?,
                Records::User(session) => self.try_write_user(session, parts, done)?,
                Records::Lost => return Err(Records::lost()),
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
                self.starving.set(None);
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
                Records::Lost => return Err(Records::lost()),
                Records::User(session) => match self.try_flush(session) {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                },
            }
            self.writable(patience).await?;
        }
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
                Records::Lost => true,
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
                            self.starving.set(None);
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
                Records::Lost => return Err(Records::lost()),
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
