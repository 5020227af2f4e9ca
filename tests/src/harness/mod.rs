//! Starts the appliance and what it stands between, and takes everything down again.
//!
//! A test gets a [`Lab`]: a folder of its own, the development PKI, and the ways to start an [`Appliance`], an
//! [`Origin`], [`curl`](Curl), [`openssl`](openssl::s_client), raw [`Client`]s and network [`Net`]s. Whatever is
//! started ends with the value that stands for it. Every wait has a deadline. What the appliance calls things (events,
//! counters, header names) is written in [`names`] alone.

mod activation;
mod appliance;
mod client;
mod control;
mod curl;
mod deadline;
mod dns;
mod features;
mod flood;
mod foreign;
mod granted;
mod incoming;
mod lab;
mod machine;
pub mod names;
mod network;
pub mod openssl;
mod origin;
mod process;
mod raw_tls;
mod resources;
mod settings;
mod tap;
mod tls_stat;

pub use activation::{Passed, run_as_service_manager};
pub use appliance::Appliance;
pub use client::{Client, ClientTls, Refusal, Response, half_a_handshake, refusal, tcp};
pub use control::{Between, ControlPeer};
pub use curl::{Curl, CurlAnswer};
pub use deadline::{Deadline, wait_until};
pub use dns::NameServer;
pub use features::{Feature, Skip, emulated};
pub use flood::Flood;
pub use foreign::{FOREIGN, attach_foreign};
pub use granted::{Granted, run_with_capabilities};
pub use incoming::Incoming;
pub use lab::{Lab, clean_up, tool};
pub use machine::Machine;
pub use network::{BpfFs, Link, Namespace, Net, Place};
pub use origin::{Origin, OriginKind, run_as_origin};
pub use process::{Finished, Process};
pub use raw_tls::{ALERT, Cipher, DATA, HANDSHAKE, RECORD, RawClient, RawReader, RawServer, RawWriter};
pub use resources::{Resources, need_descriptors, resident_kib};
pub use settings::Settings;
pub use tap::Tap;
pub use tls_stat::TlsStat;
