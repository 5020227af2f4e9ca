//! What the appliance tells its operators: counters and structured log lines.
//!
//! Emits; never decides. Serving them over the control socket is [`crate::control`]'s job.

pub mod counters;
pub mod data_path;
pub mod log;

pub use counters::Counters;
pub use data_path::DataPath;
pub use log::{Level, Log};
