//! Large bodies both ways: whole, unchanged, and through the kernel where it has TLS.
//!
//! `MTLS_BIG_MIB` (default 128) is their size.

use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{SPLICED, counter};
use mtls_appliance_tests::harness::{
    Appliance, Client, Deadline, Feature, Lab, Net, Place, Settings, TlsStat, names, wait_until,
};
use mtls_appliance_tests::pattern;
use serde_json::Value;

use crate::case::cases;

cases!("bodies":
    a_large_download_arrives_whole_in_every_framing,
    a_large_upload_arrives_whole_in_both_framings,
    large_bodies_flow_both_ways_at_once,
    both_sessions_are_in_the_kernel_and_bodies_are_spliced,
    tls_1_2_sessions_are_in_the_kernel_too,
    with_offload_off_nothing_is_in_the_kernel,
    the_log_says_when_a_session_stays_in_userspace,
    required_offload_without_kernel_tls_refuses_to_start,
    bytes_sent_together_with_the_handshake_are_not_lost,
    a_slow_reader_does_not_lose_bytes,
    a_slow_origin_is_waited_for,
    a_stalled_body_is_given_up_on,
);

fn big() -> anyhow::Result<u64> {
    let mib = match std::env::var("MTLS_BIG_MIB") {
        Ok(text) => text.parse::<u64>().with_context(|| format!("MTLS_BIG_MIB = {text:?} is not a number"))?,
        Err(_) => 128,
    };
    Ok(mib << 20)
}

/// How many seconds curl may take over a body: an emulated machine moves 6 MiB/s when nothing else runs, at other times 1.
fn patience(length: u64) -> u64 {
    60 + 3 * (length >> 20)
}

/// Time for handshakes beside the digest of a large body on an emulated machine.
fn unhurried(settings: Settings) -> Settings {
    settings.set("timeouts.handshake", "120s")
}

/// Where the kernel has TLS, the line must say that the body was spliced.
fn must_be_spliced(line: &Value) -> anyhow::Result<()> {
    if Feature::Ktls.missing().is_none() || Feature::Ktls.required() {
        ensure!(line["data_path"] == SPLICED, "not spliced: {line}");
    }
    Ok(())
}

fn a_large_download_arrives_whole_in_every_framing(lab: &Lab) -> anyhow::Result<()> {
    let length = big()?;
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, unhurried)?;
    let curl = lab.curl(&appliance, "client-p256").seconds(patience(length));
    curl.ok(&format!("/bytes/{length}"))?.must_be_pattern(length)?;
    let line = appliance.wait_requests(1)?;
    ensure!(line["bytes_out"] == length, "{line}");
    must_be_spliced(&line)?;
    // The other framings at a size that does not take minutes on an emulated machine.
    let length = length.min(32 << 20);
    curl.ok(&format!("/chunked/{length}?size=100000"))?.must_be_pattern(length)?;
    curl.ok(&format!("/close/{length}"))?.must_be_pattern(length)
}

fn a_large_upload_arrives_whole_in_both_framings(lab: &Lab) -> anyhow::Result<()> {
    let length = big()?;
    let expected = pattern::sha256(length);
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, unhurried)?;
    let answer =
        lab.curl(&appliance, "client-rsa").seconds(patience(length)).upload_chunked(length).ok("/sha256")?.json()?;
    ensure!(answer["bytes"] == length && answer["sha256"] == *expected, "{answer}");

    let mut client = lab.client(&appliance)?;
    let answer = client.upload("/sha256", length)?.json()?;
    ensure!(answer["bytes"] == length && answer["sha256"] == *expected, "{answer}");
    let line = appliance.wait_requests(2)?;
    ensure!(line["bytes_in"] == length, "{line}");
    must_be_spliced(&line)
}

fn large_bodies_flow_both_ways_at_once(lab: &Lab) -> anyhow::Result<()> {
    let length = big()?.min(32 << 20);
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, unhurried)?;
    let curl = lab.curl(&appliance, "client-p256").seconds(patience(length)).upload_chunked(length);
    curl.ok("/echo")?.must_be_pattern(length)
}

