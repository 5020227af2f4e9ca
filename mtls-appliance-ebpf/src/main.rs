//! The guard's XDP program: reads a packet, lets the shared [verdict](mtls_appliance_common::judge) decide, counts.
//!
//! What is decided, and in which order, is `common`'s; what the maps hold is the daemon's. This crate is only the way
//! between the kernel and those two. It means nothing for other targets than BPF, where it is an empty program.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "the program's section and the licence's are chosen with unsafe attributes")
)]

#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod sample;

#[cfg(target_arch = "bpf")]
mod entry {
    use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
    use aya_ebpf::macros::xdp;
    use aya_ebpf::programs::XdpContext;
    use mtls_appliance_common::{Action, judge};

    use crate::maps::{self, Bank};
    use crate::packet::XdpPacket;
    use crate::sample;

    /// The entry. `frags`: packets larger than a page are welcome.
    #[xdp(frags)]
    pub(crate) fn mtls_guard(context: XdpContext) -> u32 {
        let bank = Bank::active();
        let judgement = judge(&XdpPacket::new(&context), &bank);
        maps::count(&judgement);
        if judgement.action == Action::Pass {
            maps::charge(&judgement);
        } else {
            sample::event(&context, bank, &judgement);
        }
        if judgement.action == Action::Drop { XDP_DROP } else { XDP_PASS }
    }

    /// Some helpers are for programs under the GPL; this is the kernel's own word for a choice of licences.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    /// Never reached: the verifier refuses a program that could panic.
    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
