//! Mistakes of the operator: a message with key, value and remedy, the right exit code, nothing left behind.

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{EXIT_CONFIGURATION, EXIT_ENVIRONMENT};
use mtls_appliance_tests::harness::{Appliance, Feature, Lab, Place, Settings};

use crate::case::cases;

cases!("configuration":
    an_unknown_key_is_named_with_a_suggestion,
    every_mistake_is_reported_at_once,
    a_missing_key_is_named,
    a_certificate_file_that_is_not_there_is_named,
    a_file_that_holds_no_certificate_is_named,
    a_key_that_does_not_belong_to_the_certificate_is_named,
    a_key_that_may_not_be_read_is_named,
    an_empty_ca_list_is_refused,
    a_ca_file_without_certificates_is_refused,
    a_prefix_of_two_organisations_is_refused,
    a_serial_number_of_two_organisations_is_refused,
    a_registry_that_is_not_there_is_named,
    wrong_values_are_named,
    a_header_that_cannot_be_sent_is_refused,
    a_file_that_is_no_toml_is_refused_with_its_line,
    a_configuration_that_is_not_there_is_named,
    an_address_that_is_not_ours_is_an_environment_error,
    a_control_socket_that_cannot_be_made_is_an_environment_error,
);

fn good(lab: &Lab) -> anyhow::Result<Settings> {
    lab.settings(lab.free_address()?, "127.0.0.1:9".parse()?)
}

/// `check` and `run` both refuse with that code, and the message has all these parts and fits a screen.
fn refused(lab: &Lab, settings: &Settings, code: i32, parts: &[&str]) -> anyhow::Result<String> {
    let mut said = String::new();
    // What only the machine can refuse is no business of `check`.
    let commands: &[&str] = if code == EXIT_CONFIGURATION { &["check", "run"] } else { &["run"] };
    for command in commands {
        let finished = Appliance::run(lab, &Place::Here, command, settings)?;
        ensure!(
            finished.status.code() == Some(code),
            "{command}: {} instead of exit code {code}: {}",
            finished.status,
            finished.output()
        );
        for part in parts {
            ensure!(finished.stderr.contains(part), "{command}: no {part:?} in the message:\n{}", finished.output());
        }
        let lines = finished.stderr.lines().count();
        ensure!(lines <= 40, "{command}: {lines} lines are more than a screen:\n{}", finished.stderr);
        ensure!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        said = finished.stderr;
    }
    ensure!(!lab.path("control.sock").exists(), "the control socket was left behind");
    Ok(said)
}

fn an_unknown_key_is_named_with_a_suggestion(lab: &Lab) -> anyhow::Result<()> {
    let settings = good(lab)?.set("tls.minimum_versoin", "1.2");
    refused(lab, &settings, EXIT_CONFIGURATION, &["minimum_versoin", "minimum_version"]).map(drop)
}

fn every_mistake_is_reported_at_once(lab: &Lab) -> anyhow::Result<()> {
    let settings = good(lab)?
        .set("tls.minimum_version", "1.1")
        .set("offload.mode", "sometimes")
        .set("listener.addresses", vec!["127.0.0.1"])
        .set("timeouts.header", "soon")
        .without("origin.addresses");
    let parts = [
        "minimum_version",
        "1.1",
        "offload",
        "sometimes",
        "addresses",
        "127.0.0.1",
        "header",
        "soon",
        "origin.addresses",
    ];
    refused(lab, &settings, EXIT_CONFIGURATION, &parts).map(drop)
}

fn a_missing_key_is_named(lab: &Lab) -> anyhow::Result<()> {
    for (table, key) in [("tls", "certificate"), ("tls", "client_ca"), ("origin", "server_name"), ("registry", "files")]
    {
        let settings = good(lab)?.without(&format!("{table}.{key}"));
        refused(lab, &settings, EXIT_CONFIGURATION, &[table, key]).context(key)?;
    }
    Ok(())
}

fn a_certificate_file_that_is_not_there_is_named(lab: &Lab) -> anyhow::Result<()> {
    for key in ["tls.certificate", "tls.key", "origin.certificate", "origin.key"] {
        let settings = good(lab)?.set(key, "missing.pem");
        refused(lab, &settings, EXIT_CONFIGURATION, &[key, "missing.pem"])?;
    }
    let settings = good(lab)?.set("tls.client_ca", vec!["missing.pem"]);
    refused(lab, &settings, EXIT_CONFIGURATION, &["tls.client_ca", "missing.pem"]).map(drop)
}

