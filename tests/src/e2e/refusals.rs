//! Who must not get in: an alert where TLS has one, one log line, one count, and the process stays.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::ensure;
use mtls_appliance_tests::harness::names::{counter, event};
use mtls_appliance_tests::harness::{
    Appliance, Deadline, Lab, Origin, Place, Refusal, openssl, refusal, tcp, wait_until,
};
use rustls::AlertDescription;
use serde_json::Value;

use crate::case::cases;

cases!("refusals":
    a_caller_without_a_certificate_is_refused,
    an_expired_certificate_is_refused,
    a_certificate_that_is_not_yet_valid_is_refused,
    a_certificate_of_another_authority_is_refused,
    a_certificate_without_client_auth_is_refused,
    a_certificate_without_client_auth_is_accepted_where_configured,
    an_unregistered_serial_number_is_refused,
    a_certificate_without_a_serial_number_is_refused,
    a_chain_without_its_intermediate_is_refused,
    tls_1_2_is_refused_when_1_3_is_required,
    a_caller_that_can_not_check_our_signature_gets_an_alert,
    tls_1_2_callers_are_held_to_the_same_rules,
    garbage_instead_of_tls_is_refused,
    plain_http_is_refused,
    half_a_client_hello_is_given_up_on,
    a_silent_connection_is_given_up_on,
    a_huge_handshake_is_refused,
    a_hundred_refusals_leave_the_appliance_serving,
);

/// RFC 8446 6.2.
const CERTIFICATE_EXPIRED: u8 = 45;
const UNKNOWN_CA: u8 = 48;
const ACCESS_DENIED: u8 = 49;
const PROTOCOL_VERSION: u8 = 70;
const CERTIFICATE_REQUIRED: u8 = 116;

const REQUEST: &str = "GET /headers HTTP/1.1\r\nHost: api.bank.test\r\nConnection: close\r\n\r\n";

/// After `provoke`: one more log line with that reason, which it returns, one more count of it, no request at the origin,
/// the process alive.
fn noted(
    origin: &Origin,
    appliance: &mut Appliance,
    reason: &str,
    provoke: impl FnOnce(&Appliance) -> anyhow::Result<()>,
) -> anyhow::Result<Value> {
    let counted = appliance.handshake_failures()?;
    let logged = appliance.events(event::HANDSHAKE_FAILED).len();
    provoke(appliance)?;
    let line = wait_until("a log line about the refusal", Deadline::seconds(20), || {
        Ok(appliance.events(event::HANDSHAKE_FAILED).get(logged).cloned())
    })?;
    appliance.must_be_alive()?;
    let now = appliance.handshake_failures()?;
    ensure!(now == counted + 1, "counted {} refusals instead of one: {}", now - counted, appliance.status()?);
    let lines = appliance.events(event::HANDSHAKE_FAILED);
    ensure!(lines.len() == logged + 1, "one refusal, several lines: {lines:?}");
    ensure!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
    ensure!(line["reason"] == reason, "{reason} was expected: {line}");
    ensure!(appliance.wait_counter(&format!("handshake_refused.{reason}"), 1)? > 0);
    ensure!(origin.journal("request")?.is_empty(), "a refused caller reached the origin");
    Ok(line)
}

/// A caller with that certificate gets that alert, as openssl and as rustls see it, and is named in the log.
fn certificate_refused(lab: &Lab, identity: Option<&str>, alert: u8, reason: &str) -> anyhow::Result<Value> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let line = noted(&origin, &mut appliance, reason, |appliance| {
        let session = openssl::s_client(lab, &Place::Here, appliance.address(), identity, &[], REQUEST)?;
        ensure!(session.alert() == Some(alert), "alert {:?} instead of {alert}: {session:?}", session.alert());
        ensure!(!session.stdout.contains("HTTP/1.1"), "{session:?}");
        Ok(())
    })?;
    let tls = match identity {
        Some(name) => lab.tls(name)?,
        None => lab.tls_anonymous()?,
    };
    noted(&origin, &mut appliance, reason, |appliance| {
        let got = refusal(&Place::Here, appliance.address(), &tls)?;
        ensure!(got == Refusal::Alert(AlertDescription::from(alert)), "{got:?} instead of alert {alert}");
        Ok(())
    })?;
    let served = lab.curl(&appliance, "client-p256").get("/status/200")?;
    ensure!(served.status == 200, "nobody is served any more: {served}");
    Ok(line)
}

fn names_subject(line: &Value, part: &str) -> anyhow::Result<()> {
    ensure!(line["subject"].as_str().is_some_and(|subject| subject.contains(part)), "no subject with {part}: {line}");
    Ok(())
}

