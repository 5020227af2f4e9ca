//! The verdict over a packet: that of a plain reading by the RFCs, in any world that an operator can configure; and
//! none that a different frame around the packet, or a cut through it, could change to a stranger's advantage.
//!
//! The input is a world (eight decisions) and an Ethernet frame.

use mtls_appliance_common::layout::{MANAGEMENT, Policy};
use mtls_appliance_common::pace::Pace;
use mtls_appliance_common::{Action, Address, Frame, Judgement, Reason, Tables, judge};

use crate::choices::Choices;

/// What is guarded.
const PORTS: [u16; 3] = [443, 8443, 0x1bb0];
const NOW: u64 = 1 << 40;
const MINUTE: u64 = 60_000_000_000;

/// An operator's choices, and what was counted so far.
#[derive(Debug, Clone, Copy)]
struct World {
    policy: Policy,
    heartbeat: u64,
    source_due: u64,
    organisation_due: u64,
}

impl World {
    fn of(choices: &mut Choices<'_>) -> Option<World> {
        let (flags, open, heart) = (choices.below(32)?, choices.below(2)?, choices.below(3)?);
        let dues = [choices.below(3)?, choices.below(3)?].map(|due| NOW + u64::from(due) * MINUTE / 2);
        let passes = u32::from(choices.below(255)?) << 8 | u32::from(choices.below(255)?);
        let pace = Pace::with_burst(1, choices.below(60)?.into());
        let drops = Reason::ALL
            .iter()
            .filter(|reason| reason.action() == Action::Drop && passes >> reason.index() & 1 == 0)
            .fold(0, |bits, reason| bits | reason.bit());
        let policy = Policy {
            flags: flags.into(),
            drops,
            source: pace,
            organisation: pace,
            open_after_ns: u64::from(open) * MINUTE,
            sample: Pace::default(),
        };
        let heartbeat = NOW - u64::from(heart) * MINUTE;
        Some(World { policy, heartbeat, source_due: dues[0], organisation_due: dues[1] })
    }
}

impl Tables for World {
    fn policy(&self) -> Policy {
        self.policy
    }
    fn guards_port(&self, port: u16) -> bool {
        PORTS.contains(&port)
    }
    fn guards_address(&self, destination: &Address) -> bool {
        is_guarded(destination)
    }
    fn owner(&self, source: &Address) -> Option<u32> {
        owner(source)
    }
    fn source_due(&self, _: &Address) -> u64 {
        self.source_due
    }
    fn organisation_due(&self, _: u32) -> u64 {
        self.organisation_due
    }
    fn heartbeat(&self) -> u64 {
        self.heartbeat
    }
    fn now(&self) -> u64 {
        NOW
    }
}

/// Addresses are told apart by their last bits.
fn is_guarded(destination: &Address) -> bool {
    destination.octets_v6()[15] & 1 == 0
}

fn owner(source: &Address) -> Option<u32> {
    [None, Some(7), Some(MANAGEMENT), None][usize::from(source.octets_v6()[15] & 3)]
}

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let Some(world) = World::of(&mut choices) else { return };
    let frame = choices.bytes(usize::MAX);
    let judgement = judge(&Frame(frame), &world);
    assert_eq!((judgement.action, judgement.reason()), reference(frame, &world), "{world:?}");
    let charged = judgement.charge.source.is_some() || judgement.charge.organisation.is_some();
    assert!(!charged || judgement.reason() == Reason::Registered, "only who is let in pays: {judgement:?}");

    modes_find_the_same(frame, &world, &judgement);
    a_tag_changes_nothing(frame, &world, &judgement);
    no_cut_lets_a_stranger_in(frame, &world, &judgement);
}

fn modes_find_the_same(frame: &[u8], world: &World, judgement: &Judgement) {
    let mut other = *world;
    other.policy.flags ^= Policy::ENFORCE;
    let there = judge(&Frame(frame), &other);
    let swapped = match judgement.action {
        Action::Pass => Action::Pass,
        Action::Drop => Action::Observed,
        Action::Observed => Action::Drop,
    };
    assert_eq!(there, Judgement { action: swapped, ..*judgement });
}

