//! What is left behind: memory, descriptors and pipes after many connections, vanishing callers and long mixes.
//!
//! `MTLS_IDLE_CONNECTIONS` (8000, in a virtual machine 200) and `MTLS_SOAK_SECONDS` (20, there 10) change how much.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use mtls_appliance_tests::harness::{
    Appliance, Client, ClientTls, Deadline, Lab, Origin, Place, Resources, Settings, half_a_handshake,
    need_descriptors, resident_kib, tcp, wait_until,
};
use mtls_appliance_tests::pattern;
use rustix::process::Signal;

use crate::case::cases;
use crate::dice::Dice;
use crate::effort::{emulated, number};

cases!("soak":
    many_idle_connections_cost_little_and_leave_nothing_behind,
    a_caller_that_vanishes_at_any_state_leaves_nothing_behind,
    a_caller_that_reads_nothing_costs_bounded_memory_and_ends_at_the_body_deadline,
    a_long_mix_of_everything_leaves_nothing_behind,
);

/// Resident memory that one idle connection may cost.
const IDLE_KIB: u64 = 40;
/// Resident memory that may stay when connections are gone: a fixed part, and one part in so many of what they took.
const KEPT_KIB: u64 = 6 * 1024;
const KEPT_PART: u64 = 8;
/// Resident memory that callers who do not read may cost together.
const SLOW_READER_KIB: u64 = 8 * 1024;
/// Ends of pipes that may be kept for the next body.
const PIPE_ENDS: usize = 128;
/// How long what callers left may take to be cleared away; generous for emulated machines, below every time-out.
const CLEARED: u64 = 20;
/// Callers of the long mix.
const CALLERS: u64 = 6;
/// Where the randomness of the long mix begins.
const SEED: u64 = 0x5eed_0b5e_55ed_cafe;

/// Limits and deadlines that play no part in what is shown.
fn roomy(settings: Settings) -> Settings {
    let limits = ["connections", "connections_per_source", "connections_per_organisation", "handshakes"];
    let timeouts = ["handshake", "header", "body", "connect", "response", "idle"];
    let settings = limits.iter().fold(settings, |settings, key| settings.set(&format!("limits.{key}"), 20_000));
    timeouts.iter().fold(settings, |settings, key| settings.set(&format!("timeouts.{key}"), "120s"))
}

/// What the appliance holds after a first caller came and went: only now it is sure that all of it is running.
fn settled(lab: &Lab, appliance: &Appliance, origin: &Origin) -> anyhow::Result<Resources> {
    in_step(&mut lab.client(appliance)?)?;
    no_origin_connection_is_left(origin, "the first caller")?;
    let descriptors = |resources: &Resources| (resources.sockets, resources.pipes, resources.others);
    wait_until("the first caller to be cleared away", Deadline::seconds(CLEARED), || {
        let counters = &appliance.status()?["counters"];
        if counters["connections_open"] != 0 || counters["handshakes_running"] != 0 {
            return Ok(None);
        }
        let before = Resources::of(appliance.pid())?;
        thread::sleep(Duration::from_millis(500));
        let after = Resources::of(appliance.pid())?;
        Ok((descriptors(&before) == descriptors(&after)).then_some(after))
    })
}

/// Waits until no connection is left and the descriptors are those of `start`, but for pipes kept in store.
fn cleared(appliance: &Appliance, start: Resources, what: &str) -> anyhow::Result<Resources> {
    let mut last = (start, String::new());
    wait_until(&format!("everything of {what} to be cleared away"), Deadline::seconds(CLEARED), || {
        last.0 = Resources::of(appliance.pid())?;
        if last.0.sockets > start.sockets {
            return Ok(None);
        }
        let counters = &appliance.status()?["counters"];
        last.1 = counters.to_string();
        // The question itself may have been among the descriptors.
        last.0 = Resources::of(appliance.pid())?;
        let none = counters["connections_open"] == 0 && counters["handshakes_running"] == 0;
        Ok((none && last.0.sockets <= start.sockets && last.0.others <= start.others).then_some(last.0))
    })
    .map_err(|error| error.context(format!("{start:?} before, now {:?}; counters {}", last.0, last.1)))?;
    ensure!(last.0.pipes <= start.pipes + PIPE_ENDS, "{} ends of pipes, {} before", last.0.pipes, start.pipes);
    Ok(last.0)
}

