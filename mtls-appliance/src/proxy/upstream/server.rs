//! One address of an origin: how busy it is, and whether requests may go there.
//!
//! Two judges, and either can take the address out. Active checks count good and bad checks in a row. Requests count
//! failures in a row; after an ejection one request at a time may try the address, and the first answer brings it back.
//! A client can make an origin drop its connection or fall silent, so such failures count only when more than one client
//! identity met them, and never take out the last address; what nobody can connect to is out whoever noticed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Whose request met a failure: the fingerprint of the client's certificate.
pub(crate) type Witness = [u8; 32];

/// What went wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// No connection came about.
    Connect,
    /// A connection broke, or nothing came, before there was an answer.
    Answer,
}

/// Why requests do not go to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// They do.
    Up,
    /// Active checks failed.
    Down,
    /// Too many failures in a row.
    Ejected,
    /// The ejection is over, and the first request is trying it.
    Trial,
}

impl State {
    /// Stable name, for `status`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Trial => "trial",
        }
    }
}

/// A change that is worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// No requests from now on.
    Out(&'static str),
    /// Requests again.
    Back(&'static str),
}

/// An address.
#[derive(Debug)]
pub(crate) struct Server {
    /// Unlike any other of this process.
    pub(crate) id: u64,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Connections at once.
    pub(crate) limit: usize,
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    busy: AtomicUsize,
    /// Nothing speaks against the address; what does is in `condition`.
    sound: AtomicBool,
    condition: Mutex<Condition>,
}

#[derive(Debug, Default)]
struct Condition {
    down: bool,
    good_checks: u32,
    bad_checks: u32,
    failures: u32,
    witness: Option<Witness>,
    several_witnesses: bool,
    ejected_until: Option<Instant>,
    trial: bool,
    problem: Option<String>,
}

impl Condition {
    fn state(&self) -> State {
        match (self.down, self.ejected_until, self.trial) {
            (true, ..) => State::Down,
            (false, Some(_), true) => State::Trial,
            (false, Some(_), false) => State::Ejected,
            (false, None, _) => State::Up,
        }
    }

    fn is_sound(&self) -> bool {
        !self.down && self.ejected_until.is_none() && self.failures == 0
    }
}

impl Server {
    pub(crate) fn new(address: SocketAddr, limit: usize) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address,
            limit,
            slots: Arc::new(Semaphore::new(limit)),
            waiting: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            sound: AtomicBool::new(true),
            condition: Mutex::default(),
        })
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update<T>(&self, change: impl FnOnce(&mut Condition) -> T) -> T {
        let mut condition = self.condition();
        let outcome = change(&mut condition);
        self.sound.store(condition.is_sound(), Ordering::Release);
        outcome
    }

    /// Where it stands, and the last thing that went wrong.
    pub(crate) fn state(&self) -> (State, Option<String>) {
        let condition = self.condition();
        (condition.state(), condition.problem.clone())
    }

    /// Whether a request may go there now.
    pub(crate) fn takes_requests(&self, now: Instant) -> bool {
        self.sound.load(Ordering::Acquire) || {
            let condition = self.condition();
            match condition.state() {
                State::Up => true,
                State::Down | State::Trial => false,
                State::Ejected => condition.ejected_until.is_none_or(|until| until <= now),
            }
        }
    }

    /// Counts a request towards it; `None` when it takes none after all.
    pub(crate) fn begin(self: &Arc<Self>, now: Instant) -> Option<Busy> {
        let mut trial = false;
        if !self.sound.load(Ordering::Acquire) {
            let may = self.update(|condition| match condition.state() {
                State::Up => true,
                State::Ejected if condition.ejected_until.is_none_or(|until| until <= now) => {
                    condition.trial = true;
                    trial = true;
                    true
                }
                _ => false,
            });
            if !may {
                return None;
            }
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        Some(Busy { server: Arc::clone(self), trial })
    }

    /// Requests under way.
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// A request was answered, whatever the answer.
    pub(crate) fn answered(&self) -> Option<Change> {
        if self.sound.load(Ordering::Acquire) {
            return None;
        }
        self.update(|condition| {
            condition.failures = 0;
            condition.witness = None;
            condition.several_witnesses = false;
            condition.trial = false;
            condition.ejected_until.take().map(|_| Change::Back("answered"))
        })
    }

    /// A request failed. `spare`: there are other addresses that take requests.
    pub(crate) fn failed(
        &self,
        mishap: Mishap,
        witness: Witness,
        problem: &str,
        spare: bool,
        (after, span): (u32, Duration),
    ) -> Option<Change> {
        if after == 0 {
            return None;
        }
        self.update(|condition| {
            condition.failures = condition.failures.saturating_add(1);
            condition.problem = Some(problem.to_owned());
            match condition.witness {
                None => condition.witness = Some(witness),
                Some(first) => condition.several_witnesses |= first != witness,
            }
            let enough = condition.failures >= after;
            let believed = mishap == Mishap::Connect || (condition.several_witnesses && spare);
            let failed_trial = condition.trial && (believed || mishap == Mishap::Answer);
            condition.trial = false;
            if failed_trial {
                // Out before, and still no answer.
                condition.ejected_until = Some(Instant::now() + span);
                return None;
            }
            (enough && believed && condition.ejected_until.is_none()).then(|| {
                condition.ejected_until = Some(Instant::now() + span);
                Change::Out("ejected")
            })
        })
    }

    /// An active check ended; `problem` says how it failed.
    pub(crate) fn checked(&self, problem: Option<String>, fall: u32, rise: u32) -> Option<Change> {
        self.update(|condition| {
            if let Some(problem) = problem {
                condition.good_checks = 0;
                condition.bad_checks = condition.bad_checks.saturating_add(1);
                condition.problem = Some(problem);
                let falls = !condition.down && condition.bad_checks >= fall;
                condition.down |= falls;
                falls.then_some(Change::Out("health_checks_failed"))
            } else {
                condition.bad_checks = 0;
                condition.good_checks = condition.good_checks.saturating_add(1);
                let rises = condition.down && condition.good_checks >= rise;
                condition.down &= !rises;
                rises.then_some(Change::Back("health_checks_passed"))
            }
        })
    }

    /// Nothing is checked any more: what checks found no longer counts.
    pub(crate) fn unchecked(&self) {
        if !self.sound.load(Ordering::Acquire) {
            self.update(|condition| {
                condition.down = false;
                condition.bad_checks = 0;
                condition.good_checks = 0;
            });
        }
    }

    /// Room for one more connection.
    pub(crate) fn try_slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).try_acquire_owned().ok()
    }

    /// Whether there is room.
    pub(crate) fn has_slot(&self) -> bool {
        self.slots.available_permits() > 0
    }

    /// Waits for room, in the order of arrival.
    pub(crate) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        // Closed never.
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// Connections that are open or being opened.
    pub(crate) fn connections(&self) -> usize {
        self.limit.saturating_sub(self.slots.available_permits())
    }

    /// Requests that wait for room.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A place in the queue, unless `limit` wait already.
    pub(crate) fn queue(self: &Arc<Self>, limit: usize) -> Option<Waiting> {
        let taken = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1));
        taken.ok().map(|_| Waiting(Arc::clone(self)))
    }
}

