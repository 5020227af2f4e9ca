//! Certificates as tools make them: the development PKI.

use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::identity::ClientIdentity;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_development_callers_are_who_the_description_says() {
    let folder = Folder(std::env::temp_dir().join(format!("mtls-appliance-identity-{}", std::process::id())));
    dev_pki::generate(&folder.0).unwrap();
    let read = |name: &str| {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(folder.0.join(name)).unwrap().collect();
        ClientIdentity::from_chain(&chain.unwrap()).unwrap()
    };
    let korean = read("client-korean.pem");
    assert_eq!(korean.subject_dn, "serialNumber=345-67-89012,CN=api.ganada.test,O=가나다은행,C=KR");
    assert_eq!(korean.issuer_dn, "CN=Development Client Issuing CA,O=Development Client Trust,C=KR");
    assert_eq!(korean.serial_number.as_deref(), Some("345-67-89012"));
    assert_eq!(korean.intermediates().count(), 1);
    assert_eq!(read("client-rsa.pem").serial_number.as_deref(), Some("234-56-78901"));
    assert_eq!(read("client-no-serial-number.pem").serial_number, None);
    assert!(korean.not_before < korean.not_after);
}
