//! Which fields of a head go on, and which end here.

use mtls_appliance_tests::harness::Lab;

use super::{POISON, check, get, replied, request, row};

pub(super) fn hop_by_hop_fields_of_a_request_end_here(lab: &Lab) -> anyhow::Result<()> {
    let ok = |name, fields| row(name, get(fields)).answer(200).seen("GET /headers HTTP/1.1");
    check(
        lab,
        &[
            ok(
                "RFC 9110 7.6.1: what Connection nominates is removed, in any case",
                "Connection: X-Hop, x-OTHER\r\nX-Hop: 1\r\nX-Other: 2\r\nX-Kept: 3\r\n",
            )
            .with("X-Kept: 3")
            .lacking(&["Connection", "X-Hop", "X-Other"]),
            ok("RFC 9110 7.6.1: also what stood before Connection", "X-Hop: 1\r\nX-Kept: 3\r\nConnection: x-hop\r\n")
                .with("X-Kept: 3")
                .lacking(&["Connection", "X-Hop"]),
            ok(
                "RFC 9110 7.6.1: also by a second Connection field",
                "Connection: X-Hop\r\nX-Hop: 1\r\nConnection: X-Other\r\nX-Other: 2\r\n",
            )
            .lacking(&["Connection", "X-Hop", "X-Other"]),
            ok(
                "RFC 9110 5.6.1: empty members of Connection's list mean nothing",
                "Connection: , X-Hop,,\r\nX-Hop: 1\r\n",
            )
            .lacking(&["Connection", "X-Hop"]),
            ok(
                "RFC 9110 7.6.1: every field of a nominated name is removed",
                "Connection: X-Hop\r\nX-Hop: 1\r\nX-Hop: 2\r\n",
            )
            .lacking(&["X-Hop"]),
            ok("RFC 9110 7.6.1: Keep-Alive is removed though nobody nominates it", "Keep-Alive: timeout=5\r\n")
                .lacking(&["Keep-Alive"]),
            ok(
                "RFC 9110 7.6.1: Proxy-Connection is removed though nobody nominates it",
                "Proxy-Connection: keep-alive\r\n",
            )
            .lacking(&["Proxy-Connection", "Connection"]),
            ok("RFC 9110 11.7.2: Proxy-Authorization is not for the origin", "Proxy-Authorization: Basic Zm9yOnVz\r\n")
                .lacking(&["Proxy-Authorization"]),
            ok("RFC 9110 10.1.4: TE is removed", "Connection: TE\r\nTE: gzip;q=0.5\r\n").lacking(&["TE", "Connection"]),
            ok("RFC 9110 10.1.4: TE: trailers is told anew, and nominated", "Connection: TE\r\nTE: gzip, trailers\r\n")
                .with("TE: trailers")
                .with("Connection: TE"),
            ok(
                "RFC 9110 7.8: Upgrade ends here, with what came along",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            )
            .lacking(&["Upgrade", "HTTP2-Settings", "Connection"]),
            ok("RFC 9110 7.8: also an Upgrade that Connection does not name", "Upgrade: websocket\r\n")
                .lacking(&["Upgrade"]),
            ok("RFC 9112 9.6: the caller's close is not the origin's", "Connection: close\r\n")
                .lacking(&["Connection"])
                .field("Connection: close")
                .closed(),
            ok("RFC 9112 9.3: keep-alive is hop-by-hop", "Connection: keep-alive\r\n").lacking(&["Connection"]),
            ok("RFC 9110 7.6.1: end-to-end fields and their order within a name are kept", "X-A: 1\r\nAccept: a/b\r\n")
                .with("X-A: 1")
                .with("Accept: a/b"),
            row(
                "RFC 9110 7.6.1: Content-Length cannot be nominated",
                request("POST /sha256", "Connection: Content-Length\r\nContent-Length: 5\r\n") + "hello",
            )
            .refused(400),
            row("RFC 9110 7.6.1: Host cannot be nominated", get("Connection: Host\r\n")).refused(400),
            row("RFC 9110 7.6.1: Connection lists tokens", get("Connection: X Hop\r\n")).refused(400),
        ],
    )
}

