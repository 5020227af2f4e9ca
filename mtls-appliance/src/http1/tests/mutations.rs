//! Random mutations with a fixed seed: nothing panics, and what leaves is always strict.

use super::super::{
    BodyFraming, ChunkDecoder, ChunkEvent, ChunkLimits, Exchange, HeadLimits, HeadScanner, Method, NameFilter,
    RequestHead, ResponseOptions, RewriteOptions, Version, parse_request, parse_request_with, parse_response,
    write_request, write_response,
};
use super::{BLOCK, Random, Reserved};

const REQUESTS: &[&[u8]] = &[
    b"GET /v1/bank/accounts?org_code=ABC&limit=500 HTTP/1.1\r\nHost: api.example:443\r\nAccept: */*\r\n\
      Authorization: Bearer abc\r\nx-api-tran-id: ORGCODE000M12345678901234\r\nConnection: keep-alive\r\n\r\n",
    b"POST https://a.b/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\
      Connection: TE, X-Hop, Upgrade\r\nUpgrade: websocket\r\nX-Hop: 1\r\nExpect: 100-continue\r\n\r\n",
    b"PUT /x HTTP/1.0\r\nContent-Length: 10\r\nClient-Cert: spoof\r\nX_Subject_Serial: spoof\r\nKeep-Alive: 3\r\n\r\n",
    b"OPTIONS http://a HTTP/1.1\r\nHost: b\r\nMax-Forwards: 1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\nMax-Forwards: 3\r\nVia: 1.0 a\r\n\r\n",
];

const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10\r\nDate: d\r\n\r\n",
    b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n",
    b"HTTP/1.0 304 Not Modified\r\nETag: x\r\nKeep-Alive: 1\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
];

/// What mutations insert.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\x0b",
    b"\xff",
    b"#",
    b"@",
    b"%",
    b"_",
    b"-",
    b"Host: b\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 6\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: x\r\n",
    b"Content_Length: 1\r\n",
    b"Client-Cert: s\r\n",
    b"client_cert: s\r\n",
    b"X.Subject.Serial: s\r\n",
    b"Connection: client-cert\r\n",
    b"Connection: host\r\n",
    b"Connection: close\r\n",
    b"Upgrade: h2c\r\n",
    b"TE: trailers\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"http://",
    b"chunked",
    b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
    b"Expect: x\r\n",
    b" x",
    b"0",
    b"1",
];

fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] = random.next() as u8,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => {
                let end = (at + random.below(12)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            3 => {
                // At the beginning of a line, where whole fields have their effect.
                let lines: Vec<usize> = memchr::memchr_iter(b'\n', &bytes).map(|lf| lf + 1).collect();
                let line = lines.get(random.below(lines.len().max(1))).copied().unwrap_or(at);
                bytes.splice(line..line, PIECES[random.below(PIECES.len())].iter().copied());
            }
            _ => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
        }
    }
    bytes
}

/// The lines of a head, which must end with its only empty line; no line holds a CR or LF.
fn lines(head: &[u8]) -> Vec<&[u8]> {
    let body = head.strip_suffix(b"\r\n\r\n").unwrap();
    let lines: Vec<&[u8]> = body.split(|&byte| byte == b'\n').collect();
    let last = lines.len() - 1;
    let stripped = lines.iter().enumerate().map(|(n, line)| {
        let line = if n == last { line } else { line.strip_suffix(b"\r").unwrap() };
        assert!(!line.is_empty() && !line.contains(&b'\r') && !line.contains(&0));
        line
    });
    stripped.collect()
}

fn name(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b':').next().unwrap()
}

fn count(lines: &[&[u8]], wanted: &str) -> usize {
    lines.iter().skip(1).filter(|line| name(line).eq_ignore_ascii_case(wanted.as_bytes())).count()
}

/// What must hold for every head that goes to an origin.
fn check_request(parsed: &RequestHead, input: &[u8], out: &[u8]) {
    let lines = lines(out);
    assert!(lines[0].ends_with(b" HTTP/1.1") && lines[0].split(|&byte| byte == b' ').count() == 3);
    assert_eq!(count(&lines, "Host"), 1);
    let block: Vec<&[u8]> = BLOCK.split(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\r")).collect();
    assert_eq!(&lines[lines.len() - block.len()..], block.as_slice());
    let reserved = lines.iter().skip(1).filter(|line| Reserved.contains(name(line))).count();
    assert_eq!(reserved, block.len());
    let framing = (count(&lines, "Content-Length"), count(&lines, "Transfer-Encoding"));
    match parsed.framing() {
        BodyFraming::None => assert_eq!(framing, (0, 0)),
        BodyFraming::Length(_) => assert_eq!(framing, (1, 0)),
        BodyFraming::Chunked => assert_eq!(framing, (0, 1)),
        BodyFraming::UntilClose => panic!("a request cannot end with the connection"),
    }
    for hop in ["Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "HTTP2-Settings", "X-Hop"] {
        let nominated = hop != "X-Hop"
            || parsed.values(input, "connection").any(|value| {
                value.split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"x-hop"))
            });
        assert!(!nominated || count(&lines, hop) == 0, "{hop}");
    }

    let again = parse_request(out, &HeadLimits::default()).unwrap().unwrap();
    assert_eq!((again.head_len(), again.framing(), again.method()), (out.len(), parsed.framing(), parsed.method()));
    assert_eq!(again.path(out), parsed.path(input));
    let authority = if parsed.authority(input).is_empty() { "default" } else { parsed.authority(input) };
    assert_eq!(again.authority(out), authority);
    let upgrades = again.upgrade(out).into_iter().flat_map(|value| value.split(|&byte| byte == b','));
    for protocol in upgrades.map(|protocol| protocol.trim_ascii().to_ascii_lowercase()) {
        assert!(protocol == b"websocket" || protocol.starts_with(b"websocket/"), "{protocol:?}");
    }
}

