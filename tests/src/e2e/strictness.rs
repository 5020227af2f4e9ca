//! Requests that an intermediary must not pass on, because the next hop could read them otherwise.

use anyhow::ensure;
use mtls_appliance_tests::harness::Lab;

use crate::case::cases;

cases!("strictness":
    ambiguous_framing_is_refused_and_never_reaches_the_origin,
    malformed_heads_are_refused_and_never_reach_the_origin,
    malformed_chunks_end_the_connection,
    a_refused_request_takes_the_pipelined_ones_with_it,
    an_oversized_head_is_refused,
    a_head_that_never_ends_is_given_up_on,
    upgrade_and_connect_are_not_tunnelled,
    chunk_extensions_are_dropped,
    an_absolute_target_overrides_host,
);

/// Sends one request as it is, expects a refusal with one of `statuses` and the connection to end.
fn refused(lab: &Lab, requests: &[&str], statuses: &[u16]) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for request in requests {
        let mut client = lab.client(&appliance)?;
        client.send(request)?;
        let response = client.response("POST").map_err(|error| error.context(format!("{request:?}")))?;
        ensure!(statuses.contains(&response.status), "{request:?}: {} {}", response.head.start, response.text());
        let (rest, _) = client.read_to_end()?;
        ensure!(rest.is_empty(), "{request:?}: more than one answer: {:?}", String::from_utf8_lossy(&rest));
    }
    let seen = origin.journal("request")?;
    ensure!(seen.is_empty(), "reached the origin: {seen:?}");
    ensure!(origin.journal("malformed")?.is_empty());
    appliance.must_be_alive()
}

fn ambiguous_framing_is_refused_and_never_reaches_the_origin(lab: &Lab) -> anyhow::Result<()> {
    let with = |fields: &str| format!("POST /sha256 HTTP/1.1\r\nHost: api.bank.test\r\n{fields}\r\n\r\n0\r\n\r\n");
    let requests: Vec<String> = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: five",
        "Content-Length:",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding:",
    ]
    .map(with)
    .to_vec();
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    refused(lab, &requests, &[400, 501])?;
    refused(lab, &["POST /sha256 HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], &[400, 501, 505])
}

fn malformed_heads_are_refused_and_never_reach_the_origin(lab: &Lab) -> anyhow::Result<()> {
    refused(
        lab,
        &[
            "GET /headers HTTP/1.1\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET /headers HTTP/1.1\r\n Host: a\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost: a\r\nX-A: b\r\n folded\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n",
            "GET /headers HTTP/1.1\nHost: a\n\n",
            "GET /headers HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
            "GET /headers HTTP/1.1\r\nHost: a\r\nX(A): b\r\n\r\n",
            "GET  /headers HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /head ers HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /headers\r\nHost: a\r\n\r\n",
            "GET headers HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /headers#x HTTP/1.1\r\nHost: a\r\n\r\n",
            "G\u{0}T /headers HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /headers HTTP/1.1 \r\nHost: a\r\n\r\n",
            "GET /headers HTTP/3.7\r\nHost: a\r\n\r\n",
            "GET /headers http/1.1\r\nHost: a\r\n\r\n",
        ],
        &[400, 505],
    )
}

fn malformed_chunks_end_the_connection(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    for body in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\rXabc\r\n0\r\n\r\n",
        "\r\n3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
    ] {
        let mut client = lab.client(&appliance)?;
        client.send_head("POST", "/sha256", &["Transfer-Encoding: chunked"])?;
        client.send(body)?;
        // A 400 where nothing was sent on yet, or an aborted connection; never a digest.
        let answer = client.read_to_end().map(|(bytes, _)| String::from_utf8_lossy(&bytes).into_owned());
        let answer = answer.unwrap_or_default();
        ensure!(!answer.contains(" 200 "), "{body:?} was accepted: {answer}");
    }
    ensure!(origin.journal("body")?.is_empty(), "a malformed body was passed on as whole");
    appliance.must_be_alive()
}

fn a_refused_request_takes_the_pipelined_ones_with_it(lab: &Lab) -> anyhow::Result<()> {
    refused(
        lab,
        &["POST /sha256 HTTP/1.1\r\nHost: api.bank.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
           0\r\n\r\nGET /headers HTTP/1.1\r\nHost: api.bank.test\r\n\r\n"],
        &[400],
    )
}

fn an_oversized_head_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let big = "x".repeat(300_000);
    let many = "X-A: b\r\n".repeat(5_000);
    refused(
        lab,
        &[
            &format!("GET /headers HTTP/1.1\r\nHost: a\r\nX-Big: {big}\r\n\r\n"),
            &format!("GET /{big} HTTP/1.1\r\nHost: a\r\n\r\n"),
            &format!("GET /headers HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        ],
        &[400, 413, 414, 431],
    )
}

fn a_head_that_never_ends_is_given_up_on(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set("timeouts.header", "1s").set("timeouts.idle", "2s"))?;
    let begin = std::time::Instant::now();
    let mut slow = lab.client(&appliance)?;
    slow.send("GET /headers HTTP/1.1\r\nHost: a\r\nX-A: ")?;
    let (answer, _) = slow.read_to_end()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let mut idle = lab.client(&appliance)?;
    ensure!(idle.get("/bytes/1", &[])?.status == 200);
    let (rest, proper) = idle.read_to_end()?;
    ensure!(rest.is_empty() && proper, "an idle connection ends with close_notify: {rest:?} {proper}");
    ensure!(begin.elapsed().as_secs() < 20, "given up only after {:?}", begin.elapsed());
    appliance.must_be_alive()
}

fn upgrade_and_connect_are_not_tunnelled(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send("CONNECT api.bank.test:443 HTTP/1.1\r\nHost: api.bank.test:443\r\n\r\n")?;
    let response = client.response("GET")?;
    ensure!(response.status / 100 == 4 || response.status == 501, "{:?}", response.head);
    let mut client = lab.client(&appliance)?;
    let response = client.get("/headers", &["Connection: upgrade", "Upgrade: websocket"])?;
    ensure!(!response.text().to_ascii_lowercase().contains("websocket"), "{}", response.text());
    let mut client = lab.client(&appliance)?;
    client.send("TRACE /headers HTTP/1.1\r\nHost: api.bank.test\r\n\r\n")?;
    let response = client.response("TRACE")?;
    ensure!(response.status / 100 == 4 || response.status == 501, "{:?}", response.head);
    ensure!(!origin.journal("request")?.iter().any(|r| r["request_line"].to_string().contains("CONNECT")));
    Ok(())
}

fn chunk_extensions_are_dropped(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("POST", "/echo", &["Transfer-Encoding: chunked"])?;
    client.send("3;name=value\r\nabc\r\n2;x\r\nde\r\n0;last\r\n\r\n")?;
    // The scripted origin refuses extensions, so a 200 means that none arrived.
    let response = client.response("POST")?;
    ensure!(response.status == 200 && response.text() == "abcde", "{:?} {}", response.head, response.text());
    ensure!(origin.journal("malformed")?.is_empty() && origin.journal("broken")?.is_empty());
    Ok(())
}

fn an_absolute_target_overrides_host(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send("GET https://api.bank.test/headers HTTP/1.1\r\nHost: other.test\r\n\r\n")?;
    let response = client.response("GET")?;
    ensure!(response.status == 200, "{:?} {}", response.head, response.text());
    let answer = response.json()?;
    ensure!(answer["request_line"] == "GET /headers HTTP/1.1", "{answer}");
    ensure!(answer["headers"].to_string().contains(r#"["Host","api.bank.test"]"#), "{answer}");
    Ok(())
}
