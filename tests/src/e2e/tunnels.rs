//! Upgrade and the tunnel behind it: bytes both ways, ends passed on as they are, and every end that we decide about.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{SPLICED, event};
use mtls_appliance_tests::harness::{
    Appliance, Client, Deadline, Feature, Lab, Net, Origin, Place, Settings, TlsStat, names, wait_until,
};
use mtls_appliance_tests::pattern;
use rustix::process::Signal;
use serde_json::Value;
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::case::cases;

cases!("tunnels":
    bytes_flow_both_ways_at_once,
    both_sessions_of_a_tunnel_are_in_the_kernel_and_it_is_spliced,
    with_offload_off_a_tunnel_is_copied,
    a_websocket_conversation_goes_through,
    a_websocket_is_refused_where_it_is_not_allowed,
    bytes_behind_either_head_come_first,
    a_callers_end_leaves_the_other_direction_open,
    an_origins_end_leaves_the_other_direction_open,
    what_breaks_off_is_reset_on_the_other_side,
    an_idle_tunnel_is_closed_and_one_that_moves_is_not,
    who_does_not_take_its_bytes_holds_the_sender_back_and_nothing_else,
    who_never_takes_its_bytes_is_given_up,
    a_tunnel_goes_on_while_draining_and_ends_in_order_before_the_deadline,
    a_withdrawn_registration_ends_a_tunnel_and_another_reload_does_not,
    a_certificate_that_expires_ends_a_tunnel_and_an_open_connection,
    keys_are_renewed_within_a_tunnel,
    the_connection_of_a_tunnel_serves_nobody_else,
    a_101_that_nobody_asked_for_is_a_502,
);

const UPGRADE: [&str; 2] = ["Connection: Upgrade", "Upgrade: websocket"];

/// Where callers may switch to these protocols.
pub(crate) fn allowing(settings: Settings, protocols: &[&str]) -> Settings {
    settings.set("sites.all.hosts", vec!["*"]).set("sites.all.upgrade", protocols.to_vec())
}

fn websocket(settings: Settings) -> Settings {
    allowing(settings, &["websocket"])
}

pub(crate) fn switch(client: &mut Client, target: &str) -> anyhow::Result<()> {
    client.send_head("GET", target, &UPGRADE)?;
    switched(client)
}

fn switched(client: &mut Client) -> anyhow::Result<()> {
    let head = client.interim()?;
    ensure!(head.status()? == 101, "{}", head.start);
    for (name, value) in [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("X-Mark", "on")] {
        ensure!(head.all(name).eq([value]), "{name} in {:?}", head.fields);
    }
    Ok(())
}

fn opened(lab: &Lab, appliance: &Appliance, target: &str) -> anyhow::Result<Client> {
    let mut client = lab.client(appliance)?;
    switch(&mut client, target)?;
    Ok(client)
}

fn must_echo(client: &mut Client, length: usize) -> anyhow::Result<()> {
    client.send(pattern::bytes(length))?;
    ensure!(client.take(length as u64)? == pattern::bytes(length), "not the bytes that were sent");
    Ok(())
}

/// The line of the access log, when everything has ended.
fn ended(appliance: &Appliance) -> anyhow::Result<Value> {
    let line = appliance.wait_requests(1)?;
    ensure!(line["status"] == 101, "{line}");
    wait_until("the tunnel to be counted as closed", Deadline::seconds(10), || {
        Ok((appliance.counter("tunnels_open")? == 0).then_some(()))
    })?;
    Ok(line)
}

/// The origin's end of the tunnel: how many bytes it got, and that they ended as said.
fn arrived(origin: &Origin, length: u64, proper: bool) -> anyhow::Result<()> {
    let tunnel = origin.wait_journal("tunnel", |_| true)?;
    ensure!(tunnel["proper"] == proper, "{tunnel}");
    if proper {
        ensure!(tunnel["bytes"] == length && tunnel["sha256"] == pattern::sha256(length), "{tunnel}");
    }
    Ok(())
}

