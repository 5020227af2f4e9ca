//! `cargo xtask demo`: the appliance's main job, shown with real curl on three hosts.
//!
//! What is shown is the `demo` program's matter (`tests/src/demo.rs`); here it is built, given what it needs, and run on
//! this machine or, where this machine cannot show everything, in a virtual machine.

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    build, exec,
    progress::note,
    test::{self, Provisioned},
    vm::{self, Guest, Kernel},
    workspace::Workspace,
};

/// The program that shows.
const DEMO: &str = "demo";

/// What `cargo xtask demo` takes.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Show it on this machine, whatever it can do
    #[arg(long, conflicts_with = "vm")]
    native: bool,
    /// Show it in a virtual machine; --vm=6.1 chooses the kernel
    #[arg(long, value_name = "KERNEL", num_args = 0..=1, require_equals = true, default_missing_value = "6.12")]
    vm: Option<Kernel>,
}

/// The command.
pub(crate) fn main(workspace: &Workspace, arguments: &DemoArguments) -> Result<ExitCode> {
    let kernel = match (arguments.native, arguments.vm) {
        (true, _) => None,
        (false, Some(kernel)) => Some(kernel),
        (false, None) => match lacking()? {
            None => None,
            Some(why) => {
                note(format!(
                    "{why}: the demo runs in a virtual machine with Linux 6.12 (--native forces this machine)"
                ));
                Some("6.12".parse::<Kernel>().map_err(anyhow::Error::msg)?)
            }
        },
    };
    let provisioned = Provisioned::build(workspace, build::DEMO)?;
    match kernel {
        None => native(workspace, &provisioned),
        Some(kernel) => virtual_machine(workspace, &provisioned, kernel),
    }
}

/// What this machine lacks to show everything; `None` when nothing.
fn lacking() -> Result<Option<String>> {
    if !test::is_root()? {
        return Ok(Some("network namespaces and XDP need root".to_owned()));
    }
    let protocols = "/proc/sys/net/ipv4/tcp_available_ulp";
    let has_tls =
        || std::fs::read_to_string(protocols).is_ok_and(|list| list.split_whitespace().any(|name| name == "tls"));
    if !has_tls() && exec::in_path("modprobe") {
        // Loads the module where there is one; whether there is shows in what is available afterwards.
        let _ = exec::capture(Command::new("modprobe").arg("tls"));
    }
    Ok((!has_tls()).then(|| "the running kernel has no TLS".to_owned()))
}

fn native(workspace: &Workspace, provisioned: &Provisioned) -> Result<ExitCode> {
    let status = Command::new(workspace.dist().join(DEMO))
        .envs(test::environment(
            &provisioned.appliance,
            &provisioned.certificates,
            &provisioned.tools.wrappers(),
            "native",
            "",
        ))
        .status()
        .context("the demo cannot be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn virtual_machine(workspace: &Workspace, provisioned: &Provisioned, kernel: Kernel) -> Result<ExitCode> {
    let place = |name: &str| Path::new(test::IN_GUEST).join(name).display().to_string();
    let guest = Guest {
        kernel,
        files: vec![
            (workspace.dist().join(DEMO), place(DEMO)),
            (provisioned.appliance.clone(), place("mtls-appliance")),
            (provisioned.certificates.clone(), place("certs")),
        ],
        environment: test::environment(
            Path::new(&place("mtls-appliance")),
            Path::new(&place("certs")),
            Path::new("/tools/wrap"),
            &kernel.to_string(),
            "",
        ),
        command: vec![place(DEMO)],
        memory_mib: 1024,
        count_instructions: false,
        deadline: Duration::from_secs(600),
    };
    let code = vm::run(workspace, &guest, &mut |line| println!("{line}"))?;
    Ok(if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
