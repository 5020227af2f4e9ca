//! Who the client is: from its certificate to facts, from facts to the header block that the origin sees.
//!
//! Pure functions over DER and the registry's answer. Checking the chain is [`crate::tls`]'s duty, removing and writing
//! fields [`crate::http1`]'s.

/// One field to inject: its name and the template of its value.
#[derive(Debug, Clone)]
pub struct HeaderTemplate {
    /// A valid HTTP field name.
    pub name: String,
}

/// The names that no client may send.
#[derive(Debug, Clone, Default)]
pub struct ReservedNames {}
