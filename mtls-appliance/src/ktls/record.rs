//! Control records after the hand-over: what they mean. Sans-IO.
//!
//! Alerts (RFC 8446 6), and the handshake messages that may come late: NewSessionTicket and KeyUpdate (RFC 8446 4.6),
//! in TLS 1.2 HelloRequest (RFC 5246 7.4.1.1). Handshake messages may be split over records and share one.

/// Content type of alerts.
pub const ALERT: u8 = 21;
/// Content type of handshake messages.
pub const HANDSHAKE: u8 = 22;
/// Content type of application data.
pub const APPLICATION_DATA: u8 = 23;

/// Alert description close_notify.
pub const CLOSE_NOTIFY: u8 = 0;
/// Alert description unexpected_message.
pub const UNEXPECTED_MESSAGE: u8 = 10;
/// Alert description internal_error.
pub const INTERNAL_ERROR: u8 = 80;
/// Alert description no_renegotiation.
pub const NO_RENEGOTIATION: u8 = 100;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Control records in a row, without application data between them, that a peer may send.
const MAX_IN_A_ROW: u32 = 32;
/// Control records that a peer may send on one connection.
const MAX_IN_TOTAL: u32 = 16_384;
/// Longest late handshake message: a ticket has at most 2^16 bytes and little besides.
const MAX_MESSAGE: usize = 70_000;

/// What a control record asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The peer will send nothing more.
    CloseNotify,
    /// The peer gave up, with this description.
    FatalAlert(u8),
    /// The peer's next record uses a new key.
    KeyUpdate {
        /// It wants us to renew ours as well.
        requested: bool,
    },
    /// Nothing to do: a ticket, a warning, a HelloRequest.
    Ignored,
}

/// Why a control record ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too many of them.
    #[error("the peer floods control records")]
    Flood,
    /// Not allowed here.
    #[error("unexpected TLS message (content type {content}, message {message})")]
    Unexpected {
        /// The record's content type.
        content: u8,
        /// The handshake message, 255 when there is none.
        message: u8,
    },
    /// A TLS 1.2 peer wants to negotiate anew.
    #[error("the peer asks for renegotiation")]
    Renegotiation,
    /// Cannot be parsed.
    #[error("malformed control record")]
    Malformed,
}

impl RecordError {
    /// The alert that tells the peer.
    pub const fn alert(self) -> u8 {
        match self {
            Self::Renegotiation => NO_RENEGOTIATION,
            Self::Flood | Self::Unexpected { .. } | Self::Malformed => UNEXPECTED_MESSAGE,
        }
    }

    /// Stable name for counters and the log.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Flood => "control_record_flood",
            Self::Unexpected { .. } => "unexpected_record",
            Self::Renegotiation => "renegotiation",
            Self::Malformed => "malformed_record",
        }
    }
}

/// Which late messages a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// TLS 1.3, otherwise 1.2.
    pub tls13: bool,
    /// The peer is the server.
    pub peer_is_server: bool,
}

/// Reads control records; keeps the part of a message that has come so far, and counts.
#[derive(Debug)]
pub struct ControlReader {
    expected: Expected,
    partial: Vec<u8>,
    in_a_row: u32,
    in_total: u32,
}

impl ControlReader {
    /// A reader at the moment of the hand-over.
    pub fn new(expected: Expected) -> Self {
        Self { expected, partial: Vec::new(), in_a_row: 0, in_total: 0 }
    }

    /// Application data came: the row of control records is over.
    ///
    /// # Errors
    /// A handshake message was interrupted (RFC 8446 5.1).
    pub fn data(&mut self) -> Result<(), RecordError> {
        self.in_a_row = 0;
        if self.partial.is_empty() {
            Ok(())
        } else {
            Err(RecordError::Unexpected { content: APPLICATION_DATA, message: 255 })
        }
    }