fn a_file_that_holds_no_certificate_is_named(lab: &Lab) -> anyhow::Result<()> {
    std::fs::write(lab.path("text.pem"), "hello\n")?;
    std::fs::write(lab.path("broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
    for file in ["text.pem", "broken.pem", "edge.key"] {
        let settings = good(lab)?.set("tls.certificate", file);
        refused(lab, &settings, EXIT_CONFIGURATION, &["tls.certificate", file])?;
    }
    let settings = good(lab)?.set("tls.key", "edge.pem");
    refused(lab, &settings, EXIT_CONFIGURATION, &["tls.key", "edge.pem"]).map(drop)
}

fn a_key_that_does_not_belong_to_the_certificate_is_named(lab: &Lab) -> anyhow::Result<()> {
    for key in ["edge-next.key", "origin.key"] {
        let settings = good(lab)?.set("tls.key", key);
        refused(lab, &settings, EXIT_CONFIGURATION, &["tls.key", key, "edge.pem", "give files that belong together"])?;
    }
    let settings = good(lab)?.set("origin.key", "edge.key");
    refused(lab, &settings, EXIT_CONFIGURATION, &["origin.key", "edge.key", "appliance-client.pem"]).map(drop)
}

fn a_key_that_may_not_be_read_is_named(lab: &Lab) -> anyhow::Result<()> {
    Feature::Root.need()?;
    let readable = ["appliance-client.key"];
    for command in ["check", "run"] {
        let finished = Appliance::run_as_nobody(lab, &Place::Here, command, &good(lab)?, &readable)?;
        ensure!(finished.status.code() == Some(EXIT_CONFIGURATION), "{}: {}", finished.status, finished.output());
        for part in ["tls.key", "edge.key", "let the appliance's user read the file"] {
            ensure!(finished.stderr.contains(part), "no {part}: {}", finished.output());
        }
        ensure!(!finished.stderr.contains("appliance-client.key"), "{}", finished.output());
        ensure!(!lab.path("control.sock").exists(), "the control socket was left behind");
    }
    Ok(())
}

fn an_empty_ca_list_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let settings = good(lab)?.set("tls.client_ca", Vec::<String>::new());
    refused(lab, &settings, EXIT_CONFIGURATION, &["tls.client_ca = []", "give at least one"])?;
    let settings = good(lab)?.set("origin.ca", Vec::<String>::new());
    refused(lab, &settings, EXIT_CONFIGURATION, &["origin.ca = []", "give at least one"]).map(drop)
}

fn a_ca_file_without_certificates_is_refused(lab: &Lab) -> anyhow::Result<()> {
    std::fs::write(lab.path("empty.pem"), "")?;
    let settings = good(lab)?.set("tls.client_ca", vec!["empty.pem"]);
    refused(lab, &settings, EXIT_CONFIGURATION, &["tls.client_ca", "empty.pem"])?;
    let settings = good(lab)?.set("origin.ca", vec!["empty.pem"]);
    refused(lab, &settings, EXIT_CONFIGURATION, &["origin.ca", "empty.pem"]).map(drop)
}

fn registry(lab: &Lab, more: &str, parts: &[&str]) -> anyhow::Result<()> {
    std::fs::write(lab.path("registry.toml"), format!("{}\n{more}", dev_pki::REGISTRY))?;
    refused(lab, &good(lab)?, EXIT_CONFIGURATION, parts).map(drop)
}

fn a_prefix_of_two_organisations_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let second = "[[organisation]]\ncodes = [\"E1EEEE0000\"]\nname = \"Second\"\n\
                  serial_numbers = [\"111-11-11111\"]\nsources = [\"10.77.2.0/24\"]\n";
    let parts =
        ["registry.toml", "sources", "10.77.2.0/24", "E1EEEE0000", "A1AAAA0000", "remove it from one of the two"];
    registry(lab, second, &parts)
}

fn a_serial_number_of_two_organisations_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let second = "[[organisation]]\ncodes = [\"E1EEEE0000\"]\nname = \"Second\"\n\
                  serial_numbers = [\"123-45-67890\"]\nsources = [\"10.77.7.0/24\"]\n";
    registry(lab, second, &["registry.toml", "123-45-67890", "E1EEEE0000", "A1AAAA0000"])
}

