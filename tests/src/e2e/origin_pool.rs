//! Who may use an origin connection, how many there may be, and what happens to requests that find no room.

use std::time::{Duration, Instant};

use anyhow::ensure;
use mtls_appliance_tests::harness::names::mydata;
use mtls_appliance_tests::harness::{Appliance, Client, Deadline, Lab, Origin, Place, Settings, wait_until};

use crate::case::cases;

cases!("origin_pool":
    a_connection_serves_one_identity_only,
    a_shared_connection_tells_the_origin_who_calls_each_time,
    without_a_pool_each_request_has_its_own_connection,
    a_request_without_room_waits_for_its_turn,
    a_queue_that_is_full_refuses_at_once,
    a_request_waits_only_so_long,
    idle_connections_make_room_for_others,
    the_bound_on_connections_holds_under_load,
    a_client_that_leaves_frees_its_connection,
);

fn start(lab: &Lab, change: impl FnOnce(Settings) -> Settings) -> anyhow::Result<(Origin, Appliance)> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |settings| change(settings.set("listener.workers", 1)))?;
    Ok((origin, appliance))
}

fn client(lab: &Lab, appliance: &Appliance, identity: &str) -> anyhow::Result<Client> {
    Client::connect(&Place::Here, appliance.address(), &lab.tls(identity)?)
}

fn connections(origin: &Origin) -> anyhow::Result<usize> {
    Ok(origin.journal("connection")?.len())
}

/// The serial number that the origin was told, and the connection it came on.
fn who(client: &mut Client) -> anyhow::Result<(String, String)> {
    let seen = client.get("/headers", &[])?.json()?;
    let fields = seen["headers"].as_array().cloned().unwrap_or_default();
    let field = fields
        .iter()
        .find(|field| field[0].as_str().is_some_and(|name| name.eq_ignore_ascii_case(mydata::FINGERPRINT)));
    Ok((field.map(|field| field[1].to_string()).unwrap_or_default(), seen["connection"].to_string()))
}

fn a_connection_serves_one_identity_only(lab: &Lab) -> anyhow::Result<()> {
    let (origin, appliance) = start(lab, |settings| settings)?;
    let (mut a, mut b) = (client(lab, &appliance, "client-p256")?, client(lab, &appliance, "client-rsa")?);
    let (first, second) = (who(&mut a)?, who(&mut b)?);
    for _ in 0..3 {
        ensure!(who(&mut a)? == first && who(&mut b)? == second);
    }
    ensure!(first.0 != second.0 && first.1 != second.1, "{first:?} {second:?}");
    // Another connection of the same client takes over what the first one left.
    drop(a);
    ensure!(who(&mut client(lab, &appliance, "client-p256")?)? == first);
    ensure!(connections(&origin)? == 2);
    Ok(())
}

fn a_shared_connection_tells_the_origin_who_calls_each_time(lab: &Lab) -> anyhow::Result<()> {
    let (origin, appliance) = start(lab, |settings| settings.set("origin.pool", "shared"))?;
    ensure!(appliance.status()?["warnings"].to_string().contains("origin.pool"), "no warning");
    let (mut a, mut b) = (client(lab, &appliance, "client-p256")?, client(lab, &appliance, "client-rsa")?);
    for _ in 0..3 {
        let (first, second) = (who(&mut a)?, who(&mut b)?);
        ensure!(first.0 != second.0 && !first.0.is_empty() && !second.0.is_empty(), "{first:?} {second:?}");
        ensure!(first.1 == second.1, "not shared");
    }
    ensure!(connections(&origin)? == 1);
    Ok(())
}

fn without_a_pool_each_request_has_its_own_connection(lab: &Lab) -> anyhow::Result<()> {
    let (origin, appliance) = start(lab, |settings| settings.set("origin.pool", "off"))?;
    let mut client = lab.client(&appliance)?;
    for _ in 0..4 {
        let seen = client.get("/headers", &[])?.json()?;
        ensure!(seen["headers"].to_string().to_ascii_lowercase().contains("[\"connection\",\"close\"]"), "{seen}");
    }
    ensure!(connections(&origin)? == 4, "{}", connections(&origin)?);
    Ok(())
}

fn arrived(origin: &Origin, count: usize) -> anyhow::Result<()> {
    wait_until("requests to arrive", Deadline::seconds(20), || {
        Ok((origin.journal("request")?.len() >= count).then_some(()))
    })
}

fn waiting(appliance: &Appliance, count: u64) -> anyhow::Result<()> {
    wait_until("requests to wait", Deadline::seconds(20), || {
        Ok((appliance.status()?["origins"][0]["addresses"][0]["waiting"] == count).then_some(()))
    })
}

