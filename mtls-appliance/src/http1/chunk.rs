//! The chunked coding (RFC 9112 7.1): framing is consumed here, payload is left where it is.
//!
//! The decoder says how many framing bytes to drop and how much payload follows, so that the shell can copy payload
//! from its buffer or splice it from the socket. Extensions are dropped, trailers are kept apart from the head and
//! filtered, and the framing that goes out is written anew.

use super::NameFilter;
use super::chunk_extension::ChunkExtension;
use super::error::ChunkError;
use super::field::is_forbidden_trailer;

/// Upper bounds on a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Payload bytes of all chunks together.
    pub body_bytes: u64,
    /// Bytes of all chunk extensions together, the whitespace before them included.
    pub extension_bytes: usize,
    /// Bytes of the trailer section.
    pub trailer_bytes: usize,
    /// Fields in the trailer section.
    pub trailer_fields: usize,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { body_bytes: u64::MAX, extension_bytes: 4 * 1024, trailer_bytes: 4 * 1024, trailer_fields: 16 }
    }
}

impl From<&crate::config::Limits> for ChunkLimits {
    fn from(limits: &crate::config::Limits) -> Self {
        Self { body_bytes: limits.body_bytes, ..Self::default() }
    }
}

/// What [`ChunkDecoder::step`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkStep {
    /// Framing bytes at the front of the input; drop them.
    pub consumed: usize,
    /// What follows them.
    pub event: ChunkEvent,
}

/// What follows the consumed framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEvent {
    /// Nothing: the whole input was framing, and the body is not complete.
    More,
    /// Payload. Report what was moved with [`ChunkDecoder::advance`].
    Data {
        /// Payload bytes of this chunk that are in the input, after the framing; may be zero.
        available: usize,
        /// Payload bytes of this chunk still to come, the available ones included; at least one.
        remaining: u64,
    },
    /// The body is complete; what follows in the input is not part of it.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
    },
    /// Whitespace after the size, which only an extension may follow (RFC 9112 7.1.1).
    SizeSpace,
    Extension(ChunkExtension),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a trailer line or of the empty line.
    TrailerStart,
    TrailerLine,
    EndLf,
    Done,
}

/// Decodes one chunked body.
#[derive(Debug, Clone)]
pub struct ChunkDecoder {
    limits: ChunkLimits,
    state: State,
    /// Of the current chunk: its size while that is read, then what is left of its payload.
    remaining: u64,
    total: u64,
    extension_bytes: usize,
    /// Trailer lines as received.
    trailers: Vec<u8>,
}

/// Chunks beyond this are not representable as file or splice offsets.
const MAX_CHUNK: u64 = i64::MAX as u64;

impl ChunkDecoder {
    /// A decoder at the beginning of a body.
    #[must_use]
    pub fn new(limits: ChunkLimits) -> Self {
        let state = State::Size { digits: 0 };
        Self { limits, state, remaining: 0, total: 0, extension_bytes: 0, trailers: Vec::new() }
    }

