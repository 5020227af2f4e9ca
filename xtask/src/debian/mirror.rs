//! Which Debian mirror this machine uses, read from its apt configuration.
//!
//! Reads both forms, one-line `*.list` and deb822 `*.sources`. Only addresses and keyrings are taken; which suites
//! are read through them is decided by what is to be provisioned, so a bookworm machine can fetch a sid kernel.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};

/// Overrides the mirror found in the apt configuration.
pub(crate) const MIRROR_VARIABLE: &str = "XTASK_DEBIAN_MIRROR";
/// Overrides the security mirror found in the apt configuration.
pub(crate) const SECURITY_VARIABLE: &str = "XTASK_DEBIAN_SECURITY_MIRROR";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const RELEASES: [&str; 10] =
    ["bullseye", "bookworm", "trixie", "forky", "sid", "stable", "oldstable", "oldoldstable", "testing", "unstable"];

/// The addresses of Debian's archives as this machine reaches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mirrors {
    /// The main archive.
    pub(crate) main: String,
    /// The archive of security updates.
    pub(crate) security: String,
    /// The keyring that signatures are checked with; apt's own default when absent on this machine.
    pub(crate) keyring: Option<PathBuf>,
}

/// One source of the apt configuration: an address and one suite read from it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    uri: String,
    suite: String,
    signed_by: Option<String>,
}

impl Mirrors {
    /// Reads the apt configuration of this machine.
    ///
    /// # Errors
    /// When it names no Debian mirror and none was given by environment variable.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let mut sources = Vec::new();
        let etc = Path::new("/etc/apt");
        if let Ok(text) = fs::read_to_string(etc.join("sources.list")) {
            sources.extend(one_line_sources(&text));
        }
        let mut parts: Vec<PathBuf> = fs::read_dir(etc.join("sources.list.d"))
            .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        parts.sort();
        for path in parts {
            let text = fs::read_to_string(&path).unwrap_or_default();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("list") => sources.extend(one_line_sources(&text)),
                Some("sources") => sources.extend(deb822_sources(&text)),
                _ => {}
            }
        }
        let keyring = Some(PathBuf::from(KEYRING)).filter(|path| path.is_file());
        Self::choose(&sources, keyring, env::var(MIRROR_VARIABLE).ok(), env::var(SECURITY_VARIABLE).ok())
    }

    fn choose(
        sources: &[Source],
        keyring: Option<PathBuf>,
        main: Option<String>,
        security: Option<String>,
    ) -> Result<Self> {
        let main = main
            .or_else(|| {
                sources
                    .iter()
                    .filter(|source| RELEASES.contains(&source.suite.as_str()) && source.score() > 0)
                    .max_by_key(|source| source.score())
                    .map(|source| source.uri.clone())
            })
            .ok_or_else(|| {
                anyhow!(
                    "no Debian mirror in /etc/apt: run this on Debian, or name a mirror with \
                     {MIRROR_VARIABLE}=http://<mirror>/debian"
                )
            })?;
        let security = security
            .or_else(|| {
                sources
                    .iter()
                    .filter(|source| {
                        source.suite.split(['-', '/']).next().is_some_and(|name| RELEASES.contains(&name))
                            && source.suite.trim_end_matches("/updates").ends_with("-security")
                    })
                    .max_by_key(|source| source.score())
                    .map(|source| source.uri.clone())
            })
            .unwrap_or_else(|| format!("{main}-security"));
        Ok(Self { main, security, keyring })
    }
}

impl Source {
    /// A source that can be read over the network or from a local mirror; nothing for cdrom and the like.
    fn new(uri: &str, suite: &str, signed_by: Option<&str>) -> Option<Self> {
        ["http://", "https://", "file:", "mirror"].iter().any(|scheme| uri.starts_with(scheme)).then(|| Self {
            uri: uri.trim_end_matches('/').to_owned(),
            suite: suite.trim_end_matches('/').to_owned(),
            signed_by: signed_by.map(str::to_owned),
        })
    }

