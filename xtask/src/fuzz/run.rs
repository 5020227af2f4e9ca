//! One target, run for a while.

use std::{
    fmt,
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::status::Status;
use crate::{
    progress::note,
    workspace::{Workspace, create_dir},
};

/// The committed corpus: a folder for each target.
pub(super) const SEEDS: &str = "tests/fuzz/corpus";
/// Words of HTTP, for the targets that read it.
const DICTIONARY: &str = "tests/fuzz/http.dict";
/// Targets with this at the end of their names read something binary.
const BINARY: &str = "_records";

/// The longest input tried; the targets have limits of their own that are smaller.
const MAX_INPUT: u32 = 4096;
/// How long a single input may take, in seconds. The slowest take milliseconds; a busy machine may stall for longer.
const MAX_TIME: u32 = 30;
/// How much memory the fuzzer may take, in MiB.
const MAX_MEMORY: u32 = 1024;
/// How often a run says how far it is.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long after its time a fuzzer may take to end.
const GRACE: Duration = Duration::from_secs(60);

/// A run of a target that came to an end.
#[derive(Debug)]
pub(crate) struct Run {
    /// The target.
    pub(crate) target: String,
    /// How.
    pub(crate) ended: Ended,
    status: Status,
    took: Duration,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Nothing was found.
    Holds,
    /// An input broke the property, and is saved here.
    Found(PathBuf),
    /// The fuzzer itself failed; its output is here.
    Broke(PathBuf),
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self { target, status, .. }, took) = (self, self.took.as_secs());
        match &self.ended {
            Ended::Holds => write!(f, "{target}: holds: {took} s, {status}"),
            Ended::Found(input) => {
                let input = input.display();
                write!(f, "{target}: DOES NOT HOLD, found after {took} s and {} runs", status.runs)?;
                status.fault.iter().try_for_each(|line| write!(f, "\n    {line}"))?;
                write!(f, "\n    the input: {input}")?;
                write!(f, "\n    once more: cargo run -p mtls-appliance-fuzz -- {target} {input}")?;
                write!(f, "\n    to keep it: copy it to {SEEDS}/{target}/ under a name that says what it proves")
            }
            Ended::Broke(log) => {
                write!(f, "{target}: the fuzzer failed after {took} s; its output: {}", log.display())?;
                status.fault.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, speed, coverage, features, .. } = self;
        write!(f, "{runs} runs, {speed} a second, {coverage} edges, {features} features")
    }
}

/// Runs the corpus, and then searches until the time is up or something is found.
pub(super) fn run(workspace: &Workspace, program: &Path, target: &str, seconds: u32) -> Result<Run> {
    let kept = workspace.root().join("target/fuzz");
    let (learned, findings) = (kept.join("corpus").join(target), kept.join("findings").join(target));
    create_dir(&learned)?;
    create_dir(&findings)?;
    let log_path = kept.join(format!("{target}.log"));
    let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;

    let mut command = Command::new(program);
    command
        .env("MTLS_FUZZ_TARGET", target)
        .env("RUST_BACKTRACE", "1")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-timeout={MAX_TIME}"))
        .arg(format!("-report_slow_units={MAX_TIME}"))
        .arg(format!("-rss_limit_mb={MAX_MEMORY}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg("-print_final_stats=1");
    if !target.ends_with(BINARY) {
        command.arg(format!("-dict={}", workspace.root().join(DICTIONARY).display()));
    }
    // What is new goes to the first folder.
    command.arg(&learned).arg(workspace.root().join(SEEDS).join(target));

    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    let errors = child.stderr.take().context("no output to read")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });

    let mut status = Status::default();
    let mut said = started;
    let deadline = Duration::from_secs(seconds.into()) + GRACE;
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                status.line(&line);
                writeln!(log, "{line}").with_context(|| format!("cannot write {}", log_path.display()))?;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if said.elapsed() >= HEARTBEAT {
            said = Instant::now();
            note(format!("... {target}: {} s of {seconds}, {status}", started.elapsed().as_secs()));
        }
        if started.elapsed() > deadline {
            child.kill().context("the fuzzer does not end and cannot be killed")?;
        }
    }
    let success = child.wait()?.success();
    // It ended with the output.
    let _ = reader.join();
    let ended = match &status.input {
        Some(input) => Ended::Found(input.clone()),
        None if success => Ended::Holds,
        None => Ended::Broke(log_path),
    };
    Ok(Run { target: target.to_owned(), ended, status, took: started.elapsed() })
}
