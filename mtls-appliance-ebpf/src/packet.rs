//! Reads packet bytes, with the bounds check that the verifier wants to see.
#![expect(unsafe_code, reason = "the packet lies between two raw addresses")]

use aya_ebpf::programs::XdpContext;
use mtls_appliance_common::Packet;

/// Farther than any header chain the verdict walks; the verifier wants a bound on a variable offset.
const MAX_OFFSET: usize = 0x3fff;

/// The packet that the program was called for.
pub(crate) struct XdpPacket {
    start: usize,
    end: usize,
}

impl XdpPacket {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> XdpPacket {
        XdpPacket { start: context.data(), end: context.data_end() }
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let at = self.start + offset;
        if at + N > self.end {
            return None;
        }
        // SAFETY: `at..at + N` lies within the packet, as just checked (and checked again by the verifier); `[u8; N]` has
        // no alignment and no invalid values.
        Some(unsafe { *(at as *const [u8; N]) })
    }

    #[inline(always)]
    fn settle(&self, word: u64) -> u64 {
        crate::maps::settle(word)
    }
}
