//! Take-overs that fail: the old process serves on as if nothing had happened.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{
    EXIT_CONFIGURATION, EXIT_ENVIRONMENT, HAND_OVER_FAILURES, UNREGISTERED_SOURCE, event,
};
use mtls_appliance_tests::harness::{Appliance, Between, ControlPeer, Deadline, Lab, Net, Place};
use rustix::process::Signal;

use super::Load;
use crate::case::cases;
use crate::guard::{Guarded, answers, at, attached, connects, guarded, settings as guard_settings};

cases!("take_over":
    a_bad_configuration_changes_nothing,
    a_port_in_use_changes_nothing,
    a_process_killed_when_it_was_ready_changes_nothing_under_load,
    a_process_killed_when_it_had_the_guard_gives_it_back,
    one_with_other_maps_gives_it_back_too,
    a_process_that_stops_talking_at_any_step_changes_nothing,
    one_process_at_a_time_may_take_over,
    a_stop_during_a_take_over_is_a_stop,
    another_user_may_not_take_over,
    where_none_runs_there_is_nothing_to_take_over,
    what_is_said_on_the_control_socket_has_a_version_and_limits,
);

/// Serves, answers `status`, and drains not.
fn serves_on(lab: &Lab, old: &mut Appliance) -> anyhow::Result<()> {
    ensure!(lab.client(old)?.get("/bytes/10", &[])?.status == 200);
    old.must_be_alive()?;
    let status = old.status()?;
    ensure!(status["pid"] == old.pid() && status["phase"] == "serving", "{status}");
    ensure!(old.events(event::DRAIN).is_empty());
    Ok(())
}

fn a_bad_configuration_changes_nothing(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let mut client = lab.client(&old)?;
    for (key, value) in [("limits.nonsense", "1"), ("tls.certificate", "not-there.pem"), ("offload.mode", "sometimes")]
    {
        let settings = lab.settings(old.address(), origin.address())?.set(key, value);
        let finished = Appliance::run(lab, &Place::Here, "run --take-over", &settings)?;
        ensure!(finished.status.code() == Some(EXIT_CONFIGURATION), "{}: {}", finished.status, finished.output());
        ensure!(finished.stderr.contains(key), "{key} is not named: {}", finished.output());
        ensure!(client.get("/bytes/10", &[])?.status == 200);
        serves_on(lab, &mut old)?;
    }
    // It still can be taken over.
    let new = old.successor(lab)?;
    ensure!(lab.client(&new)?.get("/bytes/10", &[])?.status == 200);
    Ok(())
}

fn a_port_in_use_changes_nothing(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let addresses = vec![old.address().to_string(), taken.local_addr()?.to_string()];
    let settings = lab.settings(old.address(), origin.address())?.set("listener.addresses", addresses);
    let finished = Appliance::run(lab, &Place::Here, "run --take-over", &settings)?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    let line = old.wait_event(event::HAND_OVER_FAILED, |line| line["reason"] == "gave_up")?;
    ensure!(line["detail"].to_string().contains(&taken.local_addr()?.to_string()), "{line}");
    serves_on(lab, &mut old)
}

fn a_process_killed_when_it_was_ready_changes_nothing_under_load(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance_with(&origin, super::patient)?;
    let load = Load::start(lab, old.address())?;
    load.go_on(100)?;
    let (real, path) = (lab.path("control.sock"), lab.path("between.sock"));
    let between = Between::start(&path, &real, "ready")?;
    let settings = super::patient(lab.settings(old.address(), origin.address())?);
    let settings = settings.set("control.socket", path.display().to_string());
    let mut new = Appliance::begin_take_over(lab, &Place::Here, &settings)?;
    between.wait()?;
    load.go_on(100)?;
    ensure!(old.status()?["handing_over_to"].is_u64(), "{}", old.status()?);
    new.process().signal(Signal::KILL)?;
    old.wait_event(event::HAND_OVER_FAILED, |line| line["reason"] == "closed")?;
    load.go_on(100)?;
    load.stop()?;
    serves_on(lab, &mut old)?;
    ensure!(old.status()?["handing_over_to"].is_null(), "{}", old.status()?);
    ensure!(new.events(event::READY).is_empty(), "it served");
    Ok(())
}

fn a_process_killed_when_it_had_the_guard_gives_it_back(lab: &Lab) -> anyhow::Result<()> {
    gives_back(lab, |_| Ok(()))?;
    Ok(())
}

