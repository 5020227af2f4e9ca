//! The duties of an HTTP/1.1 intermediary, a row each, named by the section of the RFC that asks for it.
//!
//! A row is what a caller sends byte for byte, what the origin must have seen of it, and what the caller must get. Where
//! the origin's answer is the point, the request's target spells it (`/reply/<hexadecimal>`). Refusals that come in
//! long lists of variants are in [`super::strictness`], identity fields in [`super::identity`], and origins that are
//! slow, silent or break off in [`super::origin_faults`].

mod connections;
mod fields;
mod messages;
mod parsing;
mod upgrade;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use mtls_appliance_tests::harness::{Appliance, Client, Lab, Origin, Response};
use mtls_appliance_tests::http::Head;
use mtls_appliance_tests::pattern;
use serde_json::Value;
use x509_parser::time::ASN1Time;

use crate::case::cases;
use connections::{
    a_connection_carries_requests_one_after_the_other, a_smuggled_request_is_never_a_request,
    callers_of_http_1_0_and_the_version_of_the_next_hop,
};
use fields::{
    hop_by_hop_fields_of_a_request_end_here, hop_by_hop_fields_of_a_response_end_here,
    methods_that_end_here_and_max_forwards,
};
use messages::{
    a_malformed_response_is_a_502_and_ends_its_connection, chunked_requests_are_decoded_and_framed_anew,
    interim_responses_and_expectations, responses_without_a_body_have_none, trailers_stay_behind_the_body,
};
use parsing::{
    a_request_names_one_host, limits_have_their_own_status, line_ends_and_whitespace_are_exact,
    the_framing_of_a_request_is_unambiguous,
};
use upgrade::{an_upgrade_goes_on_only_where_it_is_allowed, the_origin_switches_only_to_what_was_asked_for};

cases!("conformance":
    hop_by_hop_fields_of_a_request_end_here,
    hop_by_hop_fields_of_a_response_end_here,
    the_framing_of_a_request_is_unambiguous,
    line_ends_and_whitespace_are_exact,
    a_request_names_one_host,
    chunked_requests_are_decoded_and_framed_anew,
    trailers_stay_behind_the_body,
    responses_without_a_body_have_none,
    interim_responses_and_expectations,
    methods_that_end_here_and_max_forwards,
    callers_of_http_1_0_and_the_version_of_the_next_hop,
    a_connection_carries_requests_one_after_the_other,
    a_malformed_response_is_a_502_and_ends_its_connection,
    limits_have_their_own_status,
    a_smuggled_request_is_never_a_request,
    an_upgrade_goes_on_only_where_it_is_allowed,
    the_origin_switches_only_to_what_was_asked_for,
);

/// What a smuggled request would ask for.
const POISON: &str = "GET /headers?poison HTTP/1.1\r\nHost: api.bank.test\r\n\r\n";

/// How long an answer or an end may take: less than `timeouts.idle`, after which every connection ends.
const PATIENCE: Duration = Duration::from_secs(20);

/// One duty.
struct Row {
    name: &'static str,
    sent: Vec<u8>,
    answers: Vec<Answer>,
    /// The caller's connection serves another request afterwards; otherwise it ends.
    kept: bool,
    origin: Expected,
}

/// What the origin must have seen.
enum Expected {
    /// These requests in this order, and none besides.
    Requests(Vec<Seen>),
    /// At most a head whose body never comes to its end.
    NoWholeBody,
}

#[derive(Default)]
struct Answer {
    status: u16,
    interim: Vec<u16>,
    fields: Vec<&'static str>,
    without: Vec<&'static str>,
    body: Option<&'static str>,
}

#[derive(Default)]
struct Seen {
    line: &'static str,
    fields: Vec<&'static str>,
    without: Vec<&'static str>,
}

/// A row to which expectations are added; until told otherwise the origin sees nothing and the connection is kept.
fn row(name: &'static str, sent: impl Into<Vec<u8>>) -> Row {
    Row { name, sent: sent.into(), answers: Vec::new(), kept: true, origin: Expected::Requests(Vec::new()) }
}

impl Row {
    /// The next answer the caller gets.
    fn answer(mut self, status: u16) -> Self {
        self.answers.push(Answer { status, ..Answer::default() });
        self
    }

    /// The answer before has that field once, with that value (`Name: value`).
    fn field(mut self, line: &'static str) -> Self {
        self.last().fields.push(line);
        self
    }

