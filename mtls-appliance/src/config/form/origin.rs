//! Where origins listen, which names a site has, and which paths go where.

use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::DnsName;
use toml::Spanned;
use toml::de::DeValue;

use super::{Count, Form, Text, Wrong, wrong};
use crate::config::document::Document;
use crate::config::{HostPattern, OriginHost, OriginServer};
use crate::http1::check_protocol_name;

/// `"host:port"` or `{ address, weight }`.
pub(in crate::config) struct OriginServerForm;

const SERVER_KEYS: [&str; 2] = ["address", "weight"];
const WEIGHT: Count = Count { least: 1, most: 1000 };

const SERVER: Text<OriginServer> = Text {
    what: "address or name, and port",
    example: "\"10.0.0.5:9443\" or \"api.bank.internal:9443\"",
    parse: |text| {
        let remedy = "give an address or name and a port, as in \"10.0.0.5:9443\" or \"api.bank.internal:9443\"";
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => wrong("port 0 stands for no port", "give a port from 1 to 65535"),
                port => Ok(OriginServer { host: OriginHost::Address(address.ip()), port, weight: 1 }),
            };
        }
        if text.parse::<IpAddr>().is_ok() {
            return wrong("the port is missing", remedy);
        }
        if text.contains("://") || text.contains('/') {
            return wrong("a URL; an address or name and a port are wanted", remedy);
        }
        let Some((name, port)) = text.rsplit_once(':') else {
            return wrong("the port is missing", remedy);
        };
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => return wrong("not a port from 1 to 65535", remedy),
        };
        let numeric = name.rsplit('.').next().is_none_or(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
        if numeric || DnsName::try_from(name).is_err() {
            return wrong("neither an address nor a DNS name", remedy);
        }
        Ok(OriginServer { host: OriginHost::Name(name.to_ascii_lowercase()), port, weight: 1 })
    },
};

impl Form for OriginServerForm {
    type Value = OriginServer;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<OriginServer> {
        const EXAMPLE: &str = "{ address = \"10.0.0.5:9443\", weight = 2 }";
        let DeValue::Table(table) = value.get_ref() else {
            return SERVER.read(key, value, document);
        };
        document.unknown_keys(key, table, &SERVER_KEYS, |_| None);
        let server = match table.get("address") {
            Some(typed) => SERVER.read(&format!("{key}.address"), typed, document),
            None => {
                let remedy = format!("write it as in {EXAMPLE}");
                document.missing(format!("{key}.address"), Some(value.span()), "is missing", remedy);
                None
            }
        };
        let weight = match table.get("weight") {
            Some(typed) => WEIGHT.read(&format!("{key}.weight"), typed, document),
            None => Some(1),
        };
        Some(OriginServer { weight: u32::try_from(weight?).ok()?, ..server? })
    }

    fn describe(&self) -> String {
        format!("{}; or `{{ address, weight }}`, weight: {}", SERVER.describe(), WEIGHT.describe())
    }
}

/// One of a site's names.
pub(in crate::config) const HOST_PATTERN: Text<HostPattern> = Text {
    what: "DNS name, IP address, `*.suffix` or `*`",
    example: "\"api.bank.example\"",
    parse: |text| {
        let remedy = "give a name without scheme and port, as in \"api.bank.example\", \"*.bank.example\" or \"*\"";
        let name = |text: &str| match DnsName::try_from(text) {
            Ok(_) if !text.ends_with('.') => Ok(text.to_ascii_lowercase()),
            Ok(_) => Err(Wrong { problem: "a name ends without a dot here".into(), remedy: remedy.into() }),
            Err(_) => Err(Wrong { problem: "not a DNS name".into(), remedy: remedy.into() }),
        };
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return name(suffix).map(|suffix| HostPattern::Suffix(format!(".{suffix}")));
        }
        match text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => Ok(HostPattern::Exact(format!("[{address}]"))),
            Ok(IpAddr::V4(address)) => Ok(HostPattern::Exact(address.to_string())),
            Err(_) => name(text).map(HostPattern::Exact),
        }
    },
};

