//! Attaching, as one transaction: either the guard is attached and pinned, or everything is as it was.
//!
//! The order: what can fail without a trace first (privileges, interface, folder, load, fill), then the pins beside their
//! places, then the link, then the pins into their places. A guard that an earlier run left is replaced through its pinned
//! link, which the kernel does between two packets.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;

use aya::EbpfLoader;
use aya::programs::links::FdLink;
use aya::programs::xdp::{XdpError, XdpLink};
use aya::programs::{ProgramError, Xdp, XdpMode, loaded_programs};

use super::error::chain;
use super::loaded::{load_object, load_program, program};
use super::netlink::{self, Interface, ModeFlag, XdpAttachment};
use super::pins::{Pins, Undo};
use super::tables::Tables;
use super::{AttachedMode, DropLog, EventStream, Guard, GuardError, State, contents, environment, object};
use crate::config::{self, AttachMode};
use crate::privileges;
use crate::registry::Registry;

pub(super) fn attach(config: &config::Guard, interface: &str, registry: &Registry) -> Result<Guard, GuardError> {
    let Place { interface, pins, earlier } = Place::find(config, interface)?;

    let mut undo = Undo::default();
    pins.create_folder(&mut undo)?;
    let mut ebpf = load_object(&mut EbpfLoader::new())?;
    let keep_maps = pins.maps_fit(&ebpf)?;
    if earlier.is_some() && !keep_maps {
        log::warn!(target: "guard", "the maps in {} do not fit this version: counters start anew", pins.folder().display());
    }
    if keep_maps {
        let mut loader = EbpfLoader::new();
        pins.reuse(&mut loader);
        ebpf = load_object(&mut loader)?;
    }
    load_program(&mut ebpf)?;
    if !keep_maps {
        pins.stage(&ebpf, &mut undo)?;
    }
    let log = DropLog::take(&mut ebpf, Some(&interface.name))?;
    let events = EventStream::take(&mut ebpf)?;
    let mut tables = Tables::take(&mut ebpf)?;
    let filled = tables.fill(contents(config, registry))?;
    // Before the first packet is judged: the daemon is there, if only about to serve.
    tables.beat()?;
    // Later signs of life and reloads come from a process without privileges.
    privileges::without(|| tables.beat())
        .map_err(GuardError::kernel("giving up privileges"))?
        .map_err(|error| GuardError::PrivilegedMaps(error.to_string()))?;
    if !keep_maps {
        // Nobody reads these maps yet.
        tables.activate(filled)?;
    }

    let program = program(&mut ebpf)?;
    let info = program.info().map_err(GuardError::kernel("asking about the program"))?;
    let (program_id, verified_instructions) = (info.id(), info.verified_instruction_count());
    let taken_over = earlier.is_some();
    let (mode, why) = match earlier {
        Some((link, path)) => {
            let doing = "replacing the program of the guard that an earlier run left";
            let link = XdpLink::try_from(link).map_err(GuardError::kernel(doing))?;
            let id = program.attach_to_link(link).map_err(GuardError::kernel(doing))?;
            if !keep_maps {
                pins.unstage(&mut undo)?;
            }
            pins.adopt_link(&path)?;
            // The pin holds the link; this handle is not needed any more.
            drop(program.take_link(id));
            let mode = interface.xdp.map_or(AttachedMode::Generic, AttachedMode::of);
            // Why it was attached so is in the maps of that run, if those are the ones that go on.
            (mode, tables.note()?.unwrap_or_else(|| "as the earlier run that it was taken over from".to_owned()))
        }
        None => {
            let (link, mode, why) = attach_anew(program, config, &interface)?;
            if !keep_maps {
                pins.unstage(&mut undo)?;
            }
            pins.remove_dead_link()?;
            // From here on the pin holds the link, and this handle is not needed any more.
            link.pin(pins.link()).map_err(GuardError::kernel("pinning the link"))?;
            if let Err(error) = tables.set_note(&why) {
                log::warn!(target: "guard", "{}: `guard status` will not know why it is {mode}: {error}", interface.name);
            }
            (mode, why)
        }
    };
    undo.commit();
    if keep_maps {
        tables.activate(filled)?;
    }
    if let Err(error) = pins.remove_other_versions() {
        log::warn!(target: "guard", "pins of another version stay in {}: {error}", config.pin_dir.display());
    }
    let maps = pins.maps()?;
    Ok(Guard {
        program_id,
        verified_instructions,
        taken_over,
        pins,
        state: Mutex::new(State {
            interface_index: interface.index,
            mode,
            why,
            config: config.clone(),
            tables,
            filled,
            ebpf,
            maps,
        }),
        log: Mutex::new(Some(log)),
        events: Mutex::new(Some(events)),
    })
}

/// An interface that can be guarded, and the link of an earlier run there.
struct Place {
    interface: Interface,
    pins: Pins,
    earlier: Option<(FdLink, PathBuf)>,
}

impl Place {
    /// Looks at whatever can be wrong before anything is touched.
    fn find(config: &config::Guard, name: &str) -> Result<Place, GuardError> {
        let interface = environment::find_interface(name)?;
        object::required()?;
        environment::check_privileges()?;
        environment::check_pin_dir(&config.pin_dir)?;
        let pins = Pins::new(&config.pin_dir, name);
        // A link whose program is not on the interface belongs to one that was removed or renamed since.
        let earlier = pins.existing_link().filter(|(link, _)| holds(link, &interface));
        match (&earlier, interface.xdp) {
            (None, Some(attachment)) => return Err(occupied(&interface, attachment)),
            (Some(_), Some(attachment)) => check_mode(config, name, attachment)?,
            (_, None) => {}
        }
        Ok(Place { interface, pins, earlier })
    }
}

