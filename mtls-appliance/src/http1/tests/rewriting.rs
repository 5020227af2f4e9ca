//! What the origin gets.

use super::super::RewriteOptions;
use super::{rewritten, rewritten_with};

const BLOCK: &str = "Client-Cert: :AAAA:\r\nX-Subject-Serial: 123-45-67890\r\n";

/// Duty, request, and the lines that the origin gets before the identity block.
const ROWS: &[(&str, &str, &str)] = &[
    (
        "9112 3.2.1 origin form, fields in order, canonical spacing",
        "GET /a?b HTTP/1.1\r\nAccept:  x\t\r\nHost: h\r\nB:\r\n\r\n",
        "GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: x\r\nB: \r\n",
    ),
    (
        "9110 7.6.1 Connection and what it nominates",
        "GET / HTTP/1.1\r\nHost: h\r\nX-Hop: 1\r\nConnection: x-hop, close\r\nConnection: y\r\nY: 2\r\nZ: 3\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nZ: 3\r\n",
    ),
    (
        "9110 7.6.1 fields for one hop, nominated or not",
        "GET / HTTP/1.1\r\nHost: h\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nTE: gzip\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: x\r\nProxy-Authorization: b\r\nProxy-Authenticate: c\r\nProxy: d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n",
    ),
    (
        "a nomination of our own field removes the client's copy and not ours",
        "GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Subject-Serial\r\nX-Subject-Serial: spoof\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\n",
    ),
    (
        "reserved names under every spelling",
        "GET / HTTP/1.1\r\nHost: h\r\nX_Subject_Serial: s\r\nx.subject.serial: s\r\nCLIENT-CERT: s\r\n\
         X-Forwarded-For: s\r\nX-Other: ok\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX-Other: ok\r\n",
    ),
    (
        "9112 3.2.2 absolute form replaces Host",
        "GET https://real:8443/p?q HTTP/1.1\r\nHost: other\r\n\r\n",
        "GET /p?q HTTP/1.1\r\nHost: real:8443\r\n",
    ),
    ("9112 3.2.1 empty path", "GET http://real HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nHost: real\r\n"),
    (
        "9112 3.2.1 empty path with a query",
        "GET http://real?q HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /?q HTTP/1.1\r\nHost: real\r\n",
    ),
    (
        "9112 3.2.4 OPTIONS without path and query",
        "OPTIONS http://real HTTP/1.1\r\nHost: h\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: real\r\n",
    ),
    ("9112 3.2.4 asterisk", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: h\r\n"),
    (
        "9112 6.2 length in canonical form",
        "PUT / HTTP/1.1\r\nHost: h\r\ncontent-length:  007\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n",
    ),
    (
        "9112 6.1 chunked written anew, also when nominated",
        "PUT / HTTP/1.1\r\nHost: h\r\nConnection: transfer-encoding\r\ntransfer-encoding: CHUNKED\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n",
    ),
    (
        "9110 2.5 our own version; default Host for HTTP/1.0",
        "GET / HTTP/1.0\r\nA: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: default\r\nA: b\r\n",
    ),
    (
        "9110 10.1.1 expectation passed on",
        "PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n",
    ),
    (
        "9110 10.1.1 expectation of HTTP/1.0 dropped",
        "PUT / HTTP/1.0\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n",
    ),
    (
        "9110 7.6.2 Max-Forwards counted down with OPTIONS",
        "OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 10\r\n\r\n",
        "OPTIONS / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 9\r\n",
    ),
    (
        "9110 7.6.2 Max-Forwards untouched elsewhere",
        "GET / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 10\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nMax-Forwards: 10\r\n",
    ),
    (
        "9110 10.1.4 TE reduced to trailers and nominated",
        "GET / HTTP/1.1\r\nHost: h\r\nTE: gzip, trailers\r\nConnection: TE\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: TE\r\n",
    ),
];

#[test]
fn the_origin_gets_exactly_this() {
    let options = RewriteOptions { default_host: "default", ..RewriteOptions::default() };
    for &(duty, head, expected) in ROWS {
        assert_eq!(rewritten_with(head.as_bytes(), &options), format!("{expected}{BLOCK}\r\n"), "{duty}");
    }
}

#[test]
fn via_names_the_received_version() {
    let options = RewriteOptions { via: Some("edge"), ..RewriteOptions::default() };
    let out = rewritten_with(b"GET / HTTP/1.0\r\nHost: h\r\nVia: 1.1 first\r\n\r\n", &options);
    assert_eq!(out, format!("GET / HTTP/1.1\r\nHost: h\r\nVia: 1.1 first\r\nVia: 1.0 edge\r\n{BLOCK}\r\n"));
}

#[test]
fn upgrade_close_and_expectation_follow_the_options() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, TE\r\nUpgrade: websocket\r\nTE: trailers\r\n\r\n";
    let with = |upgrade, close| rewritten_with(head, &RewriteOptions { upgrade, close, ..RewriteOptions::default() });
    assert!(with(true, false).contains("\r\nUpgrade: websocket\r\nTE: trailers\r\nConnection: upgrade, TE\r\n"));
    assert!(with(true, true).contains("\r\nConnection: close, upgrade, TE\r\n"));
    assert!(with(false, true).contains("\r\nTE: trailers\r\nConnection: close, TE\r\n"));
    assert!(!with(false, true).contains("Upgrade"));
    let silent = RewriteOptions { expect: false, ..RewriteOptions::default() };
    let out =
        rewritten_with(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", &silent);
    assert!(!out.contains("Expect"));
}

#[test]
fn output_is_appended() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut out = b"before".to_vec();
    let parsed = super::request(head);
    super::write_request(&parsed, head, &(), b"", &RewriteOptions::default(), &mut out);
    assert_eq!(out, b"beforeGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(rewritten(head).matches("Client-Cert").count(), 1);
}
