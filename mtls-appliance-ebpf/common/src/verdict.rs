//! The verdict over one packet, as a pure function: [`judge`].
//!
//! The order of decisions keeps operators from locking themselves out. Everything that is not TCP to a guarded address and
//! port is passed: not IP (ARP), not TCP (ICMP, neighbour discovery), later fragments, other ports (ssh). What is known to
//! be TCP to a guarded address but hides its ports is dropped, and so is an IPv6 header chain longer than anything
//! legitimate. A header that the network stack would discard anyway is left to it. From management addresses nothing is
//! dropped.
//!
//! Nothing here depends on a VLAN tag being visible: interfaces with receive offload remove it before XDP.

use crate::layout::{MANAGEMENT, MAX_IPV6_EXTENSION_HEADERS, MAX_VLAN_TAGS, Policy};
use crate::reason::{Action, Reason};

/// The bytes of a packet, from the Ethernet header on.
pub trait Packet {
    /// `N` bytes at `offset`, or `None` when the packet ends before.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
    /// Gives back what it was given. The XDP program passes it through memory: what comes from there is unknown to the
    /// kernel's verifier, which then walks what follows once, and not once for each way that leads there.
    #[inline(always)]
    fn settle(&self, word: u64) -> u64 {
        word
    }
}

/// What the operator configured, for one generation, and what was counted so far. Times are nanoseconds of one clock.
pub trait Tables {
    /// What is done with which packets.
    fn policy(&self) -> Policy;
    /// Whether this port is guarded.
    fn guards_port(&self, port: u16) -> bool;
    /// Whether this address is; not asked with [`Policy::ANY_ADDRESS`].
    fn guards_address(&self, destination: &Address) -> bool;
    /// The slot of the organisation that owns `source`, by its longest registered prefix, or [`MANAGEMENT`].
    fn owner(&self, source: &Address) -> Option<u32>;
    /// When the next SYN of `source` is due; 0 when it is not known.
    fn source_due(&self, source: &Address) -> u64;
    /// When the next SYN of an organisation is due.
    fn organisation_due(&self, organisation: u32) -> u64;
    /// When the daemon gave its last sign of life.
    fn heartbeat(&self) -> u64;
    /// What time it is.
    fn now(&self) -> u64;
}

/// An IP address. In words that always have a value, IPv4 mapped into IPv6 (RFC 4291 2.5.5.2): where an enumeration would
/// leave bytes undefined the compiler may store part of any register there, which the kernel's verifier refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Address {
    is_v6: bool,
    high: u64,
    low: u64,
}

impl Address {
    /// IPv4, in network byte order.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Address {
        Address { is_v6: false, high: 0, low: 0xffff_0000_0000 | u32::from_be_bytes(octets) as u64 }
    }

    /// IPv6, in network byte order.
    #[inline(always)]
    pub const fn v6(o: [u8; 16]) -> Address {
        Address {
            is_v6: true,
            high: u64::from_be_bytes([o[0], o[1], o[2], o[3], o[4], o[5], o[6], o[7]]),
            low: u64::from_be_bytes([o[8], o[9], o[10], o[11], o[12], o[13], o[14], o[15]]),
        }
    }

    /// From its [halves](Address::halves).
    #[inline(always)]
    pub const fn from_halves(is_v6: bool, [high, low]: [u64; 2]) -> Address {
        Address { is_v6, high, low }
    }

    /// Whether it came from an IPv6 header.
    #[inline(always)]
    pub const fn is_v6(&self) -> bool {
        self.is_v6
    }

    /// The upper and the lower half as IPv6.
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        [self.high, self.low]
    }

    /// As IPv4, in network byte order.
    #[inline(always)]
    pub const fn octets_v4(&self) -> [u8; 4] {
        (self.low as u32).to_be_bytes()
    }

    /// As IPv6, in network byte order.
    #[inline(always)]
    pub const fn octets_v6(&self) -> [u8; 16] {
        ((self.high as u128) << 64 | self.low as u128).to_be_bytes()
    }

    /// As the standard library has it.
    pub const fn ip(&self) -> core::net::IpAddr {
        if self.is_v6 {
            core::net::IpAddr::V6(core::net::Ipv6Addr::from_octets(self.octets_v6()))
        } else {
            core::net::IpAddr::V4(core::net::Ipv4Addr::from_octets(self.octets_v4()))
        }
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Address {
        match address {
            core::net::IpAddr::V4(v4) => Address::v4(v4.octets()),
            core::net::IpAddr::V6(v6) => Address::v6(v6.octets()),
        }
    }
}

