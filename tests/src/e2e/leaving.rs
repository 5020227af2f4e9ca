//! Callers that leave before they have their answer: noticed at once, the origin relieved of the work and not blamed.

use std::time::{Duration, Instant};

use anyhow::ensure;
use mtls_appliance_tests::harness::names::event;
use mtls_appliance_tests::harness::{Appliance, Client, Deadline, Lab, Origin, wait_until};
use mtls_appliance_tests::pattern;
use rustix::process::Signal;

use crate::case::cases;

cases!("leaving":
    while_the_origin_thinks_ends_the_work_there,
    with_an_answer_half_sent_ends_the_work_there,
    in_the_queue_makes_room_and_the_origin_never_hears_of_it,
    close_notify_alone_is_no_leaving,
    a_connection_that_was_just_made_has_its_request_answered_at_sigterm,
);

/// How a caller leaves.
type Leave = fn(Client) -> anyhow::Result<()>;

const WAYS: &[(&str, Leave)] = &[
    ("FIN", |mut client| client.fin().and_then(|()| lingers(client))),
    ("close_notify and FIN", |mut client| {
        client.close_notify()?;
        client.fin().and_then(|()| lingers(client))
    }),
    ("half a record and FIN", |mut client| {
        client.send_half_a_record(b"GET ")?;
        client.fin().and_then(|()| lingers(client))
    }),
    ("a reset", Client::reset),
];

/// Deadlines that none of this may wait for.
const FAR: &str = "60s";

/// The caller's own socket stays until the appliance has ended the connection: a close would be seen as a reset.
fn lingers(mut client: Client) -> anyhow::Result<()> {
    // By a reset or in order: what counts is that it is ended.
    let _ = client.read_to_end();
    Ok(())
}

fn start(lab: &Lab) -> anyhow::Result<(Origin, Appliance)> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |settings| {
        settings
            .set("timeouts.response", FAR)
            .set("timeouts.body", FAR)
            .set("origin.queue_timeout", FAR)
            .set("origin.connections", 1)
            .set("origin.eject_after", 1)
    })?;
    Ok((origin, appliance))
}

/// The line of the request, which came to no answer by the caller's doing; the origin is as good as before.
fn blamed_on_the_caller(appliance: &Appliance, requests: usize, way: &str) -> anyhow::Result<()> {
    let line = appliance.wait_requests(requests)?;
    ensure!(line["blame"] == "client" && line["reason"] == "client_gone", "{way}: {line}");
    let status = appliance.status()?;
    let address = &status["origins"][0]["addresses"][0];
    ensure!(address["state"] == "up" && address["last_problem"].is_null(), "{way}: {address}");
    ensure!(status["counters"]["request_refused.client_gone"] == requests, "{way}: {}", status["counters"]);
    wait_until(&format!("the origin's connection to end after {way}"), Deadline::seconds(5), || {
        let status = appliance.status()?;
        let address = &status["origins"][0]["addresses"][0];
        Ok((address["connections"] == 0 && address["requests"] == 0).then_some(()))
    })
}

fn while_the_origin_thinks_ends_the_work_there(lab: &Lab) -> anyhow::Result<()> {
    let (origin, mut appliance) = start(lab)?;
    let mut count = 0;
    for (way, leave) in WAYS {
        for body in [false, true] {
            let mut client = lab.client(&appliance)?;
            if body {
                client.send_head("POST", "/hang", &["Content-Length: 5"])?;
                client.send("hello")?;
            } else {
                client.send_head("GET", "/hang", &[])?;
            }
            count += 1;
            wait_until("the request to arrive", Deadline::seconds(20), || {
                Ok((origin.journal("request")?.len() == count).then_some(()))
            })?;
            let begun = Instant::now();
            leave(client)?;
            blamed_on_the_caller(&appliance, count, way)?;
            ensure!(begun.elapsed() < Duration::from_secs(10), "{way}: {:?}", begun.elapsed());
        }
    }
    // There is room for one connection to the origin: it must be free again.
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/10", &[])?.body == pattern::bytes(10));
    appliance.must_be_alive()
}

fn with_an_answer_half_sent_ends_the_work_there(lab: &Lab) -> anyhow::Result<()> {
    let (_origin, mut appliance) = start(lab)?;
    for (count, (way, leave)) in (1..).zip(WAYS) {
        let mut client = lab.client(&appliance)?;
        // Nothing more is sent for longer than this test takes, so that no write can fail.
        client.send_head("GET", "/drip/100?ms=50000", &[])?;
        client.wait_readable()?;
        leave(client)?;
        blamed_on_the_caller(&appliance, count, way)?;
    }
    appliance.must_be_alive()
}

fn in_the_queue_makes_room_and_the_origin_never_hears_of_it(lab: &Lab) -> anyhow::Result<()> {
    let (origin, mut appliance) = start(lab)?;
    let mut first = lab.client(&appliance)?;
    first.send_head("GET", "/hang", &[])?;
    origin.wait_journal("request", |_| true)?;
    let waiting = |count: u64| {
        wait_until(&format!("{count} to wait"), Deadline::seconds(20), || {
            Ok((appliance.status()?["origins"][0]["addresses"][0]["waiting"] == count).then_some(()))
        })
    };
    for (way, leave) in WAYS {
        let mut second = lab.client(&appliance)?;
        second.send_head("POST", "/never", &["Content-Length: 0"])?;
        waiting(1)?;
        leave(second)?;
        waiting(0).map_err(|error| error.context(*way))?;
    }
    first.reset()?;
    let mut third = lab.client(&appliance)?;
    ensure!(third.get("/bytes/10", &[])?.body == pattern::bytes(10));
    ensure!(origin.requests_for("/never")? == 0, "{:?}", origin.journal("request")?);
    let gone = u64::try_from(WAYS.len())? + 1;
    ensure!(appliance.wait_counter("request_refused.client_gone", gone)? == gone);
    appliance.must_be_alive()
}

fn close_notify_alone_is_no_leaving(lab: &Lab) -> anyhow::Result<()> {
    let (origin, mut appliance) = start(lab)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("GET", "/slow?ms=700", &[])?;
    origin.wait_journal("request", |_| true)?;
    client.close_notify()?;
    let response = client.response("GET")?;
    ensure!(response.status == 200, "{:?}", response.head);
    appliance.must_be_alive()
}

fn a_connection_that_was_just_made_has_its_request_answered_at_sigterm(lab: &Lab) -> anyhow::Result<()> {
    // A machine that is busy with something else may let a test sleep for longer than such a connection has.
    for _ in 0..3 {
        let begun = Instant::now();
        match at_sigterm(lab) {
            Err(_) if begun.elapsed() > Duration::from_secs(4) => {}
            result => return result,
        }
    }
    at_sigterm(lab)
}

fn at_sigterm(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let (mut asks, mut says_nothing) = (lab.client(&appliance)?, lab.client(&appliance)?);
    appliance.wait_counter("handshakes_completed", 2)?;
    let begun = Instant::now();
    appliance.process().signal(Signal::TERM)?;
    appliance.wait_event(event::DRAIN, |_| true)?;
    let answer = asks.get("/bytes/10", &[])?;
    ensure!(answer.body == pattern::bytes(10) && answer.head.has_token("Connection", "close"), "{:?}", answer.head);
    let (rest, proper) = says_nothing.read_to_end()?;
    ensure!(rest.is_empty() && proper, "{} bytes, close_notify {proper}", rest.len());
    drop((asks, says_nothing));
    let finished = appliance.process().wait(Deadline::seconds(10))?;
    ensure!(finished.status.success(), "{}", finished.status);
    ensure!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    Ok(())
}
