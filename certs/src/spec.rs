//! `pki.toml` as types. Names, key kinds and usages are checked while parsing, issuers before anything is signed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

/// The whole description: authorities in the order they are signed, then certificates.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    #[serde(rename = "authority")]
    pub(crate) authorities: Vec<Authority>,
    #[serde(rename = "certificate")]
    pub(crate) certificates: Vec<Certificate>,
}

/// A certificate authority; without `issuer` it signs itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Authority {
    pub(crate) name: FileName,
    pub(crate) issuer: Option<FileName>,
    pub(crate) subject: Subject,
    pub(crate) valid: ValidDays,
    pub(crate) key: KeyKind,
}

/// An end-entity certificate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    pub(crate) name: FileName,
    pub(crate) issuer: FileName,
    pub(crate) subject: Subject,
    pub(crate) valid: ValidDays,
    pub(crate) key: KeyKind,
    pub(crate) usages: Vec<Usage>,
    #[serde(default)]
    pub(crate) dns: Vec<String>,
    #[serde(default)]
    pub(crate) ip: Vec<IpAddr>,
}

/// Subject attributes, encoded in this order.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    pub(crate) country: String,
    pub(crate) organisation: String,
    pub(crate) common_name: String,
    pub(crate) serial_number: Option<String>,
}

/// Validity in days relative to the moment of generation.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "(i64, i64)")]
pub(crate) struct ValidDays {
    pub(crate) from: i64,
    pub(crate) to: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum KeyKind {
    #[serde(rename = "p256")]
    P256,
    #[serde(rename = "rsa2048")]
    Rsa2048,
}

/// Extended key usages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Usage {
    ClientAuth,
    ServerAuth,
}

/// An entry's name, safe as the stem of a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct FileName(String);

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FileName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(format!("name = {name:?}: use lower-case letters, digits and hyphens; it becomes a file name"));
        }
        Ok(Self(name))
    }
}

impl TryFrom<(i64, i64)> for ValidDays {
    type Error = String;

    fn try_from((from, to): (i64, i64)) -> Result<Self, String> {
        if from >= to {
            return Err(format!("valid = [{from}, {to}]: the first day must come before the last"));
        }
        Ok(Self { from, to })
    }
}

impl Spec {
    /// Parses a description and checks that names are unique and that every issuer is an authority listed earlier.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let spec: Self = toml::from_str(text).context("pki.toml")?;
        let mut authorities = BTreeSet::new();
        for authority in &spec.authorities {
            if let Some(issuer) = &authority.issuer {
                ensure!(
                    authorities.contains(issuer),
                    "pki.toml: authority {}: issuer = \"{issuer}\": list that authority before this one",
                    authority.name
                );
            }
            ensure!(authorities.insert(&authority.name), "pki.toml: two authorities are named {}", authority.name);
        }
        let mut names = authorities.clone();
        for certificate in &spec.certificates {
            if !authorities.contains(&certificate.issuer) {
                bail!(
                    "pki.toml: certificate {}: issuer = \"{}\": no [[authority]] has that name",
                    certificate.name,
                    certificate.issuer
                );
            }
            ensure!(names.insert(&certificate.name), "pki.toml: two entries are named {}", certificate.name);
        }
        Ok(spec)
    }

    /// Every entry's name: each has a `.pem` and a `.key`.
    pub(crate) fn names(&self) -> impl Iterator<Item = &FileName> {
        self.authorities.iter().map(|a| &a.name).chain(self.certificates.iter().map(|c| &c.name))
    }
}