    /// How much this looks like Debian's own archive rather than someone's who uses Debian's suite names.
    fn score(&self) -> u8 {
        let debian_keys = self.signed_by.as_deref().is_some_and(|path| path.contains("debian-archive"));
        let foreign_keys = self.signed_by.is_some() && !debian_keys;
        let debian_path = self.uri.ends_with("/debian") || self.uri.ends_with("/debian-security");
        match (debian_keys, debian_path) {
            (true, true) => 3,
            (true, false) => 2,
            (false, true) if !foreign_keys => 1,
            _ => 0,
        }
    }
}

/// Parses the one-line form: `deb [options] uri suite component...`.
fn one_line_sources(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite), true) = (words.next(), words.next(), words.any(|word| word == "main")) {
            let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
            sources.push(Source::new(uri, suite, signed_by));
        }
    }
    sources.into_iter().flatten().collect()
}

/// Parses the deb822 form: stanzas of fields, continued lines indented.
fn deb822_sources(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    for stanza in text.split("\n\n") {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza.lines() {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
        let has = |name: &str, word: &str| field(name).is_some_and(|value| value.split_whitespace().any(|w| w == word));
        let disabled = field("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if disabled || !has("types", "deb") || !has("components", "main") {
            continue;
        }
        for uri in field("uris").unwrap_or_default().split_whitespace() {
            for suite in field("suites").unwrap_or_default().split_whitespace() {
                sources.push(Source::new(uri, suite, field("signed-by")));
            }
        }
    }
    sources.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb deb-src\n# a comment\nURIs: http://mirror.test/debian/\nSuites: bookworm \
                          bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                          Types: deb\nURIs: http://mirror.test/debian-security\nSuites:\n bookworm-security\nComponents: main\n\n\
                          Types: deb\nURIs: http://old.test/debian\nSuites: bookworm\nComponents: main\nEnabled: no\n";

    fn chosen(sources: &[Source]) -> Mirrors {
        Mirrors::choose(sources, None, None, None).unwrap()
    }

    #[test]
    fn reads_the_deb822_form_with_comments_continued_lines_and_disabled_stanzas() {
        let sources = deb822_sources(DEB822);
        let suites: Vec<&str> = sources.iter().map(|source| source.suite.as_str()).collect();
        assert_eq!(suites, ["bookworm", "bookworm-updates", "bookworm-security"]);
        let mirrors = chosen(&sources);
        assert_eq!(mirrors.main, "http://mirror.test/debian");
        assert_eq!(mirrors.security, "http://mirror.test/debian-security");
    }

    #[test]
    fn reads_the_one_line_form_with_options() {
        let sources = one_line_sources(
            "deb-src http://a.test/debian trixie main\ndeb [arch=amd64 signed-by=/k/debian-archive-x.gpg] \
             http://b.test/debian trixie main contrib # note\ndeb cdrom:[x]/ trixie main\n",
        );
        assert_eq!(sources.len(), 1);
        assert_eq!(chosen(&sources).main, "http://b.test/debian");
    }

    #[test]
    fn prefers_debians_keyring_to_a_vendor_who_uses_the_same_suite_names() {
        let sources = one_line_sources(
            "deb [signed-by=/etc/apt/keyrings/vendor.gpg] http://vendor.test/debian bookworm main\n\
             deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://m.test/d bookworm main\n",
        );
        assert_eq!(chosen(&sources).main, "http://m.test/d");
    }

    #[test]
    fn derives_the_security_mirror_when_none_is_configured() {
        assert_eq!(
            chosen(&one_line_sources("deb http://m.test/debian sid main")).security,
            "http://m.test/debian-security"
        );
    }

    #[test]
    fn names_the_way_out_when_no_mirror_is_configured() {
        let error = Mirrors::choose(&[], None, None, None).unwrap_err().to_string();
        assert!(error.contains(MIRROR_VARIABLE), "{error}");
        let given = Mirrors::choose(&[], None, Some("http://m.test/debian".into()), None).unwrap();
        assert_eq!(given.security, "http://m.test/debian-security");
    }
}
