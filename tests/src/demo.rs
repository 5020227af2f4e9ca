//! The demo: caller, appliance and origin as three hosts, and the appliance's main job shown on them with real curl.
//!
//! Run by `cargo xtask demo`, on this machine or in a virtual machine; takes the same environment as the end-to-end
//! tests. Ends with a table of what was shown; the exit code is 1 if anything was not.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{UNREGISTERED_SOURCE, event, mydata};
use mtls_appliance_tests::harness::{self, Appliance, BpfFs, Feature, Lab, Net, Origin, TlsStat};
use mtls_appliance_tests::pattern;
use serde_json::Value;

/// Bytes that are carried each way.
const LARGE: u64 = 64 << 20;

fn main() -> ExitCode {
    if let Some(code) = harness::run_as_origin() {
        return code;
    }
    let shown = show();
    harness::clean_up();
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The three hosts, and what runs on them.
struct Stage<'a> {
    lab: &'a Lab,
    net: Net,
    origin: Origin,
    appliance: Appliance,
    /// `None` where the kernel has no TLS.
    before: Option<TlsStat>,
}

fn show() -> anyhow::Result<bool> {
    Feature::Netns.need().context("the demo lays out three hosts as network namespaces")?;
    let lab = Lab::create()?;
    let folder = lab.path("bpf");
    let _bpf = BpfFs::mount(&folder)?;
    let net = Net::create()?;
    say("three hosts: caller 10.77.2.2 (registered) and 10.77.3.2 (not) -> appliance -> origin 10.77.9.2");
    let pins = folder.join("guard").display().to_string();
    let (origin, appliance) = lab.appliance_in(&net, |settings| {
        settings
            .set("guard.interfaces", vec![Net::FRONT])
            .set("guard.ports", vec![i64::from(Net::PORT)])
            .set("guard.pin_dir", pins)
    })?;
    let started = appliance.events("started").pop().unwrap_or_default();
    say(&format!("kernel {}; sessions: {}", text(&started["kernel"]), text(&started["offload"])));
    say(&format!(
        "guard: {} on {}",
        text(&started["guard"][0]["attached_as"]),
        text(&started["guard"][0]["interface"])
    ));

    let before = TlsStat::of(appliance.pid()).ok();
    let mut stage = Stage { lab: &lab, net, origin, appliance, before };
    type Show = fn(&mut Stage<'_>) -> anyhow::Result<String>;
    let acts: [(&str, Show); 8] = [
        ("a registered caller gets its answer", registered_caller),
        ("a forged identity header does not get through", forged_header),
        ("an unregistered certificate is refused", unregistered_certificate),
        ("a caller without a certificate is refused", no_certificate),
        ("an unregistered address is dropped at the NIC", unregistered_address),
        ("a 64 MiB download arrives unchanged", download),
        ("a 64 MiB upload arrives unchanged", upload),
        ("both sessions were in the kernel, bodies spliced", in_kernel),
    ];
    let mut table = Vec::new();
    for (what, act) in acts {
        say(what);
        let result = act(&mut stage);
        match &result {
            Ok(detail) => println!("   {detail}"),
            Err(error) => println!("   NOT SHOWN: {error:#}"),
        }
        table.push((what, result));
    }
    println!("\n{:<52} shown", "what");
    println!("{:-<52} -----", "");
    for (what, result) in &table {
        println!("{what:<52} {}", if result.is_ok() { "yes" } else { "NO" });
    }
    Ok(table.iter().all(|(_, result)| result.is_ok()))
}

fn say(text: &str) {
    println!("\n== {text}");
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn at(ip: &str) -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse::<IpAddr>()?, Net::PORT))
}

impl Stage<'_> {
    /// curl on the caller's host, from a registered address.
    fn curl(&self) -> anyhow::Result<harness::Curl> {
        Ok(self.lab.curl_at(&self.net.caller, at(Net::REGISTERED)?).seconds(300))
    }
}

