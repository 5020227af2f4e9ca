//! A packet that was dropped, or would have been, as the program tells userspace about it: some of them, at the policy's
//! [pace](crate::layout::Policy::sample).

use crate::reason::{Action, Reason};
use crate::verdict::{Address, Judgement, Segment};

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When, in nanoseconds of the clock that the program reads.
    pub time_ns: u64,
    /// What happened to it.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The segment; ports are zero where there is none.
    pub segment: Segment,
    /// The slot of the organisation that owns the source, when it was looked up and found.
    pub organisation: Option<u32>,
    /// The interface it came in by.
    pub interface: u32,
}

/// [`Event`] as it lies in the ring: plain words.
pub type EventWords = [u64; 8];

/// In place of a slot: none.
const NONE: u32 = u32::MAX;
const OPENS: u64 = 1 << 33;
const IS_V6: u64 = 1 << 34;

/// What the program puts into the ring.
#[inline(always)]
pub fn words(time_ns: u64, judgement: &Judgement, interface: u32) -> EventWords {
    let segment = &judgement.segment;
    let [source_high, source_low] = segment.source.halves();
    let [destination_high, destination_low] = segment.destination.halves();
    let flag = |set: bool, bit| if set { bit } else { 0 };
    let organisation = match judgement.organisation {
        Some(slot) => slot,
        None => NONE,
    };
    [
        time_ns,
        (judgement.action as u64) << 32 | judgement.code as u64,
        source_high,
        source_low,
        destination_high,
        destination_low,
        (interface as u64) << 32 | organisation as u64,
        (segment.source_port as u64) << 16
            | segment.destination_port as u64
            | flag(segment.opens, OPENS)
            | flag(segment.source.is_v6(), IS_V6),
    ]
}

impl Event {
    /// From the words in the ring; `None` when they are no event of this version.
    pub fn from_words(words: EventWords) -> Option<Event> {
        let [time_ns, why, source_high, source_low, destination_high, destination_low, whose, ports] = words;
        let is_v6 = ports & IS_V6 != 0;
        let organisation = whose as u32;
        Some(Event {
            time_ns,
            action: *Action::ALL.get((why >> 32) as usize)?,
            reason: *Reason::ALL.get(why as u32 as usize)?,
            segment: Segment {
                source: Address::from_halves(is_v6, [source_high, source_low]),
                destination: Address::from_halves(is_v6, [destination_high, destination_low]),
                source_port: (ports >> 16) as u16,
                destination_port: ports as u16,
                opens: ports & OPENS != 0,
            },
            organisation: if organisation == NONE { None } else { Some(organisation) },
            interface: (whose >> 32) as u32,
        })
    }

    /// From the bytes in the ring.
    pub fn from_bytes(bytes: &[u8]) -> Option<Event> {
        let bytes: &[u8; size_of::<EventWords>()] = bytes.try_into().ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        let mut all = EventWords::default();
        for (word, bytes) in all.iter_mut().zip(words) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Event::from_words(all)
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::verdict::Charge;

    #[test]
    fn an_event_survives_the_ring() {
        let sources = [Address::v4([203, 0, 113, 9]), Address::v6([0x20; 16])];
        for (source, organisation) in sources.into_iter().zip([None, Some(8191)]) {
            for action in [Action::Drop, Action::Observed] {
                for reason in Reason::ALL {
                    let segment = Segment {
                        source,
                        destination: source,
                        source_port: 65535,
                        destination_port: 443,
                        opens: organisation.is_none(),
                    };
                    let judgement = Judgement {
                        action,
                        code: reason.index(),
                        is_read: true,
                        segment,
                        organisation,
                        charge: Charge::default(),
                    };
                    let words = words(u64::MAX, &judgement, 7);
                    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                    let expected =
                        Event { time_ns: u64::MAX, action, reason: *reason, segment, organisation, interface: 7 };
                    assert_eq!(Event::from_bytes(&bytes), Some(expected));
                    assert_eq!(Event::from_bytes(&bytes[1..]), None);
                }
            }
        }
        let mut unknown = [0; 8];
        assert!(Event::from_words(unknown).is_some());
        unknown[1] = 3 << 32;
        assert_eq!(Event::from_words(unknown), None);
        unknown[1] = 31;
        assert_eq!(Event::from_words(unknown), None);
    }
}
