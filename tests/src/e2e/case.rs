//! A test: a function whose name is the sentence it shows.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};
use mtls_appliance_tests::harness::{Lab, Skip};

/// One test of one module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Lab) -> anyhow::Result<()>,
}

/// Lists a module's tests as `CASES`.
macro_rules! cases {
    ($module:literal: $($name:ident),+ $(,)?) => {
        pub(crate) const CASES: &[crate::case::Case] =
            &[$(crate::case::Case { module: $module, name: stringify!($name), run: $name }),+];
    };
}
pub(crate) use cases;

impl Case {
    /// The test as the runner takes it.
    pub(crate) fn trial(self) -> Trial {
        Trial::ignorable_test(format!("{}::{}", self.module, self.name), move || self.perform())
    }

    fn perform(&self) -> Result<Completion, Failed> {
        let _turn = Turn::of(self.module);
        let _running = Running::begin(*self);
        let lab = Lab::create().map_err(|error| format!("cannot prepare the test: {error:#}"))?;
        match (self.run)(&lab) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(skip) => {
                    println!("skipped: {}::{}: {skip}", self.module, self.name);
                    Ok(Completion::ignored_with(skip))
                }
                None => Err(format!("{error:#}\n{}", lab.transcripts()).into()),
            },
        }
    }
}

/// After this long a test is named although it has not ended: the runner names those that have.
const LONG: Duration = Duration::from_secs(180);

/// So many of the tests that took longest are named in the end.
const SLOWEST: usize = 20;

/// The tests that run, and since when; named only once.
static RUNNING: Mutex<Vec<(Case, Instant, bool)>> = Mutex::new(Vec::new());

/// The tests that have run, and for how long.
static RAN: Mutex<Vec<(Duration, Case)>> = Mutex::new(Vec::new());

/// A test that runs.
struct Running(Case);

impl Running {
    fn begin(case: Case) -> Self {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push((case, Instant::now(), false));
        Running(case)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let this = running.iter().position(|(case, ..)| (case.module, case.name) == (self.0.module, self.0.name));
        if let Some((case, since, _)) = this.map(|at| running.swap_remove(at)) {
            RAN.lock().unwrap_or_else(PoisonError::into_inner).push((since.elapsed(), case));
        }
    }
}

/// Names the tests that took longest, which decide how long all of them take.
pub(crate) fn name_the_slowest() {
    let mut ran = std::mem::take(&mut *RAN.lock().unwrap_or_else(PoisonError::into_inner));
    ran.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let all: Duration = ran.iter().map(|(time, _)| time).sum();
    println!("the tests took {:.0} s, one after the other; longest of all:", all.as_secs_f64());
    for (time, case) in ran.iter().take(SLOWEST) {
        println!("{:7.1} s  {}::{}", time.as_secs_f64(), case.module, case.name);
    }
}

/// Names tests that take long, so that one that never ends can be found.
pub(crate) fn name_the_slow() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(LONG / 6);
            let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
            for (case, since, named) in running.iter_mut().filter(|(_, since, _)| since.elapsed() >= LONG) {
                if !std::mem::replace(named, true) {
                    println!("still running after {} s: {}::{}", since.elapsed().as_secs(), case.module, case.name);
                }
            }
        }
    });
}

/// Modules that keep the whole machine busy. They stand at the end of the list, and begin when all others have ended, whose
/// deadlines they would tear.
const BUSY: [&str; 3] = ["load", "differential", "soak"];
/// Modules that take something from the whole machine: at the very end, one test at a time.
const ALONE: [&str; 1] = ["starving"];

/// How many tests run: of most modules, of busy ones, of those that run alone.
static TURNS: Mutex<[usize; 3]> = Mutex::new([0; 3]);
static TURN_ENDED: Condvar = Condvar::new();

/// The time of one test.
struct Turn {
    kind: usize,
}

impl Turn {
    fn of(module: &str) -> Self {
        let (kind, before) = match module {
            module if ALONE.contains(&module) => (2, 3),
            module if BUSY.contains(&module) => (1, 1),
            _ => (0, 0),
        };
        let turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |turns: &mut [usize; 3]| turns[..before].iter().any(|running| *running > 0);
        let mut turns = TURN_ENDED.wait_while(turns, wait).unwrap_or_else(PoisonError::into_inner);
        turns[kind] += 1;
        Self { kind }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        TURNS.lock().unwrap_or_else(PoisonError::into_inner)[self.kind] -= 1;
        TURN_ENDED.notify_all();
    }
}
