//! Debian's kernels: where the image is in the unpacked packages, and which modules are loaded in which order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    debian::{self, Pins},
    tools::Tools,
    workspace::Workspace,
};

/// The kernels that the tests cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kernel {
    /// Debian 12's own.
    V6_1,
    /// The long-term kernel with the fixes that splice needs.
    V6_12,
    /// The newest, of Debian's unstable.
    V7,
}

impl Kernel {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::V7];

    /// Its root in `provision.toml`.
    fn root(self) -> &'static str {
        match self {
            Self::V6_1 => "kernel-6-1",
            Self::V6_12 => "kernel-6-12",
            Self::V7 => "kernel-7",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7 => "7.x",
        })
    }
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(|kernel| kernel.to_string());
        Self::ALL
            .into_iter()
            .zip(&known)
            .find(|(_, name)| *name == text || name.strip_suffix(".x") == Some(text))
            .map(|(kernel, _)| kernel)
            .ok_or_else(|| format!("the kernels are {}", known.join(", ")))
    }
}

/// A kernel, unpacked.
#[derive(Debug)]
pub(crate) struct KernelFiles {
    /// The image that QEMU starts.
    pub(crate) image: PathBuf,
    /// What was unpacked, for caches built from it.
    pub(crate) stamp: String,
    modules: PathBuf,
}

/// A module to load.
#[derive(Debug)]
pub(crate) struct Module {
    /// Its file name, uncompressed.
    pub(crate) file: String,
    /// The module itself.
    pub(crate) content: Vec<u8>,
    /// Whether the machine complains when it does not load.
    pub(crate) required: bool,
}

impl KernelFiles {
    /// Makes sure that the kernel is there.
    pub(crate) fn provision(workspace: &Workspace, kernel: Kernel) -> Result<Self> {
        let root = debian::provision(workspace, kernel.root())?;
        // Older packages have the image in /boot and modules in /lib; newer ones have both below /usr/lib/modules.
        let modules = ["lib/modules", "usr/lib/modules"]
            .iter()
            .find_map(|place| only_entry(&root.join(place)))
            .with_context(|| format!("{} has no kernel modules", root.display()))?;
        let in_boot = fs::read_dir(root.join("boot"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
        let image = in_boot.unwrap_or_else(|| modules.join("vmlinuz"));
        if !image.is_file() {
            bail!("{} has no kernel image", root.display());
        }
        Ok(Self { image, stamp: debian::stamp(workspace, kernel.root())?, modules })
    }

    /// The release, as `uname -r` gives it.
    pub(crate) fn release(&self) -> String {
        self.modules.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The modules of the guest and what they depend on, each after what it needs; without what is built in.
    pub(crate) fn modules(&self, tools: &Tools) -> Result<Vec<Module>> {
        let builtin: BTreeSet<String> = fs::read_to_string(self.modules.join("modules.builtin"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        let mut files = BTreeMap::new();
        index(&self.modules, &mut files)?;
        let mut loading =
            Loading { builtin, files, busybox: tools.busybox(), visited: BTreeSet::new(), ordered: Vec::new() };
        for name in &Pins::load()?.guest.modules {
            let (name, required) = match name.strip_suffix('?') {
                Some(name) => (name, false),
                None => (name.as_str(), true),
            };
            loading.add(&canonical(name), required).with_context(|| format!("kernel {}", self.release()))?;
        }
        Ok(loading.ordered)
    }
}

/// The order of loading, as it comes about.
struct Loading {
    builtin: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
    busybox: PathBuf,
    visited: BTreeSet<String>,
    ordered: Vec<Module>,
}

impl Loading {
    fn add(&mut self, name: &str, required: bool) -> Result<()> {
        if self.builtin.contains(name) || !self.visited.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name).cloned() else {
            if required {
                bail!("has no module {name}; mark it with `?` in xtask/provision.toml if that is right");
            }
            return Ok(());
        };
        let content = uncompressed(&path, &self.busybox)?;
        for dependency in depends(&content) {
            self.add(&canonical(&dependency), required)?;
        }
        self.ordered.push(Module { file: format!("{name}.ko"), content, required });
        Ok(())
    }
}

/// Collects the module files below a directory by name.
fn index(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The module's name in `.../name.ko` or `.../name.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = file.strip_suffix(".ko").or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(canonical(name))
}

/// Dash and underscore are the same in a module's name.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn uncompressed(path: &Path, busybox: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new(busybox).args(["xz", "-dc"]).arg(path).output().context("busybox does not start")?;
        if !output.status.success() {
            return Err(anyhow!("{} cannot be uncompressed", path.display()));
        }
        Ok(output.stdout)
    } else {
        fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// What a module says it needs: `depends=a,b` among the zero-terminated strings of its `.modinfo`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value: Vec<u8> = module.iter().skip(at + KEY.len()).copied().take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn only_entry(directory: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let first = entries.next()?;
    entries.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_module_depends_on() {
        assert_eq!(
            depends(b"\x7fELF...\0license=GPL\0depends=crypto_simd,cryptd\0name=x\0"),
            ["crypto_simd", "cryptd"]
        );
        assert!(depends(b"license=GPL\0depends=\0").is_empty());
    }

    #[test]
    fn dash_underscore_and_compression_do_not_change_a_modules_name() {
        assert_eq!(module_name(Path::new("kernel/crypto/aesni-intel.ko.xz")).as_deref(), Some("aesni_intel"));
        assert_eq!(module_name(Path::new("kernel/net/tls.ko")).as_deref(), Some("tls"));
        assert_eq!(module_name(Path::new("modules.dep")), None);
    }

    #[test]
    fn every_kernel_reads_back_from_its_name() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
    }
}
