//! `cargo xtask`: what developers and operators of this checkout run, from provisioning tools to the whole test.
//!
//! Each command is a module; this file only names them.

mod attach;
mod bench;
mod bpf;
mod build;
mod cargo;
mod cargo_tool;
mod certs;
mod debian;
mod demo;
mod deny;
mod exec;
mod fuzz;
mod progress;
mod test;
mod tools;
mod vm;
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
    /// Measure what the appliance costs, beside its peers
    ///
    /// Builds the release, runs what is measured in interleaved rounds, as root (or by sudo, where it asks for no password),
    /// and prints a Markdown table of medians with date, kernel, CPU and versions. Figures are worth something on a
    /// machine that does nothing else.
    Bench(bench::BenchArguments),
    /// Compile the XDP guard to target/bpf/mtls-guard.o
    ///
    /// Takes a rustup nightly that has rust-src when a bpf-linker of the same LLVM is in PATH; else Debian's
    /// compiler, unpacked under target/provision/. Says which, and why.
    Bpf(bpf::BpfArguments),
    /// Attach the guard to an interface of this machine, so that it stays
    ///
    /// Counts what it would drop, and drops it with --enforce. Builds the appliance, writes its configuration to
    /// target/attach/INTERFACE.toml and runs `mtls-appliance guard attach`; a guard that is attached is brought up to date.
    Attach(attach::AttachArguments),
    /// Detach the guard that `cargo xtask attach` attached
    Detach(attach::DetachArguments),
    /// Build the appliance, with the guard inside, as one static program
    ///
    /// Leaves target/dist/mtls-appliance, and beside it the end-to-end tests.
    Build,
    /// Generate the development PKI in certs/out/
    ///
    /// Authorities, servers, registered and unregistered clients, as described in certs/pki.toml. Leaves alone what is
    /// still good.
    Certs(certs::CertsArguments),
    /// Unpack curl, openssl, nginx, ip and strace under target/provision/tools/
    ///
    /// Debian's own builds with their libraries, run by the wrappers in target/provision/tools/wrap/ on this machine
    /// as well as in the virtual machine.
    Tools,
    /// Run a command in a virtual machine with one of Debian's kernels
    ///
    /// Boots in seconds under QEMU's software emulation (no KVM, no privilege). The command runs as root with the tools
    /// first in PATH; its exit code becomes that of xtask.
    Vm(vm::VmArguments),
    /// Check licences and sources of the crates against deny.toml
    ///
    /// Builds the pinned cargo-deny under target/provision/ the first time, which takes minutes.
    Deny,
    /// Show the main job on three hosts with real curl
    ///
    /// Caller, appliance and origin as network namespaces, the guard attached, a 64 MiB body each way. Runs in a virtual
    /// machine by itself where this machine's kernel has no TLS. Ends with a table of what was shown; exit code 1 if
    /// anything was not.
    Demo(demo::DemoArguments),
    /// Look for inputs that break the parsers, guided by coverage
    ///
    /// Runs the targets of tests/fuzz, as many at once as there are processors, each until its time is up or something is
    /// found. Inputs that break a property are saved in target/fuzz/findings/ and named; exit code 1 then.
    Fuzz(fuzz::FuzzArguments),
    /// Run all tests: unit, end-to-end here, end-to-end on Debian's kernels
    ///
    /// The last line is `N passed, M failed`, with `, K skipped` where something was. Each skip is named with its reason;
    /// with CI=true in the environment a test that ran nowhere counts as failed.
    Test(test::TestArguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match arguments.command {
        Command::Attach(arguments) => return attach::attach(&workspace, &arguments),
        Command::Detach(arguments) => return attach::detach(&workspace, &arguments),
        Command::Bench(arguments) => bench::main(&workspace, &arguments)?,
        Command::Bpf(arguments) => bpf::main(&workspace, &arguments)?,
        Command::Build => build::main(&workspace)?,
        Command::Certs(arguments) => certs::main(&workspace, arguments)?,
        Command::Deny => deny::main(&workspace)?,
        Command::Tools => tools::main(&workspace)?,
        Command::Vm(arguments) => return vm::main(&workspace, arguments),
        Command::Demo(arguments) => return demo::main(&workspace, &arguments),
        Command::Fuzz(arguments) => return fuzz::main(&workspace, &arguments),
        Command::Test(arguments) => return test::main(&workspace, &arguments),
    }
    Ok(ExitCode::SUCCESS)
}
