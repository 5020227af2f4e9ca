//! Where TLS records end in a buffer. Headers alone are looked at; what is in a record is rustls's.

/// Largest TLS record on the wire: header, and 2^14 + 2048 bytes (RFC 5246 6.2.3; TLS 1.3 allows less).
pub const MAX_RECORD: usize = 5 + 16_384 + 2_048;

/// Length of the first of some complete records; all of what is not TLS.
#[must_use]
pub fn first_record(records: &[u8]) -> usize {
    match records {
        &[20..=23, 3, _, high, low, ..] => (5 + usize::from(u16::from_be_bytes([high, low]))).min(records.len()),
        _ => records.len(),
    }
}

/// Length of the complete records at the start of `bytes`.
///
/// Bytes that cannot be a TLS record are all returned as they are: rustls shall see and refuse them.
#[must_use]
pub fn complete_records(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(&[kind, major, _, high, low]) = bytes.get(end..end + 5) {
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(20..=23).contains(&kind) || major != 3 || 5 + length > MAX_RECORD {
            return bytes.len();
        }
        if bytes.len() - end < 5 + length {
            return end;
        }
        end += 5 + length;
    }
    if end == 0 && !bytes.is_empty() && !(20..=23).contains(&bytes[0]) {
        return bytes.len();
    }
    end
}

#[cfg(test)]
mod tests {
    use super::{complete_records, first_record};

    #[test]
    fn takes_whole_records_and_leaves_the_partial_one() {
        let mut bytes = vec![22, 3, 3, 0, 2, 1, 2];
        assert_eq!(complete_records(&bytes), 7);
        bytes.extend_from_slice(&[23, 3, 3, 0, 5, 1]);
        assert_eq!(complete_records(&bytes), 7);
        assert_eq!(complete_records(&bytes[..6]), 0);
        assert_eq!(complete_records(&bytes[..4]), 0);
        assert_eq!(complete_records(&[]), 0);
    }

    #[test]
    fn passes_on_what_is_not_tls() {
        assert_eq!(complete_records(b"GET / HTTP/1.1\r\n"), 16);
        assert_eq!(complete_records(b"G"), 1);
        assert_eq!(complete_records(&[22, 9, 9, 0, 0, 0]), 6);
        assert_eq!(first_record(b"GET / HTTP/1.1\r\n"), 16);
    }

    #[test]
    fn tells_the_first_record_from_the_next() {
        assert_eq!(first_record(&[22, 3, 3, 0, 2, 1, 2, 23, 3, 3, 0, 1, 9]), 7);
        assert_eq!(first_record(&[23, 3, 3, 0, 1, 9]), 6);
    }
}
