//! What is said on the control socket: lines of text, one request a connection.
//!
//! ```text
//! > mtls-appliance/1 status            > mtls-appliance/1 take-over
//! < mtls-appliance/1 ok                < mtls-appliance/1 ok            with the listening sockets
//! < { ... }                            > attaching
//!                                      < go-ahead
//!                                      > ready
//!                                      < draining
//! ```
//!
//! Instead of any of its lines the appliance may say `mtls-appliance/1 refused REASON: TEXT`, and whoever takes over
//! `failed TEXT`. Bytes in, meaning out; who says what when is in [`super::hand_over`] and [`super::take_over`].

/// Names the protocol and its version at the beginning of every request and its answer.
pub(crate) const VERSION: &str = "mtls-appliance/1";
/// Longest line, without its end.
pub(crate) const MAX_LINE: usize = 1024;

/// The new process is about to take the guard.
pub(crate) const ATTACHING: &str = "attaching";
/// It may.
pub(crate) const GO_AHEAD: &str = "go-ahead";
/// The new process will accept connections as soon as the old one does not.
pub(crate) const READY: &str = "ready";
/// The old one accepts none any more.
pub(crate) const DRAINING: &str = "draining";
/// Before the reason for which the new process gives up.
pub(crate) const FAILED: &str = "failed ";

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// How it is; answered with JSON after the answer line.
    Status,
    /// The guard's sampled events; answered with a line of JSON each, after the answer line, for as long as one listens.
    Watch,
    /// Hand over the listening sockets, and drain when told so.
    TakeOver,
}

impl Request {
    const ALL: [Self; 3] = [Self::Status, Self::Watch, Self::TakeOver];

    const fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Watch => "watch",
            Self::TakeOver => "take-over",
        }
    }

    /// The line that asks this.
    pub(crate) fn line(self) -> String {
        format!("{VERSION} {}\n", self.word())
    }

    /// What a line asks.
    pub(crate) fn parse(line: &str) -> Result<Self, Refusal> {
        let Some(word) = line.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix(' ')) else {
            return Err(Refusal::new("other_version", format!("this appliance speaks {VERSION}")));
        };
        Self::ALL.into_iter().find(|request| request.word() == word).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|request| request.word()).collect();
            Refusal::new("unknown_request", format!("this appliance answers {}", known.join(", ")))
        })
    }
}

/// Why a request is not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Stable name, for counters.
    pub(crate) reason: &'static str,
    /// For people, in one line.
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// The line that says so.
    pub(crate) fn line(&self) -> String {
        format!("{VERSION} refused {}: {}\n", self.reason, one_line(&self.text))
    }
}

/// The line that grants a request.
pub(crate) fn ok() -> String {
    format!("{VERSION} ok\n")
}

/// The line with which whoever takes over gives up.
pub(crate) fn failed(why: &str) -> String {
    format!("{FAILED}{}\n", one_line(why))
}

/// An answer line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    Ok,
    /// Reason and text.
    Refused(&'a str),
}

impl<'a> Answer<'a> {
    /// `None` when the line is no answer of this protocol.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let rest = line.strip_prefix(VERSION)?.strip_prefix(' ')?;
        match rest.strip_prefix("refused ") {
            Some(why) => Some(Self::Refused(why)),
            None => (rest == "ok").then_some(Self::Ok),
        }
    }
}

/// A text as one line that is not too long with what goes before it.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_LINE / 4 - 32) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_written() {
        for request in Request::ALL {
            assert_eq!(Request::parse(request.line().trim_end()), Ok(request));
        }
    }

    #[test]
    fn another_version_and_an_unknown_request_are_told_apart() {
        let reason = |line| Request::parse(line).unwrap_err().reason;
        for line in
            ["", "status", "mtls-appliance/2 status", "mtls-appliance/1", "mtls-appliance/11 status", "GET / HTTP/1.1"]
        {
            assert_eq!(reason(line), "other_version", "{line:?}");
        }
        for line in
            ["mtls-appliance/1 ", "mtls-appliance/1 stat", "mtls-appliance/1 status now", "mtls-appliance/1  status"]
        {
            assert_eq!(reason(line), "unknown_request", "{line:?}");
        }
    }

    #[test]
    fn answers_are_read_as_they_are_written() {
        assert_eq!(Answer::parse(ok().trim_end()), Some(Answer::Ok));
        let refusal = Refusal::new("draining", "it stops\n  start another");
        assert_eq!(Answer::parse(refusal.line().trim_end()), Some(Answer::Refused("draining: it stops start another")));
        for line in ["", "ok", "mtls-appliance/1 okay", "mtls-appliance/2 ok", "{\"version\": 1}"] {
            assert_eq!(Answer::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn no_text_makes_a_line_too_long() {
        let text = "가나다 ".repeat(1000);
        for line in [failed(&text), Refusal::new("too_many_connections_of_organisation", text).line()] {
            assert!(line.len() <= MAX_LINE && line.ends_with("...\n"), "{}", line.len());
        }
    }
}
