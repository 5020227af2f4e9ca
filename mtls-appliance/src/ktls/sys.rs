#![expect(unsafe_code, reason = "kernel TLS socket options and control messages have no safe wrapper")]
//! The system calls of kernel TLS: `TCP_ULP`, `TLS_TX`, `TLS_RX`, and records with their type.
//!
//! Source: the kernel's `Documentation/networking/tls.rst`.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use ktls::CryptoInfo;

const SOL_TLS: libc::c_int = 282;
const TLS_TX: libc::c_int = 1;
const TLS_RX: libc::c_int = 2;
const TLS_SET_RECORD_TYPE: libc::c_int = 1;
const TLS_GET_RECORD_TYPE: libc::c_int = 2;

/// The direction a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Sending.
    Transmit,
    /// Receiving.
    Receive,
}

/// Room for one control message that carries a record type, aligned as the kernel expects it.
#[repr(C)]
union ControlBuffer {
    _align: libc::cmsghdr,
    bytes: [u8; 32],
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many bytes a TCP socket holds that the peer has not acknowledged yet, sent or not (`SIOCOUTQ` of `tcp(7)`).
///
/// # Errors
/// The socket is not connected.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut held: libc::c_int = 0;
    // SAFETY: this request writes one `int` to where the pointer shows, and `held` lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut held) })?;
    Ok(u64::from(held.unsigned_abs()))
}

/// Has the kernel look at a TCP socket again: it pushes on what it holds back, and wakes who waits to write.
///
/// Kernel TLS says that it would block when it gets no memory for a record (`tcp_mem` is used up), and without bytes on their
/// way no acknowledgement will come that wakes anybody. Setting this option calls the same function as an
/// acknowledgement does (`sk_write_space`; `tcp(7)`, `net/ipv4/tcp.c`); 0 is what the option is anyway.
///
/// # Errors
/// No TCP socket.
pub fn look_again(socket: BorrowedFd<'_>) -> io::Result<()> {
    let usual: libc::c_int = 0;
    // SAFETY: the option is one `int`, which lives through the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const usual).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
}

/// Sets the upper layer protocol of an established TCP socket to `tls`.
pub(super) fn enable(socket: BorrowedFd<'_>) -> io::Result<()> {
    let name = b"tls";
    // SAFETY: `name` is valid for reads of its length during the call; the descriptor is borrowed, so it is open.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_ULP,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    })
}

/// Gives the kernel the key of one direction; the copy that was passed in is wiped.
pub(super) fn install(socket: BorrowedFd<'_>, direction: Direction, mut info: CryptoInfo) -> io::Result<()> {
    let name = match direction {
        Direction::Transmit => TLS_TX,
        Direction::Receive => TLS_RX,
    };
    // SAFETY: `as_ptr` and `size` describe the crypto information inside `info`, which lives through the call.
    let result = check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), SOL_TLS, name, info.as_ptr(), info.size() as libc::socklen_t)
    });
    wipe(&mut info);
    result
}

/// Overwrites key material that nobody needs any more.
fn wipe(info: &mut CryptoInfo) {
    let size = info.size();
    let start = info.as_ptr().cast_mut().cast::<u8>();
    for offset in 0..size {
        // SAFETY: the `size` bytes at `start` are the plain-data crypto information that we hold exclusively through
        // `&mut`; every bit pattern is valid for it.
        unsafe { start.add(offset).write_volatile(0) };
    }
}

/// Receives (a part of) one record: the number of bytes, and its content type.
///
/// The type is `None` when the kernel gave none, which with zero bytes means that the peer's FIN came.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<u8>)> {
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = ControlBuffer { bytes: [0; 32] };
    // SAFETY: `msghdr` is plain data for which all-zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = mem::size_of::<ControlBuffer>() as _;
    // SAFETY: `message` points at one iovec over `buffer` and at a control buffer of the stated size, all alive.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    if n < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut kind = None;
    // SAFETY: the kernel has filled `message`; CMSG_FIRSTHDR checks `msg_controllen`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR gave a non-null header inside our control buffer.
        let (level, name) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == SOL_TLS && name == TLS_GET_RECORD_TYPE {
            // SAFETY: a TLS_GET_RECORD_TYPE message carries one byte of data.
            kind = Some(unsafe { *libc::CMSG_DATA(header) });
        }
    }
    Ok((n.unsigned_abs(), kind))
}

/// Sends `data` as one record of content type `kind`.
pub(super) fn send(socket: BorrowedFd<'_>, kind: u8, data: &[u8]) -> io::Result<usize> {
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut control = ControlBuffer { bytes: [0; 32] };
    // SAFETY: `msghdr` is plain data for which all-zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: CMSG_SPACE only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(1) } as _;
    // SAFETY: the control buffer is larger than CMSG_SPACE(1), so the first header and its byte lie inside it.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = SOL_TLS;
        (*header).cmsg_type = TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        *libc::CMSG_DATA(header) = kind;
    }
    // SAFETY: all that `message` points at is alive; the kernel only reads it.
    let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n.unsigned_abs()) }
}
