//! Start, drain and end.

use std::time::{Duration, Instant};

use anyhow::ensure;
use mtls_appliance_tests::harness::names::event;
use mtls_appliance_tests::harness::{Appliance, Deadline, Lab, Place, names, tcp, wait_until};
use mtls_appliance_tests::pattern;
use rustix::process::Signal;

use crate::case::cases;

cases!("lifecycle":
    sigterm_lets_a_running_transfer_finish,
    sigterm_closes_idle_connections_properly_and_ends_at_once,
    sigterm_stops_accepting,
    a_transfer_that_never_ends_does_not_outlive_the_drain_deadline,
    sigint_is_as_good_as_sigterm,
    a_signal_right_after_the_start_is_not_lost,
    status_tells_listeners_certificates_and_offload,
    status_of_a_stopped_appliance_says_so,
    check_accepts_a_good_configuration_and_opens_nothing,
    a_second_appliance_on_the_same_port_is_refused,
    it_starts_again_after_being_killed,
    it_tells_systemd_when_it_is_ready,
);

fn ended_well(appliance: &mut Appliance, within: u64) -> anyhow::Result<()> {
    let finished = appliance.process().wait(Deadline::seconds(within))?;
    ensure!(finished.status.success(), "{}: {}", finished.status, finished.output());
    ensure!(appliance.events(event::STOPPED).len() == 1, "no {} line", event::STOPPED);
    Ok(())
}

fn sigterm_lets_a_running_transfer_finish(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("GET", "/drip/100?ms=20", &[])?;
    origin.wait_journal("request", |_| true)?;
    appliance.process().signal(Signal::TERM)?;
    appliance.wait_event(event::DRAIN, |_| true)?;
    let response = client.response("GET")?;
    ensure!(response.body == pattern::bytes(100), "{} bytes", response.length);
    ended_well(&mut appliance, 10)
}

fn sigterm_closes_idle_connections_properly_and_ends_at_once(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/10", &[])?.status == 200);
    let begin = Instant::now();
    appliance.process().signal(Signal::TERM)?;
    let (rest, proper) = client.read_to_end()?;
    ensure!(rest.is_empty() && proper, "{} bytes, close_notify {proper}", rest.len());
    drop(client);
    ended_well(&mut appliance, 10)?;
    ensure!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    Ok(())
}

fn sigterm_stops_accepting(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    client.send_head("GET", "/drip/100?ms=60", &[])?;
    origin.wait_journal("request", |_| true)?;
    appliance.process().signal(Signal::TERM)?;
    appliance.wait_event(event::DRAIN, |_| true)?;
    let address = appliance.address();
    wait_until("new connections to be refused", Deadline::seconds(5), || {
        Ok(tcp(&Place::Here, address).is_err().then_some(()))
    })?;
    ensure!(appliance.process().is_running()?, "refused only because it has ended");
    let response = client.response("GET")?;
    ensure!(response.body == pattern::bytes(100));
    ended_well(&mut appliance, 10)
}

fn a_transfer_that_never_ends_does_not_outlive_the_drain_deadline(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance_with(&origin, |s| s.set("timeouts.drain", "1s"))?;
    let mut client = lab.client(&appliance)?;
    client.send_head("GET", "/hang", &[])?;
    origin.wait_journal("request", |_| true)?;
    let begin = Instant::now();
    appliance.process().signal(Signal::TERM)?;
    appliance.process().wait(Deadline::seconds(10))?;
    ensure!(begin.elapsed() < Duration::from_secs(6), "{:?}", begin.elapsed());
    Ok(())
}

fn sigint_is_as_good_as_sigterm(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    appliance.process().signal(Signal::INT)?;
    ended_well(&mut appliance, 10)
}

fn a_signal_right_after_the_start_is_not_lost(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    for round in 0..20 {
        let mut appliance = lab.appliance(&origin)?;
        appliance.process().signal(Signal::TERM)?;
        ended_well(&mut appliance, 10).map_err(|error| error.context(format!("start {round}")))?;
    }
    Ok(())
}