fn bytes_flow_both_ways_at_once(lab: &Lab) -> anyhow::Result<()> {
    let (up, down) = (6_000_000, 9_000_000);
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, websocket)?;
    let mut client = opened(lab, &appliance, &format!("/tunnel/{down}"))?;
    ensure!(appliance.counter("tunnels_open")? == 1);
    ensure!(client.both_ways(up, down)? == pattern::sha256(down), "not the bytes that the origin sent");
    client.close_notify()?;
    ensure!(client.read_to_end()? == (Vec::new(), true));
    arrived(&origin, up, true)?;
    let line = ended(&appliance)?;
    ensure!(line["bytes_in"] == up && line["bytes_out"] == down && line["reason"].is_null(), "{line}");
    ensure!(line["duration_ms"].as_u64().is_some_and(|ms| ms > 0) && line["path"] == format!("/tunnel/{down}"));
    ensure!(appliance.wait_counter("tunnels_opened", 1)? == 1 && appliance.counter("tunnel_bytes")? == up + down);
    let seen = &origin.journal("request")?[0]["headers"];
    for field in [r#"["Upgrade","websocket"]"#, r#"["Connection","Upgrade"]"#, names::mydata::SERIAL_NUMBER] {
        ensure!(seen.to_string().contains(field), "{field} is not in {seen}");
    }
    Ok(())
}

fn both_sessions_of_a_tunnel_are_in_the_kernel_and_it_is_spliced(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    Feature::Ktls.need()?;
    let length = 8 << 20;
    let net = Net::create()?;
    let (origin, appliance) = lab.appliance_in(&net, |s| websocket(s).set("offload.mode", "required"))?;
    let before = TlsStat::of(appliance.pid())?;
    let mut client = Client::connect(&net.caller, appliance.address(), &lab.tls("client-p256")?)?;
    switch(&mut client, &format!("/tunnel/{length}"))?;
    ensure!(client.both_ways(length, length)? == pattern::sha256(length), "not the bytes that the origin sent");
    let during = TlsStat::of(appliance.pid())?;
    for name in ["TlsTxSw", "TlsRxSw"] {
        ensure!(during.since(&before, name) == 2, "{name} rose by {}: {during:?}", during.since(&before, name));
    }
    client.close_notify()?;
    ensure!(client.read_to_end()? == (Vec::new(), true));
    arrived(&origin, length, true)?;
    let line = ended(&appliance)?;
    ensure!(line["data_path"] == SPLICED && line["bytes_in"] == length && line["bytes_out"] == length, "{line}");
    let spliced = appliance.counter(names::counter::BYTES_SPLICED)?;
    ensure!(spliced >= 15 << 20, "only {spliced} bytes of {} were spliced", 2 * length);
    ensure!(TlsStat::of(appliance.pid())?.since(&before, "TlsDecryptError") == 0);
    Ok(())
}

fn with_offload_off_a_tunnel_is_copied(lab: &Lab) -> anyhow::Result<()> {
    let length = 3_000_000;
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| websocket(s).set("offload.mode", "off"))?;
    let mut client = opened(lab, &appliance, &format!("/tunnel/{length}"))?;
    ensure!(client.both_ways(length, length)? == pattern::sha256(length));
    client.close_notify()?;
    ensure!(client.read_to_end()? == (Vec::new(), true));
    arrived(&origin, length, true)?;
    let line = ended(&appliance)?;
    ensure!(line["data_path"] == "userspace" && line["bytes_in"] == length && line["bytes_out"] == length, "{line}");
    Ok(())
}

fn a_websocket_conversation_goes_through(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, websocket)?;
    let mut socket = lab.client(&appliance)?.websocket("/websocket")?;
    ensure!(socket.read()? == Message::text("hello"));
    for message in
        [Message::text("\u{d55c}\u{ac15}"), Message::binary(pattern::bytes(3_000_000)), Message::binary(vec![])]
    {
        socket.send(message.clone())?;
        ensure!(socket.read()? == message, "not the message that was sent");
    }
    socket.send(Message::Ping("p".into()))?;
    ensure!(socket.read()? == Message::Pong("p".into()));
    socket.close(Some(CloseFrame { code: CloseCode::Normal, reason: "done".into() }))?;
    let Message::Close(Some(frame)) = socket.read()? else { anyhow::bail!("no close came back") };
    ensure!(frame.code == CloseCode::Normal, "{frame:?}");
    ensure!(matches!(socket.read(), Err(tungstenite::Error::ConnectionClosed)), "the origin did not end it");
    drop(socket);
    let tunnel = origin.wait_journal("tunnel", |_| true)?;
    ensure!(tunnel["bytes"] == 3_000_006, "{tunnel}");
    ended(&appliance)?;
    Ok(())
}

