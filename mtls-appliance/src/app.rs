//! Wiring: the order in which the appliance starts, reloads, drains and stops.
//!
//! Start: configuration and files, the kernel's abilities, listening sockets, control socket, guard, workers. Whatever
//! can fail does so before the guard is attached, so that a failed start leaves nothing behind. No connection is accepted
//! before everything is in place, and, where another appliance is taken over, before that one has begun to drain.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::config::{self, Config, OffloadMode};
use crate::control::ControlSocket;
use crate::control::take_over::Predecessor;
use crate::daemon::{self, Daemon};
use crate::guard::{AttachTurn, GuardError, Guards};
use crate::host::{self, Finding, Host};
use crate::ktls::Support;
use crate::listeners::{self, Source};
pub use crate::live::Live;
use crate::privileges::{self, Left};
use crate::proxy::admission::Tally;
use crate::proxy::{run_worker, upstream};
use crate::telemetry::{Counters, Level, Log};

/// How long a connection that has just been made may take for its first request when the appliance drains.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Where the process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Everything is being put in place; connections wait in the sockets' queues.
    Starting,
    /// Accepting connections.
    Serving,
    /// No new connections; requests that run are finished.
    Draining {
        /// Since when.
        since: Instant,
        /// The process that has taken over.
        successor: Option<i32>,
    },
}

impl Phase {
    /// Whether no new connections are accepted any more.
    pub fn is_draining(&self) -> bool {
        matches!(self, Self::Draining { .. })
    }

    /// Until when a connection may wait for a request although the appliance drains. Where somebody takes over, for half of
    /// the deadline: a caller that is told with an answer to connect anew loses nothing, whereas one whose idle connection is
    /// closed may be sending just then. Otherwise not at all if it has had an answer, as after any idle time; but whoever has
    /// connected a moment ago, `fresh`, has done so for a request that is on its way.
    pub fn idle_until(&self, drain: Duration, fresh: Option<Instant>) -> Option<Instant> {
        match (self, fresh) {
            (Self::Starting | Self::Serving, _) => None,
            (Self::Draining { since, successor: None }, None) => Some(*since),
            (Self::Draining { since, successor: None }, Some(connected)) => {
                Some(connected.max(*since) + FIRST_REQUEST.min(drain / 2))
            }
            (Self::Draining { since, successor: Some(_) }, _) => Some(*since + drain / 2),
        }
    }
}

/// What all threads share.
pub struct Shared {
    /// Replaced as a whole by a reload.
    pub live: ArcSwap<Live>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// The log.
    pub log: Log,
    /// What the kernel can do.
    pub support: Support,
    /// Starting, serving or draining.
    pub phase: watch::Sender<Phase>,
    /// Present connections by source.
    pub sources: Arc<Tally<IpAddr>>,
    /// Present connections by organisation: its first code.
    pub organisations: Arc<Tally<String>>,
    /// Rises when a request finds no room for a connection to an origin's address.
    pub crowded: watch::Sender<u64>,
    /// When the process started.
    pub started: Instant,
    /// How the last reload ended, for `status`.
    pub last_reload: std::sync::Mutex<Option<String>>,
}

/// Why the appliance did not start, or stopped.
#[derive(Debug)]
pub enum Failure {
    /// The configuration or a file that it names; exit code 2.
    Configuration(String),
    /// The environment: a port in use, a missing privilege or kernel feature; exit code 1.
    Environment(String),
}

impl Failure {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 2,
            Self::Environment(_) => 1,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Configuration(text) | Self::Environment(text) => f.write_str(text),
        }
    }
}

/// Reads the configuration and all files that it names; what was learnt about origins is taken over from `before`.
///
/// # Errors
/// Every mistake.
pub fn load(path: &Path, before: Option<&Live>) -> Result<Live, Failure> {
    let config = config::load(path).map_err(|mistakes| Failure::Configuration(mistakes.to_string()))?;
    Live::load(config, before).map_err(|mistakes| Failure::Configuration(mistakes.to_string()))
}

/// Runs the appliance until SIGTERM or SIGINT, or until another one has taken over; with `take_over`, in the place of the
/// one that runs.
///
/// # Errors
/// What kept it from starting, or broke it.
pub fn run(path: &Path, take_over: bool) -> Result<(), Failure> {
    forbid_core_dumps();
    privileges::keep_for_start().map_err(cannot_give_up)?;
    let live = load(path, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Environment(format!("cannot make an event loop: {error}")))?;
    runtime.block_on(serve(live, take_over))
}

