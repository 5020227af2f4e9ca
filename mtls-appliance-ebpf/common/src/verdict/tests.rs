//! Crafted packets and what becomes of them; each row says what it proves.

use std::string::String;
use std::vec::Vec;
use std::{format, vec};

use core::cell::Cell;

use super::{Address, Charge, Frame, Judgement, Tables, judge};
use crate::layout::{MANAGEMENT, Policy};
use crate::pace::Pace;
use crate::reason::{Action, Reason};

const OURS_V4: [u8; 4] = [192, 0, 2, 1];
const KNOWN_V4: [u8; 4] = [198, 51, 100, 7];
const STRANGER_V4: [u8; 4] = [203, 0, 113, 9];
const OURS_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const KNOWN_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
/// An address of the operator's, inside a registered prefix.
const ADMIN_V4: [u8; 4] = [198, 51, 100, 99];
const STRANGER_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// What is known; budgets are kept as the program keeps them.
struct Known {
    policy: Policy,
    now: Cell<u64>,
    heartbeat: u64,
    source_due: Cell<u64>,
    organisation_due: Cell<u64>,
}

const ENFORCING: u64 = Policy::ON | Policy::ENFORCE | Policy::ANY_ADDRESS;

impl Known {
    fn with(flags: u64) -> Known {
        Known {
            policy: Policy { flags, drops: Reason::dropping(), ..Policy::default() },
            now: Cell::new(1_000_000_000_000),
            heartbeat: 0,
            source_due: Cell::new(0),
            organisation_due: Cell::new(0),
        }
    }

    fn judge(&self, frame: &[u8]) -> Judgement {
        let judgement = judge(&Frame(frame), self);
        let Charge { source, organisation } = judgement.charge;
        self.source_due.set(source.unwrap_or(self.source_due.get()));
        self.organisation_due.set(organisation.unwrap_or(self.organisation_due.get()));
        judgement
    }

    fn outcome(&self, frame: &[u8]) -> (Reason, Action) {
        let judgement = self.judge(frame);
        (judgement.reason(), judgement.action)
    }
}

impl Tables for Known {
    fn policy(&self) -> Policy {
        self.policy
    }

    fn guards_port(&self, port: u16) -> bool {
        port == 443 || port == 8443
    }

    fn guards_address(&self, destination: &Address) -> bool {
        assert!(!self.policy.is(Policy::ANY_ADDRESS), "asked for nothing");
        *destination == Address::v4(OURS_V4)
    }

    fn owner(&self, source: &Address) -> Option<u32> {
        match source.octets_v4() {
            ADMIN_V4 if !source.is_v6() => Some(MANAGEMENT),
            [198, 51, 100, _] if !source.is_v6() => Some(4),
            _ if source.octets_v6().starts_with(&[0x20, 1, 0xd, 0xb8, 0, 7]) => Some(6),
            _ => None,
        }
    }

    fn source_due(&self, _: &Address) -> u64 {
        self.source_due.get()
    }

    fn organisation_due(&self, _: u32) -> u64 {
        self.organisation_due.get()
    }

    fn heartbeat(&self) -> u64 {
        self.heartbeat
    }

    fn now(&self) -> u64 {
        self.now.get()
    }
}

fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

fn tagged(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut inner = Vec::new();
    for (position, _) in tags.iter().enumerate() {
        let next = tags.get(position + 1).copied().unwrap_or(ethertype);
        inner.extend([0, 42]);
        inner.extend(next.to_be_bytes());
    }
    inner.extend(payload);
    ethernet(tags.first().copied().unwrap_or(ethertype), &inner)
}

fn tcp(port: u16) -> Vec<u8> {
    let mut segment = vec![0xc0, 0x00];
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    segment
}

struct Ipv4<'a> {
    source: [u8; 4],
    protocol: u8,
    options: usize,
    fragment: u16,
    total_length: Option<u16>,
    payload: &'a [u8],
}

