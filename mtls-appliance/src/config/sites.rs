//! `[origin]`, `[origins.NAME]` and `[sites.NAME]`: each by itself, then that names lead somewhere and none to two places.

use std::net::SocketAddr;

use toml::de::{DeTable, DeValue};

use super::form::VerifyWord;
use super::keys;
use super::parse::{Named, Reader};
use super::{HealthCheck, HostPattern, Origin, OriginHost, OriginVerify, Resolver, Route, Site, Timeouts};

/// An origin's own deadlines are optional; until `[timeouts]` has been read, this stands for those of all.
const OF_ALL: std::time::Duration = std::time::Duration::ZERO;

/// Fills in the deadlines that origins have from `[timeouts]`.
pub(super) fn with_timeouts(mut origins: Vec<Origin>, timeouts: &Timeouts) -> Option<Vec<Origin>> {
    for origin in &mut origins {
        if origin.connect_timeout == OF_ALL {
            origin.connect_timeout = timeouts.connect;
        }
        if origin.response_timeout == OF_ALL {
            origin.response_timeout = timeouts.response;
        }
    }
    Some(origins)
}

impl<'t> Reader<'t> {
    /// The tables inside `[name]`, which holds tables by name.
    fn named_tables(&self, name: &str) -> Vec<(String, &'t DeTable<'t>, std::ops::Range<usize>)> {
        let Some(tables) = self.root.get(name).and_then(|value| value.get_ref().as_table()) else {
            return Vec::new();
        };
        let table =
            |value: &'t toml::Spanned<DeValue<'t>>| value.get_ref().as_table().map(|table| (table, value.span()));
        tables
            .iter()
            .take(keys::NAMED_LIMIT)
            .filter_map(|(name, value)| table(value).map(|(table, span)| (name.get_ref().to_string(), table, span)))
            .collect()
    }

    /// All origins; `[origin]` is the first where there is one.
    pub(super) fn origins(&mut self, listening: &[SocketAddr]) -> Option<Vec<Origin>> {
        let tables = self.named_tables("origins");
        let mut all = Vec::new();
        if self.root.get("origin").is_some() || tables.is_empty() {
            all.push(self.origin(Origin::DEFAULT, "origin", listening));
        }
        for (name, content, span) in tables {
            let shown = format!("origins.{name}");
            if name == Origin::DEFAULT && self.root.get("origin").is_some() {
                let remedy = "give it another name, or take [origin] away";
                self.document.missing(shown.clone(), Some(span.clone()), "[origin] has this name already", remedy);
            }
            self.named = Some(Named { table: "origin", shown: shown.clone(), content, span });
            all.push(self.origin(&name, &shown, listening));
            self.named = None;
        }
        all.into_iter().collect()
    }

    fn origin(&mut self, name: &str, table: &str, listening: &[SocketAddr]) -> Option<Origin> {
        let servers = self.value(&keys::ORIGIN_ADDRESSES);
        for server in servers.iter().flatten() {
            let OriginHost::Address(ip) = server.host else { continue };
            let address = SocketAddr::new(ip, server.port);
            if listening.contains(&address) {
                let remedy = "give the API server's address here, the appliance's in listener.addresses";
                self.contradiction(&keys::ORIGIN_ADDRESSES, "the appliance itself listens there", remedy);
            } else if ip.is_unspecified() || ip.is_multicast() {
                let remedy = "give the API server's address";
                self.contradiction(&keys::ORIGIN_ADDRESSES, "nobody can be reached there", remedy);
            }
        }
        let server_name = self.value(&keys::ORIGIN_SERVER_NAME);
        let certificate = self.path(&keys::ORIGIN_CERTIFICATE);
        let key = self.path(&keys::ORIGIN_KEY);
        let verify = self.origin_verify();
        let minimum_version = self.value(&keys::ORIGIN_MINIMUM_VERSION);
        let pool = self.value(&keys::ORIGIN_POOL);
        let idle_per_identity = self.number(&keys::ORIGIN_IDLE_PER_IDENTITY);
        let connections = self.number(&keys::ORIGIN_CONNECTIONS);
        let queue = self.number(&keys::ORIGIN_QUEUE);
        let queue_timeout = self.value(&keys::ORIGIN_QUEUE_TIMEOUT);
        let connect_timeout = self.optional(&keys::ORIGIN_CONNECT_TIMEOUT);
        let response_timeout = self.optional(&keys::ORIGIN_RESPONSE_TIMEOUT);
        let eject_after = self.value(&keys::ORIGIN_EJECT_AFTER);
        let eject_for = self.value(&keys::ORIGIN_EJECT_FOR);
        let health = self.health();
        Some(Origin {
            name: name.to_owned(),
            table: table.to_owned(),
            servers: servers?,
            server_name: server_name?,
            certificate: certificate?,
            key: key?,
            verify: verify?,
            minimum_version: minimum_version?,
            pool: pool?,
            idle_per_identity: idle_per_identity?,
            connections: connections?,
            queue: queue?,
            queue_timeout: queue_timeout?,
            connect_timeout: connect_timeout?.unwrap_or(OF_ALL),
            response_timeout: response_timeout?.unwrap_or(OF_ALL),
            eject_after: eject_after.and_then(|number| u32::try_from(number).ok())?,
            eject_for: eject_for?,
            health: health?,
        })
    }

