//! The `mtls-appliance` command.
fn main() {}
