//! `mtls-appliance guard`: what operators do with the guard at the interface, with and without a daemon.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{EXIT_CONFIGURATION, EXIT_ENVIRONMENT};
use mtls_appliance_tests::harness::{
    Appliance, BpfFs, Deadline, Feature, Finished, Lab, Net, Origin, OriginKind, Place, Settings, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::case::cases;
use crate::guard::{Guarded, answers, at, attached, connects, guarded, settings};

cases!("guard_commands":
    attached_before_the_appliance_starts_it_is_taken_over_without_a_gap,
    attaching_again_brings_the_guard_up_to_date,
    attaching_beside_an_appliance_changes_nothing_or_is_refused,
    attaching_beside_an_appliance_that_starts_waits_for_it,
    attached_alone_it_opens_when_it_should,
    status_is_the_same_with_and_without_the_appliance,
    a_holder_that_does_not_answer_is_not_taken_for_none,
    what_the_guard_would_do_is_what_it_does,
    packets_are_typed_or_taken_from_a_capture,
    without_a_guard_the_way_out_is_named,
);

/// A guard that can be attached, and nothing that runs yet.
pub(crate) struct Bare {
    pub(crate) net: Net,
    pub(crate) settings: Settings,
    _bpf: BpfFs,
}

pub(crate) fn bare(lab: &Lab) -> anyhow::Result<Bare> {
    Feature::Netns.need()?;
    Feature::Xdp.need()?;
    let folder = lab.path("bpf");
    let bpf = BpfFs::mount(&folder)?;
    let net = Net::create()?;
    let all = [Net::REGISTERED, Net::UNREGISTERED, Net::REGISTERED_V6, Net::UNREGISTERED_V6];
    let all = all.iter().map(|ip| Ok(at(ip)?.to_string())).collect::<anyhow::Result<Vec<_>>>()?;
    let origin = SocketAddr::new(Net::ORIGIN.parse()?, 9443);
    let usual = lab.settings(at(Net::REGISTERED)?, origin)?.set("listener.addresses", all);
    let settings = settings(&folder.join("guard").display().to_string(), "auto")(usual);
    Ok(Bare { net, settings, _bpf: bpf })
}

pub(crate) fn run(lab: &Lab, net: &Net, command: &str, settings: &Settings) -> anyhow::Result<Finished> {
    Appliance::run(lab, &net.appliance, command, settings)
}

pub(crate) fn attach(lab: &Lab, bare: &Bare) -> anyhow::Result<Finished> {
    let finished = run(lab, &bare.net, "guard attach", &bare.settings)?;
    ensure!(finished.status.success(), "{}", finished.output());
    Ok(finished)
}

/// What TCP says within that time: nothing when the guard drops, a refusal when a packet passes and nobody listens.
pub(crate) fn knock(net: &Net, ip: &str, patience: Duration) -> anyhow::Result<Option<ErrorKind>> {
    let address = at(ip)?;
    net.caller.enter(|| Ok(TcpStream::connect_timeout(&address, patience).err().map(|error| error.kind())))
}

const SHORT: Duration = Duration::from_millis(300);

fn attached_before_the_appliance_starts_it_is_taken_over_without_a_gap(lab: &Lab) -> anyhow::Result<()> {
    let bare = bare(lab)?;
    let net = &bare.net;
    ensure!(knock(net, Net::UNREGISTERED, SHORT)? == Some(ErrorKind::ConnectionRefused), "not open before");
    let finished = attach(lab, &bare)?;
    for part in ["front: attached", "native", "enforce", "8443", "IPv4", "pins"] {
        ensure!(finished.stdout.contains(part), "no {part:?}: {}", finished.output());
    }
    ensure!(attached(net)?, "{}", net.front_link()?);
    ensure!(knock(net, Net::UNREGISTERED, SHORT)? == Some(ErrorKind::TimedOut));
    ensure!(knock(net, Net::REGISTERED, SHORT)? == Some(ErrorKind::ConnectionRefused));

    let origin = Origin::start(lab, &net.origin, OriginKind::Scripted, SocketAddr::new(Net::ORIGIN.parse()?, 9443))?;
    let served = AtomicBool::new(false);
    let appliance = thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            let mut knocks = 0;
            while !served.load(Ordering::Relaxed) {
                let heard = knock(net, Net::UNREGISTERED, Duration::from_millis(50))?;
                ensure!(heard == Some(ErrorKind::TimedOut), "{heard:?} after {knocks} that were dropped");
                knocks += 1;
            }
            Ok(knocks)
        });
        let appliance = Appliance::start(lab, &net.appliance, &bare.settings);
        served.store(true, Ordering::Relaxed);
        let knocks = knocking.join().unwrap_or_else(|_| anyhow::bail!("panicked"))?;
        ensure!(knocks > 1, "nobody knocked");
        appliance
    })?;
    let status = appliance.status()?;
    ensure!(
        status["guard"]["interfaces"][0]["status"]["taken_over"] == true,
        "{}",
        status["guard"]["interfaces"][0]["status"]
    );
    ensure!(appliance.guard_packets("unregistered_source")? >= 2, "the counters started anew");
    answers(lab, net, Net::REGISTERED)?;
    drop(origin);
    Ok(())
}