/// Resident memory is back where it was before connections that took `rise` KiB.
fn given_back(appliance: &Appliance, start: Resources, rise: u64) -> anyhow::Result<()> {
    let mut now = 0;
    wait_until("the memory of ended connections to be given back", Deadline::seconds(CLEARED), || {
        now = resident_kib(appliance.pid())?;
        Ok((now <= start.resident_kib + KEPT_KIB + rise / KEPT_PART).then_some(()))
    })
    .map_err(|error| error.context(format!("{} KiB before, {rise} more with them, now {now}", start.resident_kib)))
}

/// Every connection that the origin ever accepted has ended.
fn no_origin_connection_is_left(origin: &Origin, what: &str) -> anyhow::Result<()> {
    wait_until(&format!("the origin to see its connections of {what} end"), Deadline::seconds(CLEARED), || {
        Ok((origin.journal("connection")?.len() == origin.journal("end")?.len()).then_some(()))
    })
}

fn in_step(client: &mut Client) -> anyhow::Result<()> {
    let response = client.get("/bytes/100", &[])?;
    ensure!(response.status == 200 && response.body == pattern::bytes(100), "{:?}", response.head);
    Ok(())
}

/// Runs `work` in `count` threads and fails with the first error.
fn in_threads<T: Send>(count: u64, work: impl Fn(u64) -> anyhow::Result<T> + Sync) -> anyhow::Result<Vec<T>> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a caller panicked")))).collect()
    })
}

fn many_idle_connections_cost_little_and_leave_nothing_behind(lab: &Lab) -> anyhow::Result<()> {
    const THREADS: u64 = 4;
    let connections = number("MTLS_IDLE_CONNECTIONS", 8_000, 200)?;
    need_descriptors(connections + 500)?;
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| roomy(s).set("timeouts.origin_idle", "1s"))?;
    let (address, pid) = (appliance.address(), appliance.pid());
    let tls = lab.tls("client-p256")?;
    let open = |connections: u64| {
        let some = |number| {
            let share = connections / THREADS + u64::from(number < connections % THREADS);
            let one = |_| {
                let mut client = Client::connect(&Place::Here, address, &tls)?.patient(Duration::from_secs(120))?;
                in_step(&mut client).map(|()| client)
            };
            (0..share).map(one).collect::<anyhow::Result<Vec<Client>>>()
        };
        in_threads(THREADS, some)
    };
    let idle = settled(lab, &appliance, &origin)?;
    drop(open(40)?);
    let start = cleared(&appliance, idle, "the first callers")?;

    let begin = Instant::now();
    let held = open(connections)?;
    let opened = begin.elapsed();
    thread::sleep(Duration::from_millis(500));
    let full = Resources::of(pid)?;
    let rise = full.resident_kib.saturating_sub(start.resident_kib);
    let each = rise as f64 / connections as f64;
    println!(
        "soak: {connections} idle connections, opened in {:.1} s: {rise} KiB more resident, {each:.1} KiB each",
        opened.as_secs_f64()
    );
    ensure!(appliance.counter("connections_open")? == connections, "{}", appliance.status()?["counters"]);
    ensure!(full.sockets as u64 >= start.sockets as u64 + connections, "{full:?}");
    ensure!(rise <= connections * IDLE_KIB, "{each:.1} KiB for each idle connection, {IDLE_KIB} allowed");
    serve_and_close(held)?;
    let end = cleared(&appliance, start, "the idle connections")?;

    given_back(&appliance, start, rise)?;

    serve_and_close(open(connections)?)?;
    let again = cleared(&appliance, start, "as many idle connections again")?;
    println!(
        "soak: {} KiB resident before them, {} after, {} after as many again",
        start.resident_kib, end.resident_kib, again.resident_kib
    );
    given_back(&appliance, start, rise)?;
    no_origin_connection_is_left(&origin, "the idle connections")?;
    appliance.must_be_alive()
}

