//! What connections cost in their worst state stays within what ARCHITECTURE.md states, and comes back.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{
    Appliance, Client, Deadline, Feature, Lab, Settings, need_descriptors, resident_kib, wait_until,
};

use crate::case::cases;
use crate::effort::emulated;

cases!("memory":
    connections_in_their_worst_state_cost_no_more_than_stated,
    what_a_caller_does_not_read_is_bounded_by_the_socket_buffer,
);

/// More than all the buffers on the way hold (the callers' and the origin's sockets are as large as the system lets them be).
const LARGE: usize = 400_000_000;
/// `limits.head_bytes` here and by default, in KiB.
const HEAD: u64 = 32;

/// Connections at once in the worst state.
fn connections() -> u64 {
    if emulated() { 12 } else { 24 }
}

/// What ARCHITECTURE.md states for one connection, in KiB.
fn stated() -> u64 {
    let kernel_tls = Feature::Ktls.missing().is_none() || Feature::Ktls.required();
    40 + 6 * HEAD + if kernel_tls { 0 } else { 6 * 128 }
}

fn patient(settings: Settings) -> Settings {
    let timeouts = ["handshake", "header", "body", "connect", "response", "idle"];
    let settings = timeouts.iter().fold(settings, |settings, key| settings.set(&format!("timeouts.{key}"), "300s"));
    settings.set("limits.socket_buffer", "128KiB").set("limits.body_rate", "any")
}

/// A request with a head nearly as large as may be, and a body that is echoed until neither side takes any more: the
/// caller reads nothing, so the origin stops reading too.
fn wedge(mut client: Client, piece: &[u8]) -> anyhow::Result<Client> {
    let field = format!("X-Large: {}", "x".repeat(30_000));
    client.send_head("POST", "/echo", &[&field, &format!("Content-Length: {LARGE}")])?;
    let client_sent = (0..LARGE / piece.len()).try_for_each(|_| client.send(piece));
    ensure!(client_sent.is_err(), "all of the body was taken, though nothing of the answer was read");
    Ok(client)
}

/// Brings that many connections into the worst state, and returns resident memory then and after they are gone.
fn worst(lab: &Lab, appliance: &Appliance) -> anyhow::Result<(u64, u64)> {
    let tls = lab.tls("client-p256")?;
    let place = mtls_appliance_tests::harness::Place::Here;
    let piece = vec![b'x'; 64 * 1024];
    let wedged: anyhow::Result<Vec<Client>> = thread::scope(|scope| {
        let one = || {
            let client = Client::connect(&place, appliance.address(), &tls)?;
            wedge(client.narrow()?.patient(Duration::from_secs(2))?, &piece)
        };
        let threads: Vec<_> = (0..connections()).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a caller panicked"))).collect()
    });
    let wedged = wedged.with_context(|| format!("{:?}", appliance.events("request").get(1)))?;
    let full = resident_kib(appliance.pid())?;
    ensure!(appliance.counter("connections_open")? == connections());
    for client in wedged {
        client.reset()?;
    }
    wait_until("the connections to be cleared away", Deadline::seconds(30), || {
        Ok((appliance.counter("connections_open")? == 0).then_some(()))
    })?;
    thread::sleep(Duration::from_millis(500));
    Ok((full, resident_kib(appliance.pid())?))
}

fn connections_in_their_worst_state_cost_no_more_than_stated(lab: &Lab) -> anyhow::Result<()> {
    need_descriptors(connections() * 4 + 200)?;
    let origin = lab.origin()?;
    // What one worker keeps, another cannot use.
    let mut appliance = lab.appliance_with(&origin, |s| patient(s).set("listener.workers", 1))?;
    lab.client(&appliance)?.get("/bytes/1000", &[])?;
    let start = resident_kib(appliance.pid())?;
    let (full, after) = worst(lab, &appliance)?;
    let (second, _) = worst(lab, &appliance)?;
    let (third, end) = worst(lab, &appliance)?;
    let each = full.saturating_sub(start) / connections();
    println!(
        "memory: {} connections in their worst state: {each} KiB each, {} stated; {start} KiB resident before, \
         {full} with them, {after} after, {second} and {third} with as many again, {end} in the end",
        connections(),
        stated()
    );
    ensure!(each <= stated(), "{each} KiB for each connection, {} stated", stated());
    // The allocator may keep what was freed for the next ones, who then must do with it.
    ensure!(second.max(third).saturating_sub(start) <= connections() * stated(), "{second}, then {third} KiB resident");
    ensure!(appliance.counter("bytes_copied")? + appliance.counter("bytes_spliced")? > 0);
    appliance.must_be_alive()
}

/// Bytes that the appliance has moved for a caller that reads nothing.
fn moved(lab: &Lab, buffer: &str) -> anyhow::Result<u64> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| patient(s).set("limits.socket_buffer", buffer))?;
    let mut client = lab.client(&appliance)?.narrow()?;
    client.send_head("GET", &format!("/bytes/{LARGE}"), &[])?;
    let bytes = || Ok(appliance.counter("bytes_copied")? + appliance.counter("bytes_spliced")?);
    wait_until("the appliance to stop moving bytes", Deadline::seconds(60), || {
        let before: u64 = bytes()?;
        thread::sleep(Duration::from_secs(2));
        let after: anyhow::Result<u64> = bytes();
        after.map(|after| (after == before && after > 0).then_some(after))
    })
}

fn what_a_caller_does_not_read_is_bounded_by_the_socket_buffer(lab: &Lab) -> anyhow::Result<()> {
    let (small, system) = (moved(lab, "64KiB")?, moved(lab, "system")?);
    println!("memory: {small} bytes moved for a caller that reads nothing with 64 KiB, {system} as the system allows");
    // What the caller's own buffer takes, 128 KiB, comes on top, and a record that is under way.
    ensure!(small <= 256 * 1024, "{small} bytes");
    ensure!(system > 512 * 1024, "{system} bytes: the caller's buffer alone would take as much");
    Ok(())
}
