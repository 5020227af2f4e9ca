//! Other people's TLS and HTTP on either side: openssl as the caller, nginx as the origin.

use anyhow::ensure;
use mtls_appliance_tests::harness::{Feature, Lab, Origin, OriginKind, Place, names, openssl};
use mtls_appliance_tests::pattern;

use crate::case::cases;

cases!("other_stacks":
    openssl_is_served_in_both_tls_versions,
    every_cipher_suite_of_openssl_works,
    key_updates_are_followed_or_refused_without_losing_bytes,
    nginx_serves_as_the_origin,
    nginx_takes_uploads,
    nginx_connections_are_kept,
);

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: api.bank.test\r\nConnection: close\r\n\r\n")
}

fn openssl_is_served_in_both_tls_versions(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance_with(&origin, |s| s.set("tls.minimum_version", "1.2"))?;
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let session = openssl::s_client(
            lab,
            &Place::Here,
            appliance.address(),
            Some("client-korean"),
            &[option, "-alpn", "http/1.1"],
            &request("/headers"),
        )?;
        ensure!(session.stdout.contains("345-67-89012"), "{session:?}");
        ensure!(session.stdout.contains(version), "{session:?}");
        ensure!(session.stdout.contains("ALPN protocol: http/1.1"), "{session:?}");
        // openssl complains when the peer ends without close_notify.
        ensure!(!session.stderr.contains("unexpected eof"), "{session:?}");
    }
    Ok(())
}

fn every_cipher_suite_of_openssl_works(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set("tls.minimum_version", "1.2"))?;
    for (option, suite) in [
        ("-ciphersuites", "TLS_AES_128_GCM_SHA256"),
        ("-ciphersuites", "TLS_AES_256_GCM_SHA384"),
        ("-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ] {
        let version = if option == "-cipher" { "-tls1_2" } else { "-tls1_3" };
        let session = openssl::s_client(
            lab,
            &Place::Here,
            appliance.address(),
            Some("client-p256"),
            &[version, option, suite],
            &request("/chunked/50000?size=999"),
        )?;
        ensure!(session.stdout.contains(suite), "{suite}: {session:?}");
        ensure!(session.stdout.contains("HTTP/1.1 200"), "{suite}: {session:?}");
    }
    appliance.must_be_alive()
}

fn key_updates_are_followed_or_refused_without_losing_bytes(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/100", &[])?.status == 200);
    client.update_keys()?;
    // A kernel that cannot rekey has the connection closed; what must not happen is a wrong or a half answer.
    if let Ok(response) = client.get("/bytes/100", &[]) {
        ensure!(response.body == pattern::bytes(100), "{:?}", response.head);
    }
    let mut fresh = lab.client(&appliance)?;
    ensure!(fresh.get("/bytes/100", &[])?.status == 200);
    appliance.must_be_alive()
}

fn nginx(lab: &Lab) -> anyhow::Result<Origin> {
    Feature::Nginx.need()?;
    Origin::start(lab, &Place::Here, OriginKind::Nginx, "127.0.0.1:0".parse()?)
}

fn nginx_serves_as_the_origin(lab: &Lab) -> anyhow::Result<()> {
    let origin = nginx(lab)?;
    let appliance = lab.appliance(&origin)?;
    let answer = lab.curl(&appliance, "client-p256").header("X_MyData_Client_SerialNumber: forged").ok("/identity")?;
    ensure!(answer.text().contains("serial=123-45-67890\n"), "{answer}");
    ensure!(answer.text().contains("code=A1AAAA0000\n"), "{answer}");
    ensure!(answer.text().contains("CN=mtls-appliance"), "{answer}");
    let file = lab.curl(&appliance, "client-p256").ok("/file")?;
    file.must_be_pattern(Origin::NGINX_FILE as u64)
}

fn nginx_takes_uploads(lab: &Lab) -> anyhow::Result<()> {
    let origin = nginx(lab)?;
    let appliance = lab.appliance(&origin)?;
    // nginx answers before it has read the body, and discards the rest.
    let answer = lab.curl(&appliance, "client-p256").upload_chunked(5_000_000).get("/upload")?;
    ensure!(answer.status == 204, "{answer}");
    let mut client = lab.client(&appliance)?;
    ensure!(client.post("/upload", &pattern::bytes(100_000))?.status == 204);
    Ok(())
}

fn nginx_connections_are_kept(lab: &Lab) -> anyhow::Result<()> {
    let origin = nginx(lab)?;
    let appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    for _ in 0..50 {
        ensure!(client.get("/identity", &[])?.status == 200);
    }
    let connections = appliance.counter(names::counter::ORIGIN_CONNECTIONS)?;
    ensure!(connections == 1, "{connections} connections for 50 requests");
    Ok(())
}
