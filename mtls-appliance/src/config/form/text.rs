//! Strings with a meaning: paths, addresses, names, pins.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use mtls_appliance_common::Reason;

use super::{Text, wrong};
use crate::identity::{FieldNameError, check_removed_name};

/// A file or folder name, not yet resolved.
pub(in crate::config) const PATH: Text<String> = Text {
    what: "path, relative ones from the configuration's folder",
    example: "\"tls/server.pem\"",
    parse: |text| match text {
        "" => wrong("the path is empty", "give the path of a file"),
        text if text.contains('\0') => wrong("a path cannot contain NUL", "remove it"),
        text if text.len() > 4000 => wrong("the path is too long", "shorten it"),
        text => Ok(text.to_owned()),
    },
};

/// An IP address and a port.
pub(in crate::config) const ADDRESS: Text<SocketAddr> = Text {
    what: "IP address and port",
    example: "\"10.0.0.5:8443\" or \"[::]:8443\"",
    parse: |text| {
        let form = "give an IP address and a port, as in \"10.0.0.5:8443\" or \"[fd00::5]:8443\"";
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => wrong("port 0 stands for no port", "give a port from 1 to 65535"),
            Ok(address) => Ok(address),
            Err(_) if text.parse::<IpAddr>().is_ok() => wrong("the port is missing", form),
            Err(_) if text.chars().any(|c| c.is_ascii_alphabetic()) && !text.starts_with('[') => {
                wrong("not an IP address and port; names are not looked up", form)
            }
            Err(_) => wrong("not an IP address and port", form),
        }
    },
};

/// The origin's name.
pub(in crate::config) const SERVER_NAME: Text<String> = Text {
    what: "DNS name or IP address",
    example: "\"api.bank.internal\"",
    parse: |text| match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => wrong(
            "neither a DNS name nor an IP address",
            "give the name in the origin's certificate, without scheme and port, as in \"api.bank.internal\"",
        ),
    },
};

/// A certificate's SHA-256.
pub(in crate::config) const PIN: Text<[u8; 32]> = Text {
    what: "SHA-256 of the origin's certificate",
    example: "\"sha256:9f86d0...\"",
    parse: |text| {
        let remedy =
            "take it from: openssl x509 -in origin.pem -noout -fingerprint -sha256, and write \"sha256:<hex>\"";
        let Some(hex) = text.strip_prefix("sha256:") else {
            return wrong("a pin begins with sha256:", remedy);
        };
        let digits: Vec<char> = hex.chars().filter(|character| *character != ':').collect();
        if digits.len() != 64 {
            return wrong(format!("{} hexadecimal digits instead of 64", digits.len()), remedy);
        }
        let mut pin = [0; 32];
        for (byte, pair) in pin.iter_mut().zip(digits.chunks_exact(2)) {
            for digit in pair {
                let Some(value) = digit.to_digit(16).and_then(|value| u8::try_from(value).ok()) else {
                    return wrong(format!("{digit:?} is not a hexadecimal digit"), remedy);
                };
                *byte = (*byte << 4) | value;
            }
        }
        Ok(pin)
    },
};

/// A network interface.
pub(in crate::config) const INTERFACE: Text<String> = Text {
    what: "network interface",
    example: "\"eth0\"",
    parse: |text| {
        // The kernel's own rules: dev_valid_name() in net/core/dev.c, IFNAMSIZ.
        let valid = !text.is_empty()
            && text.len() <= 15
            && !matches!(text, "." | "..")
            && !text.bytes().any(|byte| byte.is_ascii_whitespace() || matches!(byte, b'/' | b':' | 0));
        if valid {
            Ok(text.to_owned())
        } else {
            wrong("cannot be an interface's name", "see the names with: ip -br link")
        }
    },
};

/// A field name to remove.
pub(in crate::config) const REMOVED_NAME: Text<String> = Text {
    what: "field name",
    example: "\"X-Legacy-User\"",
    parse: |text| match check_removed_name(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(FieldNameError::Message) => wrong(FieldNameError::Message.to_string(), "take it out of the list"),
        Err(error) => wrong(error.to_string(), error.remedy()),
    },
};

/// A folder on a BPF file system.
/// An address that the guard protects.
pub(in crate::config) const GUARDED_ADDRESS: Text<IpAddr> = Text {
    what: "IP address",
    example: "\"192.0.2.1\"",
    parse: |text| match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            wrong("stands for every address", "leave guard.addresses out to guard every address")
        }
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => {
            wrong("not an IP address", "give an address of this machine, as in \"192.0.2.1\"; see: ip -br address")
        }
    },
};

/// Where the machine is managed from.
pub(in crate::config) const MANAGEMENT: Text<IpNet> = Text {
    what: "IP address or prefix",
    example: "\"10.20.0.0/16\"",
    parse: |text| {
        let prefix = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        match prefix {
            Some(prefix) if prefix.prefix_len() == 0 => {
                wrong("every address would be let in", "name the networks that you manage the machine from")
            }
            Some(prefix) => Ok(prefix.trunc()),
            None => wrong("neither an IP address nor a prefix", "write it as in \"10.20.0.0/16\" or \"2001:db8::7\""),
        }
    },
};

/// A reason for which the guard drops packets.
pub(in crate::config) const DROP_REASON: Text<Reason> = Text {
    what: "reason for which packets are dropped",
    example: "\"ipv6_header_limit\"",
    parse: |text| match Reason::by_name(text).filter(|reason| Reason::dropping() & reason.bit() != 0) {
        Some(reason) => Ok(reason),
        None => {
            let all = Reason::ALL.iter().filter(|reason| Reason::dropping() & reason.bit() != 0);
            let names: Vec<&str> = all.map(|reason| reason.name()).collect();
            wrong("no such reason", format!("possible: {}", names.join(", ")))
        }
    },
};

pub(in crate::config) const PIN_DIR: Text<String> = Text {
    what: "folder under `/sys/fs/bpf`",
    example: "\"/sys/fs/bpf/mtls-appliance\"",
    parse: |text| {
        let inside = text.starts_with('/') && text.len() > 1 && !text.split('/').any(|part| part == "..");
        if inside && !text.contains('\0') {
            Ok(text.to_owned())
        } else {
            wrong("not an absolute path", "give a folder on a BPF file system, as in \"/sys/fs/bpf/mtls-appliance\"")
        }
    },
};
