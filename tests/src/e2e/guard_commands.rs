//! `mtls-appliance guard`: what operators do with the guard at the interface, with and without a daemon.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{EXIT_CONFIGURATION, EXIT_ENVIRONMENT};
use mtls_appliance_tests::harness::{
    Appliance, BpfFs, Deadline, Feature, Finished, Lab, Net, Origin, OriginKind, Settings, wait_until,
};
use rustix::process::Signal;

use crate::case::cases;
use crate::guard::{Guarded, answers, at, attached, connects, guarded, settings};

cases!("guard_commands":
    attached_before_the_appliance_starts_it_is_taken_over_without_a_gap,
    attaching_again_brings_the_guard_up_to_date,
    attaching_beside_an_appliance_changes_nothing_or_is_refused,
    attached_alone_it_opens_when_it_should,
);

/// A guard that can be attached, and nothing that runs yet.
struct Bare {
    net: Net,
    settings: Settings,
    _bpf: BpfFs,
}

fn bare(lab: &Lab) -> anyhow::Result<Bare> {
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

fn run(lab: &Lab, net: &Net, command: &str, settings: &Settings) -> anyhow::Result<Finished> {
    Appliance::run(lab, &net.appliance, command, settings)
}

fn attach(lab: &Lab, bare: &Bare) -> anyhow::Result<Finished> {
    let finished = run(lab, &bare.net, "guard attach", &bare.settings)?;
    ensure!(finished.status.success(), "{}", finished.output());
    Ok(finished)
}

/// What TCP says within that time: nothing when the guard drops, a refusal when a packet passes and nobody listens.
fn knock(net: &Net, ip: &str, patience: Duration) -> anyhow::Result<Option<ErrorKind>> {
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
    ensure!(status["guard"]["status"]["taken_over"] == true, "{}", status["guard"]["status"]);
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
    let program = |appliance: &Appliance| Ok::<_, anyhow::Error>(appliance.status()?["guard"]["status"].clone());
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
