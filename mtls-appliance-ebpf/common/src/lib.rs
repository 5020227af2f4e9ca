//! What the XDP program and userspace must agree on: the [verdict] over a packet, the [reasons](reason) it can have, the
//! [layout] of the maps between them, the [events](event) about packets, and the [pace] of those.
//!
//! Everything here is plain arithmetic on bytes, so that the kernel, the daemon and the tests run the same code. How
//! packets are read and maps looked up is the caller's: see [`verdict::Packet`] and [`verdict::Tables`].
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod event;
pub mod layout;
pub mod pace;
pub mod reason;
pub mod verdict;

pub use event::Event;
pub use reason::{Action, Reason};
pub use verdict::{Address, Charge, Frame, Judgement, Packet, Segment, Tables, judge};
