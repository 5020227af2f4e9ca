//! What the end-to-end tests are made of.
//!
//! [`origin`] is a TLS server that misbehaves on demand, [`harness`] starts the appliance and its surroundings,
//! [`http`] and [`pattern`] are shared by both sides. The tests themselves are modules of the `e2e` binary. Nothing here
//! links the appliance: it is only ever run as the binary that is installed.

pub mod harness;
pub mod http;
pub mod origin;
pub mod pattern;
