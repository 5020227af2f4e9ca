//! The guard at an interface, seen through its pins: whoever attached it, and whether or not a daemon runs.
//!
//! Nothing here changes a map. What would become of a packet is the program's own verdict over the live maps.

use std::net::IpAddr;

use aya::programs::loaded_programs;
use mtls_appliance_common::layout::{MANAGEMENT, Policy};
use serde::Serialize;

use super::netlink::Interface;
use super::pins::Pins;
use super::status::{self, AttachedMode, GuardCounters, GuardStatus};
use super::tables::Tables;
use super::{GuardError, attach, contents, environment};
use crate::config;
use crate::registry::Registry;

/// An attached guard that this process did not attach.
#[derive(Debug)]
pub struct PinnedGuard {
    interface: Interface,
    mode: AttachedMode,
    program_id: u32,
    pins: Pins,
    tables: Tables,
}

/// What the guard would do about a packet now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `passed`, `dropped` or `observed`.
    pub action: &'static str,
    /// The stable name of the reason.
    pub reason: &'static str,
    /// The first code of the organisation that owns the source, where it was looked up and found.
    pub organisation: Option<String>,
    /// Whether the packet would use up a part of a budget of new connections.
    pub charges: Charges,
    /// Where it comes from; `null` when no IP address could be read.
    pub source: Option<IpAddr>,
    /// Its port; `null` when there is no TCP segment.
    pub source_port: Option<u16>,
    /// Where it goes.
    pub destination: Option<IpAddr>,
    /// Its port.
    pub destination_port: Option<u16>,
    /// `enforce`, `observe` or `off`.
    pub mode: &'static str,
    /// The generation that it was judged by.
    pub generation: u64,
}

/// Which budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Charges {
    /// That of the source.
    pub source: bool,
    /// That of the organisation.
    pub organisation: bool,
}

impl PinnedGuard {
    /// Opens the pins of the guard at this interface.
    ///
    /// # Errors
    /// None is pinned, or one of another version; its interface is another one by now; a missing privilege.
    pub fn open(config: &config::Guard, name: &str) -> Result<PinnedGuard, GuardError> {
        environment::check_right_to_read()?;
        let pins = Pins::new(&config.pin_dir, name);
        let link = pins.own_link()?;
        let interface = environment::find_interface(name)?;
        if !attach::holds(&link, &interface) {
            return Err(pins.lost_interface());
        }
        let tables = Tables::open(&pins)?;
        let (mode, program_id) =
            interface.xdp.map(|xdp| (AttachedMode::of(xdp), xdp.program_id)).ok_or_else(|| pins.lost_interface())?;
        Ok(PinnedGuard { interface, mode, program_id, pins, tables })
    }

    /// The name of its interface.
    pub fn interface(&self) -> &str {
        &self.interface.name
    }

    /// Whether it judges packets by exactly this configuration and registry.
    ///
    /// # Errors
    /// When the kernel does not let the maps be read.
    pub fn holds(&self, config: &config::Guard, registry: &Registry) -> Result<bool, GuardError> {
        self.tables.hold(contents(config, registry))
    }

    /// The guard as it is now.
    ///
    /// # Errors
    /// When the kernel does not let the maps be read.
    pub fn status(&self) -> Result<GuardStatus, GuardError> {
        let found = self.tables.in_force()?;
        let Policy { open_after_ns, .. } = found.policy;
        let silent_ns = self.tables.silent_ns()?;
        // Not everybody may look at programs by their number.
        let info = loaded_programs().flatten().find(|info| info.id() == self.program_id);
        Ok(GuardStatus {
            interface: self.interface.name.clone(),
            interface_index: self.interface.index,
            attached: true,
            mode: status::mode(found.policy),
            attached_as: self.mode,
            why: self.tables.note()?,
            program_id: self.program_id,
            verified_instructions: info.and_then(|info| info.verified_instruction_count()),
            taken_over: None,
            ports: found.ports,
            addresses: found.addresses,
            management: found.management,
            pass: status::passed_by_configuration(found.policy),
            source_budget: status::budget(found.policy, Policy::SOURCE_BUDGET),
            organisation_budget: status::budget(found.policy, Policy::ORGANISATION_BUDGET),
            open_after_s: (open_after_ns != 0).then_some(open_after_ns / 1_000_000_000),
            silent_s: silent_ns / 1_000_000_000,
            open: status::is_open(found.policy, silent_ns),
            generation: found.generation.0,
            ipv4_prefixes: found.ipv4,
            ipv6_prefixes: found.ipv6,
            link_pin: self.pins.link(),
            pin_folder: self.pins.folder().to_owned(),
        })
    }

    /// The counters since the guard was first attached.
    ///
    /// # Errors
    /// When the kernel does not let them be read.
    pub fn counters(&self) -> Result<GuardCounters, GuardError> {
        self.tables.counters()
    }

    /// What would become of a packet, from the Ethernet header on. It is not counted, and no budget is charged.
    ///
    /// # Errors
    /// When the kernel does not let the maps be read.
    pub fn judge(&self, frame: &[u8]) -> Result<Verdict, GuardError> {
        verdict(&self.tables, frame)
    }
}

/// What would become of a packet by what is in these maps.
pub(super) fn verdict(tables: &Tables, frame: &[u8]) -> Result<Verdict, GuardError> {
    let judged = tables.judge(frame)?;
    let judgement = judged.judgement;
    let segment = judgement.segment;
    let organisation = judgement.organisation.filter(|slot| *slot != MANAGEMENT);
    let address = |address: mtls_appliance_common::Address| Some(address.ip()).filter(|ip| !ip.is_unspecified());
    Ok(Verdict {
        action: judgement.action.name(),
        reason: judgement.reason().name(),
        organisation: organisation.and_then(|slot| tables.organisation(slot)).map(str::to_owned),
        charges: Charges {
            source: judgement.charge.source.is_some(),
            organisation: judgement.charge.organisation.is_some(),
        },
        source: address(segment.source),
        source_port: judgement.is_read.then_some(segment.source_port),
        destination: address(segment.destination),
        destination_port: judgement.is_read.then_some(segment.destination_port),
        mode: status::mode(judged.policy),
        generation: judged.generation.0,
    })
}
