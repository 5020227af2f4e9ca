//! The appliance once it serves: signals, the control socket, the guard, being taken over, the end.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mtls_appliance_common::Event;
use serde_json::json;
use tokio::sync::{Semaphore, broadcast};
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::app::{Failure, Phase, Reports, Shared, Signals, notify, reload};
use crate::control::take_over::Predecessor;
use crate::control::watch::WATCHERS;
use crate::control::wire::Wire;
use crate::control::{self, ControlSocket};
use crate::guard::{Guard, GuardStatus, Guards, Presence};
use crate::telemetry::Level;

/// Clients of the control socket that are answered at the same time; others wait.
const CLIENTS: usize = 16;
/// Events that a watcher may be behind before it loses some.
const EVENTS: usize = 1024;
/// Between two signs of life for the guard; `guard.open_after` is at least three of them.
const BEAT: Duration = Duration::from_secs(1);
/// Longest wait for the predecessor's end: the longest `timeouts.drain`, and time to start and stop.
const LONGEST_DRAIN: Duration = Duration::from_secs(2 * 3600);

/// What the control socket and the signals act upon.
pub(crate) struct Daemon {
    pub(crate) shared: Arc<Shared>,
    guards: Option<Guards>,
    /// The guards' sampled events and whose they are, for whoever watches.
    pub(crate) events: broadcast::Sender<(Arc<Guard>, Event)>,
    /// Places for those who do.
    pub(crate) watchers: Semaphore,
    /// Kept to be handed over; none from the drain on.
    listeners: Mutex<Arc<[TcpListener]>>,
    under_way: Mutex<UnderWay>,
    /// Open for as long as this process lives, so that its successor sees its end.
    successor: Mutex<Option<Wire>>,
    predecessor: Mutex<Option<Drained>>,
}

/// What changes the guard's registry, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UnderWay {
    Nothing,
    Reload,
    /// To the process with this id.
    HandOver(i32),
}

/// What became of the process that was taken over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drained {
    pub(crate) process: i32,
    pub(crate) since: Instant,
    /// How long it took; not known as long as it drains.
    pub(crate) took: Option<Duration>,
}

/// A reload or a hand-over, for as long as it takes.
pub(crate) struct Turn<'a>(&'a Daemon);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.under_way) = UnderWay::Nothing;
    }
}

impl Daemon {
    pub(crate) fn new(shared: Arc<Shared>, guards: Option<Guards>, listeners: Vec<TcpListener>) -> Arc<Self> {
        let daemon = Arc::new(Self {
            shared,
            guards,
            events: broadcast::Sender::new(EVENTS),
            watchers: Semaphore::new(WATCHERS),
            listeners: Mutex::new(listeners.into()),
            under_way: Mutex::new(UnderWay::Nothing),
            successor: Mutex::default(),
            predecessor: Mutex::default(),
        });
        daemon.log_drops();
        daemon.pass_events_on();
        daemon
    }

    /// The guards, if there are any.
    pub(crate) fn guards(&self) -> Option<&Guards> {
        self.guards.as_ref()
    }

    fn each_guard(&self) -> impl Iterator<Item = &Arc<Guard>> {
        self.guards.iter().flat_map(Guards::iter)
    }

    /// The process that keeps this guard's registry; none when somebody else's program is at the interface, or no program.
    pub(crate) fn guard_holder(&self, status: &GuardStatus) -> Option<i32> {
        if status.attached { i32::try_from(std::process::id()).ok() } else { self.heir() }
    }

    /// The process that wants to take over.
    pub(crate) fn heir(&self) -> Option<i32> {
        match *lock(&self.under_way) {
            UnderWay::HandOver(process) => Some(process),
            UnderWay::Nothing | UnderWay::Reload => None,
        }
    }

    /// What became of the process that was taken over.
    pub(crate) fn predecessor(&self) -> Option<Drained> {
        *lock(&self.predecessor)
    }

    /// The listening sockets for that process, unless another one is getting them, or the appliance reloads or drains.
    pub(crate) fn begin_hand_over(&self, process: i32) -> Option<(Turn<'_>, Arc<[TcpListener]>)> {
        if self.shared.phase.borrow().is_draining() {
            return None;
        }
        let turn = self.begin(UnderWay::HandOver(process))?;
        Some((turn, Arc::clone(&lock(&self.listeners))))
    }

