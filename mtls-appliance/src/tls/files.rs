//! Certificates and keys from PEM files, with errors that name the setting, the file and the way out.
//!
//! Checks what can be known from the files alone: that they hold what they should, that the key is the certificate's,
//! and when the certificates are valid. Building rustls configurations from them is the rest of [`crate::tls`]'s.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::config::Mistakes;

/// Largest file with a chain or key, in bytes.
const FILE_LIMIT: u64 = 1 << 20;
/// Largest CA bundle, in bytes.
const BUNDLE_LIMIT: u64 = 16 << 20;
/// Most certificates in a chain that is sent.
const CHAIN_LIMIT: usize = 10;
/// Seconds before its end when a certificate is said to expire soon.
const SOON: i64 = 30 * DAY;
const DAY: i64 = 86_400;

/// A configuration key and the file that it names.
#[derive(Debug, Clone, Copy)]
struct Setting<'a> {
    key: &'a str,
    path: &'a Path,
}

impl Setting<'_> {
    fn mistake(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Mistakes {
        Mistakes::about_file_of(self.key, self.path, problem, remedy)
    }

    fn warning(&self, what: impl fmt::Display) -> String {
        format!("{} = {}: {what}", self.key, self.path.display())
    }
}

/// A certificate chain and its key; they match.
#[derive(Debug)]
pub struct Pair {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

/// Reads a certificate chain and its key, and checks that they belong together. Each file is given with the
/// configuration key that names it; both files' mistakes are reported. What works but should not stay as it is, such as
/// a certificate that expires soon, is added to `warnings`.
///
/// # Errors
/// When one of the files cannot be read or does not hold what it should, or when the key is not the first
/// certificate's.
pub fn load_pair(certificate: (&str, &Path), key: (&str, &Path), warnings: &mut Vec<String>) -> Result<Pair, Mistakes> {
    load_pair_at(SystemTime::now(), certificate, key, warnings)
}

fn load_pair_at(
    now: SystemTime,
    (certificate_key, certificate_path): (&str, &Path),
    (key_key, key_path): (&str, &Path),
    warnings: &mut Vec<String>,
) -> Result<Pair, Mistakes> {
    let certificate = Setting { key: certificate_key, path: certificate_path };
    let key_setting = Setting { key: key_key, path: key_path };
    let mut mistakes = Mistakes::default();
    let chain = load_chain(certificate).map_err(|error| mistakes.append(error)).ok();
    let key = load_key(key_setting, warnings)
        .and_then(|key| Ok((signing_key(key_setting, &key)?, key)))
        .map_err(|error| mistakes.append(error))
        .ok();
    let (Some(chain), Some((signing_key, key))) = (chain, key) else {
        return Err(mistakes);
    };
    check_pair(certificate, key_setting, &chain, &*signing_key)?;
    for (at, der) in chain.iter().enumerate() {
        warnings.extend(validity_warning(certificate, at, &parse(certificate, at, der)?, now));
    }
    Ok(Pair { chain, key })
}

/// Reads CA bundles; the mistakes of all files are reported. `key` is the list that names them.
///
/// # Errors
/// When a file cannot be read, holds no certificate, or one that cannot be a trust anchor.
pub fn load_roots(key: &str, paths: &[PathBuf]) -> Result<RootCertStore, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut roots = RootCertStore::empty();
    let mut seen = HashSet::new();
    for (index, path) in paths.iter().enumerate() {
        let name = format!("{key}[{index}]");
        let setting = Setting { key: &name, path };
        let bundle = match read(setting, BUNDLE_LIMIT).and_then(|(bytes, _)| certificates(setting, &bytes)) {
            Ok(bundle) => bundle,
            Err(error) => {
                mistakes.append(error);
                continue;
            }
        };
        for (at, certificate) in bundle.into_iter().enumerate() {
            if !seen.insert(certificate.clone()) {
                continue;
            }
            if let Err(error) = roots.add(certificate) {
                let problem = format!("certificate {} cannot be a trust anchor: {error}", at + 1);
                mistakes.append(setting.mistake(problem, "remove it from the bundle, or export it again"));
            }
        }
    }
    if mistakes.is_empty() { Ok(roots) } else { Err(mistakes) }
}

