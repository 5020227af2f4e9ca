//! Sends and receives one message as its plan says.

use std::io::{self, ErrorKind, Read};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use mtls_appliance_tests::harness::{DATA, Incoming, RawReader, RawWriter};
use mtls_appliance_tests::http::{Framing as Wire, Malformed};
use mtls_appliance_tests::pattern;

use super::plan::{How, Message, Segments};
use crate::dice::Dice;

/// Longest pause; far below every deadline.
const PAUSE_MS: u64 = 25;
/// A message is cut into small pieces so many times; the rest goes in large ones.
const SMALL_PIECES: u32 = 200;

/// What a receiver came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The whole body, of so many bytes.
    Whole(u64),
    /// An answer that the appliance gave instead.
    Refused(u16),
    /// The end of the connection before the end of the message.
    Cut(String),
    /// What may never be.
    Wrong(String),
}

/// Sends the part of `stream` that the message wants sent, and ends as it wants it to. The last byte is held back until
/// `held` returns.
pub(super) fn send(
    writer: &mut RawWriter,
    message: &Message,
    stream: &[u8],
    tickets: bool,
    held: Option<&dyn Fn() -> bool>,
) -> anyhow::Result<()> {
    let sent = message.sent(stream.len());
    let mut sender =
        Sender { writer, dice: Dice::new(message.seed), message, out: Vec::new(), pauses: message.pauses, pieces: 0 };
    let (mut at, mut held) = (0, held);
    while at < sent {
        let mut size = sender.message.record(&mut sender.dice).min(sent - at);
        if let Some(wait) = held {
            if at + 1 == sent {
                sender.write(true)?;
                anyhow::ensure!(wait(), "what was waited for did not come");
                held = None;
            } else {
                size = size.min(sent - 1 - at);
            }
        }
        if message.controls && sender.dice.percent(8) {
            sender.control(tickets)?;
        }
        let padding = if sender.dice.percent(10) { sender.dice.between(1, 300) } else { 0 };
        let record = sender.writer.seal(DATA, &stream[at..at + size], padding)?;
        sender.out.extend_from_slice(&record);
        at += size;
        match message.segments {
            Segments::Each => sender.write(true)?,
            Segments::Joined | Segments::Torn if sender.out.len() > 100_000 || sender.dice.percent(30) => {
                sender.write(false)?;
            }
            Segments::Joined | Segments::Torn => {}
        }
    }
    sender.write(true)?;
    sender.end(stream.get(sent..).unwrap_or_default())
}

struct Sender<'a> {
    writer: &'a mut RawWriter,
    dice: Dice,
    message: &'a Message,
    /// Sealed, not yet sent.
    out: Vec<u8>,
    pauses: u32,
    pieces: u32,
}

impl Sender<'_> {
    /// Sends what is sealed; unless `all`, the tail of a torn message waits for what comes next.
    fn write(&mut self, all: bool) -> anyhow::Result<()> {
        let out = std::mem::take(&mut self.out);
        let torn = self.message.segments == Segments::Torn;
        let keep = if all || !torn { 0 } else { self.dice.between(0, 60).min(out.len()) };
        let (mut now, later) = out.split_at(out.len() - keep);
        self.out = later.to_vec();
        while !now.is_empty() {
            if self.pauses > 0 && self.dice.percent(20) {
                self.pauses -= 1;
                thread::sleep(Duration::from_millis(self.dice.roll(PAUSE_MS)));
            }
            let size = match torn {
                true if self.pieces < SMALL_PIECES => {
                    let most = self.dice.one([4, 100, 5_000, 40_000]);
                    self.dice.between(1, most)
                }
                true => self.dice.between(10_000, 60_000),
                false => now.len(),
            };
            self.pieces += 1;
            let (piece, rest) = now.split_at(size.min(now.len()));
            self.writer.write(piece)?;
            now = rest;
        }
        Ok(())
    }

    /// A record that carries nothing of the stream.
    fn control(&mut self, tickets: bool) -> anyhow::Result<()> {
        let record = match self.dice.roll(if tickets { 5 } else { 4 }) {
            0 => self.writer.seal(DATA, &[], 0)?,
            1 => {
                let padding = self.dice.between(1, 2_000);
                self.writer.seal(DATA, &[], padding)?
            }
            2 => self.writer.key_update(false)?,
            3 => self.writer.key_update(true)?,
            _ => {
                let length = self.dice.between(1, 3_000);
                self.writer.ticket(length)?
            }
        };
        self.out.extend_from_slice(&record);
        Ok(())
    }

    fn end(&mut self, unsent: &[u8]) -> anyhow::Result<()> {
        let writer = &mut *self.writer;
        let next = if unsent.is_empty() { &[0; 100] } else { &unsent[..unsent.len().min(1_000)] };
        match self.message.end.how {
            How::Stay => return Ok(()),
            How::CloseNotify => return writer.close_notify(),
            How::Close => writer.close_notify()?,
            How::Fin => {}
            How::Reset => return Ok(writer.reset()?),
            How::Alert => writer.alert(2, 80)?,
            How::HalfRecord => {
                let record = writer.seal(DATA, next, 0)?;
                writer.write(&record[..record.len() / 2])?;
            }
            How::Corrupt => {
                let mut record = writer.seal(DATA, next, 0)?;
                let at = self.dice.between(5, record.len() - 1);
                record[at] ^= 1;
                writer.write(&record)?;
            }
        }
        Ok(writer.fin()?)
    }
}

