//! An origin whose process is killed or stopped amid a body, in every framing: nobody takes a part for the whole, who
//! waits is told in time, and what comes back is used again.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{
    Appliance, Client, Deadline, Lab, Origin, OriginKind, Place, Resources, Response, wait_until,
};
use mtls_appliance_tests::pattern;
use rustix::process::Signal;

use crate::case::cases;

cases!("origin_ends":
    an_origin_killed_amid_an_answer_leaves_it_broken,
    an_origin_killed_amid_an_upload_is_a_502_or_a_broken_connection,
    an_origin_stopped_amid_an_answer_ends_it_at_the_body_deadline,
    an_origin_that_stops_reading_ends_the_upload_at_the_body_deadline,
    an_origin_stopped_for_a_while_gets_the_whole_upload,
    a_caller_that_stops_reading_for_a_while_gets_the_whole_answer,
);

/// More than sockets and pipes hold on the way.
const LONG: u64 = 40_000_000;
/// More than they hold, and soon moved.
const HANDY: u64 = 30_000_000;
const DEADLINE: Duration = Duration::from_secs(2);
/// Resident memory that one body on its way may cost.
const BODY_KIB: u64 = 4 * 1024;

/// Answers of that length in every framing.
fn answers(length: u64) -> [String; 3] {
    [format!("/bytes/{length}"), format!("/chunked/{length}?size=100000"), format!("/close/{length}")]
}

/// The rest of an upload in one of the framings, as far as the appliance takes it; `length` in whole pieces.
fn upload(client: &mut Client, length: u64, chunked: bool) -> anyhow::Result<()> {
    let mut piece = vec![0; 100_000];
    // Made as it is sent: a pause at its beginning would be the caller's fault.
    for offset in (0..length).step_by(piece.len()) {
        pattern::fill(offset, &mut piece);
        if chunked {
            client.send(format!("{:x}\r\n", piece.len()))?;
        }
        client.send(&piece)?;
        if chunked {
            client.send("\r\n")?;
        }
    }
    if chunked { client.send("0\r\n\r\n") } else { Ok(()) }
}

/// Its head and first bytes.
fn begin_upload(client: &mut Client, length: u64, chunked: bool) -> anyhow::Result<()> {
    let framing =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", length + 1000) };
    client.send_head("POST", "/sha256", &[&framing])?;
    if chunked {
        client.send(format!("{:x}\r\n", 1000))?
    }
    client.send(pattern::bytes(1000))?;
    if chunked { client.send("\r\n") } else { Ok(()) }
}

/// A caller whose answer has begun to arrive.
fn begin_download(lab: &Lab, appliance: &Appliance, target: &str) -> anyhow::Result<Client> {
    let mut client = lab.client(appliance)?;
    // The tickets, if any, have been read then, so what arrives next is the answer.
    ensure!(client.get("/bytes/10", &[])?.body == pattern::bytes(10));
    client.send_head("GET", target, &[])?;
    client.wait_readable()?;
    Ok(client)
}

/// Only a refusal by the appliance, or no whole answer.
fn must_be_broken(answer: anyhow::Result<Response>, what: &str) -> anyhow::Result<()> {
    if let Ok(response) = answer {
        ensure!(matches!(response.status, 502 | 504), "{what} looks whole: {:?}", response.head);
    }
    Ok(())
}

/// How the access log says that request `count` ended.
fn must_be_the_origins_fault(appliance: &Appliance, count: usize, reason: Option<&str>) -> anyhow::Result<()> {
    let line = appliance.wait_requests(count)?;
    ensure!(line["blame"] == "origin", "{line}");
    ensure!(reason.is_none_or(|reason| line["reason"].as_str().is_some_and(|it| it.ends_with(reason))), "{line}");
    Ok(())
}

fn in_step(lab: &Lab, appliance: &Appliance) -> anyhow::Result<()> {
    let response = lab.client(appliance)?.get("/bytes/20", &[])?;
    ensure!(response.status == 200 && response.body == pattern::bytes(20), "{:?}", response.head);
    Ok(())
}

fn an_origin_killed_amid_an_answer_leaves_it_broken(lab: &Lab) -> anyhow::Result<()> {
    let mut origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for (number, target) in answers(LONG).iter().enumerate() {
        let mut client = begin_download(lab, &appliance, target)?;
        let address = origin.address();
        drop(origin);
        must_be_broken(client.response("GET"), target)?;
        must_be_the_origins_fault(&appliance, 3 * number + 2, None)?;
        origin = Origin::start(lab, &Place::Here, OriginKind::Scripted, address)?;
        in_step(lab, &appliance).context(target.clone())?;
    }
    appliance.must_be_alive()
}

fn an_origin_killed_amid_an_upload_is_a_502_or_a_broken_connection(lab: &Lab) -> anyhow::Result<()> {
    let mut origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for (number, chunked) in [false, true].into_iter().enumerate() {
        let mut client = lab.client(&appliance)?;
        begin_upload(&mut client, LONG, chunked)?;
        origin.wait_journal("request", |_| true)?;
        let address = origin.address();
        drop(origin);
        let _ = upload(&mut client, LONG, chunked);
        must_be_broken(client.response("POST"), "the answer to a lost upload")?;
        must_be_the_origins_fault(&appliance, 2 * number + 1, None)?;
        origin = Origin::start(lab, &Place::Here, OriginKind::Scripted, address)?;
        in_step(lab, &appliance)?;
    }
    appliance.must_be_alive()
}