/// Reads a chain to be sent, leaf first.
fn load_chain(setting: Setting<'_>) -> Result<Vec<CertificateDer<'static>>, Mistakes> {
    let bytes = read(setting, FILE_LIMIT)?.0;
    let chain = certificates(setting, &bytes)?;
    if chain.len() > CHAIN_LIMIT {
        let problem = format!("{} certificates; at most {CHAIN_LIMIT} are sent", chain.len());
        return Err(setting.mistake(problem, "keep the appliance's certificate and its intermediates, in this order"));
    }
    Ok(chain)
}

/// Reads a private key: exactly one, not encrypted.
fn load_key(setting: Setting<'_>, warnings: &mut Vec<String>) -> Result<PrivateKeyDer<'static>, Mistakes> {
    let (bytes, mode) = read(setting, FILE_LIMIT)?;
    let mut keys = Vec::new();
    for key in PrivateKeyDer::pem_slice_iter(&bytes) {
        keys.push(key.map_err(|error| bad_pem(setting, &error))?);
    }
    if mode & 0o007 != 0 {
        let mode = mode & 0o7777;
        warnings.push(setting.warning(format_args!(
            "everybody on this machine can use the key (mode {mode:04o}); take the right away: chmod o-rwx"
        )));
    }
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok(key),
        (Some(_), more) => {
            Err(setting.mistake(format!("{} private keys", more + 1), "keep the one that belongs to the certificate"))
        }
        (None, _) => Err(no_key(setting, &bytes)),
    }
}

/// A file's content and mode. The memory is wiped after use: it may hold a key.
fn read(setting: Setting<'_>, limit: u64) -> Result<(Zeroizing<Vec<u8>>, u32), Mistakes> {
    let unreadable = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => "let the appliance's user read the file",
            _ => "check the path",
        };
        setting.mistake(format!("cannot be read: {error}"), remedy)
    };
    let file = File::open(setting.path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(setting.mistake("is a folder", "give the path of a PEM file"));
    }
    if metadata.len() > limit {
        let problem = format!("{} bytes; at most {limit} are read", metadata.len());
        return Err(setting.mistake(problem, "give the path of a PEM file"));
    }
    // Room for everything at once: growing would leave copies of a key behind.
    let capacity = usize::try_from(metadata.len()).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(limit).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok((bytes, metadata.permissions().mode()))
}

/// All certificates of a file; at least one, each valid X.509.
fn certificates(setting: Setting<'_>, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, Mistakes> {
    let mut certificates = Vec::new();
    for (at, certificate) in CertificateDer::pem_slice_iter(bytes).enumerate() {
        let certificate = certificate.map_err(|error| bad_pem(setting, &error))?;
        parse(setting, at, &certificate)?;
        certificates.push(certificate);
    }
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    Err(if bytes.is_empty() {
        setting.mistake("the file is empty", "put the PEM certificate there")
    } else if PrivateKeyDer::from_pem_slice(bytes).is_ok() {
        setting.mistake("a private key, but no certificate", "give the certificate's file; are the two swapped?")
    } else if looks_like_der(bytes) {
        let path = setting.path.display();
        setting.mistake(
            "not PEM; it looks like DER",
            format!("convert it: openssl x509 -inform DER -in {path} -out cert.pem"),
        )
    } else {
        setting.mistake("no certificate in this file", "give a PEM file with -----BEGIN CERTIFICATE-----")
    })
}

fn parse<'d>(setting: Setting<'_>, at: usize, der: &'d CertificateDer<'_>) -> Result<X509Certificate<'d>, Mistakes> {
    let not_valid = |why: String| {
        let problem = format!("certificate {} is not valid X.509: {why}", at + 1);
        setting.mistake(problem, "export the file again from its source")
    };
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(not_valid(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(not_valid(error.to_string())),
    }
}

/// Why a file has no usable key.
fn no_key(setting: Setting<'_>, bytes: &[u8]) -> Mistakes {
    let path = setting.path.display();
    let text = String::from_utf8_lossy(bytes);
    if bytes.is_empty() {
        setting.mistake("the file is empty", "put the PEM key there")
    } else if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
        let remedy =
            format!("store it without one, readable by the appliance only: openssl pkey -in {path} -out key.pem");
        setting.mistake("the key is encrypted with a passphrase", remedy)
    } else if CertificateDer::from_pem_slice(bytes).is_ok() {
        setting.mistake("a certificate, but no private key", "give the key's file; are the two swapped?")
    } else if looks_like_der(bytes) {
        let remedy = format!("convert it: openssl pkey -inform DER -in {path} -out key.pem");
        setting.mistake("not PEM; it looks like DER", remedy)
    } else {
        setting.mistake("no private key in this file", "give a PEM file with -----BEGIN PRIVATE KEY-----")
    }
}

