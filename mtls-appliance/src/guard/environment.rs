//! What must be there before anything is attached: capabilities, the interface, a BPF file system.

use std::path::Path;

use rustix::fs::statfs;
use rustix::thread::{CapabilitySet, capabilities};

use super::GuardError;
use super::netlink::{Interface, interfaces};
use crate::privileges;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i128 = 0xcafe_4a11;

/// Refuses a process that lacks a capability. CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON (capabilities(7)).
pub(super) fn check_privileges() -> Result<(), GuardError> {
    let held = capabilities(None).map_err(GuardError::kernel("reading the process's capabilities"))?;
    let missing = missing_capabilities(held.effective);
    if missing.is_empty() { Ok(()) } else { Err(GuardError::Privileges { missing }) }
}

/// Refuses a process that cannot open pinned maps.
pub(super) fn check_right_to_read() -> Result<(), GuardError> {
    let held = capabilities(None).map_err(GuardError::kernel("reading the process's capabilities"))?;
    let missing: Vec<_> =
        missing_capabilities(held.effective).into_iter().filter(|capability| *capability == "CAP_BPF").collect();
    if missing.is_empty() { Ok(()) } else { Err(GuardError::Privileges { missing }) }
}

fn missing_capabilities(effective: CapabilitySet) -> Vec<String> {
    let admin = effective.contains(CapabilitySet::SYS_ADMIN);
    let implied = if admin { CapabilitySet::BPF | CapabilitySet::PERFMON } else { CapabilitySet::empty() };
    privileges::names(privileges::GUARD - effective - implied)
}

/// The interface with this name.
pub(super) fn find_interface(name: &str) -> Result<Interface, GuardError> {
    let mut all = interfaces().map_err(GuardError::Netlink)?;
    match all.iter().position(|interface| interface.name == name) {
        Some(position) => Ok(all.swap_remove(position)),
        None => Err(GuardError::UnknownInterface {
            name: name.to_owned(),
            known: all.into_iter().map(|interface| interface.name).collect(),
        }),
    }
}

/// Refuses a folder for pins that is not on a BPF file system. It need not exist yet.
pub(super) fn check_pin_dir(path: &Path) -> Result<(), GuardError> {
    let refused = |problem: String| GuardError::PinDir { path: path.to_owned(), problem };
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let missing = path.strip_prefix(existing).unwrap_or(path);
    if missing.as_os_str().as_encoded_bytes().contains(&b'.') {
        return Err(refused("a BPF file system takes no names with a dot in them: choose another".to_owned()));
    }
    let kind = statfs(existing).map_err(|error| refused(error.to_string()))?.f_type;
    // The type of the field differs between architectures and C libraries, and so does the sign.
    if i128::from(kind) & 0xffff_ffff == BPF_FS_MAGIC {
        return Ok(());
    }
    let standard = Path::new("/sys/fs/bpf");
    Err(refused(if path.starts_with(standard) {
        format!("no BPF file system is mounted there: mount -t bpf bpf {}", standard.display())
    } else {
        format!(
            "not on a BPF file system: choose a folder below {} (mount -t bpf bpf {} if it is empty)",
            standard.display(),
            standard.display()
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_missing_capabilities() {
        let all = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON;
        assert!(missing_capabilities(all).is_empty());
        assert!(missing_capabilities(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN).is_empty());
        assert_eq!(missing_capabilities(CapabilitySet::SYS_ADMIN), ["CAP_NET_ADMIN"]);
        assert_eq!(missing_capabilities(CapabilitySet::empty()), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        let message = GuardError::Privileges { missing: missing_capabilities(CapabilitySet::NET_ADMIN) }.to_string();
        assert!(message.contains("needs CAP_PERFMON and CAP_BPF, which"), "{message}");
    }

    #[test]
    fn an_unknown_interface_is_answered_with_the_known_ones() {
        let message = find_interface("no-such-if").unwrap_err().to_string();
        assert!(message.contains("\"no-such-if\"") && message.contains("lo"), "{message}");
    }

    #[test]
    fn a_pin_dir_elsewhere_is_refused_with_the_way_out() {
        let message = check_pin_dir(Path::new("/tmp/guard/pins")).unwrap_err().to_string();
        assert!(message.contains("guard.pin_dir") && message.contains("below /sys/fs/bpf"), "{message}");
        let message = check_pin_dir(Path::new("/sys/fs/bpf/a.b")).unwrap_err().to_string();
        assert!(message.contains("dot"), "{message}");
    }
}