fn a_caller_without_a_certificate_is_refused(lab: &Lab) -> anyhow::Result<()> {
    certificate_refused(lab, None, CERTIFICATE_REQUIRED, "no_certificate").map(drop)
}

fn an_expired_certificate_is_refused(lab: &Lab) -> anyhow::Result<()> {
    names_subject(
        &certificate_refused(lab, Some("client-expired"), CERTIFICATE_EXPIRED, "certificate_expired")?,
        "api.hangang.test",
    )
}

fn a_certificate_that_is_not_yet_valid_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let tls = lab.tls("client-not-yet-valid")?;
    let line = noted(&origin, &mut appliance, "certificate_not_yet_valid", |appliance| {
        let got = refusal(&Place::Here, appliance.address(), &tls)?;
        ensure!(matches!(got, Refusal::Alert(_)), "{got:?}");
        Ok(())
    })?;
    names_subject(&line, "api.hangang.test")
}

fn a_certificate_of_another_authority_is_refused(lab: &Lab) -> anyhow::Result<()> {
    names_subject(
        &certificate_refused(lab, Some("client-wrong-ca"), UNKNOWN_CA, "certificate_unknown_ca")?,
        "api.hangang.test",
    )
}

fn a_certificate_without_client_auth_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let tls = lab.tls("client-server-auth-only")?;
    let line = noted(&origin, &mut appliance, "certificate_wrong_purpose", |appliance| {
        let got = refusal(&Place::Here, appliance.address(), &tls)?;
        ensure!(matches!(got, Refusal::Alert(_)), "{got:?}");
        Ok(())
    })?;
    names_subject(&line, "api.hangang.test")
}

fn a_certificate_without_client_auth_is_accepted_where_configured(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| s.set("tls.client_eku", "server-auth-too"))?;
    lab.curl(&appliance, "client-server-auth-only").ok("/headers")?;
    // The choice is about the usage alone.
    for identity in ["client-expired", "client-wrong-ca", "client-unregistered"] {
        let answer = lab.curl(&appliance, identity).get("/headers")?;
        ensure!(answer.exit != 0 && answer.status == 0, "{identity}: {answer}");
    }
    Ok(())
}

fn an_unregistered_serial_number_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let line = certificate_refused(lab, Some("client-unregistered"), ACCESS_DENIED, "unregistered_serial_number")?;
    names_subject(&line, "api.nobody.test")
}

fn a_certificate_without_a_serial_number_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let line = certificate_refused(lab, Some("client-no-serial-number"), ACCESS_DENIED, "no_serial_number")?;
    names_subject(&line, "api.hangang.test")
}

fn a_chain_without_its_intermediate_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let chain = std::fs::read_to_string(lab.path("client-p256.pem"))?;
    let end = chain.find("-----END CERTIFICATE-----").unwrap_or(0) + "-----END CERTIFICATE-----\n".len();
    std::fs::write(lab.path("client-leaf.pem"), &chain[..end])?;
    std::fs::copy(lab.path("client-p256.key"), lab.path("client-leaf.key"))?;
    certificate_refused(lab, Some("client-leaf"), UNKNOWN_CA, "certificate_unknown_ca").map(drop)
}

fn a_caller_that_can_not_check_our_signature_gets_an_alert(lab: &Lab) -> anyhow::Result<()> {
    const HANDSHAKE_FAILURE: u8 = 40;
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    // This is found out only when the first messages of the answer are already on their way.
    let options = ["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"];
    let session = openssl::s_client(lab, &Place::Here, appliance.address(), Some("client-p256"), &options, REQUEST)?;
    ensure!(session.alert() == Some(HANDSHAKE_FAILURE), "{}\n{}", session.stdout, session.stderr);
    appliance.must_be_alive()
}

fn tls_1_2_is_refused_when_1_3_is_required(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    noted(&origin, &mut appliance, "tls_version_not_accepted", |appliance| {
        let options = ["-tls1_2"];
        let session =
            openssl::s_client(lab, &Place::Here, appliance.address(), Some("client-p256"), &options, REQUEST)?;
        ensure!(session.alert() == Some(PROTOCOL_VERSION), "{session:?}");
        Ok(())
    })
    .map(drop)
}

fn tls_1_2_callers_are_held_to_the_same_rules(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set("tls.minimum_version", "1.2"))?;
    let address = appliance.address();
    let anonymous = || lab.curl_at(&Place::Here, address).arguments(["--tlsv1.2", "--tls-max", "1.2"]);
    let curl = |identity: &str| anonymous().identity(identity);
    ensure!(curl("client-p256").ok("/headers")?.text().contains("123-45-67890"));
    curl("client-rsa").ok("/bytes/100000")?.must_be_pattern(100_000)?;
    let refused = [
        (curl("client-expired"), "certificate_expired"),
        (curl("client-wrong-ca"), "certificate_unknown_ca"),
        (curl("client-unregistered"), "unregistered_serial_number"),
        (curl("client-no-serial-number"), "no_serial_number"),
        (anonymous(), "no_certificate"),
    ];
    for (curl, reason) in refused {
        let answer = curl.get("/headers")?;
        ensure!(answer.exit != 0 && answer.status == 0, "{reason}: {answer}");
        appliance.wait_event(event::HANDSHAKE_FAILED, |line| line["reason"] == reason)?;
    }
    Ok(())
}

