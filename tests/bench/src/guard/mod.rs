//! Area `guard`: how long the XDP program takes for a packet, by what becomes of it and by how many prefixes are registered.
//!
//! The kernel runs the program over a packet again and again (`BPF_PROG_TEST_RUN`) and says how long one run took on average,
//! in whole nanoseconds, its loop included. The packet's source is another one in each round, for the way through a trie
//! depends on it. No network is touched; caches are warm, which they are not on a machine that does something else between
//! two packets.

mod packets;
mod sources;
mod xdp_filter;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use mtls_appliance::config::{self, AttachMode, Budget, GuardMode};
use mtls_appliance::guard::LoadedGuard;
use mtls_appliance::registry;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use self::packets::{Family, GUARDED_PORT, Kind};
use self::sources::Sources;
use self::xdp_filter::XdpFilter;
use crate::report;
use crate::statistics::Summary;

const AREA: &str = "guard";
const OURS: &str = "mtls-appliance";
const PER_PACKET: &str = "ns/packet";
/// Registered prefixes of each family.
const SIZES: [u32; 4] = [10, 1_000, 10_000, 100_000];
/// What XDP programs return.
const DROP: u32 = 1;
const PASS: u32 = 2;

/// How much is measured.
struct Effort {
    rounds: u32,
    /// Packets of each kind in a round.
    packets: u32,
}

/// What can become of a packet, and which packet that happens to.
struct Case {
    name: &'static str,
    kind: Kind,
    /// Whether an organisation owns its source.
    registered: bool,
    budget: Budget,
    verdict: u32,
    /// What the program counts it as.
    reason: &'static str,
    /// Whether the source is looked up, so that the size of the registry matters.
    looked_up: bool,
}

/// One connection, and the next in a second.
const NARROW: Budget = Budget { rate: 1, burst: 1 };
/// More than can be sent.
const WIDE: Budget = Budget { rate: 1_000_000_000, burst: 1_000_000_000 };

const CASES: [Case; 6] = [
    Case {
        name: "pass, not TCP",
        kind: Kind::Udp,
        registered: false,
        budget: NARROW,
        verdict: PASS,
        reason: "not_tcp",
        looked_up: false,
    },
    Case {
        name: "pass, port not guarded",
        kind: Kind::OtherPort,
        registered: false,
        budget: NARROW,
        verdict: PASS,
        reason: "not_guarded",
        looked_up: false,
    },
    Case {
        name: "pass, registered source",
        kind: Kind::Data,
        registered: true,
        budget: NARROW,
        verdict: PASS,
        reason: "registered",
        looked_up: true,
    },
    Case {
        name: "pass, SYN within its budget",
        kind: Kind::Syn,
        registered: true,
        budget: WIDE,
        verdict: PASS,
        reason: "registered",
        looked_up: true,
    },
    Case {
        name: "drop, SYN over its budget",
        kind: Kind::Syn,
        registered: true,
        budget: NARROW,
        verdict: DROP,
        reason: "source_over_budget",
        looked_up: true,
    },
    Case {
        name: "drop, unregistered source",
        kind: Kind::Syn,
        registered: false,
        budget: NARROW,
        verdict: DROP,
        reason: "unregistered_source",
        looked_up: true,
    },
];

/// Something measured: asked for a value in each round.
struct Measured<'a> {
    name: String,
    subject: &'static str,
    sample: Box<dyn Fn(u32) -> anyhow::Result<f64> + 'a>,
    values: Vec<f64>,
}

/// Measures it and prints rows.
///
/// # Errors
/// Without privileges or BPF, or when a packet does not get the verdict that it is to be measured for.
pub(crate) fn measure(quick: bool) -> anyhow::Result<()> {
    let effort = if quick { Effort { rounds: 11, packets: 50_000 } } else { Effort { rounds: 51, packets: 200_000 } };
    stay_on_one_cpu()?;
    let sources = SIZES.map(Sources);
    let mut guards = Vec::new();
    for sources in &sources {
        eprintln!("bench: guard: loading the program with {} prefixes of each family", sources.0);
        let registry = registry_of(sources)?;
        let load = |budget| LoadedGuard::load(&configuration(budget), &registry);
        guards.push((sources, [load(NARROW)?, load(WIDE)?]));
    }
    let filters = XdpFilter::load(&sources)?;

    let mut measured = Vec::new();
    for (case, family) in CASES.iter().flat_map(|case| Family::BOTH.map(|family| (case, family))) {
        let smallest = if case.looked_up { 0 } else { guards.len() - 1 };
        for (sources, [narrow, wide]) in guards.get(smallest..).unwrap_or_default() {
            let guard = if case.budget == WIDE { wide } else { narrow };
            check(guard, case, family, sources)?;
            measured.push(of_the_guard(guard, case, family, sources, effort.packets));
        }
    }
    for filter in &filters {
        for (registered, verdict) in [(true, PASS), (false, DROP)] {
            for family in Family::BOTH {
                measured.push(of_xdp_filter(filter, registered, verdict, family, effort.packets));
            }
        }
    }

    for round in 0..effort.rounds {
        eprintln!("bench: guard: round {} of {}", round + 1, effort.rounds);
        for one in &mut measured {
            let value = (one.sample)(round).with_context(|| format!("{} of {}", one.name, one.subject))?;
            one.values.push(value);
        }
    }
    for Measured { name, subject, values, .. } in measured {
        report::row(AREA, &name, subject, PER_PACKET, Summary::of(values).context("no rounds")?);
    }
    report::note(&format!(
        "guard: median (interquartile range) of {} rounds of {} packets each, run through the program in the kernel, caches warm",
        effort.rounds, effort.packets
    ));
    report::note(
        "xdp-filter looks up whole addresses and nothing else: no prefixes, no ports, no budgets; its own maps hold 10,000 addresses",
    );
    Ok(())
}

