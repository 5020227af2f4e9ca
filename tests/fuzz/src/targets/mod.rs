//! A module for each target.

pub(crate) mod chunked_body;
pub(crate) mod chunked_round_trip;
pub(crate) mod control_records;
pub(crate) mod handshake_records;
pub(crate) mod packet_verdict;
pub(crate) mod request_head;
pub(crate) mod request_rewrite;
pub(crate) mod response_head;
pub(crate) mod response_rewrite;
