//! Real curl as the caller.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::lab::tool;
use super::{Deadline, Place, wait_until};
use crate::pattern;

/// The name callers use; in the appliance's certificate.
pub(super) const NAME: &str = "api.bank.test";

/// How much of an answer's body is kept; all of it is digested.
const KEEP: usize = 1 << 20;

/// A curl command in the making.
#[derive(Debug, Clone)]
pub struct Curl {
    folder: PathBuf,
    place: Place,
    address: SocketAddr,
    host: String,
    arguments: Vec<String>,
    upload: Option<u64>,
    seconds: u64,
}

/// What curl got.
#[derive(Debug, Clone)]
pub struct CurlAnswer {
    /// curl's exit code; 0 is success, 18 a partial file, 56 a receive error.
    pub exit: i32,
    /// Status of the final response; 0 when there was none.
    pub status: u16,
    /// The first MiB of the body.
    pub body: Vec<u8>,
    /// Length of the whole body.
    pub length: u64,
    /// SHA-256 of the whole body.
    pub sha256: String,
    /// Response heads, and what curl complained about.
    pub stderr: String,
}

impl Curl {
    pub(super) fn new(folder: &Path, place: &Place, address: SocketAddr) -> Self {
        let authority = folder.join("edge-ca.pem");
        let arguments = ["--silent", "--show-error", "--cacert", &authority.display().to_string()];
        Self {
            folder: folder.to_owned(),
            place: place.clone(),
            address,
            host: NAME.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
            upload: None,
            seconds: 60,
        }
    }

    /// Presents that client certificate of the PKI.
    #[must_use]
    pub fn identity(self, name: &str) -> Self {
        let certificate = self.folder.join(format!("{name}.pem")).display().to_string();
        let key = self.folder.join(format!("{name}.key")).display().to_string();
        self.arguments(["--cert", &certificate, "--key", &key])
    }

    /// Asks for another name, in TLS (SNI) and in Host.
    #[must_use]
    pub fn host(mut self, name: &str) -> Self {
        name.clone_into(&mut self.host);
        self
    }

    /// Adds arguments as they are.
    #[must_use]
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Adds a request field.
    #[must_use]
    pub fn header(self, line: &str) -> Self {
        self.arguments(["--header", line])
    }

    /// Sends the first `length` bytes of the pattern as the body, chunked, by POST.
    #[must_use]
    pub fn upload_chunked(mut self, length: u64) -> Self {
        self.upload = Some(length);
        // The empty Expect keeps curl from waiting a second for an interim answer.
        self.arguments(["--request", "POST", "--upload-file", "-", "--header", "Expect:"])
    }

    /// Gives up after that many seconds.
    #[must_use]
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    /// Runs it for one path.
    ///
    /// # Errors
    /// When curl cannot be run. An answer that is an error, or none, is no error of this function.
    pub fn get(&self, path: &str) -> anyhow::Result<CurlAnswer> {
        self.get_all(&[path])
    }

    /// Runs it for several paths on one connection if curl can; the bodies follow each other.
    ///
    /// # Errors
    /// As for [`Self::get`].
    pub fn get_all(&self, paths: &[&str]) -> anyhow::Result<CurlAnswer> {
        let mut command = Command::new(tool("curl")?);
        let (host, port) = (&self.host, self.address.port());
        let resolve = match self.address {
            SocketAddr::V4(v4) => format!("{host}:{port}:{}", v4.ip()),
            SocketAddr::V6(v6) => format!("{host}:{port}:[{}]", v6.ip()),
        };
        command.args(["--resolve", &resolve]);
        command.args(&self.arguments).args(["--max-time", &self.seconds.to_string()]);
        command.args(["--write-out", "%{stderr}curl-status %{http_code} connects %{num_connects}\\n"]);
        for path in paths {
            command.arg(format!("https://{host}:{port}{path}"));
        }
        command.env_clear();
        command.stdin(if self.upload.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.place.spawn(&mut command)?;
        let feed = self.upload.zip(child.stdin.take()).map(|(length, mut pipe)| {
            // curl may stop reading early; what it then reports is the answer.
            thread::spawn(move || drop(write_pattern(&mut pipe, length)))
        });
        let stdout = child.stdout.take().context("no standard output")?;
        let mut stderr = child.stderr.take().context("no standard error")?;
        let body = thread::spawn(move || digest(stdout));
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        let status = wait_until("curl", Deadline::seconds(self.seconds + 10), || Ok(child.try_wait()?));
        if status.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let (body, length, sha256) = body.join().map_err(|_| anyhow::anyhow!("reading curl's output panicked"))??;
        let stderr = errors.join().unwrap_or_default();
        if let Some(feed) = feed {
            let _ = feed.join();
        }
        let exit = status?.code().unwrap_or(-1);
        let mut answer = CurlAnswer { exit, status: 0, body, length, sha256, stderr };
        answer.status = answer.written("curl-status").last().and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok(answer)
    }

    /// Runs it and expects a 200 with a whole body.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn ok(&self, path: &str) -> anyhow::Result<CurlAnswer> {
        let answer = self.get(path)?;
        if answer.exit != 0 || answer.status != 200 {
            bail!("{path}: wanted a 200: {answer}");
        }
        Ok(answer)
    }
}

impl CurlAnswer {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {self}"))
    }

    /// How many connections curl opened for all paths together.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.written("connects").filter_map(|count| count.parse::<u32>().ok()).sum()
    }

    /// Fails unless the whole body is the first `length` bytes of the pattern.
    ///
    /// # Errors
    /// As said.
    pub fn must_be_pattern(&self, length: u64) -> anyhow::Result<()> {
        ensure!(self.length == length, "{} bytes instead of {length}: {self}", self.length);
        ensure!(self.sha256 == pattern::sha256(length), "{length} bytes arrived, but not those that were sent");
        Ok(())
    }

    fn written<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.stderr.lines().filter(|line| line.starts_with("curl-status")).filter_map(move |line| {
            let mut words = line.split(' ').skip_while(move |w| *w != word);
            words.nth(1)
        })
    }
}

impl std::fmt::Display for CurlAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.text();
        let start: String = text.chars().take(2_000).collect();
        write!(
            f,
            "curl exit {}, status {}, {} body bytes\n{}\n{start}",
            self.exit, self.status, self.length, self.stderr
        )
    }
}

fn digest(mut from: impl Read) -> anyhow::Result<(Vec<u8>, u64, String)> {
    let mut digest = pattern::Sha256::default();
    let mut kept = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok((kept, digest.length(), digest.finish()));
        }
        digest.update(&buffer[..read]);
        let keep = read.min(KEEP.saturating_sub(kept.len()));
        kept.extend_from_slice(&buffer[..keep]);
    }
}

/// Writes the first `length` pattern bytes.
pub(super) fn write_pattern(to: &mut impl Write, length: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut offset = 0;
    while offset < length {
        let step = usize::try_from(length - offset).unwrap_or(usize::MAX).min(buffer.len());
        pattern::fill(offset, &mut buffer[..step]);
        to.write_all(&buffer[..step])?;
        offset += step as u64;
    }
    Ok(())
}
