//! What the origin saw, as counters for `/stats` and as JSON lines for the tests.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use rustls::ServerConnection;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::http::Head;

#[derive(Default)]
pub(super) struct Journal {
    state: Mutex<State>,
    /// A file that says, by being there, that the origin is sick.
    sick: Option<PathBuf>,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    connections: u64,
    requests: u64,
    malformed: u64,
    subjects: BTreeSet<String>,
}

impl Journal {
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let file = path
            .map(|path| {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                opened.with_context(|| format!("cannot write {}", path.display()))
            })
            .transpose()?;
        let sick = path.map(|path| path.with_extension(super::SICK));
        Ok(Self { state: Mutex::new(State { file, ..State::default() }), sick })
    }

    /// Whether the test has made the origin sick.
    pub(super) fn sick(&self) -> bool {
        self.sick.as_ref().is_some_and(|note| note.exists())
    }

    /// Counts a connection and gives it a number.
    pub(super) fn connection(&self, peer: SocketAddr, tls: &ServerConnection) -> u64 {
        let subject = tls.peer_certificates().and_then(|chain| chain.first()).map_or_else(String::new, |leaf| {
            X509Certificate::from_der(leaf).map_or_else(|e| e.to_string(), |(_, cert)| cert.subject().to_string())
        });
        let version = tls.protocol_version().map(|version| format!("{version:?}"));
        let cipher = tls.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
        let server_name = tls.server_name().map(str::to_owned);
        self.with(|state| {
            state.connections += 1;
            state.subjects.insert(subject.clone());
            let id = state.connections;
            state.line(&json!({
                "event": "connection", "connection": id, "peer": peer.to_string(), "client_subject": subject,
                "version": version, "cipher": cipher, "server_name": server_name,
            }));
            id
        })
    }

    pub(super) fn handshake_failed(&self, peer: SocketAddr, reason: &str) {
        self.with(|state| {
            state.line(&json!({"event": "handshake_failed", "peer": peer.to_string(), "reason": reason}));
        });
    }

    pub(super) fn request(&self, connection: u64, head: &Head) {
        self.with(|state| {
            state.requests += 1;
            let mut line = head_as_json(head, connection);
            line["event"] = "request".into();
            state.line(&line);
        });
    }

    /// The client sent what is not HTTP: never the fault of a test's caller, always the appliance's.
    pub(super) fn malformed(&self, connection: u64, reason: &str) {
        self.with(|state| {
            state.malformed += 1;
            state.line(&json!({"event": "malformed", "connection": connection, "reason": reason}));
        });
    }

    /// A body was consumed to its end.
    pub(super) fn body(&self, connection: u64, bytes: u64, sha256: &str, trailers: &[String]) {
        self.with(|state| {
            state.line(&json!({
                "event": "body", "connection": connection, "bytes": bytes, "sha256": sha256, "trailers": trailers,
            }));
        });
    }

    /// What came through a tunnel, and whether it ended properly, with close_notify.
    pub(super) fn tunnel(&self, connection: u64, bytes: u64, sha256: &str, proper: bool) {
        self.with(|state| {
            state.line(&json!({
                "event": "tunnel", "connection": connection, "bytes": bytes, "sha256": sha256, "proper": proper,
            }));
        });
    }

    /// An exchange could not be finished, for instance because the body ended early.
    pub(super) fn broken(&self, connection: u64, reason: &str) {
        self.with(|state| state.line(&json!({"event": "broken", "connection": connection, "reason": reason})));
    }

    pub(super) fn end(&self, connection: u64, reason: &str) {
        self.with(|state| state.line(&json!({"event": "end", "connection": connection, "reason": reason})));
    }

    pub(super) fn stats(&self) -> Value {
        self.with(|state| {
            json!({
                "connections": state.connections, "requests": state.requests, "malformed": state.malformed,
                "client_subjects": state.subjects,
            })
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn line(&mut self, value: &Value) {
        if let Some(file) = &mut self.file {
            // One write a line: readers never see half of one.
            let _ = file.write_all(format!("{value}\n").as_bytes());
        }
    }
}

/// The head in the form of `/headers`.
pub(super) fn head_as_json(head: &Head, connection: u64) -> Value {
    json!({"request_line": head.start, "headers": head.fields, "connection": connection})
}
