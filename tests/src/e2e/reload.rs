//! SIGHUP: certificates and the registry change without dropping a connection; a bad file leaves the last good state.

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{Appliance, Client, Lab, Place, Refusal, refusal};
use mtls_appliance_tests::pattern;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use crate::case::cases;

cases!("reload":
    a_new_server_certificate_is_shown_to_new_connections_and_old_ones_live_on,
    a_new_organisation_is_let_in_after_a_reload,
    a_removed_organisation_is_refused_after_a_reload_also_on_its_open_connection,
    a_transfer_survives_a_reload,
    a_broken_certificate_keeps_the_last_good_one,
    a_key_that_does_not_match_keeps_the_last_good_pair,
    a_broken_registry_keeps_the_last_good_one,
    a_new_client_authority_is_trusted_after_a_reload,
    twenty_reloads_in_a_row_disturb_nobody,
);

fn replace(lab: &Lab, target: &str, source: &str) -> anyhow::Result<()> {
    std::fs::copy(lab.path(source), lab.path(target)).with_context(|| format!("{source} to {target}"))?;
    Ok(())
}

fn edit(lab: &Lab, name: &str, change: impl FnOnce(String) -> String) -> anyhow::Result<()> {
    let path = lab.path(name);
    let before = std::fs::read_to_string(&path)?;
    let after = change(before.clone());
    ensure!(before != after, "the edit of {name} changed nothing");
    Ok(std::fs::write(path, after)?)
}

fn shown(lab: &Lab, appliance: &Appliance) -> anyhow::Result<Vec<u8>> {
    lab.client(appliance)?.server_certificate().context("no server certificate")
}

fn leaf(lab: &Lab, name: &str) -> anyhow::Result<Vec<u8>> {
    Ok(CertificateDer::from_pem_file(lab.path(&format!("{name}.pem")))?.to_vec())
}

/// Whether a log line of a reload says that it failed, and names the file.
fn failed_over(line: &Value, file: &str) -> anyhow::Result<()> {
    let text = line.to_string();
    ensure!(text.contains(file), "the line does not name {file}: {line}");
    ensure!(line["level"] == "error" || line["level"] == "warn" || text.contains("fail"), "no failure: {line}");
    Ok(())
}

fn a_new_server_certificate_is_shown_to_new_connections_and_old_ones_live_on(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut old = lab.client(&appliance)?;
    ensure!(old.get("/bytes/10", &[])?.status == 200);
    ensure!(shown(lab, &appliance)? == leaf(lab, "edge")?);
    replace(lab, "edge.pem", "edge-next.pem")?;
    replace(lab, "edge.key", "edge-next.key")?;
    appliance.reload()?;
    ensure!(shown(lab, &appliance)? == leaf(lab, "edge-next")?, "the old certificate is still shown");
    ensure!(old.get("/bytes/10", &[])?.status == 200, "the old connection was dropped");
    appliance.must_be_alive()
}

fn a_new_organisation_is_let_in_after_a_reload(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let tls = lab.tls("client-unregistered")?;
    ensure!(refusal(&Place::Here, appliance.address(), &tls)? != Refusal::Accepted);
    edit(lab, "registry.toml", |text| {
        text + "\n[[organisation]]\ncodes = [\"D1DDDD0000\"]\nname = \"새회사\"\n\
                serial_numbers = [\"999-99-99999\"]\nsources = [\"10.77.6.0/24\"]\n"
    })?;
    appliance.reload()?;
    let mut client = Client::connect(&Place::Here, appliance.address(), &tls)?;
    ensure!(client.get("/headers", &[])?.text().contains("D1DDDD0000"));
    Ok(())
}

