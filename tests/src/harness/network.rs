//! Hosts as network namespaces: caller, appliance and origin, joined by veth pairs.
//!
//! A process or connection belongs to the namespace of the thread that starts it, so [`Place`] does its work on a
//! thread that has entered the namespace. Mounts stay those of the host, which `ip netns exec` would change: pinned
//! BPF objects would then vanish with the process.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, anyhow, bail};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::features::emulated;
use super::lab::tool;

/// Where something runs.
#[derive(Debug, Clone, Default)]
pub enum Place {
    /// The namespace of the tests.
    #[default]
    Here,
    /// Another.
    In(Arc<Namespace>),
}

impl Place {
    /// Does something there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what `act` returns.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let Self::In(namespace) = self else {
            return act();
        };
        let file = File::open(namespace.path()).with_context(|| format!("namespace {}", namespace.name))?;
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter the namespace {}", namespace.name))?;
                act()
            });
            worker.join().unwrap_or_else(|_| bail!("panicked in the namespace {}", namespace.name))
        })
    }

    /// Starts a process there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        self.enter(|| command.spawn().with_context(|| format!("cannot run {}", command.get_program().display())))
    }
}

/// A network namespace, removed with this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, with loopback up; `role` ends its name.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn create(role: &str) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mtls-e2e-{}-{count}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs `ip` on this namespace.
    ///
    /// # Errors
    /// When `ip` does, with what it says.
    pub fn ip(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend_from_slice(arguments);
        ip(&all)
    }

    fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// How callers and the appliance are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// By a veth pair, which has the addresses.
    Veth,
    /// By a veth pair and so many VLANs upon it, each in the one before; the last has the addresses.
    Vlans(usize),
    /// By two veth pairs, bonded on both sides; the bonds have the addresses.
    Bond,
}

/// Three hosts: callers on `10.77.2.0/24` (registered in the development registry) and `10.77.3.0/24` (not), the
/// appliance at `.1` of each, and the origin at `10.77.9.2`; the same with `fd77:<n>::`.
pub struct Net {
    /// Where callers are. Both kinds share one link, so the guard sees both on one interface.
    pub caller: Place,
    /// Where the appliance runs.
    pub appliance: Place,
    /// Where the origin runs.
    pub origin: Place,
    link: Link,
    caller_namespace: Arc<Namespace>,
    appliance_namespace: Arc<Namespace>,
}

