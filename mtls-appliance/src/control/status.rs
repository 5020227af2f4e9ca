//! How the appliance is, as JSON.

use serde_json::{Value, json};

use crate::app::{Live, Phase, Shared, findings, privileges};
use crate::config::OffloadMode;
use crate::daemon::{Daemon, Drained};

/// Everything that `status` tells.
pub(super) fn status(daemon: &Daemon) -> Value {
    let shared = &daemon.shared;
    let live = shared.live.load();
    let phase = *shared.phase.borrow();
    let last_reload = match shared.last_reload.lock() {
        Ok(last) => last.clone(),
        Err(poisoned) => poisoned.into_inner().clone(),
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "phase": match phase {
            Phase::Starting => "starting",
            Phase::Serving => "serving",
            Phase::Draining { .. } => "draining",
        },
        "draining": draining(shared, phase),
        "handing_over_to": daemon.heir(),
        "predecessor": daemon.predecessor().map_or(Value::Null, predecessor),
        "uptime_s": shared.started.elapsed().as_secs(),
        "config": live.config.path,
        "generation": live.generation,
        "last_reload": last_reload,
        "listeners": live.config.listener.addresses,
        "workers": live.config.listener.workers,
        "origins": live.origins.iter().map(|origin| origin.status()).collect::<Vec<_>>(),
        "sites": live.routing.status(&live.config.origins),
        "offload": offload(shared, &live),
        "guard": guard(daemon),
        "privileges": privileges(),
        "host": findings(shared, &live),
        "registry": {
            "organisations": live.verifier.registry().organisations.len(),
            "files": live.config.registry_files,
        },
        "certificates": live.certificates,
        "warnings": live.warnings,
        "counters": shared.counters.snapshot(),
    })
}

/// How long this process has been draining, and how long it may.
fn draining(shared: &Shared, phase: Phase) -> Value {
    let Phase::Draining { since, successor } = phase else {
        return Value::Null;
    };
    json!({
        "for_s": since.elapsed().as_secs(),
        "at_most_s": shared.live.load().config.timeouts.drain.as_secs(),
        "successor": successor,
    })
}

/// The process that was taken over: how long it has been draining, or how long that took.
fn predecessor(drained: Drained) -> Value {
    json!({
        "pid": drained.process,
        "draining_for_s": drained.took.is_none().then(|| drained.since.elapsed().as_secs()),
        "ended_after_s": drained.took.map(|took| took.as_secs()),
    })
}

fn guard(daemon: &Daemon) -> Value {
    let Some(guard) = daemon.guard() else {
        return Value::Null;
    };
    let status = guard.status();
    json!({
        "held_by": daemon.guard_holder(&status),
        "status": status,
        "counters": guard.counters().map_or_else(|error| json!(error.to_string()), |counters| json!(counters)),
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