fn a_removed_organisation_is_refused_after_a_reload_also_on_its_open_connection(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let tls = lab.tls("client-rsa")?;
    let mut open = Client::connect(&Place::Here, appliance.address(), &tls)?;
    let mut other = lab.client(&appliance)?;
    ensure!(open.get("/bytes/10", &[])?.status == 200 && other.get("/bytes/10", &[])?.status == 200);
    edit(lab, "registry.toml", |text| text.replace("234-56-78901", "000-00-00000"))?;
    appliance.reload()?;
    let got = refusal(&Place::Here, appliance.address(), &tls)?;
    ensure!(matches!(got, Refusal::Alert(_)), "{got:?}");
    if let Ok(response) = open.get("/headers", &[]) {
        ensure!(matches!(response.status, 401 | 403), "still served on the open connection: {:?}", response.head);
    }
    ensure!(!origin.journal("request")?.iter().any(|request| request["request_line"].to_string().contains("/headers")));
    ensure!(other.get("/bytes/10", &[])?.status == 200, "an organisation that stayed was dropped");
    appliance.must_be_alive()
}

fn a_transfer_survives_a_reload(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let length: u64 = 20_000_000;
    let mut client = lab.client(&appliance)?;
    client.send_head("GET", &format!("/bytes/{length}"), &[])?;
    replace(lab, "edge.pem", "edge-next.pem")?;
    replace(lab, "edge.key", "edge-next.key")?;
    appliance.reload()?;
    let response = client.response("GET")?;
    ensure!(response.sha256 == pattern::sha256(length), "{} bytes", response.length);
    Ok(())
}

fn a_broken_certificate_keeps_the_last_good_one(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let good = leaf(lab, "edge")?;
    std::fs::write(lab.path("edge.pem"), "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n")?;
    failed_over(&appliance.reload()?, "edge.pem")?;
    ensure!(shown(lab, &appliance)? == good);
    std::fs::remove_file(lab.path("edge.pem"))?;
    failed_over(&appliance.reload()?, "edge.pem")?;
    ensure!(shown(lab, &appliance)? == good);
    appliance.must_be_alive()
}

fn a_key_that_does_not_match_keeps_the_last_good_pair(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let good = leaf(lab, "edge")?;
    replace(lab, "edge.pem", "edge-next.pem")?;
    failed_over(&appliance.reload()?, "edge.")?;
    ensure!(shown(lab, &appliance)? == good);
    // The second file arrives: the pair is taken as a whole.
    replace(lab, "edge.key", "edge-next.key")?;
    appliance.reload()?;
    ensure!(shown(lab, &appliance)? == leaf(lab, "edge-next")?);
    Ok(())
}

fn a_broken_registry_keeps_the_last_good_one(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let duplicate = "\n[[organisation]]\ncodes = [\"E1EEEE0000\"]\nname = \"두번째\"\n\
                     serial_numbers = [\"111-11-11111\"]\nsources = [\"10.77.2.0/24\"]\n";
    for broken in ["[[organisation]\n", "[[organisation]]\ncodes = []\n", duplicate] {
        edit(lab, "registry.toml", |text| text + broken)?;
        failed_over(&appliance.reload()?, "registry.toml")?;
        ensure!(lab.client(&appliance)?.get("/bytes/10", &[])?.status == 200, "after {broken:?}");
        std::fs::write(lab.path("registry.toml"), dev_pki::REGISTRY)?;
    }
    appliance.must_be_alive()
}

fn a_new_client_authority_is_trusted_after_a_reload(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let tls = lab.tls("client-wrong-ca")?;
    ensure!(refusal(&Place::Here, appliance.address(), &tls)? != Refusal::Accepted);
    let stranger = std::fs::read_to_string(lab.path("stranger-ca.pem"))?;
    edit(lab, "client-ca.pem", |text| text + &stranger)?;
    appliance.reload()?;
    ensure!(refusal(&Place::Here, appliance.address(), &tls)? == Refusal::Accepted);
    ensure!(lab.client(&appliance)?.get("/bytes/10", &[])?.status == 200);
    Ok(())
}

fn twenty_reloads_in_a_row_disturb_nobody(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    for _ in 0..20 {
        appliance.reload()?;
        ensure!(client.get("/bytes/1000", &[])?.status == 200);
        lab.client(&appliance)?.get("/bytes/1000", &[])?;
    }
    appliance.must_be_alive()
}
