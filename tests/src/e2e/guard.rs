//! The guard at the interface: who is nobody's caller does not get an answer, not even from TCP.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{EXIT_CONFIGURATION, EXIT_ENVIRONMENT, UNREGISTERED_SOURCE};
use mtls_appliance_tests::harness::{
    Appliance, BpfFs, Client, Deadline, Feature, Finished, Lab, Link, Net, Origin, Place, Settings, wait_until,
};
use rustix::process::Signal;

use crate::case::cases;

cases!("guard":
    an_unregistered_source_is_dropped_and_counted_and_a_registered_one_passes,
    ipv6_is_guarded_too,
    other_traffic_passes,
    a_reload_changes_who_gets_in,
    killing_the_daemon_leaves_the_guard_attached_and_a_restart_takes_it_over,
    an_orderly_stop_leaves_the_guard_as_it_says,
    generic_mode_guards_as_well,
    modes_are_switched_by_a_reload_while_connections_live,
    management_addresses_are_never_dropped,
    only_guarded_addresses_are_guarded,
    a_source_over_its_budget_is_dropped_and_the_others_served,
    without_the_daemon_the_guard_opens_if_it_should,
    a_reload_that_waits_does_not_open_the_guard,
    the_verifier_has_far_to_its_limit,
    an_interface_that_does_not_exist_is_refused,
    a_failed_start_leaves_nothing_attached,
    detaching_opens_the_interface_and_leaves_no_pins,
    without_privilege_the_guard_is_an_environment_error,
    a_kernel_without_bpf_is_an_environment_error_that_names_the_way_out,
);

pub(crate) struct Guarded {
    pub(crate) net: Net,
    pub(crate) origin: Origin,
    pub(crate) appliance: Appliance,
    pub(crate) _bpf: BpfFs,
}

pub(crate) fn settings(pins: &str, mode: &str) -> impl FnOnce(Settings) -> Settings {
    let (pins, mode) = (pins.to_owned(), mode.to_owned());
    move |settings| {
        settings
            .set("guard.interfaces", vec![Net::FRONT])
            .set("guard.ports", vec![i64::from(Net::PORT)])
            .set("guard.attach", mode)
            .set("guard.pin_dir", pins)
    }
}

pub(crate) fn guarded(lab: &Lab, mode: &str) -> anyhow::Result<Guarded> {
    guarded_at(lab, Link::Veth, mode, |settings| settings)
}

/// The same with another link between callers and appliance, and changed settings.
pub(crate) fn guarded_at(
    lab: &Lab,
    link: Link,
    mode: &str,
    change: impl FnOnce(Settings) -> Settings,
) -> anyhow::Result<Guarded> {
    Feature::Netns.need()?;
    Feature::Xdp.need()?;
    let folder = lab.path("bpf");
    let bpf = BpfFs::mount(&folder)?;
    let net = Net::create_joined_by(link)?;
    let pins = folder.join("guard").display().to_string();
    let (origin, appliance) = lab.appliance_in(&net, |usual| change(settings(&pins, mode)(usual)))?;
    Ok(Guarded { net, origin, appliance, _bpf: bpf })
}

pub(crate) fn at(ip: &str) -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse::<IpAddr>()?, Net::PORT))
}

/// Whether TCP connects within a second; a dropped SYN shows as a time-out.
pub(crate) fn connects(net: &Net, ip: &str) -> anyhow::Result<bool> {
    let address = at(ip)?;
    net.caller.enter(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()))
}

pub(crate) fn answers(lab: &Lab, net: &Net, ip: &str) -> anyhow::Result<()> {
    lab.curl_at(&net.caller, at(ip)?).identity("client-p256").seconds(10).ok("/bytes/100000")?.must_be_pattern(100_000)
}

pub(crate) fn attached(net: &Net) -> anyhow::Result<bool> {
    Ok(net.front_link()?.contains("xdp"))
}

fn an_unregistered_source_is_dropped_and_counted_and_a_registered_one_passes(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, origin, mut appliance, _bpf } = guarded(lab, "auto")?;
    ensure!(attached(&net)?, "{}", net.front_link()?);
    answers(lab, &net, Net::REGISTERED)?;
    let before = appliance.guard_packets(UNREGISTERED_SOURCE)?;
    ensure!(!connects(&net, Net::UNREGISTERED)?, "an unregistered source connected");
    appliance.wait_guard_packets(UNREGISTERED_SOURCE, before + 1)?;
    // Even with a good certificate.
    let curl = lab.curl_at(&net.caller, at(Net::UNREGISTERED)?).identity("client-p256").seconds(2);
    let answer = curl.get("/headers")?;
    ensure!(answer.exit == 28, "not a time-out: {answer}");
    answers(lab, &net, Net::REGISTERED)?;
    ensure!(origin.journal("request")?.len() == 2);
    ensure!(!appliance.status()?["guard"].is_null());
    appliance.must_be_alive()
}

