//! Finds the end of a head in a buffer that grows, looking at every byte once.
//!
//! A head that dribbles in byte by byte costs as much as one that arrives whole. Line ends are judged here, because a
//! lenient parser would take LF for CRLF; everything else about the head is the parsers' business.

use super::error::HeadFault;

/// Where a head begins and ends in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadBounds {
    /// First byte of the start line.
    pub(super) start: usize,
    /// One past the empty line.
    pub(super) end: usize,
}

/// Why no bounds were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanFault {
    /// A fault of the head.
    Head(HeadFault),
    /// The start line alone exceeds the head's limit.
    StartLineTooLong,
}

/// Remembers how far a growing buffer was searched for the end of a head.
///
/// It must see the same buffer, possibly longer, on each call; bytes must not be removed from its front in between. It
/// is ready for the next head once it has found one.
#[derive(Debug, Clone, Default)]
pub struct HeadScanner {
    searched: usize,
    start: usize,
    line_start: usize,
    lines: usize,
}

impl HeadScanner {
    /// A scanner at the front of a buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets what was seen: for a buffer whose front was removed.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Looks at the bytes not seen yet. `empty_line` lets one empty line precede the start line (RFC 9112 2.2).
    pub(super) fn scan(
        &mut self,
        buf: &[u8],
        head_bytes: usize,
        empty_line: bool,
    ) -> Result<Option<HeadBounds>, ScanFault> {
        let found = self.find(buf, head_bytes, empty_line);
        if !matches!(found, Ok(None)) {
            self.reset();
        }
        found
    }

    fn find(&mut self, buf: &[u8], head_bytes: usize, empty_line: bool) -> Result<Option<HeadBounds>, ScanFault> {
        let unseen = buf.get(self.searched..).unwrap_or_default();
        for at in memchr::memchr_iter(b'\n', unseen) {
            let lf = self.searched + at;
            if lf + 1 - self.start > head_bytes {
                return Err(self.too_large());
            }
            if lf == self.line_start || buf[lf - 1] != b'\r' {
                return Err(ScanFault::Head(HeadFault::BareLf));
            }
            let empty = lf - 1 == self.line_start;
            self.line_start = lf + 1;
            if !empty {
                self.lines += 1;
            } else if self.lines > 0 {
                return Ok(Some(HeadBounds { start: self.start, end: lf + 1 }));
            } else if self.start == 0 && empty_line {
                self.start = lf + 1;
            } else {
                return Err(ScanFault::Head(HeadFault::EmptyLines));
            }
        }
        self.searched = buf.len();
        if buf.len() - self.start > head_bytes {
            return Err(self.too_large());
        }
        Ok(None)
    }

    fn too_large(&self) -> ScanFault {
        if self.lines == 0 { ScanFault::StartLineTooLong } else { ScanFault::Head(HeadFault::HeadTooLarge) }
    }
}
