//! The proxies, configured as like one another as they can be: mutual TLS 1.3 on both sides, connections to the origin kept,
//! three facts of the caller's certificate as headers, an access log, one thread.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{Appliance, Deadline, Lab, Place, Process, tool, wait_until};
use mtls_appliance_tests::pattern;

const PATIENCE: u64 = 20;
/// Where the origin answers with what it was told about the caller.
pub(super) const CALLER: &str = "/caller";
/// Lengths of what is at `/small` and `/large`.
pub(super) const SMALL: usize = 1024;
pub(super) const LARGE: usize = 8 << 20;
/// The cipher of all sessions.
const CIPHER: &str = "TLS_AES_128_GCM_SHA256";
/// Idle connections to the origin.
const KEPT: u32 = 64;

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Appliance,
    Nginx,
    Haproxy,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Appliance, Self::Nginx, Self::Haproxy];

    pub(super) fn subject(self) -> &'static str {
        match self {
            Self::Appliance => "mtls-appliance",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }
}

/// One that runs.
pub(super) struct Proxy {
    kind: Kind,
    address: SocketAddr,
    process: Process,
}

impl Proxy {
    /// Starts it on the CPU that this thread runs on, and waits until it listens.
    pub(super) fn start(kind: Kind, lab: &Lab, origin: SocketAddr) -> anyhow::Result<Self> {
        let address = lab.free_address()?;
        let process = match kind {
            Kind::Appliance => appliance(lab, address, origin)?,
            Kind::Nginx => nginx(lab, "proxy", &nginx_proxy(lab, address, origin))?,
            Kind::Haproxy => haproxy(lab, address, origin)?,
        };
        Ok(Self { kind, address, process: listening(process, address)? })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn subject(&self) -> &'static str {
        self.kind.subject()
    }

    /// How long all its threads have run, in userspace and in the kernel.
    pub(super) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.pid()))? {
            nanoseconds += ran(&fs::read_to_string(task?.path().join("schedstat"))?)?;
        }
        Ok(nanoseconds as f64 / 1e9)
    }
}

/// The API server: nginx, which answers with files and with who it was told calls.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    _process: Process,
}

impl Origin {
    /// Starts it on the CPU that this thread runs on, and waits until it listens.
    pub(super) fn start(lab: &Lab) -> anyhow::Result<Self> {
        let address = lab.free_address()?;
        let root = lab.path("files");
        fs::create_dir_all(&root)?;
        fs::write(root.join("small"), pattern::bytes(SMALL))?;
        fs::write(root.join("large"), pattern::bytes(LARGE))?;
        let (root, certificates) = (root.display(), lab.path(""));
        let certificates = certificates.display();
        let server = format!(
            r#"
            access_log off;
            server {{
                listen {address} ssl;
                ssl_certificate {certificates}/origin.pem;
                ssl_certificate_key {certificates}/origin.key;
                ssl_client_certificate {certificates}/origin-ca.pem;
                ssl_verify_client on;
                ssl_protocols TLSv1.3;
                ssl_conf_command Ciphersuites {CIPHER};
                root {root};
                location = {CALLER} {{
                    return 200 "subject=$http_x_client_subject\nserial=$http_x_client_serial\nfingerprint=$http_x_client_fingerprint\n";
                }}
            }}
            "#
        );
        Ok(Self { address, _process: listening(nginx(lab, "origin", &server)?, address)? })
    }
}

/// Fails unless the origin was told all three facts about the caller.
pub(super) fn told_who(seen: &str) -> anyhow::Result<()> {
    for name in ["subject", "serial", "fingerprint"] {
        let value = seen.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        ensure!(value.is_some_and(|value| !value.is_empty()), "the origin was not told the {name}: {seen:?}");
    }
    Ok(())
}

/// The first word: nanoseconds on a CPU.
fn ran(schedstat: &str) -> anyhow::Result<u64> {
    schedstat.split(' ').next().context("an empty schedstat")?.parse().context("schedstat")
}

fn appliance(lab: &Lab, address: SocketAddr, origin: SocketAddr) -> anyhow::Result<Process> {
    let settings = lab
        .settings(address, origin)?
        .set("listener.workers", 1)
        .set("offload.mode", "off")
        .set("origin.idle_per_identity", KEPT)
        .set("log.file", lab.path("appliance.log").display().to_string())
        .without("identity.presets")
        .header("X-Client-Subject", "${subject.dn}")
        .header("X-Client-Serial", "${certificate.serial}")
        .header("X-Client-Fingerprint", "${certificate.fingerprint}");
    let file = lab.path("native.toml");
    settings.write(&file)?;
    Appliance::begin(&Place::Here, "run", &file)
}

