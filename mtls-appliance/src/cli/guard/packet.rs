//! Packets to ask the guard about: made from addresses, typed as hex, or out of a capture file. Bytes in, frames out.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

/// Largest frame: an IP packet of 64 KiB with its Ethernet header and tags.
const MAX_FRAME: usize = (64 << 10) + 64;
/// Largest capture file.
const MAX_CAPTURE: u64 = 64 << 20;
const ETHERNET_HEADER: usize = 14;

/// An address, with a port or without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct From {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            // The first of the ports that a client would take (RFC 6335 section 6).
            return Ok(Self { address, port: 49_152 });
        }
        let both: SocketAddr = text.parse().map_err(|_| {
            "an IP address, with a port or without: 192.0.2.7, 192.0.2.7:40000, [2001:db8::7]:40000".to_owned()
        })?;
        Ok(Self { address: both.ip(), port: both.port() })
    }
}

/// What kind of segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Flags {
    /// It opens a connection.
    Syn = 0x02,
    /// It belongs to one.
    Ack = 0x10,
}

/// A TCP segment without data, in IP, in Ethernet.
pub(super) fn tcp(from: From, to: SocketAddr, flags: Flags) -> Result<Vec<u8>, String> {
    let mut segment = Vec::with_capacity(20);
    segment.extend(from.port.to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags as u8, 0xff, 0xff, 0, 0, 0, 0]);
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    match (from.address, to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (source, destination) => {
            return Err(format!(
                "--from {source} and --to {destination} are of different families: give both as IPv4 or both as IPv6"
            ));
        }
    }
    frame.extend(segment);
    Ok(frame)
}

/// A frame as typed: hex digits, blanks and colons between them as one likes; or `@` and the file that its bytes are in.
pub(super) fn typed(text: &str) -> Result<Vec<u8>, String> {
    let frame = match text.strip_prefix('@') {
        Some(file) => read(Path::new(file), MAX_FRAME as u64).map_err(|why| format!("--packet @{file}: {why}"))?,
        None => hex(text)?,
    };
    if !(ETHERNET_HEADER..=MAX_FRAME).contains(&frame.len()) {
        return Err(format!(
            "--packet: a frame has {ETHERNET_HEADER} to {MAX_FRAME} bytes, this one {}: give it from its Ethernet header on",
            frame.len()
        ));
    }
    Ok(frame)
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b':').collect();
    let wrong =
        || "--packet: not an even number of hex digits: give the bytes of an Ethernet frame, or @FILE".to_owned();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    digits.chunks(2).map(byte).collect::<Option<_>>().ok_or_else(wrong)
}

/// The frames of a capture file in the classic format (pcap-savefile(5)) of an Ethernet interface.
pub(super) fn captured(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let file = path.display();
    let bytes = read(path, MAX_CAPTURE).map_err(|why| format!("--pcap {file}: {why}"))?;
    frames_of(&bytes).map_err(|why| format!("--pcap {file}: {why}"))
}

