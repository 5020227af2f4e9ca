//! The measuring side of `cargo xtask bench`: takes what it measures to pieces that run in turn, and prints what it found.
//!
//! Standard output is for xtask: one JSON object a line, `{"row": …}` or `{"note": "…"}`. What is made of them is its
//! matter. Everything is measured in rounds that go through all subjects, so that whatever disturbs the machine for a while
//! disturbs all of them, and the median of the rounds is told.

mod flood;
mod guard;
mod native;
mod report;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use mtls_appliance_tests::harness;

/// Measures areas, as root and in a mount namespace of its own.
#[derive(Debug, Parser)]
struct Arguments {
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    /// The machine's own mount namespace, as /proc/PID/ns/mnt names it: this program has to be in another
    #[arg(long, value_name = "NAMESPACE")]
    outside: PathBuf,
    /// What to measure
    #[arg(required = true)]
    areas: Vec<Area>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Area {
    /// The XDP program
    Guard,
    /// What a flood of strangers does to callers
    Flood,
    /// CPU time of proxies
    Native,
}

fn main() -> ExitCode {
    if let Some(code) = harness::run_as_origin() {
        return code;
    }
    let arguments = Arguments::parse();
    let measured = measure(&arguments);
    harness::clean_up();
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let inside = std::fs::read_link("/proc/self/ns/mnt")?;
    ensure!(
        inside != arguments.outside,
        "what is mounted here would be mounted on the machine: use `cargo xtask bench`"
    );
    arguments.areas.iter().try_for_each(|area| match area {
        Area::Guard => guard::measure(arguments.quick),
        Area::Flood => flood::measure(arguments.quick),
        Area::Native => native::measure(arguments.quick),
    })
}
