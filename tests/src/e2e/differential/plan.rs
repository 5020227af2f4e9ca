//! What is going to happen, all of it from one number: messages, records, segments, pauses, and how it ends.

use std::time::Duration;

use mtls_appliance_tests::harness::{Cipher, RECORD};
use mtls_appliance_tests::pattern;

use crate::dice::Dice;

/// What one client connection does.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) number: u64,
    /// Of the client's session.
    pub(super) cipher: Cipher,
    /// Of the client; the window is small then, so whoever sends to it meets back-pressure.
    pub(super) receive_buffer: Option<usize>,
    pub(super) exchanges: Vec<Exchange>,
}

/// A request and its answer.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) up: Message,
    pub(super) down: Message,
    /// The answer is sent while the request's body still comes; its last byte after it.
    pub(super) together: bool,
    pub(super) interim: bool,
}

/// A message's body, and how it gets to the wire and off it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) framing: Framing,
    pub(super) length: u64,
    /// Where in the pattern its body begins, so that no two bodies are alike.
    pub(super) offset: u64,
    pub(super) seed: u64,
    pub(super) records: Records,
    pub(super) segments: Segments,
    pub(super) pauses: u32,
    pub(super) controls: bool,
    pub(super) end: End,
    pub(super) reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length,
    Chunked,
    UntilClose,
}

/// How much content records have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    Tiny,
    Small,
    Mixed,
    Full,
}

/// How records are cut into writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segments {
    /// A write for each record.
    Each,
    /// Several records in one write.
    Joined,
    /// Cut anywhere.
    Torn,
}

/// What happens behind the part of the stream that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Nothing: the connection stays.
    Stay,
    /// close_notify; the connection below stays, and the other direction with it.
    CloseNotify,
    /// close_notify, then FIN.
    Close,
    Fin,
    Reset,
    /// A fatal alert, then FIN.
    Alert,
    /// Half a record, then FIN.
    HalfRecord,
    /// A record that does not open, then FIN.
    Corrupt,
}

/// Where a message ends, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// This part of the stream is sent, in 2^-32; `None`: all of it.
    pub(super) cut: Option<u32>,
    pub(super) how: How,
}

/// How the receiver takes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) at_once: usize,
    pub(super) pauses: u32,
    /// Before the first read.
    pub(super) late: Duration,
}

/// What a receiver must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The body of so many bytes, whole.
    Whole(u64),
    /// Anything but a whole body.
    Broken,
    /// Either: the end may overtake what was sent before it.
    Either,
}

impl Plan {
    /// The plan of that number. Bodies have less than `2^longest` bytes.
    pub(super) fn new(seed: u64, number: u64, longest: u64, controls: bool) -> Self {
        let mut dice = Dice::new(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        let count = dice.one([1, 1, 2, 4]);
        Self {
            number,
            cipher: dice.one(Cipher::ALL),
            receive_buffer: dice.percent(30).then(|| dice.between(2_048, 40_000)),
            exchanges: (0..count).map(|at| Exchange::new(&mut dice, longest, controls, at + 1 == count)).collect(),
        }
    }
}

impl Exchange {
    fn new(dice: &mut Dice, longest: u64, controls: bool, last: bool) -> Self {
        let has_body = dice.percent(60);
        let up = if has_body { dice.one([Framing::Length, Framing::Chunked]) } else { Framing::None };
        let down = match dice.one([0, 0, 1, 1, 2]) {
            0 => Framing::Length,
            1 => Framing::Chunked,
            _ if last => Framing::UntilClose,
            _ => Framing::Length,
        };
        let mut exchange = Self {
            up: Message::new(dice, up, longest, controls),
            down: Message::new(dice, down, longest, controls),
            together: has_body && dice.percent(25),
            interim: dice.percent(10),
        };
        if down == Framing::UntilClose {
            exchange.down.end.how = dice.one([How::CloseNotify, How::Close]);
        }
        if last && dice.percent(60) {
            let end = End {
                cut: dice.percent(75).then(|| u32::try_from(dice.roll(1 << 32)).unwrap_or(0)),
                how: dice.one([
                    How::CloseNotify,
                    How::Close,
                    How::Fin,
                    How::Reset,
                    How::Alert,
                    How::HalfRecord,
                    How::Corrupt,
                ]),
            };
            // One fault is enough: what the other direction comes to is then a matter of time.
            if dice.percent(50) {
                exchange.up.end = end;
                exchange.together = false;
            } else {
                exchange.down.end = end;
            }
        }
        exchange
    }

    /// What the origin must come to.
    pub(super) fn expected_up(&self) -> Expected {
        match self.up.expected(0) {
            _ if self.together && self.down.faulty() => Expected::Either,
            // Whoever has left is not served, if that is seen before the answer.
            Expected::Whole(_) if self.up.leaves() => Expected::Either,
            expected => expected,
        }
    }

    /// What the client must come to.
    pub(super) fn expected_down(&self) -> Expected {
        match self.expected_up() {
            Expected::Broken => Expected::Broken,
            Expected::Either if self.up.faulty() || self.up.leaves() => Expected::Either,
            _ => self.down.expected(self.answer().len()),
        }
    }

    /// The request's head. `name` is the last part of its target.
    pub(super) fn request(&self, name: &str) -> String {
        let method = if self.up.framing == Framing::None { "GET" } else { "POST" };
        format!("{method} /plan/{name} HTTP/1.1\r\nHost: api.bank.test\r\n{}\r\n", self.up.field())
    }

