//! A new process takes the place of the one that runs, and no caller notices.

pub(crate) mod failures;

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use mtls_appliance_tests::harness::names::{UNREGISTERED_SOURCE, counter, event};
use mtls_appliance_tests::harness::{
    Appliance, Client, ClientTls, Deadline, Lab, Net, Place, Settings, need_descriptors, wait_until,
};
use mtls_appliance_tests::pattern;

use crate::case::cases;
use crate::guard::{Guarded, answers, attached, connects, guarded};

cases!("take_over":
    three_take_overs_under_load_cost_no_connection_and_no_request,
    a_running_transfer_outlives_the_take_over,
    an_idle_connection_is_told_with_an_answer_to_connect_anew,
    an_idle_connection_that_stays_idle_is_closed_properly,
    addresses_may_come_and_go,
    the_guard_stays_attached_with_its_counters,
    the_old_process_tells_systemd_who_goes_on,
);

/// Callers with connections that they keep.
const KEEPING: usize = 40;
/// Callers with a connection for each request.
const ONCE: usize = 20;

/// An emulated machine takes its time over so many; what must not happen is an error.
fn patient(settings: Settings) -> Settings {
    let timeouts = ["handshake", "header", "body", "connect", "response"].map(|name| format!("timeouts.{name}"));
    timeouts.iter().fold(settings, |settings, key| settings.set(key, "120s"))
}

/// Callers at work until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    /// Answers after which the connection ended.
    told_to_go: Arc<AtomicU64>,
    failures: Arc<Mutex<Vec<String>>>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(lab: &Lab, address: SocketAddr) -> anyhow::Result<Self> {
        need_descriptors(1_000)?;
        let mut load = Self {
            stop: Arc::default(),
            served: Arc::default(),
            told_to_go: Arc::default(),
            failures: Arc::default(),
            callers: Vec::new(),
        };
        let identities = [lab.tls("client-p256")?, lab.tls("client-rsa")?, lab.tls("client-korean")?];
        for number in 0..KEEPING + ONCE {
            let tls = identities[number % identities.len()].clone();
            let (stop, served, told) = (Arc::clone(&load.stop), Arc::clone(&load.served), Arc::clone(&load.told_to_go));
            let failures = Arc::clone(&load.failures);
            let work = move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = one_connection(address, &tls, number, &stop, &served, &told) {
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        failures.push(format!("caller {number}: {error:#}"));
                        return;
                    }
                }
            };
            load.callers.push(thread::Builder::new().stack_size(512 * 1024).spawn(work)?);
        }
        Ok(load)
    }

    /// Waits until that many more requests have been served.
    fn go_on(&self, more: u64) -> anyhow::Result<()> {
        let until = self.served.load(Ordering::Relaxed) + more;
        let served = || Ok((self.served.load(Ordering::Relaxed) >= until || self.failed().is_some()).then_some(()));
        wait_until("requests to be served", Deadline::seconds(300), served)?;
        self.failed().map_or(Ok(()), |failure| Err(anyhow!("{failure}")))
    }

    fn failed(&self) -> Option<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    fn stop(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in std::mem::take(&mut self.callers) {
            caller.join().map_err(|_| anyhow!("a caller panicked"))?;
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let served = self.served.load(Ordering::Relaxed);
        ensure!(failures.is_empty(), "{} failures, {served} served; first: {:?}", failures.len(), failures.first());
        Ok(served)
    }
}

