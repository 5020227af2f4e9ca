//! The configuration as a whole: what is accepted, what is reported, and that the reference is complete.

use super::*;
use crate::identity::ReservedNames;

/// The least that a file must say.
const LEAST: &str = r#"
[listener]
addresses = ["0.0.0.0:8443"]
[tls]
certificate = "tls/server.pem"
key = "/etc/ssl/server.key"
client_ca = ["tls/clients.pem"]
[origin]
addresses = ["10.0.0.5:443"]
server_name = "api.bank.internal"
certificate = "tls/origin.pem"
key = "tls/origin.key"
ca = ["tls/origin-ca.pem"]
[registry]
files = ["registry.toml"]
"#;

/// Every key, none with its default.
const FULL: &str = r#"
[listener]
addresses = ["0.0.0.0:8443", "[::1]:9443"]
workers = 2
[tls]
certificate = "c"
key = "k"
client_ca = ["ca1", "ca2"]
minimum_version = "1.2"
client_eku = "server-auth-too"
[origin]
addresses = ["[fd00::5]:443", { address = "api.bank.internal:443", weight = 3 }]
server_name = "10.0.0.9"
certificate = "oc"
key = "ok"
verify = "pin"
pins = ["sha256:9F:86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
minimum_version = "1.2"
idle_per_identity = 0
pool = "shared"
connections = 5
queue = 6
queue_timeout = "2s"
connect_timeout = "3s"
response_timeout = "4s"
eject_after = 7
eject_for = "8s"
health_path = "/up?deep=1"
health_interval = "1s"
health_timeout = "500ms"
health_fall = 1
health_rise = 4
[origins.accounts]
addresses = ["10.0.0.6:443"]
server_name = "accounts.bank.internal"
certificate = "oc"
key = "ok"
ca = ["oca"]
[sites.open]
hosts = ["api.bank.example", "*.open.bank.example", "[2001:DB8::1]"]
routes = [{ prefix = "/v1", origin = "default" }, { prefix = "/v1/accounts", origin = "accounts" }]
upgrade = ["WebSocket"]
certificate = "sc"
key = "sk"
[sites.rest]
hosts = ["*"]
origin = "accounts"
[resolver]
servers = ["10.0.0.53:53"]
interval = "10s"
timeout = "1s"
[identity]
presets = ["rfc9440"]
headers = [
  { name = "X-Who", value = "${subject.dn} for $$5" },
  { name = "X-Org", value = "${org.name}", encoding = "base64" },
]
remove = ["X-Legacy-User"]
forwarded_for = false
[offload]
mode = "required"
hand_over_from = "20KiB"
splice_from = "never"
[guard]
interfaces = ["eth0", "eth1"]
ports = [443]
addresses = ["192.0.2.1", "::ffff:192.0.2.2"]
management = ["10.20.1.1/16", "2001:db8::7"]
mode = "observe"
pass = ["ipv6_header_limit", "short_tcp"]
syns_per_source = 10
syn_burst_per_source = 7
syns_per_organisation = 100
syn_burst_per_organisation = 1000
open_after = "30s"
attach = "native"
pin_dir = "/sys/fs/bpf/other"
log_per_second = 0
[registry]
files = ["r1", "/r2"]
[control]
socket = "control.sock"
[limits]
connections = 1
connections_per_source = 1
connections_per_organisation = 1
handshakes = 1
head_bytes = "64KiB"
head_fields = 50
target_bytes = "1024B"
body_bytes = "10MiB"
body_rate = "any"
socket_buffer = "256KiB"
requests_per_connection = 5
records_per_key = 1000
[timeouts]
handshake = "500ms"
header = "1s"
idle = "2m"
body = "1s"
body_grace = "5s"
tunnel_idle = "1h"
connect = "1s"
response = "1h"
origin_idle = "1s"
drain = "1s"
[log]
file = "log/appliance.log"
"#;

pub(crate) fn read(text: &str) -> Result<Config, Mistakes> {
    parse::parse(Path::new("/etc/appliance/config.toml"), text)
}

fn report(text: &str) -> String {
    match read(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(mistakes) => mistakes.to_string(),
    }
}

/// The keys that are reported for a text.
fn reported(text: &str) -> Vec<String> {
    read(text).err().map(|mistakes| mistakes.iter().map(|mistake| mistake.key.clone()).collect()).unwrap_or_default()
}

/// `LEAST` with one line replaced.
fn with(old: &str, new: &str) -> String {
    assert!(LEAST.contains(old), "{old}");
    LEAST.replacen(old, new, 1)
}

#[test]
fn the_least_configuration_gets_the_defaults() {
    let config = read(LEAST).unwrap();
    assert_eq!(config.path, Path::new("/etc/appliance/config.toml"));
    assert_eq!(config.tls.certificate, Path::new("/etc/appliance/tls/server.pem"));
    assert_eq!(config.tls.key, Path::new("/etc/ssl/server.key"));
    assert_eq!(config.tls.minimum_version, TlsVersion::V1_3);
    assert_eq!(config.tls.client_eku, ClientEku::ClientAuth);
    assert!(matches!(&config.origins[0].verify, OriginVerify::Ca(files) if files.len() == 1));
    assert_eq!(config.origins[0].idle_per_identity, 8);
    assert_eq!(config.identity.headers.first().map(|header| &*header.name), Some("X-MyData-Client-Verify"));
    assert!(config.identity.forwarded_for);
    assert_eq!(config.offload, OffloadMode::Auto);
    assert_eq!((config.hand_over_from, config.splice_from), (0, 16 * 1024));
    assert!(config.guard.is_none());
    assert!(config.listener.workers >= 1);
    assert_eq!(config.control_socket, Path::new("/run/mtls-appliance/control.sock"));
    assert_eq!(config.limits.head_bytes, 32 * 1024);
    assert_eq!(config.limits.body_bytes, u64::MAX);
    assert_eq!((config.limits.body_rate, config.timeouts.body_grace), (240, Duration::from_secs(60)));
    assert_eq!(config.limits.socket_buffer, 0);
    assert_eq!(config.timeouts.handshake, Duration::from_secs(10));
    assert_eq!(config.timeouts.idle, Duration::from_secs(60));
    assert_eq!(config.timeouts.tunnel_idle, Duration::from_secs(600));
    assert!(config.log_file.is_none());
}

#[test]
fn every_key_can_be_set() {
    let config = read(FULL).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.listener.addresses.len(), 2);
    assert_eq!(config.listener.workers, 2);
    assert_eq!(config.tls.client_eku, ClientEku::ServerAuthToo);
    assert_eq!(config.tls.minimum_version, TlsVersion::V1_2);
    assert!(matches!(&config.origins[0].verify, OriginVerify::Pin(pins) if pins[0][..3] == [0x9f, 0x86, 0xd0]));
    let names: Vec<&str> = config.identity.headers.iter().map(|header| &*header.name).collect();
    assert_eq!(names, ["Client-Cert", "Client-Cert-Chain", "X-Who", "X-Org"]);
    assert_eq!(config.identity.remove, ["X-Legacy-User"]);
    assert!(!config.identity.forwarded_for);
    assert_eq!(config.offload, OffloadMode::Required);
    assert_eq!((config.hand_over_from, config.splice_from), (20 * 1024, u64::MAX));
    let guard = config.guard.unwrap();
    assert_eq!((guard.ports, guard.mode, guard.attach), (vec![443], GuardMode::Observe, AttachMode::Native));
    assert_eq!((guard.log_per_second, guard.open_after), (0, Some(Duration::from_secs(30))));
    let addresses: Vec<String> = guard.addresses.iter().map(ToString::to_string).collect();
    let management: Vec<String> = guard.management.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(management, ["10.20.0.0/16", "2001:db8::7/128"]);
    assert_eq!(guard.pass, [mtls_appliance_common::Reason::Ipv6HeaderLimit, mtls_appliance_common::Reason::ShortTcp]);
    assert_eq!(guard.source_budget, Some(Budget { rate: 10, burst: 7 }));
    assert_eq!(guard.organisation_budget, Some(Budget { rate: 100, burst: 1000 }));
    assert_eq!(config.registry_files, [Path::new("/etc/appliance/r1"), Path::new("/r2")]);
    assert_eq!(config.control_socket, Path::new("/etc/appliance/control.sock"));
    assert_eq!(config.limits.body_bytes, 10 << 20);
    assert_eq!((config.limits.body_rate, config.timeouts.body_grace), (0, Duration::from_secs(5)));
    assert_eq!(config.limits.socket_buffer, 256 << 10);
    assert_eq!(config.timeouts.handshake, Duration::from_millis(500));
    assert_eq!(config.log_file.as_deref(), Some(Path::new("/etc/appliance/log/appliance.log")));
}

