//! The kinds of value that a key can take: how each is read, and how the reference describes it.

use std::net::SocketAddr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::document::{Document, nearest};
use super::{ClientEku, GuardMode, OffloadMode, TlsVersion};
use crate::identity::{Encoding, HeaderTemplate, PRESETS, Preset, check_removed_name};

/// A kind of value.
pub(super) trait Form: Sync {
    /// What it becomes.
    type Value;
    /// Reads it, or notes what is wrong.
    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Self::Value>;
    /// For the reference.
    fn describe(&self) -> String;
}

/// Why a text is not of its kind, and the way out.
pub(super) struct Wrong {
    problem: String,
    remedy: String,
}

fn wrong<T>(problem: impl Into<String>, remedy: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { problem: problem.into(), remedy: remedy.into() })
}

/// A string with a meaning.
pub(super) struct Text<T: 'static> {
    what: &'static str,
    example: &'static str,
    parse: fn(&str) -> Result<T, Wrong>,
}

impl<T> Form for Text<T> {
    type Value = T;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<T> {
        let text = document.text(key, value, self.example)?;
        match (self.parse)(text) {
            Ok(parsed) => Some(parsed),
            Err(Wrong { problem, remedy }) => {
                document.wrong(key, value.span(), problem, remedy);
                None
            }
        }
    }

    fn describe(&self) -> String {
        format!("{}, as in `{}`", self.what, self.example)
    }
}

/// A list; its items are read one by one, so that each mistake is reported.
pub(super) struct List<F> {
    pub(super) item: F,
    pub(super) may_be_empty: bool,
    pub(super) example: &'static str,
}

/// Items of a list that are looked at.
const LIST_LIMIT: usize = 1000;

impl<F: Form> Form for List<F>
where
    F::Value: PartialEq,
{
    type Value = Vec<F::Value>;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Self::Value> {
        let items = document.list(key, value, self.example)?;
        if items.is_empty() && !self.may_be_empty {
            document.wrong(
                key,
                value.span(),
                "the list is empty",
                format!("give at least one, as in {}", self.example),
            );
            return None;
        }
        if items.len() > LIST_LIMIT {
            document.wrong(key, value.span(), format!("more than {LIST_LIMIT} entries"), "shorten the list");
            return None;
        }
        let mut read: Vec<F::Value> = Vec::new();
        let mut complete = true;
        for (at, item) in items.iter().enumerate() {
            let place = format!("{key}[{at}]");
            match self.item.read(&place, item, document) {
                Some(value) if read.contains(&value) => {
                    document.wrong(place, item.span(), "is in the list twice", "remove one of the two");
                    complete = false;
                }
                Some(value) => read.push(value),
                None => complete = false,
            }
        }
        complete.then_some(read)
    }

    fn describe(&self) -> String {
        format!("list: {}", self.item.describe())
    }
}

/// One of a few words.
pub(super) struct Words<T: 'static>(pub(super) &'static [(&'static str, T, &'static str)]);

impl<T: Copy + Sync> Form for Words<T> {
    type Value = T;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<T> {
        let words: Vec<&str> = self.0.iter().map(|(word, ..)| *word).collect();
        let choice = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let typed = document.text(key, value, &choice)?;
        if let Some((_, meant, _)) = self.0.iter().find(|(word, ..)| *word == typed) {
            return Some(*meant);
        }
        let remedy = match nearest(typed, &words) {
            Some(near) => format!("did you mean \"{near}\"? Possible: {choice}"),
            None => format!("possible: {choice}"),
        };
        document.wrong(key, value.span(), "no such choice", remedy);
        None
    }

    fn describe(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _, meaning)| format!("`\"{word}\"` ({meaning})")).collect();
        words.join(", ")
    }
}

/// `true` or `false`.
pub(super) struct Flag;

impl Form for Flag {
    type Value = bool;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<bool> {
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            document.wrong_type(key, value, "true or false", "write true or false, without quotes");
        }
        flag
    }

    fn describe(&self) -> String {
        "`true` or `false`".to_owned()
    }
}

/// A whole number within bounds, both included.
pub(super) struct Count {
    pub(super) least: u64,
    pub(super) most: u64,
}

