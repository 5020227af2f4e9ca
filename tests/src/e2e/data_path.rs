//! What the log and the counters say about the way of the bodies, and about a connection when it ends.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{SPLICED, event};
use mtls_appliance_tests::harness::{Appliance, Client, Deadline, Feature, Lab, Settings, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::case::cases;

cases!("data_path":
    each_request_says_the_way_of_its_bodies_and_why,
    each_request_is_counted_under_the_way_of_its_bodies,
    splice_from_decides_which_bodies_are_spliced,
    an_ended_connection_says_what_it_did_and_how_it_ended,
);

/// How long something may take to be logged.
const LOGGED: u64 = 20;

/// A request and the reason that its line must give where the kernel has TLS; the way goes before the colon.
const WAYS: &[(&str, &str, &str)] = &[
    ("HEAD", "/bytes/1000000", "kernel:no_body"),
    ("GET", "/bytes/1000", "kernel:below_threshold"),
    ("GET", "/chunked/100000?size=1000", "kernel:below_threshold"),
    ("GET", "/bytes/1000000", "spliced:"),
    ("GET", "/chunked/1000000?size=500000", "spliced:"),
    ("GET", "/bytes/1000", "kernel:below_threshold"),
];

/// As `way:reason`.
fn told(line: &Value) -> String {
    format!("{}:{}", line["data_path"].as_str().unwrap_or("?"), line["data_path_reason"].as_str().unwrap_or_default())
}

fn kernel_tls() -> bool {
    Feature::Ktls.missing().is_none() || Feature::Ktls.required()
}

/// Sends [`WAYS`] and returns what the lines said.
fn ask_all(appliance: &Appliance, client: &mut Client) -> anyhow::Result<Vec<Value>> {
    let before = appliance.events(event::REQUEST).len();
    for (number, (method, target, _)) in WAYS.iter().enumerate() {
        client.send_head(method, target, &[])?;
        ensure!(client.response(method)?.status == 200, "{target}");
        appliance.wait_requests(before + number + 1)?;
    }
    Ok(appliance.events(event::REQUEST).split_off(before))
}

fn each_request_says_the_way_of_its_bodies_and_why(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for (line, (_, target, way)) in ask_all(&appliance, &mut lab.client(&appliance)?)?.iter().zip(WAYS) {
        if kernel_tls() {
            ensure!(told(line) == *way && line["data_path_detail"].is_null(), "{target}, not {way}: {line}");
        } else {
            ensure!(told(line) == "userspace:kernel_lacks_tls", "{line}");
            let detail = line["data_path_detail"].as_str().unwrap_or_default();
            ensure!(detail.starts_with("client: the running kernel has no TLS: "), "{line}");
        }
    }
    drop(appliance);
    let off = lab.appliance_with(&origin, |s| s.set("offload.mode", "off"))?;
    for line in ask_all(&off, &mut lab.client(&off)?)? {
        ensure!(told(&line) == "userspace:offload_off", "{line}");
        ensure!(line["data_path_detail"] == "client: offload.mode is \"off\"", "{line}");
    }
    Ok(())
}

fn each_request_is_counted_under_the_way_of_its_bodies(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ask_all(&appliance, &mut client)?;
    client.send_head("OPTIONS", "*", &["Max-Forwards: 0"])?;
    ensure!(client.response("OPTIONS")?.status == 204);
    appliance.wait_requests(WAYS.len() + 1)?;
    let count = |name: &str| appliance.counter(&format!("data_path.{name}"));
    let all = appliance.status()?["counters"].as_object().context("no counters")?.clone();
    let total: u64 =
        all.iter().filter(|(name, _)| name.starts_with("data_path.")).filter_map(|(_, n)| n.as_u64()).sum();
    ensure!(total == WAYS.len() as u64 + 1, "{all:?}");
    ensure!(count("none.not_forwarded")? == 1, "{all:?}");
    if kernel_tls() {
        ensure!(count("spliced")? == 2 && count("kernel.below_threshold")? == 3 && count("kernel.no_body")? == 1);
    } else {
        ensure!(count("userspace.kernel_lacks_tls")? == WAYS.len() as u64, "{all:?}");
    }
    Ok(())
}

fn splice_from_decides_which_bodies_are_spliced(lab: &Lab) -> anyhow::Result<()> {
    Feature::Ktls.need()?;
    let origin = lab.origin()?;
    for (splice_from, length, way) in [
        ("never", 1_000_000, "kernel:splice_from_never"),
        ("1MiB", 1_000_000, "kernel:below_threshold"),
        ("900KiB", 1_000_000, "spliced:"),
        ("2KiB", 1_000, "kernel:below_threshold"),
        ("500B", 1_000, "spliced:"),
    ] {
        let appliance = lab.appliance_with(&origin, |s| s.set("offload.splice_from", splice_from))?;
        let mut client = lab.client(&appliance)?;
        client.send_head("POST", "/sha256", &[&format!("Content-Length: {length}")])?;
        // The head is on its way, so that no part of the body can be read together with it.
        wait_until("the origin to get the head", Deadline::seconds(LOGGED), || {
            Ok(origin
                .journal("request")?
                .iter()
                .any(|seen| seen.to_string().contains(&format!("\"{length}\"")))
                .then_some(()))
        })?;
        client.send(vec![b'x'; length])?;
        ensure!(client.response("POST")?.status == 200);
        let line = appliance.wait_requests(1)?;
        ensure!(told(&line) == way, "{length} bytes, splice_from {splice_from}, not {way}: {line}");
        origin.forget()?;
    }
    Ok(())
}

/// Brings a connection to its end.
type Ending = fn(Client) -> anyhow::Result<()>;

/// How a connection is brought to its end, and how its line calls that.
const ENDS: &[(&str, Ending)] = &[
    ("client_closed", |mut client| client.close_notify()),
    ("client_gone", |mut client| client.fin()),
    ("reset", Client::reset),
    ("last_request", |mut client| client.get("/bytes/10", &["Connection: close"]).map(drop)),
    ("requests_per_connection", |mut client| (0..2).try_for_each(|_| client.get("/bytes/10", &[]).map(drop))),
    ("idle", |mut client| client.read_to_end().map(drop)),
    ("head_timed_out", |mut client| {
        client.send("GET / HT")?;
        client.read_to_end().map(drop)
    }),
    ("head_incomplete", |mut client| {
        client.send("GET / HT")?;
        client.close_notify()
    }),
    ("missing_host", |mut client| {
        client.send("GET / HTTP/1.1\r\n\r\n")?;
        client.read_to_end().map(drop)
    }),
    ("body_incomplete", |mut client| {
        client.send_head("POST", "/sha256", &["Content-Length: 10"])?;
        client.send("12345")?;
        client.close_notify()?;
        client.read_to_end().map(drop)
    }),
];

fn an_ended_connection_says_what_it_did_and_how_it_ended(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let quick = |s: Settings| {
        s.set("timeouts.idle", "1s").set("timeouts.header", "1s").set("limits.requests_per_connection", 4)
    };
    let mut appliance = lab.appliance_with(&origin, quick)?;
    for (number, (end, bring)) in ENDS.iter().enumerate() {
        let mut client = lab.client(&appliance)?;
        client.post("/echo", &[b'x'; 100])?;
        client.get("/bytes/1000", &[])?;
        bring(client).context(*end)?;
        let line =
            wait_until(&format!("the line of a connection that ends by {end}"), Deadline::seconds(LOGGED), || {
                Ok(appliance.events("connection").get(number).cloned())
            })?;
        ensure!(line["end"] == *end, "not {end}: {line}");
        ensure!(line["requests"].as_u64() >= Some(2) && line["bytes_in"].as_u64() >= Some(100), "{line}");
        ensure!(line["bytes_out"].as_u64() >= Some(1100), "{line}");
        ensure!(line["org"] == "A1AAAA0000" && line["peer"].to_string().contains("127.0.0.1:"), "{line}");
        ensure!(line["duration_ms"].as_u64() < Some(30_000), "{line}");
        for side in ["client_offload", "origin_offload"] {
            if kernel_tls() {
                ensure!(line[side] == "kernel" && line[format!("{side}_reason")].is_null(), "{line}");
            } else {
                ensure!(line[side] == "userspace" && line[format!("{side}_reason")] == "kernel_lacks_tls", "{line}");
            }
        }
        let way = if kernel_tls() { "kernel:below_threshold" } else { "userspace:kernel_lacks_tls" };
        ensure!(told(&line) == way, "not {way}: {line}");
    }
    // One that never became a session has no such line, and a drain has its own word.
    drop(
        lab.tls("client-rogue")
            .and_then(|tls| Client::connect(&mtls_appliance_tests::harness::Place::Here, appliance.address(), &tls)),
    );
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/300000", &[])?.length == 300_000);
    appliance.process().signal(Signal::TERM)?;
    let line = appliance.wait_event("connection", |line| line["end"] == "drain")?;
    ensure!(line["requests"] == 1 && line["bytes_out"] == 300_000, "{line}");
    if line["client_offload"] == "kernel" && appliance.events(event::REQUEST).iter().any(|l| l["data_path"] == SPLICED)
    {
        ensure!(line["bytes_spliced"].as_u64() > Some(200_000), "{line}");
    }
    thread::sleep(Duration::from_millis(100));
    ensure!(appliance.events("connection").len() == ENDS.len() + 1, "{:?}", appliance.events("connection"));
    Ok(())
}
