//! `cargo xtask bench`: what the appliance costs, measured beside its peers.
//!
//! What is measured and how is the `bench` program's matter (`tests/bench`); here it is built, given what it needs, started
//! with the rights it needs, and a table made of the rows that it prints.

mod machine;
mod rows;
mod table;

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use self::rows::{Line, Row};
use crate::{
    bpf, build, cargo, certs, debian, exec,
    progress::{Step, note},
    test,
    tools::{self, Tools, Wrapper},
    workspace::{Workspace, install, write},
};

const PROGRAM: &str = "bench";
const APPLIANCE: &str = "mtls-appliance";
/// The peers' packages, see provision.toml.
const PEERS: &str = "peers";

const WRAPPERS: [Wrapper; 3] = [
    Wrapper {
        name: "xdp-filter",
        program: "usr/sbin/xdp-filter",
        arguments: "",
        environment: "export LIBXDP_OBJECT_PATH=\"$root/usr/lib/x86_64-linux-gnu/bpf\"\n",
    },
    Wrapper { name: "haproxy", program: "usr/sbin/haproxy", arguments: "", environment: "" },
    Wrapper { name: "nft", program: "usr/sbin/nft", arguments: "", environment: "" },
];

/// What `cargo xtask bench` takes.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Fewer rounds: for trying it out, not for figures to be told
    #[arg(long)]
    quick: bool,
    /// Write the rows to this file as well: an array of objects with area, name, subject, unit, value (the median of the
    /// rounds) and spread (their interquartile range)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What to measure; everything when nothing is named
    areas: Vec<Area>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Area {
    /// Time of the XDP program for a packet, beside xdp-filter
    Guard,
    /// Packets a second of a flood of strangers, and callers' requests beside it; beside an nftables set, and nothing
    Flood,
    /// CPU time for requests, connections and bodies, beside nginx and HAProxy, with TLS in userspace
    Native,
}

impl Area {
    const ALL: [Self; 3] = [Self::Guard, Self::Flood, Self::Native];

    fn word(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Flood => "flood",
            Self::Native => "native",
        }
    }
}

/// The command.
pub(crate) fn main(workspace: &Workspace, arguments: &BenchArguments) -> Result<()> {
    let mut command = with_rights()?;
    let areas = if arguments.areas.is_empty() { Area::ALL.to_vec() } else { arguments.areas.clone() };
    build(workspace)?;
    let tools = Tools::provision(workspace)?;
    let peers = tools::wrap(&debian::provision(workspace, PEERS)?, &WRAPPERS)?;
    let path = env::join_paths(
        [peers, tools.wrappers()].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
    )
    .context("the path of this checkout has a `:` in it")?;
    command.arg(format!("PATH={}", path.to_string_lossy()));
    command.arg(format!("MTLS_BIN={}", workspace.dist().join(APPLIANCE).display()));
    command.arg(format!("MTLS_CERTS={}", certs::generate(workspace)?.display()));
    let outside = fs::read_link("/proc/self/ns/mnt").context("/proc is not mounted")?;
    command
        .arg(workspace.dist().join(PROGRAM))
        .arg("--outside")
        .arg(outside)
        .args(areas.iter().map(|area| area.word()));
    if arguments.quick {
        command.arg("--quick");
    }

    let step = Step::begin_talkative("measuring");
    let (rows, notes) = listen(&mut command)?;
    step.done();
    println!("{}\n", machine::describe(workspace, &(debian::stamp(workspace, PEERS)? + &Tools::stamp(workspace)?))?);
    for area in areas {
        println!("{}", table::markdown(&rows, area.word()));
    }
    for note in notes {
        println!("- {note}");
    }
    if let Some(file) = &arguments.json {
        let mut text = serde_json::to_string_pretty(&rows)?;
        text.push('\n');
        write(file, text)?;
        note(format!("{} rows are in {}", rows.len(), file.display()));
    }
    Ok(())
}

/// Builds the measuring program and the appliance that it starts, both as they are handed out.
fn build(workspace: &Workspace) -> Result<()> {
    let object = bpf::build(workspace)?;
    let step = Step::begin_talkative("building the appliance and the benchmark (release, static)");
    let mut command = build::release(workspace, &object);
    command.args([
        "--bin",
        APPLIANCE,
        "--bin",
        PROGRAM,
        "--package",
        "mtls-appliance",
        "--package",
        "mtls-appliance-bench",
    ]);
    let built = cargo::programs(&mut command)?;
    for name in [APPLIANCE, PROGRAM] {
        let program = built.iter().find(|program| program.name == name);
        let program = program.with_context(|| format!("the build left no {name}"))?;
        install(&program.path, &workspace.dist().join(name))?;
    }
    step.done();
    Ok(())
}

/// The beginning of a command line that runs a program as root, in a mount namespace of its own, with variables set.
fn with_rights() -> Result<Command> {
    let unshare = ["unshare", "--mount", "--propagation", "private", "env"];
    let mut command = if test::is_root()? {
        Command::new(unshare[0])
    } else if exec::in_path("sudo") && exec::capture(Command::new("sudo").args(["-n", "true"])).is_ok() {
        let mut command = Command::new("sudo");
        command.args(["-n", unshare[0]]);
        command
    } else {
        bail!("needs root for BPF and network namespaces: run it as root, or where sudo asks for no password");
    };
    command.args(&unshare[1..]);
    Ok(command)
}

/// Runs it and takes what it prints.
fn listen(command: &mut Command) -> Result<(Vec<Row>, Vec<String>)> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("`unshare` cannot be started")?;
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for line in BufReader::new(child.stdout.take().context("no output to read")?).lines() {
        match Line::parse(&line?)? {
            Line::Row(row) => rows.push(row),
            Line::Note(text) => notes.push(text),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the benchmark failed ({status}); what is wrong stands above");
    }
    Ok((rows, notes))
}
