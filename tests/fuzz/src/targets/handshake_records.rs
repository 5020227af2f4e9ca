//! Where records end during the handshake: never within one, never stuck, and the same however the bytes arrive.

use mtls_appliance::tls::records::{MAX_RECORD, complete_records, first_record};

use crate::pieces::Random;

pub(crate) fn run(input: &[u8]) {
    let (records, behind) = reference(input);
    let read = taken(input, &[input.len()]);
    assert_eq!(read.get(..records.len()), Some(&records[..]), "whole records");
    let in_pieces = taken(input, &Random::of(input).arrivals(input.len()));
    assert_eq!(in_pieces.get(..records.len()), Some(&records[..]), "whole records, in pieces");
    match behind {
        // Left in the socket: the rest of the record may come.
        Behind::Part => assert!(read.len() == records.len() && in_pieces.len() == records.len()),
        // Handed to rustls, which refuses it, as soon as it can be told from a record.
        Behind::NotTls => {
            assert_eq!(read.iter().sum::<usize>(), input.len());
            assert!(in_pieces.len() > records.len());
        }
    }
    // A buffer of the largest record always holds something to take.
    let mut full = input.to_vec();
    full.resize(MAX_RECORD, 0);
    let whole = complete_records(&full);
    assert!(whole > 0 && whole <= full.len());
    assert_eq!(complete_records(&full[..whole]), whole);
}

/// What follows the whole records.
enum Behind {
    /// Nothing, or the beginning of a record.
    Part,
    /// Bytes that are no record.
    NotTls,
}

/// The lengths of the whole records, one after the other.
fn reference(mut input: &[u8]) -> (Vec<usize>, Behind) {
    let mut records = Vec::new();
    loop {
        match input {
            [] => return (records, Behind::Part),
            [20..=23, 3, _, high, low, rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length > 16_384 + 2_048 {
                    return (records, Behind::NotTls);
                }
                if rest.len() < length {
                    return (records, Behind::Part);
                }
                records.push(5 + length);
                input = &rest[length..];
            }
            // The length decides once it is there.
            [20..=23] | [20..=23, _] | [20..=23, _, _] | [20..=23, _, _, _] => return (records, Behind::Part),
            _ => return (records, Behind::NotTls),
        }
    }
}

/// What the driver of the handshake takes from the socket, record by record.
fn taken(input: &[u8], arrivals: &[usize]) -> Vec<usize> {
    let (mut taken, mut at) = (Vec::new(), 0);
    for &arrived in arrivals {
        loop {
            let seen = &input[at..arrived.min(at + MAX_RECORD)];
            let whole = complete_records(seen);
            if whole == 0 {
                break;
            }
            let first = first_record(&seen[..whole]);
            assert!(first > 0 && first <= whole, "a record is taken");
            taken.push(first);
            at += first;
        }
    }
    taken
}
