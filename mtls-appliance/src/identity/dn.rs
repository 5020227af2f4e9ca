//! Distinguished names as text: RFC 2253, the way `openssl x509 -nameopt RFC2253,-esc_msb` prints them.
//!
//! Most significant part last, `+` within a multi-valued part, the usual short names, UTF-8 kept. An attribute of an
//! unknown type, or one that is no string, is written as `#` and its DER in hexadecimal.

use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::certificate::hex;

/// A string that is not what its ASN.1 type says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadString {
    pub(super) attribute: String,
    pub(super) kind: &'static str,
}

/// Short names by dotted OID.
pub(super) const SHORT_NAMES: [(&str, &str); 37] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.14", "searchGuide"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.16", "postalAddress"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.18", "postOfficeBox"),
    ("2.5.4.19", "physicalDeliveryOfficeName"),
    ("2.5.4.20", "telephoneNumber"),
    ("2.5.4.26", "registeredAddress"),
    ("2.5.4.31", "member"),
    ("2.5.4.34", "seeAlso"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.72", "role"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.2.840.113549.1.9.2", "unstructuredName"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
];

/// The whole name.
pub(super) fn rfc2253(name: &X509Name<'_>) -> Result<String, BadString> {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut out = String::new();
    for part in parts.into_iter().rev() {
        if !out.is_empty() {
            out.push(',');
        }
        let attributes: Vec<_> = part.iter().collect();
        for (at, attribute) in attributes.into_iter().rev().enumerate() {
            if at > 0 {
                out.push('+');
            }
            write_attribute(attribute, &mut out)?;
        }
    }
    Ok(out)
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, out: &mut String) -> Result<(), BadString> {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(known, _)| *known == oid).map(|(_, name)| *name);
    out.push_str(short.unwrap_or(&oid));
    out.push('=');
    match (short, text(attribute)?) {
        (Some(_), Some(text)) => escape(&text, out),
        _ => {
            let value = attribute.attr_value();
            let der = value.to_der_vec().map_err(|_| BadString { attribute: oid, kind: "value" })?;
            out.push('#');
            out.push_str(&hex(&der, true));
        }
    }
    Ok(())
}

/// RFC 2253 section 2.4, and control characters as their number.
fn escape(text: &str, out: &mut String) {
    let last = text.chars().count().saturating_sub(1);
    for (at, character) in text.chars().enumerate() {
        match character {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', character]),
            '#' if at == 0 => out.push_str("\\#"),
            ' ' if at == 0 || at == last => out.push_str("\\ "),
            control if control.is_ascii_control() => {
                out.push('\\');
                out.push_str(&hex(&[u8::try_from(u32::from(control)).unwrap_or_default()], true));
            }
            other => out.push(other),
        }
    }
}

/// An attribute's string, strictly as its type says; `None` when it is no string.
pub(super) fn text(attribute: &AttributeTypeAndValue<'_>) -> Result<Option<String>, BadString> {
    let value: &Any<'_> = attribute.attr_value();
    let bytes = value.data;
    let (kind, text) = match value.tag() {
        Tag::Utf8String => ("UTF8String", std::str::from_utf8(bytes).ok().map(str::to_owned)),
        Tag::PrintableString => ("PrintableString", ascii(bytes)),
        Tag::Ia5String => ("IA5String", ascii(bytes)),
        Tag::NumericString => ("NumericString", ascii(bytes)),
        Tag::VisibleString => ("VisibleString", ascii(bytes)),
        // Latin-1 is what issuers of such certificates mean, not T.61; openssl reads it so as well.
        Tag::TeletexString => ("TeletexString", Some(bytes.iter().map(|byte| char::from(*byte)).collect())),
        Tag::BmpString => ("BMPString", ucs2(bytes)),
        Tag::UniversalString => ("UniversalString", ucs4(bytes)),
        _ => return Ok(None),
    };
    match text {
        Some(text) => Ok(Some(text)),
        None => Err(BadString { attribute: attribute_name(attribute), kind }),
    }
}

fn attribute_name(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    match SHORT_NAMES.iter().find(|(known, _)| *known == oid) {
        Some((_, name)) => (*name).to_owned(),
        None => oid,
    }
}

fn ascii(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).map(str::to_owned)
}

/// Big-endian UTF-16; whole, with no lone surrogate.
fn ucs2(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<2>();
    let text = char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)));
    if rest.is_empty() { text.collect::<Result<_, _>>().ok() } else { None }
}

/// Big-endian UTF-32.
fn ucs4(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() { units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit))).collect() } else { None }
}
