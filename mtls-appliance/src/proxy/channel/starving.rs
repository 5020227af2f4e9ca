//! Waiting until a socket takes more, also where the kernel would wake nobody.
//!
//! When TCP's memory is used up (`net.ipv4.tcp_mem`), kernel TLS says "would block" with nothing on its way to the peer. What
//! wakes a writer is an acknowledgement, and none will come: without more the session would stand still long after there is
//! memory again. TCP without TLS on top sees to that by itself. So a socket that holds nothing is looked at again, at growing
//! intervals.

use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Channel, ChannelError, Patience};
use crate::ktls::{look_again, unacknowledged};

/// How often a peer that takes nothing into its window is looked at: it may still take what the socket holds.
const LOOK: Duration = Duration::from_secs(1);
/// How soon a socket that holds nothing is looked at again, at first; at most 64 times as much.
const SOON: Duration = Duration::from_millis(10);
const DOUBLINGS: u32 = 6;

/// Since when a session cannot send for want of memory, and how often it has been looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Starving {
    since: Instant,
    looks: u32,
}

impl Starving {
    fn pause(self) -> Duration {
        SOON * 2_u32.pow(self.looks.min(DOUBLINGS))
    }
}

impl Channel {
    /// Waits until the socket may take more, which was full.
    ///
    /// # Errors
    /// Time is up, or the socket failed.
    pub(super) async fn writable(&self, patience: Patience<'_>) -> Result<(), ChannelError> {
        // The socket may hold megabytes, and takes more only when a good part of them is gone: what the peer takes
        // meanwhile is seen by what it has acknowledged.
        let mut looked = Instant::now();
        let mut advanced = self.starving.get().map_or(looked, |starving| starving.since);
        let mut held = unacknowledged(self.tcp.as_fd())?;
        loop {
            let starving = (held == 0).then(|| self.starving.get().unwrap_or(Starving { since: looked, looks: 0 }));
            let look = looked + starving.map_or(LOOK, Starving::pause);
            let deadline = patience.deadline(advanced);
            let ready = timeout_at(deadline.min(look), self.tcp.writable()).await;
            let now = Instant::now();
            let holds = unacknowledged(self.tcp.as_fd())?;
            if let Patience::Pace(pace) = patience {
                // Who has got everything is not waited for.
                if starving.is_none() {
                    pace.waited(now - looked);
                }
                if holds < held {
                    pace.advanced(held - holds);
                    advanced = now;
                }
            }
            (looked, held) = (now, holds);
            match ready {
                Ok(result) => return Ok(result?),
                Err(_) if now >= deadline && now != advanced => {
                    return Err(if starving.is_some() { ChannelError::NoMemory } else { patience.verdict() });
                }
                Err(_) => {}
            }
            if let Some(starving) = starving {
                if starving.looks == 0 {
                    self.counters.sends_without_memory.increment();
                }
                self.starving.set(Some(Starving { looks: starving.looks + 1, ..starving }));
                look_again(self.tcp.as_fd())?;
            }
        }
    }
}
