//! The chunked coding: what it decodes to, and what it is refused for.

use super::super::{ChunkDecoder, ChunkError, ChunkEvent, ChunkLimits, write_chunk_header};
use super::Reserved;
use ChunkError as E;

const LIMITS: ChunkLimits =
    ChunkLimits { body_bytes: 1 << 40, extension_bytes: 20, trailer_bytes: 60, trailer_fields: 3 };

/// Payload, the last chunk as it goes on, and the input that does not belong to the body.
type Decoded = (Vec<u8>, String, usize);

/// Feeds `input` in pieces of `piece` bytes; `None` when the body is not complete.
fn decode(input: &[u8], piece: usize) -> Result<Option<Decoded>, E> {
    let mut decoder = ChunkDecoder::new(LIMITS);
    let mut payload = Vec::new();
    let mut start = 0;
    let mut end = 0;
    loop {
        let step = decoder.step(&input[start..end])?;
        start += step.consumed;
        match step.event {
            ChunkEvent::End => {
                let mut last = Vec::new();
                decoder.write_last_chunk(&Reserved, &mut last);
                assert!(decoder.is_done() && decoder.total() == payload.len() as u64);
                return Ok(Some((payload, String::from_utf8(last).unwrap(), start)));
            }
            ChunkEvent::Data { available, remaining } => {
                assert!(remaining > 0 && available as u64 <= remaining);
                if available > 0 {
                    payload.extend_from_slice(&input[start..start + available]);
                    decoder.advance(available as u64);
                    start += available;
                    continue;
                }
            }
            ChunkEvent::More => assert_eq!(start, end),
        }
        if end == input.len() {
            return Ok(None);
        }
        end = (end + piece).min(input.len());
    }
}

