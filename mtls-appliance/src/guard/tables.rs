//! The maps, typed: the registry goes in, counters come out.
//!
//! A reload fills the bank that no packet reads and then stores the next generation: see
//! [`mtls_appliance_common::layout`]. What is only read is in `read`.

mod read;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap as BpfHashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use ipnet::IpNet;
use mtls_appliance_common::Address;
use mtls_appliance_common::layout::{
    AddressKey, Generation, MANAGEMENT, MAX_ADDRESSES, MAX_ORGANISATIONS, MAX_PREFIXES, NoteWords, OrganisationSlot,
    OrganisationSlotWords, PORT_WORDS, Policy, PolicyWords, SourceKey, address_key, map, port_bit,
};

use super::GuardError;
use super::pins::Pins;
use crate::registry::Registry;

type Trie<const N: usize> = LpmTrie<MapData, [u8; N], u32>;
type Prefixes<const N: usize> = HashMap<(u32, [u8; N]), u32>;

/// Handles to the maps of one guard.
pub(super) struct Tables {
    active: Array<MapData, u64>,
    policies: Array<MapData, PolicyWords>,
    ports: Array<MapData, u64>,
    v4: [Trie<4>; 2],
    v6: [Trie<16>; 2],
    addresses: BpfHashMap<MapData, AddressKey, u32>,
    sources: BpfHashMap<MapData, SourceKey, u64>,
    organisation_due: Array<MapData, u64>,
    heartbeat: Array<MapData, u64>,
    reasons: PerCpuArray<MapData, u64>,
    organisations: PerCpuArray<MapData, u64>,
    slot_map: Array<MapData, OrganisationSlotWords>,
    note: Array<MapData, NoteWords>,
    /// What is in `slot_map`, up to the first slot that was never used.
    slots: Vec<OrganisationSlot>,
}

/// What is guarded and from whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contents<'a> {
    pub(super) ports: &'a [u16],
    pub(super) addresses: &'a [IpAddr],
    pub(super) management: &'a [IpNet],
    pub(super) policy: Policy,
    pub(super) registry: &'a Registry,
}

/// How much a generation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) generation: Generation,
    pub(super) ipv4: usize,
    pub(super) ipv6: usize,
}

