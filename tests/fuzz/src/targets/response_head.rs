//! A response head: the verdict does not depend on how the bytes arrive, and what is accepted is strict, framed as its
//! fields say, and accepted by httparse on its own.

use mtls_appliance::http1::{
    BodyFraming, Disposition, Exchange, HeadLimits, HeadScanner, Method, ResponseError, ResponseHead, ResponseOptions,
    Version, parse_response, parse_response_with, write_response,
};

use crate::message::{Framing, Message, shown};
use crate::pieces::Random;

const TIGHT: HeadLimits = HeadLimits { head_bytes: 200, fields: 5, target_bytes: 40, body_bytes: 99 };

/// The requests that a response may be the answer to, as far as it makes a difference.
pub(crate) const EXCHANGES: [Exchange<'_>; 4] = [
    Exchange { method: Method::Get, client_version: Version::Http11, client_keep_alive: true, upgrade: b"" },
    Exchange { method: Method::Get, client_version: Version::Http11, client_keep_alive: true, upgrade: b"websocket" },
    Exchange { method: Method::Head, client_version: Version::Http11, client_keep_alive: false, upgrade: b"" },
    Exchange { method: Method::Post, client_version: Version::Http10, client_keep_alive: true, upgrade: b"" },
];

pub(crate) fn run(input: &[u8]) {
    for exchange in &EXCHANGES {
        for limits in [HeadLimits::default(), TIGHT] {
            let whole = parse_response(input, exchange, &limits);
            let in_pieces = arriving(input, exchange, &limits);
            assert_eq!(summary(&in_pieces, input, exchange), summary(&whole, input, exchange), "in pieces and whole");
            match whole {
                Ok(Some(head)) => accepted(&head, input, exchange, &limits),
                Ok(None) => assert!(input.len() <= limits.head_bytes, "waits for more than the limit"),
                Err(error) => assert!(error.status() == 502 && !error.reason().is_empty()),
            }
        }
    }
}

fn arriving(input: &[u8], exchange: &Exchange<'_>, limits: &HeadLimits) -> Result<Option<ResponseHead>, ResponseError> {
    let mut scanner = HeadScanner::new();
    for end in Random::of(input).arrivals(input.len()) {
        match parse_response_with(&mut scanner, &input[..end], exchange, limits) {
            Ok(None) => {}
            verdict => return verdict,
        }
    }
    Ok(None)
}

fn summary(verdict: &Result<Option<ResponseHead>, ResponseError>, input: &[u8], exchange: &Exchange<'_>) -> String {
    match verdict {
        Ok(Some(head)) => {
            let plan = head.plan(exchange, false);
            let mut written = Vec::new();
            write_response(head, input, &plan, &ResponseOptions::default(), &mut written);
            format!("{} {:?} {plan:?} {}", head.head_len(), head.framing(), written.escape_ascii())
        }
        Ok(None) => "more".to_owned(),
        Err(error) => error.reason().to_owned(),
    }
}

fn accepted(head: &ResponseHead, input: &[u8], exchange: &Exchange<'_>, limits: &HeadLimits) {
    let bytes = &input[..head.head_len()];
    assert!(matches!(parse_response(&bytes[..bytes.len() - 1], exchange, limits), Ok(None)), "complete too early");
    let message = Message::read(bytes);
    assert!(bytes.len() <= limits.head_bytes && message.fields.len() <= limits.fields);
    let (version, rest) = message.start.split_at(9);
    assert!(version == b"HTTP/1.1 " || version == b"HTTP/1.0 ");
    assert_eq!(head.version() == Version::Http11, version == b"HTTP/1.1 ");
    assert!(rest[..3].iter().all(u8::is_ascii_digit) && (rest.len() == 3 || rest[3] == b' '));
    assert_eq!(rest[..3], *head.status().to_string().as_bytes());
    assert!((100..600).contains(&head.status()));

    // RFC 9112 6.3.
    let bodiless = head.status() < 200 || matches!(head.status(), 204 | 304) || exchange.method == Method::Head;
    match (message.framing(), head.framing()) {
        (_, BodyFraming::None) => assert!(bodiless),
        (Framing::Length(said), BodyFraming::Length(read)) => assert!(!bodiless && said == read),
        (Framing::Chunked, BodyFraming::Chunked) | (Framing::None, BodyFraming::UntilClose) => assert!(!bodiless),
        (said, read) => panic!("the fields say {said:?}, read was {read:?}"),
    }

    for closing in [false, true] {
        let plan = head.plan(exchange, closing);
        let last = plan.disposition == Disposition::Final;
        assert_eq!(last, head.status() >= 200);
        assert!(!plan.reuse_origin || (last && head.framing() != BodyFraming::UntilClose));
        assert!(!plan.reuse_origin || !message.connection_options().contains(&b"close".to_vec()));
        assert!(!last || !closing || plan.close_client);
        assert!(plan.client_framing != BodyFraming::UntilClose || !last || plan.close_client);
        assert!(exchange.client_version == Version::Http11 || plan.client_framing != BodyFraming::Chunked);
        assert!(plan.disposition != Disposition::Tunnel || switched_as_asked(&message, exchange.upgrade));
    }

    let mut slots = vec![httparse::EMPTY_HEADER; message.fields.len()];
    let mut response = httparse::Response::new(&mut slots);
    assert_eq!(response.parse(bytes), Ok(httparse::Status::Complete(bytes.len())), "httparse refuses it");
    let pairs: Vec<(&[u8], &[u8])> =
        response.headers.iter().map(|header| (header.name.as_bytes(), header.value)).collect();
    assert!(pairs == message.fields, "read:{}\nby httparse:{}", shown(&message.fields), shown(&pairs));
}

/// Whether nothing but this protocol is switched to.
fn switched_as_asked(message: &Message<'_>, asked: &[u8]) -> bool {
    let [value] = message.values("upgrade")[..] else { return false };
    let mut names =
        value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()).peekable();
    !asked.is_empty() && names.peek().is_some() && names.all(|name| name.eq_ignore_ascii_case(asked))
}
