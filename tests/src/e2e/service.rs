//! The units, under a real systemd that boots, with udev, networkd and the journal.

use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::UNREGISTERED_SOURCE;
use mtls_appliance_tests::harness::{Deadline, Feature, Lab, Machine, Net, Origin, OriginKind, emulated, wait_until};
use serde_json::Value;

use crate::case::cases;
use crate::guard::{answers, at, attached, connects};

cases!("service":
    at_boot_the_guard_is_there_before_the_network_and_the_service_comes_after_it,
    what_fails_is_started_again_and_a_mistake_in_the_configuration_is_not,
    an_interface_made_anew_is_guarded_again_by_its_unit,
    with_the_socket_unit_callers_wait_while_the_service_restarts,
);

const GUARD: &str = "mtls-appliance-guard@front.service";
const SERVICE: &str = "mtls-appliance.service";
const SOCKET: &str = "mtls-appliance.socket";
const NETWORKD: &str = "systemd-networkd.service";

/// What the repository installs.
const UNITS: [(&str, &str); 3] = [
    ("mtls-appliance-guard@.service", include_str!("../../../mtls-appliance/systemd/mtls-appliance-guard@.service")),
    (SERVICE, include_str!("../../../mtls-appliance/systemd/mtls-appliance.service")),
    (SOCKET, include_str!("../../../mtls-appliance/systemd/mtls-appliance.socket")),
];

/// A box with the units installed, between callers and an origin; its network comes up by networkd.
struct Installed {
    net: Net,
    machine: Machine,
    _origin: Origin,
}

fn installed(lab: &Lab) -> anyhow::Result<Installed> {
    for feature in [Feature::Netns, Feature::Xdp, Feature::Systemd] {
        feature.need()?;
    }
    let net = Net::create()?;
    // As before a boot.
    net.take_down()?;
    let origin = Origin::start(lab, &net.origin, OriginKind::Scripted, format!("{}:9443", Net::ORIGIN).parse()?)?;
    let settings = lab
        .settings(at(Net::REGISTERED)?, origin.address())?
        .set("listener.addresses", vec![format!("0.0.0.0:{}", Net::PORT)])
        .set("guard.interfaces", vec![Net::FRONT])
        .set("guard.ports", vec![i64::from(Net::PORT)]);
    let machine = Machine::install(lab, &net.appliance, &settings)?;
    for (name, content) in UNITS {
        machine.write(&format!("/etc/systemd/system/{name}"), content)?;
    }
    let network =
        "[Match]\nName=front\n[Network]\nAddress=10.77.2.1/24\nAddress=10.77.3.1/24\nLinkLocalAddressing=no\n";
    machine.write("/etc/systemd/network/front.network", network)?;
    let network = "[Match]\nName=back\n[Network]\nAddress=10.77.9.1/24\nLinkLocalAddressing=no\n";
    machine.write("/etc/systemd/network/back.network", network)?;
    Ok(Installed { net, machine, _origin: origin })
}

/// When something happened, in microseconds since the kernel began.
fn when(machine: &Machine, unit: &str, property: &str) -> anyhow::Result<u64> {
    let value = machine.property(unit, property)?;
    value.parse().ok().filter(|at| *at > 0).with_context(|| format!("{unit} has no {property}: {value}"))
}

/// `systemd-analyze verify` has nothing to say about the units, and would have if they held what systemd does not know.
fn systemd_finds_nothing_wrong(machine: &Machine) -> anyhow::Result<()> {
    let verify = |unit: &str| machine.run(&["systemd-analyze", "verify", "--man=no", unit]);
    // Before systemd 253 that line is ignored, and the one ahead of it holds.
    let known = "Failed to parse service type, ignoring: notify-reload";
    for unit in [GUARD, SERVICE, SOCKET] {
        let found = verify(unit)?;
        let output = found.output();
        let complaint = output.lines().find(|line| line.contains("mtls-appliance") && !line.contains(known));
        ensure!(found.status.success() && complaint.is_none(), "{output}");
    }
    ensure!(machine.property(SERVICE, "Type")?.starts_with("notify"));
    let [_, (_, service), _] = UNITS;
    machine.write("/etc/systemd/system/strange.service", &service.replace("[Install]", "Strange=1\n[Install]"))?;
    let found = verify("strange.service")?;
    ensure!(found.output().contains("Strange"), "{}", found.output());
    Ok(())
}

