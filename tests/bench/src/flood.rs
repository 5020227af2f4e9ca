//! Area `flood`: a flood of connection attempts from addresses that no organisation owns, dropped by the guard, by an nftables
//! set with the same sources, or by nobody; and what a registered caller's requests take meanwhile.
//!
//! Caller, appliance and origin are network namespaces joined by veth pairs, a set of them for each subject. The sender, what
//! becomes of its packets, and the service share this machine's CPUs, so that what handling a packet takes is taken from
//! the sender and from the service alike.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use mtls_appliance_tests::harness::names::UNREGISTERED_SOURCE;
use mtls_appliance_tests::harness::{Appliance, BpfFs, Client, Deadline, Flood, Lab, Net, Origin, Process, tool};
use serde_json::Value;

use crate::report;
use crate::statistics::{Summary, quantile};

const AREA: &str = "flood";
/// Of a request beside a flood.
const PATIENCE: Duration = Duration::from_secs(30);
const COMMAND_PATIENCE: u64 = 30;
/// Addresses that the flood comes from.
const SOURCES: u8 = 250;
const REQUEST: &str = "/bytes/1024";

/// How much is measured.
struct Effort {
    rounds: u32,
    /// Of each round, without the flood and with it.
    time: Duration,
}

/// Who drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dropper {
    Guard,
    Nftables,
    Nobody,
}

impl Dropper {
    const ALL: [Self; 3] = [Self::Guard, Self::Nftables, Self::Nobody];

    fn subject(self) -> &'static str {
        match self {
            Self::Guard => "mtls-appliance",
            Self::Nftables => "nftables",
            Self::Nobody => "nothing",
        }
    }
}

/// An appliance, its origin and its caller, and what drops in front of it.
struct Stage {
    dropper: Dropper,
    // Ended in this order.
    client: Client,
    appliance: Appliance,
    _origin: Origin,
    net: Net,
    _bpf: Option<BpfFs>,
    _lab: Lab,
    values: Values,
}

/// One of each round.
#[derive(Default)]
struct Values {
    packets: Vec<f64>,
    quiet: [Vec<f64>; 2],
    flooded: [Vec<f64>; 2],
}

/// Measures it and prints rows.
///
/// # Errors
/// Without privileges, XDP or nftables, or when the flood is not dropped by who should.
pub(crate) fn measure(quick: bool) -> anyhow::Result<()> {
    let milliseconds = if quick { 500 } else { 2_000 };
    let effort = Effort { rounds: if quick { 5 } else { 15 }, time: Duration::from_millis(milliseconds) };
    let stages = Dropper::ALL.map(|dropper| Stage::create(dropper).with_context(|| dropper.subject().to_owned()));
    let mut stages = stages.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    for round in 0..effort.rounds {
        eprintln!("bench: flood: round {} of {}", round + 1, effort.rounds);
        for stage in &mut stages {
            stage.round(effort.time).with_context(|| stage.dropper.subject().to_owned())?;
        }
    }
    for stage in stages {
        let Values { packets, quiet, flooded } = stage.values;
        let [p50, p99] = quiet;
        let [flooded_p50, flooded_p99] = flooded;
        let rows = [
            ("strangers' SYNs handled", "packets/s", packets),
            ("request without the flood, p50", "us", p50),
            ("request without the flood, p99", "us", p99),
            ("request under the flood, p50", "us", flooded_p50),
            ("request under the flood, p99", "us", flooded_p99),
        ];
        for (name, unit, values) in rows {
            let summary = Summary::of(values).context("no rounds")?;
            report::row(AREA, name, stage.dropper.subject(), unit, summary);
        }
    }
    report::note(&format!(
        "flood: median (interquartile range) of {} rounds of {milliseconds} ms each; sender, receiver and service share the CPUs, \
         so that packets a second include the sender's work; `nothing`: the kernel answers each SYN",
        effort.rounds
    ));
    Ok(())
}

impl Stage {
    fn create(dropper: Dropper) -> anyhow::Result<Self> {
        let lab = Lab::create()?;
        let folder = lab.path("bpf");
        let bpf = (dropper == Dropper::Guard).then(|| BpfFs::mount(&folder)).transpose()?;
        let net = Net::create()?;
        let pins = folder.join("guard").display().to_string();
        let (origin, appliance) = lab.appliance_in(&net, |settings| match dropper {
            Dropper::Guard => settings
                .set("guard.interfaces", vec![Net::FRONT])
                .set("guard.ports", vec![i64::from(Net::PORT)])
                .set("guard.attach", "native")
                .set("guard.pin_dir", pins),
            Dropper::Nftables | Dropper::Nobody => settings,
        })?;
        if dropper == Dropper::Nftables {
            nft(&net, &["-f", "-"], &ruleset(&fs::read_to_string(lab.path("registry.toml"))?)?)?;
        }
        let address = SocketAddr::new(Net::REGISTERED.parse()?, Net::PORT);
        let client = Client::connect(&net.caller, address, &lab.tls("client-p256")?)?.patient(PATIENCE)?;
        let values = Values::default();
        Ok(Self { dropper, client, appliance, _origin: origin, net, _bpf: bpf, _lab: lab, values })
    }