/// A place in the queue for a connection.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Server>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that is under way at an address.
#[derive(Debug)]
pub(crate) struct Busy {
    server: Arc<Server>,
    trial: bool,
}

impl Busy {
    /// The address.
    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.server.busy.fetch_sub(1, Ordering::Relaxed);
        if self.trial {
            // A trial that came to no end leaves the next one its turn.
            self.server.update(|condition| condition.trial = false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);
    const A: Witness = [1; 32];
    const B: Witness = [2; 32];

    fn server() -> Arc<Server> {
        Server::new("127.0.0.1:1".parse().unwrap(), 2)
    }

    #[test]
    fn an_address_that_cannot_be_connected_to_is_ejected_tried_and_taken_back() {
        let (server, now) = (server(), Instant::now());
        for _ in 0..2 {
            assert_eq!(server.failed(Mishap::Connect, A, "refused", false, (3, LONG)), None);
            assert!(server.takes_requests(now));
        }
        assert_eq!(server.failed(Mishap::Connect, A, "refused", false, (3, LONG)), Some(Change::Out("ejected")));
        assert!(!server.takes_requests(now) && server.begin(now).is_none());
        assert_eq!(server.state(), (State::Ejected, Some("refused".to_owned())));
        let later = now + LONG + Duration::from_secs(1);
        assert!(server.takes_requests(later));
        let trial = server.begin(later).unwrap();
        assert!(server.begin(later).is_none(), "one at a time");
        assert_eq!(server.failed(Mishap::Connect, A, "refused", false, (3, LONG)), None);
        drop(trial);
        assert!(server.begin(now + LONG).is_none(), "the failed trial ejects it once more");
        let trial = server.begin(Instant::now() + LONG).unwrap();
        assert_eq!(server.answered(), Some(Change::Back("answered")));
        drop(trial);
        assert!(server.begin(now).is_some() && server.state().0 == State::Up);
    }

    #[test]
    fn a_trial_without_an_end_leaves_the_next_one_its_turn() {
        let server = server();
        server.failed(Mishap::Connect, A, "refused", false, (1, Duration::ZERO));
        let now = Instant::now();
        drop(server.begin(now).unwrap());
        assert!(server.begin(now).is_some());
    }

    #[test]
    fn one_client_cannot_take_an_address_from_the_others() {
        let server = server();
        for _ in 0..50 {
            assert_eq!(server.failed(Mishap::Answer, A, "reset", true, (3, LONG)), None);
        }
        assert_eq!(server.failed(Mishap::Answer, B, "reset", false, (3, LONG)), None, "nor many the last one");
        assert_eq!(server.failed(Mishap::Answer, B, "reset", true, (3, LONG)), Some(Change::Out("ejected")));
    }

    #[test]
    fn an_answer_ends_a_row_of_failures() {
        let server = server();
        for _ in 0..10 {
            server.failed(Mishap::Connect, A, "refused", false, (2, LONG));
            server.answered();
        }
        assert_eq!(server.state().0, State::Up);
    }

    #[test]
    fn zero_ejects_never() {
        let server = server();
        for _ in 0..10 {
            assert_eq!(server.failed(Mishap::Connect, A, "refused", true, (0, LONG)), None);
        }
    }

    #[test]
    fn checks_in_a_row_take_it_out_and_bring_it_back() {
        let server = server();
        let bad = || server.checked(Some("status 500".into()), 2, 2);
        assert_eq!(bad(), None);
        assert_eq!(server.checked(None, 2, 2), None);
        assert_eq!(bad(), None);
        assert_eq!(bad(), Some(Change::Out("health_checks_failed")));
        assert!(server.begin(Instant::now()).is_none());
        server.answered();
        assert!(server.begin(Instant::now()).is_none(), "an answer to a request from before proves nothing");
        assert_eq!(server.checked(None, 2, 2), None);
        assert_eq!(server.checked(None, 2, 2), Some(Change::Back("health_checks_passed")));
        assert!(server.begin(Instant::now()).is_some());
        bad();
        bad();
        server.unchecked();
        assert!(server.begin(Instant::now()).is_some());
    }

    #[test]
    fn slots_and_queue_are_bounded() {
        let server = server();
        let first = server.try_slot().unwrap();
        let _second = server.try_slot().unwrap();
        assert!(server.try_slot().is_none() && !server.has_slot());
        assert_eq!(server.connections(), 2);
        let place = server.queue(1).unwrap();
        assert!(server.queue(1).is_none());
        assert_eq!(server.waiting(), 1);
        drop((first, place));
        assert!(server.try_slot().is_some() && server.queue(1).is_some());
    }
}