impl Form for Count {
    type Value = u64;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<u64> {
        let Self { least, most } = *self;
        let remedy = format!("give a number from {least} to {most}");
        let DeValue::Integer(integer) = value.get_ref() else {
            document.wrong_type(key, value, "a whole number", &format!("{remedy}, without quotes"));
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let within = number.and_then(|number| u64::try_from(number).ok()).filter(|n| (least..=most).contains(n));
        if within.is_none() {
            let what = if number.is_none_or(|n| n > i128::from(most)) { "too large" } else { "too small" };
            document.wrong(key, value.span(), what, remedy);
        }
        within
    }

    fn describe(&self) -> String {
        format!("number from {} to {}", self.least, self.most)
    }
}

/// A span of time, as in `10s`, within bounds, both included.
pub(super) struct Span {
    pub(super) least: Duration,
    pub(super) most: Duration,
}

const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl Form for Span {
    type Value = Duration;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Duration> {
        let text = document.text(key, value, "\"10s\"")?;
        let Some(milliseconds) = with_unit(text, &TIME_UNITS) else {
            let remedy = "give a whole number and a unit (ms, s, m, h), as in \"10s\"";
            document.wrong(key, value.span(), "not a span of time", remedy);
            return None;
        };
        let span = Duration::from_millis(milliseconds);
        if (self.least..=self.most).contains(&span) {
            return Some(span);
        }
        let what = match span {
            Duration::ZERO => "a deadline of zero would end everything at once",
            short if short < self.least => "too short",
            _ => "too long",
        };
        document.wrong(key, value.span(), what, format!("give {}", self.describe()));
        None
    }

    fn describe(&self) -> String {
        format!("time from `\"{}\"` to `\"{}\"`", shown_time(self.least), shown_time(self.most))
    }
}

fn shown_time(span: Duration) -> String {
    let milliseconds = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    shown(milliseconds, &TIME_UNITS)
}

/// A number of bytes, as in `64KiB`, within bounds, both included.
pub(super) struct Size {
    pub(super) least: u64,
    pub(super) most: u64,
    /// Whether `unlimited` may be said; it becomes `u64::MAX`.
    pub(super) unlimited: bool,
}

const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl Form for Size {
    type Value = u64;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<u64> {
        let text = document.text(key, value, "\"64KiB\"")?;
        if self.unlimited && text == "unlimited" {
            return Some(u64::MAX);
        }
        let Some(bytes) = with_unit(text, &SIZE_UNITS) else {
            let remedy = "give a whole number and a unit (B, KiB, MiB, GiB), as in \"64KiB\"";
            document.wrong(key, value.span(), "not a size", remedy);
            return None;
        };
        if (self.least..=self.most).contains(&bytes) {
            return Some(bytes);
        }
        let what = if bytes < self.least { "too small" } else { "too large" };
        document.wrong(key, value.span(), what, format!("give {}", self.describe()));
        None
    }

    fn describe(&self) -> String {
        let or = if self.unlimited { ", or `\"unlimited\"`" } else { "" };
        format!("size from `\"{}\"` to `\"{}\"`{or}", shown(self.least, &SIZE_UNITS), shown(self.most, &SIZE_UNITS))
    }
}

/// A whole number directly followed by one of `units`; in the smallest unit. `None` also where it does not fit.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// In the largest unit that leaves no rest.
fn shown(amount: u64, units: &[(&str, u64)]) -> String {
    let (name, factor) =
        units.iter().rev().find(|(_, factor)| amount >= *factor && amount.is_multiple_of(*factor)).unwrap_or(&("", 1));
    format!("{}{name}", amount / factor)
}

/// A preset's name.
pub(super) struct PresetName;

/// A preset, compared by name.
#[derive(Clone, Copy)]
pub(super) struct Chosen(pub(super) &'static Preset);

impl PartialEq for Chosen {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Form for PresetName {
    type Value = Chosen;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Chosen> {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        let typed = document.text(key, value, "\"mydata\"")?;
        let found = PRESETS.iter().find(|preset| preset.name == typed);
        if found.is_none() {
            let remedy = match nearest(typed, &names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("possible: {}", names.join(", ")),
            };
            document.wrong(key, value.span(), "no such preset", remedy);
        }
        found.map(Chosen)
    }

    fn describe(&self) -> String {
        let names: Vec<String> = PRESETS.iter().map(|preset| format!("`\"{}\"`", preset.name)).collect();
        names.join(", ")
    }
}

/// `{ name, value, encoding }`.
pub(super) struct Header;

/// The keys of a header's table.
pub(super) const HEADER_KEYS: [&str; 3] = ["name", "value", "encoding"];

const ENCODINGS: Words<Encoding> = Words(&[
    ("percent", Encoding::Percent, "what is not printable ASCII, and `%`, as `%XX` of its UTF-8; the default"),
    ("utf8", Encoding::Utf8, "as it is; a control character refuses the connection"),
    ("base64", Encoding::Base64, "the whole value, Base64 of its UTF-8"),
]);

/// A template; no two are equal here, because equal *names* are looked for over presets and free fields together.
pub(super) struct Template(pub(super) HeaderTemplate);

impl PartialEq for Template {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Form for Header {
    type Value = Template;

    fn read(&self, key: &str, value: &Spanned<DeValue<'_>>, document: &mut Document<'_>) -> Option<Template> {
        const EXAMPLE: &str = "{ name = \"X-Client-DN\", value = \"${subject.dn}\" }";
        let DeValue::Table(table) = value.get_ref() else {
            document.wrong_type(key, value, "a table", &format!("write it as {EXAMPLE}"));
            return None;
        };
        document.unknown_keys(key, table, &HEADER_KEYS, |_| None);
        let mut text = |name: &str| {
            let place = format!("{key}.{name}");
            let Some(typed) = table.get(name) else {
                document.missing(place, Some(value.span()), "is missing", format!("write it as in {EXAMPLE}"));
                return None;
            };
            document.text(&place, typed, "\"X-Client-DN\"").map(|text| (text, typed))
        };
        let (name, text) = (text("name"), text("value"));
        let encoding = match table.get("encoding") {
            None => Some(Encoding::Percent),
            Some(typed) => ENCODINGS.read(&format!("{key}.encoding"), typed, document),
        };
        let ((name, name_typed), (text, text_typed), encoding) = (name?, text?, encoding?);
        match HeaderTemplate::parse(name, text, encoding) {
            Ok(template) => Some(Template(template)),
            Err(error) => {
                let (part, typed) = match &error {
                    crate::identity::TemplateError::Name(_) => ("name", name_typed),
                    _ => ("value", text_typed),
                };
                document.wrong(format!("{key}.{part}"), typed.span(), error.to_string(), error.remedy());
                None
            }
        }
    }

    fn describe(&self) -> String {
        format!("`{{ name, value, encoding }}`; encoding: {}", ENCODINGS.describe())
    }
}

/// A file or folder name, not yet resolved.
pub(super) const PATH: Text<String> = Text {
    what: "path, relative ones from the configuration's folder",
    example: "\"tls/server.pem\"",
    parse: |text| match text {
        "" => wrong("the path is empty", "give the path of a file"),
        text if text.contains('\0') => wrong("a path cannot contain NUL", "remove it"),
        text if text.len() > 4000 => wrong("the path is too long", "shorten it"),
        text => Ok(text.to_owned()),
    },
};

/// An IP address and a port.
pub(super) const ADDRESS: Text<SocketAddr> = Text {
    what: "IP address and port",
    example: "\"10.0.0.5:8443\" or \"[::]:8443\"",
    parse: |text| {
        let form = "give an IP address and a port, as in \"10.0.0.5:8443\" or \"[fd00::5]:8443\"";
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => wrong("port 0 stands for no port", "give a port from 1 to 65535"),
            Ok(address) => Ok(address),
            Err(_) if text.parse::<std::net::IpAddr>().is_ok() => wrong("the port is missing", form),
            Err(_) if text.chars().any(|c| c.is_ascii_alphabetic()) && !text.starts_with('[') => {
                wrong("not an IP address and port; names are not looked up", form)
            }
            Err(_) => wrong("not an IP address and port", form),
        }
    },
};

/// The origin's name.
pub(super) const SERVER_NAME: Text<String> = Text {
    what: "DNS name or IP address",
    example: "\"api.bank.internal\"",
    parse: |text| match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => wrong(
            "neither a DNS name nor an IP address",
            "give the name in the origin's certificate, without scheme and port, as in \"api.bank.internal\"",
        ),
    },
};

/// A certificate's SHA-256.
pub(super) const PIN: Text<[u8; 32]> = Text {
    what: "SHA-256 of the origin's certificate",
    example: "\"sha256:9f86d0...\"",
    parse: |text| {
        let remedy =
            "take it from: openssl x509 -in origin.pem -noout -fingerprint -sha256, and write \"sha256:<hex>\"";
        let Some(hex) = text.strip_prefix("sha256:") else {
            return wrong("a pin begins with sha256:", remedy);
        };
        let digits: Vec<char> = hex.chars().filter(|character| *character != ':').collect();
        if digits.len() != 64 {
            return wrong(format!("{} hexadecimal digits instead of 64", digits.len()), remedy);
        }
        let mut pin = [0; 32];
        for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let Some(value) = digit.to_digit(16).and_then(|value| u8::try_from(value).ok()) else {
                    return wrong(format!("{digit:?} is not a hexadecimal digit"), remedy);
                };
                *byte = (*byte << 4) | value;
            }
        }
        Ok(pin)
    },
};

