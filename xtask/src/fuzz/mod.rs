//! `cargo xtask fuzz`: looks for inputs that break a property of the code that reads what strangers send.
//!
//! The targets, their seeds and what each must hold are in tests/fuzz. Here they are built with coverage counters, which
//! the stable compiler inserts by LLVM's own pass, linked with Debian's libFuzzer, and run: as many at once as there are
//! processors. What a run learns stays in target/fuzz/corpus/ and is where the next one begins.

mod build;
mod run;
mod status;

use std::{
    collections::VecDeque,
    fs,
    num::NonZero,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

pub(crate) use self::run::{Ended, Run};
use crate::{progress::Step, workspace::Workspace};

/// What `cargo xtask fuzz` takes.
#[derive(Debug, Args)]
pub(crate) struct FuzzArguments {
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The targets, as tests/fuzz/corpus names them; all of them when none is given
    targets: Vec<String>,
}

/// The command. Exit code 1 when anything was found.
pub(crate) fn main(workspace: &Workspace, arguments: &FuzzArguments) -> Result<ExitCode> {
    let known = targets(workspace)?;
    if let Some(unknown) = arguments.targets.iter().find(|target| !known.contains(target)) {
        bail!("there is no target `{unknown}`; there are: {}", known.join(", "));
    }
    let chosen = if arguments.targets.is_empty() { known } else { arguments.targets.clone() };
    let runs = fuzz(workspace, &chosen, arguments.seconds)?;
    let holds = runs.iter().all(|run| matches!(run.ended, Ended::Holds));
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The names of all targets: the folders of the corpus, which a test of tests/fuzz holds against the targets.
pub(crate) fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let corpus = workspace.root().join(run::SEEDS);
    let mut names = Vec::new();
    for entry in fs::read_dir(&corpus).with_context(|| format!("cannot read {}", corpus.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

/// Builds the fuzzer, runs these targets for so many seconds each, and prints how each ended.
pub(crate) fn fuzz(workspace: &Workspace, targets: &[String], seconds: u32) -> Result<Vec<Run>> {
    let program = build::build(workspace)?;
    let at_once = thread::available_parallelism().map_or(1, NonZero::get).min(targets.len());
    let step = Step::begin_talkative(format!("fuzzing {} targets, {seconds} s each, {at_once} at once", targets.len()));
    let waiting = Mutex::new(targets.iter().collect::<VecDeque<_>>());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let runs = thread::scope(|scope| {
        let work = || {
            let mut runs = Vec::new();
            while let Some(target) = next() {
                let run = run::run(workspace, &program, target, seconds)?;
                println!("{run}");
                runs.push(run);
            }
            anyhow::Ok(runs)
        };
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(runs) => all.extend(runs?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        anyhow::Ok(all)
    })?;
    step.done();
    Ok(runs)
}
