//! What the log says: a line for each request, and one for each client connection when it ends.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::{Serialize, Serializer};

use super::exchange::Outcome;
use crate::app::Shared;
use crate::http1::RequestHead;
use crate::ktls::NotOffloaded;
use crate::telemetry::{DataPath, Level};

/// What the log says about a request; the query is left out, for it may hold secrets.
pub(super) struct RequestLine<'a> {
    method: String,
    path: String,
    pub(super) site: Option<&'a str>,
    pub(super) origin: Option<&'a str>,
}

impl RequestLine<'_> {
    pub(super) fn new(head: &RequestHead, buffer: &[u8]) -> Self {
        let (method, path) = (head.method_name(buffer).to_owned(), head.path(buffer).to_owned());
        Self { method, path, site: None, origin: None }
    }
}

/// Who a line is about.
pub(super) struct Subject<'a> {
    pub(super) peer: SocketAddr,
    /// The organisation's codes.
    pub(super) org: &'a [String],
    pub(super) serial_number: Option<&'a str>,
    /// The client's session: in the kernel, or why not.
    pub(super) session: Result<(), Arc<NotOffloaded>>,
}

/// What a client connection has done so far.
pub(super) struct Tally {
    began: Instant,
    pub(super) requests: u64,
    bytes_in: u64,
    bytes_out: u64,
    bytes_spliced: u64,
    /// The last origin session: in the kernel, or why not.
    origin: Option<Result<(), Arc<NotOffloaded>>>,
    /// The way of the request that moved the most bytes, and how many those were.
    path: Option<(DataPath, u64)>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            requests: 0,
            bytes_in: 0,
            bytes_out: 0,
            bytes_spliced: 0,
            origin: None,
            path: None,
        }
    }

    /// Since when the connection is there, as long as it has had no request.
    pub(super) fn fresh(&self) -> Option<Instant> {
        (self.requests == 0).then_some(self.began)
    }

    fn add(&mut self, outcome: &Outcome, path: DataPath) {
        let (up, down) = (outcome.up, outcome.down);
        self.bytes_in += up.total();
        self.bytes_out += down.total();
        self.bytes_spliced += up.spliced + down.spliced;
        if outcome.origin.is_some() {
            self.origin.clone_from(&outcome.origin);
        }
        let bytes = up.total() + down.total();
        if self.path.is_none_or(|(_, most)| bytes >= most) {
            self.path = Some((path, bytes));
        }
    }
}

/// One line of the access log. Absent values are `null`, so that every line has every field.
#[derive(Serialize)]
struct AccessLine<'a> {
    peer: SocketAddr,
    #[serde(serialize_with = "joined")]
    org: &'a [String],
    serial_number: Option<&'a str>,
    method: Option<&'a str>,
    path: Option<&'a str>,
    site: Option<&'a str>,
    origin: Option<&'a str>,
    origin_address: Option<SocketAddr>,
    status: Option<u16>,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: u64,
    client_offload: &'static str,
    origin_offload: Option<&'static str>,
    data_path: &'static str,
    data_path_reason: Option<&'static str>,
    #[serde(serialize_with = "shown")]
    data_path_detail: Option<Side<'a>>,
    blame: Option<&'static str>,
    reason: Option<&'static str>,
}

/// The last line of a client connection.
#[derive(Serialize)]
struct ConnectionLine<'a> {
    peer: SocketAddr,
    #[serde(serialize_with = "joined")]
    org: &'a [String],
    serial_number: Option<&'a str>,
    requests: u64,
    bytes_in: u64,
    bytes_out: u64,
    bytes_spliced: u64,
    duration_ms: u64,
    client_offload: &'static str,
    client_offload_reason: Option<&'static str>,
    origin_offload: Option<&'static str>,
    origin_offload_reason: Option<&'static str>,
    data_path: Option<&'static str>,
    data_path_reason: Option<&'static str>,
    end: &'static str,
}

/// Which of the two sessions is not in the kernel, and why.
struct Side<'a>(&'static str, &'a NotOffloaded);

impl fmt::Display for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}

fn joined<S: Serializer>(codes: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match codes {
        [code] => serializer.serialize_str(code),
        codes => serializer.serialize_str(&codes.join(",")),
    }
}

fn shown<S: Serializer>(text: &Option<impl fmt::Display>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => serializer.collect_str(text),
        None => serializer.serialize_none(),
    }
}

fn place(session: &Result<(), Arc<NotOffloaded>>) -> &'static str {
    if session.is_ok() { "kernel" } else { "userspace" }
}

/// Why a session stays in userspace.
fn stays(session: &Result<(), Arc<NotOffloaded>>) -> Option<&'static str> {
    session.as_ref().err()?.data_path().reason()
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Which way the bodies of a request went. A session that stayed in userspace decides for both bodies; otherwise the
/// larger one tells.
fn data_path<'a>(client: &'a Result<(), Arc<NotOffloaded>>, outcome: &'a Outcome) -> (DataPath, Option<Side<'a>>) {
    let Some(origin) = &outcome.origin else { return (DataPath::NotForwarded, None) };
    let userspace = [("client", client), ("origin", origin)]
        .into_iter()
        .find_map(|(side, session)| session.as_ref().err().map(|why| Side(side, why)));
    if let Some(side) = userspace {
        return (side.1.data_path(), Some(side));
    }
    let (up, down) = (outcome.up, outcome.down);
    if up.spliced + down.spliced > 0 {
        return (DataPath::Spliced, None);
    }
    let larger = if up.copied > down.copied { up } else { down };
    (larger.copied_because.filter(|_| larger.copied > 0).unwrap_or(DataPath::KernelNoBody), None)
}

