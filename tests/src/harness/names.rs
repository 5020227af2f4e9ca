//! What the appliance calls things: the only place to change when it calls them otherwise.

/// Events of the log.
pub mod event {
    /// The daemon serves.
    pub const READY: &str = "ready";
    /// A TLS handshake with a caller failed.
    pub const HANDSHAKE_FAILED: &str = "handshake_failed";
    /// A connection was turned away before its handshake.
    pub const CONNECTION_REFUSED: &str = "connection_refused";
    /// A request was answered: the access log.
    pub const REQUEST: &str = "request";
    /// A reload ended, well or not.
    pub const RELOAD: &str = "reload";
    /// The daemon began to drain.
    pub const DRAIN: &str = "drain";
    /// A process that wanted to take over did not.
    pub const HAND_OVER_FAILED: &str = "hand_over_failed";
    /// The daemon's last line.
    pub const STOPPED: &str = "stopped";
}

/// Counters of `status --json`.
pub mod counter {
    /// Handshakes that failed are counted by reason, under names that begin so.
    pub const HANDSHAKE_FAILURES: &str = "handshake_";
    /// TLS handshakes with callers that succeeded.
    pub const HANDSHAKES: &str = "handshakes_completed";
    /// Requests forwarded.
    pub const REQUESTS: &str = "requests";
    /// Connections opened to the origin.
    pub const ORIGIN_CONNECTIONS: &str = "origin_connections";
    /// Bytes moved by splice.
    pub const BYTES_SPLICED: &str = "bytes_spliced";
}

/// Take-overs that failed are counted by reason, under names that begin so.
pub const HAND_OVER_FAILURES: &str = "hand_over_failed";

/// The guard's reason for dropping what comes from a source that no organisation owns.
pub const UNREGISTERED_SOURCE: &str = "unregistered_source";

/// Fields of the `mydata` preset.
pub mod mydata {
    /// Subject, RFC 2253.
    pub const DN: &str = "X-MyData-Client-DN";
    /// Subject serialNumber.
    pub const SERIAL_NUMBER: &str = "X-MyData-Client-SerialNumber";
    /// The certificate's serial number, hex.
    pub const CERT_SERIAL: &str = "X-MyData-Client-Cert-Serial";
    /// SHA-256 of the certificate, hex.
    pub const FINGERPRINT: &str = "X-MyData-Client-Fingerprint";
    /// Start of validity.
    pub const NOT_BEFORE: &str = "X-MyData-Client-Not-Before";
    /// End of validity.
    pub const NOT_AFTER: &str = "X-MyData-Client-Not-After";
    /// Organisation code.
    pub const ORG_CODE: &str = "X-MyData-Client-Org-Code";
    /// Organisation name.
    pub const ORG_NAME: &str = "X-MyData-Client-Org-Name";

    /// All of them.
    pub const ALL: [&str; 8] = [DN, SERIAL_NUMBER, CERT_SERIAL, FINGERPRINT, NOT_BEFORE, NOT_AFTER, ORG_CODE, ORG_NAME];
}

/// `data_path` on an access-log line whose bodies moved by splice.
pub const SPLICED: &str = "spliced";

/// Exit code for a mistake in the configuration.
pub const EXIT_CONFIGURATION: i32 = 2;
/// Exit code for what the machine lacks or refuses.
pub const EXIT_ENVIRONMENT: i32 = 1;
