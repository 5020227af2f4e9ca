//! A request head: the verdict does not depend on how the bytes arrive, and what is accepted is strict, within every
//! limit, and accepted by httparse on its own.

use mtls_appliance::http1::{
    BodyFraming, HeadLimits, HeadScanner, RequestError, RequestHead, RewriteOptions, TargetForm, Version,
    parse_request, parse_request_with, write_request,
};

use crate::message::{Framing, Message, is_token, shown};
use crate::pieces::Random;

/// Small enough for a fuzzer to go beyond.
const TIGHT: HeadLimits = HeadLimits { head_bytes: 200, fields: 5, target_bytes: 40, body_bytes: 99 };

pub(crate) fn run(input: &[u8]) {
    for limits in [HeadLimits::default(), TIGHT] {
        let whole = parse_request(input, &limits);
        let in_pieces = arriving(input, &limits);
        assert_eq!(summary(&in_pieces, input), summary(&whole, input), "in pieces and whole");
        match whole {
            Ok(Some(head)) => accepted(&head, input, &limits),
            Ok(None) => assert!(input.len() <= limits.head_bytes + 2, "waits for more than the limit"),
            Err(error) => assert!((400..=599).contains(&error.status()) && !error.reason().is_empty()),
        }
    }
}

/// The verdict when the input comes in pieces.
fn arriving(input: &[u8], limits: &HeadLimits) -> Result<Option<RequestHead>, RequestError> {
    let mut scanner = HeadScanner::new();
    for end in Random::of(input).arrivals(input.len()) {
        match parse_request_with(&mut scanner, &input[..end], limits) {
            Ok(None) => {}
            verdict => return verdict,
        }
    }
    Ok(None)
}

/// Everything that can be seen of a verdict.
fn summary(verdict: &Result<Option<RequestHead>, RequestError>, input: &[u8]) -> String {
    match verdict {
        Ok(Some(head)) => {
            let mut written = Vec::new();
            let upgrade = head.upgrade(input).unwrap_or_default();
            let options = RewriteOptions { upgrade, via: Some("edge"), ..RewriteOptions::default() };
            write_request(head, input, &(), b"", &options, &mut written);
            let written = written.escape_ascii();
            format!("{} {} {} {written}", head.head_len(), head.target(input), head.keep_alive())
        }
        Ok(None) => "more".to_owned(),
        Err(error) => error.reason().to_owned(),
    }
}

fn accepted(head: &RequestHead, input: &[u8], limits: &HeadLimits) {
    let bytes = &input[..head.head_len()];
    assert!(matches!(parse_request(&bytes[..bytes.len() - 1], limits), Ok(None)), "complete before its last byte");
    let strict = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let message = Message::read(strict);

    assert!(strict.len() <= limits.head_bytes && message.fields.len() <= limits.fields);
    assert_eq!(head.field_count(), message.fields.len());
    let parts: Vec<&[u8]> = message.start.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else { panic!("a request line has three parts") };
    assert!(!method.is_empty() && method.iter().all(|byte| is_token(*byte)));
    assert!(method != b"CONNECT" && method != b"TRACE");
    assert_eq!(head.method_name(input).as_bytes(), method);
    assert_eq!(head.target(input).as_bytes(), target);
    assert!(target.len() <= limits.target_bytes && target.iter().all(u8::is_ascii_graphic) && !target.contains(&b'#'));
    let modern = version == b"HTTP/1.1";
    assert!(modern || version == b"HTTP/1.0");
    assert_eq!(head.version() == Version::Http11, modern);

    let hosts = message.values("host");
    assert!(hosts.len() == 1 || (!modern && hosts.is_empty()), "exactly one Host");
    match (head.target_form(), &hosts[..]) {
        (TargetForm::Absolute, _) | (_, []) => {}
        (_, [host]) => assert_eq!(head.authority(input).as_bytes(), host.strip_suffix(b":").unwrap_or(host)),
        (_, more) => panic!("{} hosts", more.len()),
    }
    assert!(!head.authority(input).bytes().any(|byte| b",@/?%\\ ".contains(&byte)), "an authority has one reading");

    match (message.framing(), head.framing()) {
        (Framing::None, BodyFraming::None) => {}
        (Framing::Length(said), BodyFraming::Length(read)) => assert!(said == read && read <= limits.body_bytes),
        (Framing::Chunked, BodyFraming::Chunked) => assert!(modern),
        (said, read) => panic!("the fields say {said:?}, read was {read:?}"),
    }
    let options = message.connection_options();
    let named = |option: &str| options.iter().any(|other| other == option.as_bytes());
    assert_eq!(head.keep_alive(), !named("close") && (modern || named("keep-alive")));
    assert!(head.upgrade(input).is_none() || (modern && named("upgrade")));

    let mut slots = vec![httparse::EMPTY_HEADER; message.fields.len()];
    let mut request = httparse::Request::new(&mut slots);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(bytes.len())), "httparse refuses it");
    let pairs: Vec<(&[u8], &[u8])> =
        request.headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect();
    assert!(pairs == message.fields, "read:{}\nby httparse:{}", shown(&message.fields), shown(&pairs));
}
