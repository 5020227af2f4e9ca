//! Moves one body from one session to another: spliced where both are in the kernel and it pays, copied otherwise.
//!
//! A body ends where its framing says, never where the connection happens to end; what cannot be delivered whole is an
//! error with blame, which the caller turns into a reset. Bytes behind the body stay in the buffer or in the socket.

use super::buffer::Buffer;
use super::channel::{Channel, ChannelError, Patience, Read};
use super::pace::Pace;
use crate::http1::{ChunkDecoder, ChunkError, ChunkEvent, ChunkStep, NameFilter, write_chunk_header};
use crate::ktls::splice::Pipe;
use crate::telemetry::{Counters, DataPath};

/// Most bytes that one splice call is asked for; the kernel gives at most a record at a time.
pub(super) const SPLICE_AT_ONCE: u64 = 1 << 20;
/// Splice rounds between two chances for other connections of this worker.
pub(super) const ROUNDS: u32 = 64;

/// Who broke a body.
#[derive(Debug)]
pub(super) enum RelayError {
    /// The side it comes from.
    From(ChannelError),
    /// The side it comes from ended it early, in good order.
    Incomplete,
    /// The side it comes from, by its chunked framing.
    Framing(ChunkError),
    /// The side it goes to.
    To(ChannelError),
    /// The body has more bytes than allowed.
    TooLarge,
}

impl RelayError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::From(error) | Self::To(error) => error.reason(),
            Self::Incomplete => "body_incomplete",
            Self::Framing(error) => error.reason(),
            Self::TooLarge => "body_too_large",
        }
    }
}

/// How a body's bytes were moved.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    pub(super) spliced: u64,
    pub(super) copied: u64,
    /// Why the last copied bytes were not spliced.
    pub(super) copied_because: Option<DataPath>,
}

impl Moved {
    pub(super) fn total(self) -> u64 {
        self.spliced + self.copied
    }
}

/// One direction of an exchange.
pub(super) struct Relay<'a> {
    pub(super) from: &'a Channel,
    pub(super) buffer: &'a mut Buffer,
    pub(super) to: &'a Channel,
    /// Bytes to be written before the next: the head, so that it shares a record with the first part of the body.
    pub(super) pending: Vec<u8>,
    /// Of the side it comes from.
    pub(super) giving: Pace<'a>,
    /// Of the side it goes to.
    pub(super) taking: Pace<'a>,
    /// Remaining lengths from here on are spliced, or why none is.
    pub(super) splice_from: Result<u64, DataPath>,
    /// A body of so many bytes has both sessions handed over.
    pub(super) hand_over_from: u64,
    /// Longest body; for framings that do not say the length beforehand.
    pub(super) limit: u64,
    pub(super) counters: &'a Counters,
    pub(super) moved: &'a std::cell::Cell<Moved>,
}

