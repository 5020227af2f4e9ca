//! From socket to pipe and from pipe to socket, of sessions that are in the kernel.

use std::io;
use std::os::fd::AsFd;

use tokio::io::Interest;

use super::{Channel, ChannelError, Patience, Records};
use crate::ktls::session::KernelError;
use crate::ktls::splice::Pipe;

/// What an attempt to fill a pipe gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes are in the pipe.
    Bytes(usize),
    /// Something else is next, which [`Channel::read`] must take: a control record, the end of the stream, or bytes that
    /// are not in the kernel.
    Control,
    /// Nothing is there now.
    Nothing,
}

impl Channel {
    /// Whether what comes next can come out of the kernel, and what is to go out can go into it.
    pub fn can_splice(&self) -> bool {
        // Nothing comes any more if the peer had said close_notify before the hand-over, and the kernel does not know it.
        self.is_kernel() && self.early.borrow().is_empty() && !self.closed.get()
    }

    /// Moves at most `limit` bytes from the socket into an empty pipe.
    ///
    /// `None`: something else is next (see [`Filled::Control`]), which [`Self::read`] must take.
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
        if !self.can_splice() {
            return Ok(Filled::Control);
        }
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
                Records::Lost => return Err(Records::lost()),
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
                        self.starving.set(None);
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
}
