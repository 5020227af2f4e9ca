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

/// Where one stands in a stream of records, by the bytes that were taken from it so far.
#[derive(Debug, Default)]
pub struct Position {
    header: [u8; 5],
    held: usize,
    left: usize,
}

impl Position {
    /// These bytes came next.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let n = self.left.min(bytes.len());
                self.left -= n;
                bytes = &bytes[n..];
                continue;
            }
            let n = (self.header.len() - self.held).min(bytes.len());
            self.header[self.held..self.held + n].copy_from_slice(&bytes[..n]);
            self.held += n;
            bytes = &bytes[n..];
            if let (5, [.., high, low]) = (self.held, self.header) {
                self.held = 0;
                self.left = usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }

    /// How many bytes of the record at hand are still to come, or of its header; 0 between two records.
    #[must_use]
    pub fn missing(&self) -> usize {
        match (self.left, self.held) {
            (0, 0) => 0,
            (0, held) => self.header.len() - held,
            (left, _) => left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Position, complete_records, first_record};

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

    #[test]
    fn knows_what_is_missing_wherever_the_stream_was_cut() {
        let records: Vec<u8> =
            [&[23, 3, 3, 0, 3, 1, 2, 3][..], &[21, 3, 3, 0, 0], &[22, 3, 3, 1, 0], &[9; 256]].concat();
        // Behind so many bytes: what is missing then, by reading on one by one.
        let expected = |at: usize| match at {
            0 | 8 | 13 | 274 => 0,
            1..5 => 5 - at,
            5..8 => 8 - at,
            9..13 => 13 - at,
            14..18 => 18 - at,
            _ => 274 - at,
        };
        for first in 0..=records.len() {
            for second in first..=records.len() {
                let mut position = Position::default();
                position.pass(&records[..first]);
                assert_eq!(position.missing(), expected(first));
                position.pass(&records[first..second]);
                assert_eq!(position.missing(), expected(second), "{first} {second}");
            }
        }
    }
}
