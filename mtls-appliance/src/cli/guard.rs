//! `mtls-appliance guard`: the guard at the interface, with or without a daemon.

mod live;
mod packet;
mod show;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use mtls_appliance_common::Reason;
use serde_json::json;

use super::WithConfig;
use crate::app::{Failure, guard_failure};
use crate::config::{self, Config};
use crate::guard::{Guard, PinnedGuard};
use crate::{control, registry};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Attach the guard without the appliance, so that it stays: before the network is up, say. One that is attached is
    /// brought up to date between two packets. The appliance takes it over when it starts.
    ///
    /// With guard.open_after the guard drops nothing any more once it was attached for so long and no appliance came.
    Attach(WithConfig),
    /// Detach the guard from its interface and remove its pins: the guarded ports are open to everybody afterwards.
    Detach(WithConfig),
    /// Show the guard at the interface as its pins show it, with or without an appliance that runs; changes nothing.
    Status {
        #[command(flatten)]
        config: WithConfig,
        /// Print JSON: the same as under `guard` in `mtls-appliance status --json`.
        #[arg(long)]
        json: bool,
    },
    /// Follow packets that are dropped, or would be: a sample of guard.log_per_second, one a line, from the appliance that
    /// runs.
    Watch {
        #[command(flatten)]
        config: WithConfig,
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
        config: WithConfig,
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
        config: WithConfig,
        #[command(flatten)]
        packet: Packet,
        /// Print JSON, an object for each packet.
        #[arg(long)]
        json: bool,
    },
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
        Command::Attach(arguments) => attach(&arguments.config),
        Command::Detach(arguments) => detach(&arguments.config),
        Command::Status { config, json } => status(&config.config, *json),
        Command::Watch { config, reason, json } => {
            let (config, guard) = load(&config.config)?;
            live::watch(&config, &guard, *reason, *json)
        }
        Command::Top { config, interval, once, json } => {
            let (config, guard) = load(&config.config)?;
            live::top(&config, &guard, *interval, *once, *json)
        }
        Command::Test { config, packet, json } => test(&config.config, packet, *json),
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

fn attach(path: &Path) -> Result<(), Failure> {
    log_to_stderr();
    let (config, guard) = load(path)?;
    let registry = registry::load(&config.registry_files);
    let registry = registry.map_err(|mistakes| Failure::Configuration(mistakes.to_string()))?;
    let interface = &guard.interface;
    if let Some(process) = holder(&config, &guard)? {
        let pinned = PinnedGuard::open(&guard).map_err(guard_failure)?;
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
        return Ok(());
    }
    let guard = Guard::attach(&guard, &registry).map_err(guard_failure)?;
    let status = guard.status();
    let done = if status.taken_over == Some(true) { "the attached guard was brought up to date" } else { "attached" };
    println!("{interface}: {done}; it stays when this command ends");
    print!("{}", show::status(&status));
    Ok(())
}

/// The process of the appliance that runs and holds this guard.
fn holder(config: &Config, guard: &config::Guard) -> Result<Option<i64>, Failure> {
    let status = control::ask_status_if_running(&config.control_socket)?.unwrap_or_default();
    let held = &status["guard"];
    let this = held["status"]["interface"] == guard.interface.as_str();
    Ok(held["held_by"].as_i64().filter(|_| this))
}

fn detach(path: &Path) -> Result<(), Failure> {
    let (_, guard) = load(path)?;
    let removed = Guard::detach_pinned(&guard).map_err(|error| Failure::Environment(error.to_string()))?;
    if removed.is_empty() {
        println!("no guard was attached to {}", guard.interface);
    }
    for path in removed {
        println!("removed {}", path.display());
    }
    Ok(())
}

fn status(path: &Path, as_json: bool) -> Result<(), Failure> {
    let (config, guard) = load(path)?;
    let pinned = PinnedGuard::open(&guard).map_err(guard_failure)?;
    let (status, counters) = (pinned.status().map_err(guard_failure)?, pinned.counters().map_err(guard_failure)?);
    // Who holds it is worth knowing, and nothing that this command depends on.
    let (holder, unknown) = match holder(&config, &guard) {
        Ok(holder) => (holder, None),
        Err(failure) => (None, Some(failure.to_string())),
    };
    if as_json {
        let status = json!({ "held_by": holder, "held_by_unknown": unknown, "status": status, "counters": counters });
        println!("{status}");
        return Ok(());
    }
    let held = match (holder, unknown) {
        (Some(process), _) => format!("held by process {process}"),
        (None, None) => "held by no appliance that runs".to_owned(),
        (None, Some(why)) => format!("held by an appliance that does not answer: {why}"),
    };
    println!("{}: guarded, {held}", status.interface);
    print!("{}{}", show::status(&status), show::counters(&counters));
    Ok(())
}

fn test(path: &Path, packet: &Packet, as_json: bool) -> Result<(), Failure> {
    let frames = packet.frames().map_err(Failure::Configuration)?;
    let (_, guard) = load(path)?;
    let pinned = PinnedGuard::open(&guard).map_err(guard_failure)?;
    for (number, frame) in frames.iter().enumerate() {
        let verdict = pinned.judge(frame).map_err(guard_failure)?;
        match (as_json, frames.len()) {
            (true, _) => println!("{}", json!(verdict)),
            (false, 1) => print!("{}", show::verdict(&verdict)),
            (false, _) => println!("{:>6}  {}", number + 1, show::verdict_line(&verdict)),
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