/// What the verdict needs of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Where it claims to come from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// TCP source port.
    pub source_port: u16,
    /// TCP destination port.
    pub destination_port: u16,
    /// It opens a connection: SYN without ACK.
    pub opens: bool,
}

/// What the caller has to store so that budgets are kept: the times at which the next SYNs are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Charge {
    /// Of the source.
    pub source: Option<u64>,
    /// Of the organisation.
    pub organisation: Option<u64>,
}

/// A verdict and what it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What happens to the packet.
    pub action: Action,
    /// Why: the [index](Reason::index) of the reason.
    pub code: u32,
    /// Whether there is a TCP segment.
    pub is_read: bool,
    /// The segment; without one its ports are zero, and its addresses as far as they were read.
    pub segment: Segment,
    /// The organisation that owns the source, when it was looked up and found.
    pub organisation: Option<u32>,
    /// What it costs.
    pub charge: Charge,
}

impl Judgement {
    /// Why.
    #[inline(always)]
    pub const fn reason(&self) -> Reason {
        Reason::from_index(self.code)
    }
}

/// A packet in memory.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a>(pub &'a [u8]);

impl Packet for Frame<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
}

const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// TCP's bytes up to and including the flags.
const TCP_UP_TO_FLAGS: usize = 14;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// More than the longest chain of IPv6 headers that is walked has bytes.
const MAX_WALKED: usize = 0x3fff;
const _: () = assert!(MAX_IPV6_EXTENSION_HEADERS * 256 * 8 <= MAX_WALKED);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q.
const ETHERTYPE_VLAN: u16 = 0x8100;
/// IEEE 802.1ad.
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

const TCP: u8 = 6;
const IPV6_HOP_BY_HOP: u8 = 0;
const IPV6_ROUTING: u8 = 43;
const IPV6_FRAGMENT: u8 = 44;
const IPV6_AUTHENTICATION: u8 = 51;
const IPV6_DESTINATION: u8 = 60;

/// Judges one packet.
///
/// Every kind of packet goes through the same look-ups, so that they are in the program once: the kernel's verifier walks
/// every way through it.
#[inline(always)]
pub fn judge(packet: &impl Packet, tables: &impl Tables) -> Judgement {
    let policy = tables.policy();
    let passed = |code| Judgement {
        action: Action::Pass,
        code,
        is_read: false,
        segment: Segment::default(),
        organisation: None,
        charge: Charge::default(),
    };
    if !policy.is(Policy::ON) {
        return passed(Reason::Off.index());
    }
    let Read { unread, segment } = read(packet);
    let is_read = unread == Read::WHOLE;
    // What is passed unread whatever the policy needs no look-ups.
    if !is_read && policy.drops & Reason::bit_of(unread) == 0 {
        return passed(unread);
    }
    let read = Judgement { is_read, segment, ..passed(Reason::NotGuarded.index()) };
    let guarded = (!is_read || tables.guards_port(segment.destination_port))
        && (policy.is(Policy::ANY_ADDRESS) || tables.guards_address(&segment.destination));
    if !guarded {
        return read;
    }
    let owner = tables.owner(&segment.source);
    if owner == Some(MANAGEMENT) {
        return Judgement { code: Reason::Management.index(), ..read };
    }
    let (code, charge) = match owner {
        _ if !is_read => (unread, Charge::default()),
        None => (Reason::UnregisteredSource.index(), Charge::default()),
        Some(organisation) if segment.opens => admit(&segment, organisation, &policy, tables),
        Some(_) => (Reason::Registered.index(), Charge::default()),
    };
    let judgement = Judgement { code, charge, organisation: if is_read { owner } else { None }, ..read };
    if policy.drops & Reason::bit_of(code) == 0 {
        return judgement;
    }
    if policy.open_after_ns != 0 && tables.now().saturating_sub(tables.heartbeat()) > policy.open_after_ns {
        return Judgement { code: Reason::DaemonGone.index(), ..judgement };
    }
    let action = if policy.is(Policy::ENFORCE) { Action::Drop } else { Action::Observed };
    Judgement { action, ..judgement }
}

