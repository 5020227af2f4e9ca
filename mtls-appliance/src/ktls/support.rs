//! What the running kernel can do, found out by trying.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use ktls::CompatibleCiphers;
use rustls::SupportedCipherSuite;
use serde::Serialize;

use super::sys;
use crate::telemetry::DataPath;

/// Why a session is not in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "why", content = "detail")]
pub enum NotOffloaded {
    /// The configuration says `off`.
    Disabled,
    /// The running kernel has no TLS; the text says how we know.
    Kernel(String),
    /// The kernel does not do this cipher suite.
    Cipher(String),
    /// No body has been large enough yet for the session to be handed over.
    BelowThreshold,
    /// The hand-over failed for this session.
    HandOver(String),
}

impl NotOffloaded {
    /// What it makes of the way of bodies; its words are the stable ones.
    pub fn data_path(&self) -> DataPath {
        match self {
            Self::Disabled => DataPath::UserspaceOffloadOff,
            Self::Kernel(_) => DataPath::UserspaceKernel,
            Self::Cipher(_) => DataPath::UserspaceCipher,
            Self::BelowThreshold => DataPath::UserspaceBelowThreshold,
            Self::HandOver(_) => DataPath::UserspaceHandOver,
        }
    }
}

impl fmt::Display for NotOffloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("offload.mode is \"off\""),
            Self::Kernel(why) => write!(f, "the running kernel has no TLS: {why}"),
            Self::Cipher(suite) => write!(f, "the kernel does not do {suite}"),
            Self::BelowThreshold => f.write_str("no body has reached offload.hand_over_from"),
            Self::HandOver(why) => write!(f, "the hand-over failed: {why}"),
        }
    }
}

/// Why bodies are not spliced although sessions are in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotSpliced(pub String);

/// The kernel's abilities.
#[derive(Debug, Clone, Serialize)]
pub struct Support {
    /// Kernel release, as `uname -r` says, and the version its distribution states.
    pub kernel: String,
    /// Cipher suites (and versions) that the kernel takes, by name; empty when there is no kernel TLS.
    pub cipher_suites: Vec<String>,
    /// Why there is none, if so.
    pub missing: Option<NotOffloaded>,
    /// Why splice must not be used, if so.
    pub no_splice: Option<NotSpliced>,
    /// Whether a session's key can be replaced by the next one (Linux 6.14 and later).
    pub renews_keys: bool,
    #[serde(skip)]
    taken: Vec<Family>,
}

/// What the kernel knows a session by: version and bulk cipher, whatever the key exchange was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Family {
    tls13: bool,
    cipher: Cipher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.tls13 { "TLS 1.3" } else { "TLS 1.2" };
        let cipher = match self.cipher {
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        };
        write!(f, "{version} {cipher}")
    }
}

impl Family {
    fn of(suite: SupportedCipherSuite) -> Option<Self> {
        let tls13 = matches!(suite, SupportedCipherSuite::Tls13(_));
        let name = format!("{:?}", suite.suite());
        let cipher = if name.contains("AES_128_GCM") {
            Cipher::Aes128Gcm
        } else if name.contains("AES_256_GCM") {
            Cipher::Aes256Gcm
        } else if name.contains("CHACHA20_POLY1305") {
            Cipher::ChaCha20Poly1305
        } else {
            return None;
        };
        Some(Self { tls13, cipher })
    }
}

