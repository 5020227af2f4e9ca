//! How much the long tests do: by their own default, less where the CPU is emulated, and as the environment says.

use anyhow::Context;
pub(crate) use mtls_appliance_tests::harness::emulated;

/// What a variable says, if it is set.
pub(crate) fn given(variable: &str) -> anyhow::Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable} = {text:?} is not a number"))
}

/// What a variable says, or what holds without it.
pub(crate) fn number(variable: &str, native: u64, emulated_default: u64) -> anyhow::Result<u64> {
    Ok(given(variable)?.unwrap_or(if emulated() { emulated_default } else { native }))
}
