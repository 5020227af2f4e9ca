//! The same schedule over several ways: bodies spliced in the kernel, in sessions that were handed over at the handshake or
//! in the midst of a connection, bodies copied between kernel sessions, bodies copied with TLS in userspace, and straight
//! to the origin.
//!
//! A plan (see [`plan`]) is a client connection with one to four exchanges: framings, records of random sizes with
//! padding, empty ones, tickets and key updates, cut into random segments with pauses, receivers that are slow, and at
//! the end often a fault at a random byte. From the plan alone follows what each receiver must come to, whichever way
//! the bytes went: the whole body, or an error, never a part for the whole and never another byte.
//!
//! `MTLS_SEED` brings a run back, with `MTLS_PLAN` one plan of it alone; `MTLS_DIFFERENTIAL_SECONDS` (30) is how long
//! it goes on.

mod arena;
mod plan;
mod play;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::counter;
use mtls_appliance_tests::harness::{Appliance, Deadline, Feature, Lab, Place, RawClient, Settings, wait_until};

use crate::case::cases;
use crate::effort::{emulated, given, number};
use crate::records::can_renew;
use arena::{DIRECT, PlanOrigin, Side, Way};
use plan::{Expected, Plan};
use play::Verdict;

cases!("differential":
    spliced_copied_and_direct_come_to_the_same,
);

/// Plans at once: most of the time of each is waiting.
const PLAYERS: u64 = 4;
/// The appliances: `offload.mode`, `offload.hand_over_from`, and `offload.splice_from`. Without kernel TLS all of them copy
/// in userspace.
const MODES: [(&str, &str, &str, &str); 4] = [
    ("spliced", "auto", "handshake", "200B"),
    ("later", "auto", "3000B", "200B"),
    ("copied", "auto", "handshake", "never"),
    ("userspace", "off", "handshake", "16KiB"),
];
/// How many of them splice.
const SPLICING: usize = 2;
/// What the appliance may answer by itself when one side breaks.
const REFUSALS: [u16; 2] = [400, 502];

