//! The packets that are run through programs.

use std::fmt;
use std::net::IpAddr;

/// The port that is guarded.
pub(super) const GUARDED_PORT: u16 = 443;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Internet protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A datagram to the guarded port.
    Udp,
    /// TCP to another port.
    OtherPort,
    /// Of a connection that lives.
    Data,
    /// The opening of a connection.
    Syn,
}

impl Kind {
    /// The frame from that source, without payload, padded to the shortest that Ethernet carries (60 bytes without checksum).
    pub(super) fn packet(self, source: IpAddr) -> Vec<u8> {
        let segment = match self {
            Self::Udp => [&[0xc0, 0, 0x01, 0xbb, 0, 8, 0, 0][..]].concat(),
            Self::OtherPort => tcp(22, SYN),
            Self::Data => tcp(GUARDED_PORT, ACK),
            Self::Syn => tcp(GUARDED_PORT, SYN),
        };
        let protocol = if self == Self::Udp { UDP } else { TCP };
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let length = segment.len() as u8;
        match source {
            IpAddr::V4(source) => {
                frame.extend([0x08, 0x00, 0x45, 0, 0, 20 + length, 0, 1, 0, 0, 64, protocol, 0, 0]);
                frame.extend(source.octets());
                frame.extend([192, 0, 2, 1]);
            }
            IpAddr::V6(source) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, protocol, 64]);
                frame.extend(source.octets());
                frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            }
        }
        frame.extend(segment);
        frame.resize(frame.len().max(60), 0);
        frame
    }
}

fn tcp(port: u16, flags: u8) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![0xc0, 0, high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]
}
