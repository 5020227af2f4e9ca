//! Who runs the machine stays in it whatever the guard does, and callers are served whatever strangers send.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use mtls_appliance_tests::harness::names::UNREGISTERED_SOURCE;
use mtls_appliance_tests::harness::{Appliance, BpfFs, Client, Deadline, Feature, Flood, Lab, Net, wait_until};
use mtls_appliance_tests::pattern;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};
use rustix::process::Signal;

use crate::case::cases;
use crate::effort::number;
use crate::guard::{at, attached, connects, guarded, packets, reload_appliance, reload_with, settings};

cases!("lockout":
    a_session_lives_through_attaching_every_mode_and_detaching,
    a_flood_of_strangers_does_not_keep_callers_waiting,
    a_forged_flood_of_registered_sources_does_not_keep_callers_out,
);

const SSH: u16 = 22;
const DHCP_SERVER: u16 = 67;
/// How often a caller connects anew.
const NEW_EVERY: Duration = Duration::from_millis(50);
/// More openings than a caller here makes, and less than a forged source does where the machine is fast.
const BURST: u32 = 150;
/// How many sources are forged.
const SOURCES: u8 = 50;
const WAIT: Duration = Duration::from_secs(5);
/// Of callers beside a flood, on emulated machines too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A TCP service at a port that is not guarded, which sends back what it gets, at an address of strangers.
fn echo_service(net: &Net, ip: &str) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::new(ip.parse()?, SSH);
    let listener = net.appliance.enter(|| Ok(TcpListener::bind(address)?))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(address)
}

fn session(net: &Net, address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = net.caller.enter(|| Ok(TcpStream::connect_timeout(&address, WAIT)?));
    let stream = stream.with_context(|| format!("TCP to {address} did not pass"))?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    Ok(stream)
}

/// Sends so many bytes and gets them back.
fn goes_on(mut session: &TcpStream, length: usize) -> anyhow::Result<()> {
    let sent = pattern::bytes(length);
    thread::scope(|scope| {
        let writer = scope.spawn(|| (&*session).write_all(&sent));
        let mut back = vec![0; length];
        session.read_exact(&mut back).context("the session stands still")?;
        ensure!(back == sent, "the session's bytes came back changed");
        Ok(writer.join().map_err(|_| anyhow!("the writer panicked"))??)
    })
}

/// A datagram of that length there and back: more than a frame holds goes as fragments.
fn datagram(net: &Net, ip: &str, port: u16, length: usize) -> anyhow::Result<()> {
    let address = SocketAddr::new(ip.parse()?, port);
    let service = net.appliance.enter(|| Ok(UdpSocket::bind(address)?))?;
    let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let caller = net.caller.enter(|| Ok(UdpSocket::bind(any)?))?;
    service.set_read_timeout(Some(WAIT))?;
    caller.set_read_timeout(Some(WAIT))?;
    caller.send_to(&pattern::bytes(length), address)?;
    let mut buffer = vec![0; length + 1];
    let (received, from) = service.recv_from(&mut buffer).with_context(|| format!("UDP to {address}"))?;
    service.send_to(&buffer[..received], from)?;
    let received = caller.recv(&mut buffer).with_context(|| format!("UDP back from {address}"))?;
    ensure!(buffer[..received] == pattern::bytes(length), "{received} of {length} bytes");
    Ok(())
}

/// As a host asks for an address: from port 68, to everybody's port 67.
fn dhcp(net: &Net) -> anyhow::Result<()> {
    let service = net.appliance.enter(|| Ok(UdpSocket::bind(("0.0.0.0", DHCP_SERVER))?))?;
    let caller = net.caller.enter(|| Ok(UdpSocket::bind(("0.0.0.0", 68))?))?;
    service.set_read_timeout(Some(WAIT))?;
    caller.set_broadcast(true)?;
    caller.send_to(b"discover", ("10.77.3.255", DHCP_SERVER))?;
    let mut buffer = [0; 16];
    let received = service.recv(&mut buffer).context("a broadcast to the DHCP port did not pass")?;
    ensure!(&buffer[..received] == b"discover");
    Ok(())
}