fn spliced_copied_and_direct_come_to_the_same(lab: &Lab) -> anyhow::Result<()> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let seed = given("MTLS_SEED")?.unwrap_or(clock.into());
    let only = given("MTLS_PLAN")?;
    let time = Duration::from_secs(number("MTLS_DIFFERENTIAL_SECONDS", 20, 30)?);
    let longest = if emulated() { 18 } else { 20 };
    let controls = can_renew()?;
    println!("differential: MTLS_SEED={seed}");

    let origin = PlanOrigin::start(lab)?;
    let settings = |(name, mode, hand_over_from, splice_from): (&str, &str, &str, &str)| -> anyhow::Result<Settings> {
        let settings = lab.settings(lab.free_address()?, origin.address)?;
        let timeouts = ["handshake", "header", "body", "connect", "response", "idle"];
        let settings = timeouts.iter().fold(settings, |settings, key| settings.set(&format!("timeouts.{key}"), "120s"));
        let socket = lab.path(&format!("{name}.sock")).display().to_string();
        let settings = settings.set("timeouts.origin_idle", "2s").set("control.socket", socket);
        let settings = settings.set("offload.mode", mode).set("offload.hand_over_from", hand_over_from);
        Ok(settings.set("offload.splice_from", splice_from))
    };
    let mut appliances = Vec::new();
    for mode in MODES {
        appliances.push(Appliance::start_as(lab, mode.0, &Place::Here, &settings(mode)?, &[])?);
    }
    let mut sides = Vec::new();
    for (at, appliance) in appliances.iter().enumerate() {
        let client = RawClient::new(lab, "client-p256", "edge-ca", "api.bank.test")?;
        sides.push(Side { number: at, address: appliance.address(), client });
    }
    let client = RawClient::new(lab, "appliance-client", "origin-ca", "origin.bank.test")?;
    sides.push(Side { number: DIRECT, address: origin.address, client });

    let next = AtomicU64::new(0);
    let played = Mutex::new(Vec::new());
    let begin = Instant::now();
    thread::scope(|scope| {
        let player = || -> anyhow::Result<()> {
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if begin.elapsed() >= time || (turn > 0 && only.is_some()) {
                    return Ok(());
                }
                let plan = Arc::new(Plan::new(seed, only.unwrap_or(turn), longest, controls));
                origin.arena.announce(&plan);
                for side in &sides {
                    let verdicts = side.run(&plan).with_context(|| {
                        format!("MTLS_SEED={seed} MTLS_PLAN={} on side {}", plan.number, side.number)
                    })?;
                    let mut played = played.lock().unwrap_or_else(PoisonError::into_inner);
                    played.push((Arc::clone(&plan), side.number, verdicts));
                }
            }
        };
        let players: Vec<_> = (0..PLAYERS).map(|_| scope.spawn(player)).collect();
        players.into_iter().try_for_each(|player| player.join().unwrap_or_else(|_| anyhow::bail!("a player panicked")))
    })?;
    wait_until("every connection to the origin to end", Deadline::seconds(60), || {
        Ok((origin.arena.open() == 0).then_some(()))
    })?;

    let played = played.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seen = origin.arena.seen();
    let mut wrong = origin.arena.wrong();
    let mut tally = Tally::default();
    for (plan, side, verdicts) in &played {
        wrong.extend(judge(plan, &sides[*side], verdicts, &seen, &mut tally));
    }
    let spliced = appliances.iter().map(|appliance| appliance.counter(counter::BYTES_SPLICED));
    let spliced = spliced.collect::<anyhow::Result<Vec<_>>>()?;
    let handed_over = appliances[1].counter("sessions_handed_over_later")?;
    println!(
        "differential: {} plays of {} plans in {:.1} s: {} bodies whole, {} broken as they must, {spliced:?} bytes spliced, \
         {handed_over} sessions handed over later",
        played.len(),
        played.len() / sides.len(),
        begin.elapsed().as_secs_f64(),
        tally.whole,
        tally.broken,
    );
    wrong.truncate(5);
    ensure!(wrong.is_empty(), "MTLS_SEED={seed}\n{}", wrong.join("\n"));
    ensure!(only.is_some() || (tally.whole > 0 && tally.broken > 0), "nothing was shown");
    match Feature::Ktls.missing() {
        None => {
            let enough = handed_over > 5 && spliced[..SPLICING].iter().all(|bytes| *bytes > 1 << 18);
            ensure!(
                only.is_some() || enough,
                "only {spliced:?} bytes were spliced, {handed_over} sessions handed over"
            );
        }
        Some(reason) => println!("differential: nothing was spliced: {reason}"),
    }
    ensure!(spliced[SPLICING..].iter().all(|bytes| *bytes == 0), "spliced although told not to");
    appliances.iter_mut().try_for_each(Appliance::must_be_alive)
}

#[derive(Default)]
struct Tally {
    whole: u64,
    broken: u64,
}

/// What is wrong with one play of a plan.
fn judge(
    plan: &Plan,
    side: &Side,
    verdicts: &[Verdict],
    seen: &HashMap<Way, Vec<Verdict>>,
    tally: &mut Tally,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (at, exchange) in plan.exchanges.iter().enumerate() {
        let up = seen.get(&(plan.number, side.number, at)).map(Vec::as_slice).unwrap_or_default();
        let down = verdicts.get(at);
        let mut check = |what: &str, expected: Expected, found: Option<&Verdict>| {
            let holds = match (expected, found) {
                (_, Some(Verdict::Wrong(_))) => false,
                (_, Some(Verdict::Refused(status))) if side.number == DIRECT || !REFUSALS.contains(status) => false,
                (Expected::Whole(length), found) => found == Some(&Verdict::Whole(length)),
                (Expected::Broken, found) => !matches!(found, Some(Verdict::Whole(_))),
                (Expected::Either, _) => true,
            };
            match expected {
                Expected::Whole(_) => tally.whole += 1,
                Expected::Broken => tally.broken += 1,
                Expected::Either => {}
            }
            if !holds {
                wrong.push(format!(
                    "MTLS_PLAN={} exchange {at} side {}: {what}: {found:?} instead of {expected:?}; {} with {:?}: {exchange:?}",
                    plan.number,
                    side.number,
                    plan.exchanges.len(),
                    plan.receive_buffer,
                ));
            }
        };
        if up.is_empty() {
            check("the request", exchange.expected_up(), None);
        }
        for verdict in up {
            check("the request", exchange.expected_up(), Some(verdict));
        }
        check("the answer", exchange.expected_down(), down);
    }
    wrong
}
