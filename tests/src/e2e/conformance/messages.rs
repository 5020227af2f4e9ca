//! Bodies, trailers and what an answer may be.

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::Lab;

use super::{check, check_with, chunked, replied, reply, request, row};

pub(super) fn chunked_requests_are_decoded_and_framed_anew(lab: &Lab) -> anyhow::Result<()> {
    let ok = |name, body: &str, text| {
        row(name, request("POST /echo", "Transfer-Encoding: chunked\r\n") + body)
            .answer(200)
            .body(text)
            .seen("POST /echo HTTP/1.1")
    };
    let extension = format!("5;x={}\r\nhello\r\n0\r\n\r\n", "y".repeat(100_000));
    // The origin refuses chunk extensions, so an answer means that none arrived.
    check(
        lab,
        &[
            ok("RFC 9112 7.1.1: extensions end here", "5;a=b;c=\"d;e\"\r\nhello\r\n0;f\r\n\r\n", "hello"),
            ok(
                "RFC 9112 7.1: sizes have no case",
                "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
                "01234567890123456789",
            ),
            ok("RFC 9112 7.1: sizes may begin with zeros", "0005\r\nhello\r\n000\r\n\r\n", "hello"),
            row("RFC 9112 7.1: a size of more than 64 bits", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 7.1: the largest size of 64 bits", chunked("ffffffffffffffff\r\nhello\r\n0\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 7.1: a negative size", chunked("-1\r\nhello\r\n0\r\n\r\n")).refused_within_the_body(400),
            row("RFC 9112 7.1: no size", chunked(";x\r\nhello\r\n0\r\n\r\n")).refused_within_the_body(400),
            row("RFC 9112 7.1: a chunk longer than its size", chunked("4\r\nhello\r\n0\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 2.2: a bare LF behind a size", chunked("5\nhello\r\n0\r\n\r\n")).refused_within_the_body(400),
            row("RFC 9112 2.2: a bare LF behind an extension", chunked("5;x\nhello\r\n0\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 2.2: a bare LF behind a chunk", chunked("5\r\nhello\n0\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 7.1.1: an extension without a name", chunked("5;\r\nhello\r\n0\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 7.1.1: a quoted value that the line ends", chunked("5;a=\"\r\nhello\r\n0\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 7.1.1: a bare CR in an extension", chunked("5;x\ry\r\nhello\r\n0\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 7.1.1: extensions without end", chunked(&extension)).refused_within_the_body(400),
            row("RFC 9112 7.1.2: a trailer that is no field", chunked("5\r\nhello\r\n0\r\nX A\r\n\r\n"))
                .refused_within_the_body(400),
            row("RFC 9112 2.2: a bare LF behind a trailer", chunked("5\r\nhello\r\n0\r\nX-A: b\n\r\n"))
                .refused_within_the_body(400),
        ],
    )
}

pub(super) fn trailers_stay_behind_the_body(lab: &Lab) -> anyhow::Result<()> {
    const BODY: &str = "5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: evil.test\r\n\
        Authorization: x\r\nX-MyData-Client-SerialNumber: forged\r\nx_mydata_client_serialnumber: forged\r\n\r\n";
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    check_with(
        lab,
        &mut appliance,
        &origin,
        &[row("RFC 9110 6.5.1: trailers are never merged into the head", chunked(BODY))
            .answer(200)
            .seen("POST /sha256 HTTP/1.1")
            .with("Host: api.bank.test")
            .with("Transfer-Encoding: chunked")
            .lacking(&["X-Sum", "Content-Length", "Authorization"])],
    )?;
    let seen = origin.wait_journal("body", |_| true)?;
    ensure!(
        seen["trailers"] == serde_json::json!(["X-Sum: 1"]),
        "RFC 9110 6.5.1: of the trailers only those that do not frame, route or authenticate go on: {}",
        seen["trailers"]
    );

    // The client's parser drops trailers, so the answer is looked at as it came.
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 2\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\n\r\n";
    let mut client = lab.client(&appliance)?;
    client.send(request(&format!("GET {}", reply(answer)), "Connection: close\r\n"))?;
    let (bytes, proper) = client.read_to_end()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
    ensure!(proper && body == "5\r\nhello\r\n0\r\nX-Sum: 2\r\n\r\n", "RFC 9112 7.1: trailers of a response: {text:?}");
    ensure!(
        !head.contains("X-Sum") && !head.contains("Content-Length"),
        "RFC 9110 6.5.1: merged into the head: {text:?}"
    );
    appliance.must_be_alive()
}

pub(super) fn responses_without_a_body_have_none(lab: &Lab) -> anyhow::Result<()> {
    check(
        lab,
        &[
            row("RFC 9110 9.3.2: HEAD tells the length of what it leaves out", request("HEAD /bytes/5000", ""))
                .answer(200)
                .body("")
                .field("Content-Length: 5000")
                .seen("HEAD /bytes/5000 HTTP/1.1"),
            replied(
                "RFC 9112 6.3: HEAD of a chunked answer",
                "HEAD",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n",
            )
            .answer(200)
            .body("")
            .field("X-A: b"),
            replied("RFC 9112 6.3: 204 has no body", "GET", "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n")
                .answer(204)
                .body("")
                .field("X-A: b")
                .without(&["Content-Length"]),
            replied(
                "RFC 9110 8.6: 204 has no Content-Length either",
                "GET",
                "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            )
            .answer(204)
            .without(&["Content-Length"]),
            replied(
                "RFC 9112 6.1: nor Transfer-Encoding",
                "GET",
                "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .answer(204)
            .without(&["Transfer-Encoding"]),
            replied(
                "RFC 9110 15.4.5: 304 tells a length and has no body",
                "GET",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\nETag: \"a\"\r\n\r\n",
            )
            .answer(304)
            .body("")
            .field("Content-Length: 5000")
            .field("ETag: \"a\""),
            replied(
                "RFC 9112 6.3: 205 is framed like any other",
                "GET",
                "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
            )
            .answer(205)
            .field("Content-Length: 0"),
            replied("RFC 9110 9.3.2: HEAD gets no body with our own answer either", "HEAD", "no HTTP at all\r\n\r\n")
                .answer(502)
                .body(""),
            row(
                "RFC 9110 9.3.2: HEAD gets no body with a refusal either",
                request("HEAD /headers", "Content-Length: x\r\n"),
            )
            .refused(400)
            .body(""),
            replied(
                "RFC 9110 6.6.1: the origin's date is kept",
                "GET",
                "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 2\r\n\r\nok",
            )
            .answer(200)
            .field("Date: Sun, 06 Nov 1994 08:49:37 GMT"),
            replied(
                "RFC 9112 6.3: bytes behind a 204 are nobody's",
                "GET",
                "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            )
            .answer(204),
            replied(
                "RFC 9112 6.3: bytes behind a 304 are nobody's",
                "GET",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
            )
            .answer(304),
            replied(
                "RFC 9112 6.3: bytes behind the answer to HEAD are nobody's",
                "HEAD",
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            )
            .answer(200)
            .body(""),
        ],
    )
}

pub(super) fn interim_responses_and_expectations(lab: &Lab) -> anyhow::Result<()> {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let expecting = |line: &str, fields: &str| request(line, fields);
    let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{ok}");
    let length = format!("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n{ok}");
    let old = |version: &str| format!("GET {} HTTP/{version}\r\nHost: api.bank.test\r\n\r\n", reply(&hints));
    let old_line = || &*String::leak(format!("GET {} HTTP/1.1", reply(&hints)));
    check(
        lab,
        &[
            replied("RFC 9110 15.2: every interim response is passed on", "GET", &hints)
                .answer(200)
                .after(&[103, 103])
                .body("ok"),
            replied("RFC 9112 6.3: an interim response has no body, whatever it says", "GET", &length)
                .answer(200)
                .after(&[103])
                .body("ok"),
            row("RFC 9110 15.2: HTTP/1.0 never gets one", old("1.0")).answer(200).body("ok").seen(old_line()).closed(),
            replied(
                "RFC 9110 7.8: 101 that nobody asked for is a bad answer",
                "GET",
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            )
            .answer(502),
            row(
                "RFC 9110 10.1.1: the expectation goes on, and its answer comes back",
                expecting("POST /echo", "Content-Length: 5\r\nExpect: 100-Continue\r\n") + "hello",
            )
            .answer(200)
            .after(&[100])
            .body("hello")
            .seen("POST /echo HTTP/1.1")
            .with("Expect: 100-continue"),
            row(
                "RFC 9110 10.1.1: without content there is nothing to expect",
                expecting("GET /headers", "Expect: 100-continue\r\n"),
            )
            .answer(200)
            .seen("GET /headers HTTP/1.1")
            .lacking(&["Expect"]),
            row(
                "RFC 9110 10.1.1: any other expectation cannot be met",
                expecting("POST /echo", "Content-Length: 5\r\nExpect: 200-ok\r\n") + "hello",
            )
            .refused(417),
            row(
                "RFC 9110 10.1.1: an expectation of HTTP/1.0 is ignored",
                "POST /echo HTTP/1.0\r\nHost: api.bank.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
            )
            .answer(200)
            .body("hello")
            .seen("POST /echo HTTP/1.1")
            .lacking(&["Expect"])
            .closed(),
        ],
    )
}

pub(super) fn a_malformed_response_is_a_502_and_ends_its_connection(lab: &Lab) -> anyhow::Result<()> {
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X-A: b\r\n".repeat(120));
    let rows = [
        (
            "RFC 9112 6.3: both framing fields",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        ("RFC 9112 6.3: two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
        ("RFC 9112 6.3: a list of two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!"),
        ("RFC 9112 6.3: a length with a sign", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        (
            "RFC 9112 6.3: a length of more than 64 bits",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        ),
        ("RFC 9112 6.1: an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("RFC 9112 6.1: chunked from HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("RFC 9112 2.2: bare LF everywhere", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
        ("RFC 9112 2.2: bare LF behind one field", "HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9112 2.2: bare CR in the status line", "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9112 4: no status", "HTTP/1.1\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9112 4: a status of two digits", "HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9110 15: a status above 599", "HTTP/1.1 600 High\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9112 4: no space behind the status", "HTTP/1.1 200OK\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9112 4: no status line", "Content-Length: 2\r\n\r\nok"),
        ("RFC 9112 4: another protocol", "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9112 5.1: whitespace before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
        ("RFC 9112 5.2: a folded line", "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9110 5.1: an empty field name", "HTTP/1.1 200 OK\r\n: b\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9110 5.5: NUL in a value", "HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 2\r\n\r\nok"),
        ("RFC 9110 5.4: more fields than the limit", &many),
    ];
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let rows = rows.map(|(name, bytes)| replied(name, "GET", bytes).answer(502));
    check_with(lab, &mut appliance, &origin, &rows)?;
    // Each row's connection has ended, and the request that followed came by another.
    for (row, request) in rows.iter().zip(origin.journal("request")?.chunks(2)) {
        let (bad, next) = (&request[0]["connection"], &request[1]["connection"]);
        ensure!(bad != next, "{}: its origin connection was used again", row.name);
        origin.wait_journal("end", |line| line["connection"] == *bad).context(row.name)?;
    }
    Ok(())
}
