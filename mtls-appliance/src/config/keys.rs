//! The one table of what a configuration file may say.
//!
//! The parser, the suggestions for misspelt keys and the reference all read it, so none can forget a key.

use std::time::Duration;

use super::form::{
    ADDRESS, ATTACH, Count, DROP_REASON, EKU, Flag, Form, GUARD, GUARDED_ADDRESS, HEALTH_PATH, HOST_PATTERN, Header,
    INTERFACE, List, MANAGEMENT, MANY, OFFLOAD, ORIGIN_NAME, OriginServerForm, PATH, PIN, PIN_DIR, POOL, PORT,
    PresetName, REMOVED_NAME, RouteForm, SERVER_NAME, Size, Span, Text, UPGRADE, VERIFY, VERSIONS, VerifyWord, Words,
};
use super::{AttachMode, ClientEku, GuardMode, HostPattern, OffloadMode, PoolMode, TlsVersion};
use crate::ktls::session::KeyLimit;

/// What holds where a key is absent.
pub(super) enum Absent {
    /// The file is refused.
    Required,
    /// This value, in TOML.
    Default(&'static str),
    /// This happens.
    Otherwise(&'static str),
}

/// A key.
pub(super) struct Key<F> {
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    pub(super) form: F,
    pub(super) absent: Absent,
    meaning: &'static str,
}

impl<F> Key<F> {
    /// As in `tls.key`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.table, self.name)
    }
}

/// What the reference says about a key.
pub(super) trait Documented: Sync {
    fn table(&self) -> &'static str;
    fn name(&self) -> &'static str;
    fn absent(&self) -> &Absent;
    fn meaning(&self) -> &'static str;
    fn describe(&self) -> String;
}

impl<F: Form> Documented for Key<F> {
    fn table(&self) -> &'static str {
        self.table
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn absent(&self) -> &Absent {
        &self.absent
    }

    fn meaning(&self) -> &'static str {
        self.meaning
    }

    fn describe(&self) -> String {
        self.form.describe()
    }
}

/// The tables and what they are about.
pub(super) const TABLES: [(&str, &str); 14] = [
    ("listener", "Where callers connect."),
    ("tls", "TLS towards the callers."),
    ("origin", "The API server behind the appliance: one, or several that are alike."),
    ("origins", "Further origins, each in a table `[origins.NAME]` with the keys of `[origin]`, for sites and routes."),
    (
        "sites",
        "Which names are served, each site in a table `[sites.NAME]`. Without any, every name leads to `[origin]`; with \
         one or more, a name that none of them lists is refused.",
    ),
    ("resolver", "How the names of origins are looked up."),
    ("identity", "How the origin is told who calls."),
    ("offload", "TLS in the kernel."),
    ("guard", "The XDP guard; without this table there is none."),
    ("registry", "The participants."),
    ("control", "How `status` reaches the running appliance."),
    ("limits", "Upper bounds."),
    ("timeouts", "Deadlines."),
    ("log", "The log."),
];

/// Most tables `[origins.NAME]`, and most `[sites.NAME]`.
pub(super) const NAMED_LIMIT: usize = 200;

/// For a table of tables: the table whose keys each of them has.
pub(super) fn declared_in(table: &str) -> Option<&'static str> {
    match table {
        "origins" => Some("origin"),
        "sites" => Some("sites"),
        _ => None,
    }
}

macro_rules! keys {
    ($($constant:ident: $form:ty = $table:literal . $name:literal, $value:expr, $absent:expr, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub(super) static $constant: Key<$form> = Key {
                table: $table,
                name: $name,
                form: $value,
                absent: $absent,
                meaning: $meaning,
            };
        )*
        /// Every key, in the order of the reference.
        pub(super) static ALL: &[&dyn Documented] = &[$(&$constant),*];
    };
}

const fn paths() -> List<Text<String>> {
    List { item: PATH, most: MANY, may_be_empty: false, example: "[\"tls/ca.pem\"]" }
}

/// From 100 ms to the given number of seconds.
const fn up_to(seconds: u64) -> Span {
    Span { least: Duration::from_millis(100), most: Duration::from_secs(seconds) }
}

use Absent::{Default, Otherwise, Required};