fn status(machine: &Machine) -> anyhow::Result<Value> {
    let text = machine.must(&["mtls-appliance", "status", "--config", Machine::CONFIGURATION, "--json"])?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

fn at_boot_the_guard_is_there_before_the_network_and_the_service_comes_after_it(lab: &Lab) -> anyhow::Result<()> {
    let Installed { net, mut machine, _origin } = installed(lab)?;
    machine.enable(&[GUARD, SERVICE, NETWORKD])?;
    for boot in 0..2 {
        machine.boot()?;
        if boot == 0 {
            systemd_finds_nothing_wrong(&machine)?;
        }
        let guarded = when(&machine, GUARD, "ActiveEnterTimestampMonotonic")?;
        let network = when(&machine, NETWORKD, "InactiveExitTimestampMonotonic")?;
        let served = when(&machine, SERVICE, "InactiveExitTimestampMonotonic")?;
        ensure!(
            guarded < network && network < served,
            "boot {boot}: guard at {guarded} us, network at {network}, service at {served}"
        );
        answers(lab, &net, Net::REGISTERED)?;
        ensure!(!connects(&net, Net::UNREGISTERED)?, "an unregistered source connected");
        let status = status(&machine)?;
        ensure!(
            status["guard"]["interfaces"][0]["status"]["taken_over"] == true,
            "the service has a guard of its own: {status}"
        );
        ensure!(status["privileges"] == "none", "{}", status["privileges"]);
        // A reload, and a stop, which leaves the interface guarded.
        machine.must(&["systemctl", "kill", "--signal=HUP", "--kill-who=main", SERVICE])?;
        wait_until("the reload", Deadline::seconds(20), || {
            Ok((self::status(&machine)?["counters"]["reloads"] == 1).then_some(()))
        })?;
        answers(lab, &net, Net::REGISTERED)?;
        machine.must(&["systemctl", "stop", SERVICE])?;
        ensure!(machine.property(SERVICE, "Result")? == "success");
        ensure!(attached(&net)?, "{}", net.front_link()?);
        machine.switch_off();
        // The machine's end is that of its memory: nothing is pinned any more.
        wait_until("the guard to go with the machine", Deadline::seconds(10), || Ok((!attached(&net)?).then_some(())))?;
        net.take_down()?;
    }
    Ok(())
}

fn what_fails_is_started_again_and_a_mistake_in_the_configuration_is_not(lab: &Lab) -> anyhow::Result<()> {
    let Installed { net, mut machine, _origin } = installed(lab)?;
    machine.enable(&[GUARD, SERVICE, NETWORKD])?;
    let watchdog = if emulated() { 8 } else { 3 };
    let sooner = format!("[Service]\nWatchdogSec={watchdog}\nTimeoutAbortSec=5\n");
    machine.write(&format!("/etc/systemd/system/{SERVICE}.d/sooner.conf"), &sooner)?;
    machine.boot()?;
    let main = |machine: &Machine| machine.property(SERVICE, "MainPID");
    // Killed, and stopped so that it gives no sign of life.
    for signal in ["KILL", "STOP"] {
        let before = main(&machine)?;
        machine.must(&["systemctl", "kill", &format!("--signal={signal}"), "--kill-who=main", SERVICE])?;
        ensure!(attached(&net)?, "{}", net.front_link()?);
        wait_until("another process that serves", Deadline::seconds(60), || {
            let active = machine.property(SERVICE, "ActiveState")? == "active";
            let now = main(&machine)?;
            Ok((active && now != "0" && now != before).then_some(()))
        })
        .with_context(|| format!("after SIG{signal}"))?;
        answers(lab, &net, Net::REGISTERED)?;
        ensure!(!connects(&net, Net::UNREGISTERED)?, "an unregistered source connected after SIG{signal}");
    }
    ensure!(machine.property(SERVICE, "NRestarts")? == "2");
    let text = std::fs::read_to_string(machine.path(Machine::CONFIGURATION))?;
    machine.write(Machine::CONFIGURATION, &format!("strange = 1\n{text}"))?;
    let refused = machine.run(&["systemctl", "restart", SERVICE])?;
    ensure!(!refused.status.success());
    std::thread::sleep(Duration::from_secs(3));
    ensure!(machine.property(SERVICE, "ActiveState")? == "failed" && machine.property(SERVICE, "NRestarts")? == "0");
    ensure!(machine.property(SERVICE, "ExecMainStatus")? == "2");
    let journal = machine.journal(&["-u", SERVICE])?;
    ensure!(journal.contains("strange"), "{journal}");
    ensure!(attached(&net)?, "{}", net.front_link()?);
    Ok(())
}

fn an_interface_made_anew_is_guarded_again_by_its_unit(lab: &Lab) -> anyhow::Result<()> {
    let Installed { net, mut machine, _origin } = installed(lab)?;
    machine.enable(&[GUARD, SERVICE, NETWORKD])?;
    machine.boot()?;
    answers(lab, &net, Net::REGISTERED)?;
    ensure!(machine.property(GUARD, "ActiveState")? == "active");
    net.remove_front()?;
    wait_until("the unit to end", Deadline::seconds(20), || {
        Ok((machine.property(GUARD, "ActiveState")? == "inactive").then_some(()))
    })?;
    net.make_bare_front()?;
    wait_until("the unit to guard it again", Deadline::seconds(30), || {
        Ok((machine.property(GUARD, "ActiveState")? == "active").then_some(()))
    })?;
    wait_until("the service to take its place there", Deadline::seconds(30), || {
        Ok((status(&machine)?["guard"]["interfaces"][0]["status"]["attached"] == true).then_some(()))
    })?;
    answers(lab, &net, Net::REGISTERED)?;
    let before = dropped(&machine)?;
    ensure!(!connects(&net, Net::UNREGISTERED)?, "an unregistered source connected");
    ensure!(dropped(&machine)? > before, "the service does not see what is dropped");
    Ok(())
}

fn dropped(machine: &Machine) -> anyhow::Result<u64> {
    let status = status(machine)?;
    let reasons = status["guard"]["counters"]["reasons"].as_array().context("no counters")?;
    let count = reasons.iter().find(|count| count["reason"] == UNREGISTERED_SOURCE);
    count.and_then(|count| count["packets"].as_u64()).context("no such reason")
}

fn with_the_socket_unit_callers_wait_while_the_service_restarts(lab: &Lab) -> anyhow::Result<()> {
    let Installed { net, mut machine, _origin } = installed(lab)?;
    machine.enable(&[GUARD, SERVICE, SOCKET, NETWORKD])?;
    let needs = format!("[Unit]\nRequires={SOCKET}\nAfter={SOCKET}\n");
    machine.write(&format!("/etc/systemd/system/{SERVICE}.d/socket.conf"), &needs)?;
    let addresses = format!("addresses = [\"0.0.0.0:{0}\", \"[::]:{0}\"]", Net::PORT);
    let text = std::fs::read_to_string(machine.path(Machine::CONFIGURATION))?;
    machine.write(
        Machine::CONFIGURATION,
        &text.replace(&format!("addresses = [\"0.0.0.0:{}\"]", Net::PORT), &addresses),
    )?;
    machine.boot()?;
    answers(lab, &net, Net::REGISTERED)?;
    let before = machine.property(SERVICE, "MainPID")?;
    // Callers all the while, none of whom may be refused or reset.
    let curl = lab.curl_at(&net.caller, at(Net::REGISTERED)?).identity("client-p256").seconds(20);
    let ask = || {
        let answer = curl.get("/bytes/100000")?;
        ensure!(answer.exit == 0 && answer.status == 200, "{answer}");
        answer.must_be_pattern(100_000)
    };
    let (restarted, served) = std::thread::scope(|scope| {
        let restart = scope.spawn(|| machine.must(&["systemctl", "restart", SERVICE]));
        let mut served = 0;
        while !restart.is_finished() || served < 3 {
            ask()?;
            served += 1;
        }
        anyhow::Ok((restart.join().ok(), served))
    })?;
    restarted.context("panicked")??;
    ensure!(served >= 3 && machine.property(SERVICE, "MainPID")? != before);
    Ok(())
}