/// Session keys and private keys are in this process's memory; they shall be in no core dump, and no other process of
/// the same user shall attach.
fn forbid_core_dumps() {
    // Where even this is forbidden there is nothing left to do about it.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// The signals that the appliance obeys. Listened to before anybody is told that it is ready, and before there are other
/// event loops that could see one first.
pub(crate) struct Signals {
    pub(crate) terminate: Signal,
    pub(crate) interrupt: Signal,
    pub(crate) hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|error| Failure::Environment(format!("cannot handle signals: {error}")));
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }
}

async fn serve(live: Live, take_over: bool) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let support = Support::probe().await;
    require_offload(&live.config, &support)?;
    let (mut predecessor, source) = sockets(&live.config, take_over).await?;
    let started = start(live, support, source, predecessor.as_mut()).await;
    let Started { daemon, control, threads, mut reports, writer } = match (started, predecessor) {
        (Ok(started), predecessor) => {
            if let Some(predecessor) = predecessor {
                started.daemon.follow(predecessor);
            }
            started
        }
        (Err(failure), Some(predecessor)) => {
            predecessor.give_up(&failure).await;
            return Err(failure);
        }
        (Err(failure), None) => return Err(failure),
    };
    let log = daemon.shared.log.clone();
    let result = daemon::supervise(&daemon, control, &mut signals, threads, &mut reports).await;
    log.event(Level::Info, "stopped", json!({}));
    log.flush();
    drop(writer);
    result
}

/// Where the listening sockets come from, and whom to take over from.
async fn sockets(config: &Config, take_over: bool) -> Result<(Option<Predecessor>, Source), Failure> {
    match (take_over, listeners::passed_by_service_manager()?) {
        (false, None) => Ok((None, Source::Own)),
        (false, Some(passed)) => Ok((None, Source::Activation(passed))),
        (true, None) => {
            let (predecessor, sockets) = Predecessor::ask(&config.control_socket).await?;
            Ok((Some(predecessor), Source::Predecessor(sockets)))
        }
        (true, Some(_)) => Err(Failure::Environment(
            "--take-over: the service manager passed listening sockets (LISTEN_FDS), so there are none to ask for\n  leave \
             --take-over out: the service manager keeps the sockets open while the service restarts"
                .to_owned(),
        )),
    }
}

/// What runs once the start has succeeded.
struct Started {
    daemon: Arc<Daemon>,
    control: ControlSocket,
    threads: Vec<JoinHandle<()>>,
    reports: Reports,
    writer: JoinHandle<()>,
}

/// Puts everything in place, and begins to serve when the predecessor, if there is one, has begun to drain.
async fn start(
    live: Live,
    support: Support,
    source: Source,
    mut predecessor: Option<&mut Predecessor>,
) -> Result<Started, Failure> {
    let listeners = listeners::listeners(&live.config.listener.addresses, source)?;
    let mut control = ControlSocket::stage(&live.config.control_socket, predecessor.is_some())?;
    let counters = Arc::new(Counters::default());
    let (log, writer) = Log::start(live.config.log_file.as_deref(), Arc::clone(&counters)).map_err(|error| {
        let file = live.config.log_file.as_deref().map(|path| path.display().to_string()).unwrap_or_default();
        Failure::Environment(format!(
            "log.file = \"{file}\": cannot be opened: {error}\n  create its folder, or give the user that runs the \
             appliance the right to write there"
        ))
    })?;
    crate::telemetry::log::install(&log);
    report_panics(&log, &counters);
    if let Some(predecessor) = &mut predecessor {
        predecessor.before_guard().await?;
    }
    let (guards, turn) = match &live.config.guard {
        Some(config) => {
            let turn = AttachTurn::wait(config, &config.interfaces).map_err(guard_failure)?;
            let registry = live.verifier.registry();
            let guards = Guards::attach(config, &config.interfaces, registry, &turn).map_err(guard_failure)?;
            (Some(guards), Some(turn))
        }
        None => (None, None),
    };
    give_up_privileges()?;
    let shared = Arc::new(Shared {
        live: ArcSwap::from_pointee(live),
        counters,
        log,
        support,
        phase: watch::Sender::new(Phase::Starting),
        sources: Arc::default(),
        organisations: Arc::default(),
        crowded: watch::Sender::new(0),
        started: Instant::now(),
        last_reload: std::sync::Mutex::new(None),
    });
    announce(&shared, guards.as_ref());
    upstream::resolve::new_names(&shared, &shared.live.load_full()).await;
    let (report, mut reports) = mpsc::unbounded_channel();
    let mut threads = start_workers(&shared, &listeners, &report)?;
    for _ in &threads {
        if let Some(Err(why)) = reports.recv().await {
            return Err(Failure::Environment(why));
        }
    }
    threads.push(start_thread("origins", &report, {
        let shared = Arc::clone(&shared);
        move || upstream::check::run(shared)
    })?);
    if let Some(predecessor) = &mut predecessor {
        let released = predecessor.release().await?;
        shared.log.event(
            Level::Info,
            "take_over",
            json!({ "from": predecessor.process(), "outcome": released.to_string() }),
        );
    }
    match control.publish() {
        // Without status, but serving: the other one does so no more.
        Err(failure) if predecessor.is_some() => {
            shared.log.event(Level::Error, "control", json!({ "detail": failure.to_string() }));
        }
        published => published?,
    }
    // From now on this process says what it holds.
    drop(turn);
    shared.phase.send_replace(Phase::Serving);
    notify(&[sd_notify::NotifyState::Ready]);
    shared.log.event(Level::Info, "ready", json!({}));
    Ok(Started { daemon: Daemon::new(shared, guards, listeners), control, threads, reports, writer })
}