    /// Consumes framing at the front of `input`, up to payload or the end of the body.
    ///
    /// `input` begins with the first byte that was neither consumed nor advanced over. It may be empty: with payload
    /// due that tells how much can be spliced.
    ///
    /// # Errors
    /// The body is malformed or exceeds a limit. Neither connection can be used any longer.
    pub fn step(&mut self, input: &[u8]) -> Result<ChunkStep, ChunkError> {
        let mut at = 0;
        loop {
            match self.state {
                State::Data => {
                    let available = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len() - at);
                    let event = ChunkEvent::Data { available, remaining: self.remaining };
                    return Ok(ChunkStep { consumed: at, event });
                }
                State::Done => return Ok(ChunkStep { consumed: at, event: ChunkEvent::End }),
                State::TrailerLine => at += self.trailer_line(&input[at..])?,
                _ => match input.get(at) {
                    Some(&byte) => {
                        self.framing_byte(byte)?;
                        at += 1;
                    }
                    None => return Ok(ChunkStep { consumed: at, event: ChunkEvent::More }),
                },
            }
            if at == input.len() && !matches!(self.state, State::Data | State::Done) {
                return Ok(ChunkStep { consumed: at, event: ChunkEvent::More });
            }
        }
    }

    /// Reports that `moved` payload bytes of the current chunk were passed on.
    pub fn advance(&mut self, moved: u64) {
        debug_assert!(self.state == State::Data && moved <= self.remaining, "moved more than the chunk has");
        self.remaining = self.remaining.saturating_sub(moved);
        if self.state == State::Data && self.remaining == 0 {
            self.state = State::DataCr;
        }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Payload bytes announced by the chunk sizes so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Appends the last chunk and the trailers that may be passed on: none that frame, route, authenticate or modify
    /// (RFC 9110 6.5.1), none that `reserved` contains.
    pub fn write_last_chunk(&self, reserved: &impl NameFilter, out: &mut Vec<u8>) {
        out.extend_from_slice(b"0\r\n");
        if !self.trailers.is_empty() && self.is_done() {
            // They were found to be valid when the body ended.
            let _ = self.for_each_trailer(|name, value| {
                if !is_forbidden_trailer(name) && !reserved.contains(name) {
                    out.extend_from_slice(name);
                    out.extend_from_slice(b": ");
                    out.extend_from_slice(value);
                    out.extend_from_slice(b"\r\n");
                }
            });
        }
        out.extend_from_slice(b"\r\n");
    }

    fn framing_byte(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.state = match (self.state, byte) {
            (State::Size { digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == 16 {
                    return Err(ChunkError::SizeOverflow);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.remaining = self.remaining << 4 | u64::from(digit);
                State::Size { digits: digits + 1 }
            }
            (State::Size { digits: 0 }, _) => return Err(ChunkError::Size),
            (State::Size { .. }, b'\r') => State::SizeLf,
            (State::Extension(extension), b'\r') if extension.may_end() => State::SizeLf,
            (State::Size { .. } | State::SizeSpace, b';' | b' ' | b'\t') => {
                self.count_extension_byte()?;
                if byte == b';' { State::Extension(ChunkExtension::NameDue) } else { State::SizeSpace }
            }
            (State::Size { .. } | State::SizeSpace | State::Extension(_), b'\n') | (State::SizeSpace, _) => {
                return Err(ChunkError::SizeLineEnd);
            }
            (State::Size { .. }, _) => return Err(ChunkError::Size),
            (State::Extension(extension), _) => {
                let next = extension.next(byte).ok_or(ChunkError::Extension)?;
                self.count_extension_byte()?;
                State::Extension(next)
            }
            (State::SizeLf, b'\n') => self.begin_chunk()?,
            (State::SizeLf, _) => return Err(ChunkError::SizeLineEnd),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0 },
            (State::DataCr | State::DataLf, _) => return Err(ChunkError::DataEnd),
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart, b'\n') => return Err(ChunkError::Trailer),
            (State::TrailerStart, _) => {
                self.push_trailer(&[byte])?;
                State::TrailerLine
            }
            (State::EndLf, b'\n') => {
                self.check_trailers()?;
                State::Done
            }
            (State::EndLf, _) => return Err(ChunkError::Trailer),
            // Handled by `step`.
            (State::Data | State::TrailerLine | State::Done, _) => self.state,
        };
        Ok(())
    }

    fn count_extension_byte(&mut self) -> Result<(), ChunkError> {
        self.extension_bytes += 1;
        if self.extension_bytes > self.limits.extension_bytes {
            return Err(ChunkError::ExtensionsTooLong);
        }
        Ok(())
    }

    fn begin_chunk(&mut self) -> Result<State, ChunkError> {
        if self.remaining == 0 {
            return Ok(State::TrailerStart);
        }
        let total = self.total.checked_add(self.remaining).filter(|_| self.remaining <= MAX_CHUNK);
        self.total = total.ok_or(ChunkError::SizeOverflow)?;
        if self.total > self.limits.body_bytes {
            return Err(ChunkError::BodyTooLarge);
        }
        Ok(State::Data)
    }

    /// Takes the rest of a trailer line, or as much of it as there is.
    fn trailer_line(&mut self, input: &[u8]) -> Result<usize, ChunkError> {
        let Some(lf) = memchr::memchr(b'\n', input) else {
            self.push_trailer(input)?;
            return Ok(input.len());
        };
        self.push_trailer(&input[..=lf])?;
        if !self.trailers.ends_with(b"\r\n") {
            return Err(ChunkError::Trailer);
        }
        self.state = State::TrailerStart;
        Ok(lf + 1)
    }

    fn push_trailer(&mut self, bytes: &[u8]) -> Result<(), ChunkError> {
        if self.trailers.len() + bytes.len() > self.limits.trailer_bytes {
            return Err(ChunkError::TrailersTooLarge);
        }
        self.trailers.extend_from_slice(bytes);
        Ok(())
    }

    fn check_trailers(&mut self) -> Result<(), ChunkError> {
        if self.trailers.is_empty() {
            return Ok(());
        }
        self.trailers.extend_from_slice(b"\r\n");
        self.for_each_trailer(|_, _| {})
    }

    fn for_each_trailer(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), ChunkError> {
        let mut slots = vec![httparse::EMPTY_HEADER; self.limits.trailer_fields];
        match httparse::parse_headers(&self.trailers, &mut slots) {
            Ok(httparse::Status::Complete((len, fields))) if len == self.trailers.len() => {
                fields.iter().for_each(|field| visit(field.name.as_bytes(), field.value));
                Ok(())
            }
            Err(httparse::Error::TooManyHeaders) => Err(ChunkError::TooManyTrailers),
            _ => Err(ChunkError::Trailer),
        }
    }
}

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends the line that begins a chunk of `len` bytes, which must not be zero. After the payload, CRLF is due.
pub fn write_chunk_header(len: u64, out: &mut Vec<u8>) {
    debug_assert_ne!(len, 0, "a chunk of zero bytes ends the body");
    let mut digits = [0u8; 16];
    let mut at = digits.len();
    let mut rest = len;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}
