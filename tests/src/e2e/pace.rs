//! Peers that are slow on average: too slow is an end with a reason, slow enough to be tolerated is no end.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{Appliance, Client, Feature, Lab, Origin, Settings};
use mtls_appliance_tests::pattern;
use rustix::process::Signal;
use serde_json::Value;

use crate::case::cases;

cases!("pace":
    a_client_that_sends_too_slowly_gets_408,
    a_client_that_sends_slowly_enough_is_served_and_its_connection_survives,
    a_client_that_reads_too_slowly_is_cut_off,
    a_client_that_reads_slowly_enough_is_served_and_its_connection_survives,
    an_origin_that_reads_too_slowly_is_a_504,
    an_origin_that_reads_slowly_enough_is_waited_for,
    an_origin_that_sends_too_slowly_is_given_up_on,
    an_origin_that_sends_slowly_enough_is_waited_for,
    a_slow_client_is_not_blamed_on_the_origin_that_echoes_it,
    nor_when_both_deadlines_are_found_passed_at_once,
);

/// More than all the buffers on the way hold.
const LARGE: u64 = 16_000_000;
/// How far a peer may fall behind here.
const GRACE: Duration = Duration::from_secs(2);

/// Runs a test where bodies are copied, and where they are spliced.
fn both_ways(
    origin: &Origin,
    test: impl Fn(&dyn Fn(Settings) -> Settings) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let kernel_tls = Feature::Ktls.missing().is_none() || Feature::Ktls.required();
    let ways: &[&str] = if kernel_tls { &["never", "1B"] } else { &["never"] };
    for splice_from in ways {
        let change = |s: Settings| s.set("offload.splice_from", *splice_from);
        test(&change).with_context(|| format!("splice_from = {splice_from}"))?;
        origin.forget()?;
    }
    Ok(())
}

/// An appliance that wants `rate`; nothing else in it is in a hurry.
fn wanting(lab: &Lab, origin: &Origin, rate: &str, way: &dyn Fn(Settings) -> Settings) -> anyhow::Result<Appliance> {
    lab.appliance_with(origin, |s| {
        way(s.set("limits.body_rate", rate).set("timeouts.body_grace", "2s").set("timeouts.body", "20s"))
    })
}

/// The line of the only request, which must have ended by that reason, after the grace and before a stall.
fn ended(appliance: &Appliance, begin: Instant, counter: &str, blame: &str) -> anyhow::Result<Value> {
    let line = appliance.wait_requests(1)?;
    let took = begin.elapsed();
    let reason = counter.rsplit('.').next().unwrap_or_default();
    ensure!(line["reason"] == reason && line["blame"] == blame, "not {blame}'s {reason}: {line}");
    ensure!(appliance.wait_counter(counter, 1)? == 1, "{counter} is not 1");
    ensure!(took >= GRACE && took < Duration::from_secs(18), "after {took:?}: {line}");
    Ok(line)
}

/// The last request went well, and the connection serves another.
fn survives(appliance: &Appliance, mut client: Client, requests: usize) -> anyhow::Result<()> {
    let line = appliance.wait_requests(requests)?;
    ensure!(line["status"] == 200 && line["reason"].is_null(), "{line}");
    ensure!(client.get("/bytes/1000", &[])?.body == pattern::bytes(1000), "the connection did not survive");
    ensure!(appliance.wait_counter("connections_accepted", 1)? == 1);
    Ok(())
}

/// Sends pieces of pattern bytes with a pause after each, until the peer does not take them or all are sent.
fn trickle(client: &mut Client, length: usize, piece: usize, pause: Duration, chunked: bool) -> anyhow::Result<()> {
    for bytes in pattern::bytes(length).chunks(piece) {
        if chunked {
            client.send([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())?;
        } else {
            client.send(bytes)?;
        }
        thread::sleep(pause);
    }
    if chunked { client.send("0\r\n\r\n") } else { Ok(()) }
}

fn a_client_that_sends_too_slowly_gets_408(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        for (field, chunked) in [("Content-Length: 20000", false), ("Transfer-Encoding: chunked", true)] {
            let mut appliance = wanting(lab, &origin, "4KiB", way)?;
            let mut client = lab.client(&appliance)?;
            let begin = Instant::now();
            client.send_head("POST", "/sha256", &[field])?;
            let sent = trickle(&mut client, 20_000, 50, Duration::from_millis(100), chunked);
            let response = client.response("POST");
            ensure!(sent.is_err() || response.is_ok());
            if let Ok(response) = response {
                ensure!(response.status == 408, "{:?}", response.head);
            }
            let line = ended(&appliance, begin, "request_refused.request_body_too_slow", "client")?;
            ensure!(line["status"] == 408, "{line}");
            appliance.must_be_alive()?;
        }
        Ok(())
    })
}

fn a_client_that_sends_slowly_enough_is_served_and_its_connection_survives(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        let appliance = wanting(lab, &origin, "1KiB", way)?;
        let mut client = lab.client(&appliance)?;
        let begin = Instant::now();
        client.send_head("POST", "/sha256", &["Content-Length: 16000"])?;
        trickle(&mut client, 16_000, 400, Duration::from_millis(100), false)?;
        let response = client.response("POST")?;
        ensure!(response.json()?["sha256"] == pattern::sha256(16_000), "{}", response.text());
        ensure!(begin.elapsed() > GRACE, "not slow");
        survives(&appliance, client, 1)
    })
}

