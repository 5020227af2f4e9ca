//! The XDP guard's userspace side: load, attach, pin, feed the maps.
//!
//! The verdict over a packet is [`mtls_appliance_common`]'s, the program that runs it `mtls-appliance-ebpf`'s. Here is its
//! control: [`Guard::attach`] leaves a program attached and pinned that outlives the daemon, takes over one that an earlier
//! run left, and leaves nothing behind when it fails. What the operator configured is parsed in [`crate::config`], who is
//! registered in [`crate::registry`].

mod all;
mod attach;
mod drop_log;
mod environment;
mod error;
mod events;
mod loaded;
mod netlink;
mod object;
mod pinned;
mod pins;
mod status;
mod tables;
mod turn;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::MapData;
use mtls_appliance_common::layout::Policy;
use mtls_appliance_common::pace::Pace;
use mtls_appliance_common::{Event, Reason};

pub use self::all::{Guards, forgotten, forgotten_warning};
pub use self::drop_log::DropLog;
pub use self::error::GuardError;
pub use self::events::{EventStream, Sample};
pub use self::loaded::LoadedGuard;
pub use self::netlink::XdpAttachment;
pub use self::object::object;
pub use self::pinned::{Charges, PinnedGuard, Verdict};
use self::pins::Pins;
pub use self::status::{
    AttachedMode, BudgetStatus, GuardCounters, GuardStatus, OrganisationCount, Presence, ReasonCount,
};
use self::tables::{Contents, Filled, Tables};
pub use self::turn::AttachTurn;
use crate::config::{self, Budget, GuardMode};
use crate::registry::Registry;

/// How long the kernel may take to detach a program whose link has no pin any more; it takes milliseconds.
const DETACHED_WITHIN: Duration = Duration::from_secs(10);

/// A guard on a network interface. Dropping it leaves the guard attached: see [`Guard::detach_pinned`].
#[derive(Debug)]
pub struct Guard {
    program_id: u32,
    verified_instructions: Option<u32>,
    taken_over: bool,
    pins: Pins,
    state: Mutex<State>,
    log: Mutex<Option<DropLog>>,
    events: Mutex<Option<EventStream>>,
}

/// What [`Guard::activate`] puts in force.
#[derive(Debug, Clone, Copy)]
pub struct Prepared(Filled);

/// What a reload changes, and an interface that is made anew.
#[derive(Debug)]
struct State {
    interface_index: u32,
    mode: AttachedMode,
    why: String,
    config: config::Guard,
    tables: Tables,
    filled: Filled,
    /// Holds the program, to put it back.
    ebpf: Ebpf,
    /// What is pinned, to pin it again.
    maps: Vec<MapData>,
}

impl Guard {
    /// Attaches a guard to this interface, or takes over the one that an earlier run left there: its maps, its counters and,
    /// in one step without a gap, its place at the interface.
    ///
    /// # Errors
    /// Whatever is missing, each with its way out. Then nothing new is attached or pinned, and what an earlier run left is as
    /// it was.
    pub fn attach(config: &config::Guard, interface: &str, registry: &Registry) -> Result<Guard, GuardError> {
        attach::attach(config, interface, registry)
    }

    /// The name of its interface.
    pub fn interface(&self) -> &str {
        self.pins.interface()
    }

    /// Writes this configuration and registry beside those in force, where no packet is judged by them yet. Interface, way of
    /// attaching and pins stay what they were.
    ///
    /// # Errors
    /// When the registry is too large or the kernel refuses; the guard then goes on with what it has.
    pub fn prepare(&self, config: &config::Guard, registry: &Registry) -> Result<Prepared, GuardError> {
        self.state().tables.fill(contents(config, registry)).map(Prepared)
    }

    /// Lets every packet from now on be judged by what was prepared, in one step.
    ///
    /// # Errors
    /// When the kernel refuses; the guard then goes on with what it has.
    pub fn activate(&self, Prepared(filled): Prepared, config: &config::Guard) -> Result<(), GuardError> {
        let mut state = self.state();
        state.tables.activate(filled)?;
        state.filled = filled;
        state.config = config.clone();
        Ok(())
    }

    /// Puts program, registry and pins back into their places, where another process put its own and is gone. The counters go
    /// on. Takes no privileges.
    ///
    /// # Errors
    /// When the guard was detached meanwhile, or the kernel refuses.
    pub fn take_back(&self, config: &config::Guard, registry: &Registry) -> Result<(), GuardError> {
        // The other process may have used the same maps, and then has changed what this one knows of them.
        self.state().tables.read_slots()?;
        let prepared = self.prepare(config, registry)?;
        self.activate(prepared, config)?;
        attach::put_back(&mut self.state(), &self.pins)
    }