/// Whether an earlier run guards this interface.
pub(super) fn find_earlier(config: &config::Guard, interface: &str) -> Result<bool, GuardError> {
    Place::find(config, interface).map(|place| place.earlier.is_some())
}

/// Puts a program that was attached before into its place again, through the pinned link: what another process put there
/// goes, and the pins are those of this guard's maps. Takes no privileges, for every object is open.
pub(super) fn put_back(state: &mut State, pins: &Pins) -> Result<(), GuardError> {
    let (link, path) = pins.existing_link().ok_or_else(|| GuardError::Detached { pin: pins.link() })?;
    let doing = "replacing the program that another process attached";
    let program = program(&mut state.ebpf)?;
    let link = XdpLink::try_from(link).map_err(GuardError::kernel(doing))?;
    let id = program.attach_to_link(link).map_err(GuardError::kernel(doing))?;
    drop(program.take_link(id));
    let mut undo = Undo::default();
    pins.create_folder(&mut undo)?;
    pins.restore(&state.maps, &mut undo)?;
    pins.adopt_link(&path)?;
    undo.commit();
    if let Err(error) = pins.remove_other_versions() {
        log::warn!(target: "guard", "pins of another version stay beside {}: {error}", pins.folder().display());
    }
    Ok(())
}

/// Whether this link's program is the one on the interface.
pub(super) fn holds(link: &FdLink, interface: &Interface) -> bool {
    let program = link.info().map(|info| info.program_id()).ok();
    program.is_some() && program == interface.xdp.map(|xdp| xdp.program_id)
}

fn occupied(interface: &Interface, attachment: XdpAttachment) -> GuardError {
    let program = loaded_programs()
        .flatten()
        .find(|info| info.id() == attachment.program_id)
        .and_then(|info| info.name_as_str().map(str::to_owned));
    GuardError::Occupied { interface: interface.name.clone(), program: program.unwrap_or_default(), attachment }
}

fn check_mode(config: &config::Guard, name: &str, attachment: XdpAttachment) -> Result<(), GuardError> {
    let wanted = mode_name(config.attach);
    if config.attach == AttachMode::Auto || wanted == attachment.mode {
        return Ok(());
    }
    Err(GuardError::OtherMode { interface: name.to_owned(), wanted, attached: attachment.mode })
}

fn mode_name(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Auto => "auto",
        AttachMode::Native => "native",
        AttachMode::Generic => "generic",
    }
}

/// Attaches in the configured mode; the link, the mode and why it is that one.
fn attach_anew(
    program: &mut Xdp,
    config: &config::Guard,
    interface: &Interface,
) -> Result<(FdLink, AttachedMode, String), GuardError> {
    let failed =
        |message| GuardError::Attach { interface: interface.name.clone(), mode: mode_name(config.attach), message };
    let resolve = |refusal| match refusal {
        Refusal::Occupied => match environment::find_interface(&interface.name)?.xdp {
            Some(attachment) => Err(occupied(interface, attachment)),
            None => Err(failed("the kernel says that another XDP program is attached".to_owned())),
        },
        Refusal::Driver(message) => Ok(message),
    };
    if config.attach == AttachMode::Generic {
        return match attach_as(program, interface.index, AttachedMode::Generic) {
            Ok(link) => Ok((link, AttachedMode::Generic, "as configured".to_owned())),
            Err(refusal) => Err(failed(resolve(refusal)?)),
        };
    }
    let native = match attach_as(program, interface.index, AttachedMode::Native) {
        Ok(link) => return Ok((link, AttachedMode::Native, "the driver takes XDP programs".to_owned())),
        Err(refusal) => resolve(refusal)?,
    };
    if config.attach == AttachMode::Native {
        return Err(failed(native));
    }
    match attach_as(program, interface.index, AttachedMode::Generic) {
        Ok(link) => Ok((link, AttachedMode::Generic, format!("native mode was refused: {native}"))),
        Err(refusal) => Err(failed(format!("native: {native}; generic: {}", resolve(refusal)?))),
    }
}

/// Why an interface does not take the program.
enum Refusal {
    /// It has one.
    Occupied,
    /// In the driver's words, else the kernel's.
    Driver(String),
}

fn attach_as(program: &mut Xdp, interface: u32, mode: AttachedMode) -> Result<FdLink, Refusal> {
    let (xdp_mode, flag) = match mode {
        AttachedMode::Native => (XdpMode::Driver, ModeFlag::Native),
        AttachedMode::Generic => (XdpMode::Skb, ModeFlag::Generic),
    };
    let link = program
        .attach_to_if_index(interface, xdp_mode)
        .and_then(|id| program.take_link(id))
        .map_err(|error| refusal(program, interface, flag, &error))?;
    FdLink::try_from(link).map_err(|error| {
        // A kernel without XDP links, where the program was attached in another way that does not outlive this process.
        let detached = netlink::detach(interface, flag).err().map(|error| error.to_string());
        Refusal::Driver(detached.unwrap_or_else(|| format!("the kernel has no BPF links for XDP: {error}")))
    })
}

fn refusal(program: &Xdp, interface: u32, flag: ModeFlag, error: &ProgramError) -> Refusal {
    let number = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::XdpError(XdpError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    };
    if matches!(number, Some(libc::EBUSY | libc::EEXIST)) {
        return Refusal::Occupied;
    }
    let objection = program.fd().ok().and_then(|fd| netlink::objection(interface, fd.as_fd(), flag));
    Refusal::Driver(match (objection, number) {
        (Some(objection), Some(number)) => {
            format!("{objection} ({})", std::io::Error::from_raw_os_error(number))
        }
        (Some(objection), None) => objection,
        (None, _) => chain(error),
    })
}
