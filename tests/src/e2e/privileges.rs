//! Privileges: those that the start needs and no others, and none while callers are served.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{EXIT_CONFIGURATION, EXIT_ENVIRONMENT, UNREGISTERED_SOURCE};
use mtls_appliance_tests::harness::{
    Appliance, BpfFs, Deadline, Feature, Granted, Lab, Net, Origin, OriginKind, Place, Settings,
};
use rustix::process::Signal;
use rustix::thread::CapabilitySet;

use crate::case::cases;
use crate::guard::{Guarded, answers, at, attached, connects, guarded, settings as guard_settings};

cases!("privileges":
    no_thread_keeps_one_while_callers_are_served,
    three_capabilities_are_enough_for_all_that_the_guard_does,
    another_user_needs_the_same_three,
    each_missing_capability_is_named,
    an_interface_made_anew_is_guarded_again_by_who_may_and_then_by_the_appliance,
    a_guard_detached_and_attached_beside_the_appliance_is_out_of_its_reach_and_it_says_so,
    a_low_port_needs_one_more,
    a_file_that_only_roots_power_opens_is_missed_at_once,
);

const THREE: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::PERFMON);
/// `nobody`.
const OTHER_USER: u32 = 65_534;

/// A line of each thread's status.
fn of_threads(pid: u32, line: &str) -> anyhow::Result<Vec<String>> {
    let mut values = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(":\t"));
        values.push(value.with_context(|| format!("no {line} in {status}"))?.to_owned());
    }
    Ok(values)
}

/// What no privilege looks like, save in the bounding set, which takes a privilege of its own to empty.
fn has_none(appliance: &Appliance) -> anyhow::Result<()> {
    for (line, wanted) in [("CapInh", 0), ("CapPrm", 0), ("CapEff", 0), ("CapAmb", 0), ("NoNewPrivs", 1)] {
        let values = of_threads(appliance.pid(), line)?;
        // The main thread, the log's, that of the origins, and a worker.
        ensure!(values.len() >= 4, "{} threads", values.len());
        for value in &values {
            ensure!(u64::from_str_radix(value, 16)? == wanted, "{line}: {values:?}");
        }
    }
    let told = appliance.status()?["privileges"].clone();
    ensure!(told == "none", "{told}");
    Ok(())
}

fn bounded_by(appliance: &Appliance, wanted: CapabilitySet) -> anyhow::Result<()> {
    for value in of_threads(appliance.pid(), "CapBnd")? {
        ensure!(u64::from_str_radix(&value, 16)? == wanted.bits(), "{value}");
    }
    Ok(())
}

fn no_thread_keeps_one_while_callers_are_served(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    let started = appliance.wait_event("started", |_| true)?;
    ensure!(started["privileges"] == "none", "{started}");
    answers(lab, &net, Net::REGISTERED)?;
    let line = appliance.reload()?;
    ensure!(line["outcome"] == "ok", "{line}");
    answers(lab, &net, Net::REGISTERED)?;
    has_none(&appliance)?;
    bounded_by(&appliance, CapabilitySet::empty())
}

struct Limited {
    net: Net,
    appliance: Appliance,
    _origin: Origin,
    _bpf: BpfFs,
}

/// Net, pins and files as for any guard; the appliance gets no more than is granted.
fn limited(lab: &Lab, granted: Granted) -> anyhow::Result<Limited> {
    Feature::Netns.need()?;
    Feature::Xdp.need()?;
    let folder = lab.path("bpf");
    let bpf = BpfFs::mount(&folder)?;
    let net = Net::create()?;
    if granted.user != 0 {
        for path in [lab.path(""), folder.clone(), lab.path("edge.key"), lab.path("appliance-client.key")] {
            chown(&path, Some(granted.user), Some(granted.user))?;
        }
    }
    let origin = SocketAddr::new(Net::ORIGIN.parse()?, 9443);
    let origin = Origin::start(lab, &net.origin, OriginKind::Scripted, origin)?;
    let settings = settings(lab, &folder)?;
    let appliance = Appliance::start_granted(lab, &net.appliance, &settings, granted)?;
    Ok(Limited { net, appliance, _origin: origin, _bpf: bpf })
}

