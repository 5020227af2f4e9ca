//! What a process holds of the machine, as `/proc` tells it.

use std::fs;

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Memory and descriptors of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Resident memory.
    pub resident_kib: u64,
    /// Open descriptors that are sockets.
    pub sockets: usize,
    /// Open descriptors that are ends of pipes.
    pub pipes: usize,
    /// All other open descriptors.
    pub others: usize,
}

impl Resources {
    /// Reads them.
    ///
    /// # Errors
    /// When the process is gone or another user's.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let mut resources = Self { resident_kib: resident_kib(pid)?, sockets: 0, pipes: 0, others: 0 };
        let folder = format!("/proc/{pid}/fd");
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            // One that was closed meanwhile does not count.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            match target.to_string_lossy() {
                target if target.starts_with("socket:") => resources.sockets += 1,
                target if target.starts_with("pipe:") => resources.pipes += 1,
                _ => resources.others += 1,
            }
        }
        Ok(resources)
    }
}

/// Resident memory of a process.
///
/// # Errors
/// When the process is gone.
pub fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"));
    value.with_context(|| format!("no VmRSS in {path}"))?.trim().parse().context("VmRSS")
}

/// Raises this process's limit of open descriptors, which children inherit, as far as it may, and fails when that is
/// less than `needed`.
///
/// # Errors
/// As said.
pub fn need_descriptors(needed: u64) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let (Some(current), most) = (limit.current, limit.maximum) else { return Ok(()) };
    if current >= needed {
        return Ok(());
    }
    if most.is_some_and(|most| most < needed) {
        bail!("{needed} descriptors are needed, and ulimit -Hn allows {most:?}");
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: most }).context("raising ulimit -n")
}
