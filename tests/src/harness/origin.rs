//! The server behind the appliance: the scripted one, or nginx.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, anyhow};
use clap::Parser;
use serde_json::Value;

use super::lab::{free_port, local, tool};
use super::{Deadline, Lab, Place, Process, wait_until};
use crate::{origin, pattern};

/// The word with which a program that uses this harness is asked to be the scripted origin.
const AS_ORIGIN: &str = "testorigin";

/// Every program that uses this harness begins with this: the harness starts it again as the scripted origin, so that one
/// file is all that a machine needs. `None` when it was started by somebody else.
#[must_use]
pub fn run_as_origin() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != AS_ORIGIN {
        return None;
    }
    let options = origin::Options::parse_from(std::iter::once(AS_ORIGIN.into()).chain(arguments));
    Some(match origin::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{AS_ORIGIN}: {error:#}");
            ExitCode::FAILURE
        }
    })
}

const PATIENCE: u64 = 20;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginKind {
    /// [`crate::origin`] with the certificate `origin`, TLS 1.2 and 1.3.
    Scripted,
    /// The same with TLS 1.2 only.
    ScriptedTls12,
    /// The same with another certificate of the PKI.
    WithCertificate(&'static str),
    /// nginx with the certificate `origin`: `/identity` answers identity fields, `/file` 8 MiB of pattern, `/` accepts
    /// anything.
    Nginx,
}

/// A running origin; killed with this value.
pub struct Origin {
    process: Process,
    address: SocketAddr,
    log: std::path::PathBuf,
}

impl Origin {
    /// How long `/file` of nginx is.
    pub const NGINX_FILE: usize = 8 * 1024 * 1024;

    /// Starts one and waits until it accepts connections. Port 0 takes a free one.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(lab: &Lab, place: &Place, kind: OriginKind, address: SocketAddr) -> anyhow::Result<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let log = lab.path(&format!("origin-{number}.log"));
        let mut origin = match kind {
            OriginKind::Nginx => Self::nginx(lab, place, address, log)?,
            OriginKind::Scripted => Self::scripted(lab, place, address, log, "origin", "any")?,
            OriginKind::ScriptedTls12 => Self::scripted(lab, place, address, log, "origin", "1.2")?,
            OriginKind::WithCertificate(name) => Self::scripted(lab, place, address, log, name, "any")?,
        };
        origin.process.keep_transcript(lab.path(&format!("origin-{number}.transcript")));
        Ok(origin)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process, for signals.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Makes the scripted origin sick (`/health` answers 503, `/unless-sick` drops the connection) or well again.
    ///
    /// # Errors
    /// When the note of it cannot be written.
    pub fn set_sick(&self, sick: bool) -> anyhow::Result<()> {
        let note = self.log.with_extension(origin::SICK);
        if sick {
            std::fs::write(note, "")?;
        } else if note.exists() {
            std::fs::remove_file(note)?;
        }
        Ok(())
    }

    /// Empties what it noted so far.
    ///
    /// # Errors
    /// When its log cannot be written.
    pub fn forget(&self) -> anyhow::Result<()> {
        std::fs::write(&self.log, "").with_context(|| format!("cannot empty {}", self.log.display()))
    }

    /// How many requests for a path it noted.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn requests_for(&self, path: &str) -> anyhow::Result<usize> {
        let target = |line: &Value| line["request_line"].as_str()?.split(' ').nth(1).map(str::to_owned);
        Ok(self.journal("request")?.iter().filter(|line| target(line).as_deref() == Some(path)).count())
    }

    /// What the scripted origin noted of one kind: `connection`, `request`, `body`, `tunnel`, `broken`,
    /// `malformed`, `end`.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn journal(&self, event: &str) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(lines.filter(|line| line["event"] == event).collect())
    }

    /// Waits for a journal entry.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait_journal(&self, event: &str, like: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait_until(&format!("the origin to note {event:?}"), Deadline::seconds(PATIENCE), || {
            Ok(self.journal(event)?.into_iter().find(|line| like(line)))
        })
        .map_err(|error| {
            let noted = std::fs::read_to_string(&self.log).unwrap_or_default();
            anyhow!("{error:#}; it noted:\n{noted}")
        })
    }

    fn scripted(
        lab: &Lab,
        place: &Place,
        address: SocketAddr,
        log: std::path::PathBuf,
        certificate: &str,
        tls: &str,
    ) -> anyhow::Result<Self> {
        std::fs::write(&log, "")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([AS_ORIGIN, "--listen", &address.to_string(), "--tls", tls]);
        command.arg("--certificate").arg(lab.path(&format!("{certificate}.pem")));
        command.arg("--key").arg(lab.path(&format!("{certificate}.key")));
        command.arg("--client-ca").arg(lab.path("origin-ca.pem")).arg("--log").arg(&log);
        let mut process = Process::start("testorigin", place, &mut command)?;
        let address = process.wait_line("readiness", Deadline::seconds(PATIENCE), |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["address"].as_str()?.parse().ok()
        })?;
        Ok(Self { process, address, log })
    }

    fn nginx(lab: &Lab, place: &Place, address: SocketAddr, log: std::path::PathBuf) -> anyhow::Result<Self> {
        let address = if address.port() == 0 { local(free_port()?) } else { address };
        let folder = lab.path("nginx");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("file"), pattern::bytes(Self::NGINX_FILE))?;
        let root = folder.display();
        let certificates = lab.path("");
        let certificates = certificates.display();
        let configuration = format!(
            r#"
            daemon off; master_process off; pid {root}/pid; error_log stderr warn;
            events {{ worker_connections 512; }}
            http {{
                access_log off; sendfile on; keepalive_requests 100000;
                client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
                uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
                server {{
                    listen {address} ssl;
                    ssl_certificate {certificates}/origin.pem;
                    ssl_certificate_key {certificates}/origin.key;
                    ssl_client_certificate {certificates}/origin-ca.pem;
                    ssl_verify_client on;
                    ssl_protocols TLSv1.2 TLSv1.3;
                    client_max_body_size 0;
                    root {root};
                    location = /identity {{
                        return 200 "serial=$http_x_mydata_client_serialnumber\ncode=$http_x_mydata_client_org_code\nby=$ssl_client_s_dn\n";
                    }}
                    location = /file {{ }}
                    location / {{ return 204; }}
                }}
            }}
            "#
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration)?;
        let mut command = Command::new(tool("nginx")?);
        command.arg("-e").arg("stderr").arg("-p").arg(&folder).arg("-c").arg(&file);
        let mut process = Process::start("nginx", place, &mut command)?;
        wait_until("nginx to listen", Deadline::seconds(PATIENCE), || {
            anyhow::ensure!(process.is_running()?, "nginx ended\n{}", process.transcript());
            Ok(place.enter(|| Ok(TcpStream::connect(address)?)).ok())
        })?;
        Ok(Self { process, address, log })
    }
}