#[test]
fn each_key_of_the_table_appears_in_the_full_example_and_in_the_reference() {
    let reference = reference();
    let full: toml::Table = FULL.parse().unwrap();
    for key in keys::ALL {
        let named = |tables: &toml::Table| tables.values().find_map(|table| table.get(key.name())).cloned();
        let table = full.get(key.table()).and_then(toml::Value::as_table);
        let typed = table.and_then(|table| table.get(key.name()).cloned().or_else(|| named(table)));
        assert!(typed.is_some() || key.name() == "ca", "{}.{} is not in the example", key.table(), key.name());
        assert!(reference.contains(&format!("| `{}` | ", key.name())), "{} is not in the reference", key.name());
        assert!(key.meaning().ends_with('.'), "{}: {:?}", key.name(), key.meaning());
        assert!(keys::TABLES.iter().any(|(table, _)| *table == key.table()), "{}", key.table());
    }
    for variable in crate::identity::VARIABLES {
        assert!(reference.contains(variable.name), "{}", variable.name);
    }
}

#[test]
fn the_guard_takes_the_listeners_ports_unless_told_otherwise() {
    let text =
        with("addresses = [\"0.0.0.0:8443\"]", "addresses = [\"0.0.0.0:8443\", \"[::]:8443\", \"10.0.0.1:443\"]");
    let config = read(&format!("{text}[guard]\ninterfaces = [\"eth0\"]\n")).unwrap();
    assert_eq!(config.guard.unwrap().ports, [443, 8443]);
}