pub(super) fn hop_by_hop_fields_of_a_response_end_here(lab: &Lab) -> anyhow::Result<()> {
    let ok = |name, fields: &str| {
        replied(name, "GET", &format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok")).answer(200).body("ok")
    };
    check(
        lab,
        &[
            ok(
                "RFC 9110 7.6.1: what Connection nominates is removed",
                "X-Hop: 1\r\nConnection: x-hop, X-Other\r\nX-Other: 2\r\nX-Kept: 3\r\n",
            )
            .field("X-Kept: 3")
            .without(&["Connection", "X-Hop", "X-Other"]),
            ok(
                "RFC 9110 7.6.1: Keep-Alive and Proxy-Connection are removed",
                "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n",
            )
            .without(&["Keep-Alive", "Proxy-Connection"]),
            ok("RFC 9110 7.8: an offer to upgrade ends here", "Connection: Upgrade\r\nUpgrade: h2\r\n")
                .without(&["Upgrade", "Connection"]),
            ok("RFC 9112 9.6: the origin's close is not the caller's", "Connection: close\r\n")
                .without(&["Connection"]),
            ok("RFC 9110 5.3: fields of one name stay apart and in order", "Set-Cookie: a=1\r\nX-Kept: 3\r\n")
                .field("Set-Cookie: a=1")
                .field("X-Kept: 3"),
            ok("RFC 9110 8.6: the length is the origin's", "")
                .field("Content-Length: 2")
                .without(&["Transfer-Encoding"]),
        ],
    )
}

pub(super) fn methods_that_end_here_and_max_forwards(lab: &Lab) -> anyhow::Result<()> {
    let options = |target: &str, fields: &str| request(&format!("OPTIONS {target}"), fields);
    check(
        lab,
        &[
            row(
                "RFC 9110 9.3.6: CONNECT is not offered",
                "CONNECT api.bank.test:443 HTTP/1.1\r\nHost: api.bank.test:443\r\n\r\n",
            )
            .refused(405),
            row("RFC 9110 9.3.8: TRACE is not offered", request("TRACE /headers", "")).refused(405),
            row("RFC 9110 15.5.6: and what is offered is told", request("TRACE /headers", ""))
                .refused(405)
                .field("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            row("RFC 9110 9.1: a method has a case", request("trace /headers", ""))
                .answer(200)
                .seen("trace /headers HTTP/1.1"),
            row("RFC 9110 9.1: a method nobody here knows goes on", request("PROPFIND /headers", ""))
                .answer(200)
                .seen("PROPFIND /headers HTTP/1.1"),
            row(
                "RFC 9110 7.6.2: Max-Forwards 0 on OPTIONS is answered here",
                options("/headers", "Max-Forwards: 0\r\n"),
            )
            .answer(204)
            .field("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            row("RFC 9110 7.6.2: also with the asterisk", options("*", "Max-Forwards: 0\r\n")).answer(204),
            row("RFC 9110 7.6.2: more than 0 becomes one less", options("/headers", "Max-Forwards: 5\r\n"))
                .answer(200)
                .seen("OPTIONS /headers HTTP/1.1")
                .with("Max-Forwards: 4"),
            row("RFC 9110 7.6.2: 1 becomes 0 and goes on", options("/headers", "Max-Forwards: 1\r\n"))
                .answer(200)
                .seen("OPTIONS /headers HTTP/1.1")
                .with("Max-Forwards: 0"),
            row("RFC 9110 7.6.2: none is added", options("/headers", ""))
                .answer(200)
                .seen("OPTIONS /headers HTTP/1.1")
                .lacking(&["Max-Forwards"]),
            row("RFC 9110 7.6.2: no number of hops", options("/headers", "Max-Forwards: many\r\n")).refused(400),
            row("RFC 9110 7.6.2: it means nothing to other methods", get("Max-Forwards: 0\r\n"))
                .answer(200)
                .seen("GET /headers HTTP/1.1")
                .with("Max-Forwards: 0"),
            row(
                "RFC 9110 7.6.2: a body that comes along is not a request",
                options("/headers", &format!("Max-Forwards: 0\r\nContent-Length: {}\r\n", POISON.len())) + POISON,
            )
            .answer(204)
            .closed(),
            row("RFC 9112 3.2.4: the asterisk goes on", options("*", "")).answer(200).seen("OPTIONS * HTTP/1.1"),
            row("RFC 9112 3.2.4: OPTIONS for a host alone is the asterisk", options("http://api.bank.test", ""))
                .answer(200)
                .seen("OPTIONS * HTTP/1.1")
                .with("Host: api.bank.test"),
        ],
    )
}
