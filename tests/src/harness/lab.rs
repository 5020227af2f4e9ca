//! A test's folder, certificates and tools.
//!
//! Environment: `MTLS_BIN` the appliance (default: beside this program), `MTLS_CERTS` a generated PKI (default: generated
//! once into the temporary folder), `MTLS_TOOLS` a folder with `curl`, `openssl`, `nginx`, `ip`,
//! `strace` (default: `PATH`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::SystemTime;

use anyhow::{Context, anyhow, bail};

use super::{Appliance, Client, ClientTls, Curl, Net, Origin, OriginKind, Place, Settings};

/// Everything one test starts from. The folder is removed with this value.
pub struct Lab {
    folder: PathBuf,
}

impl Lab {
    /// Makes the folder and puts the PKI into it.
    ///
    /// # Errors
    /// When the folder cannot be written or the PKI not generated.
    pub fn create() -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Short: the path of a Unix socket inside has at most 107 bytes.
        let folder = scratch().join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        let certificates = pki()?;
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(certificates)? {
            let path = entry?.path();
            if let (true, Some(name)) = (path.is_file(), path.file_name()) {
                fs::copy(&path, folder.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
            }
        }
        Ok(Self { folder })
    }

    /// A file in the folder. The certificates and keys of the PKI lie there under their names.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A configuration with everything at its usual: caller TLS 1.3, origin by CA, preset `mydata`, offload `auto`, no
    /// guard. With `MTLS_HAND_OVER_FROM` in the environment that is `offload.hand_over_from`.
    ///
    /// # Errors
    /// Never for the addresses given; only if this text is broken.
    pub fn settings(&self, listen: SocketAddr, origin: SocketAddr) -> anyhow::Result<Settings> {
        let control = self.path("control.sock");
        let control = control.display();
        let settings = Settings::parse(&format!(
            r#"
            [listener]
            addresses = ["{listen}"]
            [tls]
            certificate = "edge.pem"
            key = "edge.key"
            client_ca = ["client-ca.pem"]
            [origin]
            addresses = ["{origin}"]
            server_name = "origin.bank.test"
            certificate = "appliance-client.pem"
            key = "appliance-client.key"
            verify = "ca"
            ca = ["origin-ca.pem"]
            [identity]
            presets = ["mydata"]
            [registry]
            files = ["registry.toml"]
            [control]
            socket = "{control}"
            "#
        ))?;
        Ok(match std::env::var("MTLS_HAND_OVER_FROM") {
            Ok(from) => settings.set("offload.hand_over_from", from),
            Err(_) => settings,
        })
    }

    /// A local address that nobody listens on.
    ///
    /// # Errors
    /// When every port is taken.
    pub fn free_address(&self) -> anyhow::Result<SocketAddr> {
        Ok(local(free_port()?))
    }

    /// The scripted origin on a free local port.
    ///
    /// # Errors
    /// When it does not start.
    pub fn origin(&self) -> anyhow::Result<Origin> {
        Origin::start(self, &Place::Here, OriginKind::Scripted, local(0))
    }

