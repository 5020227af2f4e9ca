//! The old process's side of a take-over: gives its listening sockets away and learns whether it may drain.
//!
//! Until the new process has said that it can serve, and has been told that this one drains, nothing here changes: whatever
//! goes wrong, this process serves on. The sockets stay open in both processes, so that no connection that waits in one of
//! them is lost.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;

use super::protocol::{self, ATTACHING, DRAINING, FAILED, GO_AHEAD, READY, Refusal};
use super::wire::{MAX_DESCRIPTORS, Wire, WireError};
use super::{PATIENCE, refuse};
use crate::app::Phase;
use crate::daemon::Daemon;
use crate::telemetry::Level;

/// The class of event and counter of a hand-over that failed.
const FAILURE: &str = "hand_over_failed";
/// How long the new process may take for each of its two steps: up to the guard, and from there until it can serve.
const STEP: Duration = Duration::from_secs(60);
/// How long a process that was refused may take to end, before what it did to the guard is looked at.
const END: Duration = Duration::from_secs(30);

/// Answers a request to take over.
pub(super) async fn hand_over(daemon: &Daemon, mut wire: Wire) {
    let (user, process) = wire.peer().unwrap_or((u32::MAX, 0));
    let own = rustix::process::geteuid().as_raw();
    if user != own {
        let text = format!("user {user} asks, and this appliance runs as user {own}");
        return refuse(daemon, FAILURE, &wire, &Refusal::new("other_user", text)).await;
    }
    let Some((_turn, listeners)) = daemon.begin_hand_over(process) else {
        let text = "this appliance drains or reloads, or another process is taking over just now";
        return refuse(daemon, FAILURE, &wire, &Refusal::new("not_now", text)).await;
    };
    daemon.shared.log.event(Level::Info, "hand_over", json!({ "to": process }));
    let mut phase = daemon.shared.phase.subscribe();
    let outcome = tokio::select! {
        outcome = converse(&mut wire, &listeners) => outcome,
        () = async { drop(phase.wait_for(Phase::is_draining).await) } => {
            Err(Refusal::new("draining", "this appliance is being stopped"))
        }
    };
    drop(listeners);
    let Err(refusal) = outcome else {
        return daemon.succeed(process, wire);
    };
    refuse(daemon, FAILURE, &wire, &refusal).await;
    if !daemon.shared.phase.borrow().is_draining() {
        wire.closed(END).await;
        daemon.reclaim_guards();
    }
}

async fn converse(wire: &mut Wire, listeners: &[TcpListener]) -> Result<(), Refusal> {
    if listeners.len() > MAX_DESCRIPTORS {
        let text = format!("{} listening sockets, of which {MAX_DESCRIPTORS} can be handed over", listeners.len());
        return Err(Refusal::new("too_many_listeners", text));
    }
    let sockets: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
    wire.say(&protocol::ok(), &sockets, PATIENCE).await.map_err(broken)?;
    expect(wire, ATTACHING).await?;
    wire.say(&format!("{GO_AHEAD}\n"), &[], PATIENCE).await.map_err(broken)?;
    expect(wire, READY).await?;
    // When even this cannot be said, the new process is gone.
    wire.say(&format!("{DRAINING}\n"), &[], PATIENCE).await.map_err(broken)
}

async fn expect(wire: &mut Wire, word: &str) -> Result<(), Refusal> {
    let line = wire.line(STEP).await.map_err(broken)?;
    match line.strip_prefix(FAILED) {
        _ if line == word => Ok(()),
        Some(why) => Err(Refusal::new("gave_up", format!("the new process gave up: {why}"))),
        None => Err(broken(WireError::Malformed(line))),
    }
}

fn broken(error: WireError) -> Refusal {
    Refusal::new(error.reason(), format!("the new process: {error}"))
}
