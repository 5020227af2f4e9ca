//! What the maps say, without a change to them: counters, contents, and what would become of a packet.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{MapData, MapError, PerCpuArray};
use ipnet::IpNet;
use mtls_appliance_common::layout::{
    Generation, MANAGEMENT, PORT_WORDS, Policy, address_key, port_bit, reason_counter, source_key,
};
use mtls_appliance_common::{Action, Address, Frame, Judgement, Reason, judge};

use super::{Contents, Prefixes, Tables, Trie, by_family, now};
use crate::guard::GuardError;
use crate::guard::status::{GuardCounters, OrganisationCount, ReasonCount};

/// What packets are judged by.
#[derive(Debug, Clone)]
pub(in crate::guard) struct InForce {
    pub(in crate::guard) generation: Generation,
    pub(in crate::guard) policy: Policy,
    pub(in crate::guard) ports: Vec<u16>,
    pub(in crate::guard) addresses: Vec<IpAddr>,
    pub(in crate::guard) management: Vec<IpNet>,
    pub(in crate::guard) ipv4: usize,
    pub(in crate::guard) ipv6: usize,
}

/// What would become of a packet, and by what it was judged.
#[derive(Debug, Clone)]
pub(in crate::guard) struct Judged {
    pub(in crate::guard) judgement: Judgement,
    pub(in crate::guard) generation: Generation,
    pub(in crate::guard) policy: Policy,
}

impl Tables {
    /// All counters, summed over the CPUs.
    pub(in crate::guard) fn counters(&self) -> Result<GuardCounters, GuardError> {
        let reasons = Reason::ALL
            .iter()
            .map(|reason| {
                let count = |action| sum(&self.reasons, reason_counter(action, reason.index()));
                let (passed, dropped) = (count(Action::Pass)?, count(Action::Drop)?);
                let observed = count(Action::Observed)?;
                Ok(ReasonCount {
                    reason: reason.name(),
                    packets: passed + dropped + observed,
                    passed,
                    dropped,
                    observed,
                })
            })
            .collect::<Result<_, GuardError>>()?;
        let active = self.active()?;
        let organisations = (0..)
            .zip(&self.slots)
            .map(|(index, slot)| {
                Ok(OrganisationCount {
                    code: slot.code().to_owned(),
                    registered: slot.is_of(active),
                    packets: sum(&self.organisations, 2 * index)?,
                    over_budget: sum(&self.organisations, 2 * index + 1)?,
                })
            })
            // A filling that came to nothing leaves organisations that never were.
            .filter(|count| {
                count.as_ref().map_or(true, |count| count.registered || count.packets + count.over_budget > 0)
            })
            .collect::<Result<_, GuardError>>()?;
        Ok(GuardCounters { reasons, organisations })
    }

