//! rustls configurations, verifiers and files.