keys! {
    LISTENER_ADDRESSES: List<Text<std::net::SocketAddr>> = "listener"."addresses",
        List { item: ADDRESS, most: MANY, may_be_empty: false, example: "[\"0.0.0.0:8443\"]" }, Required,
        "Addresses and ports that accept callers.";
    LISTENER_WORKERS: Count = "listener"."workers",
        Count { least: 1, most: 1024 }, Otherwise("the number of CPUs that the process may use"),
        "Worker threads.";

    TLS_CERTIFICATE: Text<String> = "tls"."certificate", PATH, Required,
        "The server certificate chain, PEM, leaf first.";
    TLS_KEY: Text<String> = "tls"."key", PATH, Required,
        "Its private key, PEM (PKCS#8, PKCS#1 or SEC1).";
    TLS_CLIENT_CA: List<Text<String>> = "tls"."client_ca", paths(), Required,
        "Bundles of the CAs that issue the callers' certificates, PEM.";
    TLS_MINIMUM_VERSION: Words<TlsVersion> = "tls"."minimum_version", VERSIONS, Default("\"1.3\""),
        "Oldest TLS version that callers may use.";
    TLS_CLIENT_EKU: Words<ClientEku> = "tls"."client_eku", EKU, Default("\"client-auth\""),
        "Extended key usage that a caller's certificate needs.";

    ORIGIN_ADDRESSES: List<OriginServerForm> = "origin"."addresses",
        List { item: OriginServerForm, most: MANY, may_be_empty: false, example: "[\"10.0.0.5:9443\", { address = \"api2.bank.internal:9443\", weight = 2 }]" },
        Required,
        "Where the API servers listen. A name stands for all its addresses and is looked up again and again. A request goes to the address with the fewest requests under way for its weight.";
    ORIGIN_SERVER_NAME: Text<String> = "origin"."server_name", SERVER_NAME, Required,
        "Name sent to the API server (SNI) and looked for in its certificate.";
    ORIGIN_CERTIFICATE: Text<String> = "origin"."certificate", PATH, Required,
        "The appliance's own client certificate chain, PEM, leaf first.";
    ORIGIN_KEY: Text<String> = "origin"."key", PATH, Required,
        "Its private key, PEM.";
    ORIGIN_VERIFY: Words<VerifyWord> = "origin"."verify", VERIFY, Default("\"ca\""),
        "How the API server's certificate is checked.";
    ORIGIN_CA: List<Text<String>> = "origin"."ca", paths(), Otherwise("needed with `verify = \"ca\"`, refused otherwise"),
        "Bundles of the CAs that may have issued the API server's certificate, PEM.";
    ORIGIN_PINS: List<Text<[u8; 32]>> = "origin"."pins",
        List { item: PIN, most: MANY, may_be_empty: false, example: "[\"sha256:<hex>\"]" },
        Otherwise("needed with `verify = \"pin\"`, refused otherwise"),
        "SHA-256 of each certificate that the API server may show; name and validity are not looked at.";
    ORIGIN_MINIMUM_VERSION: Words<TlsVersion> = "origin"."minimum_version", VERSIONS, Default("\"1.3\""),
        "Oldest TLS version that the API server may use.";
    ORIGIN_IDLE_PER_IDENTITY: Count = "origin"."idle_per_identity", Count { least: 0, most: 1024 }, Default("8"),
        "Idle connections kept per client identity, address and worker.";
    ORIGIN_POOL: Words<PoolMode> = "origin"."pool", POOL, Default("\"per-identity\""),
        "Who may use a connection to the API server again.";
    ORIGIN_CONNECTIONS: Count = "origin"."connections", Count { least: 1, most: 1_000_000 }, Default("10000"),
        "Connections at once to each address, idle ones included.";
    ORIGIN_QUEUE: Count = "origin"."queue", Count { least: 0, most: 1_000_000 }, Default("1000"),
        "Requests that may wait for a connection to one address; more are answered 503 at once.";
    ORIGIN_QUEUE_TIMEOUT: Span = "origin"."queue_timeout", up_to(300), Default("\"5s\""),
        "How long such a request waits before it is answered 503.";
    ORIGIN_CONNECT_TIMEOUT: Span = "origin"."connect_timeout", up_to(300), Otherwise("`timeouts.connect`"),
        "TCP and TLS towards this origin.";
    ORIGIN_RESPONSE_TIMEOUT: Span = "origin"."response_timeout", up_to(3600), Otherwise("`timeouts.response`"),
        "From the end of a request to the head of this origin's response.";
    ORIGIN_EJECT_AFTER: Count = "origin"."eject_after", Count { least: 0, most: 1000 }, Default("5"),
        "Failures in a row after which an address gets no requests for a while; 0: never. What no connection can be made to fails; a connection that breaks or stays silent without an answer counts when it happens to more than one client identity.";
    ORIGIN_EJECT_FOR: Span = "origin"."eject_for", up_to(3600), Default("\"10s\""),
        "How long it gets none; then one request tries it. While no address is left, requests are answered 503 at once.";
    ORIGIN_HEALTH_PATH: Text<String> = "origin"."health_path", HEALTH_PATH, Otherwise("no checks"),
        "Target of a GET that each address has to answer with a status from 200 to 399, over mutual TLS as for requests.";
    ORIGIN_HEALTH_INTERVAL: Span = "origin"."health_interval", up_to(3600), Default("\"5s\""),
        "Between two such checks of an address.";
    ORIGIN_HEALTH_TIMEOUT: Span = "origin"."health_timeout", up_to(300), Default("\"2s\""),
        "From the beginning of a check to the head of its answer.";
    ORIGIN_HEALTH_FALL: Count = "origin"."health_fall", Count { least: 1, most: 100 }, Default("3"),
        "Failed checks in a row after which an address gets no requests.";
    ORIGIN_HEALTH_RISE: Count = "origin"."health_rise", Count { least: 1, most: 100 }, Default("2"),
        "Good checks in a row after which it gets requests again.";

    SITES_HOSTS: List<Text<HostPattern>> = "sites"."hosts",
        List { item: HOST_PATTERN, most: MANY, may_be_empty: false, example: "[\"api.bank.example\", \"*.open.bank.example\"]" }, Required,
        "Names of the site, in TLS (SNI) and in Host: exact ones, `*.suffix` for one label before it, or `*` for all others.";
    SITES_ORIGIN: Text<String> = "sites"."origin", ORIGIN_NAME, Otherwise("the origin of `[origin]`"),
        "NAME of the `[origins.NAME]` that serves what no route takes.";
    SITES_ROUTES: List<RouteForm> = "sites"."routes",
        List { item: RouteForm, most: MANY, may_be_empty: true, example: "[{ prefix = \"/v1/accounts\", origin = \"accounts\" }]" },
        Default("[]"),
        "Paths that go to other origins, the longest prefix first; whole segments are compared. With routes, a path with dot segments or encoded slashes is refused.";
    SITES_UPGRADE: List<Text<String>> = "sites"."upgrade",
        List { item: UPGRADE, most: MANY, may_be_empty: true, example: "[\"websocket\"]" }, Default("[]"),
        "Protocols that callers may switch to by Upgrade; what follows is passed through as it is, in both directions.";
    SITES_CERTIFICATE: Text<String> = "sites"."certificate", PATH, Otherwise("`tls.certificate`"),
        "The site's own server certificate chain, PEM, leaf first.";
    SITES_KEY: Text<String> = "sites"."key", PATH, Otherwise("`tls.key`"),
        "Its private key, PEM.";

    RESOLVER_SERVERS: List<Text<std::net::SocketAddr>> = "resolver"."servers",
        List { item: ADDRESS, most: MANY, may_be_empty: false, example: "[\"10.0.0.53:53\"]" },
        Otherwise("those of `/etc/resolv.conf`, after `/etc/hosts`"),
        "DNS servers.";
    RESOLVER_INTERVAL: Span = "resolver"."interval", up_to(86_400), Default("\"30s\""),
        "Between two look-ups of a name. When one fails, the addresses known so far stay in use.";
    RESOLVER_TIMEOUT: Span = "resolver"."timeout", up_to(60), Default("\"2s\""),
        "How long an answer is waited for.";

    IDENTITY_PRESETS: List<PresetName> = "identity"."presets",
        List { item: PresetName, most: MANY, may_be_empty: true, example: "[\"mydata\"]" }, Default("[\"mydata\"]"),
        "Named sets of injected fields, see Presets.";
    IDENTITY_HEADERS: List<Header> = "identity"."headers",
        List { item: Header, most: MANY, may_be_empty: true, example: "[{ name = \"X-Client-DN\", value = \"${subject.dn}\" }]" },
        Default("[]"),
        "Further injected fields, see Variables. A field whose value comes out empty is left out.";
    IDENTITY_REMOVE: List<Text<String>> = "identity"."remove",
        List { item: REMOVED_NAME, most: MANY, may_be_empty: true, example: "[\"X-Legacy-User\"]" }, Default("[]"),
        "Further fields that are removed from requests, in every spelling; injected and well-known identity fields always are.";
    IDENTITY_FORWARDED_FOR: Flag = "identity"."forwarded_for", Flag, Default("true"),
        "Whether `X-Forwarded-For` tells the caller's address; inbound copies are removed either way.";

    OFFLOAD_MODE: Words<OffloadMode> = "offload"."mode", OFFLOAD, Default("\"auto\""),
        "Whether sessions are handed to the kernel.";
    OFFLOAD_HAND_OVER_FROM: Size = "offload"."hand_over_from",
        Size { least: 1, most: 1 << 30, or: Some(("handshake", 0)) }, Default("\"handshake\""),
        "Which body has its two sessions handed to the kernel: the first of that size; or all are, with the handshake.";
    OFFLOAD_SPLICE_FROM: Size = "offload"."splice_from",
        Size { least: 1, most: 1 << 30, or: Some(("never", u64::MAX)) }, Default("\"16KiB\""),
        "From what is left of a body on it is spliced, where both sessions are in the kernel; less is copied.";

    GUARD_INTERFACES: List<Text<String>> = "guard"."interfaces",
        List { item: INTERFACE, most: 8, may_be_empty: false, example: "[\"eth0\", \"eth1\"]" }, Required,
        "Network interfaces that the guard is attached to, each with counters and budgets of its own.";
    GUARD_PORTS: List<Count> = "guard"."ports",
        List { item: PORT, most: MANY, may_be_empty: false, example: "[8443]" }, Otherwise("the listener's ports"),
        "TCP ports that only registered sources reach.";
    GUARD_ADDRESSES: List<Text<std::net::IpAddr>> = "guard"."addresses",
        List { item: GUARDED_ADDRESS, most: MANY, may_be_empty: false, example: "[\"192.0.2.1\"]" }, Otherwise("every address"),
        "Destination addresses that are guarded.";
    GUARD_MANAGEMENT: List<Text<ipnet::IpNet>> = "guard"."management",
        List { item: MANAGEMENT, most: MANY, may_be_empty: true, example: "[\"10.20.0.0/16\"]" }, Default("[]"),
        "Addresses and prefixes that the machine is managed from: nothing from there is dropped.";
    GUARD_MODE: Words<GuardMode> = "guard"."mode", GUARD, Default("\"enforce\""),
        "What the guard does about what it finds; a reload switches it between two packets.";
    GUARD_PASS: List<Text<mtls_appliance_common::Reason>> = "guard"."pass",
        List { item: DROP_REASON, most: MANY, may_be_empty: true, example: "[\"ipv6_header_limit\"]" }, Default("[]"),
        "Reasons whose packets are counted and passed instead of dropped.";
    GUARD_SYNS_PER_SOURCE: Count = "guard"."syns_per_source", Count { least: 1, most: 1_000_000 },
        Otherwise("not limited"),
        "New connections (TCP SYNs) a second from one registered IPv4 address or IPv6 /64, counted at each interface by itself; more are dropped.";
    GUARD_SYN_BURST_PER_SOURCE: Count = "guard"."syn_burst_per_source", Count { least: 1, most: 10_000_000 },
        Otherwise("ten seconds' worth"),
        "How many of them may come at once.";
    GUARD_SYNS_PER_ORGANISATION: Count = "guard"."syns_per_organisation", Count { least: 1, most: 1_000_000 },
        Otherwise("not limited"),
        "New connections a second from all addresses of one organisation, counted at each interface by itself. A SYN's source can be forged: keep it generous.";
    GUARD_SYN_BURST_PER_ORGANISATION: Count = "guard"."syn_burst_per_organisation",
        Count { least: 1, most: 10_000_000 }, Otherwise("ten seconds' worth"),
        "How many of them may come at once.";
    GUARD_OPEN_AFTER: Span = "guard"."open_after",
        Span { least: Duration::from_secs(3), most: Duration::from_secs(86_400) },
        Otherwise("never: the guard goes on without the daemon"),
        "After so long without a sign of life of the daemon nothing is dropped any more, until it is back.";
    GUARD_ATTACH: Words<AttachMode> = "guard"."attach", ATTACH, Default("\"auto\""),
        "How the XDP program is attached.";
    GUARD_PIN_DIR: Text<String> = "guard"."pin_dir", PIN_DIR, Default("\"/sys/fs/bpf/mtls-appliance\""),
        "Where link and maps are pinned, so that they outlive the process.";
    GUARD_LOG_PER_SECOND: Count = "guard"."log_per_second", Count { least: 0, most: 10_000 }, Default("10"),
        "Dropped packets per second that reach the log; all are counted.";

    REGISTRY_FILES: List<Text<String>> = "registry"."files",
        List { item: PATH, most: MANY, may_be_empty: false, example: "[\"registry.toml\"]" }, Required,
        "Files with the registered organisations.";

    CONTROL_SOCKET: Text<String> = "control"."socket", PATH, Default("\"/run/mtls-appliance/control.sock\""),
        "Unix socket of the running appliance.";

    LIMITS_CONNECTIONS: Count = "limits"."connections", Count { least: 1, most: 1_000_000 }, Default("10000"),
        "Client connections at once.";
    LIMITS_CONNECTIONS_PER_SOURCE: Count = "limits"."connections_per_source",
        Count { least: 1, most: 1_000_000 }, Default("2000"),
        "Client connections at once from one IPv4 address or one IPv6 /64.";
    LIMITS_CONNECTIONS_PER_ORGANISATION: Count = "limits"."connections_per_organisation",
        Count { least: 1, most: 1_000_000 }, Default("5000"),
        "Client connections at once of one organisation, from all its addresses.";
    LIMITS_HANDSHAKES: Count = "limits"."handshakes", Count { least: 1, most: 100_000 }, Default("512"),
        "Handshakes at once.";
    LIMITS_HEAD_BYTES: Size = "limits"."head_bytes",
        Size { least: 1 << 10, most: 1 << 20, or: None }, Default("\"32KiB\""),
        "Size of a request or response head.";
    LIMITS_HEAD_FIELDS: Count = "limits"."head_fields", Count { least: 8, most: 1000 }, Default("100"),
        "Fields in a head.";
    LIMITS_TARGET_BYTES: Size = "limits"."target_bytes",
        Size { least: 64, most: 1 << 20, or: None }, Default("\"8KiB\""),
        "Size of a request target.";
    LIMITS_BODY_BYTES: Size = "limits"."body_bytes",
        Size { least: 1, most: 1 << 50, or: Some(("unlimited", u64::MAX)) }, Default("\"unlimited\""),
        "Size of a request body.";
    LIMITS_BODY_RATE: Size = "limits"."body_rate",
        Size { least: 1, most: 1 << 30, or: Some(("any", 0)) }, Default("\"240B\""),
        "Bytes per second that a peer must give or take of a body on average, while it is waited for.";
    LIMITS_SOCKET_BUFFER: Size = "limits"."socket_buffer",
        Size { least: 16 << 10, most: 64 << 20, or: Some(("system", 0)) }, Default("\"system\""),
        "Bytes that the kernel may hold of a TCP socket in each direction; `system` is up to net.ipv4.tcp_rmem and tcp_wmem.";
    LIMITS_REQUESTS_PER_CONNECTION: Count = "limits"."requests_per_connection",
        Count { least: 1, most: 1_000_000_000 }, Default("1000000"),
        "Requests served on one client connection.";
    LIMITS_RECORDS_PER_KEY: Count = "limits"."records_per_key",
        Count { least: 100, most: KeyLimit::MOST }, Default("8388608"),
        "TLS records that the kernel sends under one key. Then it renews the key (Linux 6.14 and later, TLS 1.3), or the \
         connection ends behind the answer at hand; after twice as many it is cut off.";

    TIMEOUTS_HANDSHAKE: Span = "timeouts"."handshake", up_to(300), Default("\"10s\""),
        "From the accepted connection to the end of the TLS handshake.";
    TIMEOUTS_HEADER: Span = "timeouts"."header", up_to(300), Default("\"10s\""),
        "From the first byte of a head to its last.";
    TIMEOUTS_IDLE: Span = "timeouts"."idle", up_to(86_400), Default("\"60s\""),
        "Between two requests on a client connection.";
    TIMEOUTS_BODY: Span = "timeouts"."body", up_to(3600), Default("\"30s\""),
        "Between two advances of a body, in either direction.";
    TIMEOUTS_BODY_GRACE: Span = "timeouts"."body_grace", up_to(3600), Default("\"60s\""),
        "How far a peer may fall behind `limits.body_rate` in one body.";
    TIMEOUTS_TUNNEL_IDLE: Span = "timeouts"."tunnel_idle", up_to(86_400), Default("\"10m\""),
        "How long nothing may move in either direction of a tunnel (`upgrade` of a site).";
    TIMEOUTS_CONNECT: Span = "timeouts"."connect", up_to(300), Default("\"5s\""),
        "TCP and TLS towards the API server.";
    TIMEOUTS_RESPONSE: Span = "timeouts"."response", up_to(3600), Default("\"60s\""),
        "From the end of a request to the head of its response.";
    TIMEOUTS_ORIGIN_IDLE: Span = "timeouts"."origin_idle", up_to(86_400), Default("\"30s\""),
        "How long an unused connection to the API server is kept.";
    TIMEOUTS_DRAIN: Span = "timeouts"."drain", up_to(3600), Default("\"30s\""),
        "From SIGTERM to the forced end.";

    LOG_FILE: Text<String> = "log"."file", PATH, Otherwise("standard output"),
        "File that the log is appended to.";
}
