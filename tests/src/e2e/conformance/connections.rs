//! Versions, the order of requests, and requests hidden in others.

use mtls_appliance_tests::harness::Lab;

use super::{POISON, check, get, replied, replied_to_http_1_0, request, row};

pub(super) fn callers_of_http_1_0_and_the_version_of_the_next_hop(lab: &Lab) -> anyhow::Result<()> {
    let old = |line: &str, fields: &str| format!("{line} HTTP/1.0\r\nHost: api.bank.test\r\n{fields}\r\n");
    let version = |version: &str| format!("GET /headers {version}\r\nHost: api.bank.test\r\n\r\n");
    check(
        lab,
        &[
            row("RFC 9110 2.5: the next hop is told our own version", old("GET /headers", ""))
                .answer(200)
                .field("Connection: close")
                .closed()
                .seen("GET /headers HTTP/1.1"),
            row(
                "RFC 9112 9.3: HTTP/1.0 keeps a connection only if asked",
                old("GET /bytes/5", "Connection: keep-alive\r\n"),
            )
            .answer(200)
            .field("Content-Length: 5")
            .field("Connection: keep-alive")
            .seen("GET /bytes/5 HTTP/1.1")
            .lacking(&["Connection"]),
            row("RFC 9112 9.3: close wins over keep-alive", old("GET /bytes/5", "Connection: keep-alive, close\r\n"))
                .answer(200)
                .closed()
                .seen("GET /bytes/5 HTTP/1.1"),
            row("RFC 9112 6.1: HTTP/1.0 never gets chunks", old("GET /chunked/5", "Connection: keep-alive\r\n"))
                .answer(200)
                .without(&["Transfer-Encoding", "Content-Length"])
                .field("Connection: close")
                .closed()
                .seen("GET /chunked/5 HTTP/1.1"),
            row(
                "RFC 9112 6.3: HTTP/1.0 may send a body with a length",
                old("POST /echo", "Content-Length: 5\r\n") + "hello",
            )
            .answer(200)
            .body("hello")
            .closed()
            .seen("POST /echo HTTP/1.1"),
            row("RFC 9110 2.5: another major version", version("HTTP/2.0")).refused(505),
            // Section 2.5 would have a higher minor version read as the highest one known (SHOULD). None was ever
            // published, and what is not known to be HTTP/1.1 is not passed on as HTTP/1.1.
            row("RFC 9110 2.5: a higher minor version is refused, against a SHOULD", version("HTTP/1.2")).refused(505),
            row("RFC 9110 7.6.3: Via of earlier hops is kept", request("GET /headers", "Via: 1.1 a\r\n"))
                .answer(200)
                .seen("GET /headers HTTP/1.1")
                .with("Via: 1.1 a, 1.1 mtls-appliance"),
            row("RFC 9110 7.6.3: we are named behind them", request("GET /headers", ""))
                .answer(200)
                .seen("GET /headers HTTP/1.1")
                .with("Via: 1.1 mtls-appliance"),
            row(
                "RFC 9110 6.6.2: Trailer goes on",
                request("POST /echo", "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n") + "0\r\nX-Sum: 1\r\n\r\n",
            )
            .answer(200)
            .seen("POST /echo HTTP/1.1")
            .with("Trailer: X-Sum"),
            replied(
                "RFC 9110 6.6.2: Trailer comes back",
                "GET",
                "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
            )
            .answer(200)
            .field("Trailer: X-Sum"),
            replied_to_http_1_0(
                "RFC 9110 6.6.2: Trailer announces nothing where chunks end, before HTTP/1.0",
                "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
            )
            .answer(200)
            .without(&["Trailer", "Transfer-Encoding"])
            .closed(),
            row("RFC 9112 2.3: the version has a case", version("Http/1.1")).refused(400),
            row("RFC 9112 2.3: the version has one digit each", version("HTTP/1.10")).refused(400),
            row("RFC 9113 3.4: a preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").refused(505),
            replied(
                "RFC 9110 2.5: the caller is told our own version too",
                "GET",
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            )
            .answer(200)
            .body("ok")
            .without(&["Connection"]),
            row("RFC 9112 6.3: an answer without length ends with the connection", request("GET /close/5", ""))
                .answer(200)
                .field("Connection: close")
                .without(&["Content-Length", "Transfer-Encoding"])
                .closed()
                .seen("GET /close/5 HTTP/1.1"),
        ],
    )
}

