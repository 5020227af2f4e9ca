//! Progress lines for people: what a long step does, that it is still alive, and how long it took.
//!
//! Everything goes to standard error, so that standard output carries only what a command was asked for.

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

/// How often a silent step says that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Prints one line about what was decided or found.
pub(crate) fn note(message: impl AsRef<str>) {
    eprintln!("xtask: {}", message.as_ref());
}

/// A step that takes seconds or minutes; says so when it starts, while it runs and when it is done.
#[derive(Debug)]
pub(crate) struct Step {
    label: String,
    started: Instant,
    /// Dropped to stop the heartbeat.
    alive: Option<Sender<()>>,
}

impl Step {
    /// Announces the step and starts its clock. For a step whose own output is silent.
    pub(crate) fn begin(label: impl Into<String>) -> Self {
        let mut step = Self::begin_talkative(label);
        let (alive, stopped) = mpsc::channel::<()>();
        let (label, started) = (step.label.clone(), step.started);
        thread::spawn(move || {
            while matches!(stopped.recv_timeout(HEARTBEAT), Err(RecvTimeoutError::Timeout)) {
                eprintln!("xtask: ... {label}: {} s so far", started.elapsed().as_secs());
            }
        });
        step.alive = Some(alive);
        step
    }

    /// The same for a step that prints enough by itself to be seen alive.
    pub(crate) fn begin_talkative(label: impl Into<String>) -> Self {
        let label = label.into();
        eprintln!("xtask: {label} ...");
        Self { label, started: Instant::now(), alive: None }
    }

    /// Stops the clock and prints the time taken. A step dropped without this ended in an error.
    pub(crate) fn done(mut self) {
        self.alive = None;
        eprintln!("xtask: {}: done in {:.1} s", self.label, self.started.elapsed().as_secs_f64());
    }
}