fn settings(lab: &Lab, pins: &Path) -> anyhow::Result<Settings> {
    let origin = SocketAddr::new(Net::ORIGIN.parse()?, 9443);
    let addresses: Vec<String> = [Net::REGISTERED, Net::UNREGISTERED].map(|ip| format!("{ip}:{}", Net::PORT)).into();
    let usual = lab.settings(at(Net::REGISTERED)?, origin)?.set("listener.addresses", addresses);
    Ok(guard_settings(&pins.join("guard").display().to_string(), "auto")(usual))
}

/// Attach, counters, reload, death and restart, take-over: all that the guard does.
fn does_it_all(lab: &Lab, limited: &mut Limited) -> anyhow::Result<()> {
    let Limited { net, appliance, .. } = limited;
    ensure!(attached(net)? && connects(net, Net::REGISTERED)? && !connects(net, Net::UNREGISTERED)?);
    appliance.wait_guard_packets(UNREGISTERED_SOURCE, 1)?;
    let swapped = dev_pki::REGISTRY.replace("10.77.2.0/24", "10.77.3.0/24");
    std::fs::write(lab.path("registry.toml"), swapped)?;
    let line = appliance.reload()?;
    ensure!(line["outcome"] == "ok", "{line}");
    ensure!(connects(net, Net::UNREGISTERED)? && !connects(net, Net::REGISTERED)?, "the reload changed nothing");
    let status = appliance.status()?["guard"]["interfaces"][0]["status"].clone();
    ensure!(status["attached"] == true, "{status}");
    has_none(appliance)?;

    let before = appliance.guard_packets(UNREGISTERED_SOURCE)?;
    let successor = appliance.successor(lab)?;
    has_none(&successor)?;
    ensure!(successor.guard_packets(UNREGISTERED_SOURCE)? >= before);
    ensure!(successor.status()?["guard"]["interfaces"][0]["status"]["taken_over"] == true);
    appliance.process().wait(Deadline::seconds(20))?;
    *appliance = successor;
    answers(lab, net, Net::UNREGISTERED)?;

    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    ensure!(attached(net)?);
    appliance.restart(lab)?;
    ensure!(appliance.guard_packets(UNREGISTERED_SOURCE)? >= before);
    has_none(appliance)?;
    answers(lab, net, Net::UNREGISTERED)
}

fn three_capabilities_are_enough_for_all_that_the_guard_does(lab: &Lab) -> anyhow::Result<()> {
    let mut limited = limited(lab, Granted::root(THREE))?;
    bounded_by(&limited.appliance, THREE)?;
    does_it_all(lab, &mut limited)
}

fn another_user_needs_the_same_three(lab: &Lab) -> anyhow::Result<()> {
    let mut limited = limited(lab, Granted { capabilities: THREE, user: OTHER_USER })?;
    does_it_all(lab, &mut limited)
}

fn each_missing_capability_is_named(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    Feature::Xdp.need()?;
    let folder = lab.path("bpf");
    let _bpf = BpfFs::mount(&folder)?;
    let net = Net::create()?;
    let settings = settings(lab, &folder)?;
    for (missing, name) in [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
    ] {
        let granted = Granted::root(THREE - missing);
        let finished = Appliance::run_granted(lab, &net.appliance, "run", &settings, granted)?;
        ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
        let text = format!("the guard needs {name}, which this process lacks");
        ensure!(finished.stderr.contains(&text), "not {text:?}: {}", finished.output());
        ensure!(!attached(&net)? && !folder.join("guard").exists());
    }
    Ok(())
}