    fn begin(&self, what: UnderWay) -> Option<Turn<'_>> {
        let mut under_way = lock(&self.under_way);
        if *under_way != UnderWay::Nothing {
            return None;
        }
        *under_way = what;
        Some(Turn(self))
    }

    /// Takes as long as the name servers do, beside everything else; only its waits can be broken off, and before them
    /// nothing has changed.
    async fn reload(self: Arc<Self>) {
        if let Some(_turn) = self.begin(UnderWay::Reload) {
            reload(&self.shared, self.guards()).await;
        }
    }

    /// That process serves: from now on this one drains.
    pub(crate) fn succeed(&self, process: i32, wire: Wire) {
        *lock(&self.successor) = Some(wire);
        self.shared.phase.send_if_modified(|phase| {
            let serving = !phase.is_draining();
            if serving {
                *phase = Phase::Draining { since: Instant::now(), successor: Some(process) };
            }
            serving
        });
    }

    /// Watches for the end of the process that was taken over.
    pub(crate) fn follow(self: &Arc<Self>, mut predecessor: Predecessor) {
        let since = Instant::now();
        let drained = Drained { process: predecessor.process(), since, took: None };
        *lock(&self.predecessor) = Some(drained);
        let daemon = Arc::clone(self);
        tokio::spawn(async move {
            if predecessor.gone(LONGEST_DRAIN).await {
                let took = since.elapsed();
                *lock(&daemon.predecessor) = Some(Drained { took: Some(took), ..drained });
                let fields = json!({ "process": drained.process, "after_s": took.as_secs() });
                daemon.shared.log.event(Level::Info, "predecessor_ended", fields);
            }
        });
    }

    /// Takes every guard back from a process that took it and then could not serve.
    pub(crate) fn reclaim_guards(&self) {
        let live = self.shared.live.load();
        let Some(config) = &live.config.guard else { return };
        for guard in self.each_guard().filter(|guard| !guard.status().attached) {
            match guard.take_back(config, live.verifier.registry()) {
                Ok(()) => {
                    let fields = json!({ "detail": "taken back", "status": guard.status() });
                    self.shared.log.event(Level::Warn, "guard", fields);
                }
                Err(error) => {
                    self.shared.counters.refuse("guard_failed", "not_taken_back");
                    self.say_of(guard, Level::Error, &format!("cannot be taken back: {error}"));
                }
            }
        }
    }

    fn say_of(&self, guard: &Guard, level: Level, detail: &str) {
        let fields = json!({ "interface": guard.interface(), "detail": detail });
        self.shared.log.event(level, "guard", fields);
    }

    /// Logs the guards' sampled drops, each guard's in a thread of its own: a flood of them shall keep this one from nothing.
    fn log_drops(self: &Arc<Self>) {
        for guard in self.each_guard() {
            let Some(stream) = guard.log_stream() else { continue };
            let (daemon, of) = (Arc::clone(self), Arc::clone(guard));
            let not_logged = "sampled drops are not logged";
            let run = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
                if let Err(error) = runtime.and_then(|runtime| runtime.block_on(stream.run())) {
                    daemon.say_of(&of, Level::Warn, &format!("{not_logged}: {error}"));
                }
            };
            if let Err(error) = thread::Builder::new().name("guard-log".to_owned()).spawn(run) {
                self.say_of(guard, Level::Warn, &format!("{not_logged}: {error}"));
            }
        }
    }

    /// Gives the guards' sampled events to whoever watches.
    fn pass_events_on(self: &Arc<Self>) {
        for guard in self.each_guard() {
            let Some(stream) = guard.event_stream() else { continue };
            let (daemon, guard) = (Arc::clone(self), Arc::clone(guard));
            tokio::spawn(async move {
                // When nobody watches, the events are nobody's.
                let pass_on = |event| drop(daemon.events.send((Arc::clone(&guard), event)));
                if let Err(error) = stream.run(pass_on).await {
                    daemon.say_of(&guard, Level::Warn, &format!("sampled events cannot be watched: {error}"));
                }
            });
        }
    }

    /// Tells the guards that the daemon is there, again and again; nothing else that takes time may come between.
    async fn beat(self: Arc<Self>) {
        let watched = sd_notify::watchdog_enabled().is_some();
        let mut presences = vec![Presence::Attached; self.each_guard().count()];
        let mut beats = interval(BEAT);
        loop {
            beats.tick().await;
            if watched {
                notify(&[sd_notify::NotifyState::Watchdog]);
            }
            // Somebody else may hold the guards then.
            let ours = self.heir().is_none() && !self.shared.phase.borrow().is_draining();
            for (guard, presence) in self.each_guard().zip(&mut presences) {
                if ours {
                    self.look_after(guard, presence);
                }
                if let Err(error) = guard.beat() {
                    self.say_of(guard, Level::Error, &error.to_string());
                }
            }
        }
    }

    /// Says when the interface is guarded no more, and when it is again.
    fn look_after(&self, guard: &Guard, before: &mut Presence) {
        // What cannot be asked has not changed.
        let Ok(presence) = guard.look() else { return };
        if presence == *before {
            return;
        }
        let (level, detail) = match presence {
            Presence::Attached => (Level::Warn, "guards the interface again"),
            Presence::NoInterface => (Level::Error, "the interface is gone; guard it when it is back: guard attach"),
            Presence::NoProgram => (Level::Error, "the interface is not guarded; run guard attach, or restart"),
            Presence::OtherProgram => (
                Level::Error,
                "the interface has a program with other maps, which no reload reaches; restart the appliance",
            ),
            Presence::ForeignProgram => (
                Level::Error,
                "the interface has another tool's program and is not guarded; remove that (guard attach says how), then \
                 run guard attach",
            ),
        };
        if presence != Presence::Attached {
            self.shared.counters.refuse("guard_failed", presence.name());
        }
        let fields = json!({ "presence": presence.name(), "interface": guard.interface(), "detail": detail });
        self.shared.log.event(level, "guard", fields);
        *before = presence;
    }

    /// Accepts no more connections, and says so.
    fn drain(&self) {
        *lock(&self.listeners) = Arc::new([]);
        let phase = *self.shared.phase.borrow();
        let successor = match phase {
            Phase::Draining { successor, .. } => successor,
            Phase::Starting | Phase::Serving => None,
        };
        match successor.and_then(|process| u32::try_from(process).ok()) {
            // The service goes on, with another process.
            Some(process) => notify(&[sd_notify::NotifyState::MainPid(process)]),
            None => notify(&[sd_notify::NotifyState::Stopping]),
        }
        let connections = self.shared.counters.connections_open.value();
        self.shared.log.event(Level::Info, "drain", json!({ "connections": connections, "successor": successor }));
        if !phase.is_draining() {
            self.shared.phase.send_replace(Phase::Draining { since: Instant::now(), successor: None });
        }
    }
}

