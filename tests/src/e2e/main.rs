//! The end-to-end tests: one module per behaviour of the appliance, run against the installed binary.
//!
//! ```text
//! cargo build && cargo run -p mtls-appliance-tests --bin e2e [-- FILTER --test-threads 1]
//! ```
//!
//! See [`mtls_appliance_tests::harness`] for the environment variables. A test that cannot run here is reported as
//! ignored with its reason, or fails if `MTLS_REQUIRE` names what is missing.

mod bodies;
mod calls;
mod case;
mod configuration;
mod conformance;
mod cost;
mod data_path;
mod dice;
mod differential;
mod effort;
mod guard;
mod guard_commands;
mod guard_foreign;
mod guard_interfaces;
mod guard_stacked;
mod guard_upgrade;
mod guard_watch;
mod hand_over;
mod host;
mod identity;
mod leaving;
mod lifecycle;
mod load;
mod lockout;
mod memory;
mod origin_ends;
mod origin_faults;
mod origin_pool;
mod origin_tls;
mod other_stacks;
mod overload;
mod pace;
mod privileges;
mod records;
mod refusals;
mod reload;
mod scripted_origin;
mod service;
mod sites;
mod soak;
mod socket_activation;
mod starving;
mod strictness;
mod take_over;
mod truncation;
mod tunnels;
mod upstreams;

use std::process::ExitCode;

use case::Case;
use libtest_mimic::Arguments;
use mtls_appliance_tests::harness;

fn main() -> ExitCode {
    if let Some(code) =
        harness::run_as_origin().or_else(harness::run_as_service_manager).or_else(harness::run_with_capabilities)
    {
        return code;
    }
    let free = [
        scripted_origin::CASES,
        calls::CASES,
        identity::CASES,
        refusals::CASES,
        records::CASES,
        hand_over::CASES,
        strictness::CASES,
        conformance::CASES,
        bodies::CASES,
        data_path::CASES,
        truncation::CASES,
        pace::CASES,
        overload::CASES,
        memory::CASES,
        cost::CASES,
        tunnels::CASES,
        origin_faults::CASES,
        origin_ends::CASES,
        origin_tls::CASES,
        sites::CASES,
        upstreams::CASES,
        origin_pool::CASES,
        other_stacks::CASES,
        reload::CASES,
        leaving::CASES,
        lifecycle::CASES,
        take_over::CASES,
        take_over::failures::CASES,
        socket_activation::CASES,
        configuration::CASES,
        host::CASES,
    ];
    // On an emulated machine they run one at a time.
    let with_guard = [
        guard::CASES,
        guard_commands::CASES,
        guard_upgrade::CASES,
        guard_watch::CASES,
        guard_foreign::CASES,
        guard_interfaces::CASES,
        guard_stacked::CASES,
        privileges::CASES,
        service::CASES,
        lockout::CASES,
    ];
    let busy = [load::CASES, differential::CASES, soak::CASES, starving::CASES];
    let cases = spread(&with_guard.concat(), &free.concat()).into_iter().chain(busy.concat());
    let trials = cases.map(Case::trial).collect();
    case::name_the_slow();
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    case::name_the_slowest();
    harness::clean_up();
    conclusion.exit_code()
}

/// The few evenly among the many, so that those that wait for one another do not come together.
fn spread(few: &[Case], many: &[Case]) -> Vec<Case> {
    let mut mixed = Vec::with_capacity(few.len() + many.len());
    let mut few = few.iter().enumerate().peekable();
    let (total, length) = (few.len(), many.len());
    for (at, case) in many.iter().enumerate() {
        mixed.extend(few.next_if(|(place, _)| place * length <= at * total).map(|(_, case)| *case));
        mixed.push(*case);
    }
    mixed.extend(few.map(|(_, case)| *case));
    mixed
}