fn ipv6_is_guarded_too(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    answers(lab, &net, Net::REGISTERED_V6)?;
    let before = appliance.guard_packets(UNREGISTERED_SOURCE)?;
    ensure!(!connects(&net, Net::UNREGISTERED_V6)?, "an unregistered source connected");
    appliance.wait_guard_packets(UNREGISTERED_SOURCE, before + 1).map(drop)
}

fn other_traffic_passes(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    // TCP to another port, for an unregistered source. Reaching it at all needs ARP or neighbour discovery to pass.
    for ip in [Net::UNREGISTERED, Net::UNREGISTERED_V6] {
        let address = SocketAddr::new(ip.parse()?, 22);
        let listener = net.appliance.enter(|| Ok(TcpListener::bind(address)?))?;
        net.caller
            .enter(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(5))?))
            .with_context(|| format!("TCP to {address} did not pass"))?;
        drop(listener);
        // UDP, to the guarded port even.
        let address = at(ip)?;
        let receiver = net.appliance.enter(|| Ok(UdpSocket::bind(address)?))?;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
        net.caller.enter(|| Ok(UdpSocket::bind(any)?.send_to(b"hello", address)?))?;
        let mut buffer = [0; 16];
        let (length, _) = receiver.recv_from(&mut buffer).with_context(|| format!("UDP to {address} did not pass"))?;
        ensure!(&buffer[..length] == b"hello");
    }
    ensure!(appliance.guard_packets(UNREGISTERED_SOURCE)? == 0, "{}", appliance.status()?);
    Ok(())
}

fn a_reload_changes_who_gets_in(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    ensure!(connects(&net, Net::REGISTERED)? && !connects(&net, Net::UNREGISTERED)?);
    let swapped = dev_pki::REGISTRY.replace("10.77.2.0/24", "10.77.3.0/24").replace("fd77:2::/64", "fd77:3::/64");
    ensure!(swapped != dev_pki::REGISTRY);
    std::fs::write(lab.path("registry.toml"), swapped)?;
    appliance.reload()?;
    ensure!(connects(&net, Net::UNREGISTERED)?, "the new source is still dropped");
    ensure!(!connects(&net, Net::REGISTERED)?, "the removed source still gets in");
    ensure!(connects(&net, Net::UNREGISTERED_V6)? && !connects(&net, Net::REGISTERED_V6)?);
    answers(lab, &net, Net::UNREGISTERED)
}

fn killing_the_daemon_leaves_the_guard_attached_and_a_restart_takes_it_over(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    ensure!(!connects(&net, Net::UNREGISTERED)?);
    let before = appliance.wait_guard_packets(UNREGISTERED_SOURCE, 1)?;
    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    ensure!(attached(&net)?, "the guard went with the daemon: {}", net.front_link()?);
    // Without the daemon a connection would be refused by a RST at once; dropped, it times out.
    let begin = std::time::Instant::now();
    ensure!(!connects(&net, Net::UNREGISTERED)?);
    ensure!(begin.elapsed() >= Duration::from_millis(900), "refused instead of dropped");

    appliance.restart(lab)?;
    ensure!(attached(&net)?);
    answers(lab, &net, Net::REGISTERED)?;
    ensure!(!connects(&net, Net::UNREGISTERED)?, "the restart opened the guard");
    let after = appliance.guard_packets(UNREGISTERED_SOURCE)?;
    ensure!(after > before, "the counters did not survive: {before} before, {after} after");
    appliance.must_be_alive()
}

fn an_orderly_stop_leaves_the_guard_as_it_says(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    appliance.process().signal(Signal::TERM)?;
    let finished = appliance.process().wait(Deadline::seconds(20))?;
    ensure!(finished.status.success(), "{}", finished.output());
    // Attached or not, a new start must work and guard.
    appliance.restart(lab)?;
    answers(lab, &net, Net::REGISTERED)?;
    ensure!(!connects(&net, Net::UNREGISTERED)?);
    Ok(())
}

fn generic_mode_guards_as_well(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, appliance, origin: _origin, _bpf } = guarded(lab, "generic")?;
    ensure!(net.front_link()?.contains("xdpgeneric"), "{}", net.front_link()?);
    answers(lab, &net, Net::REGISTERED)?;
    ensure!(!connects(&net, Net::UNREGISTERED)?);
    appliance.wait_guard_packets(UNREGISTERED_SOURCE, 1).map(drop)
}

