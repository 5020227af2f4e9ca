//! Sampled events out of the program's ring: packets that were dropped, or would have been.
//!
//! The program keeps the rate (`guard.log_per_second`). The ring has one reader, the daemon that loaded the program; who
//! wants to watch asks the daemon.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use aya::Ebpf;
use aya::maps::{MapData, MapError, RingBuf};
use mtls_appliance_common::Event;
use mtls_appliance_common::layout::{MANAGEMENT, map};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::GuardError;
use super::drop_log::whenever_readable;
use super::tables::{Tables, now};

/// Events that are read before others have their turn.
const BATCH: usize = 64;

/// The stream of sampled events.
pub struct EventStream {
    ring: RingBuf<MapData>,
}

impl EventStream {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<EventStream, GuardError> {
        let map = ebpf.take_map(map::EVENTS).ok_or_else(|| MapError::InvalidName { name: map::EVENTS.to_owned() });
        let ring = map.and_then(RingBuf::try_from).map_err(GuardError::kernel("opening the ring of events"))?;
        Ok(EventStream { ring })
    }

    /// Gives each event to `each` for as long as it is polled. Needs a tokio runtime with I/O, of any flavour.
    ///
    /// # Errors
    /// When the runtime cannot watch the ring.
    pub async fn run(self, mut each: impl FnMut(Event)) -> io::Result<()> {
        whenever_readable(self.ring, |ring| drain(ring, BATCH, &mut each)).await
    }

    /// The events that are in the ring now.
    pub fn waiting(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while drain(&mut self.ring, BATCH, &mut |event| events.push(event)) {}
        events
    }
}

/// Reads so many events, unless there are no more; whether there may be.
fn drain(ring: &mut RingBuf<MapData>, most: usize, each: &mut impl FnMut(Event)) -> bool {
    for _ in 0..most {
        let Some(bytes) = ring.next() else { return false };
        if let Some(event) = Event::from_bytes(&bytes) {
            each(event);
        }
    }
    true
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

/// An event for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// When, RFC 3339.
    pub time: String,
    /// `dropped` or `observed`.
    pub action: &'static str,
    /// The stable name of the reason.
    pub reason: &'static str,
    /// Where it claims to come from.
    pub source: IpAddr,
    /// Its port; 0 where there is no TCP segment.
    pub source_port: u16,
    /// Where it goes.
    pub destination: IpAddr,
    /// Its port.
    pub destination_port: u16,
    /// The first code of the organisation that owns the source.
    pub organisation: Option<String>,
    /// The guarded interface.
    pub interface: String,
    /// The index of the interface it came in by: of a bond that of the member.
    pub interface_index: u32,
}

impl Sample {
    pub(super) fn of(event: &Event, interface: &str, tables: &Tables) -> Sample {
        let ago = Duration::from_nanos(now().saturating_sub(event.time_ns));
        let time = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        let time = OffsetDateTime::from(time);
        // The program's clock ticks a few hundred times a second.
        let time = time.replace_millisecond(time.millisecond()).unwrap_or(time);
        let slot = event.organisation.filter(|slot| *slot != MANAGEMENT);
        Sample {
            time: time.format(&Rfc3339).unwrap_or_default(),
            action: event.action.name(),
            reason: event.reason.name(),
            source: event.segment.source.ip(),
            source_port: event.segment.source_port,
            destination: event.segment.destination.ip(),
            destination_port: event.segment.destination_port,
            organisation: slot.and_then(|slot| tables.organisation(slot)).map(str::to_owned),
            interface: interface.to_owned(),
            interface_index: event.interface,
        }
    }
}
