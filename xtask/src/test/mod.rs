//! `cargo xtask test`: the unit tests, a while of fuzzing, then the end-to-end tests on this machine and on three kernels
//! in a virtual machine, counted together. On those kernels the tests of the XDP program run as well, which are unit tests here.
//!
//! What a test needs and whether its absence may be skipped is the tests' own matter; here it is decided what a skip
//! means for the whole.

mod libtest;
mod verdict;

use std::{
    env,
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    libtest::Reading,
    verdict::{Outcome, Stage},
};
use crate::{
    bpf, build, certs, debian, exec, fuzz,
    progress::{Step, note},
    tools::Tools,
    vm::{self, Guest, Kernel},
    workspace::{Workspace, read},
};

/// The program of the end-to-end tests, and the appliance it tests.
const TESTS: &str = "e2e";
const APPLIANCE: &str = "mtls-appliance";
/// How many end-to-end tests run at the same time: twice as many as the machine of the gate and the virtual machine have CPUs,
/// for most of them wait.
const AT_ONCE: &str = "4";
/// Runs the first program and then the second, so many tests at once, with the same arguments, whatever becomes of the first.
/// Of the tests of the XDP program one at a time: the kernel patches its own code when a program comes or goes, which the
/// emulated machine does not survive while another CPU runs packets through one.
const BOTH: &str = r#"second=$1 at_once=$2; shift 2
"$0" "$@" --test-threads 1; first=$?; "$second" "$@" --test-threads "$at_once" && exit $first"#;
/// The size of the largest bodies in MiB; the tests do with 128 where it is not set.
const LARGE_BODIES: &str = "MTLS_BIG_MIB";
const LARGE_BODIES_USUALLY: u64 = 128;
/// What says how much the tests do, or brings a run of theirs back: passed on to them.
const PASSED_ON: [&str; 8] = [
    LARGE_BODIES,
    "MTLS_COST_ROUNDS",
    "MTLS_DIFFERENTIAL_SECONDS",
    "MTLS_HAND_OVER_FROM",
    "MTLS_IDLE_CONNECTIONS",
    "MTLS_PLAN",
    "MTLS_SEED",
    "MTLS_SOAK_SECONDS",
];
/// Where they appear in the virtual machine.
pub(crate) const IN_GUEST: &str = "/host";
/// The systemd of the machines that the tests boot: the root of its Debian packages, the variable that names where it appears
/// in the virtual machine, and where that is.
const SYSTEMD: (&str, &str) = ("systemd", "MTLS_SYSTEMD");
const SYSTEMD_IN_GUEST: &str = "/systemd";
/// How long each fuzz target runs; `cargo xtask fuzz` searches longer.
const FUZZ_SECONDS: u32 = 30;

/// What `cargo xtask test` takes.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Run the unit tests of all crates
    #[arg(long)]
    unit: bool,
    /// Run each fuzz target on its corpus and then for 30 seconds
    #[arg(long)]
    fuzz: bool,
    /// Run the end-to-end tests on this machine's kernel, as root (or by sudo, where it asks for no password)
    #[arg(long)]
    native: bool,
    /// Run the end-to-end tests in a virtual machine, on these kernels or all of 6.1, 6.12 and 7.x
    #[arg(long, value_name = "KERNEL,...", num_args = 0.., require_equals = true, value_delimiter = ',')]
    vm: Option<Vec<Kernel>>,
    /// Memory of the virtual machine
    #[arg(long, value_name = "MIB", default_value_t = 3072)]
    memory: u32,
    /// Let the virtual machine's clock count instructions: a nanosecond inside is one instruction, on one CPU
    #[arg(long, requires = "vm")]
    count_instructions: bool,
    /// How long the unit tests, with their build, or the end-to-end tests on one kernel may take; bodies larger than usual
    /// (MTLS_BIG_MIB) get 2 s a MiB besides
    #[arg(long, value_name = "SECONDS", default_value_t = 1500)]
    timeout: u64,
    /// Only tests with this in their name
    filter: Option<String>,
}

