//! What goes to the client, for any response that is accepted: it is strict itself, framed as planned, and holds every
//! field that is for the client and none that is for one hop.

use mtls_appliance::http1::{
    BodyFraming, Disposition, Exchange, HeadLimits, ResponseHead, ResponseOptions, ResponsePlan, Version,
    parse_response, write_response,
};

use super::response_head::EXCHANGES;
use crate::message::{Message, is_for_one_hop, shown};

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const EXTRA: &[u8] = b"Strict-Transport-Security: max-age=1\r\n";

pub(crate) fn run(input: &[u8]) {
    for exchange in &EXCHANGES {
        let Ok(Some(head)) = parse_response(input, exchange, &HeadLimits::default()) else { continue };
        for closing in [false, true] {
            let plan = head.plan(exchange, closing);
            let options = if closing {
                ResponseOptions { via: Some("edge"), date: Some(DATE), extra: EXTRA }
            } else {
                ResponseOptions::default()
            };
            let mut out = Vec::new();
            write_response(&head, input, &plan, &options, &mut out);
            if plan.disposition == Disposition::Swallow {
                assert!(out.is_empty() && head.is_interim());
            } else {
                check(&head, input, exchange, &plan, &options, &out);
            }
        }
    }
}

fn check(
    head: &ResponseHead,
    input: &[u8],
    exchange: &Exchange<'_>,
    plan: &ResponsePlan,
    options: &ResponseOptions<'_>,
    out: &[u8],
) {
    let (came, sent) = (Message::read(&input[..head.head_len()]), Message::read(out));
    assert!(sent.start.starts_with(format!("HTTP/1.1 {} ", head.status()).as_bytes()));

    let nominated = came.connection_options();
    let without_chunks = head.framing() == BodyFraming::Chunked && plan.client_framing != BodyFraming::Chunked;
    let kept: Vec<(&[u8], &[u8])> = came
        .fields
        .iter()
        .filter(|(name, _)| !is_for_one_hop(name) && !nominated.contains(&name.to_ascii_lowercase()))
        // HTTP/1.0 has no chunks, and so no trailers to announce.
        .filter(|(name, _)| !without_chunks || !name.eq_ignore_ascii_case(b"trailer"))
        .copied()
        .collect();
    let (passed, own) = sent.fields.split_at_checked(kept.len()).expect("every field for the client is passed on");
    assert!(passed == kept, "passed on:{}\nto be passed on:{}", shown(passed), shown(&kept));
    let last = plan.disposition == Disposition::Final;
    // RFC 9110 7.8 and 15.5.22.
    let offers = plan.disposition == Disposition::Tunnel || head.status() == 426;
    for (name, value) in own {
        match *name {
            b"Content-Length" => assert_eq!(sent.framing(), came.framing()),
            b"Transfer-Encoding" => assert_eq!(plan.client_framing, BodyFraming::Chunked),
            b"Via" => assert!(options.via.is_some()),
            b"Date" => assert!(last && came.values("date").is_empty() && *value == DATE.as_bytes()),
            b"Upgrade" => assert!(offers && came.values("upgrade") == [*value]),
            b"Connection" => match value.strip_prefix(b"Upgrade, ").filter(|_| last).unwrap_or(value) {
                b"Upgrade" => assert!(offers),
                b"close" => assert!(plan.close_client),
                b"keep-alive" => assert!(last && !plan.close_client && exchange.client_version == Version::Http10),
                other => panic!("Connection: {}", other.escape_ascii()),
            },
            b"Strict-Transport-Security" => assert_eq!(options.extra, EXTRA),
            other => panic!("{} is none of ours", other.escape_ascii()),
        }
    }
    assert!(!last || options.date.is_none() || !sent.values("date").is_empty(), "RFC 9110 6.6.1");
    assert!(out.ends_with(&[options.extra, b"\r\n"].concat()));
    assert!(sent.values("connection").len() <= 1);
    assert_eq!(sent.connection_options().contains(&b"upgrade".to_vec()), !sent.values("upgrade").is_empty());

    let limits = HeadLimits { head_bytes: usize::MAX, fields: 200, ..HeadLimits::default() };
    let again = parse_response(out, exchange, &limits).expect("what is written is accepted").expect("and whole");
    assert_eq!((again.head_len(), again.status()), (out.len(), head.status()));
    assert_eq!(again.framing(), plan.client_framing);
    assert!(!plan.close_client || !again.plan(exchange, false).reuse_origin, "the client is told of the end");
}