impl Support {
    /// Tries the kernel on loopback sockets.
    pub async fn probe() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let build = uname.version().to_string_lossy().into_owned();
        let version = stated_version(&release, &build);
        let kernel = if release.starts_with(&version) { release } else { format!("{release} ({version})") };
        let no_splice = splice_floor(&version).err().map(NotSpliced);
        let none = |why: &io::Error| Self {
            kernel: kernel.clone(),
            cipher_suites: Vec::new(),
            missing: Some(NotOffloaded::Kernel(explain(why))),
            no_splice: no_splice.clone(),
            renews_keys: false,
            taken: Vec::new(),
        };
        if let Err(error) = try_upper_layer_protocol() {
            return none(&error);
        }
        let compatible = match CompatibleCiphers::new().await {
            Ok(compatible) => compatible,
            Err(error) => return none(&error),
        };
        let mut taken = Vec::new();
        for (tls13, found) in [(true, &compatible.tls13), (false, &compatible.tls12)] {
            let ciphers = [
                (found.aes_gcm_256, Cipher::Aes256Gcm),
                (found.aes_gcm_128, Cipher::Aes128Gcm),
                (found.chacha20_poly1305, Cipher::ChaCha20Poly1305),
            ];
            taken.extend(ciphers.iter().filter(|(yes, _)| *yes).map(|&(_, cipher)| Family { tls13, cipher }));
        }
        if taken.is_empty() {
            return none(&io::Error::other(
                "it takes none of the ciphers (are the modules gcm and aesni_intel there?)",
            ));
        }
        let cipher_suites = taken.iter().map(ToString::to_string).collect();
        let renews_keys = super::session::kernel_renews_keys();
        Self { kernel, cipher_suites, missing: None, no_splice, renews_keys, taken }
    }

    /// Whether the kernel takes sessions of `suite`.
    ///
    /// # Errors
    /// Why not.
    pub fn takes(&self, suite: SupportedCipherSuite) -> Result<(), NotOffloaded> {
        if let Some(missing) = &self.missing {
            return Err(missing.clone());
        }
        match Family::of(suite) {
            Some(family) if self.taken.contains(&family) => Ok(()),
            _ => Err(NotOffloaded::Cipher(format!("{:?}", suite.suite()))),
        }
    }
}

fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "TCP_ULP \"tls\" is not known (CONFIG_TLS is not set, or the module `tls` is not loaded: modprobe tls)"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Finds out whether `TCP_ULP` knows `tls`, and if not, what the kernel says.
fn try_upper_layer_protocol() -> io::Result<()> {
    connected().and_then(|(_listener, here)| sys::enable(here.as_fd()))
}

/// A connected socket, and what it is connected to.
pub(super) fn connected() -> io::Result<(TcpListener, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let here = TcpStream::connect(listener.local_addr()?)?;
    Ok((listener, here))
}

/// The version a distribution states for its kernel where `uname -r` does not say the patch level (Debian), else the
/// release.
fn stated_version(release: &str, build: &str) -> String {
    let numbers = |text: &str| -> String { text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect() };
    match build.split_once("Debian ") {
        Some((_, rest)) if rest.starts_with(|c: char| c.is_ascii_digit()) => numbers(rest),
        _ => numbers(release),
    }
}

/// Kernels whose spliced bytes are known not to get lost under back-pressure.
///
/// Fixed in 6.1.190 and 6.12.113 (Debian's changelogs) and in 7.2; of other series we do not know, so they do not
/// splice.
fn splice_floor(version: &str) -> Result<(), String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor, patch) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let below = |floor: &str| Err(format!("kernel {version} can lose spliced bytes; it needs {floor} or later"));
    match (major, minor) {
        (6, 1) if patch >= 190 => Ok(()),
        (6, 1) => below("6.1.190"),
        (6, 12) if patch >= 113 => Ok(()),
        (6, 12) => below("6.12.113"),
        (7, 2..) | (8.., _) => Ok(()),
        _ => Err(format!(
            "it is not known whether kernel {version} loses spliced bytes; known good are 6.1.190+, 6.12.113+ and 7.2+"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_patch_level_that_debian_states_elsewhere() {
        let build = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-10-01)";
        assert_eq!(stated_version("6.1.0-42-cloud-amd64", build), "6.1.192");
        assert_eq!(stated_version("6.12.117+deb12-cloud-amd64", "#1 SMP Debian 6.12.117-1~bpo"), "6.12.117");
        assert_eq!(stated_version("7.2.3-arch1", "#1 SMP"), "7.2.3");
    }

    #[test]
    fn splices_only_on_kernels_known_to_keep_the_bytes() {
        for good in ["6.1.190", "6.1.192", "6.12.113", "6.12.200", "7.2.0", "7.3", "8.0.1"] {
            assert!(splice_floor(good).is_ok(), "{good}");
        }
        for bad in ["6.1.189", "6.12.107", "6.6.80", "6.18.44", "7.1.9", "5.15.200", "", "x"] {
            assert!(splice_floor(bad).is_err(), "{bad}");
        }
    }
}
