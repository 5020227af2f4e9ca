//! Asks the kernel about network interfaces, over rtnetlink: which there are, which XDP program each carries, and what a
//! driver has to say about a program that it refuses (`bpf(2)` returns only a number).
#![expect(unsafe_code, reason = "one socket option that no safe wrapper offers")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) xdp: Option<XdpAttachment>,
}

/// An XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpAttachment {
    /// The kernel's id of the program; 0 when several are attached.
    pub program_id: u32,
    /// `native`, `generic`, `hardware` or `several`.
    pub mode: &'static str,
}

/// `XDP_FLAGS_*` of linux/if_link.h.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum ModeFlag {
    Generic = 1 << 1,
    Native = 1 << 2,
}

const UPDATE_IF_NOEXIST: u32 = 1;

// linux/rtnetlink.h, linux/netlink.h, linux/if_link.h
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const NLMSGERR_ATTR_MSG: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;

const MESSAGE_HEADER: usize = 16;
const INTERFACE_HEADER: usize = 16;

/// Every interface of this network namespace.
pub(super) fn interfaces() -> io::Result<Vec<Interface>> {
    let socket = open()?;
    send(&socket, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 0, &[])?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC)?;
        let received = buffer.get(..length).ok_or_else(|| io::Error::other("an answer longer than 128 KiB"))?;
        for (kind, _, body) in messages(received) {
            match kind {
                RTM_NEWLINK => found.extend(interface(body)),
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(error_of(body)),
                _ => {}
            }
        }
    }
}

/// What the driver says when `program` is attached in this mode: `None` when it says nothing. Does not leave the program
/// attached, should the driver take it this time.
pub(super) fn objection(interface: u32, program: BorrowedFd<'_>, mode: ModeFlag) -> Option<String> {
    let socket = open().ok()?;
    // SAFETY: the option's value is an int that lives through the call, its size is passed; the socket is open.
    let set = unsafe {
        let on: libc::c_int = 1;
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_EXT_ACK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if set != 0 {
        return None;
    }
    let attributes = xdp_attributes(program.as_raw_fd(), mode as u32 | UPDATE_IF_NOEXIST);
    send(&socket, RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, interface, &attributes).ok()?;
    let mut buffer = vec![0; 1 << 14];
    let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC).ok()?;
    let (kind, flags, body) = messages(buffer.get(..length)?).next()?;
    if kind != NLMSG_ERROR {
        return None;
    }
    if error_of(body).raw_os_error() == Some(0) {
        let _ = detach(interface, mode);
        return None;
    }
    // The error number, then the request: its header only, or all of it; then attributes.
    let echoed =
        if flags & NLM_F_CAPPED != 0 { MESSAGE_HEADER } else { MESSAGE_HEADER + INTERFACE_HEADER + attributes.len() };
    attributes_of(body.get(4 + echoed..)?).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, value)| text(value))
}

/// Removes a program that was attached without a link.
pub(super) fn detach(interface: u32, mode: ModeFlag) -> io::Result<()> {
    let socket = open()?;
    let attributes = xdp_attributes(-1, mode as u32);
    send(&socket, RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, interface, &attributes)?;
    let mut buffer = vec![0; 1 << 14];
    let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC)?;
    match messages(buffer.get(..length).unwrap_or_default()).next() {
        Some((NLMSG_ERROR, _, body)) if error_of(body).raw_os_error() != Some(0) => Err(error_of(body)),
        _ => Ok(()),
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is 0
    )?;
    Ok(socket)
}

fn send(socket: impl AsFd, kind: u16, flags: u16, interface: u32, attributes: &[u8]) -> io::Result<()> {
    let length = MESSAGE_HEADER + INTERFACE_HEADER + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: one question per socket needs neither
    message.extend([0; 4]); // struct ifinfomsg: family, padding, type
    message.extend(interface.to_ne_bytes());
    message.extend([0; 8]); // flags and change mask
    message.extend(attributes);
    rustix::net::send(socket, &message, SendFlags::empty())?;
    Ok(())
}

fn xdp_attributes(program: i32, flags: u32) -> Vec<u8> {
    let mut nested = attribute(IFLA_XDP_FD, &program.to_ne_bytes());
    nested.extend(attribute(IFLA_XDP_FLAGS, &flags.to_ne_bytes()));
    attribute(IFLA_XDP | NLA_F_NESTED, &nested)
}

/// An attribute whose value's length is a multiple of 4.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes
}

/// The messages in a datagram: type, flags, body.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(rest, 0)? as usize;
        let (kind, flags) = (half(rest, 4)?, half(rest, 6)?);
        let body = rest.get(MESSAGE_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, flags, body))
    })
}

fn attributes_of(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?);
        let kind = half(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn interface(body: &[u8]) -> Option<Interface> {
    let index = word(body, 4)?;
    let mut name = None;
    let mut xdp = None;
    for (kind, value) in attributes_of(body.get(INTERFACE_HEADER..)?) {
        match kind {
            IFLA_IFNAME => name = Some(text(value)),
            IFLA_XDP => xdp = attachment(value),
            _ => {}
        }
    }
    Some(Interface { index, name: name?, xdp })
}

fn attachment(value: &[u8]) -> Option<XdpAttachment> {
    let mut attached = 0;
    let mut program_id = 0;
    for (kind, value) in attributes_of(value) {
        match kind {
            IFLA_XDP_ATTACHED => attached = value.first().copied().unwrap_or(0),
            IFLA_XDP_PROG_ID => program_id = word(value, 0).unwrap_or(0),
            _ => {}
        }
    }
    let mode = match attached {
        0 => return None,
        1 => "native",
        2 => "generic",
        3 => "hardware",
        _ => "several",
    };
    Some(XdpAttachment { program_id, mode })
}

fn error_of(body: &[u8]) -> io::Error {
    io::Error::from_raw_os_error((word(body, 0).unwrap_or(0) as i32).wrapping_neg())
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_the_loopback_interface() {
        let found = interfaces().unwrap();
        let loopback = found.iter().find(|i| i.name == "lo").unwrap();
        assert_eq!(loopback.index, 1);
    }

    #[test]
    fn reads_the_program_of_an_interface() {
        let mut nested = attribute(IFLA_XDP_ATTACHED, &[2, 0, 0, 0]);
        nested[0] = 5; // one byte and padding, as the kernel writes it
        nested.extend(attribute(IFLA_XDP_PROG_ID, &77u32.to_ne_bytes()));
        let mut body = vec![0; INTERFACE_HEADER];
        body[4..8].copy_from_slice(&9u32.to_ne_bytes());
        body.extend(attribute(IFLA_IFNAME, b"eth0.10\0"));
        body.extend(attribute(IFLA_XDP | NLA_F_NESTED, &nested));
        let expected = Interface {
            index: 9,
            name: "eth0.10".to_owned(),
            xdp: Some(XdpAttachment { program_id: 77, mode: "generic" }),
        };
        assert_eq!(interface(&body), Some(expected));
    }

    #[test]
    fn garbage_ends_the_reading() {
        for length in 0..40 {
            let _ = messages(&vec![0xff; length]).count();
            let _ = attributes_of(&vec![0xff; length]).count();
            let _ = interface(&vec![0xff; length]);
            assert_eq!(attributes_of(&vec![0; length]).count(), 0);
        }
    }
}
