//! An origin that misbehaves: the caller gets a correct answer or a broken connection, never another request's bytes,
//! and that origin connection is not used again.

use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{Appliance, Lab, Origin, OriginKind, Place};
use mtls_appliance_tests::pattern;

use crate::case::cases;

cases!("origin_faults":
    an_answer_before_the_body_is_read_reaches_the_caller,
    an_early_answer_does_not_stop_an_origin_that_still_reads,
    an_answer_to_expect_continue_without_the_body_is_final,
    a_second_response_is_never_delivered,
    a_body_longer_than_its_length_is_never_delivered_to_the_next_request,
    malformed_responses_become_a_502_or_a_broken_connection,
    garbage_becomes_a_502,
    an_origin_that_closes_without_an_answer_becomes_a_502,
    an_origin_that_never_answers_becomes_a_504,
    an_origin_that_is_not_there_becomes_a_502,
    a_kept_connection_that_the_origin_closed_is_replaced,
    an_origin_that_comes_back_is_used_again,
);

/// The caller's next requests, on a new connection, are answered with what they asked for.
fn in_step(lab: &Lab, appliance: &Appliance) -> anyhow::Result<()> {
    let mut client = lab.client(appliance)?;
    for length in [11, 22, 33] {
        let response = client.get(&format!("/bytes/{length}"), &[])?;
        ensure!(response.status == 200 && response.body == pattern::bytes(length), "{:?}", response.head);
        ensure!(response.head.get("X-Poison").is_none(), "a response meant for another request");
    }
    Ok(())
}

fn an_answer_before_the_body_is_read_reaches_the_caller(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for length in [10, 100_000, 20_000_000] {
        let answer = lab.curl(&appliance, "client-p256").upload_chunked(length).get("/early?status=413")?;
        ensure!(answer.status == 413 && answer.text() == "early\n", "{length}: {answer}");
    }
    let mut client = lab.client(&appliance)?;
    client.send_head("POST", "/early?status=403", &["Content-Length: 1000"])?;
    let response = client.response("POST")?;
    ensure!(response.status == 403, "{:?}", response.head);
    in_step(lab, &appliance)?;
    appliance.must_be_alive()
}

fn an_early_answer_does_not_stop_an_origin_that_still_reads(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("POST", "/early-reading", &["Content-Length: 100000"])?;
    let response = client.response("POST")?;
    ensure!(response.status == 200 && response.text() == "early\n", "{:?}", response.head);
    // Whether the rest is forwarded or the connection ended is the appliance's choice; mixing them up is not.
    if client.send(pattern::bytes(100_000)).is_ok()
        && let Ok(next) = client.get("/bytes/7", &[])
    {
        ensure!(next.status == 200 && next.body == pattern::bytes(7), "{:?} {:?}", next.head, next.text());
        origin.wait_journal("body", |line| line["bytes"] == 100_000)?;
    }
    in_step(lab, &appliance)
}

fn an_answer_to_expect_continue_without_the_body_is_final(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("POST", "/early?status=417", &["Content-Length: 1000", "Expect: 100-continue"])?;
    let response = client.response("POST")?;
    ensure!(response.status == 417 && response.interim.is_empty(), "{:?}", response.head);
    in_step(lab, &appliance)
}

