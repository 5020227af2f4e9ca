//! The command line: arguments in, exit code out.

mod guard;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::app::{self, Failure};
use crate::host::{self, Host};
use crate::{config, control, privileges};

/// A mutual-TLS front for API servers: XDP guard, kernel TLS, strict HTTP/1.1, injected client identity.
///
/// Exit codes: 0 success, 1 the environment (port in use, missing privilege or kernel feature), 2 the configuration or
/// the command line.
#[derive(Debug, Parser)]
#[command(name = "mtls-appliance", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the appliance. SIGTERM drains and stops it, SIGHUP reloads configuration, certificates and registry.
    Run {
        #[command(flatten)]
        config: WithConfig,
        /// Take the place of the appliance that runs: its listening sockets and its guard, without refusing a connection.
        /// When this one cannot serve, the other one goes on.
        #[arg(long)]
        take_over: bool,
    },
    /// Check the configuration and every file that it names; changes nothing, opens no port.
    Check(WithConfig),
    /// Ask the running appliance how it is.
    Status {
        #[command(flatten)]
        config: WithConfig,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// The guard at the interface, which outlives the appliance.
    Guard {
        #[command(subcommand)]
        command: guard::Command,
    },
    /// Print all configuration keys with their meaning and defaults, as Markdown.
    Reference,
}

#[derive(Debug, clap::Args)]
struct WithConfig {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/mtls-appliance/appliance.toml")]
    config: PathBuf,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config, take_over } => app::run(&config.config, take_over),
        Command::Check(arguments) => check(&arguments.config),
        Command::Status { config, json } => status(&config.config, json),
        Command::Guard { command } => guard::main(&command),
        Command::Reference => {
            print!("{}", config::reference());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("mtls-appliance: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn check(path: &Path) -> Result<(), Failure> {
    // Files are judged by the rights that a reload has.
    privileges::give_up().map_err(|error| Failure::Environment(format!("cannot give up privileges: {error}")))?;
    let live = app::load(path, None)?;
    for warning in &live.warnings {
        eprintln!("warning: {warning}");
    }
    for finding in Host::this().findings(&live.config, host::may_splice(&live.config)) {
        eprintln!("warning: {finding}");
    }
    println!(
        "{}: good ({} organisations, {} listening addresses, {} sites, {} origins)",
        path.display(),
        live.verifier.registry().organisations.len(),
        live.config.listener.addresses.len(),
        live.config.sites.len(),
        live.config.origins.len(),
    );
    Ok(())
}

fn status(path: &Path, as_json: bool) -> Result<(), Failure> {
    let config = config::load(path).map_err(|mistakes| Failure::Configuration(mistakes.to_string()))?;
    let status = control::ask_status(&config.control_socket)?;
    if as_json {
        println!("{status}");
    } else {
        let mut lines = String::new();
        flatten("", &status, &mut lines);
        print!("{lines}");
    }
    Ok(())
}

/// One line a value: `path.to.it  value`.
fn flatten(prefix: &str, value: &Value, lines: &mut String) {
    let join = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten(&join(key), value, lines)),
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&join(&index.to_string()), item, lines);
            }
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            lines.push_str(&format!("{prefix:<44} {}\n", items.join(", ")));
        }
        other => lines.push_str(&format!("{prefix:<44} {}\n", plain(other))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
