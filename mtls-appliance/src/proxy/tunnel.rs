//! A tunnel: what two sessions carry after 101 (Switching Protocols, RFC 9110 7.8). Nothing of it is understood here.
//!
//! Each direction goes its own way and waits for nobody but its own two ends: one that cannot be written does not keep
//! the other from moving. A close_notify is passed on as a close_notify while the other direction goes on; what ends
//! otherwise is reset towards both sides. Whoever may no longer call loses the tunnel, too.

use std::cell::Cell;
use std::future::pending;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::buffer::Buffer;
use super::channel::{Channel, ChannelError, Filled, Patience, Read};
use super::client::Caller;
use super::exchange::Failure;
use super::relay::{Moved, ROUNDS, SPLICE_AT_ONCE};
use crate::app::Shared;
use crate::http1::{Offer, RequestHead};
use crate::ktls::splice::Pipe;
use crate::live::Live;
use crate::telemetry::{Counters, DataPath};

/// Between two looks at the caller's standing, the keys and the time.
const CHECK: Duration = Duration::from_secs(1);
/// What an orderly end before the drain deadline may take.
const CLOSING: Duration = Duration::from_secs(1);
/// Waiting for bytes is limited for both directions together, not for one.
const FOREVER: Patience = Patience::Stall(Duration::from_secs(30 * 86_400));
/// One read of so many bytes is taken for the beginning of many more.
const BULK: u64 = 16 * 1024;
/// A spliced record of fewer bytes ends the bulk: what comes next is copied, several records at once.
const SMALL: usize = 4 * 1024;

/// Decides about the client's Upgrade and counts one that ends here. A connection that is to end carries no tunnel.
pub(super) fn offer(
    head: &RequestHead,
    buffer: &[u8],
    allowed: &[String],
    closing: bool,
    counters: &Counters,
) -> Offer {
    let offer = match head.offer(buffer, allowed) {
        Offer::Protocols(_) if closing => Offer::Dropped("connection_closing"),
        offer => offer,
    };
    if let Offer::Dropped(reason) = offer {
        counters.refuse("upgrade_dropped", reason);
    }
    offer
}

/// How a tunnel ended.
pub(super) struct End {
    /// Why, unless both sides had said close_notify.
    pub(super) failure: Option<Failure>,
    /// Whether the client has got everything that was taken from the origin, so that it may be closed in order.
    pub(super) client_whole: bool,
    /// The same for the origin.
    pub(super) origin_whole: bool,
}

/// What both directions and their supervisor have in common.
pub(super) struct Tunnel<'a> {
    pub(super) shared: &'a Shared,
    pub(super) live: &'a Live,
    pub(super) caller: &'a Caller,
    pub(super) client: &'a Channel,
    pub(super) origin: &'a Channel,
    /// Reads of so many bytes, or of [`BULK`], are followed by splicing; or why none is.
    pub(super) splice_from: Result<u64, DataPath>,
    /// Whether the kernel takes over sessions that are not there yet.
    pub(super) hand_over: bool,
}

/// Counts a tunnel for as long as it is open.
struct Open<'a>(&'a Counters);

impl<'a> Open<'a> {
    fn new(counters: &'a Counters) -> Self {
        counters.tunnels_opened.increment();
        counters.tunnels_open.increment();
        Self(counters)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.tunnels_open.decrement();
    }
}

/// Where a direction stands.
struct Flow<'a> {
    moved: &'a Cell<Moved>,
    /// When its bytes last advanced.
    advanced: Cell<Instant>,
    /// Bytes were taken from one side and not yet given to the other.
    holding: Cell<bool>,
}

impl<'a> Flow<'a> {
    fn new(moved: &'a Cell<Moved>) -> Self {
        Self { moved, advanced: Cell::new(Instant::now()), holding: Cell::new(false) }
    }
}

/// Which side broke a direction.
enum Broken {
    From(ChannelError),
    To(ChannelError),
}