fn attaching_again_brings_the_guard_up_to_date(lab: &Lab) -> anyhow::Result<()> {
    let mut bare = bare(lab)?;
    attach(lab, &bare)?;
    ensure!(knock(&bare.net, Net::UNREGISTERED, SHORT)? == Some(ErrorKind::TimedOut));
    bare.settings = bare.settings.set("guard.mode", "observe");
    let finished = attach(lab, &bare)?;
    ensure!(finished.stdout.contains("brought up to date"), "{}", finished.output());
    ensure!(knock(&bare.net, Net::UNREGISTERED, SHORT)? == Some(ErrorKind::ConnectionRefused), "it still drops");
    // A mistake changes nothing.
    let wrong = bare.settings.clone().set("guard.mode", "sometimes");
    let finished = run(lab, &bare.net, "guard attach", &wrong)?;
    ensure!(finished.status.code() == Some(EXIT_CONFIGURATION), "{}", finished.output());
    ensure!(attached(&bare.net)?);
    Ok(())
}

fn attaching_beside_an_appliance_changes_nothing_or_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    let program =
        |appliance: &Appliance| Ok::<_, anyhow::Error>(appliance.status()?["guard"]["interfaces"][0]["status"].clone());
    let before = program(&appliance)?;
    let file = lab.path("appliance.toml");
    let same = Appliance::run_with_file(&net.appliance, "guard attach", &file)?;
    ensure!(same.status.success() && same.stdout.contains("nothing to do"), "{}", same.output());
    let changed = Settings::parse(&std::fs::read_to_string(&file)?)?;
    for (key, value) in [("guard.mode", "observe"), ("guard.open_after", "1h")] {
        let finished = run(lab, &net, "guard attach", &changed.clone().set(key, value))?;
        ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}", finished.output());
        let process = format!("process {}", appliance.pid());
        for part in [process.as_str(), "SIGHUP", "front"] {
            ensure!(finished.stderr.contains(part), "no {part:?}: {}", finished.output());
        }
    }
    let more = std::fs::read_to_string(lab.path("registry.toml"))?.replace("10.77.2.0/24", "10.77.2.0/25");
    std::fs::write(lab.path("registry.toml"), more)?;
    let finished = Appliance::run_with_file(&net.appliance, "guard attach", &file)?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}", finished.output());
    let after = program(&appliance)?;
    ensure!(after["program_id"] == before["program_id"] && after["generation"] == before["generation"], "{after}");
    ensure!(after["attached"] == true && !connects(&net, Net::UNREGISTERED)?);
    // What it refused to do beside the appliance it does when that is gone.
    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    let finished = Appliance::run_with_file(&net.appliance, "guard attach", &file)?;
    ensure!(finished.status.success() && finished.stdout.contains("brought up to date"), "{}", finished.output());
    Ok(())
}

