//! `cargo xtask deny`: licences, banned crates and sources, as `deny.toml` allows them.
//!
//! Known vulnerabilities are left out: their database changes by the day, and a build must not.

use std::process::Command;

use anyhow::Result;

use crate::{cargo_tool::CargoTool, debian::Pins, exec, workspace::Workspace};

/// The command.
pub(crate) fn main(workspace: &Workspace) -> Result<()> {
    let pin = Pins::load()?.cargo_deny;
    let tool = CargoTool {
        name: "cargo-deny",
        version: &pin.version,
        variant: "",
        label: &format!("cargo-deny {}", pin.version),
    };
    let directory = match tool.installed(workspace) {
        Some(directory) => directory,
        None => tool.install(workspace, |_, _| Ok(()))?,
    };
    exec::run(
        Command::new(directory.join("cargo-deny"))
            .current_dir(workspace.root())
            .args(["--locked", "--log-level", "error", "check", "--hide-inclusion-graph"])
            .args(["licenses", "bans", "sources"]),
    )
}
