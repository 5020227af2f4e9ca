//! Who the client is: from its certificate to facts, from facts to the header block that the origin sees.
//!
//! Pure functions over DER and the registry's answer. Checking the chain is [`crate::tls`]'s duty, removing and writing
//! fields [`crate::http1`]'s. `certificate` and `dn` read the facts, `variables`, `template` and `presets` say what is
//! told, `block` writes it, `reserved` knows the names that no client may send.

mod block;
mod certificate;
mod dn;
mod field_name;
mod presets;
mod reserved;
mod template;
mod variables;

pub use block::{BLOCK_LIMIT, BlockError, header_block};
pub use certificate::{ClientIdentity, IdentityError};
pub use field_name::{FieldNameError, NAME_LIMIT, check_injected_name, check_removed_name, same_field};
pub use presets::{PRESETS, Preset};
pub use reserved::ReservedNames;
pub use template::{Encoding, HeaderTemplate, TemplateError};
pub use variables::{Connection, Facts, VARIABLES, Variable};

#[cfg(test)]
mod tests;