fn a_second_response_is_never_delivered(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let second = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-Poison: yes\r\n\r\nsecond\n";
    let reply = |first: &str| {
        let hex: String = format!("{first}{second}").bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("/reply/{hex}")
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n0\r\n\r\n";
    let trailer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n0\r\nX-End: 1\r\n\r\n";
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nfirst\n";
    for target in ["/two".to_owned(), reply(chunked), reply(trailer), reply(interim)] {
        for _ in 0..3 {
            let mut client = lab.client(&appliance)?;
            let response = client.get(&target, &[])?;
            ensure!(response.text() == "first\n" || response.status == 502, "{:?}", response.text());
            client.send_head("GET", "/bytes/40", &[])?;
            // The connection may end; if it answers, then with what was asked for.
            if let Ok(next) = client.response("GET") {
                ensure!(next.body == pattern::bytes(40), "{:?}", next.text());
                ensure!(next.head.get("X-Poison").is_none());
            }
            in_step(lab, &appliance)?;
        }
    }
    appliance.must_be_alive()
}

fn a_body_longer_than_its_length_is_never_delivered_to_the_next_request(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for (length, extra) in [(0, 10), (10, 10), (100_000, 1), (100_000, 100_000)] {
        let mut client = lab.client(&appliance)?;
        if let Ok(response) = client.get(&format!("/longer/{length}?extra={extra}"), &[]) {
            let whole = response.status == 200 && response.sha256 == pattern::sha256(length);
            ensure!(whole || response.status == 502, "{length}+{extra}: {:?}", response.head);
            if let Ok(next) = client.get("/bytes/7", &[]) {
                // Bytes that come only after the next request was sent look like its answer; they are none.
                ensure!(next.body == pattern::bytes(7) || next.status == 502, "{:?}", next.text());
            }
        }
        in_step(lab, &appliance)?;
    }
    appliance.must_be_alive()
}

fn malformed_responses_become_a_502_or_a_broken_connection(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for kind in [
        "length-and-chunked",
        "two-lengths",
        "length-text",
        "length-negative",
        "unknown-coding",
        "chunked-twice",
        "chunk-size",
        "chunk-overflow",
        "chunk-longer",
        "space-before-colon",
        "obs-fold",
        "bare-cr",
        "nul",
        "version",
        "status",
        "switching",
    ] {
        let mut client = lab.client(&appliance)?;
        match client.get(&format!("/bad/{kind}"), &[]) {
            Ok(response) => ensure!(response.status == 502, "{kind}: {:?} {:?}", response.head, response.text()),
            Err(_) if kind.starts_with("chunk-") => {} // The head was fine, so it was already on its way.
            Err(error) => return Err(error).context(kind),
        }
        in_step(lab, &appliance).context(kind)?;
    }
    appliance.must_be_alive()
}

fn garbage_becomes_a_502(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let answer = lab.curl(&appliance, "client-p256").get("/garbage")?;
    ensure!(answer.status == 502 && answer.exit == 0, "{answer}");
    in_step(lab, &appliance)
}

fn an_origin_that_closes_without_an_answer_becomes_a_502(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for how in ["close_notify", "fin", "rst"] {
        let answer = lab.curl(&appliance, "client-p256").get(&format!("/drop?how={how}"))?;
        ensure!(answer.status == 502 && answer.exit == 0, "{how}: {answer}");
        let before = origin.journal("request")?.len();
        let answer =
            lab.curl(&appliance, "client-p256").arguments(["--data", "x=1"]).get(&format!("/drop?how={how}"))?;
        ensure!(answer.status == 502, "{how}: {answer}");
        let sent = origin.journal("request")?.len() - before;
        ensure!(sent == 1, "a POST that may have been executed was sent {sent} times");
    }
    in_step(lab, &appliance)
}

fn an_origin_that_never_answers_becomes_a_504(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| s.set("timeouts.response", "1s"))?;
    let begin = std::time::Instant::now();
    let answer = lab.curl(&appliance, "client-p256").get("/hang")?;
    ensure!(answer.status == 504 && answer.exit == 0, "{answer}");
    ensure!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    in_step(lab, &appliance)
}

fn an_origin_that_is_not_there_becomes_a_502(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    drop(origin);
    for _ in 0..3 {
        let answer = lab.curl(&appliance, "client-p256").get("/headers")?;
        ensure!(answer.status == 502 && answer.exit == 0, "{answer}");
    }
    appliance.must_be_alive()
}

fn a_kept_connection_that_the_origin_closed_is_replaced(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let address = origin.address();
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/10", &[])?.status == 200);
    // Every connection the appliance kept ends with this process.
    drop(origin);
    let _origin = Origin::start(lab, &Place::Here, OriginKind::Scripted, address)?;
    std::thread::sleep(Duration::from_millis(200));
    let response = client.get("/bytes/20", &[])?;
    ensure!(response.status == 200 && response.body == pattern::bytes(20), "{:?}", response.head);
    appliance.must_be_alive()
}

fn an_origin_that_comes_back_is_used_again(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let address = origin.address();
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/10", &[])?.status == 200);
    drop(origin);
    ensure!(lab.curl(&appliance, "client-p256").get("/bytes/10")?.status == 502);
    let _origin = Origin::start(lab, &Place::Here, OriginKind::Scripted, address)?;
    in_step(lab, &appliance)
}