/// A SEQUENCE with a length of two bytes, as certificates and keys are.
fn looks_like_der(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x30, 0x82]) || bytes.starts_with(&[0x30, 0x81])
}

/// What is wrong with the PEM, without repeating any of it: it may be a key.
fn bad_pem(setting: Setting<'_>, error: &pem::Error) -> Mistakes {
    let problem = match error {
        pem::Error::MissingSectionEnd { .. } => "the PEM has no -----END line",
        pem::Error::IllegalSectionStart { .. } => "a malformed -----BEGIN line",
        pem::Error::Base64Decode(_) => "the PEM is not valid Base64",
        _ => "not valid PEM",
    };
    setting.mistake(problem, "export the file again from its source")
}

fn signing_key(setting: Setting<'_>, der: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, Mistakes> {
    any_supported_type(der).map_err(|_| {
        let remedy = "use RSA of 2048 to 8192 bits, P-256, P-384, P-521 or Ed25519";
        setting.mistake("the key is damaged or of a kind that is not supported", remedy)
    })
}

/// Checks that the key is the first certificate's.
fn check_pair(
    certificate: Setting<'_>,
    key: Setting<'_>,
    chain: &[CertificateDer<'_>],
    signing_key: &dyn SigningKey,
) -> Result<(), Mistakes> {
    let Some(public) = signing_key.public_key() else {
        return Err(key.mistake("the key has no public half", "export the key again from its source"));
    };
    let mut fits = None;
    for (at, der) in chain.iter().enumerate() {
        if parse(certificate, at, der)?.public_key().raw == public.as_ref() {
            fits = Some(at);
            break;
        }
    }
    match fits {
        Some(0) => Ok(()),
        Some(at) => {
            let problem = format!("the certificate of {} is number {} in this file", key.key, at + 1);
            Err(certificate.mistake(problem, "put it first, its issuer next"))
        }
        None => {
            let problem = format!("not the key of {} = {}", certificate.key, certificate.path.display());
            let remedy = "give files that belong together; compare: openssl x509 -in CERT -noout -pubkey, \
                          openssl pkey -in KEY -pubout";
            Err(key.mistake(problem, remedy))
        }
    }
}

fn validity_warning(
    setting: Setting<'_>,
    at: usize,
    certificate: &X509Certificate<'_>,
    now: SystemTime,
) -> Option<String> {
    let now = now.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok())?;
    let (begin, end) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let number = at + 1;
    let what = if now > end {
        format!("certificate {number} expired {}; renew it", days(now - end, "ago"))
    } else if now < begin {
        format!("certificate {number} begins to be valid in {}; check the clock and the file", days(begin - now, ""))
    } else if end - now < SOON {
        format!("certificate {number} expires in {}; renew it", days(end - now, ""))
    } else {
        return None;
    };
    Some(setting.warning(what))
}

