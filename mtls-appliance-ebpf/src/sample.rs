//! Tells the daemon's log about some of the drops: never one line per packet, a flood must not become a flood of logs.
#![expect(unsafe_code, reason = "the shared word of the pace is a raw pointer; the clock is a kernel helper")]

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::info;
use mtls_appliance_common::{Address, Judgement};

use crate::maps::{self, Bank};

/// Logs a drop if the policy's pace admits it now.
#[inline(always)]
pub(crate) fn drop(context: &XdpContext, bank: Bank, judgement: &Judgement) {
    if admitted(bank) {
        log(context, judgement);
    }
}

#[inline(always)]
fn admitted(bank: Bank) -> bool {
    let Some(word) = maps::sample_due() else {
        return false;
    };
    // The time of the last tick is fine enough, and under a flood the exact one would cost more than the rest of the drop.
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
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

#[inline(always)]
fn log(context: &XdpContext, judgement: &Judgement) {
    let reason = judgement.reason.name();
    match judgement.segment {
        Some(segment) => match (segment.source, segment.destination) {
            (Address::V4(source), Address::V4(destination)) => info!(
                context,
                target: "guard",
                "dropped {:i} port {} to {:i} port {}: {}",
                source,
                segment.source_port,
                destination,
                segment.destination_port,
                reason
            ),
            (Address::V6(source), Address::V6(destination)) => info!(
                context,
                target: "guard",
                "dropped {:i} port {} to {:i} port {}: {}",
                source,
                segment.source_port,
                destination,
                segment.destination_port,
                reason
            ),
            _ => {}
        },
        None => info!(context, target: "guard", "dropped a packet: {}", reason),
    }
}