#[test]
fn all_mistakes_are_reported_at_once_with_key_line_value_and_remedy() {
    let report = report(
        "[listener]\naddresses = [\"0.0.0.0\", \"10.0.0.1:0\"]\nworkers = 0\n[tls]\nkey = \"k\"\ncertificate = 5\nclient_ca = []\n\
         [timeouts]\nheader = \"0s\"\nidle = 60\n[offload]\nmode = \"requird\"\n",
    );
    for wanted in [
        "line 2: listener.addresses[0] = \"0.0.0.0\": the port is missing",
        "line 2: listener.addresses[1] = \"10.0.0.1:0\": port 0 stands for no port",
        "line 3: listener.workers = 0: too small\n      give a number from 1 to 1024",
        "line 6: tls.certificate = 5: a string is wanted here, this is a whole number",
        "line 7: tls.client_ca = []: the list is empty",
        "line 9: timeouts.header = \"0s\": a deadline of zero",
        "line 10: timeouts.idle = 60: a string is wanted here",
        "line 12: offload.mode = \"requird\": no such choice\n      did you mean \"required\"?",
    ] {
        assert!(report.contains(wanted), "{wanted:?} is not in:\n{report}");
    }
    assert!(report.lines().count() <= 24, "{report}");
}

#[test]
fn each_missing_key_is_named() {
    let keys = reported("");
    for key in [
        "listener.addresses",
        "tls.certificate",
        "tls.key",
        "tls.client_ca",
        "origin.addresses",
        "origin.server_name",
        "origin.certificate",
        "origin.key",
        "origin.ca",
        "registry.files",
    ] {
        assert!(keys.iter().any(|reported| reported == key), "{key} is not in {keys:?}");
    }
    assert_eq!(keys.len(), 10);
}

#[test]
fn unknown_keys_and_tables_are_refused_with_the_likely_intention() {
    for (extra, key, remedy) in [
        ("[timeout]\nidle = \"1s\"\n", "timeout", "did you mean `timeouts`?"),
        ("[timeouts]\nheaders = \"1s\"\n", "timeouts.headers", "did you mean `header`?"),
        ("[timeouts]\nhead_bytes = \"1KiB\"\n", "timeouts.head_bytes", "did you mean `limits.head_bytes`?"),
        ("[log]\ncolour = 1\n", "log.colour", "known here: file"),
        (
            "[identity]\nheaders = [{ name = \"X-A\", vlue = \"b\" }]\n",
            "identity.headers[0].vlue",
            "did you mean `value`?",
        ),
    ] {
        let text = format!("{LEAST}{extra}");
        let report = report(&text);
        assert!(reported(&text).iter().any(|reported| reported == key), "{report}");
        assert!(report.contains(remedy), "{report}");
    }
}

