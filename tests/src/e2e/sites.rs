//! Several sites and routes: which names and paths lead where, and that nobody gets somewhere else by a trick.

use anyhow::ensure;
use mtls_appliance_tests::harness::{Appliance, Lab, Origin, Settings};
use toml::{Table, Value};

use crate::case::cases;

cases!("sites":
    names_lead_to_their_sites_and_certificates,
    a_host_of_another_site_is_misdirected,
    a_name_of_no_site_is_refused_in_the_handshake,
    without_a_server_name_the_host_decides,
    paths_lead_to_their_origins,
    a_path_with_two_readings_is_refused_where_routes_decide,
    a_reload_moves_a_site,
    a_name_that_the_certificate_does_not_have_is_warned_about,
);

/// `[origin]` and `[origins.second]`, alike but for the address.
pub(crate) fn second_origin(settings: Settings, second: &Origin) -> Settings {
    settings
        .set("origins.second.addresses", vec![second.address().to_string()])
        .set("origins.second.server_name", "origin.bank.test")
        .set("origins.second.certificate", "appliance-client.pem")
        .set("origins.second.key", "appliance-client.key")
        .set("origins.second.ca", vec!["origin-ca.pem"])
}

/// `api.bank.test` leads to the first origin, `old.bank.test`, with a certificate of its own, to the second.
fn two_sites(settings: Settings, second: &Origin) -> Settings {
    second_origin(settings, second)
        .set("sites.api.hosts", vec!["api.bank.test", "*.open.bank.test"])
        .set("sites.old.hosts", vec!["old.bank.test"])
        .set("sites.old.origin", "second")
        .set("sites.old.certificate", "edge-old.pem")
        .set("sites.old.key", "edge-old.key")
}

fn route(prefix: &str, origin: &str) -> Value {
    let pairs = [("prefix", prefix), ("origin", origin)];
    Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect::<Table>())
}

/// Two origins and the appliance in front of them.
fn start(lab: &Lab, change: impl Fn(Settings, &Origin) -> Settings) -> anyhow::Result<(Origin, Origin, Appliance)> {
    let (first, second) = (lab.origin()?, lab.origin()?);
    let appliance = lab.appliance_with(&first, |settings| change(settings, &second))?;
    Ok((first, second, appliance))
}

fn seen(origin: &Origin) -> anyhow::Result<usize> {
    Ok(origin.journal("request")?.len())
}

fn names_lead_to_their_sites_and_certificates(lab: &Lab) -> anyhow::Result<()> {
    let (first, second, appliance) = start(lab, two_sites)?;
    let curl = lab.curl(&appliance, "client-p256");
    // curl holds the certificate against the name that it asks for.
    curl.ok("/bytes/10")?;
    curl.clone().host("any.open.bank.test").ok("/bytes/10")?;
    curl.clone().host("API.bank.test.").ok("/bytes/10")?;
    ensure!((seen(&first)?, seen(&second)?) == (3, 0));
    curl.clone().host("old.bank.test").ok("/bytes/10")?;
    ensure!((seen(&first)?, seen(&second)?) == (3, 1));
    let line = appliance.wait_requests(4)?;
    ensure!(line["site"] == "old" && line["origin"] == "second", "{line}");
    ensure!(line["origin_address"] == second.address().to_string(), "{line}");
    let status = appliance.status()?;
    ensure!(status["sites"][1]["hosts"][0] == "old.bank.test" && status["sites"][1]["origin"] == "second", "{status}");
    Ok(())
}

fn a_host_of_another_site_is_misdirected(lab: &Lab) -> anyhow::Result<()> {
    let (first, second, mut appliance) = start(lab, two_sites)?;
    let curl = lab.curl(&appliance, "client-p256");
    for (host, reason) in [
        ("old.bank.test", "host_not_of_server_name"),
        ("OLD.bank.test.:443", "host_not_of_server_name"),
        ("nobody.bank.test", "unknown_host"),
        ("127.0.0.1", "unknown_host"),
        ("open.bank.test", "unknown_host"),
        ("a.b.open.bank.test", "unknown_host"),
    ] {
        let answer = curl.clone().header(&format!("Host: {host}")).get("/bytes/10")?;
        ensure!(answer.status == 421 && answer.text().contains(reason), "{host}: {answer}");
        let line = appliance.wait_event("request", |line| line["status"] == 421)?;
        ensure!(line["blame"] == "client", "{line}");
        ensure!(appliance.wait_counter(&format!("request_refused.{reason}"), 1)? > 0);
    }
    // A target in absolute form counts before Host (RFC 9112 3.2.2).
    let mut client = lab.client(&appliance)?;
    client.send("GET http://old.bank.test/bytes/10 HTTP/1.1\r\nHost: api.bank.test\r\n\r\n")?;
    ensure!(matches!(client.response("GET")?.status, 400 | 421));
    ensure!((seen(&first)?, seen(&second)?) == (0, 0), "a refused request reached an origin");
    Ok(())
}

fn a_name_of_no_site_is_refused_in_the_handshake(lab: &Lab) -> anyhow::Result<()> {
    let (first, _, mut appliance) = start(lab, two_sites)?;
    let answer = lab.curl(&appliance, "client-p256").host("nobody.bank.test").arguments(["--insecure"]).get("/")?;
    ensure!(answer.exit == 35 && answer.status == 0, "{answer}");
    let line = appliance.wait_event("handshake_failed", |_| true)?;
    ensure!(line["reason"] == "unknown_server_name", "{line}");
    ensure!(appliance.wait_counter("handshake_refused.unknown_server_name", 1)? == 1);
    lab.curl(&appliance, "client-p256").ok("/bytes/10")?;
    ensure!(seen(&first)? == 1);
    Ok(())
}