/// The NAME of an origin.
pub(in crate::config) const ORIGIN_NAME: Text<String> = Text {
    what: "NAME of an `[origins.NAME]`",
    example: "\"accounts\"",
    parse: |text| match text {
        "" => wrong("the name is empty", "name one of the [origins.NAME]"),
        text => Ok(text.to_owned()),
    },
};

/// The target of health checks.
pub(in crate::config) const HEALTH_PATH: Text<String> = Text {
    what: "path, with a query where needed",
    example: "\"/healthz\"",
    parse: |text| {
        let valid = text.starts_with('/')
            && text.len() <= 1024
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\'));
        if valid {
            Ok(text.to_owned())
        } else {
            wrong("not a path", "begin it with a slash and encode what is not printable ASCII, as in \"/healthz\"")
        }
    },
};

/// A protocol for Upgrade.
pub(in crate::config) const UPGRADE: Text<String> = Text {
    what: "protocol name",
    example: "\"websocket\"",
    parse: |text| match check_protocol_name(text) {
        Ok(()) => Ok(text.to_ascii_lowercase()),
        Err(error) => wrong(error.to_string(), error.remedy()),
    },
};

/// `{ prefix, origin }`.
pub(in crate::config) struct RouteForm;

const ROUTE_KEYS: [&str; 2] = ["prefix", "origin"];

/// A route whose origin is still a name; equal by prefix, since no prefix can lead to two places.
#[derive(Debug)]
pub(in crate::config) struct TypedRoute {
    pub(in crate::config) prefix: String,
    pub(in crate::config) origin: String,
}

impl PartialEq for TypedRoute {
    fn eq(&self, other: &Self) -> bool {
        self.prefix == other.prefix
    }
}

const PREFIX: Text<String> = Text {
    what: "path prefix",
    example: "\"/v1/accounts\"",
    parse: |text| {
        let remedy =
            "begin it with a slash; letters, digits and -._~!$&'()*+,=:@ in its segments, as in \"/v1/accounts\"";
        let segments = || text.split('/').skip(1);
        let plain = |segment: &str| {
            segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte))
        };
        match text.strip_prefix('/') {
            None => wrong("a prefix begins with a slash", remedy),
            Some("") => wrong("every path begins so", "leave the route out and name the site's origin instead"),
            Some(rest) if rest.ends_with('/') => {
                wrong("ends with a slash", "leave it out; whole segments are compared")
            }
            Some(_) if segments().any(|segment| matches!(segment, "" | "." | "..")) => {
                wrong("has an empty or dot segment", remedy)
            }
            Some(_) if text.len() > 1024 || !segments().all(plain) => {
                wrong("has characters that a prefix cannot have", remedy)
            }
            Some(_) => Ok(text.to_owned()),
        }
    },
};

impl Form for RouteForm {
    type Value = TypedRoute;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<TypedRoute> {
        const EXAMPLE: &str = "{ prefix = \"/v1/accounts\", origin = \"accounts\" }";
        let DeValue::Table(table) = value.get_ref() else {
            document.wrong_type(key, value, "a table", &format!("write it as {EXAMPLE}"));
            return None;
        };
        document.unknown_keys(key, table, &ROUTE_KEYS, |_| None);
        let mut part = |name: &str, form: Text<String>| {
            let place = format!("{key}.{name}");
            match table.get(name) {
                Some(typed) => form.read(&place, typed, document),
                None => {
                    document.missing(place, Some(value.span()), "is missing", format!("write it as in {EXAMPLE}"));
                    None
                }
            }
        };
        let (prefix, origin) = (part("prefix", PREFIX), part("origin", ORIGIN_NAME));
        Some(TypedRoute { prefix: prefix?, origin: origin? })
    }

    fn describe(&self) -> String {
        format!("`{{ prefix, origin }}`; prefix: {}; origin: {}", PREFIX.describe(), ORIGIN_NAME.describe())
    }
}
