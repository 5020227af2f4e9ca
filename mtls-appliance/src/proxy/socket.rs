//! What every TCP socket gets, towards callers and origins alike.

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use tokio::net::TcpStream;

use crate::config::Limits;

/// Sends small messages at once, and bounds what the kernel holds of the socket's bytes in each direction.
pub(super) fn prepare(tcp: &TcpStream, limits: &Limits) {
    // A failure costs latency, nothing else.
    let _ = tcp.set_nodelay(true);
    if limits.socket_buffer > 0 {
        // The kernel doubles what it is told, for its own overhead (socket(7)), and fails on no size.
        let half = usize::try_from(limits.socket_buffer / 2).unwrap_or(usize::MAX);
        let _ = set_socket_send_buffer_size(tcp, half);
        let _ = set_socket_recv_buffer_size(tcp, half);
    }
}