/// From here on this process has the rights of its user and no others. Files, sockets and maps that are open stay usable;
/// later on nothing is opened that needs more.
fn give_up_privileges() -> Result<(), Failure> {
    privileges::give_up().map_err(cannot_give_up)?;
    match Left::of_all_threads() {
        Ok(left) if left.is_none() => Ok(()),
        Ok(left) => Err(cannot_give_up(io::Error::other(format!("a thread still has {left}")))),
        Err(error) => Err(cannot_give_up(error)),
    }
}

fn cannot_give_up(error: io::Error) -> Failure {
    Failure::Environment(format!(
        "the privileges of this process cannot be given up: {error}\n  let no sandbox refuse capset, prctl and /proc/self to it"
    ))
}

fn require_offload(config: &Config, support: &Support) -> Result<(), Failure> {
    match (&support.missing, config.offload) {
        (Some(missing), OffloadMode::Required) => Err(Failure::Environment(format!(
            "offload.mode = \"required\": {missing}\n  kernel: {}\n  load the module (modprobe tls), boot a kernel with \
             CONFIG_TLS, or set offload.mode = \"auto\" to serve with TLS in userspace",
            support.kernel
        ))),
        _ => Ok(()),
    }
}

fn announce(shared: &Shared, guards: Option<&Guards>) {
    let live = shared.live.load();
    let support = &shared.support;
    let offload = match (&support.missing, live.config.offload) {
        (_, OffloadMode::Off) => "userspace: offload.mode is \"off\"".to_owned(),
        (Some(missing), _) => format!("userspace: {missing}"),
        (None, _) => match &support.no_splice {
            Some(why) => format!("kernel, without splice: {}", why.0),
            None => "kernel, spliced".to_owned(),
        },
    };
    shared.log.event(
        Level::Info,
        "started",
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "config": live.config.path,
            "listeners": live.config.listener.addresses,
            "workers": live.config.listener.workers,
            "origins": origins(&live),
            "sites": live.config.sites.iter().map(|site| &*site.name).collect::<Vec<_>>(),
            "kernel": support.kernel,
            "offload": offload,
            "offload_ciphers": support.cipher_suites,
            "guard": guards.map_or_else(
                || json!("not configured"),
                |guards| guards.iter().map(|guard| json!(guard.status())).collect(),
            ),
            "organisations": live.verifier.registry().organisations.len(),
            "privileges": privileges(),
        }),
    );
    if support.missing.is_some() && live.config.offload == OffloadMode::Auto {
        shared.log.event(Level::Warn, "no_kernel_tls", json!({ "detail": offload }));
    }
    warn(shared, &live);
}

/// Which privileges are left, in words.
pub(crate) fn privileges() -> String {
    Left::of_all_threads().map_or_else(|error| format!("unknown: {error}"), |left| left.to_string())
}

/// Origins as configured: name and addresses.
fn origins(live: &Live) -> Vec<serde_json::Value> {
    let addresses = |origin: &config::Origin| origin.servers.iter().map(ToString::to_string).collect::<Vec<_>>();
    live.config.origins.iter().map(|origin| json!({ "name": origin.name, "addresses": addresses(origin) })).collect()
}

fn warn(shared: &Shared, live: &Live) {
    for warning in &live.warnings {
        shared.log.event(Level::Warn, "warning", json!({ "detail": warning }));
    }
    for finding in findings(shared, live) {
        shared.log.event(Level::Warn, "host_setting", finding);
    }
}

/// What should be otherwise on this machine, as it is now.
pub(crate) fn findings(shared: &Shared, live: &Live) -> Vec<Finding> {
    let possible = shared.support.missing.is_none() && shared.support.no_splice.is_none();
    Host::this().findings(&live.config, possible && host::may_splice(&live.config))
}

/// What threads say: workers that they are ready to accept, all of them later why they ended.
pub(crate) type Reports = mpsc::UnboundedReceiver<Result<(), String>>;

