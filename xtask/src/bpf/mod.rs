//! `cargo xtask bpf`: compiles the XDP program to `target/bpf/mtls-guard.o`.
//!
//! Which compiler does it is `toolchain`'s matter; that the object is embedded in the appliance, `build`'s.

mod toolchain;

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};
use clap::Args;

use self::toolchain::Toolchain;
use crate::{
    cargo, exec,
    progress::{Step, note},
    workspace::{Workspace, install},
};

const PACKAGE: &str = "mtls-appliance-ebpf";
const TARGET: &str = "bpfel-unknown-none";

/// What `cargo xtask bpf` takes.
#[derive(Debug, Args)]
pub(crate) struct BpfArguments {
    /// Lint the program with clippy, warnings denied, instead of compiling it
    #[arg(long)]
    clippy: bool,
}

/// Compiles or lints the program, as the arguments say.
pub(crate) fn main(workspace: &Workspace, arguments: &BpfArguments) -> Result<()> {
    if arguments.clippy { lint(workspace) } else { build(workspace).map(drop) }
}

/// Compiles the program where its sources changed, and returns the path of the object file.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let toolchain = chosen(workspace)?;
    let step = Step::begin_talkative("compiling the XDP program");
    let mut command = toolchain.cargo(workspace, "build")?;
    add_target(workspace, &mut command);
    let programs = cargo::programs(command.arg("--bins"))?;
    let [program] = &programs[..] else {
        bail!("{PACKAGE} should build one program, not {}", programs.len());
    };
    let object = workspace.guard_object();
    // An unchanged object keeps its time, so that cargo does not compile the appliance again because of it.
    if fs::read(&program.path).ok() != fs::read(&object).ok() {
        install(&program.path, &object)?;
    }
    step.done();
    Ok(object)
}

fn lint(workspace: &Workspace) -> Result<()> {
    let toolchain = chosen(workspace)?;
    let step = Step::begin_talkative("linting the XDP program");
    let mut command = toolchain.cargo(workspace, "clippy")?;
    add_target(workspace, &mut command);
    exec::run(command.args(["--", "-D", "warnings"]))?;
    step.done();
    Ok(())
}

fn chosen(workspace: &Workspace) -> Result<Toolchain> {
    let (toolchain, reason) = toolchain::choose(workspace)?;
    note(format!("BPF toolchain: {toolchain} ({reason})"));
    Ok(toolchain)
}

fn add_target(workspace: &Workspace, command: &mut Command) {
    // debuginfo and --btf: the kernel wants BTF for the program's maps and functions. A target directory of its own:
    // what is built by this compiler is of no use to the other.
    let flags = ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf"];
    command
        .args(["--release", "--locked", "--package", PACKAGE, "--target", TARGET, "--target-dir"])
        .arg(workspace.cargo_target().join("bpf-build"))
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
}
