//! Moving bytes between two sockets inside the kernel, through a pipe that is borrowed while bytes flow.
//!
//! Kernel TLS ignores `O_NONBLOCK` of the socket in `splice`, so every call says `SPLICE_F_NONBLOCK` and the pipes are
//! non-blocking too. `SPLICE_F_MORE` is never given: kernels keep the tail in an open record and lose it on close.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

/// Empty pipes that a thread keeps for the next body.
const KEPT: usize = 64;

thread_local! {
    static FREE: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, empty when borrowed. One that still holds bytes is closed, never given to another connection.
pub struct Pipe {
    ends: Option<(OwnedFd, OwnedFd)>,
    held: usize,
}

impl Pipe {
    /// Borrows an empty pipe.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn borrow() -> io::Result<Self> {
        let ends = match FREE.with(|free| free.borrow_mut().pop()) {
            Some(ends) => ends,
            None => pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?,
        };
        Ok(Self { ends: Some(ends), held: 0 })
    }

    /// Bytes inside.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Moves at most `limit` bytes from `socket` into the pipe, which must be empty so that "would block" can only
    /// mean the socket.
    ///
    /// # Errors
    /// `WouldBlock`: nothing there. `InvalidInput`: a control record is next, which `recvmsg` must take.
    pub fn fill(&mut self, socket: BorrowedFd<'_>, limit: usize) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0);
        let Some((_, into)) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let n = splice(socket, None, into, None, limit, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held += n;
        Ok(n)
    }

    /// Moves what the pipe holds into `socket`.
    ///
    /// # Errors
    /// `WouldBlock`: the socket takes nothing now.
    pub fn drain(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let Some((from, _)) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let n = splice(from, None, socket, None, self.held, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held -= n.min(self.held);
        Ok(n)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take()
            && self.held == 0
        {
            FREE.with(|free| {
                let mut free = free.borrow_mut();
                if free.len() < KEPT {
                    free.push(ends);
                }
            });
        }
    }
}