/// An interface may show a tag or remove it before.
fn a_tag_changes_nothing(frame: &[u8], world: &World, judgement: &Judgement) {
    let Ok(Network { tags: 0..4, .. }) = network(frame) else { return };
    let mut tagged = frame[..12].to_vec();
    tagged.extend([0x81, 0x00, 0x20, 0x2a]);
    tagged.extend(&frame[12..]);
    assert_eq!(judge(&Frame(&tagged), world), *judgement, "with a tag");
}

/// Where a stranger's segment is dropped, a part of the packet is not taken for a registered one's.
fn no_cut_lets_a_stranger_in(frame: &[u8], world: &World, judgement: &Judgement) {
    if judgement.reason() != Reason::UnregisteredSource {
        return;
    }
    for cut in 0..frame.len() {
        let part = judge(&Frame(&frame[..cut]), world);
        assert!(part.reason() != Reason::Registered && part.organisation.is_none(), "cut at {cut}: {part:?}");
    }
}

/// The verdict by a plain reading.
fn reference(frame: &[u8], world: &World) -> (Action, Reason) {
    let policy = world.policy;
    if policy.flags & Policy::ON == 0 {
        return (Action::Pass, Reason::Off);
    }
    let drops = |reason: Reason| policy.drops & reason.bit() != 0;
    let Network { source, destination, transport, .. } = match network(frame) {
        Ok(network) => network,
        Err(reason) => return (Action::Pass, reason),
    };
    let here = policy.flags & Policy::ANY_ADDRESS != 0 || is_guarded(&destination);
    let reason = match (transport, owner(&source)) {
        (Err(reason), _) if !drops(reason) => return (Action::Pass, reason),
        (Ok((port, _)), _) if !PORTS.contains(&port) => return (Action::Pass, Reason::NotGuarded),
        _ if !here => return (Action::Pass, Reason::NotGuarded),
        (_, Some(MANAGEMENT)) => return (Action::Pass, Reason::Management),
        (Err(reason), _) => reason,
        (Ok(_), None) => Reason::UnregisteredSource,
        (Ok((_, false)), _) => Reason::Registered,
        (Ok((_, true)), _) => opens(world),
    };
    if !drops(reason) {
        return (Action::Pass, reason);
    }
    if policy.open_after_ns == MINUTE && NOW - world.heartbeat > MINUTE {
        return (Action::Pass, Reason::DaemonGone);
    }
    let action = if policy.flags & Policy::ENFORCE != 0 { Action::Drop } else { Action::Observed };
    (action, reason)
}

/// What comes of a registered source's SYN: first its own budget counts, then its organisation's.
fn opens(world: &World) -> Reason {
    let over = |flag, pace: Pace, due: u64| world.policy.flags & flag != 0 && due - NOW > pace.burst_ns;
    if over(Policy::SOURCE_BUDGET, world.policy.source, world.source_due) {
        return Reason::SourceOverBudget;
    }
    if over(Policy::ORGANISATION_BUDGET, world.policy.organisation, world.organisation_due) {
        return Reason::OrganisationOverBudget;
    }
    Reason::Registered
}

/// An IP packet.
struct Network {
    tags: usize,
    source: Address,
    destination: Address,
    /// TCP's destination port and whether the segment opens a connection, or why they cannot be read.
    transport: Result<(u16, bool), Reason>,
}

/// The IP packet of a frame, or why there is none.
fn network(frame: &[u8]) -> Result<Network, Reason> {
    let (mut tags, mut rest) = (0, frame.get(12..).ok_or(Reason::NotIp)?);
    // IEEE 802.1Q and 802.1ad.
    while let (0..4, [0x81, 0x00, ..] | [0x88, 0xa8, ..]) = (tags, rest) {
        (tags, rest) = (tags + 1, rest.get(4..).ok_or(Reason::NotIp)?);
    }
    match rest {
        [0x08, 0x00, packet @ ..] => ipv4(tags, packet),
        [0x86, 0xdd, packet @ ..] => ipv6(tags, packet),
        _ => Err(Reason::NotIp),
    }
}

