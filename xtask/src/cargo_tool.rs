//! Programs built from crates.io at a pinned version, kept below `target/provision/`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    debian, exec,
    progress::Step,
    workspace::{Workspace, create_dir, remove_tree},
};

/// Such a program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CargoTool<'a> {
    /// The crate, and the program in it.
    pub(crate) name: &'a str,
    /// Its pinned version.
    pub(crate) version: &'a str,
    /// What else distinguishes this build from others of the same version; may be empty.
    pub(crate) variant: &'a str,
    /// What a person calls it while it is built.
    pub(crate) label: &'a str,
}

impl CargoTool<'_> {
    fn prefix(&self, workspace: &Workspace) -> PathBuf {
        workspace.provision().join(format!("{}-{}{}", self.name, self.version, self.variant))
    }

    /// The directory that the program is in, if it is there.
    pub(crate) fn installed(&self, workspace: &Workspace) -> Option<PathBuf> {
        let directory = self.prefix(workspace).join("bin");
        directory.join(self.name).is_file().then_some(directory)
    }

    /// Builds the program where it is missing. `configure` adds options to the command and may use a scratch directory.
    pub(crate) fn install(
        &self,
        workspace: &Workspace,
        configure: impl FnOnce(&Path, &mut Command) -> Result<()>,
    ) -> Result<PathBuf> {
        create_dir(&workspace.provision())?;
        let _lock = debian::Lock::take(&workspace.provision())?;
        // Another xtask may have built it while this one waited.
        if let Some(directory) = self.installed(workspace) {
            return Ok(directory);
        }
        let step = Step::begin(format!("building {}", self.label));
        let scratch = workspace.provision().join("build").join(self.name);
        remove_tree(&scratch)?;
        create_dir(&scratch)?;
        let mut command = workspace.cargo();
        command
            .args(["install", "--locked", "--force", self.name, "--version", self.version, "--root"])
            .arg(self.prefix(workspace))
            .arg("--target-dir")
            .arg(scratch.join("target"))
            .env_remove("RUSTFLAGS")
            // Used a few times for a second: what counts is that it is built soon.
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
        configure(&scratch, &mut command)?;
        exec::capture(&mut command).with_context(|| {
            format!("{} cannot be built: are a C compiler (`cc`) and the crate registry there?", self.name)
        })?;
        remove_tree(&scratch)?;
        step.done();
        self.installed(workspace).with_context(|| format!("the build left no {}", self.name))
    }
}
