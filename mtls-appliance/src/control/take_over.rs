//! The new process's side of a take-over: gets the listening sockets, and tells the old process when to drain.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::protocol::{self, ATTACHING, Answer, DRAINING, GO_AHEAD, READY, Request};
use super::wire::{Wire, WireError};
use super::{PATIENCE, request};
use crate::app::Failure;

/// How long the old process may take for an answer: it may be reloading a large registry.
const ANSWER: Duration = Duration::from_secs(10);

/// The process to take over from.
#[derive(Debug)]
pub(crate) struct Predecessor {
    wire: Wire,
    process: i32,
}

/// How the old process answered to being told to drain.
#[derive(Debug)]
pub(crate) enum Released {
    /// It drains.
    Draining,
    /// It ended, or does not answer: nobody knows, but the sockets are ours as well.
    Unanswered(WireError),
}

impl std::fmt::Display for Released {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Draining => f.write_str("it drains"),
            Self::Unanswered(error) => write!(f, "it does not answer: {error}"),
        }
    }
}

impl Predecessor {
    /// Asks the appliance that answers at `path` for its listening sockets.
    ///
    /// # Errors
    /// None answers, it is another user's, or it refuses.
    pub(crate) async fn ask(path: &Path) -> Result<(Self, Vec<OwnedFd>), Failure> {
        let mut wire = request(path, Request::TakeOver).await.map_err(|failure| {
            Failure::Environment(format!("--take-over: {failure}\n  to start where none runs, leave --take-over out"))
        })?;
        let (user, process) = wire.peer().unwrap_or((u32::MAX, 0));
        let own = rustix::process::geteuid().as_raw();
        if user != own {
            return Err(Failure::Environment(format!(
                "--take-over: control.socket = \"{}\" belongs to user {user}, and this is user {own}\n  start this \
                 appliance as the user that runs the other one",
                path.display()
            )));
        }
        let sockets = wire.take_descriptors();
        Ok((Self { wire, process }, sockets))
    }

    /// Its process id.
    pub(crate) fn process(&self) -> i32 {
        self.process
    }

    /// Asks whether the guard may be taken now. A process that is gone does not mind.
    ///
    /// # Errors
    /// It has changed its mind.
    pub(crate) async fn before_guard(&mut self) -> Result<(), Failure> {
        match self.exchange(ATTACHING, GO_AHEAD).await {
            Ok(()) | Err(Objection::Gone(WireError::Closed)) => Ok(()),
            Err(Objection::Gone(error)) => Err(self.refuses(&error.to_string())),
            Err(Objection::Refused(why)) => Err(self.refuses(&why)),
        }
    }

    /// Tells it to drain, now that this process only has to begin to accept.
    ///
    /// # Errors
    /// It has given up waiting and serves on.
    pub(crate) async fn release(&mut self) -> Result<Released, Failure> {
        match self.exchange(READY, DRAINING).await {
            Ok(()) => Ok(Released::Draining),
            Err(Objection::Gone(error)) => Ok(Released::Unanswered(error)),
            Err(Objection::Refused(why)) => Err(self.refuses(&why)),
        }
    }

    /// Waits for its end; whether it came in time.
    pub(crate) async fn gone(&mut self, within: Duration) -> bool {
        self.wire.closed(within).await
    }

    /// Tells it that nothing comes of it.
    pub(crate) async fn give_up(self, why: &Failure) {
        // When it cannot be told, it sees that this process ended.
        let _ = self.wire.say(&protocol::failed(&why.to_string()), &[], PATIENCE).await;
    }

    async fn exchange(&mut self, said: &str, expected: &str) -> Result<(), Objection> {
        // What it said before it went away is worth more than that it did.
        let sent = self.wire.say(&format!("{said}\n"), &[], PATIENCE).await;
        let line = self.wire.line(ANSWER).await.map_err(Objection::Gone)?;
        match Answer::parse(&line) {
            Some(Answer::Refused(why)) => Err(Objection::Refused(why.to_owned())),
            _ if line == expected => sent.map_err(Objection::Gone),
            _ => Err(Objection::Gone(WireError::Malformed(line))),
        }
    }

    fn refuses(&self, why: &str) -> Failure {
        Failure::Environment(format!(
            "--take-over: process {} serves on: {why}\n  see its log; then start this one again",
            self.process
        ))
    }
}

enum Objection {
    Refused(String),
    Gone(WireError),
}
