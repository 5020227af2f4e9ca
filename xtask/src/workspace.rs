//! Where things are: the checkout, cargo's build outputs and what xtask itself keeps.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// The checkout that xtask was compiled from.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Finds the checkout.
    ///
    /// # Errors
    /// When the directory that xtask was compiled in is gone.
    pub(crate) fn find() -> Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().unwrap_or(&manifest);
        let root = root
            .canonicalize()
            .with_context(|| format!("{} is not there any more; run `cargo xtask` from a checkout", root.display()))?;
        Ok(Self { root })
    }

    /// The top of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where finished programs go, ready to be copied to another machine. Not moved by `CARGO_TARGET_DIR`.
    pub(crate) fn dist(&self) -> PathBuf {
        self.root.join("target/dist")
    }

    /// Where downloaded packages and tools are unpacked. Not moved by `CARGO_TARGET_DIR`.
    pub(crate) fn provision(&self) -> PathBuf {
        self.root.join("target/provision")
    }

    /// The guard's object file, as embedded in the appliance.
    pub(crate) fn guard_object(&self) -> PathBuf {
        self.root.join("target/bpf/mtls-guard.o")
    }

    /// Where cargo puts its own outputs: `CARGO_TARGET_DIR`, else `target/`.
    pub(crate) fn cargo_target(&self) -> PathBuf {
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), |dir| self.root.join(dir))
    }

    /// cargo, run at the top of the checkout, free of what the cargo that started xtask set for xtask alone.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        command.current_dir(&self.root);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR") {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Creates a directory and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Reads a text file.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file, or says where the disk refused it.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a file, replacing the old one in one step: a running program keeps the file it was started from.
pub(crate) fn install(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        create_dir(parent)?;
    }
    let staged = to.with_extension("new");
    fs::copy(from, &staged).with_context(|| format!("cannot copy {} to {}", from.display(), staged.display()))?;
    fs::rename(&staged, to).with_context(|| format!("cannot replace {}", to.display()))
}

/// Removes a directory tree, or a single file, if it is there.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let removed = if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
