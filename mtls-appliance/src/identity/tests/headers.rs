//! What the origin is told, and that nothing a caller controls can break out of a line.

use super::certificates::{Attribute, Certificate, PRINTABLE, UTF8};
use crate::identity::{
    BLOCK_LIMIT, BlockError, ClientIdentity, Connection, Encoding, Facts, HeaderTemplate, PRESETS, TemplateError,
    VARIABLES, header_block,
};
use crate::registry::Organisation;

fn organisation(name: &str) -> Organisation {
    Organisation {
        codes: vec!["A1AAAA0000".into(), "B1AAAA0000".into()],
        name: name.into(),
        serial_numbers: vec!["123-45-67890".into()],
        sources: Vec::new(),
    }
}

fn connection() -> Connection {
    Connection::new(
        "10.77.2.9:40000".parse().unwrap(),
        "10.0.0.1:8443".parse().unwrap(),
        rustls::ProtocolVersion::TLSv1_3,
        rustls::CipherSuite::TLS13_AES_256_GCM_SHA384,
        Some("api.bank.example"),
    )
}

fn preset(name: &str) -> Vec<HeaderTemplate> {
    PRESETS.iter().find(|preset| preset.name == name).unwrap().templates().unwrap()
}

/// One field's line for a common name and an organisation name.
fn field(value: &str, encoding: Encoding, common_name: &[u8], organisation_name: &str) -> Result<String, BlockError> {
    let subject: &[&[Attribute<'_>]] = &[&[("2.5.4.3", UTF8, common_name)]];
    let client = ClientIdentity::from_chain(&[Certificate { subject, ..Certificate::default() }.der()]).unwrap();
    let template = HeaderTemplate::parse("X-T", value, encoding).unwrap();
    let (organisation, connection) = (organisation(organisation_name), connection());
    let facts = Facts { client: &client, organisation: &organisation, connection: &connection };
    header_block(&[template], false, facts).map(|block| String::from_utf8(block).unwrap())
}

#[test]
fn the_mydata_preset_tells_who_called() {
    let subject: &[&[Attribute<'_>]] = &[
        &[("2.5.4.6", PRINTABLE, b"KR")],
        &[("2.5.4.10", UTF8, "한빛".as_bytes())],
        &[("2.5.4.5", PRINTABLE, b"123-45-67890")],
    ];
    let client = ClientIdentity::from_chain(&[Certificate { subject, ..Certificate::default() }.der()]).unwrap();
    let (organisation, connection) = (organisation("한빛 100%"), connection());
    let facts = Facts { client: &client, organisation: &organisation, connection: &connection };
    let block = String::from_utf8(header_block(&preset("mydata"), true, facts).unwrap()).unwrap();
    let expected = format!(
        "X-MyData-Client-Verify: SUCCESS\r\n\
         X-MyData-Client-DN: serialNumber=123-45-67890,O=%ED%95%9C%EB%B9%9B,C=KR\r\n\
         X-MyData-Client-SerialNumber: 123-45-67890\r\n\
         X-MyData-Client-Cert-Serial: 0A1B\r\n\
         X-MyData-Client-Fingerprint: {}\r\n\
         X-MyData-Client-Not-Before: 2026-01-02T03:04:05Z\r\n\
         X-MyData-Client-Not-After: 2051-01-02T03:04:05Z\r\n\
         X-MyData-Client-Org-Code: A1AAAA0000,B1AAAA0000\r\n\
         X-MyData-Client-Org-Name: %ED%95%9C%EB%B9%9B 100%25\r\n\
         X-Forwarded-For: 10.77.2.9\r\n",
        client.fingerprint_hex()
    );
    assert_eq!(block, expected);
}

#[test]
fn the_rfc_9440_preset_sends_the_chain_only_where_there_is_one() {
    use base64::Engine;
    let encode = |der: &[u8]| base64::engine::general_purpose::STANDARD.encode(der);
    let leaf = Certificate::default().der();
    let (second, third) = (
        Certificate { serial: &[2], ..Certificate::default() }.der(),
        Certificate { serial: &[3], ..Certificate::default() }.der(),
    );
    let (organisation, connection) = (organisation("o"), connection());
    let block = |chain: &[_]| {
        let client = ClientIdentity::from_chain(chain).unwrap();
        let facts = Facts { client: &client, organisation: &organisation, connection: &connection };
        String::from_utf8(header_block(&preset("rfc9440"), false, facts).unwrap()).unwrap()
    };
    assert_eq!(block(std::slice::from_ref(&leaf)), format!("Client-Cert: :{}:\r\n", encode(&leaf)));
    let expected = format!(
        "Client-Cert: :{}:\r\nClient-Cert-Chain: :{}:, :{}:\r\n",
        encode(&leaf),
        encode(&second),
        encode(&third)
    );
    assert_eq!(block(&[leaf, second, third]), expected);
}

#[test]
fn every_variable_has_a_value_and_plain_ones_are_printable_ascii_without_spaces_at_the_ends() {
    let chain = [Certificate::default().der(), Certificate { serial: &[2], ..Certificate::default() }.der()];
    let client = ClientIdentity::from_chain(&chain).unwrap();
    let (organisation, connection) = (organisation("o"), connection());
    let facts = Facts { client: &client, organisation: &organisation, connection: &connection };
    for variable in VARIABLES {
        let value = (variable.value)(facts);
        assert!(!value.is_empty(), "{variable:?}");
        assert!(!variable.plain || value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{variable:?}");
        assert_eq!(value.trim(), value, "{variable:?}");
    }
}

#[test]
fn values_are_encoded_as_configured() {
    let cn = "${subject.cn}";
    for (value, encoding, common_name, expected) in [
        (cn, Encoding::Percent, "a b%c", "X-T: a b%25c\r\n"),
        (cn, Encoding::Percent, " a ", "X-T: %20a%20\r\n"),
        (cn, Encoding::Percent, " ", "X-T: %20\r\n"),
        (cn, Encoding::Percent, "é\u{7f}\t", "X-T: %C3%A9%7F%09\r\n"),
        (cn, Encoding::Utf8, " 한빛 ", "X-T: 한빛\r\n"),
        (cn, Encoding::Base64, "한빛", "X-T: 7ZWc67mb\r\n"),
        (cn, Encoding::Base64, "a\r\nb", "X-T: YQ0KYg==\r\n"),
        ("$$${subject.cn}$${x} 5%", Encoding::Percent, "a", "X-T: $a${x} 5%\r\n"),
        ("은행 ${subject.cn}", Encoding::Utf8, "a", "X-T: 은행 a\r\n"),
        ("${tls.version} ${tls.cipher}", Encoding::Percent, "a", "X-T: TLSv1.3 TLS_AES_256_GCM_SHA384\r\n"),
        ("${client.address}:${client.port}", Encoding::Percent, "a", "X-T: 10.77.2.9:40000\r\n"),
        (cn, Encoding::Percent, "", ""),
        (cn, Encoding::Utf8, "  ", ""),
        (cn, Encoding::Base64, "", ""),
    ] {
        assert_eq!(
            field(value, encoding, common_name.as_bytes(), "o").as_deref(),
            Ok(expected),
            "{value} {common_name:?}"
        );
    }
}

#[test]
fn no_character_a_caller_chooses_breaks_out_of_its_line() {
    let mut refused = 0;
    for code in (0..0x300).chain(0x2000..0x2070).chain([0xfeff, 0xfffd, 0x1_f600]) {
        let Some(character) = char::from_u32(code) else { continue };
        for text in [format!("{character}"), format!("a{character}X-Admin: 1"), format!("{character}{character}")] {
            for encoding in [Encoding::Percent, Encoding::Utf8, Encoding::Base64] {
                for value in ["${subject.cn}", "${subject.dn}", "${org.name}", "x ${subject.cn} y"] {
                    match field(value, encoding, text.as_bytes(), &text) {
                        Ok(line) if line.is_empty() => assert!(text.trim().is_empty(), "{text:?}"),
                        Ok(line) => {
                            let value = line.strip_prefix("X-T: ").and_then(|line| line.strip_suffix("\r\n")).unwrap();
                            assert!(!value.chars().any(char::is_control), "{encoding:?} {text:?} {line:?}");
                            assert_eq!(value.trim_matches([' ', '\t']), value, "{encoding:?} {text:?}");
                            assert!(encoding == Encoding::Utf8 || value.is_ascii(), "{encoding:?} {text:?} {line:?}");
                        }
                        Err(error) => {
                            assert_eq!(error, BlockError::ControlCharacter("X-T".into()));
                            assert!(encoding == Encoding::Utf8 && character.is_control(), "{encoding:?} {text:?}");
                            refused += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn percent_encoding_can_be_undone() {
    let text: String = (0..0x250).filter_map(char::from_u32).chain("한%41😀".chars()).collect();
    let line = field("${subject.cn}", Encoding::Percent, text.as_bytes(), "o").unwrap();
    let mut bytes = line.strip_prefix("X-T: ").unwrap().trim_end_matches("\r\n").bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            decoded.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            decoded.push(byte);
        }
    }
    assert_eq!(String::from_utf8(decoded).unwrap(), text);
}

#[test]
fn a_block_that_origins_would_not_take_is_refused() {
    let name = vec![b'a'; BLOCK_LIMIT - 7];
    assert_eq!(field("${subject.cn}", Encoding::Utf8, &name[..15_000], "o").map(|line| line.len()), Ok(15_007));
    let template = HeaderTemplate::parse("X-T", "${chain.pem_urlencoded}", Encoding::Percent).unwrap();
    let long = vec![b'a'; 15_000];
    let subject: &[&[Attribute<'_>]] = &[&[("2.5.4.3", UTF8, &long)]];
    let client = ClientIdentity::from_chain(&[Certificate { subject, ..Certificate::default() }.der()]).unwrap();
    let (organisation, connection) = (organisation("o"), connection());
    let facts = Facts { client: &client, organisation: &organisation, connection: &connection };
    assert!(matches!(header_block(&[template], false, facts), Err(BlockError::TooLarge(size)) if size > BLOCK_LIMIT));
}

#[test]
fn templates_that_could_not_be_sent_are_refused() {
    let parse = |value: &str, encoding| HeaderTemplate::parse("X-T", value, encoding).map(|_| ()).unwrap_err();
    for (value, error) in [
        ("", TemplateError::Empty),
        ("a\r\nX-Admin: 1", TemplateError::Control('\r')),
        ("a\u{85}b", TemplateError::Control('\u{85}')),
        ("a\tb", TemplateError::Control('\t')),
        (" a", TemplateError::OuterSpace),
        ("a ", TemplateError::OuterSpace),
        ("5$", TemplateError::LoneDollar),
        ("$x", TemplateError::LoneDollar),
        ("${subject.dn", TemplateError::Unclosed),
        ("${}", TemplateError::UnknownVariable(String::new())),
        ("${Subject.DN}", TemplateError::UnknownVariable("Subject.DN".into())),
    ] {
        for encoding in [Encoding::Percent, Encoding::Utf8, Encoding::Base64] {
            assert_eq!(parse(value, encoding), error, "{value:?}");
            assert!(!error.remedy().is_empty());
        }
    }
    assert_eq!(parse("은행", Encoding::Percent), TemplateError::NotAscii('은'));
    assert_eq!(parse(&"a".repeat(1025), Encoding::Percent), TemplateError::TooLong);
    assert_eq!(TemplateError::UnknownVariable("Subject.DN".into()).remedy(), "did you mean ${subject.dn}?");
}
