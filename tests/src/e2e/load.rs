//! Many callers at once, for a while. `MTLS_LOAD_CONNECTIONS` (200) and `MTLS_LOAD_SECONDS` (30) change how much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::event;
use mtls_appliance_tests::harness::{Client, Deadline, Lab, Place, Settings, wait_until};
use mtls_appliance_tests::pattern;

use crate::case::cases;

cases!("load":
    many_concurrent_connections_are_served_without_an_error,
    connections_above_the_limit_are_refused_and_the_others_served,
    connections_above_the_limit_of_a_source_are_refused,
    connections_above_the_limit_of_an_organisation_are_refused_and_others_served,
);

/// How long a caller waits for each answer.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(variable: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable} = {text:?} is not a number")),
        Err(_) => Ok(default),
    }
}

fn many_concurrent_connections_are_served_without_an_error(lab: &Lab) -> anyhow::Result<()> {
    let connections = number("MTLS_LOAD_CONNECTIONS", 200)?;
    let time = Duration::from_secs(number("MTLS_LOAD_SECONDS", 30)?);
    let origin = lab.origin()?;
    // An emulated machine takes its time over so many; what must not happen is an error.
    let timeouts = ["handshake", "header", "body", "connect", "response"].map(|name| format!("timeouts.{name}"));
    let patient = |settings: Settings| timeouts.iter().fold(settings, |settings, key| settings.set(key, "120s"));
    let mut appliance = lab.appliance_with(&origin, patient)?;
    let identities = [lab.tls("client-p256")?, lab.tls("client-rsa")?, lab.tls("client-korean")?];
    let served = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let address = appliance.address();
    let workers: Vec<_> = (0..connections)
        .map(|number| {
            let tls = identities[usize::try_from(number).unwrap_or(0) % identities.len()].clone();
            let served = Arc::clone(&served);
            let work = move || -> anyhow::Result<()> {
                let connect = || Client::connect(&Place::Here, address, &tls)?.patient(PATIENCE);
                let mut client = connect()?;
                let mut round = number;
                loop {
                    let length = usize::try_from(round * 7919 % 60_000)?;
                    let response = match round % 3 {
                        0 => client.get(&format!("/bytes/{length}"), &[])?,
                        1 => client.get(&format!("/chunked/{length}?size=4000"), &[])?,
                        _ => client.post("/echo", &pattern::bytes(length))?,
                    };
                    ensure!(response.status == 200, "{:?}", response.head);
                    ensure!(response.body == pattern::bytes(length), "{length} bytes: {} came back", response.length);
                    served.fetch_add(1, Ordering::Relaxed);
                    round += 1;
                    if begin.elapsed() >= time {
                        return Ok(());
                    }
                    // Now and then a caller comes anew.
                    if round % 50 == 0 {
                        client = connect()?;
                    }
                }
            };
            thread::Builder::new().stack_size(512 * 1024).spawn(work)
        })
        .collect::<Result<_, _>>()?;
    let mut failures = Vec::new();
    for worker in workers {
        if let Err(error) = worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a caller panicked"))) {
            failures.push(format!("{error:#}"));
        }
    }
    let served = served.load(Ordering::Relaxed);
    ensure!(
        failures.is_empty(),
        "{} of {connections} failed, {served} requests served: {:?}",
        failures.len(),
        failures.first()
    );
    ensure!(served >= connections, "only {served} requests in {time:?}");
    ensure!(origin.journal("malformed")?.is_empty() && origin.journal("broken")?.is_empty());
    println!("load: {served} requests on {connections} connections in {:.1} s", begin.elapsed().as_secs_f64());
    appliance.must_be_alive()
}

fn connections_above_the_limit_are_refused_and_the_others_served(lab: &Lab) -> anyhow::Result<()> {
    above(lab, "limits.connections", event::CONNECTION_REFUSED, "connection_refused.too_many_connections")
}

fn connections_above_the_limit_of_a_source_are_refused(lab: &Lab) -> anyhow::Result<()> {
    let counter = "connection_refused.too_many_connections_of_source";
    above(lab, "limits.connections_per_source", event::CONNECTION_REFUSED, counter)
}

fn connections_above_the_limit_of_an_organisation_are_refused_and_others_served(lab: &Lab) -> anyhow::Result<()> {
    let counter = "handshake_refused.too_many_connections_of_organisation";
    above(lab, "limits.connections_per_organisation", event::HANDSHAKE_FAILED, counter)?;
    // Another organisation has room of its own.
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| s.set("limits.connections_per_organisation", 1))?;
    let connect = |name| Client::connect(&Place::Here, appliance.address(), &lab.tls(name)?);
    let mut one = connect("client-p256")?;
    let mut other = connect("client-korean")?;
    ensure!(one.get("/bytes/10", &[])?.status == 200);
    ensure!(other.get("/bytes/10", &[])?.status == 200);
    Ok(())
}

/// Fills a limit of 5 and shows that the sixth is refused, logged as `event` and counted for the reason in `counter`, the
/// five served, and room made again.
fn above(lab: &Lab, limit: &str, event: &str, counter: &str) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set(limit, 5))?;
    let tls = lab.tls("client-p256")?;
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(&Place::Here, appliance.address(), &tls)?;
        ensure!(client.get("/bytes/10", &[])?.status == 200);
        held.push(client);
    }
    let sixth =
        Client::connect(&Place::Here, appliance.address(), &tls).and_then(|mut client| client.get("/bytes/10", &[]));
    ensure!(sixth.is_err(), "a sixth connection was served");
    ensure!(appliance.wait_counter(counter, 1)? == 1, "{}", appliance.status()?["counters"]);
    let (_, reason) = counter.split_once('.').context("a counter of refusals")?;
    let line = appliance.wait_event(event, |_| true)?;
    ensure!(line["reason"] == reason, "{line}");
    ensure!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
    for client in &mut held {
        ensure!(client.get("/bytes/10", &[])?.status == 200, "a connection within the limit was dropped");
    }
    held.clear();
    wait_until("room for a new connection", Deadline::seconds(10), || {
        let served = lab.client(&appliance).and_then(|mut client| client.get("/bytes/10", &[]));
        Ok(served.is_ok().then_some(()))
    })?;
    appliance.must_be_alive()
}
