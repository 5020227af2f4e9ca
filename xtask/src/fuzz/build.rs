//! The fuzzer as a program: the targets with coverage counters, and libFuzzer.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{build::HOST_TARGET, cargo, debian, progress::Step, workspace::Workspace};

/// libFuzzer and the C++ library that it was built for, so that no C++ compiler is needed.
const ROOT: &str = "fuzzer";
const LIBFUZZER: &str = "usr/lib/llvm-22/lib/libFuzzer.a";
const LIBSTDCXX: &str = "usr/lib/gcc/x86_64-linux-gnu/12";

/// What libFuzzer wants to be told: which edges are taken and which values are compared. The last keeps branches apart
/// that would otherwise become one instruction without an edge.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];

/// Builds it, and says where it is.
pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let root = debian::provision(workspace, ROOT)?;
    let step = Step::begin_talkative("building the fuzzer (with coverage counters)");
    let programs = cargo::programs(
        workspace
            .cargo()
            .args(["build", "--locked", "--profile", "fuzz", "--target", HOST_TARGET])
            .args(["--package", "mtls-appliance-fuzz", "--bin", "fuzz", "--features", "libfuzzer"])
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", flags(&root))
            .env("CUSTOM_LIBFUZZER_PATH", root.join(LIBFUZZER))
            .env("CUSTOM_LIBFUZZER_STD_CXX", "static=stdc++"),
    )?;
    step.done();
    Ok(programs.into_iter().next().context("the build left no fuzzer")?.path)
}

/// The compiler's flags, as cargo takes them encoded.
fn flags(root: &Path) -> String {
    let mut flags = COVERAGE.map(str::to_owned).to_vec();
    flags.push(format!("-Lnative={}", root.join(LIBSTDCXX).display()));
    flags.join("\u{1f}")
}