impl Tables {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Tables, GuardError> {
        Tables::from(|name| ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() }))
            .map_err(GuardError::kernel("looking for the program's maps"))?
            .with_slots()
    }

    /// Opens the maps that are pinned: those of the guard at the interface, whoever attached it.
    pub(super) fn open(pins: &Pins) -> Result<Tables, GuardError> {
        Tables::from(|name| Map::from_map_data(MapData::from_pin(pins.map(name))?))
            .map_err(|error| pins.unusable(&error))?
            .with_slots()
    }

    fn from(mut find: impl FnMut(&str) -> Result<Map, MapError>) -> Result<Tables, MapError> {
        Ok(Tables {
            active: find(map::ACTIVE)?.try_into()?,
            policies: find(map::POLICY)?.try_into()?,
            ports: find(map::PORTS)?.try_into()?,
            v4: [find(map::V4[0])?.try_into()?, find(map::V4[1])?.try_into()?],
            v6: [find(map::V6[0])?.try_into()?, find(map::V6[1])?.try_into()?],
            addresses: find(map::ADDRESSES)?.try_into()?,
            sources: find(map::SOURCES)?.try_into()?,
            organisation_due: find(map::ORGANISATION_DUE)?.try_into()?,
            heartbeat: find(map::HEARTBEAT)?.try_into()?,
            reasons: find(map::REASONS)?.try_into()?,
            organisations: find(map::ORGANISATIONS)?.try_into()?,
            slot_map: find(map::ORGANISATION_SLOTS)?.try_into()?,
            note: find(map::NOTE)?.try_into()?,
            slots: Vec::new(),
        })
    }

    fn with_slots(mut self) -> Result<Tables, GuardError> {
        self.read_slots()?;
        Ok(self)
    }

    /// Reads which organisation has which slot, as the last one to fill the maps left it.
    pub(super) fn read_slots(&mut self) -> Result<(), GuardError> {
        self.slots.clear();
        for index in 0..MAX_ORGANISATIONS {
            let words = self.slot_map.get(&index, 0).map_err(GuardError::kernel("reading the organisations"))?;
            let slot = OrganisationSlot::from_words(words);
            if slot.code().is_empty() {
                break;
            }
            self.slots.push(slot);
        }
        Ok(())
    }

    /// The generation that packets are judged by.
    pub(super) fn active(&self) -> Result<Generation, GuardError> {
        let word = self.active.get(&0, 0).map_err(GuardError::kernel("reading the active generation"))?;
        Ok(Generation(word))
    }

    /// Fills the bank that no packet reads. Nothing changes for packets until [`Tables::activate`].
    pub(super) fn fill(&mut self, contents: Contents<'_>) -> Result<Filled, GuardError> {
        let active = self.active()?;
        let generation = active.next();
        let owners = self.assign_slots(contents.registry, active, generation)?;
        let (v4, v6) = by_family(contents.registry.prefixes(), &owners, contents.management);
        if contents.addresses.len() > MAX_ADDRESSES as usize {
            return Err(GuardError::TooManyAddresses { count: contents.addresses.len() });
        }
        for (family, count) in [(4, v4.len()), (6, v6.len())] {
            if count > MAX_PREFIXES as usize {
                return Err(GuardError::TooManyPrefixes { family, count });
            }
        }
        wait_for_packets_in_flight();
        let bank = generation.bank();
        let [even, odd] = &mut self.v4;
        replace(if bank == 0 { even } else { odd }, &v4)?;
        let [even, odd] = &mut self.v6;
        replace(if bank == 0 { even } else { odd }, &v6)?;
        self.replace_addresses(bank, contents.addresses)?;
        let mut bitmap = vec![0u64; PORT_WORDS as usize];
        for port in contents.ports {
            let (word, bit) = port_bit(0, *port);
            bitmap[word as usize] |= bit;
        }
        for (word, bits) in (bank * PORT_WORDS..).zip(bitmap) {
            self.ports.set(word, bits, 0).map_err(GuardError::kernel("writing the guarded ports"))?;
        }
        self.policies.set(bank, contents.policy.to_words(), 0).map_err(GuardError::kernel("writing the policy"))?;
        Ok(Filled { generation, ipv4: v4.len(), ipv6: v6.len() })
    }

    /// Makes a bank hold exactly these guarded addresses.
    fn replace_addresses(&mut self, bank: u32, wanted: &[IpAddr]) -> Result<(), GuardError> {
        let wanted: Vec<AddressKey> = wanted.iter().map(|ip| address_key(bank, &Address::from(*ip))).collect();
        let held = self.addresses.keys().collect::<Result<Vec<_>, MapError>>();
        for key in held.map_err(GuardError::kernel("reading the guarded addresses"))? {
            if key.first() == Some(&bank) && !wanted.contains(&key) {
                self.addresses.remove(&key).map_err(GuardError::kernel("removing a guarded address"))?;
            }
        }
        for key in wanted {
            self.addresses.insert(key, 1, 0).map_err(GuardError::kernel("adding a guarded address"))?;
        }
        Ok(())
    }

    /// Stores that the daemon is there: now, by the clock that the program reads.
    pub(super) fn beat(&mut self) -> Result<(), GuardError> {
        self.heartbeat.set(0, now(), 0).map_err(GuardError::kernel("writing a sign of life"))
    }

    /// Keeps for later why the guard is attached as it is; what is longer than the map is cut off.
    pub(super) fn set_note(&mut self, text: &str) -> Result<(), GuardError> {
        let mut words = NoteWords::default();
        let fits = text.floor_char_boundary(size_of::<NoteWords>());
        for (word, bytes) in words.iter_mut().zip(text.as_bytes()[..fits].chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }
        self.note.set(0, words, 0).map_err(GuardError::kernel("writing why the guard is attached as it is"))
    }

    /// The one step in which every packet from now on is judged by what was filled in. Packets look at the lowest bit
    /// alone, so that it would be one step even if the kernel stored the word byte by byte.
    pub(super) fn activate(&mut self, filled: Filled) -> Result<(), GuardError> {
        self.active.set(0, filled.generation.0, 0).map_err(GuardError::kernel("activating the new generation"))
    }

    /// The slot of each organisation, by its first code. An organisation keeps its slot; a new one gets a slot that neither
    /// the active generation nor the new one uses.
    fn assign_slots(
        &mut self,
        registry: &Registry,
        active: Generation,
        generation: Generation,
    ) -> Result<Vec<u32>, GuardError> {
        let codes =
            registry.organisations.iter().map(|organisation| organisation.codes.first().map_or("", String::as_str));
        let assigned = allocate(&self.slots, codes, active, generation)?;
        for index in &assigned.reused {
            let cpus = aya::util::nr_cpus().map_err(|(_, error)| GuardError::kernel("counting the CPUs")(error))?;
            for counter in [2 * index, 2 * index + 1] {
                let zeros = PerCpuValues::try_from(vec![0; cpus]).map_err(GuardError::kernel("counting the CPUs"))?;
                self.organisations.set(counter, zeros, 0).map_err(GuardError::kernel("resetting a counter"))?;
            }
            self.organisation_due.set(*index, 0, 0).map_err(GuardError::kernel("resetting a budget"))?;
        }
        for index in assigned.owners.iter().chain(&assigned.dropped) {
            self.slot_map
                .set(*index, assigned.slots[*index as usize].to_words(), 0)
                .map_err(GuardError::kernel("writing the organisations"))?;
        }
        self.slots = assigned.slots;
        Ok(assigned.owners)
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

/// The time by the clock that the program reads, in nanoseconds.
pub(super) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

struct Assigned {
    /// All slots as they are to be.
    slots: Vec<OrganisationSlot>,
    /// By position in the registry.
    owners: Vec<u32>,
    /// Slots that belonged to another organisation before.
    reused: Vec<u32>,
    /// Slots of organisations that an earlier filling for this generation, which came to nothing, made part of it.
    dropped: Vec<u32>,
}

fn allocate<'a>(
    slots: &[OrganisationSlot],
    codes: impl Iterator<Item = &'a str>,
    active: Generation,
    generation: Generation,
) -> Result<Assigned, GuardError> {
    let mut slots = slots.to_vec();
    let mut dropped = Vec::new();
    for (index, slot) in (0..).zip(slots.iter_mut()).filter(|(_, slot)| slot.is_of(generation)) {
        slot.leave(generation);
        dropped.push(index);
    }
    let mut by_code: HashMap<String, u32> = (0..).zip(&slots).map(|(i, slot)| (slot.code().to_owned(), i)).collect();
    let wanted: Vec<Option<OrganisationSlot>> = codes.map(|code| OrganisationSlot::new(generation, code)).collect();
    // Organisations that stay first: their slots are then no longer free.
    for slot in wanted.iter().flatten() {
        if let Some(index) = by_code.get(slot.code()) {
            slots[*index as usize].join(generation);
        }
    }
    let in_use = |slot: &OrganisationSlot| slot.is_of(active) || slot.is_of(generation);
    let free: Vec<usize> = (0..slots.len()).filter(|i| !in_use(&slots[*i])).collect();
    let mut free = free.into_iter();
    let (mut owners, mut reused) = (Vec::with_capacity(wanted.len()), Vec::new());
    for slot in wanted {
        let slot = slot.ok_or_else(|| GuardError::Kernel {
            doing: "giving organisations their counters",
            message: "an organisation's first code is empty or longer than 16 bytes".to_owned(),
        })?;
        let index = match by_code.get(slot.code()) {
            Some(index) => *index,
            None if slots.len() < MAX_ORGANISATIONS as usize => {
                slots.push(slot);
                slots.len() as u32 - 1
            }
            None => {
                let index = free.next().ok_or(GuardError::TooManyOrganisations)?;
                slots[index] = slot;
                reused.push(index as u32);
                index as u32
            }
        };
        by_code.insert(slot.code().to_owned(), index);
        owners.push(index);
    }
    Ok(Assigned { slots, owners, reused, dropped })
}

