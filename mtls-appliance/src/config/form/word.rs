//! Choices between a few words.

use super::Words;
use crate::config::{AttachMode, ClientEku, GuardMode, OffloadMode, PoolMode, TlsVersion};

/// TLS versions.
pub(in crate::config) const VERSIONS: Words<TlsVersion> =
    Words(&[("1.3", TlsVersion::V1_3, "RFC 8446"), ("1.2", TlsVersion::V1_2, "RFC 5246, and 1.3")]);

/// `tls.client_eku`.
pub(in crate::config) const EKU: Words<ClientEku> = Words(&[
    ("client-auth", ClientEku::ClientAuth, "clientAuth, or no such extension"),
    ("server-auth-too", ClientEku::ServerAuthToo, "certificates for serverAuth alone as well"),
]);

/// `origin.verify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum VerifyWord {
    Ca,
    Pin,
    None,
}

/// `origin.verify`.
pub(in crate::config) const VERIFY: Words<VerifyWord> = Words(&[
    ("ca", VerifyWord::Ca, "by `ca` and `server_name`"),
    ("pin", VerifyWord::Pin, "by `pins` alone"),
    ("none", VerifyWord::None, "not at all; warned about at every start"),
]);

/// `offload.mode`.
pub(in crate::config) const OFFLOAD: Words<OffloadMode> = Words(&[
    ("auto", OffloadMode::Auto, "where the kernel can"),
    ("required", OffloadMode::Required, "or no start"),
    ("off", OffloadMode::Off, "never"),
]);

/// `guard.mode`.
pub(in crate::config) const GUARD: Words<GuardMode> = Words(&[
    ("enforce", GuardMode::Enforce, "drops"),
    ("observe", GuardMode::Observe, "counts and logs what it would drop"),
    ("off", GuardMode::Off, "passes everything"),
]);

/// `guard.attach`.
pub(in crate::config) const ATTACH: Words<AttachMode> = Words(&[
    ("auto", AttachMode::Auto, "native, else generic, and said so"),
    ("native", AttachMode::Native, "in the driver, or no start"),
    ("generic", AttachMode::Generic, "in the network stack"),
]);

/// `origin.pool`.
pub(in crate::config) const POOL: Words<PoolMode> = Words(&[
    ("per-identity", PoolMode::PerIdentity, "the client identity that it was opened for"),
    ("shared", PoolMode::Shared, "every client; warned about at every start"),
    ("off", PoolMode::Off, "nobody: a connection for each request"),
]);
