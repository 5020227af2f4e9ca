use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

/// A folder of its own for each test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dev-pki-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn certificates(pem: &str) -> Vec<Vec<u8>> {
    x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()).map(|p| p.unwrap().contents).collect()
}

#[test]
fn a_callers_file_holds_the_leaf_and_its_intermediate_but_not_the_root() {
    let scratch = Scratch::new("chain");
    generate(&scratch.0).unwrap();
    let chain = certificates(&scratch.read("client-p256.pem"));
    let root = certificates(&scratch.read("client-ca.pem"));
    assert_eq!((chain.len(), root.len()), (2, 1));
    let parse = |der: &'static [u8]| X509Certificate::from_der(der).unwrap().1;
    let leaf = parse(chain[0].clone().leak());
    let intermediate = parse(chain[1].clone().leak());
    let root = parse(root[0].clone().leak());
    assert_eq!(leaf.issuer(), intermediate.subject());
    assert_eq!(intermediate.issuer(), root.subject());
    assert!(!leaf.is_ca() && intermediate.is_ca() && root.is_ca());
}

#[test]
fn the_subject_serial_number_is_a_printable_string_after_the_common_name() {
    let scratch = Scratch::new("subject");
    generate(&scratch.0).unwrap();
    let chain = certificates(&scratch.read("client-korean.pem"));
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let last = leaf.subject().iter_attributes().last().unwrap();
    assert_eq!(last.attr_type().to_id_string(), "2.5.4.5");
    assert_eq!(last.attr_value().header.tag(), x509_parser::der_parser::asn1_rs::Tag::PrintableString);
    assert_eq!(last.as_str().unwrap(), "345-67-89012");
    let organisation = leaf.subject().iter_organization().next().unwrap();
    assert_eq!(organisation.as_str().unwrap(), "가나다은행");
}

#[test]
fn the_expired_caller_is_expired_and_the_server_auth_only_caller_lacks_client_auth() {
    let scratch = Scratch::new("wrong");
    generate(&scratch.0).unwrap();
    let expired = certificates(&scratch.read("client-expired.pem"));
    let (_, expired) = X509Certificate::from_der(&expired[0]).unwrap();
    assert!(!expired.validity().is_valid());
    let other = certificates(&scratch.read("client-server-auth-only.pem"));
    let (_, other) = X509Certificate::from_der(&other[0]).unwrap();
    let usage = other.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
}

#[test]
fn keys_can_be_read_by_their_owner_alone() {
    let scratch = Scratch::new("mode");
    generate(&scratch.0).unwrap();
    for name in ["edge.key", "client-ca.key", "client-rsa.key"] {
        assert_eq!(fs::metadata(scratch.0.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_second_run_keeps_the_files_until_they_are_stale() {
    let scratch = Scratch::new("stale");
    let now = OffsetDateTime::now_utc();
    generate_at(&scratch.0, PKI, now).unwrap();
    let first = scratch.read("edge.pem");
    generate_at(&scratch.0, PKI, now + Duration::days(300)).unwrap();
    assert_eq!(scratch.read("edge.pem"), first, "still valid for three months");

    generate_at(&scratch.0, PKI, now + Duration::days(391)).unwrap();
    let renewed = scratch.read("edge.pem");
    assert_ne!(renewed, first, "six days before the end");

    fs::remove_file(scratch.0.join("client-rsa.key")).unwrap();
    generate_at(&scratch.0, PKI, now + Duration::days(392)).unwrap();
    assert_ne!(scratch.read("edge.pem"), renewed, "a file was missing");
}

#[test]
fn a_changed_description_regenerates() {
    let scratch = Scratch::new("changed");
    let now = OffsetDateTime::now_utc();
    generate_at(&scratch.0, PKI, now).unwrap();
    let first = scratch.read("edge.pem");
    generate_at(&scratch.0, &format!("{PKI}\n# another line\n"), now).unwrap();
    assert_ne!(scratch.read("edge.pem"), first);
}

#[test]
fn mistakes_in_a_description_are_named() {
    let scratch = Scratch::new("mistakes");
    let mistake = |from: &str, to: &str| {
        let text = PKI.replacen(from, to, 1);
        assert_ne!(text, PKI);
        format!("{:#}", generate_at(&scratch.0, &text, OffsetDateTime::now_utc()).unwrap_err())
    };
    assert!(mistake("issuer = \"edge-ca\"", "issuer = \"edge-caa\"").contains("issuer = \"edge-caa\""));
    assert!(mistake("name = \"edge-next\"", "name = \"edge\"").contains("two entries are named edge"));
    assert!(mistake("name = \"edge\"", "name = \"../edge\"").contains("\"../edge\""));
    assert!(mistake("valid = [-1, 397]", "valid = [397, -1]").contains("[397, -1]"));
    assert!(mistake("123-45-67890", "123_45@67890").contains("PrintableString"));
}

#[test]
fn a_certificate_is_issued_once_more_with_another_end() {
    let scratch = Scratch::new("until");
    generate(&scratch.0).unwrap();
    let end = SystemTime::now() + std::time::Duration::from_secs(60);
    issue_until(&scratch.0, "client-p256", "short", end).unwrap();
    let (like, short) = (certificates(&scratch.read("client-p256.pem")), certificates(&scratch.read("short.pem")));
    assert_eq!(short[1], like[1], "the same authority");
    let (_, like) = X509Certificate::from_der(&like[0]).unwrap();
    let (_, authority) = X509Certificate::from_der(&short[1]).unwrap();
    let (_, leaf) = X509Certificate::from_der(&short[0]).unwrap();
    assert_eq!(leaf.subject(), like.subject());
    assert_eq!(leaf.validity().not_after.timestamp(), OffsetDateTime::from(end).unix_timestamp());
    leaf.verify_signature(Some(authority.public_key())).unwrap();
    let error = issue_until(&scratch.0, "nobody", "short", end).unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}
