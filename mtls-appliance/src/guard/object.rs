//! The XDP program in this build. `build.rs` decides whether there is one.

use super::GuardError;

/// The program as an ELF object, when this build has one.
#[cfg(guard_object)]
pub fn object() -> Option<&'static [u8]> {
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mtls-guard.o")))
}

/// The program as an ELF object, when this build has one.
#[cfg(not(guard_object))]
pub fn object() -> Option<&'static [u8]> {
    None
}

/// The program, or the error that says how to get it.
pub(super) fn required() -> Result<&'static [u8], GuardError> {
    object().ok_or(GuardError::NoProgram)
}
