//! TLS towards the origin: our certificate out, the origin's checked as configured.

use anyhow::ensure;
use mtls_appliance_tests::harness::{Appliance, Lab, Origin, OriginKind, Place, Settings};
use mtls_appliance_tests::pattern;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::case::cases;

cases!("origin_tls":
    an_origin_with_another_name_is_not_trusted,
    an_origin_of_another_authority_is_not_trusted,
    a_pinned_origin_is_trusted_whatever_its_authority,
    an_origin_with_another_pin_is_not_trusted,
    verify_none_accepts_any_origin_and_warns,
    an_origin_that_speaks_only_tls_1_2_is_used_where_configured,
    an_origin_that_refuses_our_certificate_becomes_a_502,
);

/// The usual settings in front of a scripted origin with that certificate.
fn with(lab: &Lab, kind: OriginKind, change: impl FnOnce(Settings) -> Settings) -> anyhow::Result<(Origin, Appliance)> {
    let origin = Origin::start(lab, &Place::Here, kind, "127.0.0.1:0".parse()?)?;
    let appliance = lab.appliance_with(&origin, change)?;
    Ok((origin, appliance))
}

/// The answer is a 502, and no request with its secrets reached that origin.
fn not_trusted(lab: &Lab, origin: &Origin, appliance: &mut Appliance) -> anyhow::Result<()> {
    let answer = lab.curl(appliance, "client-p256").header("Authorization: Bearer secret").get("/headers")?;
    ensure!(answer.status == 502 && answer.exit == 0, "{answer}");
    ensure!(origin.journal("request")?.is_empty(), "the request was sent");
    appliance.must_be_alive()
}

fn pin(lab: &Lab, name: &str) -> anyhow::Result<String> {
    let mut digest = pattern::Sha256::default();
    digest.update(&CertificateDer::from_pem_file(lab.path(&format!("{name}.pem")))?);
    Ok(format!("sha256:{}", digest.finish()))
}

fn an_origin_with_another_name_is_not_trusted(lab: &Lab) -> anyhow::Result<()> {
    let (origin, mut appliance) = with(lab, OriginKind::WithCertificate("origin-other-name"), |s| s)?;
    not_trusted(lab, &origin, &mut appliance)
}

fn an_origin_of_another_authority_is_not_trusted(lab: &Lab) -> anyhow::Result<()> {
    let (origin, mut appliance) = with(lab, OriginKind::WithCertificate("origin-stranger"), |s| s)?;
    not_trusted(lab, &origin, &mut appliance)
}

fn a_pinned_origin_is_trusted_whatever_its_authority(lab: &Lab) -> anyhow::Result<()> {
    let pin = pin(lab, "origin-stranger")?;
    let (_origin, appliance) = with(lab, OriginKind::WithCertificate("origin-stranger"), |s| {
        s.set("origin.verify", "pin").without("origin.ca").set("origin.pins", vec![pin])
    })?;
    lab.curl(&appliance, "client-p256").ok("/bytes/100000")?.must_be_pattern(100_000)
}

fn an_origin_with_another_pin_is_not_trusted(lab: &Lab) -> anyhow::Result<()> {
    let pin = pin(lab, "origin-other-name")?;
    let (origin, mut appliance) = with(lab, OriginKind::Scripted, |s| {
        s.set("origin.verify", "pin").without("origin.ca").set("origin.pins", vec![pin])
    })?;
    not_trusted(lab, &origin, &mut appliance)
}

fn verify_none_accepts_any_origin_and_warns(lab: &Lab) -> anyhow::Result<()> {
    let (_origin, mut appliance) = with(lab, OriginKind::WithCertificate("origin-stranger"), |s| {
        s.set("origin.verify", "none").without("origin.ca")
    })?;
    lab.curl(&appliance, "client-p256").ok("/headers")?;
    let said = [appliance.process().stdout(), appliance.process().stderr()].concat().join("\n");
    ensure!(said.contains("verify") && said.contains("none"), "no warning at start:\n{said}");
    Ok(())
}

fn an_origin_that_speaks_only_tls_1_2_is_used_where_configured(lab: &Lab) -> anyhow::Result<()> {
    let (origin, appliance) = with(lab, OriginKind::ScriptedTls12, |s| s.set("origin.minimum_version", "1.2"))?;
    lab.curl(&appliance, "client-p256").ok("/bytes/1000000")?.must_be_pattern(1_000_000)?;
    lab.curl(&appliance, "client-p256").upload_chunked(1_000_000).ok("/echo")?.must_be_pattern(1_000_000)?;
    ensure!(origin.journal("connection")?.iter().all(|line| line["version"] == "TLSv1_2"));
    Ok(())
}

fn an_origin_that_refuses_our_certificate_becomes_a_502(lab: &Lab) -> anyhow::Result<()> {
    // A caller's certificate in place of our own: its authority is not the origin's.
    let (origin, mut appliance) = with(lab, OriginKind::Scripted, |s| {
        s.set("origin.certificate", "client-p256.pem").set("origin.key", "client-p256.key")
    })?;
    not_trusted(lab, &origin, &mut appliance)?;
    origin.wait_journal("handshake_failed", |_| true).map(drop)
}
