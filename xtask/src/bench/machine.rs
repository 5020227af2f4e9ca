//! Where and with what was measured: a figure without it says nothing.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{
    exec,
    workspace::{Workspace, read},
};

/// Packages whose versions are told.
const PEERS: [&str; 4] = ["xdp-tools", "nftables", "nginx", "haproxy"];

/// Date, kernel, CPU and versions, in a line. `stamps` say which packages the peers are.
pub(crate) fn describe(workspace: &Workspace, stamps: &str) -> Result<String> {
    let date = exec::capture(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let kernel = read(Path::new("/proc/sys/kernel/osrelease"))?;
    let mut parts = vec![date.trim().to_owned(), format!("Linux {}", kernel.trim())];
    parts.push(cpu(&read(Path::new("/proc/cpuinfo"))?));
    parts.push(format!("mtls-appliance {}{}", env!("CARGO_PKG_VERSION"), commit(workspace)));
    parts.extend(PEERS.iter().filter_map(|package| Some(format!("{package} {}", version(stamps, package)?))));
    Ok(parts.join(", "))
}

/// Which state of the sources, where that can be told.
fn commit(workspace: &Workspace) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(workspace.root()).args(["describe", "--always", "--dirty", "--abbrev=10"]);
    exec::capture(&mut git).map_or_else(|_| String::new(), |name| format!(" ({})", name.trim()))
}

/// How many processors of which kind.
fn cpu(cpuinfo: &str) -> String {
    let models: Vec<&str> = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == "model name"))
        .map(|(_, model)| model.trim())
        .collect();
    format!("{} x {}", models.len(), models.first().unwrap_or(&"unknown CPU"))
}

/// The version of a package that was unpacked.
fn version<'a>(stamp: &'a str, package: &str) -> Option<&'a str> {
    stamp.lines().find_map(|line| line.split(' ').next()?.strip_prefix(package)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_processors() {
        let cpuinfo =
            "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t: fpu\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(cpu(cpuinfo), "2 x AMD EPYC");
    }

    #[test]
    fn finds_a_package_by_its_whole_name() {
        let stamp = "0123\nlibxdp1=1.2 sha256:00\nxdp-tools-extra=9 sha256:00\nxdp-tools=1:1.3.1-1 sha256:00\n";
        assert_eq!(version(stamp, "xdp-tools"), Some("1:1.3.1-1"));
        assert_eq!(version(stamp, "xdp"), None);
    }
}