impl Net {
    /// The appliance's interface towards callers: the lower one of VLANs.
    pub const FRONT: &'static str = "front";
    /// The members where that is a bond; [`Net::create_joined_by`] leaves the second one out of it.
    pub const MEMBERS: [&'static str; 2] = ["front0", "front1"];
    /// The VLANs upon it, the lowest first.
    pub const VLANS: [&'static str; 2] = ["front.7", "front.7.8"];
    /// The port the appliance listens on there.
    pub const PORT: u16 = 8443;
    /// The appliance's address for registered callers.
    pub const REGISTERED: &'static str = "10.77.2.1";
    /// The same in IPv6.
    pub const REGISTERED_V6: &'static str = "fd77:2::1";
    /// The appliance's address for callers that no organisation owns.
    pub const UNREGISTERED: &'static str = "10.77.3.1";
    /// The same in IPv6.
    pub const UNREGISTERED_V6: &'static str = "fd77:3::1";
    /// The origin's address.
    pub const ORIGIN: &'static str = "10.77.9.2";

    /// Lays it out.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn create() -> anyhow::Result<Self> {
        Self::create_joined_by(Link::Veth)
    }

    /// Lays it out with that link between callers and appliance. Of a bond the appliance has one member yet: see
    /// [`Net::add_member`].
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn create_joined_by(link: Link) -> anyhow::Result<Self> {
        let caller = Arc::new(Namespace::create("caller")?);
        let appliance = Arc::new(Namespace::create("appliance")?);
        let origin = Namespace::create("origin")?;
        join(&origin, "net0", &appliance, "back")?;
        set_up(&appliance, "back", &["10.77.9.1/24"])?;
        set_up(&origin, "net0", &["10.77.9.2/24"])?;
        let net = Self {
            caller: Place::In(Arc::clone(&caller)),
            appliance: Place::In(Arc::clone(&appliance)),
            origin: Place::In(Arc::new(origin)),
            link,
            caller_namespace: caller,
            appliance_namespace: appliance,
        };
        net.make_front()?;
        Ok(net)
    }

    /// Makes the link between callers and appliance.
    ///
    /// # Errors
    /// When `ip` fails: there is one.
    pub fn make_front(&self) -> anyhow::Result<()> {
        let inner = self.make_link()?;
        let addresses = ["10.77.2.1/24", "fd77:2::1/64", "10.77.3.1/24", "fd77:3::1/64"];
        set_up(&self.appliance_namespace, inner, &addresses)
    }

    /// The same without addresses at the appliance's end: for a machine that sets them itself.
    ///
    /// # Errors
    /// When `ip` fails: there is one.
    pub fn make_bare_front(&self) -> anyhow::Result<()> {
        self.make_link().map(drop)
    }

    /// Joins caller and appliance, and gives the caller its addresses; the interface for the appliance's.
    fn make_link(&self) -> anyhow::Result<&'static str> {
        let (caller, appliance) = (&self.caller_namespace, &self.appliance_namespace);
        let (outer, inner) = match self.link {
            Link::Veth => {
                join(caller, "net0", appliance, Self::FRONT)?;
                ("net0", Self::FRONT)
            }
            Link::Vlans(count) => {
                join(caller, "net0", appliance, Self::FRONT)?;
                let outer = vlans(caller, "net0", &["net0.7", "net0.7.8"][..count])?;
                (outer, vlans(appliance, Self::FRONT, &Self::VLANS[..count])?)
            }
            Link::Bond => {
                let [first, second] = Self::MEMBERS;
                join(caller, "net0", appliance, first)?;
                join(caller, "net1", appliance, second)?;
                bond(caller, "bond", &["net0", "net1"])?;
                bond(appliance, Self::FRONT, &[first])?;
                ("bond", Self::FRONT)
            }
        };
        set_up(caller, outer, &["10.77.2.2/24", "fd77:2::2/64", "10.77.3.2/24", "fd77:3::2/64"])?;
        Ok(inner)
    }

    /// Joins callers and appliance by another veth pair, of that name at the appliance's end.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_link(&self, name: &str, callers: &[&str], appliance: &[&str]) -> anyhow::Result<()> {
        let outer = format!("to-{name}");
        join(&self.caller_namespace, &outer, &self.appliance_namespace, name)?;
        set_up(&self.caller_namespace, &outer, callers)?;
        set_up(&self.appliance_namespace, name, appliance)
    }

    /// Gives the bond its second member.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn add_member(&self) -> anyhow::Result<()> {
        enslave(&self.appliance_namespace, Self::FRONT, Self::MEMBERS[1])
    }

    /// Takes the bond's first member out of service, as a cable does that is pulled.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn pull_member(&self) -> anyhow::Result<()> {
        self.appliance_namespace.ip(&["link", "set", Self::MEMBERS[0], "down"]).map(drop)
    }

    /// Gives the link below the VLANs addresses too, for packets without a tag: `10.77.8.1` here, `.2` at the callers'.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn address_untagged(&self) -> anyhow::Result<()> {
        set_up(&self.caller_namespace, "net0", &["10.77.8.2/24"])?;
        set_up(&self.appliance_namespace, Self::FRONT, &["10.77.8.1/24"])
    }

    /// Takes the appliance's interfaces down and their addresses away, as they are before a machine has booted.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn take_down(&self) -> anyhow::Result<()> {
        for interface in [Self::FRONT, "back"] {
            self.appliance_namespace.ip(&["address", "flush", "dev", interface])?;
            self.appliance_namespace.ip(&["link", "set", "dev", interface, "down"])?;
        }
        Ok(())
    }

    /// Removes that link, as a driver does that is unloaded.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn remove_front(&self) -> anyhow::Result<()> {
        self.appliance_namespace.ip(&["link", "delete", "dev", Self::FRONT]).map(drop)
    }

    /// Changes the appliance's front interface: the words after `ip link set dev front`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn set_front(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut all = vec!["link", "set", "dev", Self::FRONT];
        all.extend(words);
        self.appliance_namespace.ip(&all).map(drop)
    }

    /// Lets caller and appliance forget how to reach each other, as after a long silence.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn forget_neighbours(&self) -> anyhow::Result<()> {
        for host in [&self.caller_namespace, &self.appliance_namespace] {
            for family in ["-4", "-6"] {
                host.ip(&[family, "neighbour", "flush", "all"])?;
            }
        }
        Ok(())
    }

    /// What `ip` says about the appliance's front interface: with XDP attached it names the program.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn front_link(&self) -> anyhow::Result<String> {
        self.link_of(Self::FRONT)
    }

    /// The same about another interface of the appliance.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn link_of(&self, interface: &str) -> anyhow::Result<String> {
        self.appliance_namespace.ip(&["-d", "link", "show", "dev", interface])
    }
}