#[test]
fn a_value_in_place_of_a_table_is_one_mistake() {
    assert_eq!(reported(&format!("guard = 1\n{LEAST}")), ["guard"]);
    assert_eq!(reported(&format!("limits = []\n{LEAST}")), ["limits"]);
}

#[test]
fn the_ways_to_verify_the_origin_do_not_mix() {
    let pin = format!("\"sha256:{}\"", "ab".repeat(32));
    let ca = "ca = [\"tls/origin-ca.pem\"]";
    for (new, key) in [
        (format!("{ca}\nverify = \"none\""), "origin.ca"),
        (format!("verify = \"none\"\npins = [{pin}]"), "origin.pins"),
        ("verify = \"pin\"".to_owned(), "origin.pins"),
        (format!("verify = \"pin\"\npins = [{pin}]\n{ca}"), "origin.ca"),
        (format!("{ca}\npins = [{pin}]"), "origin.pins"),
        ("verify = \"ca\"".to_owned(), "origin.ca"),
        (format!("verify = \"pin\"\npins = [{pin}, {pin}]"), "origin.pins[1]"),
        ("verify = \"pin\"\npins = [\"ab\"]".to_owned(), "origin.pins[0]"),
        ("verify = \"pin\"\npins = [\"sha256:abc\"]".to_owned(), "origin.pins[0]"),
        (format!("verify = \"pin\"\npins = [\"sha256:{}\"]", "xy".repeat(32)), "origin.pins[0]"),
    ] {
        assert_eq!(reported(&with(ca, &new)), [key], "{new}");
    }
    let config = read(&with(ca, "verify = \"none\"")).unwrap();
    assert!(matches!(config.origins[0].verify, OriginVerify::None));
}

#[test]
fn an_origin_that_is_the_appliance_itself_is_refused() {
    assert_eq!(reported(&with("10.0.0.5:443", "0.0.0.0:8443")), ["origin.addresses"]);
    assert_eq!(reported(&with("10.0.0.5:443", "0.0.0.0:443")), ["origin.addresses"]);
}

/// `LEAST` with further tables; `[origins.b]` is a valid one.
fn and(text: &str) -> String {
    let origin = LEAST.split("[origin]").nth(1).and_then(|rest| rest.split("[registry]").next()).unwrap();
    format!("{LEAST}[origins.b]{origin}{text}")
}

#[test]
fn without_sites_every_name_leads_to_the_origin() {
    let config = read(LEAST).unwrap();
    let [site] = &*config.sites else { panic!("{:?}", config.sites) };
    assert_eq!((&*site.hosts, site.origin, &*site.routes), (&[HostPattern::Any][..], 0, &[][..]));
    assert_eq!(reported(&and("")), ["origins.b"], "no site leads there");
}

#[test]
fn sites_and_routes_name_origins() {
    let config = read(FULL).unwrap();
    let names: Vec<&str> = config.origins.iter().map(|origin| &*origin.name).collect();
    assert_eq!(names, ["default", "accounts"]);
    let [open, rest] = &*config.sites else { panic!("{:?}", config.sites) };
    let hosts: Vec<String> = open.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["api.bank.example", "*.open.bank.example", "[2001:db8::1]"]);
    let routes: Vec<(&str, usize)> = open.routes.iter().map(|route| (&*route.prefix, route.origin)).collect();
    assert_eq!(routes, [("/v1/accounts", 1), ("/v1", 0)], "longest first");
    assert_eq!(open.upgrade, ["websocket"]);
    assert_eq!(open.credentials.as_ref().unwrap().1, Path::new("/etc/appliance/sk"));
    assert_eq!((open.origin, rest.origin), (0, 1));
    assert!(rest.credentials.is_none());
}

#[test]
fn origins_have_servers_checks_and_deadlines() {
    let config = read(FULL).unwrap();
    let [first, second] = &*config.origins else { panic!("{:?}", config.origins) };
    let shown: Vec<String> = first.servers.iter().map(|server| format!("{server} {}", server.weight)).collect();
    assert_eq!(shown, ["[fd00::5]:443 1", "api.bank.internal:443 3"]);
    assert_eq!((first.pool, first.connections, first.queue, first.eject_after), (PoolMode::Shared, 5, 6, 7));
    let seconds = Duration::from_secs;
    assert_eq!((first.queue_timeout, first.connect_timeout), (seconds(2), seconds(3)));
    assert_eq!((first.response_timeout, first.eject_for), (seconds(4), seconds(8)));
    let health = first.health.as_ref().unwrap();
    assert_eq!((&*health.path, health.interval, health.fall, health.rise), ("/up?deep=1", seconds(1), 1, 4));
    assert_eq!((second.pool, second.eject_after), (PoolMode::PerIdentity, 5));
    assert_eq!((second.connect_timeout, second.response_timeout), (seconds(1), seconds(3600)), "from [timeouts]");
    assert!(second.health.is_none());
}