/// Whether the budgets have room for one more connection, and what it costs.
#[inline(always)]
fn admit(segment: &Segment, organisation: u32, policy: &Policy, tables: &impl Tables) -> (u32, Charge) {
    let mut charge = Charge::default();
    if !policy.is(Policy::SOURCE_BUDGET | Policy::ORGANISATION_BUDGET) {
        return (Reason::Registered.index(), charge);
    }
    let now = tables.now();
    if policy.is(Policy::SOURCE_BUDGET) {
        charge.source = policy.source.admit(tables.source_due(&segment.source), now);
        if charge.source.is_none() {
            return (Reason::SourceOverBudget.index(), Charge::default());
        }
    }
    if policy.is(Policy::ORGANISATION_BUDGET) {
        charge.organisation = policy.organisation.admit(tables.organisation_due(organisation), now);
        if charge.organisation.is_none() {
            return (Reason::OrganisationOverBudget.index(), Charge::default());
        }
    }
    (Reason::Registered.index(), charge)
}

/// What was read of a packet.
struct Read {
    /// [`Read::WHOLE`], or the index of the reason why there is no TCP segment to judge.
    unread: u32,
    /// The segment; ports are zero where there is none, addresses where there is no IP.
    segment: Segment,
}

impl Read {
    /// There is a segment.
    const WHOLE: u32 = 0xff;
}

#[inline(always)]
fn read(packet: &impl Packet) -> Read {
    let mut segment = Segment::default();
    let outcome = match network_header(packet) {
        Ok((ETHERTYPE_IPV4, offset)) => ipv4(packet, offset, &mut segment),
        Ok((ETHERTYPE_IPV6, offset)) => ipv6(packet, offset, &mut segment),
        Ok(_) => Err(Reason::NotIp),
        Err(reason) => Err(reason),
    };
    Read { unread: outcome.err().map_or(Read::WHOLE, Reason::index), segment }
}

/// The EtherType below all VLAN tags, and where its header begins.
#[inline(always)]
fn network_header(packet: &impl Packet) -> Result<(u16, usize), Reason> {
    let mut at = ETHERNET_HEADER;
    let [high, low] = packet.bytes(at - 2).ok_or(Reason::NotIp)?;
    let mut ethertype = u16::from_be_bytes([high, low]);
    for _ in 0..MAX_VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_SERVICE_VLAN {
            break;
        }
        let [_, _, high, low]: [u8; VLAN_TAG] = packet.bytes(at).ok_or(Reason::NotIp)?;
        ethertype = u16::from_be_bytes([high, low]);
        at += VLAN_TAG;
    }
    let word = packet.settle((ethertype as u64) << 16 | at as u64);
    Ok(((word >> 16) as u16, word as usize & MAX_WALKED))
}

#[inline(always)]
fn ipv4(packet: &impl Packet, at: usize, segment: &mut Segment) -> Result<(), Reason> {
    let header: [u8; IPV4_HEADER] = packet.bytes(at).ok_or(Reason::MalformedIp)?;
    segment.source = Address::v4([header[12], header[13], header[14], header[15]]);
    segment.destination = Address::v4([header[16], header[17], header[18], header[19]]);
    let header_length = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_length < IPV4_HEADER {
        return Err(Reason::MalformedIp);
    }
    if header[9] != TCP {
        return Err(Reason::NotTcp);
    }
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let (offset, more) = (fragment & 0x1fff, fragment & 0x2000 != 0);
    later_fragment(offset, TCP)?;
    // A length of 0 stands for more than 64 KiB on packets that generic receive offload put together; on the wire it is
    // an error that the stack discards.
    if total_length != 0 && total_length < header_length + TCP_UP_TO_FLAGS {
        return Err(short(more));
    }
    tcp(packet, at + header_length, more, segment)
}

#[inline(always)]
fn ipv6(packet: &impl Packet, at: usize, segment: &mut Segment) -> Result<(), Reason> {
    let header: [u8; 8] = packet.bytes(at).ok_or(Reason::MalformedIp)?;
    segment.source = Address::v6(packet.bytes(at + 8).ok_or(Reason::MalformedIp)?);
    segment.destination = Address::v6(packet.bytes(at + 24).ok_or(Reason::MalformedIp)?);
    if header[0] >> 4 != 6 {
        return Err(Reason::MalformedIp);
    }
    let payload_length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut chain = Chain { next: header[6], walked: 0, first_fragment: false };
    // Written out: kernels before 6.2 refuse some of the loops that a compiler makes.
    macro_rules! walk {
        ($($step:literal)+) => {
            const _: () = assert!([$($step),+].len() == MAX_IPV6_EXTENSION_HEADERS);
            $(if is_extension(chain.next) {
                chain = step(packet, at, payload_length, chain)?;
                let _ = $step;
            })+
        };
    }
    walk!(1 2 3 4 5 6);
    if is_extension(chain.next) {
        return Err(Reason::Ipv6HeaderLimit);
    }
    let Chain { next, walked, first_fragment } = chain;
    if next != TCP {
        return Err(Reason::NotTcp);
    }
    if payload_length != 0 && payload_length < walked + TCP_UP_TO_FLAGS {
        return Err(short(first_fragment));
    }
    tcp(packet, at + IPV6_HEADER + walked, first_fragment, segment)
}