fn a_registry_that_is_not_there_is_named(lab: &Lab) -> anyhow::Result<()> {
    let settings = good(lab)?.set("registry.files", vec!["nobody.toml"]);
    refused(lab, &settings, EXIT_CONFIGURATION, &["registry.files", "nobody.toml"]).map(drop)
}

fn wrong_values_are_named(lab: &Lab) -> anyhow::Result<()> {
    for (key, value) in [
        ("tls.minimum_version", "1.0"),
        ("tls.client_eku", "anything"),
        ("origin.verify", "maybe"),
        ("origin.server_name", "origin bank test"),
        ("origin.server_name", "not a name"),
        ("offload.mode", "yes"),
        ("timeouts.handshake", "10"),
        ("timeouts.idle", "0s"),
        ("limits.connections", "many"),
    ] {
        refused(lab, &good(lab)?.set(key, value), EXIT_CONFIGURATION, &[key, value]).context(key)?;
    }
    let settings = good(lab)?.set("identity.presets", vec!["mydatta"]);
    refused(lab, &settings, EXIT_CONFIGURATION, &["identity.presets", "mydatta", "mydata"])?;
    let settings = good(lab)?.set("origin.verify", "pin").without("origin.ca").set("origin.pins", vec!["sha256:12"]);
    refused(lab, &settings, EXIT_CONFIGURATION, &["origin.pins", "sha256:12"])?;
    let settings = good(lab)?.set("limits.connections", 0);
    refused(lab, &settings, EXIT_CONFIGURATION, &["limits.connections", "0"])?;
    let settings = good(lab)?.set("guard.mode", "fast").set("guard.interfaces", vec!["lo"]);
    refused(lab, &settings, EXIT_CONFIGURATION, &["guard.mode", "fast"]).map(drop)
}

fn a_header_that_cannot_be_sent_is_refused(lab: &Lab) -> anyhow::Result<()> {
    for (name, value, part) in [
        ("X Caller", "a", "X Caller"),
        ("X-Caller", "${org.cod}", "org.cod"),
        ("X-Caller", "${org.code", "${org.code"),
        ("X-Caller", "a\r\nb", "\\r"),
        ("Host", "a", "Host"),
        ("Content-Length", "5", "Content-Length"),
    ] {
        let settings = good(lab)?.header(name, value);
        refused(lab, &settings, EXIT_CONFIGURATION, &["identity.headers", part]).context(part)?;
    }
    Ok(())
}

fn a_file_that_is_no_toml_is_refused_with_its_line(lab: &Lab) -> anyhow::Result<()> {
    let path = lab.path("broken.toml");
    std::fs::write(&path, "[listener]\naddresses = [\"127.0.0.1:1\"\n[tls]\n")?;
    for command in ["check", "run"] {
        let finished = Appliance::run_with_file(&Place::Here, command, &path)?;
        ensure!(finished.status.code() == Some(EXIT_CONFIGURATION), "{}", finished.output());
        ensure!(finished.stderr.contains("broken.toml"), "{}", finished.output());
        ensure!(finished.stderr.contains('2') || finished.stderr.contains('3'), "no line: {}", finished.output());
    }
    Ok(())
}

fn a_configuration_that_is_not_there_is_named(lab: &Lab) -> anyhow::Result<()> {
    for command in ["check", "run", "status"] {
        let finished = Appliance::run_with_file(&Place::Here, command, &lab.path("nowhere.toml"))?;
        ensure!(finished.status.code() == Some(EXIT_CONFIGURATION), "{command}: {}", finished.output());
        ensure!(finished.stderr.contains("nowhere.toml"), "{command}: {}", finished.output());
    }
    Ok(())
}

fn an_address_that_is_not_ours_is_an_environment_error(lab: &Lab) -> anyhow::Result<()> {
    // TEST-NET-1 (RFC 5737).
    let settings = good(lab)?.set("listener.addresses", vec!["192.0.2.1:18397"]);
    refused(lab, &settings, EXIT_ENVIRONMENT, &["listener.addresses", "192.0.2.1:18397"]).map(drop)
}

fn a_control_socket_that_cannot_be_made_is_an_environment_error(lab: &Lab) -> anyhow::Result<()> {
    // A folder that is a file.
    let path = lab.path("edge.pem/control.sock").display().to_string();
    let settings = good(lab)?.set("control.socket", path.as_str());
    refused(lab, &settings, EXIT_ENVIRONMENT, &["control.socket", &path]).map(drop)
}
