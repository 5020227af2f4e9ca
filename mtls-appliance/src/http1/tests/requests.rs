//! What a request head is accepted as or refused for.

use super::super::{
    BodyFraming, HeadLimits, HeadScanner, Method, RequestError, RequestHead, TargetForm, Version, parse_request,
    parse_request_with,
};
use super::request;
use BodyFraming::{Chunked, Length};
use RequestError as E;

/// Duty, head, verdict.
const REFUSED: &[(&str, &[u8], E)] = &[
    ("9112 2.2 bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", E::BareLf),
    ("9112 2.2 bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", E::BareLf),
    ("9112 2.2 bare LF as empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", E::BareLf),
    ("9112 2.2 bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", E::BareCr),
    ("9112 2.2 bare CR in the request line", b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", E::BareCr),
    ("9112 2.2 two CRs before LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", E::BareCr),
    ("9112 2.2 CR CR LF as empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n", E::BareCr),
    ("9112 2.2 two empty lines first", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::EmptyLines),
    ("9112 2.2 LF first", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::BareLf),
    ("9112 2.2 space first", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", E::LeadingWhitespace),
    ("9112 2.2 tab first", b"\tGET / HTTP/1.1\r\nHost: a\r\n\r\n", E::LeadingWhitespace),
    ("9112 2.2 whitespace before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", E::ObsFold),
    ("9110 5.5 NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", E::Nul),
    ("9110 5.5 NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", E::Nul),
    ("9110 5.5 NUL in the target", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", E::Nul),
    ("9110 5.5 control character in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n\r\n", E::ControlCharacter),
    ("9110 5.5 DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\x7f\r\n\r\n", E::ControlCharacter),
    ("9110 5.1 obs-text in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: b\r\n\r\n", E::FieldName),
    ("9110 5.1 separator in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n", E::FieldName),
    ("9110 5.1 space within a name", b"GET / HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n", E::FieldName),
    ("9110 5.1 empty name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", E::FieldName),
    ("9112 5 no colon", b"GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", E::FieldName),
    ("9112 5.1 space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", E::SpaceBeforeColon),
    ("9112 5.1 tab before the colon", b"GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", E::SpaceBeforeColon),
    ("9112 5.2 obs-fold with space", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", E::ObsFold),
    ("9112 5.2 obs-fold with tab", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n", E::ObsFold),
    ("9112 3 no version", b"GET /\r\nHost: a\r\n\r\n", E::RequestLine),
    ("9112 3 no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("9112 3 two spaces", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("9112 3 tab between the parts", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("9112 3 trailing space", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", E::RequestLine),
    ("9112 3 space in the target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("9112 3.1 method is no token", b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("9112 2.3 lower-case version", b"GET / http/1.1\r\nHost: a\r\n\r\n", E::RequestLine),
    ("9112 2.3 two-digit version", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", E::RequestLine),
    ("9110 2.5 version 2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", E::Version),
    ("9110 2.5 version 1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", E::Version),
    ("9110 2.5 version 0.9", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", E::Version),
    ("9113 3.4 HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", E::Http2Preface),
    ("9110 9.3.6 CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", E::Connect),
    ("9110 9.3.8 TRACE", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", E::Trace),
    ("9112 3.2.3 authority form", b"GET a:443 HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("9112 3.2.1 no leading slash", b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("9112 3.2.4 asterisk with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("9112 3.2.4 asterisk and more", b"OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetForm),
    ("9112 3.2.2 other scheme", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetScheme),
    ("9110 4.2.4 user information", b"GET https://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidHost),
    ("9110 4.2.2 empty authority", b"GET https:///x HTTP/1.1\r\nHost: a\r\n\r\n", E::InvalidHost),
    ("9112 3.2 fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetFragment),
    ("9112 3.2 fragment after a query", b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetFragment),
    ("9112 3.2 fragment, absolute form", b"GET https://a#b HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetFragment),
    ("3986 2 non-ASCII target", b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetCharacter),
    ("3986 2 not even UTF-8", b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetCharacter),
    ("3986 2 DEL in the target", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetCharacter),
    ("3986 2 backslash in a path", b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetCharacter),
    ("3986 2 angle bracket", b"GET /?<a> HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetCharacter),
    ("3986 2.1 broken escape in a path", b"GET /a%2 HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetCharacter),
    ("3986 2.1 no hexadecimal escape", b"GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetCharacter),
    ("3986 2.1 escaped NUL in a path", b"GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", E::TargetCharacter),
    ("9112 3.2 no Host", b"GET / HTTP/1.1\r\nX: a\r\n\r\n", E::MissingHost),
    ("9112 3.2 no field at all", b"GET / HTTP/1.1\r\n\r\n", E::MissingHost),
    ("9112 3.2 no Host, absolute form", b"GET https://a/ HTTP/1.1\r\n\r\n", E::MissingHost),
    ("9112 3.2 two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", E::RepeatedHost),
    ("9112 3.2 two equal Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", E::RepeatedHost),
    ("9112 3.2 two Hosts in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", E::RepeatedHost),
    ("9110 7.2 empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", E::InvalidHost),
    ("9110 7.2 list", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", E::InvalidHost),
    ("9110 7.2 comma alone", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", E::InvalidHost),
    ("9110 7.2 whitespace within", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", E::InvalidHost),
    ("9110 7.2 user information", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", E::InvalidHost),
    ("9110 7.2 with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", E::InvalidHost),
    ("9110 7.2 with a scheme", b"GET / HTTP/1.1\r\nHost: https://a\r\n\r\n", E::InvalidHost),
    ("9110 7.2 port alone", b"GET / HTTP/1.1\r\nHost: :443\r\n\r\n", E::InvalidHost),
    ("9110 7.2 port is no number", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", E::InvalidHost),
    ("9110 7.2 port zero", b"GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", E::InvalidHost),
    ("9110 7.2 port too large", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", E::InvalidHost),
    ("9110 7.2 two ports", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", E::InvalidHost),
    ("9110 7.2 open bracket", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", E::InvalidHost),
    ("9110 7.2 no IPv6 address", b"GET / HTTP/1.1\r\nHost: [a.b]\r\n\r\n", E::InvalidHost),
    ("9110 7.2 rest after a bracket", b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", E::InvalidHost),
    ("9110 7.2 zone identifier", b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", E::InvalidHost),
    ("9110 7.2 percent escape", b"GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", E::InvalidHost),
    ("9110 7.2 obs-text", b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", E::InvalidHost),
    ("9112 3.2 invalid Host beside absolute form", b"GET https://a/ HTTP/1.1\r\nHost: a b\r\n\r\n", E::InvalidHost),
    ("9110 10.1.1 other expectation", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", E::Expectation),
    ("9110 10.1.1 one of two", b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x\r\n\r\n", E::Expectation),
    ("9110 10.1.1 empty", b"POST / HTTP/1.1\r\nHost: a\r\nExpect:\r\n\r\n", E::Expectation),
    ("9110 7.6.2 Max-Forwards no number", b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: -1\r\n\r\n", E::MaxForwards),
    (
        "9110 7.6.2 Max-Forwards twice",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n",
        E::MaxForwards,
    ),
    ("9110 7.6.1 option is no token", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", E::ConnectionOption),
    ("9110 7.6.1 nominates Host", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", E::ConnectionNominates),
    (
        "9110 7.6.1 nominates Content-Length",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close, Content-Length\r\n\r\nabc",
        E::ConnectionNominates,
    ),
    (
        "9110 7.6.1 nominates Authorization",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive,AUTHORIZATION\r\n\r\n",
        E::ConnectionNominates,
    ),
];

#[test]
fn refuses_each_violation_for_its_own_reason() {
    for &(duty, head, expected) in REFUSED {
        match parse_request(head, &HeadLimits::default()) {
            Err(error) => assert_eq!(error, expected, "{duty}"),
            other => panic!("{duty}: {other:?}"),
        }
    }
}

/// Framing fields after `POST / HTTP/1.1` and Host, and the verdict.
const FRAMING: &[(&str, &[u8], Result<BodyFraming, E>)] = &[
    ("none", b"", Ok(BodyFraming::None)),
    ("length", b"Content-Length: 5\r\n", Ok(Length(5))),
    ("zero", b"Content-Length: 0\r\n", Ok(Length(0))),
    ("whitespace around", b"Content-Length: \t 5 \t\r\n", Ok(Length(5))),
    ("leading zeros", b"Content-Length: 0000000000000000000000005\r\n", Ok(Length(5))),
    ("largest", b"Content-Length: 9223372036854775807\r\n", Ok(Length(i64::MAX as u64))),
    ("beyond the largest", b"Content-Length: 9223372036854775808\r\n", Err(E::LengthOverflow)),
    ("beyond 64 bits", b"Content-Length: 18446744073709551621\r\n", Err(E::LengthOverflow)),
    ("plus", b"Content-Length: +5\r\n", Err(E::MalformedLength)),
    ("minus", b"Content-Length: -5\r\n", Err(E::MalformedLength)),
    ("hexadecimal", b"Content-Length: 0x5\r\n", Err(E::MalformedLength)),
    ("fraction", b"Content-Length: 5.0\r\n", Err(E::MalformedLength)),
    ("exponent", b"Content-Length: 1e2\r\n", Err(E::MalformedLength)),
    ("underscore", b"Content-Length: 1_0\r\n", Err(E::MalformedLength)),
    ("space within", b"Content-Length: 1 0\r\n", Err(E::MalformedLength)),
    ("quoted", b"Content-Length: \"5\"\r\n", Err(E::MalformedLength)),
    ("obs-text digits", b"Content-Length: \xd9\xa5\r\n", Err(E::MalformedLength)),
    ("empty", b"Content-Length:\r\n", Err(E::MalformedLength)),
    ("list of equals", b"Content-Length: 5, 5\r\n", Err(E::RepeatedLength)),
    ("list of different", b"Content-Length: 5, 6\r\n", Err(E::RepeatedLength)),
    ("trailing comma", b"Content-Length: 5,\r\n", Err(E::RepeatedLength)),
    ("two equals", b"Content-Length: 5\r\nContent-Length: 5\r\n", Err(E::RepeatedLength)),
    ("two different", b"Content-Length: 5\r\nContent-Length: 6\r\n", Err(E::RepeatedLength)),
    ("two, one empty", b"Content-Length: 5\r\nContent-Length:\r\n", Err(E::MalformedLength)),
    ("space before the colon", b"Content-Length : 5\r\n", Err(E::SpaceBeforeColon)),
    ("underscore alias", b"Content_Length: 5\r\n", Err(E::FramingAlias)),
    ("dot alias", b"Content.Length: 5\r\n", Err(E::FramingAlias)),
    ("alias without hyphen", b"ContentLength: 5\r\n", Err(E::FramingAlias)),
    ("decorated alias", b"-Content-Length-: 5\r\n", Err(E::FramingAlias)),
    ("chunked", b"Transfer-Encoding: chunked\r\n", Ok(Chunked)),
    ("chunked, upper case", b"TRANSFER-ENCODING: CHUNKED\r\n", Ok(Chunked)),
    ("tab before the value", b"Transfer-Encoding:\tchunked\r\n", Ok(Chunked)),
    ("tab after the value", b"Transfer-Encoding: chunked\t\r\n", Ok(Chunked)),
    ("CL.TE", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(E::LengthAndEncoding)),
    ("TE.CL", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(E::LengthAndEncoding)),
    ("CL.TE with identity", b"Content-Length: 5\r\nTransfer-Encoding: identity\r\n", Err(E::LengthAndEncoding)),
    ("CL.TE with an empty coding", b"Content-Length: 5\r\nTransfer-Encoding:\r\n", Err(E::LengthAndEncoding)),
    ("TE space colon", b"Transfer-Encoding : chunked\r\n", Err(E::SpaceBeforeColon)),
    ("TE tab colon", b"Transfer-Encoding\t: chunked\r\n", Err(E::SpaceBeforeColon)),
    ("TE folded", b"Transfer-Encoding:\r\n chunked\r\n", Err(E::ObsFold)),
    ("TE with leading space", b" Transfer-Encoding: chunked\r\n", Err(E::ObsFold)),
    ("TE hidden in a value by bare LF", b"X: y\nTransfer-Encoding: chunked\r\n", Err(E::BareLf)),
    ("TE hidden in a value by bare CR", b"X: y\rTransfer-Encoding: chunked\r\n", Err(E::BareCr)),
    ("TE vertical tab", b"Transfer-Encoding: \x0bchunked\r\n", Err(E::ControlCharacter)),
    ("TE form feed", b"Transfer-Encoding: chunked\x0c\r\n", Err(E::ControlCharacter)),
    ("TE NUL", b"Transfer-Encoding: chunked\0\r\n", Err(E::Nul)),
    ("TE no-break space", b"Transfer-Encoding: \xa0chunked\r\n", Err(E::MalformedEncoding)),
    ("TE prefix", b"Transfer-Encoding: xchunked\r\n", Err(E::ChunkedNotFinal)),
    ("TE suffix", b"Transfer-Encoding: chunkedx\r\n", Err(E::ChunkedNotFinal)),
    ("TE identity", b"Transfer-Encoding: identity\r\n", Err(E::ChunkedNotFinal)),
    ("TE chunked, identity", b"Transfer-Encoding: chunked, identity\r\n", Err(E::ChunkedNotFinal)),
    ("TE identity, chunked", b"Transfer-Encoding: identity, chunked\r\n", Err(E::UnknownCoding)),
    ("TE gzip, chunked", b"Transfer-Encoding: gzip, chunked\r\n", Err(E::UnknownCoding)),
    ("TE gzip", b"Transfer-Encoding: gzip\r\n", Err(E::ChunkedNotFinal)),
    ("TE chunked, chunked", b"Transfer-Encoding: chunked, chunked\r\n", Err(E::RepeatedEncoding)),
    ("TE chunked twice around", b"Transfer-Encoding: chunked, gzip, chunked\r\n", Err(E::RepeatedEncoding)),
    ("TE.TE", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(E::RepeatedEncoding)),
    ("TE.TE obfuscated", b"Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n", Err(E::RepeatedEncoding)),
    ("TE empty", b"Transfer-Encoding:\r\n", Err(E::MalformedEncoding)),
    ("TE comma", b"Transfer-Encoding: ,chunked\r\n", Err(E::MalformedEncoding)),
    ("TE trailing comma", b"Transfer-Encoding: chunked,\r\n", Err(E::MalformedEncoding)),
    ("TE quoted", b"Transfer-Encoding: \"chunked\"\r\n", Err(E::MalformedEncoding)),
    ("TE single-quoted", b"Transfer-Encoding: 'chunked'\r\n", Err(E::ChunkedNotFinal)),
    ("TE parameter", b"Transfer-Encoding: chunked;q=1\r\n", Err(E::MalformedEncoding)),
    ("TE two words", b"Transfer-Encoding: chunked x\r\n", Err(E::MalformedEncoding)),
    ("TE alias", b"Transfer_Encoding: chunked\r\n", Err(E::FramingAlias)),
    ("TE alias beside CL", b"Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", Err(E::FramingAlias)),
    ("no alias, just alike", b"Content-Lengthy: 5\r\nTransfer-Encodings: chunked\r\n", Ok(BodyFraming::None)),
];

#[test]
fn judges_framing_fields() {
    for &(case, fields, expected) in FRAMING {
        let head = [b"POST / HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n"].concat();
        let verdict = parse_request(&head, &HeadLimits::default());
        match (verdict, expected) {
            (Ok(Some(parsed)), Ok(framing)) => assert_eq!(parsed.framing(), framing, "{case}"),
            (Err(error), Err(expected)) => assert_eq!(error, expected, "{case}"),
            (other, _) => panic!("{case}: expected {expected:?}, got {other:?}"),
        }
    }
}

#[test]
fn refuses_transfer_encoding_in_http_1_0() {
    let head = b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(parse_request(head, &HeadLimits::default()).unwrap_err(), E::EncodingInHttp10);
}

#[test]
fn reads_a_usual_request() {
    let head = b"POST /v1/bank/accounts?x=1 HTTP/1.1\r\nHost: api.example:8443\r\nX-Api-Tran-Id: t\r\n\
        Content-Length: 12\r\nx-empty:\r\n\r\nbody";
    let parsed = request(head);
    assert_eq!(parsed.head_len(), head.len() - 4);
    assert_eq!((parsed.method(), parsed.method_name(head)), (Method::Post, "POST"));
    assert_eq!(parsed.version(), Version::Http11);
    assert_eq!((parsed.target(head), parsed.path(head)), ("/v1/bank/accounts?x=1", "/v1/bank/accounts"));
    assert_eq!((parsed.authority(head), parsed.host(head)), ("api.example:8443", "api.example"));
    assert_eq!(parsed.framing(), Length(12));
    assert!(parsed.keep_alive() && !parsed.expect_continue());
    assert_eq!(parsed.values(head, "x-api-tran-id").collect::<Vec<_>>(), [b"t"]);
    assert_eq!(parsed.values(head, "X-Empty").collect::<Vec<_>>(), [b""]);
    assert_eq!(parsed.values(head, "absent").count(), 0);
    assert_eq!(parsed.field_count(), 4);
}

#[test]
fn serves_the_target_forms() {
    let cases: &[(&[u8], TargetForm, &str, &str)] = &[
        (b"GET / HTTP/1.1\r\nHost: A.b:\r\n\r\n", TargetForm::Origin, "/", "A.b"),
        (b"GET //x/../y?%zz HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm::Origin, "//x/../y", "a"),
        (b"GET /?a=[1]|{2}^`\\ HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", TargetForm::Origin, "/", "[::1]:1"),
        (b"GET HTTPS://h:1/p?q HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm::Absolute, "/p", "h:1"),
        (b"GET http://h HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm::Absolute, "/", "h"),
        (b"GET http://h?q HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm::Absolute, "/", "h"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm::Asterisk, "*", "a"),
        (b"GET http://h/ HTTP/1.0\r\n\r\n", TargetForm::Absolute, "/", "h"),
        (b"GET / HTTP/1.0\r\n\r\n", TargetForm::Origin, "/", ""),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", TargetForm::Origin, "/", "a"),
        (b"get / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", TargetForm::Origin, "/", "192.0.2.1"),
    ];
    for &(head, form, path, authority) in cases {
        let parsed = request(head);
        assert_eq!((parsed.target_form(), parsed.path(head), parsed.authority(head)), (form, path, authority));
        assert_eq!(parsed.head_len(), head.len());
    }
}

#[test]
fn persistence_follows_version_and_connection() {
    let keeps = |version: &str, fields: &str| {
        request(format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n").as_bytes()).keep_alive()
    };
    assert!(keeps("1.1", ""));
    assert!(keeps("1.1", "Connection: x, , keep-alive\r\n"));
    assert!(!keeps("1.1", "Connection: keep-alive\r\nConnection: Close\r\n"));
    assert!(!keeps("1.0", ""));
    assert!(keeps("1.0", "Connection: Keep-Alive\r\n"));
    assert!(!keeps("1.0", "Connection: keep-alive, close\r\n"));
}

#[test]
fn expectations_count_only_with_content_and_http_1_1() {
    let expects = |line: &str, fields: &str| {
        request(format!("{line}\r\nHost: a\r\nExpect: 100-Continue\r\n{fields}\r\n").as_bytes()).expect_continue()
    };
    assert!(expects("POST / HTTP/1.1", "Content-Length: 1\r\n"));
    assert!(expects("POST / HTTP/1.1", "Transfer-Encoding: chunked\r\n"));
    assert!(!expects("POST / HTTP/1.1", ""));
    assert!(!expects("POST / HTTP/1.1", "Content-Length: 0\r\n"));
    assert!(!expects("POST / HTTP/1.0", "Content-Length: 1\r\n"));
}

#[test]
fn upgrade_counts_only_when_nominated_and_single() {
    let upgrade = |version: &str, fields: &str| {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
        request(head.as_bytes()).upgrade(head.as_bytes()).map(<[u8]>::to_vec)
    };
    assert_eq!(upgrade("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n").unwrap(), b"websocket");
    assert_eq!(upgrade("1.1", "Upgrade: websocket\r\n"), None);
    assert_eq!(upgrade("1.1", "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"), None);
    assert_eq!(upgrade("1.0", "Connection: upgrade\r\nUpgrade: websocket\r\n"), None);
}

#[test]
fn limits_have_their_own_reasons() {
    let limits = HeadLimits { head_bytes: 100, fields: 3, target_bytes: 20, body_bytes: 1000 };
    let verdict = |head: &str| parse_request(head.as_bytes(), &limits).map(|parsed| parsed.is_some());
    assert_eq!(verdict(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(19))), Ok(true));
    assert_eq!(verdict(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(20))), Err(E::TargetTooLong));
    assert_eq!(verdict(&format!("GET /{}", "a".repeat(95))), Ok(false));
    assert_eq!(verdict(&format!("GET /{}", "a".repeat(96))), Err(E::TargetTooLong));
    let padded = |len: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "b".repeat(len - 32));
    assert_eq!(padded(100).len(), 100);
    assert_eq!(verdict(&padded(100)), Ok(true));
    assert_eq!(verdict(&padded(101)), Err(E::HeadTooLarge));
    assert_eq!(verdict(&format!("\r\n{}", padded(100))), Ok(true));
    assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\n\r\n"), Ok(true));
    assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nE: f\r\n\r\n"), Err(E::TooManyFields));
    assert_eq!(verdict("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"), Ok(true));
    assert_eq!(verdict("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n"), Err(E::BodyTooLarge));
}

#[test]
fn more_fields_than_fit_the_stack_are_served_where_allowed() {
    let mut head = String::from("GET / HTTP/1.1\r\nHost: a\r\n");
    for n in 0..299 {
        head.push_str(&format!("x-{n}: {n}\r\n"));
    }
    head.push_str("\r\n");
    let limits = |fields| HeadLimits { fields, ..HeadLimits::default() };
    assert_eq!(parse_request(head.as_bytes(), &limits(300)).unwrap().unwrap().field_count(), 300);
    assert_eq!(parse_request(head.as_bytes(), &limits(299)).unwrap_err(), E::TooManyFields);
    assert_eq!(parse_request(head.as_bytes(), &limits(100)).unwrap_err(), E::TooManyFields);
}

#[test]
fn nominations_are_bounded() {
    let head = |count| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n\r\n", "x-y,".repeat(count));
    assert!(parse_request(head(32).as_bytes(), &HeadLimits::default()).is_ok());
    let refused = parse_request(head(33).as_bytes(), &HeadLimits::default());
    assert_eq!(refused.unwrap_err(), E::ConnectionOption);
}

/// What a head says, for comparing two ways of parsing it.
pub(super) fn summary(parsed: &RequestHead, buf: &[u8]) -> String {
    let (form, host) = (parsed.target_form(), parsed.authority(buf));
    format!("{} {:?} {} {form:?} {host} {:?}", parsed.head_len(), parsed.method(), parsed.target(buf), parsed.framing())
}

#[test]
fn every_split_gives_the_same_verdict() {
    let accepted: &[&[u8]] = &[
        b"\r\nPOST /p?q HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        b"GET https://h/ HTTP/1.1\r\nHost: a\r\nConnection: x-a\r\nX-A: 1\r\n\r\nGET / HTTP/1.1\r\n",
    ];
    let framing: Vec<Vec<u8>> =
        FRAMING.iter().map(|row| [b"POST / HTTP/1.1\r\nHost: a\r\n", row.1, b"\r\n"].concat()).collect();
    let heads =
        accepted.iter().copied().chain(REFUSED.iter().map(|row| row.1)).chain(framing.iter().map(Vec::as_slice));
    let limits = HeadLimits { head_bytes: 160, ..HeadLimits::default() };
    for head in heads {
        let describe =
            |verdict: Result<Option<RequestHead>, E>| verdict.map(|parsed| parsed.map(|parsed| summary(&parsed, head)));
        let whole = describe(parse_request(head, &limits));
        for cut in 0..=head.len() {
            let mut scanner = HeadScanner::new();
            let early = describe(parse_request_with(&mut scanner, &head[..cut], &limits));
            let verdict =
                if early == Ok(None) { describe(parse_request_with(&mut scanner, head, &limits)) } else { early };
            assert_eq!(verdict, whole, "{:?} cut at {cut}", String::from_utf8_lossy(head));
        }
        let mut scanner = HeadScanner::new();
        let bytewise = (0..=head.len())
            .map(|end| describe(parse_request_with(&mut scanner, &head[..end], &limits)))
            .find(|verdict| *verdict != Ok(None));
        assert_eq!(bytewise.unwrap_or(Ok(None)), whole, "{:?} bytewise", String::from_utf8_lossy(head));
    }
}

#[test]
fn reasons_are_distinct_snake_case_and_complete() {
    let mut reasons: Vec<&str> = E::ALL.iter().map(|error| error.reason()).collect();
    assert!(
        reasons
            .iter()
            .all(|reason| { reason.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') })
    );
    assert!(E::ALL.iter().all(|error| (400..=505).contains(&error.status()) && !error.to_string().is_empty()));
    reasons.sort_unstable();
    let count = reasons.len();
    reasons.dedup();
    assert_eq!(reasons.len(), count);
}
