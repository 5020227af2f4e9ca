//! A machine that boots: systemd as its first process, with udev, networkd and the journal, in namespaces of its own.
//!
//! `MTLS_SYSTEMD` is a folder with Debian's systemd and udev, unpacked. Nothing of the machine that runs the tests is seen by
//! it or changed, but a control group of its own is made beside others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail, ensure};

use super::lab::{appliance_binary, tool};
use super::network::alone;
use super::{Deadline, Finished, Lab, Place, Process, Settings, wait_until};

/// The unpacked systemd.
const TREE: &str = "MTLS_SYSTEMD";
const SYSTEMD: [&str; 4] =
    ["/lib/systemd/systemd", "--log-target=journal-or-kmsg", "--log-level=info", "--show-status=0"];
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long a boot or a command in the machine may take; generous for emulated ones.
const PATIENCE: u64 = 60;

/// A machine; switched off, hard, with this value. Its files are then as they were before it was made.
pub struct Machine {
    place: Place,
    root: PathBuf,
    running: Option<Running>,
    _alone: Option<MutexGuard<'static, ()>>,
}

struct Running {
    process: Process,
    init: u32,
    cgroup: PathBuf,
}

impl Machine {
    /// Where the appliance's configuration lies in it, with the development PKI.
    pub const CONFIGURATION: &'static str = "/etc/mtls-appliance/appliance.toml";

    /// Why there is none here; `None` where there is.
    #[must_use]
    pub(super) fn missing() -> Option<String> {
        let Some(tree) = std::env::var_os(TREE) else { return Some(format!("{TREE} names no systemd to boot with")) };
        let program = Path::new(&tree).join("lib/systemd/systemd");
        (!program.is_file()).then(|| format!("{TREE}: no {}", program.display()))
    }

