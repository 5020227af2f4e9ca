//! The guard where interfaces lie upon each other: below a VLAN, on one, and on a bond.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::UNREGISTERED_SOURCE;
use mtls_appliance_tests::harness::{Appliance, Deadline, Feature, Lab, Link, Net, wait_until};
use rustix::process::Signal;

use crate::case::cases;
use crate::guard::{Guarded, answers, at, attached, connects, guarded_at, packets};

cases!("guard_stacked":
    below_a_vlan_strangers_are_dropped_and_callers_served,
    below_a_vlan_in_a_vlan_too,
    on_a_vlan_device_it_guards_that_vlan_alone,
    a_bond_is_guarded_at_all_its_members,
);

/// How the guard is attached, as `status` tells.
fn attached_as(appliance: &Appliance) -> anyhow::Result<String> {
    let status = appliance.status()?["guard"]["interfaces"][0]["status"].clone();
    Ok(status["attached_as"].as_str().with_context(|| status.to_string())?.to_owned())
}

/// Strangers are dropped and counted, callers served, and both find the appliance by ARP and neighbour discovery first.
fn guards(lab: &Lab, all: &Guarded) -> anyhow::Result<()> {
    let Guarded { net, appliance, .. } = all;
    net.forget_neighbours()?;
    let before = packets(appliance, UNREGISTERED_SOURCE, "dropped")?;
    for stranger in [Net::UNREGISTERED, Net::UNREGISTERED_V6] {
        ensure!(!connects(net, stranger)?, "a stranger connected to {stranger}");
    }
    let after = packets(appliance, UNREGISTERED_SOURCE, "dropped")?;
    ensure!(after >= before + 2, "{before} dropped before two strangers came, {after} after");
    for caller in [Net::REGISTERED, Net::REGISTERED_V6] {
        answers(lab, net, caller).with_context(|| caller.to_owned())?;
    }
    // A stranger that the guard lets pass is refused where nobody listens.
    let closed = SocketAddr::new(Net::UNREGISTERED.parse()?, 22);
    ensure!(knock(net, closed)? == Some(ErrorKind::ConnectionRefused), "another port is closed to strangers");
    Ok(())
}

/// What TCP says within half a second: nothing where the guard drops.
fn knock(net: &Net, address: SocketAddr) -> anyhow::Result<Option<ErrorKind>> {
    let patience = Duration::from_millis(500);
    net.caller.enter(|| Ok(TcpStream::connect_timeout(&address, patience).err().map(|error| error.kind())))
}

/// A guard on the interface below so many VLANs.
fn below_vlans(lab: &Lab, count: usize) -> anyhow::Result<()> {
    Feature::Vlan.need()?;
    let mut all = guarded_at(lab, Link::Vlans(count), "native", |settings| settings)?;
    ensure!(attached(&all.net)?, "{}", all.net.front_link()?);
    guards(lab, &all)?;
    all.appliance.must_be_alive()
}

/// The driver may hand the one tag over beside the frame, where the program does not see it.
fn below_a_vlan_strangers_are_dropped_and_callers_served(lab: &Lab) -> anyhow::Result<()> {
    below_vlans(lab, 1)
}

/// Of two tags at least one is in the frame.
fn below_a_vlan_in_a_vlan_too(lab: &Lab) -> anyhow::Result<()> {
    below_vlans(lab, 2)
}

fn on_a_vlan_device_it_guards_that_vlan_alone(lab: &Lab) -> anyhow::Result<()> {
    Feature::Vlan.need()?;
    let [vlan, _] = Net::VLANS;
    let mut all = guarded_at(lab, Link::Vlans(1), "auto", |settings| settings.set("guard.interfaces", vec![vlan]))?;
    ensure!(attached_as(&all.appliance)? == "generic");
    let why = all.appliance.status()?["guard"]["interfaces"][0]["status"]["why"].to_string();
    ensure!(why.contains("native mode was refused"), "{why}");
    guards(lab, &all)?;
    all.net.address_untagged()?;
    let untagged = SocketAddr::new("10.77.8.1".parse()?, Net::PORT);
    let heard = knock(&all.net, untagged)?;
    ensure!(heard == Some(ErrorKind::ConnectionRefused), "without a tag: {heard:?}");
    // The name has a dot, which the pins' file system does not take: it outlives the daemon all the same.
    all.appliance.process().signal(Signal::KILL)?;
    all.appliance.process().wait(Deadline::seconds(10))?;
    ensure!(knock(&all.net, at(Net::UNREGISTERED)?)? == Some(ErrorKind::TimedOut), "the guard went with the daemon");
    all.appliance.restart(lab)?;
    ensure!(all.appliance.status()?["guard"]["interfaces"][0]["status"]["taken_over"] == true);
    guards(lab, &all)
}

/// As many strangers as reach each member, one after the other, since members take turns.
fn strangers_at_every_member(all: &Guarded) -> anyhow::Result<()> {
    let before = packets(&all.appliance, UNREGISTERED_SOURCE, "dropped")?;
    for number in 0..6 {
        let heard = knock(&all.net, at(Net::UNREGISTERED)?)?;
        ensure!(heard == Some(ErrorKind::TimedOut), "stranger {number}: {heard:?}");
    }
    let after = packets(&all.appliance, UNREGISTERED_SOURCE, "dropped")?;
    ensure!(after >= before + 6, "{before} dropped before six strangers came, {after} after");
    Ok(())
}

fn a_bond_is_guarded_at_all_its_members(lab: &Lab) -> anyhow::Result<()> {
    Feature::Bond.need()?;
    let mut all = guarded_at(lab, Link::Bond, "native", |settings| settings)?;
    ensure!(attached_as(&all.appliance)? == "native" && attached(&all.net)?, "{}", all.net.front_link()?);
    guards(lab, &all)?;
    // A member that joins is guarded as well, and brings its share of the strangers.
    all.net.add_member()?;
    strangers_at_every_member(&all)?;
    guards(lab, &all)?;
    // One that goes leaves the other one guarded.
    all.net.pull_member()?;
    wait_until("callers to use the other member", Deadline::seconds(10), || {
        Ok(connects(&all.net, Net::REGISTERED)?.then_some(()))
    })?;
    guards(lab, &all)?;
    all.appliance.must_be_alive()
}