/// Prefixes by family, each with its organisation's slot, or [`MANAGEMENT`]: that includes every registered prefix inside
/// a management prefix, since the longest one is what counts.
fn by_family(
    prefixes: impl Iterator<Item = (IpNet, usize)>,
    owners: &[u32],
    management: &[IpNet],
) -> (Prefixes<4>, Prefixes<16>) {
    let mut v4 = Prefixes::new();
    let mut v6 = Prefixes::new();
    let owned = prefixes.map(|(prefix, organisation)| {
        let managed = management.iter().any(|all| all.contains(&prefix));
        (prefix, if managed { MANAGEMENT } else { owners[organisation] })
    });
    for (prefix, owner) in owned.chain(management.iter().map(|prefix| (*prefix, MANAGEMENT))) {
        let length = u32::from(prefix.prefix_len());
        match prefix.network() {
            IpAddr::V4(address) => v4.insert((length, address.octets()), owner),
            IpAddr::V6(address) => v6.insert((length, address.octets()), owner),
        };
    }
    (v4, v6)
}

/// Makes a trie hold exactly these prefixes.
fn replace<const N: usize>(trie: &mut Trie<N>, wanted: &Prefixes<N>) -> Result<(), GuardError> {
    let held = trie.keys().collect::<Result<Vec<_>, MapError>>().map_err(GuardError::kernel("reading the prefixes"))?;
    for key in held {
        if !wanted.contains_key(&(key.prefix_len(), key.data())) {
            trie.remove(&key).map_err(GuardError::kernel("removing a prefix"))?;
        }
    }
    for ((length, address), owner) in wanted {
        insert(trie, &Key::new(*length, *address), *owner).map_err(GuardError::kernel("adding a prefix"))?;
    }
    Ok(())
}

