//! Which site a name belongs to, and which origin a path of it goes to. Pure: bytes in, an index or a reason out.
//!
//! Paths are judged by whole segments, after the harmless percent-encodings are undone, since an origin may undo them
//! too; what different servers read differently (dot segments, encoded slashes) is refused where routes depend on it.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use serde_json::{Value, json};

use crate::config::{HostPattern, Origin, Site};

/// Longest DNS name (RFC 1035 2.3.4), with a dot at its end.
const LONGEST_NAME: usize = 254;

/// The table of names and paths.
#[derive(Debug)]
pub struct Routing {
    exact: HashMap<String, usize>,
    suffixes: HashMap<String, usize>,
    any: Option<usize>,
    sites: Vec<Site>,
}

/// Why a request leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteFault {
    /// No site has this name.
    UnknownHost,
    /// TLS was set up for another site (RFC 9110 7.4, 15.5.20).
    HostNotOfServerName,
    /// The path can be read in more than one way, and routes depend on it.
    AmbiguousPath,
}

impl RouteFault {
    /// Stable name.
    pub fn reason(self) -> &'static str {
        match self {
            Self::UnknownHost => "unknown_host",
            Self::HostNotOfServerName => "host_not_of_server_name",
            Self::AmbiguousPath => "ambiguous_path",
        }
    }

    /// Status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::UnknownHost | Self::HostNotOfServerName => 421,
            Self::AmbiguousPath => 400,
        }
    }
}

impl Routing {
    /// The table of these sites.
    pub fn new(sites: Vec<Site>) -> Self {
        let (mut exact, mut suffixes, mut any) = (HashMap::new(), HashMap::new(), None);
        for (index, site) in sites.iter().enumerate() {
            for host in &site.hosts {
                match host {
                    HostPattern::Exact(name) => drop(exact.insert(name.clone(), index)),
                    HostPattern::Suffix(suffix) => drop(suffixes.insert(suffix.clone(), index)),
                    HostPattern::Any => any = Some(index),
                }
            }
        }
        Self { exact, suffixes, any, sites }
    }

    /// For `status`: the sites with their names, and where they lead.
    pub(crate) fn status(&self, origins: &[Origin]) -> Value {
        let name = |index: usize| origins.get(index).map(|origin| &*origin.name);
        let site = |site: &Site| {
            let routes: Vec<Value> = site
                .routes
                .iter()
                .map(|route| json!({ "prefix": route.prefix, "origin": name(route.origin) }))
                .collect();
            let hosts: Vec<String> = site.hosts.iter().map(ToString::to_string).collect();
            json!({ "name": site.name, "hosts": hosts, "origin": name(site.origin), "routes": routes })
        };
        self.sites.iter().map(site).collect()
    }

    /// The site of a name from SNI or Host, without port; an empty one stands for no name.
    pub fn site_of(&self, host: &str) -> Option<usize> {
        // By far the most appliances have one site that takes everything.
        if self.exact.is_empty() && self.suffixes.is_empty() {
            return self.any;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() || host.len() > LONGEST_NAME {
            return self.any;
        }
        let mut lower = [0; LONGEST_NAME];
        let lower = lower.get_mut(..host.len())?;
        lower.copy_from_slice(host.as_bytes());
        lower.make_ascii_lowercase();
        let name = std::str::from_utf8(lower).ok()?;
        let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).map(str::parse::<Ipv6Addr>);
        if let Some(Ok(address)) = address {
            // One address, many spellings.
            return self.exact.get(&format!("[{address}]")).copied().or(self.any);
        }
        let suffix = || name.find('.').filter(|at| *at > 0).and_then(|at| self.suffixes.get(name.get(at..)?)).copied();
        self.exact.get(name).copied().or_else(suffix).or(self.any)
    }

    /// The site of a request: its Host has one, and TLS was not set up for another. `server_name` is SNI, if there was any.
    ///
    /// # Errors
    /// See [`RouteFault`].
    pub fn site_of_request(&self, server_name: Option<&str>, host: &str) -> Result<&Site, RouteFault> {
        // Only HTTP/1.0 can leave Host out.
        let host = if host.is_empty() { server_name.unwrap_or_default() } else { host };
        let index = self.site_of(host).ok_or(RouteFault::UnknownHost)?;
        if server_name.is_some_and(|name| self.site_of(name) != Some(index)) {
            return Err(RouteFault::HostNotOfServerName);
        }
        self.sites.get(index).ok_or(RouteFault::UnknownHost)
    }
}

/// The origin of a path of a site (without query; `*` for a request about the server as a whole).
///
/// # Errors
/// [`RouteFault::AmbiguousPath`].
pub(crate) fn origin_of(site: &Site, path: &str) -> Result<usize, RouteFault> {
    if site.routes.is_empty() || path == "*" {
        return Ok(site.origin);
    }
    let plain = plain_path(path)?;
    let under = |prefix: &str| plain.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    Ok(site.routes.iter().find(|route| under(&route.prefix)).map_or(site.origin, |route| route.origin))
}

