//! From the file's text to [`Config`]: each key by itself first, then what must fit together.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::Document;
use super::form::Form;
use super::keys::{self, Absent, Key};
use super::sites::with_timeouts;
use super::{Budget, Config, Guard, Identity, Limits, Listener, Mistakes, ServerTls, Timeouts};
use crate::identity::{HeaderTemplate, check_injected_name, same_field};

/// Longest path of a Unix socket: `sun_path` holds 108 bytes with the closing NUL (unix(7)).
const SOCKET_PATH_LIMIT: usize = 107;

/// Reads a configuration's text; `path` is where it came from.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, Mistakes> {
    let path = std::path::absolute(path).map_err(|error| {
        Mistakes::about_file(path, format!("has no absolute path: {error}"), "give an absolute path")
    })?;
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let (document, root) = Document::parse(&path, text)?;
    let mut reader = Reader { document, root: root.get_ref(), folder, named: None };
    reader.check_names();
    let config = reader.config(&path);
    let clean = reader.document.is_clean();
    match config {
        Some(config) if clean => Ok(config),
        _ => {
            let mistakes = reader.document.into_mistakes();
            Err(if mistakes.is_empty() {
                // A value was refused without a word: not the operator's mistake, but starting would be worse.
                Mistakes::about_file(&path, "could not be read, by a fault of the appliance", "report this file")
            } else {
                mistakes
            })
        }
    }
}

pub(super) struct Reader<'t> {
    pub(super) document: Document<'t>,
    pub(super) root: &'t DeTable<'t>,
    folder: PathBuf,
    /// The table that stands for the one that keys are declared in, while it is being read.
    pub(super) named: Option<Named<'t>>,
}

/// One of several tables with the same keys, as `[origins.NAME]` has those of `[origin]`.
pub(super) struct Named<'t> {
    /// The table that the keys are declared in.
    pub(super) table: &'static str,
    /// The table as typed, `origins.NAME`.
    pub(super) shown: String,
    pub(super) content: &'t DeTable<'t>,
    pub(super) span: Range<usize>,
}

impl<'t> Reader<'t> {
    /// Notes unknown tables and keys.
    fn check_names(&mut self) {
        let tables: Vec<&str> = keys::TABLES.iter().map(|(name, _)| *name).collect();
        let full_name = |name: &str| {
            keys::ALL.iter().find(|key| key.name() == name).map(|key| format!("{}.{}", key.table(), key.name()))
        };
        self.document.unknown_keys("", self.root, &tables, full_name);
        for table in tables {
            let Some(value) = self.root.get(table) else {
                continue;
            };
            let DeValue::Table(content) = value.get_ref() else {
                let remedy = match keys::declared_in(table) {
                    None => format!("write [{table}] and the keys below it"),
                    Some(_) => format!("write [{table}.NAME] and the keys below it"),
                };
                self.document.wrong_type(table, value, "a table", &remedy);
                continue;
            };
            let known = |table: &str| -> Vec<&str> {
                keys::ALL.iter().filter(|key| key.table() == table).map(|key| key.name()).collect()
            };
            match keys::declared_in(table) {
                None => self.document.unknown_keys(table, content, &known(table), full_name),
                Some(declared) => self.check_named(table, content, &known(declared), full_name),
            }
        }
    }

    /// Notes what is wrong with the names in a table of tables, `[origins.NAME]` or `[sites.NAME]`.
    fn check_named(
        &mut self,
        table: &str,
        content: &'t DeTable<'t>,
        known: &[&str],
        elsewhere: impl Fn(&str) -> Option<String> + Copy,
    ) {
        if content.len() > keys::NAMED_LIMIT {
            let span = content.values().next().map(Spanned::span);
            let problem = format!("more than {} tables", keys::NAMED_LIMIT);
            self.document.missing(table, span, problem, "put several names into one site");
        }
        for (name, value) in content {
            let shown = format!("{table}.{}", name.get_ref());
            let valid = !name.get_ref().is_empty()
                && name.get_ref().len() <= 64
                && name.get_ref().bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
            if !valid {
                let remedy = "name it with letters, digits, - and _, at most 64 of them";
                self.document.missing(shown.clone(), Some(name.span()), "not a name for a table here", remedy);
            }
            match value.get_ref() {
                DeValue::Table(keys) => self.document.unknown_keys(&shown, keys, known, elsewhere),
                _ => {
                    let remedy = format!("write [{table}.NAME] and the keys below it");
                    self.document.wrong_type(&shown, value, "a table", &remedy);
                }
            }
        }
    }

