//! How the appliance is, as JSON.

use serde::Serialize;
use serde_json::{Value, json};

use crate::app::{Live, Phase, Shared, findings, privileges};
use crate::config::OffloadMode;
use crate::daemon::{Daemon, Drained};
use crate::guard::{GuardCounters, GuardStatus};

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
    let Some(guards) = daemon.guards() else {
        return Value::Null;
    };
    let guards = guards.iter().map(|guard| {
        let status = guard.status();
        (daemon.guard_holder(&status), status, guard.counters().map_err(|error| error.to_string()))
    });
    guard_json(guards.collect())
}

/// What is told about guards: at each interface who holds it, how it is and what it counted, and the counters' sum.
pub(crate) fn guard_json<Holder: Serialize>(
    guards: Vec<(Holder, GuardStatus, Result<GuardCounters, String>)>,
) -> Value {
    let sum = guards.iter().map(|(_, _, counters)| counters.as_ref()).collect::<Result<Vec<_>, _>>();
    let sum = sum.map_or_else(|error| json!(error), |all| json!(GuardCounters::sum(all)));
    let interfaces = guards.into_iter().map(|(holder, status, counters)| {
        let counters = counters.map_or_else(Value::String, |counters| json!(counters));
        json!({ "held_by": holder, "status": status, "counters": counters })
    });
    json!({ "counters": sum, "interfaces": interfaces.collect::<Vec<_>>() })
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
        "renews_keys": active && shared.support.renews_keys,
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
