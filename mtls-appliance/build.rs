//! Embeds the guard's XDP program, where there is one: the object that `MTLS_GUARD_OBJECT` names, else the one that
//! `cargo xtask bpf` left in the workspace. Building the program is xtask's; a build without it works, and says so when
//! a guard is asked for.

use std::env;
use std::path::{Path, PathBuf};

const VARIABLE: &str = "MTLS_GUARD_OBJECT";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(guard_object)");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let object = match env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        Some(value) => PathBuf::from(value),
        None => {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf");
            // The folder is watched for an object to appear in it; cargo takes a path that does not exist for changed, and
            // would compile the crate each time.
            let _ = std::fs::create_dir_all(&folder);
            println!("cargo::rerun-if-changed={}", folder.display());
            let object = folder.join("mtls-guard.o");
            if !object.exists() {
                return;
            }
            object
        }
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let copy = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("mtls-guard.o");
    match std::fs::copy(&object, &copy) {
        Ok(_) => println!("cargo::rustc-cfg=guard_object"),
        Err(error) => {
            println!("cargo::error={VARIABLE}={}: {error}; build it with `cargo xtask bpf`", object.display())
        }
    }
}
