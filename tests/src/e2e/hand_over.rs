//! Sessions that begin in userspace and go to the kernel with the first large body (`offload.hand_over_from`).

use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::SPLICED;
use mtls_appliance_tests::harness::{
    ALERT, Appliance, Cipher, Client, DATA, Feature, Incoming, Lab, Net, RECORD, RawClient, Settings, TlsStat,
};
use mtls_appliance_tests::pattern;
use serde_json::Value;

use crate::case::cases;
use crate::records::can_renew;
use crate::tunnels;

cases!("hand_over":
    the_first_large_body_takes_both_sessions_to_the_kernel,
    a_tunnel_goes_to_the_kernel_at_once,
    keys_renewed_in_userspace_are_those_that_the_kernel_gets,
    a_new_key_is_announced_before_the_kernel_uses_it,
    bodies_arrive_whole_wherever_the_hand_over_falls,
    a_caller_who_has_said_all_it_had_to_say_gets_a_large_answer,
    close_notify_that_came_before_the_hand_over_ends_a_body,
);

/// The threshold in these tests.
const FROM: u64 = 16 << 10;

fn later(settings: Settings) -> Settings {
    settings.set("offload.hand_over_from", format!("{FROM}B"))
}

/// Sessions of both directions that the kernel has begun.
fn begun(appliance: &Appliance) -> anyhow::Result<[u64; 2]> {
    let stat = TlsStat::of(appliance.pid())?;
    Ok(["TlsTxSw", "TlsRxSw"].map(|name| stat.count(name)))
}

fn last_line(appliance: &Appliance, requests: usize) -> anyhow::Result<Value> {
    appliance.wait_requests(requests)
}

/// A large body, in each framing and direction.
type Large = fn(&mut Client) -> anyhow::Result<String>;
const LARGE: &[(&str, Large)] = &[
    ("a download of known length", |client| Ok(client.download("/bytes/1000000")?.sha256)),
    ("a download in chunks", |client| Ok(client.download("/chunked/1000000?size=200000")?.sha256)),
    ("a download in small chunks", |client| Ok(client.download("/chunked/1000000?size=1000")?.sha256)),
    ("a download up to the end", |client| Ok(client.download("/close/1000000")?.sha256)),
    ("an upload of known length", |client| {
        Ok(client.upload("/sha256", 1_000_000)?.json()?["sha256"].as_str().unwrap_or_default().to_owned())
    }),
];

fn the_first_large_body_takes_both_sessions_to_the_kernel(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    Feature::Ktls.need()?;
    let net = Net::create()?;
    let settings = |s: Settings| later(s).set("offload.mode", "required").set("origin.pool", "off");
    let (_origin, appliance) = lab.appliance_in(&net, settings)?;
    // Those of the start, which tries out what the kernel can do.
    let (mut requests, mut sessions) = (0, begun(&appliance)?);
    for (what, large) in LARGE {
        let mut client = Client::connect(&net.caller, appliance.address(), &lab.tls("client-p256")?)?;
        for length in [0, 1000, FROM - 1] {
            ensure!(client.get(&format!("/bytes/{length}"), &[])?.sha256 == pattern::sha256(length));
            ensure!(client.post("/sha256", &pattern::bytes(usize::try_from(length)?))?.status == 200);
            requests += 2;
        }
        let line = last_line(&appliance, requests)?;
        ensure!(line["data_path"] == "userspace" && line["data_path_reason"] == "below_threshold", "{what}: {line}");
        ensure!(begun(&appliance)? == sessions, "{what}: the kernel has sessions for small bodies");
        ensure!(large(&mut client)? == pattern::sha256(1_000_000), "{what}: not the bytes that were sent");
        requests += 1;
        let line = last_line(&appliance, requests)?;
        let (path, offload) = (&line["data_path"], [&line["client_offload"], &line["origin_offload"]]);
        ensure!(*path == SPLICED || (*path == "kernel" && what.contains("small chunks")), "{what}: {line}");
        ensure!(offload == ["kernel", "kernel"], "{what}: {line}");
        sessions = sessions.map(|before| before + 2);
        ensure!(begun(&appliance)? == sessions, "{what}: {:?} instead of {sessions:?}", begun(&appliance)?);
    }
    let handed_over = LARGE.len() as u64;
    ensure!(appliance.wait_counter("sessions_handed_over_later", 2 * handed_over)? == 2 * handed_over);
    ensure!(appliance.counter("client_sessions_offloaded")? == handed_over);
    ensure!(appliance.counter("client_sessions_userspace")? == 0);
    ensure!(appliance.counter("origin_sessions_offloaded")? == handed_over);
    ensure!(TlsStat::of(appliance.pid())?.count("TlsDecryptError") == 0);
    Ok(())
}