/// Walks along one IPv6 extension header.
#[inline(always)]
fn step(packet: &impl Packet, at: usize, payload_length: usize, chain: Chain) -> Result<Chain, Reason> {
    let Chain { next, walked, mut first_fragment } = chain;
    let inside = payload_length == 0 || payload_length >= walked + 4;
    let Some(extension) = packet.bytes::<4>(at + IPV6_HEADER + walked) else {
        // The packet says that the chain goes on where it cannot be read: beyond a cut, which the stack discards, or in a
        // further part of a packet larger than a page, which the stack reads.
        return Err(if inside && !first_fragment { Reason::Ipv6HeaderLimit } else { incomplete(first_fragment) });
    };
    // RFC 8200 section 4: in units of 8 bytes, not counting the first. RFC 4302 section 2.2: in units of 4 bytes, not
    // counting the first two. A fragment header's second byte is reserved, its length fixed.
    let length = match next {
        IPV6_FRAGMENT => {
            let fragment = u16::from_be_bytes([extension[2], extension[3]]);
            later_fragment(fragment >> 3, extension[0])?;
            // Neither an offset nor more to come: an atomic fragment (RFC 6946), a packet like any other.
            first_fragment |= fragment & 1 != 0;
            8
        }
        IPV6_AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
        _ => (usize::from(extension[1]) + 1) * 8,
    };
    let chain = Chain { next: extension[0], walked: walked + length, first_fragment }.settled(packet);
    // As for IPv4, a length of 0 is a jumbogram (RFC 2675) or an error.
    if payload_length != 0 && payload_length < chain.walked {
        return Err(incomplete(first_fragment));
    }
    Ok(chain)
}

/// Where a walk along a chain of IPv6 headers stands.
#[derive(Clone, Copy)]
struct Chain {
    /// What comes next.
    next: u8,
    /// Bytes of extension headers so far.
    walked: usize,
    /// There was a fragment header, of a packet's first fragment.
    first_fragment: bool,
}

impl Chain {
    /// The same, see [`Packet::settle`].
    #[inline(always)]
    fn settled(self, packet: &impl Packet) -> Chain {
        let word = packet.settle(self.next as u64 | (self.first_fragment as u64) << 8 | (self.walked as u64) << 16);
        Chain { next: word as u8, first_fragment: word & 1 << 8 != 0, walked: (word >> 16) as usize & MAX_WALKED }
    }
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, IPV6_HOP_BY_HOP | IPV6_ROUTING | IPV6_FRAGMENT | IPV6_AUTHENTICATION | IPV6_DESTINATION)
}

/// Decides fragments other than the first, whose offset (in units of 8 bytes) is not 0.
#[inline(always)]
fn later_fragment(offset: u16, protocol: u8) -> Result<(), Reason> {
    match offset {
        0 => Ok(()),
        1 if protocol == TCP => Err(Reason::FragmentOffsetOne),
        _ => Err(Reason::LaterFragment),
    }
}

/// An IPv6 header chain that is longer than the payload.
#[inline(always)]
const fn incomplete(first_fragment: bool) -> Reason {
    if first_fragment { Reason::ShortFirstFragment } else { Reason::MalformedIp }
}

/// A TCP header that the packet does not hold up to its flags.
#[inline(always)]
const fn short(first_fragment: bool) -> Reason {
    if first_fragment { Reason::ShortFirstFragment } else { Reason::ShortTcp }
}

#[inline(always)]
fn tcp(packet: &impl Packet, at: usize, first_fragment: bool, segment: &mut Segment) -> Result<(), Reason> {
    let header: [u8; TCP_UP_TO_FLAGS] = packet.bytes(at).ok_or(short(first_fragment))?;
    segment.source_port = u16::from_be_bytes([header[0], header[1]]);
    segment.destination_port = u16::from_be_bytes([header[2], header[3]]);
    segment.opens = header[13] & (SYN | ACK) == SYN;
    Ok(())
}

#[cfg(test)]
mod tests;