/// Handles signals and the control socket until it is time to stop, then lets all threads finish.
pub(crate) async fn supervise(
    daemon: &Arc<Daemon>,
    control: ControlSocket,
    signals: &mut Signals,
    threads: Vec<JoinHandle<()>>,
    reports: &mut Reports,
) -> Result<(), Failure> {
    let mut clients = JoinSet::new();
    let mut reloads = JoinSet::new();
    let mut phase = daemon.shared.phase.subscribe();
    // Ends with the event loop.
    tokio::spawn(Arc::clone(daemon).beat());
    let result = loop {
        tokio::select! {
            // Half a service would go unnoticed; a stopped one is started again.
            Some(Err(why)) = reports.recv() => break Err(Failure::Environment(why)),
            _ = signals.terminate.recv() => break Ok(()),
            _ = signals.interrupt.recv() => break Ok(()),
            _ = phase.wait_for(Phase::is_draining) => break Ok(()),
            // What a process that takes over has read would be outdated; it waits until that one serves or has failed.
            _ = signals.hangup.recv(), if daemon.heir().is_none() && reloads.is_empty() => {
                reloads.spawn(Arc::clone(daemon).reload());
            }
            Some(_) = reloads.join_next() => {}
            wire = control.accept(), if clients.len() < CLIENTS => {
                if let Some(wire) = wire {
                    clients.spawn(control::answer(Arc::clone(daemon), wire));
                }
            }
            Some(_) = clients.join_next() => {}
        }
    };
    if !reloads.is_empty() {
        reloads.shutdown().await;
        daemon.shared.log.event(Level::Warn, "reload", json!({ "outcome": "broken off: this process drains" }));
    }
    daemon.drain();
    let mut finished = tokio::task::spawn_blocking(move || {
        // One that panicked has been counted by its connections' end; nothing more can be done for it now.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    });
    loop {
        tokio::select! {
            _ = &mut finished => return result,
            _ = signals.hangup.recv() => {
                daemon.shared.log.event(Level::Warn, "reload", json!({ "outcome": "refused: this process drains" }));
            }
            wire = control.accept(), if clients.len() < CLIENTS => {
                if let Some(wire) = wire {
                    clients.spawn(control::answer(Arc::clone(daemon), wire));
                }
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
