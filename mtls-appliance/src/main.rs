//! The `mtls-appliance` command.

use std::process::ExitCode;

/// Gives memory back to the system once connections are gone; glibc's allocator keeps all of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mtls_appliance::cli::main()
}
