//! QEMU: starting it with its own libraries and firmware, listening to its serial console, and ending it in time.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::Guest;
use crate::{debian, workspace::Workspace};

const ROOT: &str = "qemu";
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const CPUS: &str = "2";
/// `no_timer_check`: on a busy machine the emulated timer may look broken to a kernel that tries it out.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check mitigations=off random.trust_cpu=on";
/// How many of the last lines of QEMU's console an error shows.
const LAST_LINES: usize = 20;

/// An unpacked QEMU.
#[derive(Debug)]
pub(crate) struct Emulator {
    root: PathBuf,
}

impl Emulator {
    /// Makes sure that it is there.
    pub(crate) fn provision(workspace: &Workspace) -> Result<Self> {
        Ok(Self { root: debian::provision(workspace, ROOT)? })
    }

    /// Boots the kernel and returns the exit code that the guest reports behind `mark`.
    pub(crate) fn run(
        &self,
        image: &Path,
        initramfs: &Path,
        guest: &Guest,
        mark: &str,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<i32> {
        let started = Instant::now();
        let mut machine = Machine(
            self.command(image, initramfs, guest)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("QEMU does not start")?,
        );
        let console = machine.lines()?;
        let mut last = VecDeque::new();
        let mut code = None;
        loop {
            let left = guest.deadline.saturating_sub(started.elapsed());
            match console.recv_timeout(left) {
                Ok(line) => {
                    // The command's last line may have had no end of its own.
                    let line = match line.split_once(mark) {
                        Some((before, rest)) => {
                            code = rest.trim().parse().ok();
                            if before.is_empty() {
                                continue;
                            }
                            before.to_owned()
                        }
                        // The kernel's farewell.
                        None if code.is_some() => continue,
                        None => line,
                    };
                    on_line(&line);
                    if last.len() == LAST_LINES {
                        last.pop_front();
                    }
                    last.push_back(line);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "the virtual machine with kernel {} was switched off after {} s, its command still running",
                        guest.kernel,
                        guest.deadline.as_secs()
                    );
                }
            }
        }
        machine.0.wait().context("QEMU is lost")?;
        code.ok_or_else(|| {
            let last: Vec<String> = last.into();
            anyhow!(
                "the virtual machine with kernel {} ended before its command did; its last words:\n  {}",
                guest.kernel,
                last.join("\n  ")
            )
        })
    }

    fn command(&self, image: &Path, initramfs: &Path, guest: &Guest) -> Command {
        let libraries: Vec<String> =
            LIBRARIES.iter().map(|directory| self.root.join(directory).display().to_string()).collect();
        let mut command = Command::new(self.root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(libraries.join(":"))
            .arg(self.root.join("usr/bin/qemu-system-x86_64"))
            .env("QEMU_MODULE_DIR", self.root.join("usr/lib/x86_64-linux-gnu/qemu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(firmware));
        }
        // `-cpu max` for the AES instructions; software emulation, for stock kernels do not come up everywhere under
        // nested virtualisation.
        // With fast string moves, copies would count one instruction a byte.
        let machine = match guest.count_instructions {
            true => {
                ["-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", "max,-erms,-fsrm", "-smp", "1"].as_slice()
            }
            false => &["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", CPUS],
        };
        command
            .args(machine)
            .args(["-m", &guest.memory_mib.to_string()])
            .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none"])
            .arg("-no-reboot")
            .arg("-kernel")
            .arg(image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", KERNEL_ARGUMENTS]);
        command
    }
}

/// A running QEMU; switched off when dropped.
#[derive(Debug)]
struct Machine(Child);

impl Machine {
    /// The lines of the serial console and of QEMU's own complaints.
    fn lines(&mut self) -> Result<Receiver<String>> {
        let (send, receive) = mpsc::channel();
        let stdout = self.0.stdout.take().context("QEMU has no console")?;
        let stderr = self.0.stderr.take().context("QEMU has no error output")?;
        for stream in [Box::new(stdout) as Box<dyn Read + Send>, Box::new(stderr)] {
            let send = send.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = Vec::new();
                while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&line);
                    if send.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
                        break;
                    }
                    line.clear();
                }
            });
        }
        Ok(receive)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
