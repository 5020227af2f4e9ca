//! What a response head is accepted as or refused for, and what the client gets.

use super::super::{
    BodyFraming, Disposition, Exchange, HeadLimits, HeadScanner, Method, OwnResponse, ResponseError, ResponseHead,
    ResponseOptions, Version, parse_response, parse_response_with, write_response,
};
use BodyFraming::{Chunked, Length, None as NoBody, UntilClose};
use ResponseError as E;

const GET: Exchange<'_> =
    Exchange { method: Method::Get, client_version: Version::Http11, client_keep_alive: true, upgrade: b"" };
const HEAD: Exchange<'_> = Exchange { method: Method::Head, ..GET };
const UPGRADE: Exchange<'_> = Exchange { upgrade: b"websocket, chat/2", ..GET };
const OLD: Exchange<'_> = Exchange { client_version: Version::Http10, ..GET };
const OLD_CLOSE: Exchange<'_> = Exchange { client_keep_alive: false, ..OLD };

fn response(head: &[u8], exchange: &Exchange) -> ResponseHead {
    parse_response(head, exchange, &HeadLimits::default()).unwrap().unwrap()
}

/// Duty, request, response, framing.
const FRAMED: &[(&str, &Exchange, &[u8], BodyFraming)] = &[
    ("9112 6.3 length", &GET, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Length(5)),
    ("9112 6.3 chunked", &GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Chunked),
    ("9112 6.3 neither", &GET, b"HTTP/1.1 200 OK\r\n\r\n", UntilClose),
    ("9112 6.3 HEAD with length", &HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", NoBody),
    ("9112 6.3 HEAD chunked", &HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", NoBody),
    ("9112 6.3 HEAD with neither", &HEAD, b"HTTP/1.1 404 Not Found\r\n\r\n", NoBody),
    ("9112 6.3 interim", &GET, b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n", NoBody),
    ("9112 6.3 204", &GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", NoBody),
    ("9112 6.3 304", &GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", NoBody),
    ("9110 15.3.6 205 by its fields", &GET, b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Length(0)),
    ("9112 4 no reason phrase", &GET, b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", Length(0)),
    ("9112 4 not even a space", &GET, b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Length(0)),
    ("9112 4 obs-text in the phrase", &GET, b"HTTP/1.1 200 \xea\xb0\x80\r\nContent-Length: 0\r\n\r\n", Length(0)),
    ("9110 2.5 HTTP/1.0", &GET, b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Length(5)),
    ("9110 7.8 101", &UPGRADE, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", NoBody),
    ("9110 7.8 101 in any case", &UPGRADE, b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: Chat/2\r\n\r\n", NoBody),
    ("9110 15 unknown in range", &GET, b"HTTP/1.1 599 X\r\nContent-Length: 0\r\n\r\n", Length(0)),
];

#[test]
fn frames_each_response() {
    for &(duty, exchange, head, framing) in FRAMED {
        let parsed = response(head, exchange);
        assert_eq!((parsed.framing(), parsed.head_len()), (framing, head.len()), "{duty}");
    }
}

/// Duty, request, response, reason.
const REFUSED: &[(&str, &Exchange, &[u8], E)] = &[
    (
        "9112 6.3 both framings",
        &GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        E::LengthAndEncoding,
    ),
    (
        "9112 6.3 both framings, to a HEAD",
        &HEAD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        E::LengthAndEncoding,
    ),
    ("9112 6.1 TE in HTTP/1.0", &GET, b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", E::EncodingInHttp10),
    ("9112 6.1 not chunked", &GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", E::ChunkedNotFinal),
    ("9112 6.1 gzip, chunked", &GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", E::UnknownCoding),
    (
        "9112 6.3 two lengths",
        &GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        E::RepeatedLength,
    ),
    ("9112 6.3 length list", &GET, b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", E::RepeatedLength),
    ("9112 6.3 bad length on a 204", &GET, b"HTTP/1.1 204 N\r\nContent-Length: x\r\n\r\n", E::MalformedLength),
    ("9112 2.2 bare LF", &GET, b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n", E::BareLf),
    ("9112 2.2 bare CR", &GET, b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", E::BareCr),
    ("9112 2.2 bare CR in the phrase", &GET, b"HTTP/1.1 200 O\rK\r\n\r\n", E::BareCr),
    ("9112 2.2 empty line first", &GET, b"\r\nHTTP/1.1 200 OK\r\n\r\n", E::EmptyLines),
    ("9112 5.1 space before the colon", &GET, b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n", E::SpaceBeforeColon),
    ("9112 5.2 obs-fold", &GET, b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", E::ObsFold),
    ("9110 5.5 NUL", &GET, b"HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", E::Nul),
    ("9110 5.5 control character", &GET, b"HTTP/1.1 200 OK\r\nX: \x02\r\n\r\n", E::ControlCharacter),
    ("9110 5.1 name is no token", &GET, b"HTTP/1.1 200 OK\r\nX@: a\r\n\r\n", E::FieldName),
    ("9112 4 control character in the phrase", &GET, b"HTTP/1.1 200 O\x01K\r\n\r\n", E::StatusLine),
    ("9112 4 two digits", &GET, b"HTTP/1.1 20 OK\r\n\r\n", E::StatusLine),
    ("9112 4 four digits", &GET, b"HTTP/1.1 2000 OK\r\n\r\n", E::StatusLine),
    ("9112 4 two spaces", &GET, b"HTTP/1.1  200 OK\r\n\r\n", E::StatusLine),
    ("9112 4 another protocol", &GET, b"ICY 200 OK\r\n\r\n", E::StatusLine),
    ("9112 2.3 version", &GET, b"HTTP/2.0 200 OK\r\n\r\n", E::Version),
    ("9110 15 below the range", &GET, b"HTTP/1.1 099 X\r\n\r\n", E::Status),
    ("9110 15 above the range", &GET, b"HTTP/1.1 600 X\r\n\r\n", E::Status),
    ("9110 7.8 101 unasked", &GET, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", E::Upgrade),
    ("9110 7.8 101 without Upgrade", &UPGRADE, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n", E::Protocol),
    ("9110 7.8 101 without Connection", &UPGRADE, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n", E::Protocol),
    (
        "9110 7.8 101 to what was not offered",
        &UPGRADE,
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        E::Protocol,
    ),
    (
        "9110 7.8 101 to another version",
        &UPGRADE,
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: chat/1\r\n\r\n",
        E::Protocol,
    ),
    (
        "9110 7.8 101 to more than was offered",
        &UPGRADE,
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket, x\r\n\r\n",
        E::Protocol,
    ),
    ("9110 7.8 101 to nothing", &UPGRADE, b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade:\r\n\r\n", E::Protocol),
    (
        "9110 7.8 101 with two Upgrades",
        &UPGRADE,
        b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: chat/2\r\n\r\n",
        E::Protocol,
    ),
    (
        "9110 15.2 101 by HTTP/1.0",
        &UPGRADE,
        b"HTTP/1.0 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        E::Protocol,
    ),
    ("framing alias", &GET, b"HTTP/1.1 200 OK\r\nContent_Length: 5\r\n\r\n", E::FramingAlias),
    (
        "9110 7.6.1 nominates Content-Length",
        &GET,
        b"HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n",
        E::ConnectionNominates,
    ),
];

#[test]
fn refuses_each_violation_for_its_own_reason() {
    for &(duty, exchange, head, expected) in REFUSED {
        match parse_response(head, exchange, &HeadLimits::default()) {
            Err(error) => assert_eq!((error, error.status()), (expected, 502), "{duty}"),
            other => panic!("{duty}: {other:?}"),
        }
    }
}

#[test]
fn every_split_gives_the_same_verdict() {
    let rows = FRAMED.iter().map(|row| (row.1, row.2)).chain(REFUSED.iter().map(|row| (row.1, row.2)));
    let limits = HeadLimits::default();
    for (exchange, head) in rows {
        let describe = |verdict: Result<Option<ResponseHead>, E>| {
            verdict.map(|parsed| parsed.map(|parsed| (parsed.status(), parsed.framing(), parsed.head_len())))
        };
        let whole = describe(parse_response(head, exchange, &limits));
        let mut scanner = HeadScanner::new();
        let bytewise = (0..=head.len())
            .map(|end| describe(parse_response_with(&mut scanner, &head[..end], exchange, &limits)))
            .find(|verdict| *verdict != Ok(None));
        assert_eq!(bytewise, Some(whole), "{:?}", String::from_utf8_lossy(head));
    }
}

#[test]
fn limits_are_kept() {
    let limits = HeadLimits { head_bytes: 64, fields: 2, ..HeadLimits::default() };
    let verdict = |head: String| parse_response(head.as_bytes(), &GET, &limits).map(|parsed| parsed.is_some());
    assert_eq!(verdict("HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n".into()), Ok(true));
    assert_eq!(verdict("HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\nE: f\r\n\r\n".into()), Err(E::TooManyFields));
    assert_eq!(verdict(format!("HTTP/1.1 200 {}", "a".repeat(60))), Err(E::HeadTooLarge));
    assert_eq!(verdict(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(60))), Err(E::HeadTooLarge));
}

/// Duty, request, closing, response, what the client gets (empty: nothing).
const WRITTEN: &[(&str, &Exchange, bool, &str, &str)] = &[
    (
        "9110 7.6.1 hop-by-hop fields removed, order kept",
        &GET,
        false,
        "HTTP/1.1 200 Fine\r\nServer:  s\r\nConnection: x-hop, close\r\nX-Hop: 1\r\nClose: x\r\nKeep-Alive: 5\r\nTE: x\r\n\
         Proxy-Authenticate: b\r\nUpgrade: h2c\r\nContent-Length: 05\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n",
        "HTTP/1.1 200 Fine\r\nServer: s\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\r\n",
    ),
    (
        "9112 6.1 chunked, also when nominated",
        &GET,
        false,
        "HTTP/1.1 200 OK\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: Chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        "9112 9.6 closing",
        &GET,
        true,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ),
    (
        "9112 6.3 until close",
        &GET,
        false,
        "HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n",
    ),
    (
        "9110 2.5 our own version, whatever the origin's",
        &GET,
        false,
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "9112 C.2.2 keep-alive announced to HTTP/1.0",
        &OLD,
        false,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
    ),
    (
        "9112 9.3 HTTP/1.0 that did not ask",
        &OLD_CLOSE,
        false,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ),
    (
        "9112 6.1 no chunks to HTTP/1.0",
        &OLD,
        false,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ),
    ("9110 15.2 no interim to HTTP/1.0", &OLD, false, "HTTP/1.1 100 Continue\r\n\r\n", ""),
    (
        "9110 15.2 interim passed on, without framing or Connection",
        &GET,
        true,
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
    ),
    (
        "9110 8.6 no length with 204",
        &GET,
        false,
        "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ),
    (
        "9110 8.6 length with HEAD",
        &HEAD,
        false,
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
    ),
    (
        "9112 6.1 chunked with HEAD is for the hop",
        &HEAD,
        false,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ),
    (
        "9110 15.4.5 length with 304",
        &GET,
        false,
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: e\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: e\r\nContent-Length: 7\r\n\r\n",
    ),
    (
        "9110 7.8 tunnel",
        &UPGRADE,
        false,
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nConnection: Upgrade\r\nS: k\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nS: k\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ),
    (
        "9110 8.6 no length with 101",
        &UPGRADE,
        true,
        "HTTP/1.1 101 S\r\nContent-Length: 7\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ),
    (
        "9110 7.8 an offer that nobody needs",
        &GET,
        false,
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    (
        "9110 15.5.22 what is required",
        &GET,
        false,
        "HTTP/1.1 426 U\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 426 U\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ),
    (
        "9110 15.5.22 what is required, at the end of the connection",
        &GET,
        true,
        "HTTP/1.1 426 U\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 426 U\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n",
    ),
];

#[test]
fn the_client_gets_exactly_this() {
    for &(duty, exchange, closing, head, expected) in WRITTEN {
        let parsed = response(head.as_bytes(), exchange);
        let plan = parsed.plan(exchange, closing);
        let mut out = Vec::new();
        write_response(&parsed, head.as_bytes(), &plan, &ResponseOptions::default(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{duty}");
    }
}

#[test]
fn own_fields_are_added() {
    let options = ResponseOptions {
        via: Some("edge"),
        date: Some("Sun, 06 Nov 1994 08:49:37 GMT"),
        extra: b"x-api-tran-id: t\r\n",
    };
    let written = |head: &str| {
        let parsed = response(head.as_bytes(), &GET);
        let mut out = Vec::new();
        write_response(&parsed, head.as_bytes(), &parsed.plan(&GET, false), &options, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        written("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVia: 1.0 edge\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         x-api-tran-id: t\r\n\r\n"
    );
    assert_eq!(written("HTTP/1.1 200 OK\r\nContent-Length: 0\r\ndate: d\r\n\r\n").matches("ate: ").count(), 1);
    assert!(!written("HTTP/1.1 100 Continue\r\n\r\n").contains("Date"));
}

#[test]
fn plans_decide_about_both_connections() {
    let plan = |head: &str, exchange: &Exchange, closing| response(head.as_bytes(), exchange).plan(exchange, closing);
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert!(plan(sized, &GET, false).reuse_origin && !plan(sized, &GET, false).close_client);
    assert!(plan(sized, &GET, true).reuse_origin && plan(sized, &GET, true).close_client);
    let closing = plan("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", &GET, false);
    assert!(!closing.reuse_origin && !closing.close_client);
    assert!(!plan("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", &GET, false).reuse_origin);
    let until_close = plan("HTTP/1.1 200 OK\r\n\r\n", &GET, false);
    assert!(!until_close.reuse_origin && until_close.close_client);
    let old = plan(chunked, &OLD, false);
    assert!(old.dechunk && old.close_client && old.client_framing == UntilClose && old.reuse_origin);
    assert!(!plan(chunked, &GET, false).dechunk);
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(plan(interim, &GET, false).disposition, Disposition::Interim);
    assert_eq!(plan(interim, &OLD, false).disposition, Disposition::Swallow);
    assert!(!plan(interim, &GET, true).reuse_origin && !plan(interim, &GET, true).close_client);
}

#[test]
fn own_responses_are_whole() {
    let mut out = Vec::new();
    OwnResponse::refusal(405, "method_trace").write(Some("d"), &mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(
        text,
        "HTTP/1.1 405 Method Not Allowed\r\nDate: d\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n\
         Content-Type: application/json\r\nContent-Length: 25\r\nConnection: close\r\n\r\n{\"error\":\"method_trace\"}\n"
    );
    assert_eq!(response(text.as_bytes(), &GET).framing(), Length(25));
    let mut out = Vec::new();
    let head = OwnResponse { head_request: true, close: false, ..OwnResponse::refusal(502, "x") };
    head.write(None, &mut out);
    assert!(out.ends_with(b"Content-Length: 14\r\n\r\n"));
}

#[test]
fn every_status_that_is_given_has_a_phrase() {
    use super::super::{ChunkError, RequestError, reason_phrase};
    let statuses = RequestError::ALL.iter().map(|error| error.status());
    let statuses = statuses.chain(E::ALL.iter().map(|error| error.status()));
    for status in statuses.chain(ChunkError::ALL.iter().map(|error| error.status())) {
        assert_ne!(reason_phrase(status), "Error", "{status}");
    }
}
