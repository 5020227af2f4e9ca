//! Signs what a [`Spec`] describes. Everything stays in memory; `output` writes it.

use std::collections::BTreeMap;

use anyhow::{Context, anyhow};
use rcgen::string::PrintableString;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};

use crate::spec::{Authority, Certificate, FileName, KeyKind, Spec, Subject, Usage, ValidDays};

/// Subject serialNumber (X.520), which registries match: OID 2.5.4.5.
const SERIAL_NUMBER: &[u64] = &[2, 5, 4, 5];

/// One entry, ready to be written.
pub(crate) struct Issued {
    pub(crate) name: FileName,
    /// The certificate, then its intermediates.
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
    pub(crate) not_after: OffsetDateTime,
}

struct SigningAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What a certificate issued here carries after the leaf: nothing below a root.
    intermediates_pem: String,
}

/// Signs every entry with fresh keys.
pub(crate) fn issue(spec: &Spec, now: OffsetDateTime) -> anyhow::Result<Vec<Issued>> {
    let mut authorities: BTreeMap<&FileName, SigningAuthority> = BTreeMap::new();
    let mut issued = Vec::new();
    for entry in &spec.authorities {
        let signed = authority(entry, &authorities, now).with_context(|| format!("authority {}", entry.name))?;
        issued.push(Issued {
            name: entry.name.clone(),
            chain_pem: signed.issuer.pem(),
            key_pem: signed.issuer.key().serialize_pem(),
            not_after: day(now, entry.valid.to),
        });
        authorities.insert(&entry.name, signed);
    }
    for entry in &spec.certificates {
        let signed = certificate(entry, &authorities, now).with_context(|| format!("certificate {}", entry.name))?;
        issued.push(signed);
    }
    Ok(issued)
}

fn authority(
    entry: &Authority,
    authorities: &BTreeMap<&FileName, SigningAuthority>,
    now: OffsetDateTime,
) -> anyhow::Result<SigningAuthority> {
    let mut params = params(&entry.subject, entry.valid, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = key(entry.key)?;
    let Some(parent_name) = &entry.issuer else {
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        return Ok(SigningAuthority { issuer, intermediates_pem: String::new() });
    };
    let parent = authorities.get(parent_name).ok_or_else(|| anyhow!("no authority named {parent_name}"))?;
    let issuer = CertifiedIssuer::signed_by(params, key, &parent.issuer)?;
    let intermediates_pem = issuer.pem() + &parent.intermediates_pem;
    Ok(SigningAuthority { issuer, intermediates_pem })
}

fn certificate(
    entry: &Certificate,
    authorities: &BTreeMap<&FileName, SigningAuthority>,
    now: OffsetDateTime,
) -> anyhow::Result<Issued> {
    let params = leaf(entry, now)?;
    let parent = authorities.get(&entry.issuer).ok_or_else(|| anyhow!("no authority named {}", entry.issuer))?;
    let key = key(entry.key)?;
    let leaf = params.signed_by(&key, &parent.issuer)?;
    Ok(Issued {
        name: entry.name.clone(),
        chain_pem: leaf.pem() + &parent.intermediates_pem,
        key_pem: key.serialize_pem(),
        not_after: day(now, entry.valid.to),
    })
}

/// Signs an entry once more with a new key, to end at that second, by what an earlier run wrote of its authority: the
/// certificate, and the key.
pub(crate) fn issue_again(
    entry: &Certificate,
    (authority, authority_key): (&str, &str),
    now: OffsetDateTime,
    end: OffsetDateTime,
) -> anyhow::Result<(String, String)> {
    let issuer = Issuer::from_ca_cert_pem(authority, KeyPair::from_pem(authority_key)?)?;
    let mut params = leaf(entry, now)?;
    params.not_after = end;
    let key = key(entry.key)?;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

fn leaf(entry: &Certificate, now: OffsetDateTime) -> anyhow::Result<CertificateParams> {
    let mut params = params(&entry.subject, entry.valid, now)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = entry
        .usages
        .iter()
        .map(|usage| match usage {
            Usage::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
        })
        .collect();
    for name in &entry.dns {
        params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    params.subject_alt_names.extend(entry.ip.iter().copied().map(SanType::IpAddress));
    Ok(params)
}

fn params(subject: &Subject, valid: ValidDays, now: OffsetDateTime) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(subject)?;
    params.not_before = day(now, valid.from);
    params.not_after = day(now, valid.to);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn distinguished_name(subject: &Subject) -> anyhow::Result<DistinguishedName> {
    let mut name = DistinguishedName::new();
    name.push(DnType::CountryName, printable(&subject.country)?);
    name.push(DnType::OrganizationName, subject.organisation.as_str());
    name.push(DnType::CommonName, subject.common_name.as_str());
    if let Some(serial_number) = &subject.serial_number {
        name.push(DnType::from_oid(SERIAL_NUMBER), printable(serial_number)?);
    }
    Ok(name)
}

fn printable(text: &str) -> anyhow::Result<DnValue> {
    let text = PrintableString::try_from(text).with_context(|| format!("{text:?} is not a PrintableString"))?;
    Ok(DnValue::PrintableString(text))
}

fn key(kind: KeyKind) -> anyhow::Result<KeyPair> {
    Ok(match kind {
        KeyKind::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        KeyKind::Rsa2048 => KeyPair::generate_for(&PKCS_RSA_SHA256)?,
    })
}

fn day(now: OffsetDateTime, offset: i64) -> OffsetDateTime {
    now + Duration::days(offset)
}
