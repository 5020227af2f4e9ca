//! Handing a session over that began in userspace: between any two records, both directions at once.
//!
//! It leaves at the first call, of either direction, that finds it where nothing can be lost (see [`crate::tls::session`]).
//! Until that, no more is taken from the socket than completes the record at hand. Plaintext that was decrypted here is
//! read before anything that the kernel decrypts.

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Channel, ChannelError, READ_AT_ONCE, Records};
use crate::ktls::{KernelSession, NotOffloaded};
use crate::tls::session::Session;

/// Where the records of a session will be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// Where they are.
    Stays,
    /// In the kernel, once there is a body that is worth it.
    Later,
    /// In the kernel, as soon as nothing can be lost.
    Due,
}

impl Channel {
    /// Has the kernel take over as soon as it can, which may be now. Nothing changes for a session that is there or
    /// stays here.
    ///
    /// # Errors
    /// The hand-over failed: the session is lost.
    pub fn to_kernel(&self) -> Result<(), ChannelError> {
        if self.course.get() == Course::Later {
            self.course.set(Course::Due);
            let why = NotOffloaded::HandOver("it did not come to a point between two records".into());
            self.not_offloaded.replace(Some(Arc::new(why)));
        }
        self.hand_over_if_due()
    }

    pub(super) fn hand_over_if_due(&self) -> Result<(), ChannelError> {
        if self.course.get() != Course::Due {
            return Ok(());
        }
        let mut records = self.records.borrow_mut();
        let may_leave = match &mut *records {
            Records::User(session) => self.may_leave(session)?,
            Records::Kernel(_) | Records::Lost => false,
        };
        if !may_leave {
            return Ok(());
        }
        let Records::User(session) = mem::replace(&mut *records, Records::Lost) else { return Ok(()) };
        if session.peer_closed() {
            self.closed.set(true);
        }
        let (kernel, plain) = KernelSession::hand_over(self.tcp.as_fd(), *session, self.limit)?;
        *records = Records::Kernel(Box::new(kernel));
        self.early.replace(plain);
        self.course.set(Course::Stays);
        self.not_offloaded.replace(None);
        self.count_as(true);
        self.counters.sessions_handed_over_later.increment();
        Ok(())
    }

    /// Whether nothing would be lost; writes what is due as far as that is possible now.
    fn may_leave(&self, session: &mut Session) -> Result<bool, ChannelError> {
        // Behind our close_notify there is nothing to gain, and what came ahead of the peer's must be read first.
        if self.finished.get() || (session.peer_closed() && session.pending() > 0) {
            return Ok(false);
        }
        loop {
            match self.try_flush(session) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            if session.ready_to_leave()? {
                return Ok(true);
            }
            if session.outgoing().is_empty() {
                return Ok(false);
            }
        }
    }

    /// How many bytes may be taken from the socket: what lies behind the record at hand is the kernel's if it is to take
    /// over and nothing else is in the way.
    pub(super) fn read_at_most(&self, session: &Session) -> usize {
        match session.missing() {
            missing @ 1.. if self.course.get() == Course::Due && session.outgoing().is_empty() => {
                missing.min(READ_AT_ONCE)
            }
            _ => READ_AT_ONCE,
        }
    }
}