    /// The inner `None`: no checks.
    #[expect(clippy::option_option, reason = "absent and wrong are two things")]
    fn health(&mut self) -> Option<Option<HealthCheck>> {
        let path = self.optional(&keys::ORIGIN_HEALTH_PATH);
        let interval = self.value(&keys::ORIGIN_HEALTH_INTERVAL);
        let timeout = self.value(&keys::ORIGIN_HEALTH_TIMEOUT);
        let fall = self.value(&keys::ORIGIN_HEALTH_FALL);
        let rise = self.value(&keys::ORIGIN_HEALTH_RISE);
        let (path, interval, timeout, fall, rise) = (path?, interval?, timeout?, fall?, rise?);
        let Some(path) = path else {
            self.idle_key(&keys::ORIGIN_HEALTH_INTERVAL);
            self.idle_key(&keys::ORIGIN_HEALTH_TIMEOUT);
            self.idle_key(&keys::ORIGIN_HEALTH_FALL);
            self.idle_key(&keys::ORIGIN_HEALTH_RISE);
            return Some(None);
        };
        let number = |n: u64| u32::try_from(n).ok();
        Some(Some(HealthCheck { path, interval, timeout, fall: number(fall)?, rise: number(rise)? }))
    }

    /// Notes a key that says how checks are made where none are.
    fn idle_key<F>(&mut self, key: &keys::Key<F>) {
        if self.typed(key).is_some() {
            self.contradiction(key, "is of no use: nothing is checked", "give health_path as well, or remove it");
        }
    }

    fn origin_verify(&mut self) -> Option<OriginVerify> {
        let word = self.value(&keys::ORIGIN_VERIFY);
        let ca = self.optional(&keys::ORIGIN_CA);
        let pins = self.optional(&keys::ORIGIN_PINS);
        let word = word?;
        let verify = self.shown(&keys::ORIGIN_VERIFY);
        if word != VerifyWord::Ca && matches!(ca, Some(Some(_))) {
            let remedy = format!("remove it, or set {verify} = \"ca\"");
            self.contradiction(&keys::ORIGIN_CA, format!("is of no use with this {verify}"), remedy);
        }
        if word != VerifyWord::Pin && matches!(pins, Some(Some(_))) {
            let remedy = format!("remove it, or set {verify} = \"pin\"");
            self.contradiction(&keys::ORIGIN_PINS, format!("is of no use with this {verify}"), remedy);
        }
        match (word, ca?, pins?) {
            (VerifyWord::Ca, Some(ca), _) => Some(OriginVerify::Ca(self.paths(ca))),
            (VerifyWord::Ca, None, _) => {
                let remedy = format!(
                    "give the CAs that issue the API server's certificate, or set {verify} = \"pin\" and {}",
                    self.shown(&keys::ORIGIN_PINS)
                );
                self.contradiction(&keys::ORIGIN_CA, format!("is missing: {verify} is \"ca\""), remedy);
                None
            }
            (VerifyWord::Pin, _, Some(pins)) => Some(OriginVerify::Pin(pins)),
            (VerifyWord::Pin, _, None) => {
                let remedy = "add the SHA-256 of the API server's certificate, as in pins = [\"sha256:<hex>\"]";
                self.contradiction(&keys::ORIGIN_PINS, format!("is missing: {verify} is \"pin\""), remedy);
                None
            }
            (VerifyWord::None, ..) => Some(OriginVerify::None),
        }
    }

    pub(super) fn resolver(&mut self) -> Option<Resolver> {
        let servers = self.optional(&keys::RESOLVER_SERVERS);
        let interval = self.value(&keys::RESOLVER_INTERVAL);
        let timeout = self.value(&keys::RESOLVER_TIMEOUT);
        Some(Resolver { servers: servers?, interval: interval?, timeout: timeout? })
    }