fn an_interface_made_anew_is_guarded_again_by_who_may_and_then_by_the_appliance(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    ensure!(!connects(&net, Net::UNREGISTERED)?);
    let before = appliance.wait_guard_packets(UNREGISTERED_SOURCE, 1)?;
    net.remove_front()?;
    appliance.wait_event("guard", |line| line["presence"] == "no_interface")?;
    ensure!(appliance.wait_counter("guard_failed.no_interface", 1)? == 1);
    ensure!(appliance.status()?["guard"]["interfaces"][0]["status"]["attached"] == false);

    net.make_front()?;
    appliance.wait_event("guard", |line| line["presence"] == "no_program")?;
    ensure!(!attached(&net)? && appliance.status()?["guard"]["interfaces"][0]["held_by"].is_null());
    let configuration = lab.path("appliance.toml");
    let finished = Appliance::run_with_file(&net.appliance, "guard attach", &configuration)?;
    ensure!(finished.status.success(), "{}", finished.output());
    ensure!(attached(&net)? && !connects(&net, Net::UNREGISTERED)?);

    appliance.wait_event("guard", |line| line["presence"] == "attached")?;
    let status = appliance.status()?;
    ensure!(
        status["guard"]["interfaces"][0]["status"]["attached"] == true
            && status["guard"]["interfaces"][0]["held_by"] == appliance.pid(),
        "{status}"
    );
    ensure!(!connects(&net, Net::UNREGISTERED)?);
    ensure!(appliance.guard_packets(UNREGISTERED_SOURCE)? > before, "the counters began anew");
    answers(lab, &net, Net::REGISTERED)?;
    // What it says counts at the new interface.
    let swapped = dev_pki::REGISTRY.replace("10.77.2.0/24", "10.77.3.0/24");
    std::fs::write(lab.path("registry.toml"), swapped)?;
    let line = appliance.reload()?;
    ensure!(line["outcome"] == "ok", "{line}");
    ensure!(connects(&net, Net::UNREGISTERED)? && !connects(&net, Net::REGISTERED)?);
    has_none(&appliance)
}

fn a_guard_detached_and_attached_beside_the_appliance_is_out_of_its_reach_and_it_says_so(
    lab: &Lab,
) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    let configuration = lab.path("appliance.toml");
    for (command, presence) in [("guard detach", "no_program"), ("guard attach", "other_program")] {
        let finished = Appliance::run_with_file(&net.appliance, command, &configuration)?;
        ensure!(finished.status.success(), "{}", finished.output());
        appliance.wait_event("guard", |line| line["presence"] == presence)?;
        ensure!(appliance.wait_counter(&format!("guard_failed.{presence}"), 1)? == 1);
    }
    // It is left alone: whoever attached it may be another appliance.
    ensure!(attached(&net)? && !connects(&net, Net::UNREGISTERED)?);
    let status = appliance.status()?;
    ensure!(
        status["guard"]["interfaces"][0]["status"]["attached"] == false
            && status["guard"]["interfaces"][0]["held_by"].is_null(),
        "{status}"
    );
    Ok(())
}

fn a_low_port_needs_one_more(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    let net = Net::create()?;
    let listen = SocketAddr::new(Net::REGISTERED.parse()?, 443);
    let settings = lab.settings(listen, SocketAddr::new(Net::ORIGIN.parse()?, 9443))?;
    let none = Granted::root(CapabilitySet::empty());
    let finished = Appliance::run_granted(lab, &net.appliance, "run", &settings, none)?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    ensure!(finished.stderr.contains("CAP_NET_BIND_SERVICE"), "{}", finished.output());
    let granted = Granted::root(CapabilitySet::NET_BIND_SERVICE);
    let appliance = Appliance::start_granted(lab, &net.appliance, &settings, granted)?;
    has_none(&appliance)
}

fn a_file_that_only_roots_power_opens_is_missed_at_once(lab: &Lab) -> anyhow::Result<()> {
    Feature::Root.need()?;
    chown(lab.path("edge.key"), Some(OTHER_USER), Some(OTHER_USER))?;
    let settings = lab.settings(lab.free_address()?, "127.0.0.1:9".parse()?)?;
    for command in ["check", "run"] {
        let finished = Appliance::run(lab, &Place::Here, command, &settings)?;
        ensure!(finished.status.code() == Some(EXIT_CONFIGURATION), "{}: {}", finished.status, finished.output());
        for part in ["tls.key", "edge.key", "Permission denied", "root"] {
            ensure!(finished.stderr.contains(part), "{command}: no {part:?}: {}", finished.output());
        }
    }
    Ok(())
}