/// ICMP echo request and reply (RFC 792).
fn ping(net: &Net, ip: &str) -> anyhow::Result<()> {
    let to: Ipv4Addr = ip.parse()?;
    net.caller.enter(|| {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(WAIT))?;
        // Type 8, code 0, checksum, identifier 0x4d54, sequence number 1.
        let request = [8, 0, 0xf7 - 0x4d, 0xfe - 0x54, 0x4d, 0x54, 0, 1];
        sendto(&socket, &request, SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
        let mut buffer = [0; 128];
        wait_until("the answer to a ping", Deadline::seconds(5), || {
            let (length, _) = recv(&socket, &mut buffer, RecvFlags::empty()).context("no answer to a ping")?;
            let reply = buffer[..length].get(20..28);
            Ok((reply.is_some_and(|reply| reply[0] == 0 && reply[4..6] == [0x4d, 0x54])).then_some(()))
        })
    })
}

fn a_session_lives_through_attaching_every_mode_and_detaching(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    Feature::Xdp.need()?;
    let folder = lab.path("bpf");
    let _bpf = BpfFs::mount(&folder)?;
    let net = Net::create()?;
    // From a source that no organisation owns, and that is not a management address either.
    let (v4, v6) = (echo_service(&net, Net::UNREGISTERED)?, echo_service(&net, Net::UNREGISTERED_V6)?);
    let sessions = [session(&net, v4)?, session(&net, v6)?];
    let everything = || {
        // Everybody has to be found anew, by ARP and neighbour discovery.
        net.forget_neighbours()?;
        sessions.iter().try_for_each(|session| goes_on(session, 200_000))?;
        for address in [v4, v6] {
            session(&net, address)?.shutdown(Shutdown::Both)?;
        }
        for ip in [Net::UNREGISTERED, Net::UNREGISTERED_V6] {
            datagram(&net, ip, 53, 100)?;
            datagram(&net, ip, Net::PORT, 5_000)?;
        }
        dhcp(&net)?;
        ping(&net, Net::UNREGISTERED)
    };
    let everything = |what: &str| everything().with_context(|| what.to_owned());
    everything("before the guard")?;
    let pins = folder.join("guard").display().to_string();
    let (_origin, mut appliance) = lab.appliance_in(&net, settings(&pins, "auto"))?;
    ensure!(!connects(&net, Net::UNREGISTERED)?, "nothing is guarded, so nothing is shown");
    everything("enforce")?;
    for mode in ["observe", "off", "enforce"] {
        reload_appliance(lab, &mut appliance, |settings| settings.set("guard.mode", mode))?;
        everything(mode)?;
    }
    // Gone without a word, and then in order.
    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    everything("without the appliance")?;
    appliance.restart(lab)?;
    everything("taken over")?;
    appliance.process().signal(Signal::TERM)?;
    appliance.process().wait(Deadline::seconds(20))?;
    let detached = Appliance::run_with_file(&net.appliance, "guard detach", &lab.path("appliance.toml"))?;
    ensure!(detached.status.success(), "{}", detached.output());
    ensure!(!attached(&net)?, "{}", net.front_link()?);
    everything("detached")
}

/// How long requests took, on a connection that lives and on new ones, sorted.
struct Waits {
    kept: Vec<Duration>,
    new: Vec<Duration>,
}

impl Waits {
    /// Calls for that time, or as long as it takes to have seen some of both.
    fn of(lab: &Lab, net: &Net, time: Duration) -> anyhow::Result<Self> {
        let tls = lab.tls("client-p256")?;
        let connect = || Client::connect(&net.caller, at(Net::REGISTERED)?, &tls)?.patient(PATIENCE);
        let mut client = connect()?;
        let mut waits = Self { kept: Vec::new(), new: Vec::new() };
        let begun = Instant::now();
        while begun.elapsed() < time || waits.new.is_empty() {
            ensure!(begun.elapsed() < PATIENCE, "only {} requests in {PATIENCE:?}", waits.kept.len());
            let asked = Instant::now();
            ensure!(client.get("/bytes/100", &[])?.status == 200);
            waits.kept.push(asked.elapsed());
            if begun.elapsed() >= NEW_EVERY * (waits.new.len() as u32 + 1) {
                let asked = Instant::now();
                client = connect().context("a new connection")?;
                ensure!(client.get("/bytes/100", &[])?.status == 200);
                waits.new.push(asked.elapsed());
            }
        }
        waits.kept.sort_unstable();
        waits.new.sort_unstable();
        Ok(waits)
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |waits: &[Duration]| {
            let at = |part: usize| waits.get(waits.len() * part / 100).map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
            format!("{:.2} / {:.2} ms of {}", at(50), at(99), waits.len())
        };
        write!(f, "a request {}, a new connection {}", one(&self.kept), one(&self.new))
    }
}

