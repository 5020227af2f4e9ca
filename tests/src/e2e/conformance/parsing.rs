//! What a request must look like to be one.

use mtls_appliance_tests::harness::Lab;

use super::{check, check_with, chunked, get, request, row};

pub(super) fn the_framing_of_a_request_is_unambiguous(lab: &Lab) -> anyhow::Result<()> {
    let post = |fields: &str, body: &str| request("POST /echo", fields) + body;
    check(
        lab,
        &[
            row("RFC 9112 6.3: without either field there is no body", request("POST /echo", ""))
                .answer(200)
                .body("")
                .seen("POST /echo HTTP/1.1")
                .lacking(&["Transfer-Encoding"]),
            row("RFC 9112 6.3: a GET may have a body", request("GET /echo", "Content-Length: 5\r\n") + "hello")
                .answer(200)
                .body("hello")
                .seen("GET /echo HTTP/1.1")
                .with("Content-Length: 5"),
            row(
                "RFC 9112 6.2: the length is passed on in decimal, without leading zeros",
                post("Content-Length: 0005\r\n", "hello"),
            )
            .answer(200)
            .body("hello")
            .seen("POST /echo HTTP/1.1")
            .with("Content-Length: 5"),
            row(
                "RFC 9112 7: names of codings have no case",
                post("Transfer-Encoding: Chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            )
            .answer(200)
            .body("hello")
            .seen("POST /echo HTTP/1.1")
            .with("Transfer-Encoding: chunked")
            .lacking(&["Content-Length"]),
            row(
                "RFC 9112 6.3: the same length twice is refused too",
                post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            )
            .refused(400),
            row("RFC 9112 6.3: a list of one length is refused too", post("Content-Length: 5, 5\r\n", "hello"))
                .refused(400),
            row(
                "RFC 9112 6.1: a coding nobody here knows is not implemented",
                post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
            )
            .refused(501),
            row(
                "RFC 9112 6.3: chunked has to be the last coding",
                post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
            )
            .refused(400),
            row(
                "RFC 9112 6.1: both fields, chunked first",
                post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "0\r\n\r\n"),
            )
            .refused(400),
            row(
                "RFC 9112 6.1: both fields, though Connection nominates one",
                post(
                    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                    "0\r\n\r\n",
                ),
            )
            .refused(400),
            row(
                "RFC 9112 6.1: chunked is not for HTTP/1.0",
                "POST /echo HTTP/1.0\r\nHost: api.bank.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            )
            .refused(400),
            row(
                "RFC 9110 5.1: a name that others fold into Transfer-Encoding",
                post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
            )
            .refused(400),
            row("RFC 9110 5.1: a name that others fold into Content-Length", post("Content_Length: 5\r\n", "hello"))
                .refused(400),
        ],
    )
}

pub(super) fn line_ends_and_whitespace_are_exact(lab: &Lab) -> anyhow::Result<()> {
    let raw = |head: &[u8]| [b"GET /headers HTTP/1.1\r\nHost: api.bank.test\r\n", head, b"\r\n"].concat();
    check(
        lab,
        &[
            row("RFC 9112 2.2: an empty line before the request line is ignored", "\r\n".to_owned() + &get(""))
                .answer(200)
                .seen("GET /headers HTTP/1.1"),
            row("RFC 9112 2.2: whitespace before the request line", " ".to_owned() + &get("")).refused(400),
            row(
                "RFC 9112 2.2: whitespace before the first field",
                "GET /headers HTTP/1.1\r\n X-A: b\r\nHost: api.bank.test\r\n\r\n",
            )
            .refused(400),
            row(
                "RFC 9112 2.2: a bare LF behind the request line alone",
                "GET /headers HTTP/1.1\nHost: api.bank.test\r\n\r\n",
            )
            .refused(400),
            row("RFC 9112 2.2: a bare LF behind a field alone", raw(b"X-A: b\nX-C: d\r\n")).refused(400),
            row(
                "RFC 9112 2.2: a bare LF instead of the empty line",
                "GET /headers HTTP/1.1\r\nHost: api.bank.test\r\n\nX-A: b\r\n\r\n",
            )
            .refused(400),
            row(
                "RFC 9112 2.2: a bare CR in the request line",
                "GET /headers\r HTTP/1.1\r\nHost: api.bank.test\r\n\r\n",
            )
            .refused(400),
            row("RFC 9112 2.2: a bare CR in a field's name", raw(b"X\r-A: b\r\n")).refused(400),
            row("RFC 9112 2.2: CR CR LF", raw(b"X-A: b\r\r\n")).refused(400),
            row("RFC 9112 3: a tab is no space", "GET\t/headers\tHTTP/1.1\r\nHost: api.bank.test\r\n\r\n").refused(400),
            row("RFC 9112 3.2: NUL in the target", b"GET /headers\0 HTTP/1.1\r\nHost: api.bank.test\r\n\r\n".to_vec())
                .refused(400),
            row("RFC 9112 5.1: a tab before the colon", raw(b"X-A\t: b\r\n")).refused(400),
            row("RFC 9112 5.2: a line folded with a tab", raw(b"X-A: b\r\n\tc\r\n")).refused(400),
            row("RFC 9112 5.2: a folded line with nothing but whitespace", raw(b"X-A: b\r\n \r\n")).refused(400),
            row("RFC 9110 5.5: NUL in a value", raw(b"X-A: b\0\r\n")).refused(400),
            row("RFC 9110 5.5: other control characters in a value", raw(b"X-A: b\x0bc\r\n")).refused(400),
            row("RFC 9110 5.5: DEL in a value", raw(b"X-A: b\x7fc\r\n")).refused(400),
            row("RFC 9110 5.1: characters above ASCII in a name", raw(b"X-\xc3\xa4: b\r\n")).refused(400),
            row("RFC 9112 5.1: whitespace around a value is not part of it", raw(b"X-A:\t b c \t\r\n"))
                .answer(200)
                .seen("GET /headers HTTP/1.1")
                .with("X-A: b c"),
            row("RFC 9110 5.5: an empty value is one", raw(b"X-A:\r\n"))
                .answer(200)
                .seen("GET /headers HTTP/1.1")
                .with("X-A:"),
            row("RFC 9110 5.5: a tab within a value is kept", raw(b"X-A: b\tc\r\n"))
                .answer(200)
                .seen("GET /headers HTTP/1.1")
                .with("X-A: b\tc"),
            row("RFC 9110 5.5: characters above ASCII in a value are kept", raw("X-A: \u{d55c}\r\n".as_bytes()))
                .answer(200)
                .seen("GET /headers HTTP/1.1")
                .with("X-A: \u{d55c}"),
        ],
    )
}

pub(super) fn a_request_names_one_host(lab: &Lab) -> anyhow::Result<()> {
    let host = |host: &str| format!("GET /headers HTTP/1.1\r\nHost:{host}\r\n\r\n");
    let target = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: api.bank.test\r\n\r\n");
    let ok = |name, sent: String| row(name, sent).answer(200).seen("GET /headers HTTP/1.1");
    check(
        lab,
        &[
            ok("RFC 9110 7.2: a port belongs to it", host(" api.bank.test:443")).with("Host: api.bank.test:443"),
            ok(
                "RFC 9112 3.2: HTTP/1.0 may leave it out, the next hop gets one",
                "GET /headers HTTP/1.0\r\n\r\n".to_owned(),
            )
            .with("Host: origin.bank.test")
            .closed(),
            ok("RFC 9112 3.2.2: the target's host replaces the field's", target("http://api.bank.test:8443/headers"))
                .with("Host: api.bank.test:8443"),
            row("RFC 9112 3.2.1: a target without path has the path /", target("http://api.bank.test"))
                .answer(404)
                .seen("GET / HTTP/1.1")
                .with("Host: api.bank.test"),
            row("RFC 9112 3.2.1: also before a query", target("http://api.bank.test?a=b"))
                .answer(404)
                .seen("GET /?a=b HTTP/1.1"),
            row(
                "RFC 9112 3.2: a missing Host, the target's host notwithstanding",
                "GET http://api.bank.test/headers HTTP/1.1\r\n\r\n",
            )
            .refused(400),
            row(
                "RFC 9112 3.2: two Hosts, the same",
                "GET /headers HTTP/1.1\r\nHost: api.bank.test\r\nHost: api.bank.test\r\n\r\n",
            )
            .refused(400),
            row(
                "RFC 9112 3.2: a malformed Host, the target's host notwithstanding",
                "GET http://api.bank.test/headers HTTP/1.1\r\nHost: a b\r\n\r\n",
            )
            .refused(400),
            row("RFC 9112 3.2: an empty Host", host("")).refused(400),
            row("RFC 9112 3.2: a Host with a port that is no number", host(" api.bank.test:https")).refused(400),
            row("RFC 9112 3.2: a Host with user information", host(" user@api.bank.test")).refused(400),
            row("RFC 9112 3.2: a Host with a path", host(" api.bank.test/x")).refused(400),
            row("RFC 9112 3.2: a Host with an open bracket", host(" [::1")).refused(400),
            row("RFC 9110 4.2.4: user information in the target", target("http://user@api.bank.test/headers"))
                .refused(400),
            row("RFC 9112 3.2.2: another scheme", target("ftp://api.bank.test/headers")).refused(400),
            row("RFC 9112 3.2.3: the authority form is CONNECT's", target("api.bank.test:443")).refused(400),
            row("RFC 9112 3.2.4: the asterisk is for OPTIONS alone", target("*")).refused(400),
        ],
    )
}

pub(super) fn limits_have_their_own_status(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |settings| {
        let settings = settings.set("limits.target_bytes", "1KiB").set("limits.head_bytes", "4KiB");
        settings.set("limits.head_fields", 10).set("limits.body_bytes", "10B")
    })?;
    let target = |length: usize| format!("/headers?{}", "x".repeat(length - 9));
    let longest = target(1024);
    let fields = |count: usize| "X-A: b\r\n".repeat(count - 1);
    check_with(
        lab,
        &mut appliance,
        &origin,
        &[
            row("RFC 9112 3: the longest target is served", request(&format!("GET {longest}"), ""))
                .answer(200)
                .seen(String::leak(format!("GET {longest} HTTP/1.1"))),
            row("RFC 9110 15.5.15: one byte more is not", request(&format!("GET {}", target(1025)), "")).refused(414),
            row("RFC 9110 15.5.15: nor a target that never ends", format!("GET /{}", "x".repeat(8192))).refused(414),
            row("RFC 9110 5.4: as many fields as allowed are served", get(&fields(10)))
                .answer(200)
                .seen("GET /headers HTTP/1.1"),
            row("RFC 6585 5: one more is not", get(&fields(11))).refused(431),
            row("RFC 6585 5: nor a field too large", get(&format!("X-A: {}\r\n", "b".repeat(4096)))).refused(431),
            row(
                "RFC 9112 6.2: the longest body is served",
                request("POST /echo", "Content-Length: 10\r\n") + "0123456789",
            )
            .answer(200)
            .body("0123456789")
            .seen("POST /echo HTTP/1.1"),
            row(
                "RFC 9110 15.5.14: one byte more is not",
                request("POST /echo", "Content-Length: 11\r\n") + "0123456789a",
            )
            .refused(413),
            row("RFC 9110 15.5.14: nor in chunks", chunked("6\r\n012345\r\n5\r\n6789a\r\n0\r\n\r\n"))
                .refused_within_the_body(413),
        ],
    )
}
