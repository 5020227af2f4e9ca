//! The corpus of `packets.toml`, in every mode: what is expected is written there, not derived.

use std::collections::{BTreeMap, BTreeSet};

use mtls_appliance::config::{Guard, GuardMode};
use mtls_appliance_common::{Action, Frame, Reason, judge};
use serde::Deserialize;

use crate::{FIRST, Pure, config, counted, loaded, registry};

/// One packet, by its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    proves: String,
    reason: String,
    frame: String,
}

struct Packet {
    name: String,
    reason: Reason,
    frame: Vec<u8>,
}

fn corpus() -> Vec<Packet> {
    let entries: BTreeMap<String, Entry> = toml::from_str(include_str!("packets.toml")).unwrap();
    let packet = |(name, entry): (String, Entry)| {
        assert!(!entry.proves.is_empty(), "{name} proves nothing");
        let reason = Reason::by_name(&entry.reason).unwrap_or_else(|| panic!("{name}: reason = {:?}", entry.reason));
        let digits: Vec<u8> = entry.frame.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
        assert!(digits.len().is_multiple_of(2), "{name}: half a byte");
        Packet { reason, frame: digits.chunks(2).map(byte).collect(), name }
    };
    entries.into_iter().map(packet).collect()
}

/// The configuration that `packets.toml` is written for.
fn policy(mode: GuardMode) -> Guard {
    let management = vec!["10.255.0.0/24".parse().unwrap(), "fd00:ffff::/64".parse().unwrap()];
    Guard { mode, management, ..config() }
}

fn expected(reason: Reason, mode: GuardMode) -> (Reason, Action) {
    match (mode, reason.action()) {
        (GuardMode::Off, _) => (Reason::Off, Action::Pass),
        (GuardMode::Observe, Action::Drop) => (reason, Action::Observed),
        (_, action) => (reason, action),
    }
}

const MODES: [GuardMode; 3] = [GuardMode::Enforce, GuardMode::Observe, GuardMode::Off];

#[test]
fn the_verdict_on_each_packet_of_the_corpus_is_the_one_that_stands_there() {
    let registry = registry(FIRST);
    let corpus = corpus();
    for mode in MODES {
        let config = policy(mode);
        for Packet { name, reason, frame } in &corpus {
            let judgement = judge(&Frame(frame), &Pure { config: &config, registry: &registry });
            assert_eq!((judgement.reason(), judgement.action), expected(*reason, mode), "{name}, {mode:?}");
        }
    }
    let found: BTreeSet<u32> = corpus.iter().map(|packet| packet.reason.index()).collect();
    // These depend on what came before, or on the mode.
    let others = [Reason::Off, Reason::SourceOverBudget, Reason::OrganisationOverBudget, Reason::DaemonGone];
    let missing = Reason::ALL.iter().find(|reason| !found.contains(&reason.index()) && !others.contains(reason));
    assert_eq!(missing, None, "no packet for it");
}

#[test]
fn the_program_does_with_each_packet_of_the_corpus_what_stands_there() {
    const TEST: &str = "the_program_does_with_each_packet_of_the_corpus_what_stands_there";
    let registry = registry(FIRST);
    let Some(guard) = loaded(TEST, &registry) else { return };
    for mode in MODES {
        guard.update(&policy(mode), &registry).unwrap();
        for Packet { name, reason, frame } in corpus() {
            let before = guard.counters().unwrap();
            let (returned, _) = guard.run(&frame, 1).unwrap();
            let (reason, action) = expected(reason, mode);
            let xdp = if action == Action::Drop { 1 } else { 2 };
            assert_eq!(returned, xdp, "{name}, {mode:?}");
            assert_eq!(counted(&before, &guard.counters().unwrap()).0, reason.name(), "{name}, {mode:?}");
        }
    }
}
