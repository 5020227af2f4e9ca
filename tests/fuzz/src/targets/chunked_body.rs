//! A chunked body: the verdict does not depend on how the bytes arrive, is that of a plain reading of RFC 9112 7.1, and
//! no more payload comes out than the limit allows. The trailers that are passed on are harmless.

use std::sync::LazyLock;

use mtls_appliance::http1::{ChunkDecoder, ChunkError, ChunkEvent, ChunkLimits};
use mtls_appliance::identity::ReservedNames;

use crate::message::{could_tell_who_calls, field};
use crate::pieces::Random;

static RESERVED: LazyLock<ReservedNames> = LazyLock::new(ReservedNames::default);

const TIGHT: ChunkLimits = ChunkLimits { body_bytes: 20, extension_bytes: 8, trailer_bytes: 24, trailer_fields: 2 };

/// What came out of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// The payload up to the end or the fault.
    pub(crate) payload: Vec<u8>,
    /// Where the body ends, `None` where bytes are missing.
    pub(crate) end: Result<Option<usize>, ChunkError>,
    /// What is written behind the payload.
    pub(crate) last_chunk: Vec<u8>,
}

/// Decodes what arrives as these growing lengths of `input` say.
pub(crate) fn decode(input: &[u8], limits: ChunkLimits, arrivals: &[usize]) -> Decoded {
    let mut decoder = ChunkDecoder::new(limits);
    let mut decoded = Decoded { payload: Vec::new(), end: Ok(None), last_chunk: Vec::new() };
    let mut at = 0;
    for &arrived in arrivals {
        loop {
            let step = match decoder.step(&input[at..arrived]) {
                Ok(step) => step,
                Err(error) => {
                    decoded.end = Err(error);
                    return decoded;
                }
            };
            at += step.consumed;
            match step.event {
                ChunkEvent::End => {
                    assert!(decoder.is_done() && decoder.total() == decoded.payload.len() as u64);
                    decoded.end = Ok(Some(at));
                    decoder.write_last_chunk(&*RESERVED, &mut decoded.last_chunk);
                    return decoded;
                }
                ChunkEvent::More => {
                    assert_eq!(at, arrived, "framing is consumed wholly");
                    break;
                }
                ChunkEvent::Data { available: 0, remaining } => {
                    assert!(at == arrived && remaining > 0);
                    break;
                }
                ChunkEvent::Data { available, remaining } => {
                    assert!(available as u64 <= remaining && decoder.total() <= limits.body_bytes);
                    decoded.payload.extend_from_slice(&input[at..at + available]);
                    decoder.advance(available as u64);
                    at += available;
                }
            }
        }
    }
    decoded
}

pub(crate) fn run(input: &[u8]) {
    for limits in [ChunkLimits::default(), TIGHT] {
        let whole = decode(input, limits, &[input.len()]);
        let bytewise: Vec<usize> = (0..=input.len()).collect();
        assert_eq!(decode(input, limits, &bytewise), whole, "byte by byte and whole");
        assert_eq!(decode(input, limits, &Random::of(input).arrivals(input.len())), whole, "in pieces and whole");
        assert!(whole.payload.len() as u64 <= limits.body_bytes);

        let Some(reference) = reference(input, limits) else {
            assert!(!matches!(whole.end, Ok(Some(_))), "accepted what is no chunked body");
            continue;
        };
        assert_eq!(whole.end, Ok(Some(reference.end)));
        assert_eq!(whole.payload, reference.payload);
        check_last_chunk(&whole.last_chunk, &reference.trailers);
    }
}

/// What is passed on ends a body by itself, and its trailers are among those that came.
fn check_last_chunk(last: &[u8], came: &[(&[u8], &[u8])]) {
    let again = reference(last, ChunkLimits::default()).expect("a strict last chunk is written");
    assert!(again.payload.is_empty() && again.end == last.len());
    let mut rest = came.iter();
    for (name, value) in again.trailers {
        assert!(rest.any(|trailer| *trailer == (name, value)), "a trailer that did not come, or not in this place");
        for never in ["host", "content-length", "transfer-encoding", "connection", "authorization", "te", "trailer"] {
            assert!(!name.eq_ignore_ascii_case(never.as_bytes()), "{never} in a trailer");
        }
        assert!(!could_tell_who_calls(name) && !RESERVED.contains(name));
    }
}

/// A body in parts.
struct Reference<'a> {
    payload: Vec<u8>,
    end: usize,
    trailers: Vec<(&'a [u8], &'a [u8])>,
}

/// RFC 9112 7.1.1: `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`.
fn are_extensions(mut rest: &[u8]) -> Option<()> {
    let bws = |bytes: &'_ [u8]| bytes.iter().take_while(|byte| b" \t".contains(byte)).count();
    let token = |bytes: &'_ [u8]| {
        let other = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(byte);
        Some(bytes.iter().position(other).unwrap_or(bytes.len())).filter(|length| *length > 0)
    };
    while !rest.is_empty() {
        rest = rest[bws(rest)..].strip_prefix(b";")?;
        rest = &rest[bws(rest)..];
        rest = &rest[token(rest)?..];
        let Some(value) = rest[bws(rest)..].strip_prefix(b"=") else { continue };
        rest = &value[bws(value)..];
        rest = match rest.strip_prefix(b"\"") {
            None => &rest[token(rest)?..],
            Some(mut quoted) => loop {
                quoted = match quoted {
                    [b'"', behind @ ..] => break behind,
                    [b'\\', byte, behind @ ..] | [byte, behind @ ..] if !byte.is_ascii_control() || *byte == b'\t' => {
                        behind
                    }
                    _ => return None,
                }
            },
        };
    }
    Some(())
}

/// The plain reading: one line after the other, everything in memory. `None` for what is malformed, beyond a limit or
/// not whole.
fn reference(input: &[u8], limits: ChunkLimits) -> Option<Reference<'_>> {
    let (mut payload, mut extensions, mut at) = (Vec::new(), 0, 0);
    loop {
        let line = line(input, &mut at)?;
        let digits = line.iter().position(|byte| b" \t;".contains(byte)).unwrap_or(line.len());
        let (size, extension) = line.split_at(digits);
        if size.is_empty() || size.len() > 16 || !size.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        are_extensions(extension)?;
        extensions += extension.len();
        if extensions > limits.extension_bytes {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        if size as u64 > limits.body_bytes - payload.len() as u64 {
            return None;
        }
        payload.extend_from_slice(input.get(at..at.checked_add(size)?)?);
        at += size;
        if input.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    let (mut trailers, mut trailer_bytes) = (Vec::new(), 0);
    loop {
        let line = line(input, &mut at)?;
        if line.is_empty() {
            return Some(Reference { payload, end: at, trailers });
        }
        trailer_bytes += line.len() + 2;
        trailers.push(field(line)?);
        if trailer_bytes > limits.trailer_bytes || trailers.len() > limits.trailer_fields {
            return None;
        }
    }
}

/// The line at `at`, which must end in CRLF and hold no other CR; moves behind it.
fn line<'a>(input: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let rest = input.get(*at..)?;
    let lf = rest.iter().position(|byte| *byte == b'\n')?;
    *at += lf + 1;
    rest[..lf].strip_suffix(b"\r").filter(|line| !line.contains(&b'\r'))
}
