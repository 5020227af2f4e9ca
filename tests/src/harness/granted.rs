//! Runs a program with some capabilities and no others, as a service manager does.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, configure_capability_in_ambient_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_thread_res_gid,
    set_thread_res_uid,
};

/// The word with which a program that uses this harness is asked to give capabilities up and start another.
const AS_LAUNCHER: &str = "with-capabilities";

/// What a program gets.
#[derive(Debug, Clone, Copy)]
pub struct Granted {
    /// The bounding set, and for another user than root the ambient set too.
    pub capabilities: CapabilitySet,
    /// User and group; 0 is root.
    pub user: u32,
}

impl Granted {
    /// These capabilities, for root.
    #[must_use]
    pub fn root(capabilities: CapabilitySet) -> Self {
        Self { capabilities, user: 0 }
    }

    /// The command that runs `command` so.
    ///
    /// # Errors
    /// When this program does not know its own path.
    pub(super) fn command(&self, command: &Command) -> anyhow::Result<Command> {
        let mut launcher = Command::new(std::env::current_exe()?);
        launcher.args([AS_LAUNCHER, &self.capabilities.bits().to_string(), &self.user.to_string()]);
        launcher.arg(command.get_program()).args(command.get_args());
        launcher.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ok(launcher)
    }

    fn take_effect(&self) -> anyhow::Result<()> {
        let all = || (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
        for bit in all().filter(|bit| !self.capabilities.contains(*bit)) {
            if capability_is_in_bounding_set(bit).unwrap_or(false) {
                remove_capability_from_bounding_set(bit)?;
            }
        }
        if self.user == 0 {
            return Ok(());
        }
        set_keep_capabilities(true)?;
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.user));
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
        let sets = self.capabilities;
        set_capabilities(None, CapabilitySets { effective: sets, permitted: sets, inheritable: sets })?;
        for bit in all().filter(|bit| self.capabilities.contains(*bit)) {
            configure_capability_in_ambient_set(bit, true)?;
        }
        Ok(())
    }
}

/// Becomes the program that the command line names, with what it grants; returns only when it was not asked to, or on failure.
#[must_use]
pub fn run_with_capabilities() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != AS_LAUNCHER {
        return None;
    }
    let failure = launch(arguments).err();
    eprintln!("{AS_LAUNCHER}: {failure:#?}");
    Some(ExitCode::FAILURE)
}

fn launch(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let capabilities = CapabilitySet::from_bits_retain(arguments.next().context("no capabilities")?.parse()?);
    let user = arguments.next().context("no user")?.parse()?;
    Granted { capabilities, user }.take_effect()?;
    let mut command = Command::new(arguments.next().context("no program")?);
    let error = command.args(arguments).exec();
    bail!("{}: {error}", command.get_program().display())
}