    /// The answer before has no field of these names.
    fn without(mut self, names: &[&'static str]) -> Self {
        self.last().without.extend(names);
        self
    }

    fn body(mut self, text: &'static str) -> Self {
        self.last().body = Some(text);
        self
    }

    /// The answer before follows these interim ones.
    fn after(mut self, interim: &[u16]) -> Self {
        self.last().interim = interim.to_vec();
        self
    }

    fn closed(mut self) -> Self {
        self.kept = false;
        self
    }

    /// Answered without the origin, and the end of the connection.
    fn refused(self, status: u16) -> Self {
        self.answer(status).closed()
    }

    /// Refused within the body, when the head may have gone on already.
    fn refused_within_the_body(mut self, status: u16) -> Self {
        self.origin = Expected::NoWholeBody;
        self.refused(status)
    }

    /// The origin saw this request line next.
    fn seen(mut self, line: &'static str) -> Self {
        if let Expected::Requests(requests) = &mut self.origin {
            requests.push(Seen { line, fields: Vec::new(), without: Vec::new() });
        }
        self
    }

    /// The request seen before had that field once, with that value (`Name: value`).
    fn with(mut self, line: &'static str) -> Self {
        if let Expected::Requests(requests) = &mut self.origin {
            latest(requests).fields.push(line);
        }
        self
    }

    /// The request seen before had no field of these names.
    fn lacking(mut self, names: &[&'static str]) -> Self {
        if let Expected::Requests(requests) = &mut self.origin {
            latest(requests).without.extend(names);
        }
        self
    }

    fn last(&mut self) -> &mut Answer {
        latest(&mut self.answers)
    }

    fn check(&self, lab: &Lab, appliance: &Appliance, origin: &Origin) -> anyhow::Result<()> {
        let before = origin.journal("request")?.len();
        let bodies = origin.journal("body")?.len();
        let mut client = lab.client(appliance)?.patient(PATIENCE)?;
        client.send(&self.sent)?;
        let mut method = if self.sent.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        for (number, answer) in self.answers.iter().enumerate() {
            let response = client.response(method).with_context(|| format!("answer {}", number + 1))?;
            answer.check(&response).with_context(|| format!("answer {}", number + 1))?;
            method = "GET";
        }
        // A whole journal of this row: what comes later counts against the rows after it.
        let requests = origin.journal("request")?;
        let requests = requests.get(before..).context("the journal became shorter")?;
        match &self.origin {
            Expected::Requests(expected) => {
                let lines = || requests.iter().map(|seen| &seen["request_line"]).collect::<Vec<_>>();
                ensure!(requests.len() == expected.len(), "the origin saw {:?}", lines());
                for (seen, expected) in requests.iter().zip(expected) {
                    expected.check(seen)?;
                }
            }
            Expected::NoWholeBody => ensure!(requests.len() <= 1, "the origin saw {requests:?}"),
        }
        if self.kept {
            in_step(&mut client).context("the connection was to be kept")?;
        } else {
            let (rest, _) = client.read_to_end()?;
            ensure!(rest.is_empty(), "bytes behind the last answer: {:?}", String::from_utf8_lossy(&rest));
        }
        if matches!(self.origin, Expected::NoWholeBody) {
            ensure!(origin.journal("body")?.len() == bodies, "the origin took the body for whole");
        }
        Ok(())
    }
}

/// The last of them; where there is none yet, one that nothing can satisfy.
fn latest<T: Default>(expected: &mut Vec<T>) -> &mut T {
    if expected.is_empty() {
        expected.push(T::default());
    }
    let last = expected.len() - 1;
    &mut expected[last]
}

impl Answer {
    fn check(&self, response: &Response) -> anyhow::Result<()> {
        let head = &response.head;
        ensure!(response.status == self.status, "{} instead of {}: {}", head.start, self.status, response.text());
        let interim = response.interim.iter().map(|head| head.status()).collect::<Result<Vec<_>, _>>()?;
        ensure!(interim == self.interim, "interim responses {interim:?} instead of {:?}", self.interim);
        fields(&head.fields, &self.fields, &self.without)?;
        // RFC 9110 6.6.1 leaves 101, like every 1xx, without one.
        if self.status >= 200 && !self.fields.iter().any(|line| line.starts_with("Date:")) {
            dated(head)?;
        }
        if let Some(body) = self.body {
            ensure!(response.text() == body, "body {:?} instead of {body:?}", response.text());
        }
        Ok(())
    }
}

impl Seen {
    fn check(&self, seen: &Value) -> anyhow::Result<()> {
        ensure!(
            seen["request_line"] == self.line,
            "the origin saw {} instead of {:?}",
            seen["request_line"],
            self.line
        );
        let found: Vec<(String, String)> = serde_json::from_value(seen["headers"].clone())?;
        fields(&found, &self.fields, &self.without).context("as the origin saw it")
    }
}

/// RFC 9110 6.6.1: the scripted origin sends no Date, so the appliance does, and its clock is that of this test.
fn dated(head: &Head) -> anyhow::Result<()> {
    let dates: Vec<&str> = head.all("Date").collect();
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let recent = i64::try_from(PATIENCE.as_secs())?;
    for second in (now - recent..=now).rev() {
        // RFC 9110 5.6.7: what e-mail writes, in GMT by name.
        let date = ASN1Time::from_timestamp(second)?.to_rfc2822().map_err(anyhow::Error::msg)?;
        if dates == [date.replace("+0000", "GMT")] {
            return Ok(());
        }
    }
    bail!("Date is {dates:?}")
}

fn fields(found: &[(String, String)], expected: &[&str], unexpected: &[&str]) -> anyhow::Result<()> {
    for line in expected {
        let (name, value) = line.split_once(':').with_context(|| format!("{line:?} is no field"))?;
        // Several lines of one name mean what one line with commas means (RFC 9110 5.3), so a surplus one shows too.
        let values: Vec<_> =
            found.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
        ensure!(values.join(", ") == value.trim(), "{name} is {values:?} instead of {:?}", value.trim());
    }
    for name in unexpected {
        ensure!(!found.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)), "{name} is among {found:?}");
    }
    Ok(())
}

