//! The I/O shell: listeners, client connections, exchanges, origin connections.
//!
//! Every worker is one thread with its own event loop; a connection lives on the worker that accepted it, together with
//! the origin connections made for it, so nothing on the way of a request is shared or locked. What a head means is
//! decided in [`crate::http1`], what a certificate means in [`crate::tls`] and [`crate::identity`].

pub mod admission;
mod buffer;
pub mod channel;
mod client;
mod date;
mod exchange;
mod origin;
mod pace;
mod pool;
mod relay;
mod report;
pub(crate) mod routing;
mod socket;
mod tunnel;
pub(crate) mod upstream;
mod worker;

pub use worker::{Worker, run_worker};
