//! `mtls-appliance guard`: the guard at the interface, with or without a daemon.

use std::path::Path;

use clap::Subcommand;

use super::WithConfig;
use crate::app::{Failure, guard_failure};
use crate::config::{self, Config};
use crate::guard::{Guard, GuardStatus, PinnedGuard};
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
}

pub(super) fn main(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Attach(arguments) => attach(&arguments.config),
        Command::Detach(arguments) => detach(&arguments.config),
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
    print!("{}", table(&status));
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

/// A guard for people: a line a fact.
fn table(status: &GuardStatus) -> String {
    let mut lines = String::new();
    let mut line = |name: &str, value: String| lines.push_str(&format!("  {name:<12} {value}\n"));
    let why = status.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    line("attached", format!("{} mode{why}, program {}", status.attached_as, status.program_id));
    let open = if status.open { ", and open: the daemon has been silent for too long" } else { "" };
    line("mode", format!("{}{open}", status.mode));
    let (ports, addresses) = (list(&status.ports), list(&status.addresses));
    let anywhere = if addresses.is_empty() { "of every address".to_owned() } else { format!("of {addresses}") };
    line("guards", format!("TCP to port {ports} {anywhere}"));
    line("generation", status.generation.to_string());
    line("prefixes", format!("{} IPv4, {} IPv6", status.ipv4_prefixes, status.ipv6_prefixes));
    if !status.management.is_empty() {
        line("management", list(&status.management));
    }
    if !status.pass.is_empty() {
        line("passes", format!("{} (guard.pass)", list(&status.pass)));
    }
    for (name, budget) in [("source", status.source_budget), ("organisation", status.organisation_budget)] {
        if let Some(budget) = budget {
            let text = format!("{} SYNs/s of one {name}, {} at once", budget.per_second, budget.burst);
            line("budget", text);
        }
    }
    line(
        "last sign",
        match status.open_after_s {
            Some(limit) => format!("of the daemon {} s ago; drops nothing after {limit} s", status.silent_s),
            None => format!("of the daemon {} s ago; drops go on without it", status.silent_s),
        },
    );
    line("pins", status.pin_folder.display().to_string());
    lines
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
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