/// Callers' waits without and with a flood, and how large it was.
fn flooded(lab: &Lab, net: &Net, from: [u8; 3], to: &str) -> anyhow::Result<([Waits; 2], u64)> {
    let time = Duration::from_secs(number("MTLS_FLOOD_SECONDS", 2, 2)?);
    let before = Waits::of(lab, net, time)?;
    let stop = AtomicBool::new(false);
    let flood = Flood { place: &net.caller, from, to: to.parse()?, sources: SOURCES, gentle: true };
    let (during, sent) = thread::scope(|scope| {
        let flood = scope.spawn(|| flood.run(&stop));
        let during = Waits::of(lab, net, time);
        stop.store(true, Ordering::Relaxed);
        let sent = flood.join().map_err(|_| anyhow!("the flood panicked"))?;
        anyhow::Ok((during?, sent?))
    })?;
    println!("lockout: {sent} forged openings in {time:?}; p50 / p99 before: {before}; during: {during}");
    ensure!(sent > 1_000, "no flood: {sent} packets");
    Ok(([before, during], sent))
}

/// How many openings the appliance's kernel answered with a SYN cookie.
fn cookies_sent(net: &Net) -> anyhow::Result<u64> {
    let text = net.appliance.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/netstat")?))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: ")).map(str::split_whitespace);
    let (names, mut values) = lines.next().zip(lines.next()).context("no TcpExt in netstat")?;
    let at = { names }.position(|name| name == "SyncookiesSent").context("no SyncookiesSent")?;
    Ok(values.nth(at).context("a short line")?.parse()?)
}

fn a_flood_of_strangers_does_not_keep_callers_waiting(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    let (waits, sent) = flooded(lab, &all.net, [10, 77, 3], Net::UNREGISTERED)?;
    let [quiet, loud] = waits.each_ref().map(|waits| waits.kept[waits.kept.len() / 2]);
    ensure!(loud < quiet * 10 + Duration::from_millis(20), "half the requests took {loud:?} instead of {quiet:?}");
    let dropped = packets(&all.appliance, UNREGISTERED_SOURCE, "dropped")?;
    // Some are lost on their way to the interface, whose queue is bounded.
    ensure!(dropped >= sent / 2, "{sent} sent, {dropped} dropped at the interface");
    // Said about a few, not about each.
    let lines = all.appliance.events("guard").len();
    ensure!((1..200).contains(&lines), "{lines} lines about {sent} packets");
    all.appliance.must_be_alive()
}

fn a_forged_flood_of_registered_sources_does_not_keep_callers_out(lab: &Lab) -> anyhow::Result<()> {
    let mut all = guarded(lab, "auto")?;
    // The guard cannot know that these are forged: SYN cookies answer them, and no connection is made of one.
    let (_, sent) = flooded(lab, &all.net, [10, 77, 2], Net::REGISTERED)?;
    let passed = packets(&all.appliance, "registered", "passed")?;
    ensure!(passed >= sent / 2, "{sent} sent, {passed} passed");
    ensure!(cookies_sent(&all.net)? > 0, "the kernel sent no SYN cookies");
    // Bounded for each source, most of them end at the interface, and a caller that keeps within the budget is served.
    reload_with(lab, &mut all, |settings| {
        settings.set("guard.syns_per_source", 1).set("guard.syn_burst_per_source", BURST)
    })?;
    let (_, sent) = flooded(lab, &all.net, [10, 77, 2], Net::REGISTERED)?;
    let dropped = packets(&all.appliance, "source_over_budget", "dropped")?;
    println!("lockout: {dropped} of {sent} over their sources' budgets");
    let budgets = 2 * u64::from(BURST) * u64::from(SOURCES);
    ensure!(dropped > 0 || sent < budgets, "{sent} sent by {SOURCES} sources, none over its budget");
    all.appliance.must_be_alive()
}
