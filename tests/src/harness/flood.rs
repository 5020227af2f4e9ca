//! A flood of connection attempts, as from many hosts.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use super::{Net, Place};

/// TCP openings to the guarded port, each from another address and port of a network.
pub struct Flood<'a> {
    /// Where it comes from.
    pub place: &'a Place,
    /// The first three bytes of the addresses.
    pub from: [u8; 3],
    /// Whom it hits.
    pub to: Ipv4Addr,
    /// How many addresses, 250 at most.
    pub sources: u8,
    /// Leaves others their CPUs.
    pub gentle: bool,
}

impl Flood<'_> {
    /// Sends until told to stop; how many it were.
    ///
    /// # Errors
    /// Without privilege.
    pub fn run(&self, stop: &AtomicBool) -> anyhow::Result<u64> {
        self.place.enter(|| {
            // With this protocol the IP header is ours (raw(7)).
            let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
            let mut sent = 0u64;
            while !stop.load(Ordering::Relaxed) {
                if self.gentle && sent.is_multiple_of(20) {
                    thread::sleep(Duration::from_millis(1));
                }
                let packet = self.opening(sent);
                match sendto(&socket, &packet, SendFlags::empty(), &SocketAddrV4::new(self.to, 0)) {
                    Ok(_) => sent += 1,
                    // The interface's queue is full.
                    Err(Errno::NOBUFS | Errno::AGAIN) => {}
                    Err(error) => return Err(error).context("sending a forged packet"),
                }
            }
            Ok(sent)
        })
    }

    fn opening(&self, number: u64) -> [u8; 40] {
        let [low, high, ..] = number.to_le_bytes();
        let [a, b, c] = self.from;
        // Neither the network, nor the appliance, nor the caller, nor everybody.
        let source = [a, b, c, 3 + (number % u64::from(self.sources)) as u8];
        let mut packet = [0; 40];
        packet[..4].copy_from_slice(&[0x45, 0, 0, 40]);
        packet[8..10].copy_from_slice(&[64, 6]);
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&self.to.octets());
        packet[20..24].copy_from_slice(&[0x80 | high, low, (Net::PORT >> 8) as u8, Net::PORT as u8]);
        packet[24..28].copy_from_slice(&number.to_be_bytes()[4..]);
        packet[32..36].copy_from_slice(&[0x50, 2, 0xff, 0xff]);
        let mut sum: u32 = packet[12..].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        // The pseudo-header's protocol and length (RFC 9293 section 3.1).
        sum += 6 + 20;
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        packet[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        packet
    }
}
