//! Several addresses behind one origin: who gets a request, who is left out and when it comes back, and names.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{
    Appliance, Client, Deadline, Lab, NameServer, Origin, OriginKind, Place, Settings, wait_until,
};
use serde_json::Value;

use crate::case::cases;

cases!("upstreams":
    requests_go_where_the_fewest_are_for_the_weight,
    an_address_that_refuses_is_left_out_and_comes_back,
    when_every_address_is_out_the_answer_comes_at_once,
    health_checks_take_an_address_out_and_bring_it_back,
    a_health_check_goes_through_mutual_tls,
    one_client_cannot_have_an_address_ejected,
    a_get_that_broke_unanswered_is_answered_by_another_address,
    a_post_that_broke_unanswered_is_not_sent_again,
    a_reload_keeps_what_was_learnt,
    an_origin_has_its_own_deadlines,
    a_name_is_looked_up_again_and_again,
    a_name_without_addresses_is_refused_until_it_has_some,
    a_name_of_the_hosts_file_needs_no_server,
);

/// An appliance in front of these addresses.
fn start(lab: &Lab, addresses: &[SocketAddr], change: impl FnOnce(Settings) -> Settings) -> anyhow::Result<Appliance> {
    let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let settings = lab.settings(lab.free_address()?, addresses[0])?.set("origin.addresses", listed);
    Appliance::start(lab, &Place::Here, &change(settings))
}

/// What `status` says of an address.
fn state(appliance: &Appliance, address: SocketAddr) -> anyhow::Result<Value> {
    let status = appliance.status()?;
    let addresses = status["origins"][0]["addresses"].as_array().context("no addresses in status")?;
    let found = addresses.iter().find(|entry| entry["address"] == address.to_string());
    found.cloned().with_context(|| format!("{address} is not in {status}"))
}

fn wait_state(appliance: &Appliance, address: SocketAddr, wanted: &str) -> anyhow::Result<()> {
    wait_until(&format!("{address} to be {wanted}"), Deadline::seconds(20), || {
        Ok((state(appliance, address)?["state"] == wanted).then_some(()))
    })
}

fn requests(origin: &Origin) -> anyhow::Result<usize> {
    Ok(origin.journal("request")?.len())
}

fn requests_go_where_the_fewest_are_for_the_weight(lab: &Lab) -> anyhow::Result<()> {
    let (heavy, light) = (lab.origin()?, lab.origin()?);
    let heavier: toml::Table = format!("address = \"{}\"\nweight = 3", heavy.address()).parse()?;
    let entries = vec![toml::Value::Table(heavier), light.address().to_string().into()];
    let appliance = start(lab, &[heavy.address()], |settings| settings.set("origin.addresses", entries))?;
    let mut clients = (0..8).map(|_| lab.client(&appliance)).collect::<anyhow::Result<Vec<Client>>>()?;
    for (index, client) in clients.iter_mut().enumerate() {
        client.send_head("GET", "/slow?ms=8000", &[])?;
        wait_until("the request to arrive", Deadline::seconds(10), || {
            Ok((requests(&heavy)? + requests(&light)? > index).then_some(()))
        })?;
    }
    ensure!((requests(&heavy)?, requests(&light)?) == (6, 2), "{} {}", requests(&heavy)?, requests(&light)?);
    ensure!(state(&appliance, heavy.address())?["requests"] == 6);
    for client in &mut clients {
        ensure!(client.response("GET")?.status == 200);
    }
    ensure!(state(&appliance, heavy.address())?["requests"] == 0);
    // With nothing under way they take turns.
    let mut client = lab.client(&appliance)?;
    for _ in 0..8 {
        client.get("/bytes/1", &[])?;
    }
    let turns = (heavy.requests_for("/bytes/1")?, light.requests_for("/bytes/1")?);
    ensure!(turns == (6, 2), "{turns:?}");
    Ok(())
}

