//! The guard on two interfaces at once: each has its own program and counters, and they come, change and go together.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, ensure};
use aya::maps::{HashMap, Map, MapData};
use mtls_appliance_tests::harness::names::{EXIT_CONFIGURATION, EXIT_ENVIRONMENT, UNREGISTERED_SOURCE};
use mtls_appliance_tests::harness::{
    Appliance, BpfFs, Deadline, Feature, Finished, Lab, Net, Origin, Process, Settings, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::case::cases;
use crate::guard::{answers, at, connects, settings};

cases!("guard_interfaces":
    both_are_guarded_and_counted_and_a_reload_reaches_both,
    a_reload_that_fails_at_the_second_leaves_both_as_they_were,
    both_outlive_the_daemon_and_are_taken_over,
    when_one_cannot_be_attached_nothing_new_stays,
    one_that_is_not_configured_any_more_is_named_and_can_be_detached,
    commands_are_about_all_interfaces_or_the_one_that_is_named,
);

/// The second interface, and the appliance's addresses there for callers (`10.77.4.0/24` is registered) and strangers.
const SIDE: &str = "side";
const SIDE_REGISTERED: &str = "10.77.4.1";
const SIDE_UNREGISTERED: &str = "10.77.8.1";
const BOTH: [&str; 2] = [Net::FRONT, SIDE];

/// Two links, and settings that guard both.
struct Two {
    net: Net,
    settings: Settings,
    _bpf: BpfFs,
}

impl Two {
    fn lay_out(lab: &Lab) -> anyhow::Result<Self> {
        Feature::Netns.need()?;
        Feature::Xdp.need()?;
        let folder = lab.path("bpf");
        let bpf = BpfFs::mount(&folder)?;
        let net = Net::create()?;
        net.add_link(SIDE, &["10.77.4.2/24", "10.77.8.2/24"], &["10.77.4.1/24", "10.77.8.1/24"])?;
        let all = [Net::REGISTERED, Net::UNREGISTERED, SIDE_REGISTERED, SIDE_UNREGISTERED];
        let all = all.iter().map(|ip| Ok(at(ip)?.to_string())).collect::<anyhow::Result<Vec<_>>>()?;
        let usual = lab.settings(at(Net::REGISTERED)?, SocketAddr::new(Net::ORIGIN.parse()?, 9443))?;
        let settings = settings(&folder.join("guard").display().to_string(), "auto")(usual);
        let settings = settings.set("listener.addresses", all).set("guard.interfaces", BOTH.to_vec());
        Ok(Self { net, settings, _bpf: bpf })
    }

    fn start(&self, lab: &Lab) -> anyhow::Result<(Origin, Appliance)> {
        let settings = self.settings.clone();
        lab.appliance_in(&self.net, |_| settings)
    }

    fn run(&self, lab: &Lab, command: &str, settings: &Settings) -> anyhow::Result<Finished> {
        Appliance::run(lab, &self.net.appliance, command, settings)
    }

    fn guarded(&self, interface: &str) -> anyhow::Result<bool> {
        Ok(self.net.link_of(interface)?.contains("xdp"))
    }
}

/// What `status` or `guard status` says about each interface.
fn each(guard: &Value) -> anyhow::Result<[Value; 2]> {
    let all = guard["interfaces"].as_array().with_context(|| guard.to_string())?.clone();
    let all: [Value; 2] = all.try_into().map_err(|all| anyhow::anyhow!("not two: {all:?}"))?;
    let names = all.each_ref().map(|one| one["status"]["interface"].as_str().unwrap_or_default());
    ensure!(names == BOTH, "{names:?}");
    Ok(all)
}

/// How many strangers were dropped.
fn dropped(counters: &Value) -> anyhow::Result<u64> {
    let reasons = counters["reasons"].as_array().with_context(|| counters.to_string())?;
    let found = reasons.iter().find(|count| count["reason"] == UNREGISTERED_SOURCE);
    found.and_then(|count| count["dropped"].as_u64()).with_context(|| counters.to_string())
}

fn both_are_guarded_and_counted_and_a_reload_reaches_both(lab: &Lab) -> anyhow::Result<()> {
    let two = Two::lay_out(lab)?;
    let (_origin, mut appliance) = two.start(lab)?;
    for caller in [Net::REGISTERED, SIDE_REGISTERED] {
        answers(lab, &two.net, caller).with_context(|| caller.to_owned())?;
    }
    ensure!(!connects(&two.net, Net::UNREGISTERED)?, "a stranger connected at the first interface");
    let at_each = || {
        let guard = appliance.status()?["guard"].clone();
        let each = each(&guard)?;
        let [front, side] = [dropped(&each[0]["counters"])?, dropped(&each[1]["counters"])?];
        ensure!(dropped(&guard["counters"])? == front + side, "not the sum of {front} and {side}: {guard}");
        Ok([front, side])
    };
    let [front, side] = at_each()?;
    ensure!(front > 0 && side == 0, "{front} and {side}");
    ensure!(!connects(&two.net, SIDE_UNREGISTERED)?, "a stranger connected at the second interface");
    let [front_after, side_after] = at_each()?;
    ensure!(side_after > 0 && front_after == front, "{front_after} and {side_after}");
    let [one, other] = each(&appliance.status()?["guard"])?;
    ensure!(one["status"]["program_id"] != other["status"]["program_id"], "{one}");
    for part in ["front: dropped 10.77.3.2", "side: dropped 10.77.8.2"] {
        appliance.wait_event("guard", |line| line["detail"].as_str().is_some_and(|text| text.starts_with(part)))?;
    }

    let registry = dev_pki::REGISTRY.replace("10.77.2.0/24", "10.77.3.0/24").replace("10.77.4.0/24", "10.77.8.0/24");
    fs::write(lab.path("registry.toml"), registry)?;
    ensure!(appliance.reload()?["outcome"] == "ok");
    for (ip, expected) in
        [(Net::REGISTERED, false), (SIDE_REGISTERED, false), (Net::UNREGISTERED, true), (SIDE_UNREGISTERED, true)]
    {
        ensure!(connects(&two.net, ip)? == expected, "{ip} after the reload");
    }
    let [one, other] = each(&appliance.status()?["guard"])?;
    ensure!(one["status"]["generation"] == other["status"]["generation"], "{one} {other}");
    appliance.must_be_alive()
}

fn a_reload_that_fails_at_the_second_leaves_both_as_they_were(lab: &Lab) -> anyhow::Result<()> {
    let two = Two::lay_out(lab)?;
    let (_origin, mut appliance) = two.start(lab)?;
    // At the second interface there is room for one more guarded address, of four.
    let [_, side] = each(&appliance.status()?["guard"])?;
    let pins = side["status"]["pin_folder"].as_str().with_context(|| side.to_string())?;
    let map = Map::HashMap(MapData::from_pin(Path::new(pins).join("GUARD_ADDRS"))?);
    let mut map = HashMap::<_, [u32; 5], u32>::try_from(map)?;
    // Of no bank that there is.
    let strange = (0..).map(|number| [7, number, 0, 0, 0]);
    let taken: Vec<_> = strange.take_while(|key| map.insert(key, 1, 0).is_ok()).collect();
    let [free, ..] = *taken else { anyhow::bail!("no room for one") };
    map.remove(&free)?;

    // One organisation comes in the place of another, with another network.
    let registry = fs::read_to_string(lab.path("registry.toml"))?;
    fs::write(
        lab.path("registry.toml"),
        registry.replace("10.77.2.0/24", "10.77.3.0/24").replace("A1AAAA0000", "D1DDDD0000"),
    )?;
    let file = lab.path("appliance.toml");
    let addresses = vec![Net::REGISTERED, Net::UNREGISTERED, SIDE_REGISTERED, SIDE_UNREGISTERED];
    Settings::parse(&fs::read_to_string(&file)?)?.set("guard.addresses", addresses).write(&file)?;
    let told = |guard: &Value| -> anyhow::Result<Vec<Value>> {
        let parts = |one: Value| {
            let registered = |count: &Value| json!([count["code"], count["registered"]]);
            let organisations =
                one["counters"]["organisations"].as_array().map(|all| all.iter().map(registered).collect());
            json!([one["status"]["generation"], one["status"]["addresses"], organisations.unwrap_or(Value::Null)])
        };
        Ok(each(guard)?.map(parts).into())
    };
    let before = told(&appliance.status()?["guard"])?;
    ensure!(before[0].to_string().contains("true"), "{before:?}");
    for attempt in 0..2 {
        let line = appliance.reload()?;
        ensure!(line["outcome"] != "ok" && line.to_string().contains("guard of side"), "{line}");
        let after = told(&appliance.status()?["guard"])?;
        ensure!(after == before, "{before:?} before the attempt {attempt}, {after:?} after it");
        let pins: Value = serde_json::from_str(&two.run(lab, "guard status --json", &two.settings)?.stdout)?;
        ensure!(told(&pins)? == before, "the pins say {pins}");
    }
    for (ip, expected) in
        [(Net::REGISTERED, true), (SIDE_REGISTERED, true), (Net::UNREGISTERED, false), (SIDE_UNREGISTERED, false)]
    {
        ensure!(connects(&two.net, ip)? == expected, "{ip} after a reload that failed");
    }
    // With room for all it is done.
    for key in &taken[1..] {
        map.remove(key)?;
    }
    ensure!(appliance.reload()?["outcome"] == "ok");
    let after = told(&appliance.status()?["guard"])?;
    ensure!(after.iter().zip(&before).all(|(after, before)| after[0].as_u64() > before[0].as_u64()), "{after:?}");
    ensure!(connects(&two.net, Net::UNREGISTERED)? && !connects(&two.net, Net::REGISTERED)?);
    appliance.must_be_alive()
}

fn both_outlive_the_daemon_and_are_taken_over(lab: &Lab) -> anyhow::Result<()> {
    let two = Two::lay_out(lab)?;
    let (_origin, mut appliance) = two.start(lab)?;
    let strangers = || {
        for ip in [Net::UNREGISTERED, SIDE_UNREGISTERED] {
            ensure!(!connects(&two.net, ip)?, "a stranger connected to {ip}");
        }
        Ok(())
    };
    strangers()?;
    let before = appliance.guard_packets(UNREGISTERED_SOURCE)?;
    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    for interface in BOTH {
        ensure!(two.guarded(interface)?, "{interface} went with the daemon");
    }
    appliance.restart(lab)?;
    for one in each(&appliance.status()?["guard"])? {
        ensure!(one["status"]["taken_over"] == true && one["held_by"] == appliance.pid(), "{one}");
    }
    strangers()?;
    ensure!(appliance.guard_packets(UNREGISTERED_SOURCE)? >= before + 2, "the counters started anew");
    answers(lab, &two.net, SIDE_REGISTERED)?;
    // Handed on to another process, both go along.
    let mut successor = appliance.successor(lab)?;
    appliance.process().wait(Deadline::seconds(40))?;
    for one in each(&successor.status()?["guard"])? {
        ensure!(one["held_by"] == successor.pid() && one["status"]["attached"] == true, "{one}");
    }
    strangers()?;
    successor.must_be_alive()
}

/// Attaching with these settings fails for that interface, and leaves the first one as it was.
fn refused(lab: &Lab, two: &Two, settings: &Settings, code: i32, named: &str) -> anyhow::Result<()> {
    let before = two.guarded(Net::FRONT)?;
    for command in ["guard attach", "run"] {
        let finished = two.run(lab, command, settings)?;
        ensure!(finished.status.code() == Some(code), "{command}: {}", finished.output());
        ensure!(finished.stderr.contains(named), "{command}: no {named}: {}", finished.output());
        ensure!(two.guarded(Net::FRONT)? == before, "{command}: {}", two.net.front_link()?);
    }
    Ok(())
}

fn when_one_cannot_be_attached_nothing_new_stays(lab: &Lab) -> anyhow::Result<()> {
    let two = Two::lay_out(lab)?;
    let missing = two.settings.clone().set("guard.interfaces", vec![Net::FRONT, "mtlsnone0"]);
    refused(lab, &two, &missing, EXIT_CONFIGURATION, "mtlsnone0")?;
    // Held by a guard whose pins are elsewhere.
    let elsewhere = lab.path("bpf/other").display().to_string();
    let elsewhere = two.settings.clone().set("guard.interfaces", vec![SIDE]).set("guard.pin_dir", elsewhere);
    let finished = two.run(lab, "guard attach", &elsewhere)?;
    ensure!(finished.status.success(), "{}", finished.output());
    refused(lab, &two, &two.settings, EXIT_ENVIRONMENT, "\"side\": another XDP program")?;
    // Only the driver knows that it cannot: the first one is attached by then, and taken away again.
    let finished = two.run(lab, "guard detach", &elsewhere)?;
    ensure!(finished.status.success(), "{}", finished.output());
    let unable = two.settings.clone().set("guard.interfaces", vec![Net::FRONT, "lo"]).set("guard.attach", "native");
    refused(lab, &two, &unable, EXIT_ENVIRONMENT, "\"lo\"")?;
    ensure!(!lab.path("bpf/guard").exists(), "pins were left behind");
    // What an earlier run left stays.
    let one = two.settings.clone().set("guard.interfaces", vec![Net::FRONT]);
    ensure!(two.run(lab, "guard attach", &one)?.status.success());
    let program = two.net.front_link()?;
    refused(lab, &two, &unable, EXIT_ENVIRONMENT, "\"lo\"")?;
    ensure!(two.guarded(Net::FRONT)? && two.net.front_link()? == program, "{}", two.net.front_link()?);
    Ok(())
}

fn one_that_is_not_configured_any_more_is_named_and_can_be_detached(lab: &Lab) -> anyhow::Result<()> {
    let two = Two::lay_out(lab)?;
    ensure!(two.run(lab, "guard attach", &two.settings)?.status.success());
    let one = two.settings.clone().set("guard.interfaces", vec![Net::FRONT]);
    let remedy = "guard detach --interface side";
    let (_origin, mut appliance) = lab.appliance_in(&two.net, |_| one.clone())?;
    appliance.wait_event("guard", |line| line["detail"].as_str().is_some_and(|text| text.contains(remedy)))?;
    ensure!(two.guarded(SIDE)? && !connects(&two.net, SIDE_UNREGISTERED)?, "it opened by itself");
    for command in ["guard attach", "guard status"] {
        let finished = two.run(lab, command, &one)?;
        ensure!(finished.status.success(), "{command}: {}", finished.output());
        // Beside an appliance that has said it, attaching has nothing to do.
        ensure!(command == "guard attach" || finished.stderr.contains(remedy), "{command}: {}", finished.output());
    }
    let finished = two.run(lab, remedy, &one)?;
    ensure!(finished.status.success() && finished.stdout.contains("/side/link"), "{}", finished.output());
    ensure!(!two.guarded(SIDE)? && two.guarded(Net::FRONT)?, "{}", two.net.link_of(SIDE)?);
    ensure!(connects(&two.net, SIDE_UNREGISTERED)?, "it is guarded still");
    ensure!(!two.run(lab, "guard status", &one)?.stderr.contains(remedy), "it is named still");
    appliance.must_be_alive()
}

fn commands_are_about_all_interfaces_or_the_one_that_is_named(lab: &Lab) -> anyhow::Result<()> {
    let two = Two::lay_out(lab)?;
    let run = |command: &str| two.run(lab, command, &two.settings);
    let attached = run("guard attach --interface side")?;
    ensure!(attached.status.success() && two.guarded(SIDE)? && !two.guarded(Net::FRONT)?, "{}", attached.output());
    let unguarded = run("guard status")?;
    ensure!(unguarded.status.code() == Some(EXIT_ENVIRONMENT), "{}", unguarded.output());
    ensure!(unguarded.stderr.contains("the guard of front"), "{}", unguarded.output());
    ensure!(
        unguarded.stdout.contains("side: guarded") && !unguarded.stdout.contains("front"),
        "{}",
        unguarded.output()
    );
    let unguarded = run("guard status --json")?;
    let told: Value = serde_json::from_str(&unguarded.stdout)?;
    ensure!(unguarded.status.code() == Some(EXIT_ENVIRONMENT), "{}", unguarded.output());
    ensure!(told["interfaces"][0]["status"]["interface"] == SIDE && told["interfaces"][1].is_null(), "{told}");
    ensure!(told["unguarded"][0]["interface"] == Net::FRONT && told["unguarded"][1].is_null(), "{told}");
    let unknown = run("guard status --interface back")?;
    ensure!(unknown.status.code() == Some(EXIT_CONFIGURATION), "{}", unknown.output());
    ensure!(unknown.stderr.contains("front, side"), "{}", unknown.output());
    ensure!(run("guard attach --interface ../x")?.status.code() == Some(EXIT_CONFIGURATION));
    ensure!(run("guard attach")?.stdout.contains("side: the attached guard was brought up to date"));

    let (_origin, appliance) = two.start(lab)?;
    let json = |command: &str| -> anyhow::Result<Vec<Value>> {
        let finished = run(&format!("{command} --json"))?;
        ensure!(finished.status.success(), "{}", finished.output());
        finished.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let told = json("guard status")?;
    let [_, side] = each(&told[0])?;
    ensure!(side["held_by"] == appliance.pid(), "{side}");
    let chosen = json("guard status --interface side")?;
    ensure!(chosen[0]["interfaces"].as_array().map(Vec::len) == Some(1), "{chosen:?}");
    let verdicts = json("guard test --from 10.77.8.2 --to 10.77.8.1:8443")?;
    let names: Vec<_> = verdicts.iter().map(|verdict| &verdict["interface"]).collect();
    ensure!(names == BOTH && verdicts.iter().all(|verdict| verdict["action"] == "dropped"), "{verdicts:?}");

    let watcher = |command: &str| Appliance::begin(&two.net.appliance, command, &lab.path("appliance.toml"));
    let (all, one) = (watcher("guard watch --json")?, watcher("guard watch --json --interface side")?);
    let seen = |process: &Process, interface: &str| {
        wait_until(interface, Deadline::seconds(20), || {
            for ip in [Net::UNREGISTERED, SIDE_UNREGISTERED] {
                let _ = connects(&two.net, ip)?;
            }
            let name = format!("\"interface\":\"{interface}\"");
            Ok(process.stdout().iter().any(|line| line.contains(&name)).then_some(()))
        })
    };
    for interface in BOTH {
        seen(&all, interface)?;
    }
    seen(&one, SIDE)?;
    ensure!(!one.stdout().concat().contains("\"front\""), "{:?}", one.stdout());
    let detached = run("guard detach")?;
    ensure!(detached.status.success(), "{}", detached.output());
    ensure!(!two.guarded(Net::FRONT)? && !two.guarded(SIDE)?, "{}", two.net.link_of(SIDE)?);
    Ok(())
}
