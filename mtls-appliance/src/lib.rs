//! The appliance as a library, so that tests and tools drive the same code as the binary.
//!
//! The way of a connection: [`guard`] lets it in at the NIC, [`tls`] performs the handshake, [`identity`] and
//! [`registry`] say who it is, [`ktls`] hands the session to the kernel, [`http1`] decides about each head, and
//! [`proxy`] is the shell that does the I/O. See ARCHITECTURE.md.

pub mod app;
pub mod cli;
pub mod config;
pub mod control;
mod daemon;
pub mod guard;
mod host;
pub mod http1;
pub mod identity;
pub mod ktls;
mod listeners;
mod live;
mod privileges;
pub mod proxy;
pub mod registry;
pub mod telemetry;
pub mod tls;
