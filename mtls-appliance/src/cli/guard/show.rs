//! The guard for people: plain lines for any terminal.

use crate::guard::{GuardCounters, GuardStatus, Verdict};

/// A line a fact.
pub(super) fn status(status: &GuardStatus) -> String {
    let mut lines = String::new();
    let mut line = |name: &str, value: String| lines.push_str(&format!("  {name:<12} {value}\n"));
    let why = status.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    line("attached", format!("{} mode{why}, program {}", status.attached_as, status.program_id));
    let open = if status.open { ", and open: the daemon has been silent for too long" } else { "" };
    line("mode", format!("{}{open}", status.mode));
    let (ports, addresses) = (list(&status.ports), list(&status.addresses));
    let anywhere = if addresses.is_empty() { "of every address".to_owned() } else { format!("of {addresses}") };
    line("guards", format!("TCP to port {ports} {anywhere}"));
    line("generation", status.generation.to_string());
    line("prefixes", format!("{} IPv4, {} IPv6", status.ipv4_prefixes, status.ipv6_prefixes));
    if !status.management.is_empty() {
        line("management", list(&status.management));
    }
    if !status.pass.is_empty() {
        line("passes", format!("{} (guard.pass)", list(&status.pass)));
    }
    for (name, budget) in [("source", status.source_budget), ("organisation", status.organisation_budget)] {
        if let Some(budget) = budget {
            let text = format!("{} SYNs/s of one {name}, {} at once", budget.per_second, budget.burst);
            line("budget", text);
        }
    }
    line(
        "last sign",
        match status.open_after_s {
            Some(limit) => format!("of the daemon {} s ago; drops nothing after {limit} s", status.silent_s),
            None => format!("of the daemon {} s ago; drops go on without it", status.silent_s),
        },
    );
    line("pins", status.pin_folder.display().to_string());
    lines
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What was counted, by reason and by organisation; reasons that nothing was counted for are left out.
pub(super) fn counters(counters: &GuardCounters) -> String {
    let mut lines = format!("\n  {:<26} {:>14} {:>14} {:>14}\n", "packets by reason", "passed", "dropped", "observed");
    for count in counters.reasons.iter().filter(|count| count.packets > 0) {
        let numbers = format!("{:>14} {:>14} {:>14}", count.passed, count.dropped, count.observed);
        lines.push_str(&format!("  {:<26} {numbers}\n", count.reason));
    }
    lines.push_str(&format!("\n  {:<26} {:>14} {:>14}\n", "packets by organisation", "registered", "over budget"));
    for count in &counters.organisations {
        let gone = if count.registered { "" } else { "  (not registered any more)" };
        lines.push_str(&format!("  {:<26} {:>14} {:>14}{gone}\n", count.code, count.packets, count.over_budget));
    }
    lines
}

/// All that there is to say about one packet.
pub(super) fn verdict(verdict: &Verdict) -> String {
    let charges = match (verdict.charges.source, verdict.charges.organisation) {
        (false, false) => "no budget",
        (true, false) => "the source's budget",
        (false, true) => "the organisation's budget",
        (true, true) => "the source's and the organisation's budgets",
    };
    let mut lines = format!("{}: {}\n", verdict.action, verdict.reason);
    let mut line = |name: &str, value: String| lines.push_str(&format!("  {name:<12} {value}\n"));
    line("packet", way(verdict));
    line("organisation", verdict.organisation.clone().unwrap_or_else(|| "-".to_owned()));
    line("judged by", format!("generation {}, mode {}", verdict.generation, verdict.mode));
    line("would charge", charges.to_owned());
    lines
}

/// The same in a line.
pub(super) fn verdict_line(verdict: &Verdict) -> String {
    let organisation = verdict.organisation.as_deref().unwrap_or("-");
    format!("{:<8} {:<24} {organisation:<16} {}", verdict.action, verdict.reason, way(verdict))
}

fn way(verdict: &Verdict) -> String {
    let end = |address: Option<std::net::IpAddr>, port: Option<u16>| match (address, port) {
        (Some(address), Some(port)) => format!("{address} port {port}"),
        (Some(address), None) => address.to_string(),
        (None, _) => "no address".to_owned(),
    };
    format!("{} to {}", end(verdict.source, verdict.source_port), end(verdict.destination, verdict.destination_port))
}
