//! The main job: a registered caller's request reaches the origin, and the answer the caller.

use anyhow::ensure;
use mtls_appliance_tests::harness::names::{counter, event};
use mtls_appliance_tests::harness::{Client, Lab, Place};
use mtls_appliance_tests::pattern;

use crate::case::cases;

cases!("calls":
    a_registered_caller_gets_its_answer_through_curl,
    a_body_with_content_length_arrives_unchanged,
    a_chunked_body_arrives_unchanged,
    every_framing_of_the_origin_reaches_the_caller_whole,
    a_response_without_a_body_does_not_wait_for_one,
    head_is_answered_without_a_body,
    one_connection_serves_many_requests_on_both_sides,
    pipelined_requests_are_answered_in_order,
    a_request_split_into_single_bytes_is_understood,
    an_interim_response_is_passed_on,
    expect_continue_reaches_the_origin,
    callers_with_different_certificates_never_share_an_origin_connection,
    an_rsa_certificate_is_as_good_as_an_elliptic_one,
    the_access_log_has_a_line_for_each_request,
    a_caller_that_goes_away_does_not_disturb_the_next,
);

fn a_registered_caller_gets_its_answer_through_curl(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let answer = lab.curl(&appliance, "client-p256").header("X-Probe: kept").ok("/headers?a=b%20c")?.json()?;
    ensure!(answer["request_line"] == "GET /headers?a=b%20c HTTP/1.1", "{answer}");
    ensure!(answer["headers"].to_string().contains(r#"["X-Probe","kept"]"#), "{answer}");
    let connection = &origin.journal("connection")?[0];
    ensure!(connection["client_subject"].to_string().contains("CN=mtls-appliance"), "{connection}");
    ensure!(connection["server_name"] == "origin.bank.test", "{connection}");
    ensure!(connection["version"] == "TLSv1_3", "{connection}");
    Ok(())
}

fn a_body_with_content_length_arrives_unchanged(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let file = lab.path("body");
    for length in [0, 1, 150_000] {
        std::fs::write(&file, pattern::bytes(length))?;
        let data = format!("@{}", file.display());
        let curl = lab.curl(&appliance, "client-p256").arguments(["--data-binary", &data]);
        let answer = curl.ok("/sha256")?.json()?;
        ensure!(answer["bytes"] == length && answer["sha256"] == pattern::sha256(length as u64), "{answer}");
        curl.ok("/echo")?.must_be_pattern(length as u64)?;
    }
    let request = &origin.journal("request")?[0];
    ensure!(request["headers"].to_string().contains("ontent-"), "{request}");
    Ok(())
}

fn a_chunked_body_arrives_unchanged(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for length in [0, 1, 150_000] {
        let curl = lab.curl(&appliance, "client-p256").upload_chunked(length);
        let answer = curl.ok("/sha256")?.json()?;
        ensure!(answer["bytes"] == length && answer["sha256"] == pattern::sha256(length), "{answer}");
        curl.ok("/echo")?.must_be_pattern(length)?;
    }
    ensure!(origin.journal("malformed")?.is_empty());
    Ok(())
}

fn every_framing_of_the_origin_reaches_the_caller_whole(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    for length in [0, 1, 16_384, 300_000] {
        for path in [
            format!("/bytes/{length}"),
            format!("/chunked/{length}?size=1"),
            format!("/chunked/{length}?size=16384"),
            format!("/chunked/{length}?size=100000"),
            format!("/close/{length}"),
        ] {
            if path.ends_with("size=1") && length > 20_000 {
                continue;
            }
            let answer = lab.curl(&appliance, "client-p256").ok(&path)?;
            answer.must_be_pattern(length).map_err(|error| error.context(path))?;
        }
    }
    Ok(())
}

fn a_response_without_a_body_does_not_wait_for_one(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    for (path, status) in [("/head204", 204), ("/body304", 304), ("/status/204", 204), ("/bytes/0", 200)] {
        let response = client.get(path, &[])?;
        ensure!(response.status == status && response.length == 0, "{path}: {:?}", response.head);
    }
    ensure!(client.get("/bytes/10", &[])?.body == pattern::bytes(10), "the connection is out of step");
    Ok(())
}

fn head_is_answered_without_a_body(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    for path in ["/bytes/5000", "/chunked/5000"] {
        client.send_head("HEAD", path, &[])?;
        let response = client.response("HEAD")?;
        ensure!(response.status == 200 && response.length == 0, "{:?}", response.head);
    }
    ensure!(client.get("/bytes/10", &[])?.body == pattern::bytes(10), "the connection is out of step");
    let answer = lab.curl(&appliance, "client-p256").arguments(["--head"]).get("/bytes/5000")?;
    ensure!(answer.exit == 0 && answer.text().to_ascii_lowercase().contains("content-length: 5000"), "{answer}");
    Ok(())
}

fn one_connection_serves_many_requests_on_both_sides(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let paths = ["/bytes/1000", "/chunked/1000", "/headers", "/bytes/0", "/status/404", "/bytes/5"];
    let answer = lab.curl(&appliance, "client-p256").get_all(&paths)?;
    ensure!(answer.exit == 0 && answer.connections() == 1, "{answer}");
    ensure!(origin.journal("request")?.len() == paths.len());
    let connections = origin.journal("connection")?.len();
    ensure!(connections == 1, "{connections} connections to the origin for {} requests", paths.len());
    ensure!(appliance.wait_counter(counter::ORIGIN_CONNECTIONS, 1)? == 1);
    Ok(())
}

fn pipelined_requests_are_answered_in_order(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    let mut together = String::new();
    for length in 1..=5 {
        together += &format!("GET /bytes/{length} HTTP/1.1\r\nHost: api.bank.test\r\n\r\n");
    }
    together += "POST /echo HTTP/1.1\r\nHost: api.bank.test\r\nContent-Length: 5\r\n\r\nhello";
    client.send(together)?;
    for length in 1..=5 {
        ensure!(client.response("GET")?.body == pattern::bytes(length), "answer {length}");
    }
    ensure!(client.response("POST")?.text() == "hello");
    Ok(())
}

fn a_request_split_into_single_bytes_is_understood(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    let request = "POST /echo HTTP/1.1\r\nHost: api.bank.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for byte in request.bytes() {
        client.send([byte])?;
    }
    let response = client.response("POST")?;
    ensure!(response.text() == "abcde", "{:?}", response.text());
    ensure!(client.get("/bytes/9", &[])?.body == pattern::bytes(9), "the connection is out of step");
    Ok(())
}

fn an_interim_response_is_passed_on(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    let response = client.get("/interim", &[])?;
    let statuses = response.interim.iter().map(|head| head.status()).collect::<Result<Vec<_>, _>>()?;
    ensure!(statuses == [103, 102] && response.text() == "final\n", "{statuses:?} {:?}", response.text());
    ensure!(client.get("/bytes/9", &[])?.body == pattern::bytes(9), "the connection is out of step");
    Ok(())
}

fn expect_continue_reaches_the_origin(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("POST", "/echo", &["Content-Length: 5", "Expect: 100-continue"])?;
    // The body goes out only after the interim answer; without it this times out.
    let mut sent = client.interim()?;
    ensure!(sent.status()? == 100, "{sent:?}");
    client.send("hello")?;
    let response = client.response("POST")?;
    ensure!(response.text() == "hello");

    // Whoever does not wait is served as well.
    client.send_head("POST", "/early-reading", &["Content-Length: 5", "Expect: 100-continue"])?;
    client.send("hello")?;
    sent = client.response("POST")?.head;
    ensure!(sent.status()? == 200, "{sent:?}");
    Ok(())
}

fn callers_with_different_certificates_never_share_an_origin_connection(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut used = Vec::new();
    for identity in ["client-p256", "client-rsa", "client-p256", "client-korean", "client-rsa"] {
        let answer = lab.curl(&appliance, identity).ok("/headers")?.json()?;
        used.push((identity, answer["connection"].as_u64()));
    }
    for (one, first) in &used {
        for (other, second) in &used {
            ensure!(one == other || first != second, "{one} and {other} shared connection {first:?}: {used:?}");
        }
    }
    Ok(())
}

fn an_rsa_certificate_is_as_good_as_an_elliptic_one(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let headers = lab.curl(&appliance, "client-rsa").ok("/headers")?.text();
    ensure!(headers.contains("234-56-78901"), "{headers}");
    Ok(())
}

fn the_access_log_has_a_line_for_each_request(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    lab.curl(&appliance, "client-p256").ok("/bytes/1234?token=1")?;
    let line = appliance.wait_requests(1)?;
    ensure!(line["method"] == "GET" && line["status"] == 200, "{line}");
    ensure!(line["path"].as_str().is_some_and(|path| path.starts_with("/bytes/1234")), "{line}");
    ensure!(line["org"].to_string().contains("A1AAAA0000"), "{line}");
    ensure!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1")), "{line}");
    ensure!(line["bytes_out"] == 1234, "{line}");
    for field in ["bytes_in", "duration_ms", "client_offload", "origin_offload", "data_path"] {
        ensure!(!line[field].is_null(), "no {field}: {line}");
    }
    let mut client = lab.client(&appliance)?;
    for number in 2..=4 {
        client.post("/echo", b"0123456789")?;
        let line = appliance.wait_requests(number)?;
        ensure!(line["bytes_in"] == 10 && line["bytes_out"] == 10 && line["method"] == "POST", "{line}");
    }
    ensure!(appliance.events(event::REQUEST).len() == 4);
    ensure!(appliance.wait_counter(counter::REQUESTS, 4)? == 4);
    appliance.must_be_alive()
}

fn a_caller_that_goes_away_does_not_disturb_the_next(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for round in 0..6 {
        let mut client = lab.client(&appliance)?;
        client.send_head("GET", "/bytes/20000000", &[])?;
        match round % 3 {
            0 => client.reset()?,
            1 => client.fin()?,
            _ => client.close_notify()?,
        }
    }
    let tls = lab.tls("client-p256")?;
    let mut client = Client::connect(&Place::Here, appliance.address(), &tls)?;
    ensure!(client.get("/bytes/1000", &[])?.body == pattern::bytes(1000));
    appliance.must_be_alive()
}