fn a_websocket_is_refused_where_it_is_not_allowed(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    for protocols in [&[][..], &["chat"]] {
        let appliance = lab.appliance_with(&origin, |s| allowing(s, protocols))?;
        // An origin that insists switches all the same.
        let error = lab.client(&appliance)?.websocket("/websocket").err().context("it was let through")?;
        ensure!(error.to_string().contains("502"), "{error}");
        ensure!(appliance.wait_counter("upgrade_dropped.protocol_not_allowed", 1)? == 1);
        ensure!(appliance.counter("tunnels_opened")? == 0);
    }
    Ok(())
}

fn bytes_behind_either_head_come_first(lab: &Lab) -> anyhow::Result<()> {
    let head = |target: &str| {
        let fields = UPGRADE.join("\r\n");
        format!("GET {target} HTTP/1.1\r\nHost: api.bank.test\r\n{fields}\r\n\r\n").into_bytes()
    };
    for length in [5, 20_000, 100_000] {
        let origin = lab.origin()?;
        let appliance = lab.appliance_with(&origin, websocket)?;
        // In the record of the head, in that of the handshake, and the origin's in that of its head.
        let sent = [head(&format!("/tunnel/{length}")), pattern::bytes(length)].concat();
        let tls = lab.tls("client-p256")?;
        let mut with_handshake = Client::connect_with(&Place::Here, appliance.address(), &tls, |early| {
            early.extend_from_slice(&sent);
        })?;
        let mut with_head = lab.client(&appliance)?;
        with_head.send(&sent)?;
        for client in [&mut with_handshake, &mut with_head] {
            switched(client)?;
            ensure!(client.take(length as u64)? == pattern::bytes(length), "{length}");
            client.close_notify()?;
            ensure!(client.read_to_end()? == (Vec::new(), true));
        }
        let whole = wait_until("both tunnels to end", Deadline::seconds(10), || {
            let tunnels = origin.journal("tunnel")?;
            Ok((tunnels.len() == 2).then_some(tunnels))
        })?;
        for tunnel in whole {
            ensure!(
                tunnel["sha256"] == pattern::sha256(length as u64) && tunnel["proper"] == true,
                "{length}: {tunnel}"
            );
        }
    }
    Ok(())
}

fn a_callers_end_leaves_the_other_direction_open(lab: &Lab) -> anyhow::Result<()> {
    for (up, down) in [(0, 10), (10, 0), (100_000, 5_000_000), (5_000_000, 5_000_000)] {
        let origin = lab.origin()?;
        let appliance = lab.appliance_with(&origin, websocket)?;
        let mut client = opened(lab, &appliance, &format!("/tunnel/{down}?after=true"))?;
        client.both_ways(up, 0)?;
        client.must_stay_silent(Duration::from_millis(200))?;
        client.close_notify()?;
        // The origin sends only now, and then ends.
        let (rest, proper) = client.read_to_end()?;
        ensure!(proper && rest == pattern::bytes(usize::try_from(down)?), "{} of {down}, {proper}", rest.len());
        arrived(&origin, up, true)?;
        let line = ended(&appliance)?;
        ensure!(line["bytes_in"] == up && line["bytes_out"] == down && line["reason"].is_null(), "{line}");
    }
    Ok(())
}

fn an_origins_end_leaves_the_other_direction_open(lab: &Lab) -> anyhow::Result<()> {
    for (up, down) in [(10, 0), (5_000_000, 100_000)] {
        let origin = lab.origin()?;
        let appliance = lab.appliance_with(&origin, websocket)?;
        let mut client = opened(lab, &appliance, &format!("/tunnel/{down}"))?;
        let (rest, proper) = client.read_to_end()?;
        ensure!(proper && rest == pattern::bytes(usize::try_from(down)?), "{} of {down}, {proper}", rest.len());
        ensure!(
            origin.journal("tunnel")?.is_empty() && appliance.counter("tunnels_open")? == 1,
            "both ways are closed"
        );
        client.both_ways(up, 0)?;
        client.close_notify()?;
        arrived(&origin, up, true)?;
        let line = ended(&appliance)?;
        ensure!(line["bytes_in"] == up && line["bytes_out"] == down && line["reason"].is_null(), "{line}");
    }
    Ok(())
}

