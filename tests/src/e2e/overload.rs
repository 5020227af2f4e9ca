//! More than there is room for: refused early, without a handshake, while whoever is in is served.

use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mtls_appliance_tests::harness::names::event;
use mtls_appliance_tests::harness::{Appliance, Client, Deadline, Feature, Lab, Place, wait_until};
use mtls_appliance_tests::pattern;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::case::cases;

cases!("overload":
    handshakes_above_the_limit_are_refused_before_they_begin,
    without_descriptors_callers_wait_and_those_inside_are_served,
);

fn handshakes_above_the_limit_are_refused_before_they_begin(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance =
        lab.appliance_with(&origin, |s| s.set("limits.handshakes", 3).set("timeouts.handshake", "5s"))?;
    let mut inside = lab.client(&appliance)?;
    ensure!(inside.get("/bytes/10", &[])?.status == 200);
    // They say nothing, and so are in the midst of a handshake until its deadline.
    let silent: Vec<_> = (0..3).map(|_| TcpStream::connect(appliance.address())).collect::<Result<_, _>>()?;
    ensure!(appliance.wait_counter("handshakes_running", 3)? == 3);
    let begin = Instant::now();
    ensure!(lab.client(&appliance).is_err(), "a fourth handshake");
    ensure!(begin.elapsed() < Duration::from_secs(4), "refused after {:?}", begin.elapsed());
    ensure!(appliance.wait_counter("connection_refused.too_many_handshakes", 1)? == 1);
    let line = appliance.wait_event(event::CONNECTION_REFUSED, |_| true)?;
    ensure!(line["reason"] == "too_many_handshakes", "{line}");
    ensure!(inside.get("/bytes/10", &[])?.status == 200, "who is in is not served");
    wait_until("the silent ones to be given up", Deadline::seconds(20), || {
        Ok((appliance.counter("handshakes_running")? == 0).then_some(()))
    })?;
    ensure!(lab.client(&appliance)?.get("/bytes/10", &[])?.status == 200);
    drop(silent);
    appliance.must_be_alive()
}

/// Lets the process have descriptors up to this number.
fn allow(appliance: &Appliance, most: Option<u64>) -> anyhow::Result<()> {
    let limit = Rlimit { current: most, maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Pid::from_raw(i32::try_from(appliance.pid())?), Resource::Nofile, limit)?;
    Ok(())
}

fn without_descriptors_callers_wait_and_those_inside_are_served(lab: &Lab) -> anyhow::Result<()> {
    const LONG: usize = 1_000_000;
    const DOWNLOADS: u64 = 5;
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut inside = lab.client(&appliance)?;
    ensure!(inside.get("/bytes/10", &[])?.status == 200);
    let usual = getrlimit(Resource::Nofile).current;
    let descriptors = format!("/proc/{}/fd", appliance.pid());
    let free = (0..).find(|number| !Path::new(&descriptors).join(number.to_string()).exists());
    allow(&appliance, free)?;

    let (address, tls) = (appliance.address(), lab.tls("client-p256")?);
    let waiting =
        thread::spawn(move || Ok(Client::connect(&Place::Here, address, &tls)?.get("/bytes/10", &[])?.status));
    let begin = Instant::now();
    let line = appliance.wait_event("accept_failed", |_| true)?;
    ensure!(line["detail"].as_str().is_some_and(|text| text.contains("Too many open files")), "{line}");
    for _ in 0..DOWNLOADS {
        let response = inside.get(&format!("/bytes/{LONG}"), &[])?;
        ensure!(response.body == pattern::bytes(LONG), "who is in is not served");
    }
    thread::sleep(Duration::from_secs(1));
    // It backs off instead of asking again and again; each worker does, and each time they are woken.
    let tries = u128::try_from(appliance.events("accept_failed").len())?;
    let workers = u128::try_from(thread::available_parallelism()?.get())?;
    ensure!(tries <= (begin.elapsed().as_millis() / 100 + 2) * workers, "{tries} in {:?}", begin.elapsed());
    ensure!(!waiting.is_finished(), "a caller came in without a descriptor");
    allow(&appliance, usual)?;
    ensure!(waiting.join().unwrap_or_else(|_| anyhow::bail!("the caller panicked"))? == 200);
    // The control socket is served again, too.
    ensure!(appliance.wait_counter("accept_failed.no_resources", 1)? > 0);
    if Feature::Ktls.missing().is_none() {
        // There was no descriptor for a pipe either: what would be spliced was copied.
        ensure!(appliance.wait_counter("data_path.kernel.no_pipe", DOWNLOADS)? == DOWNLOADS);
        ensure!(appliance.counter("not_spliced.no_pipe")? >= DOWNLOADS);
    }
    appliance.must_be_alive()
}
