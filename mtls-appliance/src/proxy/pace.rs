//! How long a peer may be waited for while it gives or takes a body.
//!
//! Each wait is bounded by a stall deadline. Besides, a peer must keep up with a rate on average: it starts with a
//! credit of waiting time, every wait is taken off it, every byte adds what it may take at that rate, and the credit never
//! grows beyond what it was. So only time spent waiting for this peer counts, never what the other side or we took, and
//! a burst cannot pay for a long trickle.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::channel::ChannelError;
use crate::config::Config;

/// One peer's pace in one direction of one body.
pub struct Pace<'a> {
    stall: Duration,
    /// Bytes per second; 0 when any rate is good enough.
    rate: u64,
    grace: Duration,
    credit: Cell<Duration>,
    /// The rate counts from here on.
    begun: Cell<bool>,
    /// As long as this is set, the peer may be waiting for somebody else.
    excused: Option<&'a Cell<bool>>,
}

impl<'a> Pace<'a> {
    fn new(config: &Config, begun: bool, excused: Option<&'a Cell<bool>>) -> Self {
        let (rate, grace) = (config.limits.body_rate, config.timeouts.body_grace);
        let (credit, begun) = (Cell::new(grace), Cell::new(begun));
        Self { stall: config.timeouts.body, rate, grace, credit, begun, excused }
    }

    /// Of a peer that gives; before its first byte only the stall deadline holds, for it may wait for `100 Continue`.
    pub fn giving(config: &Config, excused: Option<&'a Cell<bool>>) -> Self {
        Self::new(config, false, excused)
    }

    /// Of a peer that takes.
    pub fn taking(config: &Config) -> Self {
        Self::new(config, true, None)
    }

    fn counts(&self) -> bool {
        self.rate > 0 && self.begun.get() && !self.excused.is_some_and(Cell::get)
    }

    /// Until when to wait for a peer that last advanced at `advanced`.
    pub fn deadline(&self, advanced: Instant) -> Instant {
        let stalled = advanced + self.stall;
        if self.counts() { stalled.min(Instant::now() + self.credit.get()) } else { stalled }
    }

    /// The peer was waited for.
    pub fn waited(&self, time: Duration) {
        if self.counts() {
            self.credit.set(self.credit.get().saturating_sub(time));
        }
    }

    /// The peer gave or took so many bytes.
    pub fn advanced(&self, bytes: u64) {
        self.begun.set(self.begun.get() || bytes > 0);
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000).checked_div(self.rate).unwrap_or(0));
        self.credit.set(self.credit.get().saturating_add(earned).min(self.grace));
    }

    /// Why a deadline has passed.
    pub fn verdict(&self) -> ChannelError {
        if self.counts() && self.credit.get().is_zero() { ChannelError::TooSlow } else { ChannelError::TimedOut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(excused: Option<&Cell<bool>>) -> Pace<'_> {
        let grace = Duration::from_secs(10);
        Pace {
            stall: Duration::from_secs(4),
            rate: 1000,
            grace,
            credit: Cell::new(grace),
            begun: Cell::new(false),
            excused,
        }
    }

    fn wait(pace: &Pace<'_>, seconds: u64) {
        pace.waited(Duration::from_secs(seconds));
    }

    #[test]
    fn before_the_first_byte_only_the_stall_deadline_holds() {
        let pace = pace(None);
        wait(&pace, 100);
        assert!(matches!(pace.verdict(), ChannelError::TimedOut));
        assert!(pace.deadline(Instant::now()) > Instant::now() + Duration::from_secs(3));
        pace.advanced(1);
        wait(&pace, 11);
        assert!(matches!(pace.verdict(), ChannelError::TooSlow));
    }

    #[test]
    fn who_keeps_up_on_average_is_never_too_slow_and_a_burst_does_not_pay_for_a_trickle() {
        let pace = pace(None);
        for _ in 0..1000 {
            pace.advanced(3000);
            wait(&pace, 3);
            assert!(matches!(pace.verdict(), ChannelError::TimedOut));
        }
        pace.advanced(1_000_000_000);
        for _ in 0..3 {
            wait(&pace, 3);
            pace.advanced(1);
        }
        assert!(pace.deadline(Instant::now()) < Instant::now() + Duration::from_secs(2));
        wait(&pace, 3);
        assert!(matches!(pace.verdict(), ChannelError::TooSlow));
    }

    #[test]
    fn who_is_excused_is_not_charged() {
        let excused = Cell::new(true);
        let pace = pace(Some(&excused));
        pace.advanced(1);
        wait(&pace, 100);
        excused.set(false);
        assert!(matches!(pace.verdict(), ChannelError::TimedOut));
        wait(&pace, 10);
        assert!(matches!(pace.verdict(), ChannelError::TooSlow));
    }

    #[test]
    fn without_a_rate_nobody_is_too_slow() {
        let pace = Pace { rate: 0, ..pace(None) };
        pace.advanced(1);
        wait(&pace, 1000);
        assert!(matches!(pace.verdict(), ChannelError::TimedOut));
    }
}
