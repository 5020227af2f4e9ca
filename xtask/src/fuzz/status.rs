//! Reading what libFuzzer prints: how far it is, and what it found.

use std::path::PathBuf;

/// What was read so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// Inputs run.
    pub(crate) runs: u64,
    /// Edges of the program that were taken.
    pub(crate) coverage: u64,
    /// What libFuzzer tells inputs apart by: edges with how often, and comparisons.
    pub(crate) features: u64,
    /// Inputs a second.
    pub(crate) speed: u64,
    /// Where the input that broke the property was saved.
    pub(crate) input: Option<PathBuf>,
    /// What was wrong, in a line or two.
    pub(crate) fault: Vec<String>,
    /// Whether the lines that follow still tell what was wrong.
    telling: bool,
}

/// Lines of a fault that are kept.
const FAULT_LINES: usize = 6;

impl Status {
    /// Takes one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1)?.parse().ok()
        };
        if let Some(path) = line.split_once("Test unit written to ").map(|(_, path)| path) {
            self.input = Some(path.trim().into());
            self.telling = false;
        } else if let Some(runs) = line.strip_prefix('#').and_then(|_| words[0][1..].parse().ok()) {
            self.runs = runs;
            self.coverage = number("cov:").unwrap_or(self.coverage);
            self.features = number("ft:").unwrap_or(self.features);
            self.speed = number("exec/s:").unwrap_or(self.speed);
        } else if let Some(runs) = number("stat::number_of_executed_units:") {
            self.runs = runs;
        } else if let Some(speed) = number("stat::average_exec_per_sec:") {
            self.speed = speed;
        } else if line.contains("panicked at ") {
            self.telling = true;
            self.fault = vec![line.trim().to_owned()];
        } else if line.starts_with("stack backtrace:") || line.starts_with("note: ") {
            self.telling = false;
        } else if let Some((_, error)) = line.split_once("ERROR: libFuzzer: ") {
            self.telling = false;
            // A panic ends in a signal, which tells nothing that the panic did not.
            if self.fault.is_empty() {
                self.fault.push(error.trim().to_owned());
            }
        } else if self.telling && self.fault.len() < FAULT_LINES && !words.is_empty() {
            self.fault.push(line.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(output: &str) -> Status {
        let mut status = Status::default();
        output.lines().for_each(|line| status.line(line));
        status
    }

    #[test]
    fn reads_how_far_a_run_is() {
        let status = status(
            "INFO: Seed: 1\n#2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb\n\
             #4096\tpulse  cov: 812 ft: 2301 corp: 210/9012b lim: 43 exec/s: 2048 rss: 60Mb\n\
             #4100\tREDUCE cov: 813 ft: 2302 corp: 210/9011b lim: 43 exec/s: 2050 rss: 60Mb L: 3/9 MS: 1 EraseBytes-\n",
        );
        assert_eq!((status.runs, status.coverage, status.features, status.speed), (4100, 813, 2302, 2050));
        assert!(status.input.is_none() && status.fault.is_empty());
    }

    #[test]
    fn reads_the_final_figures() {
        let status = status(
            "stat::number_of_executed_units: 123456\nstat::average_exec_per_sec:     4115\nstat::peak_rss_mb: 1",
        );
        assert_eq!((status.runs, status.speed), (123_456, 4115));
    }

    #[test]
    fn a_panic_is_told_by_its_message_and_the_input_by_its_file() {
        let status = status(
            "\nthread '<unnamed>' (7) panicked at tests/fuzz/src/message.rs:24:9:\nassertion failed: a head ends\n  left: 1\n\
             stack backtrace:\n   0: core::panicking\n==7== ERROR: libFuzzer: deadly signal\nSUMMARY: libFuzzer: x\n\
             artifact_prefix='/f/'; Test unit written to /f/crash-1\nBase64: AA\n",
        );
        assert_eq!(
            status.fault,
            [
                "thread '<unnamed>' (7) panicked at tests/fuzz/src/message.rs:24:9:",
                "assertion failed: a head ends",
                "left: 1"
            ]
        );
        assert_eq!(status.input, Some("/f/crash-1".into()));
    }

    #[test]
    fn an_input_that_takes_too_long_is_a_fault_as_well() {
        let status = status("==7== ERROR: libFuzzer: timeout after 10 seconds\nTest unit written to ./timeout-2");
        assert_eq!(status.fault, ["timeout after 10 seconds"]);
        assert_eq!(status.input, Some("./timeout-2".into()));
    }
}
