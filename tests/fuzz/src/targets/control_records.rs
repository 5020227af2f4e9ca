//! Control records after the hand-over: what they ask for is that of a plain reading, and does not depend on how
//! handshake messages are spread over records.
//!
//! The input is a row of records with TLS headers, in plain text.

use mtls_appliance::ktls::record::{
    ALERT, APPLICATION_DATA, CLOSE_NOTIFY, Control, ControlReader, Expected, HANDSHAKE, RecordError,
};

use crate::pieces::Random;

/// A record's content type and payload.
type Record<'a> = (u8, &'a [u8]);

/// What was asked for until the end or the fault.
type Outcome = (Vec<Control>, Result<(), RecordError>);

/// Control records in a row that are always accepted.
const IN_A_ROW: usize = 32;

pub(crate) fn run(input: &[u8]) {
    let records = records(input);
    let finer = finer(&records, &mut Random::of(input));
    for tls13 in [false, true] {
        for peer_is_server in [false, true] {
            let expected = Expected { tls13, peer_is_server };
            let outcome = read(&records, expected);
            assert_eq!(outcome, reference(&records, expected), "{expected:?}");
            // What a KeyUpdate shares a record with may be legitimate in a record of its own, but never the other way.
            if let Some(finer) = &finer
                && outcome.1.is_ok()
            {
                assert_eq!(read(finer, expected), outcome, "in smaller records, {expected:?}");
            }
        }
    }
}

/// The records of the input; what is cut short ends where the input does.
fn records(mut input: &[u8]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    while let [content, _, _, high, low, rest @ ..] = input {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (payload, behind) = rest.split_at(length);
        records.push((*content, payload));
        input = behind;
    }
    records
}

/// The same messages in more records; `None` where these could be taken for a flood.
fn finer<'a>(records: &[Record<'a>], random: &mut Random) -> Option<Vec<Record<'a>>> {
    let mut finer = Vec::new();
    for &(content, mut payload) in records {
        while content == HANDSHAKE && payload.len() > 1 {
            let (piece, rest) = payload.split_at(1 + random.below(payload.len() - 1));
            finer.push((content, piece));
            payload = rest;
        }
        finer.push((content, payload));
    }
    (finer.len() <= IN_A_ROW).then_some(finer)
}

fn read(records: &[Record<'_>], expected: Expected) -> Outcome {
    let mut reader = ControlReader::new(expected);
    let mut controls = Vec::new();
    for &(content, payload) in records {
        let outcome = match (content, payload) {
            (APPLICATION_DATA, []) => reader.empty(),
            (APPLICATION_DATA, _) => reader.data(),
            _ => reader.read(content, payload, |control| {
                controls.push(control);
                Ok(())
            }),
        };
        if outcome.is_err() {
            return (controls, outcome);
        }
    }
    (controls, Ok(()))
}

/// The plain reading: all handshake payloads as one stream, and how far it was read.
fn reference(records: &[Record<'_>], expected: Expected) -> Outcome {
    let (mut controls, mut stream, mut at, mut row) = (Vec::new(), Vec::new(), 0, 0);
    for &(content, payload) in records {
        let unexpected = |message| Err(RecordError::Unexpected { content, message });
        let split = at < stream.len();
        if content == APPLICATION_DATA && !payload.is_empty() {
            row = 0;
            if split {
                return (controls, unexpected(255));
            }
            continue;
        }
        row += 1;
        if row > IN_A_ROW {
            return (controls, Err(RecordError::Flood));
        }
        match content {
            APPLICATION_DATA => {}
            ALERT if split => return (controls, unexpected(255)),
            ALERT => match *payload {
                [_, CLOSE_NOTIFY] => controls.push(Control::CloseNotify),
                // user_canceled, and TLS 1.2's warnings.
                [_, 90] => controls.push(Control::Ignored),
                [1, _] if !expected.tls13 => controls.push(Control::Ignored),
                [_, description] => controls.push(Control::FatalAlert(description)),
                _ => return (controls, Err(RecordError::Malformed)),
            },
            HANDSHAKE => {
                stream.extend_from_slice(payload);
                while let [kind, high, middle, low, rest @ ..] = &stream[at..] {
                    let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
                    if length > 70_000 {
                        return (controls, Err(RecordError::Malformed));
                    }
                    let Some(body) = rest.get(..length) else { break };
                    let last = rest.len() == length;
                    match (kind, expected.tls13, expected.peer_is_server, body) {
                        (24, true, _, _) if !last => return (controls, unexpected(24)),
                        (24, true, _, [0]) => controls.push(Control::KeyUpdate { requested: false }),
                        (24, true, _, [1]) => controls.push(Control::KeyUpdate { requested: true }),
                        (24, true, _, _) => return (controls, Err(RecordError::Malformed)),
                        (4, true, true, _) | (0, false, true, _) => controls.push(Control::Ignored),
                        (1, false, false, _) => return (controls, Err(RecordError::Renegotiation)),
                        _ => return (controls, unexpected(*kind)),
                    }
                    at += 4 + length;
                }
            }
            _ => return (controls, unexpected(255)),
        }
    }
    (controls, Ok(()))
}