/// A path as all servers read it: characters without needless encoding, empty segments and the parameters of segments
/// (`;a=b`) left out, since there are servers that leave them out before they look for the path.
fn plain_path(path: &str) -> Result<String, RouteFault> {
    let mut plain = String::with_capacity(path.len());
    for segment in path.split('/') {
        let start = plain.len();
        let mut parameters = false;
        plain.push('/');
        let mut bytes = segment.bytes();
        while let Some(byte) = bytes.next() {
            let decoded = match byte {
                b'%' => {
                    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                    match (digit(bytes.next()), digit(bytes.next())) {
                        (Some(high), Some(low)) => u8::try_from(high << 4 | low).ok(),
                        _ => None,
                    }
                }
                byte => Some(byte),
            };
            match decoded {
                // A slash that was encoded, a backslash, a NUL, a second encoding: readings differ.
                None | Some(b'/' | b'\\' | b'%' | 0) => return Err(RouteFault::AmbiguousPath),
                Some(b';') => parameters = true,
                Some(_) if parameters => {}
                Some(byte) => plain.push(char::from(byte)),
            }
        }
        match &plain[start..] {
            "/." | "/.." => return Err(RouteFault::AmbiguousPath),
            "/" => plain.truncate(start),
            _ => {}
        }
    }
    if plain.is_empty() {
        plain.push('/');
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Route;

    fn site(name: &str, hosts: &[HostPattern], origin: usize, routes: &[(&str, usize)]) -> Site {
        let mut routes: Vec<Route> =
            routes.iter().map(|(prefix, origin)| Route { prefix: (*prefix).to_owned(), origin: *origin }).collect();
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Site { name: name.to_owned(), hosts: hosts.to_vec(), credentials: None, origin, routes, upgrade: Vec::new() }
    }

    fn exact(name: &str) -> HostPattern {
        HostPattern::Exact(name.to_owned())
    }

    fn two() -> Routing {
        Routing::new(vec![
            site("a", &[exact("a.test"), exact("[2001:db8::1]")], 0, &[]),
            site("b", &[exact("b.test"), HostPattern::Suffix(".b.test".to_owned())], 1, &[]),
        ])
    }

    #[test]
    fn names_are_found_in_any_case_and_spelling() {
        let routing = two();
        for (host, wanted) in [
            ("a.test", Some(0)),
            ("A.TeSt", Some(0)),
            ("a.test.", Some(0)),
            ("[2001:DB8:0::1]", Some(0)),
            ("b.test", Some(1)),
            ("x.b.test", Some(1)),
            ("x.y.b.test", None),
            (".b.test", None),
            ("xb.test", None),
            ("c.test", None),
            ("", None),
            ("[::1]", None),
        ] {
            assert_eq!(routing.site_of(host), wanted, "{host}");
        }
        assert_eq!(routing.site_of(&"a.".repeat(200)), None);
    }

    #[test]
    fn the_star_takes_what_nobody_else_does() {
        let routing =
            Routing::new(vec![site("a", &[exact("a.test")], 0, &[]), site("rest", &[HostPattern::Any], 1, &[])]);
        assert_eq!(routing.site_of("a.test"), Some(0));
        assert_eq!(routing.site_of("b.test"), Some(1));
        assert_eq!(routing.site_of(""), Some(1));
        assert_eq!(routing.site_of_request(Some("a.test"), "b.test").err(), Some(RouteFault::HostNotOfServerName));
    }

    #[test]
    fn host_and_server_name_have_to_agree() {
        let routing = two();
        let site = |name, host| routing.site_of_request(name, host).map(|site| site.origin);
        assert_eq!(site(Some("a.test"), "a.test"), Ok(0));
        assert_eq!(site(Some("A.test"), "a.Test."), Ok(0));
        assert_eq!(site(Some("b.test"), "x.b.test"), Ok(1));
        assert_eq!(site(None, "b.test"), Ok(1));
        assert_eq!(site(Some("b.test"), ""), Ok(1));
        assert_eq!(site(Some("a.test"), "b.test"), Err(RouteFault::HostNotOfServerName));
        assert_eq!(site(Some("c.test"), "b.test"), Err(RouteFault::HostNotOfServerName));
        assert_eq!(site(Some("a.test"), "c.test"), Err(RouteFault::UnknownHost));
        assert_eq!(site(Some("c.test"), ""), Err(RouteFault::UnknownHost));
        assert_eq!(site(None, ""), Err(RouteFault::UnknownHost));
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let site = site("a", &[HostPattern::Any], 0, &[("/v1", 1), ("/v1/accounts", 2), ("/~a", 3)]);
        for (path, origin) in [
            ("/", 0),
            ("*", 0),
            ("/v1", 1),
            ("/v1/", 1),
            ("/v1/x", 1),
            ("/v10", 0),
            ("/V1", 0),
            ("/v1/accounts", 2),
            ("/v1/accounts/7", 2),
            ("/v1/accountsx", 1),
            ("//v1//accounts", 2),
            ("/%76%31/%61ccounts", 2),
            ("/%7Ea", 3),
            ("/%7ea/b", 3),
            ("/v1;p=1/accounts;q", 2),
            ("/;/v1", 1),
            ("/v1%3bp", 1),
        ] {
            assert_eq!(origin_of(&site, path), Ok(origin), "{path}");
        }
    }

    #[test]
    fn a_path_that_servers_read_differently_is_refused_where_routes_depend_on_it() {
        let (routed, plain) =
            (site("a", &[HostPattern::Any], 0, &[("/v1", 1)]), site("b", &[HostPattern::Any], 0, &[]));
        for path in [
            "/x/../v1",
            "/x/%2e%2e/v1",
            "/x/.%2E/v1",
            "/./v1",
            "/x/..;a=b/v1",
            "/x/.;/v1",
            "/x%2fv1",
            "/x%2Fv1",
            "/x%5cv1",
            "/%2576",
            "/v%00",
            "/v1/..",
            "/%",
            "/%7",
            "/%zz",
        ] {
            assert_eq!(origin_of(&routed, path), Err(RouteFault::AmbiguousPath), "{path}");
            assert_eq!(origin_of(&plain, path), Ok(0), "{path}: without routes nothing depends on it");
        }
    }
}