/// A download and an upload of 8 MiB on one connection in namespaces, and what the kernel counted.
fn counted(
    lab: &Lab,
    change: impl FnOnce(Settings) -> Settings,
    version: Option<&'static rustls::SupportedProtocolVersion>,
    check: impl FnOnce(&Appliance, &TlsStat, &TlsStat, &[Value]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let length = 8 << 20;
    let net = Net::create()?;
    let (_origin, appliance) = lab.appliance_in(&net, change)?;
    let before = TlsStat::of(appliance.pid())?;
    let mut tls = lab.tls("client-p256")?;
    if let Some(version) = version {
        tls = tls.only(version)?;
    }
    let mut client = Client::connect(&net.caller, appliance.address(), &tls)?;
    let download = client.download(&format!("/bytes/{length}"))?;
    ensure!(download.length == length && download.sha256 == pattern::sha256(length), "the download differs");
    let upload = client.upload("/sha256", length)?.json()?;
    ensure!(upload["sha256"] == pattern::sha256(length), "the upload differs: {upload}");
    let lines = [appliance.wait_requests(1)?, appliance.wait_requests(2)?];
    let during = TlsStat::of(appliance.pid())?;
    check(&appliance, &before, &during, &lines)?;
    client.close_notify()?;
    let left = wait_until("the caller's session to leave the kernel", Deadline::seconds(20), || {
        let now = TlsStat::of(appliance.pid())?;
        Ok((now.count("TlsCurrTxSw") <= before.count("TlsCurrTxSw") + 1).then_some(now))
    })?;
    ensure!(left.since(&before, "TlsDecryptError") == 0, "{left:?}");
    Ok(())
}

fn in_the_kernel(appliance: &Appliance, before: &TlsStat, during: &TlsStat, lines: &[Value]) -> anyhow::Result<()> {
    for name in ["TlsTxSw", "TlsRxSw"] {
        ensure!(during.since(before, name) == 2, "{name} rose by {}: {during:?}", during.since(before, name));
    }
    for name in ["TlsDecryptError", "TlsDeviceDecrypted"] {
        ensure!(during.since(before, name) == 0, "{during:?}");
    }
    for line in lines {
        ensure!(line["data_path"] == SPLICED, "{line}");
    }
    let spliced = appliance.counter(counter::BYTES_SPLICED)?;
    ensure!(spliced >= 15 << 20, "only {spliced} bytes were spliced");
    Ok(())
}

fn both_sessions_are_in_the_kernel_and_bodies_are_spliced(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    Feature::Ktls.need()?;
    counted(lab, |s| s.set("offload.mode", "required"), None, in_the_kernel)
}

fn tls_1_2_sessions_are_in_the_kernel_too(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    Feature::Ktls.need()?;
    let settings = |s: Settings| s.set("offload.mode", "required").set("tls.minimum_version", "1.2");
    counted(lab, settings, Some(&rustls::version::TLS12), in_the_kernel)
}

fn with_offload_off_nothing_is_in_the_kernel(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    Feature::Ktls.need()?;
    counted(
        lab,
        |s| s.set("offload.mode", "off"),
        None,
        |appliance, before, during, lines| {
            ensure!(before == during, "{before:?} {during:?}");
            ensure!(lines.iter().all(|line| line["data_path"] != SPLICED), "{lines:?}");
            ensure!(appliance.counter(counter::BYTES_SPLICED)? == 0);
            Ok(())
        },
    )
}

fn the_log_says_when_a_session_stays_in_userspace(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| s.set("offload.mode", "off"))?;
    lab.curl(&appliance, "client-p256").ok("/bytes/10")?;
    let line = appliance.wait_requests(1)?;
    for field in ["client_offload", "origin_offload"] {
        let value = line[field].to_string();
        ensure!(value.len() > 4 && !value.contains("kernel_tls") && value != "null", "{field}: {line}");
    }
    ensure!(line["data_path"] != SPLICED, "{line}");
    ensure!(!appliance.status()?["offload"].is_null());
    Ok(())
}

fn required_offload_without_kernel_tls_refuses_to_start(lab: &Lab) -> anyhow::Result<()> {
    let settings = lab.settings(lab.free_address()?, "127.0.0.1:9".parse()?)?.set("offload.mode", "required");
    // What a kernel without TLS answers to TCP_ULP; the option set before it is the probing socket's SO_REUSEADDR.
    let fault = "setsockopt:error=ENOENT:when=2";
    let finished = Appliance::run_with_fault(lab, &Place::Here, &settings, fault, "TCP_ULP")?;
    let code = finished.status.code();
    ensure!(code == Some(names::EXIT_ENVIRONMENT), "exit {code:?}: {}", finished.output());
    for part in ["offload.mode = \"required\"", "TCP_ULP", "modprobe tls", "offload.mode = \"auto\""] {
        ensure!(finished.stderr.contains(part), "no {part:?}: {}", finished.output());
    }
    ensure!(!lab.path("control.sock").exists(), "the control socket was left behind");
    Ok(())
}

fn bytes_sent_together_with_the_handshake_are_not_lost(lab: &Lab) -> anyhow::Result<()> {
    // Each of these clients sends its request in the same flight as its Finished, before the appliance could have
    // handed the session over.
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let tls = lab.tls("client-p256")?;
    for length in [1, 100, 16_384, 100_000, 1_000_000] {
        let mut client = Client::connect_with(&Place::Here, appliance.address(), &tls, |early| {
            let head = format!("POST /echo HTTP/1.1\r\nHost: api.bank.test\r\nContent-Length: {length}\r\n\r\n");
            early.extend_from_slice(head.as_bytes());
            early.extend_from_slice(&pattern::bytes(length));
        })?;
        let response = client.response("POST")?;
        ensure!(response.body == pattern::bytes(length), "{length} bytes: {} came back", response.length);
        ensure!(client.get("/bytes/9", &[])?.body == pattern::bytes(9), "the connection is out of step");
    }
    Ok(())
}

fn a_slow_reader_does_not_lose_bytes(lab: &Lab) -> anyhow::Result<()> {
    let length = 4 << 20;
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("GET", &format!("/bytes/{length}"), &[])?;
    std::thread::sleep(Duration::from_secs(2));
    let response = client.response("GET")?;
    ensure!(response.length == length && response.sha256 == pattern::sha256(length));
    let limited =
        lab.curl(&appliance, "client-p256").arguments(["--limit-rate", "1M"]).ok(&format!("/bytes/{length}"))?;
    limited.must_be_pattern(length)
}

fn a_slow_origin_is_waited_for(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/slow?ms=1500", &[])?.text() == "slow\n");
    let drip = client.get("/drip/60?ms=20", &[])?;
    ensure!(drip.body == pattern::bytes(60), "{:?}", drip.body);
    Ok(())
}

fn a_stalled_body_is_given_up_on(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set("timeouts.body", "1s"))?;
    let begin = std::time::Instant::now();
    let mut client = lab.client(&appliance)?;
    client.send_head("POST", "/sha256", &["Content-Length: 100000"])?;
    client.send(pattern::bytes(10))?;
    let answer =
        client.read_to_end().map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    ensure!(!answer.contains(" 200 "), "{answer}");
    ensure!(begin.elapsed() < Duration::from_secs(15), "given up only after {:?}", begin.elapsed());
    origin.wait_journal("broken", |_| true)?;
    appliance.must_be_alive()
}
