//! Area `native`: what a proxy spends on requests, connections and bodies, with TLS in userspace on both sides.
//!
//! Each proxy has one CPU, and load and origin have the other. What is told is the CPU time of the proxy's processes for one
//! piece of work, in userspace and in the kernel: it does not depend on how fast load and origin are. Work that the kernel
//! does for a packet while another process runs is not in it, for no proxy.

mod proxies;

use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, anyhow, ensure};
use mtls_appliance_tests::harness::{Cipher, Client, ClientTls, Lab, Place};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use self::proxies::{Kind, Origin, Proxy};
use crate::report;
use crate::statistics::Summary;

const AREA: &str = "native";
/// Connections that carry requests at the same time.
const CLIENTS: usize = 8;
const GIB: f64 = (1u64 << 30) as f64;

/// How much is measured in a round.
struct Effort {
    rounds: u32,
    /// Requests of each connection.
    requests: u32,
    /// Connections that each client opens.
    connections: u32,
    /// Bodies of 8 MiB that each client takes.
    bodies: u32,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
enum Work {
    Request,
    Connection,
    Body,
}

impl Work {
    const ALL: [Self; 3] = [Self::Request, Self::Connection, Self::Body];

    fn name(self) -> &'static str {
        match self {
            Self::Request => "GET of 1 KiB on a kept-alive connection",
            Self::Connection => "new connection with a full handshake and a GET of 1 KiB",
            Self::Body => "bodies of 8 MiB down",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Request => "CPU us/request",
            Self::Connection => "CPU us/connection",
            Self::Body => "CPU s/GiB",
        }
    }
}

/// A proxy, and callers of it.
struct Subject {
    proxy: Proxy,
    clients: Vec<Client>,
    values: [Vec<f64>; 3],
}

/// Measures it and prints rows.
///
/// # Errors
/// With one CPU, without one of the peers, or when a proxy does not serve as it should.
pub(crate) fn measure(quick: bool) -> anyhow::Result<()> {
    let effort = if quick {
        Effort { rounds: 5, requests: 500, connections: 25, bodies: 2 }
    } else {
        Effort { rounds: 21, requests: 2_000, connections: 100, bodies: 8 }
    };
    let [load, proxy] = two_cpus()?;
    run_on(load)?;
    let lab = Lab::create()?;
    let origin = Origin::start(&lab).context("the origin")?;
    let tls = lab.tls("client-p256")?.cipher(Cipher::Aes128)?;

    let mut subjects = Vec::new();
    for kind in Kind::ALL {
        // What is started runs where it was started from.
        run_on(proxy)?;
        let started = Proxy::start(kind, &lab, origin.address);
        run_on(load)?;
        let proxy = started.with_context(|| kind.subject().to_owned())?;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = connect(proxy.address(), &tls)?;
            let seen = client.get(proxies::CALLER, &[])?;
            proxies::told_who(&seen.text()).with_context(|| kind.subject().to_owned())?;
            clients.push(client);
        }
        subjects.push(Subject { proxy, clients, values: Default::default() });
    }
    for round in 0..effort.rounds {
        eprintln!("bench: native: round {} of {}", round + 1, effort.rounds);
        for (at, work) in Work::ALL.into_iter().enumerate() {
            for subject in &mut subjects {
                let value = subject.cost(work, &effort, &tls);
                let value = value.with_context(|| format!("{work:?} of {}", subject.proxy.subject()))?;
                subject.values[at].push(value);
            }
        }
    }
    for Subject { proxy, values, .. } in subjects {
        for (work, values) in Work::ALL.into_iter().zip(values) {
            let summary = Summary::of(values).context("no rounds")?;
            report::row(AREA, work.name(), proxy.subject(), work.unit(), summary);
        }
    }
    report::note(&format!(
        "native: median (interquartile range) of {} rounds; mutual TLS 1.3 with TLS_AES_128_GCM_SHA256 on both sides, in \
         userspace; {CLIENTS} callers; subject, serial number and fingerprint of the caller's certificate as headers; access log \
         on; the proxy on one CPU, load (rustls) and origin (nginx) on another",
        effort.rounds
    ));
    Ok(())
}

impl Subject {
    /// CPU time for one piece of that work.
    fn cost(&mut self, work: Work, effort: &Effort, tls: &ClientTls) -> anyhow::Result<f64> {
        let address = self.proxy.address();
        let before = self.proxy.cpu_seconds()?;
        let pieces: Vec<anyhow::Result<f64>> = thread::scope(|scope| {
            let workers: Vec<_> = self
                .clients
                .iter_mut()
                .map(|client| {
                    scope.spawn(move || match work {
                        Work::Request => requests(client, effort.requests),
                        Work::Connection => connections(address, tls, effort.connections),
                        Work::Body => bodies(client, effort.bodies),
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a client panicked"))?).collect()
        });
        let pieces: f64 = pieces.into_iter().sum::<anyhow::Result<f64>>()?;
        let seconds = self.proxy.cpu_seconds()? - before;
        Ok(match work {
            Work::Request | Work::Connection => seconds * 1e6 / pieces,
            Work::Body => seconds / pieces,
        })
    }
}

fn connect(address: SocketAddr, tls: &ClientTls) -> anyhow::Result<Client> {
    Client::connect(&Place::Here, address, tls)
}

fn small(client: &mut Client) -> anyhow::Result<()> {
    let response = client.get("/small", &[])?;
    ensure!(response.status == 200 && response.length == proxies::SMALL as u64, "{:?}", response.head);
    Ok(())
}

fn requests(client: &mut Client, count: u32) -> anyhow::Result<f64> {
    (0..count).try_for_each(|_| small(client))?;
    Ok(f64::from(count))
}

fn connections(address: SocketAddr, tls: &ClientTls, count: u32) -> anyhow::Result<f64> {
    for _ in 0..count {
        let mut client = connect(address, tls)?;
        ensure!(!client.resumed(), "a session was resumed");
        small(&mut client)?;
    }
    Ok(f64::from(count))
}

/// In GiB.
fn bodies(client: &mut Client, count: u32) -> anyhow::Result<f64> {
    for _ in 0..count {
        let response = client.download("/large")?;
        ensure!(response.status == 200 && response.length == proxies::LARGE as u64, "{:?}", response.head);
    }
    Ok(f64::from(count) * proxies::LARGE as f64 / GIB)
}

/// The first for the load, the last for the proxy.
fn two_cpus() -> anyhow::Result<[usize; 2]> {
    let allowed = sched_getaffinity(None).context("asking which CPUs are allowed")?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let first = cpus.next().context("no CPU is allowed")?;
    Ok([first, cpus.next_back().context("needs two CPUs: one for the proxy, one for load and origin")?])
}

/// This thread, and what it starts from now on.
fn run_on(cpu: usize) -> anyhow::Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).context("choosing a CPU")
}