fn what_breaks_off_is_reset_on_the_other_side(lab: &Lab) -> anyhow::Result<()> {
    for how in ["fin", "rst"] {
        for length in [0, 50, 3_000_000] {
            let origin = lab.origin()?;
            let appliance = lab.appliance_with(&origin, websocket)?;
            let mut client = opened(lab, &appliance, &format!("/tunnel/{length}?how={how}"))?;
            let (_, proper) = client.read_to_end()?;
            ensure!(!proper, "{how} after {length} bytes looks like a proper end");
            let line = ended(&appliance)?;
            ensure!(line["blame"] == "origin", "{line}");
        }
    }
    let ends: [fn(Client) -> anyhow::Result<()>; 3] = [|mut client| client.fin(), Client::reset, |_| Ok(())];
    for end in ends {
        let origin = lab.origin()?;
        let mut appliance = lab.appliance_with(&origin, websocket)?;
        let mut client = opened(lab, &appliance, "/tunnel/0?stay=")?;
        client.send(pattern::bytes(50_000))?;
        end(client)?;
        arrived(&origin, 0, false)?;
        let line = ended(&appliance)?;
        ensure!(line["blame"] == "client" && line["bytes_in"].as_u64() <= Some(50_000), "{line}");
        appliance.must_be_alive()?;
    }
    Ok(())
}

fn an_idle_tunnel_is_closed_and_one_that_moves_is_not(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| websocket(s).set("timeouts.tunnel_idle", "2s"))?;
    let mut client = opened(lab, &appliance, "/tunnel/0?stay=")?;
    // One direction alone keeps it open.
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(500));
        client.send("x")?;
    }
    let silent = Instant::now();
    ensure!(client.read_to_end()? == (Vec::new(), true), "an idle tunnel ends with close_notify");
    let waited = silent.elapsed();
    ensure!(waited > Duration::from_millis(1_500) && waited < Duration::from_secs(8), "{waited:?}");
    let tunnel = origin.wait_journal("tunnel", |_| true)?;
    ensure!(tunnel["proper"] == true && tunnel["bytes"] == 8, "{tunnel}");
    let line = ended(&appliance)?;
    ensure!(line["reason"] == "tunnel_idle" && line["blame"] == "appliance", "{line}");
    ensure!(appliance.wait_counter("tunnel_ended.tunnel_idle", 1)? == 1);
    Ok(())
}

fn who_does_not_take_its_bytes_holds_the_sender_back_and_nothing_else(lab: &Lab) -> anyhow::Result<()> {
    let (up, down, pause) = (60_000_000, 4_000_000, Duration::from_secs(4));
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, websocket)?;
    let mut client = opened(lab, &appliance, &format!("/tunnel/{down}?stay=&pause={}", pause.as_millis()))?;
    let resident = || mtls_appliance_tests::harness::resident_kib(appliance.pid());
    let begin = Instant::now();
    // The other direction is through before the origin reads anything.
    ensure!(client.both_ways(500_000, down)? == pattern::sha256(down), "not the bytes that the origin sent");
    ensure!(begin.elapsed() < pause, "the other direction waited: {:?}", begin.elapsed());
    let before = resident()?;
    let most = std::thread::scope(|scope| {
        let sending = scope.spawn(|| client.send(&pattern::bytes(up)[500_000..]).map(|()| client));
        let mut most = before;
        while !sending.is_finished() {
            most = most.max(resident()?);
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut client = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        ensure!(begin.elapsed() > pause, "60 MB were taken by nobody");
        client.close_notify()?;
        ensure!(client.read_to_end()? == (Vec::new(), true));
        Ok(most)
    })?;
    ensure!(most < before + 4 * 1024, "{before} KiB rose to {most} KiB");
    arrived(&origin, up as u64, true)
}

fn who_never_takes_its_bytes_is_given_up(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| websocket(s).set("timeouts.body", "1s"))?;
    let client = opened(lab, &appliance, "/tunnel/100000000")?;
    let line = ended(&appliance)?;
    ensure!(line["reason"] == "timed_out" && line["blame"] == "client", "{line}");
    arrived(&origin, 0, false)?;
    drop(client);
    Ok(())
}