pub(super) fn a_connection_carries_requests_one_after_the_other(lab: &Lab) -> anyhow::Result<()> {
    let posts = request("POST /echo", "Content-Length: 5\r\n")
        + "first"
        + &request("POST /echo", "Transfer-Encoding: chunked\r\n")
        + "6\r\nsecond\r\n0\r\n\r\n";
    let slow = request("GET /slow?ms=300", "") + &request("GET /status/404", "") + &request("GET /headers", "");
    let closing = get("Connection: close\r\n") + POISON;
    let refused = get("") + "GET /headers HTTP/1.1\r\n\r\n" + POISON;
    let old = "GET /headers HTTP/1.0\r\nHost: api.bank.test\r\n\r\n".to_owned() + POISON;
    check(
        lab,
        &[
            row("RFC 9112 9.3.2: pipelined requests are answered in their order", slow)
                .answer(200)
                .body("slow\n")
                .answer(404)
                .answer(200)
                .seen("GET /slow?ms=300 HTTP/1.1")
                .seen("GET /status/404 HTTP/1.1")
                .seen("GET /headers HTTP/1.1"),
            row("RFC 9112 9.3.2: also with bodies", posts)
                .answer(200)
                .body("first")
                .answer(200)
                .body("second")
                .seen("POST /echo HTTP/1.1")
                .seen("POST /echo HTTP/1.1"),
            row("RFC 9112 9.6: nothing behind close is a request", closing)
                .answer(200)
                .closed()
                .seen("GET /headers HTTP/1.1"),
            row("RFC 9112 9.3: nothing behind HTTP/1.0 without keep-alive is one", old)
                .answer(200)
                .closed()
                .seen("GET /headers HTTP/1.1"),
            row("RFC 9112 9.6: a refusal is the last answer", refused)
                .answer(200)
                .answer(400)
                .closed()
                .seen("GET /headers HTTP/1.1"),
        ],
    )
}

pub(super) fn a_smuggled_request_is_never_a_request(lab: &Lab) -> anyhow::Result<()> {
    let post = |fields: &str, body: &str| request("POST /sha256", fields) + body;
    let behind_last_chunk = format!("0\r\n\r\n{POISON}");
    let in_a_chunk = format!("{:x}\r\n{POISON}\r\n0\r\n\r\n", POISON.len());
    let length = behind_last_chunk.len();
    let mut rows = vec![
        row("RFC 9112 11.2: CL.TE", post(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), &behind_last_chunk)).refused(400),
        row("RFC 9112 11.2: TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &in_a_chunk)).refused(400),
        row("RFC 9112 11.2: CL.CL", post(&format!("Content-Length: {length}\r\nContent-Length: 5\r\n"), &behind_last_chunk)).refused(400),
        row("RFC 9112 11.2: CL.0", request("GET /headers", &format!("Content-Length: {}\r\n", POISON.len())) + POISON).answer(200).seen("GET /headers HTTP/1.1"),
        row("RFC 9112 11.2: TE.0", request("GET /headers", "Transfer-Encoding: chunked\r\n") + &in_a_chunk).answer(200).seen("GET /headers HTTP/1.1"),
        row("RFC 9112 7.1.1: a request in a chunk extension", post("Transfer-Encoding: chunked\r\n", "5;\nxxxxx\r\n0\r\n\r\n") + POISON).refused_within_the_body(400),
        row("RFC 9112 7.1.1: a size behind a bare LF in an extension", post("Transfer-Encoding: chunked\r\n", &format!("5;a=\n{:x}\r\nhello\r\n{POISON}\r\n0\r\n\r\n", POISON.len()))).refused_within_the_body(400),
        row("RFC 9112 7.1: a size that wraps around", post("Transfer-Encoding: chunked\r\n", &format!("10000000000000000\r\n\r\n{POISON}"))).refused_within_the_body(400),
        row("RFC 9112 5: a request in a value", get(&format!("X-A: b\n\n{POISON}"))).refused(400),
        row("RFC 9112 3: a request in the target", format!("GET /headers\nHost: a\n\n{POISON}")).refused(400),
        row("RFC 9110 10.1.1: a request behind an expectation that fails", post("Content-Length: 5\r\nExpect: x\r\n", POISON)).refused(417),
        row("RFC 9112 6.1: chunked in HTTP/1.0", format!("POST /sha256 HTTP/1.0\r\nHost: api.bank.test\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n{behind_last_chunk}")).refused(400),
        row("RFC 9110 9.3.6: a request behind CONNECT", format!("CONNECT api.bank.test:443 HTTP/1.1\r\nHost: api.bank.test:443\r\n\r\n{POISON}")).refused(405),
        row("RFC 9110 7.8: a request behind Upgrade", get("Connection: upgrade, close\r\nUpgrade: h2c\r\n") + POISON).answer(200).closed().seen("GET /headers HTTP/1.1"),
    ];
    // Each hides the coding from one kind of parser, so that the length counts there.
    for obfuscated in [
        "Transfer-Encoding : chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        "X-A: b\nTransfer-Encoding: chunked",
        "X-A: b\rTransfer-Encoding: chunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding:\u{c}chunked",
        "Transfer-Encoding: \u{0}chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: identity",
        "Transfer_Encoding: chunked",
        "Transfer.Encoding: chunked",
        "Transfer-Encoding\u{a0}: chunked",
    ] {
        let fields = format!("Content-Length: {length}\r\n{obfuscated}\r\n");
        let refused =
            row(String::leak(format!("RFC 9112 11.2: TE.TE {obfuscated:?}")), post(&fields, &behind_last_chunk));
        rows.push(refused.refused(400));
    }
    check(lab, &rows)
}
