//! TLS control records after the hand-over: key updates, alerts, close_notify, in every state of a connection.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::ensure;
use mtls_appliance_tests::harness::names::event;
use mtls_appliance_tests::harness::{
    Appliance, Cipher, Client, Deadline, Feature, HANDSHAKE, Lab, Origin, OriginKind, Place, RawClient, Settings, Tap,
    wait_until,
};
use mtls_appliance_tests::pattern;

use crate::case::cases;

cases!("records":
    a_caller_renews_its_keys_between_requests,
    a_caller_renews_its_keys_within_an_upload,
    a_caller_renews_its_keys_during_a_download,
    a_flood_of_key_updates_ends_the_connection,
    an_idle_caller_that_says_close_notify_gets_one_back,
    close_notify_within_a_head_is_no_request,
    the_origins_tickets_do_not_disturb_the_answer,
    half_a_control_message_harms_nobody,
    tls_1_2_uses_no_nonce_twice,
    a_key_that_is_used_up_is_renewed_or_its_connection_ends,
);

const CHANGE_CIPHER_SPEC: u8 = 20;

/// Whether a session can follow new keys here: always in userspace, in the kernel from 6.14 on.
pub(crate) fn can_renew() -> anyhow::Result<bool> {
    if Feature::Ktls.missing().is_some() {
        return Ok(true);
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(version >= (6, 14))
}

/// The counters of a kernel session are added up when it ends.
fn renewed(appliance: &Appliance, client: Client, at_least: u64) -> anyhow::Result<()> {
    drop(client);
    if Feature::Ktls.missing().is_some() {
        return Ok(());
    }
    wait_until("renewed keys to be counted", Deadline::seconds(10), || {
        Ok((appliance.counter("keys_renewed")? >= at_least).then_some(()))
    })
}

/// On a kernel that cannot renew keys the connection ends, said to be for that, and nothing else is harmed.
fn ended_for_it(lab: &Lab, appliance: &mut Appliance, before: u64) -> anyhow::Result<()> {
    wait_until("the reason to be counted", Deadline::seconds(10), || Ok((ends(appliance)? > before).then_some(())))?;
    ensure!(lab.client(appliance)?.get("/bytes/100", &[])?.body == pattern::bytes(100));
    appliance.must_be_alive()
}

fn ends(appliance: &Appliance) -> anyhow::Result<u64> {
    let status = appliance.status()?;
    let counters = status["counters"].as_object().cloned().unwrap_or_default();
    let named = counters.iter().filter(|(name, _)| name.ends_with(".key_update_not_possible"));
    Ok(named.filter_map(|(_, value)| value.as_u64()).sum())
}

fn a_caller_renews_its_keys_between_requests(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/100", &[])?.body == pattern::bytes(100));
    if !can_renew()? {
        let before = ends(&appliance)?;
        client.update_keys()?;
        ensure!(client.get("/bytes/100", &[]).is_err(), "an answer over a session that cannot be read any more");
        return ended_for_it(lab, &mut appliance, before);
    }
    for length in [100, 50_000, 1_000_000] {
        client.update_keys()?;
        ensure!(client.get(&format!("/bytes/{length}"), &[])?.sha256 == pattern::sha256(length), "{length}");
    }
    // Each update asked for ours as well.
    renewed(&appliance, client, 6)
}

fn a_caller_renews_its_keys_within_an_upload(lab: &Lab) -> anyhow::Result<()> {
    let length: u64 = 3_000_000;
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let before = ends(&appliance)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("POST", "/sha256", &[&format!("Content-Length: {length}")])?;
    let body = pattern::bytes(usize::try_from(length)?);
    let mut sent = Ok(());
    for piece in body.chunks(500_000) {
        sent = client.send(piece).and_then(|()| client.update_keys());
        if sent.is_err() {
            break;
        }
    }
    let response = client.response("POST");
    if !can_renew()? {
        // The rest of the body could not be read: no answer may say that it arrived.
        ensure!(response.map_or(true, |response| response.status != 200));
        let whole = origin.journal("body")?.iter().any(|body| body["bytes"] == length);
        ensure!(!whole, "the origin took a cut-off upload for whole");
        return ended_for_it(lab, &mut appliance, before);
    }
    sent?;
    let answer = response?.json()?;
    ensure!(answer["sha256"] == pattern::sha256(length), "{answer}");
    renewed(&appliance, client, 6)
}

fn a_caller_renews_its_keys_during_a_download(lab: &Lab) -> anyhow::Result<()> {
    let length = 3_000_000;
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("GET", &format!("/bytes/{length}"), &[])?;
    client.update_keys()?;
    let response = client.response("GET");
    if !can_renew()? {
        // Nothing is read from the caller while it gets its answer, so the answer is whole; the connection ends after it.
        if let Ok(response) = response {
            ensure!(response.sha256 == pattern::sha256(length), "not the bytes that were sent");
        }
        ensure!(client.get("/bytes/1", &[]).is_err());
        return ended_for_it(lab, &mut appliance, 0);
    }
    ensure!(response?.sha256 == pattern::sha256(length));
    ensure!(client.get("/bytes/100", &[])?.body == pattern::bytes(100));
    renewed(&appliance, client, 2)
}

fn a_flood_of_key_updates_ends_the_connection(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/1", &[])?.status == 200);
    for _ in 0..10_000 {
        if client.update_keys().is_err() {
            break;
        }
    }
    ensure!(client.get("/bytes/1", &[]).is_err(), "10,000 key updates in a row were taken");
    ensure!(lab.client(&appliance)?.get("/bytes/1", &[])?.status == 200);
    appliance.must_be_alive()
}

fn an_idle_caller_that_says_close_notify_gets_one_back(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for _ in 0..10 {
        let mut client = lab.client(&appliance)?;
        ensure!(client.get("/bytes/100", &[])?.status == 200);
        client.close_notify()?;
        let (rest, clean) = client.read_to_end()?;
        ensure!(rest.is_empty() && clean, "{} bytes, close_notify: {clean}", rest.len());
    }
    Ok(())
}

fn close_notify_within_a_head_is_no_request(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send("GET /bytes/1 HTTP/1.1\r\nHost: api.bank.test\r\n")?;
    client.close_notify()?;
    let (rest, _) = client.read_to_end()?;
    ensure!(!rest.starts_with(b"HTTP/1.1 200"), "half a head was answered");
    std::thread::sleep(Duration::from_millis(100));
    ensure!(origin.journal("request")?.is_empty(), "half a head reached the origin");
    appliance.must_be_alive()
}

fn the_origins_tickets_do_not_disturb_the_answer(lab: &Lab) -> anyhow::Result<()> {
    // The origin sends two NewSessionTickets right behind the handshake: control records ahead of the first answer.
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for length in [0, 1, 20_000, 2_000_000] {
        let mut client = lab.client(&appliance)?;
        ensure!(client.get(&format!("/bytes/{length}"), &["Connection: close"])?.sha256 == pattern::sha256(length));
    }
    if Feature::Ktls.missing().is_none() {
        ensure!(appliance.wait_counter("origin_sessions_offloaded", 1)? > 0);
    }
    Ok(())
}

fn half_a_control_message_harms_nobody(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let settings = |mode: &'static str| move |s: Settings| s.set("offload.mode", mode).set("timeouts.body", "1s");
    let raw = RawClient::new(lab, "client-p256", "edge-ca", "api.bank.test")?;
    for mode in ["auto", "off"] {
        let mut appliance = lab.appliance_with(&origin, settings(mode))?;
        for head in [&b""[..], b"POST /sha256 HTTP/1.1\r\nHost: api.bank.test\r\nContent-Length: 9\r\n\r\n"] {
            let (_reader, mut writer) =
                raw.connect(appliance.address(), Cipher::Aes128, None, Duration::from_secs(20))?;
            if !head.is_empty() {
                writer.send(head)?;
            }
            // The first byte of a KeyUpdate; then either an answer is due (408) or the end of the connection.
            let half = writer.seal(HANDSHAKE, &[24], 0)?;
            writer.write(&half)?;
            if head.is_empty() {
                writer.fin()?;
            }
            appliance.wait_event("connection", |_| true)?;
            ensure!(lab.client(&appliance)?.get("/bytes/100", &[])?.body == pattern::bytes(100));
        }
        appliance.must_be_alive()?;
    }
    Ok(())
}

/// The explicit nonces of the protected records of one direction of a TLS 1.2 connection with AES-GCM (RFC 5288 3).
fn nonces(mut wire: &[u8]) -> Vec<&[u8]> {
    let mut nonces = Vec::new();
    let mut protected = false;
    while let [kind, _, _, high, low, rest @ ..] = wire {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (record, next) = rest.split_at(length);
        if protected {
            nonces.push(&record[..8.min(length)]);
        }
        protected |= *kind == CHANGE_CIPHER_SPEC;
        wire = next;
    }
    nonces
}

fn tls_1_2_uses_no_nonce_twice(lab: &Lab) -> anyhow::Result<()> {
    // One that was used twice would give the key of the authentication away. Sessions change hands behind the Finished, or
    // behind the first small messages.
    ["handshake", "16KiB"].into_iter().try_for_each(|from| nonces_differ(lab, from))
}

fn nonces_differ(lab: &Lab, from: &str) -> anyhow::Result<()> {
    let origin = Origin::start(lab, &Place::Here, OriginKind::ScriptedTls12, lab.free_address()?)?;
    let behind = Tap::new(origin.address())?;
    let settings = lab.settings(lab.free_address()?, behind.address)?;
    let settings = settings.set("tls.minimum_version", "1.2").set("origin.minimum_version", "1.2");
    let settings = settings.set("offload.hand_over_from", from);
    let appliance = Appliance::start(lab, &Place::Here, &settings)?;
    let before = Tap::new(appliance.address())?;
    let tls = lab.tls("client-p256")?.only(&rustls::version::TLS12)?;
    let mut client = Client::connect(&Place::Here, before.address, &tls)?;
    for length in [10, 100_000] {
        ensure!(client.get(&format!("/bytes/{length}"), &[])?.sha256 == pattern::sha256(length));
        ensure!(client.post("/sha256", &vec![7; usize::try_from(length)?])?.status == 200);
    }
    for wire in before.seen().iter().chain(&behind.seen()) {
        let nonces = nonces(wire);
        let different: HashSet<_> = nonces.iter().collect();
        ensure!(nonces.len() > 8, "only {} protected records", nonces.len());
        ensure!(different.len() == nonces.len(), "{} nonces for {} records", different.len(), nonces.len());
    }
    Ok(())
}

fn a_key_that_is_used_up_is_renewed_or_its_connection_ends(lab: &Lab) -> anyhow::Result<()> {
    // Of 16 KiB: a key is good for 1.6 MB, and for 3.2 MB at most where it cannot be renewed.
    const RECORDS: u64 = 100;
    const LONG: usize = 5_000_000;
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| {
        let s = s.set("limits.records_per_key", i64::try_from(RECORDS).unwrap_or_default());
        // What a session to the origin has renewed is counted when it ends.
        s.set("timeouts.origin_idle", "1s")
    })?;
    ensure!(Feature::Ktls.missing().is_some() || appliance.status()?["offload"]["renews_keys"] == can_renew()?);

    if can_renew()? {
        let mut client = lab.client(&appliance)?;
        for round in 0..3 {
            ensure!(client.get(&format!("/bytes/{LONG}"), &[])?.body == pattern::bytes(LONG), "round {round}");
            ensure!(client.post("/echo", &pattern::bytes(LONG))?.body == pattern::bytes(LONG), "round {round}");
        }
        for round in 0..2 * RECORDS {
            ensure!(client.get("/bytes/1000", &[])?.body == pattern::bytes(1000), "round {round}");
        }
        // Six bodies to the caller, and three to the origin, each three keys long; what is left of a key goes to the next.
        renewed(&appliance, client, 6 * 3 + 3 * 2)?;
        return appliance.must_be_alive();
    }

    // The answer that uses the key up is the last one.
    let mut client = lab.client(&appliance)?;
    let mut answers = 0;
    loop {
        let response = client.get("/bytes/1000", &[])?;
        ensure!(response.body == pattern::bytes(1000), "answer {answers}");
        answers += 1;
        if response.head.get("Connection") == Some("close") {
            break;
        }
        ensure!(answers < 2 * RECORDS, "the key is used on and on");
    }
    ensure!(answers >= RECORDS / 2, "only {answers} answers");
    let line = appliance.wait_event("connection", |line| line["requests"] == answers)?;
    ensure!(line["end"] == "key_used_up", "{line}");

    // A body that is too long for it is cut off, and the machine's kernel is to blame.
    let mut client = lab.client(&appliance)?;
    ensure!(client.get(&format!("/bytes/{LONG}"), &[]).is_err(), "more was sent under one key than may be");
    let line = appliance.wait_event(event::REQUEST, |line| !line["reason"].is_null())?;
    ensure!(line["reason"] == "key_used_up" && line["blame"] == "appliance", "{line}");
    ensure!(line["bytes_out"].as_u64() < Some(2 * RECORDS * 16_384 + (1 << 20)), "{line}");
    ensure!(appliance.wait_counter("request_failed.key_used_up", 1)? == 1);
    let mut client = lab.client(&appliance)?;
    ensure!(client.post("/sha256", &pattern::bytes(LONG)).is_err() || appliance.counter("keys_renewed")? == 0);
    ensure!(lab.client(&appliance)?.get("/bytes/1000", &[])?.status == 200);
    appliance.must_be_alive()
}