impl TestArguments {
    /// How long a stage may take.
    fn deadline(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// What a stage came to that took longer.
    fn out_of_time(&self, reading: Reading) -> Outcome {
        Outcome::Broke(reading, format!("not done after {} s: a test hangs, or --timeout is too short", self.timeout))
    }
}

/// The command. Without a choice of stages, all of them.
pub(crate) fn main(workspace: &Workspace, arguments: &TestArguments) -> Result<ExitCode> {
    if let Some(filter) = arguments.filter.as_deref().filter(|filter| filter.parse::<Kernel>().is_ok()) {
        bail!("`{filter}` is taken for a filter; to choose a kernel write --vm={filter}");
    }
    let large_bodies = time_for_large_bodies()?;
    let all = !arguments.unit && !arguments.fuzz && !arguments.native && arguments.vm.is_none();
    let kernels = match &arguments.vm {
        Some(kernels) if !kernels.is_empty() => kernels.clone(),
        Some(_) => Kernel::ALL.to_vec(),
        None if all => Kernel::ALL.to_vec(),
        None => Vec::new(),
    };
    let strict = env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");

    let mut stages = Vec::new();
    if all || arguments.unit {
        stages.push(unit(workspace, arguments)?);
    }
    if all || arguments.fuzz {
        stages.push(fuzzing(workspace, arguments)?);
    }
    if all || arguments.native || !kernels.is_empty() {
        let provisioned = Provisioned::build(workspace, build::TESTS)?;
        if all || arguments.native {
            stages.push(native(&provisioned, arguments, strict, large_bodies)?);
        }
        for kernel in kernels {
            stages.push(virtual_machine(workspace, &provisioned, arguments, kernel, large_bodies));
        }
    }

    let (counts, lines) = verdict::sum(&stages, strict);
    println!();
    for line in lines {
        println!("{line}");
    }
    for stage in &stages {
        println!("{}", row(stage));
    }
    println!("{counts}");
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(stage: &Stage) -> String {
    let (reading, note) = match &stage.outcome {
        Outcome::Ran(reading) => (reading.clone(), ""),
        Outcome::Broke(reading, _) => (reading.clone(), ", did not come to its end"),
        Outcome::Skipped(_) => return format!("{:24} not run", stage.name),
    };
    format!("{:24} {} passed, {} failed, {} skipped{note}", stage.name, reading.passed, reading.failed, reading.ignored)
}

/// What the end-to-end tests need, on this machine.
pub(crate) struct Provisioned {
    tests: PathBuf,
    /// Those of the XDP program.
    guard_tests: PathBuf,
    /// The appliance.
    pub(crate) appliance: PathBuf,
    /// The development PKI.
    pub(crate) certificates: PathBuf,
    /// curl and the like.
    pub(crate) tools: Tools,
}

impl Provisioned {
    /// Builds what is chosen ([`build::ALL`] and its like) and provisions everything.
    ///
    /// # Errors
    /// When something cannot be built or had.
    pub(crate) fn build(workspace: &Workspace, chosen: &[&str]) -> Result<Self> {
        let built = build::build(workspace, chosen)?.programs;
        let provisioned = Self {
            tests: workspace.dist().join(TESTS),
            guard_tests: workspace.dist().join(build::GUARD_TESTS),
            appliance: workspace.dist().join(APPLIANCE),
            certificates: certs::generate(workspace)?,
            tools: Tools::provision(workspace)?,
        };
        if !built.contains(&provisioned.appliance) {
            bail!("the build left no {}", provisioned.appliance.display());
        }
        Ok(provisioned)
    }
}

/// The environment of the end-to-end tests.
pub(crate) fn environment(
    appliance: &Path,
    certificates: &Path,
    tools: &Path,
    kernel: &str,
    require: &str,
) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = [
        ("MTLS_BIN", appliance.display().to_string()),
        ("MTLS_CERTS", certificates.display().to_string()),
        ("MTLS_TOOLS", tools.display().to_string()),
        ("MTLS_KERNEL", kernel.to_owned()),
        ("MTLS_REQUIRE", require.to_owned()),
        ("RUST_BACKTRACE", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    environment.extend(env::vars().filter(|(name, _)| PASSED_ON.contains(&name.as_str())));
    environment
}

/// What the largest bodies need beyond the usual time on an emulated machine.
fn time_for_large_bodies() -> Result<Duration> {
    let Ok(mib) = env::var(LARGE_BODIES) else {
        return Ok(Duration::ZERO);
    };
    let mib: u64 = mib.parse().with_context(|| format!("{LARGE_BODIES} = `{mib}` is not a number of MiB"))?;
    Ok(Duration::from_secs(2).saturating_mul(mib.saturating_sub(LARGE_BODIES_USUALLY).try_into().unwrap_or(u32::MAX)))
}

fn unit(workspace: &Workspace, arguments: &TestArguments) -> Result<Stage> {
    let object = bpf::build(workspace)?;
    let step = Step::begin_talkative("unit tests");
    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--no-fail-fast"]).env("MTLS_GUARD_OBJECT", object);
    if let Some(filter) = &arguments.filter {
        command.args(["--", filter]);
    }
    let (reading, success) = listen(&mut command, "", arguments.deadline())?;
    step.done();
    let outcome = match success {
        None => arguments.out_of_time(reading),
        Some(false) if reading.failed == 0 => {
            Outcome::Broke(reading, "the tests do not build, or one ended early".to_owned())
        }
        Some(_) => Outcome::Ran(reading),
    };
    Ok(Stage { name: "unit".to_owned(), outcome })
}

/// Each target counts as a test.
fn fuzzing(workspace: &Workspace, arguments: &TestArguments) -> Result<Stage> {
    let mut targets = fuzz::targets(workspace)?;
    if let Some(filter) = &arguments.filter {
        targets.retain(|target| target.contains(filter));
    }
    let mut reading = Reading::default();
    let runs = if targets.is_empty() { Ok(Vec::new()) } else { fuzz::fuzz(workspace, &targets, FUZZ_SECONDS) };
    let outcome = match runs {
        Ok(runs) => {
            for run in runs {
                if matches!(run.ended, fuzz::Ended::Holds) {
                    reading.passed += 1;
                } else {
                    reading.failed += 1;
                    reading.failures.push(run.target);
                }
            }
            Outcome::Ran(reading)
        }
        Err(error) => {
            note(format!("{error:#}"));
            Outcome::Broke(reading, error.to_string())
        }
    };
    Ok(Stage { name: "fuzz".to_owned(), outcome })
}

fn native(provisioned: &Provisioned, arguments: &TestArguments, strict: bool, more_time: Duration) -> Result<Stage> {
    let release = read(Path::new("/proc/sys/kernel/osrelease"))?.trim().to_owned();
    let name = format!("this machine ({release})");
    // Kernel TLS, VLANs and bonds are proven in the virtual machine, so their absence here is no failure.
    let require = if strict { "xdp,netns,nginx" } else { "nginx" };
    let environment = environment(
        &provisioned.appliance,
        &provisioned.certificates,
        &provisioned.tools.wrappers(),
        &release,
        require,
    );
    let mut command = if is_root()? {
        Command::new(&provisioned.tests)
    } else if exec::in_path("sudo") && exec::capture(Command::new("sudo").args(["-n", "true"])).is_ok() {
        let mut command = Command::new("sudo");
        command.args(["-n", "env"]);
        command.args(environment.iter().map(|(name, value)| format!("{name}={value}"))).arg(&provisioned.tests);
        command
    } else {
        let reason = "needs root for network namespaces and XDP; run it as root, or where sudo asks for no password";
        return Ok(Stage { name, outcome: Outcome::Skipped(reason.to_owned()) });
    };
    command.envs(environment).args(["--test-threads", AT_ONCE]).args(&arguments.filter);
    let step = Step::begin_talkative(format!("end-to-end tests on {name}"));
    let (mut reading, success) = listen(&mut command, "[native] ", arguments.deadline().saturating_add(more_time))?;
    reading.end_to_end = true;
    step.done();
    let outcome = match success {
        Some(success) => finished(reading, success),
        None => arguments.out_of_time(reading),
    };
    Ok(Stage { name, outcome })
}

fn virtual_machine(
    workspace: &Workspace,
    provisioned: &Provisioned,
    arguments: &TestArguments,
    kernel: Kernel,
    more_time: Duration,
) -> Stage {
    let place = |name: &str| Path::new(IN_GUEST).join(name);
    let files = [
        (&provisioned.tests, TESTS),
        (&provisioned.guard_tests, build::GUARD_TESTS),
        (&provisioned.appliance, APPLIANCE),
        (&provisioned.certificates, "certs"),
    ]
    .map(|(from, to)| (from.clone(), place(to).display().to_string()))
    .into();
    let in_guest = |name: &str| place(name).display().to_string();
    let mut guest = Guest {
        kernel,
        files,
        environment: environment(
            &place(APPLIANCE),
            &place("certs"),
            Path::new("/tools/wrap"),
            &kernel.to_string(),
            "xdp,netns,vlan,bond,ktls,nginx,systemd",
        ),
        command: ["sh", "-c", BOTH, &in_guest(build::GUARD_TESTS), &in_guest(TESTS), AT_ONCE]
            .map(str::to_owned)
            .into_iter()
            .chain(arguments.filter.clone())
            .collect(),
        memory_mib: arguments.memory,
        count_instructions: arguments.count_instructions,
        deadline: arguments.deadline().saturating_add(more_time),
    };
    let mut reading = Reading { end_to_end: true, ..Reading::default() };
    let ended = debian::provision(workspace, SYSTEMD.0).and_then(|root| {
        guest.files.push((root, SYSTEMD_IN_GUEST.to_owned()));
        guest.environment.push((SYSTEMD.1.to_owned(), SYSTEMD_IN_GUEST.to_owned()));
        vm::run(workspace, &guest, &mut |line| {
            println!("[{kernel}] {line}");
            reading.line(line);
        })
    });
    let outcome = match ended {
        Ok(code) => finished(reading, code == 0),
        Err(error) => {
            note(format!("{error:#}"));
            Outcome::Broke(reading, error.to_string().lines().next().unwrap_or_default().to_owned())
        }
    };
    Stage { name: format!("kernel {kernel}"), outcome }
}

/// A program's failure must show in its counts; where it does not, the program broke.
fn finished(reading: Reading, success: bool) -> Outcome {
    if reading.summaries == 0 {
        Outcome::Broke(reading, "the tests ended without a summary".to_owned())
    } else if !success && reading.failed == 0 {
        Outcome::Broke(reading, "the tests ended with an error but named no failure".to_owned())
    } else {
        Outcome::Ran(reading)
    }
}

/// Runs a test program, passes its output on and reads it. One that has not ended after `deadline` is ended, with every
/// program that it started: `None` for its success.
fn listen(command: &mut Command, prefix: &str, deadline: Duration) -> Result<(Reading, Option<bool>)> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` cannot be started", command.get_program().to_string_lossy()))?;
    let output = BufReader::new(child.stdout.take().context("no output to read")?);
    let (sender, lines) = mpsc::channel();
    // Not waited for: what a program leaves behind may hold its output open.
    thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut reading = Reading::default();
    loop {
        match lines.recv_timeout(deadline.saturating_sub(started.elapsed())) {
            Ok(line) => {
                let text = String::from_utf8_lossy(&line);
                println!("{prefix}{text}");
                reading.line(&text);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok((reading, Some(child.wait()?.success()))),
            Err(RecvTimeoutError::Timeout) => {
                exec::kill_with_descendants(&mut child);
                return Ok((reading, None));
            }
        }
    }
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> Result<bool> {
    let own = std::fs::metadata("/proc/self").context("/proc is not mounted")?;
    Ok(own.uid() == 0)
}
