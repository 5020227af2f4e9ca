//! `cargo xtask vm`: one command in a virtual machine with one of Debian's kernels.
//!
//! QEMU emulates in software, so that it runs the same with and without hardware support, and needs no privilege. The
//! machine has no network; what it says comes over its serial console.

mod cpio;
mod initramfs;
mod kernel;
mod qemu;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;

pub(crate) use self::kernel::Kernel;
use self::kernel::KernelFiles;
use crate::{
    progress::{Step, note},
    tools::Tools,
    workspace::Workspace,
};

/// Where files without a place of their own are put.
const FILES: &str = "host";

/// What `cargo xtask vm` takes.
#[derive(Debug, Args)]
pub(crate) struct VmArguments {
    /// The kernel: 6.1, 6.12 or 7.x
    #[arg(long, default_value = "6.1")]
    kernel: Kernel,
    /// A file or directory to take along, to /host/NAME or to a place of your choice; may be repeated
    #[arg(long = "with", value_name = "PATH[:PLACE]")]
    files: Vec<String>,
    /// Memory of the machine; its files are in it too
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u32,
    /// How long the machine may run before it is switched off
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// The command, run as root; one word is taken as a line for the shell
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// A run of the virtual machine.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The kernel to boot.
    pub(crate) kernel: Kernel,
    /// Files and directories of this machine, and where they appear.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// The command's environment, beyond PATH and HOME.
    pub(crate) environment: Vec<(String, String)>,
    /// The command and its arguments.
    pub(crate) command: Vec<String>,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Its clock counts instructions; slow, but what is measured by time inside is the same on any machine.
    pub(crate) count_instructions: bool,
    /// When the machine is switched off, done or not.
    pub(crate) deadline: Duration,
}

/// Runs the machine and returns the command's exit code. Each line of its console goes to `on_line`.
///
/// # Errors
/// When something cannot be provisioned, the kernel does not come up, or the deadline passes.
pub(crate) fn run(workspace: &Workspace, guest: &Guest, on_line: &mut dyn FnMut(&str)) -> Result<i32> {
    let tools = Tools::provision(workspace)?;
    let files = KernelFiles::provision(workspace, guest.kernel)?;
    let base = initramfs::base(workspace, guest.kernel, &files, &tools)?;
    let emulator = qemu::Emulator::provision(workspace)?;

    let id = std::process::id();
    let mark = format!("guest-command-ended-{id}");
    let initramfs = Temporary(workspace.provision().join(format!("vm/run-{}-{id}.cpio", guest.kernel)));
    initramfs::complete(&base, &initramfs.0, guest, &mark)?;
    let step = Step::begin_talkative(format!("virtual machine with Linux {}", files.release()));
    let code = emulator.run(&files.image, &initramfs.0, guest, &mark, on_line)?;
    step.done();
    Ok(code)
}

/// The command.
pub(crate) fn main(workspace: &Workspace, arguments: VmArguments) -> Result<ExitCode> {
    let files = arguments
        .files
        .iter()
        .map(|argument| {
            let (from, to) = match argument.split_once(':') {
                Some((from, to)) => (PathBuf::from(from), Some(to.to_owned())),
                None => (PathBuf::from(argument), None),
            };
            let from = from.canonicalize().with_context(|| format!("--with {argument}"))?;
            let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok((from, to.unwrap_or_else(|| format!("{FILES}/{name}"))))
        })
        .collect::<Result<_>>()?;
    let command = match &arguments.command[..] {
        // busybox's shell takes its own `ip`, which knows no namespaces, before any in PATH.
        [line] => vec!["sh".to_owned(), "-c".to_owned(), format!("ip() {{ /tools/wrap/ip \"$@\"; }}\n{line}")],
        _ => arguments.command,
    };
    let guest = Guest {
        kernel: arguments.kernel,
        files,
        environment: Vec::new(),
        command,
        memory_mib: arguments.memory,
        count_instructions: false,
        deadline: Duration::from_secs(arguments.timeout),
    };
    let code = run(workspace, &guest, &mut |line| println!("[{}] {line}", guest.kernel))?;
    note(format!("the command ended with exit code {code}"));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// A file that is removed when the run is over.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // A file left over is found again under target/, nothing worse.
        let _ = std::fs::remove_file(&self.0);
    }
}
