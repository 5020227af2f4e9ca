//! What the guard tells about itself; serialised by whoever serves it.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

/// How a guard is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachedMode {
    /// In the driver, before the kernel makes anything of a packet.
    Native,
    /// In the network stack.
    Generic,
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
    /// Why so: as configured, or what a driver said.
    pub why: String,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// How many instructions the verifier looked at, of a million that it looks at at most; `null` before Linux 5.16.
    pub verified_instructions: Option<u32>,
    /// Whether the guard of an earlier run was taken over, with its counters.
    pub taken_over: bool,
    /// Guarded TCP ports.
    pub ports: Vec<u16>,
    /// Guarded destination addresses; empty: all.
    pub addresses: Vec<IpAddr>,
    /// Where nothing is dropped from.
    pub management: Vec<IpNet>,
    /// Reasons whose packets are passed by configuration.
    pub pass: Vec<&'static str>,
    /// Seconds without the daemon after which nothing is dropped; `null`: drops go on.
    pub open_after_s: Option<u64>,
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
    /// One per organisation there is or was.
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
