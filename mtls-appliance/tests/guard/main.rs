//! The XDP program in the kernel against the pure verdict: the same packets, the same answers. No network is touched: packets
//! are run through the loaded program with `BPF_PROG_TEST_RUN`.
//!
//! Needs root (or the capabilities), a kernel with BPF and a build with the program in it. Without them each test is skipped
//! by name; with `xdp` in `MTLS_REQUIRE`, or `CI=true`, that is a failure.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod live;
mod packets;

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use mtls_appliance::config::{self, AttachMode, GuardMode};
use mtls_appliance::guard::{GuardCounters, GuardError, LoadedGuard};
use mtls_appliance::registry::{self, Registry};
use mtls_appliance_common::layout::{MANAGEMENT, Policy};
use mtls_appliance_common::{Action, Address, Frame, Judgement, Reason, Tables, judge};

const PORTS: [u16; 3] = [443, 8443, 65535];
const FIRST: &str = r#"
[[organisation]]
codes = ["ORGA"]
name = "A"
serial_numbers = ["1"]
sources = ["198.51.100.0/24", "192.0.2.77", "2001:db8:a::/48"]

[[organisation]]
codes = ["ORGB"]
name = "B"
serial_numbers = ["2"]
sources = ["203.0.113.128/25", "2001:db8:b::7"]
"#;
const SECOND: &str = r#"
[[organisation]]
codes = ["NEW"]
name = "New"
serial_numbers = ["3"]
sources = ["10.0.0.0/8"]

[[organisation]]
codes = ["ORGB"]
name = "B"
serial_numbers = ["2"]
sources = ["198.51.100.0/24", "2001:db8:b::/64"]
"#;

/// What the program's maps hold, for the pure verdict. Budgets are compared by themselves: they depend on the clock.
struct Pure<'a> {
    config: &'a config::Guard,
    registry: &'a Registry,
}

impl Tables for Pure<'_> {
    fn policy(&self) -> Policy {
        let mode = match self.config.mode {
            GuardMode::Enforce => Policy::ON | Policy::ENFORCE,
            GuardMode::Observe => Policy::ON,
            GuardMode::Off => 0,
        };
        let any = if self.config.addresses.is_empty() { Policy::ANY_ADDRESS } else { 0 };
        let drops = self.config.pass.iter().fold(Reason::dropping(), |drops, reason| drops & !reason.bit());
        Policy { flags: mode | any, drops, ..Policy::default() }
    }

    fn guards_port(&self, port: u16) -> bool {
        self.config.ports.contains(&port)
    }

    fn guards_address(&self, destination: &Address) -> bool {
        self.config.addresses.contains(&destination.ip())
    }

    fn owner(&self, source: &Address) -> Option<u32> {
        let source = source.ip();
        if self.config.management.iter().any(|prefix| prefix.contains(&source)) {
            return Some(MANAGEMENT);
        }
        self.registry.prefixes().find(|(prefix, _)| prefix.contains(&source)).map(|(_, at)| at as u32)
    }

    fn source_due(&self, _: &Address) -> u64 {
        0
    }

    fn organisation_due(&self, _: u32) -> u64 {
        0
    }

    fn heartbeat(&self) -> u64 {
        0
    }

    fn now(&self) -> u64 {
        0
    }
}

