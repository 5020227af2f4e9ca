//! The maps, and the verdict's view of one bank of them. Names and layouts are `common`'s.
#![expect(unsafe_code, reason = "maps are declared with unsafe attributes; their cells are raw pointers")]

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, LpmTrie, PerCpuArray};
use mtls_appliance_common::layout::{
    Generation, MAX_ORGANISATIONS, MAX_PREFIXES, OrganisationSlot, PORT_WORDS, Policy, REASON_SLOTS, port_bit,
};
use mtls_appliance_common::{Address, Judgement, Tables};

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
static GUARD_REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(REASON_SLOTS, 0);
#[map]
static GUARD_ORGS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_ORGANISATIONS, 0);
#[map]
static GUARD_ORG_SLOTS: Array<OrganisationSlot> = Array::with_max_entries(MAX_ORGANISATIONS, 0);
#[map]
static GUARD_SAMPLE: Array<u64> = Array::with_max_entries(1, 0);

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

    /// The policy in this bank.
    #[inline(always)]
    pub(crate) fn policy(self) -> Policy {
        GUARD_POLICY.get(self.0).copied().unwrap_or_default()
    }
}

impl Tables for Bank {
    #[inline(always)]
    fn guards(&self, _destination: &Address, port: u16) -> bool {
        let (word, bit) = port_bit(self.0, port);
        GUARD_PORTS.get(word).is_some_and(|bits| bits & bit != 0)
    }

    #[inline(always)]
    fn organisation(&self, source: &Address) -> Option<u32> {
        match source {
            Address::V4(octets) => {
                let key = Key::new(32, *octets);
                if self.0 == 0 { GUARD_V4_0.get(&key) } else { GUARD_V4_1.get(&key) }
            }
            Address::V6(octets) => {
                let key = Key::new(128, *octets);
                if self.0 == 0 { GUARD_V6_0.get(&key) } else { GUARD_V6_1.get(&key) }
            }
        }
        .copied()
    }
}

/// Counts a packet for its reason and for its organisation.
#[inline(always)]
pub(crate) fn count(judgement: &Judgement) {
    increment(&GUARD_REASONS, judgement.reason.index());
    if let Some(organisation) = judgement.organisation {
        increment(&GUARD_ORGS, organisation);
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

/// The word of the pace of sampled events, shared by all CPUs.
#[inline(always)]
pub(crate) fn sample_due() -> Option<*mut u64> {
    GUARD_SAMPLE.get_ptr_mut(0)
}