fn one_with_other_maps_gives_it_back_too(lab: &Lab) -> anyhow::Result<()> {
    // As a version would that keeps its maps otherwise: the link in a folder of its own, what it replaced removed.
    let pins = lab.path("bpf/guard");
    let other = pins.join("v9999");
    let own = || -> anyhow::Result<_> {
        let mut folders =
            std::fs::read_dir(&pins)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(folders.len() == 1, "{folders:?}");
        folders.pop().context("no pins")
    };
    let mut former = None;
    let all = gives_back(lab, |_| {
        let folder = own()?;
        std::fs::rename(&folder, &other)?;
        std::fs::remove_file(other.join(Net::FRONT).join("GUARD_V4_0"))?;
        former = Some(folder);
        Ok(())
    })?;
    let former = former.context("nothing was moved")?;
    ensure!(own()? == former, "not the pins from before: {:?}", own()?);
    // They are of use: the next one goes on with the counters.
    let Guarded { net, mut appliance, origin: _origin, _bpf } = all;
    let before = appliance.guard_packets(UNREGISTERED_SOURCE)?;
    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    ensure!(attached(&net)?);
    appliance.restart(lab)?;
    ensure!(appliance.guard_packets(UNREGISTERED_SOURCE)? >= before);
    answers(lab, &net, Net::REGISTERED)
}

/// Kills a process when it has the guard and before it serves; `meanwhile` happens before. What is left, as it must be.
fn gives_back(lab: &Lab, meanwhile: impl FnOnce(&Net) -> anyhow::Result<()>) -> anyhow::Result<Guarded> {
    let Guarded { net, appliance: mut old, origin, _bpf } = guarded(lab, "auto")?;
    ensure!(!connects(&net, Net::UNREGISTERED)?);
    let before = old.wait_guard_packets(UNREGISTERED_SOURCE, 1)?;
    let (real, path) = (lab.path("control.sock"), lab.path("between.sock"));
    let between = Between::start(&path, &real, "ready")?;
    // What the new one would let in is the other way round.
    let swapped = dev_pki::REGISTRY.replace("10.77.2.0/24", "10.77.3.0/24").replace("fd77:2::/64", "fd77:3::/64");
    std::fs::write(lab.path("swapped.toml"), swapped)?;
    let pins = lab.path("bpf/guard").display().to_string();
    let settings = guard_settings(&pins, "auto")(lab.settings(at(Net::REGISTERED)?, origin.address())?)
        .set("control.socket", path.display().to_string())
        .set("registry.files", vec!["swapped.toml"]);
    let mut new = Appliance::begin_take_over(lab, &net.appliance, &settings)?;
    between.wait()?;
    ensure!(connects(&net, Net::UNREGISTERED)?, "the new process has not taken the guard");
    // For the old process the new one is who stands between: this one.
    ensure!(old.status()?["guard"]["interfaces"][0]["held_by"] == std::process::id(), "{}", old.status()?["guard"]);
    meanwhile(&net)?;
    new.process().signal(Signal::KILL)?;
    old.wait_event("guard", |line| line["detail"] == "taken back")?;
    ensure!(attached(&net)?, "{}", net.front_link()?);
    ensure!(!connects(&net, Net::UNREGISTERED)?, "what the killed process let in still gets in");
    answers(lab, &net, Net::REGISTERED)?;
    let after = old.wait_guard_packets(UNREGISTERED_SOURCE, before + 1)?;
    ensure!(after > before, "{before} before, {after} after");
    let status = old.status()?;
    ensure!(
        status["guard"]["interfaces"][0]["held_by"] == old.pid()
            && status["guard"]["interfaces"][0]["status"]["attached"] == true,
        "{status}"
    );
    ensure!(status["privileges"] == "none", "{status}");
    old.must_be_alive()?;
    Ok(Guarded { net, appliance: old, origin, _bpf })
}

fn a_process_that_stops_talking_at_any_step_changes_nothing(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let mut client = lab.client(&old)?;
    let all = ["mtls-appliance/1 take-over\n", "attaching\n"];
    for (round, (said, last)) in
        [(1, None), (2, None), (1, Some("attached\n")), (2, Some("failed it rains\n"))].into_iter().enumerate()
    {
        let mut peer = ControlPeer::connect(&lab.path("control.sock"))?;
        for word in &all[..said] {
            peer.say(word)?;
            let (answer, sockets) = peer.line()?;
            ensure!(answer == "mtls-appliance/1 ok\n" || answer == "go-ahead\n", "{answer:?}");
            ensure!(sockets.len() == usize::from(word == &all[0]), "{} sockets", sockets.len());
        }
        if let Some(last) = last {
            peer.say(last)?;
            let (answer, _) = peer.line()?;
            ensure!(answer.starts_with("mtls-appliance/1 refused "), "{answer:?}");
        }
        drop(peer);
        let failures = || Ok((old.events(event::HAND_OVER_FAILED).len() > round).then_some(()));
        mtls_appliance_tests::harness::wait_until("the failure to be logged", Deadline::seconds(10), failures)?;
        ensure!(client.get("/bytes/10", &[])?.status == 200);
        serves_on(lab, &mut old)?;
    }
    let counters = old.status()?["counters"].clone();
    for (reason, count) in [("closed", 2), ("malformed", 1), ("gave_up", 1)] {
        ensure!(counters[format!("{HAND_OVER_FAILURES}.{reason}")] == count, "{reason}: {counters}");
    }
    Ok(())
}

