//! `guard watch` and `guard top`: what happens at the interface now. Plain lines, for any terminal.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use mtls_appliance_common::Reason;
use serde_json::{Value, json};

use crate::app::{Failure, guard_failure};
use crate::control::watch::{Next, Watch};
use crate::guard::{GuardCounters, PinnedGuard};

use super::Chosen;

/// How long an appliance that ended may take to be there again.
const RETURN: Duration = Duration::from_secs(5);
/// Sources that are told apart within one interval; further ones are counted together.
const MAX_SOURCES: usize = 4096;
/// Sources that are shown.
const SHOWN: usize = 10;

/// A reason by its name.
pub(super) fn reason(name: &str) -> Result<Reason, String> {
    Reason::by_name(name).ok_or_else(|| {
        let known: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("one of {}", known.join(", "))
    })
}

/// A time like `500ms`, `2s`, `1m`, between 100 ms and an hour.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(scale))
        .filter(|milliseconds| (100..=3_600_000).contains(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "a time from 100ms to 60m, like 500ms, 2s, 1m".to_owned())
}

/// Prints events until it is ended from outside.
pub(super) fn watch(chosen: &Chosen, only: Option<Reason>, as_json: bool) -> Result<(), Failure> {
    let path = &chosen.config.control_socket;
    let mut watch = Watch::open(path)?.ok_or_else(|| {
        Failure::Environment(format!(
            "control.socket = \"{}\": no appliance runs, and it is the appliance that reads the guard's events\n  start it; \
             `mtls-appliance guard top` and `guard status` show the counters without it",
            path.display()
        ))
    })?;
    eprintln!(
        "a sample: at most {} packets a second and interface that were dropped, or would have been (guard.log_per_second)",
        chosen.guard.log_per_second
    );
    loop {
        match watch.next(Duration::from_secs(3600)) {
            Next::Nothing => {}
            Next::Ended => watch = again(path)?,
            Next::Said(event) => {
                let wanted = is_of(&event, &chosen.interfaces)
                    && only.is_none_or(|only| event["reason"].is_null() || event["reason"] == only.name());
                let line = if as_json { event.to_string() } else { line(&event) };
                // Nobody reads any more: as when it is ended.
                if wanted && writeln!(std::io::stdout(), "{line}").is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether this is about one of these interfaces. How many events were lost concerns everybody.
fn is_of(event: &Value, interfaces: &[String]) -> bool {
    event["interface"].as_str().is_none_or(|interface| interfaces.iter().any(|one| one == interface))
}

/// The appliance that has taken over, or was started again.
fn again(path: &std::path::Path) -> Result<Watch, Failure> {
    let deadline = Instant::now() + RETURN;
    loop {
        match Watch::open(path) {
            Ok(Some(watch)) => {
                eprintln!("the appliance was replaced by another one: events in between are not known");
                return Ok(watch);
            }
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(200)),
            Ok(None) => {
                return Err(Failure::Environment(format!(
                    "control.socket = \"{}\": the appliance ended, and none has come since\n  the guard goes on without; start \
                     an appliance to watch it",
                    path.display()
                )));
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn line(event: &Value) -> String {
    if let Some(lost) = event["lost"].as_u64() {
        return format!("({lost} events were lost: this command was too slow)");
    }
    let text = |key: &str| event[key].as_str().unwrap_or("-");
    let port = |key: &str| match event[key].as_u64() {
        Some(0) | None => String::new(),
        Some(port) => format!(" port {port}"),
    };
    format!(
        "{} {:<10} {:<8} {:<24} {}{} to {}{} organisation {}",
        text("time"),
        text("interface"),
        text("action"),
        text("reason"),
        text("source"),
        port("source_port"),
        text("destination"),
        port("destination_port"),
        text("organisation"),
    )
}

/// Prints rates, interval by interval; `once`: of one.
pub(super) fn top(chosen: &Chosen, interval: Duration, once: bool, as_json: bool) -> Result<(), Failure> {
    let read = || {
        let counters = chosen.open()?.iter().map(PinnedGuard::counters).collect::<Result<Vec<_>, _>>();
        counters.map(|counters| GuardCounters::sum(&counters)).map_err(guard_failure)
    };
    let Chosen { config, guard, interfaces } = chosen;
    let mut watch = Watch::open(&config.control_socket).unwrap_or_default();
    let mut before = (Instant::now(), read()?);
    loop {
        let sources = collect(&mut watch, interfaces, before.0 + interval);
        let after = (Instant::now(), read()?);
        let rates = Rates::between(&before.1, &after.1, after.0 - before.0, sources, guard.log_per_second);
        let text = if as_json { format!("{}\n", rates.json()) } else { rates.text(&interfaces.join(", ")) };
        let clear = if !once && !as_json && std::io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
        if write!(std::io::stdout(), "{clear}{text}").is_err() || once {
            return Ok(());
        }
        before = after;
        if watch.is_none() {
            // It may have come.
            watch = Watch::open(&config.control_socket).unwrap_or_default();
        }
    }
}

/// Sources of sampled events until then; `None` when no appliance tells of any.
fn collect(watch: &mut Option<Watch>, interfaces: &[String], until: Instant) -> Option<HashMap<Option<IpNet>, u64>> {
    let mut sources = HashMap::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Some(events) = watch else {
            std::thread::sleep(left);
            return None;
        };
        if left.is_zero() {
            return Some(sources);
        }
        match events.next(left) {
            Next::Said(event) if !is_of(&event, interfaces) => {}
            Next::Said(event) => {
                let source = event["source"].as_str().and_then(|source| source.parse().ok()).map(block);
                let known = sources.len() < MAX_SOURCES || sources.contains_key(&source);
                *sources.entry(source.filter(|_| known)).or_default() += event["lost"].as_u64().unwrap_or(1);
            }
            Next::Nothing => {}
            Next::Ended => *watch = None,
        }
    }
}

/// An IPv4 address, or the /64 of an IPv6 address: one host or one customer.
fn block(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 32 } else { 64 };
    IpNet::new(address, length).map_or(IpNet::from(address), |net| net.trunc())
}

/// What happened in an interval.
struct Rates {
    seconds: f64,
    /// Name, then passed, dropped, observed.
    reasons: Vec<(&'static str, [u64; 3])>,
    /// First code, then registered, over budget.
    organisations: Vec<(String, [u64; 2])>,
    /// The most frequent ones first.
    sources: Option<Vec<(Option<IpNet>, u64)>>,
    sampled_per_second: u32,
}

impl Rates {
    fn between(
        before: &GuardCounters,
        after: &GuardCounters,
        span: Duration,
        sources: Option<HashMap<Option<IpNet>, u64>>,
        sampled_per_second: u32,
    ) -> Rates {
        let reasons = after.reasons.iter().zip(&before.reasons).map(|(after, before)| {
            let more = |what: fn(&crate::guard::ReasonCount) -> u64| what(after).saturating_sub(what(before));
            (after.reason, [more(|count| count.passed), more(|count| count.dropped), more(|count| count.observed)])
        });
        let organisations = after.organisations.iter().map(|after| {
            let before = before.organisations.iter().find(|before| before.code == after.code);
            let [packets, over] = before.map_or([0, 0], |before| [before.packets, before.over_budget]);
            (after.code.clone(), [after.packets.saturating_sub(packets), after.over_budget.saturating_sub(over)])
        });
        let mut organisations: Vec<_> = organisations.filter(|(_, more)| *more != [0, 0]).collect();
        organisations.sort_by_key(|(_, [packets, over])| std::cmp::Reverse(packets + over));
        let sources = sources.map(|sources| {
            let mut sources: Vec<_> = sources.into_iter().collect();
            sources.sort_by_key(|(source, count)| (std::cmp::Reverse(*count), *source));
            sources.truncate(SHOWN);
            sources
        });
        Rates {
            seconds: span.as_secs_f64(),
            reasons: reasons.filter(|(_, more)| *more != [0, 0, 0]).collect(),
            organisations,
            sources,
            sampled_per_second,
        }
    }

    fn per_second(&self, packets: u64) -> f64 {
        // One decimal is as much as an interval tells.
        (packets as f64 / self.seconds * 10.0).round() / 10.0
    }

    fn json(&self) -> Value {
        let rate = |packets| self.per_second(packets);
        let reasons = self.reasons.iter().map(|(reason, [passed, dropped, observed])| {
            json!({ "reason": reason, "passed": rate(*passed), "dropped": rate(*dropped), "observed": rate(*observed) })
        });
        let organisations = self.organisations.iter().map(
            |(code, [packets, over])| json!({ "code": code, "packets": rate(*packets), "over_budget": rate(*over) }),
        );
        let source = |(source, count): &(Option<IpNet>, u64)| json!({ "source": source, "events": count });
        json!({
            "seconds": self.seconds,
            "reasons": reasons.collect::<Vec<_>>(),
            "organisations": organisations.collect::<Vec<_>>(),
            "sampled_sources": self.sources.as_ref().map(|sources| sources.iter().map(source).collect::<Vec<_>>()),
            "sampled_per_second": self.sampled_per_second,
        })
    }

    fn text(&self, interface: &str) -> String {
        let rate = |packets| self.per_second(packets);
        let mut lines = format!("{interface}: packets per second, over {:.1} s\n\n", self.seconds);
        lines.push_str(&format!("  {:<26} {:>12} {:>12} {:>12}\n", "reason", "passed", "dropped", "observed"));
        for (reason, [passed, dropped, observed]) in &self.reasons {
            let numbers = format!("{:>12.1} {:>12.1} {:>12.1}", rate(*passed), rate(*dropped), rate(*observed));
            lines.push_str(&format!("  {reason:<26} {numbers}\n"));
        }
        lines.push_str(&format!("\n  {:<26} {:>12} {:>12}\n", "organisation", "registered", "over budget"));
        for (code, [packets, over]) in &self.organisations {
            lines.push_str(&format!("  {code:<26} {:>12.1} {:>12.1}\n", rate(*packets), rate(*over)));
        }
        match &self.sources {
            None => lines.push_str(
                "\n  sources that were dropped: not known, for no appliance runs, or as many watch it as may\n",
            ),
            Some(sources) => {
                let most = self.sampled_per_second;
                lines.push_str(&format!(
                    "\n  sources that were dropped, by address or IPv6 /64; a sample of at most {most} packets a second and interface\n"
                ));
                for (source, count) in sources {
                    let source = source.map_or("others".to_owned(), |source| source.to_string());
                    lines.push_str(&format!("  {source:<43} {count:>8}\n"));
                }
            }
        }
        lines.push('\n');
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{OrganisationCount, ReasonCount};

    fn counters(numbers: [u64; 3], organisations: &[(&str, u64, u64)]) -> GuardCounters {
        let [passed, dropped, observed] = numbers;
        let count = |reason| ReasonCount { reason, packets: passed + dropped + observed, passed, dropped, observed };
        let organisations = organisations.iter().map(|(code, packets, over_budget)| OrganisationCount {
            code: (*code).to_owned(),
            registered: true,
            packets: *packets,
            over_budget: *over_budget,
        });
        GuardCounters { reasons: vec![count("registered")], organisations: organisations.collect() }
    }

    #[test]
    fn rates_are_differences_over_time_the_largest_first() {
        let before = counters([10, 20, 30], &[("A", 5, 0), ("B", 7, 7), ("C", 1, 1)]);
        let after = counters([30, 20, 31], &[("A", 7, 0), ("B", 7, 107), ("C", 1, 1), ("NEW", 3, 0)]);
        let mut sources = HashMap::from([(None, 3)]);
        for host in 1..=20 {
            sources.insert(Some(block(IpAddr::from([10, 0, 0, host]))), u64::from(host));
        }
        let rates = Rates::between(&before, &after, Duration::from_secs(2), Some(sources), 10);
        let json = rates.json();
        assert_eq!(
            json["reasons"],
            json!([{ "reason": "registered", "passed": 10.0, "dropped": 0.0, "observed": 0.5 }])
        );
        let codes: Vec<_> = rates.organisations.iter().map(|(code, _)| code.as_str()).collect();
        assert_eq!(codes, ["B", "NEW", "A"]);
        let sources = json["sampled_sources"].as_array().unwrap();
        assert_eq!((sources.len(), &sources[0]["source"]), (SHOWN, &json!("10.0.0.20/32")));
        // Maps that were made anew begin at zero: no rate is below it.
        let rates = Rates::between(&after, &before, Duration::from_secs(2), None, 10);
        assert!(rates.json()["sampled_sources"].is_null() && rates.reasons.is_empty());
        assert!(rates.text("eth0").contains("no appliance runs"));
    }

    #[test]
    fn an_ipv6_source_stands_for_its_64() {
        assert_eq!(block("2001:db8:1:2:3::4".parse().unwrap()).to_string(), "2001:db8:1:2::/64");
        assert_eq!(block("192.0.2.7".parse().unwrap()).to_string(), "192.0.2.7/32");
    }

    #[test]
    fn intervals_have_a_unit_and_bounds() {
        for (text, milliseconds) in [("100ms", 100), ("1s", 1000), ("60m", 3_600_000)] {
            assert_eq!(interval(text), Ok(Duration::from_millis(milliseconds)));
        }
        for text in ["", "1", "s", "99ms", "61m", "1h", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_event_is_a_line_with_all_that_matters() {
        let event = json!({
            "time": "2026-11-23T00:00:00.123Z", "action": "dropped", "reason": "unregistered_source",
            "source": "203.0.113.9", "source_port": 49152, "destination": "192.0.2.1", "destination_port": 443,
            "organisation": null, "interface_index": 2,
        });
        let line = line(&event);
        for part in ["00.123Z", "dropped", "unregistered_source", "203.0.113.9 port 49152 to 192.0.2.1 port 443"] {
            assert!(line.contains(part), "{line}");
        }
        assert!(super::line(&json!({ "lost": 7 })).contains("7 events were lost"));
    }
}