/// RFC 791.
fn ipv4(tags: usize, packet: &[u8]) -> Result<Network, Reason> {
    let (header, _) = packet.split_first_chunk::<20>().ok_or(Reason::MalformedIp)?;
    let &[version, _, long, gth, _, _, flags, offset, _, protocol, _, _, a, b, c, d, e, f, g, h] = header;
    let options = usize::from(version & 15).checked_sub(5).ok_or(Reason::MalformedIp)? * 4;
    if version >> 4 != 4 {
        return Err(Reason::MalformedIp);
    }
    let (total, more) = (usize::from(long) << 8 | usize::from(gth), flags & 0x20 != 0);
    let offset = usize::from(flags & 0x1f) << 8 | usize::from(offset);
    let transport = match (protocol, offset) {
        (6, 0) => tcp(packet.get(20 + options..), total.checked_sub(20 + options), total == 0, more),
        (6, 1) => Err(Reason::FragmentOffsetOne),
        (6, _) => Err(Reason::LaterFragment),
        _ => Err(Reason::NotTcp),
    };
    Ok(Network { tags, source: Address::v4([a, b, c, d]), destination: Address::v4([e, f, g, h]), transport })
}

/// RFC 8200.
fn ipv6(tags: usize, packet: &[u8]) -> Result<Network, Reason> {
    let (header, payload) = packet.split_first_chunk::<40>().ok_or(Reason::MalformedIp)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::MalformedIp);
    }
    let said = usize::from(header[4]) << 8 | usize::from(header[5]);
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Address::v6(octets)
    };
    let transport = extensions(header[6], payload, said);
    Ok(Network { tags, source: address(8), destination: address(24), transport })
}

/// What follows the chain of extension headers; `said` is the payload's length by the header, 0 for none.
fn extensions(mut next: u8, payload: &[u8], said: usize) -> Result<(u16, bool), Reason> {
    let (mut at, mut first) = (0, false);
    let cut = |first| if first { Reason::ShortFirstFragment } else { Reason::MalformedIp };
    for walked in 0.. {
        if !matches!(next, 0 | 43 | 44 | 51 | 60) {
            break;
        }
        if walked == 6 {
            return Err(Reason::Ipv6HeaderLimit);
        }
        let Some(&[following, length, high, low, ..]) = payload.get(at..) else {
            let beyond = said == 0 || said >= at + 4;
            return Err(if beyond && !first { Reason::Ipv6HeaderLimit } else { cut(first) });
        };
        at += match next {
            44 => match (usize::from(high) << 8 | usize::from(low)) >> 3 {
                0 => 8,
                1 if following == 6 => return Err(Reason::FragmentOffsetOne),
                _ => return Err(Reason::LaterFragment),
            },
            51 => 4 * (usize::from(length) + 2),
            _ => 8 * (usize::from(length) + 1),
        };
        first |= next == 44 && low & 1 == 1;
        next = following;
        if said != 0 && said < at {
            return Err(cut(first));
        }
    }
    match next {
        6 => tcp(payload.get(at..), said.checked_sub(at), said == 0, first),
        _ => Err(Reason::NotTcp),
    }
}

/// RFC 9293: what is there, and how much of it there is by IP's word unless that is none.
fn tcp(segment: Option<&[u8]>, said: Option<usize>, unsaid: bool, first: bool) -> Result<(u16, bool), Reason> {
    let short = if first { Reason::ShortFirstFragment } else { Reason::ShortTcp };
    if !unsaid && said.is_none_or(|said| said < 14) {
        return Err(short);
    }
    match segment {
        Some(&[_, _, high, low, _, _, _, _, _, _, _, _, _, flags, ..]) => {
            Ok((u16::from(high) << 8 | u16::from(low), flags & 0x12 == 0x02))
        }
        _ => Err(short),
    }
}