fn a_tunnel_goes_to_the_kernel_at_once(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    Feature::Ktls.need()?;
    let net = Net::create()?;
    let (_origin, appliance) = lab.appliance_in(&net, |s| later(tunnels::allowing(s, &["websocket"])))?;
    let before = begun(&appliance)?;
    let mut client = Client::connect(&net.caller, appliance.address(), &lab.tls("client-p256")?)?;
    ensure!(client.get("/bytes/10", &[])?.length == 10);
    ensure!(begun(&appliance)? == before);
    tunnels::switch(&mut client, "/tunnel/2000000")?;
    ensure!(client.both_ways(2_000_000, 2_000_000)? == pattern::sha256(2_000_000), "not the bytes that were sent");
    ensure!(begun(&appliance)? == before.map(|sessions| sessions + 2));
    client.close_notify()?;
    ensure!(client.read_to_end()? == (Vec::new(), true));
    ensure!(last_line(&appliance, 2)?["data_path"] == SPLICED);
    Ok(())
}

fn keys_renewed_in_userspace_are_those_that_the_kernel_gets(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, later)?;
    for rounds in [1, 2, 5] {
        let mut client = lab.client(&appliance)?;
        for _ in 0..rounds {
            client.update_keys()?;
            ensure!(client.get("/bytes/100", &[])?.body == pattern::bytes(100));
        }
        // This one is not answered before the head of the body that is handed over.
        client.update_keys()?;
        ensure!(client.upload("/sha256", 1_000_000)?.json()?["sha256"] == pattern::sha256(1_000_000));
        ensure!(client.download("/bytes/1000000")?.sha256 == pattern::sha256(1_000_000));
        if can_renew()? {
            client.update_keys()?;
            ensure!(client.upload("/sha256", 1_000_000)?.json()?["sha256"] == pattern::sha256(1_000_000));
            ensure!(client.download("/bytes/1000000")?.sha256 == pattern::sha256(1_000_000));
        }
    }
    appliance.must_be_alive()
}

fn a_new_key_is_announced_before_the_kernel_uses_it(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, later)?;
    let raw = RawClient::new(lab, "client-p256", "edge-ca", "api.bank.test")?;
    let body = pattern::bytes(100_000);
    for cipher in Cipher::ALL {
        // All in one piece, so that no answer can go out before: a request for renewal, a head, a body.
        let (mut reader, mut writer) = raw.connect(appliance.address(), cipher, None, Duration::from_secs(20))?;
        let head = format!("POST /sha256 HTTP/1.1\r\nHost: api.bank.test\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut wire = writer.key_update(true)?;
        wire.extend(writer.seal(DATA, head.as_bytes(), 0)?);
        wire.extend(writer.key_update(true)?);
        for piece in body.chunks(RECORD) {
            wire.extend(writer.seal(DATA, piece, 0)?);
        }
        let (first, rest) = wire.split_at(30_000);
        writer.write(first)?;
        std::thread::sleep(Duration::from_millis(50));
        writer.write(rest)?;
        let mut buffer = Vec::new();
        let head = Incoming::new(&mut reader, &mut buffer).head()?;
        ensure!(head.status()? == 200, "{cipher:?}: {head:?}");
    }
    Ok(())
}

