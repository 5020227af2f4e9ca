//! `cargo xtask build`: the appliance as one static program with the guard inside, and the tests that run on other kernels.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    bpf, cargo,
    progress::{Step, note},
    workspace::{Workspace, install},
};

/// The platform everything is built for.
pub(crate) const HOST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The tests of the XDP program in the kernel, without a network: of the package `mtls-appliance`.
pub(crate) const GUARD_TESTS: &str = "guard";

/// All programs.
pub(crate) const ALL: &[&str] = &["--bins", "--test", GUARD_TESTS];
/// The appliance and its tests. Linking a program takes a minute.
pub(crate) const TESTS: &[&str] = &["--bin", "mtls-appliance", "--bin", "e2e", "--test", GUARD_TESTS];
/// The appliance and the demo.
pub(crate) const DEMO: &[&str] = &["--bin", "mtls-appliance", "--bin", "demo"];

/// What a build leaves in `target/dist/`.
#[derive(Debug)]
pub(crate) struct Dist {
    /// The programs that were chosen.
    pub(crate) programs: Vec<PathBuf>,
}

/// Builds what is chosen ([`ALL`] and its like) and copies the programs to `target/dist/`.
pub(crate) fn build(workspace: &Workspace, chosen: &[&str]) -> Result<Dist> {
    let object = bpf::build(workspace)?;
    let step = Step::begin_talkative("building the appliance and its tests (release, static)");
    let packages = ["--package", "mtls-appliance", "--package", "mtls-appliance-tests"];
    let built = cargo::programs(release(workspace, &object).args(chosen).args(packages))?;
    let mut programs = Vec::new();
    for program in built {
        let installed = workspace.dist().join(&program.name);
        install(&program.path, &installed)?;
        programs.push(installed);
    }
    step.done();
    Ok(Dist { programs })
}

/// A `cargo build` as all that is measured or handed out is built; what to build is still to be said.
pub(crate) fn release(workspace: &Workspace, object: &Path) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["build", "--release", "--locked", "--target", HOST_TARGET])
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // Static, so that the same file runs on any kernel's userspace, the virtual machine's included.
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("MTLS_GUARD_OBJECT", object);
    command
}

/// The command: builds and says what is where.
pub(crate) fn main(workspace: &Workspace) -> Result<()> {
    for program in build(workspace, ALL)?.programs {
        note(format!("built {}", program.display()));
    }
    Ok(())
}