impl Relay<'_> {
    fn copied(&self, n: usize) {
        let mut moved = self.moved.get();
        moved.copied += n as u64;
        self.moved.set(moved);
        self.counters.bytes_copied.add(n as u64);
    }

    /// What is copied from here on is copied for this reason.
    fn copying_because(&self, why: DataPath) {
        self.moved.set(Moved { copied_because: Some(why), ..self.moved.get() });
    }

    /// As long as nothing stands in the way of splicing that cannot be known before.
    fn copying_at_first(&self, length: u64) {
        self.copying_because(match self.splice_from {
            Err(why) => why,
            Ok(from) if length < from => DataPath::KernelBelowThreshold,
            Ok(_) => DataPath::KernelAlreadyRead,
        });
    }

    fn spliced(&self, n: usize) {
        let mut moved = self.moved.get();
        moved.spliced += n as u64;
        self.moved.set(moved);
        self.counters.bytes_spliced.add(n as u64);
    }

    /// Has the kernel take over if this body is large enough, of which so many bytes are known to be still to come.
    fn hand_over(&self, announced: u64) -> Result<(), RelayError> {
        if self.moved.get().total().saturating_add(announced) >= self.hand_over_from {
            self.from.to_kernel().map_err(RelayError::From)?;
            self.to.to_kernel().map_err(RelayError::To)?;
        }
        Ok(())
    }

    /// Whether so many bytes are to be spliced, and can be.
    fn splices(&self, length: u64) -> bool {
        self.splice_from.is_ok_and(|from| length >= from) && self.from.can_splice() && self.to.is_kernel()
    }

    /// Writes what is pending.
    pub(super) async fn flush(&mut self) -> Result<(), RelayError> {
        if !self.pending.is_empty() {
            self.to.write_all(&[&self.pending], Patience::Pace(&self.taking)).await.map_err(RelayError::To)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Reads more; what is pending is written first when that means waiting.
    async fn more(&mut self) -> Result<Read, RelayError> {
        let read = match self.from.try_read(self.buffer).map_err(RelayError::From)? {
            Some(read) => read,
            None => {
                self.flush().await?;
                self.from.read(self.buffer, Patience::Pace(&self.giving)).await.map_err(RelayError::From)?
            }
        };
        if let Read::Data(n) = read {
            self.giving.advanced(n as u64);
        }
        Ok(read)
    }

    /// Moves exactly `length` bytes.
    pub(super) async fn exactly(&mut self, mut length: u64) -> Result<(), RelayError> {
        let mut pipe = None;
        let mut rounds = 0;
        self.copying_at_first(length);
        self.hand_over(length)?;
        while length > 0 {
            if !self.buffer.is_empty() {
                let n = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
                let parts = [&self.pending[..], &self.buffer.filled()[..n]];
                self.to.write_all(&parts, Patience::Pace(&self.taking)).await.map_err(RelayError::To)?;
                self.pending.clear();
                self.buffer.consume(n);
                self.copied(n);
                length -= n as u64;
            } else if self.splices(if pipe.is_some() { u64::MAX } else { length }) {
                self.flush().await?;
                match self.splice(&mut pipe, length).await? {
                    Some(n) => length -= n as u64,
                    // The ordinary read takes the control record that is next, or says how the stream ended.
                    None => self.read_on().await?,
                }
            } else {
                self.copying_at_first(length);
                self.read_on().await?;
            }
            rounds += 1;
            if rounds % ROUNDS == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.flush().await
    }

    async fn read_on(&mut self) -> Result<(), RelayError> {
        match self.more().await? {
            Read::Data(_) => Ok(()),
            Read::Closed => Err(RelayError::Incomplete),
        }
    }

    /// One round through the pipe; `None` when a control record is in the way.
    async fn splice(&mut self, pipe: &mut Option<Pipe>, length: u64) -> Result<Option<usize>, RelayError> {
        let pipe = match pipe {
            Some(pipe) => pipe,
            None => match Pipe::borrow() {
                Ok(fresh) => pipe.insert(fresh),
                Err(_) => {
                    // Out of descriptors: this body is copied instead.
                    self.splice_from = Err(DataPath::KernelNoPipe);
                    self.copying_because(DataPath::KernelNoPipe);
                    self.counters.refuse("not_spliced", "no_pipe");
                    return Ok(None);
                }
            },
        };
        let limit = usize::try_from(length.min(SPLICE_AT_ONCE)).unwrap_or(usize::MAX);
        let filled =
            self.from.splice_into(pipe, limit, Patience::Pace(&self.giving)).await.map_err(RelayError::From)?;
        let Some(n) = filled else {
            self.copying_because(DataPath::KernelControlRecord);
            return Ok(None);
        };
        self.giving.advanced(n as u64);
        self.to.splice_from(pipe, Patience::Pace(&self.taking)).await.map_err(RelayError::To)?;
        self.spliced(n);
        Ok(Some(n))
    }

    /// Moves everything up to the peer's close_notify.
    pub(super) async fn until_close(&mut self) -> Result<(), RelayError> {
        let mut pipe = None;
        let mut rounds = 0;
        self.copying_at_first(u64::MAX);
        loop {
            if self.moved.get().total() > self.limit {
                return Err(RelayError::TooLarge);
            }
            if !self.buffer.is_empty() {
                let n = self.buffer.len();
                let parts = [&self.pending[..], self.buffer.filled()];
                self.to.write_all(&parts, Patience::Pace(&self.taking)).await.map_err(RelayError::To)?;
                self.pending.clear();
                self.buffer.consume(n);
                self.copied(n);
            }
            self.hand_over(0)?;
            if self.splices(u64::MAX) {
                self.flush().await?;
                if self.splice(&mut pipe, SPLICE_AT_ONCE).await?.is_some() {
                    rounds += 1;
                    if rounds % ROUNDS == 0 {
                        tokio::task::yield_now().await;
                    }
                    continue;
                }
            }
            match self.more().await? {
                Read::Data(_) => {}
                Read::Closed => return self.flush().await,
            }
        }
    }

    /// Moves a chunked body. The framing is read here and written anew, so extensions and odd chunk sizes end here;
    /// with `dechunk` only the payload is passed on. Trailers that `reserved` contains are dropped.
    pub(super) async fn chunked(
        &mut self,
        mut decoder: ChunkDecoder,
        reserved: &impl NameFilter,
        dechunk: bool,
    ) -> Result<(), RelayError> {
        loop {
            let ChunkStep { consumed, event } = decoder.step(self.buffer.filled()).map_err(RelayError::Framing)?;
            self.buffer.consume(consumed);
            let n = match event {
                ChunkEvent::More => {
                    self.read_on().await?;
                    continue;
                }
                ChunkEvent::End => {
                    if !dechunk {
                        decoder.write_last_chunk(reserved, &mut self.pending);
                    }
                    return self.flush().await;
                }
                ChunkEvent::Data { available, remaining } => {
                    self.hand_over(remaining)?;
                    match available {
                        // Nothing is here yet: the rest goes on as one chunk if it is large enough to be spliced.
                        0 if self.splices(remaining) => remaining,
                        0 => {
                            self.read_on().await?;
                            continue;
                        }
                        _ => available as u64,
                    }
                }
            };
            if !dechunk {
                write_chunk_header(n, &mut self.pending);
            }
            self.exactly(n).await?;
            decoder.advance(n);
            if !dechunk {
                self.pending.extend_from_slice(b"\r\n");
            }
        }
    }
}