#[test]
fn what_sites_say_has_to_lead_somewhere_and_not_to_two_places() {
    for (text, key, problem) in [
        ("[sites.a]\nhosts = [\"a.test\"]\norigin = \"b\"\n", "origin", "no site leads there"),
        ("[sites.a]\nhosts = [\"a.test\"]\norigin = \"c\"\n", "sites.a.origin", "known: default, b"),
        (
            "[sites.a]\nhosts = [\"a.test\"]\nroutes = [{ prefix = \"/x\", origin = \"c\" }]\n",
            "sites.a.routes",
            "there is no such origin",
        ),
        ("[sites.a]\nhosts = []\norigin = \"b\"\n", "sites.a.hosts", "the list is empty"),
        ("[sites.a]\norigin = \"b\"\n", "sites.a.hosts", "is missing"),
        ("[sites.a]\nhosts = [\"https://a.test\"]\n", "sites.a.hosts[0]", "not a DNS name"),
        ("[sites.a]\nhosts = [\"a.test\"]\nhost = \"b\"\n", "sites.a.host", "did you mean `hosts`?"),
        ("[sites.a]\nhosts = [\"a.test\"]\nkey = \"k\"\n", "sites.a.certificate", "is missing: there is a key"),
        ("[sites.a]\nhosts = [\"a.test\"]\nupgrade = [\"h2c\"]\n", "sites.a.upgrade[0]", "that nobody checks"),
        ("[sites.a]\nhosts = [\"a.test\"]\nupgrade = [\"x\", \"web socket\"]\n", "sites.a.upgrade[1]", "not the name"),
        (
            "[sites.a]\nhosts = [\"a.test\"]\nroutes = [{ prefix = \"/x/\", origin = \"b\" }]\n",
            "sites.a.routes[0].prefix",
            "ends with a slash",
        ),
        (
            "[sites.a]\nhosts = [\"a.test\"]\n[sites.c]\nhosts = [\"A.test\"]\norigin = \"b\"\n",
            "sites.c.hosts",
            "a.test is a name of sites.a already",
        ),
        ("[sites]\n", "sites", "no site is given"),
        ("[sites]\nhosts = [\"a.test\"]\n", "sites.hosts", ""),
        ("[sites.\"a b\"]\nhosts = [\"a.test\"]\norigin = \"b\"\n", "sites.a b", ""),
    ] {
        let text = and(text);
        let report = report(&text);
        assert!(reported(&text).iter().any(|reported| reported == key), "{key}:\n{report}");
        assert!(report.contains(problem), "{report}");
    }
}

#[test]
fn mistakes_in_origins_are_reported_with_their_place() {
    let ca = "ca = [\"tls/origin-ca.pem\"]";
    for (old, new, key) in [
        ("10.0.0.5:443", "10.0.0.5", "origin.addresses[0]"),
        ("10.0.0.5:443", "https://10.0.0.5:443", "origin.addresses[0]"),
        ("10.0.0.5:443", "api_1.test", "origin.addresses[0]"),
        ("10.0.0.5:443", "10.0.0.5.1:443", "origin.addresses[0]"),
        ("10.0.0.5:443", "api.test:0", "origin.addresses[0]"),
        (ca, "ca = [\"a\"]\nhealth_interval = \"1s\"", "origin.health_interval"),
        (ca, "ca = [\"a\"]\nhealth_path = \"up\"", "origin.health_path"),
        (ca, "ca = [\"a\"]\npool = \"private\"", "origin.pool"),
        (ca, "ca = [\"a\"]\n[origins.default]\naddresses = [\"10.0.0.7:1\"]", "origins.default"),
        (ca, "ca = [\"a\"]\n[origins.x]\naddresses = [\"10.0.0.7:1\", \"10.0.0.7:1\"]", "origins.x.addresses[1]"),
        (ca, "ca = [\"a\"]\n[origins.x]\nverify = \"pin\"", "origins.x.pins"),
        ("\"10.0.0.5:443\"", "{ address = \"10.0.0.5:443\", weight = 0 }", "origin.addresses[0].weight"),
        ("\"10.0.0.5:443\"", "{ weight = 1 }", "origin.addresses[0].address"),
    ] {
        let text = with(old, new);
        assert!(reported(&text).iter().any(|reported| reported == key), "{key}: {}", report(&text));
    }
}

