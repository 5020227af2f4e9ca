//! The guard where another tool has the interface: it is named, with the way out, and left alone.

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::names::EXIT_ENVIRONMENT;
use mtls_appliance_tests::harness::{Appliance, FOREIGN, Lab, Net, attach_foreign};

use crate::case::cases;
use crate::guard::{Guarded, answers, attached, connects, guarded};
use crate::guard_commands::{attach, bare, run};

cases!("guard_foreign":
    another_tools_program_is_named_and_stays,
    one_that_comes_with_a_new_interface_is_named_and_stays,
);

/// What `ip` says about the program at the front interface.
fn program(net: &Net) -> anyhow::Result<String> {
    let link = net.front_link()?;
    let line = link.lines().find(|line| line.contains("prog/xdp"));
    line.map(|line| line.trim().to_owned()).with_context(|| format!("no program: {link}"))
}

fn another_tools_program_is_named_and_stays(lab: &Lab) -> anyhow::Result<()> {
    let bare = bare(lab)?;
    let net = &bare.net;
    for (word, mode) in [("xdp", "native"), ("xdpgeneric", "generic")] {
        attach_foreign(net, &lab.path(""), word)?;
        let foreign = program(net)?;
        let id = foreign.split_whitespace().nth(2).context("no id")?;
        let way_out = [word, "off"];
        for command in ["guard attach", "run"] {
            let finished = run(lab, net, command, &bare.settings)?;
            ensure!(finished.status.code() == Some(EXIT_ENVIRONMENT), "{command}: {}", finished.output());
            let remedy = format!("`ip link set dev front {}`", way_out.join(" "));
            for part in ["guard.interfaces, \"front\"", FOREIGN, &format!("id {id}"), mode, &remedy] {
                ensure!(finished.stderr.contains(part), "{command}: no {part:?}: {}", finished.output());
            }
            ensure!(program(net)? == foreign, "{command}: {foreign} became {}", program(net)?);
        }
        let status = run(lab, net, "guard status", &bare.settings)?;
        ensure!(status.status.code() == Some(EXIT_ENVIRONMENT), "{}", status.output());
        let detach = run(lab, net, "guard detach", &bare.settings)?;
        ensure!(detach.status.success() && detach.stdout.contains("no guard was attached"), "{}", detach.output());
        ensure!(program(net)? == foreign, "{foreign} became {}", program(net)?);
        ensure!(!lab.path("bpf/guard").exists(), "pins were left behind");
        net.set_front(&way_out)?;
        ensure!(!attached(net)?, "the way out is none: {}", net.front_link()?);
    }
    attach(lab, &bare).map(drop)
}

fn one_that_comes_with_a_new_interface_is_named_and_stays(lab: &Lab) -> anyhow::Result<()> {
    let Guarded { net, mut appliance, origin: _origin, _bpf } = guarded(lab, "auto")?;
    net.remove_front()?;
    net.make_front()?;
    attach_foreign(&net, &lab.path(""), "xdp")?;
    let foreign = program(&net)?;
    let said = appliance.wait_event("guard", |line| line["presence"] == "foreign_program")?;
    ensure!(said["level"] == "error" && said["interface"] == "front", "{said}");
    ensure!(appliance.status()?["guard"]["interfaces"][0]["status"]["attached"] == false);
    answers(lab, &net, Net::REGISTERED)?;
    // The pins of before are there still, and are no right to the interface.
    let command = |command: &str| Appliance::run_with_file(&net.appliance, command, &lab.path("appliance.toml"));
    let refused = command("guard attach")?;
    ensure!(refused.status.code() == Some(EXIT_ENVIRONMENT), "{}", refused.output());
    ensure!(refused.stderr.contains(FOREIGN), "{}", refused.output());
    ensure!(program(&net)? == foreign, "{foreign} became {}", program(&net)?);

    net.set_front(&["xdp", "off"])?;
    let done = command("guard attach")?;
    ensure!(done.status.success(), "{}", done.output());
    appliance.wait_event("guard", |line| line["presence"] == "attached")?;
    ensure!(!connects(&net, Net::UNREGISTERED)?, "a stranger connected");
    answers(lab, &net, Net::REGISTERED)?;
    appliance.must_be_alive()
}