/// A receiver that takes its time.
pub(super) struct Paced {
    pub(super) reader: RawReader,
    dice: Dice,
    pauses: u32,
}

impl Paced {
    pub(super) fn new(reader: RawReader) -> Self {
        Self { reader, dice: Dice::new(0), pauses: 0 }
    }

    /// Reads the next message as it wants to be read.
    pub(super) fn like(&mut self, message: &Message) {
        self.reader.at_once(message.reading.at_once);
        self.dice = Dice::new(message.seed ^ 2);
        self.pauses = message.reading.pauses;
        thread::sleep(message.reading.late);
    }
}

impl Read for Paced {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.pauses > 0 && self.dice.percent(10) {
            self.pauses -= 1;
            thread::sleep(Duration::from_millis(self.dice.roll(PAUSE_MS)));
        }
        self.reader.read(buffer)
    }
}

/// Compares a body with what it must be, as it comes.
pub(super) struct Body<'a> {
    message: &'a Message,
    at: u64,
    wrong: Option<String>,
}

impl<'a> Body<'a> {
    pub(super) fn of(message: &'a Message) -> Self {
        Self { message, at: 0, wrong: None }
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        let mut expected = vec![0; bytes.len()];
        pattern::fill(self.message.offset + self.at, &mut expected);
        if self.wrong.is_none() && bytes != expected {
            let first = bytes.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
            self.wrong = Some(format!("another byte at {} of {}", self.at + first as u64, self.message.length));
        }
        self.at += bytes.len() as u64;
        if self.wrong.is_none() && self.at > self.message.length {
            self.wrong = Some(format!("{} bytes instead of {}", self.at, self.message.length));
        }
    }

    /// What the receiver came to, `result` being how its reading ended.
    pub(super) fn verdict(self, result: anyhow::Result<()>) -> Verdict {
        match (self.wrong, result) {
            (Some(wrong), _) => Verdict::Wrong(wrong),
            (None, Ok(())) => Verdict::Whole(self.at),
            (None, Err(error)) => cut(&error),
        }
    }
}

/// An end that may be, unless the peer said nonsense or nothing at all.
pub(super) fn cut(error: &anyhow::Error) -> Verdict {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    let hangs = io.is_some_and(|io| matches!(io.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
    if hangs || error.chain().any(|cause| cause.is::<Malformed>()) {
        return Verdict::Wrong(format!("{error:#}"));
    }
    Verdict::Cut(format!("{error:#}"))
}

/// The answer, as far as it comes.
pub(super) fn receive_answer(
    reader: &mut Paced,
    buffer: &mut Vec<u8>,
    method: &str,
    message: &Message,
    interim: usize,
) -> Verdict {
    let mut incoming = Incoming::new(reader, buffer);
    let mut seen = 0;
    let head = loop {
        match incoming.head().and_then(|head| Ok((head.status()?, head))) {
            Ok((100..200, _)) => seen += 1,
            Ok((status, head)) => break (status, head),
            Err(error) => return cut(&error),
        }
    };
    let (status, head) = head;
    if status != 200 {
        return Verdict::Refused(status);
    }
    if head.get("X-Offset") != Some(&message.offset.to_string()) || seen != interim {
        return Verdict::Wrong(format!("the answer to another request, or {seen} interim ones: {head:?}"));
    }
    let framing = match head.response_framing(method) {
        Ok(framing) => framing,
        Err(error) => return Verdict::Wrong(error.to_string()),
    };
    receive_body(reader, buffer, framing, message)
}

pub(super) fn receive_body(reader: &mut Paced, buffer: &mut Vec<u8>, framing: Wire, message: &Message) -> Verdict {
    let mut body = Body::of(message);
    let result = Incoming::new(reader, buffer).body(framing, &mut |bytes| body.take(bytes));
    body.verdict(result.context("within a body"))
}