/// Reads with a pause after each piece, as long as `slow` says.
fn read_slowly(client: &mut Client, target: &str, pause: Duration, slow: Duration) -> anyhow::Result<String> {
    let begin = Instant::now();
    let response = client.download_with(target, &mut |_| {
        if begin.elapsed() < slow {
            thread::sleep(pause);
        }
    })?;
    Ok(response.sha256)
}

fn a_client_that_reads_too_slowly_is_cut_off(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        for target in [format!("/bytes/{LARGE}"), format!("/chunked/{LARGE}?size=50000")] {
            let mut appliance = wanting(lab, &origin, "256KiB", way)?;
            let mut client = lab.client(&appliance)?.narrow()?;
            let begin = Instant::now();
            let read = read_slowly(&mut client, &target, Duration::from_millis(500), Duration::from_secs(60));
            ensure!(read.is_err(), "{target}: the whole body");
            let line = ended(&appliance, begin, "request_refused.response_read_too_slow", "client")?;
            ensure!(line["bytes_out"].as_u64() < Some(LARGE), "{line}");
            appliance.must_be_alive()?;
        }
        Ok(())
    })
}

fn a_client_that_reads_slowly_enough_is_served_and_its_connection_survives(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        // What the socket holds goes so slowly that it takes nothing new for longer than a stall may last.
        let appliance = lab.appliance_with(&origin, |s| {
            way(s.set("limits.body_rate", "4KiB").set("timeouts.body_grace", "3s").set("timeouts.body", "3s"))
        })?;
        let mut client = lab.client(&appliance)?.narrow()?;
        let (pause, slow) = (Duration::from_millis(200), Duration::from_secs(8));
        let read = read_slowly(&mut client, &format!("/bytes/{LARGE}"), pause, slow)?;
        ensure!(read == pattern::sha256(LARGE), "other bytes");
        survives(&appliance, client, 1)
    })
}

fn an_origin_that_reads_too_slowly_is_a_504(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        let mut appliance = wanting(lab, &origin, "256KiB", way)?;
        let mut client = lab.client(&appliance)?;
        let begin = Instant::now();
        // The connection may end before all is sent.
        if let Ok(response) = client.upload("/sip?bytes=1000&ms=500", LARGE) {
            ensure!(response.status == 504, "{:?}", response.head);
        }
        let line = ended(&appliance, begin, "origin_failed.request_read_too_slow", "origin")?;
        ensure!(line["status"] == 504, "{line}");
        ensure!(lab.client(&appliance)?.get("/bytes/1000", &[])?.status == 200);
        appliance.must_be_alive()
    })
}

fn an_origin_that_reads_slowly_enough_is_waited_for(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        let appliance = wanting(lab, &origin, "4KiB", way)?;
        let mut client = lab.client(&appliance)?;
        let begin = Instant::now();
        let response = client.upload("/sip?bytes=16384&ms=50&slow=1500000", LARGE)?;
        ensure!(response.status == 200, "{:?}", response.head);
        ensure!(begin.elapsed() > GRACE, "not slow");
        survives(&appliance, client, 1)
    })
}

fn an_origin_that_sends_too_slowly_is_given_up_on(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        let mut appliance = wanting(lab, &origin, "1KiB", way)?;
        let mut client = lab.client(&appliance)?;
        let begin = Instant::now();
        ensure!(client.get("/drip/3000?ms=20", &[]).is_err(), "the whole body");
        let line = ended(&appliance, begin, "origin_failed.response_body_too_slow", "origin")?;
        ensure!(line["bytes_out"].as_u64().is_some_and(|bytes| bytes > 0 && bytes < 3000), "{line}");
        appliance.must_be_alive()
    })
}

fn an_origin_that_sends_slowly_enough_is_waited_for(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        let appliance = wanting(lab, &origin, "10B", way)?;
        let mut client = lab.client(&appliance)?;
        let begin = Instant::now();
        ensure!(client.get("/drip/150?ms=20", &[])?.body == pattern::bytes(150));
        ensure!(begin.elapsed() > GRACE, "not slow");
        survives(&appliance, client, 1)
    })
}

fn a_slow_client_is_not_blamed_on_the_origin_that_echoes_it(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    both_ways(&origin, |way| {
        let appliance = lab.appliance_with(&origin, |s| {
            way(s.set("limits.body_rate", "4KiB").set("timeouts.body_grace", "1s").set("timeouts.body", "4s"))
        })?;
        let mut client = lab.client(&appliance)?;
        let begin = Instant::now();
        // What came with the head is echoed at once, and then both are silent: the origin because the client is.
        client.send("POST /echo HTTP/1.1\r\nHost: api.bank.test\r\nContent-Length: 100000\r\n\r\nhello")?;
        // The answer has begun, so all that is left is to cut it off.
        ensure!(client.response("POST").is_err(), "the whole body");
        ended(&appliance, begin, "request_refused.request_body_timed_out", "client").map(drop)
    })
}

fn nor_when_both_deadlines_are_found_passed_at_once(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set("timeouts.body", "2s"))?;
    let mut client = lab.client(&appliance)?;
    let begin = Instant::now();
    client.send("POST /echo HTTP/1.1\r\nHost: api.bank.test\r\nContent-Length: 100000\r\n\r\nhello")?;
    client.wait_readable()?;
    // It sleeps over both.
    appliance.process().signal(Signal::STOP)?;
    std::thread::sleep(Duration::from_secs(4));
    appliance.process().signal(Signal::CONT)?;
    ensure!(client.response("POST").is_err(), "the whole body");
    ended(&appliance, begin, "request_refused.request_body_timed_out", "client").map(drop)
}
