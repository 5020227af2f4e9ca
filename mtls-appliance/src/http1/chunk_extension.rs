//! The grammar of chunk extensions (RFC 9112 7.1.1), one byte at a time.
//!
//! They are dropped, but where they end is where the payload begins: whoever reads them otherwise reads another body.

use super::bytes::is_token;

/// Where a list of extensions stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChunkExtension {
    /// Behind `;`, and whitespace.
    NameDue,
    Name,
    /// Whitespace behind a name.
    NameSpace,
    /// Behind `=`, and whitespace.
    ValueDue,
    Value,
    Quoted,
    /// Behind a backslash.
    Escaped,
    /// Behind the closing quote.
    QuotedEnd,
    /// Whitespace behind a value.
    ValueSpace,
}

impl ChunkExtension {
    /// Where it stands behind this byte; `None` if it may not stand there.
    pub(super) fn next(self, byte: u8) -> Option<Self> {
        let token = is_token(&[byte]);
        let space = matches!(byte, b' ' | b'\t');
        let text = !byte.is_ascii_control() || byte == b'\t';
        match (self, byte) {
            (Self::NameDue, _) if space => Some(Self::NameDue),
            (Self::NameDue | Self::Name, _) if token => Some(Self::Name),
            (Self::Name | Self::NameSpace, _) if space => Some(Self::NameSpace),
            (Self::Name | Self::NameSpace, b'=') => Some(Self::ValueDue),
            (Self::ValueDue, _) if space => Some(Self::ValueDue),
            (Self::ValueDue | Self::Value, _) if token => Some(Self::Value),
            (Self::ValueDue, b'"') => Some(Self::Quoted),
            (Self::Quoted, b'"') => Some(Self::QuotedEnd),
            (Self::Quoted, b'\\') => Some(Self::Escaped),
            (Self::Quoted | Self::Escaped, _) if text => Some(Self::Quoted),
            (Self::Value | Self::QuotedEnd | Self::ValueSpace, _) if space => Some(Self::ValueSpace),
            (Self::Name | Self::NameSpace | Self::Value | Self::QuotedEnd | Self::ValueSpace, b';') => {
                Some(Self::NameDue)
            }
            _ => None,
        }
    }

    /// Whether the line may end here.
    pub(super) fn may_end(self) -> bool {
        matches!(self, Self::Name | Self::Value | Self::QuotedEnd)
    }
}