#[test]
fn injected_names_must_be_valid_free_and_harmless() {
    for (headers, key, problem) in [
        (
            "{ name = \"Content_Length\", value = \"a\" }",
            "identity.headers[0].name",
            "belongs to the message's framing",
        ),
        ("{ name = \"connection\", value = \"a\" }", "identity.headers[0].name", "belongs to the message's framing"),
        ("{ name = \"X A\", value = \"a\" }", "identity.headers[0].name", "' ' is not allowed"),
        ("{ name = \"x_mydata_client_dn\", value = \"a\" }", "identity.headers[0].name", "injected already"),
        ("{ name = \"X-Forwarded-For\", value = \"a\" }", "identity.headers[0].name", "injected already"),
        (
            "{ name = \"X-A\", value = \"a\" }, { name = \"x.a\", value = \"b\" }",
            "identity.headers[1].name",
            "injected already",
        ),
        ("{ name = \"X-A\", value = \"${subject.dm}\" }", "identity.headers[0].value", "did you mean ${subject.dn}?"),
        ("{ name = \"X-A\", value = \"a\\r\\nX-B: c\" }", "identity.headers[0].value", "cannot stand in a field value"),
        (
            "{ name = \"X-A\", value = \"a\", encoding = \"hex\" }",
            "identity.headers[0].encoding",
            "possible: \"percent\"",
        ),
        ("{ name = \"X-A\" }", "identity.headers[0].value", "is missing"),
        ("\"X-A: b\"", "identity.headers[0]", "a table is wanted here"),
    ] {
        let text = format!("{LEAST}[identity]\nheaders = [{headers}]\n");
        assert_eq!(reported(&text), [key], "{headers}");
        assert!(report(&text).contains(problem), "{}", report(&text));
    }
}

#[test]
fn a_name_that_is_taken_is_reported_beside_other_mistakes() {
    let headers = "{ name = \"X-A\", value = \"${no.such}\" }, { name = \"X_A\", value = \"a\" }";
    let text = format!("{LEAST}[identity]\nheaders = [{headers}]\n");
    assert_eq!(reported(&text), ["identity.headers[0].value", "identity.headers[1].name"]);
}

#[test]
fn an_origin_that_would_not_learn_who_calls_is_refused() {
    assert_eq!(reported(&format!("{LEAST}[identity]\npresets = []\n")), ["identity.presets"]);
}

#[test]
fn framing_fields_cannot_be_removed_and_others_can() {
    assert_eq!(reported(&format!("{LEAST}[identity]\nremove = [\"Host\", \"Cookie\"]\n")), ["identity.remove[0]"]);
    let config = read(&format!("{LEAST}[identity]\nremove = [\"Cookie\"]\n")).unwrap();
    let reserved = ReservedNames::for_settings(&config.identity);
    assert!(reserved.contains(b"cookie"));
}

