//! The kernel's own count of TLS sessions: `/proc/<pid>/net/tls_stat`, which is that of the process's network namespace.

use std::collections::BTreeMap;

use anyhow::Context;

/// Counters by name, as the kernel spells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsStat(BTreeMap<String, u64>);

impl TlsStat {
    /// Reads the counters of the network namespace that process `pid` is in.
    ///
    /// # Errors
    /// When the kernel has no TLS or the process is gone.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/net/tls_stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(Self(
            text.lines()
                .filter_map(|line| {
                    let (name, value) = line.split_once(char::is_whitespace)?;
                    Some((name.to_owned(), value.trim().parse().ok()?))
                })
                .collect(),
        ))
    }

    /// One counter; 0 when this kernel does not have it.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// By how much a counter rose since `before`.
    #[must_use]
    pub fn since(&self, before: &Self, name: &str) -> u64 {
        self.count(name).saturating_sub(before.count(name))
    }
}
