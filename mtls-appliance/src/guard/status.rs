//! What the guard tells about itself; serialised by whoever serves it.

use std::path::PathBuf;

use mtls_appliance_common::Action;
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

/// What became of packets with a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedAction {
    /// Passed to the network stack.
    Pass,
    /// Dropped.
    Drop,
}

impl From<Action> for CountedAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Pass => CountedAction::Pass,
            Action::Drop => CountedAction::Drop,
        }
    }
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
    /// How it was attached.
    pub mode: AttachedMode,
    /// Why so: as configured, or what a driver said.
    pub why: String,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// Whether the guard of an earlier run was taken over, with its counters.
    pub taken_over: bool,
    /// Guarded TCP ports.
    pub ports: Vec<u16>,
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
        let dropped = self.reasons.iter().filter(|count| count.action == CountedAction::Drop);
        dropped.map(|count| count.packets).sum()
    }
}

/// Packets by reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReasonCount {
    /// The stable name of the reason.
    pub reason: &'static str,
    /// What became of them.
    pub action: CountedAction,
    /// How many.
    pub packets: u64,
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
}
