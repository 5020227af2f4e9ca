//! The peer: xdp-filter of xdp-tools, with an allow list of addresses, each instance on an interface of its own that nobody
//! uses.
//!
//! It keeps its maps at one place in `/sys/fs/bpf`. Each instance gets another file system there, in this process's mount
//! namespace; the program lives on by the handle that is taken of it. Its command adds one address at a time, so that all but
//! the first are put into its pinned map directly, with the value that the command has given the first.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use aya::Pod;
use aya::maps::{Map, MapData, PerCpuHashMap, PerCpuValues};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use mtls_appliance_tests::harness::{BpfFs, Deadline, Namespace, Place, Process, tool};

use super::packets::Family;
use super::sources::Sources;

/// What it is called in the rows.
pub(super) const SUBJECT: &str = "xdp-filter";
/// Where it pins.
const BPF: &str = "/sys/fs/bpf";
const PATIENCE: u64 = 30;
/// How many addresses its maps hold.
const MOST: u32 = 10_000;

/// It with these addresses.
pub(super) struct XdpFilter<'a> {
    pub(super) sources: &'a Sources,
    program: Xdp,
    _place: Place,
}

impl<'a> XdpFilter<'a> {
    /// One for each registry that its maps can hold.
    ///
    /// # Errors
    /// When it is not there or does not load.
    pub(super) fn load(sources: &'a [Sources]) -> anyhow::Result<Vec<Self>> {
        let fitting = sources.iter().filter(|sources| sources.0 <= MOST);
        fitting
            .map(|sources| Self::load_one(sources).with_context(|| format!("{SUBJECT} with {}", sources.0)))
            .collect()
    }

    fn load_one(sources: &'a Sources) -> anyhow::Result<Self> {
        let bpf = BpfFs::mount(Path::new(BPF))?;
        let namespace = Arc::new(Namespace::create("filter")?);
        namespace.ip(&["link", "add", "front", "type", "veth", "peer", "name", "back"])?;
        let place = Place::In(namespace);
        command(&place, &["load", "front", "--mode", "native", "--policy", "deny", "--features", "ipv4,ipv6"])?;
        let mut addresses = Family::BOTH.map(|family| sources.addresses(family));
        for first in addresses.iter_mut().filter_map(Iterator::next) {
            command(&place, &["ip", &first.to_string(), "--mode", "src"])?;
        }
        let [v4, v6] = addresses;
        fill(
            "filter_ipv4",
            v4.filter_map(|address| if let IpAddr::V4(v4) = address { Some(v4.octets()) } else { None }),
        )?;
        fill(
            "filter_ipv6",
            v6.filter_map(|address| if let IpAddr::V6(v6) = address { Some(v6.octets()) } else { None }),
        )?;
        let program = Xdp::from_pin(pinned_program()?, XdpAttachType::Interface).context("taking its program")?;
        drop(bpf);
        Ok(Self { sources, program, _place: place })
    }

    /// Runs its program over a packet, `repeat` times: what it returned, and how long one run took.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn run(&self, packet: &[u8], repeat: u32) -> anyhow::Result<(u32, Duration)> {
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() };
        let result = self.program.test_run(options)?;
        Ok((result.return_value, result.duration))
    }
}

fn command(place: &Place, arguments: &[&str]) -> anyhow::Result<()> {
    let finished = Process::start(SUBJECT, place, Command::new(tool(SUBJECT)?).args(arguments))?
        .wait(Deadline::seconds(PATIENCE))?;
    ensure!(finished.status.success(), "{SUBJECT} {}: {}", arguments.join(" "), finished.output());
    Ok(())
}

/// Adds addresses as the one that is there.
fn fill<K: Pod>(map: &str, addresses: impl Iterator<Item = K>) -> anyhow::Result<()> {
    let path = Path::new(BPF).join(SUBJECT).join(map);
    let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    let mut map = PerCpuHashMap::<_, K, u64>::try_from(Map::PerCpuHashMap(map))?;
    let (_, value) = map.iter().next().context("its own command added nothing")??;
    for address in addresses {
        map.insert(address, PerCpuValues::try_from(value.to_vec())?, 0)?;
    }
    Ok(())
}

/// `programs/INTERFACE/NAME`.
fn pinned_program() -> anyhow::Result<PathBuf> {
    let only = |folder: &Path| {
        let entry = fs::read_dir(folder)?.next().with_context(|| format!("nothing in {}", folder.display()))?;
        anyhow::Ok(entry?.path())
    };
    only(&only(&Path::new(BPF).join(SUBJECT).join("programs"))?)
}
