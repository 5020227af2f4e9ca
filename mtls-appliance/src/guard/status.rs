//! What the guard tells about itself; serialised by whoever serves it.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use mtls_appliance_common::Reason;
use mtls_appliance_common::layout::Policy;
use serde::Serialize;

use super::netlink::XdpAttachment;

/// How a guard is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachedMode {
    /// In the driver, before the kernel makes anything of a packet.
    Native,
    /// In the network stack.
    Generic,
}

impl AttachedMode {
    pub(super) fn of(attachment: XdpAttachment) -> Self {
        if attachment.mode == "native" { Self::Native } else { Self::Generic }
    }
}

impl std::fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Whether an interface carries a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It does.
    Attached,
    /// The interface is gone.
    NoInterface,
    /// The interface has no program: it was made anew, or somebody detached the guard.
    NoProgram,
    /// The interface has a guard, and that does not use this guard's maps.
    OtherProgram,
    /// The interface has a program that the pins know nothing of: another tool's.
    ForeignProgram,
}

impl Presence {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::NoInterface => "no_interface",
            Self::NoProgram => "no_program",
            Self::OtherProgram => "other_program",
            Self::ForeignProgram => "foreign_program",
        }
    }
}

/// A budget of new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BudgetStatus {
    /// On average; rounded.
    pub per_second: u64,
    /// At once.
    pub burst: u64,
}

/// `enforce`, `observe` or `off`.
pub(super) fn mode(policy: Policy) -> &'static str {
    match (policy.is(Policy::ON), policy.is(Policy::ENFORCE)) {
        (false, _) => "off",
        (true, false) => "observe",
        (true, true) => "enforce",
    }
}

/// Reasons that would drop if the operator had not decided otherwise.
pub(super) fn passed_by_configuration(policy: Policy) -> Vec<&'static str> {
    let passed = Reason::dropping() & !policy.drops;
    Reason::ALL.iter().filter(|reason| passed & reason.bit() != 0).map(|reason| reason.name()).collect()
}

/// The budget that this flag of the policy switches on.
pub(super) fn budget(policy: Policy, flag: u64) -> Option<BudgetStatus> {
    let pace = if flag == Policy::SOURCE_BUDGET { policy.source } else { policy.organisation };
    if !policy.is(flag) || pace.interval_ns == 0 {
        return None;
    }
    let per_second = (1_000_000_000 + pace.interval_ns / 2) / pace.interval_ns;
    Some(BudgetStatus { per_second, burst: pace.burst_ns / pace.interval_ns + 1 })
}

/// Whether nothing is dropped because the daemon has been silent for so long.
pub(super) fn is_open(policy: Policy, silent_ns: u64) -> bool {
    policy.open_after_ns != 0 && silent_ns > policy.open_after_ns
}

/// A guard as it is now.
#[derive(Debug, Clone, Serialize)]
pub struct GuardStatus {
    /// The network interface.
    pub interface: String,
    /// Its index.
    pub interface_index: u32,
    /// Whether the kernel says that the interface carries this guard's program.
    pub attached: bool,
    /// `enforce`, `observe` or `off`.
    pub mode: &'static str,
    /// How it was attached.
    pub attached_as: AttachedMode,
    /// Why so: as configured, or what a driver said; `null` when that is not known any more.
    pub why: Option<String>,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// How many instructions the verifier looked at, of a million that it looks at at most; `null` before Linux 5.16.
    pub verified_instructions: Option<u32>,
    /// Whether the guard of an earlier run was taken over, with its counters; `null` when nobody is there to remember.
    pub taken_over: Option<bool>,
    /// Guarded TCP ports.
    pub ports: Vec<u16>,
    /// Guarded destination addresses; empty: all.
    pub addresses: Vec<IpAddr>,
    /// Where nothing is dropped from.
    pub management: Vec<IpNet>,
    /// Reasons whose packets are passed by configuration.
    pub pass: Vec<&'static str>,
    /// SYNs of one source; `null`: as many as it likes.
    pub source_budget: Option<BudgetStatus>,
    /// SYNs of one organisation; `null`: as many as it likes.
    pub organisation_budget: Option<BudgetStatus>,
    /// Seconds without the daemon after which nothing is dropped; `null`: drops go on.
    pub open_after_s: Option<u64>,
    /// Seconds since the daemon's last sign of life; attaching is one as well.
    pub silent_s: u64,
    /// Whether nothing is dropped because of that.
    pub open: bool,
    /// Counts the reloads, across restarts.
    pub generation: u64,
    /// Registered IPv4 prefixes.
    pub ipv4_prefixes: usize,
    /// Registered IPv6 prefixes.
    pub ipv6_prefixes: usize,
    /// The pin of the link: removing it detaches the guard.
    pub link_pin: PathBuf,
    /// The folder of all pins.
    pub pin_folder: PathBuf,
}

/// The counters since the guard was first attached; they survive restarts of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuardCounters {
    /// One per reason there is.
    pub reasons: Vec<ReasonCount>,
    /// One per organisation there is, or that packets came from when there was.
    pub organisations: Vec<OrganisationCount>,
}

impl GuardCounters {
    /// Packets with this reason, by its stable name; 0 for an unknown one.
    pub fn reason(&self, name: &str) -> u64 {
        self.reasons.iter().find(|count| count.reason == name).map_or(0, |count| count.packets)
    }

    /// Packets to guarded ports from the organisation with this (first) code; 0 for an unknown one.
    pub fn organisation(&self, code: &str) -> u64 {
        self.organisations.iter().find(|count| count.code == code).map_or(0, |count| count.packets)
    }

    /// Packets that were dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.reasons.iter().map(|count| count.dropped).sum()
    }
}

/// Packets by reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReasonCount {
    /// The stable name of the reason.
    pub reason: &'static str,
    /// How many packets, whatever became of them.
    pub packets: u64,
    /// Those that went on to the network stack.
    pub passed: u64,
    /// Those that ended at the interface.
    pub dropped: u64,
    /// Those that went on and would have been dropped if the guard did not merely observe.
    pub observed: u64,
}

/// Packets by organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrganisationCount {
    /// The organisation's first code.
    pub code: String,
    /// Whether it is in the registry now.
    pub registered: bool,
    /// Packets to guarded ports that were passed.
    pub packets: u64,
    /// SYNs beyond its budget or that of one of its sources.
    pub over_budget: u64,
}
