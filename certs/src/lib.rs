//! The development PKI: [`generate`] turns `pki.toml` into certificates and keys in a folder.
//!
//! What the PKI contains is data (`pki.toml`); `spec` parses it, `issue` signs, `output` writes files and decides
//! whether those of an earlier run still serve. Nothing here is meant for production: every key lies in the folder.

mod issue;
mod output;
mod spec;

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use time::OffsetDateTime;

/// The description of the development PKI (`certs/pki.toml`).
pub const PKI: &str = include_str!("../pki.toml");

/// The organisations registered for development (`certs/registry.toml`); [`generate`] copies it beside the keys.
pub const REGISTRY: &str = include_str!("../registry.toml");

/// Generates the development PKI into `out`, creating the folder if needed.
///
/// For each authority and certificate of [`PKI`]: `<name>.pem` and `<name>.key` (mode 0600, PKCS #8). The `.pem` of a
/// certificate holds the leaf followed by its intermediates. `registry.toml` is [`REGISTRY`].
///
/// Does nothing when the folder already holds what the description says and none of it expires within a week.
/// Concurrent calls on the same folder wait for each other.
///
/// # Errors
/// When the description is inconsistent or the folder cannot be written; the message names the entry or file.
pub fn generate(out: &Path) -> anyhow::Result<()> {
    generate_at(out, PKI, OffsetDateTime::now_utc())
}

/// Adds `<name>.pem` and `<name>.key` to a folder that [`generate`] filled: as the certificate `like` of [`PKI`], with a key
/// of its own, and good until `end` (to the second).
///
/// # Errors
/// When [`PKI`] has no such certificate, or the folder does not hold its authority or cannot be written.
pub fn issue_until(folder: &Path, like: &str, name: &str, end: SystemTime) -> anyhow::Result<()> {
    let spec = spec::Spec::parse(PKI)?;
    let entry = spec.certificates.iter().find(|entry| entry.name.to_string() == like);
    let entry = entry.with_context(|| format!("no certificate is named {like}"))?;
    let read = |extension: &str| {
        let path = folder.join(format!("{}.{extension}", entry.issuer));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let authority = read("pem")?;
    let (leaf, key) = issue::issue_again(entry, (&authority, &read("key")?), OffsetDateTime::now_utc(), end.into())?;
    let folder = output::Folder::lock(folder)?;
    // A root's own certificate is in nobody's way.
    folder.add(name, &(leaf + &authority), &key)
}

fn generate_at(out: &Path, description: &str, now: OffsetDateTime) -> anyhow::Result<()> {
    let folder = output::Folder::lock(out)?;
    let stamp = output::Stamp::of(&[description, REGISTRY]);
    let spec = spec::Spec::parse(description)?;
    if folder.is_current(&stamp, &spec, now) {
        return Ok(());
    }
    let issued = issue::issue(&spec, now)?;
    folder.replace(&issued, REGISTRY, &stamp, now)
}

#[cfg(test)]
mod tests;
