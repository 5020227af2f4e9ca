//! What the origin gets.

use super::super::{Offer, ProtocolNameError, RewriteOptions, check_protocol_name};
use super::{request, rewritten, rewritten_with};

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
        "GET / HTTP/1.1\r\nHost: h\r\nX-Hop: 1\r\nClose: 1\r\nConnection: x-hop, close\r\nConnection: y\r\nY: 2\r\n\
         Z: 3\r\n\r\n",
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
    let with =
        |upgrade: &[u8], close| rewritten_with(head, &RewriteOptions { upgrade, close, ..RewriteOptions::default() });
    assert!(
        with(b"websocket", false).contains("\r\nUpgrade: websocket\r\nTE: trailers\r\nConnection: Upgrade, TE\r\n")
    );
    assert!(with(b"websocket", true).contains("\r\nConnection: close, Upgrade, TE\r\n"));
    assert!(with(b"", true).contains("\r\nTE: trailers\r\nConnection: close, TE\r\n"));
    assert!(!with(b"", true).contains("Upgrade"));
    let silent = RewriteOptions { expect: false, ..RewriteOptions::default() };
    let out =
        rewritten_with(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", &silent);
    assert!(!out.contains("Expect"));
}

/// Duty, version, fields, and what goes on where `websocket` and `chat` are allowed, and `h2c` by mistake: protocols, or
/// none, for which reason.
const OFFERED: &[(&str, &str, &str, &str, &str)] = &[
    ("9110 7.8 passed on", "1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "websocket", ""),
    ("9110 7.8 names in any case", "1.1", "Connection: upgrade\r\nUpgrade: WebSocket\r\n", "WebSocket", ""),
    ("9110 7.8 a version", "1.1", "Connection: upgrade\r\nUpgrade: chat/2\r\n", "chat/2", ""),
    (
        "9110 7.8 only the allowed ones, in their order",
        "1.1",
        "Connection: upgrade\r\nUpgrade: x,chat/1 ,, h2c, websocket\r\n",
        "chat/1, websocket",
        "",
    ),
    ("9110 7.8 not nominated", "1.1", "Upgrade: websocket\r\n", "", ""),
    ("9110 7.8 HTTP/1.0", "1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n", "", ""),
    ("9110 7.8 two fields", "1.1", "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: chat\r\n", "", ""),
    ("not allowed", "1.1", "Connection: upgrade\r\nUpgrade: x\r\n", "", "protocol_not_allowed"),
    ("carries HTTP", "1.1", "Connection: upgrade\r\nUpgrade: h2c\r\n", "", "protocol_not_allowed"),
    ("carries HTTP, in any case", "1.1", "Connection: upgrade\r\nUpgrade: H2C/1\r\n", "", "protocol_not_allowed"),
    ("a name within another", "1.1", "Connection: upgrade\r\nUpgrade: websockets\r\n", "", "protocol_not_allowed"),
    ("no token", "1.1", "Connection: upgrade\r\nUpgrade: websocket x\r\n", "", "protocol_not_allowed"),
    ("an empty version", "1.1", "Connection: upgrade\r\nUpgrade: websocket/\r\n", "", "protocol_not_allowed"),
    ("with a body", "1.1", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", "", "with_body"),
    (
        "with a chunked body",
        "1.1",
        "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
        "",
        "with_body",
    ),
    ("with close", "1.1", "Connection: upgrade, close\r\nUpgrade: websocket\r\n", "", "with_close"),
    (
        "with an empty body",
        "1.1",
        "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n",
        "websocket",
        "",
    ),
];

#[test]
fn of_an_upgrade_only_what_is_allowed_goes_on() {
    for &(duty, version, fields, protocols, reason) in OFFERED {
        let head = format!("GET / HTTP/{version}\r\nHost: h\r\n{fields}Sec-WebSocket-Key: k\r\n\r\n");
        let offer = request(head.as_bytes()).offer(head.as_bytes(), &["WEBSOCKET", "chat", "h2c"]);
        let dropped = if let Offer::Dropped(reason) = offer { reason } else { "" };
        assert_eq!((offer.protocols(), dropped), (protocols.as_bytes(), reason), "{duty}");
        let options = RewriteOptions { upgrade: offer.protocols(), ..RewriteOptions::default() };
        let out = rewritten_with(head.as_bytes(), &options);
        let line = format!("\r\nUpgrade: {protocols}\r\nConnection: Upgrade\r\n");
        assert!(if protocols.is_empty() { !out.contains("Upgrade") } else { out.contains(&line) }, "{duty}: {out}");
        assert!(out.contains("\r\nSec-WebSocket-Key: k\r\n"), "{duty}: {out}");
    }
    let head = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(request(head).offer(head, &[""; 0]), Offer::Dropped("protocol_not_allowed"));
}

#[test]
fn protocols_that_carry_http_cannot_be_allowed() {
    assert_eq!(check_protocol_name("websocket"), Ok(()));
    for name in ["h2c", "H2C", "h2", "HTTP", "TLS"] {
        assert_eq!(check_protocol_name(name), Err(ProtocolNameError::CarriesHttp), "{name}");
    }
    for name in ["", "web socket", "websocket/13", "a,b"] {
        assert_eq!(check_protocol_name(name), Err(ProtocolNameError::Syntax), "{name}");
    }
}

#[test]
fn output_is_appended() {
    let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut out = b"before".to_vec();
    let parsed = request(head);
    super::write_request(&parsed, head, &(), b"", &RewriteOptions::default(), &mut out);
    assert_eq!(out, b"beforeGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(rewritten(head).matches("Client-Cert").count(), 1);
}
