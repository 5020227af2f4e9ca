//! `cargo xtask attach` and `detach`: the guard at an interface of this machine, for trying it out.
//!
//! What is attached, and how, is the appliance's own `guard attach`; here it is built and given a small configuration, which
//! stays in `target/attach/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use toml::{Table, Value};

use crate::{bpf, cargo, certs, progress::note, workspace::Workspace};

/// The appliance's program.
const APPLIANCE: &str = "mtls-appliance";

/// What `cargo xtask attach` takes.
#[derive(Debug, Args)]
pub(crate) struct AttachArguments {
    /// The network interface
    interface: String,
    /// Drop what is to be dropped, instead of only counting it
    #[arg(long)]
    enforce: bool,
    /// A guarded TCP port; may be repeated
    #[arg(long = "port", value_name = "PORT", default_values_t = [8443], value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// Who is let in; the registry of the development PKI unless given
    #[arg(long, value_name = "FILE")]
    registry: Option<PathBuf>,
}

/// What `cargo xtask detach` takes.
#[derive(Debug, Args)]
pub(crate) struct DetachArguments {
    /// The network interface
    interface: String,
}

/// Attaches the guard so that it stays, or brings an attached one up to date.
pub(crate) fn attach(workspace: &Workspace, arguments: &AttachArguments) -> Result<ExitCode> {
    let certificates = certs::generate(workspace)?;
    let registry = match &arguments.registry {
        Some(file) => file.canonicalize().with_context(|| format!("--registry {}", file.display()))?,
        None => certificates.join("registry.toml"),
    };
    let file = configuration_file(workspace, &arguments.interface)?;
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let text = toml::to_string(&configuration(arguments, &certificates, &registry))?;
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let code = run(&build(workspace)?, "attach", &file)?;
    if code == ExitCode::SUCCESS {
        let (interface, file) = (&arguments.interface, file.display());
        note(format!("configured by {file}; `{APPLIANCE} guard status --config {file}` shows it"));
        note(format!("`cargo xtask detach {interface}` removes it"));
    }
    Ok(code)
}

/// Detaches what [`attach`] attached.
pub(crate) fn detach(workspace: &Workspace, arguments: &DetachArguments) -> Result<ExitCode> {
    let file = configuration_file(workspace, &arguments.interface)?;
    if !file.exists() {
        bail!(
            "there is no {}, so nothing was attached to {} from this checkout; `{APPLIANCE} guard detach --config FILE` \
             removes a guard that was attached otherwise",
            file.display(),
            arguments.interface
        );
    }
    run(&build(workspace)?, "detach", &file)
}

/// Where the configuration of an interface is kept.
fn configuration_file(workspace: &Workspace, interface: &str) -> Result<PathBuf> {
    // As the kernel has it (dev_valid_name); what is longer names no interface either.
    if interface.is_empty()
        || interface.len() > 15
        || interface.contains(['/', ':'])
        || [".", ".."].contains(&interface)
    {
        bail!("{interface:?} is no name of an interface: `ip link` lists them");
    }
    Ok(workspace.root().join("target/attach").join(format!("{interface}.toml")))
}

/// The least that is a configuration, so that `run` and `check` take it as well.
fn configuration(arguments: &AttachArguments, certificates: &Path, registry: &Path) -> Table {
    let path = |path: &Path| Value::from(path.display().to_string());
    let certificate = |name: &str| path(&certificates.join(name));
    let table = |entries: Vec<(&str, Value)>| -> Value {
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Table>().into()
    };
    let listener = arguments.ports.iter().map(|port| format!("0.0.0.0:{port}")).collect::<Vec<_>>();
    let ports = arguments.ports.iter().map(|port| i64::from(*port)).collect::<Vec<_>>();
    let mode = if arguments.enforce { "enforce" } else { "observe" };
    let tables = [
        ("listener", table(vec![("addresses", listener.into())])),
        (
            "tls",
            table(vec![
                ("certificate", certificate("edge.pem")),
                ("key", certificate("edge.key")),
                ("client_ca", vec![certificate("client-ca.pem")].into()),
            ]),
        ),
        (
            "origin",
            table(vec![
                ("addresses", vec!["127.0.0.1:9443"].into()),
                ("server_name", "origin.bank.test".into()),
                ("certificate", certificate("appliance-client.pem")),
                ("key", certificate("appliance-client.key")),
                ("ca", vec![certificate("origin-ca.pem")].into()),
            ]),
        ),
        ("registry", table(vec![("files", vec![path(registry)].into())])),
        (
            "guard",
            table(vec![
                ("interfaces", vec![arguments.interface.as_str()].into()),
                ("ports", ports.into()),
                ("mode", mode.into()),
            ]),
        ),
    ];
    tables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Builds the appliance with the guard inside, for development.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let object = bpf::build(workspace)?;
    let mut build = workspace.cargo();
    build.args(["build", "--locked", "--package", APPLIANCE, "--bin", APPLIANCE]).env("MTLS_GUARD_OBJECT", &object);
    let programs = cargo::programs(&mut build)?;
    let program = programs.into_iter().find(|program| program.name == APPLIANCE);
    program.map(|program| program.path).context("cargo built no appliance")
}

fn run(appliance: &Path, command: &str, configuration: &Path) -> Result<ExitCode> {
    let status = Command::new(appliance)
        .args(["guard", command, "--config"])
        .arg(configuration)
        .status()
        .with_context(|| format!("{} cannot be started", appliance.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        attach: AttachArguments,
    }

    fn configured(line: &[&str]) -> Table {
        let Line { attach } = Line::try_parse_from([&["attach"], line].concat()).unwrap();
        let text = toml::to_string(&configuration(&attach, Path::new("/pki"), Path::new("/registry.toml"))).unwrap();
        text.parse().unwrap()
    }

    #[test]
    fn observes_unless_told_to_enforce() {
        let table = configured(&["eth0.10"]);
        assert_eq!(table["guard"]["mode"].as_str(), Some("observe"));
        assert_eq!(table["guard"]["interfaces"][0].as_str(), Some("eth0.10"));
        assert_eq!(table["guard"]["ports"].as_array().unwrap(), &[Value::from(8443)]);
        let table = configured(&["lo", "--enforce", "--port", "443", "--port", "8444"]);
        assert_eq!(table["guard"]["mode"].as_str(), Some("enforce"));
        assert_eq!(table["guard"]["ports"].as_array().unwrap(), &[Value::from(443), Value::from(8444)]);
        assert_eq!(table["listener"]["addresses"][1].as_str(), Some("0.0.0.0:8444"));
        assert_eq!(table["registry"]["files"][0].as_str(), Some("/registry.toml"));
        assert!(Line::try_parse_from(["attach", "lo", "--port", "0"]).is_err());
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let workspace = Workspace::find().unwrap();
        for name in ["", "..", "a/b", "/etc/passwd", "sixteen-letters-"] {
            assert!(configuration_file(&workspace, name).is_err(), "{name}");
        }
        let file = configuration_file(&workspace, "eth0.10").unwrap();
        assert!(file.ends_with("target/attach/eth0.10.toml"), "{}", file.display());
    }
}