fn registry(text: &str) -> Registry {
    static NUMBER: Mutex<u32> = Mutex::new(0);
    let mut number = NUMBER.lock().unwrap();
    *number += 1;
    let file = std::env::temp_dir().join(format!("guard-registry-{}-{number}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let registry = registry::load(std::slice::from_ref(&file)).unwrap();
    std::fs::remove_file(file).unwrap();
    registry
}

fn config() -> config::Guard {
    config::Guard {
        interfaces: vec!["lo".to_owned()],
        ports: PORTS.to_vec(),
        addresses: Vec::new(),
        management: Vec::new(),
        mode: GuardMode::Enforce,
        pass: Vec::new(),
        source_budget: None,
        organisation_budget: None,
        open_after: None,
        attach: AttachMode::Auto,
        pin_dir: PathBuf::from("/sys/fs/bpf/unused"),
        log_per_second: 1,
    }
}

/// The program with this registry, or `None` where it cannot be: then the test is skipped.
fn loaded(test: &str, registry: &Registry) -> Option<LoadedGuard> {
    let reason = match LoadedGuard::load(&config(), registry) {
        Ok(guard) => return Some(guard),
        Err(error @ (GuardError::NoProgram | GuardError::Privileges { .. } | GuardError::NoBpf(_))) => error,
        Err(error) => panic!("{error}"),
    };
    let required = std::env::var("MTLS_REQUIRE").is_ok_and(|list| list.split(',').any(|feature| feature == "xdp"));
    assert!(!required && std::env::var("CI").as_deref() != Ok("true"), "cannot be skipped here: {reason}");
    // Around the test harness, which would keep it to itself.
    std::io::stdout().write_all(format!("skipped: guard::{test}: {reason}\n").as_bytes()).unwrap();
    None
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype.to_be_bytes(), payload].concat()
}

fn tcp(port: u16) -> Vec<u8> {
    [&[0xc0, 0x00][..], &port.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 255, 255, 0, 0, 0, 0]].concat()
}