impl Default for Ipv4<'_> {
    fn default() -> Self {
        Ipv4 { source: STRANGER_V4, protocol: 6, options: 0, fragment: 0, total_length: None, payload: &[] }
    }
}

fn ipv4(packet: Ipv4<'_>) -> Vec<u8> {
    let header = 20 + packet.options * 4;
    let total = packet.total_length.unwrap_or((header + packet.payload.len()) as u16);
    let mut bytes = vec![0x40 | (header / 4) as u8, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(packet.fragment.to_be_bytes());
    bytes.extend([64, packet.protocol, 0, 0]);
    bytes.extend(packet.source);
    bytes.extend(OURS_V4);
    bytes.extend(vec![1; packet.options * 4]);
    bytes.extend(packet.payload);
    ethernet(0x0800, &bytes)
}

/// An IPv6 packet with the payload as it is.
fn ipv6_raw(source: [u8; 16], next: u8, payload_length: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(payload_length.to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(source);
    bytes.extend(OURS_V6);
    bytes.extend(payload);
    ethernet(0x86dd, &bytes)
}

/// An IPv6 packet with extension headers: (its type, its bytes without the first, which names the next header).
fn ipv6(source: [u8; 16], extensions: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (position, (_, bytes)) in extensions.iter().enumerate() {
        body.push(extensions.get(position + 1).map_or(last, |(next, _)| *next));
        body.extend(bytes);
    }
    body.extend(payload);
    let first = extensions.first().map_or(last, |(first, _)| *first);
    ipv6_raw(source, first, body.len() as u16, &body)
}

/// Options of a length in units of 8 bytes, after the first.
fn options(units: u8) -> Vec<u8> {
    let mut bytes = vec![units, 1];
    bytes.resize(7 + usize::from(units) * 8, 0);
    bytes
}

fn fragment(offset: u16, more: bool) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend([0, 0, 0, 1]);
    bytes
}

fn reason(frame: &[u8]) -> Reason {
    let judgement = Known::with(ENFORCING).judge(frame);
    assert_eq!(judgement.action, judgement.reason().action());
    judgement.reason()
}

#[track_caller]
fn check(rows: Vec<(&str, Reason, Vec<u8>)>) {
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(_, expected, frame)| reason(frame) != *expected)
        .map(|(name, expected, frame)| format!("{name}: {:?}, expected {expected:?}", reason(frame)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_not_ip_passes() {
    check(vec![
        ("nothing", Reason::NotIp, vec![]),
        ("half an Ethernet header", Reason::NotIp, vec![0; 13]),
        ("ARP", Reason::NotIp, ethernet(0x0806, &[0; 28])),
        ("LLDP", Reason::NotIp, ethernet(0x88cc, &[0; 28])),
        ("802.3 length", Reason::NotIp, ethernet(0x0040, &[0; 64])),
        ("PPPoE", Reason::NotIp, ethernet(0x8864, &[0; 64])),
        ("a tag and ARP", Reason::NotIp, tagged(&[0x8100], 0x0806, &[0; 28])),
        ("a tag cut short", Reason::NotIp, ethernet(0x8100, &[0; 3])),
    ]);
}

#[test]
fn tags_are_looked_through_up_to_the_limit() {
    let plain = ipv4(Ipv4 { payload: &tcp(443), ..Ipv4::default() });
    let tags = [0x88a8, 0x8100, 0x8100, 0x8100, 0x8100];
    for count in 0..=5 {
        let expected = if count <= 4 { Reason::UnregisteredSource } else { Reason::NotIp };
        assert_eq!(reason(&tagged(&tags[..count], 0x0800, &plain[14..])), expected, "{count} tags");
    }
    let known = ipv6(KNOWN_V6, &[], 6, &tcp(443));
    assert_eq!(reason(&tagged(&[0x88a8, 0x8100], 0x86dd, &known[14..])), Reason::Registered);
}

#[test]
fn ipv4_that_is_not_tcp_or_not_ipv4_passes() {
    let with = |protocol| ipv4(Ipv4 { protocol, payload: &tcp(443), ..Ipv4::default() });
    let mut wrong_version = ipv4(Ipv4 { payload: &tcp(443), ..Ipv4::default() });
    wrong_version[14] = 0x65;
    let mut short_header = ipv4(Ipv4 { payload: &tcp(443), ..Ipv4::default() });
    short_header[14] = 0x44;
    check(vec![
        ("ICMP", Reason::NotTcp, with(1)),
        ("UDP", Reason::NotTcp, with(17)),
        ("ESP", Reason::NotTcp, with(50)),
        ("SCTP", Reason::NotTcp, with(132)),
        ("version 6", Reason::MalformedIp, wrong_version),
        ("header length 4", Reason::MalformedIp, short_header),
        ("header cut short", Reason::MalformedIp, with(6)[..33].to_vec()),
        ("no header", Reason::MalformedIp, ethernet(0x0800, &[])),
    ]);
}

#[test]
fn tcp_is_judged_by_port_and_source() {
    let v4 = |source, port| ipv4(Ipv4 { source, payload: &tcp(port), ..Ipv4::default() });
    let v6 = |source, port| ipv6(source, &[], 6, &tcp(port));
    check(vec![
        ("ssh from a stranger", Reason::NotGuarded, v4(STRANGER_V4, 22)),
        ("ssh from a stranger, IPv6", Reason::NotGuarded, v6(STRANGER_V6, 22)),
        ("a neighbour of a guarded port", Reason::NotGuarded, v4(STRANGER_V4, 444)),
        ("stranger", Reason::UnregisteredSource, v4(STRANGER_V4, 443)),
        ("stranger, second port", Reason::UnregisteredSource, v4(STRANGER_V4, 8443)),
        ("stranger, IPv6", Reason::UnregisteredSource, v6(STRANGER_V6, 443)),
        ("registered", Reason::Registered, v4(KNOWN_V4, 443)),
        ("registered, IPv6", Reason::Registered, v6(KNOWN_V6, 443)),
    ]);
}

#[test]
fn a_judgement_says_what_it_was_made_from() {
    let Judgement { segment, organisation, is_read, .. } =
        Known::with(ENFORCING).judge(&ipv4(Ipv4 { source: KNOWN_V4, payload: &tcp(443), ..Ipv4::default() }));
    assert!(is_read);
    assert_eq!(organisation, Some(4));
    assert_eq!((segment.source, segment.destination), (Address::v4(KNOWN_V4), Address::v4(OURS_V4)));
    assert_eq!((segment.source_port, segment.destination_port), (0xc000, 443));

    let Judgement { segment, organisation, is_read, .. } =
        Known::with(ENFORCING).judge(&ipv6(STRANGER_V6, &[], 6, &tcp(8443)));
    assert!(is_read);
    assert_eq!(organisation, None);
    assert_eq!((segment.source, segment.destination), (Address::v6(STRANGER_V6), Address::v6(OURS_V6)));
    assert_eq!(segment.destination_port, 8443);
}

#[test]
fn ipv4_options_are_skipped() {
    for options in 0..=10 {
        let stranger = ipv4(Ipv4 { options, payload: &tcp(443), ..Ipv4::default() });
        assert_eq!(reason(&stranger), Reason::UnregisteredSource, "{options} words of options");
        let ssh = ipv4(Ipv4 { options, payload: &tcp(22), ..Ipv4::default() });
        assert_eq!(reason(&ssh), Reason::NotGuarded, "{options} words of options");
    }
}

#[test]
fn ipv4_fragments() {
    let with = |fragment, payload: &[u8]| ipv4(Ipv4 { fragment, payload, ..Ipv4::default() });
    let padded = |payload: &[u8]| {
        let mut frame = with(0x2000, payload);
        frame.resize(60, 0);
        frame
    };
    let udp = |fragment| ipv4(Ipv4 { protocol: 17, fragment, payload: &[0; 8], ..Ipv4::default() });
    check(vec![
        ("first, whole header", Reason::UnregisteredSource, with(0x2000, &tcp(443))),
        ("first, up to the flags", Reason::UnregisteredSource, with(0x2000, &tcp(443)[..14])),
        ("first, flags missing", Reason::ShortFirstFragment, with(0x2000, &tcp(443)[..13])),
        ("first, 8 bytes", Reason::ShortFirstFragment, with(0x2000, &tcp(22)[..8])),
        ("first, 8 bytes and padding", Reason::ShortFirstFragment, padded(&tcp(443)[..8])),
        ("offset 1", Reason::FragmentOffsetOne, with(0x2001, &[0; 8])),
        ("offset 1, last", Reason::FragmentOffsetOne, with(0x0001, &[0; 8])),
        ("offset 2", Reason::LaterFragment, with(0x2002, &[0; 8])),
        ("last", Reason::LaterFragment, with(0x1fff, &[0; 8])),
        ("do not fragment", Reason::UnregisteredSource, with(0x4000, &tcp(443))),
        ("the evil bit (RFC 3514)", Reason::UnregisteredSource, with(0x8000, &tcp(443))),
        ("UDP, first and short", Reason::NotTcp, udp(0x2000)),
        ("UDP, offset 1", Reason::NotTcp, udp(0x2001)),
    ]);
}

#[test]
fn tcp_without_ports_is_dropped() {
    let v4 = |length: usize| ipv4(Ipv4 { payload: &tcp(443)[..length], ..Ipv4::default() });
    let claims = |total_length| ipv4(Ipv4 { total_length: Some(total_length), payload: &tcp(443), ..Ipv4::default() });
    check(vec![
        ("IPv4, nothing", Reason::ShortTcp, v4(0)),
        ("IPv4, ports only", Reason::ShortTcp, v4(4)),
        ("IPv4, flags missing", Reason::ShortTcp, v4(13)),
        ("IPv4, up to the flags", Reason::UnregisteredSource, v4(14)),
        ("IPv4, length claims less", Reason::ShortTcp, claims(33)),
        ("IPv4, length claims less than a header", Reason::ShortTcp, claims(1)),
        ("IPv4, length claims more", Reason::UnregisteredSource, claims(1500)),
        ("IPv4, length 0: receive offload", Reason::UnregisteredSource, claims(0)),
        ("IPv6, nothing", Reason::ShortTcp, ipv6(STRANGER_V6, &[], 6, &[])),
        ("IPv6, flags missing", Reason::ShortTcp, ipv6(STRANGER_V6, &[], 6, &tcp(443)[..13])),
        ("IPv6, length claims less", Reason::ShortTcp, ipv6_raw(STRANGER_V6, 6, 13, &tcp(443))),
        ("IPv6, length 0: jumbogram", Reason::UnregisteredSource, ipv6_raw(STRANGER_V6, 6, 0, &tcp(443))),
    ]);
}

#[test]
fn ipv6_that_is_not_tcp_or_not_ipv6_passes() {
    let mut wrong_version = ipv6(STRANGER_V6, &[], 6, &tcp(443));
    wrong_version[14] = 0x45;
    check(vec![
        ("neighbour solicitation", Reason::NotTcp, ipv6(STRANGER_V6, &[], 58, &[135, 0, 0, 0])),
        ("multicast listener report", Reason::NotTcp, ipv6(STRANGER_V6, &[(0, options(0))], 58, &[143, 0])),
        ("UDP", Reason::NotTcp, ipv6(STRANGER_V6, &[], 17, &[0; 8])),
        ("no next header", Reason::NotTcp, ipv6(STRANGER_V6, &[(60, options(0))], 59, &[])),
        ("ESP hides what follows", Reason::NotTcp, ipv6(STRANGER_V6, &[], 50, &tcp(443))),
        ("version 4", Reason::MalformedIp, wrong_version),
        ("header cut short", Reason::MalformedIp, ipv6(STRANGER_V6, &[], 6, &[])[..53].to_vec()),
        ("extension missing", Reason::MalformedIp, ipv6_raw(STRANGER_V6, 60, 3, &[])),
        ("extension longer than the packet", Reason::MalformedIp, ipv6(STRANGER_V6, &[(60, vec![9; 7])], 6, &[])),
    ]);
}

#[test]
fn ipv6_extension_headers_are_walked_up_to_the_limit() {
    for count in 0..=8 {
        let chain: Vec<_> =
            (0..count).map(|position| (if position == 0 { 0 } else { 60 }, options(position))).collect();
        let expected = if count <= 6 { Reason::UnregisteredSource } else { Reason::Ipv6HeaderLimit };
        assert_eq!(reason(&ipv6(STRANGER_V6, &chain, 6, &tcp(443))), expected, "{count} headers");
        let expected = if count <= 6 { Reason::NotGuarded } else { Reason::Ipv6HeaderLimit };
        assert_eq!(reason(&ipv6(STRANGER_V6, &chain, 6, &tcp(22))), expected, "{count} headers, ssh");
        let expected = if count <= 6 { Reason::NotTcp } else { Reason::Ipv6HeaderLimit };
        assert_eq!(reason(&ipv6(STRANGER_V6, &chain, 58, &[128, 0])), expected, "{count} headers, ping");
    }
    let authentication = (51, vec![4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    check(vec![
        ("extension missing, length 0", Reason::Ipv6HeaderLimit, ipv6(STRANGER_V6, &[], 60, &[])),
        ("extension where it cannot be read", Reason::Ipv6HeaderLimit, ipv6_raw(STRANGER_V6, 60, 4000, &[])),
        (
            "authentication header, in units of 4",
            Reason::UnregisteredSource,
            ipv6(STRANGER_V6, &[authentication], 6, &tcp(443)),
        ),
        ("routing header", Reason::UnregisteredSource, ipv6(STRANGER_V6, &[(43, options(2))], 6, &tcp(443))),
        (
            "the longest there can be",
            Reason::UnregisteredSource,
            ipv6(STRANGER_V6, &vec![(60, options(255)); 6], 6, &tcp(443)),
        ),
    ]);
}

#[test]
fn ipv6_fragments() {
    let with = |header, payload: &[u8]| ipv6(STRANGER_V6, &[(44, header)], 6, payload);
    let behind = |header| (60, header);
    check(vec![
        ("atomic (RFC 6946)", Reason::UnregisteredSource, with(fragment(0, false), &tcp(443))),
        ("atomic, to ssh", Reason::NotGuarded, with(fragment(0, false), &tcp(22))),
        ("first, whole header", Reason::UnregisteredSource, with(fragment(0, true), &tcp(443))),
        ("first, registered", Reason::Registered, ipv6(KNOWN_V6, &[(44, fragment(0, true))], 6, &tcp(443))),
        ("first, flags missing", Reason::ShortFirstFragment, with(fragment(0, true), &tcp(443)[..8])),
        ("offset 1", Reason::FragmentOffsetOne, with(fragment(1, true), &[0; 8])),
        ("offset 2", Reason::LaterFragment, with(fragment(2, true), &[0; 8])),
        ("last", Reason::LaterFragment, with(fragment(0x1fff, false), &[0; 8])),
        ("ICMP, offset 1", Reason::LaterFragment, ipv6(STRANGER_V6, &[(44, fragment(1, false))], 58, &[0; 8])),
        (
            "options behind the first fragment's header",
            Reason::UnregisteredSource,
            ipv6(STRANGER_V6, &[(44, fragment(0, true)), behind(options(1))], 6, &tcp(443)),
        ),
        (
            "header chain that goes on in the next fragment (RFC 7112)",
            Reason::ShortFirstFragment,
            ipv6(STRANGER_V6, &[(44, fragment(0, true)), behind(options(1))], 6, &[]),
        ),
        (
            "header chain cut in a header",
            Reason::ShortFirstFragment,
            ipv6(STRANGER_V6, &[(44, fragment(0, true)), behind(vec![9; 7])], 6, &[]),
        ),
        ("ICMP, first", Reason::NotTcp, ipv6(STRANGER_V6, &[(44, fragment(0, true))], 58, &[128, 0])),
    ]);
}

#[test]
fn no_prefix_of_a_packet_panics_or_lets_a_stranger_reach_a_guarded_port() {
    let frames = [
        ipv4(Ipv4 { options: 3, payload: &tcp(443), ..Ipv4::default() }),
        ipv6(STRANGER_V6, &[(0, options(1)), (44, fragment(0, true)), (60, options(2))], 6, &tcp(443)),
    ];
    for frame in &frames {
        for length in 0..=frame.len() {
            let reason = reason(&frame[..length]);
            assert_ne!(reason, Reason::Registered, "{length}");
            assert_ne!(reason, Reason::NotGuarded, "{length}");
        }
    }
}

/// TCP to port 443 with these flags.
fn flags(source: [u8; 4], flags: u8) -> Vec<u8> {
    let mut segment = tcp(443);
    segment[13] = flags;
    ipv4(Ipv4 { source, payload: &segment, ..Ipv4::default() })
}

/// Makes a packet from this source.
type FromSource = fn([u8; 4]) -> Vec<u8>;

/// Packets that are dropped for each reason that needs no budget.
fn dropped() -> Vec<(Reason, FromSource)> {
    vec![
        (Reason::UnregisteredSource, |source| ipv4(Ipv4 { source, payload: &tcp(443), ..Ipv4::default() })),
        (Reason::ShortTcp, |source| ipv4(Ipv4 { source, payload: &tcp(443)[..8], ..Ipv4::default() })),
        (Reason::ShortFirstFragment, |source| {
            ipv4(Ipv4 { source, fragment: 0x2000, payload: &tcp(443)[..8], ..Ipv4::default() })
        }),
        (Reason::FragmentOffsetOne, |source| ipv4(Ipv4 { source, fragment: 1, payload: &[0; 8], ..Ipv4::default() })),
    ]
}

#[test]
fn modes_differ_in_what_happens_not_in_what_is_found() {
    for (reason, frame) in dropped() {
        let frame = frame(STRANGER_V4);
        assert_eq!(Known::with(ENFORCING).outcome(&frame), (reason, Action::Drop));
        assert_eq!(Known::with(ENFORCING & !Policy::ENFORCE).outcome(&frame), (reason, Action::Observed));
        assert_eq!(Known::with(ENFORCING & !Policy::ON).outcome(&frame), (Reason::Off, Action::Pass));
        assert_eq!(Known::with(0).outcome(&frame), (Reason::Off, Action::Pass), "maps as the kernel makes them");
        let mut lenient = Known::with(ENFORCING);
        lenient.policy.drops &= !reason.bit();
        assert_eq!(lenient.outcome(&frame), (reason, Action::Pass), "as the operator decided");
    }
}

#[test]
fn from_management_addresses_nothing_is_dropped() {
    for (reason, frame) in dropped() {
        assert_eq!(Known::with(ENFORCING).outcome(&frame(ADMIN_V4)), (Reason::Management, Action::Pass), "{reason:?}");
    }
    let admin = Known::with(ENFORCING | Policy::SOURCE_BUDGET | Policy::ORGANISATION_BUDGET);
    assert_eq!(admin.outcome(&flags(ADMIN_V4, SYN)), (Reason::Management, Action::Pass), "no budget either");
}

#[test]
fn only_guarded_addresses_are_guarded() {
    let some = Known::with(Policy::ON | Policy::ENFORCE);
    for (reason, frame) in dropped() {
        let mut elsewhere = frame(STRANGER_V4);
        elsewhere[33] = 77;
        assert_eq!(some.outcome(&elsewhere), (Reason::NotGuarded, Action::Pass), "{reason:?}");
        assert_eq!(some.outcome(&frame(STRANGER_V4)), (reason, Action::Drop));
    }
    assert_eq!(some.outcome(&ipv6(STRANGER_V6, &[], 6, &tcp(443))).0, Reason::NotGuarded);
    assert_eq!(some.outcome(&ipv6(STRANGER_V6, &[], 58, &[128, 0])).0, Reason::NotTcp, "what passes is not looked up");
}

const SYN: u8 = 2;

fn budgeted(source: (u32, u32), organisation: (u32, u32)) -> Known {
    let mut known = Known::with(ENFORCING | Policy::SOURCE_BUDGET | Policy::ORGANISATION_BUDGET);
    known.policy.source = Pace::with_burst(source.0, source.1);
    known.policy.organisation = Pace::with_burst(organisation.0, organisation.1);
    known
}

#[test]
fn budgets_bound_new_connections_and_nothing_else() {
    let known = budgeted((10, 3), (1000, 1000));
    let syn = flags(KNOWN_V4, SYN);
    let outcomes: Vec<_> = (0..5).map(|_| known.outcome(&syn)).collect();
    let (passed, over) = ((Reason::Registered, Action::Pass), (Reason::SourceOverBudget, Action::Drop));
    assert_eq!(outcomes, [passed, passed, passed, over, over]);
    for other in [0x12, 0x10, 0x11, 0x04, 0x18, 0x00] {
        assert_eq!(known.outcome(&flags(KNOWN_V4, other)), passed, "flags {other:#x}");
    }
    assert_eq!(known.outcome(&flags(KNOWN_V4, SYN | 0xc0)), over, "with congestion notification");
    known.now.set(known.now.get() + 100_000_000);
    assert_eq!((known.outcome(&syn), known.outcome(&syn)), (passed, over), "one more after its interval");
}

#[test]
fn an_organisation_has_a_budget_of_its_own() {
    let known = budgeted((1000, 1000), (10, 2));
    let syn = flags(KNOWN_V4, SYN);
    let outcomes: Vec<_> = (0..3).map(|_| known.judge(&syn)).collect();
    let reasons: Vec<_> = outcomes.iter().map(|judgement| judgement.reason()).collect();
    assert_eq!(reasons, [Reason::Registered, Reason::Registered, Reason::OrganisationOverBudget]);
    assert_eq!(outcomes[2].organisation, Some(4), "counted for it");
    assert_eq!(outcomes[2].charge, Charge::default(), "what is not let in costs nothing");
    assert!(outcomes[0].charge.source.is_some() && outcomes[0].charge.organisation.is_some());
}

#[test]
fn without_a_daemon_drops_go_on_unless_the_operator_decided_otherwise() {
    let (reason, frame) = (Reason::UnregisteredSource, dropped()[0].1(STRANGER_V4));
    let mut known = Known::with(ENFORCING);
    assert_eq!(known.outcome(&frame), (reason, Action::Drop));
    known.policy.open_after_ns = 5_000_000_000;
    known.heartbeat = known.now.get() - 5_000_000_000;
    assert_eq!(known.outcome(&frame), (reason, Action::Drop));
    known.now.set(known.now.get() + 1);
    assert_eq!(known.outcome(&frame), (Reason::DaemonGone, Action::Pass));
    assert_eq!(known.outcome(&flags(KNOWN_V4, SYN)), (Reason::Registered, Action::Pass));
    known.heartbeat = known.now.get() + 7;
    assert_eq!(known.outcome(&frame), (reason, Action::Drop), "a beat between two readings of the clock");
}