/// On newer kernels nodes come from a small reserve that the kernel refills in the background and without waiting for memory,
/// so that many insertions in a row can find it empty for a moment.
fn insert<const N: usize>(trie: &mut Trie<N>, key: &Key<[u8; N]>, owner: u32) -> Result<(), MapError> {
    let mut attempts = 0;
    loop {
        match trie.insert(key, owner, 0) {
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOMEM) && attempts < 100 =>
            {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

/// Waits until no packet reads the bank that was active before the last reload: programs run in an RCU read-side section,
/// and `MEMBARRIER_CMD_GLOBAL` waits for all of those (synchronize_rcu). Where the kernel refuses it (nohz_full), a time
/// far longer than any packet takes.
fn wait_for_packets_in_flight() {
    if rustix::thread::membarrier(rustix::thread::MembarrierCommand::Global).is_err() {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(slots: &mut Vec<OrganisationSlot>, codes: &[&str], active: u64) -> Result<Assigned, GuardError> {
        let assigned = allocate(slots, codes.iter().copied(), Generation(active), Generation(active).next())?;
        slots.clone_from(&assigned.slots);
        Ok(assigned)
    }

    #[test]
    fn an_organisation_keeps_its_counter_whatever_is_added_before_it() {
        let mut slots = Vec::new();
        assert_eq!(assign(&mut slots, &["B", "C"], 0).unwrap().owners, [0, 1]);
        assert_eq!(assign(&mut slots, &["A", "B", "C"], 1).unwrap().owners, [2, 0, 1]);
        assert_eq!(assign(&mut slots, &["C"], 2).unwrap().owners, [1]);
        let back = assign(&mut slots, &["A"], 3).unwrap();
        assert_eq!((back.owners, back.reused), (vec![2], vec![]));
    }

    #[test]
    fn a_counter_is_given_away_only_when_no_generation_uses_it() {
        let codes: Vec<String> = (0..MAX_ORGANISATIONS).map(|i| format!("O{i}")).collect();
        let all: Vec<&str> = codes.iter().map(String::as_str).collect();
        let mut slots = Vec::new();
        assign(&mut slots, &all, 0).unwrap();
        let mut swapped = all.clone();
        swapped[7] = "NEW";
        let refused = assign(&mut slots.clone(), &swapped, 1);
        assert!(matches!(refused, Err(GuardError::TooManyOrganisations)));
        assign(&mut slots, &all[..100], 1).unwrap();
        let assigned = assign(&mut slots, &["NEW"], 2).unwrap();
        assert_eq!((assigned.owners, assigned.reused), (vec![100], vec![100]));
        assert_eq!(slots[100].code(), "NEW");
    }

    #[test]
    fn a_filling_that_came_to_nothing_changes_nothing_and_the_next_one_knows_nothing_of_it() {
        let (active, next) = (Generation(1), Generation(2));
        let mut slots = Vec::new();
        assign(&mut slots, &["A", "B"], 0).unwrap();
        assign(&mut slots, &["B", "C"], active.0).unwrap();
        let of = |slots: &[OrganisationSlot], generation| -> Vec<String> {
            slots.iter().filter(|slot| slot.is_of(generation)).map(|slot| slot.code().to_owned()).collect()
        };
        assert_eq!((of(&slots, active).concat(), of(&slots, next).concat()), ("AB".to_owned(), "BC".to_owned()));
        let assigned = assign(&mut slots, &["A", "D"], active.0).unwrap();
        assert_eq!((of(&slots, active).concat(), of(&slots, next).concat()), ("AB".to_owned(), "AD".to_owned()));
        assert_eq!((assigned.owners, assigned.dropped), (vec![0, 3], vec![1, 2]));
    }

    #[test]
    fn prefixes_are_cut_to_their_network_and_lead_to_their_organisations_counter() {
        let prefixes = [("10.1.2.3/8", 1), ("2001:db8::1/32", 0)].map(|(prefix, i)| (prefix.parse().unwrap(), i));
        let (v4, v6) = by_family(prefixes.into_iter(), &[7, 5], &[]);
        assert_eq!(v4, Prefixes::from([((8, [10, 0, 0, 0]), 5)]));
        let mut network = [0; 16];
        network[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        assert_eq!(v6, Prefixes::from([((32, network), 7)]));
    }

    #[test]
    fn what_lies_in_a_management_prefix_belongs_to_management() {
        let prefixes = [("10.1.0.0/16", 0), ("10.1.2.0/24", 1), ("192.0.2.0/24", 1)];
        let prefixes = prefixes.map(|(prefix, i)| (prefix.parse().unwrap(), i));
        let management = ["10.1.0.0/16".parse().unwrap(), "192.0.2.7/32".parse().unwrap()];
        let (v4, v6) = by_family(prefixes.into_iter(), &[7, 5], &management);
        let wanted = [
            ((16, [10, 1, 0, 0]), MANAGEMENT),
            ((24, [10, 1, 2, 0]), MANAGEMENT),
            ((24, [192, 0, 2, 0]), 5),
            ((32, [192, 0, 2, 7]), MANAGEMENT),
        ];
        assert_eq!((v4, v6), (Prefixes::from(wanted), Prefixes::new()));
    }
}
