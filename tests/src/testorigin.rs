//! The scripted origin as a program of its own, for the demo and for trying things by hand.

use clap::Parser;
use mtls_appliance_tests::origin;

fn main() -> anyhow::Result<()> {
    origin::run(&origin::Options::parse())
}