fn status_tells_listeners_certificates_and_offload(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    lab.curl(&appliance, "client-p256").ok("/headers")?;
    let status = appliance.status()?;
    ensure!(status["listeners"].to_string().contains(&appliance.address().to_string()), "{status}");
    for part in ["counters", "offload", "certificates"] {
        ensure!(!status[part].is_null(), "no {part}: {status}");
    }
    ensure!(!status.to_string().contains("PRIVATE KEY"), "{status}");
    Ok(())
}

fn status_of_a_stopped_appliance_says_so(lab: &Lab) -> anyhow::Result<()> {
    let settings = lab.settings(lab.free_address()?, "127.0.0.1:9".parse()?)?;
    let finished = Appliance::run(lab, &Place::Here, "status", &settings)?;
    ensure!(!finished.status.success() && finished.status.code().is_some(), "{}", finished.output());
    ensure!(finished.stderr.contains("control.sock"), "the socket is not named: {}", finished.output());
    Ok(())
}

fn check_accepts_a_good_configuration_and_opens_nothing(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let appliance = lab.appliance(&origin)?;
    // The same addresses are in use, which `check` must not even notice.
    let settings = lab.settings(appliance.address(), origin.address())?;
    let finished = Appliance::run(lab, &Place::Here, "check", &settings)?;
    ensure!(finished.status.success(), "{}", finished.output());
    Ok(())
}

fn a_second_appliance_on_the_same_port_is_refused(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let other = lab.path("other.sock").display().to_string();
    let settings = lab.settings(appliance.address(), origin.address())?.set("control.socket", other);
    let finished = Appliance::run(lab, &Place::Here, "run", &settings)?;
    let code = finished.status.code();
    ensure!(code == Some(names::EXIT_ENVIRONMENT), "{code:?}: {}", finished.output());
    for part in ["listener.addresses", &appliance.address().to_string(), "choose another port"] {
        ensure!(finished.stderr.contains(part), "no {part}: {}", finished.output());
    }
    ensure!(!lab.path("other.sock").exists(), "the control socket was left behind");
    appliance.must_be_alive()?;
    ensure!(lab.client(&appliance)?.get("/bytes/10", &[])?.status == 200);
    Ok(())
}

fn it_starts_again_after_being_killed(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let mut appliance = lab.appliance(&origin)?;
    let mut client = lab.client(&appliance)?;
    ensure!(client.get("/bytes/10", &[])?.status == 200);
    appliance.process().signal(Signal::KILL)?;
    appliance.process().wait(Deadline::seconds(10))?;
    // A left-over control socket and connections in TIME_WAIT must not stand in the way.
    appliance.restart(lab)?;
    ensure!(lab.client(&appliance)?.get("/bytes/10", &[])?.status == 200);
    appliance.must_be_alive()
}

fn it_tells_systemd_when_it_is_ready(lab: &Lab) -> anyhow::Result<()> {
    let origin = lab.origin()?;
    let path = lab.path("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let notify = path.display().to_string();
    let settings = lab.settings(lab.free_address()?, origin.address())?;
    let mut appliance = Appliance::start_with(lab, &Place::Here, &settings, &[("NOTIFY_SOCKET", &notify)])?;
    let mut told = String::new();
    let mut wait_for = |word: &str| -> anyhow::Result<()> {
        let mut message = [0; 4096];
        while !told.contains(word) {
            let length = socket
                .recv(&mut message)
                .map_err(|error| anyhow::anyhow!("{error}: waiting for {word}; so far: {told:?}"))?;
            told += &String::from_utf8_lossy(&message[..length]);
            told += "\n";
        }
        Ok(())
    };
    wait_for("READY=1")?;
    appliance.process().signal(Signal::TERM)?;
    wait_for("STOPPING=1")?;
    ended_well(&mut appliance, 10)
}