fn an_address_that_refuses_is_left_out_and_comes_back(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let empty = lab.free_address()?;
    let mut appliance = start(lab, &[origin.address(), empty], |settings| {
        settings.set("origin.eject_after", 3).set("origin.eject_for", "1s").set("origin.idle_per_identity", 0)
    })?;
    let mut client = lab.client(&appliance)?;
    for _ in 0..30 {
        ensure!(client.get("/bytes/1", &[])?.status == 200, "a caller noticed");
        // POST as well: nothing had been sent.
        ensure!(client.post("/sha256", b"x")?.status == 200, "a caller noticed");
    }
    let line = appliance.wait_event("origin_out", |_| true)?;
    ensure!(line["reason"] == "ejected" && line["address"] == empty.to_string(), "{line}");
    ensure!(appliance.wait_counter("origin_out.ejected", 1)? == 1);
    let attempts = appliance.counter("origin_failed.connection_refused")?;
    ensure!((3..20).contains(&attempts), "{attempts} attempts");
    let at = state(&appliance, empty)?;
    ensure!(at["state"] != "up" && at["last_problem"].as_str().is_some_and(|text| text.contains("refused")), "{at}");

    let back = Origin::start(lab, &Place::Here, OriginKind::Scripted, empty)?;
    wait_until("the address to be tried again", Deadline::seconds(20), || {
        ensure!(client.get("/bytes/2", &[])?.status == 200);
        Ok((requests(&back)? > 0).then_some(()))
    })?;
    let line = appliance.wait_event("origin_back", |_| true)?;
    ensure!(line["address"] == empty.to_string(), "{line}");
    wait_state(&appliance, empty, "up")
}

fn when_every_address_is_out_the_answer_comes_at_once(lab: &Lab) -> anyhow::Result<()> {
    // They accept and never say a word: each attempt costs the whole connect deadline.
    let deaf = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    let addresses = [deaf[0].local_addr()?, deaf[1].local_addr()?];
    let appliance = start(lab, &addresses, |settings| {
        settings.set("origin.connect_timeout", "300ms").set("origin.eject_after", 2).set("origin.eject_for", "2s")
    })?;
    let mut client = lab.client(&appliance)?;
    let first = client.get("/bytes/1", &[])?;
    ensure!(first.status == 504 && first.text().contains("connect_timed_out"), "{:?}", first.head);
    wait_until("both to be out", Deadline::seconds(20), || {
        Ok((client.get("/bytes/1", &[])?.status == 503).then_some(()))
    })?;
    let begun = Instant::now();
    let mut quick = 0;
    for _ in 0..20 {
        let answer = client.get("/bytes/1", &[])?;
        quick += usize::from(answer.status == 503 && answer.text().contains("origin_out"));
        ensure!(answer.status != 503 || answer.head.get("Retry-After").is_some(), "{:?}", answer.head);
    }
    // At most one request of each ejection is the one that tries, and it takes its 300 ms.
    ensure!(quick >= 15 && begun.elapsed() < Duration::from_secs(5), "{quick} in {:?}", begun.elapsed());
    ensure!(appliance.wait_counter("origin_failed.origin_out", 15)? >= 15);
    drop(deaf);
    let origin = Origin::start(lab, &Place::Here, OriginKind::Scripted, addresses[0])?;
    wait_until("service to come back", Deadline::seconds(20), || {
        Ok((client.get("/bytes/3", &[])?.status == 200).then_some(()))
    })?;
    ensure!(origin.requests_for("/bytes/3")? == 1);
    Ok(())
}

/// Checks ten times a second.
fn checked(settings: Settings) -> Settings {
    settings
        .set("origin.health_path", "/health")
        .set("origin.health_interval", "100ms")
        .set("origin.health_timeout", "5s")
        .set("origin.health_fall", 2)
        .set("origin.health_rise", 2)
}

fn health_checks_take_an_address_out_and_bring_it_back(lab: &Lab) -> anyhow::Result<()> {
    let (one, two) = (lab.origin()?, lab.origin()?);
    let mut appliance = start(lab, &[one.address(), two.address()], checked)?;
    let mut client = lab.client(&appliance)?;
    one.wait_journal("request", |_| true)?;
    one.set_sick(true)?;
    wait_state(&appliance, one.address(), "down")?;
    let line = appliance.wait_event("origin_out", |_| true)?;
    ensure!(line["reason"] == "health_checks_failed" && line["address"] == one.address().to_string(), "{line}");
    ensure!(line["detail"] == "health check: status 503", "{line}");
    for _ in 0..10 {
        ensure!(client.get("/bytes/1", &[])?.status == 200);
    }
    ensure!((one.requests_for("/bytes/1")?, two.requests_for("/bytes/1")?) == (0, 10));
    two.set_sick(true)?;
    wait_state(&appliance, two.address(), "down")?;
    let answer = client.get("/bytes/1", &[])?;
    ensure!(answer.status == 503 && answer.text().contains("origin_out"), "{:?}", answer.head);
    one.set_sick(false)?;
    wait_state(&appliance, one.address(), "up")?;
    ensure!(client.get("/bytes/2", &[])?.status == 200 && one.requests_for("/bytes/2")? == 1);
    // Without checks there is nothing to be down from.
    let settings = lab.settings(appliance.address(), one.address())?;
    let both = vec![one.address().to_string(), two.address().to_string()];
    settings.set("origin.addresses", both).write(&lab.path("appliance.toml"))?;
    appliance.reload()?;
    ensure!(state(&appliance, two.address())?["state"] == "up");
    Ok(())
}

