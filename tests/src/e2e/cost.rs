//! What the appliance spends on a body with TLS in userspace, with kernel TLS copied, and spliced, by length: the ground on
//! which the default of `offload.splice_from` stands.
//!
//! `MTLS_COST_ROUNDS=3 cargo xtask test --vm=6.12 --count-instructions cost::` makes a nanosecond of the table one
//! instruction, so that the figures are the same whatever else the machine does.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::{SPLICED, event};
use mtls_appliance_tests::harness::{Appliance, Client, Feature, Lab, Origin};
use mtls_appliance_tests::pattern;

use crate::case::cases;
use crate::effort::number;

cases!("cost":
    bodies_copied_and_spliced_by_length,
);

const LENGTHS_KIB: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];
const REQUESTS: u64 = 4;

/// An appliance that does one of the three, and a caller of it.
struct Way {
    name: &'static str,
    data_path: &'static str,
    appliance: Appliance,
    client: Client,
}

impl Way {
    fn new(
        lab: &Lab,
        origin: &Origin,
        (name, key, value, data_path): (&'static str, &str, &str, &'static str),
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
        Way::new(lab, &origin, ("userspace", "offload.mode", "off", "userspace"))?,
        Way::new(lab, &origin, ("copied", "offload.splice_from", "never", "kernel"))?,
        Way::new(lab, &origin, ("spliced", "offload.splice_from", "1B", SPLICED))?,
    ];
    for way in &mut ways {
        way.cost(&pattern::bytes(256 << 10)).context("the first requests")?;
    }
    println!("cost: body  userspace  copied  spliced  (thousand CPU nanoseconds of the appliance for one request)");
    for kib in LENGTHS_KIB {
        let body = pattern::bytes(kib << 10);
        let mut costs = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (way, costs) in ways.iter_mut().zip(&mut costs) {
                costs.push(way.cost(&body).with_context(|| format!("{kib} KiB {}", way.name))?);
            }
        }
        let [userspace, copied, spliced] = costs.map(|mut costs| {
            costs.sort_unstable();
            costs[rounds / 2] / 1000
        });
        println!("cost: {kib:3} KiB  {userspace:6}  {copied:6}  {spliced:6}");
    }
    for way in ways {
        let requests = (LENGTHS_KIB.len() * rounds + 1) * usize::try_from(REQUESTS)?;
        way.appliance.wait_requests(requests)?;
        let lines = way.appliance.events(event::REQUEST);
        let others: Vec<_> = lines.iter().filter(|line| line["data_path"] != way.data_path).collect();
        ensure!(others.is_empty(), "{} not {}: {:?}", others.len(), way.name, others.first());
    }
    Ok(())
}
