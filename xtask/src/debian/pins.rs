//! `provision.toml`: which packages make up which root, pinned by version.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;

/// The file, compiled in: a moved pin rebuilds xtask, so that file and program never disagree.
const PROVISION_TOML: &str = include_str!("../../provision.toml");

/// Everything that is provisioned.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Pins {
    roots: BTreeMap<String, RootPins>,
    /// The linker built from source for the BPF toolchain.
    pub(crate) bpf_linker: BpfLinker,
    /// The checker of licences and sources.
    pub(crate) cargo_deny: CargoDeny,
    /// The virtual machine.
    pub(crate) guest: Guest,
}

/// A directory tree made of unpacked packages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RootPins {
    /// The Debian release the packages come from.
    pub(crate) suite: String,
    /// The packages, pinned.
    pub(crate) packages: Vec<Pin>,
    /// Whether what they depend on is unpacked as well.
    #[serde(default)]
    pub(crate) closure: bool,
    /// What a fall-back must begin with instead of the pin's `major.minor`.
    pub(crate) series: Option<String>,
    /// What is removed again after unpacking.
    #[serde(default)]
    pub(crate) prune: Vec<String>,
}

/// What the virtual machine needs to know.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Guest {
    /// The modules it loads; `?` at the end of a name marks one that a kernel may not have.
    pub(crate) modules: Vec<String>,
}

/// bpf-linker's pinned version and the LLVM it reads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BpfLinker {
    /// Version on crates.io.
    pub(crate) version: String,
    /// Major version of LLVM, the same as the compiler's.
    pub(crate) llvm: u32,
}

/// cargo-deny's pinned version.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CargoDeny {
    /// Version on crates.io.
    pub(crate) version: String,
}

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pin {
    /// The package.
    pub(crate) name: String,
    /// Its Debian version.
    pub(crate) version: String,
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, version)) if !name.is_empty() && !version.is_empty() => {
                Ok(Self { name: name.to_owned(), version: version.to_owned() })
            }
            _ => Err(format!("`{text}` is not `name=version`")),
        }
    }
}

impl Pin {
    /// What versions of the same series have in common: `major.minor` without the epoch, with what ends it.
    pub(crate) fn series(&self) -> String {
        let parts: Vec<&str> = upstream(&self.version).splitn(3, '.').collect();
        match parts[..] {
            [major, minor, _] => format!("{major}.{minor}."),
            [major, minor] => {
                let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
                format!("{major}.{}", minor.get(..digits).unwrap_or(minor))
            }
            _ => upstream(&self.version).to_owned(),
        }
    }
}

/// A Debian version without its epoch.
pub(crate) fn upstream(version: &str) -> &str {
    version.split_once(':').map_or(version, |(_, rest)| rest)
}

impl Pins {
    /// Reads the file.
    pub(crate) fn load() -> Result<Self> {
        toml::from_str(PROVISION_TOML).context("xtask/provision.toml")
    }

    /// The named root.
    pub(crate) fn root(&self, name: &str) -> Result<&RootPins> {
        self.roots.get(name).ok_or_else(|| anyhow!("xtask/provision.toml has no [roots.{name}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_file_parses_and_every_root_names_packages() {
        let pins = Pins::load().unwrap();
        assert!(pins.roots.values().all(|root| !root.packages.is_empty()));
    }

    #[test]
    fn a_series_is_major_and_minor_without_the_epoch() {
        let series = |version: &str| Pin { name: "x".into(), version: version.into() }.series();
        assert_eq!(series("1.96.0+dfsg1-1~deb12u2"), "1.96.");
        assert_eq!(series("1:22.1.8-1~deb12u1"), "22.1.");
        assert_eq!(series("6.4-4"), "6.4");
        assert_eq!(series("3.1-20221030-2"), "3.1");
        assert_eq!(series("72.1-3+deb12u1"), "72.1");
    }

    #[test]
    fn a_pin_without_a_version_is_refused() {
        assert!(Pin::try_from("curl".to_owned()).unwrap_err().contains("name=version"));
    }
}
