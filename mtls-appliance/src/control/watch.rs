//! The guards' sampled events over the control socket, one line of JSON each.
//!
//! The daemon is the one reader of the ring. A watcher that does not keep up loses the oldest events and is told how many
//! (`{"lost": N}`); one that reads nothing at all is let go.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::broadcast::error::RecvError;

use super::protocol::{self, Refusal, Request};
use super::wire::{Wire, WireError};
use super::{PATIENCE, ask, event_loop, refuse, runs_not, unreachable};
use crate::app::{Failure, Phase};
use crate::daemon::Daemon;

/// Watchers at the same time: others are to get an answer as well.
pub(crate) const WATCHERS: usize = 4;
/// How long a watcher may read nothing.
const SLOW: Duration = Duration::from_secs(30);
/// Between two looks whether a watcher is still there; its end is seen at once.
const LOOK: Duration = Duration::from_secs(3600);

/// Tells one watcher about events until it goes away, or another appliance has taken over.
pub(super) async fn watch(daemon: &Daemon, mut wire: Wire) {
    const CLASS: &str = "watch_refused";
    if daemon.guards().is_none() {
        return refuse(daemon, CLASS, &wire, &Refusal::new("no_guard", "this appliance runs without a guard")).await;
    }
    let Ok(_place) = daemon.watchers.try_acquire() else {
        let text = format!("{WATCHERS} watch already, which is as many as may: end one of them");
        return refuse(daemon, CLASS, &wire, &Refusal::new("too_many", text)).await;
    };
    let mut events = daemon.events.subscribe();
    let mut phase = daemon.shared.phase.subscribe();
    let mut line = protocol::ok();
    loop {
        if let Err(error) = wire.say(&line, &[], SLOW).await {
            if !matches!(error, WireError::Closed) {
                refuse(daemon, CLASS, &wire, &Refusal::new(error.reason(), format!("a watcher: {error}"))).await;
            }
            return;
        }
        line = tokio::select! {
            event = events.recv() => match event {
                Ok((guard, event)) => format!("{}\n", json!(guard.sample(&event))),
                Err(RecvError::Lagged(lost)) => format!("{}\n", json!({ "lost": lost })),
                Err(RecvError::Closed) => return,
            },
            gone = wire.closed(LOOK) => match gone {
                true => return,
                false => String::new(),
            },
            // Packets are judged by the successor's program from now on.
            _ = phase.wait_for(|phase| matches!(phase, Phase::Draining { successor: Some(_), .. })) => return,
        };
    }
}

/// The client's end.
pub struct Watch {
    runtime: Runtime,
    wire: Wire,
}

/// What came.
#[derive(Debug)]
pub enum Next {
    /// An event, or how many were lost.
    Said(Value),
    /// Nothing in time.
    Nothing,
    /// The appliance ended, or another one has taken over.
    Ended,
}

impl Watch {
    /// Asks the appliance that answers at `path` for its guard's events; `None` when none runs.
    ///
    /// # Errors
    /// It refuses, or is of another version.
    pub fn open(path: &Path) -> Result<Option<Watch>, Failure> {
        let runtime = event_loop()?;
        let wire = runtime.block_on(async {
            match Wire::connect(path, PATIENCE).await {
                Err(error) if runs_not(&error) => Ok(None),
                Err(error) => Err(unreachable(path, &error)),
                Ok(wire) => ask(wire, path, Request::Watch).await.map(Some),
            }
        })?;
        Ok(wire.map(|wire| Watch { runtime, wire }))
    }

    /// Waits for the next line.
    pub fn next(&mut self, within: Duration) -> Next {
        match self.runtime.block_on(self.wire.line(within)) {
            Ok(line) => serde_json::from_str(&line).map_or(Next::Nothing, Next::Said),
            Err(WireError::TimedOut) => Next::Nothing,
            Err(_) => Next::Ended,
        }
    }
}