    /// Installs a machine with the appliance and these settings, and does not switch it on. It has the network of `place`.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn install(lab: &Lab, place: &Place, settings: &Settings) -> anyhow::Result<Self> {
        let root = lab.path("machine");
        let machine = Self { place: place.clone(), root, running: None, _alone: alone() };
        let tree = tree()?;
        fs::create_dir_all(tree.join("usr/local"))?;
        for folder in ["etc", "var"] {
            let from = tree.join(folder);
            let copied = Command::new("cp")
                .arg("-a")
                .arg(&from)
                .arg(machine.made_folder("")?)
                .status()
                .context("cannot run cp")?;
            ensure!(copied.success(), "cannot copy {}: {copied}", from.display());
        }
        let users = "root:x:0:0::/root:/bin/sh\nsystemd-network:x:998:998::/:/bin/false\n";
        machine.write("etc/passwd", users)?;
        machine.write("etc/group", "root:x:0:\nsystemd-network:x:998:\n")?;
        machine.write("etc/fstab", "")?;
        machine.write("etc/machine-id", "")?;
        machine.made_folder("etc/mtls-appliance")?;
        for entry in fs::read_dir(lab.path(""))? {
            let path = entry?.path();
            if let (true, Some(name)) = (path.is_file(), path.file_name()) {
                fs::copy(&path, machine.root.join("etc/mtls-appliance").join(name))?;
            }
        }
        let socket = "/run/mtls-appliance/control.sock";
        settings.clone().set("control.socket", socket).write(&machine.path(Self::CONFIGURATION))?;
        // Nobody logs in, and a container has no huge pages to mount.
        for unit in ["getty.target", "serial-getty@ttyS0.service", "systemd-logind.service", "dev-hugepages.mount"] {
            machine.link(&format!("etc/systemd/system/{unit}"), "/dev/null")?;
        }
        machine.link("etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")?;
        Ok(machine)
    }

    /// A file of the machine, by its absolute path in there.
    #[must_use]
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// Writes a file, by its absolute path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, absolute: &str, content: &str) -> anyhow::Result<()> {
        let path = self.path(absolute);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Has `systemctl enable` make the links that make it start units at boot.
    ///
    /// # Errors
    /// When it does not.
    pub fn enable(&self, units: &[&str]) -> anyhow::Result<()> {
        let mut command = self.first_process(&[&["systemctl", "enable"], units].concat())?;
        let finished =
            Process::start("systemctl enable", &Place::Here, &mut command)?.wait(Deadline::seconds(PATIENCE))?;
        ensure!(finished.status.success(), "{}", finished.output());
        Ok(())
    }

    /// Switches it on and waits until it has started all it is told to.
    ///
    /// # Errors
    /// When it does not in time, or when a unit failed.
    pub fn boot(&mut self) -> anyhow::Result<()> {
        self.switch_on()?;
        let state = self.run(&["systemctl", "is-system-running", "--wait"])?;
        if state.stdout.trim() != "running" {
            let failed = self.run(&["systemctl", "--failed", "--plain", "--no-pager"])?;
            bail!("the machine is {}: {}\n{}", state.output().trim(), failed.output(), self.journal(&[])?);
        }
        Ok(())
    }

    /// Switches it on and waits until commands can be run in it.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn switch_on(&mut self) -> anyhow::Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(self.running.is_none(), "it is on");
        let name = format!("mtls-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = Path::new(CGROUPS).join(name);
        fs::create_dir(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        let systemd = self.first_process(&SYSTEMD)?;
        // Who is in a control group stays in it.
        let mut command = Command::new(tool("busybox")?);
        command.args(["sh", "-c", r#"echo $$ >"$1/cgroup.procs"; shift; exec "$@""#, "machine"]);
        command.arg(&cgroup).arg(systemd.get_program()).args(systemd.get_args());
        let process = Process::start("systemd", &self.place, &mut command)?;
        let running = self.running.insert(Running { process, init: 0, cgroup });
        let init = running.cgroup.join("init.scope/cgroup.procs");
        running.init = wait_until("systemd to begin", Deadline::seconds(PATIENCE), || {
            ensure!(running.process.is_running()?, "it ended: {}", running.process.transcript());
            Ok(fs::read_to_string(&init).ok().and_then(|pids| pids.lines().next()?.parse().ok()))
        })?;
        let private = PathBuf::from(format!("/proc/{}/root/run/systemd/private", running.init));
        wait_until("systemd to take commands", Deadline::seconds(PATIENCE), || Ok(private.exists().then_some(())))
    }

    /// Runs a command in it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end in time.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<Finished> {
        let running = self.running.as_ref().context("the machine is off")?;
        let mut nsenter = Command::new(tool("busybox")?);
        nsenter.args(["nsenter", "-t", &running.init.to_string(), "-m", "-u", "-i", "-p", "-r"]).args(command);
        nsenter.env_clear().env("PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin");
        Process::start(&command.join(" "), &self.place, &mut nsenter)?.wait(Deadline::seconds(PATIENCE))
    }

    /// The same for one that must succeed; what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn must(&self, command: &[&str]) -> anyhow::Result<String> {
        let finished = self.run(command)?;
        ensure!(finished.status.success(), "{}: {}{}", command.join(" "), finished.output(), self.journal(&[])?);
        Ok(finished.stdout.trim().to_owned())
    }

    /// A property of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub fn property(&self, unit: &str, name: &str) -> anyhow::Result<String> {
        self.must(&["systemctl", "show", "--value", "-p", name, unit])
    }

    /// What was logged.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn journal(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = vec!["journalctl", "--no-pager", "-q", "-n", "200"];
        command.extend(arguments);
        Ok(self.run(&command)?.output())
    }

    /// Switches it off without a word, and with it all that is in its memory: pins too.
    pub fn switch_off(&mut self) {
        let Some(running) = self.running.take() else { return };
        let _ = fs::write(running.cgroup.join("cgroup.kill"), "1");
        drop(running.process);
        let gone = || Ok(remove(&running.cgroup).is_ok().then_some(()));
        let _ = wait_until("the control group to be empty", Deadline::seconds(10), gone);
    }

    /// The machine with this command as its first process.
    fn first_process(&self, command: &[&str]) -> anyhow::Result<Command> {
        let busybox = tool("busybox")?;
        let mut unshare = Command::new(&busybox);
        unshare.args(["unshare", "-m", "-u", "-i", "-p", "-f"]).arg(&busybox);
        unshare.args(["sh", "-c", include_str!("machine.sh"), "machine.sh"]);
        unshare.arg(tree()?).arg(&self.root).arg(appliance_binary()?).args(command);
        Ok(unshare)
    }

    fn made_folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    fn link(&self, name: &str, target: &str) -> anyhow::Result<()> {
        let path = self.root.join(name);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        std::os::unix::fs::symlink(target, &path).with_context(|| format!("cannot make {}", path.display()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.switch_off();
    }
}

fn tree() -> anyhow::Result<PathBuf> {
    Ok(std::env::var_os(TREE).with_context(|| format!("{TREE} is not set"))?.into())
}

/// Removes a control group and those below.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
