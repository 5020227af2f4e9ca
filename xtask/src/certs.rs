//! `cargo xtask certs`: the development PKI. What it contains is described in `certs/`, which also generates it.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{progress::note, workspace::Workspace};

/// What `cargo xtask certs` takes.
#[derive(Debug, Args)]
pub(crate) struct CertsArguments {
    /// Where to; certs/out unless given
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// The command: generates what is missing or about to expire, and says where it is.
pub(crate) fn main(workspace: &Workspace, arguments: CertsArguments) -> Result<()> {
    let out = match arguments.out {
        Some(out) => {
            dev_pki::generate(&out)?;
            out
        }
        None => generate(workspace)?,
    };
    note(format!("the development PKI is in {}", out.display()));
    Ok(())
}

/// Generates the PKI in its usual place and returns that.
pub(crate) fn generate(workspace: &Workspace) -> Result<PathBuf> {
    let out = workspace.root().join("certs/out");
    dev_pki::generate(&out)?;
    Ok(out)
}
