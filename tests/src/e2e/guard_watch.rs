//! `mtls-appliance guard watch` and `guard top`: what the appliance tells about packets while they come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use mtls_appliance_tests::harness::names::EXIT_ENVIRONMENT;
use mtls_appliance_tests::harness::{Appliance, Deadline, Flood, Lab, Net, Process, Settings, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::case::cases;
use crate::guard::{Guarded, guarded, reload_with};
use crate::guard_commands::knock;

cases!("guard_watch":
    watchers_see_the_packets_that_are_dropped_and_the_log_goes_on,
    a_watcher_that_does_not_keep_up_is_told_how_many_it_lost,
    a_watcher_follows_the_appliance_that_takes_over,
    top_shows_rates_and_sources,
);

/// Starts a command that goes on, with the configuration of the appliance that runs.
fn start(lab: &Lab, net: &Net, command: &str) -> anyhow::Result<Process> {
    Appliance::begin(&net.appliance, command, &lab.path("appliance.toml"))
}

/// Waits for an event of that source and destination port, knocking until one was sampled.
fn seen(process: &Process, net: &Net, ip: &str, what: &str) -> anyhow::Result<String> {
    wait_until(what, Deadline::seconds(20), || {
        knock(net, ip, Duration::from_millis(100))?;
        Ok(process.stdout().into_iter().find(|line| line.contains(what)))
    })
}

fn watchers_see_the_packets_that_are_dropped_and_the_log_goes_on(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    let plain = start(lab, &net, "guard watch")?;
    let json = start(lab, &net, "guard watch --json")?;
    let none = start(lab, &net, "guard watch --reason short_tcp --json")?;
    let line = seen(&plain, &net, Net::UNREGISTERED, "10.77.3.2")?;
    for part in ["dropped", "unregistered_source", "10.77.3.1 port 8443"] {
        ensure!(line.contains(part), "no {part:?} in {line:?}");
    }
    let event: Value = serde_json::from_str(&seen(&json, &net, Net::UNREGISTERED_V6, "fd77:3::2")?)?;
    ensure!(event["action"] == "dropped" && event["reason"] == "unregistered_source", "{event}");
    ensure!(event["source_port"].as_u64() > Some(0) && event["destination_port"] == Net::PORT, "{event}");
    ensure!(event["organisation"].is_null() && event["interface_index"].as_u64() > Some(0), "{event}");
    ensure!(event["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{event}");
    ensure!(none.stdout().is_empty(), "{:?}", none.stdout());
    ensure!(plain.stderr().concat().contains("a sample: at most 10"), "{:?}", plain.stderr());
    // What is watched is logged all the same.
    ensure!(!appliance.events("guard").is_empty(), "the daemon's own lines are gone");

    // With a budget it is an organisation's packet.
    let file = lab.path("appliance.toml");
    let text = Settings::parse(&std::fs::read_to_string(&file)?)?;
    text.set("guard.syns_per_source", 1).set("guard.syn_burst_per_source", 1).write(&file)?;
    ensure!(appliance.reload()?["outcome"] == "ok");
    let event: Value = serde_json::from_str(&seen(&json, &net, Net::REGISTERED, "source_over_budget")?)?;
    ensure!(event["organisation"].is_string() && event["source"] == "10.77.2.2", "{event}");

    // There are places for four; the fifth is told so, and the appliance answers others.
    let fourth = start(lab, &net, "guard watch")?;
    wait_until("four that watch", Deadline::seconds(10), || Ok((!fourth.stderr().is_empty()).then_some(())))?;
    let fifth = Appliance::run_with_file(&net.appliance, "guard watch", &file)?;
    ensure!(fifth.status.code() == Some(EXIT_ENVIRONMENT), "{}", fifth.output());
    ensure!(fifth.stderr.contains("too_many"), "{}", fifth.output());
    drop(fourth);
    ensure!(appliance.wait_counter("watch_refused.too_many", 1)? == 1);

    // They end with the appliance, and say so.
    let mut plain = plain;
    appliance.process().signal(Signal::KILL)?;
    let finished = plain.wait(Deadline::seconds(15))?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}", finished.output());
    ensure!(finished.stderr.contains("the appliance ended"), "{}", finished.output());
    let finished = Appliance::run_with_file(&net.appliance, "guard watch", &file)?;
    ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{}", finished.output());
    ensure!(
        finished.stderr.contains("no appliance runs") && finished.stderr.contains("guard top"),
        "{}",
        finished.output()
    );
    Ok(())
}

/// How many events a watcher was told about, and how many it was told to have lost.
fn told(watcher: &Process) -> anyhow::Result<[u64; 2]> {
    let mut told = [0; 2];
    for line in watcher.stdout() {
        let event: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        match event["lost"].as_u64() {
            Some(lost) => told[1] += lost,
            None => told[0] += 1,
        }
    }
    Ok(told)
}

fn a_watcher_that_does_not_keep_up_is_told_how_many_it_lost(lab: &Lab) -> anyhow::Result<()> {
    // More than the appliance and the socket keep for one.
    const MANY: u64 = 2500;
    let mut all = guarded(lab, "auto")?;
    reload_with(lab, &mut all, |settings| settings.set("guard.log_per_second", 10_000))?;
    let [quick, slow] = [0, 1].map(|_| start(lab, &all.net, "guard watch --json"));
    let (quick, slow) = (quick?, slow?);
    let watching = |watcher: &Process| !watcher.stderr().is_empty();
    wait_until("both to watch", Deadline::seconds(20), || Ok((watching(&quick) && watching(&slow)).then_some(())))?;
    slow.signal(Signal::STOP)?;
    let stop = AtomicBool::new(false);
    let flood =
        Flood { place: &all.net.caller, from: [10, 77, 3], to: Net::UNREGISTERED.parse()?, sources: 200, gentle: true };
    thread::scope(|scope| {
        let flood = scope.spawn(|| flood.run(&stop));
        // Who reads nothing for 30 s is let go.
        let enough = wait_until("enough events", Deadline::seconds(25), || {
            // The appliance is there for others, and gives signs of life.
            let guard = all.appliance.status()?["guard"]["interfaces"][0]["status"].take();
            ensure!(guard["silent_s"].as_u64() < Some(5), "{guard}");
            Ok((told(&quick)?.iter().sum::<u64>() >= MANY).then_some(()))
        });
        stop.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow!("the flood panicked"))??;
        enough
    })?;
    let before = told(&slow)?;
    slow.signal(Signal::CONT)?;
    // Not one is missing: what it was not told about it was told to have lost.
    let ([_, of_quick], [seen, lost]) = wait_until("both to know of the same events", Deadline::seconds(20), || {
        let (quick, slow) = (told(&quick)?, told(&slow)?);
        Ok((quick.iter().sum::<u64>() == slow.iter().sum::<u64>()).then_some((quick, slow)))
    })
    .with_context(|| format!("the quick one {:?}, the slow one {:?}", told(&quick), told(&slow)))?;
    println!(
        "guard: a watcher that stood still was told about {seen} events and lost {lost}; the other lost {of_quick}"
    );
    ensure!(before == [0, 0] && lost > 0 && seen > 0, "{before:?} before, {seen} seen and {lost} lost after");
    // And it goes on.
    seen_again(&slow, &all.net, seen)?;
    all.appliance.must_be_alive()
}

