//! A rate, kept in one 64-bit word: the generic cell rate algorithm (ITU-T I.371 annex A, virtual scheduling).
//!
//! The word is the time at which the next event is due if events came exactly at the rate. One load, one store, no lock:
//! two CPUs that race admit one event too many, and nothing else goes wrong.

/// A rate and its burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Pace {
    /// Nanoseconds between two events; 0: none is admitted.
    pub interval_ns: u64,
    /// How far ahead of the rate events may come, in nanoseconds.
    pub burst_ns: u64,
}

impl Pace {
    /// `events` per second on average, and at most one second's worth of them at once.
    pub const fn per_second(events: u32) -> Pace {
        Pace::with_burst(events, events)
    }

    /// `events` per second on average, and at most `burst` of them at once.
    pub const fn with_burst(events: u32, burst: u32) -> Pace {
        if events == 0 {
            return Pace { interval_ns: 0, burst_ns: 0 };
        }
        let exact = 1_000_000_000 / events as u64;
        // More than one a nanosecond is as good as one a nanosecond.
        let interval_ns = if exact == 0 { 1 } else { exact };
        Pace { interval_ns, burst_ns: interval_ns * (burst as u64).saturating_sub(1) }
    }

    /// Whether an event at `now` is admitted: then `Some` of the word to store. `due` is the word as it was.
    #[inline(always)]
    pub const fn admit(self, due: u64, now: u64) -> Option<u64> {
        if self.interval_ns == 0 {
            return None;
        }
        let due = if due < now { now } else { due };
        if due - now > self.burst_ns {
            return None;
        }
        Some(due + self.interval_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(pace: Pace, word: &mut u64, times: impl Iterator<Item = u64>) -> usize {
        times
            .filter(|now| match pace.admit(*word, *now) {
                Some(next) => {
                    *word = next;
                    true
                }
                None => false,
            })
            .count()
    }

    #[test]
    fn a_flood_gets_the_burst_and_then_the_rate() {
        for rate in [1, 3, 10, 1000] {
            let mut word = 0;
            let flood = (5 * SECOND..15 * SECOND).step_by(50_000);
            let count = admitted(Pace::per_second(rate), &mut word, flood);
            let expected = 11 * rate as usize;
            assert!(count.abs_diff(expected) <= 1, "{rate}: {count}");
        }
    }

    #[test]
    fn a_burst_may_be_larger_or_smaller_than_the_rate() {
        for (rate, burst) in [(10, 50), (10, 1), (1000, 10), (1, 100)] {
            let mut word = 0;
            let pace = Pace::with_burst(rate, burst);
            let at_once = admitted(pace, &mut word, core::iter::repeat_n(5 * SECOND, 1000));
            assert_eq!(at_once, burst as usize, "{rate} {burst}");
            let later = admitted(pace, &mut word, (5 * SECOND..7 * SECOND).step_by(100_000));
            assert!(later.abs_diff(2 * rate as usize) <= 1, "{rate} {burst}: {later}");
        }
    }

    #[test]
    fn a_rate_of_zero_admits_nothing() {
        assert_eq!(Pace::per_second(0).admit(0, SECOND), None);
    }

    #[test]
    fn a_silence_saves_up_no_more_than_one_burst() {
        let pace = Pace::per_second(5);
        let mut word = 0;
        assert_eq!(admitted(pace, &mut word, core::iter::repeat_n(SECOND, 100)), 5);
        assert_eq!(admitted(pace, &mut word, core::iter::repeat_n(1000 * SECOND, 100)), 5);
    }

    #[test]
    fn a_clock_far_behind_the_word_admits_nothing_until_it_has_caught_up() {
        let pace = Pace::per_second(5);
        assert_eq!(pace.admit(100 * SECOND, SECOND), None);
        assert!(pace.admit(100 * SECOND, 100 * SECOND).is_some());
    }
}
