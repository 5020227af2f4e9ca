//! `mtls-appliance guard`: the guard at the interface, with or without a daemon.

mod live;
mod packet;
mod show;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use mtls_appliance_common::Reason;
use serde_json::{Value, json};

use super::WithConfig;
use crate::app::{Failure, guard_failure};
use crate::config::{self, Config};
use crate::guard::{AttachTurn, Guard, GuardError, Guards, PinnedGuard, forgotten, forgotten_warning};
use crate::{control, registry};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Attach the guard to its interfaces without the appliance, so that it stays: before the network is up, say. One that is
    /// attached is brought up to date between two packets. The appliance takes it over when it starts.
    ///
    /// With guard.open_after the guard drops nothing any more once it was attached for so long and no appliance came.
    ///
    /// When it cannot be attached to one of them, it is attached to none.
    Attach(AtInterfaces),
    /// Detach the guard from its interfaces and remove its pins: the guarded ports are open to everybody afterwards.
    /// --interface may name one that is not configured any more.
    Detach(AtInterfaces),
    /// Show the guard at its interfaces as its pins show it, with or without an appliance that runs; changes nothing. Exit
    /// code 1 when one of them is not guarded; the others are shown all the same.
    Status {
        #[command(flatten)]
        at: AtInterfaces,
        /// Print JSON: the same as under `guard` in `mtls-appliance status --json`.
        #[arg(long)]
        json: bool,
    },
    /// Follow packets that are dropped, or would be: a sample of guard.log_per_second, one a line, from the appliance that
    /// runs.
    Watch {
        #[command(flatten)]
        at: AtInterfaces,
        /// Only those with this reason.
        #[arg(long, value_parser = live::reason)]
        reason: Option<Reason>,
        /// Print JSON, an object for each packet.
        #[arg(long)]
        json: bool,
    },
    /// Show packets per second by reason and by organisation, and the sources that are dropped most in the sample.
    Top {
        #[command(flatten)]
        at: AtInterfaces,
        /// How long an interval is.
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = live::interval)]
        interval: Duration,
        /// End after one interval.
        #[arg(long)]
        once: bool,
        /// Print JSON, an object for each interval.
        #[arg(long)]
        json: bool,
    },
    /// Ask what the guard at the interface would do about a packet now; nothing is counted or charged. Exit code 0 whatever
    /// the answer.
    Test {
        #[command(flatten)]
        at: AtInterfaces,
        #[command(flatten)]
        packet: Packet,
        /// Print JSON, an object for each interface and packet.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct AtInterfaces {
    #[command(flatten)]
    config: WithConfig,
    /// At this one of guard.interfaces alone.
    #[arg(long, value_name = "NAME", value_parser = config::interface_name)]
    interface: Option<String>,
}

/// One packet, or several.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Packet {
    /// A TCP segment from there; --to says where it goes.
    #[arg(long, value_name = "ADDRESS[:PORT]", requires = "to")]
    from: Option<packet::From>,
    /// Where the segment goes.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "from")]
    to: Option<SocketAddr>,
    /// The segment opens a connection; it does unless --ack is given.
    #[arg(long, conflicts_with = "ack", requires = "from")]
    syn: bool,
    /// The segment belongs to an open connection.
    #[arg(long, requires = "from")]
    ack: bool,
    /// An Ethernet frame in hex digits; `@FILE`: the bytes of that file.
    #[arg(long, value_name = "HEX|@FILE", conflicts_with_all = ["from", "to", "pcap"])]
    packet: Option<String>,
    /// Every packet of a capture file (pcap, of an Ethernet interface, at most 64 MiB).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
    pcap: Option<PathBuf>,
}

impl Packet {
    fn frames(&self) -> Result<Vec<Vec<u8>>, String> {
        let flags = if self.ack { packet::Flags::Ack } else { packet::Flags::Syn };
        match (&self.packet, &self.pcap, self.from, self.to) {
            (Some(typed), ..) => packet::typed(typed).map(|frame| vec![frame]),
            (_, Some(file), ..) => packet::captured(file),
            (_, _, Some(from), Some(to)) => packet::tcp(from, to, flags).map(|frame| vec![frame]),
            _ => Err("no packet: give --from and --to, --packet or --pcap".to_owned()),
        }
    }
}