fn a_health_check_goes_through_mutual_tls(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let stranger = Origin::start(lab, &Place::Here, OriginKind::WithCertificate("origin-stranger"), local_any())?;
    let appliance = start(lab, &[origin.address(), stranger.address()], checked)?;
    wait_state(&appliance, stranger.address(), "down")?;
    let problem = state(&appliance, stranger.address())?["last_problem"].to_string();
    ensure!(problem.contains("TLS handshake"), "{problem}");
    let connection = origin.wait_journal("connection", |_| true)?;
    ensure!(connection["client_subject"].to_string().contains("mtls-appliance"), "{connection}");
    ensure!(state(&appliance, origin.address())?["state"] == "up");
    ensure!(appliance.counter("health_checks")? > appliance.counter("health_checks_failed")?);
    Ok(())
}

fn local_any() -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)
}

fn one_client_cannot_have_an_address_ejected(lab: &Lab) -> anyhow::Result<()> {
    let (one, two) = (lab.origin()?, lab.origin()?);
    let addresses = [one.address(), two.address()];
    let appliance =
        start(lab, &addresses, |settings| settings.set("origin.eject_after", 3).set("origin.eject_for", "5m"))?;
    let drops = |identity: &str| -> anyhow::Result<()> {
        for _ in 0..10 {
            let answer = lab.curl(&appliance, identity).get("/drop")?;
            ensure!(answer.status == 502, "{answer}");
        }
        Ok(())
    };
    drops("client-p256")?;
    for address in addresses {
        ensure!(state(&appliance, address)?["state"] == "up", "one client had {address} ejected");
    }
    drops("client-rsa")?;
    let states = addresses.iter().map(|address| Ok(state(&appliance, *address)?["state"].clone()));
    let states = states.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(states.iter().filter(|state| **state == "ejected").count() == 1, "never the last one: {states:?}");
    lab.curl(&appliance, "client-rsa").ok("/bytes/1").map(drop)
}

fn a_get_that_broke_unanswered_is_answered_by_another_address(lab: &Lab) -> anyhow::Result<()> {
    let (sick, well) = (lab.origin()?, lab.origin()?);
    sick.set_sick(true)?;
    let appliance = start(lab, &[sick.address(), well.address()], |settings| {
        settings.set("origin.idle_per_identity", 0).set("origin.eject_after", 0)
    })?;
    for how in ["close_notify", "fin", "rst"] {
        for _ in 0..6 {
            lab.curl(&appliance, "client-p256").ok(&format!("/unless-sick?how={how}"))?;
        }
    }
    ensure!(requests(&sick)? > 0 && requests(&well)? == 18);
    ensure!(appliance.counter("requests_retried")? == requests(&sick)? as u64);
    // Twice is the most: when the other one breaks as well, the caller is told.
    well.set_sick(true)?;
    let before = requests(&sick)? + requests(&well)?;
    let answer = lab.curl(&appliance, "client-p256").get("/unless-sick")?;
    ensure!(answer.status == 502, "{answer}");
    ensure!(requests(&sick)? + requests(&well)? == before + 2);
    Ok(())
}

fn a_post_that_broke_unanswered_is_not_sent_again(lab: &Lab) -> anyhow::Result<()> {
    let (sick, well) = (lab.origin()?, lab.origin()?);
    sick.set_sick(true)?;
    let appliance = start(lab, &[sick.address(), well.address()], |settings| {
        settings.set("origin.idle_per_identity", 0).set("origin.eject_after", 0)
    })?;
    let mut failed = 0;
    for _ in 0..8 {
        let answer = lab.curl(&appliance, "client-p256").arguments(["--data", "once"]).get("/unless-sick")?;
        failed += usize::from(answer.status == 502);
        ensure!(matches!(answer.status, 200 | 502), "{answer}");
    }
    ensure!(failed > 0 && failed == requests(&sick)? && requests(&sick)? + requests(&well)? == 8);
    ensure!(appliance.counter("requests_retried")? == 0);
    Ok(())
}

