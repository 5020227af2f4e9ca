//! What can go wrong with the guard, each with the way out.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mtls_appliance_common::layout::{MAX_ADDRESSES, MAX_ORGANISATIONS, MAX_PREFIXES, PROGRAM};

use super::netlink::XdpAttachment;

/// Why the guard could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The build has no XDP program.
    #[error("this build has no XDP program in it: build with `cargo xtask build`, or remove the [guard] table")]
    NoProgram,
    /// Capabilities are missing.
    #[error(
        "the guard needs {}, which this process lacks: run it as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON \
         (systemd: CapabilityBoundingSet=, AmbientCapabilities=)",
        missing.join(" and ")
    )]
    Privileges {
        /// Their names.
        missing: Vec<String>,
    },
    /// No such interface.
    #[error(
        "guard.interfaces, {name:?}: there is no such network interface; there are: {}",
        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
    )]
    UnknownInterface {
        /// As configured.
        name: String,
        /// The ones there are.
        known: Vec<String>,
    },
    /// The kernel would not say what interfaces there are.
    #[error(
        "the kernel does not answer questions about network interfaces: {0}; under systemd, RestrictAddressFamilies= must \
         include AF_NETLINK"
    )]
    Netlink(#[source] io::Error),
    /// The kernel has no BPF, or does not let us use it.
    #[error(
        "[guard]: the kernel refuses BPF: {0}; boot a kernel with CONFIG_BPF_SYSCALL, let neither lockdown nor a container \
         forbid it, or remove the [guard] table to run without the guard"
    )]
    NoBpf(String),
    /// The kernel wants privileges for every write to a map, and this process keeps none.
    #[error(
        "[guard]: the kernel lets only privileged processes write into BPF maps ({0}), and the appliance keeps no privileges \
         once it serves: boot Linux 5.19 or later"
    )]
    PrivilegedMaps(String),
    /// The pins cannot live where they should.
    #[error("guard.pin_dir = {:?}: {problem}", path.display())]
    PinDir {
        /// As configured.
        path: PathBuf,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// Another process attaches guards.
    #[error(
        "guard.pin_dir = {:?}: {} attaches guards there, or starts and has attached its guards, and has not finished in {} s: \
         see what keeps it, end it if need be, and try again",
        pin_dir.display(),
        holder.map_or_else(|| "another process".to_owned(), |process| format!("process {process}")),
        patience.as_secs()
    )]
    Busy {
        /// As configured.
        pin_dir: PathBuf,
        /// How long was waited.
        patience: Duration,
        /// The process, if the kernel says.
        holder: Option<u32>,
    },
    /// What is pinned for an interface is of no use.
    #[error("the guard of {interface}: {problem}")]
    Pinned {
        /// The interface.
        interface: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// The pin of the link is gone.
    #[error(
        "the guard was detached: there is no {}; restart the appliance to attach it again",
        pin.display()
    )]
    Detached {
        /// Where the link was pinned.
        pin: PathBuf,
    },
    /// Somebody else is on the interface.
    #[error(
        "guard.interfaces, {interface:?}: another XDP program is attached to it ({}, id {}, {} mode), and one interface \
         carries one: {}, or guard another interface",
        if program.is_empty() { "without a name" } else { program },
        attachment.program_id,
        attachment.mode,
        removal(interface, program, attachment.mode)
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The kernel's name of the program.
        program: String,
        /// How it is attached.
        attachment: XdpAttachment,
    },
    /// A guard of an earlier run is attached in another way than configured.
    #[error(
        "guard.attach = {wanted:?}, but the guard of an earlier run is attached to {interface} in {attached} mode: run \
         `mtls-appliance guard detach` and start again, or set guard.attach = \"auto\""
    )]
    OtherMode {
        /// The interface.
        interface: String,
        /// As configured.
        wanted: &'static str,
        /// As it is.
        attached: &'static str,
    },
    /// The interface does not take an XDP program.
    #[error(
        "guard.interfaces, {interface:?}, guard.attach = {mode:?}: the program cannot be attached: {message}; a lower MTU \
         (`ip link set dev {interface} mtu 1500`), fewer queues (`ethtool -L`) or LRO off (`ethtool -K {interface} lro \
         off`) can be what the driver wants; guard.attach = \"auto\" takes generic mode where native is not possible"
    )]
    Attach {
        /// The interface.
        interface: String,
        /// As configured.
        mode: &'static str,
        /// What the driver says.
        message: String,
    },
    /// The kernel does not accept the program.
    #[error("the kernel does not accept the XDP program: {0}")]
    Load(String),
    /// Too many prefixes.
    #[error(
        "the registry has {count} IPv{family} prefixes, the guard takes {MAX_PREFIXES}: merge neighbouring prefixes"
    )]
    TooManyPrefixes {
        /// 4 or 6.
        family: u8,
        /// How many there are.
        count: usize,
    },
    /// More guarded addresses than the guard takes.
    #[error(
        "guard.addresses has {count} addresses, the guard takes {MAX_ADDRESSES}: leave it out to guard every address"
    )]
    TooManyAddresses {
        /// How many there are.
        count: usize,
    },
    /// Too many organisations.
    #[error("the registry has more organisations than the guard has counters for ({MAX_ORGANISATIONS})")]
    TooManyOrganisations,
    /// A map operation failed.
    #[error("{doing}: {message}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        message: String,
    },
}

/// How an interface is rid of a program that is not of this guard.
fn removal(interface: &str, program: &str, mode: &str) -> String {
    match program {
        PROGRAM => {
            "it is a guard that guard.pin_dir does not know: stop the appliance that attached it or set guard.pin_dir to its"
                .to_owned()
        }
        // Of libxdp, which runs several programs in one.
        "xdp_dispatcher" => format!("`xdp-loader unload {interface} --all` (xdp-tools) removes it"),
        _ => {
            let word = if mode == "native" { "xdp" } else { "xdpgeneric" };
            format!(
                "let the tool that attached it detach it (`ip link set dev {interface} {word} off` does, unless a BPF link \
                 holds it: `bpftool link show`)"
            )
        }
    }
}

impl GuardError {
    /// Whether the operator's configuration is to blame, not the machine it runs on.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            GuardError::UnknownInterface { .. }
                | GuardError::OtherMode { .. }
                | GuardError::TooManyPrefixes { .. }
                | GuardError::TooManyAddresses { .. }
                | GuardError::TooManyOrganisations
        )
    }

    /// The same, with the interface's name where it is the kernel that refused.
    pub(super) fn at(self, interface: &str) -> GuardError {
        match self {
            GuardError::Kernel { doing, message } => {
                GuardError::Kernel { doing, message: format!("{message} (the guard of {interface})") }
            }
            other => other,
        }
    }

    /// An error of the kernel while `doing` something; for `map_err`.
    pub(super) fn kernel<E: Error>(doing: &'static str) -> impl FnOnce(E) -> GuardError {
        move |error| GuardError::Kernel { doing, message: chain(&error) }
    }
}

/// An error and all its causes on one line; a verifier's log is cut to its end, where the reason is.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > 12 { format!("{}\n...\n{}", lines[0], lines[lines.len() - 10..].join("\n")) } else { text }
}