/// The next request on this connection gets its own answer.
fn in_step(client: &mut Client) -> anyhow::Result<()> {
    let response = client.get("/bytes/3", &[])?;
    ensure!(response.status == 200 && response.body == pattern::bytes(3), "{:?} {}", response.head, response.text());
    Ok(())
}

/// Checks every row, each on a connection of its own, and reports all that do not hold.
fn check(lab: &Lab, rows: &[Row]) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    check_with(lab, &mut appliance, &origin, rows)
}

fn check_with(lab: &Lab, appliance: &mut Appliance, origin: &Origin, rows: &[Row]) -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for row in rows {
        if let Err(error) = row.check(lab, appliance, origin) {
            let sent = String::from_utf8_lossy(&row.sent[..row.sent.len().min(300)]).into_owned();
            broken.push(format!("{}\n    sent {sent:?}\n    {error:#}", row.name));
        }
    }
    // What slipped through would arrive at once.
    std::thread::sleep(Duration::from_millis(200));
    let poison = |line: &&Value| line["request_line"].to_string().contains("poison");
    for poison in origin.journal("request")?.iter().filter(poison) {
        broken.push(format!("a smuggled request reached the origin: {poison}"));
    }
    for malformed in origin.journal("malformed")? {
        broken.push(format!("the origin was sent what is not HTTP: {malformed}"));
    }
    if !broken.is_empty() {
        bail!("{} of {} rows do not hold:\n{}", broken.len(), rows.len(), broken.join("\n"));
    }
    appliance.must_be_alive()
}

/// A request with these field lines, each ended by CR LF.
fn request(line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: api.bank.test\r\n{fields}\r\n")
}

fn get(fields: &str) -> String {
    request("GET /headers", fields)
}

fn chunked(body: &str) -> String {
    request("POST /sha256", "Transfer-Encoding: chunked\r\n") + body
}

/// A target for which the origin answers with these bytes.
fn reply(bytes: impl AsRef<[u8]>) -> String {
    let digits: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("/reply/{digits}")
}

/// A row whose point is the origin's answer; the origin sees exactly this request.
fn replied(name: &'static str, method: &str, bytes: &str) -> Row {
    let line = format!("{method} {}", reply(bytes));
    let sent = request(&line, "");
    row(name, sent).seen(String::leak(line + " HTTP/1.1"))
}

/// The same with a caller of HTTP/1.0.
fn replied_to_http_1_0(name: &'static str, bytes: &str) -> Row {
    let target = reply(bytes);
    let sent = format!("GET {target} HTTP/1.0\r\nHost: api.bank.test\r\n\r\n");
    row(name, sent).seen(String::leak(format!("GET {target} HTTP/1.1")))
}