fn bodies_arrive_whole_wherever_the_hand_over_falls(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, later)?;
    let raw = RawClient::new(lab, "client-p256", "edge-ca", "api.bank.test")?;
    let body = pattern::bytes(60_000);
    let sizes = [50, 300, 1000, 5000, RECORD];
    for (number, size) in sizes.into_iter().cycle().take(15).enumerate() {
        let (mut reader, mut writer) =
            raw.connect(appliance.address(), Cipher::ALL[number % 3], None, Duration::from_secs(20))?;
        let framing = if number % 2 == 0 { "Content-Length: 60000" } else { "Transfer-Encoding: chunked" };
        let mut plain = format!("POST /echo HTTP/1.1\r\nHost: api.bank.test\r\n{framing}\r\n\r\n").into_bytes();
        if number % 2 == 0 {
            plain.extend_from_slice(&body);
        } else {
            for chunk in body.chunks(7_000) {
                plain.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                plain.extend_from_slice(chunk);
                plain.extend_from_slice(b"\r\n");
            }
            plain.extend_from_slice(b"0\r\n\r\n");
        }
        let mut wire = Vec::new();
        for piece in plain.chunks(size) {
            wire.extend(writer.seal(DATA, piece, 0)?);
        }
        // One cut at another place of the records each time, with the time to be handed over there.
        let cut = wire.len() * (number + 1) / 18;
        writer.write(&wire[..cut])?;
        std::thread::sleep(Duration::from_millis(20));
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let sending = scope.spawn(|| writer.write(&wire[cut..]));
            let mut buffer = Vec::new();
            let mut incoming = Incoming::new(&mut reader, &mut buffer);
            let head = incoming.head()?;
            ensure!(head.status()? == 200, "{head:?}");
            let mut back = Vec::new();
            incoming.body(head.response_framing("POST")?, &mut |bytes| back.extend_from_slice(bytes))?;
            ensure!(back == body, "records of {size}, cut at {cut}: not the bytes that were sent");
            sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
            Ok(())
        })?;
    }
    Ok(())
}

fn a_caller_who_has_said_all_it_had_to_say_gets_a_large_answer(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, later)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("GET", "/bytes/1000000", &[])?;
    client.close_notify()?;
    ensure!(client.response("GET")?.sha256 == pattern::sha256(1_000_000));
    ensure!(appliance.wait_requests(1)?["reason"].is_null());
    Ok(())
}

fn close_notify_that_came_before_the_hand_over_ends_a_body(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, later)?;
    let raw = RawClient::new(lab, "client-p256", "edge-ca", "api.bank.test")?;
    let part = pattern::bytes(4_000);
    for (number, (framing, before)) in
        [("Content-Length: 1000000", ""), ("Transfer-Encoding: chunked", "f4240\r\n")].into_iter().enumerate()
    {
        // All in one piece, so that it is read at once: a head, the first part of a large body, close_notify.
        let (mut reader, mut writer) =
            raw.connect(appliance.address(), Cipher::ALL[number], None, Duration::from_secs(20))?;
        let head = format!("POST /sha256 HTTP/1.1\r\nHost: api.bank.test\r\n{framing}\r\n\r\n{before}");
        let mut wire = writer.seal(DATA, head.as_bytes(), 0)?;
        wire.extend(writer.seal(DATA, &part, 0)?);
        wire.extend(writer.seal(ALERT, &[1, 0], 0)?);
        writer.write(&wire)?;
        let mut buffer = Vec::new();
        let head = Incoming::new(&mut reader, &mut buffer).head().context(framing)?;
        ensure!(head.status()? == 400, "{framing}: {head:?}");
        let line = appliance.wait_requests(number + 1)?;
        ensure!(line["reason"] == "body_incomplete" && line["blame"] == "client", "{framing}: {line}");
    }
    Ok(())
}