/// A network interface.
pub(super) const INTERFACE: Text<String> = Text {
    what: "network interface",
    example: "\"eth0\"",
    parse: |text| {
        // The kernel's own rules: dev_valid_name() in net/core/dev.c, IFNAMSIZ.
        let valid = !text.is_empty()
            && text.len() <= 15
            && !matches!(text, "." | "..")
            && !text.bytes().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b':' | 0));
        if valid {
            Ok(text.to_owned())
        } else {
            wrong("cannot be an interface's name", "see the names with: ip -br link")
        }
    },
};

/// A field name to remove.
pub(super) const REMOVED_NAME: Text<String> = Text {
    what: "field name",
    example: "\"X-Legacy-User\"",
    parse: |text| match check_removed_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(crate::identity::FieldNameError::Message) => {
            wrong(crate::identity::FieldNameError::Message.to_string(), "take it out of the list")
        }
        Err(error) => wrong(error.to_string(), error.remedy()),
    },
};

/// A folder on a BPF file system.
pub(super) const PIN_DIR: Text<String> = Text {
    what: "folder under `/sys/fs/bpf`",
    example: "\"/sys/fs/bpf/mtls-appliance\"",
    parse: |text| {
        let inside = text.starts_with('/') && text.len() > 1 && !text.split('/').any(|part| part == "..");
        if inside && !text.contains('\0') {
            Ok(text.to_owned())
        } else {
            wrong("not an absolute path", "give a folder on a BPF file system, as in \"/sys/fs/bpf/mtls-appliance\"")
        }
    },
};

