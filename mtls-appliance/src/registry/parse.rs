//! One registry file: `[[organisation]]` tables, each value checked by itself and against what others claim.

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Organisation;
use super::index::{Claim, Index};
use crate::config::Mistakes;
use crate::config::document::Document;

/// The keys of an organisation.
const KEYS: [&str; 4] = ["codes", "name", "serial_numbers", "sources"];
/// Bytes of an organisation code (`aN(10)` in the portal's institution call).
const CODE_LIMIT: usize = 10;
/// Bytes of a name (`AH(60)`).
const NAME_LIMIT: usize = 60;
/// Bytes of a serial number (`aNS(20)`).
const SERIAL_NUMBER_LIMIT: usize = 20;
/// Entries of a list; the institution call counts addresses with three digits.
const LIST_LIMIT: usize = 999;

const EXAMPLE: &str = "[[organisation]] with codes = [\"A1AAAA0000\"], name = \"...\", \
                       serial_numbers = [\"123-45-67890\"], sources = [\"10.77.2.0/24\"]";

/// Adds a file's organisations to `index`.
pub(super) fn parse(path: &Path, text: &str, index: &mut Index) -> Result<(), Mistakes> {
    let (document, root) = Document::parse(path, text)?;
    index.begin_file(path);
    let mut file = File { document, index };
    file.read(root.get_ref());
    let mistakes = file.document.into_mistakes();
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

struct File<'t, 'i> {
    document: Document<'t>,
    index: &'i mut Index,
}

impl File<'_, '_> {
    fn read(&mut self, root: &DeTable<'_>) {
        self.document.unknown_keys("", root, &["organisation"], |_| None);
        let Some(list) = root.get("organisation") else {
            self.document.missing("organisation", None, "this file names no organisation", format!("add {EXAMPLE}"));
            return;
        };
        let Some(items) = self.document.list("organisation", list, EXAMPLE) else { return };
        if items.is_empty() {
            let span = list.span();
            self.document.wrong("organisation", span, "this file names no organisation", format!("add {EXAMPLE}"));
        }
        for (at, item) in items.iter().enumerate() {
            if let DeValue::Table(table) = item.get_ref() {
                self.organisation(at, table, item.span());
            } else {
                self.document.wrong_type(&format!("organisation[{at}]"), item, "a table", &format!("add {EXAMPLE}"));
            }
        }
    }

    fn organisation(&mut self, at: usize, table: &DeTable<'_>, span: Range<usize>) {
        let first_code = table
            .get("codes")
            .and_then(|codes| codes.get_ref().get(0))
            .and_then(|code| code.get_ref().as_str())
            .filter(|code| check_code(code).is_ok());
        let path = match first_code {
            Some(code) => format!("organisation[{at}] ({code})"),
            None => format!("organisation[{at}]"),
        };
        self.index.begin(path.clone());
        self.document.unknown_keys(&path, table, &KEYS, |_| None);

        let codes = self.list(&path, table, "codes", "[\"A1AAAA0000\"]", check_code);
        if matches!(&codes, Some(codes) if codes.is_empty()) {
            let place = table.get("codes").map_or(span.clone(), Spanned::span);
            let remedy = "add at least one, as in codes = [\"A1AAAA0000\"]";
            self.document.missing(format!("{path}.codes"), Some(place), "an organisation needs a code", remedy);
        }
        for (place, code, span) in codes.iter().flatten() {
            let claim = self.index.claim_code(code);
            self.note(claim, place, span, "code");
        }

        let name = self.name(&path, table, &span);

        let serial_numbers = self.list(&path, table, "serial_numbers", "[\"123-45-67890\"]", check_serial_number);
        for (place, number, span) in serial_numbers.iter().flatten() {
            let claim = self.index.claim_serial_number(number);
            self.note(claim, place, span, "serial number");
        }

        let sources = self.list(&path, table, "sources", "[\"10.77.2.0/24\"]", check_prefix);
        let sources = sources.map(|sources| self.prefixes(sources));

        let (Some(codes), Some(name), Some(serial_numbers), Some(sources)) = (codes, name, serial_numbers, sources)
        else {
            return;
        };
        if serial_numbers.is_empty() && sources.is_empty() {
            let remedy = "add serial_numbers, sources or both, or remove the organisation";
            self.document.missing(path, Some(span), "neither a serial number nor an address is registered", remedy);
            return;
        }
        let values = |list: Vec<Entry<String>>| list.into_iter().map(|(_, value, _)| value).collect();
        self.index.keep(Organisation { codes: values(codes), name, serial_numbers: values(serial_numbers), sources });
    }

    /// Notes a value that is not free.
    fn note(&mut self, claim: Claim, place: &str, span: &Range<usize>, what: &str) {
        match claim {
            Claim::Free => {}
            Claim::Repeated => {
                self.document.wrong(
                    place,
                    span.clone(),
                    format!("this {what} is given twice"),
                    "remove one of the two",
                );
            }
            Claim::Taken(other) => {
                let problem = format!("this {what} belongs to {other} already");
                self.document.wrong(place, span.clone(), problem, "remove it from one of the two");
            }
        }
    }

    fn name(&mut self, path: &str, table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
        let key = format!("{path}.name");
        let Some(value) = table.get("name") else {
            self.document.missing(key, Some(span.clone()), "is missing", "add the organisation's name");
            return None;
        };
        let name = self.document.text(&key, value, "\"Example Bank\"")?;
        let problem = if name.is_empty() || name.len() > NAME_LIMIT {
            format!("a name has 1 to {NAME_LIMIT} bytes, this one {}", name.len())
        } else if name.chars().any(char::is_control) {
            "a name has no control characters".to_owned()
        } else {
            return Some(name.to_owned());
        };
        self.document.wrong(key, value.span(), problem, "correct it");
        None
    }

    /// A list of strings, each converted by `check`; an absent list is empty. `None` when a mistake was noted.
    fn list<T>(
        &mut self,
        path: &str,
        table: &DeTable<'_>,
        name: &str,
        example: &str,
        check: fn(&str) -> Result<T, (String, String)>,
    ) -> Option<Vec<Entry<T>>> {
        let Some(value) = table.get(name) else { return Some(Vec::new()) };
        let key = format!("{path}.{name}");
        let items = self.document.list(&key, value, example)?;
        if items.len() > LIST_LIMIT {
            let problem = format!("{} entries; at most {LIST_LIMIT} are accepted", items.len());
            self.document.missing(key, Some(value.span()), problem, "shorten the list");
            return None;
        }
        let mut read = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let place = format!("{key}[{at}]");
            let Some(text) = self.document.text(&place, item, example) else { continue };
            match check(text) {
                Ok(value) => read.push((place, value, item.span())),
                Err((problem, remedy)) => self.document.wrong(place, item.span(), problem, remedy),
            }
        }
        (read.len() == items.len()).then_some(read)
    }

    /// Claims the prefixes; returns all of them, because any mistake keeps the whole registry from being used.
    fn prefixes(&mut self, list: Vec<Entry<IpNet>>) -> Vec<IpNet> {
        let mut prefixes: Vec<IpNet> = Vec::with_capacity(list.len());
        for (place, prefix, span) in list {
            if prefixes.contains(&prefix) {
                self.note(Claim::Repeated, &place, &span, "prefix");
            } else if let Err((other_prefix, other)) = self.index.claim_prefix(prefix) {
                let problem = if other_prefix == prefix {
                    format!("this prefix belongs to {other} already")
                } else {
                    format!("overlaps {other_prefix} of {other}; an address can belong to one organisation only")
                };
                self.document.wrong(place, span, problem, "remove it from one of the two, or split the larger one");
            }
            prefixes.push(prefix);
        }
        prefixes
    }
}