/// Sends bytes over bare TCP and reads to the end.
fn bare(appliance: &Appliance, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut socket = tcp(&Place::Here, appliance.address())?;
    socket.write_all(bytes)?;
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(answer),
    }
}

/// Whether the answer is nothing but fatal alerts (RFC 8446 6), or nothing at all.
fn only_alerts(answer: &[u8]) -> bool {
    answer.chunks(7).all(|record| matches!(record, [21, 3, _, 0, 2, 2, _]))
}

fn garbage_instead_of_tls_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let garbage: [(&[u8], &str); 5] = [
        (&[0; 64], "not_tls"),
        (&[0xff; 300], "not_tls"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls"),
        // A handshake record whose content is none, and an application record before any handshake.
        (&[22, 3, 1, 0, 5, 1, 2, 3, 4, 5], "not_tls"),
        (&[23, 3, 3, 0, 5, 1, 2, 3, 4, 5], "peer_misbehaved"),
    ];
    for (bytes, reason) in garbage {
        noted(&origin, &mut appliance, reason, |appliance| {
            let answer = bare(appliance, bytes)?;
            ensure!(only_alerts(&answer), "{bytes:?} was answered with {answer:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn plain_http_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    noted(&origin, &mut appliance, "not_tls", |appliance| {
        let answer = bare(appliance, REQUEST.as_bytes())?;
        ensure!(only_alerts(&answer), "{:?}", String::from_utf8_lossy(&answer));
        Ok(())
    })
    .map(drop)
}

/// The start of a real ClientHello: the record announces more than comes.
fn half_hello() -> Vec<u8> {
    let mut bytes = vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    bytes.extend_from_slice(&[7; 40]);
    bytes
}

fn half_a_client_hello_is_given_up_on(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set("timeouts.handshake", "2s"))?;
    let begin = std::time::Instant::now();
    noted(&origin, &mut appliance, "handshake_timed_out", |appliance| bare(appliance, &half_hello()).map(drop))?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(10), "given up only after {took:?}");
    // The same when the caller closes before the deadline.
    noted(&origin, &mut appliance, "closed_during_handshake", |appliance| {
        let mut socket = tcp(&Place::Here, appliance.address())?;
        socket.write_all(&half_hello())?;
        Ok(())
    })
    .map(drop)
}

fn a_silent_connection_is_given_up_on(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set("timeouts.handshake", "1s"))?;
    noted(&origin, &mut appliance, "handshake_timed_out", |appliance| {
        let begin = std::time::Instant::now();
        let answer = bare(appliance, &[])?;
        ensure!(only_alerts(&answer), "{answer:?}");
        ensure!(begin.elapsed() < Duration::from_secs(10), "given up only after {:?}", begin.elapsed());
        Ok(())
    })
    .map(drop)
}

fn a_huge_handshake_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    noted(&origin, &mut appliance, "not_tls", |appliance| {
        let mut socket = tcp(&Place::Here, appliance.address())?;
        // A ClientHello that claims 16 MiB, in full records.
        let mut first = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        first.resize(5 + 0x4000, 0);
        let mut more = vec![22, 3, 1, 0x40, 0];
        more.resize(5 + 0x4000, 0);
        socket.write_all(&first)?;
        for _ in 0..1_100 {
            if socket.write_all(&more).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        ensure!(only_alerts(&answer), "{answer:?}");
        Ok(())
    })
    .map(drop)
}

fn a_hundred_refusals_leave_the_appliance_serving(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let unregistered = lab.tls("client-unregistered")?;
    let mut good = lab.client(&appliance)?;
    for _ in 0..25 {
        refusal(&Place::Here, appliance.address(), &unregistered)?;
        bare(&appliance, b"GET / HTTP/1.0\r\n\r\n")?;
        drop(tcp(&Place::Here, appliance.address())?);
        let mut socket = tcp(&Place::Here, appliance.address())?;
        socket.write_all(&half_hello())?;
        ensure!(good.get("/bytes/10", &[])?.status == 200);
    }
    ensure!(appliance.handshake_failures()? >= 50);
    ensure!(appliance.wait_counter(counter::HANDSHAKES, 1)? == 1);
    appliance.must_be_alive()
}
