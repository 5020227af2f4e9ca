//! Certificates and keys from PEM files, with errors that name the setting, the file and the way out.
//!
//! Checks what can be known from the files alone: that they hold what they should, that the key is the certificate's,
//! and when the certificates are valid. Building rustls configurations from them is the rest of [`crate::tls`]'s.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
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
pub struct Setting<'a> {
    /// As in `tls.certificate`.
    pub key: &'a str,
    /// The file.
    pub path: &'a Path,
}

impl Setting<'_> {
    fn mistake(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Mistakes {
        Mistakes::about_file_of(self.key, self.path, problem, remedy)
    }
}

/// A certificate with its key, ready to be shown to a peer.
#[derive(Debug)]
pub struct Credentials {
    /// Chain and key; they match.
    pub certified_key: Arc<CertifiedKey>,
    /// End of the leaf's validity, Unix seconds.
    pub not_after: i64,
    /// What the operator should know.
    pub notes: Vec<Note>,
}

/// The certificates of CA bundles.
#[derive(Debug)]
pub struct Authorities {
    /// At least one; each once.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What the operator should know.
    pub notes: Vec<Note>,
}

/// Something that works but should not stay as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// As in `tls.certificate`.
    pub key: String,
    /// The file.
    pub file: PathBuf,
    /// What it is about.
    pub what: Remark,
}

/// What a [`Note`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// The certificate, counted from 1 within its file, ended so many days ago.
    Expired(usize, i64),
    /// The certificate, counted from 1 within its file, ends in so many days.
    ExpiresSoon(usize, i64),
    /// The certificate, counted from 1 within its file, begins in so many days.
    NotYetValid(usize, i64),
    /// Everybody on the machine may read or write the key; the file's mode.
    KeyOpenToOthers(u32),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: ", self.key, self.file.display())?;
        match self.what {
            Remark::Expired(at, days) => write!(f, "certificate {at} expired {} ago; renew it", Days(days)),
            Remark::ExpiresSoon(at, days) => write!(f, "certificate {at} expires in {}; renew it", Days(days)),
            Remark::NotYetValid(at, days) => {
                write!(f, "certificate {at} begins to be valid in {}; check the clock and the file", Days(days))
            }
            Remark::KeyOpenToOthers(mode) => {
                write!(f, "everybody on this machine can use the key (mode {mode:04o}); chmod o-rwx it")
            }
        }
    }
}

/// Whole days, in words.
struct Days(i64);

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("less than a day"),
            1 => f.write_str("1 day"),
            more => write!(f, "{more} days"),
        }
    }
}

/// Reads a certificate chain and its key, and checks that they belong together. Both files' mistakes are reported.
///
/// # Errors
/// When one of the files cannot be read or does not hold what it should, or when the key is not the first
/// certificate's.
pub fn load_credentials(certificate: Setting<'_>, key: Setting<'_>, now: SystemTime) -> Result<Credentials, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut keep = |error: Mistakes| mistakes.append(error);
    let chain = load_chain(certificate).map_err(&mut keep).ok();
    let signing_key = load_key(key).and_then(|(der, note)| Ok((signing_key(key, &der)?, note))).map_err(&mut keep).ok();
    let (Some(chain), Some((signing_key, note))) = (chain, signing_key) else {
        return Err(mistakes);
    };
    check_pair(certificate, key, &chain, &*signing_key)?;
    let mut notes: Vec<Note> = note.into_iter().collect();
    let mut not_after = 0;
    for (at, der) in chain.iter().enumerate() {
        let parsed = parse(certificate, at, der)?;
        notes.extend(validity_note(certificate, at, &parsed, now));
        if at == 0 {
            not_after = parsed.validity().not_after.timestamp();
        }
    }
    Ok(Credentials { certified_key: Arc::new(CertifiedKey::new(chain, signing_key)), not_after, notes })
}

/// Reads a chain to be sent, leaf first.
///
/// # Errors
/// When the file cannot be read, holds no certificate, too many, or one that is not valid X.509.
pub fn load_chain(setting: Setting<'_>) -> Result<Vec<CertificateDer<'static>>, Mistakes> {
    let bytes = read(setting, FILE_LIMIT)?.0;
    let chain = certificates(setting, &bytes)?;
    if chain.len() > CHAIN_LIMIT {
        let problem = format!("{} certificates; at most {CHAIN_LIMIT} are sent", chain.len());
        return Err(setting.mistake(problem, "keep the appliance's certificate and its intermediates, in this order"));
    }
    Ok(chain)
}

/// Reads a private key.
///
/// # Errors
/// When the file cannot be read or does not hold exactly one unencrypted key.
pub fn load_key(setting: Setting<'_>) -> Result<(PrivateKeyDer<'static>, Option<Note>), Mistakes> {
    let (bytes, mode) = read(setting, FILE_LIMIT)?;
    let mut keys = Vec::new();
    for key in PrivateKeyDer::pem_slice_iter(&bytes) {
        keys.push(key.map_err(|error| bad_pem(setting, &error))?);
    }
    let note = (mode & 0o007 != 0).then(|| Note {
        key: setting.key.to_owned(),
        file: setting.path.to_owned(),
        what: Remark::KeyOpenToOthers(mode & 0o7777),
    });
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok((key, note)),
        (Some(_), more) => {
            Err(setting.mistake(format!("{} private keys", more + 1), "keep the one that belongs to the certificate"))
        }
        (None, _) => Err(no_key(setting, &bytes)),
    }
}