fn a_tunnel_goes_on_while_draining_and_ends_in_order_before_the_deadline(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| websocket(s).set("timeouts.drain", "4s"))?;
    let mut client = opened(lab, &appliance, "/tunnel/echo")?;
    let mut other = lab.client(&appliance)?;
    ensure!(other.get("/bytes/1", &[])?.status == 200);
    let begin = Instant::now();
    appliance.process().signal(Signal::TERM)?;
    appliance.wait_event(event::DRAIN, |_| true)?;
    ensure!(other.read_to_end()? == (Vec::new(), true), "an idle connection lived on");
    let mut echoed = 0;
    while begin.elapsed() < Duration::from_secs(2) {
        must_echo(&mut client, 10_000)?;
        echoed += 10_000;
    }
    ensure!(client.read_to_end()? == (Vec::new(), true), "a drained tunnel ends with close_notify");
    drop(client);
    let tunnel = origin.wait_journal("tunnel", |_| true)?;
    ensure!(tunnel["proper"] == true && tunnel["bytes"] == echoed, "{tunnel}");
    let line = appliance.wait_event(event::REQUEST, |line| line["status"] == 101)?;
    ensure!(line["reason"] == "drained" && line["bytes_in"] == echoed && line["bytes_out"] == echoed, "{line}");
    let finished = appliance.process().wait(Deadline::seconds(10))?;
    ensure!(finished.status.success(), "{}", finished.output());
    ensure!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    Ok(())
}

fn a_withdrawn_registration_ends_a_tunnel_and_another_reload_does_not(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, websocket)?;
    let tls = lab.tls("client-rsa")?;
    let mut withdrawn = Client::connect(&Place::Here, appliance.address(), &tls)?;
    switch(&mut withdrawn, "/tunnel/echo")?;
    let mut other = opened(lab, &appliance, "/tunnel/echo")?;
    appliance.reload()?;
    std::thread::sleep(Duration::from_millis(1_500));
    must_echo(&mut withdrawn, 1_000)?;
    let path = lab.path("registry.toml");
    let registry = std::fs::read_to_string(&path)?;
    ensure!(registry.contains("234-56-78901"));
    std::fs::write(&path, registry.replace("234-56-78901", "000-00-00000"))?;
    appliance.reload()?;
    let begin = Instant::now();
    let (rest, proper) = withdrawn.read_to_end()?;
    ensure!(rest.is_empty() && !proper && begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let line = appliance.wait_requests(1)?;
    ensure!(line["reason"] == "unregistered_serial_number" && line["blame"] == "client", "{line}");
    ensure!(appliance.wait_counter("identity_refused.unregistered_serial_number", 1)? == 1);
    arrived(&origin, 0, false)?;
    must_echo(&mut other, 1_000).context("a tunnel of an organisation that stayed")?;
    appliance.must_be_alive()
}

fn a_certificate_that_expires_ends_a_tunnel_and_an_open_connection(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, websocket)?;
    // Long enough for both to be open, also on an emulated machine.
    let end = SystemTime::now() + Duration::from_secs(8);
    let tls = lab.tls_until("client-p256", end)?;
    let mut expires = Client::connect(&Place::Here, appliance.address(), &tls)?;
    let mut kept = Client::connect(&Place::Here, appliance.address(), &tls)?;
    let mut other = opened(lab, &appliance, "/tunnel/echo")?;
    ensure!(kept.get("/bytes/10", &[])?.status == 200);
    switch(&mut expires, "/tunnel/echo")?;
    must_echo(&mut expires, 1_000).context("the tunnel before the certificate's end")?;

    let (rest, proper) = expires.read_to_end()?;
    let late = SystemTime::now().duration_since(end).context("ended while the certificate was good")?;
    ensure!(rest.is_empty() && !proper && late < Duration::from_secs(5), "ended {late:?} after the certificate");
    let lines = appliance.wait_requests(2).map(|_| appliance.events(event::REQUEST))?;
    let line = lines.iter().find(|line| line["status"] == 101).context("no line of the tunnel")?;
    ensure!(line["reason"] == "certificate_expired" && line["blame"] == "client", "{line}");
    if let Ok(response) = kept.get("/headers", &[]) {
        ensure!(matches!(response.status, 401 | 403), "still served: {:?}", response.head);
    }
    let headers_seen =
        origin.journal("request")?.iter().any(|request| request["request_line"].to_string().contains("/headers"));
    ensure!(!headers_seen, "the origin saw a request of an expired certificate");
    ensure!(appliance.wait_counter("identity_refused.certificate_expired", 2)? == 2);
    must_echo(&mut other, 1_000).context("a tunnel of a certificate that is good")?;
    appliance.must_be_alive()
}