    /// A table's content, and where it begins.
    pub(super) fn table(&self, name: &str) -> Option<(&'t DeTable<'t>, Range<usize>)> {
        if let Some(named) = self.named.as_ref().filter(|named| named.table == name) {
            return Some((named.content, named.span.clone()));
        }
        let value = self.root.get(name)?;
        value.get_ref().as_table().map(|table| (table, value.span()))
    }

    /// A key as it is typed in the table that is being read.
    pub(super) fn shown<F>(&self, key: &Key<F>) -> String {
        match self.named.as_ref().filter(|named| named.table == key.table) {
            Some(named) => format!("{}.{}", named.shown, key.name),
            None => key.path(),
        }
    }

    /// What was typed for a key.
    pub(super) fn typed<F>(&self, key: &Key<F>) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table(key.table).and_then(|(table, _)| table.get(key.name))
    }

    /// A key's value; its default where it is absent and has one. The outer `None` means that a mistake was noted.
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    pub(super) fn optional<F: Form>(&mut self, key: &Key<F>) -> Option<Option<F::Value>> {
        if let Some(value) = self.typed(key) {
            return key.form.read(&self.shown(key), value, &mut self.document).map(Some);
        }
        match key.absent {
            Absent::Otherwise(_) => Some(None),
            Absent::Default(text) => {
                let value = DeValue::parse(text).ok()?;
                key.form.read(&self.shown(key), &value, &mut self.document).map(Some)
            }
            Absent::Required => {
                // A value in place of the table was reported already.
                if self.table(key.table).is_some() || self.root.get(key.table).is_none() {
                    let near = self.table(key.table).map(|(_, span)| span);
                    let shown = self.shown(key);
                    let table = shown.strip_suffix(key.name).unwrap_or_default().trim_end_matches('.');
                    let remedy = format!("add {} to [{table}]: {}", key.name, key.form.describe().replace('`', ""));
                    self.document.missing(shown.clone(), near, "is missing", remedy);
                }
                None
            }
        }
    }

    /// A key that is required or has a default.
    pub(super) fn value<F: Form>(&mut self, key: &Key<F>) -> Option<F::Value> {
        self.optional(key).flatten()
    }

    pub(super) fn number(&mut self, key: &Key<impl Form<Value = u64>>) -> Option<usize> {
        self.value(key).and_then(|number| usize::try_from(number).ok())
    }

    pub(super) fn path(&mut self, key: &Key<impl Form<Value = String>>) -> Option<PathBuf> {
        self.value(key).map(|path| self.folder.join(path))
    }

    pub(super) fn paths(&self, paths: Vec<String>) -> Vec<PathBuf> {
        paths.into_iter().map(|path| self.folder.join(path)).collect()
    }

    /// Notes that a typed value does not fit the others.
    pub(super) fn contradiction<F>(&mut self, key: &Key<F>, problem: impl Into<String>, remedy: impl Into<String>) {
        let shown = self.shown(key);
        match self.typed(key) {
            Some(value) => self.document.wrong(shown, value.span(), problem, remedy),
            None => {
                let near = self.table(key.table).map(|(_, span)| span);
                self.document.missing(shown, near, problem, remedy);
            }
        }
    }

    /// Everything; `None` when a mistake was noted. All parts are read before the first `?`.
    fn config(&mut self, path: &Path) -> Option<Config> {
        let listener = self.listener();
        let addresses = listener.as_ref().map(|listener| listener.addresses.clone()).unwrap_or_default();
        let tls = self.tls();
        let origins = self.origins(&addresses);
        let sites = self.sites(origins.as_deref());
        let resolver = self.resolver();
        let identity = self.identity();
        let offload = self.value(&keys::OFFLOAD_MODE);
        let hand_over_from = self.value(&keys::OFFLOAD_HAND_OVER_FROM);
        let splice_from = self.value(&keys::OFFLOAD_SPLICE_FROM);
        let guard = self.guard(&addresses);
        let registry_files = self.value(&keys::REGISTRY_FILES);
        let control_socket = self.control_socket();
        let limits = self.limits();
        let timeouts = self.timeouts();
        let origins = timeouts.as_ref().and_then(|timeouts| with_timeouts(origins?, timeouts));
        let log_file = self.optional(&keys::LOG_FILE);
        Some(Config {
            path: path.to_owned(),
            listener: listener?,
            tls: tls?,
            origins: origins?,
            sites: sites?,
            resolver: resolver?,
            identity: identity?,
            offload: offload?,
            hand_over_from: hand_over_from?,
            splice_from: splice_from?,
            guard: guard?,
            registry_files: self.paths(registry_files?),
            control_socket: control_socket?,
            limits: limits?,
            timeouts: timeouts?,
            log_file: log_file?.map(|file| self.folder.join(file)),
        })
    }

    fn listener(&mut self) -> Option<Listener> {
        let addresses = self.value(&keys::LISTENER_ADDRESSES);
        let workers = self.optional(&keys::LISTENER_WORKERS);
        let cpus = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = workers?.map_or_else(|| Some(cpus()), |number| usize::try_from(number).ok());
        Some(Listener { addresses: addresses?, workers: workers? })
    }

    fn tls(&mut self) -> Option<ServerTls> {
        let certificate = self.path(&keys::TLS_CERTIFICATE);
        let key = self.path(&keys::TLS_KEY);
        let client_ca = self.value(&keys::TLS_CLIENT_CA);
        let minimum_version = self.value(&keys::TLS_MINIMUM_VERSION);
        let client_eku = self.value(&keys::TLS_CLIENT_EKU);
        Some(ServerTls {
            certificate: certificate?,
            key: key?,
            client_ca: self.paths(client_ca?),
            minimum_version: minimum_version?,
            client_eku: client_eku?,
        })
    }

    fn identity(&mut self) -> Option<Identity> {
        let presets = self.value(&keys::IDENTITY_PRESETS);
        let free = self.value(&keys::IDENTITY_HEADERS);
        let remove = self.value(&keys::IDENTITY_REMOVE);
        let forwarded_for = self.value(&keys::IDENTITY_FORWARDED_FOR);

        let mut headers: Vec<HeaderTemplate> = Vec::new();
        for preset in presets.iter().flatten() {
            headers.extend(preset.0.templates().ok()?);
        }
        self.check_injected_once(&headers, forwarded_for.unwrap_or_default());
        let free = free?;
        if presets?.is_empty() && free.is_empty() {
            let remedy = "name a preset, as in presets = [\"mydata\"], or give identity.headers";
            self.contradiction(&keys::IDENTITY_PRESETS, "the origin would not learn who calls", remedy);
        }
        headers.extend(free.into_iter().map(|template| template.0));
        Some(Identity { headers, remove: remove?, forwarded_for: forwarded_for? })
    }

    /// Notes each free field whose name is taken. Looks at what was typed, so that fields with other mistakes count.
    fn check_injected_once(&mut self, presets: &[HeaderTemplate], forwarded_for: bool) {
        let typed = self.typed(&keys::IDENTITY_HEADERS).and_then(|value| value.get_ref().as_array());
        let mut names: Vec<&str> = presets.iter().map(|template| &*template.name).collect();
        if forwarded_for {
            names.push("X-Forwarded-For");
        }
        for (at, item) in typed.into_iter().flatten().enumerate() {
            let Some(value) = item.get_ref().get("name") else { continue };
            let Some(name) = value.get_ref().as_str().filter(|name| check_injected_name(name).is_ok()) else {
                continue;
            };
            if let Some(taken) = names.iter().find(|taken| same_field(taken, name)) {
                let key = format!("{}[{at}].name", keys::IDENTITY_HEADERS.path());
                let problem = format!("this field is injected already, as {taken}; spelling makes no difference");
                self.document.wrong(key, value.span(), problem, "give it another name, or remove one of the two");
            }
            names.push(name);
        }
    }

    /// The inner `None`: no such table.
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    fn guard(&mut self, listening: &[SocketAddr]) -> Option<Option<Guard>> {
        self.root.get("guard").map_or(Some(None), |_| self.guard_table(listening).map(Some))
    }

    fn guard_table(&mut self, listening: &[SocketAddr]) -> Option<Guard> {
        let interfaces = self.value(&keys::GUARD_INTERFACES);
        let ports = self.optional(&keys::GUARD_PORTS);
        let addresses = self.optional(&keys::GUARD_ADDRESSES);
        let management = self.value(&keys::GUARD_MANAGEMENT);
        let mode = self.value(&keys::GUARD_MODE);
        let pass = self.value(&keys::GUARD_PASS);
        let source = self.budget(&keys::GUARD_SYNS_PER_SOURCE, &keys::GUARD_SYN_BURST_PER_SOURCE);
        let organisation = self.budget(&keys::GUARD_SYNS_PER_ORGANISATION, &keys::GUARD_SYN_BURST_PER_ORGANISATION);
        let open_after = self.optional(&keys::GUARD_OPEN_AFTER);
        let attach = self.value(&keys::GUARD_ATTACH);
        let pin_dir = self.value(&keys::GUARD_PIN_DIR);
        let log_per_second = self.value(&keys::GUARD_LOG_PER_SECOND);
        let ports = match ports? {
            Some(ports) => ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect(),
            None => {
                let mut ports: Vec<u16> = listening.iter().map(SocketAddr::port).collect();
                ports.sort_unstable();
                ports.dedup();
                ports
            }
        };
        Some(Guard {
            interfaces: interfaces?,
            ports,
            addresses: addresses?.unwrap_or_default(),
            management: management?,
            mode: mode?,
            pass: pass?,
            source_budget: source?,
            organisation_budget: organisation?,
            open_after: open_after?,
            attach: attach?,
            pin_dir: PathBuf::from(pin_dir?),
            log_per_second: log_per_second.and_then(|number| u32::try_from(number).ok())?,
        })
    }

    /// The inner `None`: no budget.
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    fn budget(
        &mut self,
        rate: &keys::Key<super::form::Count>,
        burst: &keys::Key<super::form::Count>,
    ) -> Option<Option<Budget>> {
        let number = |number: u64| u32::try_from(number).ok();
        let (typed_rate, typed_burst) = (self.optional(rate), self.optional(burst));
        match (typed_rate?.and_then(number), typed_burst?.and_then(number)) {
            (Some(rate), burst) => Some(Some(Budget { rate, burst: burst.unwrap_or(rate.saturating_mul(10)) })),
            (None, None) => Some(None),
            (None, Some(_)) => {
                let remedy = format!("give {} as well, or remove it", rate.path());
                self.contradiction(burst, "is of no use: there is no limit", remedy);
                None
            }
        }
    }

    fn control_socket(&mut self) -> Option<PathBuf> {
        let socket = self.path(&keys::CONTROL_SOCKET)?;
        if socket.as_os_str().len() > SOCKET_PATH_LIMIT {
            let problem = format!("{} is longer than {SOCKET_PATH_LIMIT} bytes", socket.display());
            self.contradiction(&keys::CONTROL_SOCKET, problem, "give a shorter path");
        }
        Some(socket)
    }

    fn limits(&mut self) -> Option<Limits> {
        let connections = self.number(&keys::LIMITS_CONNECTIONS);
        let connections_per_source = self.number(&keys::LIMITS_CONNECTIONS_PER_SOURCE);
        let connections_per_organisation = self.number(&keys::LIMITS_CONNECTIONS_PER_ORGANISATION);
        let handshakes = self.number(&keys::LIMITS_HANDSHAKES);
        let head_bytes = self.number(&keys::LIMITS_HEAD_BYTES);
        let head_fields = self.number(&keys::LIMITS_HEAD_FIELDS);
        let target_bytes = self.number(&keys::LIMITS_TARGET_BYTES);
        let body_bytes = self.value(&keys::LIMITS_BODY_BYTES);
        let body_rate = self.value(&keys::LIMITS_BODY_RATE);
        let socket_buffer = self.value(&keys::LIMITS_SOCKET_BUFFER);
        let requests_per_connection = self.value(&keys::LIMITS_REQUESTS_PER_CONNECTION);
        let records_per_key = self.value(&keys::LIMITS_RECORDS_PER_KEY);
        if let (Some(target), Some(head)) = (target_bytes, head_bytes)
            && target >= head
        {
            let remedy = "make limits.target_bytes smaller than limits.head_bytes";
            let problem = format!("a target of {target} bytes does not fit into a head of {head}");
            self.contradiction(&keys::LIMITS_TARGET_BYTES, problem, remedy);
        }
        Some(Limits {
            connections: connections?,
            connections_per_source: connections_per_source?,
            connections_per_organisation: connections_per_organisation?,
            handshakes: handshakes?,
            head_bytes: head_bytes?,
            head_fields: head_fields?,
            target_bytes: target_bytes?,
            body_bytes: body_bytes?,
            body_rate: body_rate?,
            socket_buffer: socket_buffer?,
            requests_per_connection: requests_per_connection?,
            records_per_key: records_per_key?,
        })
    }

    fn timeouts(&mut self) -> Option<Timeouts> {
        let handshake = self.value(&keys::TIMEOUTS_HANDSHAKE);
        let header = self.value(&keys::TIMEOUTS_HEADER);
        let idle = self.value(&keys::TIMEOUTS_IDLE);
        let body = self.value(&keys::TIMEOUTS_BODY);
        let body_grace = self.value(&keys::TIMEOUTS_BODY_GRACE);
        let tunnel_idle = self.value(&keys::TIMEOUTS_TUNNEL_IDLE);
        let connect = self.value(&keys::TIMEOUTS_CONNECT);
        let response = self.value(&keys::TIMEOUTS_RESPONSE);
        let origin_idle = self.value(&keys::TIMEOUTS_ORIGIN_IDLE);
        let drain = self.value(&keys::TIMEOUTS_DRAIN);
        Some(Timeouts {
            handshake: handshake?,
            header: header?,
            idle: idle?,
            body: body?,
            body_grace: body_grace?,
            tunnel_idle: tunnel_idle?,
            connect: connect?,
            response: response?,
            origin_idle: origin_idle?,
            drain: drain?,
        })
    }
}
