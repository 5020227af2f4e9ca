//! The virtual machine's file system: a part that is the same for every run of a kernel, kept on disk, and after it
//! what this run brings along.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{
    Guest,
    cpio::Archive,
    kernel::{Kernel, KernelFiles},
};
use crate::{
    debian::hex,
    exec,
    progress::Step,
    tools::Tools,
    workspace::{Workspace, create_dir, read, write},
};

const INIT: &str = include_str!("init.sh");
const LIMITS: &str = "run-this/limits";
const COMMAND: &str = "run-this/command";
/// Raised when the layout below changes.
const LAYOUT: u32 = 1;

/// The shared part of a kernel's file system; built when what it consists of changed.
pub(crate) fn base(workspace: &Workspace, kernel: Kernel, files: &KernelFiles, tools: &Tools) -> Result<PathBuf> {
    let directory = workspace.provision().join("vm");
    let path = directory.join(format!("{kernel}.cpio"));
    let stamp = directory.join(format!("{kernel}.stamp"));
    let modules = format!("{:?}", crate::debian::Pins::load()?.guest.modules);
    let parts = [files.stamp.as_str(), &Tools::stamp(workspace)?, INIT, &modules, &LAYOUT.to_string()];
    let definition = hex(&Sha256::digest(parts.join("\0")));
    if path.is_file() && read(&stamp).is_ok_and(|present| present == definition) {
        return Ok(path);
    }

    create_dir(&directory)?;
    let step = Step::begin(format!("packing the virtual machine's files for kernel {}", files.release()));
    let staged = directory.join(format!("{kernel}.new"));
    let file = File::create(&staged).with_context(|| format!("cannot write {}", staged.display()))?;
    let mut archive = Archive::new(BufWriter::new(file));
    add_system(&mut archive, tools).context("cannot write the virtual machine's files: is the disk full?")?;
    archive.tree(tools.root(), "tools")?;
    let mut order = String::new();
    for module in files.modules(tools)? {
        archive.file(&format!("modules/{}", module.file), 0o644, &module.content)?;
        order += &format!("{} {}\n", module.file, if module.required { "must" } else { "may" });
    }
    archive.file("modules/order", 0o644, order.as_bytes())?;
    archive.finish()?;
    fs::rename(&staged, &path).with_context(|| format!("cannot replace {}", path.display()))?;
    write(&stamp, definition)?;
    step.done();
    Ok(path)
}

fn add_system(archive: &mut Archive<BufWriter<File>>, tools: &Tools) -> Result<()> {
    for directory in ["dev", "proc", "sys", "tmp", "run", "root", "etc", "var", "bin"] {
        archive.directory(directory)?;
    }
    // The kernel opens it for the first process, before anything is mounted.
    archive.character_device("dev/console", 5, 1)?;
    archive.tree(&tools.busybox(), "bin/busybox")?;
    let applets = exec::capture(std::process::Command::new(tools.busybox()).arg("--list"))?;
    for applet in applets.lines().filter(|&applet| applet != "busybox" && applet != "ip") {
        archive.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    for place in ["sbin", "usr/bin", "usr/sbin"] {
        archive.symlink(place, "/bin")?;
    }
    // Programs that are not static find their loader and libraries where they look for them.
    archive.symlink("lib64/ld-linux-x86-64.so.2", "/tools/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")?;
    archive.symlink("lib/x86_64-linux-gnu", "/tools/lib/x86_64-linux-gnu")?;
    archive.symlink("usr/lib/x86_64-linux-gnu", "/tools/usr/lib/x86_64-linux-gnu")?;
    let users = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
    archive.file("etc/passwd", 0o644, users.as_bytes())?;
    archive.file("etc/group", 0o644, b"root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")?;
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    Ok(())
}

/// The whole file system for one run: the shared part, then the guest's files and command.
pub(crate) fn complete(base: &Path, path: &Path, guest: &Guest, mark: &str) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    let mut shared = File::open(base).with_context(|| format!("cannot read {}", base.display()))?;
    let mut file = File::create(path).with_context(context)?;
    io::copy(&mut shared, &mut file).with_context(context)?;
    let mut archive = Archive::new(BufWriter::new(file));
    for (from, to) in &guest.files {
        archive.tree(from, to)?;
    }
    let deadline = guest.deadline.as_secs() + 30;
    archive.file(LIMITS, 0o644, format!("DEADLINE={deadline}\nMARK={}\n", quoted(mark)).as_bytes())?;
    archive.file(COMMAND, 0o644, command(guest).as_bytes())?;
    archive.finish().with_context(context)?;
    Ok(())
}

fn command(guest: &Guest) -> String {
    let mut script = String::new();
    for (name, value) in &guest.environment {
        script += &format!("export {name}={}\n", quoted(value));
    }
    let words: Vec<String> = guest.command.iter().map(|word| quoted(word)).collect();
    script + &words.join(" ") + "\n"
}

/// A word as the shell takes it literally.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_command_reaches_the_shell_word_by_word() {
        let guest = Guest {
            kernel: Kernel::V6_1,
            files: Vec::new(),
            environment: vec![("A".into(), "b c".into())],
            command: vec!["echo".into(), "it's $HOME".into()],
            memory_mib: 512,
            count_instructions: false,
            deadline: Duration::from_secs(1),
        };
        assert_eq!(command(&guest), "export A='b c'\n'echo' 'it'\\''s $HOME'\n");
    }
}