/// What the origin saw, as lines.
fn fields(seen: &Value) -> Vec<(String, String)> {
    let pairs = seen["headers"].as_array().cloned().unwrap_or_default();
    pairs.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn registered_caller(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let answer = stage.curl()?.identity("client-korean").ok("/headers")?;
    let seen = answer.json()?;
    println!("   the origin saw: {}", text(&seen["request_line"]));
    for (name, value) in fields(&seen) {
        println!("      {name}: {value}");
    }
    for name in mydata::ALL {
        ensure!(fields(&seen).iter().any(|(field, _)| field == name), "the origin did not see {name}");
    }
    let peer = stage.origin.wait_journal("connection", |_| true)?;
    Ok(format!("200; the origin demanded and checked our certificate ({})", text(&peer["client_subject"])))
}

fn forged_header(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let forged = ["X-MyData-Client-SerialNumber", "X_MyData_Client_SerialNumber", "x.mydata.client.serialnumber"];
    let mut curl = stage.curl()?.identity("client-p256");
    for name in forged {
        curl = curl.header(&format!("{name}: 999-99-99999"));
    }
    let seen = curl.header("Connection: X-Trace").ok("/headers")?.json()?;
    ensure!(!seen.to_string().contains("999-99-99999"), "the forged value got through: {seen}");
    let real: Vec<_> = fields(&seen).into_iter().filter(|(name, _)| name == mydata::SERIAL_NUMBER).collect();
    ensure!(real.len() == 1, "{} {} fields", real.len(), mydata::SERIAL_NUMBER);
    Ok(format!("sent in {} spellings; the origin saw only {}: {}", forged.len(), real[0].0, real[0].1))
}

fn refused(stage: &mut Stage<'_>, curl: &harness::Curl, reason: &str) -> anyhow::Result<String> {
    let answer = curl.get("/headers")?;
    ensure!(answer.exit != 0 && answer.status == 0, "not refused: {answer}");
    let line = stage.appliance.wait_event(event::HANDSHAKE_FAILED, |line| line["reason"] == reason)?;
    let said = answer.stderr.lines().find(|line| line.contains("curl:")).unwrap_or_default().to_owned();
    Ok(format!("{said}\n   log: reason {}, subject {}", text(&line["reason"]), text(&line["subject"])))
}

fn unregistered_certificate(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let curl = stage.curl()?.identity("client-unregistered");
    refused(stage, &curl, "unregistered_serial_number")
}

fn no_certificate(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let curl = stage.curl()?;
    refused(stage, &curl, "no_certificate")
}

fn unregistered_address(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let before = stage.appliance.guard_packets(UNREGISTERED_SOURCE)?;
    let curl = stage.lab.curl_at(&stage.net.caller, at(Net::UNREGISTERED)?).identity("client-p256").seconds(3);
    let answer = curl.get("/headers")?;
    ensure!(answer.exit == 28, "not a time-out: {answer}");
    let after = stage.appliance.wait_guard_packets(UNREGISTERED_SOURCE, before + 1)?;
    Ok(format!(
        "a good certificate from 10.77.3.2 got no SYN-ACK; the XDP program's counter rose by {}",
        after - before
    ))
}

fn download(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let answer = stage.curl()?.identity("client-p256").ok(&format!("/bytes/{LARGE}"))?;
    answer.must_be_pattern(LARGE)?;
    Ok(format!("{} bytes, SHA-256 {}", answer.length, answer.sha256))
}

fn upload(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    let curl = stage.curl()?.identity("client-p256").upload_chunked(LARGE);
    let seen = curl.ok("/sha256")?.json()?;
    ensure!(seen["bytes"] == LARGE && seen["sha256"] == pattern::sha256(LARGE), "{seen}");
    Ok(format!("{LARGE} bytes, SHA-256 {}", text(&seen["sha256"])))
}

fn in_kernel(stage: &mut Stage<'_>) -> anyhow::Result<String> {
    Feature::Ktls.need()?;
    let before = stage.before.as_ref().context("/proc/net/tls_stat could not be read at the start")?;
    let after = TlsStat::of(stage.appliance.pid())?;
    let rose = |name| after.since(before, name);
    println!(
        "   /proc/net/tls_stat in the appliance's host: TlsTxSw +{}, TlsRxSw +{}",
        rose("TlsTxSw"),
        rose("TlsRxSw")
    );
    ensure!(rose("TlsDecryptError") == 0, "TlsDecryptError rose by {}", rose("TlsDecryptError"));
    let sessions = |side: &str| stage.appliance.counter(&format!("{side}_sessions_offloaded"));
    let (client, origin) = (sessions("client")?, sessions("origin")?);
    ensure!(client >= 4 && origin >= 2, "{client} sessions with callers and {origin} with the origin");
    ensure!(rose("TlsTxSw") >= client + origin && rose("TlsRxSw") >= client + origin, "{after:?}");
    let spliced = stage.appliance.counter("bytes_spliced")?;
    ensure!(spliced >= LARGE, "only {spliced} bytes were spliced");
    Ok(format!("{client} sessions with callers, {origin} with the origin; {spliced} body bytes spliced"))
}