fn keys_are_renewed_within_a_tunnel(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, websocket)?;
    let mut client = opened(lab, &appliance, "/tunnel/echo")?;
    if !super::records::can_renew()? {
        client.update_keys()?;
        let sent = client.send("x").and_then(|()| client.take(1));
        ensure!(sent.is_err(), "bytes over a session that cannot be read any more");
        let line = ended(&appliance)?;
        ensure!(line["reason"] == "key_update_not_possible", "{line}");
        return arrived(&origin, 0, false);
    }
    for length in [1, 100_000, 100, 300_000] {
        client.update_keys()?;
        must_echo(&mut client, length)?;
    }
    // An answer to a key update that comes behind our close_notify must not follow it.
    client.close_notify()?;
    ensure!(client.read_to_end()? == (Vec::new(), true));
    let tunnel = origin.wait_journal("tunnel", |_| true)?;
    ensure!(tunnel["proper"] == true && tunnel["bytes"] == 400_101, "{tunnel}");
    ended(&appliance)?;

    let mut client = opened(lab, &appliance, "/tunnel/0")?;
    ensure!(client.read_to_end()? == (Vec::new(), true));
    client.update_keys()?;
    client.both_ways(100_000, 0)?;
    client.close_notify()?;
    let tunnel = origin.wait_journal("tunnel", |tunnel| tunnel["bytes"] != 400_101)?;
    ensure!(tunnel["proper"] == true && tunnel["sha256"] == pattern::sha256(100_000), "{tunnel}");
    appliance.must_be_alive()
}

fn the_connection_of_a_tunnel_serves_nobody_else(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance =
        lab.appliance_with(&origin, |s| websocket(s).set("listener.workers", 1).set("timeouts.tunnel_idle", "1s"))?;
    let mut client = lab.client(&appliance)?;
    // The tunnel takes over the connection of the request before.
    ensure!(client.get("/bytes/1", &[])?.status == 200);
    switch(&mut client, "/tunnel/echo")?;
    ensure!(origin.journal("connection")?.len() == 1);
    must_echo(&mut client, 100)?;
    client.send("GET /headers HTTP/1.1\r\nHost: api.bank.test\r\n\r\n")?;
    ensure!(client.take(3)? == b"GET", "what looks like a request is none any more");
    // Neither side ends it, so that nothing but our knowing what it was keeps it from being used again.
    ensure!(client.read_to_end()?.1);
    ensure!(lab.client(&appliance)?.get("/bytes/1", &[])?.status == 200);
    ensure!(origin.journal("connection")?.len() == 2, "the connection of a tunnel was used again");
    ensure!(origin.journal("request")?.len() == 3);
    Ok(())
}

fn a_101_that_nobody_asked_for_is_a_502(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, websocket)?;
    for (fields, target, reason) in [
        (&[][..], "/tunnel/100", "unrequested_upgrade"),
        (&["Connection: upgrade", "Upgrade: x"], "/tunnel/100?protocol=x", "unrequested_upgrade"),
        (&UPGRADE, "/tunnel/100?protocol=x", "upgrade_not_offered"),
        (&UPGRADE, "/tunnel/100?protocol=websocket,x", "upgrade_not_offered"),
    ] {
        let mut client = lab.client(&appliance)?;
        let response = client.get(target, fields)?;
        ensure!(response.status == 502, "{target}: {:?}", response.head);
        ensure!(appliance.wait_counter(&format!("origin_failed.{reason}"), 1)? > 0, "{target}");
    }
    ensure!(appliance.wait_counter("origin_failed.unrequested_upgrade", 2)? == 2);
    ensure!(appliance.counter("tunnels_opened")? == 0);
    Ok(())
}