pub(super) fn main(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Attach(at) => attach(at),
        Command::Detach(at) => detach(at),
        Command::Status { at, json } => status(at, *json),
        Command::Watch { at, reason, json } => live::watch(&Chosen::load(at)?, *reason, *json),
        Command::Top { at, interval, once, json } => live::top(&Chosen::load(at)?, *interval, *once, *json),
        Command::Test { at, packet, json } => test(at, packet, *json),
    }
}

/// The configuration and its `[guard]`.
fn load(path: &Path) -> Result<(Config, config::Guard), Failure> {
    let config = config::load(path).map_err(|mistakes| Failure::Configuration(mistakes.to_string()))?;
    match config.guard.clone() {
        Some(guard) => Ok((config, guard)),
        None => {
            Err(Failure::Configuration(format!("{}: there is no [guard] table, so there is no guard", path.display())))
        }
    }
}

/// What a command is about.
struct Chosen {
    config: Config,
    guard: config::Guard,
    /// Those of `guard.interfaces`, or one of them.
    interfaces: Vec<String>,
}

impl Chosen {
    fn load(at: &AtInterfaces) -> Result<Chosen, Failure> {
        let (config, guard) = load(&at.config.config)?;
        let interfaces = match &at.interface {
            None => guard.interfaces.clone(),
            Some(one) if guard.interfaces.contains(one) => vec![one.clone()],
            Some(other) => {
                return Err(Failure::Configuration(format!(
                    "--interface {other}: not in guard.interfaces, which has {}",
                    guard.interfaces.join(", ")
                )));
            }
        };
        Ok(Chosen { config, guard, interfaces })
    }

    /// The attached guards; each of the interfaces has to have one.
    fn open(&self) -> Result<Vec<PinnedGuard>, Failure> {
        let open = |interface: &String| PinnedGuard::open(&self.guard, interface);
        self.interfaces.iter().map(open).collect::<Result<_, _>>().map_err(guard_failure)
    }
}

fn attach(at: &AtInterfaces) -> Result<(), Failure> {
    log_to_stderr();
    let Chosen { config, guard, interfaces } = Chosen::load(at)?;
    let registry = registry::load(&config.registry_files);
    let registry = registry.map_err(|mistakes| Failure::Configuration(mistakes.to_string()))?;
    // An appliance that starts has attached its guards before it can be asked.
    let turn = AttachTurn::wait(&guard, &interfaces).map_err(guard_failure)?;
    let held = Held::ask(&config)?;
    let mut free = Vec::new();
    for interface in interfaces {
        let Some(process) = held.by(&interface) else {
            free.push(interface);
            continue;
        };
        let pinned = PinnedGuard::open(&guard, &interface).map_err(guard_failure)?;
        if !pinned.holds(&guard, &registry).map_err(guard_failure)? {
            return Err(Failure::Environment(format!(
                "the guard of {interface} is held by the appliance that runs (process {process}), and configuration or \
                 registry say something else than it guards by\n  have it reload (SIGHUP, `systemctl reload`), which \
                 puts both in force in one step"
            )));
        }
        println!(
            "{interface}: guarded by just this, and held by the appliance that runs (process {process}): nothing to do"
        );
    }
    if free.is_empty() {
        return Ok(());
    }
    let guards = Guards::attach(&guard, &free, &registry, &turn).map_err(guard_failure)?;
    for guard in guards.iter() {
        let status = guard.status();
        let done =
            if status.taken_over == Some(true) { "the attached guard was brought up to date" } else { "attached" };
        println!("{}: {done}; it stays when this command ends", status.interface);
        print!("{}", show::status(&status));
    }
    Ok(())
}

/// What the appliance that runs, if one does, says about the guards that it holds.
struct Held(Value);

impl Held {
    fn ask(config: &Config) -> Result<Held, Failure> {
        let mut status = control::ask_status_if_running(&config.control_socket)?.unwrap_or_default();
        Ok(Held(status["guard"]["interfaces"].take()))
    }

    /// The process, where it holds the guard of this interface.
    fn by(&self, interface: &str) -> Option<i64> {
        let this = self.0.as_array()?.iter().find(|guard| guard["status"]["interface"] == interface)?;
        this["held_by"].as_i64()
    }
}