/// A TCP port.
pub(super) const PORT: Count = Count { least: 1, most: 65_535 };

/// TLS versions.
pub(super) const VERSIONS: Words<TlsVersion> =
    Words(&[("1.3", TlsVersion::V1_3, "RFC 8446"), ("1.2", TlsVersion::V1_2, "RFC 5246, and 1.3")]);

/// `tls.client_eku`.
pub(super) const EKU: Words<ClientEku> = Words(&[
    ("client-auth", ClientEku::ClientAuth, "clientAuth, or no such extension"),
    ("server-auth-too", ClientEku::ServerAuthToo, "certificates for serverAuth alone as well"),
]);

/// `origin.verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VerifyWord {
    Ca,
    Pin,
    None,
}

/// `origin.verify`.
pub(super) const VERIFY: Words<VerifyWord> = Words(&[
    ("ca", VerifyWord::Ca, "by `ca` and `server_name`"),
    ("pin", VerifyWord::Pin, "by `pins` alone"),
    ("none", VerifyWord::None, "not at all; warned about at every start"),
]);

/// `offload.mode`.
pub(super) const OFFLOAD: Words<OffloadMode> = Words(&[
    ("auto", OffloadMode::Auto, "where the kernel can"),
    ("required", OffloadMode::Required, "or no start"),
    ("off", OffloadMode::Off, "never"),
]);

/// `guard.mode`.
pub(super) const GUARD: Words<GuardMode> = Words(&[
    ("auto", GuardMode::Auto, "native, else generic, and said so"),
    ("native", GuardMode::Native, "in the driver, or no start"),
    ("generic", GuardMode::Generic, "in the network stack"),
]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_need_a_whole_number_and_a_known_unit() {
        assert_eq!(with_unit("500ms", &TIME_UNITS), Some(500));
        assert_eq!(with_unit("2m", &TIME_UNITS), Some(120_000));
        assert_eq!(with_unit("64KiB", &SIZE_UNITS), Some(65_536));
        for text in
            ["", "10", "s", "1.5s", "-1s", "10 s", "10S", "1e3s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(with_unit(text, &TIME_UNITS), None, "{text}");
        }
        for text in ["64kb", "64KB", "64Ki", "18446744073709551615GiB"] {
            assert_eq!(with_unit(text, &SIZE_UNITS), None, "{text}");
        }
    }

    #[test]
    fn amounts_are_shown_as_they_would_be_typed() {
        assert_eq!(shown(65_536, &SIZE_UNITS), "64KiB");
        assert_eq!(shown(1500, &TIME_UNITS), "1500ms");
        assert_eq!(shown(3_600_000, &TIME_UNITS), "1h");
    }
}
