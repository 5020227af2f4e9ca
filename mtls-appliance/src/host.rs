//! What the kernel's settings and this process's limits mean for the service: read, reported, never changed.
//!
//! A setting is here when the appliance fares worse with another value, under load or attack. What the kernel does not show,
//! as it does not show settings of the whole machine in a network namespace, is passed over.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::{Config, OffloadMode};
use crate::listeners::BACKLOG;

/// Descriptors of a client connection and its origin connection.
const OF_A_CONNECTION: u64 = 2;
/// Two pipes of two ends, while bodies are spliced both ways.
const OF_ITS_PIPES: u64 = 4;
/// Pages of these two pipes.
const PAGES_OF_ITS_PIPES: u64 = 2 * 16;
/// Descriptors besides: files, maps, event loops, and what each worker keeps.
const OTHERS: u64 = 64;
const OF_A_WORKER: u64 = 160;

/// A setting that should be another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Its name.
    pub(crate) setting: &'static str,
    /// Its value.
    pub(crate) found: String,
    /// What it should be.
    pub(crate) recommended: String,
    /// What happens otherwise.
    pub(crate) why: String,
    /// How to set it.
    pub(crate) remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, found, recommended, why, remedy } = self;
        write!(f, "{setting} is {found}, recommended is {recommended}: {why}; {remedy}")
    }
}

/// Where the settings are read from.
#[derive(Debug)]
pub(crate) struct Host {
    settings: PathBuf,
    descriptors: Option<u64>,
}

impl Host {
    /// This machine, and this process.
    pub(crate) fn this() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self { settings: PathBuf::from("/proc/sys"), descriptors: limit.current }
    }

    /// What should be otherwise; `splices` says whether bodies may be spliced.
    pub(crate) fn findings(&self, config: &Config, splices: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.queues(&mut findings);
        if config.guard.is_some() {
            self.least(&mut findings, "net.core.bpf_jit_enable", 1, || {
                "the guard's program is interpreted for each packet, several times slower".to_owned()
            });
        }
        self.descriptors(&mut findings, config, splices);
        self.ports(&mut findings, config);
        findings
    }

    fn queues(&self, findings: &mut Vec<Finding>) {
        const COOKIES: &str = "net.ipv4.tcp_syncookies";
        let cookies = self.number(COOKIES);
        let why = match cookies {
            None | Some(1) => None,
            Some(0) => Some("SYNs with forged sources fill the queue of a listener, and then nobody connects"),
            Some(_) => Some("SYN cookies for every connection cost the options of TCP; 1 sends them in a flood alone"),
        };
        if let (Some(found), Some(why)) = (cookies, why) {
            findings.push(by_sysctl(COOKIES, found.to_string(), "1", why.to_owned()));
        }
        if cookies == Some(0) {
            // The kernel looks at it only then.
            self.least(findings, "net.ipv4.tcp_max_syn_backlog", BACKLOG.unsigned_abs().into(), || {
                "without SYN cookies no more handshakes of TCP than that wait at once".to_owned()
            });
        }
        self.least(findings, "net.core.somaxconn", BACKLOG.unsigned_abs().into(), || {
            format!("the queues of the listeners are cut to it from {BACKLOG}: connections that come at once are lost")
        });
    }

    fn descriptors(&self, findings: &mut Vec<Finding>, config: &Config, splices: bool) {
        let connections = config.limits.connections as u64;
        let each = OF_A_CONNECTION + if splices { OF_ITS_PIPES } else { 0 };
        let needed = connections * each + config.listener.workers as u64 * OF_A_WORKER + OTHERS;
        let why = || {
            format!(
                "limits.connections = {connections} can take {needed} descriptors ({each} a connection): where they end, \
                 connections are refused and bodies copied instead of spliced"
            )
        };
        if let Some(found) = self.descriptors.filter(|found| *found < needed) {
            findings.push(Finding {
                setting: "RLIMIT_NOFILE",
                found: found.to_string(),
                recommended: format!("{needed} or more"),
                why: why(),
                remedy: format!("set LimitNOFILE={needed} in the service, or ulimit -n {needed} in the shell"),
            });
        }
        self.least(findings, "fs.file-max", needed, why);
        let pages = connections * PAGES_OF_ITS_PIPES;
        // 0: no limit.
        if splices && self.number("fs.pipe-user-pages-soft") != Some(0) {
            self.least(findings, "fs.pipe-user-pages-soft", pages, || {
                format!(
                    "beyond it a pipe holds two pages instead of 16, and splicing takes more steps; limits.connections = \
                     {connections} can take {pages} pages, if all have bodies both ways at once"
                )
            });
        }
    }

    fn ports(&self, findings: &mut Vec<Finding>, config: &Config) {
        const PORTS: &str = "net.ipv4.ip_local_port_range";
        let Some(range) = self.text(PORTS) else { return };
        let mut ends = range.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else { return };
        let ports = (last + 1).saturating_sub(first);
        let most = config.origins.iter().max_by_key(|origin| origin.connections);
        if let Some(origin) = most.filter(|origin| origin.connections as u64 > ports) {
            let why = format!(
                "there are {ports} ports for connections to one address, and origin {} may have {}",
                origin.name, origin.connections
            );
            findings.push(by_sysctl(PORTS, format!("{first} {last}"), "1024 65535", why));
        }
    }

    /// Notes a number that is too small.
    fn least(&self, findings: &mut Vec<Finding>, setting: &'static str, least: u64, why: impl FnOnce() -> String) {
        if let Some(found) = self.number(setting).filter(|found| *found < least) {
            findings.push(by_sysctl(setting, found.to_string(), &least.to_string(), why()));
        }
    }

    fn number(&self, setting: &str) -> Option<u64> {
        self.text(setting)?.trim().parse().ok()
    }

    fn text(&self, setting: &str) -> Option<String> {
        std::fs::read_to_string(self.settings.join(Path::new(&setting.replace('.', "/")))).ok()
    }
}