fn attaching_beside_an_appliance_that_starts_waits_for_it(lab: &Lab) -> anyhow::Result<()> {
    let bare = bare(lab)?;
    let net = &bare.net;
    // A name server that says nothing: the start waits for it with the guard attached.
    let silent = net.appliance.enter(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
    let file = lab.path("appliance.toml");
    bare.settings
        .set("resolver.servers", vec![silent.local_addr()?.to_string()])
        .set("resolver.timeout", "1s")
        .set("origin.addresses", vec!["10.77.9.2:9443", "api.bank.internal:9443"])
        .write(&file)?;
    let appliance = Appliance::begin(&net.appliance, "run", &file)?;
    wait_until("the appliance to attach its guard", Deadline::seconds(20), || Ok(attached(net)?.then_some(())))?;
    let guarded = net.front_link()?;
    let serves = || appliance.stdout().iter().any(|line| line.contains("\"ready\""));
    ensure!(!serves(), "it serves already: nothing is shown");
    let finished = Appliance::run_with_file(&net.appliance, "guard attach", &file)?;
    ensure!(finished.status.success() && finished.stdout.contains("nothing to do"), "{}", finished.output());
    ensure!(finished.stdout.contains(&format!("process {}", appliance.pid())), "{}", finished.output());
    ensure!(serves(), "it did not wait");
    ensure!(net.front_link()? == guarded, "it took the interface: {guarded} {}", net.front_link()?);
    Ok(())
}

fn attached_alone_it_opens_when_it_should(lab: &Lab) -> anyhow::Result<()> {
    let mut bare = bare(lab)?;
    bare.settings = bare.settings.set("guard.open_after", "3s");
    attach(lab, &bare)?;
    // Attaching is a sign of life: an interface is not open before anything could have started.
    let heard = knock(&bare.net, Net::UNREGISTERED, SHORT)?;
    ensure!(heard == Some(ErrorKind::TimedOut), "{heard:?}");
    wait_until("the guard to open", Deadline::seconds(10), || {
        Ok((knock(&bare.net, Net::UNREGISTERED, SHORT)? == Some(ErrorKind::ConnectionRefused)).then_some(()))
    })
    .context("no appliance came")
}

/// What a command says about the running guard, as JSON.
fn ask(lab: &Lab, net: &Net, command: &str) -> anyhow::Result<Value> {
    let finished =
        Appliance::run_with_file(&net.appliance, &format!("guard {command} --json"), &lab.path("appliance.toml"))?;
    ensure!(finished.status.success(), "{}", finished.output());
    serde_json::from_str(&finished.stdout).with_context(|| finished.output())
}

/// What `guard status` says about the one interface.
fn ask_status(lab: &Lab, net: &Net) -> anyhow::Result<Value> {
    let mut all = ask(lab, net, "status")?;
    ensure!(all["interfaces"].as_array().map(Vec::len) == Some(1), "{all}");
    ensure!(all["counters"] == all["interfaces"][0]["counters"], "one is not the sum of one: {all}");
    Ok(all["interfaces"][0].take())
}

fn status_is_the_same_with_and_without_the_appliance(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    let file = lab.path("appliance.toml");
    Settings::parse(&std::fs::read_to_string(&file)?)?
        .set("guard.open_after", "3s")
        .set("guard.syns_per_source", 100)
        .set("guard.syn_burst_per_organisation", 700)
        .set("guard.syns_per_organisation", 50)
        .set("guard.addresses", vec![Net::REGISTERED_V6, Net::UNREGISTERED, Net::REGISTERED])
        .set("guard.management", vec!["10.99.0.0/16", "fd99::/32"])
        .set("guard.pass", vec!["short_tcp"])
        .write(&file)?;
    let line = appliance.reload()?;
    ensure!(line["outcome"] == "ok", "{line}");
    ensure!(!connects(&net, Net::UNREGISTERED)? && connects(&net, Net::REGISTERED)?);

    // Of a moment in which no packet came, as ARP's may at any time, and the appliance answered the command at once.
    let (told, seen) = wait_until("a quiet moment", Deadline::seconds(30), || {
        let told = || anyhow::Ok(appliance.status()?["guard"]["interfaces"][0].take());
        let (before, seen, after) = (told()?, ask_status(lab, &net)?, told()?);
        let quiet = before["counters"] == after["counters"] && !seen["held_by"].is_null();
        Ok(quiet.then_some((before, seen)))
    })?;
    ensure!(seen["held_by"] == appliance.pid() && seen["held_by"] == told["held_by"], "{seen}");
    let told = told["status"].as_object().context("no status")?.clone();
    for (key, value) in &told {
        let seen = &seen["status"][key];
        let same = match key.as_str() {
            // Only who has done it knows.
            "taken_over" => seen.is_null(),
            // In any order; sets of prefixes.
            "addresses" | "management" => seen.as_array().map(Vec::len) == value.as_array().map(Vec::len),
            "silent_s" => seen.as_u64() < Some(3),
            _ => seen == value,
        };
        ensure!(same, "{key}: {value} says the appliance, {seen} the pins");
    }
    let addresses = seen["status"]["addresses"].to_string();
    ensure!(addresses.contains(Net::REGISTERED_V6) && addresses.contains(Net::UNREGISTERED), "{addresses}");
    ensure!(seen["status"]["source_budget"]["per_second"] == 100, "{seen}");
    ensure!(seen["status"]["organisation_budget"]["burst"] == 700, "{seen}");
    ensure!(seen["status"]["management"].to_string().contains("fd99::/32"), "{seen}");

    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    let open = wait_until("the guard to say that it is open", Deadline::seconds(10), || {
        let seen = ask_status(lab, &net)?;
        Ok((seen["status"]["open"] == true).then_some(seen))
    })?;
    ensure!(open["held_by"].is_null() && open["status"]["silent_s"].as_u64() >= Some(3), "{open}");
    ensure!(open["status"]["program_id"] == told["program_id"] && open["status"]["mode"] == "enforce", "{open}");
    let reasons = open["counters"]["reasons"].as_array().context("no counters")?;
    let dropped = reasons.iter().find(|count| count["reason"] == "unregistered_source").map(|count| &count["dropped"]);
    ensure!(dropped.and_then(Value::as_u64) > Some(0), "{reasons:?}");
    let table = Appliance::run_with_file(&net.appliance, "guard status", &file)?;
    for part in
        ["no appliance", "open: the daemon", "100 SYNs/s", "unregistered_source", "short_tcp", "by organisation"]
    {
        ensure!(table.stdout.contains(part), "no {part:?}: {}", table.output());
    }
    Ok(())
}

fn a_holder_that_does_not_answer_is_not_taken_for_none(lab: &Lab) -> anyhow::Result<()> {
    let bare = bare(lab)?;
    attach(lab, &bare)?;
    let status = |format: &str| run(lab, &bare.net, &format!("guard status{format}"), &bare.settings);
    let none = status("")?;
    ensure!(none.status.success() && none.stdout.contains("held by no appliance that runs"), "{}", none.output());
    let _silent = UnixListener::bind(lab.path("control.sock"))?;
    let told = status("")?;
    ensure!(told.status.success() && told.stdout.contains("that does not answer"), "{}", told.output());
    let told = status(" --json")?;
    let json: Value = serde_json::from_str(&told.stdout).with_context(|| told.output())?;
    ensure!(json["held_by_unknown"].as_str().is_some_and(|why| why.contains("control.sock")), "{json}");
    let front = &json["interfaces"][0];
    ensure!(front["held_by"].is_null() && front["status"]["attached"] == true, "{json}");
    Ok(())
}

fn what_the_guard_would_do_is_what_it_does(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    let asked = |from: &str, to: &str, more: &str| ask(lab, &net, &format!("test --from {from} --to {to}{more}"));
    let v6 = |ip: &str| format!("[{ip}]:{}", Net::PORT);
    for (from, to, ip, action, reason) in [
        ("10.77.3.2", at(Net::UNREGISTERED)?.to_string(), Net::UNREGISTERED, "dropped", "unregistered_source"),
        ("10.77.2.2:50000", at(Net::REGISTERED)?.to_string(), Net::REGISTERED, "passed", "registered"),
        ("fd77:3::2", v6(Net::UNREGISTERED_V6), Net::UNREGISTERED_V6, "dropped", "unregistered_source"),
        ("[fd77:2::2]:50000", v6(Net::REGISTERED_V6), Net::REGISTERED_V6, "passed", "registered"),
    ] {
        let before = appliance.guard_packets("unregistered_source")?;
        let verdict = asked(from, &to, "")?;
        ensure!(verdict["action"] == action && verdict["reason"] == reason, "{from}: {verdict}");
        ensure!(verdict["organisation"].is_string() == (action == "passed"), "{verdict}");
        ensure!(
            verdict["source"] == from.trim_start_matches('[').split("]:").next().unwrap_or_default()
                || verdict["source_port"] == 50000,
            "{verdict}"
        );
        ensure!(appliance.guard_packets("unregistered_source")? == before, "the question was counted");
        ensure!(connects(&net, ip)? == (action == "passed"), "{verdict}");
    }
    let other = asked("10.77.3.2", &format!("{}:22", Net::UNREGISTERED), "")?;
    ensure!(other["action"] == "passed" && other["reason"] == "not_guarded", "{other}");

    // What an answer depends on: the policy in force, and whether a segment opens a connection.
    let file = lab.path("appliance.toml");
    Settings::parse(&std::fs::read_to_string(&file)?)?
        .set("guard.mode", "observe")
        .set("guard.syns_per_source", 1)
        .set("guard.syn_burst_per_source", 1)
        .write(&file)?;
    ensure!(appliance.reload()?["outcome"] == "ok");
    let to = at(Net::REGISTERED)?.to_string();
    let first = asked("10.77.2.2", &to, " --syn")?;
    ensure!(first["charges"]["source"] == true && first["charges"]["organisation"] == false, "{first}");
    ensure!(asked("10.77.2.2", &to, " --ack")?["charges"]["source"] == false);
    ensure!(first["mode"] == "observe" && first["generation"].as_u64() > other["generation"].as_u64(), "{first}");
    // One after the other, until one comes within the second of another.
    let over = wait_until("a SYN over budget", Deadline::seconds(20), || {
        let _ = connects(&net, Net::REGISTERED)?;
        let verdict = asked("10.77.2.2", &to, "")?;
        Ok((verdict["reason"] == "source_over_budget").then_some(verdict))
    })?;
    ensure!(over["action"] == "observed" && over["charges"]["source"] == false, "{over}");
    ensure!(asked("10.77.2.2", &to, " --ack")?["reason"] == "registered");

    // Without the appliance as well, and for people.
    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    let command = format!("guard test --from 10.77.3.2 --to {}", at(Net::UNREGISTERED)?);
    let finished = Appliance::run_with_file(&net.appliance, &command, &file)?;
    ensure!(finished.status.success(), "{}", finished.output());
    for part in ["observed: unregistered_source", "10.77.3.2 port 49152", "mode observe", "no budget"] {
        ensure!(finished.stdout.contains(part), "no {part:?}: {}", finished.output());
    }
    Ok(())
}

fn packets_are_typed_or_taken_from_a_capture(lab: &Lab) -> anyhow::Result<()> {
    let bare = bare(lab)?;
    attach(lab, &bare)?;
    let ask = |packet: &str| run(lab, &bare.net, &format!("guard test {packet}"), &bare.settings);
    // Who has 10.77.2.1?
    let arp = format!("{}{}0806{}", "ff".repeat(6), "02".repeat(6), "00".repeat(28));
    let finished = ask(&format!("--packet {arp}"))?;
    ensure!(finished.status.success() && finished.stdout.contains("passed: not_ip"), "{}", finished.output());
    // IPv4 from 10.77.3.2 to 10.77.3.1, TCP to the guarded port, cut before its flags.
    let ip = [0x45, 0, 0, 32, 0, 1, 0, 0, 64, 6, 0, 0, 10, 77, 3, 2, 10, 77, 3, 1];
    let frame = [&[2; 12][..], &[8, 0], &ip, &[0xc0, 0, 0x20, 0xfb]].concat();
    std::fs::write(lab.path("frame"), &frame)?;
    let finished = ask(&format!("--packet @{}", lab.path("frame").display()))?;
    ensure!(finished.status.success() && finished.stdout.contains("dropped: short_tcp"), "{}", finished.output());

    let mut capture = [0xa1b2_c3d4u32, 0x0002_0004, 0, 0, 65_535, 1].map(u32::to_be_bytes).concat();
    for packet in [&frame, &frame[..14].to_vec(), &frame] {
        let length = u32::try_from(packet.len())?;
        capture.extend([1, 2, length, length].map(u32::to_be_bytes).concat());
        capture.extend(packet);
    }
    std::fs::write(lab.path("packets.pcap"), &capture)?;
    let file = lab.path("packets.pcap").display().to_string();
    let finished = ask(&format!("--pcap {file}"))?;
    let found: Vec<_> = finished.stdout.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    ensure!(found == ["short_tcp", "malformed_ip", "short_tcp"], "{}", finished.output());
    let finished = ask(&format!("--pcap {file} --json"))?;
    ensure!(finished.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", finished.output());
    for (wrong, part) in [
        ("--packet 00", "14 to"),
        ("--packet zz", "hex"),
        ("--from 10.77.3.2", "--to"),
        ("--from 10.77.3.2 --to [fd77::1]:443", "families"),
        (&*format!("--pcap {}", lab.path("frame").display()), "tcpdump"),
        ("--ack", "--from"),
    ] {
        let finished = ask(wrong)?;
        ensure!(finished.status.code() == Some(EXIT_CONFIGURATION), "{wrong}: {}", finished.output());
        ensure!(finished.stderr.contains(part), "{wrong}: no {part:?}: {}", finished.output());
    }
    Ok(())
}

fn without_a_guard_the_way_out_is_named(lab: &Lab) -> anyhow::Result<()> {
    let bare = bare(lab)?;
    let packet = format!("guard test --from 10.77.3.2 --to {}", at(Net::UNREGISTERED)?);
    let refused = |parts: &[&str]| -> anyhow::Result<()> {
        for command in ["guard status", &packet] {
            let finished = run(lab, &bare.net, command, &bare.settings)?;
            ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{command}: {}", finished.output());
            for part in parts {
                ensure!(finished.stderr.contains(part), "{command}: no {part:?}: {}", finished.output());
            }
        }
        Ok(())
    };
    refused(&["front", "no guard is pinned", "guard attach"])?;
    ensure!(!lab.path("bpf/guard").exists(), "looking left something behind");

    attach(lab, &bare)?;
    let finished = Appliance::run_as_nobody(lab, &bare.net.appliance, "guard status", &bare.settings, &[])?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}", finished.output());
    ensure!(finished.stderr.contains("CAP_BPF") && finished.stderr.contains("root"), "{}", finished.output());

    // Pins of another version of the layout, which attaching replaces.
    let versions = || std::fs::read_dir(lab.path("bpf/guard"))?.map(|entry| Ok(entry?.path())).collect();
    let versions: anyhow::Result<Vec<_>> = versions();
    let [version] = versions?.try_into().map_err(|other| anyhow::anyhow!("{other:?}"))?;
    let other = version.with_file_name("v1");
    std::fs::create_dir(&other)?;
    std::fs::rename(version.join("front"), other.join("front"))?;
    refused(&["another version", "v1", "guard attach"])?;
    attach(lab, &bare)?;
    ensure!(!other.exists() && run(lab, &bare.net, "guard status", &bare.settings)?.status.success());

    // The interface is made anew under its name: nothing guards it.
    let Place::In(namespace) = &bare.net.appliance else { anyhow::bail!("no namespace") };
    namespace.ip(&["link", "delete", Net::FRONT])?;
    namespace.ip(&["link", "add", Net::FRONT, "type", "veth", "peer", "name", "front-peer"])?;
    refused(&["nothing guards it", "removed or renamed", "guard attach"])?;
    attach(lab, &bare)?;
    ensure!(run(lab, &bare.net, "guard status", &bare.settings)?.status.success());
    Ok(())
}
