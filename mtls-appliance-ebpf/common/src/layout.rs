//! The maps between the XDP program and userspace: names, sizes, value layouts.
//!
//! A reload is one atomic step: everything that a decision is made from exists in two banks, and one word holds the active
//! [`Generation`]. Its lowest bit is the bank. Userspace fills the bank that is not active and then stores the next
//! generation; a packet reads the word once and uses that bank throughout. Counters are in maps that are never swapped.
//!
//! [`LAYOUT_VERSION`] names the folder of the pinned maps and is raised when a layout here changes its meaning.

use crate::pace::Pace;
use crate::reason::Action;
use crate::verdict::Address;

/// The version of everything in this module.
pub const LAYOUT_VERSION: u32 = 3;

/// VLAN tags that are looked through.
pub const MAX_VLAN_TAGS: usize = 4;
/// IPv6 extension headers that are looked through.
pub const MAX_IPV6_EXTENSION_HEADERS: usize = 6;
/// Prefixes of one family in the registry.
pub const MAX_PREFIXES: u32 = 1 << 17;
/// Organisations with a counter.
pub const MAX_ORGANISATIONS: u32 = 1 << 13;
/// Counters by reason; more than there are reasons, so that a new one does not change the layout.
pub const REASON_SLOTS: u32 = 32;
/// Destination addresses that are guarded, where not all are.
pub const MAX_ADDRESSES: u32 = 1 << 10;
/// Sources whose SYNs are counted; the least recently seen is forgotten.
pub const MAX_SOURCES: u32 = 1 << 16;
/// In place of an organisation's slot: a prefix that the operator manages the machine from.
pub const MANAGEMENT: u32 = u32::MAX;
/// Words of the bitmap of guarded ports of one bank.
pub const PORT_WORDS: u32 = 65536 / 64;

/// Bytes of the ring of events: a power of two, and pages of every architecture.
pub const EVENT_BYTES: u32 = 1 << 16;

/// The name of the program in the object and in the kernel.
pub const PROGRAM: &str = "mtls_guard";

/// Map names, at most 15 bytes each (`BPF_OBJ_NAME_LEN`).
pub mod map {
    /// `[Generation; 1]`: the active one.
    pub const ACTIVE: &str = "GUARD_ACTIVE";
    /// `[Policy; 2]`, by bank.
    pub const POLICY: &str = "GUARD_POLICY";
    /// `[u64; 2 * PORT_WORDS]`: a bitmap per bank.
    pub const PORTS: &str = "GUARD_PORTS";
    /// IPv4 prefix to organisation, by bank.
    pub const V4: [&str; 2] = ["GUARD_V4_0", "GUARD_V4_1"];
    /// IPv6 prefix to organisation, by bank.
    pub const V6: [&str; 2] = ["GUARD_V6_0", "GUARD_V6_1"];
    /// [`AddressKey`](super::AddressKey) to nothing of interest: guarded destination addresses.
    pub const ADDRESSES: &str = "GUARD_ADDRS";
    /// [`SourceKey`](super::SourceKey) to the time at which the source's next SYN is due.
    pub const SOURCES: &str = "GUARD_SOURCES";
    /// `[u64; MAX_ORGANISATIONS]`: when the organisation's next SYN is due.
    pub const ORGANISATION_DUE: &str = "GUARD_ORG_DUE";
    /// `[u64; 1]`: when the daemon gave its last sign of life.
    pub const HEARTBEAT: &str = "GUARD_HEARTBEAT";
    /// `[u64; 3 * REASON_SLOTS]` per CPU: packets by reason, a row for each [`Action`](crate::Action).
    pub const REASONS: &str = "GUARD_REASONS";
    /// `[u64; 2 * MAX_ORGANISATIONS]` per CPU: packets to guarded ports that the registry let in, and SYNs over budget.
    pub const ORGANISATIONS: &str = "GUARD_ORGS";
    /// `[OrganisationSlot; MAX_ORGANISATIONS]`: whose counter it is.
    pub const ORGANISATION_SLOTS: &str = "GUARD_ORG_SLOTS";
    /// `[u64; 1]`: when the next sampled event is due, see [`crate::pace`].
    pub const SAMPLE: &str = "GUARD_SAMPLE";
    /// `[NoteWords; 1]`: why the guard is attached as it is, for people: UTF-8, padded with zeros. No packet depends on it.
    pub const NOTE: &str = "GUARD_NOTE";
    /// Ring of [events](crate::event). Not pinned: it belongs to the program, so that a daemon never reads, nor takes away,
    /// what another one is to read.
    pub const EVENTS: &str = "GUARD_EVENTS";
    /// `[u64; 1]` per CPU: see [`Packet::settle`](crate::Packet::settle).
    pub const SCRATCH: &str = "GUARD_SCRATCH";
}

