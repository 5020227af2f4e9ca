//! The registry of participants: organisations, the serial numbers of their certificates, the addresses they call from.
//!
//! Reads the operator's files and answers look-ups. Who is let in at the NIC is compiled from it by [`crate::guard`];
//! which certificate is presented is [`crate::identity`]'s. `parse` reads one file, `index` puts them together and
//! refuses what two organisations claim.

mod index;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::Mistakes;
use crate::config::document::read_text;
use index::Index;

/// Largest registry file that is read, in bytes.
pub const FILE_LIMIT: u64 = 64 << 20;

/// A participant. One certificate may stand for several organisation codes (one per industry).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organisation {
    /// 1 to 10 ASCII letters or digits each; at least one.
    pub codes: Vec<String>,
    /// Name, UTF-8, 1 to 60 bytes.
    pub name: String,
    /// Registered subject serialNumber values (OID 2.5.4.5), 1 to 20 bytes each.
    pub serial_numbers: Vec<String>,
    /// Addresses it calls from.
    pub sources: Vec<IpNet>,
}

/// All participants; immutable, replaced as a whole on reload.
#[derive(Debug, Default)]
pub struct Registry {
    /// Every participant once.
    pub organisations: Vec<Arc<Organisation>>,
    /// Positions in `organisations` by registered serial number.
    by_serial_number: HashMap<Box<str>, usize>,
    /// Outermost prefixes and positions in `organisations`, by first address; no two overlap.
    ranges: Vec<(IpNet, usize)>,
}

/// Reads and checks the registry's files, which make up one registry.
///
/// # Errors
/// Every mistake in every file: each value by itself, and what two organisations claim.
pub fn load(files: &[PathBuf]) -> Result<Registry, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut index = Index::default();
    for (at, path) in files.iter().enumerate() {
        let result = read_text(path, FILE_LIMIT, &format!("registry.files[{at}]"))
            .and_then(|text| parse::parse(path, &text, &mut index));
        if let Err(more) = result {
            mistakes.append(more);
        }
    }
    if mistakes.is_empty() && !index.has_serial_numbers() {
        let file = files.first().map(PathBuf::as_path).unwrap_or(Path::new("registry.files"));
        let problem = format!("none of the {} organisations has a serial number: nobody could call", index.len());
        mistakes = Mistakes::about_file(file, problem, "add serial_numbers to those that may call");
    }
    if mistakes.is_empty() { Ok(index.into_registry()) } else { Err(mistakes) }
}

impl Registry {
    /// Organisations as they are, for tests of what only lists them: nothing is checked, no look-up finds anything.
    #[cfg(test)]
    #[allow(dead_code, reason = "for the tests of other modules")]
    pub(crate) fn unchecked(organisations: Vec<Arc<Organisation>>) -> Self {
        Self { organisations, ..Self::default() }
    }

    /// The organisation with this subject serialNumber; bytes are compared, nothing is trimmed or folded.
    #[must_use]
    pub fn by_serial_number(&self, serial_number: &str) -> Option<&Arc<Organisation>> {
        self.by_serial_number.get(serial_number).and_then(|at| self.organisations.get(*at))
    }

    /// The organisation that calls from this address. IPv4 addresses mapped into IPv6 count as IPv4.
    ///
    /// Prefixes of different organisations never overlap, so the longest match and any match are the same.
    #[must_use]
    pub fn by_address(&self, address: IpAddr) -> Option<&Arc<Organisation>> {
        let address = address.to_canonical();
        let after = self.ranges.partition_point(|(range, _)| range.network() <= address);
        let (range, at) = self.ranges.get(after.checked_sub(1)?)?;
        if range.contains(&address) { self.organisations.get(*at) } else { None }
    }

    /// Every prefix with the position of its organisation in [`Registry::organisations`].
    pub fn prefixes(&self) -> impl Iterator<Item = (IpNet, usize)> {
        self.organisations
            .iter()
            .enumerate()
            .flat_map(|(at, organisation)| organisation.sources.iter().map(move |prefix| (*prefix, at)))
    }
}