fn frames_of(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let (header, mut rest) = bytes.split_at_checked(24).ok_or("shorter than a capture file's header")?;
    let at = |bytes: &[u8], at: usize| bytes.get(at..)?.first_chunk().copied();
    let magic = at(header, 0).map(u32::from_be_bytes);
    // Of microseconds or of nanoseconds, written by a machine of either byte order.
    let word: fn([u8; 4]) -> u32 = match magic {
        Some(0xa1b2_c3d4 | 0xa1b2_3c4d) => u32::from_be_bytes,
        Some(0xd4c3_b2a1 | 0x4d3c_b2a1) => u32::from_le_bytes,
        Some(0x0a0d_0d0a) => {
            return Err("a pcapng file: convert it (tcpdump -r IN -w OUT, editcap -F pcap IN OUT)".to_owned());
        }
        _ => return Err("no capture file: record one with tcpdump -w FILE".to_owned()),
    };
    let link = at(header, 20).map(word).unwrap_or_default() & 0xffff;
    if link != 1 {
        return Err(format!("of link type {link}: record at an Ethernet interface, not at \"any\""));
    }
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (header, more) = rest.split_at_checked(16).ok_or("cut short")?;
        let length = at(header, 8).map(word).unwrap_or_default() as usize;
        if length > MAX_FRAME {
            return Err(format!(
                "packet {} has {length} bytes, more than the {MAX_FRAME} of a frame",
                frames.len() + 1
            ));
        }
        let (frame, more) = more.split_at_checked(length).ok_or("cut short")?;
        frames.push(frame.to_vec());
        rest = more;
    }
    Ok(frames)
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > most {
        return Err(format!("longer than {most} bytes: give less at once"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use mtls_appliance_common::Frame;

    use super::*;

    #[test]
    fn a_source_is_an_address_with_or_without_a_port() {
        for (text, address, port) in [
            ("192.0.2.7", "192.0.2.7", 49_152),
            ("192.0.2.7:40000", "192.0.2.7", 40_000),
            ("2001:db8::7", "2001:db8::7", 49_152),
            ("[2001:db8::7]", "2001:db8::7", 49_152),
            ("[2001:db8::7]:1", "2001:db8::7", 1),
        ] {
            assert_eq!(text.parse(), Ok(From { address: address.parse().unwrap(), port }), "{text}");
        }
        for text in ["", "192.0.2", "192.0.2.7:", "192.0.2.7:65536", "host", "192.0.2.0/24"] {
            assert!(text.parse::<From>().is_err(), "{text}");
        }
    }

    #[test]
    fn made_packets_are_read_as_what_they_were_made_of() {
        for (from, to) in [("192.0.2.7:40000", "198.51.100.1:443"), ("[2001:db8::7]:40000", "[2001:db8::1]:443")] {
            let to: SocketAddr = to.parse().unwrap();
            for flags in [Flags::Syn, Flags::Ack] {
                let frame = tcp(from.parse().unwrap(), to, flags).unwrap();
                let judgement = mtls_appliance_common::judge(&Frame(&frame), &Everything);
                assert!(judgement.is_read);
                let segment = judgement.segment;
                assert_eq!((segment.source.ip(), segment.source_port), {
                    let from: From = from.parse().unwrap();
                    (from.address, from.port)
                });
                assert_eq!((segment.destination.ip(), segment.destination_port), (to.ip(), to.port()));
                assert_eq!(segment.opens, flags == Flags::Syn);
            }
        }
        let mixed = tcp("192.0.2.7".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap(), Flags::Syn);
        assert!(mixed.unwrap_err().contains("different families"));
    }

    #[test]
    fn a_frame_is_typed_as_hex_or_read_from_a_file() {
        let bytes: Vec<u8> = (0..14).collect();
        for text in ["000102030405060708090a0b0c0d", "00:01:02:03 04 05 06 07\n08 09 0A 0B 0C 0D"] {
            assert_eq!(typed(text).as_deref(), Ok(&bytes[..]));
        }
        for (text, part) in [("0001", "14 to"), ("0", "hex digits"), ("zz", "hex digits"), ("+1+1", "hex digits")] {
            assert!(typed(text).unwrap_err().contains(part), "{text}");
        }
        assert!(typed("@/nonexistent/frame").unwrap_err().contains("@/nonexistent/frame"));
        assert!(typed("@/dev/zero").unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_capture_is_read_in_either_byte_order_and_refused_when_it_is_none() {
        let capture = |word: fn(u32) -> [u8; 4], magic: u32, link: u32, lengths: &[u32]| {
            let mut bytes = Vec::new();
            for field in [magic, 0x0002_0004, 0, 0, 65_535, link] {
                bytes.extend(word(field));
            }
            for length in lengths {
                for field in [1, 2, *length, *length] {
                    bytes.extend(word(field));
                }
                bytes.extend((0..*length).map(|at| at as u8));
            }
            bytes
        };
        for magic in [0xa1b2_c3d4, 0xa1b2_3c4d] {
            for word in [u32::to_be_bytes, u32::to_le_bytes] {
                let frames = frames_of(&capture(word, magic, 1, &[60, 14])).unwrap();
                assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [60, 14]);
            }
        }
        let good = capture(u32::to_le_bytes, 0xa1b2_c3d4, 1, &[60]);
        for end in [0, 23, 30, good.len() - 1] {
            assert!(frames_of(&good[..end]).is_err(), "{end}");
        }
        for (bytes, part) in [
            (capture(u32::to_le_bytes, 0xa1b2_c3d4, 113, &[]), "link type 113"),
            (capture(u32::to_be_bytes, 0x0a0d_0d0a, 1, &[]), "pcapng"),
            (capture(u32::to_be_bytes, 1, 1, &[]), "no capture file"),
            (capture(u32::to_le_bytes, 0xa1b2_c3d4, 1, &[1 << 20]), "more than"),
        ] {
            assert!(frames_of(&bytes).unwrap_err().contains(part), "{part}");
        }
    }

    /// Guards every port of every address.
    struct Everything;

    impl mtls_appliance_common::Tables for Everything {
        fn policy(&self) -> mtls_appliance_common::layout::Policy {
            use mtls_appliance_common::layout::Policy;
            Policy { flags: Policy::ON | Policy::ANY_ADDRESS, ..Policy::default() }
        }
        fn guards_port(&self, _: u16) -> bool {
            true
        }
        fn guards_address(&self, _: &mtls_appliance_common::Address) -> bool {
            true
        }
        fn owner(&self, _: &mtls_appliance_common::Address) -> Option<u32> {
            None
        }
        fn source_due(&self, _: &mtls_appliance_common::Address) -> u64 {
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
}