    /// The answer's head, with the interim one.
    pub(super) fn answer(&self) -> String {
        let interim = if self.interim { "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" } else { "" };
        // Nothing that is sent after a connection that was closed behind an answer.
        let close = if self.down.end.how == How::Stay { "" } else { "Connection: close\r\n" };
        format!("{interim}HTTP/1.1 200 OK\r\nX-Offset: {}\r\n{close}{}\r\n", self.down.offset, self.down.field())
    }
}

impl Message {
    fn new(dice: &mut Dice, framing: Framing, longest: u64, controls: bool) -> Self {
        let records = dice.one([Records::Tiny, Records::Small, Records::Mixed, Records::Full, Records::Full]);
        // Many records, or writes, of a few bytes each are slow and show nothing that some do not.
        let longest = if records == Records::Tiny { longest.min(15) } else { longest };
        let pauses = |dice: &mut Dice| dice.one([0, 0, 1, 4]);
        Self {
            framing,
            length: match framing {
                Framing::None => 0,
                // Every second body is long enough to be spliced, if there is room for that.
                _ if dice.percent(50) && longest > 15 => (1 << 15) + dice.roll((1 << longest) - (1 << 15)),
                _ => dice.length(longest),
            },
            offset: dice.roll(1 << 32),
            seed: dice.number(),
            records,
            segments: dice.one([Segments::Each, Segments::Joined, Segments::Torn]),
            pauses: pauses(dice),
            controls: controls && dice.percent(60),
            end: End { cut: None, how: How::Stay },
            reading: Reading {
                at_once: dice.one([100, 5_000, 65_536, 65_536]),
                pauses: pauses(dice),
                late: Duration::from_millis(if dice.percent(20) { dice.roll(60) } else { 0 }),
            },
        }
    }

    fn faulty(&self) -> bool {
        self.end.cut.is_some() || !matches!(self.end.how, How::Stay | How::CloseNotify | How::Close)
    }

    /// Whoever sends this closes the connection behind it.
    fn leaves(&self) -> bool {
        matches!(self.end.how, How::Close | How::Fin | How::HalfRecord)
    }

    fn field(&self) -> String {
        match self.framing {
            Framing::Length => format!("Content-Length: {}\r\n", self.length),
            Framing::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framing::None | Framing::UntilClose => String::new(),
        }
    }

    /// The whole stream behind that head. Whoever receives it `plain` knows no chunk extensions.
    pub(super) fn stream(&self, head: &str, plain: bool) -> Vec<u8> {
        let mut dice = Dice::new(self.seed ^ 1);
        let mut stream = head.as_bytes().to_vec();
        let mut body = vec![0; usize::try_from(self.length).unwrap_or(0)];
        pattern::fill(self.offset, &mut body);
        if self.framing != Framing::Chunked {
            stream.extend_from_slice(&body);
            return stream;
        }
        let most = dice.one([300, 5_000, 40_000, 300_000]);
        let mut rest = &body[..];
        // Far fewer than an appliance may refuse.
        let mut extensions = if plain { 0 } else { 100 };
        while !rest.is_empty() {
            let (chunk, behind) = rest.split_at(dice.between(1, most).min(rest.len()));
            let zeros = if dice.percent(10) { "000" } else { "" };
            let extension = if dice.percent(10) && extensions > 0 { ";a=\"b\"" } else { "" };
            extensions -= usize::from(!extension.is_empty());
            stream.extend_from_slice(format!("{zeros}{:x}{extension}\r\n", chunk.len()).as_bytes());
            stream.extend_from_slice(chunk);
            stream.extend_from_slice(b"\r\n");
            rest = behind;
        }
        stream.extend_from_slice(b"0\r\n");
        if dice.percent(10) {
            stream.extend_from_slice(b"X-Trailer: end\r\n");
        }
        stream.extend_from_slice(b"\r\n");
        stream
    }

    /// How much of a stream of that length is sent.
    pub(super) fn sent(&self, stream: usize) -> usize {
        match self.end.cut {
            None => stream,
            Some(part) => usize::try_from((stream as u64 * u64::from(part)) >> 32).unwrap_or(0),
        }
    }

    /// What a receiver of this message comes to, the head being so long.
    fn expected(&self, head: usize) -> Expected {
        let all = self.end.cut.is_none();
        match (self.framing, self.end.how) {
            (Framing::UntilClose, How::CloseNotify | How::Close) => {
                let sent = self.sent(head + usize::try_from(self.length).unwrap_or(0));
                sent.checked_sub(head).map_or(Expected::Broken, |body| Expected::Whole(body as u64))
            }
            (Framing::UntilClose, _) => Expected::Broken,
            // The receiver has what it waits for before it sees how the connection ends, unless the two come together.
            (_, How::Reset | How::Alert | How::Corrupt) if all => Expected::Either,
            _ if all => Expected::Whole(self.length),
            _ => Expected::Broken,
        }
    }

    /// The next record's content.
    pub(super) fn record(&self, dice: &mut Dice) -> usize {
        let (least, most) = match self.records {
            Records::Tiny => (1, 100),
            Records::Small => (1, 2_000),
            Records::Mixed => dice.one([(1, 20), (1, RECORD), (RECORD - 1, RECORD)]),
            Records::Full => (RECORD, RECORD),
        };
        dice.between(least, most)
    }
}
