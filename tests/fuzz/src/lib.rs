//! Fuzz targets: properties of the code that reads what strangers send, each stated for any input whatever.
//!
//! A target takes bytes and panics where its property does not hold. What it holds the code against is written here
//! anew (`message`, and a reference in each target), never taken from the code under test. `cargo xtask fuzz` searches
//! for inputs, guided by coverage; the tests of this crate run the committed corpus through every target.

#![expect(clippy::panic, clippy::expect_used, reason = "a target says by a panic that its property does not hold")]

mod choices;
mod message;
mod pieces;
mod targets;

/// The environment variable that tells the fuzzer which target it is.
pub const TARGET_VARIABLE: &str = "MTLS_FUZZ_TARGET";

/// Something that must hold for every input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus's folder.
    pub name: &'static str,
    /// Panics where it does not hold.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "request_head", run: targets::request_head::run },
    Target { name: "request_rewrite", run: targets::request_rewrite::run },
    Target { name: "response_head", run: targets::response_head::run },
    Target { name: "response_rewrite", run: targets::response_rewrite::run },
    Target { name: "chunked_body", run: targets::chunked_body::run },
    Target { name: "chunked_round_trip", run: targets::chunked_round_trip::run },
    Target { name: "control_records", run: targets::control_records::run },
    Target { name: "handshake_records", run: targets::handshake_records::run },
    Target { name: "packet_verdict", run: targets::packet_verdict::run },
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn corpus() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    #[test]
    fn every_target_has_a_corpus_and_every_corpus_a_target() {
        let mut targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        targets.sort_unstable();
        assert_eq!(names(&corpus()), targets);
        for target in targets {
            assert!(names(&corpus().join(target)).len() >= 5, "{target}");
        }
    }

    #[test]
    fn every_target_holds_for_its_corpus() {
        for target in TARGETS {
            let folder = corpus().join(target.name);
            for name in names(&folder) {
                let input = fs::read(folder.join(&name)).unwrap();
                // Shown when the target panics.
                println!("{}/{name}", target.name);
                (target.run)(&input);
            }
        }
    }
}
