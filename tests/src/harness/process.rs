//! A child process whose output is collected by lines and which never outlives its value.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal};

use super::{Deadline, Place, wait_until};

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
    transcript_file: Option<PathBuf>,
}

/// Output of a child that ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Both outputs, for a message.
    #[must_use]
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

#[derive(Clone, Default)]
struct Lines {
    collected: Arc<Mutex<Vec<String>>>,
    reader: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Process {
    /// Starts a command in a place, its output collected and its input empty.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, place: &Place, command: &mut Command) -> anyhow::Result<Self> {
        Self::start_with_input(name, place, command, Stdio::null())
    }

    /// The same with this input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with_input(name: &str, place: &Place, command: &mut Command, input: Stdio) -> anyhow::Result<Self> {
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = place.spawn(command).with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().map(Lines::collect).unwrap_or_default();
        let stderr = child.stderr.take().map(Lines::collect).unwrap_or_default();
        Ok(Self { name: name.to_owned(), child, stdout, stderr, transcript_file: None })
    }

    /// Has its [transcript](Self::transcript) appended to a file when this value ends, for whoever reports a failure.
    pub fn keep_transcript(&mut self, file: PathBuf) {
        self.transcript_file = Some(file);
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines of standard output so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.so_far()
    }

    /// The lines of standard error so far.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.so_far()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        rustix::process::kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for a line of standard output that `pick` likes.
    ///
    /// # Errors
    /// When the process ends before, or the deadline passes; the message carries its output.
    pub fn wait_line<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        pick: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let stdout = self.stdout.clone();
        let result = wait_until(&format!("{what} of {}", self.name), deadline, || {
            // The order matters: what was printed before the end must be seen.
            let running = self.child.try_wait()?.is_none();
            if !running {
                stdout.finish();
            }
            if let Some(found) = stdout.so_far().iter().find_map(|line| pick(line)) {
                return Ok(Some(found));
            }
            if !running {
                bail!("{} ended before {what}", self.name);
            }
            Ok(None)
        });
        result.map_err(|error| self.explain(error))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the deadline passes; the process is left running.
    pub fn wait(&mut self, deadline: Deadline) -> anyhow::Result<Finished> {
        let what = format!("the end of {}", self.name);
        let status = wait_until(&what, deadline, || Ok(self.child.try_wait()?)).map_err(|error| self.explain(error))?;
        self.stdout.finish();
        self.stderr.finish();
        let text = |lines: &Lines| lines.so_far().iter().map(|line| format!("{line}\n")).collect();
        Ok(Finished { status, stdout: text(&self.stdout), stderr: text(&self.stderr) })
    }

    /// Adds the transcript, unless it is kept anyway for whoever reports the failure.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match self.transcript_file {
            Some(_) => error,
            None => anyhow!("{error:#}\n{}", self.transcript()),
        }
    }

    /// The last lines of its output, for a failure's message.
    #[must_use]
    pub fn transcript(&self) -> String {
        let tail = |lines: Vec<String>| {
            let skip = lines.len().saturating_sub(40);
            lines[skip..].iter().map(|line| format!("    {}\n", shortened(line))).collect::<String>()
        };
        format!(
            "--- {} (pid {}) standard output:\n{}--- standard error:\n{}",
            self.name,
            self.pid(),
            tail(self.stdout()),
            tail(self.stderr())
        )
    }
}

/// A line as far as a message can use it.
fn shortened(line: &str) -> String {
    const MOST: usize = 600;
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line.to_owned(),
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already reaped or not: kill() on a reaped child of std does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(path) = &self.transcript_file {
            let mut text = std::fs::read_to_string(path).unwrap_or_default();
            text += &self.transcript();
            let _ = std::fs::write(path, text);
        }
    }
}

impl Lines {
    fn collect(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let collected = Arc::clone(&lines.collected);
        let reader = thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(pipe.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
                collected.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                line.clear();
            }
        });
        *lines.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader);
        lines
    }

    fn so_far(&self) -> Vec<String> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the reader: the writer has ended, so the pipe has too.
    fn finish(&self) {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reader) = reader {
            let _ = reader.join();
        }
    }
}