fn an_interface_that_does_not_exist_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let folder = lab.path("bpf");
    let pins = folder.join("guard").display().to_string();
    let usual = lab.settings(lab.free_address()?, "127.0.0.1:9".parse()?)?;
    let settings = settings(&pins, "auto")(usual).set("guard.interfaces", vec!["mtlsnone0"]);
    let finished = Appliance::run(lab, &Place::Here, "run", &settings)?;
    let code = finished.status.code();
    ensure!(code == Some(EXIT_CONFIGURATION), "{code:?}: {}", finished.output());
    // The remedy is the choice there is; every machine has `lo`.
    for part in ["guard.interfaces", "mtlsnone0", "there are: lo"] {
        ensure!(finished.stderr.contains(part), "no {part}: {}", finished.output());
    }
    ensure!(!folder.exists(), "the folder of the pins was left behind");
    Ok(())
}

/// A start that the environment refuses, and that leaves neither a program nor pins behind.
fn refused(lab: &Lab, start: impl FnOnce(&Net, &Settings) -> anyhow::Result<Finished>) -> anyhow::Result<Finished> {
    Feature::Netns.need()?;
    Feature::Xdp.need()?;
    let folder = lab.path("bpf");
    let _bpf = BpfFs::mount(&folder)?;
    let net = Net::create()?;
    let pins = folder.join("guard").display().to_string();
    let origin = SocketAddr::new(Net::ORIGIN.parse()?, 9443);
    let settings = settings(&pins, "auto")(lab.settings(at(Net::REGISTERED)?, origin)?);
    let finished = start(&net, &settings)?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}: {}", finished.status, finished.output());
    ensure!(!attached(&net)?, "half attached: {}", net.front_link()?);
    let left = std::fs::read_dir(folder.join("guard")).map(|entries| entries.count()).unwrap_or_default();
    ensure!(left == 0, "{left} pinned objects were left behind");
    Ok(finished)
}

fn a_failed_start_leaves_nothing_attached(lab: &Lab) -> anyhow::Result<()> {
    refused(lab, |net, settings| {
        // The port is taken, which only turns out at the very end of the start.
        let taken = at(Net::REGISTERED)?;
        let _holder = net.appliance.enter(|| Ok(TcpListener::bind(taken)?))?;
        Appliance::run(lab, &net.appliance, "run", settings)
    })
    .map(drop)
}

fn without_privilege_the_guard_is_an_environment_error(lab: &Lab) -> anyhow::Result<()> {
    let readable = ["edge.key", "appliance-client.key"];
    let finished =
        refused(lab, |net, settings| Appliance::run_as_nobody(lab, &net.appliance, "run", settings, &readable))?;
    ensure!(finished.stderr.contains("CAP_") || finished.stderr.contains("root"), "no remedy: {}", finished.output());
    ensure!(finished.stderr.contains("guard"), "the guard is not named: {}", finished.output());
    Ok(())
}

fn a_kernel_without_bpf_is_an_environment_error_that_names_the_way_out(lab: &Lab) -> anyhow::Result<()> {
    let finished = refused(lab, |net, settings| {
        Appliance::run_with_fault(lab, &net.appliance, settings, "bpf:error=ENOSYS", "bpf(")
    })?;
    for part in ["[guard]", "CONFIG_BPF_SYSCALL", "remove the [guard] table"] {
        ensure!(finished.stderr.contains(part), "no {part:?}: {}", finished.output());
    }
    Ok(())
}

fn detaching_opens_the_interface_and_leaves_no_pins(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, _bpf, .. } = guarded(lab, "auto")?;
    ensure!(attached(&net)? && !connects(&net, Net::UNREGISTERED)?);
    appliance.process().signal(Signal::TERM)?;
    appliance.process().wait(Deadline::seconds(40))?;
    ensure!(attached(&net)?, "an orderly stop detached the guard");
    let configuration = lab.path("appliance.toml");
    let detach = || Appliance::run_with_file(&net.appliance, "guard detach", &configuration);
    let finished = detach()?;
    ensure!(finished.status.success() && finished.stdout.contains("removed"), "{}", finished.output());
    ensure!(!attached(&net)?, "{}", net.front_link()?);
    let left = std::fs::read_dir(lab.path("bpf/guard")).map(|entries| entries.count()).unwrap_or_default();
    ensure!(left == 0, "{left} pinned objects were left behind");
    let again = detach()?;
    ensure!(again.status.success() && again.stdout.contains("no guard"), "{}", again.output());
    Ok(())
}

