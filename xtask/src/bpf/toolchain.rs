//! The compiler and linker for BPF.
//!
//! The compiler hands LLVM bitcode to bpf-linker, so both must be built on the same LLVM. The user's own rustup
//! toolchain is taken when it is complete; else Debian's compiler, which brings `core` precompiled for BPF, and a
//! bpf-linker built here against Debian's LLVM.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo_tool::CargoTool,
    debian::{self, Pins},
    exec,
    workspace::{Workspace, create_dir},
};

const ROOT: &str = "bpf-toolchain";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where the root has shared libraries; libc, libstdc++ and libgcc_s are those of the machine.
const LIBRARY_PATH: [&str; 2] = [LIBRARIES, "lib/x86_64-linux-gnu"];

/// A compiler and a linker that fit.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// A nightly of rustup with rust-src, and the bpf-linker in `PATH`.
    Rustup {
        /// rustup's name for it.
        name: String,
    },
    /// Debian's compiler, unpacked, and our own bpf-linker.
    Debian {
        /// Where the packages are unpacked.
        root: PathBuf,
        /// The directory that bpf-linker is in.
        linker: PathBuf,
    },
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup { name } => write!(f, "rustup's {name}"),
            Self::Debian { .. } => f.write_str("Debian's rustc under target/provision"),
        }
    }
}

/// Chooses, and says why.
pub(crate) fn choose(workspace: &Workspace) -> Result<(Toolchain, String)> {
    let refusal = match rustup_toolchain() {
        Ok(found) => return Ok(found),
        Err(refusal) => refusal,
    };
    let root = debian::provision(workspace, ROOT)?;
    let linker = debian_linker(workspace, &root)?;
    Ok((Toolchain::Debian { root, linker }, refusal))
}

/// The first complete nightly of rustup, or the reason why there is none.
fn rustup_toolchain() -> Result<(Toolchain, String), String> {
    if !exec::in_path("rustup") {
        return Err("rustup is not installed".to_owned());
    }
    let list = exec::capture(Command::new("rustup").args(["toolchain", "list"])).map_err(|error| error.to_string())?;
    let mut refusal = "rustup has no nightly".to_owned();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()).filter(|n| n.starts_with("nightly")) {
        match check_rustup(name) {
            Ok(reason) => {
                return Ok((Toolchain::Rustup { name: name.to_owned() }, reason));
            }
            Err(reason) => refusal = reason,
        }
    }
    Err(refusal)
}

fn check_rustup(name: &str) -> Result<String, String> {
    let rustc = |argument: &[&str]| {
        exec::capture(Command::new("rustup").args(["run", name, "rustc"]).args(argument)).map_err(|e| e.to_string())
    };
    let sysroot = rustc(&["--print", "sysroot"])?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library").is_dir() {
        return Err(format!("rustup's {name} has no rust-src"));
    }
    let compiler = llvm_of_rustc(&rustc(&["-vV"])?).ok_or_else(|| format!("{name} does not tell its LLVM version"))?;
    let path = env::var_os("PATH").unwrap_or_default();
    let linker = env::split_paths(&path)
        .map(|directory| directory.join("bpf-linker"))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("rustup's {name} has rust-src, but no bpf-linker is in PATH"))?;
    let bytes = fs::read(&linker).map_err(|error| format!("{}: {error}", linker.display()))?;
    match llvm_of_linker(&bytes) {
        Some(llvm) if llvm == compiler => Ok(format!("it has rust-src, and bpf-linker reads its LLVM {llvm}")),
        Some(llvm) => Err(format!("rustup's {name} has LLVM {compiler}, but {} has LLVM {llvm}", linker.display())),
        None => Err(format!("{} does not tell which LLVM it was built with", linker.display())),
    }
}

