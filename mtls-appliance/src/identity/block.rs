//! The header block that tells the origin who calls: computed once per connection, written with every request head.

use thiserror::Error;

use super::template::HeaderTemplate;
use super::variables::Facts;

/// Largest block, in bytes; origins commonly accept 16 KiB of head or somewhat more.
pub const BLOCK_LIMIT: usize = 16 * 1024;

/// Why a client cannot be told to the origin.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BlockError {
    /// Mostly whole certificates.
    #[error("the identity fields take {0} bytes; at most {BLOCK_LIMIT} are sent. Tell fewer facts in [identity]")]
    TooLarge(usize),
    /// A fact with a control character, and an encoding that cannot express it.
    #[error("field {0}: the value has a control character. Use encoding \"percent\" or \"base64\" for it")]
    ControlCharacter(String),
}

impl BlockError {
    /// A stable name for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "identity_too_large",
            Self::ControlCharacter(_) => "identity_not_expressible",
        }
    }
}

/// The fields as `Name: value\r\n`, in the order of the templates, `X-Forwarded-For` last where it is wanted.
///
/// A field whose value comes out empty is left out.
///
/// # Errors
/// When the block is too large, or a value has a control character that its encoding cannot express.
pub fn header_block(
    templates: &[HeaderTemplate],
    forwarded_for: bool,
    facts: Facts<'_>,
) -> Result<Vec<u8>, BlockError> {
    let mut block = Vec::new();
    let mut field = |name: &str, value: &[u8]| {
        if !value.is_empty() {
            block.extend_from_slice(name.as_bytes());
            block.extend_from_slice(b": ");
            block.extend_from_slice(value);
            block.extend_from_slice(b"\r\n");
        }
    };
    for template in templates {
        let value = template.render(facts).map_err(|_| BlockError::ControlCharacter(template.name.clone()))?;
        field(&template.name, &value);
    }
    if forwarded_for {
        field("X-Forwarded-For", facts.connection.client().ip().to_string().as_bytes());
    }
    if block.len() > BLOCK_LIMIT { Err(BlockError::TooLarge(block.len())) } else { Ok(block) }
}