#[test]
fn sizes_and_times_have_units_and_bounds() {
    for (extra, key) in [
        ("[limits]\nhead_bytes = \"64k\"\n", "limits.head_bytes"),
        ("[limits]\nhead_bytes = \"2GiB\"\n", "limits.head_bytes"),
        ("[limits]\nhead_bytes = \"unlimited\"\n", "limits.head_bytes"),
        ("[limits]\nhead_bytes = \"4KiB\"\n", "limits.target_bytes"),
        ("[limits]\nbody_bytes = \"0B\"\n", "limits.body_bytes"),
        ("[offload]\nhand_over_from = \"0B\"\n", "offload.hand_over_from"),
        ("[offload]\nhand_over_from = \"never\"\n", "offload.hand_over_from"),
        ("[offload]\nsplice_from = \"0B\"\n", "offload.splice_from"),
        ("[offload]\nsplice_from = \"unlimited\"\n", "offload.splice_from"),
        ("[limits]\nconnections = 99999999999999999999999\n", "limits.connections"),
        ("[limits]\nconnections = -1\n", "limits.connections"),
        ("[limits]\nconnections = 1.5\n", "limits.connections"),
        ("[timeouts]\nidle = \"2d\"\n", "timeouts.idle"),
        ("[timeouts]\nhandshake = \"6m\"\n", "timeouts.handshake"),
        ("[timeouts]\nhandshake = \"1ms\"\n", "timeouts.handshake"),
        ("[guard]\ninterfaces = [\"a/b\"]\n", "guard.interfaces[0]"),
        ("[guard]\ninterfaces = \"eth0\"\n", "guard.interfaces"),
        ("[guard]\ninterfaces = []\n", "guard.interfaces"),
        ("[guard]\ninterfaces = [\"eth0\", \"eth0\"]\n", "guard.interfaces[1]"),
        ("[guard]\ninterfaces = [\"0\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\"]\n", "guard.interfaces"),
        ("[guard]\ninterfaces = [\"eth0\"]\nports = [0]\n", "guard.ports[0]"),
        ("[guard]\ninterfaces = [\"eth0\"]\nports = [443, 443]\n", "guard.ports[1]"),
        ("[guard]\ninterfaces = [\"eth0\"]\npin_dir = \"relative\"\n", "guard.pin_dir"),
        ("[guard]\n", "guard.interfaces"),
        ("[guard]\ninterfaces = [\"eth0\"]\naddresses = [\"0.0.0.0\"]\n", "guard.addresses[0]"),
        ("[guard]\ninterfaces = [\"eth0\"]\nmanagement = [\"::/0\"]\n", "guard.management[0]"),
        ("[guard]\ninterfaces = [\"eth0\"]\nmanagement = [\"10.0.0.0/40\"]\n", "guard.management[0]"),
        ("[guard]\ninterfaces = [\"eth0\"]\nmode = \"native\"\n", "guard.mode"),
        ("[guard]\ninterfaces = [\"eth0\"]\npass = [\"registered\"]\n", "guard.pass[0]"),
        ("[guard]\ninterfaces = [\"eth0\"]\nsyn_burst_per_source = 5\n", "guard.syn_burst_per_source"),
        ("[guard]\ninterfaces = [\"eth0\"]\nopen_after = \"1s\"\n", "guard.open_after"),
    ] {
        assert_eq!(reported(&format!("{LEAST}{extra}")), [key], "{extra}");
    }
    assert_eq!(read(&format!("{LEAST}[limits]\nconnections = 0x10\n")).unwrap().limits.connections, 16);
}

#[test]
fn the_key_of_one_interface_leads_to_that_of_several() {
    let report = report(&format!("{LEAST}[guard]\ninterface = \"eth0\"\n"));
    assert!(report.contains("guard.interface") && report.contains("did you mean `interfaces`?"), "{report}");
    let eight = (0..8).map(|number| format!("\"eth{number}\"")).collect::<Vec<_>>().join(", ");
    let config = read(&format!("{LEAST}[guard]\ninterfaces = [{eight}]\n")).unwrap();
    assert_eq!(config.guard.unwrap().interfaces.len(), 8);
}

#[test]
fn a_socket_path_that_the_kernel_cannot_bind_is_refused() {
    let text = format!("{LEAST}[control]\nsocket = \"/run/{}\"\n", "x".repeat(120));
    assert_eq!(reported(&text), ["control.socket"]);
}

#[test]
fn no_text_makes_the_parser_panic_or_accept_in_silence() {
    // Every prefix and every single-character deletion of a valid file: it is read, or something is reported.
    for end in (0..FULL.len()).filter(|end| FULL.is_char_boundary(*end)) {
        let _ = read(&FULL[..end]).map_err(|mistakes| assert!(!mistakes.is_empty()));
        let mut text = FULL.to_owned();
        text.remove(end);
        let _ = read(&text)
            .map_err(|mistakes| assert!(!mistakes.is_empty() && !mistakes.to_string().contains("by a fault of")));
    }
}

#[test]
fn a_file_is_loaded_and_a_missing_one_named() {
    let folder = std::env::temp_dir().join(format!("mtls-appliance-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("c.toml");
    std::fs::write(&file, LEAST).unwrap();
    let config = load(&file);
    let absent = load(&folder.join("absent.toml"));
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(config.unwrap().tls.certificate, folder.join("tls/server.pem"));
    let report = absent.unwrap_err().to_string();
    assert!(
        report.contains("absent.toml") && report.contains("No such file") && report.contains("--config"),
        "{report}"
    );
}