fn detach(at: &AtInterfaces) -> Result<(), Failure> {
    let (_, guard) = load(&at.config.config)?;
    let interfaces = at.interface.clone().map_or_else(|| guard.interfaces.clone(), |one| vec![one]);
    let mut outcome = Ok(());
    for interface in interfaces {
        match Guard::detach_pinned(&guard, &interface) {
            Ok(removed) if removed.is_empty() => println!("no guard was attached to {interface}"),
            Ok(removed) => removed.iter().for_each(|path| println!("removed {}", path.display())),
            // The others shall be opened all the same.
            Err(error) => outcome = outcome.and(Err(Failure::Environment(error.to_string()))),
        }
    }
    outcome
}

fn status(at: &AtInterfaces, as_json: bool) -> Result<(), Failure> {
    let chosen = Chosen::load(at)?;
    // Who holds them is worth knowing, and nothing that this command depends on.
    let (held, unknown) = match Held::ask(&chosen.config) {
        Ok(held) => (held, None),
        Err(failure) => (Held(Value::Null), Some(failure.to_string())),
    };
    let (mut found, mut without) = (Vec::new(), Vec::new());
    for interface in &chosen.interfaces {
        let look = || {
            let pinned = PinnedGuard::open(&chosen.guard, interface)?;
            Ok((pinned.status()?, pinned.counters()?))
        };
        match look() {
            Ok((status, counters)) => found.push((held.by(interface), status, Ok(counters))),
            Err(error) => without.push((interface, error)),
        }
    }
    for interface in forgotten(&chosen.guard) {
        eprintln!("mtls-appliance: {}", forgotten_warning(&interface));
    }
    if as_json {
        let unguarded =
            |(interface, error): &(&String, GuardError)| json!({ "interface": interface, "why": error.to_string() });
        let mut told = control::guard_json(found);
        told["held_by_unknown"] = json!(unknown);
        told["unguarded"] = without.iter().map(unguarded).collect();
        println!("{told}");
        return all_are_guarded(without);
    }
    for (holder, status, counters) in &found {
        let held = match (holder, &unknown) {
            (Some(process), _) => format!("held by process {process}"),
            (None, None) => "held by no appliance that runs".to_owned(),
            (None, Some(why)) => format!("held by an appliance that does not answer: {why}"),
        };
        println!("{}: guarded, {held}", status.interface);
        print!("{}{}", show::status(status), counters.as_ref().map(show::counters).unwrap_or_default());
    }
    all_are_guarded(without)
}

/// Fails, and names all that are not, when some interfaces have no guard.
fn all_are_guarded(without: Vec<(&String, GuardError)>) -> Result<(), Failure> {
    let mut failures = without.into_iter().map(|(_, error)| error);
    let Some(first) = failures.next() else { return Ok(()) };
    failures.for_each(|error| eprintln!("mtls-appliance: {error}"));
    Err(guard_failure(first))
}

fn test(at: &AtInterfaces, packet: &Packet, as_json: bool) -> Result<(), Failure> {
    let frames = packet.frames().map_err(Failure::Configuration)?;
    let guards = Chosen::load(at)?.open()?;
    for pinned in &guards {
        if !as_json && guards.len() > 1 {
            println!("{}:", pinned.interface());
        }
        for (number, frame) in frames.iter().enumerate() {
            let verdict = pinned.judge(frame).map_err(guard_failure)?;
            match (as_json, frames.len()) {
                (true, _) => {
                    let mut verdict = json!(verdict);
                    verdict["interface"] = json!(pinned.interface());
                    println!("{verdict}");
                }
                (false, 1) => print!("{}", show::verdict(&verdict)),
                (false, _) => println!("{:>6}  {}", number + 1, show::verdict_line(&verdict)),
            }
        }
    }
    Ok(())
}

/// What the guard warns of is said by a command on standard error; it has no log.
fn log_to_stderr() {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.level() <= log::Level::Warn
        }
        fn log(&self, record: &log::Record<'_>) {
            if self.enabled(record.metadata()) {
                eprintln!("mtls-appliance: {}", record.args());
            }
        }
        fn flush(&self) {}
    }
    // There is no other logger: a command line starts one thing.
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}