fn days(seconds: i64, after: &str) -> String {
    let text = match seconds / DAY {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        more => format!("{more} days"),
    };
    format!("{text} {after}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("mtls-appliance-files-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A self-signed certificate, valid from 2026 to 2030, and its key, PEM.
    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// Unix seconds of a January 1st.
    fn year(year: i32) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(rcgen::date_time_ymd(year, 1, 1).unix_timestamp()).unwrap())
    }

    fn load(certificate: &Path, key: &Path, now: SystemTime) -> Result<(Pair, Vec<String>), Mistakes> {
        let mut warnings = Vec::new();
        load_pair_at(now, ("tls.certificate", certificate), ("tls.key", key), &mut warnings)
            .map(|pair| (pair, warnings))
    }

    #[test]
    fn a_certificate_and_its_key_are_loaded_without_a_warning() {
        let folder = Folder::new("good");
        let (certificate, key) = pair();
        let certificate = folder.write("c.pem", format!("subject=a comment\n{certificate}"));
        let (pair, warnings) = load(&certificate, &folder.write("k.pem", key), year(2027)).unwrap();
        assert_eq!(warnings, [""; 0]);
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = rustls::sign::CertifiedKey::from_der(pair.chain, pair.key, &provider).unwrap();
        assert!(certified.keys_match().is_ok());
    }

    #[test]
    fn each_wrong_certificate_file_is_named_with_its_remedy() {
        let folder = Folder::new("certificate");
        let (certificate, key) = pair();
        let key_file = folder.write("k.pem", &key);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let (other, _) = pair();
        for (content, wanted) in [
            (Vec::new(), "the file is empty"),
            (key.clone().into_bytes(), "are the two swapped?"),
            (der.to_vec(), "openssl x509 -inform DER"),
            (b"hello".to_vec(), "no certificate in this file"),
            (certificate.replace("-----END CERTIFICATE-----", "").into_bytes(), "no -----END line"),
            (certificate.replace("\nMII", "\n*II").into_bytes(), "not valid Base64"),
            (
                b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(),
                "certificate 1 is not valid X.509",
            ),
            (format!("{other}{certificate}").into_bytes(), "the certificate of tls.key is number 2"),
            (certificate.repeat(11).into_bytes(), "11 certificates"),
        ] {
            let report = load(&folder.write("c.pem", &content), &key_file, year(2027)).unwrap_err().to_string();
            assert!(report.contains(wanted) && report.contains("tls.certificate: "), "{wanted}:\n{report}");
            assert!(report.contains("c.pem: 1 mistake"), "{report}");
        }
    }

    #[test]
    fn each_wrong_key_file_is_named_with_its_remedy_and_never_shown() {
        let folder = Folder::new("key");
        let (certificate, key) = pair();
        let certificate_file = folder.write("c.pem", &certificate);
        let (_, other) = pair();
        let secret = key.lines().nth(1).unwrap();
        for (content, wanted) in [
            (Vec::new(), "the file is empty"),
            (certificate.clone().into_bytes(), "are the two swapped?"),
            (KeyPair::from_pem(&key).unwrap().serialize_der(), "openssl pkey -inform DER"),
            (b"hello".to_vec(), "no private key in this file"),
            (key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY").into_bytes(), "encrypted with a passphrase"),
            (key.replace("\nM", "\n*M").into_bytes(), "not valid Base64"),
            (format!("{key}{other}").into_bytes(), "2 private keys"),
            (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec(), "damaged or of a kind"),
            (other.into_bytes(), "not the key of tls.certificate = "),
        ] {
            let report = load(&certificate_file, &folder.write("k.pem", &content), year(2027)).unwrap_err().to_string();
            assert!(report.contains(wanted) && report.contains("tls.key: "), "{wanted}:\n{report}");
            assert!(!report.contains(secret), "{report}");
        }
    }

    #[test]
    fn both_files_mistakes_are_reported_at_once() {
        let folder = Folder::new("both");
        let report = load(&folder.0.join("absent.pem"), &folder.0, year(2027)).unwrap_err().to_string();
        assert!(report.contains("tls.certificate: cannot be read: No such file"), "{report}");
        assert!(report.contains("tls.key: is a folder"), "{report}");
    }

    #[test]
    fn a_certificate_out_of_its_time_and_an_open_key_are_warned_about() {
        let folder = Folder::new("warnings");
        let (certificate, key) = pair();
        let certificate = folder.write("c.pem", certificate);
        let key = folder.write("k.pem", key);
        let warnings = |now| load(&certificate, &key, now).unwrap().1.join("; ");
        for (now, wanted) in [
            (year(2031), "certificate 1 expired 365 days ago"),
            (year(2030) + Duration::from_secs(60), "certificate 1 expired less than a day ago"),
            (year(2025), "certificate 1 begins to be valid in 365 days"),
            (year(2030) - Duration::from_secs(86_400 * 3), "certificate 1 expires in 3 days"),
            (year(2030) - Duration::from_secs(86_400), "certificate 1 expires in 1 day;"),
        ] {
            let warnings = warnings(now);
            assert!(warnings.starts_with("tls.certificate = ") && warnings.contains(wanted), "{warnings}");
        }
        std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let text = warnings(year(2027));
        assert!(text.starts_with("tls.key = ") && text.contains("0644") && text.contains("chmod"), "{text}");
        std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(warnings(year(2027)), "");
    }

    #[test]
    fn bundles_are_joined_each_certificate_kept_once_and_all_mistakes_told() {
        let folder = Folder::new("bundle");
        let ((one, _), (two, key)) = (pair(), pair());
        let first = folder.write("1.pem", format!("{one}{two}"));
        let second = folder.write("2.pem", &two);
        assert_eq!(load_roots("tls.client_ca", &[first.clone(), second]).unwrap().len(), 2);
        let (empty, wrong) = (folder.write("3.pem", ""), folder.write("4.pem", key));
        let report = load_roots("tls.client_ca", &[first, empty, wrong]).unwrap_err().to_string();
        assert!(report.contains("tls.client_ca[1]: the file is empty"), "{report}");
        assert!(report.contains("tls.client_ca[2]: a private key, but no certificate"), "{report}");
    }
}