/// Counts the fillings of the maps; 0: nothing was ever filled in, nothing is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The bank it lives in: 0 or 1.
    #[inline(always)]
    pub const fn bank(self) -> u32 {
        (self.0 & 1) as u32
    }

    /// The next one, in the other bank.
    pub const fn next(self) -> Generation {
        Generation(self.0.wrapping_add(1))
    }
}

/// What an operator decided, apart from addresses, ports and sources. All zeros, as a map is made: off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Policy {
    /// See [`Policy::ENFORCE`] and its neighbours.
    pub flags: u64,
    /// The [bits](crate::Reason::bit) of the reasons that drop.
    pub drops: u64,
    /// SYNs of one source: an IPv4 address or an IPv6 /64; only with [`Policy::SOURCE_BUDGET`].
    pub source: Pace,
    /// SYNs of one organisation; only with [`Policy::ORGANISATION_BUDGET`].
    pub organisation: Pace,
    /// Nothing is dropped once the daemon has been silent for longer, in nanoseconds; 0: drops go on without it.
    pub open_after_ns: u64,
    /// How drops are sampled.
    pub sample: Pace,
}

/// [`Policy`] as plain words.
pub type PolicyWords = [u64; 9];

impl Policy {
    /// The guard judges packets at all.
    pub const ON: u64 = 1;
    /// What the verdict says is done; without it, only counted.
    pub const ENFORCE: u64 = 2;
    /// Every destination address is guarded.
    pub const ANY_ADDRESS: u64 = 4;
    /// Sources have a budget.
    pub const SOURCE_BUDGET: u64 = 8;
    /// Organisations have one.
    pub const ORGANISATION_BUDGET: u64 = 16;

    /// Whether a flag is set.
    #[inline(always)]
    pub const fn is(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// As it lies in the map.
    pub const fn to_words(self) -> PolicyWords {
        [
            self.flags,
            self.drops,
            self.source.interval_ns,
            self.source.burst_ns,
            self.organisation.interval_ns,
            self.organisation.burst_ns,
            self.open_after_ns,
            self.sample.interval_ns,
            self.sample.burst_ns,
        ]
    }

    /// From the words in the map.
    pub const fn from_words(words: PolicyWords) -> Policy {
        let [flags, drops, source, source_burst, organisation, organisation_burst, open_after_ns, sample, sample_burst] =
            words;
        Policy {
            flags,
            drops,
            source: Pace { interval_ns: source, burst_ns: source_burst },
            organisation: Pace { interval_ns: organisation, burst_ns: organisation_burst },
            open_after_ns,
            sample: Pace { interval_ns: sample, burst_ns: sample_burst },
        }
    }
}

const _: () = assert!(size_of::<Policy>() == size_of::<PolicyWords>());

/// A guarded destination address: its bank, and the address in words of 32 bits.
pub type AddressKey = [u32; 5];

/// The key of a guarded destination address.
#[inline(always)]
pub const fn address_key(bank: u32, address: &Address) -> AddressKey {
    let [high, low] = address.halves();
    [bank, (high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32]
}

/// Whose SYNs are counted together: the family, and the IPv4 address or the IPv6 /64.
pub type SourceKey = [u64; 2];

/// The key of a source.
#[inline(always)]
pub const fn source_key(source: &Address) -> SourceKey {
    let [high, low] = source.halves();
    if source.is_v6() { [6, high] } else { [4, low] }
}

/// The counter of a reason, by its index, in the row of an action.
#[inline(always)]
pub const fn reason_counter(action: Action, code: u32) -> u32 {
    action as u32 * REASON_SLOTS + code
}

/// The word and the bit of `port` in the bitmap of guarded ports.
#[inline(always)]
pub const fn port_bit(bank: u32, port: u16) -> (u32, u64) {
    (bank * PORT_WORDS + (port as u32 >> 6), 1 << (port & 63))
}

/// Whose counter a slot is. An organisation keeps its slot for as long as it is in the registry, across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct OrganisationSlot {
    /// By bank: the last generation there that the organisation was part of; 0: none. So the filling of one bank, which may
    /// come to nothing, does not touch what is known of the other.
    pub generations: [u64; 2],
    /// Its first code, padded with zeros.
    pub code: [u8; 16],
}

/// [`OrganisationSlot`] as plain words.
pub type OrganisationSlotWords = [u64; 4];

impl OrganisationSlot {
    /// A slot for the organisation with this code; `None` when the code is empty or longer than 16 bytes.
    pub fn new(generation: Generation, code: &str) -> Option<OrganisationSlot> {
        let mut padded = [0; 16];
        if code.is_empty() {
            return None;
        }
        padded.get_mut(..code.len())?.copy_from_slice(code.as_bytes());
        let mut slot = OrganisationSlot { generations: [0; 2], code: padded };
        slot.join(generation);
        Some(slot)
    }

    /// Makes the organisation part of this generation.
    pub fn join(&mut self, generation: Generation) {
        self.generations[generation.bank() as usize] = generation.0;
    }

    /// Makes it no part of this generation.
    pub fn leave(&mut self, generation: Generation) {
        self.generations[generation.bank() as usize] = 0;
    }