impl Tunnel<'_> {
    /// Runs until both sides have closed, one breaks, or it must end. `head` goes to the client first; the buffers hold
    /// what either side has sent behind its head.
    pub(super) async fn run(
        self,
        head: Vec<u8>,
        (from_client, up): (&mut Buffer, &Cell<Moved>),
        (from_origin, down): (&mut Buffer, &Cell<Moved>),
    ) -> End {
        let _open = Open::new(&self.shared.counters);
        let (up, down) = (Flow::new(up), Flow::new(down));
        let upwards = Direction { tunnel: &self, from: self.client, to: self.origin, flow: &up, pending: Vec::new() };
        let downwards = Direction { tunnel: &self, from: self.origin, to: self.client, flow: &down, pending: head };
        let broken = |failure| End { failure: Some(failure), client_whole: false, origin_whole: false };
        if self.hand_over {
            if let Err(error) = self.client.to_kernel() {
                return broken(Failure::client(error.reason(), 0));
            }
            if let Err(error) = self.origin.to_kernel() {
                return broken(Failure::origin(error.reason(), 502));
            }
        }
        let mut upwards = pin!(upwards.pass(from_client));
        let mut downwards = pin!(downwards.pass(from_origin));
        let mut supervisor = pin!(self.supervise(&up, &down));
        let (mut up_ended, mut down_ended) = (false, false);
        while !(up_ended && down_ended) {
            tokio::select! {
                biased;
                result = &mut upwards, if !up_ended => match result {
                    Ok(()) => up_ended = true,
                    Err(Broken::From(error)) => return broken(Failure::client(error.reason(), 0)),
                    Err(Broken::To(error)) => return broken(Failure::origin(error.reason(), 502)),
                },
                result = &mut downwards, if !down_ended => match result {
                    Ok(()) => down_ended = true,
                    Err(Broken::From(error)) => return broken(Failure::origin(error.reason(), 502)),
                    Err(Broken::To(error)) => return broken(Failure::client(error.reason(), 0)),
                },
                end = &mut supervisor => return end,
            }
        }
        End { failure: None, client_whole: true, origin_whole: true }
    }

    /// Comes to an end when the tunnel must.
    async fn supervise(&self, up: &Flow<'_>, down: &Flow<'_>) -> End {
        let own = |reason| End {
            failure: Some(Failure::own(reason)),
            client_whole: !down.holding.get(),
            origin_whole: !up.holding.get(),
        };
        let mut phase = self.shared.phase.subscribe();
        let mut generation = self.live.generation;
        let mut drained: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if drained.is_none() && phase.borrow_and_update().is_draining() {
                let drain = self.shared.live.load().config.timeouts.drain;
                // Before the deadline at which everything that is left is cut off.
                drained = Some(now + drain.saturating_sub(CLOSING.min(drain / 4)));
            }
            let idle = up.advanced.get().max(down.advanced.get()) + self.live.config.timeouts.tunnel_idle;
            if idle <= now {
                return own("tunnel_idle");
            }
            if drained.is_some_and(|drained| drained <= now) {
                return own("drained");
            }
            if self.client.must_retire() || self.origin.must_retire() {
                return own("key_limit");
            }
            let live = self.shared.live.load();
            if let Err(reason) = self.caller.still_good(&live, generation) {
                self.shared.counters.refuse("identity_refused", reason);
                // Cut off: neither side shall take what it has got for all there was.
                return End { failure: Some(Failure::client(reason, 0)), client_whole: false, origin_whole: false };
            }
            generation = live.generation;
            let next = [Some(idle), drained].into_iter().flatten().fold(now + CHECK, Instant::min);
            drop(live);
            tokio::select! {
                () = sleep_until(next) => {}
                changed = phase.changed(), if drained.is_none() => if changed.is_err() {
                    // Nobody is left to change it: the process ends.
                    pending::<()>().await;
                },
            }
        }
    }
}

/// One direction of a tunnel.
struct Direction<'a> {
    tunnel: &'a Tunnel<'a>,
    from: &'a Channel,
    to: &'a Channel,
    flow: &'a Flow<'a>,
    /// Bytes to be written before the next.
    pending: Vec<u8>,
}

impl Direction<'_> {
    /// Moves everything up to the close_notify of the side that it comes from, and passes that on.
    async fn pass(mut self, buffer: &mut Buffer) -> Result<(), Broken> {
        let mut bulk = false;
        let mut rounds = 0;
        loop {
            if !buffer.is_empty() || !self.pending.is_empty() {
                self.flow.holding.set(true);
                self.to.write_all(&[&self.pending, buffer.filled()], self.stall()).await.map_err(Broken::To)?;
                self.pending = Vec::new();
                self.copied(buffer.len());
                buffer.consume(buffer.len());
            }
            rounds = (rounds + 1) % ROUNDS;
            if rounds == 0 {
                tokio::task::yield_now().await;
            }
            if bulk && self.to.is_kernel() {
                match self.splice().await? {
                    Filled::Bytes(n) => {
                        bulk = n >= SMALL;
                        continue;
                    }
                    Filled::Nothing => {
                        self.from.readable(FOREVER).await.map_err(Broken::From)?;
                        continue;
                    }
                    // The ordinary read takes it.
                    Filled::Control => {}
                }
            }
            match self.from.try_read(buffer).map_err(Broken::From)? {
                Some(Read::Data(n)) => bulk = self.tunnel.splice_from.is_ok_and(|from| n as u64 >= from.min(BULK)),
                Some(Read::Closed) => break,
                None => self.from.readable(FOREVER).await.map_err(Broken::From)?,
            }
        }
        match self.to.finish(self.stall()).await {
            // One that has said its last word and is gone misses nothing.
            Err(_) if self.to.peer_closed() => Ok(()),
            result => result.map_err(Broken::To),
        }
    }

    /// One round through a pipe, which goes back as soon as it is empty: an idle tunnel has none.
    async fn splice(&self) -> Result<Filled, Broken> {
        let Ok(mut pipe) = Pipe::borrow() else {
            // Out of descriptors: copied instead.
            self.tunnel.shared.counters.refuse("not_spliced", "no_pipe");
            return Ok(Filled::Control);
        };
        let filled = self.from.try_splice_into(&mut pipe, SPLICE_AT_ONCE as usize).map_err(Broken::From)?;
        if let Filled::Bytes(n) = filled {
            self.flow.holding.set(true);
            self.to.splice_from(&mut pipe, self.stall()).await.map_err(Broken::To)?;
            let moved = self.flow.moved.get();
            self.flow.moved.set(Moved { spliced: moved.spliced + n as u64, ..moved });
            self.tunnel.shared.counters.bytes_spliced.add(n as u64);
            self.advanced(n);
        }
        Ok(filled)
    }

    fn stall(&self) -> Patience<'static> {
        Patience::Stall(self.tunnel.live.config.timeouts.body)
    }

    fn copied(&self, n: usize) {
        let moved = self.flow.moved.get();
        let copied_because = Some(self.tunnel.splice_from.err().unwrap_or(DataPath::KernelBelowThreshold));
        self.flow.moved.set(Moved { copied: moved.copied + n as u64, copied_because, ..moved });
        self.tunnel.shared.counters.bytes_copied.add(n as u64);
        self.advanced(n);
    }

    /// `n` bytes have come through, and nothing is held any more.
    fn advanced(&self, n: usize) {
        self.tunnel.shared.counters.tunnel_bytes.add(n as u64);
        self.flow.holding.set(false);
        self.flow.advanced.set(Instant::now());
    }
}