/// An nginx of one process with this in its `http` block.
fn nginx(lab: &Lab, name: &str, http: &str) -> anyhow::Result<Process> {
    let folder = lab.path(&format!("nginx-{name}"));
    fs::create_dir_all(&folder)?;
    let root = folder.display();
    let configuration = format!(
        r#"
        daemon off; master_process off; pid {root}/pid; error_log stderr error;
        events {{ worker_connections 4096; }}
        http {{
            sendfile on; keepalive_requests 100000000; keepalive_timeout 600s;
            client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
            uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
            {http}
        }}
        "#
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = Command::new(tool("nginx")?);
    command.arg("-p").arg(&folder).arg("-c").arg(&file);
    Process::start(&format!("nginx ({name})"), &Place::Here, &mut command)
}

fn nginx_proxy(lab: &Lab, address: SocketAddr, origin: SocketAddr) -> String {
    let folder = lab.path("");
    let folder = folder.display();
    // Without files between origin and caller: no other proxy keeps what the caller does not take yet.
    format!(
        r#"
        access_log {folder}/nginx.log;
        upstream origin {{ server {origin}; keepalive {KEPT}; keepalive_requests 100000000; }}
        server {{
            listen {address} ssl;
            ssl_certificate {folder}/edge.pem;
            ssl_certificate_key {folder}/edge.key;
            ssl_client_certificate {folder}/client-ca.pem;
            ssl_verify_client on; ssl_verify_depth 4;
            ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites {CIPHER};
            ssl_session_tickets off; ssl_session_cache off;
            location / {{
                proxy_pass https://origin;
                proxy_http_version 1.1;
                proxy_max_temp_file_size 0;
                proxy_set_header Connection "";
                proxy_set_header Host $host;
                proxy_set_header X-Client-Subject $ssl_client_s_dn;
                proxy_set_header X-Client-Serial $ssl_client_serial;
                proxy_set_header X-Client-Fingerprint $ssl_client_fingerprint;
                proxy_ssl_certificate {folder}/appliance-client.pem;
                proxy_ssl_certificate_key {folder}/appliance-client.key;
                proxy_ssl_trusted_certificate {folder}/origin-ca.pem;
                proxy_ssl_verify on; proxy_ssl_verify_depth 4;
                proxy_ssl_name origin.bank.test; proxy_ssl_server_name on;
                proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites {CIPHER};
            }}
        }}
        "#
    )
}

fn haproxy(lab: &Lab, address: SocketAddr, origin: SocketAddr) -> anyhow::Result<Process> {
    // It wants certificate and key in one file.
    for name in ["edge", "appliance-client"] {
        let both = fs::read_to_string(lab.path(&format!("{name}.pem")))?
            + &fs::read_to_string(lab.path(&format!("{name}.key")))?;
        fs::write(lab.path(&format!("{name}-both.pem")), both)?;
    }
    let folder = lab.path("");
    let folder = folder.display();
    let configuration = format!(
        "global
            nbthread 1
            maxconn 4096
            tune.ssl.cachesize 0
            log stdout format raw local0
        defaults
            mode http
            log global
            option httplog
            timeout connect 5s
            timeout client 600s
            timeout server 600s
            timeout http-keep-alive 600s
        frontend callers
            bind {address} ssl crt {folder}/edge-both.pem ca-file {folder}/client-ca.pem verify required ssl-min-ver TLSv1.3 ciphersuites {CIPHER} alpn http/1.1 no-tls-tickets
            http-request set-header X-Client-Subject %[ssl_c_s_dn]
            http-request set-header X-Client-Serial %[ssl_c_serial,hex]
            http-request set-header X-Client-Fingerprint %[ssl_c_sha1,hex]
            default_backend origin
        backend origin
            http-reuse always
            server origin {origin} ssl crt {folder}/appliance-client-both.pem ca-file {folder}/origin-ca.pem verify required verifyhost origin.bank.test sni str(origin.bank.test) ssl-min-ver TLSv1.3 ciphersuites {CIPHER} pool-max-conn {KEPT}
        "
    );
    let file = lab.path("haproxy.cfg");
    // It refuses a last line without an end.
    fs::write(&file, configuration.trim_end().to_owned() + "\n")?;
    // Its log goes to standard output, and from there to a file, as the others' logs do.
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"exec "$0" -db -f "$1" > "$2""#])
        .arg(tool("haproxy")?)
        .arg(&file)
        .arg(lab.path("haproxy.log"));
    Process::start("haproxy", &Place::Here, &mut command)
}

fn listening(mut process: Process, address: SocketAddr) -> anyhow::Result<Process> {
    wait_until(&format!("something to listen on {address}"), Deadline::seconds(PATIENCE), || {
        ensure!(process.is_running()?, "it ended\n{}", process.transcript());
        Ok(TcpStream::connect(address).ok())
    })?;
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_facts_have_to_arrive() {
        assert!(told_who("subject=CN=a\nserial=01\nfingerprint=ab\n").is_ok());
        let missing = told_who("subject=CN=a\nserial=\nfingerprint=ab\n").unwrap_err().to_string();
        assert!(missing.contains("serial"), "{missing}");
    }

    #[test]
    fn time_on_a_cpu_is_the_first_word() {
        assert_eq!(ran("1051652 504391351 2\n").unwrap(), 1_051_652);
        assert!(ran("").is_err());
    }
}