/// Waits for one more event.
fn seen_again(watcher: &Process, net: &Net, before: u64) -> anyhow::Result<()> {
    wait_until("another event", Deadline::seconds(20), || {
        knock(net, Net::UNREGISTERED, Duration::from_millis(100))?;
        Ok((told(watcher)?[0] > before).then_some(()))
    })
}

fn a_watcher_follows_the_appliance_that_takes_over(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    let watcher = start(lab, &net, "guard watch")?;
    seen(&watcher, &net, Net::UNREGISTERED, "10.77.3.2")?;
    let mut successor = appliance.successor(lab)?;
    appliance.process().wait(Deadline::seconds(40))?;
    seen(&watcher, &net, Net::UNREGISTERED_V6, "fd77:3::2")?;
    ensure!(watcher.stderr().concat().contains("replaced by another"), "{:?}", watcher.stderr());
    successor.must_be_alive()
}

fn top_shows_rates_and_sources(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    // As many as came within one interval: knocks that are dropped, and packets of a registered caller.
    let measured = || {
        let mut top = start(lab, &net, "guard top --once --json --interval 2s")?;
        while top.is_running()? {
            knock(&net, Net::UNREGISTERED, Duration::from_millis(50))?;
            knock(&net, Net::REGISTERED, Duration::from_millis(50))?;
        }
        let finished = top.wait(Deadline::seconds(10))?;
        ensure!(finished.status.success() && finished.stdout.lines().count() == 1, "{}", finished.output());
        Ok(serde_json::from_str::<Value>(&finished.stdout)?)
    };
    let rate = |rates: &Value, list: &str, what: &str, name: &str, number: &str| {
        let found = rates[list].as_array().and_then(|all| all.iter().find(|one| one[what] == name).cloned());
        found.and_then(|one| one[number].as_f64()).unwrap_or_default()
    };
    let rates = measured()?;
    ensure!((1.9..10.0).contains(&rates["seconds"].as_f64().unwrap_or_default()), "{rates}");
    let dropped = rate(&rates, "reasons", "reason", "unregistered_source", "dropped");
    ensure!((0.5..30.0).contains(&dropped), "{rates}");
    ensure!(rate(&rates, "reasons", "reason", "registered", "passed") > 0.0, "{rates}");
    let organisations = rates["organisations"].as_array().context("no organisations")?;
    ensure!(organisations.len() == 1 && organisations[0]["packets"].as_f64() > Some(0.0), "{rates}");
    let sources = rates["sampled_sources"].as_array().context("no sources")?;
    ensure!(sources.len() == 1 && sources[0]["source"] == "10.77.3.2/32", "{rates}");

    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    let rates = measured()?;
    ensure!(rates["sampled_sources"].is_null(), "{rates}");
    ensure!(rate(&rates, "reasons", "reason", "unregistered_source", "dropped") > 0.0, "{rates}");
    let finished =
        Appliance::run_with_file(&net.appliance, "guard top --once --interval 100ms", &lab.path("appliance.toml"))?;
    ensure!(finished.status.success() && finished.stdout.contains("no appliance runs"), "{}", finished.output());
    Ok(())
}