/// Puts changed settings in force.
pub(crate) fn reload_with(
    lab: &Lab,
    guarded: &mut Guarded,
    change: impl FnOnce(Settings) -> Settings,
) -> anyhow::Result<()> {
    reload_appliance(lab, &mut guarded.appliance, change)
}

pub(crate) fn reload_appliance(
    lab: &Lab,
    appliance: &mut Appliance,
    change: impl FnOnce(Settings) -> Settings,
) -> anyhow::Result<()> {
    let file = lab.path("appliance.toml");
    change(Settings::parse(&std::fs::read_to_string(&file)?)?).write(&file)?;
    let line = appliance.reload()?;
    ensure!(line["outcome"] == "ok", "{line}");
    Ok(())
}

/// One number of a reason's counters.
pub(crate) fn packets(appliance: &Appliance, reason: &str, what: &str) -> anyhow::Result<u64> {
    let status = appliance.status()?;
    let reasons = status["guard"]["counters"]["reasons"].as_array().context("no counters")?;
    let found = reasons.iter().find(|count| count["reason"] == reason).and_then(|count| count[what].as_u64());
    found.with_context(|| format!("no {what} of {reason} in {reasons:?}"))
}

fn modes_are_switched_by_a_reload_while_connections_live(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    let address = at(Net::REGISTERED)?;
    let mut live = Client::connect(&all.net.caller, address, &lab.tls("client-p256")?)?;
    ensure!(!connects(&all.net, Net::UNREGISTERED)?);
    let dropped = packets(&all.appliance, UNREGISTERED_SOURCE, "dropped")?;
    ensure!(dropped > 0 && packets(&all.appliance, UNREGISTERED_SOURCE, "observed")? == 0);
    let program = all.appliance.status()?["guard"]["interfaces"][0]["status"]["program_id"].clone();

    reload_with(lab, &mut all, |settings| settings.set("guard.mode", "observe"))?;
    ensure!(connects(&all.net, Net::UNREGISTERED)?, "observing, it still drops");
    ensure!(packets(&all.appliance, UNREGISTERED_SOURCE, "observed")? > 0);
    ensure!(packets(&all.appliance, UNREGISTERED_SOURCE, "dropped")? == dropped);
    let warnings = all.appliance.status()?["warnings"].to_string();
    ensure!(warnings.contains("guard.mode = \\\"observe\\\""), "{warnings}");

    reload_with(lab, &mut all, |settings| settings.set("guard.mode", "off"))?;
    ensure!(connects(&all.net, Net::UNREGISTERED)? && packets(&all.appliance, "off", "passed")? > 0);

    reload_with(lab, &mut all, |settings| settings.set("guard.mode", "enforce"))?;
    ensure!(!connects(&all.net, Net::UNREGISTERED)?, "the guard stayed open");
    ensure!(live.get("/bytes/10", &[])?.status == 200, "a switch broke a live connection");
    ensure!(all.appliance.status()?["guard"]["interfaces"][0]["status"]["program_id"] == program, "attached anew");
    Ok(())
}

fn management_addresses_are_never_dropped(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    ensure!(!connects(&all.net, Net::UNREGISTERED)? && !connects(&all.net, Net::UNREGISTERED_V6)?);
    let prefixes = vec!["10.77.3.0/24", "fd77:3::/64"];
    reload_with(lab, &mut all, |settings| settings.set("guard.management", prefixes))?;
    ensure!(connects(&all.net, Net::UNREGISTERED)? && connects(&all.net, Net::UNREGISTERED_V6)?);
    ensure!(packets(&all.appliance, "management", "passed")? > 0);
    // It is the way in for packets alone: who calls still needs a certificate.
    let answer = lab.curl_at(&all.net.caller, at(Net::UNREGISTERED)?).seconds(10).get("/bytes/1")?;
    ensure!(answer.status == 0 && answer.exit != 28, "{answer}");
    Ok(())
}

fn only_guarded_addresses_are_guarded(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    let addresses = vec![Net::UNREGISTERED, Net::UNREGISTERED_V6];
    reload_with(lab, &mut all, |settings| {
        settings.set("guard.addresses", addresses).set("guard.management", vec!["10.99.0.0/16"])
    })?;
    ensure!(!connects(&all.net, Net::UNREGISTERED)? && !connects(&all.net, Net::UNREGISTERED_V6)?);
    let addresses = vec![Net::REGISTERED];
    reload_with(lab, &mut all, |settings| settings.set("guard.addresses", addresses))?;
    ensure!(connects(&all.net, Net::UNREGISTERED)? && connects(&all.net, Net::UNREGISTERED_V6)?);
    ensure!(packets(&all.appliance, "not_guarded", "passed")? > 0);
    Ok(())
}