    /// An empty application record came: allowed (RFC 8446 5.1), but it must not keep us busy for ever.
    ///
    /// # Errors
    /// Too many in a row.
    pub fn empty(&mut self) -> Result<(), RecordError> {
        self.in_a_row += 1;
        if self.in_a_row > MAX_IN_A_ROW { Err(RecordError::Flood) } else { Ok(()) }
    }

    /// Reads one record (or the part of it that was received) and hands each message to `act`, in order.
    ///
    /// # Errors
    /// What ends the connection, from the record or from `act`.
    pub fn read<E: From<RecordError>>(
        &mut self,
        content: u8,
        payload: &[u8],
        mut act: impl FnMut(Control) -> Result<(), E>,
    ) -> Result<(), E> {
        self.in_a_row += 1;
        self.in_total += 1;
        if self.in_a_row > MAX_IN_A_ROW || self.in_total > MAX_IN_TOTAL {
            return Err(RecordError::Flood.into());
        }
        match content {
            ALERT => {
                if !self.partial.is_empty() {
                    return Err(RecordError::Unexpected { content, message: 255 }.into());
                }
                let &[level, description] = payload else {
                    return Err(RecordError::Malformed.into());
                };
                act(self.alert(level, description))
            }
            HANDSHAKE => {
                self.partial.extend_from_slice(payload);
                self.messages(act)
            }
            _ => Err(RecordError::Unexpected { content, message: 255 }.into()),
        }
    }

    fn alert(&self, level: u8, description: u8) -> Control {
        const WARNING: u8 = 1;
        const USER_CANCELED: u8 = 90;
        match description {
            CLOSE_NOTIFY => Control::CloseNotify,
            // TLS 1.3 gives the level no meaning: everything but these two is fatal (RFC 8446 6).
            USER_CANCELED => Control::Ignored,
            _ if !self.expected.tls13 && level == WARNING => Control::Ignored,
            _ => Control::FatalAlert(description),
        }
    }

