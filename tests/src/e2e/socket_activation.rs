//! Listening sockets that a service manager passes.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::thread;

use anyhow::ensure;
use mtls_appliance_tests::harness::names::EXIT_ENVIRONMENT;
use mtls_appliance_tests::harness::{Appliance, Deadline, Lab, Passed};
use rustix::process::Signal;

use crate::case::cases;

cases!("socket_activation":
    sockets_passed_by_a_service_manager_are_used,
    connections_wait_while_the_service_restarts,
    sockets_that_are_not_those_configured_are_all_named,
    sockets_meant_for_another_process_are_left_alone,
    a_take_over_and_passed_sockets_exclude_each_other,
);

fn sockets_passed_by_a_service_manager_are_used(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let first = TcpListener::bind("127.0.0.1:0")?;
    let second = lab.free_address()?;
    // Passed in another order than configured.
    let addresses = vec![second.to_string(), first.local_addr()?.to_string()];
    let settings = lab.settings(second, origin.address())?.set("listener.addresses", addresses);
    let passed = OwnedFd::from(first.try_clone()?);
    let mut appliance = Appliance::begin_activated(lab, &settings, &passed, &[Passed::Listening(second)], &[])?;
    appliance.wait_ready()?;
    for address in [first.local_addr()?, second] {
        let answer = lab.curl_at(&Default::default(), address).identity("client-p256").ok("/bytes/100")?;
        answer.must_be_pattern(100)?;
    }
    appliance.must_be_alive()
}

fn connections_wait_while_the_service_restarts(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let socket = TcpListener::bind("127.0.0.1:0")?;
    let settings = lab.settings(socket.local_addr()?, origin.address())?;
    let socket = OwnedFd::from(socket);
    let begin = || Appliance::begin_activated(lab, &settings, &socket, &[], &[]);
    let mut appliance = begin()?;
    for _ in 0..2 {
        appliance.wait_ready()?;
        ensure!(lab.client(&appliance)?.get("/bytes/10", &[])?.status == 200);
        appliance.process().signal(Signal::TERM)?;
        let finished = appliance.process().wait(Deadline::seconds(20))?;
        ensure!(finished.status.success(), "{}", finished.output());
        // Nobody serves now.
        appliance = thread::scope(|scope| {
            let waiting = scope.spawn(|| lab.client(&appliance)?.get("/bytes/10", &[]));
            let next = begin()?;
            let answer = waiting.join().unwrap_or_else(|_| anyhow::bail!("the caller panicked"))?;
            ensure!(answer.status == 200);
            anyhow::Ok(next)
        })?;
    }
    Ok(())
}

fn sockets_that_are_not_those_configured_are_all_named(lab: &Lab) -> anyhow::Result<()> {
    let first = TcpListener::bind("127.0.0.1:0")?;
    let (surplus, missing) = (lab.free_address()?, lab.free_address()?);
    let settings = lab.settings(missing, "127.0.0.1:9".parse()?)?;
    let named = first.local_addr()?.to_string();
    let others = [Passed::Listening(surplus), Passed::Datagram];
    let mut appliance = Appliance::begin_activated(lab, &settings, &first.into(), &others, &[])?;
    let finished = appliance.process().wait(Deadline::seconds(20))?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    let surplus = surplus.to_string();
    for part in [
        "(first) listens on",
        &named,
        &format!("({}) listens on {surplus}", surplus.replace(':', "-")),
        "(udp): it is no TCP socket",
        "listener.addresses",
        &format!("ListenStream={missing}"),
    ] {
        ensure!(finished.stderr.contains(part), "no {part:?}: {}", finished.output());
    }
    Ok(())
}

fn sockets_meant_for_another_process_are_left_alone(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let settings = lab.settings(lab.free_address()?, origin.address())?;
    let environment = [("LISTEN_PID", "1"), ("LISTEN_FDS", "3")];
    let appliance = Appliance::start_with(lab, &Default::default(), &settings, &environment)?;
    ensure!(lab.client(&appliance)?.get("/bytes/10", &[])?.status == 200);
    Ok(())
}

fn a_take_over_and_passed_sockets_exclude_each_other(lab: &Lab) -> anyhow::Result<()> {
    let first = TcpListener::bind("127.0.0.1:0")?;
    let settings = lab.settings(first.local_addr()?, "127.0.0.1:9".parse()?)?;
    let mut appliance = Appliance::begin_activated(lab, &settings, &first.into(), &[], &["--take-over"])?;
    let finished = appliance.process().wait(Deadline::seconds(20))?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    for part in ["--take-over", "LISTEN_FDS"] {
        ensure!(finished.stderr.contains(part), "no {part:?}: {}", finished.output());
    }
    Ok(())
}
