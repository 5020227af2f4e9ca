//! Sessions whose kernel has no memory for TCP: they wait for it, no longer than it lacks, and end with the reason when that is
//! for good.
//!
//! `net.ipv4.tcp_mem` is one for all of the machine, so it is changed in virtual machines only, by one test at a time.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::event;
use mtls_appliance_tests::harness::{Appliance, Client, Feature, Lab, Skip};
use mtls_appliance_tests::pattern;

use crate::case::cases;
use crate::effort::emulated;

cases!("starving":
    sessions_go_on_as_soon_as_there_is_memory_for_tcp_again,
    without_memory_for_tcp_sessions_end_at_the_body_deadline_and_say_so,
);

const TCP_MEM: &str = "/proc/sys/net/ipv4/tcp_mem";
/// Callers at once.
const CALLERS: usize = 6;
/// How long memory lacks at a time, and how often: what is written meets that sooner or later.
const LACK: Duration = Duration::from_millis(300);
const LACKS: u32 = 10;
/// What TCP itself may need to recover what was dropped meanwhile (its time-outs double), on an emulated machine.
const RECOVERED: Duration = Duration::from_secs(15);

/// The machine's TCP has no memory as long as this lives.
struct Lack {
    usual: String,
}

impl Lack {
    fn begin() -> anyhow::Result<Self> {
        let usual = fs::read_to_string(TCP_MEM).context(TCP_MEM)?;
        fs::write(TCP_MEM, "1 1 1").context(TCP_MEM)?;
        Ok(Self { usual })
    }
}

impl Drop for Lack {
    fn drop(&mut self) {
        // What was read can be written.
        let _ = fs::write(TCP_MEM, &self.usual);
    }
}

fn need_a_machine_of_our_own() -> anyhow::Result<()> {
    Feature::Ktls.need()?;
    ensure!(emulated(), Skip("it takes the memory of all of the machine's TCP: in virtual machines only".into()));
    Ok(())
}

fn waited(appliance: &Appliance) -> anyhow::Result<u64> {
    appliance.counter("sends_without_memory")
}

fn sessions_go_on_as_soon_as_there_is_memory_for_tcp_again(lab: &Lab) -> anyhow::Result<()> {
    need_a_machine_of_our_own()?;
    let origin = lab.origin()?;
    let patient = ["header", "body", "response", "idle"];
    let mut appliance = lab.appliance_with(&origin, |settings| {
        patient.iter().fold(settings, |settings, key| settings.set(&format!("timeouts.{key}"), "100s"))
    })?;
    let clients =
        (0..CALLERS).map(|_| lab.client(&appliance)?.patient(RECOVERED)).collect::<anyhow::Result<Vec<_>>>()?;
    let done = AtomicBool::new(false);
    let (requests, slowest) = thread::scope(|scope| {
        let call = |mut client: Client, number: usize| -> anyhow::Result<(u32, Duration)> {
            let (mut requests, mut slowest) = (0, Duration::ZERO);
            while !done.load(Ordering::Acquire) {
                let length = [100, 3_000, 40_000, 300_000][(number + requests as usize) % 4];
                let begin = Instant::now();
                let response = match requests % 3 {
                    0 => client.get(&format!("/bytes/{length}"), &[]),
                    1 => client.get(&format!("/chunked/{length}?size=4000"), &[]),
                    _ => client.post("/echo", &pattern::bytes(length)),
                };
                let response = response.with_context(|| format!("caller {number}, request {requests}"))?;
                ensure!(response.status == 200 && response.body == pattern::bytes(length), "{:?}", response.head);
                requests += 1;
                slowest = slowest.max(begin.elapsed());
            }
            Ok((requests, slowest))
        };
        let callers: Vec<_> =
            clients.into_iter().enumerate().map(|(number, client)| scope.spawn(move || call(client, number))).collect();
        let lacks = (0..LACKS).try_for_each(|_| {
            let lack = Lack::begin()?;
            thread::sleep(LACK);
            drop(lack);
            thread::sleep(LACK);
            anyhow::Ok(())
        });
        done.store(true, Ordering::Release);
        let called =
            callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| anyhow::bail!("a caller panicked")));
        let called = called.collect::<anyhow::Result<Vec<_>>>();
        lacks?;
        let called = called?;
        let requests: u32 = called.iter().map(|(requests, _)| requests).sum();
        anyhow::Ok((requests, called.into_iter().map(|(_, slowest)| slowest).max().unwrap_or_default()))
    })?;
    let waits = waited(&appliance)?;
    println!("starving: {requests} requests, the slowest in {slowest:?}; {waits} waits for memory");
    ensure!(waits > 0, "memory never lacked: nothing was shown");
    appliance.must_be_alive()
}

fn without_memory_for_tcp_sessions_end_at_the_body_deadline_and_say_so(lab: &Lab) -> anyhow::Result<()> {
    need_a_machine_of_our_own()?;
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |settings| settings.set("timeouts.body", "2s"))?;
    let clients = (0..CALLERS).map(|_| lab.client(&appliance)).collect::<anyhow::Result<Vec<_>>>()?;
    // Of small answers: bytes beyond the send buffer, which shrinks when memory lacks, are given it by force.
    let lack = Lack::begin()?;
    let (done, broken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers = clients.into_iter().map(|mut client| {
        let (done, broken) = (Arc::clone(&done), Arc::clone(&broken));
        thread::spawn(move || {
            while !done.load(Ordering::Acquire) {
                if client.get("/bytes/1000", &[]).is_err() {
                    broken.fetch_add(1, Ordering::AcqRel);
                    return;
                }
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let ended = appliance.wait_counter("request_failed.no_memory", 1);
    drop(lack);
    done.store(true, Ordering::Release);
    for caller in callers {
        ensure!(caller.join().is_ok(), "a caller panicked");
    }
    let ended = ended?;
    let lines = appliance.events(event::REQUEST);
    let starved: Vec<_> = lines.iter().filter(|line| line["reason"] == "no_memory").collect();
    println!("starving: {} requests, {ended} ended for want of memory, {broken:?} callers saw it", lines.len());
    ensure!(starved.iter().all(|line| line["blame"] == "appliance"), "{starved:?}");
    ensure!(starved.len() as u64 >= ended && broken.load(Ordering::Acquire) > 0, "{starved:?}");
    ensure!(lab.client(&appliance)?.get("/bytes/1000", &[])?.status == 200, "memory is there again");
    appliance.must_be_alive()
}
