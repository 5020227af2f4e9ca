//! A service manager as small as can be: passes listening sockets to a program, as sd_listen_fds(3) says.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use rustix::io::{FdFlags, dup, fcntl_setfd};

use super::{Place, Process};

/// The word with which a program that uses this harness is asked to be the service manager.
const AS_MANAGER: &str = "pass-sockets";
/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// A socket to be passed.
#[derive(Debug, Clone, Copy)]
pub enum Passed {
    /// One that listens at an address.
    Listening(SocketAddr),
    /// A UDP socket.
    Datagram,
}

/// Passes sockets to the program that the command line names; returns only when it was not asked to, or on failure.
#[must_use]
pub fn run_as_service_manager() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != AS_MANAGER {
        return None;
    }
    let failure = pass(arguments).err();
    eprintln!("{AS_MANAGER}: {failure:#?}");
    Some(ExitCode::FAILURE)
}

fn pass(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    // Standard input is the first socket: it lives on in the process that started this one.
    let mut sockets = vec![dup(std::io::stdin())?];
    let mut names = vec!["first".to_owned()];
    for argument in arguments.by_ref().take_while(|argument| argument != "--") {
        sockets.push(match argument.as_str() {
            "udp" => UdpSocket::bind("127.0.0.1:0")?.into(),
            address => TcpListener::bind(address)?.into(),
        });
        names.push(argument.replace(':', "-"));
    }
    for (socket, number) in sockets.iter().zip(FIRST..) {
        ensure!(socket.as_raw_fd() == number, "descriptor {} instead of {number}", socket.as_raw_fd());
        fcntl_setfd(socket, FdFlags::empty())?;
    }
    let mut command = Command::new(arguments.next().context("no program")?);
    command.args(arguments).stdin(Stdio::null());
    // The process id stays what it is.
    command.env("LISTEN_PID", std::process::id().to_string());
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let error = command.exec();
    bail!("{}: {error}", command.get_program().display())
}

/// Starts a command in a place, with `first` and these sockets passed to it.
pub(super) fn start(
    name: &str,
    place: &Place,
    command: &Command,
    first: &OwnedFd,
    others: &[Passed],
) -> anyhow::Result<Process> {
    let mut manager = Command::new(std::env::current_exe()?);
    manager.arg(AS_MANAGER);
    for other in others {
        match other {
            Passed::Listening(address) => manager.arg(address.to_string()),
            Passed::Datagram => manager.arg("udp"),
        };
    }
    manager.arg("--").arg(command.get_program()).args(command.get_args());
    manager.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Process::start_with_input(name, place, &mut manager, first.try_clone()?.into())
}