fn a_source_over_its_budget_is_dropped_and_the_others_served(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    reload_with(lab, &mut all, |settings| {
        settings.set("guard.syns_per_source", 1).set("guard.syn_burst_per_source", 4)
    })?;
    let address = at(Net::REGISTERED)?;
    let mut live = Client::connect(&all.net.caller, address, &lab.tls("client-p256")?)?;
    // A SYN that was dropped is sent again after a second, when there is room for one more.
    let attempt =
        || all.net.caller.enter(|| Ok(TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()));
    let attempts = (0..12).map(|_| attempt()).collect::<anyhow::Result<Vec<bool>>>()?;
    let connected = attempts.iter().filter(|connected| **connected).count();
    ensure!((3..12).contains(&connected), "{attempts:?}");
    ensure!(packets(&all.appliance, "source_over_budget", "dropped")? > 0);
    let status = all.appliance.status()?;
    let organisations = status["guard"]["counters"]["organisations"].as_array().context("no organisations")?;
    ensure!(organisations.iter().any(|count| count["over_budget"].as_u64() > Some(0)), "{organisations:?}");
    ensure!(live.get("/bytes/100000", &[])?.status == 200, "a live connection suffered");
    answers(lab, &all.net, Net::REGISTERED_V6).context("another source suffered")
}

fn without_the_daemon_the_guard_opens_if_it_should(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    reload_with(lab, &mut all, |settings| settings.set("guard.open_after", "3s"))?;
    // It lives, and gives signs of it.
    std::thread::sleep(Duration::from_secs(5));
    ensure!(!connects(&all.net, Net::UNREGISTERED)?, "opened with a live daemon");
    all.appliance.process().signal(Signal::KILL)?;
    all.appliance.process().wait(Deadline::seconds(10))?;
    ensure!(!connects(&all.net, Net::UNREGISTERED)?);
    // A packet that passes gets an answer: nobody listens.
    let address = at(Net::UNREGISTERED)?;
    wait_until("the guard to open", Deadline::seconds(20), || {
        let outcome = all.net.caller.enter(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))))?;
        Ok(outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(()))
    })?;
    all.appliance.restart(lab)?;
    ensure!(!connects(&all.net, Net::UNREGISTERED)?, "it is back, and the guard stays open");
    ensure!(packets(&all.appliance, "daemon_gone", "passed")? > 0);
    answers(lab, &all.net, Net::REGISTERED)
}

fn a_reload_that_waits_does_not_open_the_guard(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    reload_with(lab, &mut all, |settings| settings.set("guard.open_after", "3s"))?;
    // A name server that says nothing: the reload waits for it three times as long as one answer may take.
    let silent = all.net.appliance.enter(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
    let file = lab.path("appliance.toml");
    Settings::parse(&std::fs::read_to_string(&file)?)?
        .set("resolver.servers", vec![silent.local_addr()?.to_string()])
        .set("resolver.timeout", "5s")
        .set("origin.addresses", vec!["10.77.9.2:9443", "api.bank.internal:9443"])
        .write(&file)?;
    let before = all.appliance.events("reload").len();
    all.appliance.process().signal(Signal::HUP)?;
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        ensure!(!connects(&all.net, Net::UNREGISTERED)?, "opened after {:?}", begun.elapsed());
    }
    ensure!(all.appliance.events("reload").len() == before, "the reload did not wait: nothing was shown");
    ensure!(packets(&all.appliance, "daemon_gone", "passed")? == 0);
    answers(lab, &all.net, Net::REGISTERED)?;
    // Nor does a stop wait for the name server.
    ensure!(all.appliance.events("reload").len() == before, "the reload has ended: nothing is shown");
    all.appliance.process().signal(Signal::TERM)?;
    let broken_off = all.appliance.wait_event("reload", |line| line["level"] == "warn")?;
    ensure!(broken_off["outcome"] == "broken off: this process drains", "{broken_off}");
    all.appliance.process().wait(Deadline::seconds(5))?;
    Ok(())
}

fn the_verifier_has_far_to_its_limit(lab: &Lab) -> anyhow::Result<()> {
    let all = guarded(lab, "auto")?;
    let status = all.appliance.status()?;
    // The kernel gives up at a million; other versions prune less well.
    let count = status["guard"]["interfaces"][0]["status"]["verified_instructions"].as_u64().context("no count")?;
    println!("guard: the verifier looked at {count} instructions");
    ensure!((1_000..200_000).contains(&count), "{count}");
    Ok(())
}
