//! The verdict over one packet, as a pure function: [`judge`].
//!
//! The order of decisions keeps operators from locking themselves out. Everything that is not TCP to a guarded port is
//! passed: not IP (ARP), not TCP (ICMP, neighbour discovery), later fragments, other ports (ssh). What is known to be TCP
//! but hides its ports is dropped, and so is an IPv6 header chain longer than anything legitimate. A header that the
//! network stack would discard anyway is left to it.
//!
//! Nothing here depends on a VLAN tag being visible: interfaces with receive offload remove it before XDP.

use crate::layout::{MAX_IPV6_EXTENSION_HEADERS, MAX_VLAN_TAGS};
use crate::reason::Reason;

/// The bytes of a packet, from the Ethernet header on.
pub trait Packet {
    /// `N` bytes at `offset`, or `None` when the packet ends before.
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

/// What the operator configured, for one generation.
pub trait Tables {
    /// Whether TCP to this address and port is guarded.
    fn guards(&self, destination: &Address, port: u16) -> bool;
    /// The organisation that owns `source`, by its longest registered prefix.
    fn organisation(&self, source: &Address) -> Option<u32>;
}

/// An IP address in network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// IPv4.
    V4([u8; 4]),
    /// IPv6.
    V6([u8; 16]),
}

/// What the verdict needs of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it claims to come from.
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
    /// TCP source port.
    pub source_port: u16,
    /// TCP destination port.
    pub destination_port: u16,
}

/// A verdict and what it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// Why; [`Reason::action`] says what happens to the packet.
    pub reason: Reason,
    /// The TCP segment, when it was read that far.
    pub segment: Option<Segment>,
    /// The organisation that owns the source, when it was looked up and found.
    pub organisation: Option<u32>,
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
#[inline(always)]
pub fn judge(packet: &impl Packet, tables: &impl Tables) -> Judgement {
    let segment = match segment(packet) {
        Ok(segment) => segment,
        Err(reason) => {
            return Judgement { reason, segment: None, organisation: None };
        }
    };
    let (reason, organisation) = if !tables.guards(&segment.destination, segment.destination_port) {
        (Reason::NotGuarded, None)
    } else {
        match tables.organisation(&segment.source) {
            None => (Reason::UnregisteredSource, None),
            registered => (Reason::Registered, registered),
        }
    };
    Judgement { reason, segment: Some(segment), organisation }
}

/// Finds the TCP segment, or the reason why the packet is decided without one.
#[inline(always)]
pub fn segment(packet: &impl Packet) -> Result<Segment, Reason> {
    let (ethertype, offset) = network_header(packet)?;
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(packet, offset),
        ETHERTYPE_IPV6 => ipv6(packet, offset),
        _ => Err(Reason::NotIp),
    }
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
    Ok((ethertype, at))
}

#[inline(always)]
fn ipv4(packet: &impl Packet, at: usize) -> Result<Segment, Reason> {
    let header: [u8; IPV4_HEADER] = packet.bytes(at).ok_or(Reason::MalformedIp)?;
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
    let (source_port, destination_port) = ports(packet, at + header_length, more)?;
    Ok(Segment {
        source: Address::V4([header[12], header[13], header[14], header[15]]),
        destination: Address::V4([header[16], header[17], header[18], header[19]]),
        source_port,
        destination_port,
    })
}

#[inline(always)]
fn ipv6(packet: &impl Packet, at: usize) -> Result<Segment, Reason> {
    let header: [u8; 8] = packet.bytes(at).ok_or(Reason::MalformedIp)?;
    let source = packet.bytes(at + 8).ok_or(Reason::MalformedIp)?;
    let destination = packet.bytes(at + 24).ok_or(Reason::MalformedIp)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::MalformedIp);
    }
    let payload_length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut next = header[6];
    let mut seen = 0;
    // Bytes of extension headers so far.
    let mut walked = 0;
    let mut first_fragment = false;
    while is_extension(next) {
        if seen == MAX_IPV6_EXTENSION_HEADERS {
            return Err(Reason::Ipv6HeaderLimit);
        }
        seen += 1;
        let inside = payload_length == 0 || payload_length >= walked + 4;
        let Some(extension) = packet.bytes::<4>(at + IPV6_HEADER + walked) else {
            // The packet says that the chain goes on where it cannot be read: beyond a cut, which the stack discards, or in
            // a further part of a packet larger than a page, which the stack reads.
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
        next = extension[0];
        walked += length;
        // As for IPv4, a length of 0 is a jumbogram (RFC 2675) or an error.
        if payload_length != 0 && payload_length < walked {
            return Err(incomplete(first_fragment));
        }
    }
    if next != TCP {
        return Err(Reason::NotTcp);
    }
    if payload_length != 0 && payload_length < walked + TCP_UP_TO_FLAGS {
        return Err(short(first_fragment));
    }
    let (source_port, destination_port) = ports(packet, at + IPV6_HEADER + walked, first_fragment)?;
    Ok(Segment { source: Address::V6(source), destination: Address::V6(destination), source_port, destination_port })
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
fn ports(packet: &impl Packet, at: usize, first_fragment: bool) -> Result<(u16, u16), Reason> {
    let tcp: [u8; TCP_UP_TO_FLAGS] = packet.bytes(at).ok_or(short(first_fragment))?;
    Ok((u16::from_be_bytes([tcp[0], tcp[1]]), u16::from_be_bytes([tcp[2], tcp[3]])))
}

#[cfg(test)]
mod tests;
