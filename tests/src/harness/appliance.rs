//! The appliance under test, run as the installed binary.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::lab::{appliance_binary, tool};
use super::names::{counter, event};
use super::{Deadline, Finished, Granted, Lab, Passed, Place, Process, Settings, activation, wait_until};

/// How long a start, a status or an expected log line may take; generous for emulated machines.
const PATIENCE: u64 = 20;

/// A running appliance; killed with this value.
pub struct Appliance {
    process: Process,
    configuration: PathBuf,
    place: Place,
    address: SocketAddr,
    granted: Option<Granted>,
}

impl Appliance {
    /// Writes the configuration, starts the binary and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the message carries its output.
    pub fn start(lab: &Lab, place: &Place, settings: &Settings) -> anyhow::Result<Self> {
        Self::start_with(lab, place, settings, &[])
    }

    /// The same with additional environment variables.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_with(
        lab: &Lab,
        place: &Place,
        settings: &Settings,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        Self::start_as(lab, "appliance", place, settings, environment)
    }

    /// The same with files of that name, beside others of this test.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_as(
        lab: &Lab,
        name: &str,
        place: &Place,
        settings: &Settings,
        environment: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let configuration = lab.path(&format!("{name}.toml"));
        settings.write(&configuration)?;
        let address = settings.listener()?;
        let mut process = Self::launch_run(lab, place, &configuration, environment, None)?;
        process.keep_transcript(configuration.with_extension("transcript"));
        let mut appliance = Self { process, configuration, place: place.clone(), address, granted: None };
        appliance.wait_ready()?;
        Ok(appliance)
    }

    /// Starts one with these privileges and no others; what takes its place or its name later has them too.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn start_granted(lab: &Lab, place: &Place, settings: &Settings, granted: Granted) -> anyhow::Result<Self> {
        let configuration = lab.path("appliance.toml");
        settings.write(&configuration)?;
        let (address, granted) = (settings.listener()?, Some(granted));
        let process = Self::launch_run(lab, place, &configuration, &[], granted)?;
        let mut appliance = Self { process, configuration, place: place.clone(), address, granted };
        appliance.wait_ready()?;
        Ok(appliance)
    }

    /// Runs it to its end with these privileges and no others.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn run_granted(
        lab: &Lab,
        place: &Place,
        command: &str,
        settings: &Settings,
        granted: Granted,
    ) -> anyhow::Result<Finished> {
        let configuration = lab.path("candidate.toml");
        settings.write(&configuration)?;
        let mut invocation = Command::new(appliance_binary()?);
        invocation.args(command.split(' ')).arg("--config").arg(&configuration);
        let name = format!("mtls-appliance {command} with {:?}", granted.capabilities);
        Process::start(&name, place, &mut granted.command(&invocation)?)?.wait(Deadline::seconds(PATIENCE))
    }

    /// Starts another one with the same configuration to take this one's place, and waits until it serves.
    ///
    /// # Errors
    /// When it ends or does not serve in time.
    pub fn successor(&self, lab: &Lab) -> anyhow::Result<Self> {
        let mut command = Command::new(appliance_binary()?);
        command.args(["run", "--take-over", "--config"]).arg(&self.configuration);
        let process = Self::launch(lab, &self.place, &mut command, self.granted)?;
        let (configuration, place) = (self.configuration.clone(), self.place.clone());
        let mut successor = Self { process, configuration, place, address: self.address, granted: self.granted };
        successor.wait_ready()?;
        Ok(successor)
    }

    /// Starts one with these settings to take another one's place, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin_take_over(lab: &Lab, place: &Place, settings: &Settings) -> anyhow::Result<Self> {
        let configuration = lab.path("successor.toml");
        settings.write(&configuration)?;
        let mut command = Command::new(appliance_binary()?);
        command.args(["run", "--take-over", "--config"]).arg(&configuration);
        let process = Self::launch(lab, place, &mut command, None)?;
        Ok(Self { process, configuration, place: place.clone(), address: settings.listener()?, granted: None })
    }

    /// Starts one with `first` and these sockets passed to it as a service manager does, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin_activated(
        lab: &Lab,
        settings: &Settings,
        first: &OwnedFd,
        others: &[Passed],
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let configuration = lab.path("appliance.toml");
        settings.write(&configuration)?;
        let mut command = Command::new(appliance_binary()?);
        command.arg("run").args(arguments).arg("--config").arg(&configuration);
        let mut process = activation::start("mtls-appliance", &Place::Here, &command, first, others)?;
        process.keep_transcript(lab.path("appliance.transcript"));
        Ok(Self { process, configuration, place: Place::Here, address: settings.listener()?, granted: None })
    }

    /// Runs `mtls-appliance <command> --config F` with these settings to its end: for settings that must be refused.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn run(lab: &Lab, place: &Place, command: &str, settings: &Settings) -> anyhow::Result<Finished> {
        let configuration = lab.path("candidate.toml");
        settings.write(&configuration)?;
        Self::run_with_file(place, command, &configuration)
    }

    /// The same with a file as it is.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn run_with_file(place: &Place, command: &str, configuration: &Path) -> anyhow::Result<Finished> {
        Self::begin(place, command, configuration)?.wait(Deadline::seconds(PATIENCE))
    }

    /// Starts `mtls-appliance <command> --config F` with a file as it is, and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(place: &Place, command: &str, configuration: &Path) -> anyhow::Result<Process> {
        let mut invocation = Command::new(appliance_binary()?);
        invocation.args(command.split(' ')).arg("--config").arg(configuration);
        Process::start(&format!("mtls-appliance {command}"), place, &mut invocation)
    }

    /// Runs it to its end as the user `nobody`, who may read the certificates, and of the keys those in `readable`.
    ///
    /// # Errors
    /// When this process is not root, or the command does not end in time.
    pub fn run_as_nobody(
        lab: &Lab,
        place: &Place,
        command: &str,
        settings: &Settings,
        readable: &[&str],
    ) -> anyhow::Result<Finished> {
        const NOBODY: u32 = 65_534;
        let configuration = lab.path("candidate.toml");
        settings.write(&configuration)?;
        // The folder that the binary lies in may be closed to others.
        let binary = lab.path("mtls-appliance");
        // By a process of its own: while we had the copy open for writing, a child that another thread starts would have it
        // open as well until it runs its program, and nobody could run the copy ("text file busy").
        let copied = Command::new("cp").arg(appliance_binary()?).arg(&binary).status().context("cannot run cp")?;
        ensure!(copied.success(), "cp failed: {copied}");
        for path in [configuration.clone(), lab.path("")].into_iter().chain(readable.iter().map(|name| lab.path(name)))
        {
            chown(&path, Some(NOBODY), Some(NOBODY)).with_context(|| format!("cannot give away {}", path.display()))?;
        }
        let mut invocation = Command::new(&binary);
        invocation.args(command.split(' ')).arg("--config").arg(&configuration).uid(NOBODY).gid(NOBODY);
        Process::start(&format!("mtls-appliance {command} as nobody"), place, &mut invocation)?
            .wait(Deadline::seconds(PATIENCE))
    }

    /// Runs it to its end on a kernel that seems to lack something: strace answers system calls in the kernel's place.
    /// `fault` is what it injects (strace(1), `inject=`); the calls it fell upon must include one with `call` in it.
    ///
    /// # Errors
    /// When strace is missing, no such call was made, or the command does not end in time.
    pub fn run_with_fault(
        lab: &Lab,
        place: &Place,
        settings: &Settings,
        fault: &str,
        call: &str,
    ) -> anyhow::Result<Finished> {
        let configuration = lab.path("candidate.toml");
        settings.write(&configuration)?;
        let trace = lab.path("strace.log");
        let mut invocation = Command::new(tool("strace")?);
        // -D: the appliance is our child and strace its companion, so that no failure leaves the appliance running.
        invocation.args(["-D", "-f", "-qq", "-e", &format!("inject={fault}"), "-o"]).arg(&trace);
        invocation.arg(appliance_binary()?).args(["run", "--config"]).arg(&configuration);
        let finished = Process::start(&format!("mtls-appliance run with {fault}"), place, &mut invocation)?
            .wait(Deadline::seconds(PATIENCE))?;
        let trace = std::fs::read_to_string(&trace).context("strace left no trace")?;
        let mut injected = trace.lines().filter(|line| line.ends_with("(INJECTED)"));
        ensure!(injected.any(|line| line.contains(call)), "{fault} fell upon no {call}: {}", finished.output());
        Ok(finished)
    }

    /// Starts it again with the same configuration after it ended, without additional environment variables.
    ///
    /// # Errors
    /// As for [`Self::start`].
    pub fn restart(&mut self, lab: &Lab) -> anyhow::Result<()> {
        self.process = Self::launch_run(lab, &self.place, &self.configuration, &[], self.granted)?;
        self.wait_ready()
    }

    /// Where callers in the same place connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process, for signals and waiting.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The log so far: lines that are JSON objects.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        self.process.stdout().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The log lines of one event so far.
    #[must_use]
    pub fn events(&self, event: &str) -> Vec<Value> {
        self.log().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Waits for a log line of that event.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait_event(&mut self, event: &str, like: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        self.process.wait_line(&format!("log event {event:?}"), Deadline::seconds(PATIENCE), |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["event"] == event && like(&line)).then_some(line)
        })
    }

    /// Waits for the `count`-th access-log line and returns the last of them.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait_requests(&self, count: usize) -> anyhow::Result<Value> {
        wait_until(&format!("access-log line {count}"), Deadline::seconds(PATIENCE), || {
            Ok(self.events(event::REQUEST).get(count - 1).cloned())
        })
    }

    /// What `mtls-appliance status --json` says.
    ///
    /// # Errors
    /// When the command fails or prints no JSON.
    pub fn status(&self) -> anyhow::Result<Value> {
        let mut command = Command::new(appliance_binary()?);
        command.arg("status").arg("--config").arg(&self.configuration).arg("--json");
        let finished =
            Process::start("mtls-appliance status", &self.place, &mut command)?.wait(Deadline::seconds(PATIENCE))?;
        ensure!(finished.status.success(), "status failed: {}", finished.output());
        serde_json::from_str(&finished.stdout).with_context(|| format!("status printed {:?}", finished.stdout))
    }

    /// One of its counters.
    ///
    /// # Errors
    /// When `status` has no such counter.
    pub fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let status = self.status()?;
        status["counters"][name].as_u64().with_context(|| format!("no counter {name} in {}", status["counters"]))
    }

    /// The same, once it has come to `at_least`: a request is counted when its answer has been written, which its caller may
    /// have read before.
    ///
    /// # Errors
    /// When it does not come to that in time.
    pub fn wait_counter(&self, name: &str, at_least: u64) -> anyhow::Result<u64> {
        let mut last = Value::Null;
        wait_until(&format!("the counter {name} to reach {at_least}"), Deadline::seconds(PATIENCE), || {
            last = self.status()?["counters"].take();
            Ok(last[name].as_u64().filter(|count| *count >= at_least))
        })
        .map_err(|error| error.context(last.to_string()))
    }

    /// All refused or failed handshakes, whatever the reason.
    ///
    /// # Errors
    /// When `status` has no counters.
    pub fn handshake_failures(&self) -> anyhow::Result<u64> {
        let status = self.status()?;
        let counters = status["counters"].as_object().context("status has no counters")?;
        let failures = counters.iter().filter(|(name, _)| {
            // "handshake_refused.expired", but neither "handshakes_completed" nor "handshakes_running".
            name.starts_with(counter::HANDSHAKE_FAILURES)
        });
        Ok(failures.filter_map(|(_, value)| value.as_u64()).sum())
    }

    /// How many packets the guard counted for a reason.
    ///
    /// # Errors
    /// When `status` tells nothing of a guard, or of that reason.
    pub fn guard_packets(&self, reason: &str) -> anyhow::Result<u64> {
        let status = self.status()?;
        let reasons = status["guard"]["counters"]["reasons"].as_array();
        let reasons = reasons.with_context(|| format!("no counters in {}", status["guard"]))?;
        let count = reasons.iter().find(|count| count["reason"] == reason);
        count.and_then(|count| count["packets"].as_u64()).with_context(|| format!("no {reason} in {reasons:?}"))
    }

    /// Waits until the guard counted that many packets for a reason.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_guard_packets(&self, reason: &str, at_least: u64) -> anyhow::Result<u64> {
        wait_until(&format!("{at_least} packets counted as {reason}"), Deadline::seconds(PATIENCE), || {
            let value = self.guard_packets(reason)?;
            Ok((value >= at_least).then_some(value))
        })
    }

    /// Fails unless the process still runs and answers `status`.
    ///
    /// # Errors
    /// As said.
    pub fn must_be_alive(&mut self) -> anyhow::Result<()> {
        if !self.process.is_running()? {
            bail!("the appliance ended");
        }
        // Built for tests it survives a panic; built to serve it does not.
        if let Some(line) = self.events("internal_error").first() {
            bail!("{line}");
        }
        self.status().map(drop)
    }

    /// Has it reload (SIGHUP) and waits for the log line about it.
    ///
    /// # Errors
    /// When no line comes in time.
    pub fn reload(&mut self) -> anyhow::Result<Value> {
        let before = self.events(event::RELOAD).len();
        self.process.signal(Signal::HUP)?;
        wait_until("the log line of the reload", Deadline::seconds(PATIENCE), || {
            Ok(self.events(event::RELOAD).get(before).cloned())
        })
    }

    fn launch_run(
        lab: &Lab,
        place: &Place,
        configuration: &Path,
        environment: &[(&str, &str)],
        granted: Option<Granted>,
    ) -> anyhow::Result<Process> {
        let mut command = Command::new(appliance_binary()?);
        command.arg("run").arg("--config").arg(configuration).envs(environment.iter().copied());
        Self::launch(lab, place, &mut command, granted)
    }

    fn launch(lab: &Lab, place: &Place, command: &mut Command, granted: Option<Granted>) -> anyhow::Result<Process> {
        let mut process = match granted {
            Some(granted) => Process::start("mtls-appliance", place, &mut granted.command(command)?)?,
            None => Process::start("mtls-appliance", place, command)?,
        };
        process.keep_transcript(lab.path("appliance.transcript"));
        Ok(process)
    }

    /// Waits until it serves.
    ///
    /// # Errors
    /// When it ends before, or does not in time.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        self.wait_event(event::READY, |_| true).map(drop)
    }
}
