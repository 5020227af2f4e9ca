//! Names as text, against expectations and against openssl itself.

use std::io::Write;
use std::process::{Command, Stdio};

use super::certificates::{Attribute, BMP, Certificate, IA5, PRINTABLE, TELETEX, UNIVERSAL, UTF8};
use crate::identity::{ClientIdentity, IdentityError};

const CN: &str = "2.5.4.3";
const SERIAL: &str = "2.5.4.5";
/// Tag of an OCTET STRING.
const OCTETS: u8 = 0x04;

/// Subjects, and what RFC 2253 makes of them.
const NAMES: &[(&[&[Attribute<'static>]], &str)] = &[
    (
        &[
            &[("2.5.4.6", PRINTABLE, b"KR")],
            &[("2.5.4.10", UTF8, "한빛은행".as_bytes())],
            &[("2.5.4.15", UTF8, b"Private Organization")],
            &[("1.3.6.1.4.1.311.60.2.1.3", PRINTABLE, b"KR")],
            &[(SERIAL, PRINTABLE, b"123-45-67890")],
            &[(CN, UTF8, b"api.bank.example")],
        ],
        "CN=api.bank.example,serialNumber=123-45-67890,jurisdictionC=KR,businessCategory=Private Organization,\
         O=한빛은행,C=KR",
    ),
    // A multi-valued part; its values come in reverse order, too.
    (&[&[("2.5.4.10", UTF8, b"O")], &[(CN, UTF8, b"a"), ("2.5.4.11", UTF8, b"b")]], "OU=b+CN=a,O=O"),
    // What section 2.4 escapes, and what it does not.
    (&[&[(CN, UTF8, b"a,b+c\"d\\e<f>g;h=i#j/k'l")]], "CN=a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h=i#j/k'l"),
    (&[&[(CN, UTF8, b"#x")]], "CN=\\#x"),
    (&[&[(CN, UTF8, b"  x  ")]], "CN=\\  x \\ "),
    (&[&[(CN, UTF8, b" ")]], "CN=\\ "),
    (&[&[(CN, UTF8, b"")]], "CN="),
    // Control characters cannot get out.
    (&[&[(CN, UTF8, b"a\r\nX-Admin: 1\0\x7f\t")]], "CN=a\\0D\\0AX-Admin: 1\\00\\7F\\09"),
    // The other string types.
    (&[&[(CN, TELETEX, b"M\xfcller")]], "CN=Müller"),
    (&[&[(CN, BMP, &[0xd5, 0x5c, 0, b'!'])]], "CN=한!"),
    (&[&[(CN, UNIVERSAL, &[0, 1, 0xf6, 0])]], "CN=😀"),
    (&[&[("1.2.840.113549.1.9.1", IA5, b"a@b.example")]], "emailAddress=a@b.example"),
    (&[&[("0.9.2342.19200300.100.1.25", IA5, b"example")]], "DC=example"),
    (&[&[("0.9.2342.19200300.100.1.1", UTF8, b"u1")]], "UID=u1"),
    (&[&[("2.5.4.97", UTF8, b"PSDKR-FSS-1")]], "organizationIdentifier=PSDKR-FSS-1"),
    // Unknown types, and values that are no strings, as their DER.
    (&[&[("1.2.3.4.5678", UTF8, b"x")]], "1.2.3.4.5678=#0C0178"),
    (&[&[(CN, OCTETS, b"x")]], "CN=#040178"),
    (&[&[(CN, 0x30, b"\x02\x01\x05")]], "CN=#3003020105"),
    (&[], ""),
];

#[test]
fn names_are_written_in_rfc_2253_form() {
    for (subject, expected) in NAMES {
        let identity = ClientIdentity::from_chain(&[Certificate { subject, ..Certificate::default() }.der()]).unwrap();
        assert_eq!(identity.subject_dn, *expected);
        let issuer = ClientIdentity::from_chain(&[Certificate { issuer: subject, ..Certificate::default() }.der()]);
        assert_eq!(issuer.unwrap().issuer_dn, *expected);
    }
}

#[test]
fn names_and_numbers_are_the_same_as_openssl_prints_them() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: no openssl on this machine");
        return;
    }
    let known: Vec<Vec<(String, u8, &[u8])>> =
        super::super::dn::SHORT_NAMES.iter().map(|(oid, _)| vec![((*oid).to_owned(), UTF8, &b"x"[..])]).collect();
    let known: Vec<Vec<Attribute<'_>>> =
        known.iter().map(|part| part.iter().map(|(oid, tag, value)| (&**oid, *tag, *value)).collect()).collect();
    let known: Vec<&[Attribute<'_>]> = known.iter().map(|part| &**part).collect();
    // openssl does not read a certificate with an OCTET STRING in a name at all.
    let readable =
        |subject: &&[&[Attribute<'_>]]| subject.iter().all(|part| part.iter().all(|(_, tag, _)| *tag != OCTETS));
    let subjects = NAMES.iter().map(|(subject, _)| *subject).filter(readable).chain([&*known]);
    for subject in subjects {
        let der = Certificate { subject, ..Certificate::default() }.der();
        let identity = ClientIdentity::from_chain(std::slice::from_ref(&der)).unwrap();
        let printed = openssl(&der, &["-subject", "-nameopt", "RFC2253,-esc_msb"]);
        assert_eq!(printed.strip_prefix("subject="), Some(&*identity.subject_dn));
        let printed = openssl(&der, &["-fingerprint", "-sha256"]).replace(':', "").to_lowercase();
        assert_eq!(printed.strip_prefix("sha256 fingerprint="), Some(&*identity.fingerprint_hex()));
    }
    for serial in SERIALS {
        let der = Certificate { serial: serial.0, ..Certificate::default() }.der();
        assert_eq!(openssl(&der, &["-serial"]), format!("serial={}", serial.1));
    }
}

fn openssl(der: &[u8], arguments: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["x509", "-inform", "DER", "-noout"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(der).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl does not read {der:02x?}");
    String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
}

/// INTEGER contents, and how openssl prints them.
const SERIALS: &[(&[u8], &str)] = &[
    (&[0x0a, 0x1b], "0A1B"),
    (&[0x00, 0xff, 0x01], "FF01"),
    (&[0x00], "00"),
    (&[0x7f; 20], "7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F7F"),
    (&[0xff], "-01"),
    (&[0x80], "-80"),
    (&[0xfe, 0x00], "-0200"),
];

#[test]
fn certificate_serials_are_upper_case_hexadecimal() {
    for (serial, expected) in SERIALS {
        let identity = ClientIdentity::from_chain(&[Certificate { serial, ..Certificate::default() }.der()]).unwrap();
        assert_eq!(identity.certificate_serial, *expected);
    }
}

#[test]
fn the_registered_serial_number_is_the_subjects_and_read_exactly() {
    let read = |parts: &[&[Attribute<'_>]]| {
        ClientIdentity::from_chain(&[Certificate { subject: parts, ..Certificate::default() }.der()])
            .map(|identity| identity.serial_number)
    };
    assert_eq!(read(&[&[(SERIAL, PRINTABLE, b" 12 ")]]), Ok(Some(" 12 ".to_owned())));
    assert_eq!(read(&[&[(SERIAL, BMP, &[0, b'1', 0, b'2'])]]), Ok(Some("12".to_owned())));
    assert_eq!(read(&[&[(SERIAL, UTF8, b"12\0")]]), Ok(Some("12\0".to_owned())));
    assert_eq!(read(&[&[(SERIAL, PRINTABLE, b"")]]), Ok(None));
    assert_eq!(read(&[&[(CN, UTF8, b"x")]]), Ok(None));
    assert_eq!(read(&[&[(SERIAL, OCTETS, b"12")]]), Err(IdentityError::SerialNumberNotText));
    let twice = Err(IdentityError::AmbiguousSerialNumber(2));
    assert_eq!(read(&[&[(SERIAL, UTF8, b"1")], &[(SERIAL, UTF8, b"1")]]), twice);
    assert_eq!(read(&[&[(SERIAL, UTF8, b"1"), (SERIAL, UTF8, b"2")]]), twice);
    assert_eq!(read(&[&[(SERIAL, UTF8, b"")], &[(SERIAL, UTF8, b"2")]]), twice);
}

#[test]
fn strings_that_are_not_what_their_type_says_are_refused() {
    for (tag, content) in [
        (UTF8, &b"\xff"[..]),
        (UTF8, b"\xed\xa0\x80"),
        (IA5, b"\xe4"),
        (BMP, b"abc"),
        (BMP, &[0xd8, 0x00]),
        (UNIVERSAL, &[0, 0, 0]),
        (UNIVERSAL, &[0, 0x11, 0, 0]),
        (PRINTABLE, "ä".as_bytes()),
    ] {
        for field in ["subject", "issuer"] {
            let wrong: &[&[Attribute<'_>]] = &[&[("2.5.4.10", tag, content)]];
            let mut certificate = Certificate::default();
            if field == "subject" {
                certificate.subject = wrong
            } else {
                certificate.issuer = wrong
            }
            let error = ClientIdentity::from_chain(&[certificate.der()]).unwrap_err();
            let name = matches!(error, IdentityError::BadString { .. } | IdentityError::Malformed(_));
            assert!(name, "{tag:#x} {content:?}: {error}");
        }
    }
}
