//! What the machine may lack, and whether a test may then be skipped.
//!
//! `MTLS_REQUIRE` (comma list of `netns`, `vlan`, `bond`, `ktls`, `xdp`, `nginx`, `root`, `systemd`, or `all`) turns a skip for
//! that reason into a failure.

use std::fmt;
use std::sync::OnceLock;

use anyhow::{anyhow, bail};

use super::{Machine, network};

/// Something that a kernel, its privileges or the machine's tools give or do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Network namespaces and veth pairs.
    Netns,
    /// VLAN devices.
    Vlan,
    /// Bonds.
    Bond,
    /// Kernel TLS.
    Ktls,
    /// XDP programs, and a BPF file system to pin them in.
    Xdp,
    /// The nginx executable.
    Nginx,
    /// Being root, to become someone else.
    Root,
    /// A systemd to boot machines with.
    Systemd,
}

/// A test that cannot run here; carried as an error to the runner, which reports it as ignored.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl Feature {
    /// The word for it in `MTLS_REQUIRE`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Netns => "netns",
            Self::Vlan => "vlan",
            Self::Bond => "bond",
            Self::Ktls => "ktls",
            Self::Xdp => "xdp",
            Self::Nginx => "nginx",
            Self::Root => "root",
            Self::Systemd => "systemd",
        }
    }

    /// Whether the caller of the tests wants its absence to be a failure.
    #[must_use]
    pub fn required(self) -> bool {
        let list = std::env::var("MTLS_REQUIRE").unwrap_or_default();
        list.split(',').map(str::trim).any(|word| word == self.word() || word == "all")
    }

    /// Fails, with a [`Skip`] unless required, where the feature is missing.
    ///
    /// # Errors
    /// As said.
    pub fn need(self) -> anyhow::Result<()> {
        match self.missing() {
            None => Ok(()),
            Some(reason) if self.required() => {
                bail!("{reason} (MTLS_REQUIRE contains {}, so this is a failure)", self.word())
            }
            Some(reason) => Err(anyhow!(Skip(reason))),
        }
    }

    /// Why it is not there; `None` when it is.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        static NETNS: OnceLock<Option<String>> = OnceLock::new();
        static VLAN: OnceLock<Option<String>> = OnceLock::new();
        static BOND: OnceLock<Option<String>> = OnceLock::new();
        static XDP: OnceLock<Option<String>> = OnceLock::new();
        match self {
            Self::Netns => {
                NETNS.get_or_init(|| network::probe().err().map(|e| format!("no network namespaces: {e:#}"))).clone()
            }
            Self::Vlan => VLAN.get_or_init(|| network::probe_vlans().err().map(|e| format!("no VLANs: {e:#}"))).clone(),
            Self::Bond => BOND.get_or_init(|| network::probe_bonds().err().map(|e| format!("no bonds: {e:#}"))).clone(),
            Self::Ktls => ktls_missing(),
            Self::Xdp => XDP.get_or_init(|| network::probe_bpf().err().map(|e| format!("no BPF: {e:#}"))).clone(),
            Self::Nginx => super::lab::tool("nginx").err().map(|e| format!("{e:#}")),
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "this user is not root".to_owned()),
            Self::Systemd => Machine::missing(),
        }
    }
}

fn ktls_missing() -> Option<String> {
    let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    let loaded = available.split_whitespace().any(|word| word == "tls");
    (!loaded).then(|| "this kernel has no TLS (tcp_available_ulp does not list it; modprobe tls?)".to_owned())
}

/// Whether this runs in a virtual machine, whose CPU is emulated and slow.
#[must_use]
pub fn emulated() -> bool {
    let kernel = std::env::var("MTLS_KERNEL").unwrap_or_default();
    ["6.1", "6.12", "7"].iter().any(|guest| {
        kernel.strip_prefix(guest).is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    })
}