/// Reads CA bundles; the mistakes of all files are reported.
///
/// # Errors
/// When a file cannot be read, holds no certificate, or one that is not valid X.509.
pub fn load_authorities(key: &str, paths: &[PathBuf], now: SystemTime) -> Result<Authorities, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut all: Vec<CertificateDer<'static>> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut notes = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let name = format!("{key}[{index}]");
        let setting = Setting { key: &name, path };
        match read(setting, BUNDLE_LIMIT).and_then(|(bytes, _)| certificates(setting, &bytes)) {
            Ok(certificates) => {
                for (at, certificate) in certificates.into_iter().enumerate() {
                    notes.extend(validity_note(setting, at, &parse(setting, at, &certificate)?, now));
                    if seen.insert(certificate.clone()) {
                        all.push(certificate);
                    }
                }
            }
            Err(error) => mistakes.append(error),
        }
    }
    if mistakes.is_empty() { Ok(Authorities { certificates: all, notes }) } else { Err(mistakes) }
}

/// A file's content and mode. The memory is wiped after use: it may hold a key.
fn read(setting: Setting<'_>, limit: u64) -> Result<(Zeroizing<Vec<u8>>, u32), Mistakes> {
    let unreadable = |error: std::io::Error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                "let the appliance's user read the file, which root too needs: its power to read any file is given up"
            }
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

fn validity_note(setting: Setting<'_>, at: usize, certificate: &X509Certificate<'_>, now: SystemTime) -> Option<Note> {
    let now = now.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok())?;
    let (begin, end) = (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
    let number = at + 1;
    let what = if now > end {
        Remark::Expired(number, (now - end) / DAY)
    } else if now < begin {
        Remark::NotYetValid(number, (begin - now) / DAY)
    } else if end - now < SOON {
        Remark::ExpiresSoon(number, (end - now) / DAY)
    } else {
        return None;
    };
    Some(Note { key: setting.key.to_owned(), file: setting.path.to_owned(), what })
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

    fn load(certificate: &Path, key: &Path, now: SystemTime) -> Result<Credentials, Mistakes> {
        load_credentials(
            Setting { key: "tls.certificate", path: certificate },
            Setting { key: "tls.key", path: key },
            now,
        )
    }

    #[test]
    fn a_certificate_and_its_key_are_loaded_without_a_note() {
        let folder = Folder::new("good");
        let (certificate, key) = pair();
        let certificate = folder.write("c.pem", format!("subject=a comment\n{certificate}"));
        let credentials = load(&certificate, &folder.write("k.pem", key), year(2027)).unwrap();
        assert_eq!(credentials.notes, []);
        assert_eq!(UNIX_EPOCH + Duration::from_secs(u64::try_from(credentials.not_after).unwrap()), year(2030));
        assert!(credentials.certified_key.keys_match().is_ok());
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
    fn validity_and_open_keys_are_noted() {
        let folder = Folder::new("notes");
        let (certificate, key) = pair();
        let certificate = folder.write("c.pem", certificate);
        let key = folder.write("k.pem", key);
        let remarks = |now| -> Vec<Remark> {
            load(&certificate, &key, now).unwrap().notes.into_iter().map(|note| note.what).collect()
        };
        assert_eq!(remarks(year(2031)), [Remark::Expired(1, 365)]);
        assert_eq!(remarks(year(2025)), [Remark::NotYetValid(1, 365)]);
        assert_eq!(remarks(year(2030) - Duration::from_secs(86_400 * 3)), [Remark::ExpiresSoon(1, 3)]);
        std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(remarks(year(2027)), [Remark::KeyOpenToOthers(0o644)]);
        let expired = load(&certificate, &key, year(2030) + Duration::from_secs(60)).unwrap();
        let text = expired.notes.last().unwrap().to_string();
        assert!(text.ends_with("certificate 1 expired less than a day ago; renew it"), "{text}");
        let text = load(&certificate, &key, year(2027)).unwrap().notes[0].to_string();
        assert!(text.contains("tls.key") && text.contains("0644") && text.contains("chmod"), "{text}");
        std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(remarks(year(2027)), []);
    }

    #[test]
    fn bundles_are_joined_each_certificate_kept_once_and_all_mistakes_told() {
        let folder = Folder::new("bundle");
        let ((one, _), (two, key)) = (pair(), pair());
        let first = folder.write("1.pem", format!("{one}{two}"));
        let second = folder.write("2.pem", &two);
        let bundle = load_authorities("tls.client_ca", &[first.clone(), second.clone()], year(2031)).unwrap();
        assert_eq!(bundle.certificates.len(), 2);
        assert_eq!(bundle.notes.len(), 3);
        assert_eq!(bundle.notes[2].key, "tls.client_ca[1]");
        let (empty, wrong) = (folder.write("3.pem", ""), folder.write("4.pem", key));
        let report = load_authorities("tls.client_ca", &[first, empty, wrong], year(2027)).unwrap_err().to_string();
        assert!(report.contains("tls.client_ca[1]: the file is empty"), "{report}");
        assert!(report.contains("tls.client_ca[2]: a private key, but no certificate"), "{report}");
    }
}