fn a_reload_keeps_what_was_learnt(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let empty = lab.free_address()?;
    let mut appliance = start(lab, &[origin.address(), empty], |settings| {
        settings.set("origin.eject_after", 1).set("origin.eject_for", "5m")
    })?;
    let mut client = lab.client(&appliance)?;
    for _ in 0..4 {
        client.get("/bytes/1", &[])?;
    }
    ensure!(state(&appliance, empty)?["state"] == "ejected");
    let failed = appliance.counter("origin_failed.connection_refused")?;
    appliance.reload()?;
    for _ in 0..4 {
        client.get("/bytes/1", &[])?;
    }
    ensure!(state(&appliance, empty)?["state"] == "ejected", "forgotten");
    ensure!(appliance.counter("origin_failed.connection_refused")? == failed);
    Ok(())
}

fn an_origin_has_its_own_deadlines(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = start(lab, &[origin.address()], |settings| settings.set("origin.response_timeout", "300ms"))?;
    let begun = Instant::now();
    let answer = lab.curl(&appliance, "client-p256").get("/hang")?;
    ensure!(answer.status == 504 && answer.text().contains("response_timed_out"), "{answer}");
    ensure!(begun.elapsed() < Duration::from_secs(20));
    lab.curl(&appliance, "client-p256").ok("/bytes/1").map(drop)
}

/// One origin each at 127.0.0.1 and 127.0.0.2, at the same port.
fn neighbours(lab: &Lab) -> anyhow::Result<(Origin, Origin)> {
    let first = lab.free_address()?;
    let second = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), first.port());
    let start = |address| Origin::start(lab, &Place::Here, OriginKind::Scripted, address);
    Ok((start(first)?, start(second)?))
}

fn named(settings: Settings, origin: &Origin, server: &NameServer) -> Settings {
    settings
        .set("origin.addresses", vec![format!("api.bank.internal:{}", origin.address().port())])
        .set("resolver.servers", vec![server.address().to_string()])
        .set("resolver.interval", "200ms")
        .set("resolver.timeout", "300ms")
}

const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn a_name_is_looked_up_again_and_again(lab: &Lab) -> anyhow::Result<()> {
    let (first, second) = neighbours(lab)?;
    let server = NameServer::start()?;
    server.say(&[FIRST]);
    let mut appliance = lab.appliance_with(&first, |settings| named(settings, &first, &server))?;
    let mut client = lab.client(&appliance)?;
    client.get("/bytes/1", &[])?;
    ensure!((requests(&first)?, requests(&second)?) == (1, 0));
    server.say(&[SECOND]);
    appliance.wait_event("origin_resolved", |line| line["addresses"][0] == "127.0.0.2")?;
    client.get("/bytes/2", &[])?;
    ensure!((requests(&first)?, requests(&second)?) == (1, 1), "the kept connection to the old address was used");
    server.say(&[FIRST, SECOND]);
    appliance.wait_event("origin_resolved", |line| line["addresses"].as_array().is_some_and(|all| all.len() == 2))?;
    for _ in 0..6 {
        client.get("/bytes/3", &[])?;
    }
    ensure!(first.requests_for("/bytes/3")? > 0 && second.requests_for("/bytes/3")? > 0);
    // A server that is gone, or a name that is: what was known stays in use.
    server.fall_silent();
    appliance.wait_event("origin_unresolved", |line| line["name"] == "api.bank.internal")?;
    ensure!(client.get("/bytes/4", &[])?.status == 200);
    server.say(&[]);
    ensure!(client.get("/bytes/4", &[])?.status == 200);
    ensure!(appliance.wait_counter("origin_unresolved.lookup_failed", 1)? > 0);
    Ok(())
}

fn a_name_without_addresses_is_refused_until_it_has_some(lab: &Lab) -> anyhow::Result<()> {
    let (first, _second) = neighbours(lab)?;
    let server = NameServer::start()?;
    let appliance = lab.appliance_with(&first, |settings| named(settings, &first, &server))?;
    let mut client = lab.client(&appliance)?;
    let answer = client.get("/bytes/1", &[])?;
    ensure!(answer.status == 503 && answer.text().contains("origin_unresolved"), "{:?}", answer.head);
    let status = appliance.status()?;
    ensure!(status["origins"][0]["unresolved"][0] == "api.bank.internal", "{status}");
    server.say(&[FIRST]);
    wait_until("the name to be found", Deadline::seconds(20), || {
        Ok((client.get("/bytes/1", &[])?.status == 200).then_some(()))
    })
}

fn a_name_of_the_hosts_file_needs_no_server(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let name = format!("localhost:{}", origin.address().port());
    let appliance = lab.appliance_with(&origin, |settings| settings.set("origin.addresses", vec![name]))?;
    // It may stand for ::1 as well, where nobody listens.
    for _ in 0..6 {
        lab.curl(&appliance, "client-p256").ok("/bytes/1")?;
    }
    Ok(())
}