fn one_process_at_a_time_may_take_over(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let mut first = ControlPeer::connect(&lab.path("control.sock"))?;
    first.say("mtls-appliance/1 take-over\n")?;
    first.line()?;
    let settings = lab.settings(old.address(), origin.address())?;
    let finished = Appliance::run(lab, &Place::Here, "run --take-over", &settings)?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    ensure!(finished.stderr.contains("another process is taking over"), "{}", finished.output());
    serves_on(lab, &mut old)?;
    drop(first);
    old.wait_event(event::HAND_OVER_FAILED, |line| line["reason"] == "closed")?;
    old.successor(lab).map(drop)
}

fn a_stop_during_a_take_over_is_a_stop(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let mut peer = ControlPeer::connect(&lab.path("control.sock"))?;
    peer.say("mtls-appliance/1 take-over\n")?;
    let (_, sockets) = peer.line()?;
    drop(sockets);
    old.process().signal(Signal::TERM)?;
    let (answer, _) = peer.line()?;
    ensure!(answer.starts_with("mtls-appliance/1 refused draining"), "{answer:?}");
    super::ended_well(&mut old, 10)?;
    ensure!(lab.client(&old).is_err(), "somebody still listens");
    Ok(())
}

fn another_user_may_not_take_over(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let settings = lab.settings(old.address(), origin.address())?;
    let readable = ["edge.key", "appliance-client.key"];
    let attempt = || Appliance::run_as_nobody(lab, &Place::Here, "run --take-over", &settings, &readable);
    let finished = attempt()?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    ensure!(finished.stderr.contains("ask as the user that runs the appliance"), "{}", finished.output());
    // Even where the socket's mode lets everybody in.
    std::fs::set_permissions(lab.path("control.sock"), std::fs::Permissions::from_mode(0o666))?;
    let finished = attempt()?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    ensure!(finished.stderr.contains("other_user"), "{}", finished.output());
    old.wait_event(event::HAND_OVER_FAILED, |line| line["reason"] == "other_user")?;
    serves_on(lab, &mut old)
}

fn where_none_runs_there_is_nothing_to_take_over(lab: &Lab) -> anyhow::Result<()> {
    let settings = lab.settings(lab.free_address()?, "127.0.0.1:9".parse()?)?;
    let finished = Appliance::run(lab, &Place::Here, "run --take-over", &settings)?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    for part in ["control.sock", "leave --take-over out"] {
        ensure!(finished.stderr.contains(part), "no {part:?}: {}", finished.output());
    }
    Ok(())
}

fn what_is_said_on_the_control_socket_has_a_version_and_limits(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let ask = |said: &str| -> anyhow::Result<String> {
        let mut peer = ControlPeer::connect(&lab.path("control.sock"))?;
        peer.say(said)?;
        Ok(peer.line()?.0)
    };
    for (said, reason) in [
        ("mtls-appliance/2 status\n", "other_version"),
        ("GET / HTTP/1.1\r\n\r\n", "other_version"),
        ("mtls-appliance/1 stop\n", "unknown_request"),
        (&"x".repeat(2_000), "line_too_long"),
        // Nothing at all, and half a line.
        ("", "timed_out"),
        ("mtls-appliance/1 sta", "timed_out"),
    ] {
        let begin = Instant::now();
        let answer = ask(said)?;
        ensure!(answer.starts_with(&format!("mtls-appliance/1 refused {reason}: ")), "{said:?}: {answer:?}");
        ensure!(begin.elapsed() < Duration::from_secs(10), "{said:?}: {:?}", begin.elapsed());
    }
    ensure!(ask("mtls-appliance/1 status\n")? == "mtls-appliance/1 ok\n");
    // Those who say nothing keep nobody from being answered.
    let silent = (0..10).map(|_| ControlPeer::connect(&lab.path("control.sock"))).collect::<Result<Vec<_>, _>>()?;
    let begin = Instant::now();
    let status = old.status().context("beside silent ones")?;
    ensure!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    ensure!(status["counters"]["control_refused.other_version"] == 2, "{}", status["counters"]);
    drop(silent);
    serves_on(lab, &mut old)
}