    fn round(&mut self, time: Duration) -> anyhow::Result<()> {
        let [p50, p99] = latencies(&mut self.client, time)?;
        self.values.quiet[0].push(p50);
        self.values.quiet[1].push(p99);

        let stop = AtomicBool::new(false);
        let before = self.handled()?;
        let begun = Instant::now();
        let place = self.net.caller.clone();
        let flood =
            Flood { place: &place, from: [10, 77, 3], to: Net::UNREGISTERED.parse()?, sources: SOURCES, gentle: false };
        let ([p50, p99], sent, took) = thread::scope(|scope| {
            let flood = scope.spawn(|| flood.run(&stop));
            let latencies = latencies(&mut self.client, time);
            stop.store(true, Ordering::Relaxed);
            let sent = flood.join().map_err(|_| anyhow!("the flood panicked"))??;
            anyhow::Ok((latencies?, sent, begun.elapsed()))
        })?;
        let handled = self.handled()? - before;
        ensure!(handled >= sent / 2, "{sent} packets were sent, and {handled} handled");
        self.values.packets.push(handled as f64 / took.as_secs_f64());
        self.values.flooded[0].push(p50);
        self.values.flooded[1].push(p99);
        Ok(())
    }

    /// Packets that were dropped so far, or came to the interface where nobody drops.
    fn handled(&self) -> anyhow::Result<u64> {
        match self.dropper {
            Dropper::Guard => self.appliance.guard_packets(UNREGISTERED_SOURCE),
            Dropper::Nftables => counter(&nft(&self.net, &["-j", "list", "counters"], "")?),
            Dropper::Nobody => {
                received(&self.net.appliance.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?)
            }
        }
    }
}

/// What requests take one after the other on a connection that lives: p50 and p99 in microseconds.
fn latencies(client: &mut Client, time: Duration) -> anyhow::Result<[f64; 2]> {
    let mut waits = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < time || waits.is_empty() {
        let asked = Instant::now();
        let response = client.get(REQUEST, &[])?;
        waits.push(asked.elapsed().as_secs_f64() * 1e6);
        ensure!(response.status == 200 && response.length == 1024, "{:?}", response.head);
    }
    waits.sort_unstable_by(f64::total_cmp);
    Ok([quantile(&waits, 0.5).unwrap_or_default(), quantile(&waits, 0.99).unwrap_or_default()])
}

/// Drops what the guard drops: TCP to the guarded port, from sources that no organisation of this registry owns.
fn ruleset(registry: &str) -> anyhow::Result<String> {
    let registry: toml::Table = registry.parse().context("the registry")?;
    let organisations = registry.get("organisation").and_then(|all| all.as_array()).context("no organisations")?;
    let sources = organisations.iter().filter_map(|organisation| organisation.get("sources")?.as_array()).flatten();
    let (v6, v4): (Vec<&str>, Vec<&str>) = sources.filter_map(|source| source.as_str()).partition(|s| s.contains(':'));
    ensure!(!v4.is_empty() && !v6.is_empty(), "the registry has no sources");
    let (front, port) = (Net::FRONT, Net::PORT);
    Ok(format!(
        "table netdev guard {{
            set registered4 {{ type ipv4_addr; flags interval; elements = {{ {} }} }}
            set registered6 {{ type ipv6_addr; flags interval; elements = {{ {} }} }}
            counter strangers {{ }}
            chain front {{
                type filter hook ingress device \"{front}\" priority -500; policy accept;
                tcp dport {port} ip saddr != @registered4 counter name strangers drop
                tcp dport {port} ip6 saddr != @registered6 counter name strangers drop
            }}
        }}",
        v4.join(", "),
        v6.join(", "),
    ))
}

/// Runs `nft` at the appliance with this input, and returns its output.
fn nft(net: &Net, arguments: &[&str], input: &str) -> anyhow::Result<String> {
    // A file holds all of it: nothing has to be written while nft runs.
    let file = std::env::temp_dir().join(format!("mtls-bench-nft-{}", std::process::id()));
    fs::write(&file, input)?;
    let stdin = Stdio::from(fs::File::open(&file)?);
    fs::remove_file(&file)?;
    let finished = Process::start_with_input("nft", &net.appliance, Command::new(tool("nft")?).args(arguments), stdin)?
        .wait(Deadline::seconds(COMMAND_PATIENCE))?;
    ensure!(finished.status.success(), "nft {}: {}", arguments.join(" "), finished.output());
    Ok(finished.stdout)
}

/// The packets of the only counter in what nft lists.
fn counter(listed: &str) -> anyhow::Result<u64> {
    let listed: Value = serde_json::from_str(listed).context("nft printed no JSON")?;
    let all = listed["nftables"].as_array().context("nft listed nothing")?;
    all.iter().find_map(|one| one["counter"]["packets"].as_u64()).context("nft listed no counter")
}

/// How many packets the interface towards callers received.
fn received(dev: &str) -> anyhow::Result<u64> {
    let line = dev.lines().find_map(|line| line.trim().strip_prefix(Net::FRONT)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).context("no such interface in /proc/net/dev")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nftables_gets_the_sources_of_the_registry() {
        let rules = ruleset(
            "[[organisation]]\nsources = [\"10.1.0.0/16\", \"fd00:1::/64\"]\n[[organisation]]\nsources = [\"192.0.2.7\"]\n",
        )
        .unwrap();
        assert!(rules.contains("elements = { 10.1.0.0/16, 192.0.2.7 }"), "{rules}");
        assert!(rules.contains("elements = { fd00:1::/64 }"), "{rules}");
        assert!(ruleset("").is_err());
    }

    #[test]
    fn reads_what_was_counted() {
        let listed = r#"{"nftables":[{"metainfo":{}},{"counter":{"name":"strangers","packets":17,"bytes":680}}]}"#;
        assert_eq!(counter(listed).unwrap(), 17);
        assert!(counter(r#"{"nftables":[]}"#).is_err());
        let dev = "Inter-|   Receive\n face |bytes    packets\n    lo:       0       0 0\n frontier:  5 6 0\n front: 7080     118    0\n";
        assert_eq!(received(dev).unwrap(), 118);
        assert!(received("lo: 1 2 3").is_err());
    }
}