/// LLVM's major version in the output of `rustc -vV`.
fn llvm_of_rustc(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// LLVM's major version as it stands in the program: the shared library's name, or the mark of a static build.
fn llvm_of_linker(program: &[u8]) -> Option<u32> {
    [&b"libLLVM.so."[..], b"libLLVM-", b"LLVM version ", b"LLVM"].iter().find_map(|mark| {
        program.windows(mark.len()).enumerate().filter(|(_, window)| window == mark).find_map(|(at, _)| {
            let rest = program.get(at + mark.len()..)?;
            let digits: Vec<u8> = rest.iter().copied().take_while(u8::is_ascii_digit).take(3).collect();
            let ends_well = rest.get(digits.len()).is_some_and(|byte| matches!(byte, b'.' | 0 | b'-'));
            (digits.len() == 2 && ends_well).then(|| String::from_utf8(digits).ok()?.parse().ok())?
        })
    })
}

/// bpf-linker built against Debian's LLVM; the directory it is in.
fn debian_linker(workspace: &Workspace, root: &Path) -> Result<PathBuf> {
    let pin = Pins::load()?.bpf_linker;
    let tool = CargoTool {
        name: "bpf-linker",
        version: &pin.version,
        variant: &format!("-llvm{}", pin.llvm),
        label: &format!("bpf-linker {} against LLVM {}", pin.version, pin.llvm),
    };
    if let Some(directory) = tool.installed(workspace) {
        return Ok(directory);
    }
    let version =
        exec::capture(Command::new(root.join("usr/bin/rustc")).arg("-vV").env("LD_LIBRARY_PATH", library_path(root)?))
            .context("Debian's rustc does not run here; remove target/provision and try again")?;
    if llvm_of_rustc(&version) != Some(pin.llvm) {
        bail!(
            "Debian's rustc does not have LLVM {}; move the pins of [roots.{ROOT}] and [bpf-linker] in \
             xtask/provision.toml together",
            pin.llvm
        );
    }
    tool.install(workspace, |scratch, command| {
        // All that linking needs of an LLVM installation is its shared library under the usual name.
        let llvm = scratch.join("llvm");
        create_dir(&llvm.join("lib"))?;
        let library = find_library(&root.join(LIBRARIES), pin.llvm)?;
        for name in ["libLLVM.so".to_owned(), format!("libLLVM-{}.so", pin.llvm)] {
            symlink(&library, llvm.join("lib").join(name)).context("cannot link LLVM's library")?;
        }
        command
            .args(["--no-default-features", "--features", &format!("llvm-{}", pin.llvm)])
            .env("LLVM_PREFIX", &llvm)
            .env("LD_LIBRARY_PATH", library_path(root)?);
        Ok(())
    })
}

fn library_path(root: &Path) -> Result<OsString> {
    env::join_paths(LIBRARY_PATH.map(|directory| root.join(directory)))
        .with_context(|| format!("{} cannot stand in a library path", root.display()))
}

fn find_library(directory: &Path, major: u32) -> Result<PathBuf> {
    let prefix = format!("libLLVM.so.{major}.");
    fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .with_context(|| format!("{} has no {prefix}*", directory.display()))
}

impl Toolchain {
    /// A cargo command that compiles with this toolchain; options of the build still to be added.
    pub(crate) fn cargo(&self, workspace: &Workspace, subcommand: &str) -> Result<Command> {
        let mut command = match self {
            Self::Rustup { name } => {
                let mut command = Command::new("rustup");
                command.current_dir(workspace.root()).args(["run", name, "cargo", subcommand, "-Z", "build-std=core"]);
                command.env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
                command
            }
            Self::Debian { root, linker } => {
                let cargo = workspace.cargo();
                let mut command = if subcommand == "clippy" {
                    // Debian's clippy finds its driver beside itself and cargo by this variable.
                    let mut clippy = Command::new(root.join("usr/bin/cargo-clippy"));
                    clippy.arg("clippy").current_dir(workspace.root()).env("CARGO", cargo.get_program());
                    clippy
                } else {
                    let mut cargo = cargo;
                    cargo.arg(subcommand);
                    cargo
                };
                command
                    .env("PATH", prepend_to_path(linker)?)
                    .env("RUSTC", root.join("usr/bin/rustc"))
                    .env("LD_LIBRARY_PATH", library_path(root)?)
                    // Attributes and assembly of the BPF target are unstable, and this compiler is a stable one.
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
        Ok(command)
    }
}

fn prepend_to_path(directory: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = std::iter::once(directory.to_path_buf()).chain(env::split_paths(&path));
    env::join_paths(directories).with_context(|| format!("{} cannot be put in PATH", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_llvm_from_rustc_and_from_a_linker_shared_or_static() {
        assert_eq!(llvm_of_rustc("rustc 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_of_linker(b"\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_of_linker(b"\0libLLVM-21.so\0"), Some(21));
        assert_eq!(llvm_of_linker(b"LLVM_SYS\0LLVM22.1.4\0"), Some(22));
        assert_eq!(llvm_of_linker(b"LLVM\0no number"), None);
    }
}