fn without_a_server_name_the_host_decides(lab: &Lab) -> anyhow::Result<()> {
    let (first, second, appliance) = start(lab, two_sites)?;
    // To an address no client sends a server name (RFC 6066 3).
    let curl = lab.curl(&appliance, "client-p256").host("127.0.0.1");
    for (host, status) in [("api.bank.test", 200), ("old.bank.test", 200), ("127.0.0.1", 421)] {
        let answer = curl.clone().header(&format!("Host: {host}")).get("/bytes/10")?;
        ensure!(answer.status == status, "{host}: {answer}");
    }
    ensure!((seen(&first)?, seen(&second)?) == (1, 1));
    Ok(())
}

fn paths_lead_to_their_origins(lab: &Lab) -> anyhow::Result<()> {
    let (first, second, appliance) = start(lab, |settings, second| {
        second_origin(settings, second)
            .set("sites.all.hosts", vec!["*"])
            .set("sites.all.routes", vec![route("/bytes", "second"), route("/bytes/1", "default")])
    })?;
    let curl = lab.curl(&appliance, "client-p256");
    for (path, to_second) in [
        ("/headers", false),
        ("/bytes/20", true),
        ("/bytes/20?q=/bytes/1", true),
        ("/%62ytes/20", true),
        ("//bytes//20", true),
        ("/bytes/1", false),
        ("/chunked/20", false),
        ("/bytesx", false),
    ] {
        let before = seen(&second)?;
        curl.clone().arguments(["--path-as-is"]).get(path)?;
        ensure!((seen(&second)? > before) == to_second, "{path}");
    }
    ensure!(seen(&first)? == 4);
    Ok(())
}

fn a_path_with_two_readings_is_refused_where_routes_decide(lab: &Lab) -> anyhow::Result<()> {
    let (first, second, appliance) = start(lab, |settings, second| {
        second_origin(settings, second)
            .set("sites.all.hosts", vec!["*"])
            .set("sites.all.routes", vec![route("/bytes", "second")])
    })?;
    let curl = lab.curl(&appliance, "client-p256").arguments(["--path-as-is"]);
    for path in ["/x/../bytes/1", "/x/%2e%2e/bytes/1", "/bytes%2f1", "/%2562ytes/1", "/x/..;/bytes/1", "/./bytes/1"] {
        let answer = curl.get(path)?;
        ensure!(answer.status == 400 && answer.text().contains("ambiguous_path"), "{path}: {answer}");
    }
    ensure!((seen(&first)?, seen(&second)?) == (0, 0));
    // Without routes nothing depends on it, and the path is the API server's affair.
    let socket = lab.path("other.sock").display().to_string();
    let plain = lab.appliance_with(&first, |settings| settings.set("control.socket", socket))?;
    lab.curl(&plain, "client-p256").arguments(["--path-as-is"]).get("/x/../bytes/1")?;
    ensure!(seen(&first)? == 1);
    Ok(())
}

fn a_reload_moves_a_site(lab: &Lab) -> anyhow::Result<()> {
    let (first, second, mut appliance) = start(lab, two_sites)?;
    let mut client = lab.client(&appliance)?;
    client.get("/bytes/10", &[])?;
    let settings = two_sites(lab.settings(appliance.address(), first.address())?, &second);
    settings
        .clone()
        .set("sites.api.origin", "second")
        .set("origin.addresses", vec!["127.0.0.1:1"])
        .without("origins.x")
        .set("sites.old.origin", "default")
        .write(&lab.path("appliance.toml"))?;
    let line = appliance.reload()?;
    ensure!(line["outcome"] == "ok", "{line}");
    client.get("/bytes/10", &[])?;
    ensure!((seen(&first)?, seen(&second)?) == (1, 1), "the live connection follows");
    // A site that is gone: the live connection's name leads nowhere any more.
    settings
        .without("sites.api")
        .set("origin.addresses", vec!["127.0.0.1:1"])
        .set("sites.new.hosts", vec!["new.test"])
        .write(&lab.path("appliance.toml"))?;
    let line = appliance.reload()?;
    ensure!(line["outcome"] == "ok", "{line}");
    ensure!(client.get("/bytes/10", &[])?.status == 421);
    // Mistakes keep what was.
    two_sites(lab.settings(appliance.address(), first.address())?, &second)
        .set("sites.api.origin", "third")
        .write(&lab.path("appliance.toml"))?;
    let line = appliance.reload()?;
    ensure!(line["detail"].as_str().is_some_and(|text| text.contains("known: default, second")), "{line}");
    lab.curl(&appliance, "client-p256").host("old.bank.test").ok("/bytes/10").map(drop)
}

fn a_name_that_the_certificate_does_not_have_is_warned_about(lab: &Lab) -> anyhow::Result<()> {
    let (_, _, appliance) = start(lab, |settings, second| {
        two_sites(settings, second).without("sites.old.certificate").without("sites.old.key")
    })?;
    let warnings = appliance.status()?["warnings"].to_string();
    ensure!(warnings.contains("sites.old.hosts: old.bank.test is not a name of the certificate"), "{warnings}");
    ensure!(!warnings.contains("sites.api"), "{warnings}");
    Ok(())
}