/// Whether bodies may be spliced as far as the configuration says.
pub(crate) fn may_splice(config: &Config) -> bool {
    config.offload != OffloadMode::Off && config.splice_from != u64::MAX
}

fn by_sysctl(setting: &'static str, found: String, recommended: &str, why: String) -> Finding {
    let remedy = format!(
        "sysctl -w {setting}=\"{recommended}\", and a line {setting} = {recommended} in a file of /etc/sysctl.d/"
    );
    Finding { setting, found, recommended: recommended.to_owned(), why, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::read;

    const CONFIG: &str = r#"
        listener = { addresses = ["127.0.0.1:8443"], workers = 2 }
        tls = { certificate = "a", key = "b", client_ca = ["c"] }
        origin = { addresses = ["127.0.0.1:1"], server_name = "o", certificate = "a", key = "b", ca = ["c"], connections = 1000 }
        registry = { files = ["r"] }
        limits = { connections = 100 }
        guard = { interfaces = ["eth0"] }
    "#;
    /// As it should be: 100 connections of six descriptors and 32 pages each.
    const GOOD: [(&str, &str); 7] = [
        ("net/ipv4/tcp_syncookies", "1"),
        ("net/ipv4/tcp_max_syn_backlog", "128"),
        ("net/core/somaxconn", "4096"),
        ("net/core/bpf_jit_enable", "1"),
        ("net/ipv4/ip_local_port_range", "32768\t60999"),
        ("fs/file-max", "984"),
        ("fs/pipe-user-pages-soft", "3200"),
    ];

    /// What is found on a machine with these settings changed.
    fn found(name: &str, changed: &[(&str, &str)], descriptors: u64, splices: bool) -> Vec<Finding> {
        let root = std::env::temp_dir().join(format!("host-{name}-{}", std::process::id()));
        for (setting, value) in GOOD.iter().chain(changed) {
            let path = root.join(setting);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{value}\n")).unwrap();
        }
        let config = read(CONFIG).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let host = Host { settings: root.clone(), descriptors: Some(descriptors) };
        let findings = host.findings(&config, splices);
        std::fs::remove_dir_all(root).unwrap();
        findings
    }

    #[test]
    fn a_machine_that_is_as_it_should_be_is_not_talked_about() {
        assert_eq!(found("good", &[], 984, true), []);
        assert_eq!(found("fewer", &[("fs/pipe-user-pages-soft", "1"), ("fs/file-max", "584")], 584, false), []);
        assert_eq!(found("unlimited", &[("fs/pipe-user-pages-soft", "0")], 984, true), []);
    }

    #[test]
    fn each_setting_that_costs_the_service_something_is_found() {
        for (number, (path, value, recommended)) in [
            ("net/ipv4/tcp_syncookies", "2", "1"),
            ("net/core/somaxconn", "4095", "4096"),
            ("net/core/bpf_jit_enable", "0", "1"),
            ("net/ipv4/ip_local_port_range", "40000 40998", "1024 65535"),
            ("fs/file-max", "983", "984"),
            ("fs/pipe-user-pages-soft", "3199", "3200"),
        ]
        .into_iter()
        .enumerate()
        {
            let findings = found(&number.to_string(), &[(path, value)], 984, true);
            let [finding] = &findings[..] else { panic!("{path}: {findings:?}") };
            let name = path.replace('/', ".");
            assert_eq!((finding.setting, &*finding.found, &*finding.recommended), (&*name, value, recommended));
            let text = finding.to_string();
            assert!(text.contains(&format!("sysctl -w {name}=\"{recommended}\"")), "{text}");
        }
    }

    #[test]
    fn the_backlog_of_handshakes_counts_without_cookies_alone() {
        let findings = found("cookies", &[("net/ipv4/tcp_syncookies", "0")], 984, true);
        let names: Vec<&str> = findings.iter().map(|finding| finding.setting).collect();
        assert_eq!(names, ["net.ipv4.tcp_syncookies", "net.ipv4.tcp_max_syn_backlog"]);
    }

    #[test]
    fn too_few_descriptors_are_found_with_the_number_that_is_needed() {
        let findings = found("descriptors", &[], 983, true);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((finding.setting, &*finding.found, &*finding.recommended), ("RLIMIT_NOFILE", "983", "984 or more"));
        assert!(finding.remedy.contains("LimitNOFILE=984"), "{finding}");
    }

    #[test]
    fn what_the_kernel_does_not_show_is_passed_over() {
        let config = read(CONFIG).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let host = Host { settings: PathBuf::from("/nowhere"), descriptors: None };
        assert_eq!(host.findings(&config, true), []);
    }
}
