//! A guard that another build left attached is replaced between two packets: strangers get in at no time.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use mtls_appliance_tests::harness::names::UNREGISTERED_SOURCE;
use mtls_appliance_tests::harness::{Deadline, Lab, Net};
use rustix::process::Signal;

use crate::case::cases;
use crate::guard::{Guarded, answers, at, attached, guarded};

cases!("guard_upgrade":
    the_same_version_takes_over_without_a_gap,
    a_guard_of_another_layout_is_replaced_without_a_gap,
    maps_that_do_not_fit_are_replaced_without_a_gap,
);

/// How long a stranger waits for an answer. Without a guard the kernel refuses at once where nobody listens.
const PROBE: Duration = Duration::from_millis(20);
const STRANGERS: usize = 4;

/// Knocks until told to stop; how often, when nobody ever answered.
fn knock(net: &Net, stop: &AtomicBool) -> anyhow::Result<u64> {
    net.caller.enter(|| {
        let mut knocks = 0;
        while !stop.load(Ordering::Relaxed) {
            match TcpStream::connect_timeout(&at(Net::UNREGISTERED)?, PROBE) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => knocks += 1,
                answer => return Err(anyhow!("a stranger was answered, at knock {knocks}: {answer:?}")),
            }
        }
        Ok(knocks)
    })
}

/// The folder of the pins of this build's layout.
fn pins(lab: &Lab) -> anyhow::Result<PathBuf> {
    let base = lab.path("bpf").join("guard");
    let mut versions = fs::read_dir(&base)?.collect::<io::Result<Vec<_>>>()?;
    let version = versions.pop().context("nothing is pinned")?;
    ensure!(versions.is_empty(), "several versions are pinned");
    Ok(version.path())
}

/// What the kernel counted of strangers, as far as the counters' maps were kept.
fn dropped(all: &Guarded) -> anyhow::Result<u64> {
    all.appliance.guard_packets(UNREGISTERED_SOURCE)
}

/// Ends the appliance without a word, does something to the pins it left, starts it again, and has strangers knock throughout.
fn replaced(lab: &Lab, all: &mut Guarded, change: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    answers(lab, &all.net, Net::REGISTERED)?;
    let before = all.appliance.status()?["guard"]["interfaces"][0]["status"]["program_id"].clone();
    let stop = AtomicBool::new(false);
    let (appliance, net) = (&mut all.appliance, &all.net);
    let knocks = thread::scope(|scope| {
        let strangers: Vec<_> = (0..STRANGERS).map(|_| scope.spawn(|| knock(net, &stop))).collect();
        let done = (|| {
            thread::sleep(Duration::from_millis(200));
            appliance.process().signal(Signal::KILL)?;
            appliance.process().wait(Deadline::seconds(10))?;
            change(&pins(lab)?).context("changing the pins")?;
            appliance.restart(lab)?;
            answers(lab, net, Net::REGISTERED)?;
            thread::sleep(Duration::from_millis(200));
            anyhow::Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let mut knocks = 0;
        for stranger in strangers {
            knocks += stranger.join().map_err(|_| anyhow!("a stranger panicked"))??;
        }
        done.map(|()| knocks)
    })?;
    ensure!(knocks >= 20, "only {knocks} knocks");
    let status = &all.appliance.status()?["guard"]["interfaces"][0]["status"];
    ensure!(status["taken_over"] == true && status["program_id"] != before, "{status}");
    ensure!(attached(&all.net)?);
    // Nothing of the earlier one is left beside.
    pins(lab).map(drop)
}

fn the_same_version_takes_over_without_a_gap(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    replaced(lab, &mut all, |_| Ok(()))?;
    let kept = dropped(&all)?;
    ensure!(kept >= 20, "the counters did not survive: {kept}");
    all.appliance.must_be_alive()
}

fn a_guard_of_another_layout_is_replaced_without_a_gap(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    let own = pins(lab)?;
    replaced(lab, &mut all, |folder| Ok(fs::rename(folder, folder.with_file_name("v0"))?))?;
    ensure!(pins(lab)? == own, "the pins are not in their place");
    all.appliance.must_be_alive()
}

fn maps_that_do_not_fit_are_replaced_without_a_gap(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    replaced(lab, &mut all, |folder| {
        // Two maps in each other's place are two maps of a wrong layout.
        let folder = folder.join(Net::FRONT);
        let [policy, reasons, aside] = ["GUARD_POLICY", "GUARD_REASONS", "aside"].map(|name| folder.join(name));
        fs::rename(&policy, &aside)?;
        fs::rename(&reasons, &policy)?;
        Ok(fs::rename(&aside, &reasons)?)
    })?;
    let log = all.appliance.process().stdout();
    ensure!(log.iter().any(|line| line.contains("do not fit this version")), "not a word about it: {log:?}");
    all.appliance.must_be_alive()
}