/// Held by who has XDP programs. On an emulated machine there is one at a time: the kernel patches its own code when an XDP
/// program comes or goes, and QEMU may still run the old code on another CPU, where packets pass another test's program; the
/// kernel panics then (int3 in bpf_dispatcher_xdp_func).
pub(super) fn alone() -> Option<MutexGuard<'static, ()>> {
    static ONE: Mutex<()> = Mutex::new(());
    emulated().then(|| ONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A BPF file system of its own, unmounted with this value. On an emulated machine there is one at a time.
pub struct BpfFs {
    path: PathBuf,
    _one: Option<MutexGuard<'static, ()>>,
}

impl BpfFs {
    /// Mounts one at `path`, creating the folder.
    ///
    /// # Errors
    /// Without privilege or without BPF in the kernel.
    pub fn mount(path: &Path) -> anyhow::Result<Self> {
        let one = alone();
        std::fs::create_dir_all(path)?;
        rustix::mount::mount("bpf", path, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a BPF file system at {}", path.display()))?;
        Ok(Self { path: path.to_owned(), _one: one })
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// Whether VLANs can be made here.
pub(super) fn probe_vlans() -> anyhow::Result<()> {
    Net::create_joined_by(Link::Vlans(1)).map(drop)
}

/// Whether bonds can be made here.
pub(super) fn probe_bonds() -> anyhow::Result<()> {
    Net::create_joined_by(Link::Bond).map(drop)
}

/// Whether namespaces can be made and joined here.
pub(super) fn probe() -> anyhow::Result<()> {
    Net::create().map(drop)
}

/// Whether there is BPF to load programs into.
pub(super) fn probe_bpf() -> anyhow::Result<()> {
    probe()?;
    let path = std::env::temp_dir().join(format!("mtls-e2e-{}-bpf-probe", std::process::id()));
    let mounted = BpfFs::mount(&path).map(drop);
    let _ = std::fs::remove_dir(&path);
    mounted
}

fn join(a: &Namespace, a_interface: &str, b: &Namespace, b_interface: &str) -> anyhow::Result<()> {
    a.ip(&["link", "add", a_interface, "type", "veth", "peer", "name", b_interface, "netns", &b.name]).map(drop)
}

/// Makes VLANs, each upon the one before; the last one's name.
fn vlans<'a>(host: &Namespace, lowest: &'a str, names: &[&'a str]) -> anyhow::Result<&'a str> {
    let mut lower = lowest;
    for (name, id) in names.iter().zip(["7", "8"]) {
        host.ip(&["link", "set", lower, "up"])?;
        host.ip(&["link", "add", "link", lower, "name", name, "type", "vlan", "id", id])?;
        lower = name;
    }
    Ok(lower)
}

/// Makes a bond whose members take turns and are looked after every 20 ms.
fn bond(host: &Namespace, name: &str, members: &[&str]) -> anyhow::Result<()> {
    host.ip(&["link", "add", name, "type", "bond", "mode", "balance-rr", "miimon", "20"])?;
    members.iter().try_for_each(|member| enslave(host, name, member))
}

fn enslave(host: &Namespace, bond: &str, member: &str) -> anyhow::Result<()> {
    host.ip(&["link", "set", member, "down"])?;
    host.ip(&["link", "set", member, "master", bond]).map(drop)
}

fn set_up(host: &Namespace, interface: &str, addresses: &[&str]) -> anyhow::Result<()> {
    for address in addresses {
        let mut arguments = vec!["address", "add", address, "dev", interface];
        if address.contains(':') {
            arguments.push("nodad");
        }
        host.ip(&arguments)?;
    }
    host.ip(&["link", "set", interface, "up"]).map(drop)
}

fn ip(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(tool("ip")?).args(arguments).output().context("cannot run ip")?;
    if !output.status.success() {
        return Err(anyhow!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
