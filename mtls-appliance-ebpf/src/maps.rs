//! The maps, and the verdict's view of one bank of them. Names and layouts are `common`'s.
#![expect(unsafe_code, reason = "maps are declared with unsafe attributes; their cells are raw pointers")]

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use mtls_appliance_common::event::EventWords;
use mtls_appliance_common::layout::{
    AddressKey, EVENT_BYTES, Generation, MAX_ADDRESSES, MAX_ORGANISATIONS, MAX_PREFIXES, MAX_SOURCES, NoteWords,
    OrganisationSlot, PORT_WORDS, Policy, REASON_SLOTS, SourceKey, address_key, port_bit, reason_counter, source_key,
};
use mtls_appliance_common::{Address, Judgement, Reason, Tables};

#[map]
static GUARD_ACTIVE: Array<Generation> = Array::with_max_entries(1, 0);
#[map]
static GUARD_POLICY: Array<Policy> = Array::with_max_entries(2, 0);
#[map]
static GUARD_PORTS: Array<u64> = Array::with_max_entries(2 * PORT_WORDS, 0);
#[map]
static GUARD_V4_0: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
static GUARD_V4_1: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
static GUARD_V6_0: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
static GUARD_V6_1: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
static GUARD_ADDRS: HashMap<AddressKey, u32> = HashMap::with_max_entries(2 * MAX_ADDRESSES, 0);
#[map]
static GUARD_SOURCES: LruHashMap<SourceKey, u64> = LruHashMap::with_max_entries(MAX_SOURCES, 0);
#[map]
static GUARD_ORG_DUE: Array<u64> = Array::with_max_entries(MAX_ORGANISATIONS, 0);
#[map]
static GUARD_HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static GUARD_REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(3 * REASON_SLOTS, 0);
#[map]
static GUARD_ORGS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2 * MAX_ORGANISATIONS, 0);
#[map]
static GUARD_ORG_SLOTS: Array<OrganisationSlot> = Array::with_max_entries(MAX_ORGANISATIONS, 0);
#[map]
static GUARD_SAMPLE: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static GUARD_NOTE: Array<NoteWords> = Array::with_max_entries(1, 0);
#[map]
static GUARD_EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);
#[map]
static GUARD_SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One of the two banks; read once per packet and used throughout.
#[derive(Clone, Copy)]
pub(crate) struct Bank(u32);

impl Bank {
    /// The bank of the active generation.
    #[inline(always)]
    pub(crate) fn active() -> Bank {
        match GUARD_ACTIVE.get_ptr(0) {
            // SAFETY: the kernel returned a pointer to the cell, 8 bytes and aligned to 8, valid while the program runs.
            // Userspace may store at any time: volatile reads it exactly once, in one 64-bit load.
            Some(cell) => Bank(unsafe { cell.read_volatile() }.bank()),
            None => Bank(0),
        }
    }
}

impl Tables for Bank {
    #[inline(always)]
    fn policy(&self) -> Policy {
        GUARD_POLICY.get(self.0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn guards_port(&self, port: u16) -> bool {
        let (word, bit) = port_bit(self.0, port);
        GUARD_PORTS.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn guards_address(&self, destination: &Address) -> bool {
        let key = address_key(self.0, destination);
        GUARD_ADDRS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn owner(&self, source: &Address) -> Option<u32> {
        if source.is_v6() {
            let key = Key::new(128, source.octets_v6());
            if self.0 == 0 { GUARD_V6_0.get(&key) } else { GUARD_V6_1.get(&key) }
        } else {
            let key = Key::new(32, source.octets_v4());
            if self.0 == 0 { GUARD_V4_0.get(&key) } else { GUARD_V4_1.get(&key) }
        }
        .copied()
    }

    #[inline(always)]
    fn source_due(&self, source: &Address) -> u64 {
        let key = source_key(source);
        read(GUARD_SOURCES.get_ptr(key))
    }

    #[inline(always)]
    fn organisation_due(&self, organisation: u32) -> u64 {
        read(GUARD_ORG_DUE.get_ptr(organisation))
    }

    #[inline(always)]
    fn heartbeat(&self) -> u64 {
        read(GUARD_HEARTBEAT.get_ptr(0))
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // The time of the last tick is fine enough, and under a flood the exact one would cost more than the rest.
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_coarse_ns() }
    }
}

/// Through a cell of this CPU's own and back: see [`Packet::settle`](mtls_appliance_common::Packet::settle).
#[inline(always)]
pub(crate) fn settle(word: u64) -> u64 {
    match GUARD_SCRATCH.get_ptr_mut(0) {
        // SAFETY: the kernel returned a pointer to this CPU's own cell, 8 bytes and aligned to 8, which no other packet
        // touches meanwhile: XDP programs run to their end on one CPU. Volatile, since the detour is the purpose.
        Some(cell) => unsafe {
            cell.write_volatile(word);
            cell.read_volatile()
        },
        None => word,
    }
}

/// Reads a shared word, exactly once; 0 when there is none.
#[inline(always)]
fn read(word: Option<*const u64>) -> u64 {
    match word {
        // SAFETY: the kernel returned a pointer to the cell, 8 bytes and aligned to 8, valid while the program runs. Others
        // may store at any time: a volatile 64-bit load is one instruction, and every algorithm here tolerates a race.
        Some(cell) => unsafe { cell.read_volatile() },
        None => 0,
    }
}

/// Stores when the next SYNs are due. Only sources that the registry knows come this far, so that nobody else can make the
/// kernel forget them.
#[inline(always)]
pub(crate) fn charge(judgement: &Judgement) {
    if let Some(due) = judgement.charge.source {
        let key = source_key(&judgement.segment.source);
        match GUARD_SOURCES.get_ptr_mut(key) {
            // SAFETY: as in `read`.
            Some(cell) => unsafe { cell.write_volatile(due) },
            // When the kernel has no room the source is new again with its next SYN.
            None => drop(GUARD_SOURCES.insert(key, due, 0)),
        }
    }
    if let (Some(due), Some(organisation)) = (judgement.charge.organisation, judgement.organisation)
        && let Some(cell) = GUARD_ORG_DUE.get_ptr_mut(organisation)
    {
        // SAFETY: as in `read`.
        unsafe { cell.write_volatile(due) };
    }
}

/// Counts a packet for its reason and for its organisation.
#[inline(always)]
pub(crate) fn count(judgement: &Judgement) {
    increment(&GUARD_REASONS, reason_counter(judgement.action, judgement.code));
    if let Some(organisation) = judgement.organisation {
        let over = [Reason::SourceOverBudget.index(), Reason::OrganisationOverBudget.index()].contains(&judgement.code);
        increment(&GUARD_ORGS, 2 * organisation + over as u32);
    }
}

#[inline(always)]
fn increment(counters: &PerCpuArray<u64>, index: u32) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the kernel returned a pointer to this CPU's own cell, which no other packet touches meanwhile:
        // XDP programs run to their end on one CPU.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// Puts an event into the ring. When there is no room, because nobody reads, it is lost: what is in the ring stays.
#[inline(always)]
pub(crate) fn tell(event: EventWords) {
    let _ = GUARD_EVENTS.output::<EventWords>(event, 0);
}

/// The word of the pace of sampled events, shared by all CPUs.
#[inline(always)]
pub(crate) fn sample_due() -> Option<*mut u64> {
    GUARD_SAMPLE.get_ptr_mut(0)
}