    fn messages<E: From<RecordError>>(&mut self, mut act: impl FnMut(Control) -> Result<(), E>) -> Result<(), E> {
        loop {
            let Some(&[kind, a, b, c]) = self.partial.get(..4) else {
                return Ok(());
            };
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            if length > MAX_MESSAGE {
                return Err(RecordError::Malformed.into());
            }
            let Some(body) = self.partial.get(4..4 + length) else {
                return Ok(());
            };
            let rest = self.partial.len() - 4 - length;
            let control = match (kind, self.expected) {
                (NEW_SESSION_TICKET, Expected { tls13: true, peer_is_server: true }) => Control::Ignored,
                (KEY_UPDATE, Expected { tls13: true, .. }) => {
                    // No message may share the record with a KeyUpdate: it changes the key (RFC 8446 5.1).
                    if rest != 0 {
                        return Err(RecordError::Unexpected { content: HANDSHAKE, message: kind }.into());
                    }
                    match body {
                        [0] => Control::KeyUpdate { requested: false },
                        [1] => Control::KeyUpdate { requested: true },
                        _ => return Err(RecordError::Malformed.into()),
                    }
                }
                (HELLO_REQUEST, Expected { tls13: false, peer_is_server: true }) => Control::Ignored,
                (CLIENT_HELLO, Expected { tls13: false, peer_is_server: false }) => {
                    return Err(RecordError::Renegotiation.into());
                }
                _ => return Err(RecordError::Unexpected { content: HANDSHAKE, message: kind }.into()),
            };
            self.partial.drain(..4 + length);
            if self.partial.is_empty() {
                self.partial = Vec::new();
            }
            act(control)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Expected = Expected { tls13: true, peer_is_server: true };
    const CALLER: Expected = Expected { tls13: true, peer_is_server: false };

    fn read(reader: &mut ControlReader, content: u8, payload: &[u8]) -> Result<Vec<Control>, RecordError> {
        let mut seen = Vec::new();
        reader.read(content, payload, |control| {
            seen.push(control);
            Ok::<(), RecordError>(())
        })?;
        Ok(seen)
    }

    #[test]
    fn close_notify_and_fatal_alerts_are_told_apart() {
        let mut reader = ControlReader::new(CALLER);
        assert_eq!(read(&mut reader, ALERT, &[1, 0]), Ok(vec![Control::CloseNotify]));
        assert_eq!(read(&mut reader, ALERT, &[2, 40]), Ok(vec![Control::FatalAlert(40)]));
        assert_eq!(read(&mut reader, ALERT, &[1, 90]), Ok(vec![Control::Ignored]));
        assert_eq!(read(&mut reader, ALERT, &[1]), Err(RecordError::Malformed));
        assert_eq!(read(&mut reader, ALERT, &[1, 0, 0]), Err(RecordError::Malformed));
    }

    #[test]
    fn a_message_split_at_every_byte_is_read_once() {
        let ticket = [4, 0, 0, 3, 9, 9, 9, 4, 0, 0, 1, 7];
        for split in 0..=ticket.len() {
            let mut reader = ControlReader::new(ORIGIN);
            let mut seen = read(&mut reader, HANDSHAKE, &ticket[..split]).unwrap();
            seen.extend(read(&mut reader, HANDSHAKE, &ticket[split..]).unwrap());
            assert_eq!(seen, vec![Control::Ignored, Control::Ignored], "split at {split}");
            assert_eq!(reader.data(), Ok(()));
        }
    }

    #[test]
    fn a_key_update_must_end_its_record() {
        let mut reader = ControlReader::new(CALLER);
        assert_eq!(read(&mut reader, HANDSHAKE, &[24, 0, 0, 1, 1]), Ok(vec![Control::KeyUpdate { requested: true }]));
        let mut reader = ControlReader::new(CALLER);
        assert!(read(&mut reader, HANDSHAKE, &[24, 0, 0, 1, 1, 24, 0, 0, 1, 0]).is_err());
        let mut reader = ControlReader::new(CALLER);
        assert_eq!(read(&mut reader, HANDSHAKE, &[24, 0, 0, 1, 2]), Err(RecordError::Malformed));
    }

    #[test]
    fn a_caller_may_not_send_tickets_nor_renegotiate() {
        let mut reader = ControlReader::new(CALLER);
        assert!(matches!(read(&mut reader, HANDSHAKE, &[4, 0, 0, 0]), Err(RecordError::Unexpected { .. })));
        let mut reader = ControlReader::new(Expected { tls13: false, peer_is_server: false });
        assert_eq!(read(&mut reader, HANDSHAKE, &[1, 0, 0, 0]), Err(RecordError::Renegotiation));
    }

    #[test]
    fn data_inside_a_split_message_is_refused() {
        let mut reader = ControlReader::new(ORIGIN);
        assert_eq!(read(&mut reader, HANDSHAKE, &[4, 0, 0, 9, 1]), Ok(vec![]));
        assert!(reader.data().is_err());
    }

    #[test]
    fn a_flood_of_tickets_ends_the_connection() {
        let mut reader = ControlReader::new(ORIGIN);
        let flood = (0..MAX_IN_A_ROW + 1).map(|_| read(&mut reader, HANDSHAKE, &[4, 0, 0, 0]));
        assert_eq!(flood.last(), Some(Err(RecordError::Flood)));
        let mut reader = ControlReader::new(ORIGIN);
        for _ in 0..100 {
            assert!(read(&mut reader, HANDSHAKE, &[4, 0, 0, 0]).is_ok());
            reader.data().unwrap();
        }
    }

    #[test]
    fn absurd_message_lengths_are_refused_without_waiting_for_them() {
        let mut reader = ControlReader::new(ORIGIN);
        assert_eq!(read(&mut reader, HANDSHAKE, &[4, 0xff, 0xff, 0xff]), Err(RecordError::Malformed));
    }
}
