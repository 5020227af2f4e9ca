//! `openssl s_client` as the caller: another TLS stack than ours, and one that names the alerts it gets.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::curl::NAME;
use super::lab::tool;
use super::{Deadline, Lab, Place, wait_until};

/// What s_client printed.
#[derive(Debug, Clone)]
pub struct Session {
    /// Session facts and the peer's bytes.
    pub stdout: String,
    /// Errors.
    pub stderr: String,
}

impl Session {
    /// The number of the alert that the peer sent, if it sent one.
    #[must_use]
    pub fn alert(&self) -> Option<u8> {
        let (_, after) = self.stderr.split_once("SSL alert number ")?;
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    }
}

/// Connects, sends `request`, and reads to the peer's end. `identity` names a certificate of the PKI; `options` are
/// added as they are.
///
/// # Errors
/// When openssl cannot be run or does not end within 20 seconds. A refused session is no error.
pub fn s_client(
    lab: &Lab,
    place: &Place,
    address: SocketAddr,
    identity: Option<&str>,
    options: &[&str],
    request: &str,
) -> anyhow::Result<Session> {
    let mut command = Command::new(tool("openssl")?);
    command.args([
        "s_client",
        "-connect",
        &address.to_string(),
        "-servername",
        NAME,
        "-ign_eof",
        "-verify_return_error",
    ]);
    command.arg("-CAfile").arg(lab.path("edge-ca.pem"));
    if let Some(name) = identity {
        let certificate = lab.path(&format!("{name}.pem"));
        command.arg("-cert").arg(&certificate).arg("-cert_chain").arg(&certificate);
        command.arg("-key").arg(lab.path(&format!("{name}.key")));
    }
    // Its configuration file need not exist on a small machine.
    command.args(options).env("OPENSSL_CONF", "/dev/null");
    // Files, not pipes: nothing has to be read while it runs.
    let (out, err) = (lab.path("s_client.out"), lab.path("s_client.err"));
    command.stdin(Stdio::piped()).stdout(std::fs::File::create(&out)?).stderr(std::fs::File::create(&err)?);
    let mut child = place.spawn(&mut command)?;
    let mut input = child.stdin.take().context("no standard input")?;
    let _ = input.write_all(request.as_bytes());
    drop(input);
    let ended = wait_until("openssl s_client", Deadline::seconds(20), || Ok(child.try_wait()?));
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let read = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let session = Session { stdout: read(&out)?, stderr: read(&err)? };
    ended.with_context(|| format!("{}\n{}", session.stdout, session.stderr))?;
    Ok(session)
}
