//! The control socket: who may open it may ask for the status. One question a connection, answered in JSON.
//!
//! The socket belongs to the user of the daemon and nobody else may connect (mode 0600).

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::app::{Failure, Live, Phase, Shared};
use crate::config::OffloadMode;
use crate::guard::Guard;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest status that the command accepts.
const MAX_STATUS: u64 = 16 << 20;

/// The daemon's end.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds the socket; one left behind by a daemon that is gone is replaced.
    ///
    /// # Errors
    /// Another daemon answers there, or the folder cannot be written.
    pub fn bind(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| {
                Failure::Environment(format!(
                    "control.socket = \"{shown}\": cannot create its folder: {error}\n  create it, or choose another path"
                ))
            })?;
        }
        if StdStream::connect(path).is_ok() {
            return Err(Failure::Environment(format!(
                "control.socket = \"{shown}\": another appliance answers there\n  stop it, or give this one another socket"
            )));
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::Environment(format!(
                    "control.socket = \"{shown}\": a stale file cannot be removed: {error}\n  remove it by hand"
                )));
            }
            _ => {}
        }
        let bind = || -> io::Result<UnixListener> {
            let listener = UnixListener::bind(path)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = bind().map_err(|error| {
            Failure::Environment(format!(
                "control.socket = \"{shown}\": cannot be bound: {error}\n  choose a path that this user may write"
            ))
        })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next client.
    pub async fn accept(&self) -> Option<UnixStream> {
        match self.listener.accept().await {
            Ok((stream, _)) => Some(stream),
            Err(_) => {
                // Out of descriptors: do not spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Left behind it does no harm: the next start replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers one client.
pub async fn answer(shared: &Shared, guard: Option<&Guard>, client: Option<UnixStream>) {
    if let Some(mut client) = client {
        let text = status(shared, guard).to_string();
        // A client that does not read gets nothing; the next one is served all the same.
        let _ = timeout(PATIENCE, client.write_all(text.as_bytes())).await;
    }
}

fn status(shared: &Shared, guard: Option<&Guard>) -> Value {
    let live = shared.live.load();
    let serving = *shared.phase.borrow() == Phase::Serving;
    let last_reload = match shared.last_reload.lock() {
        Ok(last) => last.clone(),
        Err(poisoned) => poisoned.into_inner().clone(),
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "phase": if serving { "serving" } else { "draining" },
        "uptime_s": shared.started.elapsed().as_secs(),
        "config": live.config.path,
        "generation": live.generation,
        "last_reload": last_reload,
        "listeners": live.config.listener.addresses,
        "workers": live.config.listener.workers,
        "origins": live.origins.iter().map(|origin| origin.status()).collect::<Vec<_>>(),
        "sites": live.routing.status(&live.config.origins),
        "offload": offload(shared, &live),
        "guard": guard.map_or(Value::Null, |guard| json!({
            "status": guard.status(),
            "counters": guard.counters().map_or_else(|error| json!(error.to_string()), |counters| json!(counters)),
        })),
        "registry": {
            "organisations": live.verifier.registry().organisations.len(),
            "files": live.config.registry_files,
        },
        "certificates": live.certificates,
        "warnings": live.warnings,
        "counters": shared.counters.snapshot(),
    })
}

fn offload(shared: &Shared, live: &Live) -> Value {
    let mode = match live.config.offload {
        OffloadMode::Auto => "auto",
        OffloadMode::Required => "required",
        OffloadMode::Off => "off",
    };
    let active = mode != "off" && shared.support.missing.is_none();
    json!({
        "mode": mode,
        "active": active,
        "spliced": active && shared.support.no_splice.is_none(),
        "kernel": shared.support.kernel,
        "ciphers": shared.support.cipher_suites,
        "why_not": if mode == "off" {
            Some("offload.mode is \"off\"".to_owned())
        } else {
            shared.support.missing.as_ref().map(ToString::to_string)
        },
        "why_not_spliced": shared.support.no_splice.as_ref().map(|why| why.0.clone()),
    })
}

/// Asks a running daemon for its status.
///
/// # Errors
/// None answers at `path`.
pub fn ask(path: &Path) -> Result<Value, Failure> {
    let shown = path.display();
    let read = || -> io::Result<String> {
        let mut stream = StdStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Nothing needs to be said: the daemon answers every connection with its status.
        stream.flush()?;
        let mut text = String::new();
        stream.take(MAX_STATUS).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "no appliance runs with this configuration",
            io::ErrorKind::PermissionDenied => "ask as the user that runs the appliance, or as root",
            _ => "see the appliance's log",
        };
        Failure::Environment(format!("control.socket = \"{shown}\": {error}\n  {remedy}"))
    })?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::Environment(format!("control.socket = \"{shown}\": not a status: {error}")))
}
