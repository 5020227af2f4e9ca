//! Capabilities: few at the start, none once the appliance serves.
//!
//! They belong to a thread, as `no_new_privs` does, and a new thread inherits them. So they are given up before there are
//! other threads, or by each thread for itself; [`Left::of_all_threads`] looks at every one. Who the process runs as is left
//! alone: user 0 without capabilities reads and writes what belongs to that user, and nothing else.

use std::fmt;
use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What it takes to load and attach the guard.
pub(crate) const GUARD: CapabilitySet =
    CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::PERFMON);
/// What it takes to listen on ports below 1024.
const LOW_PORTS: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;
/// What an older service definition may grant instead of CAP_BPF and CAP_PERFMON; with it the kernel also names other
/// programs. And what it takes to empty the bounding set.
const ALSO_OF_USE: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SETPCAP);

/// Keeps what the start needs. What reads files any user's rights notwithstanding goes at once: a file that a reload could
/// not read shall be missed at the start.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn keep_for_start() -> io::Result<()> {
    restrict_to(GUARD | LOW_PORTS | ALSO_OF_USE)
}

/// Gives up every capability of this thread and the way to get one again.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn give_up() -> io::Result<()> {
    if capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        for bit in (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit)) {
            // The kernel knows fewer than there are bits.
            if capability_is_in_bounding_set(bit).unwrap_or(false) {
                remove_capability_from_bounding_set(bit)?;
            }
        }
    }
    restrict_to(CapabilitySet::empty())?;
    set_no_new_privs(true)?;
    Ok(())
}

/// Does something on a thread that has no capabilities.
///
/// # Errors
/// No thread can be started, or the kernel refuses.
pub(crate) fn without<T: Send>(act: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("unprivileged".to_owned()).spawn_scoped(scope, || {
            give_up()?;
            Ok(act())
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
    })
}

fn restrict_to(wanted: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?;
    clear_ambient_capability_set()?;
    let kept = held.permitted & wanted;
    set_capabilities(
        None,
        CapabilitySets { effective: held.effective & kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    Ok(())
}

/// What the threads of this process may do beyond what their user may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// In the permitted, effective, inheritable or ambient set of a thread.
    held: CapabilitySet,
    /// No thread can get any by starting a program.
    no_new_privs: bool,
}

impl Left {
    /// Asks the kernel about every thread.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub(crate) fn of_all_threads() -> io::Result<Self> {
        let mut left = Self { held: CapabilitySet::empty(), no_new_privs: true };
        for thread in std::fs::read_dir("/proc/self/task")? {
            match std::fs::read_to_string(thread?.path().join("status")) {
                Ok(status) => left.add(&status)?,
                // It has ended since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    fn add(&mut self, status: &str) -> io::Result<()> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).ok_or_else(|| io::Error::other(format!("/proc tells no {name} of a thread")))
        };
        for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let bits = u64::from_str_radix(field(name)?, 16).map_err(io::Error::other)?;
            self.held |= CapabilitySet::from_bits_retain(bits);
        }
        self.no_new_privs &= field("NoNewPrivs")? == "1";
        Ok(())
    }

    /// Whether there is nothing left, and nothing to be had.
    pub(crate) fn is_none(self) -> bool {
        self.held.is_empty() && self.no_new_privs
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        if !self.held.is_empty() {
            f.write_str(&names(self.held).join(" and "))?;
        }
        if !self.no_new_privs {
            f.write_str(if self.held.is_empty() {
                "any, by starting a program"
            } else {
                ", and more by starting a program"
            })?;
        }
        Ok(())
    }
}

/// As in CAP_BPF, in the order of the kernel's numbers.
pub(crate) fn names(set: CapabilitySet) -> Vec<String> {
    let mut named = set.iter_names();
    let mut names: Vec<String> = named.by_ref().map(|(name, _)| format!("CAP_{name}")).collect();
    let unnamed = named.remaining().bits();
    names.extend((0..u64::BITS).filter(|bit| unnamed >> bit & 1 == 1).map(|bit| format!("capability {bit}")));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                           CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";

    fn left(statuses: &[&str]) -> Left {
        let mut left = Left { held: CapabilitySet::empty(), no_new_privs: true };
        statuses.iter().for_each(|status| left.add(status).unwrap());
        left
    }

    /// What a unit's bounding set lets a process have.
    fn bounding(unit: &str) -> Vec<&str> {
        let lines: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet=")).collect();
        let [line] = lines[..] else { panic!("{lines:?}") };
        let mut names: Vec<&str> = line.split(' ').collect();
        names.sort_unstable();
        names
    }

    fn sorted(set: CapabilitySet) -> Vec<String> {
        let mut names = names(set);
        names.sort_unstable();
        names
    }

    #[test]
    fn the_units_grant_what_is_needed_and_no_more() {
        assert_eq!(bounding(include_str!("../systemd/mtls-appliance.service")), sorted(GUARD | LOW_PORTS));
        assert_eq!(bounding(include_str!("../systemd/mtls-appliance-guard@.service")), sorted(GUARD));
    }

    #[test]
    fn one_thread_with_something_left_is_enough() {
        assert!(left(&[NOTHING, NOTHING]).is_none());
        assert_eq!(left(&[NOTHING]).to_string(), "none");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let other = NOTHING.replace(&format!("{set}:\t0000000000000000"), &format!("{set}:\t8000008000001000"));
            let left = left(&[NOTHING, &other, NOTHING]);
            assert_eq!(left.to_string(), "CAP_NET_ADMIN and CAP_BPF and capability 63", "{set}");
            assert!(!left.is_none());
        }
        let other = NOTHING.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0");
        assert!(!left(&[&other, NOTHING]).is_none());
        assert_eq!(left(&[&other]).to_string(), "any, by starting a program");
    }

    #[test]
    fn what_proc_does_not_tell_is_no_good_news() {
        let mut left = left(&[]);
        assert!(left.add("").is_err());
        assert!(left.add(&NOTHING.replace("CapAmb", "Other")).is_err());
    }

    #[test]
    fn a_thread_that_gave_up_everything_has_nothing_and_leaves_the_others_alone() {
        let before = capabilities(None).unwrap();
        let within = without(|| {
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            (left(&[&status]), std::thread::spawn(|| capabilities(None).unwrap()).join().unwrap())
        });
        let (within, heir) = within.unwrap();
        assert!(within.is_none(), "{within}");
        assert!(heir.permitted.is_empty(), "{heir:?}");
        assert_eq!(capabilities(None).unwrap(), before);
    }
}