/// Shows that each is served still, and closes all of them in several ways.
fn serve_and_close(held: Vec<Vec<Client>>) -> anyhow::Result<()> {
    let serve = |clients: Vec<Client>| {
        for (number, mut client) in clients.into_iter().enumerate() {
            in_step(&mut client).context("after having been idle")?;
            match number % 3 {
                0 => client.close_notify()?,
                1 => client.reset()?,
                _ => drop(client),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = held.into_iter().map(|clients| scope.spawn(move || serve(clients))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a caller panicked")))
    })
}

/// A state of a connection in which its caller vanishes.
#[derive(Debug, Clone, Copy)]
enum State {
    Connected,
    HalfHello,
    HalfFinished,
    Silent,
    HalfHead,
    HeadWithoutBody,
    HalfUpload,
    HalfChunk,
    BetweenChunks,
    HalfRecord,
    WholeUploadUnanswered,
    Unanswered,
    HalfDownload,
    HalfChunkedDownload,
    HalfClosingDownload,
    TricklingDownload,
    Answered,
    HalfPipelined,
}

impl State {
    const ALL: [Self; 18] = [
        Self::Connected,
        Self::HalfHello,
        Self::HalfFinished,
        Self::Silent,
        Self::HalfHead,
        Self::HeadWithoutBody,
        Self::HalfUpload,
        Self::HalfChunk,
        Self::BetweenChunks,
        Self::HalfRecord,
        Self::WholeUploadUnanswered,
        Self::Unanswered,
        Self::HalfDownload,
        Self::HalfChunkedDownload,
        Self::HalfClosingDownload,
        Self::TricklingDownload,
        Self::Answered,
        Self::HalfPipelined,
    ];

    /// Goes there.
    fn reach(self, address: SocketAddr, tls: &ClientTls) -> anyhow::Result<Caller> {
        match self {
            Self::Connected => return Ok(Caller::Raw(tcp(&Place::Here, address)?)),
            Self::HalfHello => return Ok(Caller::Raw(half_a_handshake(&Place::Here, address, tls, 0)?)),
            Self::HalfFinished => return Ok(Caller::Raw(half_a_handshake(&Place::Here, address, tls, 1)?)),
            _ => {}
        }
        let mut client = Client::connect(&Place::Here, address, tls)?.patient(Duration::from_secs(120))?;
        match self {
            Self::Connected | Self::HalfHello | Self::HalfFinished | Self::Silent => {}
            Self::HalfHead => client.send("GET /bytes/10 HTTP/1.1\r\nHo")?,
            Self::HeadWithoutBody => client.send_head("POST", "/sha256", &["Content-Length: 1000"])?,
            Self::HalfUpload => {
                client.send_head("POST", "/sha256", &["Content-Length: 900000"])?;
                client.send(pattern::bytes(450_000))?;
            }
            Self::HalfChunk => {
                client.send_head("POST", "/echo", &["Transfer-Encoding: chunked"])?;
                client.send("20000\r\n")?;
                client.send(pattern::bytes(70_000))?;
            }
            Self::BetweenChunks => {
                client.send_head("POST", "/sha256", &["Transfer-Encoding: chunked"])?;
                client.send("5\r\nhello\r\n")?;
            }
            Self::HalfRecord => {
                client.send_head("POST", "/sha256", &["Content-Length: 100000"])?;
                client.send(pattern::bytes(50_000))?;
                client.send_half_a_record(&pattern::bytes(10_000))?;
            }
            Self::WholeUploadUnanswered => {
                client.send_head("POST", "/slow?ms=300", &["Content-Length: 100000"])?;
                client.send(pattern::bytes(100_000))?;
            }
            Self::Unanswered => client.send_head("GET", "/slow?ms=300", &[])?,
            Self::HalfDownload => begin_download(&mut client, "/bytes/20000000")?,
            Self::HalfChunkedDownload => begin_download(&mut client, "/chunked/20000000?size=50000")?,
            Self::HalfClosingDownload => begin_download(&mut client, "/close/20000000")?,
            Self::TricklingDownload => begin_download(&mut client, "/drip/200?ms=10")?,
            Self::Answered => in_step(&mut client)?,
            Self::HalfPipelined => {
                client.send_head("GET", "/bytes/100000", &[])?;
                client.send("POST /sha256 HTTP/1.1\r\nHost: x\r\nContent-Le")?;
            }
        }
        Ok(Caller::Tls(Box::new(client)))
    }
}

/// Asks for a body, and returns when the answer's first bytes are there.
fn begin_download(client: &mut Client, target: &str) -> anyhow::Result<()> {
    // The tickets have been read then, so what arrives next is the answer.
    in_step(client)?;
    client.send_head("GET", target, &[])?;
    client.wait_readable()
}

/// How a caller vanishes.
#[derive(Debug, Clone, Copy)]
enum End {
    CloseNotify,
    Fin,
    Reset,
    Close,
}

impl End {
    const ALL: [Self; 4] = [Self::CloseNotify, Self::Fin, Self::Reset, Self::Close];
}

enum Caller {
    Raw(TcpStream),
    Tls(Box<Client>),
}

impl Caller {
    fn vanish(self, end: End) -> anyhow::Result<()> {
        match (self, end) {
            (Self::Tls(mut client), End::CloseNotify) => {
                // The appliance may have been first, for instance because of what was sent before.
                let _ = client.close_notify();
            }
            (Self::Tls(mut client), End::Fin) => {
                let _ = client.fin();
                thread::sleep(Duration::from_millis(20));
            }
            (Self::Tls(client), End::Reset) => client.reset()?,
            (Self::Raw(socket), End::Fin | End::CloseNotify) => {
                let _ = socket.shutdown(Shutdown::Write);
                thread::sleep(Duration::from_millis(20));
            }
            (Self::Raw(socket), End::Reset) => {
                rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
            }
            (_, End::Close) => {}
        }
        Ok(())
    }
}

fn a_caller_that_vanishes_at_any_state_leaves_nothing_behind(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    // Without a store of idle connections every one that is left would be a leak.
    let mut appliance = lab.appliance_with(&origin, |s| roomy(s).set("origin.idle_per_identity", 0))?;
    let address = appliance.address();
    let tls = lab.tls("client-p256")?;
    let start = settled(lab, &appliance, &origin)?;
    let mut failures = Vec::new();
    for state in State::ALL {
        let all = End::ALL.iter().try_for_each(|end| {
            let vanish = || state.reach(address, &tls)?.vanish(*end);
            vanish().with_context(|| format!("vanishing at {state:?} by {end:?}"))
        });
        let left = all
            .and_then(|()| cleared(&appliance, start, &format!("callers that vanished at {state:?}")))
            .and_then(|_| no_origin_connection_is_left(&origin, &format!("callers that vanished at {state:?}")));
        if let Err(error) = left {
            failures.push(format!("{state:?}: {error:#}"));
        }
        // What one left must not reach the next.
        in_step(&mut Client::connect(&Place::Here, address, &tls)?)?;
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    no_panic(&appliance)?;
    appliance.must_be_alive()
}

fn no_panic(appliance: &Appliance) -> anyhow::Result<()> {
    let status = appliance.status()?;
    let counters = status["counters"].as_object().context("status has no counters")?;
    let panics: Vec<_> = counters.iter().filter(|(name, _)| name.starts_with("internal_error")).collect();
    ensure!(panics.is_empty(), "{panics:?}: {:?}", appliance.events("internal_error"));
    Ok(())
}

fn a_caller_that_reads_nothing_costs_bounded_memory_and_ends_at_the_body_deadline(lab: &Lab) -> anyhow::Result<()> {
    const DEADLINE: Duration = Duration::from_secs(3);
    let origin = lab.origin()?;
    let deadline = format!("{}s", DEADLINE.as_secs());
    let change = |s| roomy(s).set("timeouts.body", deadline).set("origin.idle_per_identity", 0);
    let mut appliance = lab.appliance_with(&origin, change)?;
    let start = settled(lab, &appliance, &origin)?;
    let targets = ["/bytes/50000000", "/chunked/50000000?size=100000", "/close/50000000"];
    let begin = Instant::now();
    let mut clients = Vec::new();
    for target in targets {
        let mut client = lab.client(&appliance)?;
        client.send_head("GET", target, &[])?;
        clients.push((target, client));
    }
    // The access log tells of a request when it has ended.
    let mut most = 0;
    wait_until("the body deadline to end those who do not read", Deadline::seconds(40), || {
        most = most.max(resident_kib(appliance.pid())?);
        Ok((appliance.events("request").len() > targets.len()).then_some(()))
    })?;
    let rise = most.saturating_sub(start.resident_kib);
    let took = begin.elapsed();
    println!(
        "soak: {} callers that read nothing: at most {rise} KiB more resident, ended after {took:.1?}",
        targets.len()
    );
    ensure!(took >= DEADLINE, "ended after {took:?}, before the deadline of {DEADLINE:?}");
    ensure!(rise < SLOW_READER_KIB, "{rise} KiB more resident, {SLOW_READER_KIB} allowed");
    for (target, mut client) in clients {
        ensure!(client.response("GET").is_err(), "{target}: the whole body, though the deadline had passed");
    }
    for line in appliance.events("request").iter().skip(1) {
        ensure!(line["reason"] == "timed_out" && line["blame"] == "client", "ended for another reason: {line}");
    }
    cleared(&appliance, start, "callers that read nothing")?;
    no_origin_connection_is_left(&origin, "callers that read nothing")?;
    no_panic(&appliance)?;
    appliance.must_be_alive()
}

/// One caller of the long mix.
struct Mixer<'a> {
    dice: Dice,
    address: SocketAddr,
    tls: &'a ClientTls,
    /// The longest body is two to this power.
    longest: u64,
    kept: Option<Client>,
}

impl Mixer<'_> {
    fn client(&mut self) -> anyhow::Result<Client> {
        match self.kept.take() {
            Some(client) if self.dice.roll(4) > 0 => Ok(client),
            _ => Client::connect(&Place::Here, self.address, self.tls)?.patient(Duration::from_secs(60)),
        }
    }

    fn step(&mut self) -> anyhow::Result<()> {
        match self.dice.roll(10) {
            0..=2 => self.download(),
            3..=5 => self.upload(),
            6..=7 => self.vanish(),
            _ => self.fault(),
        }
    }

    fn download(&mut self) -> anyhow::Result<()> {
        let length = self.dice.length(self.longest);
        let target = match self.dice.roll(4) {
            0 | 1 => format!("/bytes/{length}"),
            2 => format!("/chunked/{length}?size={}", self.dice.length(16) + 64),
            _ => format!("/close/{length}"),
        };
        let mut client = self.client()?;
        let response = client.download(&target).with_context(|| target.clone())?;
        ensure!(response.status == 200, "{target}: {:?}", response.head);
        ensure!(response.length == length && response.sha256 == pattern::sha256(length), "{target}: other bytes");
        if !target.starts_with("/close") {
            self.kept = Some(client);
        }
        Ok(())
    }

    fn upload(&mut self) -> anyhow::Result<()> {
        let length = self.dice.length(self.longest);
        let mut client = self.client()?;
        let response = match self.dice.roll(3) {
            0 => client.upload("/sha256", length)?,
            1 => {
                client.send_head("POST", "/sha256", &["Transfer-Encoding: chunked"])?;
                for chunk in pattern::bytes(usize::try_from(length)?).chunks(50_000) {
                    client.send(format!("{:x}\r\n", chunk.len()))?;
                    client.send(chunk)?;
                    client.send("\r\n")?;
                }
                client.send("0\r\n\r\n")?;
                client.response("POST")?
            }
            _ => {
                let length = length.min(30_000);
                let response = client.post("/echo", &pattern::bytes(usize::try_from(length)?))?;
                ensure!(response.sha256 == pattern::sha256(length), "{length} bytes echoed: {:?}", response.head);
                self.kept = Some(client);
                return Ok(());
            }
        };
        ensure!(response.status == 200, "{length} bytes up: {:?}", response.head);
        ensure!(response.json()?["sha256"] == pattern::sha256(length), "{length} bytes up: {}", response.text());
        self.kept = Some(client);
        Ok(())
    }

    fn vanish(&mut self) -> anyhow::Result<()> {
        let (state, end) = (self.dice.pick(&State::ALL)?, self.dice.pick(&End::ALL)?);
        let vanish = || state.reach(self.address, self.tls)?.vanish(end);
        vanish().with_context(|| format!("vanishing at {state:?} by {end:?}"))
    }

    fn fault(&mut self) -> anyhow::Result<()> {
        let length = self.dice.length(self.longest) + 2;
        let how = self.dice.pick(&["close_notify", "fin", "rst"])?;
        let target = match self.dice.roll(7) {
            0 => format!("/truncate/{length}?how={how}"),
            1 => format!("/truncate-chunked/{length}?how={how}"),
            2 => format!("/truncate-close/{length}?how={}", self.dice.pick(&["fin", "rst"])?),
            3 => format!("/garbage?how={how}"),
            4 => format!("/drop?how={how}"),
            5 => "/bad/chunk-size".to_owned(),
            _ => format!("/slow?ms={}", self.dice.roll(100)),
        };
        let mut client = self.client()?;
        let answer = client.download(&target);
        if target.starts_with("/slow") {
            ensure!(answer.with_context(|| target.clone())?.status == 200, "{target}");
            self.kept = Some(client);
        } else if let Ok(response) = answer {
            ensure!(response.status == 502, "{target} looks like success: {:?}", response.head);
        }
        Ok(())
    }
}

/// Has it reload and waits until that is counted: to look through a log of many minutes takes longer than the reload.
fn reload(appliance: &mut Appliance) -> anyhow::Result<()> {
    let before = appliance.counter("reloads")?;
    appliance.process().signal(Signal::HUP)?;
    wait_until("the reload to be counted", Deadline::seconds(CLEARED), || {
        Ok((appliance.counter("reloads")? > before).then_some(()))
    })
}

fn a_long_mix_of_everything_leaves_nothing_behind(lab: &Lab) -> anyhow::Result<()> {
    let time = Duration::from_secs(number("MTLS_SOAK_SECONDS", 20, 10)?);
    let longest = if emulated() { 18 } else { 21 };
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| roomy(s).set("timeouts.origin_idle", "1s"))?;
    let address = appliance.address();
    let identities = [lab.tls("client-p256")?, lab.tls("client-rsa")?, lab.tls("client-korean")?];
    let idle = settled(lab, &appliance, &origin)?;
    let steps = AtomicU64::new(0);

    let mix = |round: u64, time: Duration, appliance: &mut Appliance| -> anyhow::Result<()> {
        let begin = Instant::now();
        thread::scope(|scope| {
            let callers = scope.spawn(|| {
                in_threads(CALLERS, |caller| {
                    let tls = &identities[usize::try_from(caller)? % identities.len()];
                    let dice = Dice::new(SEED ^ (round << 32) ^ caller);
                    let mut mixer = Mixer { dice, address, tls, longest, kept: None };
                    let mut step = 0;
                    while begin.elapsed() < time {
                        mixer.step().with_context(|| format!("round {round}, caller {caller}, step {step}"))?;
                        step += 1;
                        steps.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            });
            while !callers.is_finished() {
                reload(appliance)?;
                thread::sleep(time / 10);
            }
            callers.join().unwrap_or_else(|_| bail!("a caller panicked")).map(drop)
        })
    };
    mix(0, time / 4, &mut appliance)?;
    let warm = cleared(&appliance, idle, "the first mix")?;
    mix(1, time - time / 4, &mut appliance)?;
    let end = cleared(&appliance, idle, "the long mix")?;

    in_step(&mut lab.client(&appliance)?)?;
    println!(
        "soak: {} steps, {} reloads; {} KiB resident after the first mix, {} after the long one, {} ends of pipes",
        steps.load(Ordering::Relaxed),
        appliance.counter("reloads")?,
        warm.resident_kib,
        end.resident_kib,
        end.pipes
    );
    ensure!(
        end.resident_kib <= 2 * warm.resident_kib,
        "{} KiB resident after the first mix, {} after the long one",
        warm.resident_kib,
        end.resident_kib
    );
    no_panic(&appliance)?;
    ensure!(origin.journal("malformed")?.is_empty(), "{:?}", origin.journal("malformed")?);
    no_origin_connection_is_left(&origin, "the long mix")?;
    appliance.must_be_alive()
}
