//! Tells userspace about some of the drops, as an event in the ring and as a line for the daemon's log: never about every
//! packet, a flood must not become a flood of logs.
#![expect(unsafe_code, reason = "the shared word of the pace is a raw pointer")]

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::info;
use mtls_appliance_common::{Judgement, Tables, event};

use crate::maps::{self, Bank};

/// Tells about a drop, or what would be one, if the policy's pace admits it now.
#[inline(always)]
pub(crate) fn event(context: &XdpContext, bank: Bank, judgement: &Judgement) {
    let now = bank.now();
    if admitted(bank, now) {
        maps::tell(event::words(now, judgement, context.ingress_ifindex() as u32));
        log(context, judgement);
    }
}

#[inline(always)]
fn admitted(bank: Bank, now: u64) -> bool {
    let Some(word) = maps::sample_due() else {
        return false;
    };
    // SAFETY: the kernel returned a pointer to the cell, 8 bytes and aligned to 8. Other CPUs read and write it as well:
    // a volatile 64-bit access is one instruction, and the algorithm tolerates that two CPUs race.
    let due = unsafe { word.read_volatile() };
    match bank.policy().sample.admit(due, now) {
        Some(next) => {
            // SAFETY: as above.
            unsafe { word.write_volatile(next) };
            true
        }
        None => false,
    }
}

/// Numbers alone, in the order that the daemon's `drop_log` expects: the verifier walks every way through the making of a
/// line, and words would make it a hundred times as many.
#[inline(always)]
fn log(context: &XdpContext, judgement: &Judgement) {
    let segment = &judgement.segment;
    info!(
        context,
        target: "guard",
        "{} {} {:i} {} {:i} {}",
        judgement.action as u32,
        judgement.code,
        segment.source.octets_v6(),
        segment.source_port,
        segment.destination.octets_v6(),
        segment.destination_port
    );
}