    /// An appliance with the usual settings in front of an origin, on a free local port.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn appliance(&self, origin: &Origin) -> anyhow::Result<Appliance> {
        self.appliance_with(origin, |settings| settings)
    }

    /// The same with changed settings.
    ///
    /// # Errors
    /// When it does not get ready.
    pub fn appliance_with(
        &self,
        origin: &Origin,
        change: impl FnOnce(Settings) -> Settings,
    ) -> anyhow::Result<Appliance> {
        let settings = change(self.settings(local(free_port()?), origin.address())?);
        Appliance::start(self, &Place::Here, &settings)
    }

    /// Appliance and scripted origin in a [`Net`], with changed settings.
    ///
    /// # Errors
    /// When one does not start.
    pub fn appliance_in(
        &self,
        net: &Net,
        change: impl FnOnce(Settings) -> Settings,
    ) -> anyhow::Result<(Origin, Appliance)> {
        let origin = SocketAddr::new(Net::ORIGIN.parse()?, 9443);
        let origin = Origin::start(self, &net.origin, OriginKind::Scripted, origin)?;
        let listen = SocketAddr::new(Net::REGISTERED.parse()?, Net::PORT);
        let all = [Net::REGISTERED, Net::UNREGISTERED, Net::REGISTERED_V6, Net::UNREGISTERED_V6];
        let all = all.iter().map(|ip| Ok(SocketAddr::new(ip.parse()?, Net::PORT).to_string()));
        let all = all.collect::<anyhow::Result<Vec<_>>>()?;
        let settings = change(self.settings(listen, origin.address())?.set("listener.addresses", all));
        let appliance = Appliance::start(self, &net.appliance, &settings)?;
        Ok((origin, appliance))
    }

    /// A curl that calls that address from that place, with no client certificate yet.
    #[must_use]
    pub fn curl_at(&self, place: &Place, address: SocketAddr) -> Curl {
        Curl::new(&self.folder, place, address)
    }

    /// A curl with a client certificate that calls a local appliance.
    #[must_use]
    pub fn curl(&self, appliance: &Appliance, identity: &str) -> Curl {
        self.curl_at(&Place::Here, appliance.address()).identity(identity)
    }

    /// TLS with that client certificate and key of the PKI.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn tls(&self, identity: &str) -> anyhow::Result<ClientTls> {
        ClientTls::new(&self.folder, Some(identity))
    }

    /// TLS with a certificate like that one which ends at `end`, to the second.
    ///
    /// # Errors
    /// When it cannot be issued.
    pub fn tls_until(&self, like: &str, end: SystemTime) -> anyhow::Result<ClientTls> {
        let name = format!("{like}-until");
        dev_pki::issue_until(&self.folder, like, &name, end)?;
        self.tls(&name)
    }

    /// TLS without a client certificate.
    ///
    /// # Errors
    /// When the authorities cannot be read.
    pub fn tls_anonymous(&self) -> anyhow::Result<ClientTls> {
        ClientTls::new(&self.folder, None)
    }

    /// A raw client with the certificate `client-p256`, connected to a local appliance.
    ///
    /// # Errors
    /// When the connection or handshake fails.
    pub fn client(&self, appliance: &Appliance) -> anyhow::Result<Client> {
        Client::connect(&Place::Here, appliance.address(), &self.tls("client-p256")?)
    }

    /// What the processes of this test printed, for a failure's message.
    #[must_use]
    pub fn transcripts(&self) -> String {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return String::new();
        };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        let transcripts = paths.iter().filter(|path| path.extension().is_some_and(|e| e == "transcript"));
        transcripts.filter_map(|path| fs::read_to_string(path).ok()).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Loopback with that port.
#[must_use]
pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

/// A port nobody listens on, outside the range that the kernel gives to outgoing connections.
///
/// # Errors
/// When there is none.
pub(super) fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 18_000 + u16::try_from(std::process::id() % 100)? * 100;
    for _ in 0..1_000 {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 3_000;
        if TcpListener::bind(local(port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {start} on")
}

/// The appliance's binary.
pub(super) fn appliance_binary() -> anyhow::Result<PathBuf> {
    let path = match std::env::var_os("MTLS_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("mtls-appliance"),
    };
    if !path.is_file() {
        bail!("no appliance at {}: build it (cargo build) or name it with MTLS_BIN", path.display());
    }
    Ok(path)
}

/// An executable from `MTLS_TOOLS`, `PATH` or the usual folders.
///
/// # Errors
/// When it is in none of them.
pub fn tool(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::var_os("MTLS_TOOLS").map(PathBuf::from);
    let search = std::env::var_os("PATH").unwrap_or_default();
    let folders = own
        .into_iter()
        .chain(std::env::split_paths(&search))
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| anyhow!("no {name} on this machine (looked in MTLS_TOOLS and PATH)"))
}

/// Removes what the whole run left in the temporary folder.
pub fn clean_up() {
    let _ = fs::remove_dir_all(scratch());
}

fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("mtls-e2e-{}", std::process::id()))
}

fn pki() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("MTLS_CERTS") {
        return Ok(PathBuf::from(path));
    }
    // dev_pki does nothing when the files are there, and waits for a thread that is writing them.
    let path = scratch().join("pki");
    dev_pki::generate(&path)?;
    Ok(path)
}
