//! The registry of participants: organisations, the serial numbers of their certificates, the addresses they call from.
//!
//! Reads the operator's files and answers look-ups. Who is let in at the NIC is compiled from it by [`crate::guard`];
//! which certificate is presented is [`crate::identity`]'s.

use std::sync::Arc;

use ipnet::IpNet;

/// A participant. One certificate may stand for several organisation codes (one per industry).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organisation {
    /// 1 to 10 ASCII letters or digits each; at least one.
    pub codes: Vec<String>,
    /// Name, UTF-8, 1 to 60 bytes.
    pub name: String,
    /// Registered subject serialNumber values (OID 2.5.4.5), 1 to 20 bytes each.
    pub serial_numbers: Vec<String>,
    /// Addresses it calls from.
    pub sources: Vec<IpNet>,
}

/// All participants; immutable, replaced as a whole on reload.
#[derive(Debug, Default)]
pub struct Registry {
    /// Every participant once.
    pub organisations: Vec<Arc<Organisation>>,
}