    /// All sites. Where origins have mistakes of their own (`None`), what leads to them is not judged.
    pub(super) fn sites(&mut self, origins: Option<&[Origin]>) -> Option<Vec<Site>> {
        let tables = self.named_tables("sites");
        if self.root.get("sites").is_none() {
            return self.only_site(origins?);
        }
        let mut all: Vec<Option<Site>> = Vec::new();
        let mut taken: Vec<(String, HostPattern)> = Vec::new();
        for (name, content, span) in tables {
            let shown = format!("sites.{name}");
            self.named = Some(Named { table: "sites", shown, content, span });
            all.push(self.site(&name, origins, &mut taken));
            self.named = None;
        }
        if all.is_empty() && self.document.is_clean() {
            let remedy = "add a table [sites.NAME], or take [sites] away to serve every name";
            self.document.missing("sites", None, "no site is given", remedy);
        }
        let all: Vec<Site> = all.into_iter().collect::<Option<_>>()?;
        self.check_all_used(origins?, &all);
        Some(all)
    }

    /// Without `[sites]` every name leads to `[origin]`.
    fn only_site(&mut self, origins: &[Origin]) -> Option<Vec<Site>> {
        if let Some(origin) = origins.iter().find(|origin| origin.table != "origin") {
            let remedy = "add a [sites.NAME] with hosts and this origin, or remove it";
            self.document.missing(origin.table.clone(), None, "no site leads there", remedy);
            return None;
        }
        Some(vec![Site {
            name: Origin::DEFAULT.to_owned(),
            hosts: vec![HostPattern::Any],
            credentials: None,
            origin: 0,
            routes: Vec::new(),
            upgrade: Vec::new(),
        }])
    }

    fn site(&mut self, name: &str, origins: Option<&[Origin]>, taken: &mut Vec<(String, HostPattern)>) -> Option<Site> {
        let hosts = self.value(&keys::SITES_HOSTS);
        for host in hosts.iter().flatten() {
            if let Some((other, _)) = taken.iter().find(|(_, pattern)| pattern == host) {
                let problem = format!("{host} is a name of sites.{other} already");
                self.contradiction(&keys::SITES_HOSTS, problem, "remove it from one of the two");
            }
            taken.push((name.to_owned(), host.clone()));
        }
        let origin_name = self.optional(&keys::SITES_ORIGIN);
        let typed_routes = self.value(&keys::SITES_ROUTES);
        let upgrade = self.value(&keys::SITES_UPGRADE);
        let certificate = self.optional(&keys::SITES_CERTIFICATE);
        let key = self.optional(&keys::SITES_KEY);
        let credentials = match (certificate?, key?) {
            (Some(certificate), Some(key)) => {
                let paths = self.paths(vec![certificate, key]);
                let [certificate, key] = <[_; 2]>::try_from(paths).ok()?;
                Some((certificate, key))
            }
            (None, None) => None,
            (Some(_), None) => {
                self.contradiction(&keys::SITES_KEY, "is missing: there is a certificate", "give its key as well");
                None
            }
            (None, Some(_)) => {
                let remedy = "give its certificate as well";
                self.contradiction(&keys::SITES_CERTIFICATE, "is missing: there is a key", remedy);
                None
            }
        };
        let origins = origins?;
        let find = |name: &str| origins.iter().position(|origin| origin.name == name);
        let known = || {
            let names: Vec<&str> = origins.iter().map(|origin| &*origin.name).collect();
            format!("known: {}", names.join(", "))
        };
        let origin = match origin_name? {
            Some(name) => {
                let found = find(&name);
                if found.is_none() {
                    self.contradiction(&keys::SITES_ORIGIN, "there is no such origin", known());
                }
                found
            }
            None => {
                let found = origins.iter().position(|origin| origin.table == "origin");
                if found.is_none() {
                    self.contradiction(&keys::SITES_ORIGIN, "is missing: there is no [origin]", known());
                }
                found
            }
        };
        let mut routes = Vec::new();
        for route in typed_routes? {
            match find(&route.origin) {
                Some(origin) => routes.push(Route { prefix: route.prefix, origin }),
                None => {
                    let problem =
                        format!("{:?} leads to {:?}, and there is no such origin", route.prefix, route.origin);
                    self.contradiction(&keys::SITES_ROUTES, problem, known());
                }
            }
        }
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        let site =
            Site { name: name.to_owned(), hosts: hosts?, credentials, origin: origin?, routes, upgrade: upgrade? };
        Some(site)
    }

    /// An origin that nothing leads to is more likely a slip than a wish.
    fn check_all_used(&mut self, origins: &[Origin], sites: &[Site]) {
        let used: Vec<usize> =
            sites.iter().flat_map(|site| site.routes.iter().map(|route| route.origin).chain([site.origin])).collect();
        for (index, origin) in origins.iter().enumerate() {
            if !used.contains(&index) {
                let span = self.root.get(&*origin.table).map(toml::Spanned::span);
                let remedy = "name it as origin of a site or route, or remove it";
                self.document.missing(origin.table.clone(), span, "no site leads there", remedy);
            }
        }
    }
}