/// Whatever else runs, runs on other CPUs if it can; and no run is moved in its midst.
fn stay_on_one_cpu() -> anyhow::Result<()> {
    let allowed = sched_getaffinity(None).context("asking which CPUs are allowed")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)).context("no CPU is allowed")?;
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one).context("staying on one CPU")
}

fn configuration(budget: Budget) -> config::Guard {
    config::Guard {
        interfaces: vec!["lo".to_owned()],
        ports: vec![GUARDED_PORT],
        addresses: Vec::new(),
        management: Vec::new(),
        mode: GuardMode::Enforce,
        pass: Vec::new(),
        source_budget: Some(budget),
        organisation_budget: Some(WIDE),
        open_after: None,
        attach: AttachMode::Auto,
        pin_dir: PathBuf::from("/sys/fs/bpf/unused"),
        log_per_second: 10,
    }
}

fn registry_of(sources: &Sources) -> anyhow::Result<registry::Registry> {
    let file = std::env::temp_dir().join(format!("mtls-bench-registry-{}.toml", std::process::id()));
    std::fs::write(&file, sources.registry()).with_context(|| format!("cannot write {}", file.display()))?;
    let registry = registry::load(std::slice::from_ref(&file));
    std::fs::remove_file(&file)?;
    Ok(registry?)
}

fn source(sources: &Sources, registered: bool, family: Family, round: u32) -> std::net::IpAddr {
    if registered { sources.registered(family, round) } else { sources.stranger(family, round) }
}

fn label(case: &str, family: Family, sources: &Sources, looked_up: bool) -> String {
    let size = match sources.0 {
        size @ ..1_000 => size.to_string(),
        size => format!("{},{:03}", size / 1_000, size % 1_000),
    };
    if looked_up { format!("{case}, {family}, {size} prefixes") } else { format!("{case}, {family}") }
}

/// Fails unless such packets are counted as what they are measured as.
fn check(guard: &LoadedGuard, case: &Case, family: Family, sources: &Sources) -> anyhow::Result<()> {
    const PACKETS: u32 = 1_000;
    let counted = || Ok::<_, anyhow::Error>(guard.counters()?.reason(case.reason));
    let before = counted()?;
    guard.run(&case.kind.packet(source(sources, case.registered, family, 0)), PACKETS)?;
    let rose = counted()? - before;
    // The first SYN of a source is within any budget.
    ensure!(rose + 1 >= u64::from(PACKETS), "{} of {PACKETS} packets were counted as {}", rose, case.reason);
    Ok(())
}

fn of_the_guard<'a>(
    guard: &'a LoadedGuard,
    case: &'a Case,
    family: Family,
    sources: &'a Sources,
    packets: u32,
) -> Measured<'a> {
    let sample = move |round| {
        let packet = case.kind.packet(source(sources, case.registered, family, round));
        let (verdict, duration) = guard.run(&packet, packets)?;
        ensure!(verdict == case.verdict, "the program returned {verdict}");
        Ok(duration.as_nanos() as f64)
    };
    let name = label(case.name, family, sources, case.looked_up);
    Measured { name, subject: OURS, sample: Box::new(sample), values: Vec::new() }
}

fn of_xdp_filter<'a>(
    filter: &'a XdpFilter<'_>,
    registered: bool,
    verdict: u32,
    family: Family,
    packets: u32,
) -> Measured<'a> {
    let sample = move |round| {
        let packet = Kind::Syn.packet(source(filter.sources, registered, family, round));
        let (returned, duration) = filter.run(&packet, packets)?;
        ensure!(returned == verdict, "the program returned {returned}");
        Ok(duration.as_nanos() as f64)
    };
    let case = if registered { "pass, registered source" } else { "drop, unregistered source" };
    let name = label(case, family, filter.sources, true);
    Measured { name, subject: xdp_filter::SUBJECT, sample: Box::new(sample), values: Vec::new() }
}