    /// Why the guard is attached as it is, as [`Tables::set_note`] has left it; `None` when nothing was.
    pub(in crate::guard) fn note(&self) -> Result<Option<String>, GuardError> {
        let words = self.note.get(&0, 0).map_err(GuardError::kernel("reading why the guard is attached as it is"))?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty()))
    }

    /// How long ago the daemon gave its last sign of life, in nanoseconds.
    pub(in crate::guard) fn silent_ns(&self) -> Result<u64, GuardError> {
        let heartbeat = self.heartbeat.get(&0, 0).map_err(GuardError::kernel("reading the sign of life"))?;
        Ok(now().saturating_sub(heartbeat))
    }

    /// What is in the active bank.
    pub(in crate::guard) fn in_force(&self) -> Result<InForce, GuardError> {
        self.of_one_generation(|generation| {
            let bank = generation.bank();
            let v4 = entries(&self.v4[bank as usize])?;
            let v6 = entries(&self.v6[bank as usize])?;
            let managed = |owner: &u32| *owner == MANAGEMENT;
            let management4 = v4.iter().filter(|(_, owner)| managed(owner));
            let management6 = v6.iter().filter(|(_, owner)| managed(owner));
            let management4 = management4.filter_map(|((length, octets), _)| net(Ipv4Addr::from(*octets), *length));
            let management6 = management6.filter_map(|((length, octets), _)| net(Ipv6Addr::from(*octets), *length));
            let mut management: Vec<IpNet> = management4.chain(management6).collect();
            management.sort();
            Ok(InForce {
                generation,
                policy: self.policy(bank)?,
                ports: self.guarded_ports(bank)?,
                addresses: self.guarded_addresses(bank)?,
                management: IpNet::aggregate(&management),
                ipv4: v4.len(),
                ipv6: v6.len(),
            })
        })
    }

    /// Whether packets are judged by exactly this.
    pub(in crate::guard) fn hold(&self, contents: Contents<'_>) -> Result<bool, GuardError> {
        let active = self.active()?;
        let bank = active.bank();
        let slots: BTreeMap<&str, u32> = (0..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.is_of(active))
            .map(|(index, slot)| (slot.code(), index))
            .collect();
        let organisations = &contents.registry.organisations;
        let owners = organisations.iter().map(|organisation| slots.get(organisation.codes.first()?.as_str()).copied());
        let Some(owners) = owners.collect::<Option<Vec<u32>>>() else { return Ok(false) };
        let (v4, v6) = by_family(contents.registry.prefixes(), &owners, contents.management);
        let mut ports = contents.ports.to_vec();
        ports.sort_unstable();
        ports.dedup();
        let mut addresses = contents.addresses.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        Ok(active != Generation::default()
            && slots.len() == owners.len()
            && self.policy(bank)? == contents.policy
            && self.guarded_ports(bank)? == ports
            && self.guarded_addresses(bank)? == addresses
            && entries(&self.v4[bank as usize])? == v4
            && entries(&self.v6[bank as usize])? == v6)
    }

    /// What would become of a packet, by the program's own verdict over what is in the maps now. Nothing is charged.
    pub(in crate::guard) fn judge(&self, frame: &[u8]) -> Result<Judged, GuardError> {
        self.of_one_generation(|generation| {
            let view = View { tables: self, bank: generation.bank(), failure: RefCell::default() };
            let judgement = judge(&Frame(frame), &view);
            match view.failure.into_inner() {
                Some(error) => Err(GuardError::kernel("looking into the guard's maps")(error)),
                None => Ok(Judged { judgement, generation, policy: self.policy(generation.bank())? }),
            }
        })
    }

    /// The code of the organisation that has this slot.
    pub(in crate::guard) fn organisation(&self, slot: u32) -> Option<&str> {
        self.slots.get(slot as usize).map(|slot| slot.code())
    }

    /// Reads as a packet does, by one generation: anew when a reload came in between.
    fn of_one_generation<T>(&self, read: impl Fn(Generation) -> Result<T, GuardError>) -> Result<T, GuardError> {
        for _ in 0..10 {
            let generation = self.active()?;
            let outcome = read(generation);
            if self.active()? == generation {
                return outcome;
            }
        }
        Err(GuardError::Kernel {
            doing: "reading what is in force",
            message: "it was replaced again and again meanwhile: try again when no reload is under way".to_owned(),
        })
    }

    fn policy(&self, bank: u32) -> Result<Policy, GuardError> {
        self.policies.get(&bank, 0).map(Policy::from_words).map_err(GuardError::kernel("reading the policy"))
    }

    /// In ascending order.
    fn guarded_ports(&self, bank: u32) -> Result<Vec<u16>, GuardError> {
        let mut ports = Vec::new();
        for word in 0..PORT_WORDS {
            let bits = self.ports.get(&(bank * PORT_WORDS + word), 0);
            let bits = bits.map_err(GuardError::kernel("reading the guarded ports"))?;
            ports.extend((0..64).filter(|bit| bits & 1 << bit != 0).map(|bit| (word * 64 + bit) as u16));
        }
        Ok(ports)
    }

    /// In ascending order.
    fn guarded_addresses(&self, bank: u32) -> Result<Vec<IpAddr>, GuardError> {
        let keys = self.addresses.keys().collect::<Result<Vec<_>, MapError>>();
        let keys = keys.map_err(GuardError::kernel("reading the guarded addresses"))?;
        let of_bank = keys.into_iter().filter_map(|[of, words @ ..]| (of == bank).then_some(words));
        let mut addresses: Vec<IpAddr> = of_bank
            .map(|words| {
                let bits = words.into_iter().fold(0, |bits, word| bits << 32 | u128::from(word));
                IpAddr::from(Ipv6Addr::from_bits(bits)).to_canonical()
            })
            .collect();
        addresses.sort_unstable();
        Ok(addresses)
    }
}

/// One bank, as the verdict looks into it; the first thing that could not be read is kept.
struct View<'a> {
    tables: &'a Tables,
    bank: u32,
    failure: RefCell<Option<MapError>>,
}

impl View<'_> {
    /// What was found; none where there is none.
    fn found<T>(&self, outcome: Result<T, MapError>) -> Option<T> {
        match outcome {
            Ok(found) => Some(found),
            Err(MapError::KeyNotFound) => None,
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                None
            }
        }
    }
}

impl mtls_appliance_common::Tables for View<'_> {
    fn policy(&self) -> Policy {
        self.found(self.tables.policies.get(&self.bank, 0)).map(Policy::from_words).unwrap_or_default()
    }

    fn guards_port(&self, port: u16) -> bool {
        let (word, bit) = port_bit(self.bank, port);
        self.found(self.tables.ports.get(&word, 0)).is_some_and(|bits| bits & bit != 0)
    }

    fn guards_address(&self, destination: &Address) -> bool {
        self.found(self.tables.addresses.get(&address_key(self.bank, destination), 0)).is_some()
    }

    fn owner(&self, source: &Address) -> Option<u32> {
        let bank = self.bank as usize;
        self.found(if source.is_v6() {
            self.tables.v6[bank].get(&Key::new(128, source.octets_v6()), 0)
        } else {
            self.tables.v4[bank].get(&Key::new(32, source.octets_v4()), 0)
        })
    }

    fn source_due(&self, source: &Address) -> u64 {
        self.found(self.tables.sources.get(&source_key(source), 0)).unwrap_or_default()
    }

    fn organisation_due(&self, organisation: u32) -> u64 {
        self.found(self.tables.organisation_due.get(&organisation, 0)).unwrap_or_default()
    }

    fn heartbeat(&self) -> u64 {
        self.found(self.tables.heartbeat.get(&0, 0)).unwrap_or_default()
    }

    fn now(&self) -> u64 {
        now()
    }
}

/// Everything in a trie.
fn entries<const N: usize>(trie: &Trie<N>) -> Result<Prefixes<N>, GuardError>
where
    [u8; N]: Pod,
{
    let found = trie.iter().map(|entry| entry.map(|(key, owner)| ((key.prefix_len(), key.data()), owner)));
    found.collect::<Result<_, MapError>>().map_err(GuardError::kernel("reading the prefixes"))
}

fn net(address: impl Into<IpAddr>, length: u32) -> Option<IpNet> {
    IpNet::new(address.into(), u8::try_from(length).ok()?).ok()
}

fn sum(counters: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, GuardError> {
    let values = counters.get(&index, 0).map_err(GuardError::kernel("reading a counter"))?;
    Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
}
