//! One worker: a thread, its event loop, its share of the connections.
//!
//! All workers accept from the same listening sockets; whichever is free takes the next connection.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::admission::{self, Place};
use super::client;
use super::pool::{Pool, SharedPool};
use crate::app::{Phase, Shared};
use crate::telemetry::Level;

/// Wait after running out of descriptors or memory, so that the accept loop does not spin.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What the connections of a worker have in common.
pub struct Worker {
    /// The process.
    pub(super) shared: Arc<Shared>,
    /// Idle origin connections.
    pub(super) pool: SharedPool,
}

/// Says that it is `ready`, and serves from when the process does until it drains; returns when the last connection is gone
/// or the drain deadline has passed.
///
/// # Errors
/// The event loop or a listener cannot be set up.
pub fn run_worker(shared: Arc<Shared>, listeners: Vec<StdListener>, ready: impl FnOnce()) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, serve(shared, listeners, ready))
}

async fn serve(shared: Arc<Shared>, listeners: Vec<StdListener>, ready: impl FnOnce()) -> io::Result<()> {
    let worker = Rc::new(Worker { shared: Arc::clone(&shared), pool: Rc::new(Pool::default()) });
    let listeners = listeners.into_iter().map(TcpListener::from_std).collect::<io::Result<Vec<_>>>()?;
    let mut phase = shared.phase.subscribe();
    let mut crowded = shared.crowded.subscribe();
    ready();
    if phase.wait_for(|phase| *phase != Phase::Starting).await.is_err() {
        return Ok(());
    }
    let accept = |listener| tokio::task::spawn_local(accept(Rc::clone(&worker), listener));
    let acceptors: Vec<_> = listeners.into_iter().map(accept).collect();
    let sweeper = async {
        loop {
            tokio::select! {
                () = sleep(Duration::from_secs(1)) => worker.pool.sweep(&shared.live.load()),
                _ = crowded.changed() => worker.pool.relieve(),
            }
        }
    };
    tokio::select! {
        _ = sweeper => {}
        _ = phase.wait_for(Phase::is_draining) => {}
    }
    for acceptor in acceptors {
        acceptor.abort();
        // Cancelled is the expected outcome.
        let _ = acceptor.await;
    }
    worker.pool.clear();
    let deadline = Instant::now() + shared.live.load().config.timeouts.drain;
    while Rc::strong_count(&worker) > 1 && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
        worker.pool.clear();
    }
    // Orderly closes of origin connections that have just begun.
    let _ =
        timeout_at(deadline.min(Instant::now() + Duration::from_millis(200)), sleep(Duration::from_millis(50))).await;
    Ok(())
}

/// Decides whether there is room for one more connection, before any work is done for it.
fn admit(shared: &Shared, peer: SocketAddr) -> Result<Place<IpAddr>, &'static str> {
    let live = shared.live.load();
    let limits = &live.config.limits;
    if shared.counters.connections_open.value() >= limits.connections as u64 {
        Err("too_many_connections")
    } else if shared.counters.handshakes_running.value() >= limits.handshakes as u64 {
        Err("too_many_handshakes")
    } else {
        let source = admission::source(peer.ip());
        shared.sources.take(source, limits.connections_per_source).ok_or("too_many_connections_of_source")
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    let shared = Arc::clone(&worker.shared);
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                shared.counters.connections_accepted.increment();
                match admit(&shared, peer) {
                    Ok(place) => drop(tokio::task::spawn_local(client::serve(Rc::clone(&worker), tcp, peer, place))),
                    Err(reason) => client::refuse_early(&shared, tcp, peer, reason),
                }
            }
            // The peer was gone before it was accepted.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            }
            Err(error) => {
                shared.counters.refuse("accept_failed", "no_resources");
                shared.log.event(
                    Level::Error,
                    "accept_failed",
                    serde_json::json!({ "detail": error.to_string(), "retry_ms": BACK_OFF.as_millis() as u64 }),
                );
                sleep(BACK_OFF).await;
            }
        }
    }
}