    /// Looks whether the interface carries this guard. Where it was made anew and `guard attach` guards it with this guard's
    /// maps, this guard's program takes its place there: that takes no privileges, attaching does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn look(&self) -> Result<Presence, GuardError> {
        let mut state = self.state();
        let interface = match environment::find_interface(self.interface()) {
            Ok(interface) => interface,
            Err(GuardError::UnknownInterface { .. }) => return Ok(Presence::NoInterface),
            Err(error) => return Err(error),
        };
        let Some(attachment) = interface.xdp else { return Ok(Presence::NoProgram) };
        if interface.index == state.interface_index && attachment.program_id == self.program_id {
            return Ok(Presence::Attached);
        }
        if !self.pins.existing_link().is_some_and(|(link, _)| attach::holds(&link, &interface)) {
            return Ok(Presence::ForeignProgram);
        }
        // At the interface that there was, another program means another process: they shall not take turns.
        let anew = interface.index != state.interface_index;
        if !(anew && self.pins.are_of(&state.maps)) {
            return Ok(Presence::OtherProgram);
        }
        attach::put_back(&mut state, &self.pins)?;
        state.interface_index = interface.index;
        state.mode = AttachedMode::of(attachment);
        state.why = "as `guard attach` attached it to the interface when that was made anew".to_owned();
        Ok(Presence::Attached)
    }

    /// Gives a sign of life: see [`config::Guard::open_after`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn beat(&self) -> Result<(), GuardError> {
        self.state().tables.beat()
    }

    /// The counters since the guard was first attached.
    ///
    /// # Errors
    /// When the kernel does not let them be read.
    pub fn counters(&self) -> Result<GuardCounters, GuardError> {
        self.state().tables.counters()
    }

    /// The guard as it is now.
    pub fn status(&self) -> GuardStatus {
        let state = self.state();
        let (config, filled) = (&state.config, state.filled);
        let policy = policy(config);
        // It is this process that gives signs of life, until somebody else has the interface.
        let silent_ns = state.tables.silent_ns().unwrap_or_default();
        let attached = environment::find_interface(self.interface()).is_ok_and(|interface| {
            interface.index == state.interface_index
                && interface.xdp.is_some_and(|xdp| xdp.program_id == self.program_id)
        });
        GuardStatus {
            interface: self.interface().to_owned(),
            interface_index: state.interface_index,
            attached,
            mode: status::mode(policy),
            attached_as: state.mode,
            why: Some(state.why.clone()),
            program_id: self.program_id,
            verified_instructions: self.verified_instructions,
            taken_over: Some(self.taken_over),
            ports: config.ports.clone(),
            addresses: config.addresses.clone(),
            management: config.management.clone(),
            pass: config.pass.iter().map(|reason| reason.name()).collect(),
            source_budget: status::budget(policy, Policy::SOURCE_BUDGET),
            organisation_budget: status::budget(policy, Policy::ORGANISATION_BUDGET),
            open_after_s: config.open_after.map(|span| span.as_secs()),
            silent_s: silent_ns / 1_000_000_000,
            open: status::is_open(policy, silent_ns),
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

    /// The stream of sampled events; the first call takes it. Drive it with [`EventStream::run`].
    pub fn event_stream(&self) -> Option<EventStream> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// An event as people read it.
    pub fn sample(&self, event: &Event) -> Sample {
        Sample::of(event, self.interface(), &self.state().tables)
    }

    /// Detaches the guard of this interface, configured or not, and removes its pins, whoever attached it. The paths that were
    /// removed; none when there was no guard.
    ///
    /// # Errors
    /// When the pins cannot be removed, or the kernel keeps the program attached: somebody else holds the link open.
    pub fn detach_pinned(config: &config::Guard, name: &str) -> Result<Vec<PathBuf>, GuardError> {
        let pins = Pins::new(&config.pin_dir, name);
        let attached = environment::find_interface(name).ok().filter(|interface| {
            // The link is closed again at once: an open one would keep the program attached.
            pins.existing_link().is_some_and(|(link, _)| attach::holds(&link, interface))
        });
        let removed = pins.remove_all()?;
        // The kernel lets go of a link some time after its last pin.
        let deadline = Instant::now() + DETACHED_WITHIN;
        while attached.is_some() && environment::find_interface(name).ok() == attached {
            if Instant::now() >= deadline {
                return Err(pins.still_attached());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(removed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn contents<'a>(config: &'a config::Guard, registry: &'a Registry) -> Contents<'a> {
    let policy = policy(config);
    Contents { ports: &config.ports, addresses: &config.addresses, management: &config.management, policy, registry }
}

fn policy(config: &config::Guard) -> Policy {
    let pace = |budget: Option<Budget>| budget.map_or(Pace::default(), |b| Pace::with_burst(b.rate, b.burst));
    let mode = match config.mode {
        GuardMode::Enforce => Policy::ON | Policy::ENFORCE,
        GuardMode::Observe => Policy::ON,
        GuardMode::Off => 0,
    };
    let flag = |set: bool, flag| if set { flag } else { 0 };
    Policy {
        flags: mode
            | flag(config.addresses.is_empty(), Policy::ANY_ADDRESS)
            | flag(config.source_budget.is_some(), Policy::SOURCE_BUDGET)
            | flag(config.organisation_budget.is_some(), Policy::ORGANISATION_BUDGET),
        drops: config.pass.iter().fold(Reason::dropping(), |drops, reason| drops & !reason.bit()),
        source: pace(config.source_budget),
        organisation: pace(config.organisation_budget),
        open_after_ns: config.open_after.map_or(0, |span| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        sample: Pace::per_second(config.log_per_second),
    }
}
