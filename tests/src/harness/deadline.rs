//! Waiting, never for ever.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

/// A moment by which something has to have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// `seconds` from now.
    #[must_use]
    pub fn seconds(seconds: u64) -> Self {
        Self(Instant::now() + Duration::from_secs(seconds))
    }

    /// Whether it is over.
    #[must_use]
    pub fn passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// What is left; at least a millisecond, since zero means "no time-out" to sockets.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }
}

const LONGEST_PAUSE: Duration = Duration::from_millis(150);

/// Polls until `ready` gives a value.
///
/// # Errors
/// When `ready` fails, or the deadline passes: "timed out waiting for `what`".
pub fn wait_until<T>(
    what: &str,
    deadline: Deadline,
    mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    // To ask may mean to run a program: what takes long is asked about less and less often.
    let mut pause = Duration::from_millis(10);
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        if deadline.passed() {
            bail!("timed out waiting for {what}");
        }
        thread::sleep(pause);
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}