/// Its place, the value, where it stands.
type Entry<T> = (String, T, Range<usize>);

fn check_code(code: &str) -> Result<String, (String, String)> {
    if code.is_empty() || code.len() > CODE_LIMIT || !code.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let problem = format!("a code is 1 to {CODE_LIMIT} letters and digits");
        return Err((problem, "give the portal's org_code, as in \"A1AAAA0000\"".to_owned()));
    }
    Ok(code.to_owned())
}

fn check_serial_number(number: &str) -> Result<String, (String, String)> {
    let problem = if number.is_empty() || number.len() > SERIAL_NUMBER_LIMIT {
        format!("a serial number has 1 to {SERIAL_NUMBER_LIMIT} bytes, this one {}", number.len())
    } else if number.starts_with(' ') || number.ends_with(' ') {
        "a space at the beginning or end; it would be compared as well".to_owned()
    } else if let Some(other) = number.chars().find(|character| !matches!(character, ' '..='~')) {
        format!("{other:?} is not printable ASCII")
    } else {
        return Ok(number.to_owned());
    };
    let remedy = "give the subject's serialNumber exactly, as shown by: openssl x509 -in client.pem -noout -subject";
    Err((problem, remedy.to_owned()))
}

fn check_prefix(text: &str) -> Result<IpNet, (String, String)> {
    let form = || "give a prefix or an address, as in \"10.77.2.0/24\", \"10.77.2.9\" or \"fd77:2::/64\"".to_owned();
    let prefix = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(prefix), _) => prefix,
        (_, Ok(address)) => IpNet::from(address),
        _ => return Err(("not an address prefix".to_owned(), form())),
    };
    if let IpNet::V6(v6) = prefix
        && v6.addr().to_ipv4_mapped().is_some()
    {
        let problem = "an IPv4 address mapped into IPv6".to_owned();
        return Err((problem, "write it as IPv4, as in \"10.77.2.0/24\"".to_owned()));
    }
    if prefix.prefix_len() == 0 {
        return Err(("every address would belong to this organisation".to_owned(), form()));
    }
    if prefix.addr() != prefix.network() {
        let problem = format!("the address has bits beyond the /{}", prefix.prefix_len());
        let whole = prefix.trunc();
        return Err((
            problem,
            format!("write \"{whole}\" for the network, or \"{}\" for the one address", prefix.addr()),
        ));
    }
    Ok(prefix)
}
