//! Chains that are not what they should be.

use rustls::pki_types::CertificateDer;

use super::certificates::{Certificate, UTF8};
use crate::identity::{ClientIdentity, IdentityError};

#[test]
fn facts_come_from_the_leaf_and_the_rest_is_kept_in_order() {
    let leaf = Certificate::default().der();
    let second = Certificate { serial: &[2], ..Certificate::default() }.der();
    let third = Certificate { serial: &[3], ..Certificate::default() }.der();
    let identity = ClientIdentity::from_chain(&[leaf.clone(), second.clone(), third.clone()]).unwrap();
    assert_eq!(identity.serial_number.as_deref(), Some("123-45-67890"));
    assert_eq!(identity.common_name.as_deref(), Some("client"));
    assert_eq!(identity.certificate(), leaf.as_ref());
    assert_eq!(identity.intermediates().collect::<Vec<_>>(), [second.as_ref(), third.as_ref()]);
    assert_eq!((identity.not_before, identity.not_after), (1_767_323_045, 2_556_241_445));
}

#[test]
fn an_empty_a_long_and_a_large_chain_are_refused() {
    let leaf = Certificate::default().der();
    assert_eq!(ClientIdentity::from_chain(&[]), Err(IdentityError::NoCertificate));
    assert_eq!(ClientIdentity::from_chain(&vec![leaf.clone(); 11]), Err(IdentityError::ChainTooLong(11)));
    let long = vec![b'a'; 16 * 1024];
    let large = Certificate { subject: &[&[("2.5.4.3", UTF8, &long)]], ..Certificate::default() }.der();
    assert_eq!(
        ClientIdentity::from_chain(&[leaf.clone(), large.clone()]),
        Err(IdentityError::CertificateTooLarge(large.len()))
    );
    let medium = vec![b'a'; 14 * 1024];
    let medium = Certificate { subject: &[&[("2.5.4.3", UTF8, &medium)]], ..Certificate::default() }.der();
    let error = ClientIdentity::from_chain(&vec![medium; 5]).unwrap_err();
    assert!(matches!(error, IdentityError::ChainTooLarge(_)), "{error}");
}

#[test]
fn bytes_that_are_no_certificate_are_refused_and_never_panic() {
    let leaf = Certificate::default().der();
    for end in 0..leaf.len() {
        assert!(ClientIdentity::from_chain(&[CertificateDer::from(&leaf[..end])]).is_err(), "{end}");
    }
    let trailing = CertificateDer::from([leaf.as_ref(), &[0][..]].concat());
    assert_eq!(ClientIdentity::from_chain(&[trailing]), Err(IdentityError::TrailingData(1)));
    for at in 0..leaf.len() {
        for bit in 0..8 {
            let mut bytes = leaf.to_vec();
            bytes[at] ^= 1 << bit;
            // Either way is right; whatever is read must be text without control characters where it is a name.
            if let Ok(identity) = ClientIdentity::from_chain(&[CertificateDer::from(bytes)]) {
                assert!(!identity.subject_dn.chars().any(|it| it.is_ascii_control()), "{identity:?}");
            }
        }
    }
}