fn start_workers(
    shared: &Arc<Shared>,
    listeners: &[TcpListener],
    report: &mpsc::UnboundedSender<Result<(), String>>,
) -> Result<Vec<JoinHandle<()>>, Failure> {
    let count = shared.live.load().config.listener.workers;
    (0..count)
        .map(|index| {
            let listeners = listeners.iter().map(TcpListener::try_clone).collect::<io::Result<Vec<_>>>();
            let listeners = listeners.map_err(|error| cannot_start(&error))?;
            let shared = Arc::clone(shared);
            let ready = report.clone();
            start_thread(&format!("worker-{index}"), report, move || {
                // When nobody listens any more, the process is on its way out.
                run_worker(shared, listeners, || drop(ready.send(Ok(()))))
            })
        })
        .collect()
}

fn start_thread(
    name: &str,
    report: &mpsc::UnboundedSender<Result<(), String>>,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<()>, Failure> {
    let (report, owned) = (report.clone(), name.to_owned());
    let run = move || {
        let outcome = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        // When nobody listens any more, the process is on its way out.
        let _ = report.send(Err(format!("thread {owned} ended: {outcome}")));
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|error| cannot_start(&error))
}

fn cannot_start(error: &io::Error) -> Failure {
    Failure::Environment(format!("cannot start a thread: {error}"))
}

/// A panic ends one connection, never the service; it is a mistake of ours and must not go unnoticed.
fn report_panics(log: &Log, counters: &Arc<Counters>) {
    let (log, counters) = (log.clone(), Arc::clone(counters));
    std::panic::set_hook(Box::new(move |panic| {
        counters.refuse("internal_error", "panic");
        log.event(Level::Error, "internal_error", json!({ "detail": panic.to_string() }));
    }));
}

pub(crate) fn guard_failure(error: GuardError) -> Failure {
    if error.is_configuration() {
        Failure::Configuration(error.to_string())
    } else {
        Failure::Environment(error.to_string())
    }
}

/// Loads everything anew and puts it in force in one step; on any mistake everything stays as it is.
pub(crate) async fn reload(shared: &Shared, guards: Option<&Guards>) {
    // `Type=notify-reload` wants to know when the reload began.
    match sd_notify::NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[sd_notify::NotifyState::Reloading, now]),
        Err(_) => notify(&[sd_notify::NotifyState::Reloading]),
    }
    let before = shared.live.load_full();
    let outcome = load(&before.config.path, Some(&before)).and_then(|live| {
        unchanged(&before.config, &live.config)?;
        require_offload(&live.config, &shared.support)?;
        Ok(live)
    });
    if let Ok(live) = &outcome {
        upstream::resolve::new_names(shared, live).await;
    }
    let outcome = outcome
        .and_then(|live| {
            if let (Some(guards), Some(config)) = (guards, &live.config.guard) {
                guards.update(config, live.verifier.registry()).map_err(guard_failure)?;
            }
            Ok(live)
        })
        .map(|live| {
            let organisations = live.verifier.registry().organisations.len();
            shared.live.store(Arc::new(live));
            organisations
        });
    let summary = match outcome {
        Ok(organisations) => {
            shared.counters.reloads.increment();
            let generation = before.generation + 1;
            shared.log.event(
                Level::Info,
                "reload",
                json!({ "outcome": "ok", "generation": generation, "organisations": organisations }),
            );
            warn(shared, &shared.live.load());
            format!("ok, generation {generation}")
        }
        Err(failure) => {
            shared.counters.reloads_failed.increment();
            shared.log.event(
                Level::Error,
                "reload",
                json!({ "outcome": "kept the last good state", "detail": failure.to_string() }),
            );
            format!("failed, last good state kept: {failure}")
        }
    };
    match shared.last_reload.lock() {
        Ok(mut last) => *last = Some(summary),
        Err(poisoned) => *poisoned.into_inner() = Some(summary),
    }
    notify(&[sd_notify::NotifyState::Ready]);
}

/// What only a restart can change.
fn unchanged(before: &Config, after: &Config) -> Result<(), Failure> {
    let guard = |config: &Config| {
        config.guard.as_ref().map(|guard| (guard.interfaces.clone(), guard.attach, guard.pin_dir.clone()))
    };
    let listener = |config: &Config| (config.listener.addresses.clone(), config.listener.workers);
    let changed = [
        ("[listener]", listener(before) != listener(after)),
        ("[guard] interfaces, attach or pin_dir", guard(before) != guard(after)),
        ("[control]", before.control_socket != after.control_socket),
        ("[log]", before.log_file != after.log_file),
    ];
    let names: Vec<&str> = changed.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Failure::Configuration(format!(
        "{} changed, which a reload cannot put in force\n  restart the appliance, or undo the change and reload again",
        names.join(", ")
    )))
}

pub(crate) fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Not run by systemd, or systemd does not listen: neither concerns the service.
    let _ = sd_notify::notify(states);
}
