//! Sessions in the kernel: what the running kernel can do, the hand-over, control records, splice.
//!
//! Facts are taken from the kernel's `Documentation/networking/tls.rst`. The `ktls` crate turns rustls secrets into the
//! kernel's crypto information; the record pump is ours. Socket options and control messages, the only `unsafe` of
//! userspace, are in `sys`.

pub mod record;
pub mod session;
pub mod splice;
mod support;
mod sys;

pub use session::KernelSession;
pub use support::{NotOffloaded, NotSpliced, Support};
pub use sys::{look_again, unacknowledged};
