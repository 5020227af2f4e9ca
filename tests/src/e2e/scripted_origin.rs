//! The tests' own origin does what the other tests rely on. No appliance is involved.

use anyhow::ensure;
use mtls_appliance_tests::harness::{Curl, Feature, Lab, Net, Origin, OriginKind, Place};
use mtls_appliance_tests::pattern;

use crate::case::cases;

cases!("scripted_origin":
    it_demands_a_client_certificate,
    it_answers_by_every_framing,
    it_digests_uploads,
    it_truncates_in_three_ways,
    nginx_starts_and_demands_a_client_certificate_too,
    namespaces_are_hosts_that_reach_only_their_neighbours,
);

/// curl straight to the origin, whose certificate is for another name: not checked here.
fn direct(lab: &Lab, place: &Place, origin: &Origin) -> Curl {
    lab.curl_at(place, origin.address()).identity("appliance-client").arguments(["--insecure"])
}

fn it_demands_a_client_certificate(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let refused = lab.curl_at(&Place::Here, origin.address()).arguments(["--insecure"]).get("/headers")?;
    ensure!(refused.exit != 0 && refused.status == 0, "{refused}");
    let answer = direct(lab, &Place::Here, &origin).header("X-Probe: 1").ok("/headers")?.json()?;
    ensure!(answer["request_line"] == "GET /headers HTTP/1.1", "{answer}");
    let headers = answer["headers"].to_string();
    ensure!(headers.contains(r#"["X-Probe","1"]"#), "{headers}");
    let connections = origin.journal("connection")?;
    ensure!(connections.len() == 1 && connections[0]["client_subject"].to_string().contains("mtls-appliance"));
    origin.wait_journal("handshake_failed", |_| true)?;
    Ok(())
}

fn it_answers_by_every_framing(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let curl = direct(lab, &Place::Here, &origin);
    for path in ["/bytes/300000", "/chunked/300000?size=7000", "/close/300000"] {
        curl.ok(path)?.must_be_pattern(300_000)?;
    }
    ensure!(curl.get("/nothing-known")?.status == 404);
    Ok(())
}

fn it_digests_uploads(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let curl = direct(lab, &Place::Here, &origin);
    let answer = curl.clone().upload_chunked(1_000_000).ok("/sha256")?.json()?;
    ensure!(answer["bytes"] == 1_000_000, "{answer}");
    ensure!(answer["sha256"] == pattern::sha256(1_000_000), "{answer}");
    curl.upload_chunked(1_000_000).ok("/echo")?.must_be_pattern(1_000_000)
}

fn it_truncates_in_three_ways(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let curl = direct(lab, &Place::Here, &origin);
    for how in ["close_notify", "fin", "rst"] {
        for path in ["/truncate/100000", "/truncate-chunked/100000"] {
            let answer = curl.get(&format!("{path}?sent=5000&how={how}"))?;
            ensure!(answer.exit != 0 && answer.length < 100_000, "{path} {how}: {answer}");
        }
    }
    Ok(())
}

fn nginx_starts_and_demands_a_client_certificate_too(lab: &Lab) -> anyhow::Result<()> {
    Feature::Nginx.need()?;
    let origin = Origin::start(lab, &Place::Here, OriginKind::Nginx, "127.0.0.1:0".parse()?)?;
    let anonymous = lab.curl_at(&Place::Here, origin.address()).arguments(["--insecure"]).get("/identity")?;
    ensure!(anonymous.status == 400, "{anonymous}");
    let answer = direct(lab, &Place::Here, &origin).ok("/identity")?;
    ensure!(answer.text().contains("CN=mtls-appliance"), "{answer}");
    direct(lab, &Place::Here, &origin).ok("/file")?.must_be_pattern(Origin::NGINX_FILE as u64)
}

fn namespaces_are_hosts_that_reach_only_their_neighbours(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    let net = Net::create()?;
    let origin = Origin::start(lab, &net.origin, OriginKind::Scripted, "10.77.9.2:9443".parse()?)?;
    direct(lab, &net.appliance, &origin).ok("/bytes/100000")?.must_be_pattern(100_000)?;
    let from_caller = direct(lab, &net.caller, &origin).seconds(2).get("/headers")?;
    ensure!(from_caller.exit != 0, "the caller must not reach the origin: {from_caller}");
    Ok(())
}
