//! The XDP guard's userspace side: load, attach, pin, feed the maps.
//!
//! The verdict over a packet is [`mtls_appliance_common`]'s, the program that runs it `mtls-appliance-ebpf`'s. Here is its
//! control: [`Guard::attach`] leaves a program attached and pinned that outlives the daemon, takes over one that an earlier
//! run left, and leaves nothing behind when it fails. What the operator configured is parsed in [`crate::config`], who is
//! registered in [`crate::registry`].

mod attach;
mod drop_log;
mod environment;
mod error;
mod loaded;
mod netlink;
mod object;
mod pins;
mod status;
mod tables;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mtls_appliance_common::layout::Policy;
use mtls_appliance_common::pace::Pace;

pub use self::drop_log::DropLog;
pub use self::error::GuardError;
pub use self::loaded::LoadedGuard;
pub use self::netlink::XdpAttachment;
pub use self::object::object;
use self::pins::Pins;
pub use self::status::{AttachedMode, CountedAction, GuardCounters, GuardStatus, OrganisationCount, ReasonCount};
use self::tables::{Contents, Filled, Tables};
use crate::config;
use crate::registry::Registry;

/// A guard on a network interface. Dropping it leaves the guard attached: see [`Guard::detach_pinned`].
#[derive(Debug)]
pub struct Guard {
    config: config::Guard,
    interface_index: u32,
    mode: AttachedMode,
    why: String,
    program_id: u32,
    taken_over: bool,
    pins: Pins,
    tables: Mutex<(Tables, Filled)>,
    log: Mutex<Option<DropLog>>,
}

impl Guard {
    /// Attaches the guard to its interface, or takes over the one that an earlier run left there: its maps, its counters and,
    /// in one step without a gap, its place at the interface.
    ///
    /// # Errors
    /// Whatever is missing, each with its way out. Then nothing new is attached or pinned, and what an earlier run left is as
    /// it was.
    pub fn attach(config: &config::Guard, registry: &Registry) -> Result<Guard, GuardError> {
        attach::attach(config, registry)
    }

    /// Lets every packet from now on be judged by this registry, in one step.
    ///
    /// # Errors
    /// When the registry is too large or the kernel refuses; the guard then goes on with the one it has.
    pub fn update_registry(&self, registry: &Registry) -> Result<(), GuardError> {
        let mut tables = self.tables();
        let filled = tables.0.fill(contents(&self.config, registry))?;
        tables.0.activate(filled)?;
        tables.1 = filled;
        Ok(())
    }

    /// The counters since the guard was first attached.
    ///
    /// # Errors
    /// When the kernel does not let them be read.
    pub fn counters(&self) -> Result<GuardCounters, GuardError> {
        self.tables().0.counters()
    }

    /// The guard as it is now.
    pub fn status(&self) -> GuardStatus {
        let filled = self.tables().1;
        let attached = environment::find_interface(&self.config.interface).is_ok_and(|interface| {
            interface.index == self.interface_index
                && interface.xdp.is_some_and(|xdp| xdp.program_id == self.program_id)
        });
        GuardStatus {
            interface: self.config.interface.clone(),
            interface_index: self.interface_index,
            attached,
            mode: self.mode,
            why: self.why.clone(),
            program_id: self.program_id,
            taken_over: self.taken_over,
            ports: self.config.ports.clone(),
            generation: filled.generation.0,
            ipv4_prefixes: filled.ipv4,
            ipv6_prefixes: filled.ipv6,
            link_pin: self.pins.link(),
            pin_folder: self.pins.folder().to_owned(),
        }
    }

    /// The stream of sampled drops; the first call takes it. Drive it with [`DropLog::run`].
    pub fn log_stream(&self) -> Option<DropLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Detaches the guard of this interface and removes its pins, whoever attached it. The paths that were removed; none when
    /// there was no guard.
    ///
    /// # Errors
    /// When the pins cannot be removed.
    pub fn detach_pinned(config: &config::Guard) -> Result<Vec<PathBuf>, GuardError> {
        Pins::new(&config.pin_dir, &config.interface).remove_all()
    }

    fn tables(&self) -> MutexGuard<'_, (Tables, Filled)> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn contents<'a>(config: &'a config::Guard, registry: &'a Registry) -> Contents<'a> {
    Contents { ports: &config.ports, policy: Policy { sample: Pace::per_second(config.log_per_second) }, registry }
}