fn ipv4(source: [u8; 4], options: u8, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + usize::from(options) * 4;
    let mut bytes = vec![0x45 + options, 0];
    bytes.extend(((header + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(source);
    bytes.extend([192, 0, 2, 1]);
    bytes.resize(header, 1);
    bytes.extend(payload);
    bytes
}

fn ipv6(source: IpAddr, extensions: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V6(source) = source else { panic!("{source} is not IPv6") };
    let mut body = Vec::new();
    for (position, (_, bytes)) in extensions.iter().enumerate() {
        body.push(extensions.get(position + 1).map_or(last, |(next, _)| *next));
        body.extend(bytes);
    }
    body.extend(payload);
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend([extensions.first().map_or(last, |(first, _)| *first), 64]);
    bytes.extend(source.octets());
    bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend(body);
    bytes
}

/// Destination or hop-by-hop options of this length in units of 8 bytes, after the first.
fn options(units: u8) -> Vec<u8> {
    let mut bytes = vec![units, 1];
    bytes.resize(7 + usize::from(units) * 8, 0);
    bytes
}

fn fragment(offset: u16, more: u16) -> Vec<u8> {
    [&[0][..], &(offset << 3 | more).to_be_bytes(), &[0, 0, 0, 1]].concat()
}

fn tagged(tags: usize, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(if tags == 0 { ethertype } else { 0x88a8 }, &[]);
    for tag in 0..tags {
        frame.extend([0, 5]);
        frame.extend(if tag + 1 == tags { ethertype } else { 0x8100 }.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// Packets of every kind that the verdict tells apart.
fn corpus() -> Vec<Vec<u8>> {
    let mut frames = vec![ethernet(0x0806, &[0; 28]), ethernet(0x88cc, &[0; 50]), ethernet(0x0040, &[0; 64])];
    for source in [[198, 51, 100, 7], [192, 0, 2, 77], [192, 0, 2, 78], [203, 0, 113, 127], [203, 0, 113, 128]] {
        for port in [22, 442, 443, 8443, 65534, 65535] {
            frames.push(ethernet(0x0800, &ipv4(source, 0, 0, 6, &tcp(port))));
        }
    }
    let stranger = [9, 9, 9, 9];
    for count in 0..=10 {
        frames.push(ethernet(0x0800, &ipv4(stranger, count, 0, 6, &tcp(443))));
        frames.push(tagged(usize::from(count), 0x0800, &ipv4(stranger, 0, 0, 6, &tcp(443))));
    }
    for bits in [0x2000, 0x2001, 0x0001, 0x2002, 0x1fff, 0x4000] {
        for length in [4, 8, 13, 14, 20] {
            frames.push(ethernet(0x0800, &ipv4(stranger, 0, bits, 6, &tcp(443)[..length])));
        }
    }
    for protocol in [1, 17, 50, 132] {
        frames.push(ethernet(0x0800, &ipv4(stranger, 0, 0, protocol, &tcp(443))));
    }
    let sources = ["2001:db8:a::1", "2001:db8:b::7", "2001:db8:b::8", "fe80::1"].map(|source| source.parse().unwrap());
    for source in sources {
        for port in [22, 443] {
            frames.push(ethernet(0x86dd, &ipv6(source, &[], 6, &tcp(port))));
        }
        for count in 0..=8 {
            for last in [6, 58] {
                let chain: Vec<_> = (0..count).map(|i| (if i == 0 { 0 } else { 60 }, options(i))).collect();
                frames.push(ethernet(0x86dd, &ipv6(source, &chain, last, &tcp(443))));
            }
        }
        for (offset, more) in [(0, 0), (0, 1), (1, 1), (1, 0), (2, 1), (100, 0)] {
            for length in [0, 8, 14, 20] {
                let payload = &tcp(443)[..length];
                let header = (44, fragment(offset, more));
                frames.push(ethernet(0x86dd, &ipv6(source, std::slice::from_ref(&header), 6, payload)));
                frames.push(tagged(2, 0x86dd, &ipv6(source, &[header, (60, options(1))], 6, payload)));
            }
        }
        let authentication = (51, [&[4, 0][..], &[7; 21]].concat());
        frames.push(ethernet(0x86dd, &ipv6(source, &[authentication, (43, options(2))], 6, &tcp(443))));
        // As long as six headers can be within what a test run takes, which is less than a page.
        frames.push(ethernet(0x86dd, &ipv6(source, &vec![(60, options(60)); 6], 6, &tcp(443))));
    }
    frames
}

/// xorshift64*: the same packets in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// A packet with some bytes changed, most of them in the headers, and perhaps cut short.
    fn mutate(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        for _ in 0..self.below(4) {
            let reach = frame.len().min(100);
            let at = 12 + self.below(reach - 12);
            frame[at] = match self.below(3) {
                0 => self.below(256) as u8,
                1 => [0, 4, 5, 6, 43, 44, 51, 58, 59, 60, 0x45, 0x60, 0x81][self.below(13)],
                _ => frame[at] ^ 1 << self.below(8),
            };
        }
        if self.below(4) == 0 {
            // The kernel wants the Ethernet header at least.
            let length = 14 + self.below(frame.len() - 13);
            frame.truncate(length);
        }
        frame
    }
}

/// One in so many packets is enough on an emulated machine, as the end-to-end tests' environment names it: system calls cost
/// ten times as much there, and all packets are tried on this machine's kernel.
fn step() -> usize {
    if std::env::var_os("MTLS_KERNEL").is_some() { 8 } else { 1 }
}

/// The one reason that was counted between two readings, and the organisation, if any.
fn counted(before: &GuardCounters, after: &GuardCounters) -> (&'static str, Option<String>) {
    let mut reasons = after.reasons.iter().filter(|count| count.packets != before.reason(count.reason));
    let reason = reasons.next().expect("nothing was counted");
    assert_eq!(reason.packets, before.reason(reason.reason) + 1);
    assert_eq!(reasons.next(), None, "two reasons for one packet");
    let mut organisations =
        after.organisations.iter().filter(|count| count.packets != before.organisation(&count.code));
    let organisation = organisations.next().map(|count| count.code.clone());
    assert_eq!(organisations.next(), None, "two organisations for one packet");
    (reason.reason, organisation)
}

#[track_caller]
fn compare(
    guard: &mut LoadedGuard,
    config: &config::Guard,
    registry: &Registry,
    frames: impl Iterator<Item = Vec<u8>>,
) {
    let mut before = guard.counters().unwrap();
    for frame in frames {
        let judgement = judge(&Frame(&frame), &Pure { config, registry });
        let asked = guard.judge(&frame).unwrap();
        let Judgement { action, organisation, .. } = judgement;
        let reason = judgement.reason();
        let (returned, _) = guard.run(&frame, 1).unwrap();
        let after = guard.counters().unwrap();
        let counted = counted(&before, &after);
        let organisation = organisation.map(|at| registry.organisations[at as usize].codes[0].clone());
        assert_eq!((asked.action, asked.reason), (action.name(), counted.0), "{frame:02x?}");
        assert_eq!(asked.organisation, counted.1, "{frame:02x?}");
        assert_eq!(counted, (reason.name(), organisation), "{frame:02x?}");
        let (expected, row) = match action {
            Action::Drop => (1, (0, 1, 0)),
            Action::Pass => (2, (1, 0, 0)),
            Action::Observed => (2, (0, 0, 1)),
        };
        let [old, new] = [&before, &after].map(|counters| counters.reasons[reason.index() as usize].clone());
        assert_eq!(
            (new.passed - old.passed, new.dropped - old.dropped, new.observed - old.observed),
            row,
            "{reason:?}"
        );
        assert_eq!(returned, expected, "{reason:?} {frame:02x?}");
        before = after;
    }
}

#[test]
fn the_program_and_the_pure_verdict_agree_on_crafted_packets() {
    let registry = registry(FIRST);
    let corpus = corpus();
    let config = config();
    let found = |frame: &Vec<u8>| judge(&Frame(frame), &Pure { config: &config, registry: &registry }).reason();
    for reason in Reason::ALL.iter().filter(|reason| !OTHERWISE.contains(reason)) {
        let some = corpus.iter().any(|frame| found(frame) == *reason);
        assert!(some || *reason == Reason::MalformedIp, "no packet for {reason:?}");
    }
    let Some(mut guard) = loaded("the_program_and_the_pure_verdict_agree_on_crafted_packets", &registry) else {
        return;
    };
    compare(&mut guard, &config, &registry, corpus.into_iter());
}

/// Reasons that the plain configuration does not give.
const OTHERWISE: [Reason; 5] =
    [Reason::Off, Reason::Management, Reason::SourceOverBudget, Reason::OrganisationOverBudget, Reason::DaemonGone];

#[test]
fn the_program_and_the_pure_verdict_agree_in_every_mode_and_about_addresses() {
    let registry = registry(FIRST);
    let name = "the_program_and_the_pure_verdict_agree_in_every_mode_and_about_addresses";
    let Some(mut guard) = loaded(name, &registry) else { return };
    let management: Vec<_> =
        ["9.9.9.0/24", "192.0.2.77/32", "2001:db8:a::/64"].iter().map(|prefix| prefix.parse().unwrap()).collect();
    let addresses: [Vec<IpAddr>; 4] = [
        vec![],
        vec!["192.0.2.1".parse().unwrap()],
        vec!["2001:db8::1".parse().unwrap(), "192.0.2.9".parse().unwrap()],
        vec!["10.0.0.1".parse().unwrap()],
    ];
    let mut combination = 0;
    for mode in [GuardMode::Enforce, GuardMode::Observe, GuardMode::Off] {
        for addresses in &addresses {
            for management in [&[][..], &management] {
                let config = config::Guard {
                    mode,
                    addresses: addresses.clone(),
                    management: management.to_vec(),
                    pass: vec![Reason::FragmentOffsetOne, Reason::Ipv6HeaderLimit],
                    ..config()
                };
                guard.update(&config, &registry).unwrap();
                combination += 1;
                let some = corpus().into_iter().skip(combination % step()).step_by(step());
                compare(&mut guard, &config, &registry, some);
            }
        }
    }
}

#[test]
fn the_program_and_the_pure_verdict_agree_on_mutated_packets() {
    let registry = registry(FIRST);
    let Some(mut guard) = loaded("the_program_and_the_pure_verdict_agree_on_mutated_packets", &registry) else {
        return;
    };
    let corpus = corpus();
    let mut random = Random(0x6d74_6c73);
    let frames: Vec<_> = (0..20_000 / step())
        .map(|_| {
            let at = random.below(corpus.len());
            random.mutate(&corpus[at])
        })
        .collect();
    let config = config();
    let found = |frame: &Vec<u8>| judge(&Frame(frame), &Pure { config: &config, registry: &registry }).reason();
    for reason in Reason::ALL.iter().filter(|reason| !OTHERWISE.contains(reason)) {
        let count = frames.iter().filter(|frame| found(frame) == *reason).count();
        assert!(count >= 10, "only {count} packets for {reason:?}");
    }
    compare(&mut guard, &config, &registry, frames.into_iter());
}

#[test]
fn the_verifier_needs_far_less_than_its_limit() {
    let Some(guard) = loaded("the_verifier_needs_far_less_than_its_limit", &registry(FIRST)) else { return };
    // The kernel gives up at a million instructions; other versions prune less well.
    if let Some(count) = guard.verified_instructions().unwrap() {
        println!("verified: {count}");
        assert!(count < 100_000, "{count}");
    }
}
