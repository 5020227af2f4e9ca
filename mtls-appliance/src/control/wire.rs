//! One connection on the control socket, from either end: lines, and descriptors that travel with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::protocol::MAX_LINE;

/// Most descriptors of one message: `SCM_MAX_FD` (unix(7)).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// What went wrong with the other end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("it went away")]
    Closed,
    #[error("it said nothing in time")]
    TimedOut,
    #[error("a line is longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("it said what is not understood: {0:?}")]
    Malformed(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl WireError {
    /// The name under which it is counted.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::TimedOut => "timed_out",
            Self::TooLong => "line_too_long",
            Self::Malformed(_) => "malformed",
            Self::Io(_) => "io_error",
        }
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Wire {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), descriptors: Vec::new() }
    }

    pub(crate) async fn connect(path: &Path, within: Duration) -> io::Result<Self> {
        match timeout(within, UnixStream::connect(path)).await {
            Ok(stream) => Ok(Self::new(stream?)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// User and process at the other end, as the kernel says: of a listening socket, whoever made it listen.
    pub(crate) fn peer(&self) -> io::Result<(u32, i32)> {
        let peer = self.stream.peer_cred()?;
        Ok((peer.uid(), peer.pid().unwrap_or_default()))
    }

    /// The next line, without its end.
    pub(crate) async fn line(&mut self, within: Duration) -> Result<String, WireError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).take(end).collect();
                return match String::from_utf8(line) {
                    _ if end > MAX_LINE => Err(WireError::TooLong),
                    Ok(line) => Ok(line),
                    Err(error) => Err(WireError::Malformed(String::from_utf8_lossy(error.as_bytes()).into_owned())),
                };
            }
            if self.received.len() > MAX_LINE {
                return Err(WireError::TooLong);
            }
            self.receive(deadline).await?;
        }
    }

    /// All that comes until the other end closes, `limit` bytes at most.
    pub(crate) async fn rest(mut self, limit: usize, within: Duration) -> Result<Vec<u8>, WireError> {
        let deadline = Instant::now() + within;
        loop {
            match self.receive(deadline).await {
                Ok(()) if self.received.len() > limit => return Err(WireError::TooLong),
                Ok(()) => {}
                Err(WireError::Closed) => return Ok(self.received),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the other end closes, whatever it still says; whether it did in time.
    pub(crate) async fn closed(&mut self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            match self.receive(deadline).await {
                Ok(()) => self.received.clear(),
                Err(error) => return !matches!(error, WireError::TimedOut),
            }
        }
    }

    /// Sends a text, and descriptors with its first byte.
    pub(crate) async fn say(
        &self,
        text: &str,
        descriptors: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<(), WireError> {
        let deadline = Instant::now() + within;
        let (mut rest, mut descriptors) = (text.as_bytes(), descriptors);
        while !rest.is_empty() {
            timeout_at(deadline, self.stream.writable()).await.map_err(|_| WireError::TimedOut)??;
            match self.stream.try_io(Interest::WRITABLE, || send(self.stream.as_fd(), rest, descriptors)) {
                Ok(sent) => (rest, descriptors) = (&rest[sent..], &[]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(WireError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The descriptors that came with the lines so far.
    pub(crate) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    async fn receive(&mut self, deadline: Instant) -> Result<(), WireError> {
        loop {
            timeout_at(deadline, self.stream.readable()).await.map_err(|_| WireError::TimedOut)??;
            let (received, descriptors) = (&mut self.received, &mut self.descriptors);
            match self.stream.try_io(Interest::READABLE, || receive(self.stream.as_fd(), received, descriptors)) {
                Ok(0) => return Err(WireError::Closed),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(WireError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}

fn receive(socket: BorrowedFd<'_>, bytes: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut piece = [0; 16 * 1024];
    // Without the flag a program started meanwhile would inherit them.
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut piece)], &mut ancillary, flags)?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            descriptors.extend(received);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not all descriptors arrived (see: ulimit -n)"));
    }
    bytes.extend_from_slice(&piece[..message.bytes]);
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(10);

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    fn pair() -> (Wire, Wire) {
        let (one, other) = UnixStream::pair().unwrap();
        (Wire::new(one), Wire::new(other))
    }

    #[test]
    fn lines_come_out_as_they_went_in_whatever_the_pieces() {
        run(async {
            let (one, mut other) = pair();
            for piece in ["fir", "st\nsecond\n", "thi", "rd\n"] {
                one.say(piece, &[], LONG).await.unwrap();
                tokio::task::yield_now().await;
            }
            for line in ["first", "second", "third"] {
                assert_eq!(other.line(LONG).await.unwrap(), line);
            }
            assert!(matches!(other.line(SHORT).await, Err(WireError::TimedOut)));
            drop(one);
            assert!(matches!(other.line(LONG).await, Err(WireError::Closed)));
        });
    }

    #[test]
    fn a_line_that_does_not_end_is_refused() {
        run(async {
            let (one, mut other) = pair();
            one.say(&"x".repeat(MAX_LINE + 1), &[], LONG).await.unwrap();
            assert!(matches!(other.line(LONG).await, Err(WireError::TooLong)));
            let (one, mut other) = pair();
            one.say(&format!("{}\n", "x".repeat(MAX_LINE + 1)), &[], LONG).await.unwrap();
            assert!(matches!(other.line(LONG).await, Err(WireError::TooLong)));
        });
    }

    #[test]
    fn descriptors_travel_with_a_line() {
        run(async {
            let (one, mut other) = pair();
            let (left, right) = UnixStream::pair().unwrap();
            one.say("here\n", &[left.as_fd()], LONG).await.unwrap();
            drop(left);
            assert_eq!(other.line(LONG).await.unwrap(), "here");
            let [descriptor] = other.take_descriptors().try_into().unwrap();
            assert!(rustix::io::fcntl_getfd(&descriptor).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            let copy = std::os::unix::net::UnixStream::from(descriptor);
            let copy = Wire::new(UnixStream::from_std(copy).unwrap());
            copy.say("through it\n", &[], LONG).await.unwrap();
            assert_eq!(Wire::new(right).line(LONG).await.unwrap(), "through it");
        });
    }
}