impl Drop for Load {
    /// A test that failed must not take the machine's time from the others.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One connection of a caller: a request, or requests until the appliance ends it or the caller is stopped.
fn one_connection(
    address: SocketAddr,
    tls: &ClientTls,
    number: usize,
    stop: &AtomicBool,
    served: &AtomicU64,
    told_to_go: &AtomicU64,
) -> anyhow::Result<()> {
    let mut client = Client::connect(&Place::Here, address, tls).context("connecting")?;
    client = client.patient(Duration::from_secs(120))?;
    for round in number.. {
        let length = round * 7919 % 60_000;
        let response = match round % 2 {
            0 => client.get(&format!("/bytes/{length}"), &[]),
            _ => client.post("/echo", &pattern::bytes(length)),
        };
        let response = response.with_context(|| format!("request {} of the connection", round - number))?;
        ensure!(response.status == 200 && response.body == pattern::bytes(length), "{:?}", response.head);
        served.fetch_add(1, Ordering::Relaxed);
        if response.head.has_token("Connection", "close") {
            told_to_go.fetch_add(1, Ordering::Relaxed);
            let (rest, proper) = client.read_to_end()?;
            ensure!(rest.is_empty() && proper, "{} more bytes, close_notify {proper}", rest.len());
            return Ok(());
        }
        if number >= KEEPING || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        // Connections are idle now and then, so that the take-over finds some in every state.
        if round % 5 == 0 {
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn ended_well(appliance: &mut Appliance, within: u64) -> anyhow::Result<()> {
    let finished = appliance.process().wait(Deadline::seconds(within))?;
    ensure!(finished.status.success(), "{}: {}", finished.status, finished.output());
    ensure!(appliance.events(event::STOPPED).len() == 1, "no {} line", event::STOPPED);
    Ok(())
}

fn three_take_overs_under_load_cost_no_connection_and_no_request(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, patient)?;
    let load = Load::start(lab, appliance.address())?;
    for round in 1..=3 {
        load.go_on(200)?;
        let told_before = load.told_to_go.load(Ordering::Relaxed);
        let successor = appliance.successor(lab).with_context(|| format!("take-over {round}"))?;
        let status = successor.status()?;
        ensure!(status["pid"] == successor.pid() && status["phase"] == "serving", "{status}");
        ensure!(status["predecessor"]["pid"] == appliance.pid(), "{status}");
        ended_well(&mut appliance, 120)?;
        ensure!(load.told_to_go.load(Ordering::Relaxed) > told_before, "nobody was told to connect anew");
        let drain = appliance.events(event::DRAIN);
        ensure!(drain.len() == 1 && drain[0]["successor"] == successor.pid(), "{drain:?}");
        load.go_on(200)?;
        let done = || Ok(successor.status()?["predecessor"]["ended_after_s"].as_u64());
        wait_until("the successor to see the end", Deadline::seconds(20), done)?;
        ensure!(successor.wait_counter(counter::REQUESTS, 200)? >= 200, "{}", successor.status()?);
        appliance = successor;
    }
    let served = load.stop()?;
    ensure!(origin.journal("malformed")?.is_empty() && origin.journal("broken")?.is_empty());
    println!("take_over: {served} requests of {} callers, three take-overs, no failure", KEEPING + ONCE);
    appliance.must_be_alive()
}

fn a_running_transfer_outlives_the_take_over(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let mut client = lab.client(&old)?;
    client.send_head("GET", "/drip/100?ms=20", &[])?;
    origin.wait_journal("request", |_| true)?;
    let new = old.successor(lab)?;
    ensure!(old.process().is_running()?, "the old process did not wait for the transfer");
    ensure!(lab.client(&new)?.get("/bytes/10", &[])?.status == 200);
    let response = client.response("GET")?;
    ensure!(response.body == pattern::bytes(100), "{} bytes", response.length);
    drop(client);
    ended_well(&mut old, 40)
}

fn an_idle_connection_is_told_with_an_answer_to_connect_anew(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance(&origin)?;
    let mut idle = lab.client(&old)?;
    ensure!(!idle.get("/bytes/10", &[])?.head.has_token("Connection", "close"));
    let new = old.successor(lab)?;
    old.wait_event(event::DRAIN, |_| true)?;
    idle.must_stay_silent(Duration::from_millis(300))?;
    let status = new.status()?;
    ensure!(status["predecessor"]["draining_for_s"].is_u64(), "{status}");
    let last = idle.get("/bytes/20", &[])?;
    ensure!(last.body == pattern::bytes(20) && last.head.has_token("Connection", "close"), "{:?}", last.head);
    let (rest, proper) = idle.read_to_end()?;
    ensure!(rest.is_empty() && proper, "{} bytes, close_notify {proper}", rest.len());
    drop(idle);
    let begin = Instant::now();
    ended_well(&mut old, 20)?;
    // Idle connections would be kept for 15 s.
    ensure!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    ensure!(new.counter(counter::REQUESTS)? == 0, "the new process answered");
    Ok(())
}

fn an_idle_connection_that_stays_idle_is_closed_properly(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut old = lab.appliance_with(&origin, |s| s.set("timeouts.drain", "4s"))?;
    let mut idle = lab.client(&old)?;
    ensure!(idle.get("/bytes/10", &[])?.status == 200);
    let begin = Instant::now();
    let _new = old.successor(lab)?;
    let (rest, proper) = idle.read_to_end()?;
    ensure!(rest.is_empty() && proper, "{} bytes, close_notify {proper}", rest.len());
    ensure!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    drop(idle);
    ended_well(&mut old, 10)
}

fn addresses_may_come_and_go(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let (kept, removed, added) = (lab.free_address()?, lab.free_address()?, lab.free_address()?);
    let with = |addresses: [SocketAddr; 2]| {
        let addresses = addresses.map(|address| address.to_string()).to_vec();
        anyhow::Ok(lab.settings(kept, origin.address())?.set("listener.addresses", addresses))
    };
    let mut old = Appliance::start(lab, &Place::Here, &with([kept, removed])?)?;
    let mut new = Appliance::begin_take_over(lab, &Place::Here, &with([added, kept])?)?;
    new.wait_ready()?;
    ended_well(&mut old, 20)?;
    let call = |address| Client::connect(&Place::Here, address, &lab.tls("client-p256")?)?.get("/bytes/10", &[]);
    ensure!(call(kept)?.status == 200 && call(added)?.status == 200);
    ensure!(call(removed).is_err(), "{removed} still answers");
    new.must_be_alive()
}

fn the_guard_stays_attached_with_its_counters(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, appliance: mut old, origin: _origin, _bpf } = guarded(lab, "auto")?;
    ensure!(!connects(&net, Net::UNREGISTERED)?);
    let before = old.wait_guard_packets(UNREGISTERED_SOURCE, 1)?;
    ensure!(old.status()?["guard"]["interfaces"][0]["held_by"] == old.pid(), "{}", old.status()?);
    // Who is dropped and who gets in must be the same at every moment: watched while the processes change.
    let watched = AtomicBool::new(true);
    let new = thread::scope(|scope| {
        let watch = scope.spawn(|| -> anyhow::Result<u32> {
            let mut rounds = 0;
            while watched.load(Ordering::Relaxed) {
                ensure!(attached(&net)?, "detached: {}", net.front_link()?);
                ensure!(connects(&net, Net::REGISTERED)?, "a registered source was not let in");
                rounds += 1;
            }
            Ok(rounds)
        });
        let new = old.successor(lab).and_then(|new| ended_well(&mut old, 40).map(|()| new));
        watched.store(false, Ordering::Relaxed);
        let rounds = watch.join().map_err(|_| anyhow!("the watcher panicked"))??;
        ensure!(rounds > 2, "watched {rounds} times");
        new
    })?;
    ensure!(attached(&net)?, "the old process took the guard with it");
    let status = new.status()?;
    ensure!(
        status["guard"]["interfaces"][0]["held_by"] == new.pid()
            && status["guard"]["interfaces"][0]["status"]["attached"] == true,
        "{status}"
    );
    ensure!(!connects(&net, Net::UNREGISTERED)?, "the take-over opened the guard");
    let after = new.wait_guard_packets(UNREGISTERED_SOURCE, before + 1)?;
    ensure!(after > before, "{before} before, {after} after");
    answers(lab, &net, Net::REGISTERED)
}

fn the_old_process_tells_systemd_who_goes_on(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let path = lab.path("notify.sock");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_nonblocking(true)?;
    let notify = path.display().to_string();
    let settings = lab.settings(lab.free_address()?, origin.address())?;
    let mut old = Appliance::start_with(lab, &Place::Here, &settings, &[("NOTIFY_SOCKET", &notify)])?;
    let new = old.successor(lab)?;
    ended_well(&mut old, 20)?;
    let mut told = Vec::new();
    let mut message = [0; 4096];
    while let Ok(length) = socket.recv(&mut message) {
        told.extend(String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned));
    }
    ensure!(told.contains(&format!("MAINPID={}", new.pid())), "{told:?}");
    ensure!(!told.iter().any(|line| line == "STOPPING=1"), "{told:?}");
    Ok(())
}
