//! Debian packages as a source of tools: fetched, checked and unpacked below `target/provision/`, never installed.
//!
//! `provision.toml` says what a root consists of. A root that is complete carries a stamp of that definition, so that
//! later runs neither touch the network nor start apt.

mod apt;
mod mirror;
mod pins;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

pub(crate) use self::{apt::hex, pins::Pins};
use crate::{
    exec,
    progress::Step,
    workspace::{Workspace, create_dir, read, remove_tree, write},
};

/// Makes sure that the named root of `provision.toml` is unpacked, and returns where.
///
/// # Errors
/// When this is not a Debian machine, or network, mirror or disk do not play along; each says what to do.
pub(crate) fn provision(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let pins = Pins::load()?;
    let root_pins = pins.root(name)?;
    let base = workspace.provision();
    let root = base.join(name);
    let stamp = base.join(format!("{name}.stamp"));
    let definition = hex(&Sha256::digest(format!("{root_pins:?}")));
    if is_complete(&stamp, &root, &definition) {
        return Ok(root);
    }

    create_dir(&base)?;
    let _lock = Lock::take(&base)?;
    // Another xtask may have done it while this one waited.
    if is_complete(&stamp, &root, &definition) {
        return Ok(root);
    }
    let suite = apt::Suite::open(&base, &root_pins.suite)?;
    let archives = suite.resolve(&root_pins.packages, root_pins.series.as_deref(), root_pins.closure)?;
    let files = suite.fetch(&archives)?;

    let step = Step::begin(format!("unpacking {} packages into target/provision/{name}", files.len()));
    let staged = base.join(format!("{name}.new"));
    remove_tree(&staged)?;
    create_dir(&staged)?;
    for file in &files {
        exec::capture(Command::new("dpkg-deb").arg("-x").arg(file).arg(&staged))
            .with_context(|| format!("{} cannot be unpacked: is the disk full?", file.display()))?;
    }
    for part in &root_pins.prune {
        remove_tree(&staged.join(part))?;
    }
    remove_tree(&root)?;
    fs::rename(&staged, &root).with_context(|| format!("cannot replace {}", root.display()))?;
    let mut record = format!("{definition}\n");
    for archive in &archives {
        record += &format!("{} sha256:{}\n", archive.package, archive.sha256);
    }
    write(&stamp, record)?;
    step.done();
    Ok(root)
}

/// What the named root consists of now, exactly; changes when the root is unpacked anew.
pub(crate) fn stamp(workspace: &Workspace, name: &str) -> Result<String> {
    read(&workspace.provision().join(format!("{name}.stamp")))
}

fn is_complete(stamp: &Path, root: &Path, definition: &str) -> bool {
    root.is_dir() && read(stamp).is_ok_and(|record| record.lines().next() == Some(definition))
}

/// Keeps two runs of xtask from provisioning at once; released when dropped, also by the kernel when xtask dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock.
    pub(crate) fn take(base: &Path) -> Result<Self> {
        let path = base.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}
