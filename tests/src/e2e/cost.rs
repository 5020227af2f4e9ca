//! What the appliance spends on a body with TLS in userspace, with kernel TLS copied, spliced, and with sessions handed over
//! by `offload.hand_over_from`, by length: the ground on which the defaults of that and of `offload.splice_from` stand.
//!
//! `MTLS_COST_ROUNDS=3 cargo xtask test --vm=6.12 --count-instructions cost::` makes a nanosecond of the table one
//! instruction, so that the figures are the same whatever else the machine does.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{SPLICED, event};
use mtls_appliance_tests::harness::{Appliance, Client, Deadline, Feature, Lab, Origin, wait_until};
use mtls_appliance_tests::pattern;
use serde_json::Value;

use crate::case::cases;
use crate::effort::number;

cases!("cost":
    bodies_copied_and_spliced_by_length,
    connections_with_one_small_request,
);

const LENGTHS_KIB: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const REQUESTS: u64 = 4;
/// From here on sessions are handed over that are not at the handshake.
const LATER_KIB: usize = 16;

/// An appliance that does one of them, and a caller of it.
struct Way {
    name: &'static str,
    /// Which way it moves bodies, those before [`LATER_KIB`] and the others.
    data_path: [&'static str; 2],
    appliance: Appliance,
    client: Client,
}

impl Way {
    fn new(
        lab: &Lab,
        origin: &Origin,
        (name, key, value): (&'static str, &str, &str),
        data_path: [&'static str; 2],
    ) -> anyhow::Result<Self> {
        let socket = lab.path(&format!("{name}.sock")).display().to_string();
        let appliance =
            lab.appliance_with(origin, |s| s.set(key, value).set("control.socket", socket).set("listener.workers", 1))?;
        let client = lab.client(&appliance)?;
        Ok(Self { name, data_path, appliance, client })
    }

    /// CPU nanoseconds for one request with a body of that length.
    fn cost(&mut self, body: &[u8]) -> anyhow::Result<u64> {
        let before = cpu(self.appliance.pid())?;
        for _ in 0..REQUESTS {
            self.client.send_head("POST", "/sha256", &[&format!("Content-Length: {}", body.len())])?;
            // Whatever arrives together with the head is copied in any case.
            thread::sleep(Duration::from_millis(30));
            self.client.send(body)?;
            let response = self.client.response("POST")?;
            ensure!(response.status == 200, "{:?}", response.head);
        }
        Ok((cpu(self.appliance.pid())? - before) / REQUESTS)
    }
}

/// Nanoseconds that all threads of a process have run, in userspace and in the kernel.
fn cpu(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let ran: u64 = text.split(' ').next().context("an empty schedstat")?.parse()?;
        sum += ran;
    }
    Ok(sum)
}

fn bodies_copied_and_spliced_by_length(lab: &Lab) -> anyhow::Result<()> {
    Feature::Ktls.need()?;
    // Measured in turn, and the median is told.
    let rounds = usize::try_from(number("MTLS_COST_ROUNDS", 1, 1)?)?;
    let origin = lab.origin()?;
    let mut ways = [
        Way::new(lab, &origin, ("userspace", "offload.mode", "off"), ["userspace"; 2])?,
        Way::new(lab, &origin, ("copied", "offload.splice_from", "never"), ["kernel"; 2])?,
        Way::new(lab, &origin, ("spliced", "offload.splice_from", "1B"), [SPLICED; 2])?,
        Way::new(lab, &origin, ("later", "offload.hand_over_from", "16KiB"), ["userspace", SPLICED])?,
    ];
    for way in &mut ways {
        // What is handed over later would be with these.
        let kib = if way.name == "later" { 1 } else { 256 };
        way.cost(&pattern::bytes(kib << 10)).context("the first requests")?;
    }
    println!(
        "cost: body  userspace  copied  spliced  later  (thousand CPU nanoseconds of the appliance for one request)"
    );
    for kib in LENGTHS_KIB {
        let body = pattern::bytes(kib << 10);
        let mut costs = [const { Vec::new() }; 4];
        for _ in 0..rounds {
            for (way, costs) in ways.iter_mut().zip(&mut costs) {
                costs.push(way.cost(&body).with_context(|| format!("{kib} KiB {}", way.name))?);
            }
        }
        let [userspace, copied, spliced, later] = costs.map(|mut costs| {
            costs.sort_unstable();
            costs[rounds / 2] / 1000
        });
        println!("cost: {kib:3} KiB  {userspace:6}  {copied:6}  {spliced:6}  {later:6}");
    }
    for way in ways {
        let requests = (LENGTHS_KIB.len() * rounds + 1) * usize::try_from(REQUESTS)?;
        way.appliance.wait_requests(requests)?;
        let lines = way.appliance.events(event::REQUEST);
        let expected = |line: &Value| {
            let large = line["bytes_in"].as_u64() >= Some((LATER_KIB << 10) as u64);
            way.data_path[usize::from(large)]
        };
        let others: Vec<_> = lines.iter().filter(|line| line["data_path"] != expected(line)).collect();
        ensure!(others.is_empty(), "{} not {}: {:?}", others.len(), way.name, others.first());
    }
    Ok(())
}

/// What a caller costs that comes for one small request: the hand-over is a part of it, if there is one.
fn connections_with_one_small_request(lab: &Lab) -> anyhow::Result<()> {
    Feature::Ktls.need()?;
    let rounds = usize::try_from(number("MTLS_COST_ROUNDS", 1, 1)?)?;
    let origin = lab.origin()?;
    let ways = [
        Way::new(lab, &origin, ("handshake", "offload.hand_over_from", "handshake"), ["kernel"; 2])?,
        Way::new(lab, &origin, ("later", "offload.hand_over_from", "16KiB"), ["userspace"; 2])?,
    ];
    let mut costs = [const { Vec::new() }; 2];
    // The first round opens the connections to the origin, too.
    for round in 0..=rounds {
        for (way, costs) in ways.iter().zip(&mut costs) {
            let before = cpu(way.appliance.pid())?;
            let ended = way.appliance.events("connection").len();
            for _ in 0..REQUESTS {
                let mut client = lab.client(&way.appliance)?;
                ensure!(client.get("/bytes/1000", &["Connection: close"])?.length == 1000);
                ensure!(client.read_to_end()?.1, "no close_notify");
            }
            wait_until("the connections to end", Deadline::seconds(20), || {
                Ok((way.appliance.events("connection").len() >= ended + REQUESTS as usize).then_some(()))
            })?;
            if round > 0 {
                costs.push((cpu(way.appliance.pid())? - before) / REQUESTS);
            }
        }
    }
    let [handshake, later] = costs.map(|mut costs| {
        costs.sort_unstable();
        costs[rounds / 2] / 1000
    });
    println!(
        "cost: a connection with one small request, handed over with the handshake {handshake:6}, not at all {later:6}"
    );
    for way in ways {
        let lines = way.appliance.events(event::REQUEST);
        let others: Vec<_> = lines.iter().filter(|line| line["data_path"] != way.data_path[0]).collect();
        ensure!(others.is_empty(), "{} not {}: {:?}", others.len(), way.name, others.first());
    }
    Ok(())
}
