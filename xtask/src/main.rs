//! `cargo xtask`: what developers and operators of this checkout run, from provisioning tools to the whole test.
//!
//! Each command is a module; this file only names them.

mod bpf;
mod build;
mod cargo;
mod debian;
mod exec;
mod progress;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Builds, tests and shows the appliance. What a command needs beyond Rust and a C compiler it fetches by itself
/// into target/provision/, without installing anything.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile the XDP guard to target/bpf/mtls-guard.o
    ///
    /// Takes a rustup nightly that has rust-src when a bpf-linker of the same LLVM is in PATH; else Debian's
    /// compiler, unpacked under target/provision/. Says which, and why.
    Bpf(bpf::BpfArguments),
    /// Build the appliance, with the guard inside, as one static program
    ///
    /// Leaves target/dist/mtls-appliance, and beside it the end-to-end tests.
    Build,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let workspace = Workspace::find()?;
    match arguments.command {
        Command::Bpf(arguments) => bpf::main(&workspace, &arguments),
        Command::Build => build::main(&workspace),
    }
}