/// Logs a request, counts its data path and, if it failed, the reason.
pub(super) fn request(
    shared: &Shared,
    who: &Subject<'_>,
    line: Option<&RequestLine<'_>>,
    started: Instant,
    outcome: &Outcome,
    tally: &mut Tally,
) {
    if let Some(failure) = &outcome.failure {
        let class = match failure.blame {
            "client" => "request_refused",
            "appliance" if outcome.status == Some(101) => "tunnel_ended",
            "appliance" => "request_failed",
            _ => "origin_failed",
        };
        shared.counters.refuse(class, failure.reason);
    }
    let (path, detail) = data_path(&who.session, outcome);
    shared.counters.data_path.count(path);
    tally.add(outcome, path);
    let level = if outcome.failure.is_some() { Level::Warn } else { Level::Info };
    shared.log.event(
        level,
        "request",
        AccessLine {
            peer: who.peer,
            org: who.org,
            serial_number: who.serial_number,
            method: line.map(|line| &*line.method),
            path: line.map(|line| &*line.path),
            site: line.and_then(|line| line.site),
            origin: line.and_then(|line| line.origin),
            origin_address: outcome.address,
            status: outcome.status,
            bytes_in: outcome.up.total(),
            bytes_out: outcome.down.total(),
            duration_ms: milliseconds(started),
            client_offload: place(&who.session),
            origin_offload: outcome.origin.as_ref().map(place),
            data_path: path.path(),
            data_path_reason: path.reason(),
            data_path_detail: detail,
            blame: outcome.failure.as_ref().map(|failure| failure.blame),
            reason: outcome.failure.as_ref().map(|failure| failure.reason),
        },
    );
}

/// Logs that a client connection has come to its end, and how.
pub(super) fn connection(shared: &Shared, who: &Subject<'_>, tally: &Tally, end: &'static str) {
    let path = tally.path.map(|(path, _)| path);
    shared.log.event(
        Level::Info,
        "connection",
        ConnectionLine {
            peer: who.peer,
            org: who.org,
            serial_number: who.serial_number,
            requests: tally.requests,
            bytes_in: tally.bytes_in,
            bytes_out: tally.bytes_out,
            bytes_spliced: tally.bytes_spliced,
            duration_ms: milliseconds(tally.began),
            client_offload: place(&who.session),
            client_offload_reason: stays(&who.session),
            origin_offload: tally.origin.as_ref().map(place),
            origin_offload_reason: tally.origin.as_ref().and_then(stays),
            data_path: path.map(DataPath::path),
            data_path_reason: path.and_then(DataPath::reason),
            end,
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::exchange::{Next, Outcome};
    use super::super::relay::Moved;
    use super::*;

    fn forwarded(origin: Result<(), Arc<NotOffloaded>>, up: Moved, down: Moved) -> Outcome {
        Outcome { up, down, origin: Some(origin), ..Outcome::own(200, None, Next::Continue) }
    }

    fn copied(bytes: u64, why: DataPath) -> Moved {
        Moved { copied: bytes, copied_because: Some(why), ..Moved::default() }
    }

    #[test]
    fn the_larger_body_tells_why_it_was_copied() {
        let (small, large) = (copied(5, DataPath::KernelBelowThreshold), copied(70_000, DataPath::KernelNoPipe));
        let none = Moved::default();
        let spliced = Moved { spliced: 1, ..Moved::default() };
        for (up, down, expected) in [
            (small, large, DataPath::KernelNoPipe),
            (large, small, DataPath::KernelNoPipe),
            (none, small, DataPath::KernelBelowThreshold),
            (large, spliced, DataPath::Spliced),
            (none, none, DataPath::KernelNoBody),
            (copied(0, DataPath::KernelNoPipe), none, DataPath::KernelNoBody),
        ] {
            assert_eq!(data_path(&Ok(()), &forwarded(Ok(()), up, down)).0, expected);
        }
    }

    #[test]
    fn a_session_in_userspace_decides_and_is_named() {
        let body = copied(70_000, DataPath::UserspaceCipher);
        let missing = || Err(Arc::new(NotOffloaded::Kernel("no module".into())));
        let cipher = Err(Arc::new(NotOffloaded::Cipher("X".into())));
        let outcome = forwarded(cipher, body, body);
        let (path, side) = data_path(&Ok(()), &outcome);
        assert_eq!(path, DataPath::UserspaceCipher);
        assert_eq!(side.map(|side| side.to_string()).as_deref(), Some("origin: the kernel does not do X"));
        let client = missing();
        let (path, side) = data_path(&client, &outcome);
        assert_eq!(path, DataPath::UserspaceKernel);
        assert!(side.is_some_and(|side| side.to_string().starts_with("client: the running kernel has no TLS")));
        assert_eq!(data_path(&missing(), &Outcome::own(204, None, Next::Continue)).0, DataPath::NotForwarded);
    }
}