fn an_origin_stopped_amid_an_answer_ends_it_at_the_body_deadline(lab: &Lab) -> anyhow::Result<()> {
    let mut origin = lab.origin()?;
    let deadline = format!("{}s", DEADLINE.as_secs());
    let mut appliance = lab.appliance_with(&origin, |s| s.set("timeouts.body", deadline))?;
    for (number, target) in answers(LONG).iter().enumerate() {
        let mut client = begin_download(lab, &appliance, target)?;
        origin.process().signal(Signal::STOP)?;
        let begin = Instant::now();
        let answer = client.response("GET");
        let took = begin.elapsed();
        origin.process().signal(Signal::CONT)?;
        must_be_broken(answer, target)?;
        // The last bytes may have come a moment before the origin stopped.
        ensure!(took + Duration::from_millis(500) >= DEADLINE, "{target}: given up after {took:?}");
        ensure!(took < 10 * DEADLINE, "{target}: given up only after {took:?}");
        must_be_the_origins_fault(&appliance, 3 * number + 2, Some("timed_out"))?;
        in_step(lab, &appliance).context(target.clone())?;
    }
    appliance.must_be_alive()
}

fn an_origin_that_stops_reading_ends_the_upload_at_the_body_deadline(lab: &Lab) -> anyhow::Result<()> {
    let mut origin = lab.origin()?;
    let deadline = format!("{}s", DEADLINE.as_secs());
    let mut appliance = lab.appliance_with(&origin, |s| s.set("timeouts.body", deadline))?;
    for (number, chunked) in [false, true].into_iter().enumerate() {
        let mut client = lab.client(&appliance)?;
        begin_upload(&mut client, LONG, chunked)?;
        wait_until("the origin to get the request", Deadline::seconds(20), || {
            Ok((origin.journal("request")?.len() > 2 * number).then_some(()))
        })?;
        origin.process().signal(Signal::STOP)?;
        let begin = Instant::now();
        let _ = upload(&mut client, LONG, chunked);
        let answer = client.response("POST");
        let took = begin.elapsed();
        origin.process().signal(Signal::CONT)?;
        must_be_broken(answer, "the answer to an upload that nobody took")?;
        ensure!(took >= DEADLINE && took < 10 * DEADLINE, "given up after {took:?}");
        must_be_the_origins_fault(&appliance, 2 * number + 1, Some("timed_out"))?;
        in_step(lab, &appliance)?;
    }
    ensure!(origin.journal("body")?.is_empty(), "a part was taken for the whole: {:?}", origin.journal("body")?);
    appliance.must_be_alive()
}

fn an_origin_stopped_for_a_while_gets_the_whole_upload(lab: &Lab) -> anyhow::Result<()> {
    let mut origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    in_step(lab, &appliance)?;
    let start = Resources::of(appliance.pid())?;
    for chunked in [false, true] {
        let mut client = lab.client(&appliance)?;
        begin_upload(&mut client, HANDY, chunked)?;
        origin.process().signal(Signal::STOP)?;
        let most = std::thread::scope(|scope| -> anyhow::Result<u64> {
            let sender = scope.spawn(|| upload(&mut client, HANDY, chunked));
            let mut most = 0;
            let begin = Instant::now();
            while begin.elapsed() < DEADLINE {
                most = most.max(Resources::of(appliance.pid())?.resident_kib);
                std::thread::sleep(Duration::from_millis(100));
            }
            let waits = !sender.is_finished();
            origin.process().signal(Signal::CONT)?;
            sender.join().map_err(|_| anyhow::anyhow!("the caller panicked"))??;
            ensure!(waits, "all of the body was taken although nobody read it");
            Ok(most)
        })?;
        let rise = most.saturating_sub(start.resident_kib);
        ensure!(rise <= BODY_KIB, "{rise} KiB more resident while the origin read nothing, {BODY_KIB} allowed");
        let response = client.response("POST")?;
        ensure!(response.status == 200 && response.json()?["bytes"] == HANDY + 1000, "{:?}", response.text());
        let body: Vec<u8> = [pattern::bytes(1000), pattern::bytes(usize::try_from(HANDY)?)].concat();
        let mut digest = pattern::Sha256::default();
        digest.update(&body);
        ensure!(response.json()?["sha256"] == digest.finish(), "other bytes");
        ensure!(client.get("/bytes/9", &[])?.body == pattern::bytes(9), "the connection is out of step");
    }
    appliance.must_be_alive()
}

fn a_caller_that_stops_reading_for_a_while_gets_the_whole_answer(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    in_step(lab, &appliance)?;
    let start = Resources::of(appliance.pid())?;
    for target in answers(HANDY) {
        let mut client = begin_download(lab, &appliance, &target)?;
        std::thread::sleep(DEADLINE);
        let rise = Resources::of(appliance.pid())?.resident_kib.saturating_sub(start.resident_kib);
        ensure!(rise <= BODY_KIB, "{target}: {rise} KiB more resident while nobody read, {BODY_KIB} allowed");
        let response = client.response("GET")?;
        ensure!(response.length == HANDY && response.sha256 == pattern::sha256(HANDY), "{target}: other bytes");
    }
    appliance.must_be_alive()
}