/// Duty, body, payload, what is written as the last chunk.
const DECODED: &[(&str, &[u8], &[u8], &str)] = &[
    ("9112 7.1 empty", b"0\r\n\r\n", b"", "0\r\n\r\n"),
    ("9112 7.1 two chunks", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde", "0\r\n\r\n"),
    (
        "9112 7.1 hexadecimal, both cases",
        b"0A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n",
        b"01234567890123456789a",
        "0\r\n\r\n",
    ),
    ("9112 7.1 payload that looks like framing", b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n", b"\r\n0\r\n\r\n", "0\r\n\r\n"),
    ("9112 7.1 sixteen digits", b"0000000000000001\r\na\r\n0000000000000000\r\n\r\n", b"a", "0\r\n\r\n"),
    ("9112 7.1.1 extensions dropped", b"1;a=b\r\nx\r\n0;c\t=\"d\"\r\n\r\n", b"x", "0\r\n\r\n"),
    ("9112 7.1.1 an escaped quote", b"1;a=\"\\\";\\\\\" ; b\r\nx\r\n0\r\n\r\n", b"x", "0\r\n\r\n"),
    ("9112 7.1.1 whitespace in an extension", b"1; a\t= b ;c\r\nx\r\n0\r\n\r\n", b"x", "0\r\n\r\n"),
    ("9112 7.1.1 whitespace before an extension", b"1 \t;a\r\nx\r\n0\r\n\r\n", b"x", "0\r\n\r\n"),
    ("9112 7.1.2 trailers", b"0\r\nX-Sum:  1\t\r\nEtag: e\r\n\r\n", b"", "0\r\nX-Sum: 1\r\nEtag: e\r\n\r\n"),
    ("9110 6.5.1 framing", b"0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nA: b\r\n\r\n", b"", "0\r\nA: b\r\n\r\n"),
    ("9110 6.5.1 framing alias", b"0\r\nContent_Length: 9\r\n\r\n", b"", "0\r\n\r\n"),
    (
        "9110 6.5.1 routing and authentication",
        b"0\r\nHOST: h\r\nAuthorization: b\r\nCookie: c\r\n\r\n",
        b"",
        "0\r\n\r\n",
    ),
    ("9110 6.5.1 hop-by-hop", b"0\r\nConnection: x\r\nKeep-Alive: 1\r\nTrailer: a\r\n\r\n", b"", "0\r\n\r\n"),
    ("9110 6.5.1 request modifiers", b"0\r\nExpect: x\r\nRange: y\r\nIf-Match: z\r\n\r\n", b"", "0\r\n\r\n"),
    ("identity in trailers", b"0\r\nX_Subject_Serial: 1\r\nclient-cert: 2\r\nA: b\r\n\r\n", b"", "0\r\nA: b\r\n\r\n"),
];

const REFUSED: &[(&str, &[u8], E)] = &[
    ("no size", b"\r\n", E::Size),
    ("no digit", b"x\r\n", E::Size),
    ("prefix", b"0x3\r\nabc\r\n", E::Size),
    ("plus", b"+3\r\nabc\r\n", E::Size),
    ("minus", b"-3\r\nabc\r\n", E::Size),
    ("underscore", b"1_0\r\n", E::Size),
    ("leading space", b" 3\r\nabc\r\n", E::Size),
    ("extension without size", b";a\r\n", E::Size),
    ("bare LF first", b"\n3\r\nabc\r\n", E::Size),
    ("17 digits", b"00000000000000003\r\nabc\r\n", E::SizeOverflow),
    ("beyond 63 bits", b"8000000000000000\r\n", E::SizeOverflow),
    ("64 bits", b"ffffffffffffffff\r\n", E::SizeOverflow),
    ("trailing space", b"3 \r\nabc\r\n", E::SizeLineEnd),
    ("digits after a space", b"3 3\r\nabc\r\n", E::SizeLineEnd),
    ("bare LF after the size", b"3\nabc\r\n", E::SizeLineEnd),
    ("bare LF in an extension", b"3;a\nabc\r\n", E::SizeLineEnd),
    ("bare CR after the size", b"3\rabc\r\n", E::SizeLineEnd),
    ("bare CR in an extension", b"3;a\rb\r\nabc\r\n", E::SizeLineEnd),
    ("CR CR LF", b"3\r\r\nabc\r\n", E::SizeLineEnd),
    ("NUL in an extension", b"3;\0\r\nabc\r\n", E::Extension),
    ("DEL in an extension", b"3;\x7f\r\nabc\r\n", E::Extension),
    ("an extension without a name", b"3;\r\nabc\r\n", E::Extension),
    ("an empty extension before another", b"3;;a\r\nabc\r\n", E::Extension),
    ("an extension without a value", b"3;a=\r\nabc\r\n", E::Extension),
    ("an extension with two values", b"3;a=b=c\r\nabc\r\n", E::Extension),
    ("two words for a value", b"3;a=b c\r\nabc\r\n", E::Extension),
    ("a value that goes on behind its quotes", b"3;a=\"b\"c\r\nabc\r\n", E::Extension),
    ("a quote in a token", b"3;a=b\"c\"\r\nabc\r\n", E::Extension),
    ("a quoted value without an end", b"3;a=\"b\r\nabc\r\n", E::Extension),
    ("an escaped line end", b"3;a=\"\\\r\n\"\r\nabc\r\n", E::Extension),
    ("space behind an extension", b"3;a \r\nabc\r\n", E::Extension),
    ("space behind a value", b"3;a=b \r\nabc\r\n", E::Extension),
    ("obs-text in a name", b"3;\x80\r\nabc\r\n", E::Extension),
    ("long extension", b"3;123456789012345678901\r\nabc\r\n", E::ExtensionsTooLong),
    ("long whitespace", b"3                      ;\r\nabc\r\n", E::ExtensionsTooLong),
    ("many extensions", b"1;1234567890\r\na\r\n1;1234567890\r\na\r\n0\r\n\r\n", E::ExtensionsTooLong),
    ("data too long", b"3\r\nabcd\r\n0\r\n\r\n", E::DataEnd),
    ("bare LF after data", b"3\r\nabc\n0\r\n\r\n", E::DataEnd),
    ("bare CR after data", b"3\r\nabc\r0\r\n\r\n", E::DataEnd),
    ("bare LF after trailers", b"0\r\n\n", E::Trailer),
    ("bare CR after trailers", b"0\r\n\rx", E::Trailer),
    ("bare LF in trailers", b"0\r\nA: b\nC: d\r\n\r\n", E::Trailer),
    ("bare CR in trailers", b"0\r\nA: b\rC: d\r\n\r\n", E::Trailer),
    ("obs-fold in trailers", b"0\r\nA: b\r\n c\r\n\r\n", E::Trailer),
    ("space before the colon", b"0\r\nA : b\r\n\r\n", E::Trailer),
    ("no colon", b"0\r\nAb\r\n\r\n", E::Trailer),
    ("NUL in trailers", b"0\r\nA: \0\r\n\r\n", E::Trailer),
    ("another request where trailers stand", b"0\r\nGET / HTTP/1.1\r\n\r\n", E::Trailer),
    ("too many trailers", b"0\r\nA: b\r\nC: d\r\nE: f\r\nG: h\r\n\r\n", E::TooManyTrailers),
    (
        "long trailers",
        b"0\r\nA: 0123456789012345678901234567890123456789012345678901234567890\r\n\r\n",
        E::TrailersTooLarge,
    ),
    ("body too large", b"10000000001\r\n", E::BodyTooLarge),
    ("bodies too large together", b"1\r\na\r\n10000000000\r\n", E::BodyTooLarge),
];

#[test]
fn decodes_in_pieces_of_every_size() {
    for &(duty, body, payload, last) in DECODED {
        let input = [body, b"NEXT"].concat();
        for piece in 1..=input.len() {
            let decoded = decode(&input, piece).unwrap().unwrap();
            assert_eq!(decoded, (payload.to_vec(), last.to_owned(), body.len()), "{duty}, pieces of {piece}");
        }
        for end in 0..body.len() {
            assert_eq!(decode(&body[..end], 1), Ok(None), "{duty} cut at {end}");
        }
    }
}

#[test]
fn refuses_in_pieces_of_every_size() {
    for &(case, body, expected) in REFUSED {
        for piece in 1..=body.len() {
            assert_eq!(decode(body, piece), Err(expected), "{case}, pieces of {piece}");
        }
    }
}

#[test]
fn tells_how_much_can_be_spliced() {
    let mut decoder = ChunkDecoder::new(LIMITS);
    let step = decoder.step(b"1000\r\n").unwrap();
    assert_eq!((step.consumed, step.event), (6, ChunkEvent::Data { available: 0, remaining: 4096 }));
    decoder.advance(4000);
    let step = decoder.step(b"").unwrap();
    assert_eq!((step.consumed, step.event), (0, ChunkEvent::Data { available: 0, remaining: 96 }));
    decoder.advance(96);
    assert_eq!(decoder.step(b"").unwrap().event, ChunkEvent::More);
    let step = decoder.step(b"\r\n0\r\n\r\nGET").unwrap();
    assert_eq!((step.consumed, step.event), (7, ChunkEvent::End));
    assert_eq!(decoder.step(b"GET").unwrap().consumed, 0);
}

#[test]
fn headers_of_chunks_are_hexadecimal() {
    for (len, line) in [(1, "1\r\n"), (16, "10\r\n"), (255, "ff\r\n"), (u64::MAX, "ffffffffffffffff\r\n")] {
        let mut out = Vec::new();
        write_chunk_header(len, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }
}