fn a_request_without_room_waits_for_its_turn(lab: &Lab) -> anyhow::Result<()> {
    let (origin, appliance) =
        start(lab, |settings| settings.set("origin.connections", 1).set("origin.queue_timeout", "60s"))?;
    // The same identity takes the very connection over; another one gets a new one in its place.
    let identities = ["client-p256", "client-p256", "client-rsa"];
    let mut clients =
        identities.iter().map(|name| client(lab, &appliance, name)).collect::<anyhow::Result<Vec<_>>>()?;
    for (index, client) in clients.iter_mut().enumerate() {
        client.send_head("GET", "/slow?ms=1500", &[])?;
        if index == 0 {
            arrived(&origin, 1)?;
        } else {
            waiting(&appliance, index as u64)?;
        }
    }
    ensure!(origin.journal("request")?.len() == 1, "more than one at a time");
    for client in &mut clients {
        ensure!(client.response("GET")?.status == 200);
    }
    ensure!(connections(&origin)? == 2);
    ensure!(appliance.wait_counter("requests_queued", 2)? == 2);
    waiting(&appliance, 0)
}

fn a_queue_that_is_full_refuses_at_once(lab: &Lab) -> anyhow::Result<()> {
    let (origin, appliance) = start(lab, |settings| settings.set("origin.connections", 1).set("origin.queue", 1))?;
    let (mut a, mut b, mut c) = (lab.client(&appliance)?, lab.client(&appliance)?, lab.client(&appliance)?);
    a.send_head("GET", "/slow?ms=4000", &[])?;
    arrived(&origin, 1)?;
    b.send_head("GET", "/bytes/1", &[])?;
    waiting(&appliance, 1)?;
    let begun = Instant::now();
    let answer = c.get("/bytes/1", &[])?;
    ensure!(answer.status == 503 && answer.text().contains("origin_queue_full"), "{:?}", answer.head);
    ensure!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    ensure!(a.response("GET")?.status == 200 && b.response("GET")?.status == 200);
    ensure!(c.get("/bytes/1", &[])?.status == 200, "the refused client's connection serves on");
    Ok(())
}

fn a_request_waits_only_so_long(lab: &Lab) -> anyhow::Result<()> {
    let (origin, appliance) =
        start(lab, |settings| settings.set("origin.connections", 1).set("origin.queue_timeout", "300ms"))?;
    let (mut a, mut b) = (lab.client(&appliance)?, lab.client(&appliance)?);
    a.send_head("GET", "/slow?ms=4000", &[])?;
    arrived(&origin, 1)?;
    let begun = Instant::now();
    let answer = b.get("/bytes/1", &[])?;
    ensure!(answer.status == 503 && answer.text().contains("origin_queue_timed_out"), "{:?}", answer.head);
    ensure!((Duration::from_millis(290)..Duration::from_secs(4)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    ensure!(a.response("GET")?.status == 200);
    waiting(&appliance, 0)
}

fn idle_connections_make_room_for_others(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    // Several workers: the idle connection is another one's.
    let appliance = lab.appliance_with(&origin, |settings| {
        settings.set("listener.workers", 4).set("origin.connections", 1).set("origin.queue_timeout", "10s")
    })?;
    for round in 0..6 {
        for identity in ["client-p256", "client-rsa"] {
            let begun = Instant::now();
            let answer = client(lab, &appliance, identity)?.get("/bytes/1", &[])?;
            ensure!(answer.status == 200, "{round}: {:?}", answer.text());
            ensure!(begun.elapsed() < Duration::from_secs(5), "{round}: waited {:?}", begun.elapsed());
        }
    }
    Ok(())
}

fn the_bound_on_connections_holds_under_load(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |settings| {
        settings.set("listener.workers", 4).set("origin.connections", 3).set("origin.queue_timeout", "60s")
    })?;
    let most = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..12)
            .map(|index| {
                let (lab, appliance) = (&lab, &appliance);
                scope.spawn(move || -> anyhow::Result<()> {
                    let identity = if index % 2 == 0 { "client-p256" } else { "client-rsa" };
                    let mut client = client(lab, appliance, identity)?;
                    for _ in 0..10 {
                        let answer = client.get("/slow?ms=20", &[])?;
                        ensure!(answer.status == 200, "{:?}", answer.text());
                    }
                    Ok(())
                })
            })
            .collect();
        let mut most = 0;
        while callers.iter().any(|caller| !caller.is_finished()) {
            let status = appliance.status()?;
            most = most.max(status["origins"][0]["addresses"][0]["connections"].as_u64().unwrap_or(u64::MAX));
            std::thread::sleep(Duration::from_millis(20));
        }
        for caller in callers {
            caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        }
        anyhow::Ok(most)
    })?;
    ensure!((1..=3).contains(&most), "{most} connections at once");
    ensure!(appliance.wait_counter("requests_queued", 1)? > 0);
    Ok(())
}

fn a_client_that_leaves_frees_its_connection(lab: &Lab) -> anyhow::Result<()> {
    let (origin, appliance) = start(lab, |settings| {
        settings.set("origin.connections", 1).set("origin.queue_timeout", "20s").set("timeouts.body", "2s")
    })?;
    let mut leaving = lab.client(&appliance)?;
    leaving.send_head("GET", "/bytes/100000000", &[])?;
    arrived(&origin, 1)?;
    drop(leaving);
    let answer = lab.client(&appliance)?.get("/bytes/1", &[])?;
    ensure!(answer.status == 200, "{:?}", answer.text());
    Ok(())
}
