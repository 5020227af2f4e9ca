//! Settings of the kernel that harm the service are reported, and left as they are.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{Appliance, Feature, Lab, Net};
use serde_json::Value;

use crate::case::cases;
use crate::guard::at;

cases!("host":
    syn_cookies_that_are_off_are_reported_and_left_off,
);

const COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

fn about_cookies(findings: &Value) -> anyhow::Result<Option<Value>> {
    let all = findings.as_array().with_context(|| format!("no findings: {findings}"))?;
    Ok(all.iter().find(|finding| finding["setting"] == "net.ipv4.tcp_syncookies").cloned())
}

fn syn_cookies_that_are_off_are_reported_and_left_off(lab: &Lab) -> anyhow::Result<()> {
    Feature::Netns.need()?;
    let net = Net::create()?;
    let set = |value: &'static str| net.appliance.enter(|| Ok(std::fs::write(COOKIES, value)?));
    set("0")?;
    let origin = SocketAddr::new(Net::ORIGIN.parse()?, 9443);
    let settings = lab.settings(at(Net::REGISTERED)?, origin)?;
    let checked = Appliance::run(lab, &net.appliance, "check", &settings)?;
    ensure!(checked.status.success(), "{}", checked.output());
    let line = "warning: net.ipv4.tcp_syncookies is 0, recommended is 1: SYNs with forged sources";
    ensure!(checked.stderr.contains(line), "{}", checked.output());

    let mut appliance = Appliance::start(lab, &net.appliance, &settings)?;
    let logged = appliance.wait_event("host_setting", |line| line["setting"] == "net.ipv4.tcp_syncookies")?;
    for finding in [logged, about_cookies(&appliance.status()?["host"])?.context("not in the status")?] {
        ensure!(finding["found"] == "0" && finding["recommended"] == "1", "{finding}");
        ensure!(finding["remedy"].to_string().contains("sysctl -w net.ipv4.tcp_syncookies"), "{finding}");
    }
    let left = net.appliance.enter(|| Ok(std::fs::read_to_string(COOKIES)?))?;
    ensure!(left.trim() == "0", "it was set to {left}");
    // The status is about now.
    set("1")?;
    let now = about_cookies(&appliance.status()?["host"])?;
    ensure!(now.is_none(), "{now:?}");
    Ok(())
}