    /// Whether the organisation is part of this generation.
    pub fn is_of(&self, generation: Generation) -> bool {
        generation.0 != 0 && self.generations[generation.bank() as usize] == generation.0
    }

    /// The code; empty when the slot was never used.
    pub fn code(&self) -> &str {
        let length = self.code.iter().position(|b| *b == 0).unwrap_or(16);
        core::str::from_utf8(&self.code[..length]).unwrap_or("")
    }

    /// As it lies in the map.
    pub fn to_words(self) -> OrganisationSlotWords {
        let code = u128::from_ne_bytes(self.code);
        let [low, high] = if cfg!(target_endian = "little") {
            [code as u64, (code >> 64) as u64]
        } else {
            [(code >> 64) as u64, code as u64]
        };
        let [even, odd] = self.generations;
        [even, odd, low, high]
    }

    /// From the words in the map.
    pub fn from_words(words: OrganisationSlotWords) -> OrganisationSlot {
        let mut code = [0; 16];
        let [even, odd, low, high] = words;
        code[..8].copy_from_slice(&low.to_ne_bytes());
        code[8..].copy_from_slice(&high.to_ne_bytes());
        OrganisationSlot { generations: [even, odd], code }
    }
}

/// A text of at most 256 bytes.
pub type NoteWords = [u64; 32];

const _: () = assert!(size_of::<OrganisationSlot>() == size_of::<OrganisationSlotWords>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_name_fits_the_kernel() {
        let banks = map::V4.into_iter().chain(map::V6);
        let single = [
            map::ACTIVE,
            map::POLICY,
            map::PORTS,
            map::ADDRESSES,
            map::SOURCES,
            map::ORGANISATION_DUE,
            map::HEARTBEAT,
            map::REASONS,
            map::ORGANISATIONS,
            map::ORGANISATION_SLOTS,
            map::SAMPLE,
            map::NOTE,
            map::EVENTS,
            map::SCRATCH,
            PROGRAM,
        ];
        for name in banks.chain(single) {
            assert!(name.len() <= 15, "{name}");
        }
    }

    #[test]
    fn an_organisation_slot_survives_the_map() {
        for code in ["A", "ORG0000001", "0123456789abcdef"] {
            let slot = OrganisationSlot::new(Generation(7), code).unwrap();
            let back = OrganisationSlot::from_words(slot.to_words());
            assert_eq!(back, slot);
            assert_eq!(back.code(), code);
        }
        assert_eq!(OrganisationSlot::new(Generation(7), ""), None);
        assert_eq!(OrganisationSlot::new(Generation(7), "0123456789abcdefg"), None);
    }

    #[test]
    fn an_organisation_is_part_of_one_generation_whatever_becomes_of_the_next() {
        let (active, next) = (Generation(7), Generation(8));
        let mut slot = OrganisationSlot::new(active, "A").unwrap();
        assert!(slot.is_of(active) && !slot.is_of(next) && !slot.is_of(Generation(9)));
        slot.join(next);
        assert!(slot.is_of(active) && slot.is_of(next));
        slot.leave(next);
        assert!(slot.is_of(active) && !slot.is_of(next));
        assert!(!OrganisationSlot::default().is_of(Generation::default()), "nothing was ever filled in");
    }

    #[test]
    fn a_policy_survives_the_map_and_zeros_are_off() {
        let words = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert_eq!(Policy::from_words(words).to_words(), words);
        assert!(!Policy::from_words([0; 9]).is(Policy::ON));
        // As the program sees it, and as the words are written.
        assert_eq!(core::mem::offset_of!(Policy, open_after_ns), 6 * 8);
        assert_eq!(core::mem::offset_of!(Policy, sample), 7 * 8);
    }

    #[test]
    fn keys_tell_families_and_banks_apart() {
        let v4 = Address::v4([1, 2, 3, 4]);
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 1, 2, 3, 4]);
        assert_eq!(address_key(0, &v4), address_key(0, &Address::v6(mapped)));
        assert_ne!(address_key(0, &v4), address_key(1, &v4));
        assert_ne!(source_key(&v4), source_key(&Address::v6([0; 16])));
        let (mut near, mut far) = ([7; 16], [7; 16]);
        (near[15], far[7]) = (9, 9);
        assert_eq!(source_key(&Address::v6([7; 16])), source_key(&Address::v6(near)), "one /64");
        assert_ne!(source_key(&Address::v6([7; 16])), source_key(&Address::v6(far)));
    }

    #[test]
    fn generations_alternate_between_banks_and_ports_between_their_halves() {
        let first = Generation::default().next();
        assert_eq!((first.bank(), first.next().bank()), (1, 0));
        assert_eq!(port_bit(0, 0), (0, 1));
        assert_eq!(port_bit(0, 65535), (PORT_WORDS - 1, 1 << 63));
        assert_eq!(port_bit(1, 443), (PORT_WORDS + 6, 1 << 59));
    }
}
