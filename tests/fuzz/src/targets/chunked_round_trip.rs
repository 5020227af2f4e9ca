//! Any payload, coded in any of the ways that RFC 9112 7.1 allows and cut anywhere, comes out as it went in, and bytes
//! behind the body stay where they are.

use mtls_appliance::http1::{ChunkError, ChunkLimits, LAST_CHUNK, write_chunk_header};

use super::chunked_body::decode;
use crate::choices::Choices;
use crate::pieces::Random;

/// What follows the body: the next message.
const NEXT: &[u8] = b"GET / HTTP/1.1\r\n0\r\n\r\n";

pub(crate) fn run(input: &[u8]) {
    let mut choices = Choices::new(input);
    let (mut payload, mut coded) = (Vec::new(), Vec::new());
    while let Some(size) = choices.below(64) {
        let style = choices.below(6).unwrap_or_default();
        // Now and then a chunk of kilobytes.
        let data = choices.bytes(usize::from(size) + 1).repeat(if style == 5 { 33 } else { 1 });
        if data.is_empty() {
            break;
        }
        chunk_header(style, data.len(), &mut coded);
        coded.extend_from_slice(&data);
        coded.extend_from_slice(b"\r\n");
        payload.extend_from_slice(&data);
    }
    match input.len() % 3 {
        0 => coded.extend_from_slice(LAST_CHUNK),
        1 => coded.extend_from_slice(b"000;last\r\n\r\n"),
        _ => coded.extend_from_slice(b"0\r\nX-Sum: 1\r\nETag:\r\n\r\n"),
    }
    let end = coded.len();
    coded.extend_from_slice(NEXT);

    let mut random = Random::of(input);
    let limits =
        ChunkLimits { body_bytes: payload.len() as u64, extension_bytes: coded.len(), ..ChunkLimits::default() };
    for _ in 0..2 {
        let decoded = decode(&coded, limits, &random.arrivals(coded.len()));
        assert_eq!(decoded.end, Ok(Some(end)));
        assert!(decoded.payload == payload, "the payload changed");
    }
    if let Some(less) = payload.len().checked_sub(1) {
        let limits = ChunkLimits { body_bytes: less as u64, ..limits };
        let decoded = decode(&coded, limits, &random.arrivals(coded.len()));
        assert_eq!(decoded.end, Err(ChunkError::BodyTooLarge));
        assert!(payload.starts_with(&decoded.payload) && decoded.payload.len() <= less);
    }
}

fn chunk_header(style: u8, size: usize, out: &mut Vec<u8>) {
    match style {
        0 | 5 => write_chunk_header(size as u64, out),
        1 => out.extend_from_slice(format!("{size:X}\r\n").as_bytes()),
        2 => out.extend_from_slice(format!("{size:016x}\r\n").as_bytes()),
        3 => out.extend_from_slice(format!("{size:x};a=\"b;c\";d\r\n").as_bytes()),
        _ => out.extend_from_slice(format!("{size:x} \t; e\r\n").as_bytes()),
    }
}
