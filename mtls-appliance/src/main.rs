//! The `mtls-appliance` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    mtls_appliance::cli::main()
}
