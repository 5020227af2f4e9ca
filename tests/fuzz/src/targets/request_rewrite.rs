//! What goes to the origin, for any request that is accepted: it is strict itself, means the same, holds every field
//! that is for the origin and none that is not, and the identity block is ours alone.

use std::sync::LazyLock;

use mtls_appliance::http1::{HeadLimits, RequestHead, RewriteOptions, parse_request, write_request};
use mtls_appliance::identity::ReservedNames;

use crate::message::{Message, could_tell_who_calls, folded, is_for_one_hop, shown};

/// What is injected.
const BLOCK: &[u8] =
    b"X-MyData-Client-DN: CN=edge\r\nClient-Cert: :AAAA:\r\nX-Who: A1/1\r\nX-Forwarded-For: 192.0.2.1\r\n";

/// As the configuration makes them, with one name of its own.
static RESERVED: LazyLock<ReservedNames> = LazyLock::new(|| ReservedNames::new(["X-Who"]));

const PLAIN: RewriteOptions<'_> =
    RewriteOptions { via: None, upgrade: b"", expect: true, default_host: "default.test", close: false };
const BUSY: RewriteOptions<'_> =
    RewriteOptions { via: Some("edge"), upgrade: b"", expect: false, default_host: "default.test", close: true };

/// Of these, `h2c` must not go on even so.
const ALLOWED: [&str; 2] = ["websocket", "h2c"];

pub(crate) fn run(input: &[u8]) {
    let Ok(Some(head)) = parse_request(input, &HeadLimits::default()) else { return };
    let offer = head.offer(input, &ALLOWED);
    for options in [PLAIN, RewriteOptions { upgrade: offer.protocols(), ..BUSY }] {
        let out = written(&head, input, &options);
        check(&head, input, &options, &out);
    }
    let out = written(&head, input, &PLAIN);
    if head.max_forwards().is_none() {
        let again = parsed(&out);
        assert_eq!(written(&again, &out, &PLAIN).escape_ascii().to_string(), out.escape_ascii().to_string(), "twice");
    }
}

fn written(head: &RequestHead, input: &[u8], options: &RewriteOptions<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_request(head, input, &*RESERVED, BLOCK, options, &mut out);
    out
}

fn parsed(out: &[u8]) -> RequestHead {
    // What is injected may exceed the limits of what comes in.
    let limits = HeadLimits { head_bytes: usize::MAX, fields: 200, target_bytes: usize::MAX, ..HeadLimits::default() };
    parse_request(out, &limits).expect("what is written is accepted").expect("what is written is whole")
}

fn check(head: &RequestHead, input: &[u8], options: &RewriteOptions<'_>, out: &[u8]) {
    let sent = Message::read(out);
    let block: Vec<&[u8]> = BLOCK.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r")).collect();
    let (others, injected) = sent.fields.split_at(sent.fields.len() - block.len());
    for ((name, value), line) in injected.iter().zip(&block) {
        assert_eq!([*name, b": ", *value].concat(), *line);
    }

    // What came, less what is for one hop, nominated or reserved, in the same order.
    let bytes = &input[..head.head_len()];
    let came = Message::read(bytes.strip_prefix(b"\r\n").unwrap_or(bytes));
    let nominated = came.connection_options();
    let anew = |name: &[u8]| {
        let options = head.max_forwards().is_some() && name.eq_ignore_ascii_case(b"max-forwards");
        is_for_one_hop(name) || options || name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"expect")
    };
    let kept: Vec<(&[u8], &[u8])> = came
        .fields
        .iter()
        .filter(|(name, _)| !anew(name) && !is_reserved(name) && !nominated.contains(&name.to_ascii_lowercase()))
        .copied()
        .collect();
    let (host, rest) = others.split_first().expect("Host is written");
    assert_eq!(host.0, b"Host");
    let (passed, own) = rest.split_at_checked(kept.len()).expect("every field for the origin is passed on");
    assert!(passed == kept, "passed on:{}\nto be passed on:{}", shown(passed), shown(&kept));
    assert!(passed.iter().all(|(name, _)| !RESERVED.contains(name)));

    let mut names: Vec<&[u8]> = own.iter().map(|(name, _)| *name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "our own fields are written once");
    for (name, value) in own {
        match *name {
            b"Content-Length" | b"Transfer-Encoding" => {}
            b"Expect" => assert!(options.expect && head.expect_continue() && *value == b"100-continue"),
            b"Max-Forwards" => assert!(head.max_forwards().is_some()),
            b"Via" => assert!(options.via.is_some()),
            b"Upgrade" => assert!(!value.is_empty() && *value == options.upgrade && was_asked_for(value, &came)),
            b"TE" => assert_eq!(*value, b"trailers"),
            b"Connection" => {}
            other => panic!("{} is none of ours", other.escape_ascii()),
        }
    }
    let own_options = sent.connection_options();
    assert_eq!(own_options.contains(&b"close".to_vec()), options.close);
    assert_eq!(own_options.contains(&b"upgrade".to_vec()), !sent.values("upgrade").is_empty());
    assert_eq!(own_options.contains(&b"te".to_vec()), !sent.values("te").is_empty());
    assert_eq!(sent.values("connection").is_empty(), own_options.is_empty());

    let again = parsed(out);
    assert_eq!((again.head_len(), again.method(), again.framing()), (out.len(), head.method(), head.framing()));
    assert_eq!(again.method_name(out), head.method_name(input));
    assert_eq!(again.path(out), head.path(input));
    assert_eq!(query(again.target(out)), query(head.target(input)));
    let authority = Some(head.authority(input)).filter(|authority| !authority.is_empty());
    assert_eq!(again.authority(out), authority.unwrap_or(options.default_host));
    assert_eq!(again.keep_alive(), !options.close);
}

/// Whether every protocol is among those that came, and is WebSocket.
fn was_asked_for(value: &[u8], came: &Message<'_>) -> bool {
    let asked = came.values("upgrade");
    let names = |value: &[u8]| -> Vec<Vec<u8>> {
        value.split(|byte| *byte == b',').map(|name| name.trim_ascii().to_ascii_lowercase()).collect()
    };
    let websocket = |name: &Vec<u8>| name == b"websocket" || name.starts_with(b"websocket/");
    asked.len() == 1 && names(value).iter().all(|name| websocket(name) && names(asked[0]).contains(name))
}

/// From the question mark on.
fn query(target: &str) -> Option<&str> {
    target.find('?').map(|at| &target[at..])
}

/// Whether the name must not come from a client: what is injected and its like in any spelling, found without the filter
/// under test, and whatever the filter's own table holds besides.
fn is_reserved(name: &[u8]) -> bool {
    could_tell_who_calls(name) || folded(name) == "xwho" || RESERVED.contains(name)
}
