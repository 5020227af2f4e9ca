//! JSON lines, written by one thread so that no worker ever waits for a disk or a pipe.
//!
//! The queue is bounded; what does not fit is counted in [`Counters::log_lines_dropped`], never waited for.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::Counters;
use crate::privileges;

/// Lines that may wait for the writer.
const QUEUE: usize = 16_384;
/// How long the writer collects lines before it writes them: waking it for every request would cost more than the
/// request does.
const COLLECT: Duration = Duration::from_millis(20);

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something did not work.
    Error,
    /// Worth a look.
    Warn,
    /// The normal course.
    Info,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
        }
    }
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// A handle to the log; cheap to clone.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<Message>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    /// Starts the writer thread on `file` (appending), or on standard output. It gives up its privileges before this returns.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub fn start(file: Option<&Path>, counters: Arc<Counters>) -> io::Result<(Self, JoinHandle<()>)> {
        let sink: Box<dyn Write + Send> = match file {
            Some(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
            None => Box::new(io::stdout()),
        };
        let (queue, lines) = sync_channel(QUEUE);
        let (settled, settles) = sync_channel(1);
        let writer = std::thread::Builder::new().name("log".into()).spawn(move || {
            // Whoever starts it waits for this.
            let _ = settled.send(privileges::give_up());
            write_lines(sink, &lines);
        })?;
        settles.recv().map_err(io::Error::other)??;
        Ok((Self { queue, counters }, writer))
    }

    /// Queues one event; `fields` must serialise as a map: a struct, or a JSON object.
    pub fn event(&self, level: Level, event: &str, fields: impl Serialize) {
        let line = Line { ts: now(), level: level.name(), event, fields };
        let mut bytes = Vec::with_capacity(512);
        if serde_json::to_writer(&mut bytes, &line).is_ok() {
            bytes.push(b'\n');
            if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(bytes)) {
                self.counters.log_lines_dropped.increment();
            }
        }
    }

    /// Waits until everything queued so far was written.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            // An error means that the writer is gone; there is nothing left to wait for.
            let _ = wait.recv();
        }
    }
}

/// One line, as it is written.
#[derive(Serialize)]
struct Line<'a, F: Serialize> {
    ts: String,
    level: &'static str,
    event: &'a str,
    #[serde(flatten)]
    fields: F,
}

/// RFC 3339 in UTC with milliseconds.
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

fn now() -> String {
    OffsetDateTime::now_utc().format(TIMESTAMP).unwrap_or_default()
}

fn write_lines(mut sink: Box<dyn Write + Send>, lines: &Receiver<Message>) {
    let mut batch = Vec::with_capacity(64 * 1024);
    while let Ok(first) = lines.recv() {
        let mut waiting = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => waiting.push(done),
            }
            next = if batch.len() < 256 * 1024 { lines.try_recv().ok() } else { None };
        }
        // A log that cannot be written (full disk, closed pipe) must not stop the service.
        let _ = sink.write_all(&batch).and_then(|()| sink.flush());
        batch.clear();
        for done in waiting {
            let _ = done.send(());
        }
        std::thread::sleep(COLLECT);
    }
}

/// Carries what libraries say through the `log` crate (the guard's sampled drops among it) into this log.
struct Bridge(Log);

impl log::Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        // Of libraries only warnings matter; the guard's own lines are information.
        metadata.level() <= log::Level::Warn || metadata.target().starts_with("guard")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            _ => Level::Info,
        };
        let event = if record.target().starts_with("guard") { "guard" } else { "library" };
        let detail = record.args().to_string();
        self.0.event(level, event, serde_json::json!({ "target": record.target(), "detail": detail }));
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Makes `log` the destination of the `log` crate for the whole process.
pub fn install(log: &Log) {
    // Only the first one of a process is installed; a second keeps the first, which is as good.
    if log::set_boxed_logger(Box::new(Bridge(log.clone()))).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_with_a_timestamp_of_fixed_width() {
        let fields = serde_json::json!({ "peer": "192.0.2.1:1", "subject": "CN=\"a\nb\"" });
        let line = Line { ts: now(), level: Level::Warn.name(), event: "handshake_failed", fields };
        let text = serde_json::to_string(&line).unwrap();
        assert!(!text.contains('\n'), "a line break in a value must not make a second line");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["subject"], "CN=\"a\nb\"");
        assert_eq!(value["ts"].as_str().map(str::len), Some("2026-11-22T15:06:05.123Z".len()));
    }
}