#[test]
fn rewritten_requests_are_strict_whatever_comes_in() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut accepted = 0;
    for round in 0..60_000 {
        let input = mutate(REQUESTS[round % REQUESTS.len()], &mut random);
        let limits = HeadLimits { target_bytes: 60, fields: 12, ..HeadLimits::default() };
        let whole = parse_request(&input, &limits);

        let cut = random.below(input.len() + 1);
        let mut scanner = HeadScanner::new();
        let split = match parse_request_with(&mut scanner, &input[..cut], &limits) {
            Ok(None) => parse_request_with(&mut scanner, &input, &limits),
            verdict => verdict,
        };
        let describe = |verdict: &Result<Option<RequestHead>, _>| match verdict {
            Ok(Some(parsed)) => Ok(Some(super::requests::summary(parsed, &input))),
            Ok(None) => Ok(None),
            Err(error) => Err(*error),
        };
        assert_eq!(describe(&split), describe(&whole), "{:?} cut at {cut}", String::from_utf8_lossy(&input));

        if let Ok(Some(parsed)) = whole {
            accepted += 1;
            let offer = parsed.offer(&input, &["websocket", "h2c"]);
            let options = RewriteOptions {
                via: Some("edge"),
                upgrade: offer.protocols(),
                default_host: "default",
                ..Default::default()
            };
            let mut out = Vec::new();
            write_request(&parsed, &input, &Reserved, BLOCK, &options, &mut out);
            check_request(&parsed, &input, &out);
        }
    }
    assert!(accepted > 5_000, "mutations that all fail test nothing: {accepted}");
}

#[test]
fn rewritten_responses_are_strict_whatever_comes_in() {
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    let mut accepted = 0;
    for round in 0..40_000 {
        let input = mutate(RESPONSES[round % RESPONSES.len()], &mut random);
        let exchange = Exchange {
            method: if random.below(4) == 0 { Method::Head } else { Method::Get },
            client_version: if random.below(3) == 0 { Version::Http10 } else { Version::Http11 },
            client_keep_alive: random.below(2) == 0,
            upgrade: if random.below(2) == 0 { b"websocket" } else { b"" },
        };
        let Ok(Some(parsed)) = parse_response(&input, &exchange, &HeadLimits::default()) else { continue };
        let plan = parsed.plan(&exchange, random.below(4) == 0);
        let mut out = Vec::new();
        write_response(&parsed, &input, &plan, &ResponseOptions::default(), &mut out);
        if out.is_empty() {
            assert!(parsed.is_interim() && exchange.client_version == Version::Http10);
            continue;
        }
        accepted += 1;
        let lines = lines(&out);
        assert!(count(&lines, "Content-Length") + count(&lines, "Transfer-Encoding") <= 1);
        assert!(count(&lines, "Connection") <= 1 && count(&lines, "Keep-Alive") == 0);
        assert!(exchange.client_version == Version::Http11 || count(&lines, "Transfer-Encoding") == 0);
        let again = parse_response(&out, &exchange, &HeadLimits::default()).unwrap().unwrap();
        assert_eq!((again.framing(), again.status()), (plan.client_framing, parsed.status()));
    }
    assert!(accepted > 3_000, "mutations that all fail test nothing: {accepted}");
}

#[test]
fn chunk_verdicts_do_not_depend_on_splits() {
    let seeds: &[&[u8]] = &[
        b"5;x=y\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\nGET",
        b"1\r\na\r\n0\r\nX-A: b\r\nHost: c\r\n\r\nnext",
    ];
    let run = |input: &[u8], piece: usize| {
        let mut decoder = ChunkDecoder::new(ChunkLimits { body_bytes: 200, ..ChunkLimits::default() });
        let (mut payload, mut start, mut end) = (Vec::new(), 0, 0);
        loop {
            let step = match decoder.step(&input[start..end]) {
                Ok(step) => step,
                Err(error) => return (payload, Err(error)),
            };
            start += step.consumed;
            match step.event {
                ChunkEvent::End => return (payload, Ok(Some(start))),
                ChunkEvent::Data { available, .. } if available > 0 => {
                    payload.extend_from_slice(&input[start..start + available]);
                    decoder.advance(available as u64);
                    start += available;
                }
                _ if end == input.len() => return (payload, Ok(None)),
                _ => end = (end + piece).min(input.len()),
            }
        }
    };
    let mut random = Random(0x1234_5678_9ABC_DEF1);
    let mut complete = 0;
    for round in 0..20_000 {
        let input = mutate(seeds[round % seeds.len()], &mut random);
        let whole = run(&input, input.len().max(1));
        let pieces = run(&input, 1 + random.below(7));
        assert_eq!(whole, pieces, "{:?}", String::from_utf8_lossy(&input));
        complete += usize::from(matches!(whole.1, Ok(Some(_))));
    }
    assert!(complete > 1_000, "mutations that all fail test nothing: {complete}");
}
