//! What time and the daemon change while packets come: budgets, signs of life, new registries, the log of drops.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mtls_appliance::config::{Budget, Guard, GuardMode};
use mtls_appliance::guard::LoadedGuard;

use crate::{FIRST, SECOND, compare, config, corpus, ethernet, ipv4, ipv6, loaded, registry, tcp};

#[test]
fn budgets_bound_new_connections_by_source_and_by_organisation() {
    let registry = registry(FIRST);
    let name = "budgets_bound_new_connections_by_source_and_by_organisation";
    let Some(guard) = loaded(name, &registry) else { return };
    let budget = |rate, burst| Some(Budget { rate, burst });
    // So slow that the clock does not matter here.
    let config = Guard { source_budget: budget(1, 5), organisation_budget: budget(1, 12), ..config() };
    guard.update(&config, &registry).unwrap();
    let syn = |source| ethernet(0x0800, &ipv4(source, 0, 0, 6, &tcp(443)));
    let with_flags = |source, flags| {
        let mut segment = tcp(443);
        segment[13] = flags;
        ethernet(0x0800, &ipv4(source, 0, 0, 6, &segment))
    };
    // What would become of a packet is said before, and is the same as long as the clock does not come in between.
    let surprises = std::cell::Cell::new(0);
    let passed = |frame: &[u8]| {
        let once = || {
            let asked = guard.judge(frame).unwrap();
            assert_eq!(guard.judge(frame).unwrap().charges, asked.charges, "asking charges");
            let passed = guard.run(frame, 1).unwrap().0 == 2;
            surprises.set(surprises.get() + usize::from(passed != (asked.action != "dropped")));
            passed
        };
        (0..10).filter(|_| once()).count()
    };
    let begun = Instant::now();
    let (first, second) = (passed(&syn([198, 51, 100, 1])), passed(&syn([198, 51, 100, 2])));
    let third = passed(&syn([198, 51, 100, 3]));
    let again = begun.elapsed().as_secs() as usize + 1;
    assert!((5..=5 + again).contains(&first) && (5..=5 + again).contains(&second), "{first} {second} of ten");
    assert!((2..=2 + 3 * again).contains(&third), "the organisation's budget has {third} left");
    assert_eq!(passed(&with_flags([198, 51, 100, 1], 0x10)), 10, "live connections are not touched");
    assert_eq!(passed(&syn([203, 0, 113, 200])).min(5), 5, "another organisation has its own");
    assert!(surprises.get() <= again, "{} of 50 packets were not what was said", surprises.get());
    let asked = guard.judge(&with_flags([203, 0, 113, 201], 0x02)).unwrap();
    assert_eq!((asked.charges.source, asked.reason), (true, "registered"));
    let asked = guard.judge(&with_flags([203, 0, 113, 201], 0x10)).unwrap();
    assert!(!asked.charges.source && !asked.charges.organisation);
    // One /64 is one source.
    let v6 = |source: &str| ethernet(0x86dd, &ipv6(source.parse().unwrap(), &[], 6, &tcp(443)));
    let of_64 = [v6("2001:db8:b::7")].iter().map(|frame| passed(frame)).sum::<usize>();
    assert!(of_64 <= 5 + again, "{of_64}");
    let counters = guard.counters().unwrap();
    assert!(counters.reason("source_over_budget") > 0 && counters.reason("organisation_over_budget") > 0);
    let organisation = counters.organisations.iter().find(|count| count.code == "ORGA").unwrap();
    assert_eq!(organisation.over_budget as usize, 30 - first - second - third);
    // Observed, the same packets pass and are counted as what they would be.
    guard.update(&Guard { mode: GuardMode::Observe, ..config.clone() }, &registry).unwrap();
    assert_eq!(passed(&syn([198, 51, 100, 1])), 10);
    let reasons = guard.counters().unwrap().reasons;
    assert!(reasons.iter().any(|count| count.reason == "source_over_budget" && count.observed > 0));
    // Without budgets nothing of it matters.
    guard.update(&Guard { source_budget: None, organisation_budget: None, ..config }, &registry).unwrap();
    assert_eq!(passed(&syn([198, 51, 100, 1])), 10);
}

#[test]
fn a_daemon_that_is_gone_opens_the_guard_only_if_it_should() {
    let registry = registry(FIRST);
    let Some(guard) = loaded("a_daemon_that_is_gone_opens_the_guard_only_if_it_should", &registry) else { return };
    let stranger = ethernet(0x0800, &ipv4([9, 9, 9, 9], 0, 0, 6, &tcp(443)));
    let verdict = || guard.run(&stranger, 1).unwrap().0;
    assert_eq!(verdict(), 1, "drops go on, whatever the daemon does");
    let open_after = Duration::from_secs(1);
    guard.beat().unwrap();
    guard.update(&Guard { open_after: Some(open_after), ..config() }, &registry).unwrap();
    assert_eq!(verdict(), 1);
    std::thread::sleep(open_after + Duration::from_millis(200));
    assert_eq!(verdict(), 2);
    assert_eq!(guard.counters().unwrap().reason("daemon_gone"), 1);
    guard.beat().unwrap();
    assert_eq!(verdict(), 1, "it is back");
}

