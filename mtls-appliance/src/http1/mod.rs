//! HTTP/1.1 heads and framing, sans-IO: bytes in, decisions out.
//!
//! The way of an exchange, as the shell ([`crate::proxy`]) drives it:
//!
//! 1. [`parse_request_with`] on the client's buffer until it gives a [`RequestHead`] or a [`RequestError`];
//! 2. [`write_request`] gives the head for the origin: hop-by-hop fields removed, reserved names removed, the identity
//!    block injected, in this order; of an Upgrade what [`RequestHead::offer`] leaves;
//! 3. the body, by [`RequestHead::framing`]: so many bytes, or [`ChunkDecoder`] step by step;
//! 4. [`parse_response_with`] on the origin's buffer, [`ResponseHead::plan`], [`write_response`], and the body again;
//! 5. where anything is refused, an [`OwnResponse`] with the reason's status, and the end of the connection.
//!
//! Where a duty of RFC 9110 or 9112 leaves a choice, the choice is the strict one, with these in particular:
//!
//! - One empty line before a request line is skipped (RFC 9112 2.2), a second is refused; none before a status line.
//! - `Connection` that nominates a field meant for the final recipient (Host, Content-Length, Authorization, ...) is
//!   refused, since obeying would change a request after it was checked and ignoring would leave a recipient that
//!   obeys with another request. Nominating Transfer-Encoding is harmless, as it is written anew for every hop.
//! - Repeated or list-valued Content-Length is refused even where the values agree.
//! - An unknown coding before a final `chunked` is 501 (RFC 9112 6.1), anything else wrong with Transfer-Encoding 400.
//! - A field whose name becomes Content-Length or Transfer-Encoding when punctuation is folded is refused.
//! - Hosts are letters, digits and `-._~` or addresses; commas, escapes and user information are refused.
//!
//! Deadlines, buffers, connections and logging are the shell's; which names are reserved is [`crate::identity`]'s.

mod bytes;
mod chunk;
mod chunk_extension;
mod error;
mod error_response;
mod field;
mod head;
mod request;
mod respond;
mod response;
mod rewrite;
mod scan;
mod target;
mod upgrade;

#[cfg(test)]
mod tests;

pub use chunk::{ChunkDecoder, ChunkEvent, ChunkLimits, ChunkStep, LAST_CHUNK, write_chunk_header};
pub use error::{ChunkError, RequestError, ResponseError};
pub use error_response::{CONTINUE, OwnResponse, reason_phrase};
pub use head::{BodyFraming, HeadLimits, Version};
pub use request::{Method, RequestHead, parse_request, parse_request_with};
pub use respond::{ResponseOptions, write_response};
pub use response::{Disposition, Exchange, ResponseHead, ResponsePlan, parse_response, parse_response_with};
pub use rewrite::{RewriteOptions, write_request};
pub use scan::HeadScanner;
pub use target::TargetForm;
pub use upgrade::{Offer, ProtocolNameError, check_protocol_name};

/// Decides which field names are removed from a client's head and trailers.
pub trait NameFilter {
    /// Whether a field of this name, in whatever case or punctuation, must not come from a client.
    fn contains(&self, name: &[u8]) -> bool;
}

/// Reserves nothing.
impl NameFilter for () {
    fn contains(&self, _name: &[u8]) -> bool {
        false
    }
}

impl NameFilter for crate::identity::ReservedNames {
    fn contains(&self, name: &[u8]) -> bool {
        Self::contains(self, name)
    }
}
