//! Running other programs, with errors that name the program, what it said and the way out.

use std::{
    ffi::OsStr,
    io::ErrorKind,
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How many lines of a failed program's output go into the error.
const TAIL_LINES: usize = 25;

/// Runs a program that talks to the terminal itself; an error unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if !status.success() {
        bail!("`{}` failed ({status})", display(command));
    }
    Ok(())
}

/// Runs a program silently and returns its standard output; its output is in the error when it fails.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().map_err(|error| cannot_start(command, &error))?;
    if !status.success() {
        let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        bail!("`{}` failed ({status}):\n  {}", display(command), tail.join("\n  "));
    }
    String::from_utf8(stdout).with_context(|| format!("`{}` printed something that is not UTF-8", display(command)))
}

/// Ends a program and all that it started, as far as we may.
pub(crate) fn kill_with_descendants(child: &mut Child) {
    let Ok(root) = i32::try_from(child.id()) else { return };
    // Whoever starts another one meanwhile is stopped before its children are looked for.
    let mut found = vec![root];
    let mut next = 0;
    while let Some(process) = found.get(next).copied() {
        signal(process, Signal::STOP);
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        for children in tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()) {
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
        next += 1;
    }
    for process in found {
        signal(process, Signal::KILL);
    }
    // What could not be ended, for instance what runs as another user, is not waited for.
    let _ = child.try_wait();
}

fn signal(process: i32, signal: Signal) {
    // It may have ended by itself.
    let _ = Pid::from_raw(process).map(|pid| kill_process(pid, signal));
}

/// Whether a program by this name is in `PATH`.
pub(crate) fn in_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn cannot_start(command: &Command, error: &std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy();
    if error.kind() == ErrorKind::NotFound {
        anyhow!("`{program}` was not found: install it, or put it in PATH")
    } else {
        anyhow!("`{program}` cannot be started: {error}")
    }
}

/// The command as a person would type it.
fn display(command: &Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_a_program_started_ends_with_it() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'sleep 1000; true' & echo begun; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = shell.stdout.take().unwrap();
        let mut begun = [0; 6];
        output.read_exact(&mut begun).unwrap();
        kill_with_descendants(&mut shell);
        // The last of them holds the output open.
        assert_eq!(output.read(&mut begun).unwrap(), 0);
        shell.wait().unwrap();
    }
}