#[test]
fn a_new_registry_takes_effect_and_organisations_keep_their_counters() {
    let (first, second) = (registry(FIRST), registry(SECOND));
    let Some(mut guard) = loaded("a_new_registry_takes_effect_and_organisations_keep_their_counters", &first) else {
        return;
    };
    let from = |source| ethernet(0x0800, &ipv4(source, 0, 0, 6, &tcp(443)));
    let (a, b, new) = (from([198, 51, 100, 1]), from([203, 0, 113, 200]), from([10, 1, 2, 3]));
    let verdicts = |guard: &mut LoadedGuard| [&a, &b, &new].map(|frame| guard.run(frame, 1).unwrap().0);
    assert_eq!(verdicts(&mut guard), [2, 2, 1]);
    // Twice each way: both banks are filled and emptied.
    for _ in 0..2 {
        guard.update(&config(), &second).unwrap();
        assert_eq!(verdicts(&mut guard), [2, 1, 2]);
        compare(&mut guard, &config(), &second, corpus().into_iter());
        guard.update(&config(), &first).unwrap();
        assert_eq!(verdicts(&mut guard), [2, 2, 1]);
        compare(&mut guard, &config(), &first, corpus().into_iter());
    }
    let before = guard.counters().unwrap();
    assert_eq!(guard.run(&b, 5).unwrap().0, 2);
    let after = guard.counters().unwrap();
    assert_eq!(after.organisation("ORGB"), before.organisation("ORGB") + 5);
    assert_eq!(after.organisation("NEW"), before.organisation("NEW"));
    assert!(!after.organisations.iter().any(|count| count.code == "NEW" && count.registered));
}

/// Says so when it is dropped.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_reload_under_load_never_lets_go_of_who_is_in_both_registries() {
    let (first, second) = (registry(FIRST), registry(SECOND));
    let name = "a_reload_under_load_never_lets_go_of_who_is_in_both_registries";
    let Some(guard) = loaded(name, &first) else { return };
    // 198.51.100.0/24 is in both, of another organisation; 9.9.9.9 in none.
    let known = ethernet(0x0800, &ipv4([198, 51, 100, 1], 0, 0, 6, &tcp(443)));
    let stranger = ethernet(0x0800, &ipv4([9, 9, 9, 9], 0, 0, 6, &tcp(443)));
    let guard = &guard;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let packets = scope.spawn(|| {
            let mut runs = 0u64;
            while !done.load(Ordering::Relaxed) {
                guard.run(&known, 10_000).unwrap();
                guard.run(&stranger, 10_000).unwrap();
                runs += 1;
            }
            runs
        });
        // However this ends: the scope waits for the packets.
        let stop = Stop(&done);
        // Both registries must have met packets. A test run and a reload each wait for the same RCU grace periods: if they
        // took turns evenly, the known source could come at the same one of the two registries for ever.
        let started = Instant::now();
        let met = |code| guard.counters().unwrap().organisation(code) >= 50_000;
        let mut reload = 0u32;
        while reload < 200 || !(met("ORGA") && met("ORGB")) {
            assert!(started.elapsed() < Duration::from_secs(60), "the load did not meet {reload} reloads");
            let uneven = reload.count_ones().is_multiple_of(2);
            guard.update(&config(), if uneven { &second } else { &first }).unwrap();
            reload += 1;
        }
        drop(stop);
        let runs = packets.join().unwrap();
        let counters = guard.counters().unwrap();
        assert_eq!(counters.reason("registered"), runs * 10_000);
        assert_eq!(counters.reason("unregistered_source"), runs * 10_000);
        let organisations = counters.organisation("ORGA") + counters.organisation("ORGB");
        assert_eq!(organisations, runs * 10_000);
    });
}

#[test]
fn a_flood_of_drops_does_not_become_a_flood_of_logs() {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    struct Collect;
    impl log::Log for Collect {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            metadata.target() == "guard"
        }
        fn log(&self, record: &log::Record<'_>) {
            if record.target() == "guard" {
                LINES.lock().unwrap().push(record.args().to_string());
            }
        }
        fn flush(&self) {}
    }
    let registry = registry(FIRST);
    let Some(guard) = loaded("a_flood_of_drops_does_not_become_a_flood_of_logs", &registry) else { return };
    log::set_logger(&Collect).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let begin = Instant::now();
    let stranger: IpAddr = "2001:db8:dead::1".parse().unwrap();
    guard.run(&ethernet(0x86dd, &ipv6(stranger, &[], 6, &tcp(8443))), 1_000_000).unwrap();
    let seconds = begin.elapsed().as_secs() as usize;
    let events = guard.events();
    assert!(!events.is_empty() && events.len() <= seconds + 2, "{} events in {seconds} s", events.len());
    let event = &events[0];
    assert_eq!((event.action, event.reason), ("dropped", "unregistered_source"));
    assert_eq!((event.source, event.source_port), (stranger, 49152));
    assert_eq!((event.destination.to_string().as_str(), event.destination_port), ("2001:db8::1", 8443));
    assert_eq!(event.organisation, None);
    assert!(guard.events().is_empty(), "told twice");
    let mut log = guard.log_stream().unwrap();
    log.flush();
    let lines = LINES.lock().unwrap();
    // One a second, and one that the rate allows at once.
    assert!(!lines.is_empty() && lines.len() <= seconds + 2, "{} lines in {seconds} s", lines.len());
    assert_eq!(lines[0], "dropped 2001:db8:dead::1 port 49152 to 2001:db8::1 port 8443: unregistered_source");
}
